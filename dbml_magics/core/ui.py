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
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from dbml_magics.common import environment, private_files
from dbml_magics.common.hints import Remedy, place, say
from dbml_magics.core import processes
from dbml_magics.core.azure import studio
from dbml_magics.core.link import Link, WorkspaceSpec
from dbml_magics.core.workspace_uri import masked
from dbml_magics.errors import ServerFailed
from dbml_magics.results.link import UiPage, UiResult

IDLE_S = 8 * 3600.0
_DEADLINE_S = 120.0  # importing MLflow's server takes 3 s on an idle machine, many more on a crowded one
_LOG_LINES = 8
_CODE = "from dbml_magics.core.ui_server import serve; "


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
        return processes.runs(self.pid, self.started)

    def end(self) -> None:
        """End it, if it runs."""
        processes.end(self.pid, self.started)


def show(link: Link) -> UiResult:
    """Return the page of each workspace, starting servers where there are none. Raises ServerFailed."""
    pages: dict[str, UiPage] = {}
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
        except BaseException:  # interrupted: the user was not shown the servers, so none stays
            for role in fresh:
                servers.pop(role).end()
            raise
        for role in failures:
            servers.pop(role).end()
        for role, server in servers.items():
            state = "started" if role in fresh else "running already"
            pages[role] = UiPage(role, server.address, state)
    if failures:
        raise _failed(link, failures)
    started = [servers[role] for role in link.used if role in servers]
    return UiResult(tuple(pages[role] for role in link.used), notes=tuple(_notes(started)))


def stop(link: Link) -> UiResult:
    """End the servers that were started for a link."""
    with _remembered(link) as servers:
        ended = {role: servers.pop(role) for role in list(servers)}
        for server in ended.values():
            server.end()
    pages = tuple(UiPage(role, server.address, "stopped") for role, server in ended.items())
    return UiResult(pages, stopped=True)


def running(link: Link) -> dict[str, str]:
    """Return the address of the server that runs for each workspace of a link; nobody is asked."""
    return {role: server.address for role, server in _read(link).items() if server.runs}


def note(link: Link) -> str | None:
    """Return one line about the servers that run for a link, or None."""
    servers = [f"{address} ({role})" for role, address in running(link).items()]
    end = say(Remedy("ui", stop=True))
    return f"MLflow's UI runs at {' and '.join(servers)}; {end} ends it" if servers else None


def _notes(servers: list[_Server]) -> list[str]:
    if not servers:
        return []
    notes = [
        f"they keep running when this {place()} ends, and end after 8 hours without a request; "
        f"{say(Remedy('ui', stop=True))} ends them now"
    ]
    if len(servers) == 1:
        notes = ["it keeps running" + notes[0].removeprefix("they keep running")]
        notes = [notes[0].replace("and end ", "and ends ").replace("ends them", "ends it")]
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
        return {str(role): _Server(**server) for role, server in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(link: Link, servers: dict[str, _Server]) -> None:
    path = _file(link)
    if not servers:
        path.unlink(missing_ok=True)
        return
    private_files.write(path, {role: asdict(server) for role, server in servers.items()})


# --- processes


def _start(link: Link, spec: WorkspaceSpec) -> _Server:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as bound:
        bound.bind(("127.0.0.1", 0))
        pid, started = processes.spawn(
            _command(bound.fileno(), spec),
            log=_log(link, spec.role),
            folder=link.home,
            environment=_environment(link, spec),
            descriptors=[bound.fileno()],
        )
        return _Server(pid, started, bound.getsockname()[1])


def _command(descriptor: int, spec: WorkspaceSpec) -> list[str]:
    watched = spec.uri.removeprefix("sqlite:///") if spec.uri.startswith("sqlite:///") else ""
    return processes.python(f"{_CODE}serve({descriptor}, {IDLE_S!r}, {watched!r})")


def _environment(link: Link, spec: WorkspaceSpec) -> dict[str, str]:
    """Return this process's environment without MLflow's settings and ours, and with the workspace."""
    environment = processes.bare_environment()
    environment.update(_MLFLOW_SERVER_FILE_STORE=spec.uri, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
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
    text = [f"MLflow's UI did not come up for {' and '.join(failures)}; the last lines of its log:"]
    for role, why in failures.items():
        text.append(f"  {role}: {masked(why)}")
        lines = _log(link, role).read_text(errors="replace").splitlines()
        text += [f"    {masked(line)[:200]}" for line in lines if line.strip()][-_LOG_LINES:]
    role = next(iter(failures))
    return ServerFailed(
        "\n".join(text),
        remedies=[(Remedy("ui"), "tries again"), (f"!cat {_log(link, role)}", "shows the whole log")],
    )


# --- workspaces with pages of their own


def _needs_server(spec: WorkspaceSpec) -> bool:
    return spec.kind == "mlflow" and not spec.uri.startswith(("http://", "https://"))


def address(spec: WorkspaceSpec) -> str | None:
    """Return the page that a workspace has of its own, or None; nobody is asked."""
    return None if _needs_server(spec) else _page(spec).url


def _page(spec: WorkspaceSpec) -> UiPage:
    if spec.kind == "mlflow":
        return UiPage(spec.role, masked(spec.uri), "its own")
    address = _databricks_page(spec.uri) if spec.kind == "databricks" else studio.page(spec, "/experiments")
    return UiPage(spec.role, address, "its own" if address else "its address is not known here")


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
    there = environment.databricks()
    if not host and profile == "DEFAULT" and there is not None:
        host = there.host
    if not host:
        return None
    return f"{host if '://' in host else f'https://{host}'}".rstrip("/") + "/ml/experiments"
