"""The logged models that the link keeps at a workspace, read: from the state, else from the runs' files.

:mod:`~.model_emulation` says how they are kept, and writes them.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from mlflow.entities import LoggedModel, LoggedModelStatus, Metric, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.utils.uri import append_to_uri_path

from dbml_magics.core.delivery.writers.learned import Learned
from dbml_magics.core.destinations.errors import WouldRefuse, is_missing
from dbml_magics.core.destinations.protocol import Destination
from dbml_magics.core.giving_way import gives_way
from dbml_magics.core.model.facts import ModelFacts
from dbml_magics.core.outbox.emulated_models import EmulatedFacts, facts_of
from dbml_magics.core.outbox.state import State
from dbml_magics.core.paging import entries

MODELS_TAG = "dbml_models"
FOLDER = "dbml/models"
MORE = "+"  # ends a tag that has no room for all of a run's models
# What is kept of a model beside what it was created with.
_SINCE = ("run_at", "path", "number", "status", "metrics", "deleted")


@dataclass(frozen=True)
class EmulatedModels:
    """The models that the link keeps at one workspace."""

    role: str
    destination: Destination
    state: State
    learned: Learned

    def is_kept(self, model: str) -> bool:
        """Tell whether a model is known to be one that we keep; asks nobody."""
        return self.state.emulated_models.has(self.role, model)

    def keeps(self, model: str) -> bool:
        """Tell whether we keep a logged model, whatever the service has learned since it was logged."""
        return not self.learned.has_logged_models or self.is_kept(model)

    def may_keep(self) -> bool:
        """Tell whether a workspace may have models that we keep: those that lacked them once; asks nobody."""
        if not self.learned.has_logged_models or self.destination.kind == "azureml":
            return True
        return self.state.emulated_models.has_any(self.role)

    def facts(self, model: str) -> EmulatedFacts:
        """Return the facts of a kept model. Raises RESOURCE_DOES_NOT_EXIST."""
        facts = self.state.emulated_models.facts(self.role, model)
        if facts is None:
            facts = self._search(model)
            newer = self.state.emulated_models.facts(self.role, model)
            if newer is not None:  # another thread found it meanwhile, and may have changed it
                return newer
            self.state.emulated_models.note(self.role, model, facts)
            self.state.set_identity(
                self.role,
                "model",
                model,
                model,
                artifacts=append_to_uri_path(self.run_artifacts(facts), facts["path"]),
                run=facts["run_at"],
                path=facts["path"],
            )
        return facts

    def run_artifacts(self, facts: EmulatedFacts) -> str:
        """Return the artifact URI of the run that holds a kept model."""
        return str(self.destination.get_run(facts["run_at"]).info.artifact_uri)

    def _search(self, model: str) -> EmulatedFacts:
        """Find a model that another machine logged: by the run's tag, else in every run that has the tag."""
        experiments = [e.experiment_id for e in self.destination.search_experiments()]
        for where in (f"tags.`{MODELS_TAG}` LIKE '%{model}%'", f"tags.`{MODELS_TAG}` != ''"):
            try:
                runs = self.destination.search_runs(experiments, where, ViewType.ALL)
            except MlflowException:
                continue  # no LIKE there: look at all
            for run in runs:
                facts = self._read(run.info.artifact_uri, model)
                if facts is not None:
                    return facts
        raise MlflowException(
            f"Logged model with ID '{model}' not found.", error_code=RESOURCE_DOES_NOT_EXIST
        )

    def _read(self, artifact_uri: str, model: str) -> EmulatedFacts | None:
        try:
            repository = gives_way(self.destination.artifacts(artifact_uri))
        except WouldRefuse:  # another run's trouble: its files are where they have no business to be
            return None
        try:
            files = sorted(f.path for f in repository.list_artifacts(f"{FOLDER}/{model}"))
        except MlflowException as error:
            if is_missing(error):
                return None
            raise
        if not files:
            return None
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(repository.download_artifacts(files[-1], temporary))
            return facts_of(json.loads(file.read_text("utf-8")))

    def of_runs(self, experiment_ids: list[str], view: int = ViewType.ACTIVE_ONLY) -> list[EmulatedFacts]:
        """Return the facts of all models kept in some experiments (the workspace's own ids)."""
        found: dict[str, EmulatedFacts] = {}
        for run in entries(
            lambda token: self.destination.search_runs(
                experiment_ids, f"tags.`{MODELS_TAG}` != ''", view, page_token=token
            )
        ):
            for model in self._models_in(run):
                facts = self.state.emulated_models.facts(self.role, model) or self._read(
                    run.info.artifact_uri, model
                )
                if facts is not None and not facts.get("deleted"):
                    found[model] = facts
        return list(found.values())

    def _models_in(self, run: Run) -> list[str]:
        tag = run.data.tags[MODELS_TAG]
        models = in_tag(tag)
        if tag.endswith(MORE):
            files = gives_way(self.destination.artifacts(run.info.artifact_uri)).list_artifacts(FOLDER)
            models += [f.path.rpartition("/")[2] for f in files if f.is_dir]
        return list(dict.fromkeys(models))


def entity(facts: EmulatedFacts, artifact_location: str, experiment: str, run: str | None) -> LoggedModel:
    """Return a kept model as MLflow's entity, under the ids that the user knows."""
    return LoggedModel(
        experiment_id=experiment,
        model_id=facts["id"],
        name=facts["name"],
        artifact_location=artifact_location,
        creation_timestamp=facts["created"],
        last_updated_timestamp=facts["updated"],
        model_type=facts.get("type"),
        source_run_id=run,
        status=LoggedModelStatus(facts["status"]),
        tags=dict(facts.get("tags") or {}),
        params=dict(facts.get("params") or {}),
        metrics=points(facts, run),
    )


def points(facts: EmulatedFacts, run: str | None = None) -> list[Metric]:
    """Return a kept model's points, the latest of each metric, as MLflow's entities."""
    return [
        Metric(
            m["key"],
            m["value"],
            m["time"],
            m["step"],
            model_id=facts["id"],
            dataset_name=m["dataset"],
            dataset_digest=m["digest"],
            run_id=run,
        )
        for m in facts.get("metrics") or []
    ]


def paths_in(tag: str) -> list[str]:
    """Return the folders of a run that are kept models' files, by the run's tag."""
    return [path for _, _, path in (entry.partition("=") for entry in tag.split()) if path]


def in_tag(tag: str) -> list[str]:
    """Return the ids that a run's tag names: of models that we keep, and of others that the run made."""
    return [entry.partition("=")[0] for entry in tag.split() if entry != MORE]


def created_as(facts: EmulatedFacts) -> ModelFacts:
    """Return what a kept model was created with."""
    return cast(ModelFacts, {k: v for k, v in facts.items() if k not in _SINCE})
