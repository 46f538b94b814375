"""Delivery to two destinations in memory: the engine's own code, without a server, a thread or a pause."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dbml_magics.core.delivery.writers.ids import RUN_TAG, Ids
from dbml_magics.core.delivery.writers.in_doubt import PointsThere
from dbml_magics.core.delivery.writers.registrations import Registrations, ask_for
from dbml_magics.core.delivery.writers.versions import KEY_TAG
from dbml_magics.core.destinations.errors import Busy
from dbml_magics.core.link import Link, WorkspaceSpec
from dbml_magics.core.model.facts import RegistryChange, VersionFacts, VersionSource
from dbml_magics.core.model.ids import provisional
from dbml_magics.core.model.operations import (
    ChangeRegistry,
    CreateRun,
    LogMetric,
    LogParam,
    Operation,
    RegisterVersion,
    SetTag,
)
from dbml_magics.core.model.queues import LINK_QUEUE, REGISTRY_QUEUE
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.errors import JournalFull
from tests.infra.memory_destination import HALF, LOST, UNSENT, Fault, MemoryDestination
from tests.simulation.history import stillness

ROLES = "databricks", "azureml"


class Killed(BaseException):
    """The process is killed in the middle of a call."""


@dataclass
class Both:
    """A link to two destinations in memory."""

    link: Link
    there: dict[str, MemoryDestination]

    def __post_init__(self) -> None:
        self.engine = self._start()

    def _start(self) -> Engine:
        connect: Callable[[WorkspaceSpec], Any] = lambda spec: self.there[spec.role]  # noqa: E731
        return Engine(self.link, connect=connect)

    def close(self) -> None:
        """Close the link's files."""
        self.engine.journal.close()
        self.engine.state.rest()

    def start_again(self) -> None:
        """Do what a new process does that finds the folder of one that was killed."""
        self.close()
        self.engine = self._start()

    def begin(self) -> str:
        """Journal the begin of a run that the primary has not named."""
        run = provisional()
        self.engine.live.begin_queue(run)
        self.engine.recorder.write(run, CreateRun("0", "me", 1000, {"mlflow.runName": "first"}))
        return run

    def deliver(self, run: str, tries: int = 20) -> None:
        """Deliver a run's queue to both, at once after each failure; what did not fail yet will not."""
        for role in ROLES:
            for _ in range(tries):
                try:
                    if not self.engine.workers[role].deliver(run):
                        break
                except Killed:
                    self.start_again()
            else:
                raise AssertionError(f"{role} did not get the run in {tries} tries")
            self.there[role].heal()

    def held(self, run: str) -> list[dict[str, object]]:
        """Return what each destination holds of a run, which each has once."""
        found = []
        for there in self.there.values():
            runs = there.search_runs(["0"], f"tags.`{RUN_TAG}` = '{run}'")
            assert len(runs) == 1, f"{there.role} has it {len(runs)} times"
            info, data = runs[0].info, runs[0].data
            points = {key: len(there.get_metric_history(info.run_id, key)) for key in data.metrics}
            found.append({"status": info.status, "params": data.params, "points": points, "tags": data.tags})
        return found


@pytest.fixture
def both(home: Path) -> Iterator[Both]:
    """Return a link whose workers do nothing until they are told to."""
    there = {role: MemoryDestination(role, appends=True) for role in ROLES}
    specs = tuple(WorkspaceSpec(role, there[role].uri) for role in ROLES)
    with stillness():
        made = Both(Link(str(home), specs, registry="both"), there)
        yield made
        made.close()


WHOLE = {"status": "FINISHED", "params": {"p": "1"}, "points": {"m": 30, "n": 1}}


def a_whole_run(both: Both) -> str:
    run = both.begin()
    for step in range(30):
        both.engine.recorder.log_metric(run, "m", 1 / (step + 1), 1000 + step, step, None)
    both.engine.recorder.write_all(run, [LogParam("p", "1"), LogMetric("n", 2.0, 1000, 0), SetTag("t", "1")])
    both.engine.own_runs.end_run(run, "FINISHED")
    return run


def assert_whole(both: Both, run: str) -> None:
    for found in both.held(run):
        tags = found.pop("tags")
        assert found == WHOLE
        assert tags == {"mlflow.runName": "first", RUN_TAG: run, "t": "1"}
    assert not list(both.engine.state.dead(None))


def test_a_run_arrives_whole_in_both(both: Both) -> None:
    run = a_whole_run(both)
    both.deliver(run)
    assert_whole(both, run)


@pytest.mark.parametrize("fault", [LOST, HALF, UNSENT, Fault(lambda: Busy("not now", retry_after=1.0))])
@pytest.mark.parametrize("number", range(1, 9))
def test_a_run_arrives_once_whichever_call_fails(both: Both, fault: Fault, number: int) -> None:
    run = a_whole_run(both)
    for there in both.there.values():
        there.fail(fault, number)
    both.deliver(run)
    assert_whole(both, run)


def register(both: Both) -> str:
    """Journal a registration in both registries."""
    run = both.begin()
    source: VersionSource = {"kind": "uri", "uri": "s3://bucket/model"}
    facts: VersionFacts = {"key": "1", "name": "wine", "tags": {"a": "1"}, "run": run, "source": source}
    both.engine.recorder.write(run, RegisterVersion({**facts, "to": [*ROLES]}))
    return run


def assert_twins(both: Both, run: str) -> None:
    """Deliver a registration, and check that each registry has one version that names the other's."""
    both.deliver(run)
    both.deliver(LINK_QUEUE)
    twins = "azureml:wine/1", "databricks:wine/1"
    for there, twin in zip(both.there.values(), twins, strict=True):
        versions = there.search_model_versions("name='wine'")
        assert [(v.tags["a"], v.tags["dbml_twin"]) for v in versions] == [("1", twin)]


@pytest.mark.parametrize("fault", [LOST, UNSENT, Fault(Killed), Fault(Killed, does=1.0)])
@pytest.mark.parametrize("number", range(1, 11))
def test_a_version_is_registered_once_whichever_call_fails(both: Both, fault: Fault, number: int) -> None:
    run = register(both)
    for there in both.there.values():
        there.fail(fault, number)
    assert_twins(both, run)


# --- registrations and registry writes: what goes before what


def asked(both: Both, queue: str, key: str, **facts: Any) -> None:
    """Journal a registration of the model wine in both registries."""
    source: VersionSource = {"kind": "uri", "uri": f"s3://bucket/{key}"}
    of_it: VersionFacts = {"key": key, "name": "wine", "tags": {}, "run": queue, "source": source}
    of_it["to"] = [*ROLES]
    named: VersionFacts = {**of_it, **facts}  # type: ignore[typeddict-item]
    ask_for(both.engine.state, both.engine.recorder.write, queue, named)


def changed(both: Both, do: str, **facts: Any) -> None:
    """Journal a registry write to the model wine, or to a version that waits for its number."""
    change: RegistryChange = {"name": "wine", "to": [*ROLES], "after": {}, "do": do}
    write = ChangeRegistry({**change, **facts})  # type: ignore[typeddict-item]
    both.engine.recorder.write(REGISTRY_QUEUE, write)


def rounds(both: Both, times: int = 20) -> None:
    """Let both workers do what their threads do when somebody waits, until nothing is left to do."""
    for _ in range(times):
        for role in ROLES:
            both.engine.workers[role].hurry()
            both.engine.workers[role].step()
        if not any(both.engine.backlog.waiting(role)[0] for role in ROLES):
            return
        time.sleep(0.1)  # less than what is blocked is left alone


def test_writes_of_two_queues_that_depend_on_each_other_arrive_in_their_order(both: Both) -> None:
    """The alias waits for the first version, the second version for the model's deletion."""
    run = both.begin()
    asked(both, run, "1")
    changed(both, "alias", alias="best", version="0", of="1", after={"1": run})
    changed(both, "delete_model", after={"1": run})
    asked(both, run, "2")
    changed(both, "alias", alias="best", version="0", of="2", after={"2": run})
    rounds(both)
    for there in both.there.values():
        (version,) = there.search_model_versions("name='wine'")
        assert (version.version, version.tags[KEY_TAG]) == ("1", "2")
        assert there.get_registered_model("wine").aliases == {"best": "1"}
    assert not list(both.engine.state.dead(None))


def test_a_registration_whose_line_cannot_be_written_holds_up_no_later_version(both: Both) -> None:
    def full(queue: str, op: Operation) -> None:
        raise JournalFull(f"no disk takes {op.kind} of {queue}")

    run = both.begin()
    lost: VersionFacts = {"key": "1", "name": "wine", "tags": {}, "run": run, "to": [*ROLES]}
    lost["source"] = {"kind": "uri", "uri": "s3://bucket/1"}
    with pytest.raises(JournalFull):
        ask_for(both.engine.state, full, run, lost)
    asked(both, run, "2")
    rounds(both)
    for there in both.there.values():
        (version,) = there.search_model_versions("name='wine'")
        assert (version.version, version.tags[KEY_TAG]) == ("1", "2")


def test_two_registrations_that_wait_for_each_other_hold_up_nothing_else(both: Both) -> None:
    first, second = both.begin(), both.begin()
    asked(both, first, "1", after={"2": second})
    asked(both, second, "2", after={"1": first})
    for run in (first, second):
        both.engine.recorder.write(run, SetTag("t", "1"))
    changed(both, "create_model", tags={"a": "1"})
    rounds(both, 5)
    for run in (first, second):
        assert [held["tags"]["t"] for held in both.held(run)] == ["1", "1"]  # type: ignore[index]
    for role, there in both.there.items():
        assert there.get_registered_model("wine").tags == {"a": "1"}
        assert sorted(both.engine.backlog.queues(role)) == ["registration-1", "registration-2"]


def test_a_process_that_is_killed_in_what_goes_first_has_not_marked_what_comes_after(both: Both) -> None:
    run = both.begin()
    both.engine.workers["azureml"].deliver(run)
    asked(both, run, "1")
    changed(both, "create_model", tags={})
    both.there["azureml"].fail(Fault(Killed), of="create_registered_model")
    both.engine.workers["azureml"].hurry()
    with pytest.raises(Killed):
        both.engine.workers["azureml"].step()
    for queue in (run, REGISTRY_QUEUE):
        ((delivered, sent),) = both.engine.state.cursors("azureml", queue).values()
        assert (sent > delivered) is (queue == REGISTRY_QUEUE), f"{queue}: sent up to {sent} of {delivered}"


def test_a_worker_that_does_not_look_for_its_version_registers_two(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registrations, "_find", lambda *_: None)
    run = register(both)
    both.there["azureml"].fail(LOST, of="create_model_version")
    with pytest.raises(AssertionError):
        assert_twins(both, run)


@pytest.mark.parametrize("fault", [LOST, HALF])
def test_a_worker_that_does_not_ask_makes_two_of_one(
    both: Both, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """What the tests above would say if delivery did not settle its doubts."""
    monkeypatch.setattr(Ids, "find_run", lambda *_: None)
    run = a_whole_run(both)
    both.there["azureml"].fail(fault, of="create_run")
    both.deliver(run)
    with pytest.raises(AssertionError, match="azureml has it 2 times"):
        both.held(run)


@pytest.mark.parametrize("fault", [LOST, HALF])
def test_a_worker_that_does_not_compare_sends_points_twice(
    both: Both, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(PointsThere, "missing", lambda _, _run_id, points: points)
    run = a_whole_run(both)
    both.there["azureml"].fail(fault, of="log_batch")
    both.deliver(run)
    with pytest.raises(AssertionError):
        assert_whole(both, run)


def test_what_a_destination_refuses_is_put_aside_and_the_rest_arrives(both: Both) -> None:
    run = a_whole_run(both)
    there = both.there["azureml"]
    both.deliver(run)
    own = both.engine.side("azureml").ids.run_at(run)
    there.log_batch(own, [], {"q": "there already"}, {})
    both.engine.recorder.write_all(
        run, [LogParam("q", "another"), LogParam("r", "3"), LogMetric("o", 1.0, 1, 1)]
    )
    both.deliver(run)
    primary, mirror = both.held(run)
    assert primary["params"] == {"p": "1", "q": "another", "r": "3"}
    assert mirror["params"] == {"p": "1", "q": "there already", "r": "3"}
    assert mirror["points"] == primary["points"] == {"m": 30, "n": 1, "o": 1}
    assert [op[1:] for _, _, _, op, _, _ in both.engine.state.dead("azureml")] == [["p", "q", "another"]]


def test_what_is_logged_while_batches_are_sent_fills_the_last_of_them(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request is as dear for ten points as for a thousand."""
    run, there = both.begin(), both.there["azureml"]
    most, logged = there.limits.metrics, 0

    def log(count: int) -> None:
        nonlocal logged
        for step in range(logged, logged + count):
            both.engine.recorder.log_metric(run, "m", 1.0, 1000 + step, step, None)
        logged += count

    sizes, log_batch = list[int](), MemoryDestination.log_batch

    def log_more(self: MemoryDestination, run_id: str, points: Any, *rest: Any) -> None:
        log_batch(self, run_id, points, *rest)
        sizes.append(len(points))
        if len(sizes) <= 5:
            log(most)

    monkeypatch.setattr(MemoryDestination, "log_batch", log_more)
    both.engine.recorder.write_all(run, [SetTag(f"tag {number}", "1") for number in range(3)])
    log(most + most // 2)
    while both.engine.workers["azureml"].deliver(run):
        pass
    assert sum(sizes) == logged == most * 6 + most // 2
    assert len(sizes) == 7, f"six and a half batches of points were sent as {sizes}"
