"""Logged models at a service that has none (Azure ML, MLflow 2 servers): kept by us, in what it does have.

The files are artifacts of the model's run, under the model's name, so ``runs:/<run>/<name>`` loads natively.
The ids stand in one short tag of the run, the rest in a small JSON artifact under ``dbml/models/``; each
change writes the next number, since Azure ML's artifacts are write-once.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from mlflow.models import Model
from mlflow.utils.time import get_current_time_millis
from mlflow.utils.uri import append_to_uri_path

from dbml_magics.core.delivery.writers.emulated_models import FOLDER, MODELS_TAG, MORE
from dbml_magics.core.delivery.writers.runs import Runs
from dbml_magics.core.delivery.writers.sender import Sender
from dbml_magics.core.delivery.writers.writer import Writer
from dbml_magics.core.destinations.errors import MissingEndpoint
from dbml_magics.core.destinations.protocol import Point
from dbml_magics.core.model.facts import ModelFacts
from dbml_magics.core.model.operations import (
    CreateRun,
    DeleteModel,
    DeleteModelTag,
    LogModelParams,
    ModelChange,
    SetModelTags,
    UpdateRun,
)
from dbml_magics.core.outbox.emulated_models import ModelPoint, facts_of

_TAG_ROOM = 1000  # characters a tag's value may have on Azure ML; what is beyond is found by its artifact


@dataclass(eq=False)
class ModelEmulation(Writer):
    """Writes the logged models that the link keeps at one workspace."""

    sender: Sender
    runs: Runs

    def create(self, facts: ModelFacts) -> None:
        """Keep a new logged model at a service that has none."""
        model, kept = facts["id"], self.state.emulated_models
        run = facts.get("run") or self._carrier(facts)
        identity = self.ids.run_identity(run)
        path = self._free_path(run, model, facts["name"])
        kept.take_path(self.role, run, path, model)
        since = {"run_at": identity.actual, "path": path, "status": "PENDING", "updated": facts["created"]}
        kept.note(self.role, model, facts_of({**facts, **since}))
        self.state.set_identity(
            self.role,
            "model",
            model,
            model,
            artifacts=append_to_uri_path(identity.extra["artifacts"], path),
            run=identity.actual,
            path=path,
        )
        self._write_tag(run, identity.actual)
        self._write_facts(model)

    def _carrier(self, facts: ModelFacts) -> str:
        """Make a run for a model that was logged without one: its files have no other place."""
        run = facts["id"].removeprefix("m-")
        if not self.ids.has_run(run) and self.ids.is_tracked:
            begun = facts["created"]
            creation = CreateRun(facts["experiment"], "", begun, {"mlflow.runName": facts["name"]})
            self.runs.create(run, creation, True)
            self.runs.update(run, UpdateRun("FINISHED", begun))
        return str(run)

    def _free_path(self, run: str, model: str, name: str) -> str:
        taken = self.state.emulated_models.paths(self.role, run)
        number, path = 1, name
        while taken.get(path, model) != model:
            number += 1
            path = f"{name}-{number}"
        return path

    def note_outputs(self, run: str, run_id: str, outputs: dict[str, int]) -> None:
        """Keep which models of the service a run made, where it has them but no call to say so."""
        for model, step in outputs.items():
            self.state.emulated_models.note_output(self.role, run, model, step)
        self._write_tag(run, run_id)

    def _write_tag(self, run: str, run_id: str) -> None:
        with self.alone.doing("models of run", run):
            self.sender.set_run_tag(run, run_id, MODELS_TAG, self._tag(run))

    def _tag(self, run: str) -> str:
        kept = self.state.emulated_models
        entries = [f"{model}={path} " for path, model in kept.paths(self.role, run).items()]
        entries += [f"{model} " for model in kept.outputs(self.role, run)]
        value = ""
        for entry in entries:
            if len(value) + len(entry) + len(MORE) > _TAG_ROOM:
                value += MORE
                break
            value += entry
        return value.strip()

    def change(
        self,
        model: str,
        *,
        status: str | None = None,
        tags: dict[str, str] | None = None,
        untag: str | None = None,
        params: dict[str, str] | None = None,
        metrics: list[ModelPoint] | None = None,
        deleted: bool | None = None,
    ) -> None:
        """Change what is kept of a logged model."""
        with self.alone.doing("kept model", model):
            facts = self.ids.emulated.facts(model)
            facts["status"] = status or facts["status"]
            facts["tags"] = {**(facts.get("tags") or {}), **(tags or {})}
            facts["tags"].pop(untag or "", None)
            facts["params"] = {**(facts.get("params") or {}), **(params or {})}
            if metrics:
                latest = {(m["key"], m["dataset"], m["digest"]): m for m in facts.get("metrics") or []}
                for m in sorted(metrics, key=lambda m: (m["step"], m["time"])):
                    there = latest.get(at := (m["key"], m["dataset"], m["digest"]))
                    if there is None or (m["step"], m["time"]) >= (there["step"], there["time"]):
                        latest[at] = m
                facts["metrics"] = list(latest.values())
            facts["deleted"] = facts.get("deleted", False) if deleted is None else deleted
            facts["updated"] = get_current_time_millis()
            self.state.emulated_models.note(self.role, model, facts)
            self._write_facts(model)

    def apply_change(self, op: ModelChange) -> None:
        """Apply one write to a model that is kept."""
        match op:
            case SetModelTags():
                if op.tags:
                    self.change(op.model, tags=op.tags)
            case DeleteModelTag():
                self.change(op.model, untag=op.key)
            case LogModelParams():
                self.change(op.model, params=op.params)
            case DeleteModel():
                self.change(op.model, deleted=True)

    def note_metrics(self, points: Sequence[Point]) -> None:
        """Keep the newest points of kept models: those of their runs do not name the model."""
        of_model: dict[str, list[ModelPoint]] = {}
        for key, value, time, step, (model, dataset, digest) in points:
            point = ModelPoint(key=key, value=value, time=time, step=step, dataset=dataset, digest=digest)
            of_model.setdefault(model, []).append(point)
        for model, metrics in of_model.items():
            self.ids.model_at(model)
            self.change(model, metrics=metrics)

    def _write_facts(self, model: str) -> None:
        with self.alone.doing("kept model", model):
            self._write_number(model)

    def _write_number(self, model: str) -> None:
        facts = self.ids.emulated.facts(model)
        number = facts["number"] = facts.get("number", 0) + 1
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary, f"{number:04d}.json")
            file.write_text(json.dumps(facts), encoding="utf-8")
            repository = self.destination.artifacts(self.ids.emulated.run_artifacts(facts))
            self.destination.upload(repository, file, f"{FOLDER}/{model}")
        self.state.emulated_models.note(self.role, model, facts)

    def note_model_file(self, owner: str, path: str, text: str) -> None:
        """Write the classic model history tag once a kept model's MLmodel has arrived, for older pages."""
        kind, _, model = owner.partition(":")
        if kind != "model" or path != "MLmodel" or not self.ids.emulated.keeps(model):
            return
        facts = self.ids.emulated.facts(model)
        try:
            flavour = {**yaml.safe_load(text), "artifact_path": facts["path"], "run_id": facts["run_at"]}
            self.destination.record_logged_model(facts["run_at"], Model.from_dict(flavour))
        except MissingEndpoint:  # nobody reads the history there
            return
