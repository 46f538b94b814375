"""Which experiment, and which run, of one workspace is which of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple

from mlflow.entities import Experiment, Run

from dbml_magics.core.delivery.writers.experiments import name_of
from dbml_magics.core.destinations.naming import EXPERIMENT_TAG, told_apart, workspace_path
from dbml_magics.core.reconcile.readers import PAGE, WorkspaceReader

_LET_GO_EVERY = 500  # runs


@dataclass(frozen=True)
class ExperimentPair:
    """An experiment as each workspace has it, or None where it has not."""

    name: str  # as the user calls it
    first: Experiment | None
    second: Experiment | None
    lost: str = ""  # the workspace that had it once, and has it no more under what it is remembered by
    instead: str = ""  # the name of what has its id there by now

    def at(self, number: int) -> Experiment | None:
        """Return the experiment of the first (0) or the second (1) workspace."""
        return (self.first, self.second)[number]


def experiment_pairs(first: WorkspaceReader, second: WorkspaceReader) -> list[ExperimentPair]:
    """Pair the experiments of two workspaces: as the link knows them, else by each one's naming rule.

    What a workspace had and has no more stays without a partner, even where another of its name is there by
    now: whether that is the same is for a person to say.
    """
    state = first.engine.state
    ours, others = _Known(first, second), _Known(second, first)
    for known, other in ((ours, others), (others, ours)):
        known.look_for(other)
    named = {e.name: e for e in others.listed}
    tagged = {name_of(e): e for e in others.listed if EXPERIMENT_TAG in e.tags}
    pairs, taken = [], set()
    for own in ours.listed:
        name, visible = name_of(own), ours.visible(own)
        there_too = state.identity(second.role, "experiment", visible)
        partner = others.by_id.get(there_too.actual) if there_too is not None else None
        if partner is None and not ours.lost_by_other(own):
            there = second.side.destination.experiment_name(name)
            candidates = (tagged.get(name), named.get(there), named.get(told_apart(name, there)))
            partner = next(
                (
                    c
                    for c in candidates
                    if c is not None
                    and workspace_path(c.tags.get(EXPERIMENT_TAG, name)) == name
                    and not others.lost_by_other(c)
                ),
                None,
            )
        if partner is not None:
            taken.add(str(partner.experiment_id))
        pairs.append(ExperimentPair(name, own, partner, *(("", "") if partner else ours.fate(own, others))))
    pairs += [
        ExperimentPair(name_of(e), None, e, *others.fate(e, ours))
        for e in others.listed
        if str(e.experiment_id) not in taken
    ]
    return pairs


class _Known:
    """One workspace's experiments; of those that the link remembers, whether they still are the same."""

    def __init__(self, reader: WorkspaceReader, other: WorkspaceReader) -> None:
        self.reader, self.other = reader, other
        self.listed = reader.experiments()
        self.by_id = {str(e.experiment_id): e for e in self.listed}
        self._visible = {
            own: reader.side.experiments.seen(e) or f"{reader.role}:{own}" for own, e in self.by_id.items()
        }

    def visible(self, experiment: Experiment) -> str:
        return self._visible[str(experiment.experiment_id)]

    def look_for(self, others: _Known) -> None:
        """Look for those that the other workspace has a partner of, and that are not listed here."""
        for visible in others._visible.values():
            known = self.reader.engine.state.identity(self.reader.role, "experiment", visible)
            if known is not None and known.actual and known.actual not in self.by_id:
                self.reader.ask(partial(self.reader.side.experiments.look, visible))

    def lost_by_other(self, experiment: Experiment) -> bool:
        return self.other.side.experiments.lost(self.visible(experiment)) is not None

    def fate(self, experiment: Experiment, others: _Known) -> tuple[str, str]:
        """Return (the workspace that had it once, the name of what has its id there now)."""
        lost = self.other.side.experiments.lost(self.visible(experiment))
        if lost is None:
            return "", ""
        instead = others.by_id.get(lost.extra.get("was", ""))
        return self.other.role, instead.name if instead is not None else ""


@dataclass(frozen=True)
class RunPair:
    """A run as each workspace has it, or None where it has not."""

    key: str  # the id that the user knows
    first: Run | None
    second: Run | None
    double: bool = False  # a second copy of a run that has its partner
    whole: bool = False  # each form was asked for itself just now, not found by a search

    @property
    def either(self) -> Run:
        """Return the run of one of the two."""
        run = self.first or self.second
        assert run is not None
        return run


class Lone(NamedTuple):
    """What is kept of a run without a partner, until it is listed again."""

    run_id: str
    start_time: int
    stage: str

    @classmethod
    def of(cls, run: Run) -> Lone:
        """Return that of a run."""
        return cls(run.info.run_id, run.info.start_time or 0, run.info.lifecycle_stage)


Listing = Callable[[bool], Iterator[Run]]  # of one workspace's runs: the newest first, or the oldest (True)


class _Stream:
    """One workspace's runs, newest first, and those of them that have no partner yet."""

    def __init__(self, reader: WorkspaceReader, listing: Listing) -> None:
        self.reader = reader
        self.listing = listing
        self.runs = listing(False)
        self.listed = 0
        self.waiting: dict[str, Run | Lone] = {}  # little of it where the other stream has passed it
        self.at: float = float("inf")  # the start time that it has come to
        self.ended = False

    def next(self) -> tuple[str, Run] | None:
        run = next(self.runs, None)
        if run is None:
            self.ended, self.at = True, float("-inf")
            return None
        self.listed += 1
        self.at = run.info.start_time or 0
        return self.reader.key(run), run

    def take(self, key: str) -> Run | None:
        """Return the run that waits under ``key``, read again if it was let go."""
        found = self.waiting.pop(key, None)
        return self.reader.get_run(found.run_id) if isinstance(found, Lone) else found

    def let_go(self, passed: float) -> None:
        """Keep little of the runs that the other stream has passed: memory stays bounded."""
        for key, run in self.waiting.items():
            if not isinstance(run, Lone) and (run.info.start_time or 0) > passed:
                self.waiting[key] = Lone.of(run)

    def lone(self) -> Iterator[tuple[str, Lone]]:
        """Yield little of each run that has no partner."""
        for key, run in self.waiting.items():
            yield key, run if isinstance(run, Lone) else Lone.of(run)

    def left(self) -> Iterator[tuple[str, Run]]:
        """Yield the runs that have no partner, a page of those that were let go in memory at a time.

        The oldest come first: a parent that is copied in its own turn need not be looked for.
        """
        for key in [key for key, run in reversed(self.waiting.items()) if not isinstance(run, Lone)]:
            yield from self._taken(key)
        if len(self.waiting) > self.listed // PAGE + 1:  # fewer pages than runs: these are listed again
            for run in self.listing(True):
                key = self.reader.key(run)
                lone = self.waiting.get(key)
                if isinstance(lone, Lone) and lone.run_id == run.info.run_id:
                    del self.waiting[key]
                    yield key, run
        for key in [*reversed(self.waiting)]:
            yield from self._taken(key)

    def _taken(self, key: str) -> Iterator[tuple[str, Run]]:
        run = self.take(key)
        if run is not None:
            yield key, run


def run_pairs(
    first: WorkspaceReader,
    ours: Listing,
    second: WorkspaceReader,
    theirs: Listing,
    listed: Callable[[Iterator[tuple[str, Lone]]], None] | None = None,
) -> Iterator[RunPair]:
    """Pair two listings of runs, holding little more than a page of each.

    A pair has one start time, which is given when a run is made; those without a partner come last.
    ``listed`` is told of these once both listings have ended.
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
        if one.reader.is_stray(key, run):  # whichever comes first must not take the place of the right one
            strays.append((key, run, one is a))
            continue
        partner = other.take(key)
        if partner is None:
            one.waiting[key] = run
        else:
            paired.add(key)
            yield RunPair(key, run, partner) if one is a else RunPair(key, partner, run)
        count += 1
        if count % _LET_GO_EVERY == 0:
            a.let_go(b.at)
            b.let_go(a.at)
    if listed is not None:
        listed(chain(a.lone(), b.lone(), ((key, Lone.of(run)) for key, run, _ in strays)))
    for key, run, ours_too in strays:
        yield RunPair(key, run, None, True) if ours_too else RunPair(key, None, run, True)
    for key, run in a.left():
        yield RunPair(key, run, None, key in paired)
    for key, run in b.left():
        yield RunPair(key, None, run, key in paired)
