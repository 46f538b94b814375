"""MLflow's REST stores, each call made once, within a time, with the workspace's own credentials.

MLflow's own HTTP layer sends a POST again when its answer was lost, which makes two runs of one; here a lost
answer is a doubt that the caller settles by asking. It also takes its credentials from MLFLOW_TRACKING_*
whatever the server; here each workspace has its own.
"""

from __future__ import annotations

import copy
import json
import os
import posixpath
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from contextvars import ContextVar
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, INTERNAL_ERROR
from mlflow.protos.service_pb2 import ListArtifacts, LogBatch
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from mlflow.store.model_registry.rest_store import RestStore as RegistryRestStore
from mlflow.store.tracking.databricks_rest_store import DatabricksTracingRestStore
from mlflow.store.tracking.rest_store import RestStore
from mlflow.utils.mime_type_utils import _guess_mime_type
from mlflow.utils.rest_utils import MlflowHostCreds, get_workspace_client, http_request
from mlflow.utils.uri import validate_path_is_safe

from dbml_magics.common.config import DELIVERY_TIMEOUT_S
from dbml_magics.common.redaction import redacted, remember_secrets
from dbml_magics.core import hosts
from dbml_magics.core.destinations import answers, databricks_private
from dbml_magics.core.destinations.answers import Foreign
from dbml_magics.core.destinations.errors import (
    REFUSALS,
    MissingEndpoint,
    Unavailable,
    classify_error,
    refusal,
)
from dbml_magics.core.destinations.rates import RateLimiter

if TYPE_CHECKING:
    import requests

    from dbml_magics.core.destinations.answers import Message

_LOG_BATCH = "/api/2.0/mlflow/runs/log-batch"
_BY_NAME = "/api/2.0/mlflow/experiments/get-by-name"
_CONNECT_S = 5.0
_SDK_RETRIES_S = 1
_LONGEST_REST_S = 3600.0
_timeout: ContextVar[float] = ContextVar("dbml_call_timeout", default=DELIVERY_TIMEOUT_S)


Judge: TypeAlias = Callable[["requests.Response", str, str], "Exception | None"]


class JudgedCreds(MlflowHostCreds):  # type: ignore[misc]
    """Credentials of a service that says more with a refusal than its status.

    ``judge(response, method, endpoint)`` returns the error that an answer other than 200 means, or None where
    the status says it all.
    """

    loose = True
    """Nobody has published this service's answers: they may say more than MLflow's server does."""

    def __init__(self, judge: Judge, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.judge = judge


def paced(creds: MlflowHostCreds, limiter: RateLimiter) -> MlflowHostCreds:
    """Return ``creds`` with what keeps every request made with them to the workspace's rates."""
    creds.limiter = limiter
    return creds


@contextmanager
def call_timeout(seconds: float) -> Iterator[None]:
    """Bound each call to a workspace made inside, in seconds."""
    token = _timeout.set(max(seconds, 0.1))
    try:
        yield
    finally:
        _timeout.reset(token)


def timeout_left() -> float:
    """Return how many seconds a call may take here."""
    return _timeout.get()


def request(creds: MlflowHostCreds, endpoint: str, method: str, **kwargs: Any) -> requests.Response:
    """Make one request, once, and follow no redirect; returns the response.

    Raises Unavailable, Foreign, MissingEndpoint, or MLflow's refusal.
    """
    seconds = kwargs.pop("timeout", None) or _timeout.get()
    through_sdk = getattr(creds, "use_databricks_sdk", False)
    limiter: RateLimiter | None = getattr(creds, "limiter", None)
    url = f"{creds.host.rstrip('/')}{endpoint}"
    began = time.monotonic()
    with limiter.turn(endpoint, seconds) if limiter is not None else nullcontext():
        asked, status = time.monotonic(), 0
        seconds = max(seconds - (asked - began), 0.5)
        try:
            if through_sdk:
                _harden_client(creds)
            response: requests.Response = http_request(
                host_creds=creds,
                endpoint=endpoint,
                method=method,
                max_retries=0,
                retry_codes=frozenset(),
                raise_on_status=False,
                respect_retry_after_header=False,
                # The SDK keeps one client for each pair of times: with more, it makes clients for ever.
                timeout=DELIVERY_TIMEOUT_S if through_sdk else (min(_CONNECT_S, seconds), seconds),
                **({"retry_timeout_seconds": _SDK_RETRIES_S} if through_sdk else {}),
                allow_redirects=False,
                proxies=hosts.past_proxies(url),
                **kwargs,
            )
            status = response.status_code
        except Exception as error:
            classified = classify_error(error)
            raise (
                classified.by_way(hosts.through(url)) if isinstance(classified, Unavailable) else classified
            ) from error
        finally:
            if limiter is not None:
                limiter.traffic.note(method, url, time.monotonic() - asked, status)
    if status == 200:
        return response
    _redact(response, creds)  # which reads it, so that a stream's connection is given back
    answers.check_redirect(response, method, endpoint)
    judge = getattr(creds, "judge", None)
    judged = judge(response, method, endpoint) if judge is not None else None
    if judged is not None:
        raise judged
    if status == 429 and limiter is not None:
        limiter.hold(endpoint, retry_after(response))
    if status == 429 or (status >= 500 and not _is_not_made(response)):
        said = _message(response)
        raise Unavailable(
            f"answers {status}{': ' + said if said else ''}{hosts.through(url)}",
            sent=status != 429,
            retry_after=retry_after(response),
            said=MlflowException(said, INTERNAL_ERROR) if status == 500 and _says_why(response) else None,
        )
    if status in (401, 403, 407):
        said = _message(response)
        what = {401: "not signed in", 403: "not permitted"}.get(status, "the proxy wants a sign-in")
        raise Unavailable(
            f"{what} ({status}{': ' + said if said else ''}){hosts.through(url)}", sent=False, denied=True
        )
    if 400 <= status < 500 and not _says_why(response):
        _check_who_refuses(creds, url)
        if status == 404:
            raise MissingEndpoint(f"{method} {endpoint}: no such call there", error_code=ENDPOINT_NOT_FOUND)
    return response


def _harden_client(creds: MlflowHostCreds) -> None:
    """Have the client of databricks-sdk that MLflow keeps for these credentials follow no redirect."""
    client = get_workspace_client(
        creds.use_secret_scope_token,
        creds.host,
        creds.token,
        creds.databricks_auth_profile,
        retry_timeout_seconds=_SDK_RETRIES_S,
        timeout=DELIVERY_TIMEOUT_S,
    )
    hosts.harden(databricks_private.session(client))


def _is_not_made(response: requests.Response) -> bool:
    """Tell whether a service says of a call of its own that it is not made yet: no outage, nor a gateway.

    Databricks answers 501 and NOT_IMPLEMENTED (databricks/cli, libs/testserver/database_catalogs.go).
    """
    return response.status_code == 501 and _refused(response).get("error_code") == "NOT_IMPLEMENTED"


def _refused(response: requests.Response) -> dict[str, Any]:
    try:
        body = json.loads(response.text)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _says_why(response: requests.Response) -> bool:
    """Tell whether a refusal is in a service's own words, not in those of whatever stands before it."""
    return bool(_message(response))


def _check_who_refuses(creds: MlflowHostCreds, url: str) -> None:
    """Raise Foreign where a refusal without MLflow's words comes from something that is not MLflow.

    A gateway whose service is away answers 404 to everything: that is no call which the service lacks.
    """
    base, found, _ = url.partition("/api/2.0/")
    if not found:
        return  # another interface of the service's
    asking = copy.copy(creds)
    asking.host = base
    if url.endswith(_BY_NAME):  # every MLflow server has it, and this was that question
        raise Foreign(f"asked for an experiment, it answers what is not MLflow's{hosts.through(url)}")
    identify(asking)


def _verified(response: requests.Response, endpoint: str, method: str) -> dict[str, Any]:
    """Return what a call that was done is answered with. Raises Foreign, or MLflow's refusal."""
    status = response.status_code
    if (not 400 <= status < 500 and status != 501) or status == 408:
        return answers.read(response, method, endpoint)
    refused = _refused(response)
    error = RestException(refused) if refused.get("error_code") else None
    if error is not None and error.error_code in REFUSALS:
        raise error
    raise refusal(status, _message(response) or " ".join(response.text.split())[:200])


def _redact(response: requests.Response, creds: MlflowHostCreds) -> None:
    """Take the secrets out of a refusal before anybody reads it: a server may echo what it was sent."""
    remember_secrets(creds.token)
    remember_secrets(creds.password, username=creds.username or "")
    said = response.text
    if (cleaned := redacted(said)) != said:
        response._content, response.encoding = cleaned.encode("utf-8", "replace"), "utf-8"


def _message(response: requests.Response) -> str:
    body = _refused(response)
    nested = body.get("error") or body.get("Error")  # Azure's own forms, of gateways and of its MLflow
    inner = nested if isinstance(nested, dict) else {}
    return str(body.get("message") or inner.get("message") or inner.get("Message") or "")[:200]


def retry_after(response: requests.Response) -> float | None:
    """Return for how many seconds an answer asks to be left alone, or None; an hour at most.

    RFC 9110 10.2.3: seconds, or a date by the service's own clock, as its ``Date`` is. What is longer than an
    hour is taken for a mistake of a gateway's.
    """
    headers: Mapping[str, str] = response.headers or {}
    text = headers.get("Retry-After") or ""
    try:
        seconds = float(text)
    except ValueError:
        until = _moment(text)
        if until is None:
            return None
        seconds = until - (_moment(headers.get("Date") or "") or time.time())
    return min(max(0.0, seconds), _LONGEST_REST_S) if seconds == seconds else None


def _moment(text: str) -> float | None:
    """Return an HTTP date in seconds since the epoch, or None for what is none."""
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)).timestamp()


def call(
    creds: MlflowHostCreds,
    endpoint: str,
    method: str,
    json_body: str | None,
    response_proto: Message,
    extra_headers: dict[str, str] | None = None,
) -> Message:
    """Make one MLflow call and parse its answer into ``response_proto``."""
    body = None if json_body is None else json.loads(json_body)
    kwargs: dict[str, object] = {"params": body} if method == "GET" else {"json": body}
    if extra_headers:
        kwargs["extra_headers"] = extra_headers
    response = request(creds, endpoint, method, **kwargs)
    answer = _verified(response, endpoint, method)
    return answers.parsed(answer, response, method, endpoint, response_proto, getattr(creds, "loose", False))


def own_call(
    creds: MlflowHostCreds, endpoint: str, method: str, identity: str | None, **kwargs: Any
) -> dict[str, Any]:
    """Make one call of a service's own beside MLflow's; returns the JSON object that answers it.

    It has a field ``identity``, or (None) nothing at all. Raises as :func:`request`, and Foreign.
    """
    response = request(creds, endpoint, method, **kwargs)
    answer = _verified(response, endpoint, method)
    if (identity is None and answer) or (identity is not None and not answer.get(identity)):
        lacks = "what it has no word of" if identity is None else f"no {identity}"
        raise Foreign(
            f"{method} {endpoint} is answered by 200 with {lacks}{hosts.through(response.url or '')}"
        )
    return answer


def identify(creds: MlflowHostCreds) -> None:
    """Ask for an experiment by name: found or not, nothing but MLflow answers it.

    Raises Unavailable, Foreign.
    """
    response = request(creds, _BY_NAME, "GET", params={"experiment_name": "Default"})
    try:
        answer = json.loads(response.text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not {"experiment", "error_code"} & set(answer):
        kind = "a web page" if "<html" in response.text[:2000].lower() else "something else"
        raise Foreign(f"asked for an experiment, it answers {response.status_code} with {kind}")


class TrackingCalls:
    """RestStore's calls through :func:`call`, and log-batch bodies as plain JSON.

    Encoding 1,000 points through protobuf holds the GIL for 15 ms, plain JSON for 1 ms.
    """

    get_host_creds: Callable[[], MlflowHostCreds]
    _METHOD_TO_INFO: dict[type[Message], tuple[str, str]]
    _V3_METHOD_TO_INFO: dict[type[Message], tuple[str, str]]
    _V3_APIS: frozenset[type[Message]]

    def _call_endpoint(
        self,
        api: type[Message],
        json_body: str | None = None,
        endpoint: str | None = None,
        retry_timeout_seconds: int | None = None,  # noqa: ARG002 - MLflow's signature
        response_proto: Message | None = None,
    ) -> Message:
        found, method = (self._V3_METHOD_TO_INFO if api in self._V3_APIS else self._METHOD_TO_INFO)[api]
        try:
            return call(
                self.get_host_creds(), endpoint or found, method, json_body, response_proto or api.Response()
            )
        except RestException as error:
            if error.error_code == "ENDPOINT_NOT_FOUND":
                raise MissingEndpoint(str(error), error_code=ENDPOINT_NOT_FOUND) from error
            raise

    def send_batch(self, body: Mapping[str, object]) -> None:
        """Send a log-batch whose body is ready as plain data."""
        creds = self.get_host_creds()
        response = request(creds, _LOG_BATCH, "POST", json=body)
        answer = _verified(response, _LOG_BATCH, "POST")
        if answer:  # one that is well has nothing in it
            loose = getattr(creds, "loose", False)
            answers.parsed(answer, response, "POST", _LOG_BATCH, LogBatch.Response(), loose)


class RegistryCalls:
    """The registry's RestStore's calls through :func:`call`."""

    get_host_creds: Callable[[], MlflowHostCreds]
    _get_response_from_method: Callable[[type[Message]], Message]
    _get_all_endpoints_from_method: Callable[[type[Message]], list[tuple[str, str]]]
    _get_endpoint_from_method: Callable[[type[Message]], tuple[str, str]]

    def _call_endpoint(
        self,
        api: type[Message],
        json_body: str | None,
        call_all_endpoints: bool = False,
        extra_headers: dict[str, str] | None = None,
    ) -> Message:
        answer = self._get_response_from_method(api)
        if not call_all_endpoints:
            endpoint, method = self._get_endpoint_from_method(api)
            return call(self.get_host_creds(), endpoint, method, json_body, answer, extra_headers)
        endpoints = self._get_all_endpoints_from_method(api)
        for number, (endpoint, method) in enumerate(endpoints):
            try:
                return call(self.get_host_creds(), endpoint, method, json_body, answer, extra_headers)
            except (MissingEndpoint, RestException) as error:
                if error.error_code != "ENDPOINT_NOT_FOUND" or number == len(endpoints) - 1:
                    raise
        raise AssertionError("MLflow lists no endpoint for this call")


class TrackingStore(TrackingCalls, RestStore):  # type: ignore[misc]
    """An MLflow server's tracking store."""


class DatabricksStore(TrackingCalls, DatabricksTracingRestStore):  # type: ignore[misc]
    """A Databricks workspace's tracking store."""


class RegistryStore(RegistryCalls, RegistryRestStore):  # type: ignore[misc]
    """An MLflow server's registry."""


class ProxiedArtifacts(MlflowArtifactsRepository):  # type: ignore[misc]
    """``mlflow-artifacts:`` at one workspace, with its own credentials, each upload made once."""

    def __init__(self, artifact_uri: str, tracking_uri: str, creds: Callable[[str], MlflowHostCreds]) -> None:
        super().__init__(artifact_uri, tracking_uri=tracking_uri)
        self._creds = creds

    @property
    def _host_creds(self) -> MlflowHostCreds:
        return self._creds(self.artifact_uri)

    @property
    def _artifact_server_host_creds(self) -> MlflowHostCreds:
        return self._creds(self.artifact_uri.partition("/api/2.0/mlflow-artifacts/artifacts")[0].rstrip("/"))

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Upload one file, streamed, without a second try."""
        name = os.path.basename(local_file)
        endpoint = posixpath.join("/", artifact_path, name) if artifact_path else f"/{name}"
        size = os.path.getsize(local_file)
        with open(local_file, "rb") as data:
            response = request(
                self._host_creds,
                quote(endpoint),
                "PUT",
                data=data if size else b"",  # requests would chunk an empty stream
                extra_headers={"Content-Type": _guess_mime_type(local_file)},
                timeout=60 + size / 1e6,
            )
        if response.status_code >= 400:
            raise refusal(response.status_code, _message(response))
        if not answers.says_stored(response, "PUT", f"the file {endpoint[1:]}"):
            there = {info.path: info.file_size or 0 for info in self.list_artifacts(artifact_path)}
            if there.get(endpoint[1:]) != size:
                raise Foreign(
                    f"PUT the file {endpoint[1:]} is answered by 200 with nothing, and it is not there"
                    f"{hosts.through(self.artifact_uri)}"
                )

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        """Download one file, streamed, without a second try."""
        endpoint = quote(posixpath.join("/", remote_file_path))
        response = request(self._host_creds, endpoint, "GET", stream=True)
        with closing(response):
            if response.status_code >= 400:
                raise refusal(response.status_code, _message(response))
            answers.check_file(response, remote_file_path, _guess_mime_type(remote_file_path))
            with open(local_path, "wb") as out:
                for chunk in response.iter_content(1 << 20):
                    out.write(chunk)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """List one folder, without a second try."""
        url, _, tail = self.artifact_uri.partition("/mlflow-artifacts/artifacts")
        root = tail.lstrip("/")
        response = request(
            self._creds(url),
            "/mlflow-artifacts/artifacts",
            "GET",
            params={"path": posixpath.join(root, path) if path else root},
        )
        answer = _verified(response, "/mlflow-artifacts/artifacts", "GET")
        listed = ListArtifacts.Response()
        answers.parsed(answer, response, "GET", "/mlflow-artifacts/artifacts", listed, False)
        found = []
        for entry in answer.get("files", []):
            validate_path_is_safe(entry["path"])
            # Below a folder no name is read as a URI, whose scheme would get small letters: "Loss: a.png".
            name = validate_path_is_safe(f"./{entry['path']}").removeprefix("./")
            below = posixpath.join(path, name) if path else name
            found.append(
                FileInfo(below, entry["is_dir"], int(entry["file_size"]) if "file_size" in entry else None)
            )
        if path and len(found) == 1 and found[0].path == posixpath.join(path, posixpath.basename(path)):
            return []  # MLflow's rule: a path that is a file has nothing under it
        return sorted(found, key=lambda info: info.path)
