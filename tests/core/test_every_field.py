"""Each field of each entity that MLflow has is judged: compared, translated, or the service's own.

A field that a new MLflow brings fails the first test until it stands in the table; the second one shows that
what is called compared is compared, by two entities that differ in that field alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import entities as of
from mlflow.entities import model_registry as registry

from dbml_magics.core import session
from dbml_magics.core.reconcile.compare import Comparer
from dbml_magics.core.reconcile.experiments import differences_of
from dbml_magics.core.reconcile.pairs import ExperimentPair
from dbml_magics.core.reconcile.registries import (
    ModelPair,
    VersionPair,
    model_differences,
    registered_as,
    version_differences,
    version_of,
)
from dbml_magics.core.reconcile.survey import Scope, Survey
from dbml_magics.results.reconcile import Difference
from tests.conftest import Proxies
from tests.core import linking


@dataclass(frozen=True)
class Compared:
    """Two entities that differ in the field alone differ."""

    other: Any  # another value than the one in BASES


@dataclass(frozen=True)
class Own:
    """What the service says of itself, or what nobody can set: no difference."""

    reason: str
    other: Any = "another"


@dataclass(frozen=True)
class Translated:
    """Each workspace's own form of the same thing: compared under the id that the user knows."""

    how: str


@dataclass(frozen=True)
class Parts:
    """What is judged by the fields of the entities that are in it."""


CLOCK = Own("the service's clock", 99)
OF_MODELS = Own("said of a logged model's points alone", "other")
TRACES = Own("traces go to the primary alone")
WORKSPACES = Own("an MLflow server's own division")
JOB = Own("a deployment job of that Databricks workspace")
RUN, OTHER_RUN = "a" * 32, "b" * 32
MODEL, OTHER_MODEL = "m-" + "a" * 32, "m-" + "b" * 32

TABLE: dict[type, dict[str, Compared | Own | Translated | Parts]] = {
    of.Run: {"info": Parts(), "data": Parts(), "inputs": Parts(), "outputs": Parts()},
    of.RunInfo: {
        "run_id": Translated("the id that the user knows, in the tag dbml_run_id"),
        "experiment_id": Translated("runs are paired within pairs of experiments"),
        "user_id": Own("whom the service takes for signed in"),
        "status": Compared("FAILED"),
        "start_time": Compared(2),
        "end_time": Compared(9),
        "lifecycle_stage": Compared("deleted"),
        "artifact_uri": Own("the place of the files, which are compared themselves"),
        "run_name": Compared("another"),
    },
    of.RunData: {"metrics": Parts(), "params": Parts(), "tags": Parts()},
    of.Metric: {
        "key": Compared("other"),
        "value": Compared(2.0),
        "timestamp": Compared(8),
        "step": Compared(9),
        "model_id": OF_MODELS,
        "dataset_name": OF_MODELS,
        "dataset_digest": OF_MODELS,
        "run_id": OF_MODELS,
    },
    of.Param: {"key": Compared("other"), "value": Compared("other")},
    of.RunTag: {"key": Compared("other"), "value": Compared("other")},
    of.RunInputs: {"dataset_inputs": Parts(), "model_inputs": Parts()},
    of.DatasetInput: {"dataset": Parts(), "tags": Parts()},
    of.Dataset: {
        name: Compared("other") for name in ("name", "digest", "source_type", "source", "schema", "profile")
    },
    of.InputTag: {"key": Compared("other"), "value": Compared("other")},
    of.LoggedModelInput: {"model_id": Compared(OTHER_MODEL)},
    of.RunOutputs: {"model_outputs": Parts()},
    of.LoggedModelOutput: {"model_id": Compared(OTHER_MODEL), "step": Compared(9)},
    of.Experiment: {
        "experiment_id": Translated("experiments are paired as the link knows them, else by their names"),
        "name": Compared("another"),
        "lifecycle_stage": Compared("deleted"),
        "tags": Parts(),
        "artifact_location": Own("where the service keeps files"),
        "creation_time": CLOCK,
        "last_update_time": CLOCK,
        "workspace": WORKSPACES,
        "trace_location": TRACES,
        "effective_trace_archival_retention": TRACES,
    },
    of.ExperimentTag: {"key": Compared("other"), "value": Compared("other")},
    of.LoggedModel: {
        "model_id": Translated("the id that the user knows, in the tag dbml_model_id"),
        "model_uri": Translated("models:/ and the id"),
        "experiment_id": Translated("models are paired within pairs of experiments"),
        "source_run_id": Compared(OTHER_RUN),
        "name": Compared("another"),
        "model_type": Compared("tree"),
        "status": Compared(of.LoggedModelStatus.FAILED),
        "status_message": Own("no call sets it"),
        "params": Parts(),
        "tags": Parts(),
        "metrics": Parts(),
        "artifact_location": Own("the place of the files, which are compared themselves"),
        "creation_timestamp": CLOCK,
        "last_updated_timestamp": CLOCK,
    },
    of.LoggedModelParameter: {"key": Compared("other"), "value": Compared("other")},
    of.LoggedModelTag: {"key": Compared("other"), "value": Compared("other")},
    registry.RegisteredModel: {
        "name": Translated("models are paired by their versions' twins, else by their names"),
        "description": Compared("another"),
        "tags": Parts(),
        "aliases": Parts(),
        "latest_versions": Translated("all versions are compared, each with its stage"),
        "creation_timestamp": CLOCK,
        "last_updated_timestamp": CLOCK,
        "deployment_job_id": JOB,
        "deployment_job_state": JOB,
        "workspace": WORKSPACES,
    },
    registry.RegisteredModelTag: {"key": Compared("other"), "value": Compared("other")},
    registry.RegisteredModelAlias: {"alias": Compared("other"), "version": Compared("2")},
    registry.ModelVersion: {
        "name": Translated("versions are paired by their twins' tags"),
        "version": Translated("each registry counts its own"),
        "run_id": Compared(OTHER_RUN),
        "source": Compared(f"models:/{OTHER_MODEL}"),
        "model_id": Compared(OTHER_MODEL),
        "description": Compared("another"),
        "current_stage": Compared("Production"),
        "status": Compared("FAILED_REGISTRATION"),
        "status_message": Own("the registry's own words"),
        "tags": Parts(),
        "aliases": Translated("compared as the registered model says them"),
        "params": Own("the logged model's, of which the version is made", []),
        "metrics": Own("the logged model's, of which the version is made", []),
        "run_link": Own("a page of the workspace, which Unity Catalog refuses"),
        "user_id": Own("whom the service takes for signed in"),
        "creation_timestamp": CLOCK,
        "last_updated_timestamp": CLOCK,
        "deployment_job_state": JOB,
        "workspace": WORKSPACES,
    },
    registry.ModelVersionTag: {"key": Compared("other"), "value": Compared("other")},
    of.FileInfo: {
        "path": Compared("other"),
        "file_size": Compared(9),
        "is_dir": Own("a folder is there by its files"),
    },
}
"""Files are compared in test_verify_and_repair.py: the last entry is only read."""


@pytest.mark.parametrize("entity", TABLE, ids=lambda entity: entity.__name__)
def test_each_field_is_judged(entity: type) -> None:
    known = {name for name in dir(entity) if isinstance(getattr(entity, name), property)}
    if is_dataclass(entity):
        known |= {field.name for field in fields(entity)}
    public = {name for name in known if not name.startswith("_")}
    judged = set(TABLE[entity])
    assert public == judged, (
        f"MLflow's {entity.__name__} has {sorted(public - judged)}, which verify and repair must be taught, "
        f"or told to leave alone; it has no {sorted(judged - public)} any more"
    )


BASES: dict[type, dict[str, Any]] = {
    of.RunInfo: {
        "run_id": RUN,
        "experiment_id": "1",
        "user_id": "me",
        "status": "FINISHED",
        "start_time": 1,
        "end_time": 2,
        "lifecycle_stage": "active",
        "artifact_uri": "file:///a",
        "run_name": "name",
    },
    of.Metric: {
        "key": "loss",
        "value": 1.0,
        "timestamp": 1,
        "step": 1,
        "dataset_name": "test",
        "dataset_digest": "1",
    },
    of.Param: {"key": "depth", "value": "1"},
    of.RunTag: {"key": "team", "value": "wine"},
    of.Dataset: {
        "name": "train",
        "digest": "1",
        "source_type": "local",
        "source": "{}",
        "schema": "{}",
        "profile": "{}",
    },
    of.InputTag: {"key": "mlflow.data.context", "value": "training"},
    of.LoggedModelInput: {"model_id": MODEL},
    of.LoggedModelOutput: {"model_id": MODEL, "step": 1},
    of.Experiment: {
        "experiment_id": "1",
        "name": "name",
        "artifact_location": "file:///a",
        "lifecycle_stage": "active",
    },
    of.ExperimentTag: {"key": "team", "value": "wine"},
    of.LoggedModel: {
        "experiment_id": "1",
        "model_id": MODEL,
        "name": "name",
        "artifact_location": "file:///a",
        "creation_timestamp": 1,
        "last_updated_timestamp": 1,
    },
    of.LoggedModelParameter: {"key": "depth", "value": "1"},
    of.LoggedModelTag: {"key": "team", "value": "wine"},
    registry.RegisteredModel: {"name": "name", "creation_timestamp": 1},
    registry.RegisteredModelTag: {"key": "team", "value": "wine"},
    registry.RegisteredModelAlias: {"alias": "champion", "version": "1"},
    registry.ModelVersion: {
        "name": "name",
        "version": "1",
        "creation_timestamp": 1,
        "current_stage": "None",
        "source": f"models:/{MODEL}",
    },
    registry.ModelVersionTag: {"key": "team", "value": "wine"},
}


class Judge:
    """Compares two entities of a kind as verify does, within what holds them."""

    def __init__(self) -> None:
        self.survey = Survey(session.current().engine("this test"), Scope())
        self.comparer = Comparer(*self.survey.readers, self.survey.unread, files=False)

    def differ(self, kind: type, first: Any, second: Any) -> list[Difference]:
        """Return what differs; a part is put into what it is a part of."""
        part = _WITHIN.get(kind)
        if part is not None:
            return self.differ(part[0], part[1](first), part[1](second))
        one, other = self.survey.readers
        if kind is of.Run:
            return self.comparer.entities(RUN, first, second)
        if kind is of.Experiment:
            experiments = ExperimentPair("name", first, second)
            return list(differences_of(self.survey, self.comparer, experiments, first, second))
        if kind is of.LoggedModel:
            return list(self.comparer.model(MODEL, one.as_model(first), other.as_model(second)))
        if kind is registry.ModelVersion:
            pair = VersionPair(version_of(one, first), version_of(other, second))
            return list(version_differences(pair, self.comparer.difference))
        versions = [
            [version_of(reader, registry.ModelVersion("name", number, 1)) for number in ("1", "2")]
            for reader in self.survey.readers
        ]
        pairs = [VersionPair(a, b) for a, b in zip(*versions, strict=True)]
        here, there = [registered_as(m, tuple(v)) for m, v in zip((first, second), versions, strict=True)]
        meant = frozenset(pair.place for pair in pairs)
        return list(model_differences(ModelPair(here, there, pairs, meant), self.comparer.difference))


def made(kind: type, **others: Any) -> Any:
    return kind(**{**BASES[kind], **others})


def a_run(**parts: Any) -> of.Run:
    data = of.RunData(parts.get("metrics"), parts.get("params"), parts.get("tags"))
    inputs = of.RunInputs(parts.get("datasets", []), parts.get("inputs", []))
    return of.Run(
        parts.get("info") or made(of.RunInfo), data, inputs, of.RunOutputs(parts.get("outputs", []))
    )


_WITHIN: dict[type, tuple[type, Callable[[Any], Any]]] = {
    of.RunInfo: (of.Run, lambda info: a_run(info=info)),
    of.Metric: (of.Run, lambda metric: a_run(metrics=[metric])),
    of.Param: (of.Run, lambda param: a_run(params=[param])),
    of.RunTag: (of.Run, lambda tag: a_run(tags=[tag])),
    of.Dataset: (of.Run, lambda dataset: a_run(datasets=[of.DatasetInput(dataset, [])])),
    of.InputTag: (of.Run, lambda tag: a_run(datasets=[of.DatasetInput(made(of.Dataset), [tag])])),
    of.LoggedModelInput: (of.Run, lambda model: a_run(inputs=[model])),
    of.LoggedModelOutput: (of.Run, lambda model: a_run(outputs=[model])),
    of.ExperimentTag: (of.Experiment, lambda tag: made(of.Experiment, tags=[tag])),
    of.LoggedModelParameter: (of.LoggedModel, lambda param: made(of.LoggedModel, params=[param])),
    of.LoggedModelTag: (of.LoggedModel, lambda tag: made(of.LoggedModel, tags=[tag])),
    registry.RegisteredModelTag: (
        registry.RegisteredModel,
        lambda tag: made(registry.RegisteredModel, tags=[tag]),
    ),
    registry.RegisteredModelAlias: (
        registry.RegisteredModel,
        lambda alias: made(registry.RegisteredModel, aliases=[alias]),
    ),
    registry.ModelVersionTag: (registry.ModelVersion, lambda tag: made(registry.ModelVersion, tags=[tag])),
}


def test_what_is_called_compared_is_compared_and_nothing_else_is(
    home: Path, proxies: Proxies, experiment_name: str
) -> None:
    linking.link(proxies)
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run():
        model = mlflow.create_external_model("known")
    linking.sync()
    judge = Judge()
    for reader in judge.survey.readers:  # what nobody has any more is no difference: these are there
        for visible in (RUN, OTHER_RUN):
            reader.engine.state.set_identity(reader.role, "run", visible, visible)
        for visible in (MODEL, OTHER_MODEL):
            known = reader.model(reader.own_model(model.model_id))
            assert known is not None
            reader.side.ids.remember_model(visible, known.native)
    wrong = []
    for kind, base in BASES.items():
        assert not judge.differ(kind, kind(**base), kind(**base)), f"{kind.__name__} differs from itself"
        for name, verdict in TABLE[kind].items():
            if isinstance(verdict, (Compared, Own)):
                found = judge.differ(kind, kind(**base), kind(**{**base, name: verdict.other}))
                if bool(found) != isinstance(verdict, Compared):
                    wrong.append(f"{kind.__name__}.{name}: {[d.what for d in found] or 'no difference'}")
    of_model = {**BASES[of.Metric], "model_id": MODEL, "run_id": RUN}
    for name in sorted(TABLE[of.Metric].keys() - {"model_id"}):
        other = {"run_id": OTHER_RUN, "value": 2.0, "timestamp": 8, "step": 9}.get(name, "other")
        points = of.Metric(**of_model), of.Metric(**{**of_model, name: other})
        if not judge.differ(of.LoggedModel, *(made(of.LoggedModel, metrics=[each]) for each in points)):
            wrong.append(f"a logged model's point: {name}")
    assert not wrong, "judged otherwise than it is done:\n" + "\n".join(wrong)
