"""The process behind ``%dbml ui``: MLflow's own server for one workspace of this machine.

It is handed a bound socket, so that nobody else can take its port between the choice and the start, and
finds the workspace in MLflow's own variables. It ends by itself when nobody has asked it anything for long,
and when the workspace is gone.
"""

from __future__ import annotations

import os
import socket
import threading
import time

_LOOK_EVERY_S = 30.0


def serve(descriptor: int, idle_s: float, watched: str) -> None:
    """Serve until SIGTERM, ``idle_s`` seconds without a request, or the end of the path ``watched``."""
    # First of all: MLflow checks the Host header only where it sees that uvicorn serves it.
    import uvicorn
    from mlflow.server.fastapi_app import app

    asked = [time.monotonic()]

    async def noting(scope: object, receive: object, send: object) -> None:
        asked[0] = time.monotonic()
        await app(scope, receive, send)

    config = uvicorn.Config(noting, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)

    def end_in_time() -> None:
        while time.monotonic() - asked[0] < idle_s and (not watched or os.path.exists(watched)):
            time.sleep(min(_LOOK_EVERY_S, idle_s))
        server.should_exit = True

    threading.Thread(target=end_in_time, daemon=True).start()
    server.run(sockets=[socket.socket(fileno=descriptor)])
