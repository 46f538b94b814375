"""Turns of several queues at one destination in memory that meet in the middle of a request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dbml_magics.core.delivery.writers.registrations import ask_for
from dbml_magics.core.delivery.writers.versions import KEY_TAG, TWIN_TAG
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.link import Link, WorkspaceSpec
from dbml_magics.core.model.facts import RegistryChange, VersionFacts
from dbml_magics.core.model.ids import provisional
from dbml_magics.core.model.operations import ChangeRegistry, CreateRun, LogArtifact, RegisterVersion
from dbml_magics.core.model.queues import LINK_QUEUE, REGISTRY_QUEUE, registration_queue
from dbml_magics.core.runtime.engine import Engine
from tests.infra.memory_destination import Fault, MemoryDestination
from tests.simulation.history import stillness

T = TypeVar("T")
FIRST, SECOND = "databricks", "azureml"
A_WHILE_S = 1.0  # in which the other turn would go wrong


class Destination(MemoryDestination):
    """A destination that does something before it serves a call: ``meanwhile[name]``, once."""

    def __init__(self, role: str) -> None:
        super().__init__(role, appends=True)
        self.meanwhile: dict[str, list[Callable[[], object]]] = {}

    def serve(self, name: str, writes: bool, call: Callable[[], T]) -> T:
        """Serve a call."""
        if self.meanwhile.get(name):
            self.meanwhile[name].pop(0)()
        return super().serve(name, writes, call)


class Both:
    """A link to two destinations, of which the second one gets what it is given by several turns."""

    def __init__(self, home: Path) -> None:
        self.there = {role: Destination(role) for role in (FIRST, SECOND)}
        specs = tuple(WorkspaceSpec(role, each.uri) for role, each in self.there.items())
        connect: Callable[[WorkspaceSpec], Any] = lambda spec: self.there[spec.role]  # noqa: E731
        self.engine = Engine(Link(str(home), specs, registry="both"), connect=connect)

    def begin(self) -> str:
        """Begin a run."""
        run = provisional()
        self.engine.live.begin_queue(run)
        self.engine.recorder.write(run, CreateRun("0", "me", 1000, {"mlflow.runName": "first"}))
        return run

    def facts(self, run: str, key: str) -> VersionFacts:
        """Return what a version of the model wine is registered with."""
        facts: VersionFacts = {"key": key, "name": "wine", "tags": {}, "run": run, "to": [FIRST, SECOND]}
        facts["source"] = {"kind": "uri", "uri": f"s3://bucket/{key}"}
        return facts

    def register(self, run: str, key: str) -> None:
        """Ask for a version of the model wine."""
        ask_for(self.engine.state, self.engine.recorder.write, run, self.facts(run, key))

    def change(self, do: str, queue: str = REGISTRY_QUEUE, **facts: Any) -> None:
        """Journal a registry write for the second destination."""
        change: RegistryChange = {"name": "wine", "to": [SECOND], "after": {}, "do": do}
        self.engine.recorder.write(queue, ChangeRegistry({**change, **facts}))  # type: ignore[typeddict-item]

    def deliver(self, role: str) -> None:
        """Deliver everything to a destination, as somebody waits for it."""
        for _ in range(50):
            if not self.engine.backlog.waiting(role)[0]:
                return
            self.engine.workers[role].hurry()
            self.engine.workers[role].step()
            threading.Event().wait(0.05)
        raise AssertionError(f"{self.engine.backlog.queues(role)} wait for {role}")

    def at_second(self) -> list[tuple[str, str, str | None]]:
        """Return (name, key, twin) of the versions at the second destination, where nothing was refused."""
        assert not self.engine.state.dead(None)
        versions = self.there[SECOND].search_model_versions("")
        return [(each.name, each.tags[KEY_TAG], each.tags.get(TWIN_TAG)) for each in versions]


@pytest.fixture
def both(home: Path) -> Iterator[Both]:
    """Return a link whose workers do nothing until they are told to."""
    with stillness():
        made = Both(home)
        yield made
        made.engine.journal.close()
        made.engine.state.rest()


def test_a_registration_that_was_moved_apart_twice_makes_one_version(both: Both) -> None:
    """Its line is in two queues: a process was killed between the one in its own and the run's next."""
    run = both.begin()
    both.register(run, "1")
    both.deliver(FIRST)
    apart = RegisterVersion({**both.facts(run, "1"), "only": SECOND, "queue": run})
    both.engine.recorder.write(registration_queue("1"), apart)
    together = threading.Barrier(2)

    def wait() -> None:
        with suppress(threading.BrokenBarrierError):
            together.wait(A_WHILE_S)

    both.there[SECOND].meanwhile["create_model_version"] = [wait, wait]
    both.deliver(SECOND)
    both.deliver(FIRST)
    assert both.at_second() == [("wine", "1", "databricks:wine/1")]


def test_a_registry_write_waits_for_what_belongs_to_a_registration(both: Both) -> None:
    """A model is renamed while one of its versions, which is there already, is given its twin's name."""
    run, renamed = both.begin(), threading.Event()
    both.register(run, "1")
    both.deliver(FIRST)

    def rename() -> None:
        both.change("rename_model", new_name="beer")
        both.engine.workers[SECOND].hurry()
        assert not renamed.wait(A_WHILE_S)

    both.there[SECOND].meanwhile["set_model_version_tag"] = [rename]
    both.there[SECOND].meanwhile["rename_registered_model"] = [renamed.set]
    both.deliver(SECOND)
    assert both.at_second() == [("beer", "1", "databricks:wine/1")]


def test_a_twins_tag_follows_a_model_that_is_renamed_between_two_looks(both: Both) -> None:
    run = both.begin()
    both.register(run, "1")
    both.deliver(SECOND)
    there, names = both.there[SECOND], both.engine.state.model_names
    names.rename("wine", "beer")
    rename = lambda: there.rename_registered_model("wine", "beer")  # noqa: E731
    there.meanwhile["set_model_version_tag"] = [lambda: None, rename]
    both.change("version_tag", LINK_QUEUE, version="1", own=True, key=TWIN_TAG, value="databricks:wine/1")
    both.deliver(SECOND)
    assert both.at_second() == [("beer", "1", "databricks:beer/1")]


@pytest.mark.parametrize("arrived", [0, 1, 2], ids=lambda n: f"{n} of 2 renames arrived")
def test_a_twins_tag_finds_its_version_whichever_rename_has_arrived(both: Both, arrived: int) -> None:
    """The model was renamed twice, and another model has its first name by now."""
    run, names, there = both.begin(), ["wine", "beer", "cider"], both.there[SECOND]
    both.register(run, "1")
    both.deliver(SECOND)
    for old, new in pairwise(names):
        both.engine.state.model_versions.follow_rename(old, new)
    for old, new in pairwise(names[: arrived + 1]):
        there.rename_registered_model(old, new)
    if arrived:
        both.engine.state.model_names.note_used("wine")
        there.create_registered_model("wine", {})
        there.create_model_version("wine", "s3://bucket/2", None, {KEY_TAG: "2"}, None, None, None)
    tag = {"version": "1", "of": "1", "own": True, "key": TWIN_TAG, "value": "databricks:wine/1"}
    both.change("version_tag", LINK_QUEUE, **tag)
    both.deliver(SECOND)
    expected = [(names[arrived], "1", "databricks:cider/1"), *([("wine", "2", None)] if arrived else [])]
    assert sorted(both.at_second()) == expected


def test_a_file_that_was_put_aside_does_not_come_after_a_newer_one(both: Both, tmp_path: Path) -> None:
    """A storage takes nothing, and then the newer file: the older one is not tried again, nor waits to be."""
    run, there = both.begin(), both.there[SECOND]

    def write(content: str) -> None:
        file = tmp_path / "data.txt"
        file.write_text(content * 5000)
        kept = both.engine.retention.keep(file)
        both.engine.recorder.write(run, LogArtifact(f"run:{run}", "data.txt", kept))

    both.deliver(SECOND)
    closed = Fault(lambda: Unavailable("the firewall", sent=False, denied=True, apart=True))
    there.fail(closed, of="log_artifact")
    write("old")
    both.deliver(SECOND)
    write("new")
    held, retried = both.engine.workers[SECOND].held, threading.Event()

    def retry() -> None:
        held.try_all()
        both.engine.workers[SECOND].hurry()
        retried.wait(A_WHILE_S)

    there.meanwhile["log_artifact"] = [retry, retried.set]
    both.deliver(SECOND)
    assert {content[:3] for content in there.files.values()} == {b"new"}
    assert not held.numbers()
    assert not both.engine.state.dead(None)
