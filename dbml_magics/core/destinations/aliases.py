"""Aliases where a registry has none (Azure ML, Databricks' own): tags of ours on the registered model."""

from __future__ import annotations

from typing import Any

from mlflow.entities.model_registry import (
    ModelVersion,
    RegisteredModel,
    RegisteredModelAlias,
    RegisteredModelTag,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.store.entities.paged_list import PagedList

from dbml_magics.core.destinations.errors import MissingEndpoint, Unavailable

ALIAS_TAG = "dbml_alias_"
"""Before an alias's name, on a registered model of a registry without aliases; the value is the version."""

_LACKING = frozenset({"ENDPOINT_NOT_FOUND", "FEATURE_DISABLED", "NOT_IMPLEMENTED"})


class AliasesAsTags:
    """Store aliases as tags where the wrapped registry store refuses aliases."""

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        try:
            super().set_registered_model_alias(name, alias, version)  # type: ignore[misc]
        except MlflowException as error:
            _refuse_others(error)
            self.get_model_version(name, version)  # type: ignore[attr-defined] # refuses what does not exist
            tag = RegisteredModelTag(ALIAS_TAG + alias, str(version))
            self.set_registered_model_tag(name, tag)  # type: ignore[attr-defined]

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Delete an alias."""
        try:
            super().delete_registered_model_alias(name, alias)  # type: ignore[misc]
        except MlflowException as error:
            _refuse_others(error)
            self.delete_registered_model_tag(name, ALIAS_TAG + alias)  # type: ignore[attr-defined]

    def get_model_version_by_alias(self, name: str, alias: str) -> ModelVersion:
        """Return the version that an alias points at."""
        try:
            return super().get_model_version_by_alias(name, alias)  # type: ignore[misc]
        except MlflowException as error:
            _refuse_others(error)
        version = self.get_registered_model(name).aliases.get(alias)
        if version is None:
            raise MlflowException(f"Registered model alias {alias} not found.", RESOURCE_DOES_NOT_EXIST)
        return self.get_model_version(name, version)  # type: ignore[attr-defined]

    def get_registered_model(self, name: str) -> RegisteredModel:
        """Return a registered model with its aliases."""
        return with_our_aliases(super().get_registered_model(name))  # type: ignore[misc]

    def search_registered_models(self, *args: Any, **kwargs: Any) -> PagedList:
        """Search registered models, each with its aliases."""
        page = super().search_registered_models(*args, **kwargs)  # type: ignore[misc]
        return PagedList([with_our_aliases(model) for model in page], page.token)


def _refuse_others(error: MlflowException) -> None:
    """Re-raise ``error`` unless it means that the registry supports no aliases."""
    if isinstance(error, MissingEndpoint):
        return
    if isinstance(error, Unavailable) or error.error_code not in _LACKING:
        raise error


def with_our_aliases(model: RegisteredModel) -> RegisteredModel:
    """Show the aliases that we keep as tags as aliases."""
    ours = {k.removeprefix(ALIAS_TAG): v for k, v in model.tags.items() if k.startswith(ALIAS_TAG)}
    for alias, version in ours.items():
        model._tags.pop(ALIAS_TAG + alias, None)
        if isinstance(model._aliases, dict):
            model._aliases[alias] = version
        else:
            model._add_alias(RegisteredModelAlias(alias, version))
    return model
