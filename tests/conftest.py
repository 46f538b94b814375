"""What every test may ask for: two real MLflow servers, proxies in front of them, a place of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dbml_magics.errors import DeliveryIncomplete
from tests.infra.proxy import Proxy
from tests.infra.servers import Server, ServerHost

# Set before anything imports MLflow, which reads them at import and would send usage data from a thread.
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")

NEED_SERVERS = {"server_host", "servers", "proxies"}
FOREIGN = ("MLFLOW_", "_MLFLOW", "DBML_", "ARM_", "AZUREML_", "DATABRICKS_")
KEPT = {"MLFLOW_DISABLE_TELEMETRY"}


class Servers(NamedTuple):
    """The two workspaces."""

    databricks: Server
    azureml: Server


class Proxies(NamedTuple):
    """The proxies in front of the two workspaces."""

    databricks: Proxy
    azureml: Proxy


class _Hosts:
    """The one server host of the run; begun as soon as it is known that a test needs it."""

    started: ServerHost | None = None

    @classmethod
    def get(cls) -> ServerHost:
        if cls.started is None:
            cls.started = ServerHost()
        return cls.started


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to import the servers while the first tests run."""
    if session.config.option.collectonly:
        return
    if any(NEED_SERVERS & set(getattr(item, "fixturenames", ())) for item in session.items):
        _Hosts.get()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the servers."""
    if _Hosts.started is not None:
        _Hosts.started.close()
        _Hosts.started = None


@pytest.fixture(scope="session")
def server_host() -> ServerHost:
    """Return what starts further servers: ``server_host.start("name")``."""
    return _Hosts.get()


@pytest.fixture(scope="session")
def _server_pair(server_host: ServerHost) -> Servers:
    return Servers(*server_host.start_pair())


@pytest.fixture
def servers(_server_pair: Servers) -> Iterator[Servers]:
    """Return two running MLflow servers, the same ones for all tests; one that a test stopped runs again."""
    yield _server_pair
    for server in _server_pair:
        if server.pid is None:
            server.start()


@pytest.fixture(scope="session")
def _proxy_pair(_server_pair: Servers) -> Iterator[Proxies]:
    pair = Proxies(*(Proxy(server.uri) for server in _server_pair))
    yield pair
    for proxy in pair:
        proxy.close()


@pytest.fixture
def proxies(servers: Servers, _proxy_pair: Proxies) -> Iterator[Proxies]:
    """Return a proxy in front of each server, without faults and with an empty log."""
    for proxy, server in zip(_proxy_pair, servers, strict=True):
        proxy.target(server.uri)
        proxy.reset_all()
    yield _proxy_pair
    for proxy in _proxy_pair:
        proxy.clear()  # whatever still runs in the background can end


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no test see, or leave behind, settings of MLflow or of the link, nor an active run."""
    for name in list(os.environ):
        if name.startswith(FOREIGN) and name not in KEPT:
            monkeypatch.delenv(name)
    yield
    mlflow: Any = sys.modules.get("mlflow")
    if mlflow is None or not hasattr(mlflow, "set_registry_uri"):
        return
    while mlflow.active_run() is not None:
        mlflow.end_run()
    session: Any = sys.modules.get("dbml_magics.core.session")
    if session is not None and session._session.linked:
        # What a test leaves undelivered would go on knocking at the servers during the next test.
        with contextlib.suppress(DeliveryIncomplete):
            session._session.sync(timeout=20)
        session._session.unlink()
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    fluent: Any = sys.modules["mlflow.tracking.fluent"]
    fluent._active_experiment_id = None
    # MLflow exports these itself; monkeypatch knows nothing of that.
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        os.environ.pop(name, None)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a fresh DBML_HOME; the working directory is a fresh folder beside it."""
    place, work = tmp_path / "home", tmp_path / "work"
    place.mkdir()
    work.mkdir()
    monkeypatch.setenv("DBML_HOME", str(place))
    monkeypatch.chdir(work)
    return place


_numbers = itertools.count(1)


@pytest.fixture
def experiment_name(request: pytest.FixtureRequest) -> str:
    """Return a name that no other test uses, good for both services (letters, digits, ``_`` and ``-``)."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", request.node.name)
    return f"{name[:60].strip('-')}-{next(_numbers)}"
