"""Azure ML's MLflow service: a real MLflow server with Azure ML's ids, limits and refusals in front."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
from starlette.responses import Response

from tests.infra.service_limits import AZUREML_FIELDS
from tests.standins.azure.access import Access
from tests.standins.azure.state import RunBook, State, Workspace
from tests.standins.azure.web import (
    ML,
    WORKSPACE,
    Call,
    Refusal,
    empty,
    ml_refusal,
    mlflow_refusal,
    reply,
    route,
)

__all__ = ["Tracking", "public_run_id", "workspace_of"]

API = "/mlflow/{version}" + WORKSPACE + "/api/2.0/mlflow/{call*}"
PREVIEW = "/mlflow/{version}" + WORKSPACE + "/api/2.0/preview/mlflow/{call*}"
THREE = "/mlflow/{version}" + WORKSPACE + "/api/3.0/mlflow/{call*}"
EXPERIMENT_KEYS = {"experiment_id", "experiment_ids"}
RUN_KEYS = {"run_id", "run_uuid", "source_run_id"}
EXPERIMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
SOURCE = "azureml://artifacts/<origin>/<container>/<artifact_prefix>"
MODEL_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9\-_]{0,254}")  # ARM schema
UNORDERED = re.compile(r"^\W*(metrics?|params?|parameters?|tags?)\b", re.IGNORECASE)
OR = re.compile(r"\bOR\b")
METRIC_FILTER = re.compile(r"\bmetrics?\.(`[^`]+`|\"[^\"]+\"|[\w.\-/]+)", re.IGNORECASE)
RUN_ID_FILTER = re.compile(
    r"((?:attributes?\.)?\brun_id`?\s*(?:=|!=|NOT\s+IN|IN|LIKE)\s*)(\([^)]*\)|'[^']*'|\"[^\"]*\")",
    re.IGNORECASE,
)
# Azure ML has none of these (404 without a body); the names are segments of the path after /mlflow/.
ABSENT = {"traces", "datasets", "scorers", "webhooks", "gateway", "issues", "label-schemas", "review-queues"}
ABSENT |= {
    "server-info",
    "workspaces",
    "prompt-optimization",
    "artifacts",
    "get-online-trace-details",
    "jobs",
}

ACTIONS = {
    "experiments/create": "experiments/write",
    "experiments/update": "experiments/write",
    "experiments/restore": "experiments/write",
    "experiments/set-experiment-tag": "experiments/write",
    "experiments/delete-experiment-tag": "experiments/write",
    "experiments/delete": "experiments/delete",
    "experiments/get": "experiments/read",
    "experiments/get-by-name": "experiments/read",
    "experiments/search": "experiments/read",
    "runs/create": "experiments/runs/write",
    "runs/update": "experiments/runs/write",
    "runs/restore": "experiments/runs/write",
    "runs/log-batch": "experiments/runs/write",
    "runs/log-metric": "experiments/runs/write",
    "runs/log-parameter": "experiments/runs/write",
    "runs/log-inputs": "experiments/runs/write",
    "runs/log-model": "experiments/runs/write",
    "runs/outputs": "experiments/runs/write",
    "runs/set-tag": "experiments/runs/write",
    "runs/delete-tag": "experiments/runs/write",
    "runs/delete": "experiments/runs/delete",
    "runs/get": "experiments/runs/read",
    "runs/search": "experiments/runs/read",
    "metrics/get-history": "experiments/runs/read",
    "registered-models/create": "models/write",
    "registered-models/update": "models/write",
    "registered-models/set-tag": "models/write",
    "registered-models/delete-tag": "models/write",
    "registered-models/alias": "models/write",
    "registered-models/get": "models/read",
    "registered-models/search": "models/read",
    "registered-models/get-latest-versions": "models/read",
    "model-versions/create": "models/versions/write",
    "model-versions/update": "models/versions/write",
    "model-versions/set-tag": "models/versions/write",
    "model-versions/delete-tag": "models/versions/write",
    "model-versions/transition-stage": "models/versions/write",
    "model-versions/delete": "models/versions/delete",
    "model-versions/get": "models/versions/read",
    "model-versions/search": "models/versions/read",
    "model-versions/get-download-uri": "models/versions/read",
}
# A registry that can neither rename nor delete a whole model (Azure's list of supported operations).
NEVER = {"registered-models/rename", "registered-models/delete"}


def public_run_id(workspace: Workspace, run: str) -> str:
    """Return the id under which clients know a run: Azure ML writes a GUID with dashes."""
    chosen = next((public for public, own in workspace.run_ids.items() if own == run), None)
    if chosen is not None:
        return chosen
    try:
        return str(uuid.UUID(run))
    except ValueError:
        return run


def own_run_id(workspace: Workspace, run: str) -> str:
    """Return the MLflow server's id of a run."""
    if run in workspace.run_ids:
        return workspace.run_ids[run]
    try:
        return uuid.UUID(run).hex
    except ValueError:
        return run


def workspace_of(state: State, call: Call, words: str) -> Workspace:
    """Return the workspace that a path names, or refuse."""
    names = call.names
    found = state.workspace(names["subscription"], names["group"], names["workspace"])
    if found is not None:
        return found
    message = f"Workspace not found: {names['workspace']} in resource group {names['group']}."
    if words == "mlflow":
        raise mlflow_refusal(404, "RESOURCE_DOES_NOT_EXIST", message)
    raise ml_refusal(404, message, inner="NotFoundError")


class Tracking:
    """Runs, experiments and the model registry."""

    def __init__(
        self, state: State, access: Access, files_of: Callable[[Workspace, str], int | None]
    ) -> None:
        self.state, self.access = state, access
        self.files_of = files_of  # how many artifacts lie at a model's source; None: not a place of ours
        self.http = httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_keepalive_connections=32))

    async def ask(self, workspace: Workspace, method: str, call: str, body: Any = None) -> Any:
        """Ask the MLflow server; its refusals become Azure ML's."""
        url = f"{workspace.upstream}/api/2.0/mlflow/{call}"
        if method == "GET":
            answer = await self.http.get(url, params=body)
        else:
            answer = await self.http.request(method, url, json=body)
        if answer.status_code == 200:
            return answer.json()
        try:
            said = answer.json()
        except ValueError:
            raise mlflow_refusal(answer.status_code, "INTERNAL_ERROR", answer.text) from None
        raise mlflow_refusal(
            answer.status_code, said.get("error_code", "INTERNAL_ERROR"), said.get("message", str(said))
        )

    # The front

    @route("GET POST PATCH DELETE", API, "", words="mlflow")
    async def api(self, call: Call) -> Response:
        """Answer one call of MLflow's REST interface."""
        workspace, what = workspace_of(self.state, call, "mlflow"), call.names["call"].strip("/").lower()
        self._must_exist(what)
        action = ACTIONS.get(what, "experiments/runs/write" if what.startswith("logged-models") else None)
        if action is None:
            self.state.unknown.append(f"{call.method} {call.path}")
            return empty(404)
        if what == "registered-models/alias" and call.method == "GET":
            action = "models/read"
        self.access.require(call, f"{ML}/workspaces/{action}", "mlflow")
        asked = self._asked(call) if call.method == "GET" else await call.json()
        page = self._check_page(asked) if what == "metrics/get-history" else None
        check = getattr(self, "_check_" + what.replace("/", "_").replace("-", "_"), None)
        if check is not None:
            await check(workspace, asked)
        registry = what.split("/")[0] in {"registered-models", "model-versions"}
        sent = asked if registry else self._inward(workspace, asked)
        self._must_be_seen(workspace, asked, sent)
        answer = await self.ask(workspace, call.method, call.names["call"].strip("/"), sent)
        if page is not None and page[1] is not None:
            begin, end = page[0], page[0] + page[1]
            if end < len(answer.get("metrics", [])):
                answer["next_page_token"] = str(end)
            answer["metrics"] = answer.get("metrics", [])[begin:end]
        kept = getattr(self, "_kept_" + what.replace("/", "_").replace("-", "_"), None)
        if kept is not None:
            kept(workspace, sent, answer)
        return reply(answer if registry else self._outward(workspace, answer))

    def _must_be_seen(self, workspace: Workspace, asked: Any, sent: Any) -> None:
        if isinstance(sent, dict) and sent.get("run_id") in workspace.hidden:
            raise mlflow_refusal(404, "RESOURCE_DOES_NOT_EXIST", f"Run {asked['run_id']} not found")

    def _must_exist(self, what: str) -> None:
        """Answer 404 without a body for what this service does not have (azure-sdk-for-python#44896)."""
        switches, first = self.state.switches, what.split("/")[0]
        absent = (
            first in ABSENT
            or what in NEVER
            or (first == "logged-models" and not switches.logged_models)
            or (what == "runs/outputs" and not switches.outputs)
            or (what == "runs/log-inputs" and not switches.inputs)
            or (what == "registered-models/alias" and not switches.aliases)
        )
        if absent:
            raise Refusal(404)

    def _asked(self, call: Call) -> dict[str, Any]:
        asked: dict[str, Any] = {}
        for name, value in call.request.query_params.multi_items():
            asked[name] = [*asked[name], value] if name in asked else [value]
        return {name: values[0] if len(values) == 1 else values for name, values in asked.items()}

    @route("DELETE", WORKSPACE + "/models/{model}", f"{ML}/workspaces/models/delete")
    async def delete_model(self, call: Call) -> Response:
        """Delete a whole registered model, as Resource Manager does (ModelContainers.delete: 200, 204)."""
        workspace = workspace_of(self.state, call, "ml")
        try:
            await self.ask(workspace, "DELETE", "registered-models/delete", {"name": call.names["model"]})
        except Refusal:
            return empty(204)
        return empty(200)

    @route("GET POST", THREE, "", words="mlflow")
    async def newer(self, call: Call) -> Response:
        """Azure ML's MLflow service has version 2.0 of the interface alone."""
        return empty(404)

    @route("POST GET", PREVIEW, "", words="mlflow")
    async def preview(self, call: Call) -> Response:
        """Take a batch for later (``synchronous=False``), and say that it was written."""
        workspace, what = workspace_of(self.state, call, "mlflow"), call.names["call"].lower()
        if what == "runs/log-batch-async":
            asked = await call.json()
            self.access.require(call, f"{ML}/workspaces/experiments/runs/write", "mlflow")
            await self._check_runs_log_batch(workspace, asked)
            sent = self._inward(workspace, asked)
            await self.ask(workspace, "POST", "runs/log-batch", sent)
            self._kept_runs_log_batch(workspace, sent, {})
            return reply({"batch_tracking_id": uuid.uuid4().hex if asked.get("metrics") else ""})
        if what == "runs/get-run-data-status":
            return reply({"is_complete": True})
        self.state.unknown.append(f"{call.method} {call.path}")
        return empty(404)

    # Ids

    def _inward(self, workspace: Workspace, asked: Any) -> Any:
        """Return a body with the MLflow server's ids in it."""
        return self._translated(
            asked,
            lambda value: self._own_experiment(workspace, value),
            lambda value: own_run_id(workspace, value),
        )

    def _own_experiment(self, workspace: Workspace, value: str) -> str:
        if value == "0":  # MLflow's word for the default experiment, which Azure ML takes too
            return value
        own = workspace.experiments.get(value.lower())
        if own is None:
            raise mlflow_refusal(404, "RESOURCE_DOES_NOT_EXIST", f"No Experiment with id={value} exists")
        return own

    def _outward(self, workspace: Workspace, answer: Any) -> Any:
        """Return an answer with Azure ML's ids and places in it."""
        answer = self._places(workspace, answer)
        return self._translated(answer, workspace.guid_of, lambda value: public_run_id(workspace, value))

    def _translated(self, value: Any, experiment: Callable[[str], str], run: Callable[[str], str]) -> Any:
        if isinstance(value, list):
            return [self._translated(each, experiment, run) for each in value]
        if not isinstance(value, dict):
            return value
        changed = {}
        for key, inner in value.items():
            change = experiment if key in EXPERIMENT_KEYS else run if key in RUN_KEYS else None
            if change is None:
                changed[key] = self._translated(inner, experiment, run)
            elif isinstance(inner, list):
                changed[key] = [change(each) for each in inner]
            else:
                changed[key] = change(str(inner)) if inner else inner
        return changed

    def _places(self, workspace: Workspace, value: Any) -> Any:
        """Put Azure ML's artifact places in the stead of the MLflow server's."""
        if isinstance(value, list):
            return [self._places(workspace, each) for each in value]
        if not isinstance(value, dict):
            return value
        changed = {key: self._places(workspace, inner) for key, inner in value.items()}
        if "artifact_location" in changed:
            changed["artifact_location"] = ""
        if "artifact_uri" in changed:
            if "model_id" in changed:
                changed["artifact_uri"] = f"azureml://artifacts/LoggedModel/{changed['model_id']}/model"
            elif "experiment_id" in changed:
                guid = workspace.guid_of(str(changed["experiment_id"]))
                run = public_run_id(workspace, str(changed.get("run_id") or changed.get("run_uuid")))
                host = self.state.public.split("://")[-1]
                changed["artifact_uri"] = (
                    f"azureml://{host}/mlflow/v2.0{workspace.scope}/experiments/{guid}/runs/{run}/artifacts"
                )
        return changed

    # Experiments

    async def _check_experiments_create(self, workspace: Workspace, asked: dict[str, Any]) -> None:
        name = str(asked.get("name", ""))
        # A slash is taken, and then get-by-name finds nothing (azure-sdk-for-python#45209).
        bare, limit = name.replace("/", ""), self.state.limits["experiment_name"]
        if len(name) > limit or not EXPERIMENT_NAME.fullmatch(bare):
            raise mlflow_refusal(
                400,
                "INVALID_PARAMETER_VALUE",
                f"Experiment name must be 1-{limit} characters of letters, digits, underscores and dashes, "
                f"the first a letter or a digit. Invalid name: {name[:60]}",
            )
        asked.pop("artifact_location", None)  # not for the caller to choose
        self._experiment_tags([], asked.get("tags") or [])

    def _experiment_tags(self, there: list[dict[str, Any]], given: list[dict[str, Any]]) -> None:
        limits = self.state.limits
        for tag in given:
            for part in ("key", "value"):
                limit, size = limits[f"experiment_tag_{part}"], len(str(tag.get(part, "")))
                if size > limit:
                    raise self._over(f"Experiment.Tags.{part.title()}", limit, size)
        names = {tag["key"] for tag in (*there, *given)}
        if len(names) > limits["experiment_tags"]:
            raise self._over("Experiment.Tags", limits["experiment_tags"], len(names))

    async def _check_experiments_set_experiment_tag(
        self, workspace: Workspace, asked: dict[str, Any]
    ) -> None:
        query = {"experiment_id": self._own_experiment(workspace, str(asked.get("experiment_id")))}
        found = await self.ask(workspace, "GET", "experiments/get", query)
        self._experiment_tags(found["experiment"].get("tags", []), [asked])

    async def _check_experiments_update(self, workspace: Workspace, asked: dict[str, Any]) -> None:
        await self._check_experiments_create(workspace, {"name": asked.get("new_name", "")})

    async def _check_experiments_get_by_name(self, workspace: Workspace, asked: dict[str, Any]) -> None:
        name = str(asked.get("experiment_name", ""))
        if "/" in name:
            raise mlflow_refusal(
                404,
                "RESOURCE_DOES_NOT_EXIST",
                f"Could not find experiment with name '{name}'",
                code="NotFoundError",
            )

    async def _check_experiments_delete(self, workspace: Workspace, asked: dict[str, Any]) -> None:
        own = self._own_experiment(workspace, str(asked.get("experiment_id")))
        query = {"experiment_ids": [own], "max_results": 1, "run_view_type": "ACTIVE_ONLY"}
        if (await self.ask(workspace, "POST", "runs/search", query)).get("runs"):
            # MachineLearningNotebooks#196
            raise mlflow_refusal(
                400,
                "INVALID_PARAMETER_VALUE",
                "Only empty Experiments can be deleted. This Experiment has runs.",
            )

    # Runs

    async def _check_runs_create(self, workspace: Workspace, asked: dict[str, Any]) -> None:
        self._tags(RunBook(), asked.get("tags") or [])
        self.check_name(asked.get("run_name"))

    async def _check_runs_update(self, workspace: Workspace, asked: dict[str, Any]) -> None:
        self.check_name(asked.get("run_name"))

    def check_name(self, name: str | None) -> None:
        """Refuse a run's display name that is too long."""
        limit = self.state.limits["run_name"]
        if name and len(name) > limit:
            raise self._over("DisplayName", limit, len(name))

    async def _check_runs_log_inputs(self, workspace: Workspace, asked: dict[str, Any]) -> None:
        own = own_run_id(workspace, str(asked.get("run_id")))
        run = (await self.ask(workspace, "GET", "runs/get", {"run_id": own}))["run"]
        there = (run.get("inputs") or {}).get("dataset_inputs", [])
        given, limit = asked.get("datasets") or [], self.state.limits["run_inputs"]
        names = {(d["dataset"]["name"], d["dataset"].get("digest")) for d in (*there, *given)}
        if len(names) > limit:
            raise self._over("Inputs", limit, len(names))

    def _kept_runs_create(self, workspace: Workspace, sent: dict[str, Any], answer: dict[str, Any]) -> None:
        book = workspace.book(answer["run"]["info"]["run_id"])
        book.tags.update(tag["key"] for tag in answer["run"]["data"].get("tags", []))

    async def _check_runs_log_metric(self, workspace: Workspace, asked: dict[str, Any]) -> None:
        self._metrics(self._book(workspace, asked), [asked])

    def _kept_runs_log_metric(self, workspace: Workspace, sent: dict[str, Any], answer: Any) -> None:
        self._kept_runs_log_batch(workspace, {"run_id": sent.get("run_id"), "metrics": [sent]}, answer)

    async def _check_runs_log_parameter(self, workspace: Workspace, asked: dict[str, Any]) -> None:
        self._params(self._book(workspace, asked), [asked])

    def _kept_runs_log_parameter(self, workspace: Workspace, sent: dict[str, Any], answer: Any) -> None:
        self._kept_runs_log_batch(workspace, {"run_id": sent.get("run_id"), "params": [sent]}, answer)

    async def _check_runs_set_tag(self, workspace: Workspace, asked: dict[str, Any]) -> None:
        self._tags(self._book(workspace, asked), [asked])

    def _kept_runs_set_tag(self, workspace: Workspace, sent: dict[str, Any], answer: Any) -> None:
        self._kept_runs_log_batch(workspace, {"run_id": sent.get("run_id"), "tags": [sent]}, answer)

    def _kept_runs_delete_tag(self, workspace: Workspace, sent: dict[str, Any], answer: Any) -> None:
        workspace.book(sent["run_id"]).tags.discard(sent["key"])

    async def _check_runs_log_batch(self, workspace: Workspace, asked: dict[str, Any]) -> None:
        metrics, limit = asked.get("metrics") or [], self.state.limits["batch_metrics"]
        if len(metrics) > limit:
            raise self._over("MetricV2Dto.Value/Count", limit, len(metrics))
        book = self._book(workspace, asked)
        self._metrics(book, metrics)
        self._params(book, asked.get("params") or [])
        self._tags(book, asked.get("tags") or [])

    def _kept_runs_log_batch(self, workspace: Workspace, sent: dict[str, Any], answer: Any) -> None:
        book, now = workspace.book(str(sent.get("run_id") or sent.get("run_uuid"))), time.monotonic()
        for metric in sent.get("metrics") or []:
            book.metrics[metric["key"]] = book.metrics.get(metric["key"], 0) + 1
            book.written[metric["key"]] = now
        book.params.update(param["key"] for param in sent.get("params") or [])
        book.tags.update(tag["key"] for tag in sent.get("tags") or [])

    def _book(self, workspace: Workspace, asked: dict[str, Any]) -> RunBook:
        return workspace.book(own_run_id(workspace, str(asked.get("run_id") or asked.get("run_uuid"))))

    def _over(self, entity: str, limit: int, size: int) -> Refusal:
        """Refuse in the words of mlflow#11462."""
        return mlflow_refusal(
            400,
            "INVALID_PARAMETER_VALUE",
            f"A field of the entity is over the size limit. FieldName={entity}, Limit={limit}, Size={size}. "
            "See https://aka.ms/azure-machine-learning-limits for service limits documentation.",
            code="ValidationError",
        )

    def _metrics(self, book: RunBook, metrics: list[dict[str, Any]]) -> None:
        limits, rows = self.state.limits, dict(book.metrics)
        for metric in metrics:
            rows[metric["key"]] = rows.get(metric["key"], 0) + 1
            if rows[metric["key"]] > limits["metric_rows"]:
                raise self._over("Metric.Rows", limits["metric_rows"], rows[metric["key"]])
        if len(rows) > limits["metric_names"]:
            raise self._over("Metrics.Names", limits["metric_names"], len(rows))

    def _params(self, book: RunBook, params: list[dict[str, Any]]) -> None:
        names, limit = book.params | {param["key"] for param in params}, self.state.limits["run_params"]
        if len(names) > limit:
            raise self._over("Parameters", limit, len(names))

    def _tags(self, book: RunBook, tags: list[dict[str, Any]]) -> None:
        limits = self.state.limits
        for tag in tags:
            value = limits[AZUREML_FIELDS.get(tag["key"], "tag_value")]
            for part, limit in (("key", limits["tag_key"]), ("value", value)):
                if len(str(tag.get(part, ""))) > limit:
                    raise self._over(f"Tags.{part.title()}", limit, len(str(tag[part])))
        names = book.tags | {tag["key"] for tag in tags}
        if len(names) > limits["run_tags"]:
            raise self._over("Tags", limits["run_tags"], len(names))

    async def _check_runs_search(self, workspace: Workspace, asked: dict[str, Any]) -> None:
        for clause in asked.get("order_by") or []:
            if UNORDERED.match(clause):
                raise mlflow_refusal(
                    400,
                    "INVALID_PARAMETER_VALUE",
                    f"Ordering by metrics, parameters or tags is currently not supported. Provided: {clause}",
                )
        text = str(asked.get("filter") or "")
        self._no_or(text)

        def own(found: re.Match[str]) -> str:
            ids = re.sub(r"(['\"])([^'\"]*)\1", lambda q: f"'{own_run_id(workspace, q[2])}'", found[2])
            return found[1] + ids

        if text:
            asked["filter"] = RUN_ID_FILTER.sub(own, text)

    def _no_or(self, text: str) -> None:
        """Refuse in the words of azure-sdk-for-python#42155."""
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "''", text)
        if OR.search(bare.upper()):
            raise self._unfiltered(text)

    def _unfiltered(self, text: str) -> Refusal:
        return mlflow_refusal(
            400,
            "INVALID_PARAMETER_VALUE",
            "Currently unsupported filter string format (we currently do not support OR). Provided filter "
            f"string: {text}",
        )

    def _kept_runs_search(self, workspace: Workspace, sent: dict[str, Any], answer: dict[str, Any]) -> None:
        """Hide metrics that came too recently, from filters too; runs/get shows them at once."""
        lag = self.state.switches.search_lag
        if not lag:
            return
        now, shown = time.monotonic(), []
        wanted = {name.strip('`"') for name in METRIC_FILTER.findall(str(sent.get("filter") or ""))}
        for run in answer.get("runs", []):
            written = workspace.book(run["info"]["run_id"]).written
            metrics = run["data"].get("metrics", [])
            known = [m for m in metrics if now - written.get(m["key"], -lag) >= lag]
            run["data"]["metrics"] = known
            if wanted <= {m["key"] for m in known}:
                shown.append(run)
        if "runs" in answer:
            answer["runs"] = shown

    def _check_page(self, asked: dict[str, Any]) -> tuple[int, int | None]:
        """Take the page out of a request for a metric's history; refuse in the words of mlflow#10694."""
        size, limit = asked.pop("max_results", None), self.state.limits["history_page"]
        begin = int(asked.pop("page_token", None) or 0)
        if size is not None and int(size) > limit:
            message = f"MaxResults = {size} is invalid: MaxResults must be less than {limit + 1}."
            raise mlflow_refusal(400, "BAD_REQUEST", message)
        return begin, None if size is None else int(size)

    # The registry

    async def _check_registered_models_create(self, workspace: Workspace, asked: dict[str, Any]) -> None:
        name = str(asked.get("name", ""))
        if not MODEL_NAME.fullmatch(name):
            raise mlflow_refusal(
                400,
                "INVALID_PARAMETER_VALUE",
                f"Invalid model name '{name[:60]}': it must match the pattern ^{MODEL_NAME.pattern}$",
                code="ValidationError",
            )

    async def _check_registered_models_search(self, workspace: Workspace, asked: dict[str, Any]) -> None:
        text = str(asked.get("filter") or "")
        self._no_or(text)
        if re.search(r"\btags?\b\s*\.|\bI?LIKE\b", re.sub(r"'[^']*'", "''", text), re.IGNORECASE):
            raise self._unfiltered(text)

    _check_model_versions_search = _check_registered_models_search

    async def _check_model_versions_create(self, workspace: Workspace, asked: dict[str, Any]) -> None:
        source = str(asked.get("source", ""))
        found = self.files_of(workspace, source)
        if found is None:  # mlflow#15329
            raise mlflow_refusal(
                400,
                "INVALID_PARAMETER_VALUE",
                f"Model source from file must be in the following format: {SOURCE}. Provided model source: "
                f"{source}",
                code="ValidationError",
            )
        if found == 0:
            raise mlflow_refusal(
                404, "RESOURCE_DOES_NOT_EXIST", f"No artifacts were found at the model's source {source}"
            )
        limit = self.state.limits["model_files"]
        if found > limit:
            raise self._over("Model.Files", limit, found)
