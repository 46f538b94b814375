"""All probes at the workspaces of a link, one after the other, and the report that a user can attach."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dbml_magics.common.hints import Remedy
from dbml_magics.core.destinations.kinds import is_remote
from dbml_magics.core.doctor.probes import behaviour, sizes
from dbml_magics.core.doctor.probes.sandbox import NotMeasured, Probe, Sandbox
from dbml_magics.errors import BadCommand
from dbml_magics.results.probes import Probed, ProbeReport

if TYPE_CHECKING:
    from dbml_magics.core.destinations.base import Workspace
    from dbml_magics.core.runtime.engine import Engine

__all__ = ["probe"]

Progress = Callable[[str], None]


def probe(engine: Engine, folder: str, *, progress: Progress | None = None) -> ProbeReport:
    """Measure at each workspace of the link what can be, and write the report to ``folder`` (0600).

    It works in an experiment of its own, which it deletes. Raises BadCommand where there is nothing to
    measure: both workspaces are on this machine.
    """
    began = time.monotonic()
    say = progress or (lambda _: None)
    workspaces = [engine.workspaces[role] for role in engine.link.tracked]
    remote = [w for w in workspaces if is_remote(w)]
    if not remote:
        raise BadCommand(
            "the workspaces of this link are on this machine: there is no service to measure.",
            remedies=[(Remedy("doctor"), "looks at this machine")],
        )
    rows: list[Probed] = []
    left: list[str] = []
    for workspace in remote:
        sandbox = Sandbox(workspace)
        try:
            for number, each in enumerate(wanted := _wanted(workspace), 1):
                say(f"{workspace.role}  {number} of {len(wanted)}  {each.name}: {each.asks}")
                rows.append(_probed(sandbox, each))
        finally:
            say(f"{workspace.role}  deleting what was made")
            left += sandbox.close()
    report = ProbeReport(tuple(rows), time.monotonic() - began, left=tuple(left))
    file = _written(report, folder)
    return ProbeReport(report.rows, report.seconds, file, report.left)


def _wanted(workspace: Workspace) -> list[Probe]:
    return [each for each in _probes(workspace) if workspace.kind in each.kinds]


def _probes(workspace: Workspace) -> Iterator[Probe]:
    yield from sizes.PROBES
    yield from behaviour.PROBES
    if workspace.kind == "azureml":
        from dbml_magics.core.doctor.probes import azure

        yield from azure.PROBES


def _probed(sandbox: Sandbox, each: Probe) -> Probed:
    workspace = sandbox.workspace
    began = time.monotonic()
    try:
        found = each.measure(sandbox)
        words, agrees = found.words, found.agrees
    except NotMeasured as error:
        words, agrees = f"not measured: {error}", None
    except Exception as error:  # one question that goes wrong shall not keep the others from being asked
        words, agrees = f"not measured: {type(error).__name__}: {error}", None
    return Probed(
        workspace.role,
        workspace.kind,
        each.name,
        each.asks,
        each.assumed(workspace),
        sandbox.without_names(words),
        agrees,
        time.monotonic() - began,
    )


def _written(report: ProbeReport, folder: str) -> str:
    path = Path(folder, f"dbml-probe-{datetime.now():%Y%m%d-%H%M%S}.json")
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as out:
        out.write(report.json() + "\n")
    return str(path)
