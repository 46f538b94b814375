"""Azure ML's REST interfaces for endpoints, asked with the link's own sign-in.

azureml-mlflow's deployment client is used where it serves (see ``webservices``). For managed endpoints it
prints dots while it waits, has neither logs nor data collection, and sends a request's time limit in a form
that the service refuses; so those are asked here.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import requests

from dbml_magics.common.hints import Remedy
from dbml_magics.core import hosts
from dbml_magics.core.azure import diagnosis
from dbml_magics.core.azure.arm import as_error, is_own_host
from dbml_magics.core.destinations.errors import EndlessListing, Unavailable
from dbml_magics.core.endpoints.waiting import Patience
from dbml_magics.core.paging import Pages
from dbml_magics.errors import DbmlError, Refused, WorkspaceUnreachable

if TYPE_CHECKING:
    from dbml_magics.core.destinations.azureml import AzuremlWorkspace

__all__ = ["API", "Answer", "Rest", "ServiceRefusal", "refused", "words"]

API = "2025-12-01"
"""The version of Resource Manager's interface; Microsoft's own client azure-ai-ml asks for the same one."""

_TIMEOUT_S = (10.0, 60.0)
_TRIES = 5
_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_FIRST_POLL_S, _POLL_S = 0.5, 5.0  # where the service does not say how long to wait
_LONGEST_POLL_S = 15.0
_OPERATION_S = 3600.0  # where the service does not say how long an operation may take
_GRACE_S = 300.0  # beyond what it says
_TIMEOUT_HEADER = "x-ms-async-operation-timeout"
_COME_AGAIN = (408, 429, 500, 502, 503, 504)


class ServiceRefusal(Exception):
    """A refusal of the service, with its own message."""

    def __init__(self, said: diagnosis.Said) -> None:
        super().__init__(f"{said.code}: {said.message}" if said.code else said.message)
        self.said = said


@dataclass(frozen=True)
class Answer:
    """What the service answered."""

    status: int
    body: Any  # a JSON object; each call has a form of its own
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def operation(self) -> str | None:
        """Return the URL to poll for the progress of an operation."""
        return self.headers.get("Azure-AsyncOperation") or self.headers.get("Location")

    @property
    def state(self) -> str:
        """Return how far an operation is: ``succeeded``, ``failed`` and ``canceled`` end it.

        Azure-AsyncOperation shows a status. Location shows 202 while it runs and the result afterwards, which
        may be the resource itself, with a provisioning state of its own.
        """
        properties = self.body.get("properties")
        made = properties.get("provisioningState") if isinstance(properties, dict) else None
        return str(
            self.body.get("status") or made or ("running" if self.status == 202 else "succeeded")
        ).lower()

    @property
    def failure(self) -> dict[str, object] | None:
        """Return the error of an operation that failed or was canceled."""
        ended = self.state in ("failed", "canceled")
        return dict(self.body.get("error") or {"message": self.state}) if ended else None

    @property
    def is_over(self) -> bool:
        """Tell whether an operation has ended."""
        return self.state in ("succeeded", "failed", "canceled")

    def pause(self, waited: float = 0.0) -> float:
        """Return how long to leave the service alone (seconds): as it says, else the longer it has been."""
        for name, unit in (("x-ms-retry-after-ms", 1000), ("retry-after-ms", 1000), ("Retry-After", 1)):
            value = self.headers.get(name, "")
            if value.isdigit():
                return min(int(value) / unit, _LONGEST_POLL_S)
        return min(max(_FIRST_POLL_S, waited / 4), _POLL_S)

    @property
    def limit(self) -> float:
        """Return how long the operation that this answer began is waited for (seconds)."""
        said = re.fullmatch(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?", self.headers.get(_TIMEOUT_HEADER, ""))
        hours, minutes, seconds = (int(part or 0) for part in said.groups()) if said else (0, 0, 0)
        return (hours * 3600 + minutes * 60 + seconds or _OPERATION_S) + _GRACE_S


class Rest:
    """One workspace, at Resource Manager and at its own services."""

    def __init__(self, workspace: AzuremlWorkspace) -> None:
        self.workspace = workspace
        self.id = workspace.id
        self.connection = hosts.session()

    def arm(
        self, method: str, path: str = "", body: object = None, *, action: str, api: str = API
    ) -> Answer | None:
        """Ask Resource Manager about something below the workspace (or at a whole path).

        None where a GET or DELETE is about something that is not there; 404 for what shall be made or done is
        a refusal. Raises NotPermitted, WorkspaceUnreachable, ServiceRefusal.
        """
        base = self.workspace.sign_in.cloud.resource_manager.rstrip("/")
        where = path if path.startswith("/subscriptions/") else f"{self.id.path}{path}"
        return self._ask(method, f"{base}{where}?api-version={api}", body, action)

    def data(self, method: str, path: str, body: object = None, *, action: str) -> Answer | None:
        """Ask the workspace's model management (v1). Returns and raises as :meth:`arm`."""
        base = f"https://{self.workspace.host}/modelmanagement/v1.0{self.id.path}"
        return self._ask(method, f"{base}{path}", body, action)

    def operation(self, address: str) -> Answer | None:
        """Poll an operation; None where the service has forgotten it. Raises as :meth:`arm`."""
        if not is_own_host(self.workspace.sign_in.cloud.resource_manager, address):
            return None  # no token of ours goes anywhere else
        return self._ask("GET", address, None, "Microsoft.MachineLearningServices/locations/read")

    def pages(self, path: str, *, action: str) -> list[Any]:
        """Return all of a listing. Raises as :meth:`arm`."""
        found: list[Any] = []
        pages, answer = Pages(), self.arm("GET", path, action=action)
        while answer is not None:
            page = answer.body.get("value") or []
            found += page
            try:
                following = pages.follow(answer.body.get("nextLink"), page)
            except EndlessListing as error:
                raise WorkspaceUnreachable(f"{self.workspace.role}: {error.reason}.") from error
            if not following:
                break
            answer = self.operation(str(following))
            if answer is None:
                raise WorkspaceUnreachable(
                    f"{self.workspace.role}: the rest of a list is not there, or not at Azure's address."
                )
        return found

    def _ask(self, method: str, url: str, body: object, action: str) -> Answer | None:
        renewed = False
        for attempt in range(_TRIES):
            try:
                answer = self.connection.request(
                    method,
                    url,
                    data=None if body is None else json.dumps(body),
                    headers={"Authorization": f"Bearer {self.token()}", "Content-Type": "application/json"},
                    timeout=_TIMEOUT_S,
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                if attempt + 1 == _TRIES:
                    raise WorkspaceUnreachable(
                        f"Azure does not answer at {url.partition('/subscriptions')[0]}: "
                        f"{' '.join(str(error).split())[:160]}{hosts.through(url)}.",
                        remedies=[("the same line again", "goes on where this ended")],
                    ) from error
                time.sleep(_PAUSE_S * 2**attempt)
                continue
            if answer.status_code < 300:
                return Answer(answer.status_code, _body(answer), answer.headers)
            said = diagnosis.Said.by(answer.status_code, answer.text)
            come_again = answer.status_code in _COME_AGAIN and not diagnosis.is_private(said)
            if come_again and attempt + 1 < _TRIES:
                header = answer.headers.get("Retry-After", "")
                pause = float(header) if header.isdigit() else _PAUSE_S * 2**attempt
                time.sleep(min(pause, _LONGEST_PAUSE_S))
                continue
            if answer.status_code == 401 and not renewed:
                self.workspace.sign_in.forget_token()
                renewed = True
                continue
            self._refuse(said, action, method)
            return None
        raise AssertionError("the last attempt answers or raises")

    def _refuse(self, said: diagnosis.Said, action: str, method: str) -> None:
        """Raise the error behind a refusal, unless something is not there that was only looked for."""
        away = diagnosis.trouble(said, self.id, action)
        if away is not None:
            raise as_error(away, self.id)
        if said.status != 404 or method not in ("GET", "DELETE"):
            raise ServiceRefusal(said)

    def token(self, scope: str | None = None) -> str:
        """Return a token for Azure's own interfaces, or for a scope. Raises NotPermitted and the like."""
        try:
            sign_in = self.workspace.sign_in
            return str(sign_in.get_token(scope or sign_in.cloud.scope).token)
        except Unavailable as error:
            raise as_error(error, self.id) from error

    def wait(self, begun: Answer | None, say: Callable[[], None]) -> dict[str, object] | None:
        """Wait for the operation that an answer began; returns its error, or None. Raises as :meth:`arm`.

        An operation that the service has forgotten is over, and how it ended is for the caller to look at.
        """
        if begun is None or begun.operation is None:
            return None
        patience, pause = Patience(begun.limit), begun.pause()
        while patience.waits(pause, say):
            answer = self.operation(begun.operation)
            if answer is None or answer.is_over:
                return None if answer is None else answer.failure
            pause = answer.pause(patience.waited)
        return {"code": "NotFinished", "message": f"it took longer than {patience.limit}"}


def _body(answer: requests.Response) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        content = answer.json()
        if isinstance(content, dict):
            return content
        return {"value": content}
    return {}


def words(error: object) -> str:
    """Return a service's error object as one line; empty where there is none."""
    if not isinstance(error, dict):
        return ""
    inner: dict[str, Any] = error["error"] if isinstance(error.get("error"), dict) else error
    said = " ".join(" ".join([str(inner.get("message") or ""), *diagnosis.details(inner)]).split())
    code = str(inner.get("code") or "")
    return f"{code}: {said}" if code and said else said or code


def refused(error: ServiceRefusal, name: str) -> DbmlError:
    """Return a refusal as an error of a command about one endpoint."""
    return Refused(
        f"Azure ML refused it for {name}: {' '.join(str(error).split())[:400]}",
        remedies=[(Remedy("endpoints", name), "shows how it is")],
    )
