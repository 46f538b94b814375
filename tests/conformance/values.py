"""Turn what MLflow answers into plain values that two servers' answers can be compared by.

:func:`freeze` copies an answer at once, since entities change and files vanish. :class:`Names` then replaces
what differs between any two servers (ids, times of now, addresses) by names in the order of appearance.
"""

from __future__ import annotations

import enum
import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

import numpy as np
import pandas as pd
from mlflow.entities._mlflow_object import _MlflowObject
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.utils.async_logging.run_operations import RunOperations

Frozen = Union[None, bool, int, float, str, "list[Frozen]", "dict[str, Frozen]"]

ID = r"(?<![0-9a-zA-Z])(?:m-)?[0-9a-f]{32}(?![0-9a-zA-Z])"
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
FILES = re.compile(
    rf"(?:dbml://[0-9a-f]+/(?:runs|models)|mlflow-artifacts:/[^/\s\"']+(?:/models)?)/({ID})/artifacts"
)
EXPERIMENT_FILES = re.compile(r"mlflow-artifacts:/\d+(?![\w/])")
UUID = re.compile(r"(?<![0-9a-f])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9a-f])")
GENERATED = re.compile(r"[a-z]+-[a-z]+-\d{1,4}")
NOW = 1_700_000_000_000  # times after this one are the clock's, those before it a story's own
DEPTH = 12

TIMES = re.compile(r"(^|_)(time|timestamp|time_created|timestamp_ms)$")
UNORDERED = ("dataset_inputs", "model_inputs", "model_outputs", "tags", "metrics", "params", "aliases")
DURATIONS = re.compile(r"(fit|score)_time$|runtime$|_per_second$")
CHANGING = re.compile(r"^estimator\.html$|^cv_results\.csv$|\.(pth|keras)$")
NAMES_OF_RUNS = ("name", "run_name", "mlflow.runName", "tags.mlflow.runName")


def freeze(value: Any, depth: int = 0) -> Frozen:
    """Copy an answer of MLflow's into plain values."""
    if depth > DEPTH:
        return "…"
    if value is None or isinstance(value, (bool, int, str)):
        return value if not isinstance(value, enum.Enum) else f"{type(value).__name__}.{value.name}"
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, np.generic):
        return freeze(value.item(), depth + 1)
    if isinstance(value, np.ndarray):
        return {"array": str(value.dtype), "values": freeze(value.tolist(), depth + 1)}
    if isinstance(value, pd.Timestamp):
        return "never" if pd.isna(value) else {"timestamp": int(value.timestamp() * 1000)}
    if value is pd.NaT:
        return "never"
    if isinstance(value, pd.DataFrame):
        columns: list[Frozen] = [*sorted(map(str, value.columns))]
        return {
            "columns": columns,
            "rows": [
                {str(key): freeze(each, depth + 1) for key, each in row.items()}
                for row in value.to_dict("records")
            ],
        }
    if isinstance(value, BaseException):
        return failure(value)
    if isinstance(value, RunOperations):
        value.wait()
        return "operations"
    if isinstance(value, PagedList):
        return {"page": [freeze(each, depth + 1) for each in value], "more": bool(value.token)}
    if isinstance(value, Mapping):
        return {str(key): freeze(each, depth + 1) for key, each in value.items()}
    if isinstance(value, Path):
        return tree(value)
    if isinstance(value, bytes):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, (set, frozenset)):
        return sorted((freeze(each, depth + 1) for each in value), key=str)
    if isinstance(value, (list, tuple)):
        return [freeze(each, depth + 1) for each in value]
    return {"is": kind_of(value), **_properties(value, depth)}


def kind_of(value: object) -> str:
    """Return the class that MLflow documents: an ActiveRun is one on both, a subclass of ours is its base."""
    own = [c.__name__ for c in type(value).__mro__ if c.__module__.split(".")[0] != "dbml_magics"]
    return own[0]


def _properties(value: object, depth: int) -> dict[str, Frozen]:
    own = type(value)
    names = [
        name
        for name in dir(own)
        if not name.startswith("_") and isinstance(getattr(own, name, None), property)
    ]
    if not names and not isinstance(value, _MlflowObject):
        names = [name for name in getattr(value, "__dict__", {}) if not name.startswith("_")]
    held: dict[str, Frozen] = {}
    for name in names:
        try:
            held[name] = freeze(getattr(value, name), depth + 1)
        except Exception as error:  # a property that asks somebody
            held[name] = failure(error)
    return held


def failure(error: BaseException) -> Frozen:
    """Return an error's class and code: a server's refusal and a client's own are told by the code alone."""
    if isinstance(error, MlflowException):
        return {"error": "MlflowException", "code": str(error.error_code)}
    return {"error": kind_of(error), "code": ""}


def tree(folder: Path) -> Frozen:
    """Return what a file, or each file of a folder, holds."""
    if folder.is_file():
        return {"file": folder.name, "holds": content(folder)}
    return {
        "folder": {
            each.relative_to(folder).as_posix(): content(each)
            for each in sorted(folder.rglob("*"))
            if each.is_file()
        }
    }


_VARIES = re.compile(r"(utc_time_created|model_size_bytes|model_uuid|databricks_runtime): .*")


def content(path: Path) -> str:
    """Return a file's text, or the hash of what is none; what varies in an MLmodel is left out."""
    if CHANGING.search(path.name):
        return "other bytes each time"
    held = path.read_bytes()
    try:
        text = held.decode()
    except UnicodeDecodeError:
        return f"sha256 {hashlib.sha256(held).hexdigest()}"
    return _VARIES.sub(r"\1: …", text) if path.name == "MLmodel" else text


class Names:
    """Names for what a server calls otherwise than another: ids, in the order in which they appear."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._experiments: dict[str, str] = {}
        self._twins: Mapping[str, str] = {}
        self.step = "what stands"  # where a new id appears

    def at(self, twins: Mapping[str, str], experiments: Mapping[str, str]) -> Names:
        """Return the same names for what stands at a server.

        ``twins`` has the id that the user knows of what has another one there, ``experiments`` the name of
        each experiment there.
        """
        other = Names()
        other._ids, other._twins = self._ids, twins
        other._experiments = {own: f"experiment {name}" for own, name in experiments.items()}
        return other

    def id(self, own: str) -> str:
        """Return the name of an id; a new one if it was never seen."""
        own = self._twins.get(own, own)
        if own not in self._ids:
            self._ids[own] = self._new("model" if own.startswith("m-") else "run", self._ids)
        return self._ids[own]

    def knows(self, own: str) -> bool:
        """Tell whether an id appeared before."""
        return self._twins.get(own, own) in self._ids

    def experiment(self, own: str) -> str:
        """Return the name of an experiment's id."""
        if own == "0":
            return "experiment 0"
        if own not in self._experiments:
            self._experiments[own] = self._new("experiment", self._experiments)
        return self._experiments[own]

    def _new(self, kind: str, names: Mapping[str, str]) -> str:
        """Return a name that tells where it appeared first, so that one more or less moves no other."""
        name = f"{kind} of {self.step}"
        same = sum(each == name or each.startswith(f"{name}, ") for each in names.values())
        return f"{name}, {same + 1}" if same else name

    def text(self, text: str) -> str:
        """Return a text with names in place of ids and addresses."""
        text = FILES.sub(lambda found: f"files of {self.id(found[1])}", text)
        text = EXPERIMENT_FILES.sub("files of the experiment", text)
        text = UUID.sub("an-uuid", text)
        text = ADDRESS.sub("http://server", text)
        return re.sub(ID, lambda found: self.id(found[0]), text)

    def value(self, value: Frozen, key: str = "") -> Frozen:
        """Return a frozen value with names in place of what differs between servers."""
        if value is not None and DURATIONS.search(key):
            return "a duration"
        if isinstance(value, dict):
            if DURATIONS.search(str(value.get("key", ""))):
                return {"key": value["key"], "value": "a duration"}
            return {self.text(k): self.value(each, k) for k, each in value.items()}
        if isinstance(value, list):
            listed = [self.value(each, key) for each in value]
            return sorted(listed, key=str) if key in UNORDERED else listed
        if isinstance(value, str):
            if key in ("experiment_id", "experiment_ids"):
                return self.experiment(value)
            if TIMES.search(key) and value[:2] == "20":
                return "now"
            if key in NAMES_OF_RUNS and GENERATED.fullmatch(value):
                return "a generated name"
            return self.text(value)
        if type(value) in (int, float) and TIMES.search(key) and float(str(value)) > NOW:
            return "now"
        return value


def _alike(one: dict[str, Frozen], other: dict[str, Frozen]) -> bool:
    """Tell whether two dictionaries are of one kind, so that their fields are compared one by one."""
    return one.get("is") == other.get("is") and not {"error"} & {*one, *other}


def differences(expected: Frozen, found: Frozen, where: str = "") -> list[tuple[str, Frozen, Frozen]]:
    """Return (where, expected, found) of each leaf that differs."""
    if type(expected) is type(found):
        if isinstance(expected, dict) and isinstance(found, dict) and _alike(expected, found):
            at = f"{where}." if where else ""
            listed = []
            for key in [*expected, *(k for k in found if k not in expected)]:
                listed += differences(expected.get(key, "absent"), found.get(key, "absent"), f"{at}{key}")
            return listed
        if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
            listed = []
            for number, (one, other) in enumerate(zip(expected, found, strict=True)):
                listed += differences(one, other, f"{where}[{number}]")
            return listed
    return [] if expected == found and type(expected) is type(found) else [(where, expected, found)]
