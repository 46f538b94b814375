"""Logged models at a service that has none (Azure ML, MLflow 2 servers): kept by us, in what it does have.

The files are artifacts of the model's run, under the model's name, so ``runs:/<run>/<name>`` loads natively.
The ids stand in one short tag of the run, the rest in a small JSON artifact under ``dbml/models/``; each
change writes the next number, since Azure ML's artifacts are write-once.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml
from mlflow.entities import LoggedModel, LoggedModelStatus, Metric, ViewType
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.utils.time import get_current_time_millis
from mlflow.utils.uri import append_to_uri_path

from dbml_magics.core.destinations.errors import MissingEndpoint, WouldRefuse, is_missing
from dbml_magics.core.model.operations import (
    CreateRun,
    DeleteModel,
    DeleteModelTag,
    LogModelParams,
    ModelChange,
    ModelFacts,
    SetModelTags,
    UpdateRun,
)
from dbml_magics.core.outbox.emulated_models import EmulatedFacts, ModelPoint, facts_of
from dbml_magics.core.paging import entries

if TYPE_CHECKING:
    from dbml_magics.core.tracking.apply import Applier

MODELS_TAG = "dbml_models"
FOLDER = "dbml/models"
_TAG_ROOM = 1000  # characters a tag's value may have on Azure ML; what is beyond is found by its artifact
_MORE = "+"
_SINCE = (
    "run_at",
    "path",
    "number",
    "status",
    "metrics",
    "deleted",
)  # what is told of a model and was not then


def create(applier: Applier, told: ModelFacts) -> None:
    """Keep a new logged model at a service that has none."""
    model, kept = told["id"], applier.state.emulated_models
    run = told.get("run") or _carrier(applier, told)
    identity = applier.run_identity(run)
    path = _free_path(applier, run, model, told["name"])
    kept.take_path(applier.role, run, path, model)
    since = {"run_at": identity.actual, "path": path, "status": "PENDING", "updated": told["created"]}
    kept.note(applier.role, model, facts_of({**told, **since}))
    applier.state.set_identity(
        applier.role,
        "model",
        model,
        model,
        artifacts=append_to_uri_path(identity.extra["artifacts"], path),
        run=identity.actual,
        path=path,
    )
    _write_tag(applier, run, identity.actual)
    _write_facts(applier, model)


def _carrier(applier: Applier, told: ModelFacts) -> str:
    """Make a run for a model that was logged without one: the service has no other place for its files."""
    run = told["id"].removeprefix("m-")
    if applier.state.identity(applier.role, "run", run) is None:
        begun = told["created"]
        applier.apply(run, CreateRun(told["experiment"], "", begun, {"mlflow.runName": told["name"]}), True)
        applier.apply(run, UpdateRun("FINISHED", begun), False)
    return str(run)


def _free_path(applier: Applier, run: str, model: str, name: str) -> str:
    taken = applier.state.emulated_models.paths(applier.role, run)
    number, path = 1, name
    while taken.get(path, model) != model:
        number += 1
        path = f"{name}-{number}"
    return path


def is_kept(applier: Applier, model: str) -> bool:
    """Tell whether a model is known to be one that we keep; asks nobody."""
    return applier.state.emulated_models.has(applier.role, model)


def may_keep(applier: Applier) -> bool:
    """Tell whether a workspace may have models that we keep: those that lacked them once; asks nobody."""
    if not applier.has_logged_models or applier.workspace.kind == "azureml":
        return True
    return applier.state.emulated_models.has_any(applier.role)


def note_outputs(applier: Applier, run: str, run_id: str, outputs: dict[str, int]) -> None:
    """Keep which models of the service a run made, where it has them but no call to say so."""
    for model, step in outputs.items():
        applier.state.emulated_models.note_output(applier.role, run, model, step)
    _write_tag(applier, run, run_id)


def _write_tag(applier: Applier, run: str, run_id: str) -> None:
    kept = applier.state.emulated_models
    entries = [f"{model}={path} " for path, model in kept.paths(applier.role, run).items()]
    entries += [f"{model} " for model in kept.outputs(applier.role, run)]
    value = ""
    for entry in entries:
        if len(value) + len(entry) + len(_MORE) > _TAG_ROOM:
            value += _MORE
            break
        value += entry
    applier.set_run_tag(run, run_id, MODELS_TAG, value.strip())


def change(
    applier: Applier,
    model: str,
    *,
    status: str | None = None,
    tags: dict[str, str] | None = None,
    untag: str | None = None,
    params: dict[str, str] | None = None,
    metrics: list[ModelPoint] | None = None,
    deleted: bool | None = None,
) -> None:
    """Change what is kept of a logged model."""
    told = _facts(applier, model)
    told["status"] = status or told["status"]
    told["tags"] = {**(told.get("tags") or {}), **(tags or {})}
    told["tags"].pop(untag or "", None)
    told["params"] = {**(told.get("params") or {}), **(params or {})}
    if metrics:
        latest = {(m["key"], m["dataset"], m["digest"]): m for m in told.get("metrics") or []}
        for m in sorted(metrics, key=lambda m: (m["step"], m["time"])):
            there = latest.get(at := (m["key"], m["dataset"], m["digest"]))
            if there is None or (m["step"], m["time"]) >= (there["step"], there["time"]):
                latest[at] = m
        told["metrics"] = list(latest.values())
    told["deleted"] = told.get("deleted", False) if deleted is None else deleted
    told["updated"] = get_current_time_millis()
    applier.state.emulated_models.note(applier.role, model, told)
    _write_facts(applier, model)


def apply_change(applier: Applier, op: ModelChange) -> None:
    """Apply one write to a model that is kept."""
    match op:
        case SetModelTags():
            if op.tags:
                change(applier, op.model, tags=op.tags)
        case DeleteModelTag():
            change(applier, op.model, untag=op.key)
        case LogModelParams():
            change(applier, op.model, params=op.params)
        case DeleteModel():
            change(applier, op.model, deleted=True)


def note_metrics(applier: Applier, points: list[tuple[Any, ...]]) -> None:
    """Keep the newest points that were logged for kept models: the run's own points do not say for which."""
    of_model: dict[str, list[ModelPoint]] = {}
    for key, value, time, step, (model, dataset, digest) in points:
        point = ModelPoint(key=key, value=value, time=time, step=step, dataset=dataset, digest=digest)
        of_model.setdefault(model, []).append(point)
    for model, metrics in of_model.items():
        applier.model_at(model)
        change(applier, model, metrics=metrics)


def _write_facts(applier: Applier, model: str) -> None:
    told = _facts(applier, model)
    number = told["number"] = told.get("number", 0) + 1
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, f"{number:04d}.json")
        file.write_text(json.dumps(told), encoding="utf-8")
        repository = applier.workspace.artifacts(_run_artifacts(applier, told))
        applier.workspace.upload(repository, file, f"{FOLDER}/{model}")
    applier.state.emulated_models.note(applier.role, model, told)


def _run_artifacts(applier: Applier, told: EmulatedFacts) -> str:
    return str(applier.workspace.get_run(told["run_at"]).info.artifact_uri)


def note_model_file(applier: Applier, owner: str, path: str, text: str) -> None:
    """Write the classic model history tag when a kept model's MLmodel has arrived: older pages read it."""
    kind, _, model = owner.partition(":")
    if kind != "model" or path != "MLmodel" or not applier.keeps(model):
        return
    told = _facts(applier, model)
    try:
        flavour = {**yaml.safe_load(text), "artifact_path": told["path"], "run_id": told["run_at"]}
        applier.workspace.record_logged_model(told["run_at"], Model.from_dict(flavour))
    except MissingEndpoint:  # nobody reads the history there
        return


def _facts(applier: Applier, model: str) -> EmulatedFacts:
    told = applier.state.emulated_models.facts(applier.role, model)
    if told is None:
        told = _search_facts(applier, model)
        applier.state.emulated_models.note(applier.role, model, told)
        applier.state.set_identity(
            applier.role,
            "model",
            model,
            model,
            artifacts=append_to_uri_path(_run_artifacts(applier, told), told["path"]),
            run=told["run_at"],
            path=told["path"],
        )
    return told


def _search_facts(applier: Applier, model: str) -> EmulatedFacts:
    """Find a model that another machine logged: by the run's tag, else in every run that has the tag."""
    experiments = [e.experiment_id for e in applier.workspace.search_experiments()]
    for where in (f"tags.`{MODELS_TAG}` LIKE '%{model}%'", f"tags.`{MODELS_TAG}` != ''"):
        try:
            runs = applier.workspace.search_runs(experiments, where, ViewType.ALL)
        except MlflowException:
            continue  # no LIKE there: look at all
        for run in runs:
            told = _read_facts(applier, run.info.artifact_uri, model)
            if told is not None:
                return told
    raise MlflowException(f"Logged model with ID '{model}' not found.", error_code=RESOURCE_DOES_NOT_EXIST)


def _read_facts(applier: Applier, artifact_uri: str, model: str) -> EmulatedFacts | None:
    try:
        repository = applier.workspace.artifacts(artifact_uri)
    except WouldRefuse:  # another run's trouble: its files are where they have no business to be
        return None
    try:
        files = sorted(f.path for f in repository.list_artifacts(f"{FOLDER}/{model}"))
    except MlflowException as error:
        if is_missing(error):
            return None
        raise
    if not files:
        return None
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(repository.download_artifacts(files[-1], temporary))
        return facts_of(json.loads(file.read_text("utf-8")))


def get(applier: Applier, model: str) -> tuple[EmulatedFacts, str]:
    """Return (facts, the files' URI) of a kept model. Raises RESOURCE_DOES_NOT_EXIST."""
    told = _facts(applier, model)
    return told, str(applier.model_at(model).extra["artifacts"])


def entity(told: EmulatedFacts, artifact_location: str, experiment: str, run: str | None) -> LoggedModel:
    """Return a kept model as MLflow's entity, under the ids that the user knows."""
    return LoggedModel(
        experiment_id=experiment,
        model_id=told["id"],
        name=told["name"],
        artifact_location=artifact_location,
        creation_timestamp=told["created"],
        last_updated_timestamp=told["updated"],
        model_type=told.get("type"),
        source_run_id=run,
        status=LoggedModelStatus(told["status"]),
        tags=dict(told.get("tags") or {}),
        params=dict(told.get("params") or {}),
        metrics=points(told, run),
    )


def points(told: EmulatedFacts, run: str | None = None) -> list[Metric]:
    """Return a kept model's points, the latest of each metric, as MLflow's entities."""
    return [
        Metric(
            m["key"],
            m["value"],
            m["time"],
            m["step"],
            model_id=told["id"],
            dataset_name=m["dataset"],
            dataset_digest=m["digest"],
            run_id=run,
        )
        for m in told.get("metrics") or []
    ]


def of_runs(
    applier: Applier, experiment_ids: list[str], view: int = ViewType.ACTIVE_ONLY
) -> list[EmulatedFacts]:
    """Return the facts of all models kept in some experiments (the workspace's own ids)."""
    found: dict[str, EmulatedFacts] = {}
    for run in entries(
        lambda token: applier.workspace.search_runs(
            experiment_ids, f"tags.`{MODELS_TAG}` != ''", view, page_token=token
        )
    ):
        for model in _models_in(applier, run):
            told = applier.state.emulated_models.facts(applier.role, model) or _read_facts(
                applier, run.info.artifact_uri, model
            )
            if told is not None and not told.get("deleted"):
                found[model] = told
    return list(found.values())


def paths_in(tag: str) -> list[str]:
    """Return the folders of a run that are kept models' files, by the run's tag."""
    return [path for _, _, path in (entry.partition("=") for entry in tag.split()) if path]


def in_tag(tag: str) -> list[str]:
    """Return the ids that a run's tag names: of models that we keep, and of others that the run made."""
    return [entry.partition("=")[0] for entry in tag.split() if entry != _MORE]


def created_as(told: EmulatedFacts) -> ModelFacts:
    """Return what a kept model was created with."""
    return cast(ModelFacts, {k: v for k, v in told.items() if k not in _SINCE})


def _models_in(applier: Applier, run: Any) -> list[str]:
    tag = run.data.tags[MODELS_TAG]
    models = in_tag(tag)
    if tag.endswith(_MORE):
        files = applier.workspace.artifacts(run.info.artifact_uri).list_artifacts(FOLDER)
        models += [f.path.rpartition("/")[2] for f in files if f.is_dir]
    return list(dict.fromkeys(models))
