"""What a user can get wrong, and what the message says: two or three lines, a cause, the next command."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pytest

import dbml_magics as dbml
from dbml_magics import errors
from dbml_magics.common import config, disks
from dbml_magics.core import session
from dbml_magics.core.destinations.naming import check_experiment_name
from tests.infra.wait import eventually


def refused(kind: type[errors.DbmlError], call: Callable[[], Any]) -> str:
    """Return what a user sees of the error; it is short, it has a command, and the URI is what it was."""
    uri = mlflow.get_tracking_uri()
    was = session.current().linked
    with pytest.raises(errors.DbmlError) as failure:
        call()
    assert type(failure.value) is kind, failure.value.lines()
    lines = failure.value._render_traceback_()
    assert 2 <= len(lines) <= 4, lines
    assert lines[0].startswith(f"{kind.__name__}: ")
    assert lines[1].startswith("  try  ")
    assert len(lines[0]) < 330, lines[0]
    assert mlflow.get_tracking_uri() == uri
    assert session.current().linked == was
    return "\n".join(lines)


def link(**wish: Any) -> Callable[[], Any]:
    """Return the call that makes a link."""
    return lambda: dbml.link(**wish)


class _Answers(http.server.BaseHTTPRequestHandler):
    status = 200
    kind = "text/html"
    body = b""

    def _answer(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815 - the base class's names

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def answering(status: int, kind: str, body: str) -> Iterator[str]:
    """Serve the same answer to everything; yields the address."""
    handler = type("Handler", (_Answers,), {"status": status, "kind": kind, "body": body.encode()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def local(home: Path) -> Any:
    """Return a local link."""
    return dbml.link(local=True)


def a_run(name: str = "one") -> str:
    """Log a run without a model."""
    with mlflow.start_run(run_name=name) as run:
        mlflow.log_metric("loss", 0.5)
    return str(run.info.run_id)


# --- which workspaces


@pytest.mark.parametrize(
    ("wish", "kind", "says"),
    [
        ({}, errors.BadLink, ["which workspaces?", "%dbml link --local"]),
        (
            {"databricks": "http://a:1"},
            errors.BadLink,
            ["azureml", "no URI", "--azureml URI", "--track databricks"],
        ),
        ({"azureml": "http://a:1"}, errors.BadLink, ["databricks", "no URI", "--track azureml"]),
        (
            {"databricks": "http://a:1", "track": "azureml"},
            errors.BadLink,
            ["--track azureml", "needs the workspace azureml"],
        ),
        ({"local": True, "databricks": "http://a:1"}, errors.BadLink, ["--local", "beside"]),
        (
            {"local": True, "track": "bth"},
            errors.BadLink,
            ["'bth'", "both, databricks, azureml", "--track both"],
        ),
        ({"local": True, "registry": "azure"}, errors.BadLink, ["'azure'", "--registry azureml"]),
        ({"local": True, "mode": "async"}, errors.BadLink, ["'async'", "journal, sync", "--mode sync"]),
        ({"again": True, "local": True}, errors.BadLink, ["--again", "%dbml link --again"]),
        ({"again": True}, errors.NothingRemembered, ["no link is remembered", "%dbml link --local"]),
        # malformed URIs
        ({"databricks": "", "azureml": "http://b:2"}, errors.BadUri, ["empty", "--databricks http://"]),
        (
            {"databricks": "ftp://a", "azureml": "http://b:2"},
            errors.BadUri,
            ["'ftp://a'", "http://127.0.0.1:5000"],
        ),
        ({"databricks": "wien", "azureml": "http://b:2"}, errors.BadUri, ["'wien'", "sqlite:///mlflow.db"]),
        (
            {"databricks": "./mlruns", "azureml": "http://b:2"},
            errors.BadUri,
            ["a folder", "--local ./mlruns"],
        ),
        ({"databricks": "localhost:5000", "azureml": "http://b:2"}, errors.BadUri, ["http://localhost:5000"]),
        (
            {"databricks": "adb-1.2.azuredatabricks.net", "azureml": "http://b:2"},
            errors.BadUri,
            ["lacks its scheme", "https://adb-1.2.azuredatabricks.net"],
        ),
        ({"databricks": "http://", "azureml": "http://b:2"}, errors.BadUri, ["names no host"]),
        ({"databricks": "http:///x", "azureml": "http://b:2"}, errors.BadUri, ["names no host"]),
        ({"databricks": "http://my host", "azureml": "http://b:2"}, errors.BadUri, ["names no host"]),
        ({"databricks": "http://a:port", "azureml": "http://b:2"}, errors.BadUri, ["port", "1 to 65535"]),
        ({"databricks": "http://a:99999", "azureml": "http://b:2"}, errors.BadUri, ["port", "1 to 65535"]),
        ({"databricks": "http://[::1", "azureml": "http://b:2"}, errors.BadUri, ["cannot be read"]),
        (
            {"databricks": "http://a:1/#/experiments/3", "azureml": "http://b:2"},
            errors.BadUri,
            ["a page", "--databricks http://a:1"],
        ),
        (
            {"azureml": "https://ml.azure.com/runs?wsid=/subscriptions/1", "track": "azureml"},
            errors.BadUri,
            ["studio", "mlflow_tracking_uri"],
        ),
        ({"databricks": "dbml://x?databricks=y", "azureml": "http://b:2"}, errors.BadUri, ["link's own URI"]),
        ({"databricks": "sqlite://x.db", "azureml": "http://b:2"}, errors.BadUri, ["three slashes"]),
        ({"databricks": "sqlite:///:memory:", "azureml": "http://b:2"}, errors.BadUri, ["names no file"]),
        (
            {"databricks": "sqlite:///no/such/x.db", "azureml": "http://b:2"},
            errors.BadUri,
            ["not exist", "mkdir -p"],
        ),
        # the wrong service
        (
            {"databricks": "azureml://x/y", "azureml": "http://b:2"},
            errors.BadUri,
            ["other service", "--azureml"],
        ),
        ({"databricks": "http://a:1", "azureml": "databricks"}, errors.BadUri, ["--databricks databricks"]),
        ({"azureml": "azureml://", "track": "azureml"}, errors.BadUri, ["names no workspace"]),
        (
            {"databricks": "https://adb-1.2.azuredatabricks.net/?o=1", "track": "databricks"},
            errors.BadUri,
            ["databricks auth login --host https://adb-1.2.azuredatabricks.net", "--databricks databricks"],
        ),
        (
            {"databricks": "databricks-uc://team", "track": "databricks"},
            errors.BadUri,
            ["a registry alone", "--databricks databricks://team"],
        ),
        # both the same
        (
            {"databricks": "http://a:1", "azureml": "http://a:1/"},
            errors.BadLink,
            ["twice", "--track databricks"],
        ),
        ({"databricks": "http://localhost:1", "azureml": "http://127.0.0.1:1"}, errors.BadLink, ["twice"]),
        ({"databricks": "http://a", "azureml": "http://A:80"}, errors.BadLink, ["twice"]),
        ({"databricks": "sqlite:///x.db", "azureml": "sqlite:///./x.db"}, errors.BadLink, ["twice"]),
    ],
)
def test_a_wrong_wish_says_what_to_type_instead(
    home: Path, wish: dict[str, Any], kind: type[errors.DbmlError], says: list[str]
) -> None:
    shown = refused(kind, link(**wish))
    for part in says:
        assert part in shown
    assert [path.name for path in home.iterdir()] == ["tables"], "a refused link leaves nothing behind"


def test_a_database_that_is_a_folder_or_cannot_be_written(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    shown = refused(errors.BadUri, link(databricks=f"sqlite:///{folder}", track="databricks"))
    assert "is a folder" in shown
    assert f"sqlite:///{folder}/mlflow.db" in shown
    assert f"--local {folder}" in shown
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    shown = refused(errors.BadUri, link(databricks=f"sqlite:///{folder}/x.db", track="databricks"))
    assert "cannot be written" in shown


def test_a_local_folder_that_cannot_be_one(home: Path) -> None:
    Path("taken").write_text("a file")
    assert "is a file" in refused(errors.BadLink, link(local="taken"))
    shown = refused(errors.BadLink, link(local="/proc/nothing-here"))
    assert "cannot be written" in shown
    assert "--local ~/dbml" in shown


@pytest.mark.full
def test_a_data_folder_that_cannot_be_written_and_no_other_one_either(
    home: Path, local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks, "spare_folders", lambda: iter(()))
    config._data_home.cache_clear()
    config._spare_folders.cache_clear()
    monkeypatch.setenv("DBML_HOME", "/proc/nothing-here")
    shown = refused(errors.JournalError, link(local="other"))
    assert "/proc/nothing-here" in shown
    assert "DBML_HOME=" in shown
    assert session.current().status().uri == local.uri == mlflow.get_tracking_uri()


def test_a_folder_that_is_gone(home: Path, tmp_path: Path) -> None:
    mlflow.set_tracking_uri("http://127.0.0.1:1")  # the default is a file in the current folder
    gone = tmp_path / "gone"
    gone.mkdir()
    here = os.getcwd()
    os.chdir(gone)
    gone.rmdir()
    try:
        assert "does not exist any more" in refused(errors.BadLink, link(local="/tmp/x"))
    finally:
        os.chdir(here)


def test_windows_is_refused_with_a_way_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setitem(sys.modules, "fcntl", None)
    shown = refused(errors.PlatformRefused, link(local=True))
    assert "wsl --install" in shown


# --- secrets


@pytest.mark.parametrize(
    "uri",
    [
        "http://ann:s3cr3t@host:5000",
        "http://s3cr3t@host:5000",
        "https://host/?token=s3cr3t",
        "https://host/#access_token=s3cr3t",
        "http://host:5000/?sig=s3cr3t",
        "postgresql://ann:s3cr3t@host/mlflow",
        "mysql+pymysql://ann:s3cr3t@host/mlflow",
        "databricks://s3cr3t:s3cr3t@host",
        "dapis3cr3t" + "0" * 32,
        "https://host/?api_key=s3cr3t",
    ],
)
def test_a_secret_in_a_uri_is_refused_and_not_echoed(home: Path, uri: str) -> None:
    uri = uri.replace("dapis3cr3t", "dapi")
    shown = refused(errors.SecretRefused, link(databricks=uri, azureml="http://b:2"))
    assert "s3cr3t" not in shown
    assert "0" * 32 not in shown
    assert "PGPASSWORD" in shown if "sql" in uri else "DBML_DATABRICKS_TOKEN" in shown


# --- workspaces that do not answer as they should


def test_a_server_that_is_not_there(home: Path, servers: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        shown = refused(errors.WorkspaceUnreachable, link(databricks=servers.databricks.uri, azureml=nobody))
    assert f"the azureml workspace {nobody} is not reachable (connection refused)" in shown
    assert f"curl -sS {nobody}/health" in shown
    assert f"%dbml link --databricks {servers.databricks.uri} --track databricks" in shown
    shown = refused(
        errors.WorkspaceUnreachable, link(databricks="http://no-such-host.invalid", track="databricks")
    )
    assert "no such host" in shown


def test_a_connection_that_this_machine_cannot_make_is_told_as_that() -> None:
    """What is the limit of open files is not told as a network that is down."""
    code = """
        import contextlib, os, resource
        import mlflow.exceptions, requests
        from dbml_magics.core.destinations.errors import classify_error
        with contextlib.suppress(requests.RequestException):
            requests.get("http://127.0.0.1:1/")  # imports what it needs
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        with contextlib.suppress(OSError):
            while True:
                os.open("/dev/null", os.O_RDONLY)
        try:
            requests.get("http://127.0.0.1:1/")
        except requests.RequestException as error:
            print(classify_error(error))
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "not reachable (too many open files)" in done.stdout, done.stdout + done.stderr


@pytest.mark.full
def test_the_link_that_was_there_stays(home: Path, local: Any) -> None:
    mlflow.set_experiment("iris")
    refused(errors.WorkspaceUnreachable, link(databricks="http://127.0.0.1:1", track="databricks"))
    refused(errors.BadUri, link(databricks="nonsense", track="databricks"))
    status = session.current().status()
    assert status.uri == local.uri
    assert status.experiment == "iris"
    run_id = a_run()
    dbml.sync(60)
    assert mlflow.get_run(run_id).info.status == "FINISHED"


@pytest.mark.full
def test_a_hanging_server_is_given_up_within_seconds(home: Path, proxies: Any) -> None:
    proxies.azureml.hang()
    began = time.monotonic()
    shown = refused(
        errors.WorkspaceUnreachable, link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    )
    assert time.monotonic() - began < 15
    assert "timed out" in shown


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (200, "text/html", "<!doctype html><html><title>Sign in</title></html>"),
        (200, "application/json", '{"status": "ok"}'),
        (200, "application/json", "[]"),
        (200, "text/plain", "OK"),
        (404, "text/html", "<html>Not Found</html>"),
        (404, "application/json", '{"detail": "Not Found"}'),
        (404, "application/json", '{"message": "no such page"}'),
        (404, "text/plain", ""),
        (400, "text/plain", "Bad Request"),
    ],
)
def test_a_server_that_is_not_mlflow(home: Path, status: int, kind: str, body: str) -> None:
    with answering(status, kind, body) as uri:
        shown = refused(errors.NotMlflow, link(databricks=uri, track="databricks"))
    assert f"what answers at {uri} is not an MLflow tracking server" in shown
    assert "mlflow server" in shown


def test_a_server_in_trouble_is_away_not_something_else(home: Path) -> None:
    with answering(503, "text/html", "<html>Service Unavailable</html>") as uri:
        shown = refused(errors.WorkspaceUnreachable, link(databricks=uri, track="databricks"))
    assert "503" in shown


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_that_are_refused(home: Path, proxies: Any, status: int) -> None:
    if status == 401:
        proxies.azureml.require("Bearer right")
    else:
        proxies.azureml.status(403)
    shown = refused(errors.NotPermitted, link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri))
    assert str(status) in shown
    assert "DBML_AZUREML_TOKEN" in shown
    assert "DBML_AZUREML_USERNAME=… DBML_AZUREML_PASSWORD=…" in shown


def test_databricks_without_a_sign_in(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none.cfg"))
    for uri in ("databricks", "databricks://NOSUCH"):
        shown = refused(errors.NotPermitted, link(databricks=uri, track="databricks"))
        assert "no sign-in" in shown
        assert "databricks auth login" in shown
        assert ("--profile NOSUCH" in shown) == (uri != "databricks")


def test_a_database_whose_driver_is_not_installed(home: Path) -> None:
    shown = refused(errors.BadLink, link(databricks="mysql://localhost/x", track="databricks"))
    assert "not installed" in shown
    assert "%pip install mysqlclient" in shown


def test_the_other_workspace_is_not_recommended_when_it_is_away_too(home: Path) -> None:
    wish = {"databricks": "http://127.0.0.1:9", "azureml": "http://127.0.0.1:10"}
    shown = refused(errors.WorkspaceUnreachable, link(**wish))
    assert "--track" not in shown


# --- linking under a run


@pytest.mark.full
def test_linking_and_unlinking_under_an_active_run(home: Path, local: Any) -> None:
    with mlflow.start_run(run_name="forest") as run:
        for what, call in (("link", link(local="other")), ("unlink", session.current().unlink)):
            shown = refused(errors.RunActive, call)
            assert "run forest is active" in shown
            assert f"{what}ing" in shown
            assert "mlflow.end_run()" in shown
        mlflow.log_metric("loss", 1.0)
    dbml.sync(60)
    assert mlflow.get_run(run.info.run_id).data.metrics == {"loss": 1.0}


def test_a_second_run_can_only_be_a_child(home: Path, local: Any) -> None:
    with mlflow.start_run(run_name="forest"):
        shown = refused(errors.RunActive, session.current().begin_track)
    assert "%%track --nested" in shown


# --- names


@pytest.mark.parametrize(
    ("name", "trouble"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("/Users//x", "empty folder"),
        ("//x", "empty folder"),
        ("/", "slash"),
        ("/Users/me/", "slash"),
        ("/Users/me", "a user's folder"),
        ("/Users", "folder"),
        ("/Shared", "folder"),
        ("/Users/me/../x", ".."),
        ("..", "relative"),
        ("a\nb", "control"),
        ("a\x00b", "control"),
        ("x" * 501, "501 characters"),
    ],
)
def test_a_name_that_databricks_would_refuse(home: Path, name: str, trouble: str) -> None:
    shown = refused(errors.BadName, lambda: check_experiment_name(name))
    assert trouble in shown
    assert "%dbml experiment " in shown
    assert len(shown) < 500
    suggested = shown.splitlines()[1].split("%dbml experiment ")[1].split("   ")[0]
    check_experiment_name(suggested)


@pytest.mark.parametrize(
    "name", ["iris", "Größe", "my iris", "/Users/me@example.com/iris", "/Shared/x", "x" * 500]
)
def test_a_name_that_is_fine(name: str) -> None:
    check_experiment_name(name)


# --- runs, models, experiments


@pytest.mark.full
def test_what_a_local_link_can_be_asked_wrongly(home: Path, local: Any) -> None:
    """One link, many questions: making its databases takes seconds."""
    assert "there is no last run" in refused(errors.RunNotFound, lambda: dbml.register("last", "wine"))
    runs = [a_run("forest"), a_run("tree")]
    dbml.sync(60)

    # runs
    shown = refused(errors.RunNotFound, lambda: dbml.register("zzz", "wine"))
    assert "no run has the name 'zzz'" in shown
    assert "%dbml runs" in shown
    shown = refused(errors.RunNotFound, lambda: dbml.register("0" * 32, "wine"))
    assert "%dbml runs" in shown
    shown = refused(errors.RunNotFound, lambda: dbml.register("forest", "wine"))
    assert "that is a run's name" in shown
    assert f"%dbml register {runs[0][:8]} NAME" in shown
    shown = refused(errors.RunNotFound, lambda: dbml.register("", "wine"))
    assert "%dbml runs" in shown

    # models
    shown = refused(errors.NoModel, lambda: dbml.register(runs[0], "wine"))
    assert f"run {runs[0][:8]} has no model" in shown
    assert "log_model" in shown
    shown = refused(errors.NoModel, lambda: dbml.register("last", "wine", path="model"))
    assert "no model 'model'" in shown
    for bad in ("", "a/b", "a:b"):
        shown = refused(errors.BadName, partial(dbml.register, "last", bad))
        assert "try  %dbml register " in shown
        assert "register last" not in shown  # it names the run that was asked for
    shown = refused(errors.BadName, lambda: dbml.register("last", "wine", aliases=["v1"]))
    assert "--alias champion" in shown
    shown = refused(errors.BadLink, lambda: dbml.register("last", "wine", to="elsewhere"))
    assert "elsewhere" in shown
    shown = refused(errors.ModelNotFound, lambda: dbml.models("wien"))
    assert "no registered model 'wien'" in shown
    assert "%dbml models" in shown

    # experiments
    mlflow.set_experiment("iris")
    dbml.sync(60)
    shown = refused(errors.ExperimentNotFound, lambda: dbml.runs("iriss"))
    assert "Did you mean 'iris'?" in shown
    assert "%dbml runs --experiment iris" in shown
    shown = refused(errors.ExperimentNotFound, lambda: dbml.runs("something else"))
    assert "%dbml experiment" in shown
    refused(errors.ExperimentNotFound, lambda: dbml.runs("999"))

    # searches
    for search in (
        partial(dbml.runs, filter="loss <"),
        partial(dbml.runs, order_by=["loss SIDEWAYS"]),
        partial(dbml.runs, max_results=-1),
        partial(dbml.runs, filter="x ~ 3"),
    ):
        shown = refused(errors.BadCommand, search)
        assert "refused the search" in shown
        assert "%dbml runs --filter" in shown


def test_a_model_name_that_is_nearly_right(home: Path, local: Any) -> None:
    mlflow.MlflowClient().create_registered_model("wine")
    dbml.sync(60)
    shown = refused(errors.ModelNotFound, lambda: dbml.models("wien"))
    assert "Did you mean 'wine'?" in shown
    assert "%dbml models wine" in shown


def test_a_prefix_that_fits_several_runs(home: Path, local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = session.current().engine("test")
    for number in range(3):
        engine.state.remember_run(f"abc{number}" + "0" * 28, {"name": f"run {number}", "ended": True})
    shown = refused(errors.AmbiguousRun, lambda: dbml.register("abc", "wine"))
    assert "begins the ids of 3 runs" in shown
    assert "%dbml register abc00000 NAME" in shown


@pytest.mark.full
def test_register_while_the_answer_is_away(home: Path, proxies: Any) -> None:
    dbml.link(databricks=proxies.databricks.uri, track="databricks")
    with proxies.databricks.away():
        shown = refused(errors.WorkspaceUnreachable, lambda: dbml.register("0" * 32, "wine"))
        assert "%dbml status" in shown
        shown = refused(errors.WorkspaceUnreachable, lambda: dbml.runs("iris"))
        assert "%dbml status" in shown
        shown = refused(errors.WorkspaceUnreachable, lambda: dbml.models("wine"))
        assert "%dbml status" in shown


@pytest.mark.parametrize(
    "call",
    [
        dbml.status,
        dbml.sync,
        dbml.runs,
        dbml.models,
        lambda: dbml.experiment("iris"),
        lambda: dbml.register("last", "wine"),
        lambda: dbml.track().__enter__(),
        session.current().begin_track,
    ],
)
def test_without_a_link(home: Path, call: Callable[[], Any]) -> None:
    shown = refused(errors.NotLinked, call)
    assert "%dbml link --local" in shown


def test_unlinking_twice_is_no_error(home: Path, local: Any) -> None:
    assert str(dbml.unlink()).startswith("Unlinked: ")
    assert str(dbml.unlink()) == "Nothing was linked"


def test_sync_ends_with_its_time_and_says_what_waits(home: Path, proxies: Any, experiment_name: str) -> None:
    dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    mlflow.set_experiment(experiment_name)
    dbml.sync(60)
    with proxies.azureml.away():
        a_run()
        eventually(
            lambda: session.current().status().destinations[1].last_error,
            "the status says that azureml is away",
        )
        began = time.monotonic()
        shown = refused(errors.DeliveryIncomplete, lambda: dbml.sync(0.5))
        assert time.monotonic() - began < 10
    assert "after 0.5 s " in shown
    assert "writes wait for azureml (not reachable (connection refused))" in shown
    assert "nothing is lost" in shown
    assert "%dbml sync" in shown


def test_a_registration_that_a_workspace_refuses(home: Path, proxies: Any, experiment_name: str) -> None:
    dbml.link(databricks=proxies.databricks.uri, track="databricks")
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        mlflow.log_text("flavors: {}", "model/MLmodel")
    dbml.sync(60)
    body = '{"error_code": "INVALID_PARAMETER_VALUE", "message": "model names begin with a letter here"}'
    with proxies.databricks.status(400, body=body, path="registered-models/create"):
        shown = refused(errors.Refused, lambda: dbml.register(run.info.run_id, "9wine"))
    assert "model names begin with a letter here" in shown
    assert "%dbml" in shown


# --- the journal


def test_a_journal_of_a_newer_release(home: Path, local: Any) -> None:
    engine = session.current().engine("test")
    path = engine.state.path
    dbml.sync(60)
    from dbml_magics.core.outbox.state import State

    other = State(path)
    other.one("SELECT 1")
    other.execute("UPDATE meta SET v='999' WHERE k='format'")
    newer = State(path)
    try:
        shown = refused(errors.JournalDamaged, lambda: newer.identity("a", "b", "c"))
        assert "newer dbml-magics" in shown
        assert "pip install --upgrade dbml-magics" in shown
    finally:
        other.execute("UPDATE meta SET v='1' WHERE k='format'")
        other.close()
        newer.close()


def test_a_spool_that_is_full(home: Path, local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBML_SPOOL_LIMIT", "10")
    with mlflow.start_run():
        shown = refused(errors.JournalFull, lambda: mlflow.log_text("x" * 5000, "a.txt"))
    assert "DBML_SPOOL_LIMIT" in shown
    assert "%dbml sync" in shown
