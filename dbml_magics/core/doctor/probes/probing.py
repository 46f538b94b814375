"""All probes at the workspaces of a link, one after the other, and the report that a user can send."""

from __future__ import annotations

import contextvars
import difflib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dbml_magics.common.hints import Remedy, corrected, instead
from dbml_magics.core import interrupts
from dbml_magics.core.destinations.errors import Unavailable, classify_error
from dbml_magics.core.destinations.kinds import is_remote
from dbml_magics.core.doctor.probes import behaviour, removal, sizes
from dbml_magics.core.doctor.probes.anonymous import Anonymous
from dbml_magics.core.doctor.probes.facts import Fact, facts
from dbml_magics.core.doctor.probes.sandbox import PREFIX, Measured, NotMeasured, Probe, Sandbox, deadline
from dbml_magics.errors import BadCommand, NotConfirmed
from dbml_magics.results.probes import Probed, ProbeReport

if TYPE_CHECKING:
    from dbml_magics.core.destinations.kinds import RemoteWorkspace
    from dbml_magics.core.runtime.engine import Engine

__all__ = ["CONFIRM", "probe"]

Progress = Callable[[str], None]

CONFIRM = "probe"
_GRACE_S = 5.0  # for a step that was interrupted
_PING_S = 30.0
_CLEAR_S = 300.0
_CLIENTS = ("mlflow", "mlflow-skinny", "azureml-mlflow", "azureml-core", "databricks-sdk")
_SLOW = "its time was up"
T = TypeVar("T")
_SCHEMA = re.compile(r"[^.\s]+\.[^.\s]+")


def probe(
    engine: Engine,
    folder: str,
    *,
    confirm: str | None = None,
    endpoint: bool = False,
    schema: str | None = None,
    only: Sequence[str] = (),
    progress: Progress | None = None,
) -> ProbeReport:
    """Compare each workspace of the link with what is recorded, and write the report to ``folder`` (0600).

    It works in things of its own, which it deletes, also where it is interrupted. Raises NotConfirmed, with
    all that would be made, before anything is asked; BadCommand where there is nothing to measure.
    """
    workspaces = [engine.workspaces[role] for role in engine.link.tracked]
    remote = [w for w in workspaces if is_remote(w)]
    if not remote:
        raise BadCommand(
            "the workspaces of this link are on this machine: there is no service to measure.",
            remedies=[(Remedy("doctor"), "looks at this machine")],
        )
    if schema is not None and not _SCHEMA.fullmatch(schema):
        raise BadCommand(
            "--schema names a schema of Unity Catalog with its catalog.",
            remedies=[corrected(Remedy("doctor", probe=True, schema="main.default"), schema="main.default")],
        )
    options = {name for name, given in (("endpoint", endpoint), ("schema", schema)) if given}
    wanted = {w.role: _wanted(w, options, only) for w in remote}
    unknown = [name for name in only if not any(name in each for each in wanted.values())]
    if unknown:
        names = sorted(_names(remote, options))
        near = difflib.get_close_matches(unknown[0], names, 1) or names[:1]
        raise BadCommand(
            f"no probe of these workspaces, with these options, is called {unknown[0]}.",
            remedies=[
                (
                    instead(unknown[0], near[0], Remedy("doctor", probe=True, confirm=CONFIRM, only=near)),
                    "a probe that is",
                )
            ],
        )
    if confirm != CONFIRM:
        raise _consent(remote, options, schema, only)
    began = time.monotonic()
    rows: list[Probed] = []
    left: list[str] = []

    def report(*, interrupted: bool) -> ProbeReport:
        """Write down what was measured; what was not is told with its cause."""
        why = "it was interrupted" if interrupted else ""
        every = [*rows, *_not_asked(remote, wanted, rows, only, why)]
        others = tuple(role for role in ("databricks", "azureml") if role not in wanted)
        whole = ProbeReport(
            tuple(every), time.monotonic() - began, left=tuple(left), unlinked=others, packages=_packages()
        )
        return _written(whole, folder)

    say = progress or (lambda _: None)
    try:
        for workspace in remote:
            _ask_all(workspace, wanted[workspace.role], schema or "", say, rows, left)
    except KeyboardInterrupt:
        say(f"interrupted; what was found until then is in {report(interrupted=True).file}")
        raise
    return report(interrupted=False)


def _packages() -> dict[str, str]:
    """Return the releases of the clients that the services were asked with."""
    found = {}
    for name in _CLIENTS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # mlflow-skinny alone, on some clusters
            continue
    return found


def _probes(kind: str) -> Iterator[Probe]:
    yield from sizes.PROBES
    yield from behaviour.PROBES
    if kind == "azureml":
        from dbml_magics.core.doctor.probes import azure, endpoints

        yield from azure.PROBES
        yield from endpoints.PROBES
    if kind == "databricks":
        from dbml_magics.core.doctor.probes import databricks

        yield from databricks.PROBES


def _wanted(
    workspace: RemoteWorkspace, options: set[str], only: Sequence[str]
) -> dict[str, tuple[Probe, Fact]]:
    """Return the probes of a workspace that the options allow, with their facts, in the order to ask."""
    known = {each.id: each for each in facts(str(workspace.kind)) if not each.by_hand}
    chosen = {
        name: each
        for name, each in known.items()
        if (not each.option or each.option in options) and (not only or name in only)
    }
    return {p.name: (p, chosen[p.name]) for p in _probes(str(workspace.kind)) if p.name in chosen}


def _names(remote: Sequence[RemoteWorkspace], options: set[str]) -> set[str]:
    return {name for workspace in remote for name in _wanted(workspace, options, ())}


def _consent(
    remote: Sequence[RemoteWorkspace], options: set[str], schema: str | None, only: Sequence[str]
) -> NotConfirmed:
    places = " and ".join(f"{w.role} ({w.place})" for w in remote)
    made = [f"experiments with runs and small files, and registered models, called {PREFIX}…"]
    if schema:
        made.append(f"a model in the schema {schema}")
    if "endpoint" in options:
        made.append("an endpoint without a deployment: no machine runs, so it costs nothing but minutes")
    asked = Remedy(
        "doctor",
        probe=True,
        confirm=CONFIRM,
        **({"endpoint": True} if "endpoint" in options else {}),
        **({"schema": schema} if schema else {}),
        **({"only": list(only)} if only else {}),
    )
    return NotConfirmed(
        f"nothing was asked yet. Probing makes at {places}: {'; '.join(made)}. It deletes all of them at its "
        "end, also when it is interrupted; the services keep deleted experiments in their trash for a while. "
        "It takes five to fifteen minutes and some hundred small requests, which yield to live runs, and "
        "starts no compute. Its report stays on this machine.",
        remedies=[(asked, "does it")],
    )


def _ask_all(
    workspace: RemoteWorkspace,
    wanted: dict[str, tuple[Probe, Fact]],
    schema: str,
    say: Progress,
    rows: list[Probed],
    left: list[str],
) -> None:
    """Ask one workspace everything, and delete what was made for it."""
    if not wanted:
        return
    role = workspace.role
    say(f"{role}  looking whether it answers")
    hidden = Anonymous([workspace], schema)
    why = hidden.text(_away(workspace))
    if why:
        rows += [_row(workspace, fact, why=why) for _, fact in wanted.values()]
        return
    say(f"{role}  deleting what an earlier probe left")
    try:
        left += _within(_CLEAR_S, lambda: removal.clear_left_behind(workspace))
    except Exception as error:  # its note stays, for the next probe
        left.append(f"what an earlier probe left at {role} ({classify_error(error)})")
    sandbox = Sandbox(workspace, schema)
    try:
        for number, (each, fact) in enumerate(wanted.values(), 1):
            if why:
                rows.append(_row(workspace, fact, why=why))
                continue
            say(f"{role}  {number} of {len(wanted)}  {each.name}: {fact.says}")
            row, failed = _asked(sandbox, each, fact, hidden)
            rows.append(row)
            why = hidden.text(_away(workspace)) if failed else ""
    finally:
        with interrupts.deferred():  # what is deleted has its time, so this ends
            say(f"{role}  deleting what was made")
            closing = sandbox.stopped()
            try:
                left += _within(_CLEAR_S, lambda: removal.clear(closing))
            except NotMeasured:
                left += [f"{what} {name} at {role} (its time was up)" for what, name in closing.made]


def _away(workspace: RemoteWorkspace) -> str:
    """Return why a workspace does not answer at all, or nothing."""
    try:
        _within(_PING_S, workspace.ping)
    except NotMeasured as error:
        return str(error)
    except Exception as error:
        found = classify_error(error)
        return f"the workspace does not answer: {found.reason if isinstance(found, Unavailable) else found}"
    return ""


def _asked(sandbox: Sandbox, each: Probe, fact: Fact, hidden: Anonymous) -> tuple[Probed, bool]:
    """Ask one question; tells too whether it failed for want of an answer."""
    began = time.monotonic()
    found: Measured | None = None
    why, failed = "", False
    try:
        found = _within(each.seconds, lambda: each.measure(sandbox))
    except NotMeasured as error:
        why, failed = str(error), isinstance(error.__cause__, Unavailable | OSError) or error.args == (_SLOW,)
    except Exception as error:  # one question that goes wrong shall not keep the others from being asked
        why, failed = f"{type(error).__name__}: {error}", True
    seconds = time.monotonic() - began
    return _row(sandbox.workspace, fact, found, hidden.text(why), seconds, hidden), failed


def _within(seconds: float, step: Callable[[], T]) -> T:
    """Do a step in a thread of its own, which is left alone when its time is up. Raises what it raises."""
    done: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with deadline(seconds):
                done.append(step())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    thread.start()
    try:
        thread.join(seconds + _GRACE_S)
    except KeyboardInterrupt:
        thread.join(_GRACE_S)
        raise
    if failed:
        raise failed[0]
    if not done:
        raise NotMeasured(_SLOW)
    return done[0]


def _row(
    workspace: RemoteWorkspace,
    fact: Fact,
    found: Measured | None = None,
    why: str = "",
    seconds: float = 0.0,
    hidden: Anonymous | None = None,
) -> Probed:
    hidden = hidden or Anonymous([workspace])
    return Probed(
        workspace=workspace.role,
        kind=str(workspace.kind),
        fact=fact.id,
        says=fact.says,
        expected=fact.expects,
        source=fact.source,
        date=fact.date,
        found="" if found is None else hidden.text(_shown(found)),
        more="" if found is None else hidden.text(found.more),
        why=why,
        confirmed=None if found is None else fact.confirmed_by(found.found),
        seconds=seconds,
    )


def _shown(found: Measured) -> str:
    return found.found if isinstance(found.found, str) else f"{found.found:,}"


def _not_asked(
    remote: Sequence[RemoteWorkspace],
    wanted: dict[str, dict[str, tuple[Probe, Fact]]],
    rows: Sequence[Probed],
    only: Sequence[str],
    why: str,
) -> Iterator[Probed]:
    """Yield the facts that were not asked about: by hand, for want of an option, or interrupted."""
    asked = {(row.workspace, row.fact) for row in rows}
    for workspace in remote:
        for fact in facts(str(workspace.kind)):
            if (workspace.role, fact.id) in asked or (only and fact.id not in only):
                continue
            if fact.by_hand:
                yield _row(workspace, fact, why=f"by hand: {fact.by_hand}")
            elif fact.id in wanted[workspace.role]:
                yield _row(workspace, fact, why=why)
            else:
                value = {"schema": " CATALOG.SCHEMA"}.get(fact.option, "")
                yield _row(workspace, fact, why=f"with the option --{fact.option}{value} alone")


def _written(report: ProbeReport, folder: str) -> ProbeReport:
    """Write the report beside the notebook, for nobody but the user: as JSON, and to be read."""
    stem = f"dbml-probe-{datetime.now():%Y%m%d-%H%M%S}"
    for ending, text in ((".json", report.json()), (".md", report.markdown())):
        path = Path(folder, stem + ending)
        with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as out:
            out.write(text.rstrip("\n") + "\n")
    return report.at(str(Path(folder, f"{stem}.md")))
