"""The registration of a model version: in its run's queue, behind that run's files."""

from __future__ import annotations

import time
from contextlib import suppress
from urllib.parse import unquote

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, ErrorCode

from dbml_magics.common.config import identity_budget_seconds
from dbml_magics.core.delivery.writers.registrations import ask_for, check_before
from dbml_magics.core.destinations.errors import Unavailable, is_missing
from dbml_magics.core.interrupts import deferred
from dbml_magics.core.mlflow_private import with_fields
from dbml_magics.core.model.facts import VersionFacts, VersionSource
from dbml_magics.core.model.queues import REGISTRY_QUEUE
from dbml_magics.core.outbox.model_versions import Refusal
from dbml_magics.core.plugin.asked import ask
from dbml_magics.core.plugin.first_registry import FirstRegistry
from dbml_magics.core.plugin.registry_shown import Shown
from dbml_magics.core.plugin.registry_view import WAITING, version_of
from dbml_magics.core.runtime.engine import Engine


class VersionRegistration:
    """Registers versions in the registries of one link."""

    def __init__(self, engine: Engine, first: FirstRegistry, shown: Shown) -> None:
        self._engine = engine
        self._first = first
        self._shown = shown

    def register(self, facts: VersionFacts, source: str, model_id: str | None) -> ModelVersion:
        """Register a version in the registries; READY with number 0 while the first one does not answer."""
        check_before(self._engine.workspaces, self._engine.files.of, facts)
        self._check_model(facts["name"])
        run_id = facts["run"]
        if run_id and not self._is_known(run_id):
            facts["run"], facts["foreign_run"] = None, run_id
        queue = self._queue_for(facts)
        with deferred():
            self._register_at_first(queue, facts)
            self._engine.own_runs.note_registration(queue, facts)
            ask_for(self._engine.state, self._engine.recorder.write, queue, facts, self._engine.clock)
        return self._registered(facts, queue, source, model_id)

    def source_of(self, source: str, model_id: str | None) -> VersionSource:
        """Return what a version is made from, by the URI that MLflow gave for it."""
        # Not urlsplit: a folder's name may have a # or ? in it.
        scheme, _, rest = source.partition(":")
        parts = [p for p in rest.split("/") if p]
        if model_id:
            return {"kind": "model", "id": model_id, "named": True}
        if scheme == "models" and len(parts) == 1 and "@" not in parts[0]:
            return {"kind": "model", "id": parts[0], "named": False}
        if scheme == "models" and len(parts) == 2 and parts[1].isdigit():
            return {"kind": "version", "name": parts[0], "version": parts[1]}
        if scheme == "runs" and len(parts) >= 2:
            # A client that was given such a URI sends it as it is; elsewhere the run has another id.
            path = "/".join(parts[1:])
            logged = self._engine.state.models_of(parts[0])
            model = next((m for m, facts in logged if facts.get("name") == path), None)
            if model is not None:
                return {"kind": "model", "id": model, "named": False}
            return {"kind": "run", "run": parts[0], "path": path}
        if scheme == "dbml":
            parts = parts[1:]  # the link
            if len(parts) >= 2 and parts[0] == "models":
                return {"kind": "model", "id": parts[1], "named": False}
            if len(parts) >= 3 and parts[0] == "runs":
                return {"kind": "run", "run": parts[1], "path": "/".join(parts[3:])}
            if len(parts) >= 4 and parts[0] == "versions":
                return {"kind": "version", "name": unquote(parts[2]), "version": parts[3]}
        return {"kind": "uri", "uri": source}

    def _check_model(self, name: str) -> None:
        """Raise the first registry's refusal of a version of a model that it does not have."""
        if not self._first.has_caught_up():
            return
        try:
            self._first.ask(lambda: self._first.native.get_registered_model(name))
        except MlflowException as error:
            if not isinstance(error, Unavailable) and is_missing(error):
                raise

    def _is_known(self, run_id: str) -> bool:
        """Tell whether a run is one of the link's; True while nobody can say.

        A registry takes a version with any run's id, one of another server's too.
        """
        engine = self._engine
        if engine.state.run(run_id) is not None or engine.live.creation_of(run_id) is not None:
            return True
        try:
            engine.runs.get_run(run_id)
        except MlflowException as error:
            return isinstance(error, Unavailable)
        return True

    def _queue_for(self, facts: VersionFacts) -> str:
        """Return the queue that a registration travels in; fill in the run and what goes first."""
        source, runless = facts["source"], facts["run"] is None and "foreign_run" not in facts
        if source["kind"] == "model":
            queue = self._engine.models.queue_of(source["id"])
            if runless and queue != source["id"]:
                facts["run"] = queue
            return queue
        if source["kind"] == "run":
            if runless:
                facts["run"] = source["run"]
            return str(source["run"])
        if source["kind"] == "version":
            facts["after"] = self._first.versions.open_of(source["name"])
            source["of"] = self._first.registration(source["name"], source["version"])
            if source["of"] is None or not facts["after"].keys() & {source["of"]}:
                facts["after"] = {}
        return facts["run"] or REGISTRY_QUEUE

    def _register_at_first(self, queue: str, facts: VersionFacts) -> None:
        """Register a version at the first registry where it has what was before. Raises its refusal.

        While it is away, or lacks the model's files, the registration goes there behind them; so it does
        where it takes as long as a copy of the files.
        """
        after = {**(facts.get("after") or {}), **self._first.versions.open_of(facts["name"])}
        side = self._engine.side(self._first.role)
        if not side.ids.is_tracked or side.destination.capabilities.copies_registered_files:
            return
        if not self._first.has_caught_up(after) or not self._first.wait_for(queue):
            return
        with suppress(Unavailable):
            ask(
                self._engine,
                self._first.role,
                "registration of a version",
                lambda: side.registrations.register_now(facts, identity_budget_seconds()),
            )

    def _registered(self, facts: VersionFacts, queue: str, source: str, model_id: str | None) -> ModelVersion:
        """Return the version that a registration made, or will make. Raises the first registry's refusal."""
        self._first.wait_for(queue)
        versions, name, number = self._first.versions, facts["name"], WAITING
        answer = versions.answer(facts["key"], self._first.role)
        if isinstance(answer, Refusal):
            code = dict(ErrorCode.items()).get(answer.error.partition(":")[0], INVALID_PARAMETER_VALUE)
            raise MlflowException(answer.error, code)
        if answer is not None:
            name, number = answer.name, answer.version
            with suppress(MlflowException):
                return self._shown.version(
                    self._first.ask(lambda: self._first.native.get_model_version(name, number))
                )
        else:
            versions.note_provisional(queue, facts)
        made = version_of(facts, number, int(time.time() * 1000), source)
        with_fields(made, name=name, model_id=model_id)
        return self._shown.as_first(made)
