"""Experiments, runs, logged models and traces: the real MLflow server's, in Databricks' names and limits."""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.infra.service_limits import DATABRICKS_LIMITS, Enforcer, code_of
from tests.standins.databricks._files import Files
from tests.standins.databricks._switches import ORGANIZATION, invalid, missing, refuse
from tests.standins.service import Answer, Call, Upstream, route

_API = "/api/2[.]0/mlflow/"
_TRACES = "/api/[23][.]0/mlflow/traces(/[^/]+(/(tags|info|assessments)(/[^/]+)?)?)?"
_ROOT = b"dbfs:/databricks/mlflow-tracking/"
_FILES = "/WorkspaceInternal/Mlflow/Artifacts"
_SOURCE = "mlflow.experiment.sourceName"
# The tags that the service gives an experiment, in its order, with one of them twice (databricks/cli,
# acceptance/bundle/resources/experiments/basic/output.txt).
_OWN = ("mlflow.ownerId", _SOURCE, "mlflow.ownerId", "mlflow.ownerEmail", "mlflow.experimentType")
# What MLflow's own server calls its places, and what Databricks calls them.
_OUTWARD = (
    (re.compile(rb"mlflow-artifacts:/(\w+)/models/(m-\w+)"), _ROOT + rb"\1/logged_models/\2"),
    (re.compile(rb"mlflow-artifacts:/(\w+)/traces/(tr-\w+)"), _ROOT + rb"\1/\2"),
    (re.compile(rb"mlflow-artifacts:/(\w+)"), _ROOT + rb"\1"),
)
_INWARD = (
    (re.compile(_ROOT + rb"(\w+)/logged_models/(m-\w+)"), rb"mlflow-artifacts:/\1/models/\2"),
    (re.compile(_ROOT + rb"(\w+)/(tr-\w+)"), rb"mlflow-artifacts:/\1/traces/\2"),
    (re.compile(_ROOT + rb"(\w+)"), rb"mlflow-artifacts:/\1"),
)


def outward(data: bytes) -> bytes:
    """Turn the MLflow server's artifact places into Databricks' own."""
    for pattern, own in _OUTWARD:
        data = pattern.sub(own, data)
    return data


def inward(data: bytes) -> bytes:
    """Turn Databricks' artifact places into the MLflow server's."""
    for pattern, own in _INWARD:
        data = pattern.sub(own, data)
    return data


def _kept_name(name: str) -> str:
    """Return the name that an experiment is kept under (databricks/cli, libs/testserver/experiments.go)."""
    return (name[1:] if name.startswith("//") else name).removeprefix("/Workspace")


def _tagged(experiment: dict[str, Any]) -> dict[str, Any]:
    """Return an experiment with its tags as the service lists them: the user's, then its own (``_OWN``)."""
    given = {tag["key"]: tag for tag in experiment.get("tags", [])}
    own = [given[key] for key in _OWN if key in given]
    experiment["tags"] = [*(tag for key, tag in given.items() if key not in _OWN), *own]
    return experiment


def folder_of(uri: str) -> str:
    """Return the Files API's path of an artifact place in the tracking root."""
    parts = uri.removeprefix(_ROOT.decode()).split("/")
    if len(parts) > 1 and parts[1] == "logged_models":
        return posixpath.join(_FILES, parts[0], "LoggedModels", *parts[2:])
    if len(parts) > 1 and parts[1].startswith("tr-"):
        return posixpath.join(_FILES, parts[0], "Traces", parts[1])
    return posixpath.join(_FILES, parts[0], "Runs", *parts[1:])


class Tracking(Files):
    """MLflow's REST, forwarded."""

    upstream: Upstream

    def prepare(self) -> None:
        """Begin with no points written."""
        super().prepare()
        self._limits = Enforcer(DATABRICKS_LIMITS)
        self.written: Counter[tuple[Any, ...]] = Counter()
        """How often each point (run, key, step, timestamp, value, model) was written: histories append."""

    def limit(self, limits: Mapping[str, int]) -> None:
        """Refuse what is beyond these limits from now on."""
        self._limits.limits = dict(limits)

    def forward(self, call: Call, body: bytes | None = None) -> Answer:
        """Ask the MLflow server, in its own words, and answer in Databricks'."""
        data = inward(call.body if body is None else body)
        found = self.upstream.ask(
            call.method, call.raw_path, data or None, call.headers.get("Content-Type", "")
        )
        found.body = outward(found.data)
        found.headers["x-databricks-org-id"] = ORGANIZATION
        return found

    def asked(self, path: str, **query: str) -> dict[str, Any]:
        """Return the MLflow server's answer to a GET. Raises its refusal."""
        text = "&".join(f"{k}={v}" for k, v in query.items())
        found = self.upstream.ask("GET", f"{path}?{text}")
        answer: dict[str, Any] = json.loads(outward(found.data))
        if found.status != 200:
            raise refuse(found.status, answer["error_code"], answer["message"])
        return answer

    # --- experiments

    @route("POST", _API + "experiments/create")
    def create_experiment(self, call: Call) -> Answer:
        """Make an experiment at a path of the workspace whose folder is there."""
        asked = call.json
        given = str(asked.get("name", ""))
        name = asked["name"] = _kept_name(given)
        if not name.startswith("/"):
            raise invalid(
                f"Got an invalid experiment name '{name}'. An experiment name must be an absolute path "
                "within the Databricks workspace, e.g. '/Users/<some-username>/my-experiment'."
            )
        if self.nodes.get(posixpath.dirname(name)) != "DIRECTORY":
            raise missing(f"Parent directory {posixpath.dirname(name)} does not exist.")
        if name in self.notebooks:
            raise invalid(f"'{name}' is a notebook, whose experiment is its own")
        if name in self.nodes:
            raise refuse(400, "RESOURCE_ALREADY_EXISTS", f"Node named '{name}' already exists")
        own = {
            "mlflow.ownerId": self.user_id(call.user),
            "mlflow.ownerEmail": call.user,
            _SOURCE: given,
            "mlflow.experimentType": "MLFLOW_EXPERIMENT",
        }
        tags = [*asked.get("tags", []), *({"key": k, "value": v} for k, v in own.items())]
        found = self.forward(call, json.dumps({**asked, "tags": tags}).encode())
        if found.status == 200:
            self.nodes[name] = "MLFLOW_EXPERIMENT"
        return found

    def experiment_of_notebook(self, path: str) -> str:
        """Make a notebook's own experiment in the MLflow server."""
        tags = [{"key": "mlflow.experimentType", "value": "NOTEBOOK"}]
        found = self.upstream.ask("POST", "/api/2.0/mlflow/experiments/create", {"name": path, "tags": tags})
        return str(json.loads(found.data)["experiment_id"])

    @route("POST", _API + "experiments/update")
    def rename_experiment(self, call: Call) -> Answer:
        """Rename an experiment: move it in the tree; the tag with its source follows (databricks/cli)."""
        given = str(call.json["new_name"])
        name = _kept_name(given)
        if not name.startswith("/") or self.nodes.get(posixpath.dirname(name)) != "DIRECTORY":
            raise invalid(f"Cannot move an experiment to '{name}'")
        number = call.json["experiment_id"]
        old = self.asked("/api/2.0/mlflow/experiments/get", experiment_id=number)["experiment"]
        found = self.forward(call, json.dumps({**call.json, "new_name": name}).encode())
        if found.status == 200:
            self.nodes.pop(old["name"], None)
            self.nodes[name] = "MLFLOW_EXPERIMENT"
            if any(tag["key"] == _SOURCE for tag in old.get("tags", [])):
                tag = {"experiment_id": number, "key": _SOURCE, "value": given}
                self.upstream.ask("POST", "/api/2.0/mlflow/experiments/set-experiment-tag", tag)
        return found

    @route("GET", _API + "experiments/(get|get-by-name)")
    def get_experiment(self, call: Call) -> Answer:
        """Return an experiment; there is no default one."""
        if call.query.get("experiment_id") == "0":
            raise missing("Node ID 0 does not exist.")
        name = call.query.get("experiment_name")
        if name is not None and not name.startswith("/"):
            raise missing(f"Could not find experiment with name '{name}'")
        found = self.forward(call)
        if found.status != 200:
            return found
        answer = json.loads(found.data)
        return Answer({"experiment": _tagged(answer["experiment"])}, 200, found.headers)

    @route("GET|POST", _API + "experiments/search")
    def search_experiments(self, call: Call) -> Answer:
        """Search experiments; MLflow's default one is none here."""
        found = self.forward(call)
        answer = json.loads(found.data)
        there = [_tagged(e) for e in answer.get("experiments", []) if e["experiment_id"] != "0"]
        answer["experiments"] = there
        return Answer(answer, found.status, found.headers)

    @route("POST", _API + "experiments/(delete|restore|set-experiment-tag|delete-experiment-tag)")
    def change_experiment(self, call: Call) -> Answer:
        """Change an experiment."""
        return self.forward(call)

    # --- runs

    @route("POST", _API + "runs/create")
    def create_run(self, call: Call) -> Answer:
        """Make a run in an experiment that somebody made."""
        if str(call.json.get("experiment_id", "0")) in ("", "0"):
            raise missing("Node ID 0 does not exist.")
        self._check(call)
        found = self.forward(call)
        if found.status == 200:
            with self._lock:
                self._limits.note_created(call.body, found.data)
        return found

    def _check(self, call: Call) -> None:
        with self._lock:
            said = self._limits.complaint(call.path, call.body)
        if said is not None:
            raise refuse(400, code_of(said), said)

    def check_pending(self, own: int = 0) -> None:
        """Refuse a version while too many are being registered."""
        said = self._limits.pending_complaint(self.switches.pending_versions + own)
        if said is not None:
            raise refuse(400, "RESOURCE_LIMIT_EXCEEDED", said)

    @route("POST", _API + "runs/log-batch")
    def log_batch(self, call: Call) -> Answer:
        """Write a batch, within the service's limits."""
        self._check(call)
        asked = call.json
        if self.switches.half_batches > 0:
            self.switches.half_batches -= 1
            half = {k: v[: len(v) // 2] if isinstance(v, list) else v for k, v in asked.items()}
            if self.forward(call, json.dumps(half).encode()).status == 200:
                self._note(half)
            raise refuse(500, "INTERNAL_ERROR", "The batch could not be written as a whole")
        found = self.forward(call)
        if found.status == 200:
            self._note(asked)
        return found

    def _note(self, batch: dict[str, Any]) -> None:
        with self._lock:
            self.written.update(
                (
                    batch["run_id"],
                    m["key"],
                    m.get("step", 0),
                    m.get("timestamp"),
                    str(m["value"]),
                    m.get("model_id"),  # log_model logs a run's metrics again, for the model
                )
                for m in batch.get("metrics") or []
            )

    @route("POST", _API + "runs/(log-metric|log-parameter|set-tag|delete-tag)")
    def log_one(self, call: Call) -> Answer:
        """Write one item."""
        self._check(call)
        return self.forward(call)

    @route("POST", _API + "runs/(update|delete|restore|search|log-inputs|outputs|log-model)")
    def change_run(self, call: Call) -> Answer:
        """Change or search runs."""
        return self.forward(call)

    @route("GET", _API + "(runs/get|metrics/get-history)")
    def get_run(self, call: Call) -> Answer:
        """Return a run, or a metric's history."""
        return self.forward(call)

    # --- logged models, traces

    @route("GET|POST|PATCH|DELETE", _API + "logged-models(/(search|m-[^/]+(/(tags|params)(/[^/]+)?)?))?")
    def logged_models(self, call: Call) -> Answer:
        """Make, change, find logged models."""
        return self.forward(call)

    @route("GET|POST|PATCH|DELETE", _TRACES)
    def traces(self, call: Call) -> Answer:
        """Keep and find traces."""
        return self.forward(call)

    @route("POST", "/api/4[.]0/mlflow/traces/search-long-running")
    def search_in_tables(self, call: Call) -> Answer:
        """Answer that traces are not kept in Unity Catalog's tables here; the client then asks otherwise."""
        return self.missing(call)

    def artifact_folder(self, kind: str, owner: str) -> str:
        """Return where the files of a run, logged model or trace are."""
        if kind == "run":
            run = self.asked("/api/2.0/mlflow/runs/get", run_id=owner)
            return folder_of(run["run"]["info"]["artifact_uri"])
        if kind == "model":
            model = self.asked(f"/api/2.0/mlflow/logged-models/{owner}")
            return folder_of(model["model"]["info"]["artifact_uri"])
        return posixpath.join(_FILES, "Traces", owner)
