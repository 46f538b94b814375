"""Random histories, then random edits behind the link's back: verify finds exactly those, repair ends equal.

The repair is disturbed: workspaces fail, and its process is killed. However often it was begun, it ends the
same, and once more changes nothing. ``DBML_TEST_EXAMPLES`` sets how much is tried, see ``test_histories``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Metric

from tests.conftest import Proxies, Servers
from tests.core.histories import ROLES, ExpectedRun, World
from tests.core.linking import arrived
from tests.core.test_histories import NUMBERS, TEXT, profile
from tests.infra import plain
from tests.infra.actors import Actor, ActorHost, OrderFailed
from tests.infra.faults import FAULTS

KINDS = (
    "new tag",
    "tag",
    "no tag",
    "note",
    "param",
    "metric",
    "history",
    "name",
    "status",
    "file",
    "changed file",
    "no file",
    "nesting",
    "logged model",
    "experiment tag",
    "stage",
    "run",
)
_SLOTS = {"no tag": "tag", "history": "metric", "no file": "old file", "changed file": "old file"}
PARENT = "mlflow.parentRunId"
EDITS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 1), NUMBERS, TEXT), max_size=7)
TROUBLES = [kind for kind in sorted(FAULTS) if kind not in ("hang", "slow")]
DISTURBANCES = st.lists(
    st.tuples(st.sampled_from(ROLES), st.sampled_from(TROUBLES), st.none() | st.floats(0.0, 0.5)), max_size=3
)
Key = tuple[str, str, str]  # kind, key, run: what names a difference
_examples = itertools.count(1)


class Edits:
    """What was done to runs at one workspace alone, and how each difference should be shown."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.found: set[Key] = set()
        self.may_stay: set[Key] = set()  # only deleting could mend it, or nothing at all
        self.numbers = itertools.count(1)
        self._done: set[tuple[str, str]] = set()
        self._clients = [plain.client(server.uri) for server in world.servers]
        at = world.experiments[0].name.sure
        self._own = [
            {run["tags"]["label"]: key for key, run in plain.runs(server.uri, at, files=False).items()}
            for server in world.servers
        ]

    def apply(self, kind: str, side: int, number: int, text: str) -> None:
        """Edit one run at one side, unless the same of it was edited before."""
        run = self.world.runs[number % len(self.world.runs)]
        if kind == "nesting" and run is not self.world.runs[-1]:
            return  # another one would be its own ancestor
        slot = _SLOTS.get(kind, kind)
        slot += f" {next(self.numbers)}" if kind in ("new tag", "experiment tag") else ""
        whole = {where for label, where in self._done if label == run.label}
        if (run.label, slot) in self._done or "stage" in whole or (kind == "stage" and whole):
            return
        self._done.add((run.label, slot))
        self.world.say(f"edit at {ROLES[side]}: {kind} of {run.label}, {text!r}")
        self._edit(kind, side, run, text)

    def _expect(self, run: str, kind: str, key: str = "", *, may_stay: bool = False) -> None:
        edited = (kind, key, run)
        self.found.add(edited)
        if may_stay:
            self.may_stay.add(edited)

    def _edit(self, kind: str, side: int, run: ExpectedRun, text: str) -> None:
        client, own, visible = self._clients[side], self._own[side][run.label], str(run.id)
        mirror = side == 1
        if kind == "new tag":
            key = f"new {next(self.numbers)}"
            client.set_tag(own, key, text)
            self._expect(visible, "tag", key)
        elif kind == "tag":
            client.set_tag(own, "t", f"not {text}")
            self._expect(visible, "tag", "t")
        elif kind == "no tag":
            client.delete_tag(own, "t")
            self._expect(visible, "tag", "t", may_stay=True)
        elif kind == "note":
            client.set_tag(own, "mlflow.note.content", text)
            self._expect(visible, "note")
        elif kind == "param":
            key = f"late {next(self.numbers)}"
            client.log_param(own, key, text)
            self._expect(visible, "param", key, may_stay=mirror)
        elif kind == "metric":
            client.log_batch(own, [Metric("a", float(n), 5, 10**8 + n) for n in range(3)])
            self._expect(visible, "metric", "a", may_stay=mirror)
        elif kind == "history":
            client.log_batch(own, [Metric("a", float(n), 5, -5 + n) for n in range(3)])
            self._expect(visible, "history", "a", may_stay=mirror)
        elif kind == "name":
            client.update_run(own, name=f"edited {run.label}")
            self._expect(visible, "name")
        elif kind == "status":
            other = "KILLED" if run.status.sure == "FAILED" else "FAILED"
            client.set_terminated(own, other, end_time=5_000_000_000_000)
            self._expect(visible, "status")
            self._expect(visible, "end")
        elif kind == "file":
            path = f"late {next(self.numbers)}.txt"
            client.log_text(own, text, path)
            self._expect(visible, "artifact", path, may_stay=mirror)
        elif kind == "changed file":
            client.log_text(own, f"{text} and more", "notes/one.txt")
            self._expect(visible, "artifact", "notes/one.txt")
        elif kind == "no file":
            self._delete_file(side, own, "notes/one.txt")
            self._expect(visible, "artifact", "notes/one.txt", may_stay=not mirror)
        elif kind == "nesting":
            self._nest(client, side, own, visible)
        elif kind == "logged model":
            at = client.get_run(own).info.experiment_id
            made = client.create_logged_model(at, f"late-{next(self.numbers)}", own)
            client.finalize_logged_model(made.model_id, "READY")
            self._expect(visible, "model", made.model_id, may_stay=mirror)
        elif kind == "experiment tag":
            key = f"late {next(self.numbers)}"
            client.set_experiment_tag(client.get_run(own).info.experiment_id, key, text)
            self._expect("", "experiment", f"tag {key}")
        elif kind == "stage":
            client.delete_run(own)
            self._expect(visible, "stage", may_stay=not mirror)
        else:
            at = client.get_run(own).info.experiment_id
            stray = client.create_run(at, run_name="stray", tags={"label": f"stray {next(self.numbers)}"})
            client.log_metric(stray.info.run_id, "m", 1.0)
            client.set_terminated(stray.info.run_id)
            self._expect(stray.info.run_id, "run", may_stay=mirror)

    def _nest(self, client: Any, side: int, own: str, visible: str) -> None:
        """Nest the last run elsewhere than it was: in the one before it, or in the first."""
        runs = self.world.runs
        if len(runs) < 2:
            return
        there = client.get_run(own).data.tags.get(PARENT)
        first, before = (self._own[side][run.label] for run in (runs[0], runs[-2]))
        goal = before if there == first else first
        if goal == there:
            return  # of two runs the second is nested in the first already
        client.set_tag(own, PARENT, goal)
        self._expect(visible, "parent", may_stay=side == 1 and there is None)

    def _delete_file(self, side: int, own: str, path: str) -> None:
        root = self._clients[side].get_run(own).info.artifact_uri.removeprefix("mlflow-artifacts:/")
        address = f"{self.world.servers[side].uri}/api/2.0/mlflow-artifacts/artifacts/{root}/{path}"
        assert requests.delete(address, timeout=30).ok


def a_history(world: World, actor: Actor, texts: list[str]) -> None:
    """Make an experiment with runs that end, with everything in them that can be edited."""
    world.tell(actor, world.experiment())
    for number, text in enumerate(texts):
        parent = world.runs[0] if number % 2 else None
        world.tell(actor, world.create(world.experiments[0], parent, {"t": text}))
        run = world.runs[-1]
        world.tell(actor, world.batch(run, "0.5", text))
        world.tell(actor, world.write(run, "text", "notes/one.txt", text))
        world.tell(actor, world.change(run, "end"))


def keys_of(differences: list[list[Any]]) -> set[Key]:
    """Return differences as they compare."""
    return {(kind, key, run) for kind, key, run, *_ in differences}


def disturbed_repair(world: World, role: str, trouble: str, killed_after: float | None) -> None:
    """Repair while a workspace fails for a while; the process may be killed in the middle."""
    actor = world.actor(0)
    world.say(f"repair, with trouble at {role}: {trouble}; killed after {killed_after}")
    world.strike(role, trouble, "")
    order = {"experiment": world.experiments[0].name.sure}
    actor.send("repair", **order)
    if killed_after is not None:
        time.sleep(killed_after)
        world.kill(actor, [])
        world.clear(role)
        return
    time.sleep(0.3)
    world.clear(role)
    with contextlib.suppress(OrderFailed):  # a repair may give up when nobody answers; it is begun again
        actor.answer()


def play(world: World, texts: list[str], edits: list[Any], troubles: list[Any], deep: bool) -> None:
    """Make a history, edit it, and compare and repair."""
    actor = world.start()
    a_history(world, actor, texts)
    actor.do("sync", timeout=60)
    name = world.experiments[0].name.sure
    same = actor.do("verify", experiment=name, deep=deep)
    assert not same["differences"], f"just delivered, and yet: {same['text']}"
    edited = Edits(world)
    for edit in edits:
        edited.apply(*edit)
    # Without --deep a history is looked at only where its last point differs.
    expected = {each for each in edited.found if deep or each[0] != "history"}
    found = actor.do("verify", experiment=name, deep=deep)
    assert keys_of(found["differences"]) == expected, f"the edits were not what was found: {found['text']}"

    for trouble in troubles:
        disturbed_repair(world, *trouble)
    for role in ROLES:
        world.clear(role)
    actor = world.actor(0)
    done = actor.do("repair", experiment=name)
    left = keys_of(done["remaining"])
    assert left <= edited.may_stay, f"could have been mended: {done['text']}"
    again = actor.do("repair", experiment=name)
    assert not again["repaired"], f"a second time there is nothing to do, but: {again['text']}"
    assert keys_of(again["remaining"]) == left
    after = actor.do("verify", experiment=name, deep=True)
    assert keys_of(after["differences"]) == left, f"still differs: {after['text']}"
    for run in world.runs:
        if not any(which == run.id for _, _, which in left):
            arrived(world.servers, str(run.id), name)
    copies = [
        [run["tags"].get("label") for run in plain.runs(server.uri, name, files=False, deleted=True).values()]
        for server in world.servers
    ]
    assert all(len(set(labels)) == len(labels) for labels in copies), f"a run was copied twice: {copies}"


@pytest.mark.full
def test_edits_are_found_exactly_and_repair_ends_equal_whatever_happens(
    servers: Servers, proxies: Proxies, actor_host: ActorHost, tmp_path: Path
) -> None:
    @profile(8, 1)
    @given(st.lists(TEXT, min_size=1, max_size=3), EDITS, DISTURBANCES, st.booleans())
    def example(texts: list[str], edits: list[Any], troubles: list[Any], deep: bool) -> None:
        number = next(_examples)
        story: list[str] = []
        say: Callable[[str], None] = story.append
        place = tmp_path / str(number)
        world = World(servers, proxies, actor_host, place, f"v{os.getpid()}-{number}", say)
        try:
            play(world, texts, edits, troubles, deep)
        except (AssertionError, EOFError) as failure:
            raise AssertionError(f"{failure}\n\nthe history:\n" + "\n".join(story)) from failure
        finally:
            world.close()

    example()
