"""Random histories from several processes, with faults and kills: then peace, and nothing is lost or doubled.

Each example is a fresh link. What hypothesis draws is the same in every run (``derandomize``), what the
processes and the network make of it is not: a failure shows the history, step by step, as it was.
``DBML_TEST_EXAMPLES`` sets how many examples there are, and draws other ones each time.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import Proxies, Servers
from tests.core.histories import PATHS, ROLES, ExpectedRun, Said, World
from tests.infra.actors import ActorHost
from tests.infra.faults import FAULTS
from tests.infra.planted import BUGS

ASKED = os.environ.get("DBML_TEST_EXAMPLES")
TOLD = "DBML_TEST_STORIES" in os.environ  # print every history, not only those that fail
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
VALUES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
    st.sampled_from(["nan", "inf", "-inf", "-0.0"]),
)
NUMBERS = st.integers(0, 11)
FAULT = st.tuples(st.sampled_from(ROLES), st.sampled_from(sorted(FAULTS)), st.sampled_from(PATHS))
ACTIONS = [
    *(
        "create",
        "train",
        "metric",
        "metric",
        "batch",
        "batch",
        "param",
        "tag",
        "tag",
        "text",
        "text",
        "untag",
    ),
    *("end", "rename", "delete", "restore", "resume", "model", "dataset", "fork", "experiment"),
    *("tag experiment", "rename experiment", "delete experiment", "restore experiment"),
]
EVENTS = [
    *("fault", "fault", "fault", "no fault", "time", "time"),
    *("the deliverer is killed", "a process ends", "a process starts", "a clock is set"),
    *("the folder is put back", "a copy delivers", "the state is lost"),
]
_examples = itertools.count(1)


def profile(examples: int, steps: int) -> settings:
    """Return how much is tried: a fixed selection, or as many as the environment says, random ones."""
    return settings(
        max_examples=int(ASKED or examples),
        stateful_step_count=steps,
        derandomize=ASKED is None,
        database=None,
        deadline=None,
        # Each example is seconds of real processes: a failure is told as it was, not made smaller.
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


class Histories(RuleBasedStateMachine):
    """Everything that processes of one link may do, and that may happen to them."""

    make_world: Callable[[Callable[[str], None]], World]

    def __init__(self) -> None:
        super().__init__()
        self.story: list[str] = []
        self.began = time.monotonic()
        self.world = type(self).make_world(self.say)

    def say(self, what: str) -> None:
        """Add a line to the history that a failure shows."""
        self.story.append(f"{time.monotonic() - self.began:7.2f}  {what}")

    @initialize(processes=st.integers(1, 3), fault=st.none() | FAULT)
    def begin(self, processes: int, fault: tuple[str, str, str] | None) -> None:
        """Start processes, and make an experiment with two runs."""
        self.during(lambda: [self.world.start() for _ in range(processes)])
        if fault is not None:
            self.world.strike(*fault)
        self.tell(0, self.world.experiment())
        for process in range(2):
            self.tell(process, self.world.create(self.world.experiments[0], None, {}))

    def during(self, what: Callable[[], Any]) -> Any:
        """Do something; a failure shows the history."""
        try:
            return what()
        except (AssertionError, EOFError) as failure:
            raise AssertionError(f"{failure}\n\nthe history:\n" + "\n".join(self.story)) from failure

    def tell(self, process: int, said: Said) -> None:
        """Have a process obey an order."""
        self.during(lambda: self.world.tell(self.world.actor(process), said))

    def run(self, number: int) -> ExpectedRun | None:
        """Return one of the runs that can be logged to."""
        living = self.world.living_runs()
        return living[number % len(living)] if living else None

    def has_runs(self) -> bool:
        """Tell whether there is a run that can be logged to."""
        return bool(self.world.living_runs())

    # --- what processes do

    @rule(
        actions=st.lists(
            st.tuples(st.sampled_from(ACTIONS), NUMBERS, NUMBERS, VALUES, TEXT), min_size=1, max_size=6
        )
    )
    def work(self, actions: list[tuple[str, int, int, str, str]]) -> None:
        """Processes do one thing after another."""
        for what, process, number, value, text in actions:
            said = self.order(what, number, value, text)
            if said is not None:
                self.tell(process, said)
                if what == "model" and number % 2:
                    expected = next(run for run in self.world.runs if run.id == said.order["run"])
                    if expected.models[said.order["name"]]:
                        self.tell(process, self.world.register(expected, said.order["name"]))

    def order(self, what: str, number: int, value: str, text: str) -> Said | None:
        """Return an order of a kind, or None where there is nothing that it could be given for."""
        world, run = self.world, self.run(number)
        at = world.experiments_for_runs()
        if what in ("create", "train"):
            if what == "train":
                return world.train(
                    at[number % len(at)], [value, "1", "nan"][: 1 + number % 3], nested=number % 2 == 0
                )
            return world.create(at[number % len(at)], run if number % 3 == 0 else None, {"t": text})
        if what == "experiment":
            return world.experiment({"team": text} if number % 3 else None, for_runs=number % 2 == 0)
        if what in ("tag experiment", "rename experiment", "delete experiment", "restore experiment"):
            gone = what.startswith("restore")
            fit = [e for e in world.experiments if e.id and not e.for_runs and e.deleted.is_surely(gone)]
            return world.change_experiment(fit[number % len(fit)], what.split()[0], text) if fit else None
        if what == "restore":
            deleted = [each for each in world.runs if each.id and each.deleted.is_surely(True)]
            return world.change(deleted[number % len(deleted)], "restore") if deleted else None
        if run is None:
            return None
        if what == "metric":
            return world.metric(run, ("loss", "val/acc", "a b")[number % 3], value)
        if what == "batch":
            return world.batch(run, value, text)
        if what in ("param", "tag", "text", "untag"):
            key = ("one", "two/three.txt")[number % 2]
            there = [k for k, cell in run.tags.items() if None not in cell.may_be]
            if what == "untag":
                return world.write(run, what, there[0], text) if there else None
            return world.write(run, what, key, text)
        if what == "fork":
            return world.fork(run, text)
        if what == "dataset":
            return world.dataset(run)
        if what == "model":
            return world.model(run) if len(run.models) < 2 else None
        return world.change(run, what)

    @precondition(has_runs)
    @rule(
        shares=st.lists(
            st.lists(st.tuples(NUMBERS, st.integers(0, 6), VALUES, TEXT), min_size=1, max_size=5),
            min_size=1,
            max_size=3,
        ),
        killed=st.none() | NUMBERS,
        after=st.floats(0, 0.06),
    )
    def log_at_once(
        self, shares: list[list[tuple[int, int, str, str]]], killed: int | None, after: float
    ) -> None:
        """Several processes log at once; one of them may be killed."""
        while len(self.world.actors) < len(shares):
            self.during(self.world.start)
        orders = []
        for place, (actor, share) in enumerate(zip(self.world.actors, shares, strict=False)):
            several = []
            for what, (number, kind, value, text) in enumerate(share):
                run = self.run(number)
                assert run is not None
                world = self.world
                if what == 0:
                    several.append(world.points(run, actor, 200))
                elif kind == 0:
                    several.append(
                        world.train(world.experiments_for_runs()[0], [value], nested=number % 2 == 0)
                    )
                elif kind == 1:
                    several.append(world.create(world.experiments_for_runs()[0], None, {}))
                elif kind == 2:
                    several.append(world.batch(run, value, text, f"batched by {place}"))
                elif kind == 3:
                    several.append(world.metric(run, "loss", value))
                else:  # each process has keys of its own: no order of theirs is the right one
                    words = ("param", "tag", "text")[kind - 4]
                    several.append(world.write(run, words, f"of {place}", text))
            orders.append((actor, several))
        victim = None if killed is None else killed % len(orders)
        self.during(lambda: self.world.together(orders, victim, after))

    # --- what happens to them

    @rule(what=st.sampled_from(EVENTS), fault=FAULT, process=NUMBERS, seconds=st.floats(0.02, 0.4))
    def something_happens(self, what: str, fault: tuple[str, str, str], process: int, seconds: float) -> None:
        """A fault begins or ends, a process is killed, ends or starts, or time passes."""
        world = self.world
        if what == "fault":
            world.strike(*fault)
        elif what == "no fault":
            world.clear(fault[0])
        elif what == "time":
            time.sleep(seconds)
        elif what == "the deliverer is killed":
            actor = self.during(lambda: world.deliverer(fault[0]))
            if actor is not None:
                world.kill(actor, [])
        elif what == "a process ends" and world.actors:
            self.during(lambda: world.leave(world.actor(process)))
        elif what == "a clock is set" and world.actors:
            self.during(lambda: world.set_clock(world.actor(process), (process % 5 - 2) * 7.5))
        elif what == "the folder is put back":
            self.during(world.put_back)
        elif what == "a copy delivers":
            self.during(world.deliver_from_a_copy)
        elif what == "the state is lost":
            self.during(world.lose_the_state)
        elif what == "a process starts" and len(world.actors) < 3:
            self.during(world.start)

    def teardown(self) -> None:
        """Make peace, and compare."""
        try:
            if self.world.experiments:
                self.during(self.world.peace)
        finally:
            self.world.close()
            self.say("compared")
            if TOLD:
                print("\n".join(self.story), end="\n\n")


def play(machine: type[Histories], how: settings, make_world: Callable[..., World]) -> None:
    """Run a machine on worlds of its own."""
    run_state_machine_as_test(
        type(machine.__name__, (machine,), {"make_world": staticmethod(make_world)}), settings=how
    )


def worlds(
    servers: Servers, proxies: Proxies, actor_host: ActorHost, place: Path, bug: str | None = None
) -> Callable[[Callable[[str], None]], World]:
    """Return what makes a world, each with a link and names of its own."""

    def make_world(say: Callable[[str], None]) -> World:
        number = next(_examples)
        prefix = f"h{os.getpid()}-{number}"
        return World(servers, proxies, actor_host, place / str(number), prefix, say, bug=bug)

    return make_world


@pytest.mark.full
def test_whatever_happens_what_was_acknowledged_is_at_both_sides_once(
    servers: Servers, proxies: Proxies, actor_host: ActorHost, tmp_path: Path
) -> None:
    play(Histories, profile(12, 15), worlds(servers, proxies, actor_host, tmp_path))


@pytest.mark.skipif(ASKED is None, reason="minutes for each bug: played where DBML_TEST_EXAMPLES is set")
@pytest.mark.parametrize("bug", sorted(BUGS))
def test_a_bug_that_is_planted_is_found(
    servers: Servers, proxies: Proxies, actor_host: ActorHost, tmp_path: Path, bug: str
) -> None:
    with pytest.raises(AssertionError, match="the history:"):
        play(Histories, profile(30, 15), worlds(servers, proxies, actor_host, tmp_path, bug))
