"""``%dbml doctor --probe`` at plain MLflow servers: asked for, bounded, written down, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dbml_magics as dbml
from dbml_magics.core.doctor.probes import behaviour, sizes
from dbml_magics.core.doctor.probes.facts import Expected, Fact, Found
from dbml_magics.errors import BadCommand, NotConfirmed
from dbml_magics.results.probes import Probed, ProbeReport
from tests.conftest import Proxies, Servers
from tests.core.linking import link
from tests.infra import plain
from tests.infra.probe_faults import beside

FEW = ["points-twice", "param-again", "files", "model-aliases"]


def report_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("dbml-probe-*"))


def left_at(servers: Servers) -> list[str]:
    names = []
    for server in servers:
        client = plain.client(server.uri)
        names += [each.name for each in client.search_experiments() if "dbml-probe" in each.name]
        names += [each.name for each in client.search_registered_models("name LIKE 'dbml-probe%'")]
    return names


def test_nothing_is_asked_before_consent(proxies: Proxies, home: Path) -> None:
    link(proxies)
    before = [proxy.count() for proxy in proxies]
    for typed in (None, "yes"):
        with pytest.raises(NotConfirmed) as caught:
            dbml.probe(confirm=typed)
    said = "\n".join(caught.value.lines())
    assert "nothing was asked yet" in said
    assert "dbml-probe-" in said
    assert "%dbml doctor --probe --confirm probe" in said
    assert [proxy.count() for proxy in proxies] == before
    assert report_files(Path.cwd()) == []
    with pytest.raises(NotConfirmed, match="costs nothing but minutes"):
        dbml.probe(endpoint=True)


def test_servers_that_do_what_is_recorded_are_confirmed_and_nothing_is_left(
    proxies: Proxies, servers: Servers, home: Path
) -> None:
    link(proxies)
    report = dbml.probe(confirm="probe")
    assert beside(report, True) == {}, str(report)
    assert report.left == ()
    assert left_at(servers) == []
    written = report_files(Path.cwd())
    assert [path.suffix for path in written] == [".json", ".md"]
    assert {path.stat().st_mode & 0o777 for path in written} == {0o600}
    assert len(json.loads(written[0].read_text())["facts"]) == len(report)
    assert Path(report.file) == written[1]


@pytest.mark.full(but=["one-away"])
@pytest.mark.parametrize("when", ["one-away", "one-goes-away"])
def test_one_workspace_alone_is_enough(when: str, proxies: Proxies, servers: Servers, home: Path) -> None:
    link(proxies)
    if when == "one-away":
        proxies.azureml.refuse()

    def cut(line: str) -> None:
        if line.startswith("azureml") and "param-again" in line:
            proxies.azureml.refuse()

    report = dbml.probe(confirm="probe", only=FEW, progress=cut)
    proxies.azureml.accept()
    rows = {(row.workspace, row.fact): row for row in report}
    assert all(rows["databricks", fact].confirmed for fact in FEW)
    assert "does not answer" in rows["azureml", "files"].why
    if when == "one-away":
        assert report.left == ()
        return
    assert rows["azureml", "points-twice"].confirmed
    assert [each for each in report.left if each.startswith("experiment dbml-probe-")]
    assert "could not be deleted: experiment dbml-probe-" in str(report)
    assert left_at(servers) != []
    assert dbml.probe(confirm="probe", only=["param-again"]).left == ()
    assert left_at(servers) == []


def test_an_interrupted_probe_deletes_what_it_made_and_keeps_what_it_found(
    proxies: Proxies, servers: Servers, home: Path
) -> None:
    link(proxies)

    def stop(line: str) -> None:
        if line.startswith("azureml") and "param-again" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dbml.probe(confirm="probe", only=FEW, progress=stop)
    assert left_at(servers) == []
    facts = json.loads(report_files(Path.cwd())[0].read_text())["facts"]
    rows = {(each["workspace"], each["fact"]): each for each in facts}
    assert rows["azureml", "points-twice"]["verdict"] == "confirmed"
    assert rows["azureml", "files"]["why"] == "it was interrupted"


KILLED = """
import os, signal, sys
import dbml_magics as dbml
def end(line):
    if line.startswith("databricks") and "param-again" in line:
        os.kill(os.getpid(), signal.SIGKILL)
dbml.link(databricks=sys.argv[1], azureml=sys.argv[2])
dbml.probe(confirm="probe", only=["run-read", "points-twice", "param-again"], progress=end)
"""


def test_what_a_killed_kernel_left_is_deleted_by_the_next_probe(
    proxies: Proxies, servers: Servers, home: Path
) -> None:
    uris = [proxy.uri for proxy in proxies]
    done = subprocess.run([sys.executable, "-c", KILLED, *uris], timeout=240, check=False, cwd=Path.cwd())
    assert done.returncode == -signal.SIGKILL
    assert left_at(servers) != []
    link(proxies)
    report = dbml.probe(confirm="probe", only=["param-again"])
    assert report.left == ()
    assert left_at(servers) == []


def test_a_step_that_gets_no_answer_has_a_deadline(
    proxies: Proxies, servers: Servers, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sizes, behaviour):
        monkeypatch.setattr(module, "PROBES", tuple(replace(p, seconds=3.0) for p in module.PROBES))
    link(proxies)
    began = time.monotonic()
    with proxies.azureml.hang(path="runs/log-batch"):
        report = dbml.probe(confirm="probe", only=FEW)
    assert time.monotonic() - began < 60
    rows = {(row.workspace, row.fact): row for row in report}
    assert rows["azureml", "param-again"].confirmed is None
    assert rows["azureml", "files"].confirmed
    assert report.left == ()
    assert left_at(servers) == []


def test_no_secret_and_no_name_of_anybody_is_in_the_report(
    proxies: Proxies, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = {
        "token": "dapi" + "1a" * 16,
        "own": "the-own-secret-of-this-link",
        "jwt": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2ln",
        "person": "grace.hopper@navy.example",
        "guid": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "number": "7405605512345678",
        "hex": "c0ffee" * 6,
        "folder": "/Users/grace.hopper/cobol",
        "host": "adb-740560.4.azuredatabricks.net",
        "resource": "/subscriptions/s/resourceGroups/rg-navy/providers/x",
        "quoted": "navy-model",
        "cut": "a-name-whose-quotation-has-no-end" * 5,
        "server": proxies.azureml.uri.partition("//")[2],
    }
    monkeypatch.setenv("DBML_AZUREML_TOKEN", planted["own"])
    quoted = ("quoted", "cut")
    words = ", ".join(f"'{text}'" if name in quoted else text for name, text in planted.items())
    link(proxies)
    body = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": f"refused: {words}"})
    with proxies.azureml.status(400, body=body, path="log-batch|log-inputs"):
        report = dbml.probe(confirm="probe", only=["points-twice", "inputs", "run-read"])
    assert {row.outcome.partition(" (")[0] for row in report if row.workspace == "azureml"} >= {"refused"}
    for path in report_files(Path.cwd()):
        text = path.read_text()
        assert "refused:" in text, "the service's words are there"
        assert not [name for name, secret in planted.items() if secret in text]
    assert not [name for name in ("token", "own", "jwt") if planted[name] in str(report)]


def test_there_is_nothing_to_measure_on_this_machine(home: Path) -> None:
    dbml.link(local=True)
    with pytest.raises(BadCommand, match="on this machine"):
        dbml.probe(confirm="probe")


def test_a_fact_or_schema_that_is_none_is_refused(proxies: Proxies, home: Path) -> None:
    link(proxies)
    with pytest.raises(BadCommand, match="is called point-twice"):
        dbml.probe(confirm="probe", only=["param-again", "point-twice"])
    with pytest.raises(BadCommand, match="with its catalog"):
        dbml.probe(confirm="probe", schema="default")


@pytest.mark.parametrize(
    ("expected", "found", "confirmed"),
    [
        (250, 250, True),
        (250, 249, False),
        (250, 251, False),
        ({"at least": 250}, 251, True),
        ({"at least": 250}, 249, False),
        ({"at most": 2}, 1.5, True),
        ({"at most": 2}, 2.1, False),
        ({"at most": 2}, "never", False),
        ("refused", "refused", True),
        (["a", "b"], "b", True),
        (["a", "b"], "c", False),
    ],
)
def test_what_is_found_is_compared_with_what_is_expected(
    expected: Expected, found: Found, confirmed: bool
) -> None:
    fact = Fact("azureml", "x", "says", expected, "source", "2026-11-29")
    assert fact.confirmed_by(found) is confirmed


def many(confirmed: bool | None, count: int) -> list[Probed]:
    row = Probed("azureml", "azureml", "x", "says " * 30, "1", "source", "2026-11-29", found="2" * 60)
    return [replace(row, fact=f"fact-{number}", confirmed=confirmed) for number in range(count)]


def test_the_differences_come_first_on_one_screen() -> None:
    rows = [*many(True, 60), *many(False, 60), *(replace(row, why="so") for row in many(None, 30))]
    report = ProbeReport(tuple(rows), 100.0, file=os.path.join(os.getcwd(), "x.md"))
    lines = report.text().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 110
    assert lines[1].startswith("  differs  azureml fact-0: expected 1, found 2")
    every: list[dict[str, Any]] = json.loads(report.json())["facts"]
    assert [each["verdict"] for each in every[:60]] == ["differs"] * 60
    assert len(every) == 150
    assert report.markdown().count("| azureml | fact-") == 150
