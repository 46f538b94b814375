"""Asking an endpoint: the key by itself, large batches in pieces, and again where that is safe."""

from __future__ import annotations

import json
import time

import requests

from dbml_magics.common.hints import Remedy
from dbml_magics.core import hosts
from dbml_magics.core.endpoints import payload
from dbml_magics.core.endpoints.base import Address, Say
from dbml_magics.core.model.mlmodel import Params
from dbml_magics.errors import BadData, NotPermitted, ScoringFailed
from dbml_magics.results.endpoints import Endpoint, InvokeResult

__all__ = ["ask"]

_TIMEOUT_S = (10.0, 200.0)  # to connect; for an answer (managed endpoints give a request up to 180 s)
_SAMPLE = 1000  # rows
_TRIES = 5
_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
_COME_AGAIN = (429, 503)  # nothing was done with the request
_TOO_MUCH = (408, 413)


def ask(
    endpoint: Endpoint,
    address: Address,
    data: object,
    deployment: str | None,
    params: Params | str | None,
    say: Say,
) -> InvokeResult:
    """Return an endpoint's predictions for data. Raises BadData, ScoringFailed, NotPermitted."""
    began = time.monotonic()
    prepared = payload.prepare(payload.read(data, address.signature), address.signature, params)
    if prepared.rows == 0:
        raise BadData("the data has no rows.", remedies=[(Remedy("help", "invoke"), "what it takes")])
    with hosts.session() as connection:
        if address.direct:
            connection.trust_env = False  # nor has what ~/.netrc says of this machine
        caller = _Caller(endpoint, address, connection)
        found = _in_pieces(prepared, caller, address.limit, say)
    return InvokeResult(
        predictions=prepared.restore(found),
        endpoint=endpoint.name,
        deployment=deployment or caller.answered_by,
        rows=prepared.rows,
        seconds=time.monotonic() - began,
        requests=caller.requests,
        notes=prepared.notes,
    )


def _in_pieces(prepared: payload.Payload, caller: _Caller, limit: int, say: Say) -> object:
    """Send all rows, in requests that are no larger than the endpoint takes."""
    step = prepared.rows
    if step > _SAMPLE and not prepared.whole:
        # Rows are much alike, so a few of them tell the size: a million are not written twice.
        step = min(step, max(1, int(_SAMPLE * limit * 0.9 / len(prepared.body(0, _SAMPLE)))))
    body = prepared.body(0, step)
    found: list[object] = []
    first = 0
    while first < prepared.rows:
        last = min(first + step, prepared.rows)
        too_much = len(body) > limit
        answer = None if too_much else caller.post(body)
        if answer is None:
            if last - first == 1 or prepared.whole:
                raise BadData(
                    f"one row is too much for a request ({len(body):,} bytes of at most {limit:,})."
                    if too_much
                    else "one row takes the model longer than a request may last.",
                    remedies=[(Remedy("logs", caller.endpoint.name), "what it was doing")],
                )
            step = (last - first) // 2
        else:
            if prepared.whole:
                return answer
            found += caller.checked(answer, last - first)
            first = last
            if first < prepared.rows:
                say(f"{first:,} of {prepared.rows:,} rows")
        if first < prepared.rows:
            body = prepared.body(first, min(first + step, prepared.rows))
    return found


class _Caller:
    """One endpoint, asked again and again."""

    def __init__(self, endpoint: Endpoint, address: Address, connection: requests.Session) -> None:
        self.endpoint, self._address, self._connection = endpoint, address, connection
        self._headers = address.headers(False)
        self.requests = 0
        self.answered_by: str | None = None

    def post(self, body: bytes) -> object:
        """Return the answer to one request, or None when it was too large or took too long.

        A connection that was refused, 429 and 503 are tried again, 401 once with a new key; what may have
        been worked on is not.
        """
        renewed = False
        for attempt in range(_TRIES):
            try:
                answer = self._connection.post(
                    self._address.uri,
                    data=body,
                    headers={"Content-Type": "application/json", **self._headers},
                    timeout=_TIMEOUT_S,
                    allow_redirects=False,
                )
            except requests.exceptions.ConnectTimeout:
                continue
            except requests.exceptions.ReadTimeout:
                raise self._failed(f"it did not answer within {_TIMEOUT_S[1]:.0f} s") from None
            except requests.exceptions.ConnectionError as error:
                if "refused" not in str(error) and "resolve" not in str(error):
                    raise self._failed("the connection broke while it worked on the request") from None
                self._pause(attempt, None)
                continue
            except requests.exceptions.RequestException:
                raise self._failed("the connection broke in the middle of its answer") from None
            self.requests += 1
            if answer.status_code in (401, 403) and not renewed:
                self._headers, renewed = self._address.headers(True), True
                continue
            if answer.status_code in _COME_AGAIN and attempt + 1 < _TRIES:
                self._pause(attempt, answer.headers.get("Retry-After"))
                continue
            if answer.status_code in _TOO_MUCH:
                return None
            return self._read(answer)
        raise self._failed(f"nothing answers at {self._address.uri}{hosts.through(self._address.uri)}")

    def _pause(self, attempt: int, wished: str | None) -> None:
        pause = float(wished) if wished and wished.replace(".", "", 1).isdigit() else _PAUSE_S * 2**attempt
        time.sleep(min(pause, _LONGEST_PAUSE_S))

    def _read(self, answer: requests.Response) -> object:
        self.answered_by = answer.headers.get("azureml-model-deployment") or self.answered_by
        if answer.status_code != 200:
            raise self._refusal(answer)
        try:
            content = answer.json()
            if isinstance(content, str):  # the v1 services answer JSON within JSON
                content = json.loads(content)
        except (ValueError, RecursionError):
            raise self._failed(f"its answer is not JSON: {answer.text[:200]}") from None
        if isinstance(content, dict) and "predictions" in content:
            return content["predictions"]
        return content

    def checked(self, answer: object, rows: int) -> list[object]:
        """Return as many predictions as rows were sent. Raises ScoringFailed."""
        if isinstance(answer, dict) and answer and all(isinstance(v, list) for v in answer.values()):
            answer = [dict(zip(answer, row, strict=False)) for row in zip(*answer.values(), strict=False)]
        found: list[object] = answer if isinstance(answer, list) else [answer]
        if len(found) != rows:
            raise self._failed(f"{rows:,} rows were sent, and {len(found):,} predictions came back")
        return found

    def _refusal(self, answer: requests.Response) -> Exception:
        try:
            content = answer.json()
            said = content.get("message") or (content.get("error") or {}).get("message") or answer.text
        except (ValueError, AttributeError, RecursionError):
            said = answer.text
        said = " ".join(str(said).split())[:400]
        remedies = [(Remedy("logs", self.endpoint.name), "the server's own words")]
        if answer.status_code == 400:
            return BadData(f"{self.endpoint.name} refused the data: {said}", remedies=remedies)
        if answer.status_code in (401, 403):
            return NotPermitted(
                f"{self.endpoint.name} answers {answer.status_code}: its key or token is not accepted.",
                remedies=[(Remedy("endpoints", self.endpoint.name), "shows how it is asked")],
            )
        return self._failed(f"it answered {answer.status_code}: {said}")

    def _failed(self, why: str) -> ScoringFailed:
        return ScoringFailed(
            f"{self.endpoint.name} gave no predictions: {why}.",
            remedies=[
                (Remedy("logs", self.endpoint.name), "the server's own words"),
                (Remedy("endpoints", self.endpoint.name), "whether it is ready"),
            ],
        )
