"""The stand-in's process: an HTTP server on 127.0.0.1 that takes orders on standard input.

Started by :class:`tests.standins.azure.AzureStandIn`, behind a proxy that speaks TLS to the clients.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tests.contracts.checker import Checker, Exchange
from tests.standins.azure.access import Access
from tests.standins.azure.arm import Arm
from tests.standins.azure.artifacts import Artifacts
from tests.standins.azure.containers import Containers
from tests.standins.azure.discovery import Discovery
from tests.standins.azure.history import History
from tests.standins.azure.login import Login
from tests.standins.azure.online import Online
from tests.standins.azure.state import SUFFIX, State
from tests.standins.azure.tracking import Tracking
from tests.standins.azure.web import Call, Refusal, arm_refusal, routes_of
from tests.standins.azure.webservices import Webservices


class StandIn:
    """The service as an ASGI application, and the orders that a test may give it."""

    def __init__(self, folder: Path) -> None:
        self.state = State()
        self.contracts = Checker()
        self.login = Login(self.state)
        self.access = Access(self.state, self.login)
        self.artifacts = Artifacts(self.state, self.access, folder)
        self.tracking = Tracking(self.state, self.access, self.artifacts.files_of)
        self.containers = Containers(self.state, self.tracking, self.artifacts)
        arm = Arm(self.state, self.access)
        self.online = Online(self.state, self.access, arm, self.login, self.containers)
        self.webservices = Webservices(self.state, self.access, self.containers)
        parts: list[Any] = [
            *(self.login, self.tracking, self.artifacts, Discovery(self.state)),
            History(self.state, self.access, self.tracking),
            *(self.online, self.online.region, self.webservices, self.access, arm),
        ]
        self.routes = [(part, each) for part in parts for each in routes_of(part)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        path = request.url.path
        # Storage has no contract, and its bodies are files.
        sent = b"" if f".blob.{SUFFIX}/" in path else await request.body()
        answer = await self.answer(request)
        answered = bytes(getattr(answer, "body", b""))
        self.contracts.check(
            Exchange(
                *(request.method, path, request.url.query, sent),
                *(answer.status_code, answer.headers, answered),
            )
        )
        await answer(scope, receive, send)

    async def answer(self, request: Request) -> Response:
        """Answer one request; what no route knows is 404 and remembered."""
        path = request.url.path
        methods: set[str] = set()
        try:
            for part, each in self.routes:
                found = each.path.fullmatch(path)
                if found is None:
                    continue
                methods.update(each.methods)
                if request.method in each.methods:
                    call = Call(request, found.groupdict())
                    self.access.admit(call, each)
                    return await each.handler(part, call)
        except Refusal as refusal:
            return refusal.answer()
        except Exception:
            # A defect of the stand-in: said loudly, and 501 so that no client tries again.
            self.state.unknown.append(f"{request.method} {path}: {traceback.format_exc()}")
            return arm_refusal(501, "StandInFailed", traceback.format_exc()).answer()
        self.state.unknown.append(f"{request.method} {path}")
        message = f"The stand-in has no route for {request.method} {path} (it knows {sorted(methods)} there)."
        return arm_refusal(404, "StandInHasNoRoute", message).answer()

    # Orders

    def begin(self, public: str, home: str) -> dict[str, Any]:
        """Learn the address that clients use and the MLflow server of the first workspace."""
        self.state.public, self.state.home = public, home
        return self.reset([])

    def reset(self, spares: list[str]) -> dict[str, Any]:
        self.state.spares += spares
        self.contracts.forget()
        self.login.devices.clear()
        self.login.devices_confirm = True
        self.login.trusted.clear()
        self.access.recent.clear()
        for part in (self.online, self.webservices, self.containers):
            part.reset()
        self.state.reset()
        return {"spares": len(self.state.spares)}

    def set(self, **switches: Any) -> dict[str, Any]:
        """Set switches; returns what they were."""
        before = {name: getattr(self.state.switches, name) for name in switches}
        for name, value in switches.items():
            setattr(self.state.switches, name, value)
        return before

    def limit(self, **limits: int) -> dict[str, Any]:
        """Set limits; returns what they were."""
        before = {name: self.state.limits[name] for name in limits}
        self.state.limits.update(limits)
        return before

    def deny(self, action: str, principal: str | None) -> dict[str, Any]:
        return {"id": self.access.deny(action, principal)}

    def allow(self, number: int) -> dict[str, Any]:
        self.access.allow(number)
        return {}

    def sign(self, who: str, lifetime: float | None, tenant: str) -> dict[str, Any]:
        return self.login.sign(who, f"{self.state.public}/", lifetime, tenant)

    def expire(self) -> dict[str, Any]:
        self.state.tokens_from = time.time()
        return {}

    def confirm(self, devices: bool) -> dict[str, Any]:
        self.login.devices_confirm = devices
        return {}

    def register(self, subscription: str, namespace: str, registered: bool) -> dict[str, Any]:
        state = ("Registered" if registered else "NotRegistered", 0.0)
        self.state.providers[subscription][namespace.lower()] = state
        return {}

    def delete(self, deleted: bool) -> dict[str, Any]:
        self.state.delete_first(deleted)
        return {}

    def trust(self, key: str) -> dict[str, Any]:
        self.login.trusted.append(key)
        return {}

    def forget_sign_ins(self) -> dict[str, Any]:
        self.login.refreshes.clear()
        return {}

    def endpoints(self) -> dict[str, Any]:
        return {"online": self.online.as_json(), "services": self.webservices.as_json()}

    def deviations(self) -> dict[str, Any]:
        return self.contracts.taken()

    def unknown(self) -> dict[str, Any]:
        return {"unknown": self.state.unknown}

    def forget_unknown(self) -> dict[str, Any]:
        self.state.unknown = []
        return {}


async def main(folder: Path) -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    service = StandIn(folder)
    config = uvicorn.Config(
        service, host="127.0.0.1", port=0, log_level="warning", lifespan="off", timeout_keep_alive=3600
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        if serving.done():
            serving.result()
        await asyncio.sleep(0.01)

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    answer({"port": server.servers[0].sockets[0].getsockname()[1]})
    while line := await orders.readline():
        asked = json.loads(line)
        verb = asked.pop("do")
        try:
            answer(getattr(service, verb)(**asked))
        except Exception:
            answer({"failed": traceback.format_exc()})
    service.containers.close()
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
