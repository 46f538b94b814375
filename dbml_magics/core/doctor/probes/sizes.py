"""How much a service takes: of a batch, of a run, of a key and a value, of a page."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from dbml_magics.core.destinations.limits import number_named
from dbml_magics.core.doctor.probes.facts import fact
from dbml_magics.core.doctor.probes.sandbox import Measured, NotMeasured, Probe, Sandbox

__all__ = ["PROBES"]

_CHUNK = 45  # of params or tags: below every limit of a batch
_numbers = itertools.count(1)
Take = Callable[[int], bool]


def _points(count: int, key: Callable[[int], str]) -> list[dict[str, object]]:
    now = int(time.time() * 1000)
    return [{"key": key(n), "value": 1.0, "timestamp": now + n, "step": n} for n in range(count)]


def _items(count: int, value: str = "v") -> list[dict[str, str]]:
    return [{"key": f"k{next(_numbers)}", "value": value} for _ in range(count)]


# --- a batch


def _batch_of(what: str) -> Callable[[Sandbox], Take]:
    def taking(sandbox: Sandbox) -> Take:
        def take(count: int) -> bool:
            name = f"rows-{next(_numbers)}"
            items: list[object] = [*(_points(count, lambda _: name) if what == "metrics" else _items(count))]
            answer = sandbox.batch(sandbox.new_run(), **{what: items})
            if not answer.taken:
                sandbox.learnt["refusal"] = f"{count} {answer.said}"
            return answer.taken

        return take

    return taking


def _batch_items(sandbox: Sandbox) -> Take:
    def take(count: int) -> bool:
        params, tags = _items(min(90, count // 3)), _items(min(90, count // 3))
        points = _points(count - len(params) - len(tags), lambda _: "rows")
        return sandbox.batch(sandbox.new_run(), metrics=points, params=params, tags=tags).taken

    return take


def _batch_words(sandbox: Sandbox) -> Measured:
    refusal = sandbox.learnt.get("refusal", "")
    if not refusal:
        most = fact(str(sandbox.workspace.kind), "batch-metrics").bound or 1000
        size = 2 * most + 20
        answer = sandbox.batch(sandbox.new_run(), metrics=_points(size, lambda _: "rows"))
        if answer.taken:
            raise NotMeasured(f"a batch of {size:,} points is not refused")
        refusal = f"{size} {answer.said}"
    size_said, _, said = refusal.partition(" ")
    named = number_named(said)
    return Measured("names the limit" if named and named < int(size_said) else "names no limit", said)


def _body_bytes(sandbox: Sandbox) -> Measured:
    taken = []
    for tags in (60, 100):
        params = [{"key": f"p{n}", "value": "x" * 5900} for n in range(70)]
        most = [{"key": f"t{n}", "value": "x" * 7900} for n in range(tags)]
        taken.append(sandbox.batch(sandbox.new_run(), params=params, tags=most).taken)
    words = ("refused", "taken")
    return Measured(
        "as said"
        if taken == [True, False]
        else f"891,000 bytes {words[taken[0]]}, 1,208,000 {words[taken[1]]}"
    )


# --- a run


def _metric_names(sandbox: Sandbox) -> Take:
    def take(count: int) -> bool:
        run = sandbox.new_run()
        parts = (range(begin, min(begin + 100, count)) for begin in range(0, count, 100))
        return all(
            sandbox.batch(run, metrics=_points(len(part), lambda n, b=part[0]: f"name-{b + n}")).taken  # type: ignore[misc]
            for part in parts
        )

    return take


def _many(what: str) -> Callable[[Sandbox], Take]:
    """Count what the service itself puts into a new run too."""

    def taking(sandbox: Sandbox) -> Take:
        def take(count: int) -> bool:
            run = sandbox.new_run()
            own = len(sandbox.data_of(run).get(what) or []) if what == "tags" else 0
            return all(
                sandbox.batch(run, **{what: _items(min(_CHUNK, count - begin))}).taken
                for begin in range(own, count, _CHUNK)
            )

        return take

    return taking


# --- keys and values


def _length(what: str, part: str) -> Callable[[Sandbox], Take]:
    """Look at what was kept: a service may take a longer value and cut it."""

    def taking(sandbox: Sandbox) -> Take:
        def take(length: int) -> bool:
            number = str(next(_numbers))
            text = (number + "x" * length)[:length]
            run = sandbox.new_run()
            if what == "metrics":
                return sandbox.batch(run, metrics=_points(1, lambda _: text)).taken
            key, value = (text, "v") if part == "key" else (number, text)
            if not sandbox.batch(run, **{what: [{"key": key, "value": value}]}).taken:
                return False
            kept = {each["key"]: each["value"] for each in sandbox.data_of(run).get(what) or []}
            return kept.get(key) == value

        return take

    return taking


def _unit(sandbox: Sandbox) -> Measured:
    most = fact(str(sandbox.workspace.kind), "tag-key").bound or 100
    length = most // 2 + 10  # of a letter with two bytes
    number = str(next(_numbers))
    plain, two = (number + letter * (length - len(number)) for letter in ("e", "é"))
    if not sandbox.batch(sandbox.new_run(), tags=[{"key": plain, "value": "v"}]).taken:
        raise NotMeasured(f"a key of {length} plain letters is refused already")
    answer = sandbox.batch(sandbox.new_run(), tags=[{"key": two, "value": "v"}])
    return Measured("characters" if answer.taken else "bytes", "" if answer.taken else answer.said)


def _set_tag(tag: Callable[[int], tuple[str, str]]) -> Callable[[Sandbox], Take]:
    """Set one tag by its own call, whose limits are documented apart from those of a batch."""

    def taking(sandbox: Sandbox) -> Take:
        def take(length: int) -> bool:
            key, value = tag(length)
            asked = {"run_id": sandbox.run, "key": key, "value": value}
            return sandbox.ask("POST", "runs/set-tag", asked).taken

        return take

    return taking


def _run_name(sandbox: Sandbox) -> Take:
    def take(length: int) -> bool:
        asked = {"run_id": sandbox.run, "run_name": "x" * length}
        return sandbox.ask("POST", "runs/update", asked).taken

    return take


# --- an experiment


def _tag_of_experiment(sandbox: Sandbox, key: str, value: str, experiment: str = "") -> bool:
    asked = {"experiment_id": experiment or sandbox.experiment, "key": key, "value": value}
    return sandbox.ask("POST", "experiments/set-experiment-tag", asked).taken


def _experiment_tag_key(sandbox: Sandbox) -> Take:
    return lambda length: _tag_of_experiment(sandbox, "x" * length, "v")


def _experiment_tag_value(sandbox: Sandbox) -> Take:
    return lambda length: _tag_of_experiment(sandbox, "long", "x" * length)


def _experiment_tags(sandbox: Sandbox) -> Take:
    name = sandbox.workspace.experiment_name(f"{sandbox.name}-tags")
    made = sandbox.new_experiment(name)
    found = sandbox.must("GET", "experiments/get", {"experiment_id": made})["experiment"]
    there = len(found.get("tags") or [])

    def take(count: int) -> bool:  # asked with growing numbers first: what is there counts
        nonlocal there
        while there < count:
            if not _tag_of_experiment(sandbox, f"k{there}", "v", made):
                return False
            there += 1
        return True

    return take


def _experiment_name(sandbox: Sandbox) -> Take:
    def take(length: int) -> bool:
        name = f"{sandbox.name}-{next(_numbers)}-".ljust(length, "x")[: max(length, len(sandbox.name) + 8)]
        sandbox.note("experiment", name)
        return sandbox.ask("POST", "experiments/create", {"name": name}).taken

    return take


# --- a page


def _history_page(sandbox: Sandbox) -> Take:
    run = sandbox.new_run()
    sandbox.batch(run, metrics=_points(2, lambda _: "m"))

    def take(size: int) -> bool:
        asked = {"run_id": run, "metric_key": "m", "max_results": size}
        return sandbox.ask("GET", "metrics/get-history", asked).taken

    return take


def _sized(name: str, taking: Callable[[Sandbox], Take], seconds: float = 90.0) -> Probe:
    def measure(sandbox: Sandbox) -> Measured:
        return sandbox.largest(taking(sandbox), fact(str(sandbox.workspace.kind), name))

    return Probe(name, measure, seconds)


PROBES: tuple[Probe, ...] = (
    _sized("batch-metrics", _batch_of("metrics")),
    Probe("batch-words", _batch_words),
    _sized("batch-params", _batch_of("params")),
    _sized("batch-tags", _batch_of("tags")),
    _sized("batch-items", _batch_items),
    Probe("batch-bytes", _body_bytes),
    _sized("metric-names", _metric_names),
    _sized("run-params", _many("params")),
    _sized("run-tags", _many("tags")),
    _sized("tag-key", _length("tags", "key")),
    _sized("tag-value", _length("tags", "value")),
    _sized("param-key", _length("params", "key")),
    _sized("param-value", _length("params", "value")),
    _sized("metric-key", _length("metrics", "key")),
    Probe("value-unit", _unit),
    _sized("set-tag-value", _set_tag(lambda length: ("long", "x" * length))),
    _sized("wide-tag-key", _set_tag(lambda length: ("é" * length, "v"))),
    _sized("run-name", _run_name),
    _sized("run-description", _set_tag(lambda length: ("mlflow.note.content", "x" * length))),
    _sized("experiment-tag-key", _experiment_tag_key),
    _sized("experiment-tag-value", _experiment_tag_value),
    _sized("experiment-tags", _experiment_tags),
    _sized("experiment-name", _experiment_name),
    _sized("history-page", _history_page),
)
