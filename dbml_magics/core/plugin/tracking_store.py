"""The tracking store behind ``dbml:`` URIs: its methods by family, and the rest forwarded to the primary.

Writes to runs, experiments and logged models are journaled for all workspaces. Reads and everything that is
not the link's (traces, GenAI datasets, scorers, …) go to the primary's own store.
``tests/core/test_surface.py`` compares ``dir(AbstractStore)`` with a reviewed list, so that a write that
MLflow adds cannot pass unseen.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.store.tracking.abstract_store import AbstractStore

from dbml_magics.core.link import Link, from_uri
from dbml_magics.core.plugin.asked import store_of
from dbml_magics.core.plugin.forwarding import forward_the_rest
from dbml_magics.core.plugin.primary_ids import PrimaryIds
from dbml_magics.core.plugin.tracking_experiments import ExperimentMethods
from dbml_magics.core.plugin.tracking_models import LoggedModelMethods
from dbml_magics.core.plugin.tracking_run_data import RunDataMethods
from dbml_magics.core.plugin.tracking_run_reads import RunReadMethods
from dbml_magics.core.plugin.tracking_runs import RunMethods
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.core.runtime.engines import engine_for


def build(store_uri: str | None) -> DbmlTrackingStore:
    """Build the store of a ``dbml:`` URI."""
    if store_uri is None:
        raise MlflowException("a dbml: store needs its URI", INVALID_PARAMETER_VALUE)
    return DbmlTrackingStore(engine_for(store_uri), from_uri(store_uri))


class DbmlTrackingStore(
    RunDataMethods,
    RunMethods,
    RunReadMethods,
    ExperimentMethods,
    LoggedModelMethods,
    AbstractStore,  # type: ignore[misc]
):
    """Two workspaces (or one) as one MLflow tracking store."""

    def __init__(self, engine: Engine, link: Link) -> None:
        super().__init__(engine, link)
        self._ids = PrimaryIds(engine)
        if self.sync:
            engine.waiting.begin_sync_mode()

    @property
    def _primary(self) -> AbstractStore:
        return store_of(self.engine, self.engine.primary)

    def _forward(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call the primary's own store with the primary's ids; return its answer with the user's."""
        args, kwargs = self._ids.of_primary(args), self._ids.of_primary(kwargs)
        return self._ids.of_user(getattr(self._primary, method)(*args, **kwargs))

    async def _forward_async(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = self._ids.of_primary(args), self._ids.of_primary(kwargs)
        return await getattr(self._primary, method)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Forward what clients call although MLflow's base class lacks it."""
        if name.startswith("_") or name == "get_host_creds":
            raise AttributeError(name)
        found = getattr(self._primary, name)
        return functools.partial(self._forward, name) if callable(found) else found

    def __reduce__(self) -> tuple[Callable[[str | None], DbmlTrackingStore], tuple[str]]:
        return build, (self.uri,)


def _forwarder(name: str, like: Any) -> Any:
    if isinstance(like, property):
        return property(lambda self: getattr(self._primary, name))
    if inspect.iscoroutinefunction(like):

        async def forward_async(self: DbmlTrackingStore, *args: Any, **kwargs: Any) -> Any:
            return await self._forward_async(name, *args, **kwargs)

        return functools.wraps(like)(forward_async)

    def forward(self: DbmlTrackingStore, *args: Any, **kwargs: Any) -> Any:
        return self._forward(name, *args, **kwargs)

    return functools.wraps(like)(forward)


# MLflow's base class builds these from calls that are ours: forwarded, they would write to the primary alone,
# or miss what is on its way.
_BUILT_FROM_OURS = frozenset({"get_metric_history_bulk_interval", "set_model_versions_tags"})

forward_the_rest(
    DbmlTrackingStore,
    AbstractStore,
    _forwarder,
    lambda name: name.startswith("__") or name in _BUILT_FROM_OURS,
)
DbmlTrackingStore.__abstractmethods__ = frozenset()
