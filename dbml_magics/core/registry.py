"""Registering a run's model here, there or in both registries, and listing what is registered."""

from __future__ import annotations

import difflib
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from mlflow.entities import FileInfo
from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.abstract_store import AbstractStore

from dbml_magics.common.hints import Remedy, Template, corrected, instead
from dbml_magics.core.delivery.writers.ids import RUN_TAG
from dbml_magics.core.delivery.writers.registrations import ask_for, check_before
from dbml_magics.core.delivery.writers.versions import TWIN_TAG
from dbml_magics.core.destinations.base import Workspace
from dbml_magics.core.destinations.errors import Unavailable, WouldRefuse, is_missing
from dbml_magics.core.interrupts import deferred
from dbml_magics.core.mlflow_private import (
    validate_model_alias_name,
    validate_model_alias_name_reserved,
    validate_model_name,
    with_fields,
)
from dbml_magics.core.model.facts import RegistryChange, VersionFacts, VersionSource
from dbml_magics.core.model.operations import ChangeRegistry
from dbml_magics.core.model.queues import REGISTRY_QUEUE, registration_queue
from dbml_magics.core.outbox.model_versions import Refusal, Registered
from dbml_magics.core.pages import PagesOfLink
from dbml_magics.core.paging import entries
from dbml_magics.core.parallel import AT_ONCE, in_parallel
from dbml_magics.core.runs import as_error, client
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.errors import BadLink, BadName, ModelNotFound, NoModel, Refused
from dbml_magics.results.registry import ModelsResult, ModelVersion, RegisterResult

_PATIENCE_S = 600.0
_ANSWER_S = 0.5  # between two looks whether a registry has answered: a registration may change its queue
_ALIASES_S = 1.0


def register(
    engine: Engine,
    run_id: str,
    name: str,
    *,
    path: str | None,
    to: str | None,
    aliases: tuple[str, ...],
    tags: dict[str, str],
) -> RegisterResult:
    """Register a run's model, waiting for its files; provisional (version 0) where a registry is away."""
    aliases = tuple(dict.fromkeys(aliases))
    check_names(name, aliases, command=lambda name: corrected(Remedy("register", run_id[:8], name), name))
    roles = _roles(engine, to)
    source = model_of(engine, run_id, path)
    key = uuid.uuid4().hex
    facts: VersionFacts = {
        "key": key,
        "name": name,
        "source": source,
        "run": run_id,
        "tags": tags,
        "run_link": None,
        "description": None,
        "to": roles,
    }
    try:
        check_before(engine.workspaces, engine.files.of, facts)
    except WouldRefuse as error:
        remedies = [(_of_run(command, run_id), what) for command, what in error.remedies]
        raise Refused(f"nothing was registered: {error.message}.", remedies=remedies) from error
    with deferred():
        engine.own_runs.note_registration(run_id, facts)
        ask_for(engine.state, engine.recorder.write, run_id, facts, engine.clock)
        for alias in aliases:
            change: RegistryChange = {
                "do": "alias",
                "name": name,
                "alias": alias,
                "version": "0",
                "of": key,
                "to": roles,
                "after": {key: run_id},
            }
            engine.recorder.write(REGISTRY_QUEUE, ChangeRegistry(change))
    answers = _await(engine, roles, run_id, key)
    if any(answer is None for answer in answers.values()):
        engine.state.model_versions.note_provisional(run_id, facts)
    pages = PagesOfLink(engine)
    versions = tuple(_version(engine, role, facts, answers, aliases, pages) for role in roles)
    new = any(answer is not None and answer.new for answer in answers.values())
    return RegisterResult(
        name=name, run_id=run_id, versions=versions, new_model=new, notes=_waiting(engine, answers)
    )


def _of_run(command: str, run_id: str) -> str:
    """Return a command about the last run as one about a run that is named."""
    if not isinstance(command, Remedy):
        return command
    return command.changed(lambda word: run_id[:8] if word == "last" else word)


def _register_last(name: str) -> Remedy:
    return Remedy("register", "last", name)


def check_names(name: str, aliases: tuple[str, ...] = (), *, command: Template = _register_last) -> None:
    """Raise BadName for a model's name or alias that a registry would refuse."""
    try:
        validate_model_name(name)
    except MlflowException as error:
        legal = re.sub(r"[/:]+", "-", name).strip("-. ") or "my-model"
        raise BadName(
            f"{name!r} is not a name for a registered model: it must be non-empty and without / and :.",
            remedies=[command(legal)],
        ) from error
    for alias in aliases:
        try:
            validate_model_alias_name(alias)
            validate_model_alias_name_reserved(alias)
        except MlflowException as error:
            said = " ".join(str(error.message).split())
            raise BadName(
                f"{alias!r} is not an alias: {said}",
                remedies=[
                    command(name).but(alias=["champion" if each == alias else each for each in aliases])
                ],
            ) from error


def _roles(engine: Engine, to: str | None) -> list[str]:
    if to is None:
        return list(engine.link.registries)
    roles = ["databricks", "azureml"] if to == "both" else [to]
    for role in roles:
        if role not in engine.link.used:
            raise BadLink(
                f"the link has no {role} workspace to register in.",
                remedies=[(Remedy("status"), "shows the link"), Remedy("link", **{role: "URI"}, registry=to)],
            )
    return roles


def model_of(engine: Engine, run_id: str, path: str | None) -> VersionSource:
    """Return where a run's model is. Raises NoModel."""
    try:
        candidates = models_of(engine, run_id)
    except MlflowException as error:
        raise as_error(engine, error, f"the models of run {run_id[:8]}") from error
    if path is not None:
        wanted = path.strip("/")
        matching = [source for name, source in candidates if name == wanted]
        if not matching and any(f.path == f"{wanted}/MLmodel" for f in _listed(engine, run_id, wanted)):
            return {"kind": "run", "run": run_id, "path": wanted}
        if not matching:
            has = ", ".join(dict.fromkeys(name for name, _ in candidates)) or "none"
            raise NoModel(
                f"run {run_id[:8]} has no model {wanted!r}; its models: {has}.",
                remedies=[_with_path(run_id, name) for name, _ in candidates[:2]]
                or [("mlflow.<flavor>.log_model(model, name='model')", "logs one in the run")],
            )
        return matching[-1]
    names = list(dict.fromkeys(name for name, _ in candidates))
    if not names:
        raise NoModel(
            f"run {run_id[:8]} has no model to register.",
            remedies=[
                ("mlflow.<flavor>.log_model(model, name='model')", "logs one in the run, or"),
                (Remedy("track", autolog=True), "logs it by itself"),
            ],
        )
    if len(names) > 1:
        raise NoModel(
            f"run {run_id[:8]} has {len(names)} models: which one?",
            remedies=[_with_path(run_id, name) for name in names[:4]],
        )
    return candidates[-1][1]


def _with_path(run_id: str, path: str) -> Remedy:
    return corrected(Remedy("register", run_id[:8], "NAME", path=path), path=path)


def models_of(engine: Engine, run_id: str) -> list[tuple[str, VersionSource]]:
    """Return (name, where it is) of each model of a run: logged models, then folders with an MLmodel."""
    run = client(engine).get_run(run_id)
    found: list[tuple[str, VersionSource]] = []
    for output in run.outputs.model_outputs if run.outputs else []:
        model = client(engine).get_logged_model(output.model_id)
        found.append((model.name, {"kind": "model", "id": output.model_id}))
    if found:
        return found
    for entry in _listed(engine, run_id, None):
        if entry.is_dir and any(
            f.path == f"{entry.path}/MLmodel" for f in _listed(engine, run_id, entry.path)
        ):
            found.append((entry.path, {"kind": "run", "run": run_id, "path": entry.path}))
    return found


def _listed(engine: Engine, run_id: str, folder: str | None) -> list[FileInfo]:
    return list(engine.files.of(f"run:{run_id}").list_artifacts(folder))


def _await(engine: Engine, roles: list[str], queue: str, key: str) -> dict[str, Registered | None]:
    """Wait for the registries' answers for as long as they are there to give one. Raises Refused."""
    queues, until = [queue, registration_queue(key)], time.monotonic() + _PATIENCE_S
    answer_of = engine.state.model_versions.answer

    def is_over(role: str) -> bool:
        later = engine.waiting.is_away(role) or any(map(engine.workers[role].takes_later, queues))
        return later or answer_of(key, role) is not None

    while waits := [role for role in roles if not is_over(role)]:
        if time.monotonic() > until:
            break
        engine.waiting.wait_at(dict.fromkeys(waits, queues), _ANSWER_S, give_up=is_over)
    answers: dict[str, Registered | None] = {}
    for role in roles:
        answer = answer_of(key, role)
        if isinstance(answer, Refusal):
            raise Refused(
                f"{role} refused the registration: {answer.error}",
                remedies=[
                    (Remedy("models"), "shows what is registered"),
                    (Remedy("status"), "shows refused writes"),
                ],
            )
        answers[role] = answer
    behind_it = [queue, REGISTRY_QUEUE]  # the aliases
    engine.waiting.wait_at({role: behind_it for role in roles if answers[role] is not None}, _ALIASES_S)
    return answers


def _waiting(engine: Engine, answers: Mapping[str, Registered | None]) -> tuple[str, ...]:
    """Return why versions have no number yet, a line for each registry that has not answered."""
    found = []
    for role, answer in answers.items():
        reason = engine.health[role].reason or engine.workers[role].scheduler.trouble
        if answer is None and reason:
            found.append(f"{role}: {reason}; it is registered by itself once that is over")
    return tuple(found)


def _version(
    engine: Engine,
    role: str,
    facts: VersionFacts,
    answers: Mapping[str, Registered | None],
    aliases: tuple[str, ...],
    pages: PagesOfLink,
) -> ModelVersion:
    answer = answers[role]
    twin = next(
        (
            engine.side(other).versions.place(other, a.name, a.version)
            for other, a in answers.items()
            if other != role and a is not None
        ),
        None,
    )
    return ModelVersion(
        workspace=role,
        name=engine.workspaces[role].model_name(answer.name if answer else facts["name"]),
        version=answer.version if answer else "0",
        run_id=facts["run"],
        aliases=aliases,
        tags=facts["tags"],
        twin=twin,
        created=int(time.time() * 1000),
        status="READY" if answer else "PROVISIONAL",
        source=answer.source if answer else "",
        page=pages.of_version(role, answer.name, answer.version) if answer else None,
    )


def list_models(engine: Engine, name: str | None) -> ModelsResult:
    """List registered models, or one model's versions, at each workspace that answers.

    Raises ModelNotFound.
    """
    versions: list[ModelVersion] = []
    failure: MlflowException | None = None
    notes: list[str] = []
    asked, roles, pages = 0, engine.link.used, PagesOfLink(engine)
    for role, found in zip(
        roles, in_parallel(len(roles), partial(_listed_at, engine, name), roles), strict=True
    ):
        if isinstance(found, Unavailable):
            failure = failure or found
            notes.append(f"{role} could not be asked: {found.reason}")
            continue
        asked += 1
        versions += [_shown(engine, role, v, pages) for v in found]
    if not asked and failure is not None:
        raise as_error(engine, failure, "the registries")
    if name is not None and not versions:
        behind = {workspace.model_name_behind(name) for workspace in engine.workspaces.values()} - {name}
        if behind:  # a name that was read in the studio
            return list_models(engine, behind.pop())
        raise not_found(engine, name)
    versions = _paired(versions)
    first = engine.link.registries[0]  # where the link looks a name/version up
    newest = next((v for v in versions if name is not None and v.workspace == first), None)
    known = engine.workspaces[first].model_name_behind(newest.name) if newest is not None else ""
    return ModelsResult(
        name=name,
        versions=tuple(versions),
        notes=tuple(notes),
        loadable=f"models:/{known}/{newest.version}" if newest is not None else None,
    )


def _paired(versions: list[ModelVersion]) -> list[ModelVersion]:
    """Let a version whose twin names it name that twin, though the tag that says so is still on its way."""
    by_twin = {version.twin: _as_twin(version) for version in versions if version.twin}
    return [replace(version, twin=version.twin or by_twin.get(_as_twin(version))) for version in versions]


def _as_twin(version: ModelVersion) -> str:
    return f"{version.workspace}:{version.name}/{version.version}"


def _listed_at(engine: Engine, name: str | None, role: str) -> list[RegisteredVersion] | Unavailable:
    """Return a model's versions at a workspace, or the newest version of each model."""
    workspace = engine.workspaces[role]
    try:
        if name is not None:
            return engine.health[role].ask(lambda: _versions(workspace.registry, name))
        return engine.health[role].ask(lambda: list(_newest(workspace)))
    except Unavailable as error:
        return error


def _newest(workspace: Workspace) -> Iterator[RegisteredVersion]:
    """Yield the newest version of each model.

    MLflow's own server tells it with the model: the latest version of each stage, and the aliases. The others
    are asked for each model's versions.
    """
    registry = workspace.registry
    models = entries(lambda token: registry.search_registered_models(max_results=100, page_token=token))
    if workspace.kind == "mlflow":
        for model in models:
            if model.latest_versions:
                newest = max(model.latest_versions, key=lambda version: int(version.version))
                yield _with_aliases(newest, model.aliases)
        return
    for versions in in_parallel(AT_ONCE, lambda model: _versions(registry, model.name), models):
        yield from versions[:1]


def _with_aliases(version: RegisteredVersion, aliases: Mapping[str, object]) -> RegisteredVersion:
    own = sorted(alias for alias, number in aliases.items() if str(number) == str(version.version))
    with_fields(version, aliases=own)
    return version


def _versions(registry: AbstractStore, name: str) -> list[RegisteredVersion]:
    quoted = name.replace("'", "\\'")
    found = list(
        entries(
            lambda token: registry.search_model_versions(
                f"name='{quoted}'", max_results=1000, page_token=token
            )
        )
    )
    try:
        aliases = registry.get_registered_model(name).aliases if found else {}
    except MlflowException as error:
        if not is_missing(error):
            raise
        aliases = {}
    named = (_with_aliases(version, aliases) for version in found)
    return sorted(named, key=lambda version: -int(version.version))


def _shown(engine: Engine, role: str, found: RegisteredVersion, pages: PagesOfLink) -> ModelVersion:
    run = found.tags.get(RUN_TAG) or (
        engine.state.visible(role, "run", found.run_id) or found.run_id if found.run_id else None
    )
    return ModelVersion(
        workspace=role,
        name=engine.workspaces[role].model_name(found.name),
        version=str(found.version),
        run_id=run or None,
        aliases=tuple(found.aliases),
        tags={k: v for k, v in found.tags.items() if not k.startswith("dbml_")},
        twin=found.tags.get(TWIN_TAG),
        created=found.creation_timestamp,
        status=str(found.status),
        source=found.source or "",
        page=pages.of_version(role, found.name, str(found.version)),
    )


def not_found(engine: Engine, name: str) -> ModelNotFound:
    """Return the error for a model that no registry has, with the name that was perhaps meant."""
    known: list[str] = []
    for role in engine.link.used:
        try:
            page = engine.workspaces[role].registry.search_registered_models(max_results=200)
        except MlflowException:
            continue
        known += [model.name for model in page]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ModelNotFound(
        f"no registered model {name!r} in {' or '.join(engine.link.used)}.{hint}",
        remedies=[instead(name, near[0], Remedy("models", near[0]))]
        if near
        else [(Remedy("models"), "lists what is registered")],
    )
