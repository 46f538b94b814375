"""How a service behaves where its documents are silent: points sent twice, searches, experiments, models."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dbml_magics.core.destinations.base import Workspace
from dbml_magics.core.destinations.errors import classify_error
from dbml_magics.core.doctor.probes.sandbox import Answer, Measured, NotMeasured, Probe, Sandbox

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

__all__ = ["PROBES"]

T = TypeVar("T")

_ALL = ("azureml", "databricks", "mlflow")
_LAG_S = 15.0
_KEYS = "a.b a,b a-b a=b a/b a:b a_b"


def _point(key: str = "m", value: float = 1.0, step: int = 0) -> dict[str, object]:
    return {"key": key, "value": value, "timestamp": 1_700_000_000_000 + step, "step": step}


def _points_twice(sandbox: Sandbox) -> Measured:
    run = sandbox.new_run()
    for _ in range(2):
        answer = sandbox.batch(run, metrics=[_point()])
        if not answer.taken:
            return Measured(f"the second time is refused: {answer.said}")
    asked = {"run_id": run, "metric_key": "m", "max_results": 100}
    found = len(sandbox.must("GET", "metrics/get-history", asked).get("metrics") or [])
    # Delivery asks before it sends again, so that either answer is well.
    return Measured("kept once" if found == 1 else f"there {found} times")


def _param_again(sandbox: Sandbox) -> Measured:
    run = sandbox.new_run()
    sandbox.batch(run, params=[{"key": "p", "value": "1"}])
    answer = sandbox.batch(run, params=[{"key": "p", "value": "2"}, {"key": "q", "value": "1"}])
    if answer.taken:
        return Measured("a changed param is taken", agrees=False)
    kept = sandbox.must("GET", "runs/get", {"run_id": run})["run"]["data"].get("params") or []
    whole = not any(each["key"] == "q" for each in kept)
    return Measured(f"refused, {'with its whole batch' if whole else 'the rest of its batch kept'}", True)


def _search_lag(sandbox: Sandbox) -> Measured:
    run = sandbox.new_run()
    sandbox.batch(run, metrics=[_point("lag")])
    at_once = sandbox.must("GET", "runs/get", {"run_id": run})["run"]["data"].get("metrics") or []
    began = time.monotonic()
    while time.monotonic() - began < _LAG_S:
        asked = {"experiment_ids": [sandbox.experiment], "max_results": 1000}
        runs = sandbox.must("POST", "runs/search", asked).get("runs") or []
        seen = [each for each in runs if each["info"]["run_id"] == run]
        if seen and seen[0]["data"].get("metrics"):
            lag = time.monotonic() - began
            return Measured(f"a search shows a metric after {lag:.1f} s", agrees=bool(at_once))
        time.sleep(0.5)
    return Measured(f"a search does not show a metric within {_LAG_S:g} s", agrees=bool(at_once))


def _searches(sandbox: Sandbox, **more: object) -> Answer:
    return sandbox.ask(
        "POST", "runs/search", {"experiment_ids": [sandbox.experiment], "max_results": 10, **more}
    )


def _order_by(sandbox: Sandbox) -> Measured:
    sandbox.batch(sandbox.run, metrics=[_point("sorted")])
    answer = _searches(sandbox, order_by=["metrics.sorted DESC"])
    return Measured("sorted by metrics" if answer.taken else f"refused: {answer.said}")


def _filter_or(sandbox: Sandbox) -> Measured:
    answer = _searches(sandbox, filter="metrics.m > 1 OR metrics.m < 0")
    return Measured("taken" if answer.taken else f"refused: {answer.said}")


def _experiment_slash(sandbox: Sandbox) -> Measured:
    name = f"{sandbox.name}/x"
    made = sandbox.ask("POST", "experiments/create", {"name": name})
    if not made.taken:
        return Measured(f"refused: {made.said}")
    own = made.body["experiment_id"]
    delete = {"experiment_id": own}
    sandbox.later("an experiment with a slash", lambda: sandbox.must("POST", "experiments/delete", delete))
    found = sandbox.ask("GET", "experiments/get-by-name", {"experiment_name": name})
    return Measured("taken, and found by name" if found.taken else "taken, and not found by name afterwards")


def _experiment_with_runs(sandbox: Sandbox) -> Measured:
    made = str(
        sandbox.workspace.tracking.create_experiment(
            sandbox.workspace.experiment_name(f"{sandbox.name}-full"), None, []
        )
    )
    asked = {"experiment_id": made}
    run = sandbox.must("POST", "runs/create", {**asked, "start_time": 1})["run"]["info"]["run_id"]
    answer = sandbox.ask("POST", "experiments/delete", asked)
    if answer.taken:
        return Measured("deleted with its runs")

    def undo() -> None:
        sandbox.must("POST", "runs/delete", {"run_id": run})
        sandbox.must("POST", "experiments/delete", asked)

    sandbox.later("an experiment with a run", undo)
    return Measured(f"refused while it has runs: {answer.said}")


def _logged_models(sandbox: Sandbox) -> Measured:
    asked = {"experiment_id": sandbox.experiment, "name": "probe"}
    answer = sandbox.ask("POST", "logged-models", asked)
    lacking = answer.status == 404
    if answer.taken:
        own = answer.body["model"]["info"]["model_id"]
        sandbox.later("a logged model", lambda: sandbox.must("DELETE", f"logged-models/{own}"))
    expected = sandbox.workspace.kind == "azureml"
    words = "it has logged models" if answer.taken else f"it has none: {answer.said}"
    agrees = None if sandbox.workspace.kind == "mlflow" else lacking == expected
    return Measured(words, agrees)


def _inputs(sandbox: Sandbox) -> Measured:
    dataset = {"name": "d", "digest": "1", "source_type": "local", "source": "{}"}
    asked = {"run_id": sandbox.run, "datasets": [{"dataset": dataset, "tags": []}]}
    answer = sandbox.ask("POST", "runs/log-inputs", asked)
    return Measured("datasets are taken" if answer.taken else f"refused: {answer.said}")


# --- files


def _files(sandbox: Sandbox) -> Measured:
    repository = _repository(sandbox)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "probe.bin")
        file.write_bytes(b"x" * 1_000_000)
        began = time.monotonic()
        _through(sandbox, lambda: sandbox.workspace.upload(repository, file, "probe"))
        up = time.monotonic() - began
        found = [each.path for each in _through(sandbox, lambda: repository.list_artifacts("probe"))]
        began = time.monotonic()
        there = _through(sandbox, lambda: repository.download_artifacts("probe/probe.bin", folder))
        down = time.monotonic() - began
        whole = Path(str(there)).stat().st_size == 1_000_000
    words = f"1 MB up in {up:.1f} s, down in {down:.1f} s"
    return Measured(words if whole else f"{words}, not whole", agrees=found == ["probe/probe.bin"] and whole)


def _files_twice(sandbox: Sandbox) -> Measured:
    repository = _repository(sandbox)
    with tempfile.TemporaryDirectory() as folder:
        got: list[str | None] = []
        for content in ("one", "two"):
            file = Path(folder, "twice.txt")
            file.write_text(content)
            got.append(_through(sandbox, lambda f=file: sandbox.workspace.upload(repository, f, None)))  # type: ignore[misc]
    once = got[-1] is not None
    return Measured(
        f"write-once: the second goes to {got[-1]}" if once else "overwritten",
        agrees=once == sandbox.workspace.limits.artifacts_once,
    )


def _repository(sandbox: Sandbox) -> ArtifactRepository:
    run = sandbox.must("GET", "runs/get", {"run_id": sandbox.run})["run"]
    return sandbox.workspace.artifacts(run["info"]["artifact_uri"])


def _through(sandbox: Sandbox, step: Callable[[], T]) -> T:
    del sandbox
    try:
        return step()
    except Exception as error:
        raise NotMeasured(f"files are refused: {classify_error(error)}") from error


# --- the registry


def _model(sandbox: Sandbox, name: str) -> Answer:
    answer = sandbox.ask("POST", "registered-models/create", {"name": name})
    if answer.taken:
        asked = {"name": name}

        def undo() -> None:
            gone = sandbox.ask("DELETE", "registered-models/delete", asked)
            if not gone.taken and gone.code != "ENDPOINT_NOT_FOUND":
                raise NotMeasured(gone.said)

        sandbox.later(f"the registered model {name}", undo)
    return answer


def _model_names(sandbox: Sandbox) -> Measured:
    taken = [name for name in ("a_b", "a.b", "a b") if _model(sandbox, f"{sandbox.name}-{name}").taken]
    dots = any("." in name for name in taken)
    expected = sandbox.workspace.kind != "azureml"
    agrees = None if sandbox.workspace.kind == "mlflow" else dots == expected
    return Measured(f"taken: {', '.join(map(repr, taken)) or 'none'}", agrees)


def _model_calls(sandbox: Sandbox) -> Measured:
    name = f"{sandbox.name}-calls"
    made = _model(sandbox, name)
    if not made.taken:
        raise NotMeasured(f"no model can be made: {made.said}")
    renamed = sandbox.ask("POST", "registered-models/rename", {"name": name, "new_name": f"{name}-2"})
    if renamed.taken:
        sandbox.must("POST", "registered-models/rename", {"name": f"{name}-2", "new_name": name})
    alias = sandbox.ask("GET", "registered-models/alias", {"name": name, "alias": "none"})
    by_tag = sandbox.ask("GET", "registered-models/search", {"filter": "tags.a = 'b'", "max_results": 1})
    like = sandbox.ask("GET", "registered-models/search", {"filter": "name LIKE 'dbml-probe%'"})
    found = {
        "rename": renamed.taken,
        "aliases": alias.code != "ENDPOINT_NOT_FOUND",
        "search by tag": by_tag.taken,
        "search by LIKE": like.taken,
    }
    can = [what for what, there in found.items() if there]
    lacks = [what for what, there in found.items() if not there]
    return Measured(
        f"has {', '.join(can) or 'none of them'}" + (f"; lacks {', '.join(lacks)}" if lacks else "")
    )


def _tag_keys(sandbox: Sandbox) -> Measured:
    name = f"{sandbox.name}-keys"
    if not (made := _model(sandbox, name)).taken:
        raise NotMeasured(f"no model can be made: {made.said}")
    taken = [
        key
        for key in _KEYS.split()
        if sandbox.ask("POST", "registered-models/set-tag", {"name": name, "key": key, "value": "v"}).taken
    ]
    return Measured(f"keys that are taken: {' '.join(taken) or 'none'}", agrees="a_b" in taken)


def _models_assumed(workspace: Workspace) -> str:
    return {"azureml": "none", "databricks": "there"}.get(str(workspace.kind), "")


def _dots_assumed(workspace: Workspace) -> str:
    return "no dots" if str(workspace.kind) == "azureml" else ""


def _says(words: str) -> Callable[[Workspace], str]:
    return lambda _: words


PROBES: tuple[Probe, ...] = (
    Probe("points-twice", "the same point sent twice", _ALL, _says(""), _points_twice),
    Probe("param-again", "a param with another value", _ALL, _says("refused"), _param_again),
    Probe(
        "search-lag", "how long a search lacks a metric", _ALL, _says("runs/get has it at once"), _search_lag
    ),
    Probe("order-by", "runs sorted by a metric", _ALL, _says(""), _order_by),
    Probe("filter-or", "OR in a filter", _ALL, _says(""), _filter_or),
    Probe("experiment-slash", "a slash in an experiment's name", ("azureml",), _says(""), _experiment_slash),
    Probe("experiment-with-runs", "deleting an experiment with runs", _ALL, _says(""), _experiment_with_runs),
    Probe(
        "logged-models",
        "logged models",
        _ALL,
        _models_assumed,
        _logged_models,
    ),
    Probe("inputs", "datasets of a run", _ALL, _says(""), _inputs),
    Probe("files", "a file up and down", _ALL, _says("whole, and listed"), _files),
    Probe(
        "files-twice",
        "another content under the same path",
        _ALL,
        lambda w: "write-once" if w.limits.artifacts_once else "overwritten",
        _files_twice,
    ),
    Probe(
        "model-names",
        "a dot in a model's name",
        ("azureml", "mlflow"),
        _dots_assumed,
        _model_names,
    ),
    Probe("model-calls", "what the registry can do", ("azureml", "mlflow"), _says(""), _model_calls),
    Probe("tag-keys", "characters in a model tag's key", ("azureml", "mlflow"), _says("a_b"), _tag_keys),
)
