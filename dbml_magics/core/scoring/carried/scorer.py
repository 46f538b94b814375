"""One model and what it is asked: predictions of a batch, with the rows apart that it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dbml_magics.core.scoring.carried.answered import WrongType, as_array, joined, kind_of
from dbml_magics.core.scoring.carried.given import as_input, is_missing
from dbml_magics.core.scoring.carried.models import takes_params
from dbml_magics.core.scoring.carried.plan import MARK, Plan
from dbml_magics.core.scoring.carried.refusals import cause_of, place_of_refusal

if TYPE_CHECKING:
    import pandas as pd

    from dbml_magics.core.scoring.carried.models import Model

_SAMPLE = 64  # rows that speak for those that lack the same columns
_HOPELESS = 1000  # complete rows refused one by one, and none accepted: the model does not work at all


class Scorer:
    """One model and what it is asked: Arrow batches in, an Arrow array of as many predictions out."""

    def __init__(self, plan: Plan, model: Model, own: Mapping[str, pd.Series[Any]] | None = None) -> None:
        self.plan = plan
        self.refused = 0
        self.cause: str | None = None  # of the last refusal
        self.result = plan.result
        self._model = model
        self._own = (
            {} if own is None else own
        )  # pandas columns that no type is wanted of: the model gets them as they are
        self._accepted = False
        self._complete = 0  # rows without nulls that were refused, one by one
        self._before = 0  # rows of earlier batches

    def score(self, rows: pa.Table, numbers: Sequence[int] | None = None) -> pa.Array:
        """Return predictions; a row that the model refuses fails the task or, with ``skip``, gets null.

        ``numbers`` are what messages call the rows; by default their places among all that came here.
        """
        if self.plan.params and not takes_params(self._model):
            named = ", ".join(self.plan.params)
            raise RuntimeError(f"{MARK} the model's predict takes no params, and {named} would be dropped")
        before = self._before
        self._before += rows.num_rows
        if rows.num_rows == 0:
            return pa.nulls(0, self.result)
        try:
            found = self._predict(rows)
        except Exception as error:
            if self.plan.skip:
                return self._apart(rows)
            where = "" if isinstance(error, WrongType) else self._place(rows, before, numbers)
            raise RuntimeError(f"{MARK} {cause_of(error)}{where}") from error
        self._accepted = True
        return found

    def _predict(self, rows: pa.Table) -> pa.Array:
        data = as_input(rows, self.plan, self._own)
        params = self.plan.params
        predicted = self._model.predict(data, params=dict(params)) if params else self._model.predict(data)
        if self.result is None:
            kind = kind_of(predicted)
            # Nothing but nulls shows no type yet.
            if not pa.types.is_null(kind):
                self.result = kind
        return as_array(predicted, rows.num_rows, self.result)

    def _place(self, rows: pa.Table, before: int, numbers: Sequence[int] | None) -> str:
        def mixed(row: int, other: int, column: int) -> pa.Table:
            one, value = rows.slice(row, 1), rows.column(column).slice(other, 1)
            return one.set_column(column, rows.schema.field(column), value)

        partition = _partition()

        def label(row: int) -> str:
            if numbers is not None:
                return str(numbers[row])
            return f"{before + row}" + ("" if partition is None else f" of partition {partition}")

        return place_of_refusal(
            self._predict,
            lambda first, last: rows.slice(first, last - first),
            rows.num_rows,
            mixed=mixed,
            names=self.plan.columns,
            label=label,
        )

    def _apart(self, rows: pa.Table) -> pa.Array:
        """Predict for the complete rows together, and for rows with nulls by their missing columns."""
        import numpy as np

        lacking = np.zeros(rows.num_rows, dtype=np.int64)
        for number, column in enumerate(rows.columns):
            own = self._own.get(self.plan.columns[number])
            missing = is_missing(column) if own is None else own.isna().to_numpy()[column.to_numpy()]
            lacking = lacking * 2 + missing if number < 60 else lacking | missing
        places: list[np.ndarray[Any, np.dtype[np.int64]]] = []
        found: list[pa.Array] = []
        for pattern in np.unique(lacking):
            these = np.flatnonzero(lacking == pattern)
            places.append(these)
            found.append(self._isolate(rows.take(pa.array(these)), complete=not pattern))
        order = np.empty(rows.num_rows, dtype=np.int64)
        order[np.concatenate(places)] = np.arange(rows.num_rows)
        return joined(found, self.result).take(pa.array(order))

    def _isolate(self, rows: pa.Table, *, complete: bool) -> pa.Array:
        """Return the predictions of rows that lack the same columns, null for those that are refused."""
        try:
            found = self._predict(rows)
        except Exception as error:
            self.cause = cause_of(error)
            if rows.num_rows == 1:
                return self._refuse(1, complete=complete)
        else:
            self._accepted = True
            return found
        if not complete and rows.num_rows > 2 * _SAMPLE and self._refuses_each(rows):
            return self._refuse(rows.num_rows, complete=False)
        half = rows.num_rows // 2
        parts = (rows.slice(0, half), rows.slice(half))
        return joined([self._isolate(part, complete=complete) for part in parts], self.result)

    def _refuse(self, count: int, *, complete: bool) -> pa.Array:
        self.refused += count
        self._complete += count if complete else 0
        if self._complete >= _HOPELESS and not self._accepted:
            raise RuntimeError(f"{MARK} the model refuses every row: {self.cause}")
        return pa.nulls(count, self.result)

    def _refuses_each(self, rows: pa.Table) -> bool:
        step = rows.num_rows // _SAMPLE
        for number in range(_SAMPLE):
            try:
                self._predict(rows.slice(number * step, 1))
            except Exception:
                continue
            return False
        return True


def _partition() -> int | None:
    """Return the number of the partition that a worker of Spark's works on; None elsewhere."""
    try:
        from pyspark import TaskContext

        context = TaskContext.get()
        return None if context is None else int(context.partitionId())
    except Exception:
        return None
