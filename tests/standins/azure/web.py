"""Routes, requests and refusals: what every part of the stand-in is written with."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

__all__ = [
    "ML",
    "WORKSPACE",
    "Call",
    "Handler",
    "Refusal",
    "Route",
    "arm_refusal",
    "empty",
    "ml_refusal",
    "mlflow_refusal",
    "reply",
    "route",
    "routes_of",
    "utc",
]

ML = "Microsoft.MachineLearningServices"
WORKSPACE = (
    f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/{ML}/workspaces/{{workspace}}"
)


class Refusal(Exception):
    """An answer that ends the request early."""

    def __init__(
        self,
        status: int,
        body: Mapping[str, Any] | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, body)
        self.status, self.body, self.headers = status, body, dict(headers or {})

    def answer(self) -> Response:
        """Return it as a response; None is an empty body, a string is XML."""
        if self.body is None:
            return Response(b"", self.status, self.headers)
        if isinstance(self.body, str):
            return Response(self.body, self.status, self.headers, media_type="application/xml")
        return JSONResponse(dict(self.body), self.status, self.headers)


def utc(moment: float | None = None) -> str:
    """Return a moment as Azure writes it."""
    return datetime.fromtimestamp(time.time() if moment is None else moment, timezone.utc).isoformat()


def arm_refusal(status: int, code: str, message: str, **headers: str) -> Refusal:
    """Return a refusal in the words of Azure Resource Manager."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Refusal(status, {"error": {"code": code, "message": message}}, named)


def ml_refusal(status: int, message: str, *, inner: str, component: str = "run-history") -> Refusal:
    """Return a refusal in the words of Azure ML's own services (history, artifacts, model management)."""
    error: dict[str, Any] = {
        "code": "UserError",
        "severity": None,
        "message": message,
        "messageFormat": None,
        "messageParameters": {},
        "referenceCode": None,
        "detailsUri": None,
        "target": None,
        "details": [],
        "innerError": {"code": inner, "innerError": None},
        "debugInfo": None,
        "additionalInfo": None,
    }
    return Refusal(status, {"error": error, **_whence(component)})


def _whence(component: str) -> dict[str, Any]:
    return {
        "correlation": {"operation": uuid.uuid4().hex, "request": uuid.uuid4().hex[:16]},
        "environment": "westeurope",
        "location": "westeurope",
        "time": utc(),
        "componentName": component,
    }


def mlflow_refusal(status: int, error_code: str, message: str, *, code: str = "UserError") -> Refusal:
    """Return a refusal of Azure ML's MLflow service, which names its fields in its own way.

    There is no ``message`` beside ``error_code``: MLflow's client then shows "Response: {…}", the whole body
    (azure-sdk-for-python#42155, mlflow#11462).
    """
    error: dict[str, Any] = {
        "Code": code,
        "Severity": None,
        "Message": message,
        "MessageFormat": None,
        "MessageParameters": None,
        "ReferenceCode": None,
        "DetailsUri": None,
        "Target": None,
        "Details": [],
        "InnerError": None,
        "DebugInfo": None,
        "AdditionalInfo": None,
    }
    where = {name[0].upper() + name[1:]: value for name, value in _whence("mlflow").items()}
    return Refusal(status, {"Error": error, **where, "statusCode": status, "error_code": error_code})


def reply(body: Any = None, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer with a JSON body."""
    return JSONResponse({} if body is None else body, status, dict(headers or {}))


def empty(status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer without a body."""
    return Response(b"", status, dict(headers or {}))


@dataclass
class Call:
    """One request: what its path names, its body, and who sent it."""

    request: Request
    names: dict[str, str]
    caller: Any = None  # login.Principal where the route wants a token
    _body: Any = field(default=None, repr=False)

    @property
    def method(self) -> str:
        return str(self.request.method)

    @property
    def path(self) -> str:
        return str(self.request.url.path)

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query_params

    def header(self, name: str) -> str:
        """Return a header's value, or an empty string."""
        return str(self.request.headers.get(name, ""))

    async def json(self) -> Any:
        """Return the body, or an empty dictionary where there is none."""
        if self._body is None:
            raw = await self.request.body()
            try:
                self._body = json.loads(raw) if raw else {}
            except ValueError:
                raise arm_refusal(400, "InvalidRequestContent", "The request content was invalid.") from None
        return self._body


Handler = Callable[[Any, Call], Awaitable[Response]]
H = TypeVar("H", bound=Handler)


@dataclass(frozen=True)
class Route:
    """Which requests a handler answers, and which Azure action they need (None: no token)."""

    methods: tuple[str, ...]
    path: re.Pattern[str]
    action: str | None
    words: str  # "arm", "ml" or "mlflow": how refusals are worded
    handler: Handler


def route(methods: str, path: str, action: str | None = None, *, words: str = "arm") -> Callable[[H], H]:
    """Register the method below for a path: ``{name}`` is one segment of it, ``{name*}`` the rest.

    Azure's routes do not tell upper from lower case. ``action`` is the Azure action that the caller must
    have; "" asks for a valid token alone.
    """
    pattern = re.sub(
        r"\\\{(\w+)(\\\*)?\\\}", lambda m: f"(?P<{m[1]}>{'.+' if m[2] else '[^/]+'})", re.escape(path)
    )

    def register(handler: H) -> H:
        known = list(getattr(handler, "_routes", []))
        compiled = re.compile(pattern + "/?", re.IGNORECASE)
        handler._routes = [Route(tuple(methods.split()), compiled, action, words, handler), *known]  # type: ignore[attr-defined]
        return handler

    return register


def routes_of(part: Any) -> Iterator[Route]:
    """Yield the routes of an object's methods, in the order of the source."""
    for cls in reversed(type(part).__mro__):
        for handler in vars(cls).values():
            yield from getattr(handler, "_routes", [])
