"""Searches by metrics that are NaN: they fulfil no comparison but ``!=``, and sort last both ways.

MLflow's servers keep a run's NaN as 0 with a note beside it, and those before 3.17 compare the 0:
``metrics.loss < 1`` finds a run whose loss is NaN. (Of a logged model's NaN they keep the 0 alone: their own
searches cannot be mended.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

from mlflow.entities import LoggedModel, Run
from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList
from mlflow.utils.search_utils import SearchLoggedModelsUtils, SearchUtils

from dbml_magics.core.mlflow_private import with_fields
from dbml_magics.core.paging import Pages
from dbml_magics.core.run_view import latest_of_each

Clause = dict[str, Any]
"""A dataset or an order of MLflow's search of logged models, as its REST interface has it."""


def compared_metrics(where: str | None) -> frozenset[str]:
    """Return the metrics that a search's filter compares, and NaN with them does not fulfil it."""
    if not where or "metric" not in where.lower():
        return frozenset()
    try:
        parsed = SearchUtils.parse_search_filter(where)
    except MlflowException:  # the workspace refuses it, or knows more than MLflow's servers do
        return frozenset()
    return frozenset(
        str(clause["key"]) for clause in parsed if clause["type"] == "metric" and clause["comparator"] != "!="
    )


def with_numbers_in(
    metrics: Collection[str], page: Callable[[int, str | None], PagedList], most: int, token: str | None
) -> PagedList:
    """Return a page of the runs in which none of some metrics is NaN; more come in the place of others."""
    if not metrics:
        return page(most, token)
    found, pages = list[Run](), Pages()
    while True:
        part = page(most - len(found), token)
        found += [run for run in part if not any(_is_nan(run.data.metrics.get(key, 0.0)) for key in metrics)]
        token = pages.follow(part.token, part)
        if token is None or len(found) >= most:
            return PagedList(found, token)


def search_models(
    models: list[LoggedModel],
    filter_string: str | None,
    datasets: list[Clause] | None,
    max_results: int | None,
    order_by: list[Clause] | None,
    page_token: str | None,
) -> PagedList:
    """Filter, sort and page models here, as a service without logged models cannot."""
    latest, given = [_with_latest(model) for model in models], {model.model_id: model for model in models}
    kept = SearchLoggedModelsUtils.filter_logged_models(latest, filter_string, datasets)
    kept = SearchLoggedModelsUtils.sort([_with_numbers(model) for model in kept], order_by)
    start = int(page_token or 0)
    end = start + (max_results or 100)
    found = [given[model.model_id] for model in kept[start:end]]
    return PagedList(found, str(end) if end < len(kept) else None)


def _with_latest(model: LoggedModel) -> LoggedModel:
    """Return a copy of a logged model with the latest point of each metric, to filter by."""
    shown = copy.copy(model)
    with_fields(shown, metrics=latest_of_each(model.metrics or []))
    return shown


def _with_numbers(model: LoggedModel) -> LoggedModel:
    """Return a copy of a logged model without the metrics that are NaN by now, to sort by."""
    shown = copy.copy(model)
    with_fields(shown, metrics=[point for point in model.metrics or [] if not _is_nan(point.value)])
    return shown


def _is_nan(value: float) -> bool:
    return value != value
