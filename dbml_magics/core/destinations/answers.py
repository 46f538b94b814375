"""What a service really answers: an answer of any other shape is an outage, whatever its status.

A sign-in page in place of an answer (a proxy whose session is over), a redirect to one, an empty 200 or
another service's JSON must not count as a write that arrived, nor as an entity without an id.
"""

from __future__ import annotations

import json
from typing import Any

import requests
from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from mlflow.utils.proto_json_utils import parse_dict

from dbml_magics.core import hosts
from dbml_magics.core.destinations.errors import Unavailable

__all__ = ["Foreign", "Message", "check_file", "check_redirect", "entity", "parsed", "read", "says_stored"]

# The fields of an answer that name an entity -> where its identity stands; one of each list must be there.
_IDENTITIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "experiment_id": ((),),
    "experiment": (("experiment_id",),),
    "run": (("info", "run_id"), ("info", "run_uuid")),
    "run_info": (("run_id",), ("run_uuid",)),
    "model": (("info", "model_id"),),
    "registered_model": (("name",),),
    "model_version": (("version",),),
    "artifact_uri": ((),),
}
_NAMED = ("Create", "Get", "Finalize", "UpdateRun")  # MLflow's messages whose answer is the entity
# What gateways and other services say in the place of an answer.
_TELLTALE = frozenset(
    {"error", "errors", "code", "status", "statuscode", "success", "message", "fault", "detail", "title"}
    | {"redirect", "location", "login"}
)
_ARMERIA = ("", "200 OK")  # what Databricks' service of traces answers (mlflow.utils.rest_utils)


class Foreign(Unavailable):
    """Something answers that is not the service: a login page, a gateway, another service."""


def check_redirect(response: requests.Response, method: str, endpoint: str) -> None:
    """Raise Foreign for an answer that sends the caller elsewhere."""
    if 300 <= response.status_code < 400:
        there = hosts.shown(response.url or "", hosts.header(response.headers, "Location"))
        raise Foreign(
            f"{method} {endpoint} is answered by a redirect ({response.status_code}) to {there}, which is "
            f"not followed{hosts.through(response.url or '')}"
        )


def read(
    response: requests.Response, method: str, endpoint: str, *, also: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Return the JSON object that answers a call, by 200 or a status of ``also``. Raises Foreign."""
    status = response.status_code
    if status == 200 and "/traces" in endpoint and response.text.strip() in _ARMERIA:
        return {}
    try:
        answer = json.loads(response.text)
    except ValueError:
        answer = None
    if status not in (200, *also) or not isinstance(answer, dict):
        raise _foreign(response, method, endpoint)
    if {"error_code", "error", "errors"} & set(answer):
        said = answer.get("message") or answer.get("error_code") or answer.get("error") or "an error"
        raise Foreign(f"{method} {endpoint} is answered by 200 and an error: {str(said)[:200]}")
    return answer


def entity(response: requests.Response, method: str, endpoint: str, identity: str) -> dict[str, Any]:
    """Return the JSON object of an entity, which has its identity in a field of that name. Raises Foreign."""
    answer = read(response, method, endpoint, also=(201,))
    if not answer.get(identity):
        raise Foreign(
            f"{method} {endpoint} is answered without {identity}{hosts.through(response.url or '')}"
        )
    return answer


def _foreign(response: requests.Response, method: str, endpoint: str) -> Foreign:
    text = response.text
    if not text.strip():
        what = "nothing"
    elif "<html" in text[:2000].lower():
        what = "a web page"
    else:
        what = "something else"
    return Foreign(
        f"{method} {endpoint} is answered by {response.status_code} with {what}, which is not MLflow's"
        f"{hosts.through(response.url or '')}"
    )


def parsed(
    answer: dict[str, Any],
    response: requests.Response,
    method: str,
    endpoint: str,
    into: Message,
    loose: bool,
) -> Message:
    """Parse an answer into MLflow's message for it.

    ``loose`` is for a service whose answers nobody has published: it may say more than MLflow's server does.
    Raises Foreign for an answer to something else, or of an entity without its identity.
    """
    known = {name for field in into.DESCRIPTOR.fields for name in (field.name, field.json_name)}
    strange = bool(answer) and not known & set(answer)
    if strange and (not loose or any(key.lower() in _TELLTALE for key in answer)):
        raise _foreign(response, method, endpoint)
    try:
        parse_dict(js_dict=answer, message=into)
    except (ValueError, TypeError, AttributeError, ParseError) as error:
        raise _foreign(response, method, endpoint) from error
    message = into.DESCRIPTOR.full_name.removeprefix("mlflow.")
    if message.startswith(_NAMED) and not (loose and message.startswith("Update")):
        for field in into.DESCRIPTOR.fields:
            places = _IDENTITIES.get(field.name)
            if places is not None and not any(_at(into, (field.name, *place)) for place in places):
                raise Foreign(
                    f"{method} {endpoint} is answered without {'.'.join((field.name, *places[0]))}"
                    f"{hosts.through(response.url or '')}"
                )
    return into


def _at(message: object, path: tuple[str, ...]) -> object:
    for name in path:
        message = getattr(message, name, None)
    return message


def says_stored(response: requests.Response, method: str, endpoint: str) -> bool:
    """Tell whether an upload's answer is surely that of MLflow's artifact service, which has two forms.

    Flask answers an empty object, FastAPI a 200 without body and type, marked by MLflow's
    security middleware. Another empty 200 may be a gateway's as well. Raises Foreign.
    """
    if response.status_code == 200 and not response.content:
        marked = "nosniff" in hosts.header(response.headers, "X-Content-Type-Options").lower()
        return marked and not hosts.header(response.headers, "Content-Type")
    if read(response, method, endpoint):
        raise _foreign(response, method, endpoint)
    return True


def check_file(response: requests.Response, name: str, kind: str) -> None:
    """Raise Foreign where a file is answered by a web page (or nothing of the storage's) instead.

    ``kind`` is the media type that its name says; MLflow's server marks each file as an attachment.
    """
    page = hosts.header(response.headers, "Content-Type").lower().startswith("text/html")
    marked = "attachment" in hosts.header(response.headers, "Content-Disposition").lower()
    if response.status_code not in (200, 206) or (page and not marked and kind != "text/html"):
        raise Foreign(
            f"the file {name} is answered by {response.status_code} with a web page"
            f"{hosts.through(response.url or '')}"
        )
