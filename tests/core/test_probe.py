"""``%dbml doctor --probe`` at plain MLflow servers: measured, written down, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

import dbml_magics as dbml
from dbml_magics.core.doctor.probes import behaviour, sizes
from dbml_magics.errors import BadCommand
from tests.conftest import Proxies, Servers
from tests.core.linking import link
from tests.infra import plain

SOME = (
    "batch-metrics",
    "points-twice",
    "param-again",
    "logged-models",
    "files",
    "files-twice",
    "model-calls",
)


@pytest.fixture(autouse=True)
def _some_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask some questions alone: all of them are asked of the stand-ins for the clouds."""
    for module in (sizes, behaviour):
        monkeypatch.setattr(module, "PROBES", tuple(p for p in module.PROBES if p.name in SOME))


def test_both_servers_are_measured_and_nothing_is_left(
    proxies: Proxies, servers: Servers, home: Path
) -> None:
    link(proxies)
    report = dbml.probe()
    found = {(r.workspace, r.probe): r for r in report}
    for role in ("databricks", "azureml"):
        assert found[role, "batch-metrics"].measured == "1,000"
        assert found[role, "batch-metrics"].agrees
        assert found[role, "points-twice"].measured == "kept once"
        assert found[role, "param-again"].measured.startswith("refused")
        assert found[role, "files"].agrees
        assert found[role, "files-twice"].measured == "overwritten"
        assert found[role, "logged-models"].measured == "it has logged models"
    assert report.otherwise == ()
    assert report.left == ()
    assert Path(report.file).stat().st_mode & 0o777 == 0o600
    for server in servers:
        there = plain.client(server.uri).search_experiments()
        assert not [e.name for e in there if e.name.startswith("dbml-probe")]
        models = plain.client(server.uri).search_registered_models("name LIKE 'dbml-probe%'")
        assert not list(models)


def test_a_service_that_goes_away_leaves_its_questions_open_and_says_what_is_left(
    proxies: Proxies, home: Path
) -> None:
    link(proxies)

    def cut(line: str) -> None:
        if line.startswith("azureml") and "points-twice" in line:
            proxies.azureml.refuse()

    report = dbml.probe(progress=cut)
    proxies.azureml.accept()
    found = {(r.workspace, r.probe): r for r in report}
    assert found["azureml", "batch-metrics"].measured == "1,000"
    assert found["azureml", "files"].measured.startswith("not measured: ")
    assert found["databricks", "files"].agrees
    assert [each for each in report.left if each.startswith("experiment dbml-probe-")]
    assert "could not be deleted: experiment dbml-probe-" in str(report)


def test_there_is_nothing_to_measure_on_this_machine(home: Path) -> None:
    dbml.link(local=True)
    with pytest.raises(BadCommand, match="on this machine"):
        dbml.probe()
