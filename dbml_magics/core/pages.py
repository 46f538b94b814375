"""Where a run, an experiment or a model can be looked at: its pages in the workspaces, by role."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dbml_magics.core.model.ids import names_nothing_yet

if TYPE_CHECKING:
    from dbml_magics.core.runtime.engine import Engine


def of_run(engine: Engine, run_id: str, experiment_id: str) -> dict[str, str]:
    """Return the run's page at each workspace that has the run and pages."""
    found = []
    for role in engine.link.tracked:
        run, experiment = (
            _known(engine, role, "run", run_id),
            _known(engine, role, "experiment", experiment_id),
        )
        page = engine.workspaces[role].page(experiment, run) if run and experiment else None
        found.append((role, page))
    return _there(found)


def of_experiment(engine: Engine, experiment_id: str) -> dict[str, str]:
    """Return the experiment's page at each workspace that has it and pages."""
    found = []
    for role in engine.link.tracked:
        actual = _known(engine, role, "experiment", experiment_id)
        found.append((role, engine.workspaces[role].experiment_page(actual) if actual else None))
    return _there(found)


def of_version(engine: Engine, role: str, name: str, version: str) -> str | None:
    """Return a registered version's page, or None; version 0 has none yet."""
    workspace = engine.workspaces[role]
    return workspace.model_page(workspace.model_name(name), version) if version != "0" else None


def _known(engine: Engine, role: str, kind: str, visible: str) -> str | None:
    """Return a workspace's own id; the primary's is the visible one, unless that is provisional."""
    identity = engine.state.identity(role, kind, visible)
    if identity is not None:
        return identity.actual
    if role != engine.link.primary:
        return None
    if kind == "run":
        provisional = bool((engine.state.run(visible) or {}).get("provisional"))
    else:
        provisional = names_nothing_yet(visible)
    return None if provisional else visible


def _there(found: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    return {role: page for role, page in found if page is not None}
