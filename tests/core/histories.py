"""Random histories of a link: what its processes were answered is kept, and both workspaces compared with it.

A :class:`World` has actors (processes on one link), faults, kills, and a memory of what MLflow's calls
acknowledged. A call that was under way when its process was killed may have happened or not, so what is
remembered of a value is the set of those that may stand. :meth:`World.peace` ends all faults, has everything
delivered and compares.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbml_magics.core.outbox.spool import SMALL
from tests.conftest import Proxies, Servers
from tests.core.linking import assert_written_once, leftovers
from tests.infra import plain
from tests.infra.actors import Actor, ActorHost, OrderFailed
from tests.infra.faults import begin
from tests.infra.proxy import Proxy

ROLES = ("databricks", "azureml")
SETTINGS = {
    "DBML_IDENTITY_BUDGET": "0.3",
    "DBML_LINGER": "0.05",
    "DBML_LONGEST_PAUSE": "0.3",
    "DBML_EXIT_FLUSH": "2",
}
PATHS = (
    "",
    "runs/log-batch",
    "runs/(create|update|search)",
    "artifacts",
    "experiments",
    "(logged-models|model-versions|registered-models)",
    "runs/get|metrics/get",
)
READS_FIRST = ("text", "model", "resume", "register")
Point = tuple[str, int, int, str]  # key, step, time, value as text


class Cell:
    """A value that the next write replaces: those that may stand there."""

    def __init__(self, *values: Any) -> None:
        self.may_be: list[Any] = list(values)

    def acknowledge(self, value: Any) -> None:
        """Note a write that was acknowledged."""
        self.may_be = [value]

    def perhaps(self, value: Any) -> None:
        """Note a write that may have happened."""
        self.may_be.append(value)

    @property
    def sure(self) -> Any:
        """Return the one value that it must be; raises ValueError where several may stand."""
        (value,) = self.may_be
        return value

    def is_surely(self, *values: Any) -> bool:
        """Tell whether it is one of these, whatever happened."""
        return all(value in values for value in self.may_be)


@dataclass
class ExpectedRun:
    """What is known of one run."""

    label: str
    experiment: ExpectedExperiment
    id: str | None  # None: its creation was under way at a kill
    name: Cell
    parent: str | None = None  # the parent's label
    status: Cell = field(default_factory=lambda: Cell("RUNNING"))
    deleted: Cell = field(default_factory=lambda: Cell(False))
    points: set[Point] = field(default_factory=set)
    perhaps: set[Point] = field(default_factory=set)
    params: dict[str, Cell] = field(default_factory=dict)
    tags: dict[str, Cell] = field(default_factory=dict)
    texts: dict[str, Cell] = field(default_factory=dict)
    datasets: dict[str, bool] = field(default_factory=dict)  # digest -> acknowledged
    models: dict[str, bool] = field(default_factory=dict)  # name -> acknowledged
    anything: bool = False  # a call that makes many writes was under way

    def cell(self, cells: dict[str, Cell], key: str) -> Cell:
        """Return the cell of a key; nothing stood there before."""
        return cells.setdefault(key, Cell(None))


@dataclass
class ExpectedExperiment:
    """What is known of one experiment."""

    label: str
    id: str | None
    name: Cell
    tags: dict[str, Cell] = field(default_factory=dict)
    deleted: Cell = field(default_factory=lambda: Cell(False))
    for_runs: bool = True  # its name and life do not change


@dataclass
class Said:
    """An order to an actor, and what its answer, or the want of one, tells."""

    order: dict[str, Any]
    acknowledged: Callable[[Any], None]
    under_way: Callable[[], None]


def value_at(text: str) -> str:
    """Return a metric's value as the servers have it: infinity is the largest float there."""
    value = float(text)
    if math.isnan(value):
        return "nan"
    if math.isinf(value) or abs(value) > 1e308:
        return "largest" if value > 0 else "smallest"
    return repr(value + 0.0)  # the servers know one zero


class World:
    """Two workspaces behind proxies, the processes of one link, and what they were answered."""

    def __init__(
        self,
        servers: Servers,
        proxies: Proxies,
        host: ActorHost,
        place: Path,
        prefix: str,
        say: Callable[[str], None],
        settings: Mapping[str, str] = SETTINGS,
        bug: str | None = None,
    ) -> None:
        self.servers, self.proxies, self.host, self.prefix, self.say = servers, proxies, host, prefix, say
        self.settings = settings
        self.bug = bug  # planted in each process, to see that it is found
        self.home, self.work = place / "home", place / "work"
        for folder in (self.home, self.work):
            folder.mkdir(parents=True)
        self.actors: list[Actor] = []
        self.experiments: list[ExpectedExperiment] = []
        self.runs: list[ExpectedRun] = []
        self.versions: dict[str, tuple[int, int]] = {}  # registered name -> (acknowledged, perhaps more)
        self.version_runs: dict[str, list[str]] = {}  # registered name -> labels of the runs
        self.numbers = itertools.count(1)
        self.kills = 0
        for proxy in proxies:
            proxy.reset_all()
            proxy.keep_bodies()

    # --- processes

    def start(self, home: Path | None = None) -> Actor:
        """Start one more process on the link, or on a copy of its folder."""
        actor = self.host.start(home or self.home, self.work, **self.settings)
        again = bool(self.actors) or any(self.home.glob("links/*"))
        self.actors.append(actor)
        self.say(f"process {actor.pid} starts")
        if self.bug is not None:
            actor.do("plant", bug=self.bug)
        actor.do(
            "link", databricks=self.proxies.databricks.uri, azureml=self.proxies.azureml.uri, again=again
        )
        return actor

    def actor(self, number: int) -> Actor:
        """Return a process, started if there is none."""
        return self.actors[number % len(self.actors)] if self.actors else self.start()

    def leave(self, actor: Actor) -> None:
        """Let a process end as a script ends."""
        self.say(f"process {actor.pid} ends")
        self.actors.remove(actor)
        actor.leave()

    def kill(self, actor: Actor, pending: list[Said]) -> None:
        """Kill a process, and note what of the orders that it was sent happened."""
        self.actors.remove(actor)
        self.kills += 1
        answers = actor.kill()
        self.say(f"process {actor.pid} is killed; it had obeyed {len(answers)} of {len(pending)} orders")
        for said, answer in zip(pending, answers, strict=False):
            if "error" in answer:
                raise OrderFailed(f"{said.order} raised {answer['error']}\n{answer['trace']}")
            said.acknowledged(answer["ok"])
        if len(answers) < len(pending):
            pending[len(answers)].under_way()

    def tell(self, actor: Actor, said: Said) -> Any:
        """Have an order obeyed."""
        self.say(f"process {actor.pid}: {said.order}")
        actor.send(**said.order)
        return self._hear(actor, said)

    def _hear(self, actor: Actor, said: Said) -> Any:
        try:
            answer = actor.answer()
        except OrderFailed as failure:
            # MLflow reads before these writes. A read of a run that is over may fail while nobody answers.
            if said.order["do"] not in READS_FIRST or " raised Unavailable: " not in str(failure):
                raise
            self.say("  … which nobody answered")
            said.under_way()
            return None
        said.acknowledged(answer)
        return answer

    def together(self, orders: list[tuple[Actor, list[Said]]], killed: int | None, after: float) -> None:
        """Have several processes obey their orders at once; one may be killed after so many seconds."""
        for actor, several in orders:
            for said in several:
                self.say(f"process {actor.pid}, at once: {said.order}")
                actor.send(**said.order)
        if killed is not None:
            time.sleep(after)
            self.kill(*orders.pop(killed))
        for actor, several in orders:
            for said in several:
                self._hear(actor, said)

    # --- what happens to the link's folder: no process lives meanwhile, and nothing is logged

    def put_back(self) -> None:
        """Have everything delivered, and put the folder back as it was before."""
        self._kill_all()
        before = self.home.with_name("before")
        shutil.copytree(self.home, before)
        self._deliver_and_kill(self.home)
        self.say("the folder is put back as it was before all was delivered")
        shutil.rmtree(self.home)
        before.rename(self.home)

    def deliver_from_a_copy(self) -> None:
        """Have everything delivered from a copy of the folder, as another machine may."""
        self._kill_all()
        copy = self.home.with_name("copy")
        shutil.copytree(self.home, copy)
        self.say("a copy of the folder delivers")
        self._deliver_and_kill(copy)
        shutil.rmtree(copy)

    def lose_the_state(self) -> None:
        """Lose what delivery knew; the journal is whole."""
        self._kill_all()
        self.say("the state is lost")
        for path in self.home.glob("links/*/state.db*"):
            path.unlink()

    def set_clock(self, actor: Actor, hours: float) -> None:
        """Set the clock of one process."""
        self.say(f"process {actor.pid}: its clock is {hours:+g} hours off")
        actor.do("clock", hours=hours)

    def _kill_all(self) -> None:
        for actor in list(self.actors):
            self.kill(actor, [])

    def _deliver_and_kill(self, home: Path) -> None:
        for role in ROLES:
            self.clear(role)
        actor = self.start(home)
        actor.do("sync", timeout=90)
        self.kill(actor, [])

    def deliverer(self, role: str) -> Actor | None:
        """Return the process that delivers to a workspace now."""
        return next((actor for actor in self.actors if role in actor.do("leases")), None)

    # --- faults

    def strike(self, role: str, kind: str, path: str) -> None:
        """Begin a fault, which lasts until the next peace."""
        self.say(f"fault at {role}: {kind} ({path or 'everything'})")
        begin(kind, getattr(self.proxies, role), path)

    def clear(self, role: str) -> None:
        """End all faults at one workspace."""
        self.say(f"no more faults at {role}")
        proxy: Proxy = getattr(self.proxies, role)
        proxy.clear()
        proxy.keep_bodies()

    # --- orders

    def label(self, kind: str) -> str:
        """Return a name that nothing else has."""
        return f"{kind}{next(self.numbers)}"

    def experiment(self, tags: Mapping[str, str] | None = None, *, for_runs: bool = True) -> Said:
        """Make an experiment."""
        label = self.label("e")
        made = ExpectedExperiment(label, None, Cell(f"{self.prefix}-{label}"), for_runs=for_runs)
        made.tags = {key: Cell(value) for key, value in (tags or {}).items()}
        self.experiments.append(made)
        order = {
            "do": "create_experiment",
            "name": made.name.sure,
            "tags": {**(tags or {}), "label": f"{self.prefix}-{label}"},
        }
        return Said(order, lambda answer: setattr(made, "id", answer), lambda: None)

    def change_experiment(self, of: ExpectedExperiment, kind: str, value: str) -> Said:
        """Tag, rename, delete or restore an experiment."""
        if kind == "tag":
            cell = of.tags.setdefault("t", Cell(None))
            order = {"do": "tag_experiment", "experiment": of.id, "key": "t", "value": value}
        elif kind == "rename":
            cell, value = of.name, f"{self.prefix}-{self.label('n')}"
            order = {"do": "rename_experiment", "experiment": of.id, "name": value}
        else:
            gone = kind == "delete"
            order = {"do": f"{kind}_experiment", "experiment": of.id}
            return Said(order, lambda _: of.deleted.acknowledge(gone), lambda: of.deleted.perhaps(gone))
        return Said(order, lambda _: cell.acknowledge(value), lambda: cell.perhaps(value))

    def create(self, at: ExpectedExperiment, parent: ExpectedRun | None, tags: Mapping[str, str]) -> Said:
        """Make a run."""
        label = self.label("r")
        made = ExpectedRun(label, at, None, Cell(f"run {label}"), parent.label if parent else None)
        made.tags = {key: Cell(value) for key, value in tags.items()}
        self.runs.append(made)
        order = {
            "do": "create_run",
            "experiment": at.id,
            "name": made.name.sure,
            "tags": {**tags, "label": label},
            "parent": parent.id if parent else None,
        }
        return Said(order, lambda answer: setattr(made, "id", answer), lambda: None)

    def train(self, at: ExpectedExperiment, values: Iterable[str], *, nested: bool) -> Said:
        """Make a whole run."""
        label, inner = self.label("r"), self.label("r") if nested else None
        points: list[list[Any]] = [
            ["loss", value, 1_700_000_000_000 + n, n] for n, value in enumerate(values)
        ]
        outer = ExpectedRun(label, at, None, Cell(label), status=Cell("FINISHED"), anything=True)
        made = [outer]
        if inner is not None:
            child = ExpectedRun(inner, at, None, Cell(inner), label, status=Cell("FINISHED"), anything=True)
            made.append(child)
        self.runs.extend(made)
        order = {
            "do": "train",
            "experiment": at.id,
            "name": label,
            "label": label,
            "inner": inner,
            "points": points,
            "params": {"depth": "3"},
        }

        def acknowledged(ids: list[str]) -> None:
            for each, run_id in zip(made, ids, strict=True):
                each.id, each.anything = run_id, False
            outer.points = {(key, step, stamp, value_at(value)) for key, value, stamp, step in points}
            outer.params["depth"] = Cell("3")
            outer.texts["trained.txt"] = Cell(label)
            if inner is not None:
                made[1].points = {("inner", 1, 1, value_at("1"))}

        return Said(order, acknowledged, lambda: None)

    def metric(self, run: ExpectedRun, key: str, value: str) -> Said:
        """Log one point."""
        step = next(self.numbers)
        order = {"do": "metric", "run": run.id, "key": key, "value": value, "stamp": step, "step": step}
        point = (key, step, step, value_at(value))
        return Said(order, lambda _: run.points.add(point), lambda: run.perhaps.add(point))

    def points(self, run: ExpectedRun, actor: Actor, count: int) -> Said:
        """Log many points of a metric of their own."""
        key = self.label("series ")
        order = {"do": "points", "run": run.id, "key": key, "first": 0, "count": count}

        def these(first: int, last: int) -> set[Point]:
            return {(key, step, step, value_at(repr(step / 7))) for step in range(first, last)}

        before = actor.count()

        def under_way() -> None:
            # The counter is an earlier order's until the first point of this one.
            done = actor.count() if actor.count() != before else 0
            run.points |= these(0, done)
            run.perhaps |= these(done, done + 1)
            if not done:
                run.perhaps |= these(0, before + 1)

        return Said(order, lambda _: run.points.update(these(0, count)), under_way)

    def batch(self, run: ExpectedRun, value: str, text: str, tag: str = "batched") -> Said:
        """Log points, a param and tags in one call."""
        first, key = next(self.numbers), self.label("p")
        points: list[tuple[str, str, int, int]] = [
            ("a", value, first, first),
            ("b b", value, first, first),
            ("a", "1", first, first + 10**6),
        ]
        tags = {tag: text, self.label("t"): text}
        order = {
            "do": "batch",
            "run": run.id,
            "points": [list(p) for p in points],
            "params": {key: text},
            "tags": tags,
        }
        kept = {(k, step, stamp, value_at(v)) for k, v, stamp, step in points}

        def acknowledged(_: Any) -> None:
            run.points |= kept
            run.cell(run.params, key).acknowledge(text)
            for tag, content in tags.items():
                run.cell(run.tags, tag).acknowledge(content)

        def under_way() -> None:
            run.perhaps |= kept
            run.cell(run.params, key).perhaps(text)
            for tag, content in tags.items():
                run.cell(run.tags, tag).perhaps(content)

        return Said(order, acknowledged, under_way)

    def write(self, run: ExpectedRun, kind: str, key: str, value: str) -> Said:
        """Log a param (a new one), a tag or a text, or remove a tag."""
        if kind == "param":
            key = self.label("p")
        cells = {"param": run.params, "tag": run.tags, "untag": run.tags, "text": run.texts}[kind]
        if kind == "text" and zlib.crc32(value.encode()) % 2:
            value += "." * SMALL  # its copy is a file of the spool, not a part of its line
        cell = run.cell(cells, key)
        if kind == "untag":
            order: dict[str, Any] = {"do": "untag", "run": run.id, "key": key}
            return Said(order, lambda _: cell.acknowledge(None), lambda: cell.perhaps(None))
        named = {"path": key, "content": value} if kind == "text" else {"key": key, "value": value}
        order = {"do": kind, "run": run.id, **named}
        return Said(order, lambda _: cell.acknowledge(value), lambda: cell.perhaps(value))

    def fork(self, run: ExpectedRun, text: str) -> Said:
        """Log in a forked child of the process."""
        step, tag = next(self.numbers), self.label("t")
        point = ("forked", step, step, value_at("1"))
        order = {"do": "fork", "run": run.id, "point": ["forked", "1", step, step], "tag": tag, "value": text}

        def acknowledged(_: Any) -> None:
            run.points.add(point)
            run.cell(run.tags, tag).acknowledge(text)

        def under_way() -> None:
            run.perhaps.add(point)
            run.cell(run.tags, tag).perhaps(text)

        return Said(order, acknowledged, under_way)

    def dataset(self, run: ExpectedRun) -> Said:
        """Name a dataset as an input."""
        digest = self.label("d")
        order = {"do": "dataset", "run": run.id, "name": "data", "digest": digest}
        return Said(
            order,
            lambda _: run.datasets.update({digest: True}),
            lambda: run.datasets.update({digest: False}),
        )

    def change(self, run: ExpectedRun, kind: str) -> Said:
        """End, rename, delete or restore a run, or take it up once more."""
        order: dict[str, Any] = {"do": kind, "run": run.id}
        if kind == "rename":
            name = self.label("name ")
            order["name"] = name
            # MLflow's update_run with a name alone says RUNNING as well.
            return Said(order, lambda _: run.name.acknowledge(name), lambda: run.name.perhaps(name))
        if kind in ("delete", "restore"):
            gone = kind == "delete"
            return Said(order, lambda _: run.deleted.acknowledge(gone), lambda: run.deleted.perhaps(gone))
        if kind == "resume":
            step = next(self.numbers)
            order["point"] = ["resumed", "1", step, step]
            point = ("resumed", step, step, value_at("1"))

            def acknowledged(_: Any) -> None:
                run.status.acknowledge("FINISHED")
                run.points.add(point)

            def under_way() -> None:
                run.status.perhaps("RUNNING")
                run.status.perhaps("FINISHED")
                run.perhaps.add(point)

            return Said(order, acknowledged, under_way)
        status = ("FINISHED", "FAILED", "KILLED")[next(self.numbers) % 3]
        order["status"] = status
        return Said(order, lambda _: run.status.acknowledge(status), lambda: run.status.perhaps(status))

    def model(self, run: ExpectedRun) -> Said:
        """Log a model."""
        name = self.label("m")
        order = {"do": "model", "run": run.id, "name": name}

        def acknowledged(_: Any) -> None:
            run.models[name] = True
            run.status.acknowledge("FINISHED")

        def under_way() -> None:
            run.models[name] = False
            run.status.perhaps("RUNNING")
            run.status.perhaps("FINISHED")

        return Said(order, acknowledged, under_way)

    def register(self, run: ExpectedRun, model: str) -> Said:
        """Register a model of a run."""
        name = f"{self.prefix}-model"
        self.versions.setdefault(name, (0, 0))
        order = {"do": "register", "run": run.id, "model": model, "name": name}

        def acknowledged(_: Any) -> None:
            sure, more = self.versions[name]
            self.versions[name] = (sure + 1, more)

        def under_way() -> None:
            sure, more = self.versions[name]
            self.versions[name] = (sure, more + 1)

        return Said(order, acknowledged, under_way)

    # --- which runs and experiments can be changed

    def living_runs(self) -> list[ExpectedRun]:
        """Return the runs that can be logged to."""
        return [run for run in self.runs if run.id is not None and run.deleted.is_surely(False)]

    def experiments_for_runs(self) -> list[ExpectedExperiment]:
        """Return the experiments in which runs can be made."""
        return [each for each in self.experiments if each.id is not None and each.for_runs]

    # --- peace

    def deliver(self, timeout: float = 90) -> Actor:
        """End all faults, and have everything delivered; returns a process of the link."""
        for role in ROLES:
            self.clear(role)
        actor = self.actor(0)
        self.say("peace")
        actor.do("sync", timeout=timeout)
        dead = actor.do("dead")
        assert not dead, f"put aside: {dead}"
        return actor

    def peace(self) -> None:
        """Have everything delivered and compare both workspaces with what was acknowledged."""
        self.deliver()
        self.say("delivered")
        self.compare()
        self.say("equal")
        assert_written_once(self.proxies)
        self.check_nothing_is_left()

    def check_nothing_is_left(self) -> None:
        """Check that the journal is empty once its last process has ended."""
        for actor in list(self.actors):
            self.leave(actor)
        # A run that did not end is read from its files while one of its writers lives: the next one tidies.
        last = self.start()
        last.do("sync", timeout=60)
        self.leave(last)
        queues = [path for path in leftovers(self.home) if "/queues/" in path]
        assert not queues, f"everything is delivered and nobody writes, and yet the journal has {queues}"
        # A copy of a file that was not acknowledged yet stays for a while, in case its writer lives.
        copies = [path for path in leftovers(self.home) if "/spool/" in path]
        assert len(copies) <= self.kills, f"copies of files that no write names: {copies}"

    def close(self) -> None:
        """End what is left of the processes."""
        for proxy in self.proxies:
            proxy.clear()
        for actor in self.actors:
            actor.kill()
        self.actors = []

    # --- comparing

    def compare(self) -> None:
        """Compare both workspaces with what was acknowledged, and with each other."""
        held = [self._experiments_at(server.uri) for server in self.servers]
        for each in self.experiments:
            self._compare_experiment(each, [side.get(f"{self.prefix}-{each.label}") for side in held])
        self._ids: list[dict[str, str]] = [{}, {}]  # of each side: label of a run -> its id there
        compared = [self._runs_at_both(each) for each in self.experiments if each.for_runs]
        for runs in compared:
            for run, sides in runs:
                self._compare_run(run, sides)
        for name in self.versions:
            self._compare_versions(name)

    def _experiments_at(self, uri: str) -> dict[str, dict[str, Any]]:
        from mlflow.entities import ViewType

        found: dict[str, dict[str, Any]] = {}
        pages = plain.client(uri).search_experiments(
            view_type=ViewType.ALL, filter_string=f"tags.label LIKE '{self.prefix}-%'", max_results=1000
        )
        for each in pages:
            label = each.tags["label"]
            assert label not in found, f"{uri} has the experiment {label} twice"
            found[label] = {
                "name": each.name,
                "deleted": each.lifecycle_stage == "deleted",
                "tags": each.tags,
            }
        return found

    def _compare_experiment(self, expected: ExpectedExperiment, held: list[dict[str, Any] | None]) -> None:
        what = f"experiment {expected.label}"
        if expected.id is None and None in held:
            return
        primary, mirror = held
        assert primary is not None, f"{what} is not at databricks"
        assert mirror is not None, f"{what} is not at azureml"
        ours = [
            {k: v for k, v in side["tags"].items() if not k.startswith("dbml_")} for side in (primary, mirror)
        ]
        assert ours[0] == ours[1], f"{what}: tags differ: {ours}"
        assert primary["name"] == mirror["name"], f"{what}: {primary['name']} and {mirror['name']}"
        assert primary["deleted"] == mirror["deleted"], f"{what}: deleted at one side alone"
        if expected.id is None:
            return
        self._check(f"{what}: name", primary["name"], expected.name)
        self._check(f"{what}: deleted", primary["deleted"], expected.deleted)
        for key, cell in expected.tags.items():
            self._check(f"{what}: tag {key}", primary["tags"].get(key), cell)

    def _runs_at_both(self, at: ExpectedExperiment) -> list[tuple[ExpectedRun, list[dict[str, Any] | None]]]:
        sides = []
        for role, server, ids in zip(ROLES, self.servers, self._ids, strict=True):
            by_label: dict[str, dict[str, Any]] = {}
            for run in plain.runs(server.uri, at.name.sure, deleted=True).values():
                label = run["tags"].get("label")
                assert label, f"{role} has a run that nobody made: {run}"
                assert label not in by_label, f"{role} has the run {label} twice"
                by_label[label] = run
                ids[label] = run["run_id"]
            sides.append(by_label)
        expected = {run.label: run for run in self.runs if run.experiment is at}
        unknown = {*sides[0], *sides[1]} - set(expected)
        assert not unknown, f"runs that nobody made: {unknown}"
        return [(run, [side.get(label) for side in sides]) for label, run in expected.items()]

    def _compare_run(self, expected: ExpectedRun, held: list[dict[str, Any] | None]) -> None:
        what = f"run {expected.label}"
        if expected.id is None and None in held:
            return
        for role, side in zip(ROLES, held, strict=True):
            assert side is not None, f"{what} is not at {role}"
        primary, mirror = [plain.comparable(side) for side in held if side is not None]
        differing = {
            key: (primary.get(key), mirror.get(key))
            for key in {*primary, *mirror}
            if primary.get(key) != mirror.get(key)
        }
        assert not differing, f"{what}: databricks and azureml differ: {differing}"
        assert held[0] is not None
        assert held[1] is not None
        if expected.parent is not None:
            for side, ids in zip(held, self._ids, strict=True):
                assert side is not None
                assert side["parent"] == ids[expected.parent], f"{what}: not nested in {expected.parent}"
        if not expected.anything:
            self._compare_with_expected(what, expected, held[0])

    def _compare_with_expected(self, what: str, expected: ExpectedRun, held: dict[str, Any]) -> None:
        self._check(f"{what}: name", held["name"], expected.name)
        self._check(f"{what}: status", held["status"], expected.status)
        self._check(f"{what}: deleted", held["lifecycle_stage"] == "deleted", expected.deleted)
        have = {
            (key, step, stamp, value_at(str(value)))
            for key, series in held["metrics"].items()
            for step, stamp, value in series
        }
        lost = expected.points - have
        assert not lost, f"{what}: {len(lost)} points are lost: {sorted(lost)[:5]}"
        more = have - expected.points - expected.perhaps
        assert not more, f"{what}: points that nobody logged: {sorted(more)[:5]}"
        tags = {
            k: v for k, v in held["tags"].items() if k != "label" and not k.startswith(("mlflow.", "dbml_"))
        }
        hashes = {
            path: Cell(
                *(None if text is None else hashlib.sha256(text.encode()).hexdigest() for text in cell.may_be)
            )
            for path, cell in expected.texts.items()
        }
        for kind, cells, found in (
            ("param", expected.params, held["params"]),
            ("tag", expected.tags, tags),
            ("file", hashes, held["artifacts"]),
        ):
            for key in {*cells, *found}:
                self._check(f"{what}: {kind} {key}", found.get(key), cells.get(key, Cell(None)))
        inputs = {each["digest"] for each in held["inputs"]}
        sure = {digest for digest, acknowledged in expected.datasets.items() if acknowledged}
        assert sure <= inputs <= set(expected.datasets), (
            f"{what}: datasets {inputs}, logged {expected.datasets}"
        )
        made = sum(expected.models.values())
        models = len(held["outputs"])
        assert made <= models <= len(expected.models), (
            f"{what}: {models} models, {expected.models} were logged"
        )

    @staticmethod
    def _check(what: str, found: Any, cell: Cell) -> None:
        assert found in cell.may_be, f"{what} is {found!r}, expected {' or '.join(map(repr, cell.may_be))}"

    def _compare_versions(self, name: str) -> None:
        sure, more = self.versions[name]
        counts = [len(plain.model_versions(server.uri, name)) for server in self.servers]
        for role, count in zip(ROLES, counts, strict=True):
            assert sure <= count <= sure + more, f"{role} has {count} versions, {sure} were acknowledged"
        assert counts[0] == counts[1] or more, f"the registries have {counts} versions"
