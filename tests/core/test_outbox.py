"""What a link keeps under its keys: each family's key and JSON value on disk, and what is read of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dbml_magics.core.model.facts import RegistryChange, VersionFacts
from dbml_magics.core.outbox.experiment_notes import ExperimentFacts
from dbml_magics.core.outbox.model_names import AliasTarget
from dbml_magics.core.outbox.model_versions import Asked, Refusal, Registered
from dbml_magics.core.outbox.state import State

AT, AT_NS = 1700000000.5, 1700000000500000000
TOLD: VersionFacts = {
    "key": "k1",
    "name": "wine",
    "source": {"kind": "version", "name": "grape", "version": "3", "of": None},
    "run": "r1",
    "tags": {"a": "b"},
    "run_link": None,
    "description": None,
    "to": ["databricks", "azureml"],
}
TOLD_TEXT = json.dumps(TOLD)
ASKED_TEXT = (
    '{"queue": "r1", "to": ["databricks", "azureml"], "at": 1700000000500000000, "told": '
    + TOLD_TEXT
    + ', "from": ["grape", "3"]}'
)
POINT = '{"key": "loss", "value": 0.5, "time": 1, "step": 2, "dataset": null, "digest": null}'
EDIT: RegistryChange = {
    "do": "version_tag",
    "name": "wine",
    "version": "1",
    "of": "k1",
    "key": "t",
    "value": "v",
}
MODEL_TEXT = (
    '{"id": "m-1", "name": "model", "run": "r1", "experiment": "7", "created": 1, "run_at": "own1", '
    f'"path": "model-2", "status": "PENDING", "updated": 1, "metrics": [{POINT}], "number": 1}}'
)

ON_DISK = {
    "active-experiment": '"7"',
    "adopting/azureml/r2": "true",
    "agreed/experiment/7": '{"tag a": "1", "note": "n"}',
    "agreed/experiment/7/names": '["/Users/me/iris", "iris"]',
    "agreed/model/m-1": '{"tag b": "2"}',
    "agreed/r1": '{"name": "run one", "tags": {"team": "x"}}',
    "alias/wine/champion": '{"version": "2", "of": "k1"}',
    "alias/wine/old": '{"version": "1", "of": null}',
    "awake/azureml/experiment/9": "true",
    "awake/azureml/r3": "true",
    "began/r4": '"azureml"',
    "beside/run:r1/azureml/a/plot.png": '"a/plot-2.png"',
    "creating/azureml/m-2": "true",
    "creating/azureml/r5": "true",
    "creating/azureml/version/k1": "true",
    "experiment-name//Users/me/iris": '"7"',
    "experiment-of/r6": '"7"',
    "experiment-path/databricks/iris": '"/Users/me/iris"',
    "experiment-was/7//Users/me/old": "true",
    "experiment/7": '{"name": "/Users/me/iris", "tags": {"a": "b"}}',
    "held/azureml/12": "true",
    "held/databricks/3": "true",
    "kept-output/azureml/r1/m-3": "4",
    "kept-path/azureml/r1/model-2": '"m-1"',
    "kept/azureml/m-1": MODEL_TEXT,
    "lacks/azureml/logged-models": "true",
    "link-began": "1700000000.5",
    "made/azureml/7@1690000000000": '"own9"',
    "mended": '"its state was damaged"',
    "names/m-1/r7": "true",
    "overflow/azureml/r1": '{"written": true, "number": 2, "path": "dbml/overflow.json", "once": false, '
    '"keys": [["m", "loss", "50 metric names a run", 3]], "cleared": true}',
    "overflow/azureml/r2": '{"written": false}',
    "owed/azureml/k1/01700000000500000000": json.dumps(EDIT),
    "place/azureml": '"0123abcd"',
    "provisional/k1": TOLD_TEXT[:-1] + ', "queue": "r1", "at": 1700000000.5}',
    "registered/wine/2": '"k1"',
    "registering/grape/k1": ASKED_TEXT,
    "registering/wine/k1": ASKED_TEXT,
    "renamed/claret": '"wine"',
    "resent/azureml/r1": '"2 metrics"',
    "takes/azureml/run-ids": "false",
    "unanswered/m-1": "true",
    "unmade/azureml/r8": '"no such user"',
    "version/k1/azureml": '{"error": "INVALID_PARAMETER_VALUE: not on a Monday"}',
    "version/k1/databricks": '{"name": "wine", "version": "2", "source": "dbfs:/a", "new": true}',
}
"""Every family's keys and values, as they stand in the state files of released versions."""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """Return an empty state."""
    made = State(tmp_path / "state.db")
    yield made
    made.close()


@pytest.fixture
def filled(state: State) -> State:
    """Return a state into whose file every family was written as text."""
    state.check()
    with closing(sqlite3.connect(state.path)) as db, db:
        db.executemany("INSERT INTO answers VALUES (?,?)", ON_DISK.items())
    return state


def on_disk(state: State) -> dict[str, str]:
    """Return the keys and values that are in a state's file."""
    with closing(sqlite3.connect(state.path)) as db:
        return dict(db.execute("SELECT k, v FROM answers"))


def write_all(state: State) -> None:
    """Write every family through its repository."""
    experiments, creations, versions = state.experiments, state.creations, state.model_versions
    experiments.note_active("7")
    experiments.note("7", "/Users/me/iris", {"a": "b"})
    experiments.note_name("/Users/me/iris", "7")
    experiments.retire_name("7", "/Users/me/old")
    experiments.note_queue("r6", "7")
    experiments.note_full_name("databricks", "iris", "/Users/me/iris")
    creations.begin_adoption("azureml", "r2")
    creations.note_began_at("r4", "azureml")
    creations.begin("azureml", "m-2")
    creations.begin("azureml", "r5")
    creations.refuse_run("azureml", "r8", "no such user")
    base = state.merge_base
    base.note_facts("experiment/7", {"tag a": "1", "note": "n"}, {"tag a": "1", "note": "n"})
    base.note_names("experiment/7", ["/Users/me/iris", "iris"])
    base.note_fact("model/m-1", "tag b", "2")
    base.note_run("r1", {"name": "run one", "tags": {"team": "x"}})
    state.model_names.rename("claret", "wine")
    state.repairs.note_restored_experiment("azureml", "9")
    state.repairs.note_restored_run("azureml", "r3")
    state.repairs.note_made("azureml", "7", 1690000000000, "own9")
    state.renamed_files.note("run:r1", "azureml", "a/plot.png", "a/plot-2.png")
    state.deferred_uploads.add("azureml", 12)
    state.deferred_uploads.add("databricks", 3)
    state.emulated_models.note("azureml", "m-1", json.loads(MODEL_TEXT))
    state.emulated_models.take_path("azureml", "r1", "model-2", "m-1")
    state.emulated_models.note_output("azureml", "r1", "m-3", 4)
    state.capabilities.note_lack("azureml", "logged-models")
    state.capabilities.note_takes_run_ids("azureml", False)
    state.link_notes.note_began(AT)
    state.link_notes.note_repaired("its state was damaged")
    state.link_notes.note_place("azureml", "0123abcd")
    state.model_changes.note_named("m-1", "r7")
    state.model_changes.note_unanswered("m-1")
    state.overflow_files.note(
        "azureml",
        "r1",
        {
            "written": True,
            "number": 2,
            "path": "dbml/overflow.json",
            "once": False,
            "keys": [("m", "loss", "50 metric names a run", 3)],
            "cleared": True,
        },
    )
    state.overflow_files.note("azureml", "r2", {"written": False})
    state.receipts.note_resent("azureml", "r1", "2 metrics")
    versions.ask("r1", {**TOLD, "after": {"k0": "r0"}}, AT)
    versions.begin("k1", "azureml")
    versions.note_provisional("r1", TOLD)
    versions.note_number("wine", "2", "k1")
    versions.defer_write("k1", "azureml", EDIT)
    versions.note_refusal("k1", "azureml", "INVALID_PARAMETER_VALUE: not on a Monday")
    versions.note_registered("k1", "databricks", Registered("wine", "2", "dbfs:/a", True))
    state.model_names.point("wine", "champion", AliasTarget("2", "k1"))
    state.model_names.point("wine", "old", AliasTarget("1", None))


def test_each_family_stands_on_disk_under_its_key(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: AT)
    monkeypatch.setattr("time.time_ns", lambda: AT_NS)
    write_all(state)
    assert on_disk(state) == ON_DISK


def test_what_stands_on_disk_is_read_by_its_owner(filled: State) -> None:
    experiments, creations, versions = filled.experiments, filled.creations, filled.model_versions
    assert experiments.active() == "7"
    assert experiments.facts("7") == ExperimentFacts("/Users/me/iris", {"a": "b"})
    assert (experiments.name("7"), experiments.name("8")) == ("/Users/me/iris", None)
    assert (experiments.is_known("7"), experiments.is_known("8")) == (True, False)
    assert experiments.named("/Users/me/iris") == "7"
    assert experiments.named("/Users/me/other") is None
    assert experiments.names() == ["/Users/me/iris"]
    assert experiments.had_name("7", "/Users/me/old")
    assert experiments.of_queue("r6") == "7"
    assert experiments.full_name("databricks", "iris") == "/Users/me/iris"
    assert creations.is_adopting("azureml", "r2")
    assert creations.began_at("r4") == "azureml"
    assert creations.is_begun("azureml", "m-2")
    assert not creations.is_begun("databricks", "m-2")
    assert creations.refusal_of_run("azureml", "r8") == "no such user"
    assert filled.merge_base.facts("experiment/7") == {"tag a": "1", "note": "n"}
    assert filled.merge_base.names("experiment/7") == ["/Users/me/iris", "iris"]
    assert filled.merge_base.of_run("r1") == {"name": "run one", "tags": {"team": "x"}}
    assert filled.model_names.current("claret") == "wine"
    champion, old = AliasTarget("2", "k1"), AliasTarget("1", None)
    assert filled.model_names.alias("wine", "champion") == champion
    assert filled.model_names.aliases("wine") == {"champion": champion, "old": old}
    assert filled.repairs.restored_experiments("azureml") == ["9"]
    assert filled.repairs.is_restored_run("azureml", "r3")
    assert filled.repairs.made_for("azureml", "7", 1690000000000) == "own9"
    assert filled.repairs.made_for("azureml", "7", 1690000000001) is None
    assert filled.renamed_files.of("run:r1") == [("azureml", "a/plot.png", "a/plot-2.png")]
    assert filled.deferred_uploads.numbers("azureml") == [12]
    assert sorted(filled.deferred_uploads.all_numbers()) == [("azureml", 12), ("databricks", 3)]
    assert filled.deferred_uploads.has("azureml", 12)
    assert not filled.deferred_uploads.has("azureml", 3)
    assert filled.emulated_models.facts("azureml", "m-1") == json.loads(MODEL_TEXT)
    assert filled.emulated_models.has_any("azureml")
    assert not filled.emulated_models.has_any("databricks")
    assert filled.emulated_models.paths("azureml", "r1") == {"model-2": "m-1"}
    assert filled.emulated_models.outputs("azureml", "r1") == ["m-3"]
    assert filled.capabilities.lacks("azureml", "logged-models")
    assert filled.capabilities.takes_run_ids("azureml") is False
    assert filled.capabilities.takes_run_ids("databricks") is None
    assert filled.link_notes.began() == AT
    assert filled.link_notes.repaired() == "its state was damaged"
    assert filled.link_notes.place("azureml") == "0123abcd"
    assert filled.model_changes.queues_naming("m-1") == ["r7"]
    assert filled.model_changes.is_unanswered("m-1")
    (keys,) = filled.overflow_files.of("azureml", "r1")["keys"]
    assert [*keys] == ["m", "loss", "50 metric names a run", 3]
    assert filled.overflow_files.of("azureml", "r9") == {}
    assert filled.overflow_files.runs("azureml") == ["r1", "r2"]
    assert filled.overflow_files.unwritten("azureml") == {"r2"}
    assert filled.receipts.resent("azureml", "r1") == "2 metrics"
    assert versions.asked() == [Asked("k1", "r1", AT_NS, TOLD)] * 2
    assert versions.copies_of("grape", "3") == {"k1"}
    assert versions.model_names() == ["grape", "wine"]
    assert versions.is_begun("k1", "azureml")
    assert versions.answer("k1", "azureml") == Refusal("INVALID_PARAMETER_VALUE: not on a Monday")
    assert versions.answer("k1", "databricks") == Registered("wine", "2", "dbfs:/a", True)
    assert versions.registered("k1", "azureml") is None
    assert versions.registered_names() == {"wine"}
    assert versions.key_of("wine", "2") == "k1"
    assert versions.keys_of("wine") == {"2": "k1"}
    assert versions.provisional("k1") == {**TOLD, "queue": "r1", "at": AT}
    assert versions.newest_provisional("wine") == versions.provisional("k1")
    assert versions.deferred_writes("k1", "azureml") == [("01700000000500000000", EDIT)]


FORGET: dict[str, Callable[[State], object]] = {
    "active-experiment": lambda s: s.experiments.forget_active(),
    "adopting/azureml/r2": lambda s: s.creations.end_adoption("azureml", "r2"),
    "alias/wine/old": lambda s: s.model_names.drop_alias("wine", "old"),
    "awake/azureml/experiment/9": lambda s: s.repairs.forget_restored_experiment("azureml", "9"),
    "awake/azureml/r3": lambda s: s.repairs.forget_restored_run("azureml", "r3"),
    "creating/azureml/r5": lambda s: s.creations.settle("azureml", "r5"),
    "creating/azureml/version/k1": lambda s: s.model_versions.settle("k1", "azureml"),
    "held/azureml/12": lambda s: s.deferred_uploads.discard("azureml", 12),
    "lacks/azureml/logged-models": lambda s: s.capabilities.forget_lacks("azureml"),
    "overflow/azureml/r2": lambda s: s.overflow_files.forget("azureml", "r2"),
    "owed/azureml/k1/01700000000500000000": lambda s: s.model_versions.drop_deferred(
        "k1", "azureml", "01700000000500000000"
    ),
    "renamed/claret": lambda s: s.model_names.note_used("claret"),
    "unanswered/m-1": lambda s: s.model_changes.settle("m-1"),
    "unmade/azureml/r8": lambda s: s.creations.settle_run("azureml", "r8"),
    "version/k1/azureml": lambda s: s.model_versions.forget_answer("k1", "azureml"),
}


@pytest.mark.parametrize("key", FORGET)
def test_what_is_forgotten_is_one_key(filled: State, key: str) -> None:
    FORGET[key](filled)
    assert ON_DISK.keys() - on_disk(filled).keys() == {key}


def test_an_experiment_that_was_lost_leaves_no_merge_base(filled: State) -> None:
    filled.merge_base.forget("experiment/7")
    gone = ON_DISK.keys() - on_disk(filled).keys()
    assert gone == {"agreed/experiment/7", "agreed/experiment/7/names"}


def test_a_renamed_model_keeps_its_registrations_and_aliases(filled: State) -> None:
    filled.model_versions.follow_rename("wine", "claret")
    found = on_disk(filled)
    moved = {
        key: text
        for key, text in ON_DISK.items()
        if key.startswith(("registered/wine/", "registering/wine/", "alias/wine/"))
    }
    assert moved.keys().isdisjoint(found)
    assert {key.replace("/wine/", "/claret/"): text for key, text in moved.items()}.items() <= found.items()
    assert (found["renamed/wine"], "renamed/claret" in found) == ('"claret"', False)


def test_a_registration_is_open_until_every_registry_has_answered(state: State) -> None:
    versions = state.model_versions
    versions.ask("r1", TOLD, 1.0)
    versions.note_refusal("k1", "azureml", "no")
    assert versions.open_of("wine") == {"k1": "r1"}
    assert (versions.is_open("k1", "azureml"), versions.is_open("k1", "databricks")) == (False, True)
    versions.note_registered("k1", "databricks", Registered("wine", "1", "", False))
    assert versions.open_of("wine") == {}
    assert "registering/wine/k1" not in on_disk(state)
    assert "registering/grape/k1" in on_disk(state)


def test_the_later_of_two_registries_sees_the_earlier_ones_version(state: State, tmp_path: Path) -> None:
    other = State(tmp_path / "state.db")
    first, second = Registered("wine", "1", "a", True), Registered("wine", "5", "b", False)
    assert state.model_versions.exchange("k1", "databricks", first, ["azureml"]) == {}
    assert other.model_versions.exchange("k1", "azureml", second, ["databricks"]) == {"databricks": first}
    other.close()


def test_what_both_still_say_costs_no_write(state: State) -> None:
    facts: dict[str, Any] = {"a": "1", "b": "2"}
    state.merge_base.note_facts("model/m", facts, {"a": "1", "b": "3"})
    assert state.merge_base.facts("model/m") == {"a": "1"}
    before = state.path.with_name("state.db-wal").stat().st_size
    state.merge_base.note_facts("model/m", facts, {"a": "1", "b": "3"})
    state.merge_base.note_fact("model/m", "b", None)
    assert state.path.with_name("state.db-wal").stat().st_size == before
    assert state.merge_base.is_edited_there("model/m", "a", "1", "2")
    assert not state.merge_base.is_edited_there("model/m", "a", "0", "2")
