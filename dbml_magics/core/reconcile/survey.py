"""What is compared: the runs in scope, as pairs, and how many were left out for which reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from dbml_magics.common.hints import Remedy
from dbml_magics.common.log_records import logger
from dbml_magics.core import runs
from dbml_magics.core.delivery.writers.emulated_models import MODELS_TAG
from dbml_magics.core.destinations.errors import (
    EndlessListing,
    Unavailable,
    cause_of,
    classify_error,
    is_missing,
)
from dbml_magics.core.destinations.naming import workspace_path
from dbml_magics.core.reconcile.pairs import ExperimentPair, Lone, RunPair, experiment_pairs, run_pairs
from dbml_magics.core.reconcile.readers import PAGE, TOGETHER, WorkspaceReader
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.errors import BadCommand, DbmlError, ExperimentNotFound, RunNotFound
from dbml_magics.results.reconcile import UNREAD, Difference

_log = logger(__name__)

Progress = Callable[[int, str], None]


@dataclass(frozen=True)
class Scope:
    """Which runs are meant: those of the link's own time, unless something else is asked for."""

    experiment: str | None = None
    run: str | None = None
    everything: bool = False
    since: int | None = None  # milliseconds

    @property
    def chosen(self) -> bool:
        """Tell whether the user chose: then runs from before the link count like any other."""
        return bool(self.experiment or self.run or self.everything or self.since is not None)


class Survey:
    """Pairs the runs of two workspaces."""

    def __init__(self, engine: Engine, scope: Scope) -> None:
        if len(engine.link.tracked) < 2:
            raise BadCommand(
                f"runs are tracked to {engine.link.primary} alone: there is nothing to compare them with.",
                remedies=[(Remedy("link", again=True, track="both"), "track to both workspaces")],
            )
        first, second = engine.link.tracked
        self.engine = engine
        self.scope = scope
        self.first = WorkspaceReader(engine, first, many=scope.run is None)
        self.second = WorkspaceReader(engine, second, many=scope.run is None)
        self.troubles: list[Difference] = []  # what could not be listed, for a cause of its own
        self.older: Counter[str] = Counter()
        self.waiting: list[str] = []
        self.keys: set[str] = set()  # of the runs in scope
        self.total: int | None = None  # how many there are, once both workspaces have listed them all
        self._experiments: list[ExperimentPair] | None = None
        self._all: list[ExperimentPair] | None = None  # in scope or not
        self._behind = {
            queue
            for queue in engine.journal.queues()
            if any(engine.backlog.is_waiting(role, queue) for role in engine.link.used)
        }

    @property
    def readers(self) -> tuple[WorkspaceReader, WorkspaceReader]:
        """Return both workspaces, the primary first."""
        return self.first, self.second

    @property
    def seen(self) -> int:
        """Return how many runs were in scope so far."""
        return len(self.keys)

    @property
    def requests(self) -> int:
        """Return how many requests were made."""
        return self.first.requests + self.second.requests

    def unread(self, run: str, name: str, error: Exception, what: str = "") -> Difference:
        """Return that one thing cannot be compared, for its own sake.

        Raises Unavailable where a workspace is.
        """
        classified = classify_error(error)
        if isinstance(classified, DbmlError):
            raise classified from error
        if isinstance(classified, Unavailable) and not isinstance(classified, EndlessListing):
            self.raise_if_away(classified)
        _log.debug("%s %s of %r is not compared", run, what, name, exc_info=error)
        cause = cause_of(classified)
        if not isinstance(classified, (MlflowException, OSError)):
            cause = f"{type(classified).__name__}: {cause}"
        return Difference(run, name, UNREAD, what, {}, cause)

    def raise_if_away(self, error: Unavailable) -> None:
        """Raise an error again if a workspace answers nothing: then it is not the trouble of one thing."""
        for reader in self.readers:
            try:
                reader.ask(lambda: reader.workspace.search_experiments(most=1))  # noqa: B023 - asked at once
            except Unavailable:
                raise error from None

    def experiments(self) -> list[ExperimentPair]:
        """Return the pairs of experiments in scope. Raises ExperimentNotFound."""
        if self._experiments is None:
            found = self._all = experiment_pairs(self.first, self.second)
            wanted = self.scope.experiment and workspace_path(self.scope.experiment)
            if wanted is not None:
                chosen = [p for p in found if wanted in _names(p)]
                if not chosen:
                    raise ExperimentNotFound(
                        f"no experiment {wanted!r} in {self.first.role} or {self.second.role}.",
                        remedies=[(Remedy("sync", verify=True, all=True), "compares every experiment")],
                    )
                found = chosen
            self._experiments = found
        return self._experiments

    def pairs(self) -> Iterator[RunPair]:
        """Yield the pairs of runs in scope. Raises RunNotFound, ExperimentNotFound."""
        found = self._one_run() if self.scope.run is not None else self._all_runs()
        for pair in found:
            if pair.key in self._behind:
                self.waiting.append(pair.key)
            elif self._is_meant(pair):
                self.keys.add(pair.key)
                yield pair

    def _all_runs(self) -> Iterator[RunPair]:
        experiments = self.experiments()
        for start in range(0, len(experiments), TOGETHER):
            yield from self._runs_of(experiments[start : start + TOGETHER], set())

    def _runs_of(self, part: list[ExperimentPair], yielded: set[str]) -> Iterator[RunPair]:
        """Yield the pairs of runs of some experiments; where one cannot be listed, those of the others.

        Of an experiment that one workspace does not list to its end no run counts as lacking there.
        """

        def listing(number: int, oldest_first: bool) -> Iterator[Run]:
            ids = [str(e.experiment_id) for p in part if (e := p.at(number)) is not None]
            return self.readers[number].runs(ids, self.scope.since, oldest_first=oldest_first)

        ours, theirs = partial(listing, 0), partial(listing, 1)
        listed = self._count if part[-1] is self.experiments()[-1] else None
        pairs = run_pairs(self.first, ours, self.second, theirs, listed)
        while True:
            try:
                pair = next(pairs, None)
            except Exception as error:
                trouble = self.unread("", part[0].name, error, "runs")
                break
            if pair is None:
                return
            if pair.double or pair.key not in yielded:
                yielded.add(pair.key)
                yield pair
        if len(part) == 1:
            self.troubles.append(trouble)
            return
        for each in part:
            yield from self._runs_of([each], yielded)

    def _count(self, lone: Iterator[tuple[str, Lone]]) -> None:
        """Count the runs in scope: those that were seen, and those without a partner, which come last."""
        meant = (
            key not in self._behind and run.stage != "deleted" and self._is_wanted(key, run.start_time)
            for key, run in lone
        )
        self.total = self.seen + sum(meant)

    def _one_run(self) -> Iterator[RunPair]:
        assert self.scope.run is not None
        key = runs.resolve(
            self.engine, self.scope.run, None, lambda run: Remedy("sync", verify=True, run=run)
        )
        pair = self.pair(key)
        if pair.first is None and pair.second is None:
            raise RunNotFound(
                f"run {key[:8]} is in neither workspace.",
                remedies=[(Remedy("runs"), "lists the runs with their ids")],
            )
        yield pair

    def pair(self, key: str) -> RunPair:
        """Return both forms of a run as the workspaces have them now."""
        first, second = (self._known(reader, key) for reader in self.readers)
        first = first or self._searched(self.first, key, second)
        second = second or self._searched(self.second, key, first)
        return RunPair(key, first, second, whole=True)

    def find(self, reader: WorkspaceReader, key: str, other: Run | None = None) -> Run | None:
        """Return a run of one workspace by the id that the user knows.

        ``other`` is its form in the other workspace: then it is looked for in that one's experiment alone.
        """
        return self._known(reader, key) or self._searched(reader, key, other)

    def _known(self, reader: WorkspaceReader, key: str) -> Run | None:
        known = self.engine.state.identity(reader.role, "run", key)
        try:
            return reader.get_run(known.actual if known is not None else key)
        except MlflowException as error:
            if not is_missing(error):
                raise
        return None

    def _searched(self, reader: WorkspaceReader, key: str, other: Run | None) -> Run | None:
        number = self.readers.index(reader)
        if other is None:
            places = [e for pair in self.experiments() if (e := pair.at(number)) is not None]
            ids = [str(e.experiment_id) for e in places]
        else:
            ids = self._counterpart(str(other.info.experiment_id), number)
        for experiment_id in ids:
            found = reader.ask(partial(reader.side.ids.find_run, [experiment_id], key))
            if found is not None:
                return found
        return None

    def _counterpart(self, theirs: str, number: int) -> list[str]:
        """Return one workspace's own id of an experiment of the other, if it has one."""
        pair = self.pair_of(theirs, 1 - number)
        own = pair.at(number)
        made = self.made(number, pair)
        return [str(own.experiment_id)] if own is not None else [str(made)] if made is not None else []

    def pair_of(self, experiment_id: str, number: int) -> ExperimentPair:
        """Return the pair of experiments by the id that one of the workspaces gives it, in scope or not."""
        for renewed in (False, True):
            if self._all is None or renewed:  # it may have been made just now
                self._all = experiment_pairs(self.first, self.second)
            for pair in self._all:
                if (e := pair.at(number)) is not None and str(e.experiment_id) == experiment_id:
                    return pair
        raise MlflowException(f"experiment {experiment_id} is not listed", RESOURCE_DOES_NOT_EXIST)

    def made(self, number: int, pair: ExperimentPair) -> str | None:
        """Return one workspace's experiment that was made for the other's, and is perhaps not listed yet."""
        other = pair.at(1 - number)
        if other is None:
            return None
        repairs, role = self.engine.state.repairs, self.readers[number].role
        return repairs.made_for(role, other.experiment_id, other.creation_time)

    def _is_meant(self, pair: RunPair) -> bool:
        if pair.first is not None and pair.second is not None:
            return True
        if pair.first is None and f"m-{pair.key}=" in pair.either.data.tags.get(MODELS_TAG, ""):
            return False  # the carrier of a model that was logged without a run
        if pair.either.info.lifecycle_stage == "deleted":
            return False
        if pair.double or self._is_wanted(pair.key, pair.either.info.start_time):
            return True
        self.older[(self.first if pair.first else self.second).role] += 1
        return False

    def _is_wanted(self, key: str, start_time: int) -> bool:
        """Tell whether a run is of the link's own time, or chosen."""
        if self.scope.chosen or self.engine.state.run(key) is not None:
            return True
        return start_time >= self.engine.link_began() * 1000

    def least(self, compared: int, looked_at: int, listed: int, histories: int) -> int:
        """Return the fewest requests with which so much can be known.

        Pages, the files of runs that may have some, the runs that a search does not tell enough of, and the
        histories that had to be read.
        """
        pages = 2 * max(1, -(-compared // PAGE))
        return 2 + pages + 2 * listed + 2 * looked_at + histories


def _names(pair: ExperimentPair) -> Sequence[str]:
    return [pair.name, *(e.name for e in (pair.first, pair.second) if e is not None)]
