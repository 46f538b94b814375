"""The public calls: ``import dbml_magics as dbml; dbml.link(local=True)``.

Their signatures are the source of the magics' options, the forms' fields and the shell's arguments
(:class:`dbml_magics.commands.grammar.Command`). They return results; nothing is printed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from dbml_magics.common.hints import Remedy
from dbml_magics.errors import DbmlError, NotLinked

if TYPE_CHECKING:
    from dbml_magics.core.interrupts import Guard
    from dbml_magics.core.runtime.engine import Engine
    from dbml_magics.core.session import Session
    from dbml_magics.core.track import Track
    from dbml_magics.results.cleanup import CleanupResult
    from dbml_magics.results.compare import CompareResult
    from dbml_magics.results.delivery import (
        DeadLetters,
        DiscardResult,
        Receipt,
        RequestsResult,
        RetryResult,
        SyncResult,
    )
    from dbml_magics.results.doctor import DoctorResult
    from dbml_magics.results.endpoints import (
        DeployResult,
        Endpoint,
        EndpointsResult,
        InvokeResult,
        LogsResult,
        UndeployResult,
    )
    from dbml_magics.results.link import ExperimentResult, LinkStatus, UiResult, UnlinkResult
    from dbml_magics.results.probes import ProbeReport
    from dbml_magics.results.reconcile import RepairResult, VerifyResult
    from dbml_magics.results.registry import ModelsResult, RegisterResult
    from dbml_magics.results.runs import RunsResult, TrackSummary
    from dbml_magics.results.scoring import ScoreResult, StreamResult, UdfResult

__all__ = [
    "TrackedRun",
    "cleanup",
    "compare",
    "dead_letters",
    "deploy",
    "discard_dead_letters",
    "doctor",
    "endpoints",
    "experiment",
    "invoke",
    "link",
    "logs",
    "models",
    "probe",
    "receipt",
    "register",
    "repair",
    "requests",
    "retry_dead_letters",
    "runs",
    "score",
    "status",
    "sync",
    "track",
    "ui",
    "undeploy",
    "unlink",
    "verify",
]


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _public(call: Callable[_P, _T]) -> Callable[_P, _T]:
    """Raise an error that its user causes as an error of the line that calls, without what led to it here.

    A script's traceback ends at that line then, as a cell's error does; what it came from stays its context.
    """

    @functools.wraps(call)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return call(*args, **kwargs)
        except DbmlError as error:
            raise error.with_traceback(None) from None

    return called


def _session(linked_for: str | None = None) -> Session:
    from dbml_magics.core import session

    current = session.current()
    if linked_for is not None and not current.linked:
        raise NotLinked(linked_for)
    return current


def _joined() -> Engine | None:
    """Return the engine of the link, where one is at work in this process already."""
    from dbml_magics.core import link, session

    link.refuse_platform()
    return session.current().joined


@_public
def link(
    *,
    local: str | bool | None = None,
    databricks: str | None = None,
    azureml: str | None = None,
    track: str | None = None,
    registry: str | None = None,
    mode: str | None = None,
    on_undelivered: str | None = None,
    spill: str | os.PathLike[str] | None = None,
    again: bool = False,
    subscription: str | None = None,
    resource_group: str | None = None,
    workspace: str | None = None,
    config: str | bool | None = None,
    cloud: str | None = None,
    auth: str | None = None,
    create: bool = False,
    location: str | None = None,
    tags: Mapping[str, str] | None = None,
    storage_account: str | None = None,
    key_vault: str | None = None,
    confirm: str | None = None,
    prompt: Callable[[str], None] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> LinkStatus:
    """Make two workspaces one tracking URI and set it as MLflow's.

    ``local`` is a folder for two workspaces on this machine (True: ``.dbml``); ``again`` takes up the link
    that is remembered for the current folder. ``on_undelivered="fail"`` has a process that ends with writes
    undelivered exit with a code that is not 0; ``spill`` is a folder (a volume, a mounted store) that takes
    them, for ``dbml.sync(spill=…)`` on any machine. ``subscription``, ``resource_group`` and ``workspace``
    name an Azure ML workspace, or ``config`` the file that does (True: looked for upwards); a host that it
    names for the first time is wanted as ``confirm``. ``auth`` is the way to sign in. ``prompt`` gets the
    line that tells the user how to sign in (without it no way that asks is taken); ``create`` makes the
    workspace when ``confirm`` is its name, and tells ``progress``. Raises BadLink, BadUri, WorkspaceNotFound,
    NothingRemembered, NotConfirmed, RunActive, WorkspaceUnreachable, NotMlflow, NotPermitted or
    SecretRefused.
    """
    from dbml_magics.core.azure.wish import AzureWish
    from dbml_magics.core.link import LinkOptions
    from dbml_magics.core.link_request import LinkRequest

    return _session().link(
        LinkRequest(
            local=local,
            databricks=databricks,
            azureml=azureml,
            options=LinkOptions(
                track, registry, mode, on_undelivered, None if spill is None else os.fspath(spill)
            ),
            azure=AzureWish(
                subscription=subscription or None,
                resource_group=resource_group or None,
                workspace=workspace or None,
                cloud=cloud or None,
                auth=auth or None,
                create=bool(create),
                location=location or None,
                tags=dict(tags or {}),
                storage_account=storage_account or None,
                key_vault=key_vault or None,
                confirm=confirm or None,
            ),
            again=again,
            config=config,
            prompt=prompt,
            progress=progress,
        )
    )


@_public
def unlink() -> UnlinkResult:
    """Restore the tracking and registry URIs that were there before the link; without one, say so."""
    return _session().unlink()


@_public
def status() -> LinkStatus:
    """Return where tracking goes and what is still on its way; asks no workspace."""
    return _session("dbml.status()").status()


@_public
def receipt(run: str = "last") -> Receipt:
    """Return what was delivered of a run where and when; ``.delivered`` tells whether that is all of it."""
    session = _session("dbml.receipt()")
    from dbml_magics.core import receipts

    return receipts.of(session.engine(Remedy("status")), run, session.last_run)


@_public
def requests() -> RequestsResult:
    """Return how many requests of each kind this process has made of the link's workspaces."""
    engine = _session("dbml.requests()").engine(Remedy("status"))
    from dbml_magics.core import status

    return status.requests(engine)


@_public
def experiment(name: str) -> ExperimentResult:
    """Set the experiment on both sides, each in its own naming rule."""
    engine = _session("dbml.experiment()").tracking_engine(Remedy("experiment"))
    from dbml_magics.core import runs

    return runs.set_experiment(engine, name)


@_public
def runs(
    experiment: str | None = None,
    *,
    filter: str = "",  # noqa: A002 - the MLflow CLI's own word
    order_by: Sequence[str] = (),
    max_results: int = 20,
) -> RunsResult:
    """List the experiment's runs (the active experiment's by default)."""
    engine = _session("dbml.runs()").engine(Remedy("runs"))
    from dbml_magics.core import runs

    return runs.list_runs(engine, experiment, filter, order_by, max_results)


@_public
def compare(*given: str, metrics: Sequence[str] = ()) -> CompareResult:
    """Set two runs or more side by side (each an id, the beginning of one, a name, or ``last``).

    ``metrics`` are those to show; by default those that tell most. ``to_pandas()`` of the result has all.
    """
    session = _session("dbml.compare()")
    from dbml_magics.core import compare

    return compare.compare(session.engine(Remedy("compare")), given, metrics, session.last_run)


@_public
def register(
    run: str,
    name: str,
    *,
    path: str | None = None,
    to: str | None = None,
    aliases: Iterable[str] = (),
    tags: Mapping[str, str] | None = None,
    require_delivered: bool = False,
) -> RegisterResult:
    """Register a run's model (``run``: id, its beginning, name, or ``last``) in one registry or both.

    ``require_delivered``: only when all of the run is at every workspace, else DeliveryIncomplete.
    """
    session = _session("dbml.register()")
    engine = session.engine(Remedy("register"))
    from dbml_magics.core import receipts, registry, runs

    run_id = runs.resolve(engine, run, session.last_run)
    if require_delivered:
        receipts.require(engine, run_id, Remedy("register"))
    return registry.register(
        engine, run_id, name, path=path, to=to, aliases=tuple(aliases), tags=dict(tags or {})
    )


@_public
def models(name: str | None = None) -> ModelsResult:
    """List the registered models, or one model's versions at each workspace."""
    engine = _session("dbml.models()").engine(Remedy("models"))
    from dbml_magics.core import registry

    return registry.list_models(engine, name)


@_public
def sync(
    timeout: float | None = None,
    *,
    spill: str | os.PathLike[str] | None = None,
    progress: Callable[[Mapping[str, int], float], None] | None = None,
) -> SyncResult:
    """Wait until everything is delivered; raises DeliveryIncomplete when ``timeout`` (seconds) is up.

    ``spill`` is the folder where other processes of such a link (``dbml.link(spill=…)``) left what they could
    not deliver: that is delivered first, once, whoever takes it up.
    ``progress`` is called a few times a second with the writes that remain for each workspace and the rate.
    """
    engine = _session("dbml.sync()").engine(Remedy("sync"))
    from dbml_magics.core import sync

    return sync.wait(engine, timeout, spill, progress)


@_public
def verify(
    *,
    experiment: str | None = None,
    run: str | None = None,
    everything: bool = False,
    since: str | int | datetime | None = None,
    deep: bool = False,
    timeout: float | None = None,
    progress: Callable[[int, str], None] | None = None,
) -> VerifyResult:
    """Compare the two workspaces run by run, and change nothing; ``.differences`` lists what differs.

    Without options the runs of the link's own time; ``everything``, ``experiment``, ``run`` or ``since`` (a
    date, ``"7d"``, or milliseconds) choose others. ``deep`` compares every metric's whole history,
    and asks for the files of runs that were delivered without any, too.
    """
    session = _session("dbml.verify()")
    engine = session.engine(Remedy("sync", verify=True))
    from dbml_magics.core.reconcile import entry

    return entry.verify(
        engine,
        experiment,
        run,
        everything,
        since,
        session.last_run,
        deep=deep,
        timeout=timeout,
        progress=progress,
    )


@_public
def repair(
    *,
    experiment: str | None = None,
    run: str | None = None,
    everything: bool = False,
    since: str | int | datetime | None = None,
    source: str | None = None,
    prune: bool = False,
    confirm: bool = False,
    deep: bool = False,
    timeout: float | None = None,
    progress: Callable[[int, str], None] | None = None,
) -> RepairResult:
    """Make the mirror like the primary, or (``source="azureml"``) the other way round.

    Runs that one lacks are copied. ``.repaired`` lists what was mended, ``.remaining`` what could not be.
    It adds and corrects; ``prune`` with ``confirm`` also deletes what the source has not.
    """
    session = _session("dbml.repair()")
    engine = session.engine(Remedy("sync", repair=True))
    from dbml_magics.core.reconcile import entry

    return entry.repair(
        engine,
        experiment,
        run,
        everything,
        since,
        session.last_run,
        source=source,
        prune=prune,
        confirm=confirm,
        deep=deep,
        timeout=timeout,
        progress=progress,
    )


@_public
def dead_letters(run: str | None = None) -> DeadLetters:
    """List the writes that a workspace refused for good (of one run, or all), with their causes."""
    session = _session("dbml.dead_letters()")
    engine = session.engine(Remedy("sync", dead="list"))
    from dbml_magics.core import dead_letters

    return dead_letters.listed(engine, run, session.last_run)


@_public
def retry_dead_letters(
    run: str | None = None,
    *,
    timeout: float | None = None,
    progress: Callable[[Mapping[str, int], float], None] | None = None,
) -> RetryResult:
    """Try refused writes again, and wait for what becomes of them (60 seconds at most by default).

    What is refused again is a dead letter with its new cause; what waits for a workspace goes on waiting.
    """
    session = _session("dbml.retry_dead_letters()")
    engine = session.engine(Remedy("sync", dead="retry"))
    from dbml_magics.core import dead_letters

    return dead_letters.retry(engine, run, session.last_run, timeout, progress)


@_public
def discard_dead_letters(confirm: int | None = None, *, run: str | None = None) -> DiscardResult:
    """Forget refused writes; ``confirm`` is how many there are.

    Raises NotConfirmed otherwise, naming them; nothing is forgotten then.
    """
    session = _session("dbml.discard_dead_letters()")
    engine = session.engine(Remedy("sync", dead="discard"))
    from dbml_magics.core import dead_letters

    return dead_letters.discard(engine, run, session.last_run, confirm)


@_public
def ui(*, stop: bool = False) -> UiResult:
    """Return each workspace's page, starting MLflow's UI for those in a file; ``stop`` ends what was started.

    Raises ServerFailed with the last lines of the log.
    """
    linked = _session("dbml.ui()").engine(Remedy("ui")).link
    from dbml_magics.core import ui

    return ui.stop(linked) if stop else ui.show(linked)


@_public
def deploy(
    model: str,
    *,
    to: str,
    name: str,
    model_name: str | None = None,
    deployment: str | None = None,
    config: str | os.PathLike[str] | None = None,
    compute: str | None = None,
    instance_type: str | None = None,
    instance_count: int | None = None,
    app_insights: bool = False,
    collect_data: bool = False,
    add_packages: bool = False,
    traffic: int | None = None,
    wait: bool = True,
    require_delivered: bool = False,
    progress: Callable[[str], None] | None = None,
) -> DeployResult:
    """Serve a model at an endpoint: ``dbml.deploy("wine/1", to="local", name="wine")``.

    ``model``: ``name/version``, ``name@alias``, a bare name, a run, ``m-…``, or a ``runs:/`` or ``models:/``
    URI. ``to``: local, aci, aks or online. A second model under a live endpoint (``deployment``) gets no
    requests until ``traffic`` (percent) says so. ``add_packages`` deploys a copy of the model whose
    environment has what the container of a managed endpoint needs as well. ``progress`` gets a line each
    second, and with each state. Raises ModelNotFound, RunNotFound, AmbiguousRun, NoModel, BadName,
    BadCommand, NotDeployable or DeploymentFailed.
    """
    session = _session("deploy()")
    engine = session.engine(Remedy("deploy"))
    from dbml_magics.core.endpoints import service

    return service.deploy(
        engine,
        model,
        last=session.last_run,
        to=to,
        name=name,
        model_name=model_name,
        deployment=deployment,
        config=config,
        compute=compute,
        instance_type=instance_type,
        instance_count=instance_count,
        app_insights=app_insights,
        collect_data=collect_data,
        add_packages=add_packages,
        traffic=traffic,
        wait=wait,
        require_delivered=require_delivered,
        progress=progress,
    )


@_public
def endpoints(name: str | None = None, *, target: str | None = None) -> EndpointsResult | Endpoint:
    """Return the endpoints, or the named one; those of this machine need no link.

    ``target`` (local, aci, aks, online) narrows it. Raises EndpointNotFound.
    """
    engine = _joined()
    from dbml_magics.core.endpoints import service

    return service.listed(engine, name, target=target)


@_public
def logs(
    name: str, *, deployment: str | None = None, lines: int = 50, target: str | None = None
) -> LogsResult:
    """Return the last lines of the log of an endpoint's deployment. Raises EndpointNotFound."""
    engine = _joined()
    from dbml_magics.core.endpoints import service

    return service.logs(engine, name, deployment=deployment, lines=lines, target=target)


@_public
def invoke(
    name: str,
    data: object,
    *,
    deployment: str | None = None,
    target: str | None = None,
    params: Mapping[str, object] | str | None = None,
    progress: Callable[[str], None] | None = None,
) -> InvokeResult:
    """Return an endpoint's predictions; ``.predictions`` has the shape of the data.

    ``data``: a DataFrame, Series, array, list, dict, JSON text or a file (.json, .jsonl, .csv, .parquet). It
    is checked against the model's signature first, and sent in several requests when one is too small for
    it. ``params`` are those of the model's signature. Raises EndpointNotFound, BadData, ScoringFailed or
    NotPermitted.
    """
    engine = _joined()
    from dbml_magics.core.endpoints import service

    return service.invoke(
        engine, name, data, deployment=deployment, target=target, params=params, progress=progress
    )


@_public
def undeploy(
    name: str,
    *,
    target: str | None = None,
    deployment: str | None = None,
    confirm: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> UndeployResult:
    """End an endpoint, or one ``deployment`` of it.

    For a cloud endpoint ``confirm`` is its name again. Raises EndpointNotFound, NotConfirmed, BadCommand.
    """
    engine = _joined()
    from dbml_magics.core.endpoints import service

    return service.undeploy(
        engine, name, target=target, deployment=deployment, confirm=confirm, progress=progress
    )


@_public
def cleanup(
    kind: str,
    name: str,
    *,
    dry_run: bool = False,
    confirm: str | None = None,
    also: Sequence[str] = (),
    subscription: str | None = None,
    resource_group: str | None = None,
    cloud: str | None = None,
    auth: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> CleanupResult:
    """Delete an endpoint, model, run, experiment, workspace or resource-group, with all that goes with it.

    ``confirm`` is the name again; without it NotConfirmed lists everything, and nothing is deleted.
    ``dry_run`` returns the same as a result. ``also`` names resources that go with a workspace or a group
    though they are not its own. Raises CleanupIncomplete, with ``.result``, when something could not go.
    """
    from dbml_magics.core import cleanup, link

    link.refuse_platform()

    azure = {"subscription": subscription, "resource_group": resource_group, "cloud": cloud, "auth": auth}
    return cleanup.clean(
        _session(), kind, name, dry_run=dry_run, confirm=confirm, also=also, azure=azure, progress=progress
    )


@_public
def doctor(*, json: bool = False, timeout: float | None = None) -> DoctorResult:
    """Look at everything that can be wrong: packages, sign-in, permissions, network, disk, leftovers.

    Nothing is changed, nothing raises, and it ends within ``timeout`` seconds (30 by default). ``.broken``
    and ``.warnings`` list what is not fine, ``.json()`` has all of it without any secret.
    """
    from dbml_magics.core import session
    from dbml_magics.core.doctor import examination

    found = examination.examine(session.current().joined, session.current_folder(), timeout=timeout)
    return replace(found, as_json=json)


@_public
def probe(
    *,
    confirm: str | None = None,
    endpoint: bool = False,
    schema: str | None = None,
    only: Sequence[str] = (),
    json: bool = False,
    progress: Callable[[str], None] | None = None,
) -> ProbeReport:
    """Compare what the link's services do with what is recorded of them: limits, and how they behave.

    ``confirm`` is the word probe; without it NotConfirmed says what would be made, and nothing is asked. What
    is made (``endpoint``: an endpoint too; ``schema``: a model in that schema of Unity Catalog) is deleted at
    the end, also of an interrupted probe. ``only`` names facts. The report, without secrets, ids and names,
    is written to the current folder and sent to nobody; ``.differing`` lists what is not as recorded.
    """
    engine = _session("dbml.probe()").engine(Remedy("doctor", probe=True))
    from dbml_magics.core import session
    from dbml_magics.core.doctor.probes import probing

    found = probing.probe(
        engine,
        session.current_folder(),
        confirm=confirm,
        endpoint=endpoint,
        schema=schema,
        only=only,
        progress=progress,
    )
    return replace(found, as_json=json)


@_public
def score(
    model: str,
    data: object = None,
    *,
    where: str | None = None,
    columns: str | Sequence[str] = (),
    output: str | os.PathLike[str] | None = None,
    column: str = "prediction",
    result_type: str | None = None,
    on_error: str = "fail",
    mode: str | None = None,
    checkpoint: str | None = None,
    available_now: bool = False,
    params: Mapping[str, object] | str | None = None,
    progress: Callable[[str], None] | None = None,
) -> ScoreResult | StreamResult | UdfResult:
    """Score a table, files, a DataFrame or a stream with a model; without ``data`` return the function.

    ``model``: ``name/version``, ``name@alias``, a bare name, a run, ``m-…``, or any URI. ``data``: a
    DataFrame of Spark (also streaming) or of pandas, the name of a table, or a path. ``where`` is a
    condition in SQL; ``columns`` are those that the model is given, in its order, where their names
    are others. ``output``: a table with its schema, or a path; ``mode`` (append, overwrite) is for one
    that is there. ``column`` is the predictions' name, ``result_type`` their Spark type in words;
    ``on_error`` (fail, null) is for rows that the model refuses. Of a stream, ``checkpoint`` is a path,
    and ``available_now`` ends it with what there is. ``params`` are those that the model's signature
    names: a mapping, or JSON. Raises ModelNotFound, RunNotFound, AmbiguousRun,
    NoModel, BadData, BadCommand, SparkUnavailable or ScoringFailed.
    """
    session = _session("score()")
    engine = session.engine(Remedy("score"))
    from dbml_magics.core.scoring import service

    return service.score(
        engine,
        model,
        data,
        last=session.last_run,
        where=where,
        columns=columns,
        output=output,
        column=column,
        result_type=result_type,
        on_error=on_error,
        mode=mode,
        checkpoint=checkpoint,
        available_now=available_now,
        params=params,
        progress=progress,
    )


class _View(Protocol):
    """What shows a tracked block's run while it goes on."""

    def end(self, summary: TrackSummary | None) -> None:
        """Show the summary in its place."""


def _view_of(track: Track) -> _View | None:
    """Begin to show a block's run, where the extension is loaded."""
    from dbml_magics.common import environment

    running = environment.shell()
    loaded = None if running is None else running.magics_manager.registry.get("DbmlMagics")
    view: _View | None = None if loaded is None else loaded.view_of_block(track)
    return view


class TrackedRun:
    """A run that lasts as long as a ``with`` block; ``summary`` is there afterwards."""

    def __init__(self, name: str | None, settings: Mapping[str, Any]) -> None:
        self._name = name
        self._settings = settings
        self._track: Track | None = None
        self._guard: Guard | None = None
        self._view: _View | None = None
        self.summary: TrackSummary | None = None

    def __repr__(self) -> str:
        if self.summary is not None:
            return repr(self.summary)
        track = self._track
        return "a run that has not begun" if track is None else f"Run {track.name}  RUNNING  {track.run_id}"

    def _repr_html_(self) -> str | None:
        if self.summary is not None:
            return self.summary.html()
        if self._track is None:
            return None
        from dbml_magics.results.html import code, panel, run_title, safe

        return panel(safe(run_title(self._track.name, "RUNNING") + " " + code(self._track.run_id)))

    def _mime_(self) -> tuple[str, str]:
        """Return what marimo shows."""
        return ("text/plain", repr(self)) if self.summary is None else self.summary._mime_()

    @property
    def run_id(self) -> str:
        """Return the run's id; there is none before the block begins."""
        if self._track is None:
            raise RuntimeError("the run begins with its block: with dbml.track(...) as run:")
        return self._track.run_id

    def __enter__(self) -> TrackedRun:
        if self._track is not None:
            raise RuntimeError("a run is tracked once: call dbml.track(...) again for another")
        from dbml_magics.core.interrupts import Guard

        session = _session("dbml.track()")
        guard = self._guard = Guard(TrackedRun.__exit__.__code__, self)
        try:
            guard.install()
            self._track = session.begin_track(self._name, **self._settings)
            if not self._settings["nested"]:  # a child's is its parent's view
                self._view = _view_of(self._track)
            while True:
                guard.holds = False
                if not guard.came:  # between the two no interrupt is raised: the next one comes in the block
                    return self
                guard.holds = True
                guard.give()
        except BaseException:
            if self._track is not None:
                self._track.close("KILLED")
            if self._view is not None:
                self._view.end(None)
            guard.remove()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._track is not None
        status = "FINISHED" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        try:
            try:
                self._track.close(status, error=error)
            finally:
                if self._guard is not None:
                    self._guard.remove()  # raises an interrupt that came since the block ended
            self.summary = self._track.finish()
        except DbmlError as failure:
            self.summary = getattr(failure, "summary", None)
            if error is None:
                raise
            # The block's own error says more than that its run could not be ended as asked.
        finally:
            if self._view is not None:
                self._view.end(self.summary)


@_public
def track(
    name: str | None = None,
    *,
    experiment: str | None = None,
    autolog: bool | None = None,
    params: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
    nested: bool = False,
    register: str | None = None,
    unended: str = "leave",
    total: int | None = None,
) -> TrackedRun:
    """Track a block as a run: ``with dbml.track("forest", autolog=True) as run: …``, then ``run.summary``.

    The run ends FINISHED, FAILED when the block raises, or KILLED when it is interrupted. Runs that begin in
    the block beside it (in threads, say) are named in the summary; ``unended="end"`` ends with it those that
    have not ended. ``total`` is how many steps it is to have: a live view says when its end is in sight.
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
            "unended": unended,
            "total": total,
        },
    )
