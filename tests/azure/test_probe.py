"""``%dbml doctor --probe`` at Azure ML: what it measures is what the service does, and it leaves nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.core.doctor.probes import azure as azure_probes
from dbml_magics.core.doctor.probes import behaviour, sizes
from dbml_magics.results.probes import Probed, ProbeReport
from tests.standins.azure import AzureStandIn
from tests.standins.azure.login import CLIENT_SECRET
from tests.standins.azure.state import LIMITS

README = Path(__file__).resolve().parents[2] / "README.md"


def probed(names: dict[str, Any]) -> ProbeReport:
    dbml.link(track="azureml", registry="azureml", **names)
    said: list[str] = []
    report = dbml.probe(progress=said.append)
    assert said[-1] == "azureml  deleting what was made"
    return report


def row(report: ProbeReport, name: str) -> Probed:
    found = [each for each in report if each.probe == name]
    assert len(found) == 1, f"{name}: {[each.probe for each in report]}"
    return found[0]


@pytest.mark.full
def test_what_is_measured_is_what_the_service_does(signed_in: AzureStandIn, names: dict[str, Any]) -> None:
    with signed_in.limits(metric_names=30, tag_value=700):  # not as the documents have it
        report = probed(names)
    assert not [r for r in report if r.measured.startswith("not measured") and r.probe != "studio-pages"], (
        str(report)
    )
    assert row(report, "batch-metrics").measured == f"{LIMITS['batch_metrics']:,}"
    assert row(report, "metric-names").measured == "30"
    assert row(report, "metric-names").agrees is False
    assert row(report, "tag-value").measured == "700"
    assert row(report, "tag-value").agrees is False
    assert row(report, "tag-key").measured == f"{LIMITS['tag_key']}"
    assert row(report, "run-params").measured == f"{LIMITS['run_params']}"
    assert row(report, "run-tags").agrees
    assert row(report, "history-page").measured == f"{LIMITS['history_page']}"
    assert "not found by name" in row(report, "experiment-slash").measured
    assert "refused while it has runs" in row(report, "experiment-with-runs").measured
    assert row(report, "logged-models").agrees
    assert row(report, "files").agrees
    assert "write-once" in row(report, "files-twice").measured
    assert row(report, "model-names").agrees
    assert "lacks rename, aliases" in row(report, "model-calls").measured
    assert row(report, "run-id-chosen").agrees
    assert row(report, "blob-blocks").measured == "they are gone"  # the stand-in is the harder case
    assert "401" in row(report, "refusal-words").measured
    assert row(report, "create-shape").agrees, row(report, "create-shape")
    assert "amlWorkspaceId" not in row(report, "portal-link").measured
    assert report.left == ()
    assert {r.probe for r in report.otherwise} == {
        "metric-names",
        "tag-value",
        "metric-key",  # of the MLflow server behind the stand-in
        "blob-blocks",
    }
    kept = Path(report.file)
    assert kept.parent == Path.cwd()
    assert kept.stat().st_mode & 0o777 == 0o600
    written = kept.read_text()
    assert json.loads(written)["probes"]
    for secret in (CLIENT_SECRET, signed_in.subscription, signed_in.workspace, signed_in.uri.split("//")[1]):
        assert secret not in written
    _nothing_is_left()


def _nothing_is_left() -> None:
    workspace = sessions.current().engine("this test").workspaces["azureml"]
    there = [e.name for e in workspace.tracking.search_experiments(max_results=500)]
    assert not [name for name in there if name.startswith("dbml-probe")]
    sessions.current().unlink()


def test_a_role_that_lacks_shows_how_a_refusal_is_worded(
    signed_in: AzureStandIn, names: dict[str, Any], monkeypatch: Any
) -> None:
    only = tuple(p for p in azure_probes.PROBES if p.name in ("refusal-words", "run-id-chosen"))
    monkeypatch.setattr(azure_probes, "PROBES", only)
    monkeypatch.setattr(sizes, "PROBES", ())
    monkeypatch.setattr(behaviour, "PROBES", ())
    with (
        signed_in.deny("Microsoft.MachineLearningServices/workspaces/models/write"),
        signed_in.set(run_ids="refused"),
    ):
        report = probed(names)
    assert "403" in row(report, "refusal-words").measured
    assert "names the action" in row(report, "refusal-words").measured
    assert row(report, "run-id-chosen").agrees is False
    _nothing_is_left()


def test_every_assumption_in_the_readme_names_its_probe() -> None:
    table = README.read_text().partition("**Assumed of the real service**")[2].partition("\n\n###")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "| probe |" not in line]
    known = {p.name for p in (*sizes.PROBES, *behaviour.PROBES, *azure_probes.PROBES)}
    assert rows
    named: set[str] = set()
    for line in rows:
        named |= set(re.findall(r"`([a-z]+-[a-z-]+|files|inputs)`", line.rsplit("|", 2)[1]))
    assert named == known
