"""Which experiment, and which run, of one workspace is which of the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlflow.entities import Experiment, Run

from dbml_magics.core.reconcile.sides import Side
from dbml_magics.core.workspaces.naming import EXPERIMENT_TAG, told_apart


@dataclass(frozen=True)
class ExperimentPair:
    """An experiment as each workspace has it, or None where it has not."""

    name: str  # as the user calls it
    first: Experiment | None
    second: Experiment | None

    def at(self, number: int) -> Experiment | None:
        """Return the experiment of the first (0) or the second (1) workspace."""
        return (self.first, self.second)[number]


def experiment_pairs(first: Side, second: Side) -> list[ExperimentPair]:
    """Pair the experiments of two workspaces: as the link knows them, else by each one's naming rule."""
    state = first.engine.state
    others = second.experiments()
    by_id = {str(e.experiment_id): e for e in others}
    named = {e.name: e for e in others}
    tagged = {e.tags[EXPERIMENT_TAG]: e for e in others if EXPERIMENT_TAG in e.tags}
    pairs, taken = [], set()
    for own in first.experiments():
        name = own.tags.get(EXPERIMENT_TAG, own.name)
        experiment_id = str(own.experiment_id)
        visible = state.visible(first.role, "experiment", experiment_id) or experiment_id
        known = state.identity(second.role, "experiment", visible)
        other = by_id.get(known.actual) if known is not None else None
        if other is None:
            there = second.applier.workspace.experiment_name(name)
            candidates = (tagged.get(name), named.get(there), named.get(told_apart(name, there)))
            other = next(
                (c for c in candidates if c is not None and c.tags.get(EXPERIMENT_TAG, name) == name), None
            )
        if other is not None:
            taken.add(str(other.experiment_id))
        pairs.append(ExperimentPair(name, own, other))
    pairs += [
        ExperimentPair(e.tags.get(EXPERIMENT_TAG, e.name), None, e)
        for e in others
        if str(e.experiment_id) not in taken
    ]
    return pairs


@dataclass(frozen=True)
class RunPair:
    """A run as each workspace has it, or None where it has not."""

    key: str  # the id that the user knows
    first: Run | None
    second: Run | None
    double: bool = False  # a second copy of a run that has its partner

    @property
    def either(self) -> Run:
        """Return the run of one of the two."""
        run = self.first or self.second
        assert run is not None
        return run


class _Stream:
    """One workspace's runs, newest first, and those of them that have no partner yet."""

    def __init__(self, side: Side, runs: Iterator[Run]) -> None:
        self.side = side
        self.runs = runs
        self.waiting: dict[str, Run | str] = {}  # a run, or its id where the other stream has passed it
        self.at: float = float("inf")  # the start time that it has come to
        self.ended = False

    def next(self) -> tuple[str, Run] | None:
        run = next(self.runs, None)
        if run is None:
            self.ended, self.at = True, float("-inf")
            return None
        self.at = run.info.start_time or 0
        return self.side.key(run), run

    def take(self, key: str) -> Run | None:
        """Return the run that waits under ``key``, read again if it was let go."""
        found = self.waiting.pop(key, None)
        return self.side.get_run(found) if isinstance(found, str) else found

    def let_go(self, passed: float) -> None:
        """Keep no more than the ids of runs that the other stream has passed: memory stays bounded."""
        for key, run in self.waiting.items():
            if not isinstance(run, str) and run.info.start_time > passed:
                self.waiting[key] = run.info.run_id


def run_pairs(first: Side, ours: Iterator[Run], second: Side, theirs: Iterator[Run]) -> Iterator[RunPair]:
    """Pair two streams of runs, both the newest first, holding little more than a page of each.

    A pair has one start time, which is given when a run is made; those without a partner come last.
    """
    a, b = _Stream(first, ours), _Stream(second, theirs)
    paired: set[str] = set()
    strays: list[tuple[str, Run, bool]] = []
    count = 0
    while not (a.ended and b.ended):
        one, other = (a, b) if a.at >= b.at and not a.ended else (b, a)
        if one.ended:
            one, other = other, one
        found = one.next()
        if found is None:
            continue
        key, run = found
        if one.side.is_stray(key, run):  # whichever comes first must not take the place of the right one
            strays.append((key, run, one is a))
            continue
        partner = other.take(key)
        if partner is None:
            one.waiting[key] = run
        else:
            paired.add(key)
            yield RunPair(key, run, partner) if one is a else RunPair(key, partner, run)
        count += 1
        if count % 500 == 0:
            a.let_go(b.at)
            b.let_go(a.at)
    for key, run, ours_too in strays:
        yield RunPair(key, run, None, True) if ours_too else RunPair(key, None, run, True)
    for key in list(a.waiting):
        yield RunPair(key, a.take(key), None, key in paired)
    for key in list(b.waiting):
        yield RunPair(key, None, b.take(key), key in paired)
