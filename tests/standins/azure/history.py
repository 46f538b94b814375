"""Run history: the service behind azureml-core's runs, which takes an id that the caller chose."""

from __future__ import annotations

import re
import time
import uuid
from datetime import datetime
from typing import Any

from starlette.responses import Response

from tests.standins.azure.access import Access
from tests.standins.azure.state import State, Workspace
from tests.standins.azure.tracking import Tracking, own_run_id, public_run_id, workspace_of
from tests.standins.azure.web import ML, WORKSPACE, Call, Refusal, empty, ml_refusal, reply, route, utc

__all__ = ["History"]

BY_ID = "/history/v1.0" + WORKSPACE + "/experimentids/{experiment}/runs/{run}"
BY_NAME = "/history/v1.0" + WORKSPACE + "/experiments/{experiment}/runs/{run}"
RUN_ID = re.compile(r"[A-Za-z0-9][\w-]{0,255}")
STATUSES = {
    "NotStarted": "SCHEDULED",
    "Running": "RUNNING",
    "Completed": "FINISHED",
    "Failed": "FAILED",
    "Canceled": "KILLED",
}
FIELDS = {"runId", "status", "startTimeUtc", "endTimeUtc", "displayName", "name", "tags", "parentRunId"}
FIELDS |= {"properties", "scriptName", "target", "runTypeV2", "description"}


class History:
    """Runs as run history shows and changes them; the MLflow server behind keeps them."""

    def __init__(self, state: State, access: Access, tracking: Tracking) -> None:
        self.state, self.access, self.tracking = state, access, tracking

    @route("PATCH", BY_ID, "", words="ml")
    @route("PATCH", BY_NAME, "", words="ml")
    async def patch(self, call: Call) -> Response:
        """Make a run under the caller's id, or change the one that has it."""
        workspace, how = workspace_of(self.state, call, "ml"), self.state.switches.run_ids
        self.access.require(call, f"{ML}/workspaces/experiments/runs/write", "ml")
        if how == "absent":
            return empty(404)
        asked, run = await call.json(), call.names["run"]
        experiment = await self._experiment(workspace, call)
        unknown = set(asked) - FIELDS
        if unknown or asked.get("runId", run) != run or not RUN_ID.fullmatch(run):
            raise self._invalid(f"The run document is invalid: {sorted(unknown) or run}")
        self.tracking.check_name(asked.get("displayName"))
        if asked.get("status", "Running") not in STATUSES:
            raise self._invalid(f"Invalid status {asked['status']!r}")
        own = await self._own(workspace, run)
        if own is None:
            if how == "refused":
                raise self._invalid("RunId is assigned by the service and cannot be specified.")
            own, run = await self._made(workspace, experiment, run, asked, how)
        await self._changed(workspace, own, asked)
        return reply(await self._dto(workspace, own, run))

    @route("GET", BY_ID, "", words="ml")
    @route("GET", BY_NAME, "", words="ml")
    async def get(self, call: Call) -> Response:
        """Show one run."""
        workspace = workspace_of(self.state, call, "ml")
        self.access.require(call, f"{ML}/workspaces/experiments/runs/read", "ml")
        await self._experiment(workspace, call)
        own = await self._own(workspace, call.names["run"])
        if own is None:
            raise ml_refusal(404, f"Run {call.names['run']} was not found", inner="NotFoundError")
        return reply(await self._dto(workspace, own, call.names["run"]))

    @route("GET", BY_ID + "/token", "", words="ml")
    @route("GET", BY_NAME + "/token", "", words="ml")
    async def token(self, call: Call) -> Response:
        """Give a job its next token, which opens its own workspace alone."""
        workspace = workspace_of(self.state, call, "ml")
        await self._experiment(workspace, call)
        if await self._own(workspace, call.names["run"]) is None:
            raise ml_refusal(404, f"Run {call.names['run']} was not found", inner="NotFoundError")
        signed = self.access.login.sign("job", self.state.public, 3600.0)
        return reply({"token": signed["access_token"], "expiryTimeUtc": utc(time.time() + 3600.0)})

    def _invalid(self, message: str) -> Refusal:
        return ml_refusal(400, message, inner="ValidationError")

    async def _experiment(self, workspace: Workspace, call: Call) -> str:
        """Return the MLflow server's id of the experiment that a path names."""
        named = call.names["experiment"]
        if "/experimentids/" in call.path.lower():
            own = workspace.experiments.get(named.lower())
        else:
            query = {"experiment_name": named}
            found = await self.tracking.ask(workspace, "GET", "experiments/get-by-name", query)
            own = found["experiment"]["experiment_id"]
        if own is None:
            raise ml_refusal(404, f"Experiment {named} was not found", inner="NotFoundError")
        found = await self.tracking.ask(workspace, "GET", "experiments/get", {"experiment_id": own})
        if found["experiment"]["lifecycle_stage"] == "deleted":
            raise self._invalid(f"Experiment {named} is archived")
        return str(own)

    async def _own(self, workspace: Workspace, run: str) -> str | None:
        """Return the MLflow server's id of a run, or None where no run has that id."""
        own = own_run_id(workspace, run)
        try:
            await self.tracking.ask(workspace, "GET", "runs/get", {"run_id": own})
        except Refusal:
            return None
        return own if public_run_id(workspace, own) == run else None

    async def _made(
        self, workspace: Workspace, experiment: str, run: str, asked: dict[str, Any], how: str
    ) -> tuple[str, str]:
        parent = asked.get("parentRunId")
        if parent and await self._own(workspace, parent) is None:
            raise self._invalid(f"The parent run {parent} was not found")
        tags = dict(asked.get("tags") or {})
        if parent:
            tags["mlflow.parentRunId"] = own_run_id(workspace, parent)
        began = asked.get("startTimeUtc")
        body = {
            "experiment_id": experiment,
            "run_name": asked.get("displayName"),
            "start_time": int((datetime.fromisoformat(began).timestamp() if began else time.time()) * 1000),
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        made = await self.tracking.ask(workspace, "POST", "runs/create", body)
        own = str(made["run"]["info"]["run_id"])
        self.tracking._kept_runs_create(workspace, {}, made)
        public = str(uuid.UUID(own)) if how == "renamed" else run
        if how != "renamed":
            workspace.run_ids[run] = own
        if how == "hidden":
            await self.tracking.ask(workspace, "POST", "runs/delete", {"run_id": own})
            workspace.hidden.add(own)
        return own, public

    async def _changed(self, workspace: Workspace, own: str, asked: dict[str, Any]) -> None:
        body: dict[str, Any] = {"run_id": own}
        if "status" in asked:
            body["status"] = STATUSES[asked["status"]]
        if asked.get("displayName"):
            body["run_name"] = asked["displayName"]
        if len(body) > 1 and own not in workspace.hidden:
            await self.tracking.ask(workspace, "POST", "runs/update", body)

    async def _dto(self, workspace: Workspace, own: str, run: str) -> dict[str, Any]:
        found = (await self.tracking.ask(workspace, "GET", "runs/get", {"run_id": own}))["run"]
        named = {shown: name for name, shown in STATUSES.items()}
        return {
            "runId": run,
            "rootRunId": run,
            "experimentId": workspace.guid_of(str(found["info"]["experiment_id"])),
            "status": named[found["info"]["status"]],
            "displayName": found["info"].get("run_name"),
            "startTimeUtc": utc(int(found["info"]["start_time"]) / 1000),
            "dataContainerId": f"dcid.{run}",
            "tags": {tag["key"]: tag["value"] for tag in found["data"].get("tags", [])},
            "properties": {},
        }
