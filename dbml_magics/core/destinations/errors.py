"""Telling a workspace that is away from a write that it refuses.

A workspace that is away is asked again for as long as it takes; a write that it refuses is isolated and put
aside.
"""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Sequence

import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)

from dbml_magics.common.foreign_text import visible
from dbml_magics.common.redaction import redacted

REFUSALS = frozenset(
    {
        "ALREADY_EXISTS",
        "BAD_REQUEST",
        "ENDPOINT_NOT_FOUND",
        "FEATURE_DISABLED",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "INVALID_STATE_TRANSITION",
        "MALFORMED_REQUEST",
        "MAX_RESULTS_EXCEEDED",
        "NOT_FOUND",
        "NOT_IMPLEMENTED",
        "QUOTA_EXCEEDED",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_CONFLICT",
        "RESOURCE_DOES_NOT_EXIST",
        "RESOURCE_LIMIT_EXCEEDED",
    }
)
# Clients of cloud storages, whose errors are no requests.RequestException.
_STORAGE = ("azure.", "botocore.", "boto3.", "google.", "urllib3.", "http.client")
_NO_NETWORK = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
# A name that means a folder here and a file there, or none at all: asking again changes nothing.
_OF_ONE_NAME = frozenset(
    {errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP}
)
EXISTS = frozenset({"ALREADY_EXISTS", "RESOURCE_ALREADY_EXISTS"})
MISSING = frozenset({"NOT_FOUND", "RESOURCE_DOES_NOT_EXIST"})


class Unavailable(MlflowException):  # type: ignore[misc]
    """The workspace does not answer, or answers that it cannot now."""

    def __init__(
        self,
        reason: str,
        *,
        sent: bool = True,
        retry_after: float | None = None,
        denied: bool = False,
        elsewhere: bool = False,
        apart: bool = False,
        shown: str | None = None,
        remedies: Sequence[tuple[str, str]] = (),
        said: MlflowException | None = None,
    ) -> None:
        super().__init__(clean(shown or reason), error_code=TEMPORARILY_UNAVAILABLE)
        self.reason = clean(reason)
        self.sent = sent
        """The request may have been applied: settle that by asking before it is sent again."""
        self.retry_after = retry_after
        self.denied = denied
        """The workspace answers, but not to these credentials (401 or 403)."""
        self.elsewhere = elsewhere
        """It is not this workspace that is away, but one that a write needs something of."""
        self.apart = apart
        """It is the place of the files that refuses: everything else of the workspace goes through."""
        self.remedies = tuple(remedies)
        """What the user can do about it: (command, what it does)."""
        self.said = said
        """MLflow's own error of a 500: some servers answer so what they refuse, time and again."""

    def by_way(self, way: str) -> Unavailable:
        """Name what stands between here and the workspace, and return the error."""
        if way and way not in self.reason:
            self.reason += way
            self.message += way
            self.args = (self.message,)
        return self


class EndlessListing(Unavailable):
    """A listing that goes round and round: what it lists is not known, everything else may be fine."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, sent=False)


class Blocked(Unavailable):
    """A write comes after what is in another queue: everything else goes on."""

    def __init__(self, reason: str, *, on: str = "", needed: bool = True) -> None:
        super().__init__(reason, sent=False, elsewhere=True)
        self.on = on
        """The queue that goes first; none where the wait is for something else."""
        self.needed = needed
        """The write waits for as long as it takes; else the other queue goes first as far as it can now."""


class Busy(Unavailable):
    """The workspace takes no more of one kind for now, whoever asks; everything else goes on."""

    def __init__(self, reason: str, *, retry_after: float) -> None:
        super().__init__(reason, sent=False, retry_after=retry_after, elsewhere=True)


class WouldRefuse(MlflowException):  # type: ignore[misc]
    """The service would refuse a write: known before it is sent, and before anything else is made for it."""

    def __init__(self, cause: str, remedies: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(cause, error_code=INVALID_PARAMETER_VALUE)
        self.remedies = tuple(remedies)
        """What the user can do about it: (command, what it does)."""


class MissingEndpoint(MlflowException):  # type: ignore[misc]
    """The service has no such call (an empty 404, or ENDPOINT_NOT_FOUND): a capability that it lacks."""


def classify_error(error: Exception) -> Exception:
    """Return ``error`` as Unavailable when the workspace is, else as it is (a refusal, or a bug of ours)."""
    if isinstance(error, (Unavailable, MissingEndpoint)):
        return error
    if isinstance(error, MlflowException):
        if error.error_code in REFUSALS:
            return _cleaned(error)
        return _from_cause(error) or Unavailable(_short(error))
    status = _status_of(error)
    if status is not None and 400 <= status < 500 and status not in (401, 403, 408, 429):
        return refusal(status, _short(error))
    if status in (401, 403):
        return Unavailable(f"not permitted ({status}: {_short(error)})", sent=False, denied=True)
    if isinstance(error, OSError) and error.errno in _OF_ONE_NAME:
        return refusal(400, _short(error))
    if isinstance(error, (requests.RequestException, OSError, sqlite3.OperationalError, TimeoutError)):
        return _from_cause(error) or Unavailable(_short(error))
    if type(error).__module__.startswith(_STORAGE):
        return Unavailable(_short(error))
    if isinstance(error, RuntimeError) and "interpreter shutdown" in str(error):
        return Unavailable("this process is ending", sent=False)
    if type(error).__module__.startswith("sqlalchemy"):
        cause = getattr(error, "orig", None) or error
        return Unavailable(f"not usable ({_short(cause)})")
    return error


def refusal(status: int, cause: str) -> Exception:
    """Return what a 4xx says as MLflow's error, where its body names no error that MLflow knows."""
    code = RESOURCE_DOES_NOT_EXIST if status == 404 else BAD_REQUEST
    refused: Exception = MlflowException(f"answers {status}: {clean(cause)}", error_code=code)
    return refused


def clean(said: str) -> str:
    """Return a server's words as they are kept and shown: no control characters, no secret of ours."""
    return visible(redacted(said))


def _cleaned(error: Exception) -> Exception:
    said = str(error)
    if (cleaned := clean(said)) != said:
        error.message = cleaned  # type: ignore[attr-defined]
        error.args = (cleaned, *error.args[1:])
    return error


def _status_of(error: Exception) -> int | None:
    """Return the HTTP status in an error of requests or of a cloud storage's client."""
    for holder in (error, getattr(error, "response", None)):
        status = getattr(holder, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _from_cause(error: BaseException) -> Unavailable | None:
    seen: BaseException | None = error
    for _ in range(6):
        if seen is None:
            return None
        if isinstance(seen, requests.Timeout):
            connecting = isinstance(seen, requests.ConnectTimeout)
            return Unavailable("not reachable (timed out)", sent=not connecting)
        if isinstance(seen, requests.exceptions.SSLError):
            return Unavailable(f"not reachable (TLS: {_short(seen)})", sent=False)
        if isinstance(seen, requests.ConnectionError):
            text = str(seen)
            if "NewConnectionError" in text or "NameResolutionError" in text or "refused" in text:
                return Unavailable(f"not reachable ({_why_no_connection(text)})", sent=False)
            if "timed out" in text:  # urllib3 gives a read that took too long as retries that ran out
                return Unavailable("not reachable (timed out)")
            return Unavailable("not reachable (connection broken)")
        seen = seen.__cause__ or seen.__context__
    return None


def _why_no_connection(text: str) -> str:
    """Return what urllib3's words say of a connection that was never made."""
    if "refused" in text:
        return "connection refused"
    said = re.search(r"\[Errno (\d+)\] ([^'\")\]]+)", text)
    if said is None or int(said[1]) in _NO_NETWORK or "NameResolutionError" in text:
        return "no such host or no network"
    return said[2].strip().lower()  # this machine's trouble, as "too many open files" is


def _short(error: BaseException) -> str:
    text = " ".join(clean(str(error)).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "…"


def is_missing(error: Exception) -> bool:
    """Tell whether the workspace says that the thing asked for does not exist."""
    return isinstance(error, MlflowException) and error.error_code in MISSING


def already_exists(error: Exception) -> bool:
    """Tell whether the workspace says that the thing to be made exists."""
    return isinstance(error, MlflowException) and error.error_code in EXISTS


def time_and_again(failure: Unavailable, *, alone: bool = True) -> str:
    """Return the cause of a write that goes on failing, ``alone`` where others went through meanwhile."""
    return f"{cause_of(failure)}, time and again" + (", while other writes went through" if alone else "")


def cause_of(error: BaseException) -> str:
    """Return a refusal's cause in one line."""
    text = " ".join(clean(str(error)).split())
    return text if len(text) <= 500 else text[:497] + "…"
