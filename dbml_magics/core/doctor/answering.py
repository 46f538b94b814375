"""Probes of hosts and diagnoses of errors that every area of the doctor uses."""

from __future__ import annotations

import ipaddress
import os
import socket
import statistics
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests

from dbml_magics.common.config import role_variable
from dbml_magics.common.hints import Remedy
from dbml_magics.core import hosts
from dbml_magics.core.destinations.answers import Foreign
from dbml_magics.core.destinations.errors import Unavailable, classify_error
from dbml_magics.core.destinations.kinds import is_azureml, is_databricks
from dbml_magics.errors import DbmlError
from dbml_magics.results.doctor import Finding

if TYPE_CHECKING:
    from dbml_magics.core.destinations.base import Workspace

__all__ = ["CALL_S", "base_of", "not_fine", "reach", "timed"]

CALL_S = 5.0
_SLOW_MS = 1000.0
# Microsoft Entra ID takes tokens whose times are up to five minutes off.
_SKEW_WARN_S, _SKEW_BROKEN_S = 60.0, 300.0
_DEAD_HOST = ("curl -sSI {url}", "in a terminal on this machine: does anything answer?")


def not_fine(workspace: Workspace, what: str, error: Exception, level: str = "broken") -> Finding:
    """Return the finding for an error of a workspace: its cause and a remedy."""
    if isinstance(error, DbmlError):
        command, does = error.remedies[0] if error.remedies else ("", "")
        return Finding(workspace.role, what, level, error.message, command, does)
    if isinstance(error, ImportError):
        package = error.name or "the package"
        return Finding(workspace.role, what, level, f"needs {package}", f"%pip install {package}")
    classified = classify_error(error)
    if isinstance(classified, Foreign):
        why = f"what answers is no MLflow tracking server: {classified.reason}"
        return Finding(workspace.role, what, level, why, Remedy("link", help=True), "the URI without a path")
    if isinstance(classified, Unavailable):
        command, does = next(iter(classified.remedies), ("", ""))
        if not command:
            command, does = _sign_in_again(workspace) if classified.denied else _is_it_there(workspace)
        return Finding(workspace.role, what, level, classified.reason, command, does)
    command, does = _sign_in_again(workspace) if what == "sign-in" else _is_it_there(workspace)
    return Finding(workspace.role, what, level, str(classified) or type(classified).__name__, command, does)


def _sign_in_again(workspace: Workspace) -> tuple[str, str]:
    if workspace.kind == "databricks":
        profile = workspace.uri.removeprefix("databricks").removeprefix("://")
        return f"databricks auth login{f' --profile {profile}' if profile else ''}", "in a terminal"
    if workspace.kind == "azureml":
        return "az login", "in a terminal"
    return f"%env {role_variable(workspace.role, 'token')}", "shows whether a token is set"


def _is_it_there(workspace: Workspace) -> tuple[str, str]:
    url = base_of(workspace)
    if url is None:
        return f"ls -l {workspace.place}", "in a terminal: is the file there?"
    return _DEAD_HOST[0].format(url=url), _DEAD_HOST[1]


def timed(area: str, what: str, milliseconds: float, text: str) -> Finding:
    """Return the finding for an answer that took so long."""
    slow = milliseconds > _SLOW_MS
    why = f"{text}, in {milliseconds:,.0f} ms" + (": slow; logging does not wait for it" if slow else "")
    remedy = (Remedy("status"), "shows how far behind delivery is") if slow else ("", "")
    return Finding(area, what, "warning" if slow else "fine", why, *remedy, milliseconds=milliseconds)


def base_of(workspace: Workspace) -> str | None:
    """Return the address of a workspace's host, or None for one in a file or a database."""
    if is_azureml(workspace):
        return f"https://{workspace.host}"
    if is_databricks(workspace):
        try:
            return str(workspace.config.host).rstrip("/")
        except Exception:  # no sign-in, no host
            return None
    split = urlsplit(workspace.uri)
    return f"{split.scheme}://{split.netloc}" if split.scheme in ("http", "https") else None


def reach(area: str, what: str, url: str, *, clock: bool = False, again: int = 1) -> Iterator[Finding]:
    """Probe a host: whether it answers, how fast, and its clock.

    No credential is sent, and no redirection followed.
    """
    host = urlsplit(url).hostname or ""
    took: list[float] = []
    skew: float | None = None
    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("1", "true")
    verify: bool | str = False if insecure else os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True
    try:
        with hosts.session() as session:
            for _ in range(again):
                began, asked = time.perf_counter(), time.time()
                response = session.get(
                    url, timeout=CALL_S, allow_redirects=False, stream=True, verify=verify, auth=_nobody
                )
                took.append((time.perf_counter() - began) * 1000)
                if response.headers.get("Date") and skew is None:
                    there = parsedate_to_datetime(response.headers["Date"]).timestamp() + 0.5
                    skew = (asked + time.time()) / 2 - there
                response.content  # noqa: B018 - read, so that the connection serves the next one too
    except (requests.RequestException, OSError, ValueError) as error:
        classified = classify_error(error)
        why = (classified.reason if isinstance(classified, Unavailable) else str(classified)) + hosts.through(
            url
        )
        yield Finding(area, what, "broken", f"{host}: {why}", _DEAD_HOST[0].format(url=url), _DEAD_HOST[1])
        return
    private = _is_private(host)
    text = f"{host} answers" + (" at a private address" if private else "")
    yield timed(area, what, statistics.median(took), text)
    if clock:
        yield from _clock(area, skew)


def _nobody(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep requests from adding what ``~/.netrc`` has for the host."""
    return request


def _clock(area: str, skew: float | None) -> Iterator[Finding]:
    if skew is None:
        return
    off = abs(skew)
    offset = f"{'ahead of' if skew > 0 else 'behind'} the workspace's by {off:,.0f} s"
    if off < _SKEW_WARN_S:
        yield Finding(area, "clock", cause="as the workspace's, within a minute")
        return
    level = "broken" if off >= _SKEW_BROKEN_S else "warning"
    why = f"this machine's is {offset}" + ("; sign-ins fail for that" if level == "broken" else "")
    yield Finding(area, "clock", level, why, "sudo timedatectl set-ntp true", "in a terminal")


def _is_private(host: str) -> bool:
    try:
        address = socket.getaddrinfo(host, None)[0][4][0]
    except OSError:
        return False
    found = ipaddress.ip_address(address)
    return found.is_private and not found.is_loopback
