"""The Python twins of the magics: ``import dbml_magics as dbml; dbml.link(local=True)``.

They call the same session and return the same results; nothing is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dbml_magics import results
from dbml_magics.errors import DbmlError, NotLinked

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.core.track import Track

__all__ = [
    "TrackedRun",
    "compare",
    "dead_letters",
    "discard_dead_letters",
    "experiment",
    "link",
    "models",
    "register",
    "retry_dead_letters",
    "runs",
    "status",
    "sync",
    "track",
    "ui",
    "unlink",
]


def _session(linked_for: str | None = None) -> Session:
    from dbml_magics.core import session

    current = session.current()
    if linked_for is not None and not current.linked:
        raise NotLinked(linked_for)
    return current


def link(
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

    ``local`` is a folder for two workspaces on this machine (True: ``.dbml``); ``again`` takes up the link
    that is remembered for the current folder. Raises BadLink, BadUri, NothingRemembered, RunActive,
    WorkspaceUnreachable, NotMlflow, NotPermitted or SecretRefused.
    """
    return _session().link(
        local=local,
        databricks=databricks,
        azureml=azureml,
        track=track,
        registry=registry,
        mode=mode,
        again=again,
    )


def unlink() -> results.UnlinkResult:
    """Restore the tracking and registry URIs that were there before the link."""
    return _session("unlink()").unlink()


def status() -> results.LinkStatus:
    """Return where tracking goes and what is still on its way; asks no workspace."""
    return _session("status()").status()


def experiment(name: str) -> results.ExperimentResult:
    """Set the experiment on both sides, each in its own naming rule."""
    return _session("experiment()").experiment(name)


def runs(
    experiment: str | None = None,
    *,
    filter: str = "",  # noqa: A002 - the MLflow CLI's own word
    order_by: Sequence[str] = (),
    max_results: int = 20,
) -> results.RunsResult:
    """List the experiment's runs (the active experiment's by default)."""
    return _session("runs()").runs(experiment, filter=filter, order_by=order_by, max_results=max_results)


def compare(*given: str, metrics: Sequence[str] = ()) -> results.CompareResult:
    """Set two runs or more side by side (each an id, the beginning of one, or ``last``).

    ``metrics`` are those to show; by default those that tell most. ``to_pandas()`` of the result has all.
    """
    return _session("compare()").compare(*given, metrics=metrics)


def register(
    run: str,
    name: str,
    *,
    path: str | None = None,
    to: str | None = None,
    aliases: Iterable[str] = (),
    tags: Mapping[str, str] | None = None,
) -> results.RegisterResult:
    """Register a run's model (``run``: an id, the beginning of one, or ``last``) in one registry or both."""
    return _session("register()").register(run, name, path=path, to=to, aliases=aliases, tags=tags)


def models(name: str | None = None) -> results.ModelsResult:
    """List the registered models, or one model's versions at each workspace."""
    return _session("models()").models(name)


def sync(
    timeout: float | None = None, *, progress: Callable[[Mapping[str, int], float], None] | None = None
) -> results.SyncResult:
    """Wait until everything is delivered; raises DeliveryIncomplete when ``timeout`` (seconds) is up.

    ``progress`` is called a few times a second with the writes that remain for each workspace and the rate.
    """
    return _session("sync()").sync(timeout, progress=progress)


def dead_letters(run: str | None = None) -> results.DeadLetters:
    """List the writes that a workspace refused for good (of one run, or all), with their causes."""
    return _session("dead_letters()").dead_letters(run)


def retry_dead_letters(
    run: str | None = None,
    *,
    timeout: float | None = None,
    progress: Callable[[Mapping[str, int], float], None] | None = None,
) -> results.RetryResult:
    """Try refused writes again, and wait for what becomes of them (60 seconds at most by default).

    What is refused again is a dead letter with its new cause; what waits for a workspace goes on waiting.
    """
    return _session("retry_dead_letters()").retry_dead_letters(run, timeout=timeout, progress=progress)


def discard_dead_letters(confirm: int | None = None, *, run: str | None = None) -> results.DiscardResult:
    """Forget refused writes; ``confirm`` is how many there are.

    Raises NotConfirmed otherwise, naming them; nothing is forgotten then.
    """
    return _session("discard_dead_letters()").discard_dead_letters(confirm, run=run)


def ui(*, stop: bool = False) -> results.UiResult:
    """Return each workspace's page, starting MLflow's UI for those in a file; ``stop`` ends what was started.

    Raises ServerFailed with the last lines of the log.
    """
    return _session("ui()").ui(stop=stop)


class TrackedRun:
    """A run that lasts as long as a ``with`` block; ``summary`` is there afterwards."""

    def __init__(self, name: str | None, settings: Mapping[str, Any]) -> None:
        self._name = name
        self._settings = settings
        self._track: Track | None = None
        self.summary: results.TrackSummary | None = None

    @property
    def run_id(self) -> str:
        """Return the run's id; there is none before the block begins."""
        if self._track is None:
            raise RuntimeError("the run begins with its block: with dbml.track(...) as run:")
        return self._track.run_id

    def __enter__(self) -> TrackedRun:
        if self._track is not None:
            raise RuntimeError("a run is tracked once: call dbml.track(...) again for another")
        self._track = _session("track()").begin_track(self._name, **self._settings)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._track is not None
        status = "FINISHED" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        try:
            self.summary = self._track.end(status)
        except DbmlError as failure:
            self.summary = getattr(failure, "summary", None)
            if error is None:
                raise
            # The block's own error says more than that its run could not be ended as asked.


def track(
    name: str | None = None,
    *,
    experiment: str | None = None,
    autolog: bool | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    nested: bool = False,
    register: str | None = None,
) -> TrackedRun:
    """Track a block as a run: ``with dbml.track("forest", autolog=True) as run: …``, then ``run.summary``.

    The run ends FINISHED, FAILED when the block raises, or KILLED when it is interrupted.
    """
    return TrackedRun(
        name,
        {
            "experiment": experiment,
            "autolog": autolog,
            "params": params,
            "tags": tags,
            "nested": nested,
            "register": register,
        },
    )
