"""Run all checks in parallel threads within one time limit, so that none delays the others."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from dbml_magics.common.hints import Remedy
from dbml_magics.core.doctor import imports, machine, packages
from dbml_magics.errors import BadUri, NothingRemembered
from dbml_magics.results.doctor import DoctorResult, Finding

if TYPE_CHECKING:
    from dbml_magics.core.destinations.base import Workspace
    from dbml_magics.core.doctor.databricks import Known
    from dbml_magics.core.link import Link
    from dbml_magics.core.runtime.engine import Engine

__all__ = ["TIME_S", "examine"]

TIME_S = 30.0
"""How long all of it may take, in seconds: what is not over by then is said not to be."""

Look = Callable[[], Iterable[Finding]]

_AREAS = ("python", "packages", "machine", "journal", "spark", "notebook", "link")
_NEEDED = ("mlflow",)


def examine(engine: Engine | None, folder: str, *, timeout: float | None = None) -> DoctorResult:
    """Look at everything, and change nothing.

    ``engine`` is the link's, if there is one in this process; else the link that is remembered for
    ``folder`` is looked at. Never raises for what it finds; ends within ``timeout`` seconds (30).
    """
    began = time.monotonic()
    until = began + (TIME_S if timeout is None else timeout)
    round_ = _Round(until)
    link, notes = (engine.link, []) if engine is not None else _remembered(folder)
    round_.found.extend((("link",), finding) for finding in notes)
    round_.start("python", "Python", packages.python)
    round_.start("packages", "versions", packages.versions)
    round_.start("packages", "requirements", packages.requirements)
    round_.start("machine", "network", machine.network)
    round_.start("journal", "journal", lambda: machine.journal(link, linked=engine is not None))
    round_.start("spark", "Java", machine.java)
    round_.start("notebook", "front end", machine.front_end)
    round_.start("leftovers", "leftovers", lambda: machine.leftovers(link))
    importable = _Importable()
    round_.start("packages", "imports", lambda: importable.watch(imports.look(until - 0.5)))
    if link is not None:
        for role in link.used:
            round_.start(role, "workspace", partial(_workspace, round_, engine, link, role, importable))
    findings = round_.gather()
    order = [*_AREAS, *(link.used if link is not None else ()), "leftovers"]
    findings.sort(key=lambda finding: order.index(finding.area) if finding.area in order else len(order))
    return DoctorResult(tuple(findings), time.monotonic() - began)


class _Importable:
    """Whether the workspaces' packages can be imported, known once the child process reports it."""

    def __init__(self) -> None:
        self._known = threading.Event()
        self._broken: Finding | None = None

    def watch(self, findings: Iterator[Finding]) -> Iterator[Finding]:
        """Pass findings on; note the outcome for the packages that this process needs."""
        needed = {imports.MODULES[name] for name in _NEEDED}
        try:
            for finding in findings:
                if finding.what in needed:
                    needed.discard(finding.what)
                    if finding.level != "fine":
                        self._broken = finding
                if not needed:
                    self._known.set()
                yield finding
        finally:
            self._known.set()

    def wait(self, seconds: float) -> Finding | None:
        """Return the finding of a failed import, or None; waits until that is known."""
        if not self._known.wait(max(0.0, seconds)):
            return Finding("packages", "mlflow", "broken", "its import had not ended")
        return self._broken


class _Round:
    """The running checks and their findings."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.found: list[tuple[tuple[str, ...], Finding]] = []
        self._lock = threading.Lock()
        self._threads: list[tuple[tuple[str, str], threading.Thread]] = []

    def start(self, area: str, what: str, look: Look) -> None:
        """Start a check in a thread of its own."""

        def run() -> None:
            try:
                for finding in look():
                    with self._lock:
                        self.found.append(((area, what), finding))
            except Exception as error:
                why = f"could not be looked at ({type(error).__name__}: {error})"
                with self._lock:
                    self.found.append(((area, what), Finding(area, what, "broken", why)))

        thread = threading.Thread(target=run, name=f"dbml-doctor-{area}", daemon=True)
        with self._lock:
            self._threads.append(((area, what), thread))
        thread.start()

    def gather(self) -> list[Finding]:
        """Return the findings once all checks have ended, or the time is up."""
        place = 0
        while True:
            with self._lock:
                left = self._threads[place:]
            if not left:
                break
            left[0][1].join(max(0.0, self.until - time.monotonic()))
            place += 1
        with self._lock:
            late = [key for key, thread in self._threads if thread.is_alive()]
            found = [finding for _, finding in self.found]
        for area, what in late:
            why = "no answer within the time for all of this"
            found.append(Finding(area, what, "broken", why, Remedy("doctor"), "again, when it is quieter"))
        return found


def _remembered(folder: str) -> tuple[Link | None, list[Finding]]:
    """Return the link remembered for a folder, and a finding about it."""
    from dbml_magics.core import remembered_links

    if sys.platform == "win32":
        return None, [Finding("link", "link", cause="none: Windows lacks the file locks that one needs")]
    try:
        link = remembered_links.remembered(folder)
    except (NothingRemembered, BadUri):
        return None, [
            Finding("link", "link", cause="none in this folder yet", command=Remedy("link", local=True))
        ]
    note = "remembered for this folder, not taken up"
    return link, [Finding("link", "link", cause=note, command=Remedy("link", again=True))]


def _workspace(
    round_: _Round, engine: Engine | None, link: Link, role: str, importable: _Importable
) -> Iterator[Finding]:
    """Begin the looks at one workspace; what it needs is imported here once a child could import it."""
    if engine is None:
        broken = importable.wait(round_.until - time.monotonic())
        if broken is not None:
            yield Finding(role, "workspace", "warning", "not looked at: mlflow cannot be imported")
            return
    workspace = _connected(engine, link, role)
    from dbml_magics.core.doctor import services

    for what, look in services.checks(workspace, partial(_used, engine, link, role)):
        round_.start(role, what, look)


def _used(engine: Engine | None, link: Link, role: str) -> Known:
    """Return what of a workspace the link has used, from the files alone where nobody has taken it up."""
    from dbml_magics.core.doctor.databricks import Known, known
    from dbml_magics.core.outbox.state import State

    if engine is not None:
        return known(engine.state, link, role)
    if not (link.home / "state.db").exists():
        return Known()
    state = State(link.home / "state.db")
    try:
        return known(state, link, role)
    finally:
        state.close()


def _connected(engine: Engine | None, link: Link, role: str) -> Workspace:
    if engine is not None:
        return engine.workspaces[role]
    from dbml_magics.core.destinations.connecting import connect

    return connect(link.spec(role))
