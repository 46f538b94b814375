"""One workspace, read under the ids that the user knows: by its own writers, and by another workspace's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mlflow.entities import LoggedModel, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from dbml_magics.core.delivery.writers.attached import FoundModel, facts_of, scored
from dbml_magics.core.delivery.writers.emulated_models import MODELS_TAG, created_as, in_tag, points
from dbml_magics.core.delivery.writers.experiments import Experiments
from dbml_magics.core.delivery.writers.ids import Ids
from dbml_magics.core.delivery.writers.learned import Learned
from dbml_magics.core.destinations.errors import Unavailable, classify_error, is_missing
from dbml_magics.core.destinations.protocol import Destination
from dbml_magics.core.model.facts import ModelFacts
from dbml_magics.core.paging import Pages, entries

_REPOSITORIES = 64


@dataclass(eq=False)
class Reader:
    """Reads the runs, logged models and files of one workspace."""

    role: str
    destination: Destination
    learned: Learned
    ids: Ids
    experiments: Experiments
    _repositories: dict[str, ArtifactRepository] = field(default_factory=dict, init=False)

    def run(self, run: str) -> Run:
        """Return a run by the user's id."""
        return self.destination.get_run(self.ids.run_at(run))

    def history(self, run_id: str, key: str) -> list[Metric]:
        """Return a metric's whole history at this workspace; ``run_id`` is the workspace's own."""
        found: list[Metric] = []
        token, pages = None, Pages()
        while True:
            most = self.learned.limits.history_page
            try:
                page = self.destination.get_metric_history(run_id, key, most, token)
            except MlflowException as error:
                lowered = self.learned.limits.lowered_page(str(error))
                if isinstance(classify_error(error), Unavailable) or lowered is None:
                    raise
                self.learned.limits = lowered
                continue
            token = pages.follow(getattr(page, "token", None), page)
            found.extend(page)
            if token is None:
                return found

    def repository(self, owner: str) -> ArtifactRepository:
        """Return this workspace's repository of ``run:<id>`` or ``model:<id>``."""
        kind, _, name = owner.partition(":")
        identity = self.ids.run_identity(name) if kind == "run" else self.ids.model_at(name)
        uri = identity.extra["artifacts"]
        found = self._repositories.get(uri)
        if found is None:
            if len(self._repositories) > _REPOSITORIES:
                self._repositories.clear()
            found = self._repositories[uri] = self.destination.artifacts(uri)
        return found

    def model_facts(self, model: str) -> ModelFacts:
        """Return what a logged model was created with, as this workspace says."""
        if self.ids.emulated.keeps(model):
            return self.ids.emulated.facts(model).copy()
        found = self.destination.get_logged_model(self.ids.known_model(model))
        run = self.ids.shown("run", found.source_run_id) if found.source_run_id else None
        return facts_of(found, model, self.experiments.visible(str(found.experiment_id)), run)

    def models_of(self, source: Run) -> Iterable[FoundModel]:
        """Yield the logged models that a run took and made, but for those that are deleted."""
        if not self.learned.has_logged_models:
            for key in in_tag(source.data.tags.get(MODELS_TAG, "")):
                facts = self.ids.emulated.facts(key)
                yield FoundModel(created_as(facts), facts["status"], scored(points(facts), str))
            return
        outputs = (source.outputs.model_outputs if source.outputs else None) or []
        inputs = (source.inputs.model_inputs if source.inputs else None) or []
        made = entries(
            lambda token: self.destination.search_logged_models(
                [source.info.experiment_id], f"source_run_id = '{source.info.run_id}'", page_token=token
            )
        )
        found: dict[str, LoggedModel] = {model.model_id: model for model in made}
        for own in dict.fromkeys(each.model_id for each in (*outputs, *inputs)):
            try:
                found.setdefault(own, self.ids.logged_model(own))
            except MlflowException as error:
                if isinstance(error, Unavailable) or not is_missing(error):
                    raise
        for own, model in found.items():
            yield self._found(self.ids.visible_model(own), model)

    def _found(self, key: str, model: LoggedModel) -> FoundModel:
        self.ids.remember_model(key, model)
        run = self.ids.visible_run(model.source_run_id) if model.source_run_id else None
        facts = facts_of(model, key, self.experiments.visible(str(model.experiment_id)), run)
        marks = scored(model.metrics, lambda run_id: self.ids.shown("run", run_id))
        return FoundModel(facts, model.status.value, marks)
