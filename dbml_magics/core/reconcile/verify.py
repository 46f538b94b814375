"""Verifying: every difference between two workspaces, and nothing changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from dbml_magics.common.hints import Argument
from dbml_magics.core.parallel import in_parallel, workers
from dbml_magics.core.reconcile.compare import Comparer, model_pairs, name_of, tags_of
from dbml_magics.core.reconcile.experiments import experiment_differences
from dbml_magics.core.reconcile.pace import Pace
from dbml_magics.core.reconcile.pairs import RunPair
from dbml_magics.core.reconcile.readers import Model
from dbml_magics.core.reconcile.registries import Registries, Version
from dbml_magics.core.reconcile.survey import Progress, Scope, Survey
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.results.reconcile import ABSENT, LOST, Difference, VerifyResult


def verify(
    engine: Engine,
    scope: Scope,
    *,
    deep: bool = False,
    progress: Progress | None = None,
    options: Mapping[str, Argument] | None = None,
) -> VerifyResult:
    """Compare the workspaces of a link. Raises BadCommand, RunNotFound, ExperimentNotFound, Unavailable."""
    began = time.monotonic()
    survey = Survey(engine, scope)
    # Of one run the histories are read some at a time, of several the runs are.
    at_once = workers(engine) if scope.run is not None else 1
    comparer = Comparer(*survey.readers, survey.unread, deep=deep, histories_at_once=at_once, by_receipt=True)
    merge_base = engine.state.merge_base
    found: list[Difference] = []

    def compared(pair: RunPair) -> list[Difference]:
        return safely(survey, pair.key, name_of(pair.either), partial(differences, comparer, pair))

    pace = Pace(survey, progress, engine.clock)
    for found_here in in_parallel(workers(engine), compared, survey.pairs()):
        found += found_here
        pace.done()
        pace.tell()
    for key, first, second in models_in_scope(survey):
        either = first or second
        assert either is not None
        found += safely(survey, either.run, either.name, partial(comparer.model, key, first, second))
        if first is not None and second is not None:
            merge_base.note_facts(f"model/{key}", tags_of(first), tags_of(second))
    registries = registries_in_scope(survey)
    dangling: tuple[str, ...] = ()
    if registries is not None:
        dangling = tuple(registries.dangling())
        found += registries.differences(comparer.difference)
        registries.note_alike(merge_base)
    found += experiment_differences(survey, comparer)
    found += survey.troubles
    return VerifyResult(
        workspaces=(survey.first.role, survey.second.role),
        runs_compared=survey.seen,
        differences=tuple(found),
        older=dict(survey.older),
        older_models=dict(registries.older) if registries is not None else {},
        dangling=dangling,
        waiting=tuple(survey.waiting),
        requests=survey.requests,
        least=survey.least(survey.seen, comparer.asked_again, comparer.listed, comparer.histories),
        seconds=time.monotonic() - began,
        deep=deep,
        scope=options or {},
    )


def differences(comparer: Comparer, pair: RunPair) -> list[Difference]:
    """Return the differences between the two forms of a run, or that one is missing."""
    if pair.first is not None and pair.second is not None:
        ours = comparer.first.is_still(pair.key, pair.first)
        theirs = comparer.second.is_still(pair.key, pair.second)
        if ours and theirs:
            return comparer.run(pair.key, pair.first, pair.second, whole=pair.whole)
        states = [
            run.info.status if same else f"another run, {name_of(run)!r}"
            for run, same in ((pair.first, ours), (pair.second, theirs))
        ]
        return [comparer.difference(pair.key, name_of(pair.first), LOST, "run", *states)]
    if pair.either.info.lifecycle_stage == "deleted":
        return []  # gone where it was, and not anywhere else
    status = f"{pair.either.info.status}, twice" if pair.double else pair.either.info.status
    values = (status, ABSENT) if pair.first is not None else (ABSENT, status)
    lacking = comparer.first if pair.first is None else comparer.second
    if not pair.double and lacking.had(pair.key):
        return [comparer.difference(pair.key, name_of(pair.either), LOST, "run", *values)]
    kind = "copy" if pair.double else "run"
    return [comparer.difference(pair.key, name_of(pair.either), kind, "", *values)]


def safely(survey: Survey, run: str, name: str, work: Callable[[], Iterable[Difference]]) -> list[Difference]:
    """Return what differs in one thing, or that it cannot be compared.

    Raises Unavailable where a workspace is.
    """
    try:
        return list(work())
    except Exception as error:
        return [survey.unread(run, name, error)]


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
        try:
            found = list(model_pairs(ours, theirs, meant))
        except Exception as error:
            survey.troubles.append(survey.unread("", pair.name, error, "logged models"))
            continue
        for key, *models in found:
            first, second = (
                reader.known_as(key, model) if model is not None else None
                for reader, model in zip(survey.readers, models, strict=True)
            )
            yield key, first, second


def registries_in_scope(survey: Survey) -> Registries | None:
    """Return the models and versions whose runs are in scope, where the link has two registries."""
    if len(survey.engine.link.registries) < 2:
        return None
    scope = survey.scope

    def meant(version: Version) -> bool:
        if version.run in survey.keys and (scope.chosen or version.is_ours):
            return True
        # Versions of no run, and of runs from before the link, are meant when everything is.
        return scope.everything or (not scope.chosen and not version.run and version.key != "")

    try:
        return Registries(
            survey.first,
            survey.second,
            meant,
            survey.unread,
            chosen=scope.chosen,
            everything=scope.everything,
        )
    except Exception as error:  # of the listing itself: everything but the registries can be compared
        trouble = survey.unread("", "registries", error, "registered models")
        if trouble not in survey.troubles:
            survey.troubles.append(trouble)
        return None
