"""Versions and registered models as the user sees them, whichever registry they were read from.

They carry the ids of runs and logged models that the user knows. A version or model from the other registry
or the journal has the form that the first registry's own store would return.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from dbml_magics.core.delivery.writers.ids import RUN_TAG
from dbml_magics.core.delivery.writers.versions import KEY_TAG
from dbml_magics.core.mlflow_private import with_fields
from dbml_magics.core.model.facts import VersionSource

if TYPE_CHECKING:
    from dbml_magics.core.plugin.registry_view import RegistryView
    from dbml_magics.core.runtime.engine import Engine


class Shown:
    """Turns versions and models of registries and of the journal into those that the user sees."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.first = engine.link.registries[0]

    def number(self, version: str | int) -> str | int:
        """Return a version's number as the first registry's own store does: an integer from a database."""
        by_rest = self.engine.workspaces[self.first].capabilities.answers_by_rest
        return str(version) if by_rest else int(version)

    def version(self, found: ModelVersion) -> ModelVersion:
        """Return a version under the run id that the user knows."""
        tagged = found.tags.get(RUN_TAG)
        if tagged:
            with_fields(found, run_id=tagged)
        elif found.run_id:
            with_fields(found, run_id=self.engine.ids.run(found.run_id))
        if found.model_id:
            with_fields(found, model_id=self.engine.ids.model(found.model_id))
        lead, _, model = (found.source or "").rpartition("models:/")
        if model and not lead and "/" not in model:
            with_fields(found, source=f"models:/{self.engine.ids.model(model)}")
        found.tags.pop(KEY_TAG, None)  # by which a registration is found again; nothing to a reader
        return found

    def model(self, found: RegisteredModel) -> RegisteredModel:
        """Return a model with its versions under the run ids that the user knows."""
        for version in found.latest_versions or []:
            self.version(version)
        return found

    def answer(self, made: object) -> object:
        """Return what a registry answered to a change, under the ids that the user knows."""
        if isinstance(made, RegisteredModel):
            return self.model(made)
        return self.version(made) if isinstance(made, ModelVersion) else made

    def as_first(self, found: ModelVersion, aliases: Sequence[str] = ()) -> ModelVersion:
        """Return a version from elsewhere in the form that the first registry's own store returns."""
        workspace = self.engine.workspaces[self.first]
        with_fields(found, aliases=[*aliases])
        model_id = found.model_id if workspace.kind == "databricks" else None
        if workspace.capabilities.answers_by_rest:
            with_fields(found, description=found.description or "", run_id=found.run_id or "")
            found = ModelVersion.from_proto(found.to_proto())
        with_fields(found, version=self.number(found.version), model_id=model_id)
        return self.version(found)

    def as_first_model(self, found: RegisteredModel) -> RegisteredModel:
        """Return a model from elsewhere in the form that the first registry's own store returns."""
        latest, found.latest_versions = found.latest_versions or [], []
        if self.engine.workspaces[self.first].capabilities.answers_by_rest:
            found = RegisteredModel.from_proto(found.to_proto())
        with_fields(found, aliases={alias: self.number(number) for alias, number in found.aliases.items()})
        found.latest_versions = [self.as_first(version) for version in latest]
        return found

    def model_in(self, view: RegistryView, name: str) -> RegisteredModel:
        """Return a model of a view."""
        model = view.models[name]
        model.latest_versions = view.latest(name)
        numbers = {}
        for alias, at in view.aliases.get(name, {}).items():
            version = view.find(name, at.number, at.key)
            numbers[alias] = at.number if version is None else str(version.version)
        with_fields(model, aliases=numbers)
        return self.as_first_model(model)

    def files_of(self, source: VersionSource) -> str:
        """Return the URI of the files of a version that has no number yet."""
        if source["kind"] == "model":
            return str(self.engine.ids.artifact_uri("model", source["id"]))
        if source["kind"] == "run":
            return f"{self.engine.ids.artifact_uri('run', source['run'])}/{source['path']}".rstrip("/")
        if source["kind"] == "version":
            return self.version_files(source["name"], source["version"])
        return str(source["uri"])

    def version_files(self, name: str, version: str, role: str | None = None, source: str = "") -> str:
        """Return the link's own URI of a version's files; its last part is that of the ``source``."""
        model, number = quote(name, safe=""), quote(str(version), safe="")
        folder = "" if source.startswith("models:") else posixpath.basename(source.rstrip("/"))
        lead = f"dbml://{self.engine.link.key}/versions/{role or self.first}/{model}/{number}"
        return f"{lead}/{folder or 'artifacts'}"
