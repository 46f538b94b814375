"""A session without workspaces: it remembers what it was asked, and answers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dbml_magics import results
from dbml_magics.errors import DeliveryIncomplete, NoModel, NothingRemembered

DESTINATIONS = (
    results.Destination("databricks", "mlflow", "sqlite:///db", "local  .dbml/databricks"),
    results.Destination("azureml", "mlflow", "sqlite:///aml", "local  .dbml/azureml"),
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

    def end(
        self, status: str = "FINISHED", *, params: Mapping[str, Any] | None = None
    ) -> results.TrackSummary:
        assert self.status is None, "a run ends once"
        self.status, self.params = status, dict(params or {})
        shown = {key: str(value) for key, value in {"n_estimators": 20, **self.params}.items()}
        summary = results.TrackSummary(
            run_id=self.run_id,
            name=self.name,
            experiment="wine",
            status=status,
            seconds=2.1,
            params=shown,
            metrics=(results.MetricSummary("loss", 0.25, 4, (1.0, 0.5, 0.3, 0.25)),),
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
        self.rows: tuple[results.RunRow, ...] = (
            results.RunRow("a" * 32, "forest", "wine", "FINISHED", 1_700_000_000_000, 1_700_000_002_100),
        )
        self.letters: tuple[results.DeadLetter, ...] = (
            results.DeadLetter(
                3, "azureml", "a" * 32, "forest", "param depth", "too long", 1_700_000_000_000
            ),
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
        track: str = "both",
        registry: str | None = None,
        mode: str = "journal",
        again: bool = False,
    ) -> results.LinkStatus:
        self._called(
            "link",
            local=local,
            databricks=databricks,
            azureml=azureml,
            track=track,
            registry=registry,
            mode=mode,
            again=again,
        )
        if again and not self.remembered:
            raise NothingRemembered("no link is remembered for this folder.", remedies=["%dbml link --local"])
        self.linked = True
        return replace(self.status(), fresh=True)

    def unlink(self) -> results.UnlinkResult:
        self._called("unlink")
        self.linked = False
        return results.UnlinkResult(
            "sqlite:///mlflow.db", "sqlite:///mlflow.db", {"databricks": 0, "azureml": 3}
        )

    def status(self) -> results.LinkStatus:
        self._called("status")
        return results.LinkStatus("dbml:x", "both", "databricks", "journal", self.destinations, "/folder")

    def experiment(self, name: str) -> results.ExperimentResult:
        self._called("experiment", name=name)
        return results.ExperimentResult(name, "1", {"databricks": f"/Users/me/{name}", "azureml": name}, True)

    def runs(
        self,
        experiment: str | None = None,
        *,
        filter: str = "",  # noqa: A002
        order_by: Sequence[str] = (),
        max_results: int = 20,
    ) -> results.RunsResult:
        self._called("runs", experiment=experiment, filter=filter, order_by=order_by, max_results=max_results)
        return results.RunsResult(self.rows[:max_results], experiment or "wine")

    def compare(self, *given: str, metrics: Sequence[str] = ()) -> results.CompareResult:
        self._called("compare", given=given, metrics=metrics)
        return results.CompareResult(tuple(replace(self.rows[0], run_id=run) for run in given), ("loss",), {})

    def register(
        self,
        run: str,
        name: str,
        *,
        path: str | None = None,
        to: str | None = None,
        aliases: Iterable[str] = (),
        tags: Mapping[str, str] | None = None,
    ) -> results.RegisterResult:
        self._called("register", run=run, name=name, path=path, to=to, aliases=tuple(aliases), tags=tags)
        version = results.ModelVersion("databricks", name, "1", "a" * 32, tuple(aliases))
        return results.RegisterResult(name, "a" * 32, (version,), True)

    def models(self, name: str | None = None) -> results.ModelsResult:
        self._called("models", name=name)
        return results.ModelsResult(name, (results.ModelVersion("databricks", name or "wine", "1"),))

    def sync(
        self,
        timeout: float | None = None,
        *,
        progress: Callable[[Mapping[str, int], float], None] | None = None,
    ) -> results.SyncResult:
        self._called("sync", timeout=timeout)
        if progress is not None:
            progress({"databricks": 0, "azureml": 1204}, 350.0)
            progress({"databricks": 0, "azureml": 12}, 400.0)
        if self.sync_raises is not None:
            raise self.sync_raises
        if timeout == 0:
            raise DeliveryIncomplete("12 writes are still on their way to azureml.", remedies=["%dbml sync"])
        return results.SyncResult({"databricks": 1204, "azureml": 1204}, {}, 3.2)

    def dead_letters(self, run: str | None = None) -> results.DeadLetters:
        self._called("dead_letters", run=run)
        return results.DeadLetters(self.letters)

    def retry_dead_letters(
        self,
        run: str | None = None,
        *,
        timeout: float | None = None,
        progress: Callable[[Mapping[str, int], float], None] | None = None,
    ) -> results.RetryResult:
        self._called("retry_dead_letters", run=run, timeout=timeout)
        return results.RetryResult(arrived={"azureml": len(self.letters)}, refused=(), waiting=())

    def discard_dead_letters(
        self, confirm: int | None = None, *, run: str | None = None
    ) -> results.DiscardResult:
        self._called("discard_dead_letters", confirm=confirm, run=run)
        return results.DiscardResult(self.letters)

    def ui(self, *, stop: bool = False) -> results.UiResult:
        self._called("ui", stop=stop)
        page = results.UiPage("databricks", "http://127.0.0.1:5000", "stopped" if stop else "started")
        return results.UiResult((page,), stopped=stop)

    def begin_track(self, name: str | None = None, **settings: Any) -> FakeTrack:
        self._called("begin_track", name=name, **settings)
        track = FakeTrack(self, name, settings)
        self.tracks.append(track)
        return track

    def known_runs(self) -> list[tuple[str, str]]:
        return [("a1" * 16, "forest"), ("b2" * 16, "boosted")]

    def known_models(self) -> list[str]:
        return ["wine", "whisky", "beer"]

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
