"""The process behind a deployment of a local endpoint: one model, loaded once, and its answers.

It ends when the server that started it does: nothing is left behind then.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import socket
import sys
import threading
import time
import traceback
from typing import Any

from dbml_magics.core.endpoints import frames

__all__ = ["work"]

# MLflow loads every plugin of these groups while it is imported (azureml-mlflow alone costs a second), and a
# model that only predicts meets none of them.
_UNUSED_PLUGINS = (
    "mlflow.tracking_store",
    "mlflow.model_registry_store",
    "mlflow.artifact_repository",
    "mlflow.run_context_provider",
    "mlflow.request_header_provider",
    "mlflow.request_auth_provider",
    "mlflow.deployments",
)


_DEEPEST = 60  # arrays in arrays: numpy has 64 dimensions at most
_TOO_DEEP = f"the body is nested too deeply: more than {_DEEPEST} brackets in each other"
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.S)


def work(descriptors: list[int], model: str) -> None:
    """Load the model in the folder ``model`` and answer on each channel until its other end closes."""
    channels = [socket.socket(fileno=number) for number in descriptors]
    loaded = threading.Event()
    scorer = _Scorer()
    for channel in channels:
        threading.Thread(target=_serve, args=(channel, scorer, loaded), daemon=True).start()
    began = time.monotonic()
    _say("INFO", f"loading the model in a new process ({os.getpid()})")
    try:
        scorer.load(model)
    except BaseException as error:
        traceback.print_exc()
        _say("ERROR", f"the model cannot be loaded: {_last_line(error)}")
        sys.exit(3)
    _say("INFO", f"ready after {time.monotonic() - began:.1f} s")
    channels[0].sendall(frames.answer(frames.READY, "", b""))
    loaded.set()
    threading.Event().wait()  # the channels' threads end the process


def _say(level: str, text: str) -> None:
    os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {level} {text}\n".encode())


def _last_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def _serve(channel: socket.socket, scorer: _Scorer, loaded: threading.Event) -> None:
    """Answer what comes in on one channel; its end is the end of the process."""
    try:
        while True:
            head = _exactly(channel, frames.REQUEST.size)
            length, named, kind = frames.REQUEST.unpack(head)
            content_type = _exactly(channel, named).decode("latin-1")
            body = _exactly(channel, length)
            loaded.wait()
            channel.sendall(frames.answer(*scorer.answer(kind, content_type, body)))
    except OSError:
        pass
    finally:
        os._exit(0)


def _exactly(channel: socket.socket, length: int) -> bytes:
    """Read so many bytes. Raises ConnectionError when the other end closes first."""
    parts: list[bytes] = []
    while length:
        part = channel.recv(min(length, 1 << 20))
        if not part:
            raise ConnectionError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


class _Scorer:
    """One model and the two formats that it is asked in."""

    def load(self, model: str) -> None:
        """Import what scoring needs, and load the model."""
        _hide_unused_plugins()
        import mlflow.pyfunc
        from mlflow.pyfunc import scoring_server
        from mlflow.utils.proto_json_utils import NumpyEncoder, _get_jsonable_obj

        self._native = scoring_server
        self._encoder, self._jsonable = NumpyEncoder, _get_jsonable_obj
        self._model = mlflow.pyfunc.load_model(model)
        self._schema = self._model.metadata.get_input_schema()

    def answer(self, kind: int, content_type: str, body: bytes) -> tuple[int, str, bytes]:
        """Return (HTTP status, content type, body); a failure is told in it and in the log."""
        from mlflow.exceptions import MlflowException

        try:
            if kind == frames.MLFLOW:
                said = self._native.invocations(
                    body, content_type or "application/json", self._model, self._schema
                )
                return said.status, said.mimetype, said.response.encode()
            return 200, "application/json", self._azureml(body)
        except MlflowException as error:
            traceback.print_exc()
            cause = str(error.message).strip()
            trace = error.json_kwargs.get("stack_trace")
            if "RecursionError" in f"{cause} {trace or ''}" and _is_too_deep(body):
                return _failure(400, "BAD_REQUEST", _TOO_DEEP)
            if trace:  # of the model itself: MLflow's own sentence does not say what went wrong
                sys.stderr.write(f"{trace}\n")
                cause = trace.strip().splitlines()[-1]
                return _failure(500, "MODEL_FAILED", cause)
            return _failure(400, error.error_code, cause)
        except _BadRequest as error:
            return _failure(400, "BAD_REQUEST", str(error))
        except Exception as error:
            if isinstance(error, RecursionError) and _is_too_deep(body):
                return _failure(400, "BAD_REQUEST", _TOO_DEEP)
            traceback.print_exc()
            return _failure(500, "MODEL_FAILED", _last_line(error))

    def _azureml(self, body: bytes) -> bytes:
        """Answer Azure ML's format: ``{"input_data": …, "params": …}`` gives a bare list."""
        try:
            asked = json.loads(body)
        except ValueError as error:
            raise _BadRequest(f"the body is not JSON: {error}") from None
        if not isinstance(asked, dict) or "input_data" not in asked:
            raise _BadRequest(
                'the body lacks "input_data", as in {"input_data": {"columns": […], "data": [[…]]}}'
            )
        data = self._parsed(asked["input_data"])
        params = asked.get("params")
        predicted = self._model.predict(data, params=params) if params else self._model.predict(data)
        return json.dumps(self._jsonable(predicted, pandas_orient="records"), cls=self._encoder).encode()

    def _parsed(self, data: Any) -> Any:
        """Return the input as what the model takes: a frame by its columns, else arrays."""
        import pandas as pd
        from mlflow.utils.proto_json_utils import dataframe_from_parsed_json, parse_tf_serving_input

        columns = self._schema is not None and not self._schema.is_tensor_spec()
        if isinstance(data, dict) and {"columns", "data"} <= data.keys():
            return dataframe_from_parsed_json(
                data, pandas_orient="split", schema=self._schema if columns else None
            )
        if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
            return dataframe_from_parsed_json(
                data, pandas_orient="records", schema=self._schema if columns else None
            )
        if isinstance(data, list) and columns and self._schema.has_input_names():
            names = self._schema.input_names()
            rows = [row if isinstance(row, list) else [row] for row in data]
            if any(len(row) != len(names) for row in rows):
                raise _BadRequest(f"rows of {len(names)} values are wanted: {', '.join(map(str, names))}")
            return pd.DataFrame(rows, columns=names)
        return parse_tf_serving_input({"inputs": data}, schema=self._schema)


def _is_too_deep(body: bytes) -> bool:
    """Tell whether the body's nesting can be what was too much; looked at only when something was."""
    depth = 0
    for found in _BRACKETS.finditer(body):
        if found[0] in b"[{":
            depth += 1
            if depth > _DEEPEST:
                return True
        elif found[0] in b"]}":
            depth -= 1
    return False


class _BadRequest(Exception):
    """The request cannot be read."""


def _failure(status: int, code: str, message: str) -> tuple[int, str, bytes]:
    told = {"error_code": code, "message": message[:4000]}
    return status, "application/json", json.dumps(told).encode()


def _hide_unused_plugins() -> None:
    real = importlib.metadata.entry_points

    def entry_points(**chosen: Any) -> Any:
        unused = chosen.get("group") in _UNUSED_PLUGINS
        return importlib.metadata.EntryPoints() if unused else real(**chosen)

    importlib.metadata.entry_points = entry_points
