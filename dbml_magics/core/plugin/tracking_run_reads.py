"""The tracking store's reads of many points or runs: a metric's history, searches of runs."""

from __future__ import annotations

from mlflow.entities import Metric, Run, ViewType
from mlflow.entities.metric import MetricWithRunId
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.store.entities.paged_list import PagedList
from mlflow.utils.search_utils import SearchUtils

from dbml_magics.core.delivery.writers.side import Side
from dbml_magics.core.model.sendable import required
from dbml_magics.core.plugin.asked import store_of
from dbml_magics.core.plugin.filters import own_filter
from dbml_magics.core.plugin.not_numbers import compared_metrics, with_numbers_in
from dbml_magics.core.plugin.tracking_family import MethodFamily
from dbml_magics.core.run_view import RunView, as_history


class RunReadMethods(MethodFamily):
    """Reads of points and runs: from a live run's view, else from the primary or the mirror."""

    def get_metric_history(
        self, run_id: str, metric_key: str, max_results: int | None = None, page_token: str | None = None
    ) -> PagedList[Metric]:
        """Return a metric's history, with what of it is on its way."""
        required("run_id", run_id)
        view = self.engine.runs.view_of(run_id)
        if view is None:
            page = self.engine.asking.read(
                lambda a: store_of(self.engine, a).get_metric_history(
                    a.ids.known_run(run_id), metric_key, max_results, page_token
                )
            )
            return PagedList(page, getattr(page, "token", None))
        if max_results is not None and max_results < 1:
            raise MlflowException(
                f"Invalid value {max_results} for parameter 'max_results' supplied. "
                "It must be a positive integer.",
                INVALID_PARAMETER_VALUE,
            )
        points = self._history_of(view, metric_key)
        start = SearchUtils.parse_start_offset_from_page_token(page_token)
        end = len(points) if max_results is None else start + max_results
        token = SearchUtils.create_page_token(end) if end < len(points) else None
        return PagedList(points[start:end], token)

    def _history_of(self, view: RunView, key: str) -> list[Metric]:
        series = view.series.get(key)
        own = [] if series is None else [series.metric(key, n) for n in range(len(series))]
        if key not in view.from_base:
            return as_history(own)
        base = self.engine.asking.read(lambda a: a.reader.history(a.ids.known_run(view.run_id), key))
        return as_history([*base, *own])

    def get_metric_history_bulk_interval_from_steps(
        self, run_id: str, metric_key: str, steps: list[int], max_results: int
    ) -> list[MetricWithRunId]:
        """Return the points of some steps."""
        wanted = set(steps)
        points = [m for m in self.get_metric_history(run_id, metric_key) if m.step in wanted]
        found = [MetricWithRunId(run_id=run_id, metric=m) for m in points]
        return sorted(found, key=lambda m: (m.step, m.timestamp))[:max_results]

    def search_runs(
        self,
        experiment_ids: list[str],
        filter_string: str | None = None,
        run_view_type: int = ViewType.ACTIVE_ONLY,
        max_results: int = 1000,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[Run]:
        """Search at the primary once it has caught up, or at the mirror."""
        self.engine.waiting.wait_for_reads("search_runs")
        compared = compared_metrics(filter_string)

        def ask(side: Side) -> PagedList[Run]:
            ids = self._experiments.searched_at(side, [str(each) for each in experiment_ids])
            if ids is None:
                return PagedList([], None)
            where = own_filter(side, filter_string)

            def page_of(most: int, token: str | None) -> PagedList[Run]:
                return store_of(self.engine, side).search_runs(
                    ids, where, run_view_type, most, order_by, token
                )

            page = with_numbers_in(compared, page_of, max_results, page_token)
            runs = [self.engine.runs.translate_run(run, role=side.role) for run in page]
            return PagedList(runs, page.token)

        return self.engine.asking.read(ask)
