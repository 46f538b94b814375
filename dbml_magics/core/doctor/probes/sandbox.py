"""Where probes work: a throw-away experiment at one workspace, its runs, and what has to be deleted after."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException

from dbml_magics.core.destinations import rest
from dbml_magics.core.destinations.errors import MissingEndpoint, Unavailable, classify_error
from dbml_magics.core.destinations.kinds import is_azureml, is_databricks
from dbml_magics.core.destinations.rates import backfill

if TYPE_CHECKING:
    from dbml_magics.core.destinations.base import Workspace
    from dbml_magics.core.destinations.kinds import RemoteWorkspace

__all__ = ["PREFIX", "Answer", "Measured", "NotMeasured", "Probe", "Sandbox", "rest_message"]

PREFIX = "dbml-probe-"
_API = "/api/2.0/mlflow/"
_CALL_S = 30.0


class NotMeasured(Exception):
    """A probe that has no answer here; its text says why."""


@dataclass(frozen=True)
class Answer:
    """What a service said to one request."""

    status: int
    code: str
    message: str
    body: Any = None  # the JSON of the answer; each call has a form of its own

    @property
    def taken(self) -> bool:
        """Tell whether it did what was asked."""
        return self.status == 200

    @property
    def said(self) -> str:
        """Return the refusal in a few words."""
        return " ".join(f"{self.status} {self.code} {self.message}".split())[:200]


@dataclass(frozen=True)
class Measured:
    """What a probe found: in words, and whether that is as assumed (None: nothing is)."""

    words: str
    agrees: bool | None = None


@dataclass(frozen=True)
class Probe:
    """One question to a service."""

    name: str
    asks: str
    kinds: tuple[str, ...]  # of workspaces
    assumed: Callable[[Workspace], str]
    measure: Callable[[Sandbox], Measured]


class Sandbox:
    """A throw-away experiment at one workspace. Close it: what it made is deleted then."""

    def __init__(self, workspace: RemoteWorkspace) -> None:
        self.workspace = workspace
        self.name = f"{PREFIX}{secrets.token_hex(4)}"
        self.learnt: dict[str, int] = {}
        """What earlier probes measured, for later ones: the size of a batch."""
        self._experiment: str | None = None
        self._run: str | None = None
        self._undo: list[tuple[str, Callable[[], object]]] = []

    # --- asking

    def ask(self, method: str, call: str, body: Mapping[str, object] | None = None) -> Answer:
        """Make one call of MLflow's REST interface, past everything that the package does about limits."""
        kwargs: dict[str, object] = {"params": body} if method == "GET" else {"json": dict(body or {})}
        for pause in (1.0, 4.0, None):
            try:
                with backfill(), rest.call_timeout(_CALL_S):
                    response = rest.request(self.workspace.creds(), _API + call, method, **kwargs)
                break
            except MissingEndpoint:
                return Answer(404, "ENDPOINT_NOT_FOUND", "")
            except Unavailable as error:
                if error.denied or pause is None or error.retry_after is None:
                    raise NotMeasured(error.reason) from error
                time.sleep(max(pause, error.retry_after))
            except MlflowException as error:  # a refusal that the workspace's own judge has read
                code = str(error.error_code)
                return Answer(400, code, str(error.message).removeprefix(f"{code}: "))
        try:
            parsed = json.loads(response.text)
        except ValueError:
            parsed = None
        found = parsed if isinstance(parsed, dict) else {}
        return Answer(
            response.status_code,
            str(found.get("error_code", "")),
            str(found.get("message") or "") or rest_message(found),
            parsed,
        )

    def must(self, method: str, call: str, body: Mapping[str, object] | None = None) -> Any:
        """Make a call that a probe needs before it can ask its question. Raises NotMeasured."""
        answer = self.ask(method, call, body)
        if not answer.taken:
            raise NotMeasured(f"{call} is refused: {answer.said}")
        return answer.body

    # --- what probes work in

    @property
    def experiment(self) -> str:
        """Return the throw-away experiment's id, made at the first call."""
        if self._experiment is None:
            name = self.workspace.experiment_name(self.name)
            try:
                made = str(self.workspace.tracking.create_experiment(name, None, []))
            except Exception as error:
                raise NotMeasured(f"no experiment can be made there: {classify_error(error)}") from error
            self._experiment = made
            self.later(f"experiment {name}", lambda: self._delete_experiment(made))
        return self._experiment

    def _delete_experiment(self, own: str) -> None:
        for run in self.must("POST", "runs/search", {"experiment_ids": [own], "max_results": 200}).get(
            "runs", []
        ):
            self.must("POST", "runs/delete", {"run_id": run["info"]["run_id"]})
        self.must("POST", "experiments/delete", {"experiment_id": own})

    @property
    def run(self) -> str:
        """Return a run for whatever does not need one of its own."""
        if self._run is None:
            self._run = self.new_run()
        return self._run

    def new_run(self, **more: object) -> str:
        """Return a new run's id."""
        asked = {"experiment_id": self.experiment, "start_time": int(time.time() * 1000), **more}
        return str(self.must("POST", "runs/create", asked)["run"]["info"]["run_id"])

    def batch(self, run: str, **items: object) -> Answer:
        """Send one batch."""
        return self.ask("POST", "runs/log-batch", {"run_id": run, **items})

    def later(self, what: str, undo: Callable[[], object]) -> None:
        """Note what has to be deleted when all is done."""
        self._undo.append((what, undo))

    def close(self) -> list[str]:
        """Delete what was made, the newest first; returns what could not be."""
        left = []
        for what, undo in reversed(self._undo):
            try:
                undo()
            except Exception as error:
                left.append(f"{what} at {self.workspace.role} ({' '.join(str(error).split())[:160]})")
        self._undo = []
        return left

    def without_names(self, text: str) -> str:
        """Return a text without the names of workspaces, people and runs."""
        workspace = self.workspace
        named = {self.name: "PROBE", str(self._run): "RUN", str(self._experiment): "EXPERIMENT"}
        if is_azureml(workspace):
            own = workspace.id
            named |= {own.subscription: "SUBSCRIPTION", workspace.host: "HOST"}
            named |= {f"/{own.group}": "/GROUP", f"'{own.name}'": "'WORKSPACE'", f"/{own.name}": "/WORKSPACE"}
        if is_databricks(workspace):
            named |= {str(workspace.known_user): "USER", str(workspace.config.host): "HOST"}
        for name, word in named.items():
            if len(name) > 3 and name != "None":
                text = text.replace(name, word)
        return text

    # --- searching for a limit

    def largest(self, take: Callable[[int], bool], most: int, least: int = 1) -> int:
        """Return the largest number up to ``most`` that is taken, by bisection. Raises NotMeasured."""
        if take(most):
            return most
        if not take(least):
            raise NotMeasured(f"not even {least:,} is taken")
        low, high = least, most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if take(middle) else (low, middle)
        return low


def rest_message(body: Mapping[str, object]) -> str:
    """Return the message of a refusal in Azure's own forms."""
    nested = body.get("error") or body.get("Error")
    inner = nested if isinstance(nested, dict) else {}
    return str(inner.get("message") or inner.get("Message") or "")
