"""Which model is meant, and its files on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from dbml_magics.common.hints import Remedy, Template
from dbml_magics.core import registry, runs
from dbml_magics.core.destinations.errors import Unavailable, is_missing
from dbml_magics.core.endpoints.base import Found
from dbml_magics.core.mlflow_private import without_bars
from dbml_magics.core.model.mlmodel import MLmodel
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.errors import BadCommand, DbmlError, ModelNotFound, NoModel, RunNotFound

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

__all__ = ["fetch", "find", "read_mlmodel"]

_RUN = re.compile(r"last|[0-9a-f]{4,32}")  # what is no model's name, if it is not registered


def find(engine: Engine, given: str, last: str | None, *, explicit: bool, line: Template) -> Found:
    """Return the model that a word of the line means.

    ``given`` is ``name/version``, ``name@alias``, a bare name (its newest version, refused when
    ``explicit``), a run (its model; by its id or name), ``m-…`` or any ``runs:/`` or ``models:/`` URI;
    ``line`` is the command that errors show, with ``{}`` for the model. Raises ModelNotFound, RunNotFound,
    AmbiguousRun, NoModel, BadCommand.
    """
    try:
        return _find(engine, given.strip(), last, explicit, line)
    except MlflowException as error:
        raise runs.as_error(engine, error, f"model {given}") from error


def _find(engine: Engine, given: str, last: str | None, explicit: bool, line: Template) -> Found:
    if given.startswith("runs:/"):
        run, _, path = given.removeprefix("runs:/").strip("/").partition("/")
        run_id = runs.resolve(engine, run, last, line)
        return _of_run(engine, run_id, path.strip("/") or None)
    bare = given.removeprefix("models:/").strip("/") if given.startswith("models:/") else given
    if "://" in bare or re.match(r"[a-z][a-z0-9+.-]*:", bare):
        raise BadCommand(
            f"{given} is no model of the link: name/version, name@alias, a run, m-…, runs:/… or models:/….",
            remedies=[(Remedy("models"), "lists what is registered")],
        )
    if re.fullmatch(r"m-[0-9a-f]{6,}", bare):
        return _logged(engine, bare)
    name, slash, version = bare.rpartition("/")
    if slash and version.isdigit():
        return _version(engine, name, version, line)
    if slash:
        raise BadCommand(
            f"{given}: behind the / stands a version's number.",
            remedies=[
                (line(f"{name}/1"), "for example"),
                (Remedy("models", name), "shows the versions"),
            ],
        )
    name, at, alias = bare.rpartition("@")
    if at:
        return _aliased(engine, name, alias, line)
    return _bare(engine, bare, last, explicit, line)


def _version(engine: Engine, name: str, version: str, line: Template) -> Found:
    try:
        found = runs.client(engine).get_model_version(name, version)
    except MlflowException as error:
        if isinstance(error, Unavailable) or not is_missing(error):
            raise
        raise _no_version(engine, name, version, line) from error
    return _registered(engine, found)


def _registered(engine: Engine, found: ModelVersion, said: str | None = None) -> Found:
    version = str(found.version)
    return Found(
        label=f"{found.name}/{version}",
        uri=f"models:/{found.name}/{version}",
        identity=f"{engine.link.key}:models:/{found.name}/{version}",
        name=str(found.name),
        version=version,
        workspace=engine.link.registries[0],
        run_id=found.run_id or None,
        said=said,
    )


def _no_version(engine: Engine, name: str, version: str, line: Template) -> DbmlError:
    versions = _versions(engine, name)
    if not versions:
        return _not_found(engine, name, f"/{version}", line)
    numbers = ", ".join(str(v.version) for v in versions[:8])
    return ModelNotFound(
        f"model {name!r} has no version {version}; it has {numbers}.",
        remedies=[
            (line(f"{name}/{versions[0].version}"), "the newest one"),
            (Remedy("models", name), "shows its versions"),
        ],
    )


def _not_found(engine: Engine, name: str, behind: str, line: Template) -> DbmlError:
    """Return the error for a model that nobody has; its remedy is the line with the name that was meant."""
    error = registry.not_found(engine, name)
    meant = re.search(r"Did you mean '(.+)'\?$", error.message)
    if meant is None:
        return error
    return ModelNotFound(error.message, remedies=[line(f"{meant.group(1)}{behind}"), *error.remedies])


def _versions(engine: Engine, name: str) -> list[ModelVersion]:
    quoted = name.replace("'", "\\'")
    found = runs.client(engine).search_model_versions(f"name='{quoted}'")
    return sorted(found, key=lambda v: -int(v.version))


def _aliased(engine: Engine, name: str, alias: str, line: Template) -> Found:
    try:
        found = runs.client(engine).get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if isinstance(error, Unavailable):
            raise
        if not _versions(engine, name):
            raise _not_found(engine, name, f"@{alias}", line) from error
        raise ModelNotFound(
            f"model {name!r} has no alias {alias!r}.",
            remedies=[(Remedy("models", name), "shows its versions and their aliases")],
        ) from error
    return _registered(engine, found, said=f"{name}@{alias} is version {found.version} now")


def _bare(engine: Engine, given: str, last: str | None, explicit: bool, line: Template) -> Found:
    versions = _versions(engine, given) if given != runs.LAST else []
    if versions:
        newest = versions[0]
        if explicit:
            raise BadCommand(
                f"a cloud deployment wants an explicit version, and {given!r} has {len(versions)}.",
                remedies=[(line(f"{given}/{newest.version}"), "the newest one")],
            )
        return _registered(
            engine, newest, said=f"{given} has no version on the line: the newest, {newest.version}"
        )
    try:
        run_id = runs.resolve(engine, given, last, line)
    except RunNotFound as error:
        if _RUN.fullmatch(given):
            raise
        raise _not_found(engine, given, "", line) from error
    return _of_run(engine, run_id, None)


def _of_run(engine: Engine, run_id: str, path: str | None) -> Found:
    try:
        source = registry.model_of(engine, run_id, path)
    except NoModel as error:
        # The registry's own remedies are about registering.
        models = [name for name, _ in registry.models_of(engine, run_id)]
        remedies = [(f"runs:/{run_id}/{name}", "names one of its models") for name in dict.fromkeys(models)]
        raise NoModel(
            error.message.replace(" to register", ""), remedies=remedies or error.remedies
        ) from error
    if source["kind"] == "model":
        return _logged(engine, source["id"], run_id)
    where = f"runs:/{run_id}/{source['path']}"
    return Found(
        label=f"run {run_id[:8]} {source['path']}",
        uri=where,
        identity=f"{engine.link.key}:{where}",
        run_id=run_id,
    )


def _logged(engine: Engine, model_id: str, run_id: str | None = None) -> Found:
    try:
        model = runs.client(engine).get_logged_model(model_id)
    except MlflowException as error:
        if isinstance(error, Unavailable):
            raise
        raise ModelNotFound(
            f"no logged model {model_id} in {' or '.join(engine.link.tracked)}.",
            remedies=[(Remedy("runs"), "lists the runs: a run means its model")],
        ) from error
    run_id = run_id or model.source_run_id
    return Found(
        label=f"run {run_id[:8]} {model.name}" if run_id else model_id,
        uri=f"models:/{model_id}",
        identity=f"{engine.link.key}:models:/{model_id}",
        run_id=run_id,
    )


def fetch(engine: Engine, found: Found, folder: Path) -> Path:
    """Bring a model's files into a folder; returns where. Raises NoModel, WorkspaceUnreachable."""
    uri = engine.link.uri
    try:
        with without_bars():
            path = download_artifacts(
                artifact_uri=found.uri, dst_path=str(folder), tracking_uri=uri, registry_uri=uri
            )
    except MlflowException as error:
        if isinstance(error, Unavailable):
            raise runs.as_error(engine, error, f"the files of {found.label}") from error
        raise NoModel(
            f"the files of {found.label} cannot be read: {' '.join(str(error.message).split())[:300]}",
            remedies=[(Remedy("status"), "shows whether they are still on their way")],
        ) from error
    return Path(path)


def read_mlmodel(files: Path) -> MLmodel:
    """Return a model's description. Raises NoModel when the folder has none."""
    try:
        mlmodel: MLmodel | None = yaml.safe_load((files / "MLmodel").read_text())
    except (OSError, yaml.YAMLError):
        mlmodel = None
    if not isinstance(mlmodel, dict):
        raise NoModel(
            "there is no MLmodel file: these are not the files of an MLflow model.",
            remedies=[("mlflow.<flavor>.log_model(model, name='model')", "logs one")],
        )
    return mlmodel
