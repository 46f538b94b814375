"""azureml-mlflow's stores, each call made once, with what the service cannot do done here."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from mlflow.entities import LifecycleStage, Run, ViewType
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import FEATURE_DISABLED
from mlflow.store.entities.paged_list import PagedList
from mlflow.utils.rest_utils import MlflowHostCreds
from mlflow.utils.search_utils import SearchModelUtils, SearchModelVersionUtils, SearchUtils

from dbml_magics.common.fork_locks import ForkLock
from dbml_magics.core.azure.azureml_mlflow_private import AzureMLflowModelRegistry, AzureMLRestStore
from dbml_magics.core.destinations import rest
from dbml_magics.core.destinations.aliases import AliasesAsTags
from dbml_magics.core.destinations.azureml_searches import (
    asks_for_metrics,
    filtered_runs,
    needs_sorting_here,
    refused_as_unsupported,
)
from dbml_magics.core.destinations.errors import MissingEndpoint
from dbml_magics.core.destinations.limits import AZUREML
from dbml_magics.core.destinations.model_names import LegalModelNames
from dbml_magics.core.paging import Pages, entries

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.entities.model_registry import ModelVersion

    from dbml_magics.core.azure.azureml_mlflow_private import ServiceContext

_PAGE = 1000
_OURS = "here-"  # before the token of a page that was sorted here

# azure-sdk-for-python#39198 tells no time: what was sent longer ago counts as known to searches.
_LAG_S = 120.0
_MOST = 30  # runs, the newest, that are asked for one by one


class MetricJson(TypedDict):
    """A point as a log-batch sends it, as far as it is read here."""

    key: str
    value: float
    timestamp: int
    step: int


class RecentWrites:
    """The metrics that were sent lately, which a search of Azure ML's does not show at once."""

    def __init__(self) -> None:
        self._lock = ForkLock()
        self._sent: dict[str, tuple[float, dict[str, tuple[int, int, float]]]] = {}

    def note(self, run: str, points: Iterable[MetricJson]) -> None:
        """Remember the latest of the points that were sent of a run."""
        with self._lock:
            _, latest = self._sent.pop(run, (0.0, {}))
            for point in points:
                at = (point["step"], point["timestamp"], point["value"])
                if point["key"] not in latest or latest[point["key"]][:2] <= at[:2]:
                    latest[point["key"]] = at
            self._sent[run] = (time.monotonic(), latest)  # the newest last
            while len(self._sent) > _MOST:
                del self._sent[next(iter(self._sent))]

    def runs(self) -> list[str]:
        """Return the runs that were sent metrics lately."""
        with self._lock:
            early = time.monotonic() - _LAG_S
            self._sent = {run: sent for run, sent in self._sent.items() if sent[0] > early}
            return list(self._sent)

    def is_in(self, run: Run) -> bool:
        """Tell whether a run that a search gave has the latest of what was sent."""
        with self._lock:
            _, latest = self._sent.get(run.info.run_id, (0.0, {}))
            known = run.data.metrics
            return all(known.get(key) == at[2] for key, at in latest.items())


class AzuremlTracking(rest.TrackingCalls, AzureMLRestStore):  # type: ignore[misc]
    """Azure ML's tracking store."""

    def __init__(self, context: ServiceContext, creds: Callable[[], MlflowHostCreds]) -> None:
        super().__init__(context, host_creds=creds)
        self._recent_writes = RecentWrites()

    def send_batch(self, body: Mapping[str, Any]) -> None:
        """Send a log-batch, and remember which of its metrics a search may not show yet."""
        super().send_batch(body)
        if body.get("metrics"):
            self._recent_writes.note(str(body["run_id"]), body["metrics"])

    def search_runs(
        self,
        experiment_ids: list[str],
        filter_string: str | None = None,
        run_view_type: int = ViewType.ACTIVE_ONLY,
        max_results: int = _PAGE,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList:
        """Search runs; sorted and filtered here where the service cannot, or does not know the newest yet."""
        ours = (page_token or "").startswith(_OURS)
        lately = self._recent_writes.runs()
        if ours or (lately and asks_for_metrics(filter_string, order_by)):
            token = (page_token or "").removeprefix(_OURS) or None
            return self._searched_here(
                experiment_ids, filter_string, run_view_type, max_results, order_by, token, lately
            )
        found = self._searched(
            experiment_ids, filter_string, run_view_type, max_results, order_by, page_token
        )
        return PagedList([self._complete(run, lately) for run in found], found.token)

    def _complete(self, run: Run, lately: Collection[str]) -> Run:
        """Return a run that a search gave with the metrics that the search does not know yet."""
        if run.info.run_id not in lately or self._recent_writes.is_in(run):
            return run
        try:
            return self.get_run(run.info.run_id)
        except MlflowException:
            return run

    def _searched_here(
        self,
        experiment_ids: list[str],
        where: str | None,
        run_view_type: int,
        max_results: int,
        order_by: list[str] | None,
        page_token: str | None,
        lately: Collection[str],
    ) -> PagedList:
        """Search where metrics decide: the runs that were written to lately are judged as they are."""
        found: dict[str, Run] = {}
        for each in entries(
            lambda token: self._searched(experiment_ids, where, run_view_type, _PAGE, None, token)
        ):
            found[each.info.run_id] = each
        stages = LifecycleStage.view_type_to_stages(run_view_type)
        for run_id in lately:
            run = found.pop(run_id, None)
            if run is None or not self._recent_writes.is_in(run):
                try:
                    run = self.get_run(run_id)
                except MlflowException:
                    continue
            if run.info.experiment_id in experiment_ids and run.info.lifecycle_stage in stages:
                found |= {each.info.run_id: each for each in SearchUtils.filter([run], where)}
        runs = SearchUtils.sort(list(found.values()), order_by)
        runs, following = SearchUtils.paginate(runs, page_token, max_results)
        if isinstance(following, bytes):
            following = following.decode()
        return PagedList(runs, f"{_OURS}{following}" if following else None)

    def _searched(
        self,
        experiment_ids: list[str],
        filter_string: str | None,
        run_view_type: int,
        max_results: int,
        order_by: list[str] | None,
        page_token: str | None,
    ) -> PagedList:
        """Search runs as far as the service knows them."""

        def fetch(where: str | None, token: str | None) -> PagedList:
            return super(AzuremlTracking, self).search_runs(
                experiment_ids, where, run_view_type, _PAGE, None, token
            )

        if not needs_sorting_here(order_by):
            try:
                return super().search_runs(
                    experiment_ids, filter_string, run_view_type, max_results, order_by, page_token
                )
            except MlflowException as error:
                if not refused_as_unsupported(error):
                    raise
        return filtered_runs(fetch, filter_string, order_by, max_results, page_token)

    def get_metric_history(
        self, run_id: str, metric_key: str, max_results: int | None = None, page_token: str | None = None
    ) -> PagedList:
        """Return a metric's points, in pages that the service gives (mlflow#10694)."""
        found: list[Metric] = []
        token, most, pages = page_token, max_results, Pages()
        while True:
            size = AZUREML.history_page if most is None else min(most - len(found), AZUREML.history_page)
            page = super().get_metric_history(run_id, metric_key, size, token)
            token = pages.follow(getattr(page, "token", None), page)
            found.extend(page)
            if token is None or (most is not None and len(found) >= most):
                return PagedList(found, token)


class _Registry(rest.RegistryCalls, AzureMLflowModelRegistry):  # type: ignore[misc]
    """azureml-mlflow's registry, each call made once."""


class AzuremlRegistry(AliasesAsTags, LegalModelNames, _Registry):
    """Azure ML's registry: aliases are tags of ours where it refuses them, any model has a legal name."""

    def __init__(self, context: ServiceContext, creds: Callable[[], MlflowHostCreds]) -> None:
        super().__init__(context, host_creds=creds)

    # --- what it cannot do

    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        """Rename a registered model, where the service can."""
        try:
            return super().rename_registered_model(name, new_name)
        except MissingEndpoint as error:
            raise MlflowException(
                "Azure ML cannot rename a registered model: register its versions under the new name",
                FEATURE_DISABLED,
            ) from error

    def delete_registered_model(self, name: str) -> None:
        """Delete a registered model, where the service can."""
        try:
            super().delete_registered_model(name)
        except MissingEndpoint as error:
            raise MlflowException(
                "Azure ML cannot delete a whole registered model: delete its versions", FEATURE_DISABLED
            ) from error

    # --- searches

    def search_registered_models(
        self,
        filter_string: str | None = None,
        max_results: int | None = None,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList:
        """Search registered models; filtered and sorted here where the service cannot."""
        native = super().search_registered_models
        try:
            return native(filter_string, max_results, order_by, page_token)
        except MlflowException as error:
            if not refused_as_unsupported(error):
                raise
        found = SearchModelUtils.filter(self._everything(native), filter_string)
        return _paged(SearchModelUtils.sort(found, order_by), max_results, page_token)

    def search_model_versions(
        self,
        filter_string: str | None = None,
        max_results: int | None = None,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList:
        """Search versions; filtered and sorted here where the service cannot."""
        native = super().search_model_versions
        try:
            return native(filter_string, max_results, order_by, page_token)
        except MlflowException as error:
            if not refused_as_unsupported(error):
                raise
        found = SearchModelVersionUtils.filter(self._everything(native), filter_string)
        return _paged(SearchModelVersionUtils.sort(found, order_by), max_results, page_token)

    def _everything(self, native: Callable[..., PagedList]) -> list[RegisteredModel | ModelVersion]:
        return list(entries(lambda token: native(None, 100, None, token)))


def _paged(
    found: list[RegisteredModel | ModelVersion], max_results: int | None, page_token: str | None
) -> PagedList:
    page, token = SearchUtils.paginate(found, page_token, max_results or 100)
    return PagedList(page, token)
