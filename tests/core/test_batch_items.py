"""Journaled writes as the items of a batch: what can be sent, what comes twice, what a receipt counts."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dbml_magics.core.delivery.batching import Batch
from dbml_magics.core.delivery.items import counted, is_plain, items_of, received, without_repeats
from dbml_magics.core.model.operations import (
    CreateRun,
    LogArtifact,
    LogBatch,
    LogMetric,
    LogParam,
    Operation,
    SetTag,
    SetTagAt,
    UpdateRun,
)

POINT = ("loss", 0.5, 1000, 3)


@pytest.mark.parametrize(
    ("op", "items"),
    [
        (LogMetric(*POINT), Batch([POINT])),
        (LogMetric(*POINT, ["m-1", "train", None]), Batch([(*POINT, ["m-1", "train", None])])),
        (LogParam("p", "1"), Batch(params={"p": "1"})),
        (SetTag("t", "ü"), Batch(tags={"t": "ü"})),
        (LogBatch([list(POINT)], {"p": "1"}, {"t": "2"}), Batch([POINT], {"p": "1"}, {"t": "2"})),
        (SetTagAt(["azureml"], "t", "1"), Batch(tags={"t": "1"})),
        (SetTagAt(["databricks"], "t", "1"), Batch()),
        (CreateRun("0", "me", 1, {}), None),
        (LogMetric("loss", 0.5, 1 << 63, 3), None),
        (LogMetric("\ud800", 0.5, 1000, 3), None),
        (LogMetric("loss", 0.5, 1000, 3, ["\ud800", None, None]), None),
        (LogParam("p", "\ud800"), None),
        (LogBatch([["loss", "none", 1, 1]], {}, {}), None),
    ],
)
def test_a_write_adds_its_items_unless_it_travels_alone_or_is_damaged(
    op: Operation, items: Batch | None
) -> None:
    assert items_of(op, "azureml") == items


@pytest.mark.parametrize(
    ("point", "plain"),
    [
        (POINT, True),
        (("loss", math.nan, 1000, -3), True),
        ((*POINT, ["m-1", None, None]), False),
        (("lüss", 0.5, 1000, 3), False),
        (("loss", 1, 1000, 3), False),
        (("loss", 0.5, -1, 3), False),
        (("loss", 0.5, 1000, 1 << 63), False),
        (("loss", 0.5, 1000, True), False),
    ],
)
def test_only_what_can_be_sent_as_it_is_passes_for_plain(point: tuple[Any, ...], plain: bool) -> None:
    assert is_plain(point) is plain


def test_a_point_that_comes_twice_is_one_whatever_its_value() -> None:
    of_a_model, infinite = (*POINT, ["m-1", None, None]), ("loss", math.inf, 1000, 3)
    nan = ("loss", math.nan, 1000, 3)
    given = [POINT, of_a_model, nan, infinite, POINT, ("loss", float("nan"), 1000, 3), infinite, of_a_model]
    assert len(without_repeats(given)) == 4
    assert without_repeats(given)[:2] == [POINT, of_a_model]


def test_a_receipt_counts_what_arrives_by_its_kind() -> None:
    assert counted(Batch([POINT, POINT], {"p": "1"})) == {"points": 2, "params": 1, "tags": 0}
    assert received(LogMetric(*POINT), "azureml") == {"points": 1, "params": 0, "tags": 0}
    assert received(CreateRun("0", "me", 1, {}), "azureml") == {"runs": 1}
    assert received(LogArtifact("run:a", "t.txt", {"size": 1, "data": "eA=="}), "azureml") == {"files": 1}
    assert received(UpdateRun("FINISHED", 1), "azureml") == {"changes": 1}
