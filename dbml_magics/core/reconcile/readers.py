"""One workspace as comparing reads it: pages of runs, histories, files, models; each request is counted."""

from __future__ import annotations

import json
import posixpath
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from mlflow.entities import Experiment, FileInfo, LoggedModel, Metric, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.entities.paged_list import PagedList

from dbml_magics.core.delivery.writers.attached import Attached, Scored, attached, scored
from dbml_magics.core.delivery.writers.emulated_models import MODELS_TAG, in_tag, points
from dbml_magics.core.delivery.writers.ids import MODEL_TAG, RUN_TAG
from dbml_magics.core.delivery.writers.overflow_files import ARTIFACT
from dbml_magics.core.delivery.writers.side import Side
from dbml_magics.core.destinations.errors import (
    EndlessListing,
    MissingEndpoint,
    Unavailable,
    classify_error,
    is_missing,
)
from dbml_magics.core.destinations.protocol import Destination
from dbml_magics.core.mlflow_private import download_file
from dbml_magics.core.model.facts import ModelFacts
from dbml_magics.core.paging import entries, files_below
from dbml_magics.core.parallel import ahead
from dbml_magics.core.reconcile.files import Files, FileVersion
from dbml_magics.core.runtime.engine import Engine

PAGE = 1000
_HISTORY_PAGE = 25_000
_TRIES = 5
TOGETHER = 50  # experiments that one search asks for
_KEYS = 10_000  # ids that are remembered while comparing
_LISTED = ("mlflow-artifacts:", "file:", "/")  # places whose folders are listed with one request
_ORDERS = {False: ["attributes.start_time DESC"], True: ["attributes.start_time ASC"]}
T = TypeVar("T")


@dataclass(frozen=True)
class Model:
    """A logged model as one workspace has it, under the ids that the user knows."""

    key: str
    name: str
    run: str
    facts: dict[str, str]  # status, type, params and tags: what both workspaces should say alike
    points: frozenset[Scored] = frozenset()  # of its metrics; of one that we keep the latest alone
    other_key: str = ""  # a name by which the other workspace may know it
    native: LoggedModel | None = None  # as the service tells it, where it has logged models


class WorkspaceReader:
    """Reads one workspace. Raises Unavailable when it does not answer, after some tries."""

    def __init__(self, engine: Engine, role: str, *, many: bool = True) -> None:
        self.engine = engine
        self.role = role
        self._many = many  # runs are compared: what one request tells of all of them is asked for
        self.side: Side = engine.side(role)
        self.requests = 0
        self._lock = threading.Lock()
        self._keys: dict[str, str] = {}
        self._gone: set[str] = set()  # runs that models name and that are there no more
        self._model_keys: dict[str, str] = {}
        self._asked_for_models = False
        self._experiments: list[str] = []  # the ids of all that were listed
        self._any_model: bool | None = None
        self._listing = threading.Lock()
        self._with_files: dict[str, frozenset[str] | None] = {}  # place of an experiment -> ids of its runs

    @property
    def workspace(self) -> Destination:
        """Return what is asked."""
        return self.side.destination

    def count_request(self) -> None:
        """Count one request more, from any thread."""
        with self._lock:
            self.requests += 1

    def ask(self, question: Callable[[], T]) -> T:
        """Make one read, retried while the workspace does not answer: reads are idempotent."""
        for tries in range(_TRIES):
            self.count_request()
            try:
                return question()
            except Exception as error:
                classified = classify_error(error)
                over = tries == _TRIES - 1 or isinstance(classified, EndlessListing)
                if not isinstance(classified, Unavailable) or classified.denied or over:
                    raise classified from error
                time.sleep(max(classified.retry_after or 0.0, 0.25 * 2**tries))
        raise AssertionError("the loop ends by returning or raising")

    # --- ids

    def key(self, run: Run) -> str:
        """Return the id under which both workspaces know a run."""
        own, tag = run.info.run_id, run.data.tags.get(RUN_TAG)
        return self._remember(own, tag or self.engine.state.visible(self.role, "run", own) or own)

    def is_still(self, key: str, run: Run) -> bool:
        """Tell whether a run is the one that is remembered: it says so, or began when that did."""
        if run.data.tags.get(RUN_TAG) == key:
            return True
        known = self.engine.state.identity(self.role, "run", key)
        start = known.extra.get("start") if known is not None else None
        start = start or (self.engine.state.run(key) or {}).get("start")
        return not start or not run.info.start_time or start == run.info.start_time

    def had(self, key: str) -> bool:
        """Tell whether this workspace is known to have had a run."""
        return self.engine.state.identity(self.role, "run", key) is not None

    def is_stray(self, key: str, run: Run) -> bool:
        """Tell whether a run says that it is one which this workspace is known to have as another."""
        known = self.engine.state.identity(self.role, "run", key)
        return known is not None and known.actual != run.info.run_id

    def is_gone(self, run_id: str) -> bool:
        """Tell whether a run was asked for by :meth:`key_of` and is there no more."""
        return run_id in self._gone

    def key_of(self, run_id: str) -> str:
        """Return the same for this workspace's own id of a run, asking for the run only if it must."""
        known = self.engine.state.visible(self.role, "run", run_id) or self._keys.get(run_id)
        if known is not None:
            return known
        try:
            found = self.key(self.ask(lambda: self.workspace.get_run(run_id)))
        except MlflowException as error:
            if not is_missing(error):
                raise
            self._gone.add(run_id)
            found = self._remember(run_id, run_id)
        return found

    def _remember(self, own: str, key: str) -> str:
        """Remember what a run is known by, for those that are nested in it."""
        if len(self._keys) >= _KEYS:
            self._keys.clear()
        self._keys[own] = key
        return key

    # --- pages

    def experiments(self) -> list[Experiment]:
        """Return all experiments, deleted ones too."""
        found = list(self._pages(lambda token: self.workspace.search_experiments(ViewType.ALL, PAGE, token)))
        self._experiments = [str(each.experiment_id) for each in found]
        return found

    def runs(
        self, experiment_ids: Sequence[str], since: int | None = None, *, oldest_first: bool = False
    ) -> Iterator[Run]:
        """Yield the runs of some experiments, deleted ones too; with ``since`` always the newest first."""
        if not experiment_ids:
            return
        order = _ORDERS[oldest_first and since is None]
        listed = self._pages(
            lambda token: self.workspace.search_runs(experiment_ids, "", ViewType.ALL, PAGE, order, token)
        )
        for run in listed if self.engine.workspaces[self.role].spec.local else ahead(listed, PAGE):
            if since is not None and run.info.start_time < since:
                return
            yield run

    def _pages(self, page: Callable[[str | None], PagedList]) -> Iterator[Any]:
        return entries(lambda token: self.ask(partial(page, token)))

    def get_run(self, run_id: str) -> Run:
        """Return one run, complete: a search may lag behind (azure-sdk-for-python#39198)."""
        found: Run = self.ask(lambda: self.workspace.get_run(run_id))
        return found

    def history(self, run_id: str, key: str) -> Iterator[Metric]:
        """Yield all points of a metric, a page in memory at a time."""
        yield from self._pages(
            lambda token: self.workspace.get_metric_history(run_id, key, _HISTORY_PAGE, token)
        )

    # --- files

    def files(self, repository: ArtifactRepository, leave_out: Sequence[str] = ()) -> Files:
        """Return {path: file} of everything below a place."""
        found: Files = {}
        for info in files_below(partial(self._listed, repository), leave_out=leave_out):
            size = info.file_size
            known_size = None if size is None or size < 0 else int(size)
            found[info.path] = FileVersion(known_size, info.path)
        return found

    def is_without_files(self, key: str, run: Run, *, by_receipt: bool) -> bool:
        """Tell whether a run is known to have no files, without a request for it alone.

        A server's folder of an experiment has one of each run with files in it. Where that is not listed,
        ``by_receipt`` takes a run that the link made and delivered without files for one without any.
        """
        if not self._many:
            return False
        place, found, _ = run.info.artifact_uri.rpartition(f"/{run.info.run_id}/artifacts")
        if found and place.startswith(_LISTED):
            with self._listing:
                if place not in self._with_files:
                    self._with_files[place] = self._runs_below(place)
            if (names := self._with_files[place]) is not None:
                return run.info.run_id not in names
        arrived = self.engine.state.receipts.arrived(self.role, key) if by_receipt else {}
        return "runs" in arrived and "files" not in arrived

    def _runs_below(self, place: str) -> frozenset[str] | None:
        """Return the names of what is below the place of an experiment; None where nobody can say."""
        try:
            return frozenset(info.path for info in self._listed(self.side.destination.artifacts(place), ""))
        except Exception as error:  # the place of an experiment may be refused where a run's is not
            if isinstance(error, Unavailable) and not error.denied:
                raise
            return None

    @property
    def writes_once(self) -> bool:
        """Tell whether a file that is there stays, and another content of its name goes beside it."""
        return self.side.learned.limits.artifacts_once

    @property
    def bounded(self) -> bool:
        """Tell whether the service takes only so much of a run, and has the rest in a file of ours."""
        limits = self.side.learned.limits
        bounds = limits.metric_names, limits.run_params, limits.run_tags, limits.tag_value, limits.param_value
        return any(bound is not None for bound in bounds)

    def overflow(self, run: Run) -> dict[str, Any]:
        """Return the content of the run's overflow file."""
        repository = self.side.destination.artifacts(run.info.artifact_uri)
        folder = posixpath.dirname(ARTIFACT)
        stem = posixpath.splitext(ARTIFACT)[0]
        named = [f.path for f in self._listed(repository, folder) if f.path.startswith(stem)]
        if not named:
            return {}
        newest = max(named, key=lambda path: (len(path), path))  # overflow-10.json after overflow-9.json
        with tempfile.TemporaryDirectory() as temporary:
            file = self.ask(partial(download_file, repository, newest, temporary))
            return dict(json.loads(file.read_text("utf-8")))

    def _listed(self, repository: ArtifactRepository, folder: str) -> list[FileInfo]:
        try:
            found = self.ask(lambda: list(repository.list_artifacts(folder or None)))
        except MlflowException as error:
            if is_missing(error):
                return []
            raise
        # Some repositories list by bare prefix: "model" also finds "model-x/…".
        return [f for f in found if posixpath.dirname(f.path) == folder]

    # --- logged models

    def models(self, experiment_ids: Sequence[str]) -> Iterator[Model]:
        """Yield the logged models of some experiments, also where the service has none and we keep them."""
        if not experiment_ids:
            return
        if self.side.learned.has_logged_models:
            try:
                for found in self._pages(
                    lambda token: self.workspace.search_logged_models(
                        experiment_ids, most=50, page_token=token
                    )
                ):
                    yield self.as_model(found)
                return
            except MissingEndpoint:
                self.side.learned.note_no_logged_models()
        # A model outlives its run's deletion.
        ids = list(experiment_ids)
        for kept in self.ask(lambda: self.side.emulated.of_runs(ids, ViewType.ALL)):
            # A model that was logged without a run has one here all the same, of its own id.
            run = kept.get("run") or ""
            facts = _facts(kept["name"], kept["status"], kept.get("type"), kept)
            yield Model(kept["id"], kept["name"], run, facts, scored(points(kept), str))

    def model(self, own: str) -> Model | None:
        """Return a logged model that the service has, by its own id; None where it is gone."""
        try:
            return self.as_model(self.ask(lambda: self.side.ids.logged_model(own)))
        except MlflowException as error:
            if not is_missing(error):
                raise
        return None

    def own_model(self, key: str) -> str:
        """Return the workspace's own id of a logged model, if it is known; else it is the user's."""
        known = self.engine.state.identity(self.role, "model", key)
        return known.actual if known is not None else key

    def model_key_of(self, own: str) -> str:
        """Return the id that the user knows of a logged model by the workspace's own; may ask."""
        known = self.engine.state.visible(self.role, "model", own) or self._model_keys.get(own)
        if known is None and self.role != self.engine.link.primary and self.side.learned.has_logged_models:
            found = self.model(own)
            known = found.key if found is not None else own
            if len(self._model_keys) >= _KEYS:
                self._model_keys.clear()
            self._model_keys[own] = known
        return known or own

    def has_models(self, experiment_id: str) -> bool:
        """Tell whether the service has logged models, asking it once."""
        if not self._asked_for_models and self.side.learned.has_logged_models:
            try:
                self.ask(lambda: self.workspace.search_logged_models([experiment_id], most=1))
            except MissingEndpoint:
                self.side.learned.note_no_logged_models()
        self._asked_for_models = True
        return self.side.learned.has_logged_models

    @property
    def has_any_model(self) -> bool:
        """Tell whether the service has any logged model at all, asking it once for all experiments."""
        if not self.side.learned.has_logged_models:
            return False
        with self._listing:
            if self._any_model is None:
                parts = (
                    self._experiments[n : n + TOGETHER] for n in range(0, len(self._experiments), TOGETHER)
                )
                self._any_model = not self._experiments or any(
                    self.ask(partial(self.workspace.search_logged_models, part, most=1)) for part in parts
                )
            return self._any_model

    def attached(self, run: Run) -> Attached:
        """Return what hangs on a run, of what the service says of runs at all."""
        found = attached(run, self.model_key_of)
        if not self.side.learned.has_logged_models:  # the step of what we keep is not known
            kept = in_tag(run.data.tags.get(MODELS_TAG, ""))
            return Attached(found.datasets, (), dict.fromkeys(kept, 0))
        return Attached(
            found.datasets,
            tuple(model for model in found.inputs if not self.side.emulated.keeps(model)),
            {model: step for model, step in found.outputs.items() if not self.side.emulated.keeps(model)},
        )

    def as_model(self, found: LoggedModel) -> Model:
        """Convert a service's logged model."""
        # The primary's tag is the id that the user knows only where the model was named without asking it.
        tag, own = found.tags.get(MODEL_TAG), found.model_id
        known = self.engine.state.visible(self.role, "model", own)
        key = known or (own if self.role == self.engine.link.primary else tag or own)
        run = self.key_of(found.source_run_id) if found.source_run_id else ""
        stated: ModelFacts = {"params": found.params, "tags": found.tags}
        facts = _facts(found.name, str(found.status), found.model_type, stated)
        points = scored(found.metrics, self.key_of)
        model = Model(key, found.name, "" if run in self._gone else run, facts, points, tag or "", found)
        return self.known_as(key, model)

    def known_as(self, key: str, model: Model) -> Model:
        """Return a logged model under the id that both workspaces know it by, and remember that."""
        if model.native is not None and self.engine.state.identity(self.role, "model", key) is None:
            self.side.ids.remember_model(key, model.native)
        return replace(model, key=key)


def _facts(name: str, status: str, kind: str | None, stated: ModelFacts) -> dict[str, str]:
    facts: dict[str, str] = {"name": name, "status": status.rpartition(".")[2], "type": kind or ""}
    facts |= {f"param {k}": v for k, v in (stated.get("params") or {}).items()}
    facts |= {
        f"tag {k}": v
        for k, v in (stated.get("tags") or {}).items()
        if not k.startswith(("mlflow.", "dbml_", "azureml."))
    }
    return facts
