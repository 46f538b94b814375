"""Searches that Azure ML refuses to filter or to sort: done here."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList
from mlflow.utils.search_utils import SearchUtils

from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.paging import entries

_CANNOT = re.compile(r"unsupported|not supported|do not support", re.I)
_METRIC = re.compile(r"(?<![\w.])metrics?\s*\.", re.I)
_METRIC_PARAM_TAG = re.compile(r"^\W*(metrics?|params?|parameters?|tags?)\b", re.I)


def filtered_runs(
    fetch: Callable[[str | None, str | None], PagedList],
    where: str | None,
    order_by: list[str] | None,
    max_results: int,
    page_token: str | None,
) -> PagedList:
    """Search runs that the service cannot sort (or filter) itself: fetch all, then sort, filter, page here.

    ``fetch(filter, token)`` returns one page in the service's own order.
    """
    runs: list[Run] = []
    for native in dict.fromkeys((where, None)):
        try:
            runs = list(entries(functools.partial(fetch, native)))
            break
        except MlflowException as error:
            if isinstance(error, Unavailable) or native is None or not _CANNOT.search(str(error)):
                raise
    if where and native is None:
        runs = SearchUtils.filter(runs, where)
    runs = SearchUtils.sort(runs, order_by)
    page, token = SearchUtils.paginate(runs, page_token, max_results)
    return PagedList(page, token)


def needs_sorting_here(order_by: list[str] | None) -> bool:
    """Tell whether an order is one that the service refuses."""
    return any(_METRIC_PARAM_TAG.match(clause) for clause in order_by or [])


def asks_for_metrics(where: str | None, order_by: list[str] | None) -> bool:
    """Tell whether a search's filter or order refers to metrics."""
    text = re.sub(r"'[^']*'", "''", where or "")
    return bool(_METRIC.search(text)) or any(_METRIC.search(clause) for clause in order_by or [])


def refused_as_unsupported(error: MlflowException) -> bool:
    """Tell whether the service says that it cannot search so."""
    return not isinstance(error, Unavailable) and _CANNOT.search(str(error)) is not None
