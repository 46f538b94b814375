"""A run that a cell or a ``with`` block tracks: begun, ended, summed up."""

from __future__ import annotations

import inspect
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import mlflow
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.autologging_utils import (
    AUTOLOGGING_INTEGRATIONS,
    disable_autologging,
    get_autologging_config,
)

from dbml_magics.common.foreign_text import one_line
from dbml_magics.common.hints import Remedy, amended, say
from dbml_magics.common.redaction import redacted
from dbml_magics.core import mlflow_private, registry, runs
from dbml_magics.core.destinations.naming import check_experiment_name
from dbml_magics.core.interrupts import deferred
from dbml_magics.core.model.facts import RunFacts
from dbml_magics.core.model.operations import decode
from dbml_magics.core.outbox.model_versions import Refusal
from dbml_magics.core.pages import PagesOfLink
from dbml_magics.core.plugin import job_run
from dbml_magics.core.run_view import TERMINAL, RunView, Series
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.core.runtime.holders import is_anothers
from dbml_magics.core.source import masked_text
from dbml_magics.core.status import destination
from dbml_magics.core.watch import RunWatch
from dbml_magics.errors import BadCommand, DbmlError, NoModel, RunActive
from dbml_magics.results.registry import ModelVersion
from dbml_magics.results.runs import MetricSummary, TrackSummary
from dbml_magics.results.text import listing, short

if TYPE_CHECKING:
    from dbml_magics.results.live import RunProgress

_CURVE_POINTS = 60
_ERROR_LENGTH = 200
_SUMMARY_WAIT_S = 1.5  # a summary that says "delivered" is worth a moment; a workspace that is away gets none
UNENDED = ("leave", "end")
"""What becomes of runs that began beside a tracked one and have not ended when it does."""

_RUN_VARIABLE = "MLFLOW_RUN_ID"
_GIT_COMMIT_TAG = "mlflow.source.git.commit"


class Track:
    """A run that is being tracked by a cell or a ``with`` block."""

    def __init__(
        self,
        remember: Callable[[str], None],
        engine: Engine,
        run: Run,
        register: str | None,
        joined: str | None = None,
        *,
        ends_all: bool = False,
        total: int | None = None,
    ) -> None:
        self.run_id: str = run.info.run_id
        self.name: str = run.info.run_name or self.run_id[:8]
        self._remember = remember
        self._engine = engine
        self._register = register
        self._autolog = _Autolog()
        self._began = time.monotonic()
        self._seconds = 0.0
        self._status: str | None = None  # how the cell ended, or the run that it ended itself
        self._error = ""
        self._joined = joined
        self._ends_all = ends_all
        # Threads have tracks of their own beside each other; those of the main thread's code began in its.
        main = threading.current_thread() is threading.main_thread()
        self._first = len(engine.own_runs.begun) if main else None
        self._trouble: DbmlError | None = None
        self._watch = RunWatch(engine, self.run_id, total)

    def switch_autologging(self, wanted: bool | None) -> None:
        """Switch autologging on or off (None: leave it) until the run ends."""
        self._autolog.switch(wanted)

    def look(self) -> RunProgress:
        """Return the run as it stands now: it costs what was logged since the last look."""
        return self._watch.look(time.monotonic() - self._began)

    def end(
        self,
        status: str = "FINISHED",
        *,
        params: Mapping[str, object] | None = None,
        error: BaseException | None = None,
    ) -> TrackSummary:
        """End the run as FINISHED, FAILED or KILLED, register its model if that was asked, and sum it up.

        ``params`` are logged before the end (the values that named variables got in the cell); ``error`` is
        what the cell raised, of which the summary shows the last line. Raises NoModel
        when a model was to be registered and the run (FINISHED) has none, or the error of the registration;
        the summary is on the error as ``summary``. The run has ended in any case.
        """
        self.close(status, params=params, error=error)
        return self.finish()

    def close(
        self,
        status: str,
        *,
        params: Mapping[str, object] | None = None,
        error: BaseException | None = None,
    ) -> None:
        """End the run, once; an interrupt that comes meanwhile is raised when it has ended."""
        with deferred():
            if self._status is not None:
                return
            self._error = "" if error is None else _last_line(error)
            try:
                _log_params(self.run_id, params)
            except MlflowException as refusal:
                self._trouble = runs.as_error(self._engine, refusal, "a param")
            finally:
                self._autolog.restore()
                if self._watch.last is not None:
                    self.look()  # once it is delivered, nothing here tells what was logged last
                self._watch.close()
                self._status = self._end_run(status)
                if self._ends_all:
                    self._end_others(status)
                self._seconds = time.monotonic() - self._began

    def finish(self) -> TrackSummary:
        """Register the closed run's model if that was asked, and sum it up; raises as :meth:`end` does."""
        status, trouble = self._status or "RUNNING", self._trouble
        if status == "FINISHED":
            self._remember(self.run_id)
            trouble = self._register_model() or trouble
        self._wait_a_moment()
        summary = self._sum_up(status)
        if trouble is not None:
            trouble.summary = summary  # type: ignore[attr-defined]
            raise trouble
        return summary

    def _sum_up(self, status: str) -> TrackSummary:
        own, notes = status, [] if self._joined is None else [self._joined]
        if self._joined is not None:  # who began it may go on with it
            with suppress(MlflowException):
                own = str(self._engine.runs.get_run(self.run_id).info.status)
            if own != status:
                goes = "" if own in TERMINAL else " and goes on"
                notes.append(f"the run is {own}{goes}; this cell's part of it is {status}")
        meanwhile = self._begun_meanwhile()
        nested, names = {self.run_id}, {}
        for run, record in meanwhile.items():
            if record.get("parent") in nested:
                nested.add(run)
            names[run] = str(record.get("name") or run[:8])
        left = [names[run] for run, record in meanwhile.items() if record.get("ended") is False]
        if left:
            go = "go" if len(left) > 1 else "goes"
            option = say(Remedy("track", unended="end"))
            notes.append(f"{listing(left, 4)} {go} on: {option} ends such runs with the cell's")
        summary = _sum_up(self._engine, self.run_id, own, self._seconds, notes)
        beside = tuple(name for run, name in names.items() if run not in nested)
        return replace(summary, beside=beside, error=self._error)

    def _begun_meanwhile(self) -> dict[str, RunFacts]:
        """Return what is known of the other runs that this process has begun since, the oldest first."""
        began = [] if self._first is None else self._engine.own_runs.begun[self._first :]
        return {run: self._engine.state.run(run) or {} for run in began}

    def _end_others(self, status: str) -> None:
        """End the runs that began meanwhile and go on, nested or not, in this thread or another."""
        unended = {run for run, record in self._begun_meanwhile().items() if record.get("ended") is False}
        for run in unended:
            runs.client(self._engine).set_terminated(run, status)
        alive = {t.ident for t in threading.enumerate()} - {threading.get_ident()}
        for thread, stack in mlflow_private.active_runs().items():
            if thread not in alive:  # a living thread takes its own out as its block ends
                stack[:] = [active for active in stack if active.info.run_id not in unended]

    def _end_run(self, status: str) -> str:
        """End the run and the children that the cell left open; returns the run's own status.

        A cell may have ended its run itself, and begun others since: those are not ours to end.
        """
        with _own_run_alone():
            while self.run_id in [run.info.run_id for run in mlflow_private.active_runs_here()]:
                mlflow.end_run(status)
        try:
            own = str(self._engine.runs.get_run(self.run_id).info.status)
        except MlflowException:  # it has ended, been delivered, and the workspace went away since
            return status
        if own in TERMINAL:
            return own if self._joined is None else status
        runs.client(self._engine).set_terminated(self.run_id, status)
        return status

    def _register_model(self) -> DbmlError | None:
        if self._register is None:
            return None
        try:
            registry.register(
                self._engine, self.run_id, self._register, path=None, to=None, aliases=(), tags={}
            )
        except NoModel as error:
            return NoModel(
                f"--register {self._register}: {error.message}",
                remedies=error.remedies,
            )
        except DbmlError as error:
            return error
        return None

    def _wait_a_moment(self) -> None:
        engine = self._engine
        fine = [role for role in engine.link.used if engine.health[role].reason is None]
        engine.waiting.wait_at({role: [self.run_id] for role in fine}, _SUMMARY_WAIT_S)


def _last_line(error: BaseException) -> str:
    """Return an exception's type and message in one line, as the last line of its traceback has them."""
    said = one_line(redacted(str(error)))
    return short(f"{type(error).__name__}: {said}" if said else type(error).__name__, _ERROR_LENGTH)


class _SparkAdvice(logging.Filter):
    """Lets MLflow's advice about Spark through once: each cell that autologs would bring it anew."""

    _given = False

    def filter(self, record: logging.LogRecord) -> bool:
        if "PYSPARK_PIN_THREAD" not in str(record.msg):
            return True
        given, self._given = self._given, True
        return not given


logging.getLogger("mlflow.spark").addFilter(_SparkAdvice())


class _Autolog:
    """Autologging switched for one cell, and back."""

    def __init__(self) -> None:
        self._undo = ExitStack()

    def switch(self, wanted: bool | None) -> None:
        """Switch on or off, or leave it."""
        if wanted is False:
            # mlflow.autolog(disable=True) would leave on what mlflow.sklearn.autolog() switched on.
            self._undo.enter_context(disable_autologging())
        elif wanted and (
            get_autologging_config("mlflow", "disable", True)
            # Databricks switches autologging on when a notebook begins, but not for runs of start_run().
            or get_autologging_config("mlflow", "exclusive", False)
        ):
            known = inspect.signature(mlflow.autolog).parameters
            before = {k: v for k, v in AUTOLOGGING_INTEGRATIONS.get("mlflow", {}).items() if k in known}
            self._undo.callback(self._switch, before or {"disable": True})
            self._switch({**before, "disable": False, "exclusive": False})

    def _switch(self, settings: Mapping[str, object]) -> None:
        with runs.quiet_mlflow():  # one line for each library that is switched is not news
            mlflow.autolog(**settings)

    def restore(self) -> None:
        """Switch back to what was before."""
        self._undo.close()


def begin(
    remember: Callable[[str], None],
    engine: Engine,
    name: str | None,
    *,
    experiment: str | None = None,
    autolog: bool | None = None,
    params: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
    nested: bool = False,
    register: str | None = None,
    source: str | None = None,
    unended: str = "leave",
    total: int | None = None,
) -> Track:
    """Begin a run. Raises RunActive, BadName, BadCommand.

    ``remember`` is called with the run once it has ended well. ``source`` is a cell's text to log, masked.
    ``unended`` (leave or end) is for runs that begin meanwhile, in threads say, and go on when it has ended.
    ``total`` is how many steps it is to have, for a live view.

    An interrupt that comes while it begins ends it as KILLED. Within ``interrupts.deferred`` that is the
    caller's to do, who has the run when the interrupt is raised.
    """
    if register is not None:
        registry.check_names(register, command=lambda name: amended("track", register=name))
    if unended not in UNENDED:
        raise BadCommand(
            f"unended is {' or '.join(UNENDED)}.",
            remedies=[(amended("track", unended="end"), "for example")],
        )
    if total is not None and total < 1:
        raise BadCommand(
            f"total is the number of steps that the run is to have: {total} is none.",
            remedies=[amended("track", total=1000)],
        )
    active = mlflow.active_run()
    if active is not None and not nested:
        shown = active.info.run_name or active.info.run_id
        raise RunActive(
            f"run {shown} is active already; a second one can only be its child.",
            remedies=[
                (amended("track", nested=True), "makes it a child"),
                ("mlflow.end_run()", "ends the active run"),
            ],
        )
    begun: list[Track] = []
    joined, parent = None, None
    if active is None:
        joined = os.environ.get(_RUN_VARIABLE)
        if nested:  # under the run that this process was begun for
            joined, parent = None, joined or job_run.JOB_RUN
    anothers = joined is not None and is_anothers(engine.journal, joined, engine.state.run(joined))
    try:
        if joined is None:
            experiment_id = _experiment_id(engine, experiment)
        else:
            experiment_id, job_run.JOB_RUN = None, joined
        all_tags = {**_git_tags(), **(tags or {})}
        with (
            deferred(lambda: begun[0].close("KILLED") if begun else None),
            _own_run_alone(but_for=joined),
        ):
            run = mlflow.start_run(
                run_name=name,
                experiment_id=experiment_id,
                nested=nested,
                parent_run_id=parent,
                tags=all_tags,
                log_system_metrics=None,
            )
            note = _of_joined(run, name, experiment) if anothers else None
            track = Track(remember, engine, run, register, note, ends_all=unended == "end", total=total)
            begun.append(track)
            track.switch_autologging(autolog)
            _log_params(track.run_id, params)
            if source is not None:
                mlflow.log_text(masked_text(source), "cell.py")
        return track
    except BaseException as error:
        if begun:
            begun[0].close("FAILED")
        elif isinstance(error, MlflowException):
            runs.refuse_deleted(_meant_experiment(engine, experiment))
        if not isinstance(error, MlflowException):
            raise
        raised = runs.as_error(engine, error, "the run could not begin")
        if joined is not None and not begun and isinstance(raised, BadCommand):
            why = " ".join(str(error.message).split())
            raise BadCommand(
                f"{_RUN_VARIABLE} names run {joined}, which cannot be joined: {why}",
                remedies=[
                    (amended("track", nested=True), "begins a child of it"),
                    (f'del os.environ["{_RUN_VARIABLE}"]', "then %%track begins a run of its own"),
                ],
            ) from error
        raise raised from error


@contextmanager
def _own_run_alone(but_for: str | None = None) -> Iterator[None]:
    """Keep MLFLOW_RUN_ID from MLflow: it would take that run over, or unset the variable as another ends.

    With ``but_for``, that run is to be taken over; the variable comes back where that fails.
    """
    kept = os.environ.get(_RUN_VARIABLE) if but_for else os.environ.pop(_RUN_VARIABLE, None)
    taken = False
    try:
        yield
        taken = but_for is not None
    finally:
        if kept is not None and not taken:
            os.environ[_RUN_VARIABLE] = kept


def _of_joined(run: Run, name: str | None, experiment: str | None) -> str:
    """Say of a run that another process began what this one leaves alone."""
    given = [f"the name {name}"] if name not in (None, run.info.run_name) else []
    given += [f"--experiment {experiment}"] if experiment is not None else []
    left = f"; {' and '.join(given)} {'are' if len(given) > 1 else 'is'} left out" if given else ""
    nests = say(Remedy("track", nested=True))
    return (
        f"{_RUN_VARIABLE} names this run: who began it names and ends it{left}; {nests} makes a child of it"
    )


def _experiment_id(engine: Engine, name: str | None) -> str | None:
    if name is None:
        return None
    name = check_experiment_name(name)
    found = runs.client(engine).get_experiment_by_name(name)
    runs.refuse_deleted(found)
    return str(found.experiment_id) if found is not None else str(runs.client(engine).create_experiment(name))


def _meant_experiment(engine: Engine, name: str | None) -> Experiment | None:
    """Return the experiment that a run was to be in, if anybody can say."""
    try:
        if name is not None:
            return runs.client(engine).get_experiment_by_name(name)
        return runs.client(engine).get_experiment(mlflow_private.experiment_id_of_runs())
    except MlflowException:
        return None


def _log_params(run_id: str, params: Mapping[str, object] | None) -> None:
    if params:
        mlflow.log_params({key: _shown(value) for key, value in params.items()}, run_id=run_id)


def _shown(value: object) -> str:
    text = str(value)
    # MLflow's own validators refuse above 6,000 characters; a table or an array is no param in full anyway.
    return text if len(text) <= 500 else text[:497] + "…"


def _git_tags() -> dict[str, str]:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=2, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    commit = found.stdout.strip()
    return {_GIT_COMMIT_TAG: commit} if found.returncode == 0 and commit else {}


def _sum_up(engine: Engine, run_id: str, status: str, seconds: float, notes: Sequence[str]) -> TrackSummary:
    view = engine.live.queue_view(run_id)
    run = view.run if view is not None else None
    found = run.run() if run is not None else engine.runs.get_run(run_id)
    metrics = _metrics_of(run) if run is not None else _plain_metrics(engine, found)
    experiment = engine.state.experiments.name(found.info.experiment_id)
    pages, artifacts = PagesOfLink(engine), _artifacts(engine, run_id)
    where = run_id, str(found.info.experiment_id)
    return TrackSummary(
        run_id=run_id,
        name=found.info.run_name or run_id[:8],
        experiment=experiment or found.info.experiment_id,
        status=status,
        seconds=seconds,
        params=dict(found.data.params),
        metrics=tuple(metrics),
        artifacts=artifacts,
        models=_models(engine, found),
        registered=_registered(engine, run_id, pages),
        destinations=tuple(destination(engine, role, run_id) for role in engine.link.used),
        notes=(*notes, *_notes(engine, run_id)),
        links=pages.of_run(*where),
        artifact_links={path: pages.of_artifact(*where, path.rstrip("/")) for path in artifacts},
        children=_children(engine, run_id),
    )


def _children(engine: Engine, run_id: str) -> tuple[str, ...]:
    """Return the names of the runs that were nested in a run through this link, the oldest first."""
    found = [
        (run, record) for run, record in engine.state.recent_runs(2000) if record.get("parent") == run_id
    ]
    found.sort(key=lambda child: child[1].get("start") or 0)
    return tuple(str(record.get("name") or run[:8]) for run, record in found)


def _metrics_of(run: RunView) -> list[MetricSummary]:
    found = []
    for key in dict.fromkeys([*run.base_latest, *run.series]):
        series = run.series.get(key)
        last = run.latest(key).value
        found.append(
            MetricSummary(key=key, last=last, count=len(series) if series else 1, curve=_curve(series))
        )
    return found


def _curve(series: Series | None) -> tuple[float, ...]:
    if series is None or len(series) < 2:
        return ()
    order = range(len(series))
    if any(a > b for a, b in zip(series.steps, series.steps[1:], strict=False)):
        order = sorted(order, key=lambda n: (series.steps[n], series.times[n]))  # type: ignore[assignment]
    values = [series.values[n] for n in order]
    if len(values) <= _CURVE_POINTS:
        return tuple(values)
    stride = (len(values) - 1) / (_CURVE_POINTS - 1)
    return tuple(values[round(n * stride)] for n in range(_CURVE_POINTS))


def _plain_metrics(engine: Engine, run: Run) -> list[MetricSummary]:
    found = []
    for key, value in run.data.metrics.items():
        series = Series()
        for m in runs.client(engine).get_metric_history(run.info.run_id, key):
            series.add(m.value, m.timestamp, m.step)
        found.append(MetricSummary(key=key, last=value, count=max(1, len(series)), curve=_curve(series)))
    return found


def _artifacts(engine: Engine, run_id: str) -> tuple[str, ...]:
    try:
        listed = engine.files.of(f"run:{run_id}").list_artifacts(None)
    except MlflowException:
        return ()
    return tuple(f"{entry.path}/" if entry.is_dir else entry.path for entry in listed)


def _models(engine: Engine, run: Run) -> tuple[str, ...]:
    names = []
    for output in run.outputs.model_outputs if run.outputs else []:
        facts = engine.state.model_facts(output.model_id)
        if facts is not None:
            names.append(str(facts["name"]))
    return tuple(dict.fromkeys(names))


def _registered(engine: Engine, run_id: str, pages: PagesOfLink) -> tuple[ModelVersion, ...]:
    found = []
    for key, facts in engine.own_runs.registrations_of(run_id).items():
        for role in facts["to"]:
            answer = engine.state.model_versions.answer(key, role)
            if isinstance(answer, Refusal):
                continue
            found.append(
                ModelVersion(
                    workspace=role,
                    name=engine.workspaces[role].model_name(answer.name if answer else facts["name"]),
                    version=answer.version if answer else "0",
                    run_id=run_id,
                    status="READY" if answer else "PROVISIONAL",
                    page=pages.of_version(role, answer.name, answer.version) if answer else None,
                )
            )
    return tuple(found)


def _notes(engine: Engine, run_id: str) -> list[str]:
    notes = []
    known = engine.state.run(run_id) or {}
    primary = engine.link.primary
    if known.get("provisional"):
        identity = engine.state.identity(primary, "run", run_id)
        if identity is None:
            notes.append(f"its id is provisional: {primary} gives it one of its own when it answers")
        else:
            notes.append(f"it began while {primary} was away; its id there is {identity.actual}")
    notes += [note for role in engine.link.tracked for note in engine.side(role).overflow.files.notes(run_id)]
    for role, path, there in engine.state.renamed_files.of(f"run:{run_id}"):
        notes.append(f"{role} has another {path} already and keeps it; this one is {there} there")
    return [*notes, *_refused(engine, run_id)]


def _refused(engine: Engine, run_id: str) -> list[str]:
    """Return one line for each write of a run that a workspace refused for good."""
    return [
        f"{role} refused {decode(line).label()}: {cause}"
        for _, role, _, line, cause, _ in engine.state.dead(queue=run_id)
    ]
