"""The steps of a managed deployment: endpoint, deployment, traffic; what is left of them is kept on disk.

A process that ends leaves its record, so whoever asks for the endpoint next, this process or another, goes on
where it ended.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from dbml_magics.common.hints import Remedy
from dbml_magics.core import processes
from dbml_magics.core.endpoints.base import Say, failed, with_share
from dbml_magics.core.endpoints.managed_api import ManagedApi, state_of, traffic_of
from dbml_magics.core.endpoints.remembered import Record, locked
from dbml_magics.core.endpoints.rest import Answer, ServiceRefusal, words
from dbml_magics.core.endpoints.shapes import ArmResource, FailedDeployment, PendingDeployment
from dbml_magics.core.endpoints.waiting import every
from dbml_magics.core.workspace_uri import masked
from dbml_magics.errors import BadCommand, DbmlError, DeploymentFailed, NotPermitted

__all__ = ["Rollouts"]

_LOG_LINES = 12
_PAUSE_S = 2.0
_WAIT_S = 3900.0  # what an operation may take where the service does not say, and a little more
_LIMITS = {"waiting for another operation to end": 2400.0, "waiting for the endpoint to appear": 120.0}

_going: set[str] = set()  # records that a thread of this process goes on with


@dataclass(frozen=True)
class _Step:
    """What is being done, and how long the service wants to be left alone."""

    doing: str
    pause: float


class Rollouts:
    """The deployments that are under way at one workspace."""

    def __init__(self, api: ManagedApi, target: str) -> None:
        self.api, self.target = api, target

    def remember(self, record: Record, pending: PendingDeployment) -> str | None:
        """Save a pending deployment; returns the label of the pending one that it replaces, if any."""
        name = pending["deployment"]
        with locked(record):
            record.write(began=record.read().get("began") or time.time())
            record.put("failed", name, None)
            before = record.of_deployments("pending").get(name)
            if before is not None:
                # What was new for the one before is new still: it was never ready.
                pending["new"] = pending["new"] or before["new"]
                pending["new_endpoint"] = pending["new_endpoint"] or before["new_endpoint"]
            record.put("pending", name, pending)
        return None if before is None or before["label"] == pending["label"] else str(before["label"])

    def begin(self, record: Record) -> None:
        """Take the next steps, and leave the others to a thread: this process's, while it lives."""
        with locked(record):
            steps = self._steps(record)
            if not steps or str(record.path) in _going:
                return
            _going.add(str(record.path))

        def until_the_end() -> None:
            try:
                self._until_none_is_left(record)
            except Exception:  # it is tried again by whoever asks for the endpoint next
                _going.discard(str(record.path))

        threading.Thread(target=until_the_end, name=f"dbml-deploy-{record.name}", daemon=True).start()

    def _until_none_is_left(self, record: Record) -> None:
        while True:
            with locked(record):
                steps = self._steps(record)
                if not steps:  # under the lock: what is remembered after this begins a thread of its own
                    _going.discard(str(record.path))
                    return
            every(min(step.pause for step in steps), lambda: None)

    def _steps(self, record: Record) -> list[_Step]:
        """Advance each deployment that no process waits for; the record keeps failures."""
        found = []
        for name, pending in record.of_deployments("pending").items():
            if pending["wait"] and processes.runs(int(pending["pid"]), str(pending["started"])):
                continue
            with contextlib.suppress(DeploymentFailed, NotPermitted, BadCommand):
                step = self.advance(record, name)
                found += [step] if step is not None else []
        return found

    def until_done(self, record: Record, name: str, say: Say) -> None:
        """Take a deployment's steps one after the other. Raises as :meth:`advance`."""
        while True:
            with locked(record):
                step = self.advance(record, name)
            if step is None:
                return
            doing = step.doing
            every(step.pause, lambda said=doing: say(said))  # type: ignore[misc]

    def go_on(self, record: Record) -> None:
        """Resume deployments that another process, or a thread that ended, has begun."""
        if str(record.path) not in _going and record.of_deployments("pending"):
            self.begin(record)

    def advance(self, record: Record, name: str) -> _Step | None:
        """Advance a pending deployment by one step; None when it is complete.

        Raises DeploymentFailed, NotPermitted, BadCommand.
        """
        pending = record.of_deployments("pending").get(name)
        if not pending:
            return None
        try:
            step = self._next(record, pending)
        except ServiceRefusal as error:
            if error.said.status == 409:  # somebody else's operation, or our own from before
                return self._wait_for(record, pending, "waiting for another operation to end")
            raise self._given_up(record, pending, str(error)) from error
        except (NotPermitted, BadCommand) as error:
            if isinstance(error, NotPermitted):  # BadCommand is about its traffic: it is ready without any
                self._clean_up(record, pending)
            self._over(record, pending, error.message)
            raise
        if step is None:
            record.put("pending", name, None)
        return step

    def _next(self, record: Record, pending: PendingDeployment) -> _Step | None:
        if operation := pending.get("operation"):
            answer = self.api.rest.operation(operation)
            if answer is not None and answer.failure:
                raise self._given_up(record, pending, words(answer.failure))
            if answer is not None and not answer.is_over:
                return self._wait_for(record, pending, pending["doing"], answer)
            pending["operation"] = None
            record.put("pending", pending["deployment"], pending)
        shown = self.api.get(record.name)
        if shown is None:
            if pending["endpoint"] is None:
                raise self._given_up(record, pending, "the endpoint was deleted meanwhile")
            if pending.get("made"):
                return self._wait_for(record, pending, "waiting for the endpoint to appear")
            answer = self.api.put(record.name, pending["endpoint"])
            pending["made"] = True
            return self._under_way(record, pending, answer, "creating the endpoint")
        state = state_of(shown)
        if state == "failed":
            raise self._given_up(record, pending, "the endpoint could not be created")
        if state != "ready":
            return self._wait_for(record, pending, f"{state} the endpoint")
        if not pending.get("put"):
            answer = self.api.put(record.name, pending["body"], pending["deployment"])
            pending["put"] = True
            return self._under_way(record, pending, answer, "starting the deployment")
        return self._traffic_step(record, pending, shown)

    def _traffic_step(self, record: Record, pending: PendingDeployment, shown: ArmResource) -> _Step | None:
        made = self.api.get(record.name, pending["deployment"])
        state = state_of(made or {})
        if made is None or state == "failed":
            raise self._given_up(record, pending, "it did not become ready")
        if state != "ready":
            return self._wait_for(record, pending, f"{state} the deployment")
        before = traffic_of(shown)
        percent = pending["traffic"]
        if percent is None and not any(before.values()):
            earlier = next(iter(record.of_deployments("pending")))
            if earlier != pending["deployment"]:  # the first one of an endpoint gets the requests
                return self._wait_for(record, pending, f"waiting for {earlier}")
            percent = 100
        again = _again(pending)
        line = (
            again if isinstance(again, Remedy) else Remedy("deploy", "MODEL", to="online", name=record.name)
        )
        wanted = before if percent is None else with_share(before, pending["deployment"], percent, line)
        what: dict[str, dict[str, int]] = {}
        if wanted != before:
            what["traffic"] = self.api.every_one(record.name, wanted)
        mirror = pending.get("mirror")
        if mirror and mirror != (shown["properties"].get("mirrorTraffic") or {}):
            what["mirrorTraffic"] = mirror
        if not what:
            return None
        return self._under_way(
            record, pending, self.api.put_traffic(record.name, shown, **what), "setting the traffic"
        )

    def _under_way(
        self, record: Record, pending: PendingDeployment, answer: Answer | None, doing: str
    ) -> _Step:
        pending["operation"], pending["doing"] = answer.operation if answer else None, doing
        pending["limit"] = answer.limit if answer else _WAIT_S
        record.put("pending", pending["deployment"], pending)
        return self._wait_for(record, pending, doing, answer)

    def _wait_for(
        self, record: Record, pending: PendingDeployment, doing: str, answer: Answer | None = None
    ) -> _Step:
        """Wait for something once more. Raises DeploymentFailed when it has been waited for too long.

        Each thing has a time of its own, from when it was first waited for: so no two of them that take turns
        go on for ever. ``answer`` is about an operation, which has as long as the service says.
        """
        began, now = pending.setdefault("waits", {}), time.time()
        if doing not in began:
            began[doing] = now
            record.put("pending", pending["deployment"], pending)
        waited = now - began[doing]
        limit = _LIMITS.get(doing, _WAIT_S) if answer is None else pending.get("limit", _WAIT_S)
        if waited > limit:
            raise self._given_up(record, pending, f"{doing} took longer than {limit / 60:g} minutes")
        return _Step(doing, _PAUSE_S if answer is None else answer.pause(waited))

    def _given_up(self, record: Record, pending: PendingDeployment, why: str) -> DeploymentFailed:
        """Return why the deployment failed, with its container's last lines; delete what it created."""
        lines: list[str] = []
        if pending.get("put"):
            with contextlib.suppress(DbmlError):
                lines = self.api.log(record.name, pending["deployment"], _LOG_LINES)
        error = failed(pending["label"], record.name, self.target, _again(pending), why, lines)
        if pending["wait"]:
            self._clean_up(record, pending)
        self._over(record, pending, error.message.splitlines()[0], lines)
        return error

    def _over(self, record: Record, pending: PendingDeployment, why: str, lines: Sequence[str] = ()) -> None:
        """Drop a pending deployment; keep the cause for a caller who did not wait."""
        name = pending["deployment"]
        record.put("pending", name, None)
        if not pending["wait"]:
            failure: FailedDeployment = {
                "why": why,
                "label": pending["label"],
                "log": [masked(line) for line in lines],
            }
            record.put("failed", name, failure)

    def _clean_up(self, record: Record, pending: PendingDeployment) -> None:
        """Delete the resources of a failed deployment; an update's old model keeps serving."""
        with contextlib.suppress(DbmlError, ServiceRefusal):
            names = {d["name"] for d in self.api.deployments(record.name)} | {
                *record.of_deployments("pending")
            }
            if pending["new_endpoint"] and not names - {pending["deployment"]}:
                self.api.delete(record.name)
            elif pending["new"]:
                self.api.delete(record.name, pending["deployment"])


def _again(pending: PendingDeployment) -> str:
    """Return the command that deploys once more; a record of an earlier version has its line alone."""
    again = pending.get("again")
    return pending["line"] if again is None else Remedy("deploy", *again["values"], **again["options"])
