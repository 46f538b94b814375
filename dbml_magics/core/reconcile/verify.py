"""Verifying: every difference between two workspaces, and nothing changed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from dbml_magics.core.reconcile.agreed import Agreed
from dbml_magics.core.reconcile.compare import Comparer, model_pairs, name_of, tags_of
from dbml_magics.core.reconcile.experiments import experiment_differences
from dbml_magics.core.reconcile.pairs import RunPair
from dbml_magics.core.reconcile.registries import Registries, Version
from dbml_magics.core.reconcile.sides import Model
from dbml_magics.core.reconcile.survey import Progress, Scope, Survey
from dbml_magics.core.tracking.engine import Engine
from dbml_magics.differences import ABSENT, Difference, VerifyResult

_WORKERS = 4
T = TypeVar("T")
A = TypeVar("A")


def verify(
    engine: Engine, scope: Scope, *, deep: bool = False, progress: Progress | None = None, options: str = ""
) -> VerifyResult:
    """Compare the workspaces of a link. Raises BadCommand, RunNotFound, ExperimentNotFound, Away."""
    began = time.monotonic()
    survey = Survey(engine, scope)
    comparer, agreed = Comparer(*survey.sides, deep=deep), Agreed(engine.state)
    found: list[Difference] = []
    differing = 0
    for told in in_parallel(workers(engine), lambda pair: differences(comparer, pair), survey.pairs()):
        found += told
        differing += bool(told)
        if progress is not None:
            progress(survey.seen, "compared")
    for key, first, second in models_in_scope(survey):
        found += comparer.model(key, first, second)
        if first is not None and second is not None:
            agreed.note_facts(f"model/{key}", tags_of(first), tags_of(second))
    registries = registries_in_scope(survey)
    if registries is not None:
        found += registries.differences(comparer.difference)
        registries.note_agreed(agreed)
    found += experiment_differences(survey, comparer)
    return VerifyResult(
        workspaces=(survey.first.role, survey.second.role),
        runs_compared=survey.seen,
        differences=tuple(found),
        older=dict(survey.older),
        waiting=tuple(survey.waiting),
        requests=survey.requests,
        least=survey.least(survey.seen, differing, comparer.files, comparer.histories),
        seconds=time.monotonic() - began,
        deep=deep,
        scope=options,
    )


def workers(engine: Engine) -> int:
    """Return how many runs are looked at at a time: a database file takes one writer at a time anyway."""
    return 1 if any(engine.workspaces[role].spec.local for role in engine.link.tracked) else _WORKERS


def in_parallel(workers: int, work: Callable[[A], T], items: Iterable[A]) -> Iterator[T]:
    """Yield ``work`` of each item in order, some at a time, holding no more than those in memory."""
    if workers == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="dbml-compare") as pool:
        pending: deque[Future[T]] = deque()
        try:
            for item in items:
                # What is asked in the pool yields to live runs, too: a thread has no context of its own.
                pending.append(pool.submit(copy_context().run, work, item))
                if len(pending) >= 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def differences(comparer: Comparer, pair: RunPair) -> list[Difference]:
    """Return what differs between the two forms of a run, or that one is not there."""
    if pair.first is not None and pair.second is not None:
        return comparer.run(pair.key, pair.first, pair.second)
    if pair.either.info.lifecycle_stage == "deleted":
        return []  # gone where it was, and not anywhere else
    kind = "copy" if pair.double else "run"
    told: Any = f"{pair.either.info.status}, twice" if pair.double else pair.either.info.status
    values = (told, ABSENT) if pair.first is not None else (ABSENT, told)
    return [comparer.difference(pair.key, name_of(pair.either), kind, "", *values)]


def models_in_scope(survey: Survey) -> Iterator[tuple[str, Model | None, Model | None]]:
    """Yield the pairs of logged models whose runs are in scope."""
    engine, scope = survey.engine, survey.scope
    behind = set(survey.waiting)

    def meant(model: Model) -> bool:
        if model.run in behind:
            return False
        known = scope.run is None and (scope.chosen or engine.state.model(model.key) is not None)
        return known or model.run in survey.keys

    for pair in survey.experiments():
        ours = survey.first.models([str(pair.first.experiment_id)] if pair.first else [])
        theirs = survey.second.models([str(pair.second.experiment_id)] if pair.second else [])
        for key, *models in model_pairs(ours, theirs, meant):
            first, second = (
                side.known_as(key, model) if model is not None else None
                for side, model in zip(survey.sides, models, strict=True)
            )
            yield key, first, second


def registries_in_scope(survey: Survey) -> Registries | None:
    """Return the models and versions whose runs are in scope, where the link has two registries."""
    if len(survey.engine.link.registries) < 2:
        return None
    scope = survey.scope

    def meant(version: Version) -> bool:
        if version.run in survey.keys:
            return True
        # Versions of no run, and of runs from before the link, are meant when everything is.
        return scope.everything or (not scope.chosen and not version.run and version.key != "")

    return Registries(survey.first, survey.second, meant)
