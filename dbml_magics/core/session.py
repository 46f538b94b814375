"""What is linked now, and everything that can be asked of it.

One :class:`Session` a process holds the link; the module-level :func:`current` hands it out. The magics, the
shell commands and the Python API call the same methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dbml_magics import results


class Session:
    """The one holder of the link."""

    def link(
        self,
        *,
        local: str | bool | None = None,
        databricks: str | None = None,
        azureml: str | None = None,
        track: str = "both",
        registry: str | None = None,
        mode: str = "journal",
        again: bool = False,
    ) -> results.LinkStatus:
        """Make two workspaces one tracking URI and set it as MLflow's.

        ``local`` is a folder for two workspaces on this machine (True: ``.dbml``).
        """
        raise NotImplementedError

    @property
    def linked(self) -> bool:
        """Tell whether there is a link now."""
        raise NotImplementedError

    def unlink(self) -> results.UnlinkResult:
        """Restore the tracking and registry URIs that were there before the link."""
        raise NotImplementedError

    def status(self) -> results.LinkStatus:
        """Return where tracking goes and what is still on its way; needs no network."""
        raise NotImplementedError

    def experiment(self, name: str) -> results.ExperimentResult:
        """Set the experiment on both sides, each in its own naming rule."""
        raise NotImplementedError

    def runs(
        self,
        experiment: str | None = None,
        *,
        filter: str = "",  # noqa: A002 - the MLflow CLI's own word
        order_by: Sequence[str] = (),
        max_results: int = 20,
    ) -> results.RunsResult:
        """List the experiment's runs (the active experiment's by default)."""
        raise NotImplementedError

    def register(
        self,
        run: str,
        name: str,
        *,
        path: str | None = None,
        to: str | None = None,
        aliases: Iterable[str] = (),
        tags: Mapping[str, str] | None = None,
    ) -> results.RegisterResult:
        """Register a run's model (``run``: an id, a prefix or ``last``) in one registry or both."""
        raise NotImplementedError

    def models(self, name: str | None = None) -> results.ModelsResult:
        """List the registered models, or one model's versions at each workspace."""
        raise NotImplementedError

    def sync(
        self, timeout: float | None = None, *, progress: Callable[[Mapping[str, int], float], None] | None = None
    ) -> results.SyncResult:
        """Wait until everything is delivered; raises DeliveryIncomplete when ``timeout`` (seconds) is up.

        ``progress`` is called about four times a second with the writes that remain for each workspace and the
        rate (writes a second).
        """
        raise NotImplementedError

    def begin_track(
        self,
        name: str | None = None,
        *,
        experiment: str | None = None,
        autolog: bool | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        nested: bool = False,
        register: str | None = None,
        source: str | None = None,
    ) -> Track:
        """Begin a run that :meth:`Track.end` ends and sums up; ``source`` is a cell's text to log, masked."""
        raise NotImplementedError

    # Cheap look-ups for completion: from what is known already, never a request that may block.
    def known_runs(self) -> list[tuple[str, str]]:
        """Return (run id, name) of recent runs for completion."""
        raise NotImplementedError

    def known_models(self) -> list[str]:
        """Return names of registered models for completion."""
        raise NotImplementedError

    def known_experiments(self) -> list[str]:
        """Return names of experiments for completion."""
        raise NotImplementedError


class Track:
    """A run that is being tracked by a cell or a ``with`` block."""

    run_id: str

    def end(self, status: str = "FINISHED", *, params: Mapping[str, Any] | None = None) -> results.TrackSummary:
        """End the run as FINISHED, FAILED or KILLED, register its model if that was asked, and sum it up.

        ``params`` are logged before the end (the values that named variables got in the cell). Raises NoModel
        when a model was to be registered and the run (FINISHED) has none; the summary is on the error as
        ``summary``.
        """
        raise NotImplementedError


_session = Session()


def current() -> Session:
    """Return the process's session."""
    return _session
