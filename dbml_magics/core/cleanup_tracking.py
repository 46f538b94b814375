"""Cleaning up runs, experiments and registered models: at each workspace of the link, by its own ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import mlflow
from mlflow.entities import Experiment, LifecycleStage, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList

from dbml_magics.common.hints import Remedy, say
from dbml_magics.core import mlflow_private, runs
from dbml_magics.core.cleanup_plan import Plan, Step
from dbml_magics.core.destinations.errors import Unavailable, is_missing
from dbml_magics.core.destinations.naming import workspace_path
from dbml_magics.core.paging import entries
from dbml_magics.core.reconcile.pairs import experiment_pairs
from dbml_magics.core.reconcile.readers import WorkspaceReader
from dbml_magics.errors import BadCommand, ExperimentNotFound, ModelNotFound, RunActive, WorkspaceUnreachable
from dbml_magics.results.cleanup import CleanupItem
from dbml_magics.results.text import count, nearby

if TYPE_CHECKING:
    from dbml_magics.core.runtime.engine import Engine
    from dbml_magics.core.session import Session

__all__ = ["plan"]

_WAIT_S = 15.0  # for what is on its way to what is deleted
_PARENT = "mlflow.parentRunId"


def plan(session: Session, engine: Engine, kind: str, name: str) -> Plan:
    """Return what deleting a run, an experiment or a registered model takes.

    Raises RunNotFound, ExperimentNotFound, ModelNotFound, RunActive, WorkspaceUnreachable.
    """
    try:
        if kind == "model":
            return _model(engine, name)
        return _run(session, engine, name) if kind == "run" else _experiment(engine, name)
    except Unavailable as error:
        raise WorkspaceUnreachable(
            f"{kind} {name} cannot be looked at, a workspace is {error.reason}: nothing is deleted.",
            remedies=[(Remedy("status"), "shows which one, and since when")],
        ) from error
    except MlflowException as error:
        raise BadCommand(
            f"{kind} {name}: {' '.join(str(error.message).split())}", remedies=[(Remedy("status"), "")]
        ) from error


# --- runs


def _run(session: Session, engine: Engine, given: str) -> Plan:
    run_id = runs.resolve(engine, given, session.last_run, lambda run: Remedy("cleanup", "run", run))
    _refuse_live([run_id])
    _let_arrive(engine, [run_id])
    steps: list[Step] = []
    kept: list[CleanupItem] = []
    stays: list[str] = []
    notes = _restored("runs")
    name = ""
    for role in engine.link.tracked:
        reader = WorkspaceReader(engine, role)
        found = _find(reader, run_id)
        if found is None:
            continue
        label = _label(found, run_id)
        name = name or str(found.info.run_name or "")
        if found.info.lifecycle_stage == LifecycleStage.DELETED:
            kept.append(CleanupItem(role, "run", label, "gone already"))
        else:
            steps.append(Step(CleanupItem(role, "run", label), _deleter(reader, found.info.run_id)))
        _files_stay(engine, role, str(found.info.artifact_uri), stays, notes)
        nested = [
            run.info.run_name or run.info.run_id[:8]
            for run in reader.runs([found.info.experiment_id])
            if run.data.tags.get(_PARENT) == found.info.run_id
            and run.info.lifecycle_stage == LifecycleStage.ACTIVE
        ]
        kept += [CleanupItem(role, "nested run", each, "stays", "it is a run of its own") for each in nested]
    # Whoever typed "last", or the beginning of an id, has yet to say which run it is that goes.
    return Plan("run", name or run_id[:8], steps, kept, stays, notes, id=run_id)


def _find(reader: WorkspaceReader, run_id: str) -> Run | None:
    known = reader.engine.state.identity(reader.role, "run", run_id)
    own = known.actual if known is not None else run_id
    try:
        found: Run = reader.ask(lambda: reader.workspace.get_run(own))
    except MlflowException as error:
        if is_missing(error):
            return None
        raise
    return found


def _label(run: Run, run_id: str) -> str:
    return f"{run.info.run_name or ''} {run_id[:8]}".strip()


def _deleter(reader: WorkspaceReader, own: str) -> Callable[[], None]:
    def delete() -> None:
        reader.ask(lambda: reader.workspace.delete_run(own))

    return delete


def _refuse_live(run_ids: list[str]) -> None:
    active = mlflow.active_run()
    if active is not None and active.info.run_id in run_ids:
        raise RunActive(
            f"run {active.info.run_name} is active in this notebook.",
            remedies=[("mlflow.end_run()", "then clean up again")],
        )


def _let_arrive(engine: Engine, queues: list[str]) -> None:
    """Wait for what is on its way to runs that go: it would be refused afterwards."""
    missing = engine.waiting.wait_at(dict.fromkeys(engine.link.tracked, queues), _WAIT_S)
    if missing:
        raise WorkspaceUnreachable(
            f"writes of what is to go are still on their way to {' and '.join(missing)}, "
            "and would be refused there.",
            remedies=[(Remedy("sync"), "waits for them"), (Remedy("status"), "why they wait")],
        )


def _files_stay(engine: Engine, role: str, location: str, stays: list[str], notes: list[str]) -> None:
    """Say what becomes of deleted runs' files, as each service documents it, billed or not."""
    from dbml_magics.core.workspace_uri import masked

    workspace, where = engine.workspaces[role], masked(location)
    if workspace.kind == "databricks":
        stays.append(f"{role}: runs and files for 30 days more, then Databricks removes them")
    elif workspace.kind == "azureml":
        storage = "the workspace's storage account"
        stays.append(f"{role}: files, in {storage}, until they are deleted there")
    elif workspace.spec.local:
        where = nearby(where.replace("file://", ""))
        notes.append(f"{role}: files stay on this machine, at {where}, until mlflow gc is run")
    else:
        stays.append(f"{role}: files at {where}, until mlflow gc is run at the server")


def _restored(what: str) -> list[str]:
    return [f"deleted {what} can be restored at a workspace until it removes them for good"]


# --- experiments


def _experiment(engine: Engine, name: str) -> Plan:
    readers = [WorkspaceReader(engine, role) for role in engine.link.tracked]
    name = workspace_path(name)
    places = list(_places(engine, readers, name))
    if not places:
        runs.find_experiment(engine, name)  # raises, with what was perhaps meant
        raise ExperimentNotFound(f"no experiment {name!r}.", remedies=[Remedy("runs")])
    steps: list[Step] = []
    kept: list[CleanupItem] = []
    stays: list[str] = []
    notes = [*_restored("experiments"), "models registered from its runs stay"]
    lasts: list[Step] = []
    visible: list[str] = []
    for reader, found in places:
        own = str(found.experiment_id)
        going = [r for r in reader.runs([own]) if r.info.lifecycle_stage == LifecycleStage.ACTIVE]
        for run in going:
            key = reader.key(run)
            visible.append(key)
            steps.append(
                Step(CleanupItem(reader.role, "run", _label(run, key)), _deleter(reader, run.info.run_id))
            )
        if found.lifecycle_stage == LifecycleStage.DELETED:
            kept.append(CleanupItem(reader.role, "experiment", found.name, "gone already"))
        else:
            item = CleanupItem(reader.role, "experiment", found.name)
            lasts.append(Step(item, _experiment_deleter(reader, own), last=True))
        _files_stay(engine, reader.role, str(found.artifact_location), stays, notes)
    if str(places[0][1].experiment_id) == "0":
        raise BadCommand(
            "MLflow's experiment 0, Default, cannot be deleted; its runs can.",
            remedies=[Remedy("cleanup", "run", "RUN")],
        )
    _refuse_live(visible)
    _let_arrive(engine, [key for key in dict.fromkeys(visible) if engine.journal.files(key)])

    def forget() -> list[str]:
        ids = {
            engine.state.visible(s.role, "experiment", str(e.experiment_id)) or str(e.experiment_id)
            for s, e in places
        }
        if mlflow_private.active_experiment_id() in ids:
            mlflow_private.set_active_experiment_id(None)
            engine.state.experiments.forget_active()
            return ["runs go to the experiment Default until another is set"]
        return []

    notes += [f"{count(len(steps), 'run')} of it are deleted one by one"] if len(steps) > 1 else []
    return Plan("experiment", name, [*steps, *lasts], kept, stays, notes, after=forget)


def _places(
    engine: Engine, readers: list[WorkspaceReader], name: str
) -> Iterator[tuple[WorkspaceReader, Experiment]]:
    """Yield each workspace that has the experiment, and what it is there."""
    if len(readers) == 1:
        here = readers[0].side.destination.experiment_name(name)
        for each in readers[0].experiments():
            if each.name in (name, here):
                yield readers[0], each
        return
    for pair in experiment_pairs(readers[0], readers[1]):
        here = engine.workspaces[readers[0].role].experiment_name(name)
        if name not in (pair.name, getattr(pair.first, "name", None)) and here != pair.name:
            continue
        for number, reader in enumerate(readers):
            found = pair.at(number)
            if found is not None:
                yield reader, found


def _experiment_deleter(reader: WorkspaceReader, own: str) -> Callable[[], None]:
    def delete() -> None:
        reader.ask(lambda: reader.workspace.delete_experiment(own))

    return delete


# --- registered models


def _model(engine: Engine, name: str) -> Plan:
    steps: list[Step] = []
    stays: list[str] = []
    notes = [f"endpoints that serve it keep running; {say(Remedy('endpoints'))} lists them"]
    for role in engine.link.registries:
        reader = WorkspaceReader(engine, role)
        if not _has_model(reader, name):
            continue
        for number in _versions(reader, name):
            item = CleanupItem(role, "version", f"{name}/{number}")
            steps.append(Step(item, _version_deleter(reader, name, number)))
        item = CleanupItem(role, "model", name)
        steps.append(Step(item, _model_deleter(reader, name), last=True))
        # Files on this machine cost nobody anything.
        files = f"{role}: the files of the runs that the versions came from"
        if engine.workspaces[role].spec.local:
            notes.append(f"{files} stay on this machine")
        else:
            stays.append(files)
    if not steps:
        from dbml_magics.core import registry

        registry.list_models(engine, name)  # raises, with what was perhaps meant
        raise ModelNotFound(f"no registered model {name!r}.", remedies=[Remedy("models")])
    return Plan("model", name, steps, [], stays, notes)


def _has_model(reader: WorkspaceReader, name: str) -> bool:
    try:
        reader.ask(lambda: reader.workspace.get_registered_model(name))
    except MlflowException as error:
        if is_missing(error):
            return False
        raise
    return True


def _versions(reader: WorkspaceReader, name: str) -> list[str]:
    def page(token: str | None) -> PagedList[ModelVersion]:
        return reader.ask(partial(reader.workspace.search_model_versions, f"name='{name}'", 200, token))

    return [str(version.version) for version in entries(page)]


def _version_deleter(reader: WorkspaceReader, name: str, number: str) -> Callable[[], None]:
    def delete() -> None:
        reader.ask(lambda: reader.workspace.delete_model_version(name, number))

    return delete


def _model_deleter(reader: WorkspaceReader, name: str) -> Callable[[], str | None]:
    """Return what deletes a model without versions: Azure ML has no call for that."""

    def delete() -> str | None:
        try:
            reader.ask(lambda: reader.workspace.delete_registered_model(name))
        except MlflowException as error:
            if error.error_code != "FEATURE_DISABLED":
                raise
            return "without versions: the service cannot delete a whole model"
        return None

    return delete
