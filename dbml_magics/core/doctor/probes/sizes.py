"""How much a service takes: of a batch, of a run, of a key and a value, of a page."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from dbml_magics.core.destinations.base import Workspace
from dbml_magics.core.doctor.probes.sandbox import Measured, Probe, Sandbox

__all__ = ["PROBES"]

_ALL = ("azureml", "databricks", "mlflow")
_CHUNK = 90  # of params or tags: below every limit of a batch
_numbers = itertools.count(1)


def _points(count: int, key: Callable[[int], str]) -> list[dict[str, object]]:
    now = int(time.time() * 1000)
    return [{"key": key(n), "value": 1.0, "timestamp": now + n, "step": n} for n in range(count)]


def _batch_metrics(sandbox: Sandbox) -> int:
    def take(count: int) -> bool:
        name = f"rows-{next(_numbers)}"
        return sandbox.batch(sandbox.new_run(), metrics=_points(count, lambda _: name)).taken

    found = sandbox.largest(take, 1100)
    sandbox.learnt["metrics"] = found
    return found


def _metric_names(sandbox: Sandbox) -> int:
    size = min(sandbox.learnt.get("metrics", 100), 100)

    def take(count: int) -> bool:
        run = sandbox.new_run()
        for begin in range(0, count, size):
            part = _points(min(size, count - begin), lambda n, b=begin: f"name-{b + n}")  # type: ignore[misc]
            if not sandbox.batch(run, metrics=part).taken:
                return False
        return True

    return sandbox.largest(take, 120)


def _many(sandbox: Sandbox, what: str, most: int) -> int:
    def take(count: int) -> bool:
        run = sandbox.new_run()
        for begin in range(0, count, _CHUNK):
            part = [{"key": f"k{n}", "value": "v"} for n in range(begin, min(begin + _CHUNK, count))]
            if not sandbox.batch(run, **{what: part}).taken:
                return False
        return True

    return sandbox.largest(take, most)


def _run_tags(sandbox: Sandbox) -> int:
    """Count the tags that a new run has from the service itself too."""

    def own() -> int:
        found = sandbox.must("GET", "runs/get", {"run_id": sandbox.new_run()})
        return len(found["run"]["data"].get("tags") or [])

    def take(count: int) -> bool:
        run = sandbox.new_run()
        return all(
            sandbox.ask("POST", "runs/log-batch", {"run_id": run, "tags": part}).taken
            for part in _in_parts([{"key": f"k{n}", "value": "v"} for n in range(count)], 40)
        )

    return sandbox.largest(take, 120) + own()


def _in_parts(items: list[dict[str, str]], size: int) -> list[list[dict[str, str]]]:
    return [items[begin : begin + size] for begin in range(0, len(items), size)]


def _length(what: str, part: str, most: int) -> Callable[[Sandbox], int]:
    def measure(sandbox: Sandbox) -> int:
        def take(length: int) -> bool:
            number = str(next(_numbers))
            text = (number + "x" * length)[:length]
            run = sandbox.new_run()
            if what == "metrics":
                return sandbox.batch(run, metrics=_points(1, lambda _: text)).taken
            key, value = (text, "v") if part == "key" else (number, text)
            return sandbox.batch(run, **{what: [{"key": key, "value": value}]}).taken

        return sandbox.largest(take, most)

    return measure


def _history_page(sandbox: Sandbox) -> int:
    run = sandbox.new_run()
    sandbox.batch(run, metrics=_points(2, lambda _: "m"))

    def take(size: int) -> bool:
        asked = {"run_id": run, "metric_key": "m", "max_results": size}
        return sandbox.ask("GET", "metrics/get-history", asked).taken

    return sandbox.largest(take, 25_000)


def _body_bytes(sandbox: Sandbox) -> Measured:
    results = []
    sizes: list[bool] = []
    for tags in (60, 100):
        body = {
            "params": [{"key": f"p{n}", "value": "x" * 5900} for n in range(70)],
            "tags": [{"key": f"t{n}", "value": "x" * 7900} for n in range(tags)],
        }
        size = 70 * 5925 + tags * 7925
        answer = sandbox.batch(sandbox.new_run(), **body)
        sizes.append(answer.taken)
        results.append(f"{size:,} bytes {'taken' if answer.taken else 'refused'}")
    return Measured(", ".join(results), agrees=sizes == [True, False])


def _sized(
    name: str,
    asks: str,
    limit: str,
    most: int,
    measure: Callable[[Sandbox], int],
) -> Probe:
    """Return the probe of a limit that the package's table of limits has a figure for, or not."""

    def figure(workspace: Workspace) -> int | None:
        found: int | None = getattr(workspace.limits, limit)
        return found

    def assumed(workspace: Workspace) -> str:
        found = figure(workspace)
        return "none known" if found is None else f"{found:,}"

    def measured(sandbox: Sandbox) -> Measured:
        found, expected = measure(sandbox), figure(sandbox.workspace)
        words = f"{found:,} or more" if found >= most else f"{found:,}"
        if expected is None:
            return Measured(words)
        # A figure that is below the service's own loses nothing; one above would be refused.
        return Measured(words, agrees=found >= min(expected, most))

    return Probe(name, asks, _ALL, assumed, measured)


PROBES: tuple[Probe, ...] = (
    _sized("batch-metrics", "points that one log-batch takes", "metrics", 1100, _batch_metrics),
    _sized("metric-names", "names of metrics that a run takes", "metric_names", 120, _metric_names),
    _sized("run-params", "params that a run takes", "run_params", 300, lambda g: _many(g, "params", 300)),
    _sized("run-tags", "tags that a run takes, its own included", "run_tags", 120, _run_tags),
    _sized("tag-key", "characters of a tag's key", "tag_key", 300, _length("tags", "key", 300)),
    _sized("tag-value", "characters of a tag's value", "tag_value", 9000, _length("tags", "value", 9000)),
    _sized("param-value", "characters of a param", "param_value", 7000, _length("params", "value", 7000)),
    _sized("metric-key", "characters of a metric's name", "metric_key", 300, _length("metrics", "key", 300)),
    _sized("history-page", "points that a page of a history may have", "history_page", 25_000, _history_page),
    Probe(
        "batch-bytes",
        "bytes that one log-batch takes",
        ("databricks",),
        lambda w: f"{w.limits.body_bytes:,}",
        _body_bytes,
    ),
)
