"""How a service behaves where its documents are silent: points sent twice, searches, experiments, models."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbml_magics.core.destinations.base import Workspace
from dbml_magics.core.destinations.errors import settle
from dbml_magics.core.doctor.probes.ground import Answer, Ground, Measured, NotMeasured, Probe

__all__ = ["PROBES"]

_ALL = ("azureml", "databricks", "mlflow")
_LAG_S = 15.0
_KEYS = "a.b a,b a-b a=b a/b a:b a_b"


def _point(key: str = "m", value: float = 1.0, step: int = 0) -> dict[str, Any]:
    return {"key": key, "value": value, "timestamp": 1_700_000_000_000 + step, "step": step}


def _points_twice(ground: Ground) -> Measured:
    run = ground.new_run()
    for _ in range(2):
        answer = ground.batch(run, metrics=[_point()])
        if not answer.taken:
            return Measured(f"the second time is refused: {answer.said}")
    asked = {"run_id": run, "metric_key": "m", "max_results": 100}
    found = len(ground.must("GET", "metrics/get-history", asked).get("metrics") or [])
    # Delivery asks before it sends again, so that either answer is well.
    return Measured("kept once" if found == 1 else f"there {found} times")


def _param_again(ground: Ground) -> Measured:
    run = ground.new_run()
    ground.batch(run, params=[{"key": "p", "value": "1"}])
    answer = ground.batch(run, params=[{"key": "p", "value": "2"}, {"key": "q", "value": "1"}])
    if answer.taken:
        return Measured("a changed param is taken", agrees=False)
    kept = ground.must("GET", "runs/get", {"run_id": run})["run"]["data"].get("params") or []
    whole = not any(each["key"] == "q" for each in kept)
    return Measured(f"refused, {'with its whole batch' if whole else 'the rest of its batch kept'}", True)


def _search_lag(ground: Ground) -> Measured:
    run = ground.new_run()
    ground.batch(run, metrics=[_point("lag")])
    at_once = ground.must("GET", "runs/get", {"run_id": run})["run"]["data"].get("metrics") or []
    began = time.monotonic()
    while time.monotonic() - began < _LAG_S:
        asked = {"experiment_ids": [ground.experiment], "max_results": 1000}
        runs = ground.must("POST", "runs/search", asked).get("runs") or []
        seen = [each for each in runs if each["info"]["run_id"] == run]
        if seen and seen[0]["data"].get("metrics"):
            lag = time.monotonic() - began
            return Measured(f"a search shows a metric after {lag:.1f} s", agrees=bool(at_once))
        time.sleep(0.5)
    return Measured(f"a search does not show a metric within {_LAG_S:g} s", agrees=bool(at_once))


def _searches(ground: Ground, **more: Any) -> Answer:
    return ground.ask(
        "POST", "runs/search", {"experiment_ids": [ground.experiment], "max_results": 10, **more}
    )


def _order_by(ground: Ground) -> Measured:
    ground.batch(ground.run, metrics=[_point("sorted")])
    answer = _searches(ground, order_by=["metrics.sorted DESC"])
    return Measured("sorted by metrics" if answer.taken else f"refused: {answer.said}")


def _filter_or(ground: Ground) -> Measured:
    answer = _searches(ground, filter="metrics.m > 1 OR metrics.m < 0")
    return Measured("taken" if answer.taken else f"refused: {answer.said}")


def _experiment_slash(ground: Ground) -> Measured:
    name = f"{ground.name}/x"
    made = ground.ask("POST", "experiments/create", {"name": name})
    if not made.taken:
        return Measured(f"refused: {made.said}")
    own = made.body["experiment_id"]
    delete = {"experiment_id": own}
    ground.later("an experiment with a slash", lambda: ground.must("POST", "experiments/delete", delete))
    found = ground.ask("GET", "experiments/get-by-name", {"experiment_name": name})
    return Measured("taken, and found by name" if found.taken else "taken, and not found by name afterwards")


def _experiment_with_runs(ground: Ground) -> Measured:
    made = str(
        ground.workspace.tracking.create_experiment(
            ground.workspace.experiment_name(f"{ground.name}-full"), None, []
        )
    )
    asked = {"experiment_id": made}
    run = ground.must("POST", "runs/create", {**asked, "start_time": 1})["run"]["info"]["run_id"]
    answer = ground.ask("POST", "experiments/delete", asked)
    if answer.taken:
        return Measured("deleted with its runs")

    def undo() -> None:
        ground.must("POST", "runs/delete", {"run_id": run})
        ground.must("POST", "experiments/delete", asked)

    ground.later("an experiment with a run", undo)
    return Measured(f"refused while it has runs: {answer.said}")


def _logged_models(ground: Ground) -> Measured:
    asked = {"experiment_id": ground.experiment, "name": "probe"}
    answer = ground.ask("POST", "logged-models", asked)
    lacking = answer.status == 404
    if answer.taken:
        own = answer.body["model"]["info"]["model_id"]
        ground.later("a logged model", lambda: ground.must("DELETE", f"logged-models/{own}"))
    expected = ground.workspace.kind == "azureml"
    words = "it has logged models" if answer.taken else f"it has none: {answer.said}"
    agrees = None if ground.workspace.kind == "mlflow" else lacking == expected
    return Measured(words, agrees)


def _inputs(ground: Ground) -> Measured:
    dataset = {"name": "d", "digest": "1", "source_type": "local", "source": "{}"}
    asked = {"run_id": ground.run, "datasets": [{"dataset": dataset, "tags": []}]}
    answer = ground.ask("POST", "runs/log-inputs", asked)
    return Measured("datasets are taken" if answer.taken else f"refused: {answer.said}")


# --- files


def _files(ground: Ground) -> Measured:
    repository = _repository(ground)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "probe.bin")
        file.write_bytes(b"x" * 1_000_000)
        began = time.monotonic()
        _through(ground, lambda: ground.workspace.upload(repository, file, "probe"))
        up = time.monotonic() - began
        found = [each.path for each in _through(ground, lambda: repository.list_artifacts("probe"))]
        began = time.monotonic()
        there = _through(ground, lambda: repository.download_artifacts("probe/probe.bin", folder))
        down = time.monotonic() - began
        whole = Path(str(there)).stat().st_size == 1_000_000
    words = f"1 MB up in {up:.1f} s, down in {down:.1f} s"
    return Measured(words if whole else f"{words}, not whole", agrees=found == ["probe/probe.bin"] and whole)


def _files_twice(ground: Ground) -> Measured:
    repository = _repository(ground)
    with tempfile.TemporaryDirectory() as folder:
        got: list[str | None] = []
        for content in ("one", "two"):
            file = Path(folder, "twice.txt")
            file.write_text(content)
            got.append(_through(ground, lambda f=file: ground.workspace.upload(repository, f, None)))  # type: ignore[misc]
    once = got[-1] is not None
    return Measured(
        f"write-once: the second goes to {got[-1]}" if once else "overwritten",
        agrees=once == ground.workspace.limits.artifacts_once,
    )


def _repository(ground: Ground) -> Any:
    run = ground.must("GET", "runs/get", {"run_id": ground.run})["run"]
    return ground.workspace.artifacts(run["info"]["artifact_uri"])


def _through(ground: Ground, step: Callable[[], Any]) -> Any:
    del ground
    try:
        return step()
    except Exception as error:
        raise NotMeasured(f"files are refused: {settle(error)}") from error


# --- the registry


def _model(ground: Ground, name: str) -> Answer:
    answer = ground.ask("POST", "registered-models/create", {"name": name})
    if answer.taken:
        asked = {"name": name}

        def undo() -> None:
            gone = ground.ask("DELETE", "registered-models/delete", asked)
            if not gone.taken and gone.code != "ENDPOINT_NOT_FOUND":
                raise NotMeasured(gone.said)

        ground.later(f"the registered model {name}", undo)
    return answer


def _model_names(ground: Ground) -> Measured:
    taken = [name for name in ("a_b", "a.b", "a b") if _model(ground, f"{ground.name}-{name}").taken]
    dots = any("." in name for name in taken)
    expected = ground.workspace.kind != "azureml"
    agrees = None if ground.workspace.kind == "mlflow" else dots == expected
    return Measured(f"taken: {', '.join(map(repr, taken)) or 'none'}", agrees)


def _model_calls(ground: Ground) -> Measured:
    name = f"{ground.name}-calls"
    made = _model(ground, name)
    if not made.taken:
        raise NotMeasured(f"no model can be made: {made.said}")
    renamed = ground.ask("POST", "registered-models/rename", {"name": name, "new_name": f"{name}-2"})
    if renamed.taken:
        ground.must("POST", "registered-models/rename", {"name": f"{name}-2", "new_name": name})
    alias = ground.ask("GET", "registered-models/alias", {"name": name, "alias": "none"})
    by_tag = ground.ask("GET", "registered-models/search", {"filter": "tags.a = 'b'", "max_results": 1})
    like = ground.ask("GET", "registered-models/search", {"filter": "name LIKE 'dbml-probe%'"})
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


def _tag_keys(ground: Ground) -> Measured:
    name = f"{ground.name}-keys"
    if not (made := _model(ground, name)).taken:
        raise NotMeasured(f"no model can be made: {made.said}")
    taken = [
        key
        for key in _KEYS.split()
        if ground.ask("POST", "registered-models/set-tag", {"name": name, "key": key, "value": "v"}).taken
    ]
    return Measured(f"keys that are taken: {' '.join(taken) or 'none'}", agrees="a_b" in taken)


def _models_assumed(workspace: Workspace) -> str:
    return {"azureml": "none", "databricks": "there"}.get(str(workspace.kind), "")


def _dots_assumed(workspace: Workspace) -> str:
    return "no dots" if str(workspace.kind) == "azureml" else ""


def _says(words: str) -> Callable[[Any], str]:
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
