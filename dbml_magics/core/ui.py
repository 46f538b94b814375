"""MLflow's own UI for a link: servers for the workspaces of this machine, the pages of the others.

A workspace in a file has no server, so one is started for it: a process of its own on 127.0.0.1, remembered
in the link's folder, found again by any later kernel, and ended by ``--stop`` or by itself. A process is
known by its id and its start time, so nothing is ever ended but what was started here.
"""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from dbml_magics import results
from dbml_magics.core.link import Link, WorkspaceSpec, masked
from dbml_magics.errors import ServerFailed

IDLE_S = 8 * 3600.0
_DEADLINE_S = 120.0  # importing MLflow's server takes 3 s on an idle machine, many more on a crowded one
_PATIENCE_S = 5.0  # for an end that was asked for
_LOG_LINES = 8
_FOREIGN = ("MLFLOW_", "_MLFLOW", "DBML_", "DATABRICKS_", "AZUREML_", "ARM_")
_CODE = "import sys; sys.path[:] = [p for p in sys.path if p]; from dbml_magics.core.ui_server import serve; "

_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class _Server:
    """A server that was started for a workspace."""

    pid: int
    started: str
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def runs(self) -> bool:
        return _start_of(self.pid) == self.started


def show(link: Link) -> results.UiResult:
    """Return the page of each workspace, starting servers where there are none. Raises ServerFailed."""
    pages: dict[str, results.UiPage] = {}
    fresh: dict[str, _Server] = {}
    with _remembered(link) as servers:
        for role in link.used:
            spec = link.spec(role)
            if not _needs_server(spec):
                pages[role] = _page(spec)
            elif role not in servers:
                servers[role] = fresh[role] = _start(link, spec)
        try:
            failures = {role: why for role, server in fresh.items() if (why := _wait(server))}
        except BaseException:  # interrupted: what nobody was told of is not left behind
            for role in fresh:
                _end(servers.pop(role))
            raise
        for role in failures:
            _end(servers.pop(role))
        for role, server in servers.items():
            state = "started" if role in fresh else "running already"
            pages[role] = results.UiPage(role, server.address, state)
    if failures:
        raise _failed(link, failures)
    started = [servers[role] for role in link.used if role in servers]
    return results.UiResult(tuple(pages[role] for role in link.used), notes=tuple(_notes(started)))


def stop(link: Link) -> results.UiResult:
    """End the servers that were started for a link."""
    with _remembered(link) as servers:
        ended = {role: servers.pop(role) for role in list(servers)}
        for server in ended.values():
            _end(server)
    pages = tuple(results.UiPage(role, server.address, "stopped") for role, server in ended.items())
    return results.UiResult(pages, stopped=True)


def note(link: Link) -> str | None:
    """Return one line about the servers that run for a link, or None."""
    running = [f"{server.address} ({role})" for role, server in _read(link).items() if server.runs]
    return f"MLflow's UI runs at {' and '.join(running)}; %dbml ui --stop ends it" if running else None


def _notes(servers: list[_Server]) -> list[str]:
    if not servers:
        return []
    notes = [
        "they go on when this notebook ends, and end after 8 hours without a request; "
        "%dbml ui --stop ends them now"
    ]
    if len(servers) == 1:
        notes = ["it goes on" + notes[0].removeprefix("they go on").replace("and end ", "and ends ")]
        notes = [notes[0].replace("ends them", "ends it")]
    if any(name in os.environ for name in ("SSH_CONNECTION", "JUPYTERHUB_USER")):
        tunnels = " ".join(f"-L {server.port}:127.0.0.1:{server.port}" for server in servers)
        notes.append(f"from another machine: ssh {tunnels} HOST, then the same address there")
    return notes


# --- what is remembered


@contextlib.contextmanager
def _remembered(link: Link) -> Iterator[dict[str, _Server]]:
    """Lend what runs for a link; one process at a time, and what is changed is remembered."""
    with os.fdopen(os.open(link.home / "ui.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        servers = {role: server for role, server in _read(link).items() if server.runs}
        try:
            yield servers
        finally:
            _write(link, servers)


def _file(link: Link) -> Path:
    return link.home / "ui.json"


def _read(link: Link) -> dict[str, _Server]:
    try:
        kept = json.loads(_file(link).read_text())
        return {str(role): _Server(**told) for role, told in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(link: Link, servers: dict[str, _Server]) -> None:
    path = _file(link)
    if not servers:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as out:
        json.dump({role: asdict(server) for role, server in servers.items()}, out)
    os.replace(temporary, path)


# --- processes


def _start_of(pid: int) -> str | None:
    """Return when a process began, in the system's own words; None when it does not run."""
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]
        return None
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else f"{_boot()} {fields[19]}"
    told = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, began = told.stdout.strip().partition(" ")
    return None if not began or state.startswith("Z") else began.strip()


def _boot() -> str:
    """Return what tells one run of the machine from the next: start times count from its beginning."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start(link: Link, spec: WorkspaceSpec) -> _Server:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as bound:
        bound.bind(("127.0.0.1", 0))
        log = os.open(_log(link, spec.role), os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            process = subprocess.Popen(
                _command(bound.fileno(), spec),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(link, spec),
                cwd=link.home,
                pass_fds=[bound.fileno()],
                start_new_session=True,  # neither Ctrl-C in the terminal nor the kernel's end is meant for it
            )
        finally:
            os.close(log)
        _children[process.pid] = process
        return _Server(process.pid, _start_of(process.pid) or "", bound.getsockname()[1])


def _command(descriptor: int, spec: WorkspaceSpec) -> list[str]:
    watched = spec.uri.removeprefix("sqlite:///") if spec.uri.startswith("sqlite:///") else ""
    return [sys.executable, "-W", "ignore", "-c", f"{_CODE}serve({descriptor}, {IDLE_S!r}, {watched!r})"]


def _environment(link: Link, spec: WorkspaceSpec) -> dict[str, str]:
    """Return this process's environment without MLflow's settings and ours, and with the workspace."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    environment.update(
        _MLFLOW_SERVER_FILE_STORE=spec.uri,
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
        MLFLOW_DISABLE_TELEMETRY="true",
        DO_NOT_TRACK="true",
    )
    if spec.local:
        environment["_MLFLOW_SERVER_ARTIFACT_ROOT"] = (_folder(spec) / "artifacts").as_uri()
    elif not spec.uri.startswith("file:"):
        environment["_MLFLOW_SERVER_ARTIFACT_ROOT"] = Path(link.folder, "mlruns").as_uri()
    else:
        environment["MLFLOW_ALLOW_FILE_STORE"] = "true"  # the link uses it already
    return environment


def _folder(spec: WorkspaceSpec) -> Path:
    return Path(spec.uri.removeprefix("sqlite:///")).parent


def _log(link: Link, role: str) -> Path:
    return link.home / f"ui-{role}.log"


def _wait(server: _Server) -> str | None:
    """Wait until a server answers from its workspace; returns why it does not."""
    until = time.monotonic() + _DEADLINE_S
    question = urllib.request.Request(
        f"{server.address}/api/2.0/mlflow/experiments/search",
        data=b'{"max_results": 1}',
        headers={"Content-Type": "application/json"},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while server.runs:
        try:
            with direct.open(question, timeout=10):
                return None
        except urllib.error.HTTPError as error:
            with error:
                return (
                    f"it answers {error.code}: {' '.join(error.read(300).decode('utf-8', 'replace').split())}"
                )
        except OSError:
            if time.monotonic() > until:
                return f"it does not answer within {_DEADLINE_S:.0f} s"
            time.sleep(0.05)
    return "its process ended"


def _failed(link: Link, failures: dict[str, str]) -> ServerFailed:
    told = [f"MLflow's UI did not come up for {' and '.join(failures)}; the last lines of its log:"]
    for role, why in failures.items():
        told.append(f"  {role}: {masked(why)}")
        lines = _log(link, role).read_text(errors="replace").splitlines()
        told += [f"    {masked(line)[:200]}" for line in lines if line.strip()][-_LOG_LINES:]
    role = next(iter(failures))
    return ServerFailed(
        "\n".join(told),
        remedies=[("%dbml ui", "tries again"), (f"!cat {_log(link, role)}", "shows the whole log")],
    )


def _end(server: _Server) -> None:
    """End a server that was started here: asked first, then killed."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        if not server.runs:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, how)
        until = time.monotonic() + _PATIENCE_S
        while server.runs and time.monotonic() < until:
            time.sleep(0.02)


# --- workspaces with pages of their own


def _needs_server(spec: WorkspaceSpec) -> bool:
    return spec.kind == "mlflow" and not spec.uri.startswith(("http://", "https://"))


def _page(spec: WorkspaceSpec) -> results.UiPage:
    if spec.kind == "mlflow":
        return results.UiPage(spec.role, masked(spec.uri), "its own")
    address = _databricks_page(spec.uri) if spec.kind == "databricks" else _azureml_page(spec.uri)
    return results.UiPage(spec.role, address, "its own" if address else "its address is not known here")


def _databricks_page(uri: str) -> str | None:
    """Return a workspace's page of experiments from the environment or the profile; nobody is asked."""
    profile = uri.removeprefix("databricks").removeprefix("://").partition(":")[0]
    host = None if profile else os.environ.get("DATABRICKS_HOST")
    if not host:
        file = os.environ.get("DATABRICKS_CONFIG_FILE") or "~/.databrickscfg"
        profiles = configparser.ConfigParser(interpolation=None, default_section="no such section")
        with contextlib.suppress(configparser.Error, OSError):
            profiles.read(Path(file).expanduser())
        profile = profile or os.environ.get("DATABRICKS_CONFIG_PROFILE") or "DEFAULT"
        host = profiles.get(profile, "host", fallback=None)
    if not host:
        return None
    return f"{host if '://' in host else f'https://{host}'}".rstrip("/") + "/ml/experiments"


def _azureml_page(uri: str) -> str | None:
    found = re.search(
        r"/subscriptions/([^/?]+)/resourceGroups/([^/?]+)/.*?/workspaces/([^/?]+)", uri, re.IGNORECASE
    )
    if found is None:
        return None
    where = "/subscriptions/{}/resourcegroups/{}/workspaces/{}".format(*found.groups())
    return f"https://ml.azure.com/experiments?wsid={where}"
