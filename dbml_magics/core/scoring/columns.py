"""Which columns of the data the model is given, and as what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeAlias

import pyarrow as pa

from dbml_magics.common.hints import Remedy, amended
from dbml_magics.core.model.mlmodel import ColumnSpec, missing_columns
from dbml_magics.core.scoring.types import fits, of_spec, simple
from dbml_magics.errors import BadCommand, BadData

__all__ = ["Kinds", "Match", "check_output", "match"]

_HELP = (Remedy("help", "score"), "what it takes")


Kinds: TypeAlias = Mapping[str, "pa.DataType | None"]
"""The Arrow types of the data's columns, None where one has none."""


@dataclass(frozen=True)
class Match:
    """The data's columns in the model's order, the model's names for them, and the types that it wants."""

    columns: tuple[str, ...]
    names: tuple[str, ...]
    wanted: tuple[pa.DataType | None, ...]
    shape: str = "frame"  # "array": one array of all columns; "arrays": an array by name
    notes: tuple[str, ...] = ()


def match(inputs: Sequence[ColumnSpec], have: Kinds, chosen: Sequence[str] = ()) -> Match:
    """Match the data's columns (name → Arrow type, None where it has none) with a signature's inputs.

    ``chosen`` are the columns that the user names: by the model's own names in any order, or as many as the
    model has, in its order. Raises BadData when a column is missing or of another type, BadCommand for
    ``chosen``.
    """
    picked = [_known(name, have, chosen) for name in chosen]
    if len(set(picked)) < len(picked):
        once = ",".join(dict.fromkeys(picked))
        raise BadCommand(
            "--columns names a column twice.", remedies=[amended("score", "MODEL", columns=once)]
        )
    if inputs and inputs[0].get("name") is not None:
        return _named(inputs, have, picked)
    if inputs:
        return _unnamed(inputs, have, picked)
    found = picked or list(have)
    if not found:
        raise BadData("the data has no columns.", remedies=[_HELP])
    return Match(tuple(found), tuple(found), (None,) * len(found))


def _known(name: str, have: Kinds, chosen: Sequence[str]) -> str:
    """Return the data's own spelling of a column: Spark's names and Hive's know no case."""
    if name in have:
        return name
    alike = [each for each in have if each.lower() == name.lower()]
    if len(alike) == 1:
        return alike[0]
    near = get_close_matches(name, have, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else f" It has {_list(list(have))}." if have else ""
    meant = [near[0] if each == name else each for each in chosen] if near else list(have)[: len(chosen)]
    raise BadData(
        f"--columns names {name!r}, and the data has no such column.{hint}",
        remedies=[(amended("score", "MODEL", columns=",".join(meant)), "" if near else "for example")],
    )


def _named(inputs: Sequence[ColumnSpec], have: Kinds, picked: list[str]) -> Match:
    names = [str(each["name"]) for each in inputs]
    notes = []
    if picked and {each.lower() for each in picked} != {each.lower() for each in names}:
        if len(picked) != len(names):
            raise BadCommand(
                f"--columns names {len(picked)}, and the model takes {len(names)}: {_list(names)}.",
                remedies=[_HELP],
            )
        found: dict[str, str] = dict(zip(names, picked, strict=True))
        renamed = [f"{column} as {name}" for name, column in found.items() if name.lower() != column.lower()]
        notes.append(f"the model is given {_list(renamed)}")
    else:
        found = {name: column for name in names if (column := _alike(name, picked or list(have))) is not None}
    optional = {str(each["name"]) for each in inputs if each.get("required") is False or each.get("optional")}
    missing = [
        each for each in inputs if str(each["name"]) not in found and str(each["name"]) not in optional
    ]
    if missing:
        raise BadData(
            missing_columns(missing, [c for c in have if c not in found.values()], len(names)),
            remedies=[_HELP],
        )
    present = [each for each in inputs if str(each["name"]) in found]
    columns = tuple(found[str(each["name"])] for each in present)
    wanted = tuple(of_spec(each) for each in present)
    _check_types(columns, wanted, have)
    notes += _narrowed(columns, wanted, have)
    shape = "arrays" if inputs[0].get("type") == "tensor" else "frame"
    return Match(columns, tuple(str(each["name"]) for each in present), wanted, shape, tuple(notes))


def _alike(name: str, columns: Sequence[str]) -> str | None:
    if name in columns:
        return name
    alike = [each for each in columns if each.lower() == name.lower()]
    return alike[0] if len(alike) == 1 else None


def _unnamed(inputs: Sequence[ColumnSpec], have: Kinds, picked: list[str]) -> Match:
    tensor = inputs[0].get("type") == "tensor"
    if not tensor:
        width, wanted = len(inputs), [of_spec(each) for each in inputs]
    else:
        shape = list((inputs[0].get("tensor-spec") or {}).get("shape") or [-1])
        element = of_spec({"type": "tensor", "tensor-spec": {**inputs[0]["tensor-spec"], "shape": [-1]}})
        width, wanted = (shape[1] if len(shape) == 2 else 1), [element]
        if len(shape) > 2 or (len(shape) == 2 and len(picked or have) == 1 and shape[1] != 1):
            width, wanted = 1, [of_spec(inputs[0])]  # one column whose values are arrays
    columns = picked or list(have)
    if width < 0:
        width = len(columns)
    if len(columns) != width:
        raise BadData(
            f"the model takes {width} columns that have no names in its signature, and there are "
            f"{len(columns)}: say which ones, in its order.",
            remedies=[(amended("score", "MODEL", columns=",".join(list(have)[:width])), "for example")],
        )
    kinds = wanted * width if tensor and len(wanted) == 1 else wanted
    _check_types(columns, kinds, have)
    names = tuple(columns) if tensor else tuple(str(number) for number in range(width))
    return Match(tuple(columns), names, tuple(kinds), "array" if tensor else "frame")


def _check_types(columns: Sequence[str], wanted: Sequence[pa.DataType | None], have: Kinds) -> None:
    wrong = [
        f"{name} is {simple(have[name])}, and the model wants {simple(kind)}"
        for name, kind in zip(columns, wanted, strict=True)
        if not fits(have[name], kind)
    ]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise BadData(
            f"the data does not have the model's types: {'; '.join(wrong[:5])}{more}.",
            remedies=[
                (amended("score", "MODEL", columns="a,b"), "names other columns, in the model's order")
            ],
        )


def _narrowed(columns: Sequence[str], wanted: Sequence[pa.DataType | None], have: Kinds) -> list[str]:
    """Say which columns lose digits or may not fit on the way to the model."""
    found = []
    for name, kind in zip(columns, wanted, strict=True):
        own = have[name]
        if own is None or kind is None or own.equals(kind):
            continue
        lossy = pa.types.is_float32(kind) and not (pa.types.is_float32(own) or pa.types.is_float16(own))
        if lossy and not (pa.types.is_integer(own) and own.bit_width <= 16):
            found.append(f"{name} is {simple(own)} and is rounded to the model's {simple(kind)}")
    return found


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def check_output(column: str, have: Sequence[str]) -> None:
    """Raise BadCommand when the data has a column of the name that the predictions are to get."""
    if column.lower() not in {each.lower() for each in have}:
        return
    free, number = f"{column}_2", 2
    while free.lower() in {each.lower() for each in have}:
        number += 1
        free = f"{column}_{number}"
    raise BadCommand(
        f"the data has a column {column} already, and nothing is overwritten.",
        remedies=[(amended("score", "MODEL", as_=free), "names the predictions otherwise")],
    )
