"""The tracking store's methods for a run's life: creation, status, name, deletion, restoration."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import replace

from mlflow.entities import Run, RunInfo, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from dbml_magics.core.delivery.writers.side import Side
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.interrupts import deferred
from dbml_magics.core.link import Link
from dbml_magics.core.mlflow_private import validate_tag
from dbml_magics.core.model.facts import RunFacts
from dbml_magics.core.model.operations import DeleteRun, RestoreRun, UpdateRun
from dbml_magics.core.model.sendable import refuse_bad_text, required, whole_number
from dbml_magics.core.plugin import job_run
from dbml_magics.core.plugin.asked import ask_primary, is_run_on_its_way, store_of
from dbml_magics.core.plugin.run_creation import NewRun, begin_run
from dbml_magics.core.plugin.tracking_family import MethodFamily
from dbml_magics.core.run_view import TERMINAL, RunView, status_name, tags_of
from dbml_magics.core.runtime import shutdown
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.core.runtime.holders import is_anothers
from dbml_magics.results.text import now


class RunMethods(MethodFamily):
    """A run's life: the primary names, deletes and restores runs, the journal takes their status and name."""

    def __init__(self, engine: Engine, link: Link) -> None:
        super().__init__(engine, link)
        self._joined: dict[str, bool] = {}
        """The run that MLFLOW_RUN_ID names -> whether another process ends it."""

    def create_run(
        self, experiment_id: str, user_id: str, start_time: int, tags: list[RunTag], run_name: str | None
    ) -> Run:
        """Have the primary name a run, or name it provisionally; journal it for the mirror."""
        experiment_id = str(experiment_id)
        required("experiment_id", experiment_id)
        values = tags_of(tags or [])
        if run_name and values.get(MLFLOW_RUN_NAME) and values[MLFLOW_RUN_NAME] != run_name:
            raise MlflowException(
                f"Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values "
                f"(run_name='{run_name}', mlflow.runName='{values[MLFLOW_RUN_NAME]}').",
                INVALID_PARAMETER_VALUE,
            )
        for key in values:
            validate_tag(key, "")
        refuse_bad_text("the run's name", run_name)
        refuse_bad_text("tag", values)
        refuse_bad_text("the run's user", user_id)
        start_time = whole_number("the run's start time", start_time)
        new = NewRun(experiment_id, user_id, start_time, values, run_name, uuid.uuid4().hex)
        begun: list[str] = []

        def end() -> None:  # the interrupted caller never learns the run's id: nobody else would end it
            for run_id in begun:
                self._update_run(run_id, UpdateRun("KILLED", now()))

        with deferred(end):
            run = begin_run(self.engine, new)
            begun.append(run.info.run_id)
        return run

    def get_run(self, run_id: str) -> Run:
        """Return a run, with what of it is on its way."""
        return self.engine.runs.get_run(run_id)

    def update_run_info(
        self, run_id: str, run_status: int | str | None, end_time: int | None, run_name: str | None
    ) -> RunInfo:
        """Journal a run's new status or name."""
        status = status_name(run_status) if run_status is not None else None
        end_time = None if end_time is None else whole_number("the run's end time", end_time)
        change = UpdateRun(status, end_time, run_name or None)
        if run_name:
            validate_tag(MLFLOW_RUN_NAME, run_name)
            refuse_bad_text("the run's name", run_name)
        with deferred():
            run = self._update_run(run_id, change)
        self._after_write(run_id)
        return run.info()

    def _update_run(self, run_id: str, change: UpdateRun) -> RunView:
        if change.status in TERMINAL and shutdown.is_terminated():
            change = replace(change, status="KILLED")
        run, status = self._writable(run_id), change.status
        known = self.engine.state.run(run_id)
        if known is None:
            known = {
                "experiment": run.experiment_id,
                "user": run.user,
                "start": run.start,
                "name": run.tags.get(MLFLOW_RUN_NAME, ""),
                "provisional": False,
                "ended": False,
                "others": _is_others(run),
            }
            self.engine.state.remember_run(run_id, known)
        joined = self._is_joined(run_id, known)
        if known.get("others") or joined:  # the process that began it ends it
            # mlflow.start_run() gives its own name beside the status.
            change = UpdateRun(name=None if joined and status is not None else change.name)
        if change.status or change.end or change.name:
            self.engine.recorder.write(run_id, change)
        if status is not None and (not joined or known.get("others")):
            self.engine.own_runs.note_ended(run_id, status in TERMINAL)
        return run

    def _is_joined(self, run_id: str, known: RunFacts) -> bool:
        """Tell whether MLFLOW_RUN_ID names a run that another process ends; decided once, on joining it."""
        if run_id != job_run.JOB_RUN:
            return False
        if run_id not in self._joined:
            self._joined[run_id] = is_anothers(self.engine.journal, run_id, known)
        return self._joined[run_id]

    def delete_run(self, run_id: str) -> None:
        """Have the primary delete a run; journal it for the mirror."""
        self._change_life(run_id, DeleteRun, lambda store, actual: store.delete_run(actual))

    def restore_run(self, run_id: str) -> None:
        """Have the primary restore a run; journal it for the mirror."""
        self._change_life(run_id, RestoreRun, lambda store, actual: store.restore_run(actual))

    def _change_life(
        self, run_id: str, kind: type[DeleteRun | RestoreRun], change: Callable[[AbstractStore, str], None]
    ) -> None:
        engine = self.engine
        engine.live.open_run(run_id)

        def ask(primary: Side, _again: bool) -> None:
            if is_run_on_its_way(engine, run_id) or primary.ids.began_at(run_id) != primary.role:
                raise Unavailable("the run is still on its way there", sent=False)
            change(store_of(engine, primary), primary.ids.known_run(run_id))

        asked = ask_primary(engine, "deletion or restoration of a run", [run_id], ask)
        engine.recorder.write(run_id, kind(asked.to))
        self._after_write(run_id)


def _is_others(run: RunView) -> bool:
    """Tell whether a run that the link has not seen before is another process's, which goes on with it.

    A job's own run counts as another's whatever its status; a run that has ended belongs to the process that
    resumes it.
    """
    return run.status not in TERMINAL or run.run_id in (job_run.JOB_RUN, os.environ.get("AZUREML_RUN_ID"))
