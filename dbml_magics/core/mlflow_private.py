"""The private parts of MLflow that the package relies on; only this module and destinations touch any.

``tests/core/test_mlflow_private.py`` says of each what is relied on, so that a release of MLflow that changes
one is noticed before users notice it. MLflow is imported at the first use.
"""

from __future__ import annotations

import functools
import importlib
import posixpath
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Metric, Run
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from mlflow.models import Model
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.tracking.fluent import ActiveRun

__all__ = [
    "FUNCTIONS",
    "active_experiment_id",
    "active_runs",
    "active_runs_here",
    "download_file",
    "experiment_id_of_runs",
    "forget_ids",
    "global_uris",
    "has_signature_of_type_hints",
    "metric_points",
    "own_tags",
    "raw_point",
    "set_active_experiment_id",
    "tracking_uri_if_imported",
    "with_fields",
    "without_bars",
]

E = TypeVar("E")

# --- the fluent interface's memory of this process


def active_experiment_id() -> str | None:
    """Return the id of the experiment that was set; None where none was."""
    from mlflow.tracking import fluent

    known: str | None = fluent._active_experiment_id
    return known


def set_active_experiment_id(experiment_id: str | None) -> None:
    """Make an experiment the one that runs go to, without asking anybody."""
    from mlflow.tracking import fluent

    fluent._active_experiment_id = experiment_id


def experiment_id_of_runs() -> str:
    """Return the id of the experiment that the next run goes to. May ask the tracking server."""
    from mlflow.tracking.fluent import _get_experiment_id

    return str(_get_experiment_id())


def active_runs() -> dict[int, list[ActiveRun]]:
    """Return each thread's stack of active runs, the innermost last; what is changed in one is changed."""
    from mlflow.tracking import fluent

    stacks: dict[int, list[ActiveRun]] = fluent._active_run_stack.get_all_thread_values()
    return stacks


def active_runs_here() -> list[ActiveRun]:
    """Return this thread's stack of active runs."""
    from mlflow.tracking import fluent

    stack: list[ActiveRun] = fluent._active_run_stack.get()
    return stack


def forget_ids() -> None:
    """Forget the experiment and the last run, and repositories that were made for artifact URIs."""
    from mlflow.tracking import fluent
    from mlflow.tracking._tracking_service import utils

    fluent._active_experiment_id = None
    fluent._last_active_run_id.set(None)
    utils._artifact_repos_cache.clear()


def global_uris() -> tuple[str | None, str | None]:
    """Return the tracking and the registry URI that were set, None for one that was not."""
    from mlflow.tracking._model_registry import utils as registry
    from mlflow.tracking._tracking_service import utils as tracking

    return tracking._tracking_uri, registry._registry_uri


def tracking_uri_if_imported() -> str | None:
    """Return the tracking URI that was set, without importing MLflow for it."""
    tracking = sys.modules.get("mlflow.tracking._tracking_service.utils")
    uri: str | None = getattr(tracking, "_tracking_uri", None)
    return uri


# --- entities, which have no setters


def download_file(repository: ArtifactRepository, path: str, folder: str) -> Path:
    """Download what is known to be a file into a folder, under its own name, and return where it is.

    MLflow's own way asks for a listing first, to learn whether it is a folder.
    """
    from mlflow.store.artifact.artifact_repo import ArtifactRepository as Base

    if type(repository).download_artifacts is not Base.download_artifacts:
        return Path(repository.download_artifacts(path, folder))
    local = Path(folder, posixpath.basename(path))
    repository._download_file(path, str(local))
    return local


_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep MLflow from showing bars of what we ourselves download: they would stand in the user's cells.

    Its setting is the whole process's, and what the user's own code downloads keeps its bars.
    """
    from mlflow.utils.file_utils import ArtifactProgressBar as Bar

    if not hasattr(Bar.set_pbar, "__wrapped__"):
        Bar.set_pbar = _unless_quiet(Bar.set_pbar)
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


def _unless_quiet(show: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(show)
    def shown(bar: Any) -> None:
        if not _quiet.get():
            show(bar)

    return shown


def with_fields(entity: E, **values: object) -> E:
    """Set fields of an entity of MLflow's by the names of its properties, and return it."""
    for name, value in values.items():
        setattr(entity, f"_{name}", value)
    return entity


def metric_points(run: Run) -> Iterable[Metric]:
    """Return the latest point of each metric of a run; ``run.data.metrics`` has values alone."""
    points: Iterable[Metric] = run.data._metric_objs
    return points


def own_tags(entity: Experiment | Run | RegisteredModel | ModelVersion) -> dict[str, str]:
    """Return the dictionary of an entity's tags itself, to be changed; some properties return a copy."""
    tags: dict[str, str] = entity._tags
    return tags


def raw_point(metric: Metric) -> tuple[str, float, int, int]:
    """Return (key, value, timestamp, step) of a point as they were given: its properties cost more."""
    return metric._key, metric._value, metric._timestamp, metric._step


def has_signature_of_type_hints(metadata: Model) -> bool:
    """Tell whether a model's signature was read from the type hints of its ``predict``."""
    return bool(metadata._is_signature_from_type_hint())


# --- functions

FUNCTIONS = {
    "enforce_type": "mlflow.models.utils:_enforce_type",
    "jsonable": "mlflow.utils.proto_json_utils:_get_jsonable_obj",
    "random_name": "mlflow.utils.name_utils:_generate_random_name",
    **{
        name: f"mlflow.utils.validation:_{name}"
        for name in (
            "validate_batch_log_data",
            "validate_batch_log_limits",
            "validate_dataset_inputs",
            "validate_experiment_name",
            "validate_experiment_tag",
            "validate_logged_model_name",
            "validate_metric",
            "validate_model_name",
            "validate_model_version",
            "validate_model_version_tag",
            "validate_param",
            "validate_param_keys_unique",
            "validate_registered_model_tag",
            "validate_run_id",
            "validate_tag",
        )
    },
    # Later releases call them by the shorter names, and check aliases of other things by them too.
    "validate_model_alias_name": "mlflow.utils.validation:_validate_alias_name|_validate_model_alias_name",
    "validate_model_alias_name_reserved": (
        "mlflow.utils.validation:_validate_alias_name_reserved|_validate_model_alias_name_reserved"
    ),
}
"""What each function is called here -> where MLflow has it, by any of its names."""


def __getattr__(name: str) -> Any:
    """Import a function at its first use."""
    place, _, names = FUNCTIONS.get(name, "").partition(":")
    if not names:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(place)
    *earlier, last = names.split("|")
    return getattr(module, next((each for each in earlier if hasattr(module, each)), last))
