"""Verifying and repairing as the session offers them: options read, delivery waited for, errors in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from mlflow.exceptions import MlflowException

from dbml_magics.common.foreign_text import one_line
from dbml_magics.common.hints import Argument, Remedy, corrected
from dbml_magics.core import runs
from dbml_magics.core.destinations.rates import backfill
from dbml_magics.core.reconcile import repair as repairing
from dbml_magics.core.reconcile import verify as verifying
from dbml_magics.core.reconcile.survey import Scope
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.errors import BadCommand, NotConfirmed
from dbml_magics.results.reconcile import Difference, RepairResult, VerifyResult
from dbml_magics.results.text import count

_WAIT_S = 30.0
_SHOWN = 100  # deletions that are named one by one
_AGO = re.compile(r"(\d{1,5})\s*([hdw])", re.I)
_HOURS = {"h": 1, "d": 24, "w": 168}
Progress = Callable[[int, str], None] | None


def moment(written: str | int | datetime | None) -> int | None:
    """Return a point in time as milliseconds since the epoch. Raises BadCommand.

    Without a zone it is the reader's own time: ``2026-11-01``, ``2026-11-01T08:30``, ``7d``, ``12h``.
    """
    if written is None or isinstance(written, int):
        return written
    if isinstance(written, datetime):
        return int(written.timestamp() * 1000)
    ago = _AGO.fullmatch(written.strip())
    if ago:
        hours = int(ago.group(1)) * _HOURS[ago.group(2).lower()]
        return int((datetime.now() - timedelta(hours=hours)).timestamp() * 1000)
    try:
        return int(datetime.fromisoformat(written.strip()).timestamp() * 1000)
    except ValueError:
        raise BadCommand(
            f"--since wants a date or how long ago, not {written!r}.",
            remedies=[
                corrected(Remedy("sync", verify=True, since="2026-11-01"), since="2026-11-01"),
                corrected(Remedy("sync", verify=True, since="7d"), since="7d"),
            ],
        ) from None


def verify(
    engine: Engine,
    experiment: str | None,
    run: str | None,
    everything: bool,
    since: str | int | datetime | None,
    last: str | None,
    *,
    deep: bool,
    timeout: float | None,
    progress: Progress,
) -> VerifyResult:
    """Compare the workspaces once pending writes are delivered."""
    scope = _scope(engine, experiment, run, everything, since, last, Remedy("sync", verify=True))
    with _in_words(engine), backfill():
        _let_arrive(engine, timeout)
        options = _options(experiment, run, everything, since)
        return verifying.verify(engine, scope, deep=deep, progress=progress, options=options)


def repair(
    engine: Engine,
    experiment: str | None,
    run: str | None,
    everything: bool,
    since: str | int | datetime | None,
    last: str | None,
    *,
    source: str | None,
    prune: bool,
    confirm: bool,
    deep: bool,
    timeout: float | None,
    progress: Progress,
) -> RepairResult:
    """Repair one workspace from the other once pending writes are delivered."""
    scope = _scope(engine, experiment, run, everything, since, last, Remedy("sync", repair=True))
    if source is not None and source not in engine.link.tracked:
        raise BadCommand(
            f"--from takes one of the link's workspaces, {' or '.join(engine.link.tracked)}, not {source!r}.",
            remedies=[
                corrected(Remedy("sync", repair=True, from_=role), from_=role) for role in engine.link.tracked
            ],
        )
    with _in_words(engine), backfill():
        _let_arrive(engine, timeout)
        if prune and not confirm:
            command = Remedy("sync", repair=True, **_options(experiment, run, everything, since))
            prune = _refuse_unconfirmed(engine, scope, source, deep, command)
        return repairing.repair(engine, scope, source=source, prune=prune, deep=deep, progress=progress)


def _refuse_unconfirmed(engine: Engine, scope: Scope, source: str | None, deep: bool, repair: Remedy) -> bool:
    """Return False where there is nothing to delete: that needs no confirming. Raises NotConfirmed."""
    target, going = repairing.deletions(engine, scope, source=source, deep=deep)
    if not going:
        return False
    lines = [one_line(f"  {each}") for each in map(_named, going)]
    shown = lines[:_SHOWN]
    if len(lines) > _SHOWN:
        kinds = Counter(d.kind for d in going[_SHOWN:])
        shown.append("  and " + ", ".join(count(n, kind) for kind, n in kinds.items()) + " more")
    repair = repair.but(from_=source or None, deep=deep)
    raise NotConfirmed(
        "\n".join([f"--prune deletes in {target}, and only this:", *shown]),
        remedies=[
            (corrected(repair.but(prune=True, confirm=True), prune=True, confirm=True), "deletes it"),
            (corrected(repair, prune=None), "repairs the rest"),
        ],
    )


def _named(going: Difference) -> str:
    """Return what goes in words: what it is, and whose."""
    whose = going.name or going.run[:8]
    if going.kind in ("run", "copy") or going.key == "stage" or going.kind == "stage":
        what = "experiment" if going.kind == "experiment" else "run"
        return f"{what} {whose}" + (f" ({going.run[:8]})" if going.run and going.name else "")
    return f"{going.what} of {whose}"


def _scope(
    engine: Engine,
    experiment: str | None,
    run: str | None,
    everything: bool,
    since: str | int | datetime | None,
    last: str | None,
    command: Remedy,
) -> Scope:
    if sum((experiment is not None, run is not None, everything)) > 1:
        raise BadCommand(
            "--experiment, --run and --all each choose the runs; give one of them.",
            remedies=[corrected(command.but(all=True), experiment=None, run=None, all=True)],
        )
    if run is not None:
        run = runs.resolve(engine, run, last, lambda found: command.but(run=found))
    return Scope(experiment, run, everything, moment(since))


def _options(
    experiment: str | None, run: str | None, everything: bool, since: str | int | datetime | None
) -> dict[str, Argument]:
    moment = None if since is None else str(since)
    return {"experiment": experiment or None, "run": run or None, "all": everything, "since": moment}


def _let_arrive(engine: Engine, timeout: float | None) -> None:
    answering = [role for role in engine.link.used if not engine.health[role].away]
    engine.waiting.wait_for_everything(answering, _WAIT_S if timeout is None else timeout)


@contextmanager
def _in_words(engine: Engine) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise runs.as_error(engine, error, "comparing the workspaces") from error
