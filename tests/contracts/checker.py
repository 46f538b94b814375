"""Hold an exchange, a request and its answer, against the contracts of ``tests/contracts/data``.

A stand-in calls :meth:`Checker.check` on each exchange. What the services' own descriptions say must hold of
both sides: known method, path and api-version; bodies of the declared types, with their required fields, no
unknown ones, known values of enumerations; nothing read-only written; nothing create-only changed by an
update; declared success codes and headers. A deviation is allowed by a line of ``allowed.txt``, and so is an
area that no contract describes; every other one is kept in ``unallowed``.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs

from jsonschema import Draft202012Validator, ValidationError, validators

__all__ = ["ALLOWED", "Checker", "Contract", "Description", "Exchange", "Line", "read_allowed"]

DATA = Path(__file__).parent / "data"
ALLOWED = Path(__file__).parent / "allowed.txt"
REFUSED_BODY = (400, 413, 415, 422)
"""Where the service refuses a body, the request is not held against the contract: a test sent it so."""
SOFT_HEADERS = {"Retry-After"}
"""Headers that the descriptions declare and the services leave out in recorded exchanges."""
FORMATS = {
    "duration": {
        "type": "string",
        "pattern": r"^-?P(\d+Y)?(\d+M)?(\d+W)?(\d+D)?(T(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?$",
    },
    "time": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"},
    "any": {},
}
SIMPLE = ("string", "integer", "number", "boolean")


@dataclass(frozen=True)
class Exchange:
    """A request and its answer."""

    method: str
    path: str
    query: str
    sent: bytes
    status: int
    headers: Mapping[str, str]
    answered: bytes

    @property
    def version(self) -> str:
        return parse_qs(self.query).get("api-version", [""])[0]

    @property
    def fields(self) -> dict[str, None]:
        """Return the names in the query; their values, all text there, are left out."""
        return dict.fromkeys(parse_qs(self.query, keep_blank_values=True))


@dataclass(frozen=True)
class Line:
    """One line of ``allowed.txt``."""

    kind: str  # "area": no contract describes it; "deviation": it is known to differ
    pattern: re.Pattern[str]
    reason: str
    full: bool = False  # only tests that are marked ``full`` come to it

    @property
    def key(self) -> str:
        return f"{self.kind} {self.pattern.pattern}"


def read_allowed(path: Path = ALLOWED) -> list[Line]:
    """Read the lines ``kind | expression | reason``; ``full`` before the kind is of full runs."""
    lines = []
    for row in path.read_text().splitlines():
        if not row or row.startswith("#"):
            continue
        kind, pattern, reason = (part.strip() for part in row.split(" | "))
        assert reason, f"{path.name}: no reason in {row!r}"
        full, kind = kind.startswith("full "), kind.removeprefix("full ")
        assert kind in ("area", "deviation"), f"{path.name}: {row!r}"
        lines.append(Line(kind, re.compile(pattern, re.I), reason, full))
    return lines


class Description(Protocol):
    """What describes a service: a file of ``data``, or the messages of a library."""

    def find(self, method: str, path: str) -> Iterator[dict[str, Any]]: ...

    def problems(self, side: str, operation: dict[str, Any], body: Any) -> Iterator[str]: ...

    def created(self, operation: dict[str, Any], body: Any) -> dict[str, Any]: ...


class Contract:
    """One service's description: which operations there are, and whether a body is of a type."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.operations = [
            (re.compile(re.sub(r"\{[^/]+?\}", "[^/]+", each["path"].lower())), each)
            for each in facts["operations"]
        ]
        schemas = {name: {"enum": values} for name, values in facts["enums"].items()}
        schemas |= {name: _schema(entry) for name, entry in facts["types"].items()}
        self._schemas = schemas
        self._validators: dict[tuple[str, str], Any] = {}

    def find(self, method: str, path: str) -> Iterator[dict[str, Any]]:
        """Yield the operations of a method and a path (in lower case)."""
        return (
            each for pattern, each in self.operations if each["method"] == method and pattern.fullmatch(path)
        )

    def problems(self, side: str, operation: dict[str, Any], body: Any) -> Iterator[str]:
        """Yield what is wrong with the body of a ``request`` or ``answer``."""
        kind = operation["body" if side == "request" else "answer"]
        for error in self._validator(side, kind).iter_errors(without_nulls(body)):
            where = "".join("[]" if isinstance(each, int) else f".{each}" for each in error.absolute_path)
            yield from _said(where.lstrip("."), error)

    def created(self, operation: dict[str, Any], body: Any) -> dict[str, Any]:
        """Return the create-only fields of a body, by their places."""
        errors = self._validator("created", operation["body"]).iter_errors(without_nulls(body))
        return {
            ".".join(map(str, error.absolute_path)): error.instance
            for error in errors
            if error.validator == "createOnly"
        }

    def _validator(self, side: str, kind: str) -> Any:
        if (side, kind) not in self._validators:
            schema = {**_typed(kind.removeprefix("page ")), "$defs": self._schemas}
            if kind.startswith("page "):
                properties = {
                    "value": {"type": "array", "items": _typed(kind[5:])},
                    "nextLink": {"type": "string"},
                }
                schema = {"type": "object", "properties": properties, "$defs": self._schemas}
                schema |= {"required": ["value"]}
            self._validators[side, kind] = _classes()[side](schema)
        return self._validators[side, kind]


def without_nulls(body: Any) -> Any:
    """Return a body without its nulls: both services take null for a field that is left out."""
    if isinstance(body, dict):
        return {key: without_nulls(value) for key, value in body.items() if value is not None}
    return [without_nulls(each) for each in body] if isinstance(body, list) else body


@cache
def _classes() -> dict[str, Any]:
    """Return the validators: an answer's, a request's (read-only fields are errors), one for create-only."""

    def report(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        yield ValidationError("")

    extend: Any = validators.extend  # which has no annotations
    return {
        "answer": Draft202012Validator,
        "request": extend(Draft202012Validator, {"readOnly": report}),
        "created": extend(Draft202012Validator, {"createOnly": report}),
    }


def _typed(written: str) -> dict[str, Any]:
    """Return the schema of a type as the contracts write it."""
    if written.startswith("["):
        return {"type": "array", "items": _typed(written[1:-1])}
    if written.startswith("{"):
        return {"type": "object", "additionalProperties": _typed(written[1:-1])}
    if written in SIMPLE:
        return {"type": written}
    return FORMATS.get(written) or ({} if written == "any" else {"$ref": f"#/$defs/{written}"})


def _schema(entry: dict[str, Any]) -> dict[str, Any]:
    fields = {name: each.split() for name, each in entry["fields"].items()}
    if kinds := entry.get("kinds"):
        name = entry["discriminator"]
        return {
            "type": "object",
            "required": [name],
            "properties": {name: {"enum": list(kinds)}},
            "allOf": [
                {"if": {"properties": {name: {"const": kind}}}, "then": {"$ref": f"#/$defs/{sub}"}}
                for kind, sub in kinds.items()
            ],
        }
    return {
        "type": "object",
        "required": [name for name, (_, *flags) in fields.items() if "required" in flags],
        "properties": {
            name: {**_typed(kind), **{flag: True for flag in flags if flag != "required"}}
            for name, (kind, *flags) in fields.items()
        },
        "additionalProperties": False,
    }


def _said(where: str, error: Any) -> Iterator[str]:
    """Yield a validator's error in words that are the same for every value of a field."""
    place = where or "body"
    if error.validator == "additionalProperties" and isinstance(error.validator_value, bool):
        known = error.schema["properties"]
        yield from (f"{where}.{name} is unknown".lstrip(".") for name in error.instance if name not in known)
    elif error.validator == "required":
        yield from (
            f"{where}.{name} is missing".lstrip(".")
            for name in error.validator_value
            if name not in error.instance
        )
    elif error.validator == "readOnly":
        yield f"{place} is read-only"
    elif error.validator == "enum":
        yield f"{place} has the unknown value {error.instance!r}"
    else:
        yield f"{place} is no {error.validator_value}"


@dataclass
class Checker:
    """What was held against the contracts so far, and what deviated."""

    allowed: list[Line] = field(default_factory=read_allowed)
    contracts: Sequence[Description] = field(
        default_factory=lambda: [Contract(json.loads(p.read_text())) for p in sorted(DATA.glob("*.json"))]
    )
    counts: Counter[str] = field(default_factory=Counter)
    unallowed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._accepted: dict[str, dict[str, Any]] = {}  # a resource's path -> its create-only fields

    def forget(self) -> None:
        """Forget the resources there were: the stand-in is as new."""
        with self._lock:
            self._accepted.clear()

    def taken(self) -> dict[str, Any]:
        """Return what was counted and what deviated, and begin anew."""
        with self._lock:
            found = {"counts": dict(self.counts), "unallowed": self.unallowed}
            self.counts, self.unallowed = Counter(), []
            return found

    def check(self, exchange: Exchange) -> None:
        """Hold one exchange against the contract that describes it."""
        path = exchange.path.rstrip("/").lower()
        known = [(c, each) for c in self.contracts for each in c.find(exchange.method, path)]
        if not known:
            self._note("area", [f"{exchange.method} {exchange.path}"])
            return
        meant = [pair for pair in known if pair[1]["version"] in ("", exchange.version)]
        if not meant:
            found = [f"{exchange.version} {_named(known[0][1])} this api-version has no contract"]
            self._note("deviation", found)
            return
        contract, operation = meant[0]
        found = list(self._request(contract, operation, exchange, path))
        found += self._answer(contract, operation, exchange)
        with self._lock:
            self.counts["checked"] += 1
        self._note(
            "deviation", [f"{operation['version']} {_named(operation)} {each}".strip() for each in found]
        )

    def _note(self, kind: str, found: Iterable[str]) -> None:
        for each in found:
            line = next((a for a in self.allowed if a.kind == kind and a.pattern.fullmatch(each)), None)
            with self._lock:
                if line is None:
                    self.unallowed.append(f"no contract and no area for {each}" if kind == "area" else each)
                else:
                    self.counts[line.key] += 1

    def _request(
        self, contract: Description, operation: dict[str, Any], exchange: Exchange, path: str
    ) -> Iterator[str]:
        success = exchange.status < 300
        if success and exchange.method == "DELETE":
            with self._lock:
                for each in [each for each in self._accepted if f"{each}/".startswith(f"{path}/")]:
                    del self._accepted[each]
        if not operation["body"] or exchange.status in REFUSED_BODY or exchange.status >= 500:
            return
        body = exchange.fields if exchange.method == "GET" else _json(exchange.sent or b"{}")
        if body is None:
            yield "request: no JSON body"
            return
        for each in contract.problems("request", operation, body):
            yield f"request: {each}"
        if exchange.method != "PUT" or not success:
            return
        given = contract.created(operation, body)
        with self._lock:
            before = self._accepted.get(path, {})
            self._accepted[path] = {**before, **given}
        for place in sorted(before.keys() & given.keys()):
            if _same(before[place]) != _same(given[place]):
                yield f"request: {place} is create-only and changed"

    def _answer(self, contract: Description, operation: dict[str, Any], exchange: Exchange) -> Iterator[str]:
        status = exchange.status
        if status >= 400:
            return
        if status not in operation["success"]:
            yield f"answer: status {status}, of {operation['success']}"
            return
        names = {name.lower() for name in exchange.headers}
        declared = operation["headers"]
        for header in [*declared.get("any", []), *declared.get(str(status), [])]:
            if header.lower() not in names and header not in SOFT_HEADERS:
                yield f"answer: {status} has no header {header}"
        if status not in (200, 201) or not operation["answer"]:
            return
        body = _json(exchange.answered)
        if body is None:
            yield "answer: no JSON body"
            return
        for each in contract.problems("answer", operation, body):
            yield f"answer: {each}"


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _same(value: Any) -> Any:
    """Return a value as the services compare it: neither case nor spaces count."""
    return value.lower().replace(" ", "") if isinstance(value, str) else value


def _named(operation: dict[str, Any]) -> str:
    """Return an operation in short: from the workspace on."""
    short = re.sub(r"^.*/providers/Microsoft\.MachineLearningServices/", "", operation["path"])
    short = ("history/" if operation["path"].startswith("/history/") else "") + short
    return f"{operation['method']} {short.replace('workspaces/{workspaceName}', 'W')}"
