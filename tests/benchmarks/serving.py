"""A model served by ``deploy`` and by ``mlflow models serve``, asked by the same clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

_DEADLINE_S = 180.0
_ROWS = [[0.1, 1.0, 2.0, 3.0], [0.2, 1.5, 2.5, 3.5]]
_COLUMNS = ["a", "b", "c", "d"]


def measure(scenario: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds from the order to the first answer, and what 1 and 8 clients see, of each server."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["DBML_HOME"] = str(Path(folder, "home"))
        source = _log_model()
        return {"local": _ours(scenario), "mlflow": _mlflow(source, scenario)}


def _log_model() -> str:
    import mlflow
    import numpy as np
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.linear_model import LinearRegression

    import dbml_magics as dbml

    dbml.link(local=True)
    x = pd.DataFrame(np.random.default_rng(0).random((100, 4)), columns=_COLUMNS)
    model = LinearRegression().fit(x, x.sum(axis=1))
    signature = infer_signature(x, model.predict(x))
    with mlflow.start_run():
        options = {"signature": signature, "pip_requirements": ["scikit-learn"]}
        mlflow.sklearn.log_model(model, name="model", registered_model_name="bench", **options)
    dbml.sync(60)
    mlflow.sklearn.save_model(model, "saved", **options)
    return str(Path("saved").absolute())


def _ours(scenario: dict[str, Any]) -> dict[str, Any]:
    import dbml_magics as dbml

    began = time.perf_counter()
    uri = dbml.deploy("bench/1", to="local", name="bench").uri
    try:
        assert len(dbml.invoke("bench", _ROWS)) == len(_ROWS)
        ready = time.perf_counter() - began
        key = Path(os.environ["DBML_HOME"], "endpoints", "bench", "key").read_text()
        body = {"input_data": {"columns": _COLUMNS, "index": [0, 1], "data": _ROWS}}
        return {"ready": ready, **_asked(str(uri), body, {"Authorization": f"Bearer {key}"}, scenario)}
    finally:
        dbml.undeploy("bench")


def _mlflow(source: str, scenario: dict[str, Any]) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["-m", source, "-p", str(port), "-h", "127.0.0.1", "--env-manager", "local"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    uri = f"http://127.0.0.1:{port}/invocations"
    body = {"dataframe_split": {"columns": _COLUMNS, "index": [0, 1], "data": _ROWS}}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # It runs the command uvicorn, which stands beside this Python.
        env={
            **environment,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        },
        start_new_session=True,
    )
    try:
        while True:
            try:
                _ask(_connected(uri), uri, json.dumps(body).encode(), {})
                break
            except (OSError, http.client.HTTPException):
                if process.poll() is not None or time.perf_counter() - began > _DEADLINE_S:
                    raise RuntimeError("mlflow models serve did not answer") from None
                time.sleep(0.02)
        return {"ready": time.perf_counter() - began, **_asked(uri, body, {}, scenario)}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _connected(uri: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(str(urlsplit(uri).netloc), timeout=60)


def _ask(connection: http.client.HTTPConnection, uri: str, body: bytes, headers: dict[str, str]) -> None:
    connection.request("POST", urlsplit(uri).path, body, {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != 200:
        raise http.client.HTTPException(said.decode()[:200])


def _asked(uri: str, body: Any, headers: dict[str, str], scenario: dict[str, Any]) -> dict[str, Any]:
    """Return the median, the 99th percentile (ms) and the requests a second of 1 client and of 8."""
    measured: dict[str, Any] = {}
    for clients in (1, 8):
        times: list[float] = []
        each = max(1, int(scenario["requests"]) // clients)
        _client(uri, body, headers, min(20, each), [])  # the first requests import what is used first
        began = time.perf_counter()
        _clients(clients, partial(_client, uri, body, headers, each, times))
        took = time.perf_counter() - began
        times.sort()
        measured[f"p50_{clients}"] = median(times) * 1000
        measured[f"p99_{clients}"] = times[min(len(times) - 1, int(len(times) * 0.99))] * 1000
        measured[f"rate_{clients}"] = len(times) / took
    return measured


def _clients(count: int, work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _client(uri: str, body: Any, headers: dict[str, str], count: int, times: list[float]) -> None:
    connection, encoded = _connected(uri), json.dumps(body).encode()
    for _ in range(count):
        began = time.perf_counter()
        _ask(connection, uri, encoded, headers)
        times.append(time.perf_counter() - began)
    connection.close()
