"""What every test may ask for: two real MLflow servers, proxies in front of them, a place of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import dbml_magics as dbml
from dbml_magics.common import hints, redaction
from dbml_magics.errors import DeliveryIncomplete
from tests.infra.proxy import Proxy
from tests.infra.servers import Server, ServerHost

if TYPE_CHECKING:
    from tests.standins.azure import AzureStandIn
    from tests.standins.databricks import Databricks

# Set before anything imports MLflow, which reads them at import and would send usage data from a thread.
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")


pytest_plugins = ["tests.contracts.plugin"]

NEED_SERVERS = {"server_host", "servers", "proxies", "azure", "adb"}
FOREIGN = ("MLFLOW_", "_MLFLOW", "DBML_", "ARM_", "AZUREML_", "AZURE_", "MSI_", "IDENTITY_", "DATABRICKS_")
KEPT = {"MLFLOW_DISABLE_TELEMETRY"}


SCREENSHOTS = "SCREENSHOTS_OF_THE_TESTS"
"""The variable with the folder for pictures of what the browser showed."""


FULL = "DBML_TEST_FULL"
"""The variable that tests/check.py --full sets."""


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


def pytest_configure(config: pytest.Config) -> None:
    """Choose a folder for pictures, the same one for all processes of the run."""
    os.environ.setdefault(SCREENSHOTS, str(Path(tempfile.gettempdir()) / f"dbml-screenshots-{os.getpid()}"))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    """Say how a process of pytest-xdist's ended that was not told to: by which signal, or with which code."""
    process = getattr(getattr(node.gateway, "_io", None), "popen", None)
    if error is not None and process is not None:
        sys.stderr.write(f"\n{node.gateway.id} (process {process.pid}) ended with {process.wait(60)}\n")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say where the pictures are."""
    if (folder := Path(os.environ[SCREENSHOTS])).is_dir():
        kept = len(list(folder.glob("*.png")))
        terminalreporter.write_line(f"{kept} pictures of what the browser showed: {folder}")


LONG = (
    "conformance/test_table.py",
    "infra_tests/test_azure_standin.py",
    "core/test_edited_histories.py",
    "core/test_histories.py",
    "core/test_faults.py",
    "core/test_processes.py",
)
"""The files that take longest, which begin first: begun last they would run with the other processes idle."""


def _is_full(item: pytest.Item) -> bool:
    """Return whether a test, with these parameters, is left to check.py --full."""
    mark = item.get_closest_marker("full")
    spec = getattr(item, "callspec", None)
    return mark is not None and not (spec is not None and spec.id in mark.kwargs.get("but", ()))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first; the others, and each file's tests, keep their order.

    Tests marked ``full`` are deselected unless DBML_TEST_FULL is set or a test is named by its id or marker.
    ``full(but=[...])`` keeps the parameters with these ids.
    """
    named = any("::" in argument for argument in config.args)
    if FULL not in os.environ and not config.option.markexpr and not named:
        left = {item for item in items if _is_full(item)}
        config.hook.pytest_deselected(items=[item for item in items if item in left])
        items[:] = [item for item in items if item not in left]
    rank = {name: number for number, name in enumerate(LONG)}
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(here).as_posix() if item.path.is_relative_to(here) else ""
        return rank.get(name, len(rank))

    items.sort(key=place)


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


@pytest.fixture(scope="session")
def _azure_standin(server_host: ServerHost) -> Iterator[AzureStandIn]:
    from tests.standins.azure import AzureStandIn

    standin = AzureStandIn(server_host)
    yield standin
    standin.close()


@pytest.fixture
def azure(_azure_standin: AzureStandIn) -> Iterator[AzureStandIn]:
    """Return Azure on this machine, as new.

    Requests that it has no route for fail the test, and so does what contradicts Azure's own descriptions.
    """
    from tests.contracts.plugin import settle

    _azure_standin.reset()
    yield _azure_standin
    _azure_standin.proxy.clear()
    settle(_azure_standin.deviations())
    unknown = _azure_standin.unknown()
    assert not unknown, "requests that the stand-in for Azure has no route for:\n" + "\n".join(unknown)


@pytest.fixture(scope="session")
def _adb(server_host: ServerHost) -> Iterator[Databricks]:
    from tests.standins.databricks import Databricks

    with Databricks(server_host.start("databricks-standin").uri) as workspace:
        yield workspace


@pytest.fixture
def adb(_adb: Databricks) -> Iterator[Databricks]:
    """Return a Databricks workspace on this machine, as new.

    A call that it does not know fails the test, and so does what contradicts MLflow's messages.
    """
    from tests.contracts.plugin import settle

    _adb.reset()
    _forget_clients()
    yield _adb
    unknown = list(_adb.unknown)
    _adb.reset()
    settle(_adb.contracts.taken())
    assert not unknown, f"the stand-in does not know {unknown}"


def _forget_clients() -> None:
    """Forget the clients that MLflow keeps by host: their sign-in is another test's."""
    rest: Any = sys.modules.get("mlflow.utils.rest_utils")
    if rest is not None:
        rest.get_workspace_client.cache_clear()


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return one Spark for the whole run, started as ``%dbml score`` starts it where there is none."""
    from dbml_magics.core.scoring import spark as sessions

    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("spark"))  # where its tables are
    try:
        made, _ = sessions.start_here(lambda _: None, cores="2")
    finally:
        os.chdir(before)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no test see, or leave behind, settings of MLflow or of the link, nor an active run."""
    for name in list(os.environ):
        if name.startswith(FOREIGN) and name not in KEPT:
            monkeypatch.delenv(name)
    # A process of pytest-xdist's has a main without file, and a shell's %reset empties it: pyspark takes that
    # for its own doctests, and exits.
    for name, value in (("__file__", __file__), ("__spec__", None)):
        sys.modules["__main__"].__dict__.setdefault(name, value)
    for remembered in (redaction._remembered, redaction._forms):
        remembered.clear()  # a secret of another test's may be a word of this one's
    before = hints.speak("magic")  # messages as a notebook shows them, whatever was loaded before this test
    yield
    hints.speak(before)
    mlflow: Any = sys.modules.get("mlflow")
    if mlflow is None or not hasattr(mlflow, "set_registry_uri"):
        return
    while mlflow.active_run() is not None:
        mlflow.end_run()
    session: Any = sys.modules.get("dbml_magics.core.session")
    if session is not None and session._session.linked:
        # What a test leaves undelivered would go on knocking at the servers during the next test.
        with contextlib.suppress(DeliveryIncomplete):
            dbml.sync(timeout=20)
        session._session.unlink()
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    # What was once said of one library's autologging outranks a later mlflow.autolog().
    autologging: Any = sys.modules.get("mlflow.utils.autologging_utils")
    for said in getattr(autologging, "AUTOLOGGING_INTEGRATIONS", {}).values():
        said.clear()
    fluent: Any = sys.modules["mlflow.tracking.fluent"]
    fluent._active_experiment_id = None
    # MLflow exports these itself; monkeypatch knows nothing of that.
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def _tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tables of a database that a home keeps, made once for all tests: MLflow takes a second."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    from dbml_magics.core.destinations import local_tables

    folder = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBML_HOME", str(folder))
        database = folder / "mlflow.db"
        with local_tables.making():
            local_tables.begun(database, lambda: SqlAlchemyStore(f"sqlite:///{database}", folder.as_uri()))
    (kept,) = (folder / "tables").iterdir()
    return kept


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _tables: Path) -> Path:
    """Return a fresh DBML_HOME; the working directory is a fresh folder beside it."""
    place, work = tmp_path / "home", tmp_path / "work"
    place.mkdir()
    work.mkdir()
    (place / "tables").mkdir(mode=0o700)
    (place / "tables" / _tables.name).hardlink_to(_tables)
    monkeypatch.setenv("DBML_HOME", str(place))
    monkeypatch.chdir(work)
    return place


_numbers = itertools.count(1)


@pytest.fixture
def experiment_name(request: pytest.FixtureRequest) -> str:
    """Return a name that no other test uses, good for both services (letters, digits, ``_`` and ``-``)."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", request.node.name)
    return f"{name[:60].strip('-')}-{next(_numbers)}"
