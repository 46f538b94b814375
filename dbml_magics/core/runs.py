"""Experiments and runs of a link, by the names and ids that the user knows."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage, Run, ViewType
from mlflow.exceptions import MlflowException

from dbml_magics.common.hints import Remedy, Template, amended, corrected, instead, say
from dbml_magics.core import mlflow_private
from dbml_magics.core.destinations.errors import EndlessListing, Unavailable
from dbml_magics.core.destinations.naming import check_experiment_name
from dbml_magics.core.destinations.rest import call_timeout
from dbml_magics.core.model.queues import LINK_QUEUE
from dbml_magics.core.pages import PagesOfLink
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.errors import (
    AmbiguousRun,
    BadCommand,
    DbmlError,
    ExperimentNotFound,
    RunNotFound,
    WorkspaceUnreachable,
)
from dbml_magics.results.link import ExperimentResult
from dbml_magics.results.runs import RunRow, RunsResult
from dbml_magics.results.text import when

LAST = "last"
_WORD_S = 5.0
_ID_LENGTH = 32  # at least: an id of MLflow's, or of a job at Azure ML


def client(engine: Engine) -> MlflowClient:
    """Return a client of the link, whatever MLflow's global URIs are."""
    return MlflowClient(tracking_uri=engine.link.uri, registry_uri=engine.link.uri)


@contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Keep MLflow from announcing what our own results say."""
    logger = logging.getLogger("mlflow.tracking.fluent")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def set_experiment(engine: Engine, name: str) -> ExperimentResult:
    """Set the experiment that runs go to. Raises BadName."""
    name = check_experiment_name(name)
    try:
        known = client(engine).get_experiment_by_name(name)
        refuse_deleted(known)
        with quiet_mlflow():  # the result says whether it is new
            found = mlflow.set_experiment(name)
        engine.state.experiments.note_active(str(found.experiment_id))
        _accept(engine, name)
        names = {role: _name_there(engine, role, name) for role in engine.link.tracked}
    except MlflowException as error:
        raise as_error(engine, error, f"experiment {name!r}") from error
    return ExperimentResult(
        name=found.name,
        experiment_id=found.experiment_id,
        names=names,
        created=known is None,
        links=PagesOfLink(engine).of_experiment(str(found.experiment_id)),
    )


def _accept(engine: Engine, name: str) -> None:
    """Take what is called so at a workspace that lost the user's experiment for the user's own: it was named.

    The workspace is asked even where it was away a moment ago.
    """
    visible = engine.state.experiments.named(name) or ""
    for role in engine.link.tracked:
        side = engine.side(role)
        if side.experiments.lost(visible) is not None:
            with suppress(MlflowException, OSError), call_timeout(_WORD_S):
                _, there = side.experiments.find(name)
                if there is not None:
                    side.experiments.accept(there, name)


def _name_there(engine: Engine, role: str, name: str) -> str:
    side = engine.side(role)
    if not side.destination.capabilities.names_experiments_itself:
        try:
            return str(engine.health[role].ask(lambda: side.destination.experiment_name(name)))
        except Unavailable:
            return name
    if not engine.health[role].away:
        engine.waiting.wait(
            role, [LINK_QUEUE], 2.0
        )  # an experiment of that last part may be on its way there
    try:
        return str(engine.health[role].ask(lambda: side.experiments.find(name))[0])
    except Unavailable:
        return side.destination.experiment_name(name)


def as_error(engine: Engine, error: MlflowException, what: str) -> DbmlError:
    """Return MLflow's exception as two or three lines."""
    if isinstance(error, EndlessListing):
        return WorkspaceUnreachable(
            f"{what} cannot be done: of a workspace, {error.reason}.",
            remedies=[(Remedy("doctor"), "looks at what lies between here and the workspaces")],
        )
    if isinstance(error, Unavailable):
        away = next((r for r in engine.link.used if engine.health[r].away), engine.link.primary)
        return WorkspaceUnreachable(
            f"{what} cannot be asked: the {away} workspace is {error.reason}.",
            remedies=[(Remedy("status"), "shows since when, and what waits")],
        )
    return BadCommand(
        f"{what}: {' '.join(str(error.message).split())}",
        remedies=[(Remedy("status"), "where tracking goes, and how far delivery is")],
    )


def refuse_deleted(experiment: Experiment | None) -> None:
    """Raise ExperimentNotFound for an experiment that is deleted: its name stays taken."""
    if experiment is None or experiment.lifecycle_stage != LifecycleStage.DELETED:
        return
    restore = f'mlflow.MlflowClient().restore_experiment("{experiment.experiment_id}")'
    raise ExperimentNotFound(
        f"experiment {experiment.name!r} is deleted, and keeps its name until it is restored.",
        remedies=[(restore, "brings it back with its runs"), (Remedy("experiment", "NAME"), "another one")],
    )


def active_experiment(engine: Engine) -> tuple[str, str]:
    """Return (id, name) of the experiment that runs go to now."""
    experiment_id = mlflow_private.experiment_id_of_runs()
    known = engine.state.experiments.name(experiment_id)
    return experiment_id, known or client(engine).get_experiment(experiment_id).name


def find_experiment(engine: Engine, name: str) -> tuple[str, str]:
    """Return (id, name) of an experiment given by name or id. Raises ExperimentNotFound."""
    found = client(engine).get_experiment_by_name(name)
    if found is None and name.isdigit():
        try:
            found = client(engine).get_experiment(name)
        except MlflowException:
            found = None
    if found is None:
        known = [e.name for e in client(engine).search_experiments(max_results=200)]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ExperimentNotFound(
            f"no experiment {name!r} in {' or '.join(engine.link.tracked)}.{hint}",
            remedies=[instead(name, near[0], Remedy("runs", experiment=near[0]))]
            if near
            else [(Remedy("experiment", "NAME"), "makes one")],
        )
    refuse_deleted(found)
    return str(found.experiment_id), str(found.name)


_FILTER = "metrics.loss < 0.5 and params.depth = '3'"
_ORDER = "metrics.loss ASC"
_COUNTED = 200  # runs of an experiment of which none fits a filter


def _other_searches(where: str, order_by: Sequence[str]) -> list[tuple[str, str]]:
    """Return the line with searches that a workspace takes in the place of what it may have refused."""
    by_filter = (
        amended("runs", filter=_FILTER),
        "params are text, metrics numbers",
    )
    by_order = (amended("runs", order_by=_ORDER), "ASC or DESC behind a column")
    by_amount = (amended("runs", max=20), "a smaller list")
    found: list[tuple[str, str]] = [*([by_filter] if where else []), *([by_order] if order_by else [])]
    return found or [by_amount]


def _on_their_way(missing: int) -> str:
    if missing == 1:
        return "1 write is on its way and missing here"
    return f"{missing:,} writes are on their way and missing here"


def list_runs(
    engine: Engine, experiment: str | None, where: str, order_by: Sequence[str], max_results: int
) -> RunsResult:
    """List an experiment's runs."""
    amount = None
    try:
        experiment_id, name = (
            active_experiment(engine) if experiment is None else find_experiment(engine, experiment)
        )
        page = client(engine).search_runs(
            [experiment_id], where, ViewType.ACTIVE_ONLY, max_results, list(order_by) or None
        )
        if where and not page:
            amount = len(client(engine).search_runs([experiment_id], "", ViewType.ACTIVE_ONLY, _COUNTED))
    except MlflowException as error:
        if isinstance(error, Unavailable):
            raise as_error(engine, error, "the list of runs") from error
        raise BadCommand(
            f"the workspace refused the search: {' '.join(str(error.message).split())}",
            remedies=_other_searches(where, order_by),
        ) from error
    pages = PagesOfLink(engine)
    missing, _ = engine.backlog.waiting(engine.waiting.answering() or engine.link.primary)
    note = f"{_on_their_way(missing)}; {say(Remedy('sync'))} waits for delivery" if missing else ""
    return RunsResult(
        rows=tuple(row(engine, r, name, pages) for r in page),
        experiment=name,
        note=note,
        filter=where,
        amount=amount,
        more=amount == _COUNTED,
        unfiltered=corrected(Remedy("runs", experiment=experiment), filter=None),
        links=pages.of_experiment(experiment_id),
    )


def row(engine: Engine, run: Run, experiment: str, pages: PagesOfLink) -> RunRow:
    """Return a run as a row."""
    waiting = {}
    for role in engine.link.tracked:
        cursors = {f: o for f, (o, _) in engine.state.cursors(role, run.info.run_id).items()}
        left, _ = engine.journal.count_waiting(run.info.run_id, cursors)
        if left:
            waiting[role] = left
    return RunRow(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        experiment=experiment,
        status=run.info.status,
        start_time=run.info.start_time,
        end_time=run.info.end_time,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags={k: v for k, v in run.data.tags.items() if not k.startswith(("mlflow.", "dbml_"))},
        undelivered=waiting,
        links=pages.of_run(run.info.run_id, str(run.info.experiment_id)),
        curves=_curves(engine, run.info.run_id),
    )


def _curves(engine: Engine, run_id: str) -> dict[str, tuple[float, ...]]:
    """Return the small curves of a run's metrics that this machine knows; nobody is asked."""
    live = engine.live.queues.get(run_id)
    view = None if live is None else live.view.run
    known = (engine.state.run(run_id) or {}).get("curves", {}) if view is None else view.curves()
    return {key: tuple(values) for key, values in known.items()}


def _register(run: str) -> Remedy:
    return Remedy("register", run, "NAME")


def resolve(engine: Engine, given: str, last: str | None, command: Template = _register) -> str:
    """Return the id of the run that an id, the beginning of one, a name or ``last`` means.

    A whole id goes first. A name and the beginning of an id count alike: where they mean different runs, no
    run is chosen. Raises RunNotFound, AmbiguousRun. ``command`` makes the command that errors show, of a run.
    """
    if given == LAST:
        return _last(engine, last)
    if not given:
        raise RunNotFound(
            "which run? An id, the beginning of one, a name, or last.",
            remedies=[(Remedy("runs"), "lists the runs with their ids")],
        )
    known = {run: _Known(str(f.get("name", "")), f.get("start")) for run, f in engine.state.recent_runs(2000)}
    if given in known:
        return given
    try:
        return _by_prefix_or_name(engine, given, known, command)
    except MlflowException as error:
        if isinstance(error, Unavailable):
            raise as_error(engine, error, f"run {given!r}") from error
        raise _not_found(given, known, command) from error


class _Known(NamedTuple):
    name: str
    start: int | None  # ms


def _last(engine: Engine, last: str | None) -> str:
    newest = _last_of_mlflow(engine)
    if newest is not None or last is not None:
        return newest or str(last)
    for run, info in engine.state.recent_runs(50):
        if info.get("ended"):
            return run
    raise RunNotFound(
        "there is no last run: none has ended in this notebook or through this link.",
        remedies=[
            (Remedy("track"), "on a cell's first line makes the cell a run"),
            (Remedy("runs"), "lists what is there"),
        ],
    )


def _last_of_mlflow(engine: Engine) -> str | None:
    """Return the run that MLflow ended last in this process, if it finished and is the link's."""
    try:
        found = mlflow.last_active_run()
        run = client(engine).get_run(found.info.run_id) if found is not None else None
    except MlflowException:
        return None
    return str(run.info.run_id) if run is not None and run.info.status == "FINISHED" else None


def _by_prefix_or_name(engine: Engine, given: str, known: dict[str, _Known], command: Template) -> str:
    found = _meant(given, known)
    if not found and len(given) >= _ID_LENGTH:
        try:
            return str(client(engine).get_run(given).info.run_id)
        except MlflowException as error:
            if isinstance(error, Unavailable):
                raise
    if not found:
        # Runs that this machine has not made: those of the active experiment.
        experiment_id, _ = active_experiment(engine)
        page = client(engine).search_runs([experiment_id], max_results=1000)
        known.update({r.info.run_id: _Known(r.info.run_name or "", r.info.start_time) for r in page})
        found = _meant(given, known)
    if not found:
        raise _not_found(given, known, command)
    if len(found) > 1:
        raise _ambiguous(given, found, command)
    return found[0][0]


def _meant(given: str, known: Mapping[str, _Known]) -> list[tuple[str, _Known]]:
    """Return the runs whose id begins so, and those of that name."""
    return [(run, each) for run, each in known.items() if run.startswith(given) or each.name == given]


def _ambiguous(given: str, found: Sequence[tuple[str, _Known]], command: Template) -> AmbiguousRun:
    begins = sum(run.startswith(given) for run, _ in found)
    named = sum(each.name == given for _, each in found)
    said = [f"begins the ids of {begins:,} runs"] if begins > 1 else ["begins a run's id"] if begins else []
    said += [f"is the name of {named:,} runs"] if named > 1 else ["is a run's name"] if named else []
    remedies = []
    for run, each in found[:4]:
        short = next(
            run[:n] for n in (8, 12, 16, len(run)) if sum(r.startswith(run[:n]) for r, _ in found) < 2
        )
        began = "" if each.start is None else f", started {when(each.start)}"
        remedies.append((instead(given, short, command(short)), f"run {each.name}{began}"))
    return AmbiguousRun(f"{given!r} {' and '.join(said)}.", remedies=remedies)


def _not_found(given: str, known: Mapping[str, _Known], command: Template) -> RunNotFound:
    names = {each.name: run for run, each in reversed([*known.items()]) if each.name}
    near: list[str] = difflib.get_close_matches(given, [*names, *known], n=2, cutoff=0.6)
    remedies: list[tuple[str, str]] = []
    for run in dict.fromkeys(names.get(each, each) for each in near):
        remedies.append((instead(given, run[:8], command(run[:8])), f"run {known[run].name}"))
    return RunNotFound(
        f"no run has the name {given!r}, or an id that begins so.",
        remedies=[*remedies, (Remedy("runs"), "lists the runs with their ids")],
    )
