"""``%dbml ui``: MLflow's own UI, started for workspaces in files and found again."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

import dbml_magics as dbml
from dbml_magics.core import processes, session, ui
from dbml_magics.core.link import WorkspaceSpec
from tests.conftest import Proxies
from tests.core.test_link import in_child
from tests.infra import plain
from tests.infra.wait import eventually


def link_one() -> None:
    """Link one workspace on this machine."""
    dbml.link(local=True, track="databricks", registry="databricks")


@pytest.fixture
def clean(home: Path) -> Iterator[Path]:
    """Return the home, and leave no server behind."""
    yield home
    if not session.current().linked:
        dbml.link(again=True)
    dbml.ui(stop=True)


def kept() -> dict[str, dict[str, object]]:
    """Return what is remembered of the servers."""
    path = session.current().engine("this test").link.home / "ui.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def fetched(address: str) -> str:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return str(answer.read().decode())


@pytest.mark.full
def test_a_local_link_gets_a_ui_for_each_workspace_which_any_kernel_finds_and_ends(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBML_AZUREML_TOKEN", "hunter2")
    dbml.link(local=True)
    with mlflow.start_run(run_name="seen") as run:
        mlflow.log_text("hello", "note.txt")
    dbml.sync(60)
    shown = dbml.ui()
    assert [(page.workspace, page.state) for page in shown.pages] == [
        ("databricks", "started"),
        ("azureml", "started"),
    ]
    primary, mirror = (str(page.url) for page in shown.pages)
    assert primary.startswith("http://127.0.0.1:")
    assert "<title>MLflow</title>" in fetched(primary)
    assert plain.run(primary, run.info.run_id)["artifacts"].keys() == {"note.txt"}
    assert fetched(f"{primary}/get-artifact?run_id={run.info.run_id}&path=note.txt") == "hello"
    assert plain.twin_id(mirror, run.info.run_id, "Default") is not None

    home = session.current().engine("this test").link.home
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in home.glob("ui*")} == dict.fromkeys(
        ["ui.json", "ui.lock", "ui-databricks.log", "ui-azureml.log"], "0o600"
    )
    for written in kept().values():
        environment = Path(f"/proc/{written['pid']}/environ").read_text()
        assert "hunter2" not in environment
        assert "DBML_" not in environment
        assert "MLFLOW_TRACKING_URI" not in environment
    assert f"MLflow's UI runs at {primary} (databricks) and {mirror} (azureml)" in str(dbml.status())

    again = dbml.ui()
    assert [(page.url, page.state) for page in again.pages] == [
        (primary, "running already"),
        (mirror, "running already"),
    ]
    script = """
        import dbml_magics as dbml
        dbml.link(again=True)
        print([page.url for page in dbml.ui().pages], len(dbml.ui(stop=True).pages))
    """
    pids = [written["pid"] for written in kept().values()]
    assert in_child(script) == f"{[primary, mirror]} 2"
    eventually(lambda: all(processes.start_of(int(str(pid))) is None for pid in pids), "both have ended")
    assert kept() == {}
    assert "nothing to stop" in str(dbml.ui(stop=True))
    assert "MLflow's UI" not in str(dbml.status())


# MLflow's server takes seconds to import; when one ends does not depend on what it serves.
STAND_IN = """
import types
import dbml_magics.core.ui_server as ui_server
ui_server._LOOK_EVERY_S = 0.1
async def app(scope, receive, send):
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': b'{}'})
for name in ('mlflow', 'mlflow.server', 'mlflow.server.fastapi_app'):
    sys.modules[name] = types.ModuleType(name)
sys.modules['mlflow.server.fastapi_app'].app = app
serve = ui_server.serve
"""


@pytest.mark.full
@pytest.mark.parametrize("because", ["nobody asks it", "its workspace is gone"])
def test_a_server_that_is_of_no_use_ends(clean: Path, monkeypatch: pytest.MonkeyPatch, because: str) -> None:
    monkeypatch.setattr(ui, "_CODE", STAND_IN)
    monkeypatch.setattr(ui, "IDLE_S", 3.0 if because == "nobody asks it" else 3600.0)
    link_one()
    (page,) = dbml.ui().pages
    assert page.state == "started"
    (server,) = kept().values()
    if because == "its workspace is gone":
        database = Path.cwd() / ".dbml" / "databricks" / "mlflow.db"
        database.rename(database.with_suffix(".moved"))
    eventually(lambda: processes.start_of(int(str(server["pid"]))) is None, "it ended by itself")
    assert "MLflow's UI" not in str(dbml.status())
    if because == "its workspace is gone":
        database.with_suffix(".moved").rename(database)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import sys; print('the disk is on fire'); print('at ' + 'http://me:secret@h/'); sys.exit(3)",
            "ended",
        ),
        (
            "import http.server, socket; s = http.server.HTTPServer(('127.0.0.1', 0), None, False); "
            "print('no table runs'); s.socket.close(); s.socket = socket.socket(fileno={fd}); "
            "s.RequestHandlerClass = type('H', (http.server.BaseHTTPRequestHandler,), "
            "{{'do_POST': lambda self: self.send_error(500)}}); s.server_activate(); s.serve_forever()",
            "it answers 500",
        ),
    ],
)
def test_a_server_that_does_not_come_up_shows_the_end_of_its_log(
    clean: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    def command(descriptor: int, _spec: WorkspaceSpec) -> list[str]:
        return [sys.executable, "-u", "-c", code.format(fd=descriptor)]

    link_one()
    monkeypatch.setattr(ui, "_command", command)
    with pytest.raises(dbml.ServerFailed) as failed:
        dbml.ui()
    shown = str(failed.value)
    assert said in shown
    assert "the disk is on fire" in shown or "no table runs" in shown
    assert "secret" not in shown
    assert failed.value.remedies[0][0] == "%dbml ui"
    assert kept() == {}, "what did not come up is not remembered"
    assert all(child.poll() is not None for child in processes.started_here.values()), "nor left running"


def test_an_interrupted_start_leaves_no_server_behind(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link_one()
    started = []

    def interrupted(server: object) -> None:
        started.append(server)
        raise KeyboardInterrupt

    monkeypatch.setattr(ui, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dbml.ui()
    assert len(started) == 1
    assert kept() == {}
    assert all(child.poll() is not None for child in processes.started_here.values())


def test_a_process_that_was_not_started_here_is_not_ended(clean: Path) -> None:
    link_one()
    home = session.current().engine("this test").link.home
    for content in (
        json.dumps({"databricks": {"pid": os.getpid(), "started": "another time", "port": 1}}),
        json.dumps({"databricks": {"pid": 0, "started": "", "port": 1}}),
        "[1, 2",
    ):
        (home / "ui.json").write_text(content)
        assert "nothing to stop" in str(dbml.ui(stop=True))
        assert "MLflow's UI" not in str(dbml.status())


def test_servers_have_pages_of_their_own(home: Path, proxies: Proxies) -> None:
    dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    shown = dbml.ui()
    assert [(page.url, page.state) for page in shown.pages] == [
        (proxies.databricks.uri, "its own"),
        (proxies.azureml.uri, "its own"),
    ]
    assert kept() == {}
    assert shown.notes == ()


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        ("databricks", "https://adb-1.azuredatabricks.net/ml/experiments"),
        ("databricks://dev", "https://adb-2.azuredatabricks.net/ml/experiments"),
        ("databricks://none", None),
        (
            "azureml://westeurope.api.azureml.ms/mlflow/v1.0/subscriptions/s-1/resourceGroups/rg/providers/"
            "Microsoft.MachineLearningServices/workspaces/ws",
            "https://ml.azure.com/experiments?wsid=/subscriptions/s-1/resourcegroups/rg/workspaces/ws",
        ),
        ("azureml://somewhere", None),
    ],
)
def test_the_services_pages_are_told_where_they_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, page: str | None
) -> None:
    profiles = tmp_path / "databrickscfg"
    profiles.write_text(
        "[DEFAULT]\nhost = https://adb-1.azuredatabricks.net/\n[dev]\nhost = adb-2.azuredatabricks.net\n"
    )
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(profiles))
    spec = WorkspaceSpec("databricks" if uri.startswith("databricks") else "azureml", uri)
    shown = ui._page(spec)
    assert shown.url == page
    assert shown.state == ("its own" if page else "its address is not known here")
