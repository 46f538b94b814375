"""The process behind a deployment of a local endpoint: one model, loaded once, and its answers.

It ends when the server that started it does: nothing is left behind then.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from dbml_magics.core.endpoints import frames

if TYPE_CHECKING:
    from pandas import DataFrame

    from dbml_magics.core.endpoints.reading import Name, Table

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


_WHERE = "_dbml_where"  # of an error: the row that it is about
_SEARCH_S = 2.0  # for the row that the model fails on
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
    """Answer the requests of one channel; end the process when the channel closes."""
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
        from mlflow.utils.proto_json_utils import NumpyEncoder

        from dbml_magics.core import mlflow_private

        self._native = scoring_server
        self._encoder, self._jsonable = NumpyEncoder, mlflow_private.jsonable
        self._model = mlflow.pyfunc.load_model(model)
        self._schema = self._model.metadata.get_input_schema()
        params = self._model.metadata.get_params_schema()
        self._signature = {"params": [] if params is None else params.to_dict()}
        # Types that are read from the code of predict are checked by MLflow as it calls it.
        self._hinted = mlflow_private.has_signature_of_type_hints(self._model.metadata)

    def answer(self, kind: int, content_type: str, body: bytes) -> tuple[int, str, bytes]:
        """Return (HTTP status, content type, body); a failure is described in it and in the log."""
        from mlflow.exceptions import MlflowException

        from dbml_magics.core.endpoints.reading import BadRequest

        try:
            if kind == frames.MLFLOW:
                return self._mlflow(content_type or "application/json", body)
            return self._answered(self._azureml(body))
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
        except BadRequest as error:
            return _failure(400, "BAD_REQUEST", str(error))
        except Exception as error:
            if isinstance(error, RecursionError) and _is_too_deep(body):
                return _failure(400, "BAD_REQUEST", _TOO_DEEP)
            traceback.print_exc()
            return _failure(500, "MODEL_FAILED", f"{_last_line(error)}{getattr(error, _WHERE, '')}")

    def _mlflow(self, content_type: str, body: bytes) -> tuple[int, str, bytes]:
        """Answer MLflow's own format: ``{"inputs": …, "params": …}`` gives ``{"predictions": …}``."""
        named, _, rest = (part.strip() for part in content_type.partition(";"))
        charset = rest.partition("=")[2].lower() if rest.startswith("charset=") else rest
        if charset in ("", "utf-8") and not self._hinted:
            if named == "text/csv":
                return self._answered({"predictions": self._predicted(self._of_csv(body), None)})
            if named == "application/json" and (asked := _asked(body)) is not None:
                form, data, params = asked
                return self._answered({"predictions": self._predicted(self._parsed(form, data), params)})
        said = self._native.invocations(body, content_type, self._model, self._schema)
        return said.status, said.mimetype, said.response.encode()

    def _answered(self, answer: object) -> tuple[int, str, bytes]:
        return 200, "application/json", json.dumps(answer, cls=self._encoder).encode()

    def _azureml(self, body: bytes) -> object:
        """Answer Azure ML's format: ``{"input_data": …, "params": …}`` gives a bare list."""
        from dbml_magics.core.endpoints.reading import BadRequest

        try:
            asked = json.loads(body)
        except ValueError as error:
            raise BadRequest(f"the body is not JSON: {error}") from None
        if not isinstance(asked, dict) or "input_data" not in asked:
            if _asked(body) is not None:  # "input_data" stands somewhere within MLflow's own form
                return json.loads(self._mlflow("application/json", body)[2])
            raise BadRequest(
                'the body lacks "input_data", as in {"input_data": {"columns": […], "data": [[…]]}}'
            )
        return self._predicted(self._parsed("input_data", asked["input_data"]), asked.get("params"))

    def _predicted(self, data: object, given: object) -> object:
        """Return the model's predictions as JSON has them; an error of the model has its row with it."""
        from mlflow.exceptions import MlflowException

        params = self._params(given)
        ask = partial(self._model.predict, params=params) if params else self._model.predict
        try:
            found = ask(data)
        except (MlflowException, RecursionError):
            raise
        except Exception as error:
            with contextlib.suppress(AttributeError):  # an error that takes no attributes
                setattr(error, _WHERE, _where(ask, data))
            raise
        return self._jsonable(found, pandas_orient="records")

    def _params(self, given: object) -> dict[str, object]:
        """Return a request's params, checked. Raises BadRequest for those that the model would not see."""
        from dbml_magics.core.endpoints.params import check_params, read_params
        from dbml_magics.core.endpoints.reading import BadRequest
        from dbml_magics.core.scoring.carried.models import takes_params
        from dbml_magics.errors import BadData

        try:
            params = check_params(read_params(given), self._signature)
        except BadData as error:
            raise BadRequest(error.message) from None
        if params and not takes_params(self._model):
            raise BadRequest(f"the model's predict takes no params, and {', '.join(params)} would be dropped")
        return params

    def _parsed(self, form: str, data: object) -> object:
        """Return the input in the model's type: a frame by its columns, else arrays."""
        from mlflow.utils.proto_json_utils import dataframe_from_parsed_json, parse_tf_serving_input

        from dbml_magics.core.endpoints import reading

        schema = self._schema
        columns = schema is not None and not schema.is_tensor_spec()
        split = isinstance(data, dict) and {"columns", "data"} <= data.keys()
        rows = isinstance(data, list) and bool(data) and all(isinstance(row, dict) for row in data)
        as_frame = form.startswith("dataframe_") or split or (rows and form == "input_data")
        if columns and not self._hinted:
            nested = any(not hasattr(kind, "to_numpy") for kind in schema.input_types())
            if nested and isinstance(data, dict) and not as_frame:  # lists may be values: it is one row
                return self._typed(reading.Table(list(data), [[value] for value in data.values()]))
            if as_frame or rows or not nested or len(schema.inputs) > 1:
                return self._typed(reading.tabular(form, data, self._names()))
        if as_frame:
            orient = "records" if isinstance(data, list) else "split"
            parsed = dataframe_from_parsed_json(data, orient, schema=schema if columns else None)
        else:
            key = form if form == "instances" else "inputs"
            parsed = parse_tf_serving_input({key: data}, schema=schema)
        if schema is None:
            return reading.free(form, data, parsed)
        reading.refuse_other_numbers(data, parsed)
        return parsed

    def _names(self) -> list[Name]:
        return list(self._schema.input_names() or range(len(self._schema.inputs)))

    def _typed(self, table: Table) -> DataFrame:
        """Return rows as a frame of the schema's types; columns without names are known by their place."""
        from dbml_magics.core.endpoints import reading

        specs = self._schema.inputs
        names = self._names() if self._schema.has_input_names() else table.names[: len(specs)]
        wanted = [(name, spec.type, spec.required) for name, spec in zip(names, specs, strict=False)]
        return reading.typed(table, wanted)

    def _of_csv(self, body: bytes) -> DataFrame:
        """Return rows of CSV as the model's types have them; without a schema 007 stays text."""
        import io

        import pandas as pd

        from dbml_magics.core.endpoints import exact, reading

        try:
            text = io.StringIO(body.decode())
            if self._schema is None or self._schema.is_tensor_spec():
                return exact.read_csv(text)
            written = pd.read_csv(text, dtype=str)
        except ValueError as error:
            raise reading.BadRequest(f"the body is no CSV: {' '.join(str(error).split())[:300]}") from None
        columns = [[None if pd.isna(v) else v for v in written.iloc[:, n]] for n in range(written.shape[1])]
        return self._typed(reading.Table(list(written.columns), columns))


def _asked(body: bytes) -> tuple[str, object, object] | None:
    """Return the form, the data and the params of a request, or None when MLflow itself has to read it."""
    from dbml_magics.core.endpoints.reading import FORMS

    try:
        asked = json.loads(body)
    except ValueError:
        return None
    found = [form for form in FORMS if form in asked] if isinstance(asked, dict) else []
    return (found[0], asked[found[0]], asked.get("params")) if len(found) == 1 else None


def _where(ask: Callable[[object], object], data: object) -> str:
    """Return which row and column the model fails on, as far as that is soon known."""
    import numpy as np
    import pandas as pd

    from dbml_magics.core.scoring.carried.refusals import place_of_refusal

    if isinstance(data, np.ndarray) and data.ndim:
        return place_of_refusal(ask, lambda first, last: data[first:last], len(data), seconds=_SEARCH_S)
    if not isinstance(data, pd.DataFrame) or data.columns.has_duplicates:
        return ""

    def mixed(row: int, other: int, column: int) -> DataFrame:
        one: DataFrame = data.iloc[[row]].copy()
        one[one.columns[column]] = data.iloc[[other], column].set_axis(one.index)
        return one

    return place_of_refusal(
        ask,
        lambda first, last: data.iloc[first:last],
        len(data),
        mixed=mixed,
        names=[str(name) for name in data.columns],
        label=lambda row: data.index[row],
        seconds=_SEARCH_S,
    )


def _is_too_deep(body: bytes) -> bool:
    """Tell whether the body's nesting may have caused a RecursionError."""
    depth = 0
    for found in _BRACKETS.finditer(body):
        if found[0] in b"[{":
            depth += 1
            if depth > _DEEPEST:
                return True
        elif found[0] in b"]}":
            depth -= 1
    return False


def _failure(status: int, code: str, message: str) -> tuple[int, str, bytes]:
    body = {"error_code": code, "message": message[:4000]}
    return status, "application/json", json.dumps(body).encode()


def _hide_unused_plugins() -> None:
    real = importlib.metadata.entry_points

    def entry_points(**chosen: Any) -> Any:
        unused = chosen.get("group") in _UNUSED_PLUGINS
        return importlib.metadata.EntryPoints() if unused else real(**chosen)

    importlib.metadata.entry_points = entry_points
