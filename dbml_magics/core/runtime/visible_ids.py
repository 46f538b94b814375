"""The ids that the user knows for the workspaces' own ones, as far as this machine knows them."""

from __future__ import annotations

from collections.abc import Callable

from dbml_magics.core.link import Link
from dbml_magics.core.outbox.state import State


class VisibleIds:
    """Translates ids of runs, logged models and experiments of any workspace into the user's.

    ``experiment_at`` translates an experiment's id at the workspace of a role.
    """

    def __init__(self, link: Link, state: State, experiment_at: Callable[[str, str], str]) -> None:
        self._link = link
        self._state = state
        self._experiment_at = experiment_at
        self._prefix = f"dbml://{link.key}"  # a hash, which is not to be made at each call

    def artifact_uri(self, kind: str, name: str) -> str:
        """Return the link's own URI of a run's or model's files."""
        return f"{self._prefix}/{kind}s/{name}/artifacts"

    def visible(self, kind: str, actual: str, role: str | None = None) -> str:
        """Return the id that the user knows for one of a workspace's own, of any of them without ``role``."""
        for each in self._link.tracked if role is None else (role,):
            found = self._state.visible(each, kind, actual)
            if found is not None:
                return found
        return actual

    def run(self, actual: str) -> str:
        """Return the id that the user knows for a workspace's own run id."""
        return self.visible("run", actual)

    def model(self, actual: str) -> str:
        """Return the id that the user knows for a workspace's own logged-model id."""
        return self.visible("model", actual)

    def experiment(self, actual: str, role: str | None = None) -> str:
        """Return the id that the user knows for one workspace's own experiment id.

        Two servers count their experiments alike, so an id means nothing without the ``role`` it comes from.
        """
        return self._experiment_at(role or self._link.primary, str(actual))
