"""MLflow's REST interface of a server over one connection, without MLflow."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

__all__ = ["START", "Api", "points"]

START = 1_700_000_000_000
"""When the first run of a benchmark began, and its first point was logged."""
_RESTED_S = 2.0  # a server closes a connection that rests for five


class Api:
    """One connection, opened again when it has rested."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._connection = http.client.HTTPConnection(urlsplit(uri).netloc, timeout=120)
        self._used = 0.0

    def _ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> bytes:
        if time.monotonic() - self._used > _RESTED_S:
            self._connection.close()
        self._connection.request(method, path, body, {"Content-Type": kind})
        answer = self._connection.getresponse()
        content = answer.read()
        self._used = time.monotonic()
        if answer.status != 200:
            raise http.client.HTTPException(f"{method} {path}: {answer.status} {content[:200]!r}")
        return content

    def post(self, call: str, **body: Any) -> dict[str, Any]:
        """Make a call that writes or searches."""
        payload: dict[str, Any] = json.loads(
            self._ask("POST", f"/api/2.0/mlflow/{call}", json.dumps(body).encode())
        )
        return payload

    def get(self, call: str, **query: str) -> dict[str, Any]:
        """Make a call that reads."""
        payload: dict[str, Any] = json.loads(self._ask("GET", f"/api/2.0/mlflow/{call}?{urlencode(query)}"))
        return payload

    # --- experiments and runs

    def experiment(self, name: str) -> str:
        """Make an experiment."""
        return str(self.post("experiments/create", name=name)["experiment_id"])

    def begin(self, experiment: str, number: int, tags: dict[str, str] | None = None) -> str:
        """Make a run."""
        facts = [{"key": "mlflow.runName", "value": f"run-{number}"}]
        facts += [{"key": key, "value": value} for key, value in (tags or {}).items()]
        began = START + number * 1000
        made = self.post("runs/create", experiment_id=experiment, start_time=began, tags=facts)
        return str(made["run"]["info"]["run_id"])

    def log(self, run_id: str, metrics: list[dict[str, Any]], params: dict[str, str] | None = None) -> None:
        """Send points and params of a run in one batch."""
        given = [{"key": key, "value": value} for key, value in (params or {}).items()]
        self.post("runs/log-batch", run_id=run_id, metrics=metrics, params=given)

    def end(self, run_id: str, number: int) -> None:
        """End a run."""
        self.post("runs/update", run_id=run_id, status="FINISHED", end_time=START + number * 1000 + 500)

    def runs(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the runs of an experiment."""
        found = self.get("experiments/get-by-name", experiment_name=name)["experiment"]["experiment_id"]
        token = ""
        while True:
            page = self.post("runs/search", experiment_ids=[found], max_results=500, page_token=token)
            yield from page.get("runs", [])
            token = page.get("next_page_token", "")
            if not token:
                return

    def history(self, run_id: str, key: str) -> Iterator[dict[str, Any]]:
        """Yield the points of a metric, in pages: a million in one answer are too many for a server."""
        query = {"run_id": run_id, "metric_key": key, "max_results": "25000"}
        while True:
            page = self.get("metrics/get-history", **query)
            yield from page.get("metrics", [])
            if not page.get("next_page_token"):
                return
            query["page_token"] = page["next_page_token"]

    # --- files

    def put_file(self, experiment: str, run_id: str, name: str, content: bytes) -> None:
        """Give a run a file."""
        self._ask("PUT", _place(experiment, run_id, name), content, "application/octet-stream")

    def get_file(self, experiment: str, run_id: str, name: str) -> bytes:
        """Return the content of a run's file."""
        return self._ask("GET", _place(experiment, run_id, name))


def points(key: str, first: int, last: int) -> list[dict[str, Any]]:
    """Return the points of a metric from one step up to another."""
    return [
        {"key": key, "value": 1 / (step + 1), "timestamp": START + step, "step": step}
        for step in range(first, last)
    ]


def _place(experiment: str, run_id: str, name: str) -> str:
    return f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run_id}/artifacts/{name}"
