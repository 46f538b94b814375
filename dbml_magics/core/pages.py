"""Where an experiment, a run, its files or a model can be looked at: their pages in the workspaces, by role.

A workspace in a file has the pages of MLflow's own UI while that runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dbml_magics.core import ui
from dbml_magics.core.destinations.pages import MlflowPages, Pages
from dbml_magics.core.model.ids import names_nothing_yet

if TYPE_CHECKING:
    from dbml_magics.core.runtime.engine import Engine


class PagesOfLink:
    """The pages of a link's workspaces, as they are now."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        servers = ui.running(engine.link)
        self._of: dict[str, Pages] = {}
        for role in engine.link.used:
            own: Pages | None = engine.workspaces[role].pages
            own = MlflowPages(servers[role]) if own is None and role in servers else own
            if own is not None:
                self._of[role] = own

    def of_experiment(self, experiment_id: str) -> dict[str, str]:
        """Return the experiment's page at each workspace that has it and pages."""
        known = ((role, self._known(role, "experiment", experiment_id)) for role in self._tracked())
        return _there((role, self._of[role].experiment(actual)) for role, actual in known if actual)

    def of_run(self, run_id: str, experiment_id: str) -> dict[str, str]:
        """Return the run's page at each workspace that has the run and pages."""
        known = self._runs(run_id, experiment_id)
        return _there((role, self._of[role].run(experiment, run)) for role, experiment, run in known)

    def of_artifact(self, run_id: str, experiment_id: str, path: str) -> dict[str, str]:
        """Return the page of a run's file, or folder, at each workspace that has one."""
        known = self._runs(run_id, experiment_id)
        return _there(
            (role, self._of[role].artifact(experiment, run, path)) for role, experiment, run in known
        )

    def of_version(self, role: str, name: str, version: str) -> str | None:
        """Return a registered version's page, or None; version 0 has none yet."""
        pages = self._of.get(role)
        if pages is None or version == "0":
            return None
        return pages.version(self._engine.workspaces[role].model_name(name), version)

    def _tracked(self) -> list[str]:
        return [role for role in self._engine.link.tracked if role in self._of]

    def _runs(self, run_id: str, experiment_id: str) -> Iterator[tuple[str, str, str]]:
        """Yield each workspace with pages that has the run, and its own ids of experiment and run."""
        for role in self._tracked():
            run, experiment = self._known(role, "run", run_id), self._known(role, "experiment", experiment_id)
            if run and experiment:
                yield role, experiment, run

    def _known(self, role: str, kind: str, visible: str) -> str | None:
        """Return a workspace's own id; the primary's is the visible one, unless that is provisional."""
        state = self._engine.state
        identity = state.identity(role, kind, visible)
        if identity is not None:
            return identity.actual
        if role != self._engine.link.primary:
            return None
        if kind == "run":
            provisional = bool((state.run(visible) or {}).get("provisional"))
        else:
            provisional = names_nothing_yet(visible)
        return None if provisional else visible


def _there(found: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    return {role: page for role, page in found if page is not None}
