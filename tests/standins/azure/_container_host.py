"""Import MLflow once, then fork a container that serves a model whenever one is asked for.

Run as a script by :mod:`tests.standins.azure.containers`: one JSON object a line on standard input, no
answers. A container writes what it prints to ``log`` in its folder and how it is to ``state.json``: its port
once its model is loaded, or why it crashed. The end of standard input ends every container.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.infra._server_host import without_plugins


class Container:
    """One model, loaded from a folder as Azure ML's inference server does, and its answers over HTTP."""

    def __init__(self, folder: Path, order: dict[str, Any]) -> None:
        self.folder, self.order = folder, order
        self.model: Any = None

    def run(self) -> None:
        """Serve until killed, or crash in the container's own words."""
        for line in self.order["crash"]:
            print(line, flush=True)
        if self.order["crash"]:
            self.tell(failed=self.order["crash"][-1])
            return
        print("Initializing logger\nStarting up app insights client", flush=True)
        try:
            import mlflow.pyfunc

            self.model = mlflow.pyfunc.load_model(str(self.folder / "model"))
        except BaseException as error:
            traceback.print_exc()
            sys.stderr.flush()
            self.tell(failed=f"{type(error).__name__}: {error}")
            return
        container = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, answer = container.answer(body)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's word
                print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {format % args}", flush=True)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        print("Users's init has completed successfully", flush=True)
        self.tell(port=server.server_address[1])
        server.serve_forever()

    def tell(self, **state: Any) -> None:
        """Write how it is, whole or not at all."""
        part = self.folder / f"state.{os.getpid()}"
        part.write_text(json.dumps({**state, "pid": os.getpid()}))
        part.replace(self.folder / "state.json")

    def answer(self, body: bytes) -> tuple[int, bytes]:
        """Answer one request as Azure ML's scoring script for MLflow models does."""
        import mlflow.exceptions
        import numpy as np
        import pandas as pd
        from mlflow.pyfunc.scoring_server import _get_jsonable_obj
        from mlflow.utils.proto_json_utils import NumpyEncoder

        try:
            asked = json.loads(body)["input_data"]
        except (ValueError, KeyError, TypeError):
            return 400, json.dumps({"message": "The request must be JSON with 'input_data'."}).encode()
        data: Any
        if isinstance(asked, list):
            data = np.asarray(asked)
        elif {"columns", "index", "data"} <= asked.keys():
            data = pd.read_json(
                io.StringIO(json.dumps(asked)), orient="split", dtype=False, precise_float=True
            )
        else:
            data = {name: np.asarray(value) for name, value in asked.items()}
        try:
            found = _get_jsonable_obj(self.model.predict(data), pandas_orient="records")
            return 200, json.dumps(found, cls=NumpyEncoder).encode()
        except mlflow.exceptions.MlflowException as error:
            traceback.print_exc()
            return 400, json.dumps({"message": str(error.message)}).encode()
        except Exception:
            traceback.print_exc()
            message = "An unexpected error occurred in scoring script. Check the logs for more info."
            return 500, json.dumps({"message": message}).encode()


def end_with(life: int) -> None:
    """End this container when the host does, however it ends."""
    while os.read(life, 1):
        pass
    os._exit(0)


def main() -> None:
    """Fork containers until standard input ends."""
    without_plugins()
    import mlflow.pyfunc
    import mlflow.pyfunc.scoring_server  # noqa: F401
    import sklearn.linear_model  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    life, held = os.pipe()
    children: list[int] = []
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("end"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(order["end"], signal.SIGKILL)
            continue
        folder = Path(order["folder"])
        pid = os.fork()
        if pid:
            children.append(pid)
            continue
        try:
            os.close(held)
            log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            threading.Thread(target=end_with, args=(life,), daemon=True).start()
            os.environ.update(order["environment"])
            Container(folder, order).run()
        finally:
            os._exit(1)
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
