"""The link's first registry: the one whose names and numbers the user knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.store.model_registry.abstract_store import AbstractStore

from dbml_magics.core.model.queues import REGISTRY_QUEUE
from dbml_magics.core.outbox.model_versions import ModelVersions
from dbml_magics.core.plugin.asked import has_arrived
from dbml_magics.core.plugin.registry_view import WAITING
from dbml_magics.core.runtime.engine import Engine

T = TypeVar("T")


class FirstRegistry:
    """Asks the first registry, once it has what was written before."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def role(self) -> str:
        """Return the workspace that the registry belongs to."""
        return self._engine.link.registries[0]

    @property
    def native(self) -> AbstractStore:
        """Return MLflow's own store of the registry."""
        return self._engine.workspaces[self.role].registry

    @property
    def versions(self) -> ModelVersions:
        """Return what is noted of registrations on this machine."""
        return self._engine.state.model_versions

    def ask(self, question: Callable[[], T]) -> T:
        """Ask the registry within the outage's budget. Raises Unavailable, or its refusal."""
        return self._engine.health[self.role].ask(question)

    def read(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method of MLflow's own store, once registrations on their way have arrived."""
        self.wait_for(REGISTRY_QUEUE)
        return self.ask(lambda: getattr(self.native, method)(*args, **kwargs))

    def wait_for(self, *queues: str) -> bool:
        """Wait for queues to arrive at the registry, within the budget and while they move."""
        return has_arrived(self._engine, self.role, queues)

    def has_caught_up(self, after: Mapping[str, str] = MappingProxyType({})) -> bool:
        """Tell whether the registry has what was written before: writes must not overtake others.

        ``after`` are the registrations (key -> queue) that a write comes after, as its model's versions.
        """
        waiting = {k: q for k, q in after.items() if not self.versions.is_answered(k, self.role)}
        return self.wait_for(REGISTRY_QUEUE, *waiting.values()) and all(
            self.versions.is_answered(key, self.role) for key in waiting
        )

    def registration(self, name: str, version: str) -> str | None:
        """Return the key of the registration behind a version, if this machine made it."""
        if version != WAITING:
            return self.versions.key_of(name, version)
        newest = self.versions.newest_provisional(name)
        if newest is None:
            raise MlflowException(
                f"Model Version (name={name}, version=0) not found", RESOURCE_DOES_NOT_EXIST
            )
        return str(newest["key"])
