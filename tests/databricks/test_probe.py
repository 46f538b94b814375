"""``%dbml doctor --probe`` at Databricks: what is measured is what the service does, and nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from tests.databricks.conftest import ADA
from tests.standins.databricks import Databricks


@pytest.mark.full
def test_what_is_measured_is_what_the_service_does(signed_in: Databricks, home: Path) -> None:
    session = sessions.current()
    dbml.link(databricks="databricks", track="databricks")
    report = dbml.probe()
    found = {row.probe: row for row in report}
    assert not [row for row in report if row.measured.startswith("not measured")], str(report)
    assert found["batch-metrics"].measured == "1,000"
    assert found["batch-bytes"].agrees, found["batch-bytes"]
    assert found["tag-key"].measured == "250"
    assert found["param-value"].measured == "6,000"
    assert found["logged-models"].agrees
    assert found["files"].agrees
    assert found["files-twice"].measured == "overwritten"
    assert "OR" not in found["filter-or"].assumed
    assert report.otherwise == (), str(report)
    assert report.left == ()
    written = Path(report.file).read_text()
    assert signed_in.token(ADA) not in written
    assert ADA not in written
    names = [
        e.name
        for e in session.engine("this test")
        .workspaces["databricks"]
        .tracking.search_experiments(max_results=500)
    ]
    assert not [name for name in names if "dbml-probe" in name]
