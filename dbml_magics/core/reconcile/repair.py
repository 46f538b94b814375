"""Repairing: one workspace made like the other, run by run, by adding and correcting.

Whatever is done is found out anew from both workspaces: interrupted at any moment and begun again it ends the
same, and a second time there is nothing to do.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from dbml_magics.common.hints import Remedy
from dbml_magics.core.parallel import in_parallel, workers
from dbml_magics.core.reconcile.experiment_repairer import ExperimentRepairer
from dbml_magics.core.reconcile.fixes import Outcomes, unread
from dbml_magics.core.reconcile.pace import Pace
from dbml_magics.core.reconcile.registry_repairer import RegistryRepairer
from dbml_magics.core.reconcile.repairer import Repairer
from dbml_magics.core.reconcile.survey import Progress, Scope, Survey
from dbml_magics.core.reconcile.verify import registries_in_scope
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.errors import BadCommand
from dbml_magics.results.reconcile import LOST, Difference, Repaired, RepairResult
from dbml_magics.results.text import count


def repair(
    engine: Engine,
    scope: Scope,
    *,
    source: str | None = None,
    prune: bool = False,
    deep: bool = False,
    progress: Progress | None = None,
) -> RepairResult:
    """Make one workspace like the other. Raises BadCommand, RunNotFound, ExperimentNotFound, Unavailable."""
    began = time.monotonic()
    with _alone(engine):
        survey = Survey(engine, scope)
        repairer = Repairer(survey, source, prune=prune, deep=deep)
        repaired: list[Repaired] = []
        remaining: list[Repaired] = []
        copied = 0
        pace = Pace(survey, progress, engine.clock)
        for outcomes in _all(repairer, pace):
            for difference, (good, done) in outcomes:
                (repaired if good else remaining).append(Repaired(difference, done))
                copied += good and difference.kind in ("run", LOST)
            pace.tell(f"{count(len(repaired), 'difference')} repaired")
        return RepairResult(
            workspaces=(repairer.source.role, repairer.target.role),
            runs_compared=survey.seen,
            repaired=tuple(repaired),
            remaining=tuple(remaining),
            copied=copied,
            waiting=tuple(survey.waiting),
            requests=survey.requests,
            seconds=time.monotonic() - began,
        )


def deletions(
    engine: Engine, scope: Scope, *, source: str | None = None, deep: bool = False
) -> tuple[str, list[Difference]]:
    """Return the workspace that pruning would delete in, and what: each fix says it of itself."""
    repairer = Repairer(Survey(engine, scope), source, prune=False, deep=deep, dry_run=True)
    pace = Pace(repairer.survey, None, engine.clock)
    found = (each for outcomes in _all(repairer, pace) for each in outcomes)
    going = [difference for difference, outcome in found if outcome.good]
    return repairer.target.role, going


def _all(repairer: Repairer, pace: Pace) -> Iterator[Outcomes]:
    """Yield what became of each run's differences, then of the models', versions' and experiments'."""
    for outcomes in in_parallel(workers(repairer.engine), repairer.pair, repairer.survey.pairs()):
        pace.done()
        yield outcomes
    yield from repairer.copier.models()
    yield from RegistryRepairer(repairer, partial(registries_in_scope, repairer.survey)).all()
    if not repairer.dry_run:
        repairer.copier.experiments.delete_restored()
    yield from ExperimentRepairer(repairer).all()
    yield from map(unread, repairer.survey.troubles)


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """Let one process at a time repair a link: two would each copy the same run."""
    path = engine.link.home / "repair.lock"
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadCommand(
                "another process repairs this link just now.",
                remedies=[(Remedy("sync", verify=True), "shows what differs, and may run beside it")],
            ) from error
        yield
    finally:
        os.close(fd)
