"""Where probes work: a throw-away experiment at one workspace, its runs, and what has to be deleted after."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException

from dbml_magics.core import hosts
from dbml_magics.core.destinations import rest
from dbml_magics.core.destinations.errors import MissingEndpoint, Unavailable, classify_error
from dbml_magics.core.destinations.rates import backfill
from dbml_magics.core.doctor.probes.facts import Fact, Found
from dbml_magics.core.doctor.probes.made import Made, Note

if TYPE_CHECKING:
    import requests

    from dbml_magics.core.destinations.kinds import RemoteWorkspace

__all__ = [
    "PREFIX",
    "Answer",
    "Measured",
    "NotMeasured",
    "Probe",
    "Sandbox",
    "deadline",
    "rest_message",
    "seconds_left",
]

PREFIX = "dbml-probe-"
_API = "/api/2.0/mlflow/"
_CALL_S = 30.0
_until: ContextVar[float] = ContextVar("dbml_probe_until", default=float("inf"))


class NotMeasured(Exception):
    """A probe that has no answer here; its text says why."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Bound all that a step asks for inside, in seconds."""
    token = _until.set(time.monotonic() + seconds)
    try:
        with rest.call_timeout(min(_CALL_S, seconds)):
            yield
    finally:
        _until.reset(token)


def seconds_left() -> float:
    """Return how long the next request of a step may take. Raises NotMeasured where its time is up."""
    left = _until.get() - time.monotonic()
    if left <= 0:
        raise NotMeasured("its time was up")
    return min(left, _CALL_S)


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
        """Return the refusal; whole, since half an id has not the look of one."""
        return " ".join(f"{self.status} {self.code} {self.message}".split())


@dataclass(frozen=True)
class Measured:
    """What a probe found, in the words of its fact or as a figure, and more about it."""

    found: Found
    more: str = ""


@dataclass(frozen=True)
class Probe:
    """One question to a service; its facts have its name."""

    name: str
    measure: Callable[[Sandbox], Measured]
    seconds: float = 60.0  # at most


class Sandbox:
    """A throw-away experiment at one workspace. Close it: what it made is deleted then."""

    def __init__(self, workspace: RemoteWorkspace, schema: str = "") -> None:
        self.workspace = workspace
        self.schema = schema  # of Unity Catalog, where models may be made
        self.name = f"{PREFIX}{secrets.token_hex(4)}"
        self.learnt: dict[str, str] = {}
        """What earlier probes saw, for later ones."""
        self.runs: list[str] = []
        self._experiment: str | None = None
        self._run: str | None = None
        self._note: Note | None = None
        self._made: list[Made] = []
        self._stopped = False

    # --- asking

    def left(self) -> float:
        """Return how long the next request may take. Raises NotMeasured where there is to be none."""
        if self._stopped:
            raise NotMeasured("it was interrupted")
        return seconds_left()

    def ask(self, method: str, call: str, body: Mapping[str, object] | None = None) -> Answer:
        """Make one call of MLflow's REST interface, past everything that the package does about limits.

        A ``call`` that begins with a slash is another one of the service's.
        """
        kwargs: dict[str, object] = {"params": body} if method == "GET" else {"json": dict(body or {})}
        path = call if call.startswith("/") else _API + call
        for pause in (1.0, 4.0, None):
            try:
                with backfill(), rest.call_timeout(self.left()):
                    response = rest.request(self.workspace.creds(), path, method, **kwargs)
                break
            except MissingEndpoint:
                return Answer(404, "ENDPOINT_NOT_FOUND", "")
            except Unavailable as error:
                if error.denied or pause is None or error.retry_after is None:
                    raise NotMeasured(error.reason) from error
                time.sleep(min(max(pause, error.retry_after), self.left()))
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

    def send(self, method: str, url: str, token: str | None = None, **more: Any) -> requests.Response:
        """Make one request anywhere, whatever is answered. Raises NotMeasured."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            return hosts.session().request(
                method, url, headers=headers, timeout=self.left(), allow_redirects=False, **more
            )
        except OSError as error:  # requests' own errors are
            raise NotMeasured(f"it does not answer: {classify_error(error)}") from error

    # --- what probes work in

    @property
    def experiment(self) -> str:
        """Return the throw-away experiment's id, made at the first call."""
        if self._experiment is None:
            self._experiment = self.new_experiment(self.workspace.experiment_name(self.name))
        return self._experiment

    def new_experiment(self, name: str) -> str:
        """Make an experiment by its name there, and return its id."""
        self.note("experiment", name)
        self.left()
        try:
            return str(self.workspace.tracking.create_experiment(name, None, []))
        except Exception as error:
            raise NotMeasured(f"no experiment can be made there: {classify_error(error)}") from error

    @property
    def run(self) -> str:
        """Return a run for whatever does not need one of its own."""
        if self._run is None:
            self._run = self.new_run()
        return self._run

    def new_run(self, **more: object) -> str:
        """Return a new run's id."""
        asked = {"experiment_id": self.experiment, "start_time": int(time.time() * 1000), **more}
        made = str(self.must("POST", "runs/create", asked)["run"]["info"]["run_id"])
        self.runs.append(made)
        return made

    def batch(self, run: str, **items: object) -> Answer:
        """Send one batch."""
        return self.ask("POST", "runs/log-batch", {"run_id": run, **items})

    def data_of(self, run: str) -> Mapping[str, list[dict[str, str]]]:
        """Return what a run has, read once: metrics, params, tags."""
        found: Mapping[str, list[dict[str, str]]] = self.must("GET", "runs/get", {"run_id": run})["run"][
            "data"
        ]
        return found

    def model(self, suffix: str) -> Answer:
        """Make a registered model whose name begins with the sandbox's."""
        name = self.name + suffix
        self.note("model", name)
        return self.ask("POST", "registered-models/create", {"name": name})

    # --- what has to be deleted

    def note(self, what: str, name: str) -> None:
        """Note on this disk what is about to be made."""
        if self._stopped:
            raise NotMeasured("it was interrupted")
        if (what, name) in self._made:
            return
        if self._note is None:
            self._note = Note.new(self.workspace, self.name)
        self._note.add((what, name))
        self._made.append((what, name))

    def take_over(self, note: Note | None, made: Iterable[Made]) -> None:
        """Be what deletes that, whoever made it."""
        self._note, self._made = note, list(made)

    def stopped(self) -> Sandbox:
        """Refuse every further request of the steps; returns what deletes what they made."""
        self._stopped = True
        closing = Sandbox(self.workspace, self.schema)
        closing.runs = self.runs
        closing.take_over(self._note, self._made)
        return closing

    @property
    def made(self) -> tuple[Made, ...]:
        """Return what was noted, the oldest first."""
        return tuple(self._made)

    def forget(self, left: list[Made]) -> None:
        """End the note, or leave in it what could not be deleted."""
        self._made = left
        if self._note is not None:
            self._note.close(done=not left)
            self._note = None

    # --- searching for a limit

    def largest(self, take: Callable[[int], bool], fact: Fact) -> Measured:
        """Return the largest number that is taken, by bisection. Raises NotMeasured."""
        expected = fact.bound
        assert expected is not None
        most = expected if fact.is_least else 2 * expected + 20
        if not take(expected):
            if not take(1):
                raise NotMeasured("not even one is taken")
            return Measured(_between(take, 1, expected))
        if fact.is_least or not take(expected + 1):
            return Measured(expected)
        return Measured(most, "or more") if take(most) else Measured(_between(take, expected + 1, most))


def _between(take: Callable[[int], bool], low: int, high: int) -> int:
    """Return the largest number that is taken: ``low`` is, ``high`` is not."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if take(middle) else (low, middle)
    return low


def rest_message(body: Mapping[str, object]) -> str:
    """Return the message of a refusal in Azure's own forms."""
    nested = body.get("error") or body.get("Error")
    inner = nested if isinstance(nested, dict) else {}
    return str(inner.get("message") or inner.get("Message") or "")
