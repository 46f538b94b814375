"""How a service behaves where its documents are silent: points sent twice, searches, experiments, files."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dbml_magics.core.destinations.errors import classify_error
from dbml_magics.core.doctor.probes.facts import fact
from dbml_magics.core.doctor.probes.sandbox import Answer, Measured, NotMeasured, Probe, Sandbox

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

__all__ = ["PROBES", "repository", "through"]

T = TypeVar("T")

_PAUSE_S = 0.25
_SIZE = 1_000_000


def _point(key: str = "m", value: float = 1.0, step: int = 0) -> dict[str, object]:
    return {"key": key, "value": value, "timestamp": 1_700_000_000_000 + step, "step": step}


def _taken(answer: Answer) -> Measured:
    return Measured("taken" if answer.taken else "refused", "" if answer.taken else answer.said)


def _there(answer: Answer) -> Measured:
    """Tell whether a call is there: one that is not has no words of the service's."""
    lacks = answer.code == "ENDPOINT_NOT_FOUND" or (answer.status == 404 and not answer.message)
    return Measured("absent" if lacks else "there", "" if answer.taken else answer.said)


# --- runs


def _points_twice(sandbox: Sandbox) -> Measured:
    run = sandbox.new_run()
    for _ in range(2):
        answer = sandbox.batch(run, metrics=[_point()])
        if not answer.taken:
            return Measured("the second time is refused", answer.said)
    found = _history(sandbox, run, "m")
    return Measured({1: "kept once", 2: "there twice"}.get(found, f"there {found} times"))


def _history(sandbox: Sandbox, run: str, key: str) -> int:
    asked = {"run_id": run, "metric_key": key, "max_results": 100}
    return len(sandbox.must("GET", "metrics/get-history", asked).get("metrics") or [])


def _param_again(sandbox: Sandbox) -> Measured:
    run = sandbox.new_run()
    sandbox.batch(run, params=[{"key": "p", "value": "1"}])
    answer = sandbox.batch(run, params=[{"key": "p", "value": "2"}, {"key": "q", "value": "1"}])
    if answer.taken:
        return Measured("taken")
    whole = not any(each["key"] == "q" for each in sandbox.data_of(run).get("params") or [])
    return Measured("refused", "with its whole batch" if whole else "the rest of its batch was kept")


def _run_read(sandbox: Sandbox) -> Measured:
    run = sandbox.new_run()
    wrote: dict[str, list[dict[str, object]]] = {
        "metrics": [_point("read")],
        **{what: [{"key": "k", "value": "v"}] for what in ("params", "tags")},
    }
    if not (answer := sandbox.batch(run, **wrote)).taken:
        raise NotMeasured(answer.said)
    found = sandbox.data_of(run)
    lacks = [
        what
        for what, items in wrote.items()
        if not any(each["key"] == item["key"] for each in found.get(what) or [] for item in items)
    ]
    return Measured("at once" if not lacks else f"lacks {', '.join(lacks)}")


def _until_shown(name: str, sandbox: Sandbox, shown: Callable[[], bool]) -> Measured:
    """Measure how long it takes until something is shown."""
    most = (fact(str(sandbox.workspace.kind), name).bound or 0) + 10
    began = time.monotonic()
    while not shown():
        if time.monotonic() - began > most:
            return Measured(most, "or more")
        time.sleep(_PAUSE_S)
    return Measured(round(time.monotonic() - began, 1))


def _history_lag(sandbox: Sandbox) -> Measured:
    run = sandbox.new_run()
    sandbox.batch(run, metrics=[_point("lag")])
    return _until_shown("history-lag", sandbox, lambda: _history(sandbox, run, "lag") > 0)


def _search_lag(sandbox: Sandbox) -> Measured:
    run = sandbox.new_run()
    sandbox.batch(run, metrics=[_point("lag")])

    def shown() -> bool:
        asked = {"experiment_ids": [sandbox.experiment], "filter": "metrics.lag > 0", "max_results": 100}
        found = sandbox.must("POST", "runs/search", asked).get("runs") or []
        return any(each["info"]["run_id"] == run and each["data"].get("metrics") for each in found)

    return _until_shown("search-lag", sandbox, shown)


def _search(sandbox: Sandbox, **more: object) -> Answer:
    asked = {"experiment_ids": [sandbox.experiment], "max_results": 10, **more}
    return sandbox.ask("POST", "runs/search", asked)


def _order_by(sandbox: Sandbox) -> Measured:
    sandbox.batch(sandbox.run, metrics=[_point("sorted")])
    return _taken(_search(sandbox, order_by=["metrics.sorted DESC"]))


def _filter_or(sandbox: Sandbox) -> Measured:
    return _taken(_search(sandbox, filter="metrics.m > 1 OR metrics.m < 0"))


def _inputs(sandbox: Sandbox) -> Measured:
    dataset = {"name": "d", "digest": "1", "source_type": "local", "source": "{}"}
    asked = {"run_id": sandbox.run, "datasets": [{"dataset": dataset, "tags": []}]}
    return _taken(sandbox.ask("POST", "runs/log-inputs", asked))


# --- experiments


def _experiment_with_runs(sandbox: Sandbox) -> Measured:
    made = sandbox.new_experiment(sandbox.workspace.experiment_name(f"{sandbox.name}-full"))
    sandbox.must("POST", "runs/create", {"experiment_id": made, "start_time": 1})
    answer = sandbox.ask("POST", "experiments/delete", {"experiment_id": made})
    return Measured("deleted") if answer.taken else Measured("refused", answer.said)


def _logged_models(sandbox: Sandbox) -> Measured:
    answer = sandbox.ask("POST", "logged-models", {"experiment_id": sandbox.experiment, "name": "probe"})
    if answer.taken:
        own = str(answer.body["model"]["info"]["model_id"])
        sandbox.note("logged-model", own)
        sandbox.learnt["logged-model"] = own
    return _there(answer)


def _model_metrics(sandbox: Sandbox) -> Measured:
    if "logged-model" not in sandbox.learnt:
        _logged_models(sandbox)
    model = sandbox.learnt.get("logged-model")
    if model is None:
        raise NotMeasured("it has no logged models")
    most = fact(str(sandbox.workspace.kind), "model-metrics").bound or 1000
    logged = 0
    while logged <= most:
        count = min(500, most - logged) or 1
        points = [{**_point(f"m{logged + n}"), "model_id": model} for n in range(count)]
        answer = sandbox.batch(sandbox.run, metrics=points)
        if not answer.taken:
            return Measured(logged, answer.said)
        logged += count
    return Measured(logged, "or more")


# --- files


def _artifact_uri(sandbox: Sandbox) -> Measured:
    run = sandbox.must("GET", "runs/get", {"run_id": sandbox.run})["run"]
    uri = str(run["info"]["artifact_uri"])
    if sandbox.workspace.kind == "databricks":
        root = "dbfs:/databricks/mlflow-tracking/"
        return Measured(root) if uri.startswith(root) else Measured("elsewhere", uri)
    by_id = f"/experiments/{sandbox.experiment}/runs/" in uri
    by_name = f"/experiments/{sandbox.name}/runs/" in uri
    found = "the experiment's id" if by_id else "the experiment's name" if by_name else "neither"
    return Measured(found, uri)


def _files(sandbox: Sandbox) -> Measured:
    files = repository(sandbox)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "probe.bin")
        file.write_bytes(b"x" * _SIZE)
        began = time.monotonic()
        through(lambda: sandbox.workspace.upload(files, file, "probe"))
        up = time.monotonic() - began
        found = [each.path for each in through(lambda: files.list_artifacts("probe"))]
        if found != ["probe/probe.bin"]:
            return Measured("not listed under its path", f"1 MB up in {up:.1f} s")
        began = time.monotonic()
        there = through(lambda: files.download_artifacts("probe/probe.bin", folder))
        down = time.monotonic() - began
        whole = Path(str(there)).stat().st_size == _SIZE
    return Measured("whole" if whole else "not whole", f"1 MB up in {up:.1f} s, down in {down:.1f} s")


def _files_twice(sandbox: Sandbox) -> Measured:
    files = repository(sandbox)
    got: list[str | None] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "twice.txt")
        for content in ("one", "two"):
            file.write_text(content)
            got.append(through(lambda: sandbox.workspace.upload(files, file, None)))
        if got[-1] is not None:
            return Measured("write-once")
        there = Path(str(through(lambda: files.download_artifacts("twice.txt", folder))))
        return Measured("overwritten" if there.read_text() == "two" else "the first one is kept")


def repository(sandbox: Sandbox) -> ArtifactRepository:
    """Return the repository of the sandbox's run."""
    run = sandbox.must("GET", "runs/get", {"run_id": sandbox.run})["run"]
    return sandbox.workspace.artifacts(run["info"]["artifact_uri"])


def through(step: Callable[[], T]) -> T:
    """Do something with files. Raises NotMeasured where the service refuses."""
    try:
        return step()
    except Exception as error:
        raise NotMeasured(f"files are refused: {classify_error(error)}") from error


# --- the registry


def _models_own(sandbox: Sandbox) -> str:
    """Return the registered model that several probes ask about, made once."""
    if "model" not in sandbox.learnt:
        made = sandbox.model("-calls")
        if not made.taken:
            raise NotMeasured(f"no registered model can be made: {made.said}")
        sandbox.learnt["model"] = f"{sandbox.name}-calls"
    return sandbox.learnt["model"]


def _model_names(sandbox: Sandbox) -> Measured:
    taken = [name for name in ("a_b", "a.b", "a b") if sandbox.model(f"-{name}").taken]
    return Measured(", ".join(taken) or "none")


def _model_rename(sandbox: Sandbox) -> Measured:
    name = _models_own(sandbox)
    new = f"{name}-2"
    sandbox.note("model", new)
    answer = sandbox.ask("POST", "registered-models/rename", {"name": name, "new_name": new})
    if answer.taken:
        sandbox.learnt["model"] = new
    return _there(answer)


def _model_aliases(sandbox: Sandbox) -> Measured:
    asked = {"name": _models_own(sandbox), "alias": "none"}
    return _there(sandbox.ask("GET", "registered-models/alias", asked))


def _registry_aliases(sandbox: Sandbox) -> Measured:
    answer = sandbox.ask("GET", "registered-models/alias", {"name": _models_own(sandbox), "alias": "none"})
    return Measured("taken" if answer.taken else answer.code or str(answer.status), answer.message)


def _model_search(text: str) -> Callable[[Sandbox], Measured]:
    def measure(sandbox: Sandbox) -> Measured:
        asked = {"filter": text, "max_results": 1}
        return _taken(sandbox.ask("GET", "registered-models/search", asked))

    return measure


def _model_tag_key(sandbox: Sandbox) -> Measured:
    name = _models_own(sandbox)
    taken = [
        key
        for key in ("a_b", "a.b", "a-b", "a/b", "a:b", "a=b", "a,b")
        if sandbox.ask("POST", "registered-models/set-tag", {"name": name, "key": key, "value": "v"}).taken
    ]
    return Measured(
        "taken" if "a_b" in taken else "refused", f"keys that are taken: {' '.join(taken) or 'none'}"
    )


def _version_source(sandbox: Sandbox) -> Measured:
    asked = {"name": _models_own(sandbox), "source": "dummy-source"}
    answer = sandbox.ask("POST", "model-versions/create", asked)
    if answer.taken:
        return Measured("taken")
    if sandbox.workspace.kind != "azureml":
        return Measured("refused", answer.said)
    named = "azureml://artifacts/" in answer.message
    return Measured("names the form" if named else "does not name the form", answer.said)


def _version_state(sandbox: Sandbox) -> Measured:
    name, files = _models_own(sandbox), repository(sandbox)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "MLmodel")
        file.write_text("flavors: {}\n")
        through(lambda: sandbox.workspace.upload(files, file, "version"))
    source = f"{files.artifact_uri.rstrip('/')}/version"
    asked = {"name": name, "source": source, "run_id": sandbox.run}
    made = sandbox.must("POST", "model-versions/create", asked)["model_version"]
    return Measured(str(made.get("status") or "none"), f"in stage {made.get('current_stage') or 'none'}")


PROBES: tuple[Probe, ...] = (
    Probe("points-twice", _points_twice),
    Probe("param-again", _param_again),
    Probe("run-read", _run_read),
    Probe("history-lag", _history_lag),
    Probe("search-lag", _search_lag, 180.0),
    Probe("order-by", _order_by),
    Probe("filter-or", _filter_or),
    Probe("inputs", _inputs),
    Probe("experiment-with-runs", _experiment_with_runs),
    Probe("logged-models", _logged_models),
    Probe("model-metrics", _model_metrics),
    Probe("artifact-uri", _artifact_uri),
    Probe("files", _files),
    Probe("files-twice", _files_twice),
    Probe("model-names", _model_names),
    Probe("model-aliases", _model_aliases),
    Probe("registry-aliases", _registry_aliases),
    Probe("model-search-tags", _model_search("tags.a = 'b'")),
    Probe("model-search-like", _model_search("name LIKE 'dbml-probe%'")),
    Probe("model-tag-key", _model_tag_key),
    Probe("version-source", _version_source),
    Probe("version-state", _version_state),
    Probe("model-rename", _model_rename),
)
