"""A link to two destinations in memory, which a history drives step by step and may end at any of them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from random import Random
from typing import ParamSpec, TypeVar

from mlflow.entities import LoggedModel, Run, ViewType

from dbml_magics.core.delivery.writers.ids import MODEL_TAG, RUN_TAG
from dbml_magics.core.delivery.writers.registrations import ask_for
from dbml_magics.core.delivery.writers.versions import KEY_TAG, TWIN_TAG
from dbml_magics.core.destinations.errors import Busy, Unavailable
from dbml_magics.core.link import Link, WorkspaceSpec
from dbml_magics.core.model.facts import ModelFacts, RegistryChange, VersionFacts
from dbml_magics.core.model.ids import provisional
from dbml_magics.core.model.operations import (
    ChangeRegistry,
    CreateModel,
    CreateRun,
    DeleteModel,
    DeleteModelTag,
    FinalizeModel,
    LogModelParams,
    ModelChange,
    Operation,
    SetModelTags,
)
from dbml_magics.core.model.queues import REGISTRY_QUEUE
from dbml_magics.core.runtime.engine import Engine
from tests.infra.clock import FakeClock
from tests.infra.memory_destination import HALF, LOST, UNSENT, Fault, MemoryDestination
from tests.simulation.baton import Baton, Crash

P = ParamSpec("P")
T = TypeVar("T")
ROLES = "databricks", "azureml"
FAULTS = {
    "the answer is lost": LOST,
    "half a batch arrives": HALF,
    "the call never arrives": UNSENT,
    "it is busy": Fault(lambda: Busy("not now", retry_after=1.0)),
    "it answers 503": Fault(lambda: Unavailable("answers 503", retry_after=2.0)),
    "it answers 500": Fault(lambda: Unavailable("answers 500")),
}
PARENT_TAG = "mlflow.parentRunId"
PATIENCE_S = 3600.0  # of the world's own time, until everything has arrived


class Steps:
    """Counts the steps of a process, and ends it at one of them."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.ended = False

    def begin(self) -> None:
        """Begin another process, which does not end by itself."""
        self.left, self.ended = None, False

    def step(self) -> None:
        """Take one step. Raises Crash at the one at which the process ends, and at what would come after."""
        if self.left is not None:
            self.left -= 1
            self.ended = self.left < 0
        if self.ended:
            raise Crash

    def around(self, call: Callable[P, T]) -> Callable[P, T]:
        """Return a call before and after which the process may end."""

        @wraps(call)
        def stepped(*args: P.args, **kwargs: P.kwargs) -> T:
            self.step()
            answer = call(*args, **kwargs)
            self.step()
            return answer

        return stepped


class Destination(MemoryDestination):
    """A destination that may be away for a while, and that keeps a point twice which arrives twice."""

    def __init__(self, role: str, seed: int, clock: FakeClock, steps: Steps) -> None:
        super().__init__(role, seed=seed, appends=True)
        self._clock, self._steps = clock, steps
        self.away_until = 0.0
        self.no_files_until = 0.0

    def serve(self, name: str, writes: bool, call: Callable[[], T]) -> T:
        """Serve a call; the process may end before it, and before it reads the answer."""
        self._steps.step()
        if self._clock.now < self.away_until:
            raise UNSENT.error()
        if name == "log_artifact" and self._clock.now < self.no_files_until:
            raise Unavailable("its storage refuses (403)", sent=False, apart=True)
        answer = super().serve(name, writes, call)
        self._steps.step()
        return answer


@dataclass
class Expected:
    """What may stand of a run: of each thing what was acknowledged last, and what was under way since."""

    id: str
    label: str
    parent: Expected | None = None
    sure: bool = False  # its creation was acknowledged
    deleted: bool = False  # once
    facts: dict[tuple[str, str], list[str | None]] = field(default_factory=dict)
    """(status, name, stage, param, tag or file; its key) -> what may stand there, None: nothing."""
    points: dict[tuple[str, int, int], bool] = field(default_factory=dict)
    """(key, time, step) -> whether it was acknowledged."""

    def may_be(self, kind: str, key: str = "") -> list[str | None]:
        """Return what may stand in one place."""
        return self.facts.setdefault((kind, key), [None])

    def is_surely(self, kind: str, value: str) -> bool:
        """Tell whether one value stands in a place, whatever happened."""
        return self.may_be(kind) == [value]


@dataclass
class Logged:
    """A logged model as it was acknowledged: a change of one is one step here."""

    id: str
    name: str
    queue: str
    sure: bool = False  # its creation was acknowledged
    deleted: bool = False
    status: str = "PENDING"
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)


@dataclass
class Version:
    """A version that was asked for, and the tag that it shall have."""

    key: str
    name: str
    sure: bool = False  # it was acknowledged
    said: str | None = None


class World:
    """One link, the process that uses it, and what it was answered."""

    def __init__(self, folder: Path, seed: int, lanes: int) -> None:
        self.chance, self._order, self._lanes = Random(seed), Random(seed), lanes
        self.clock, self.steps = FakeClock(), Steps()
        self.there = {role: Destination(role, seed, self.clock, self.steps) for role in ROLES}
        self.folder = folder
        self.runs: list[Expected] = []
        self.models: list[Logged] = []
        self.versions: list[Version] = []
        self.lost_the_state = self.renamed = False
        self.story: list[str] = []
        self.crashes = 0
        self._number = 0
        self.engine = self._start()

    def say(self, what: str) -> None:
        """Add a line to the history that a failure shows."""
        self.story.append(f"{self.clock.now:9.2f}  {what}")

    def number(self) -> int:
        """Return a number that nothing else has."""
        self._number += 1
        return self._number

    # --- the process

    def _start(self) -> Engine:
        specs = tuple(WorkspaceSpec(role, self.there[role].uri) for role in ROLES)
        engine = Engine(
            Link(str(self.folder), specs, registry="both"),
            connect=lambda spec: self.there[spec.role],  # type: ignore[arg-type,return-value]
            clock=self.clock,
            chance=self.chance,
            lanes=lambda destination, name: Baton(self._lanes, self._order),
        )
        engine.state.write = self.steps.around(engine.state.write)  # type: ignore[method-assign]
        engine.journal.append = self.steps.around(engine.journal.append)  # type: ignore[method-assign]
        return engine

    def close(self) -> None:
        """End the process as a kill does: what it had open is closed, and nothing else is done."""
        self.steps.begin()
        for worker in self.engine.workers.values():
            worker.lease.release()
        for witness in self.engine.witnesses.values():
            witness.close()
        self.engine.journal.close()
        self.engine.state.close()

    def restart(self, why: str) -> None:
        """End the process, and begin another on the same link."""
        self.say(why)
        self.close()
        self.engine = self._start()

    def lose_the_state(self) -> None:
        """Lose what delivery knew; the journal is whole."""
        self.close()
        for path in self.engine.link.home.glob("state.db*"):
            path.unlink()
        self.say("the state is lost")
        self.lost_the_state = True
        self.engine = self._start()

    def put_back(self) -> None:
        """Have everything delivered, and put the link's folder back as it was before."""
        self.close()
        home, before = self.engine.link.home, self.folder / "before"
        shutil.copytree(home, before)
        self.engine = self._start()
        self.deliver_all()
        self.close()
        self.say("the folder is put back as it was before all was delivered")
        shutil.rmtree(home)
        before.rename(home)
        self.engine = self._start()

    @contextlib.contextmanager
    def may_crash(self) -> Iterator[None]:
        """Go on with another process where this one ends."""
        try:
            yield
        except Crash:
            self.crashes += 1
            self.restart("the process was killed")

    # --- what it is answered

    def begin(self) -> None:
        """Begin a run that nobody has named yet; where turns go on together, perhaps below another one."""
        below = [*self.known(), None] if self._lanes > 1 else [None]
        run = Expected(provisional(), f"run{self.number()}", self._order.choice(below))
        run.facts = {("status", ""): ["RUNNING"], ("name", ""): [run.label], ("stage", ""): ["active"]}
        self.runs.append(run)
        self.say(f"{run.label} begins")
        with self.may_crash():
            self.engine.live.begin_queue(run.id)
            tags = {"mlflow.runName": run.label, "label": run.label}
            if run.parent is not None:
                tags[PARENT_TAG] = run.parent.id
            self.engine.recorder.write(run.id, CreateRun("0", "me", 1000, tags))
            run.sure = True

    def write(self, run: Expected, op: Operation, *changes: tuple[str, str, str | None]) -> None:
        """Write to a run; ``changes`` are (kind, key, value) that stand there afterwards."""
        self.say(f"{run.label}: {op.describe()}")
        before = {(kind, key): [*run.may_be(kind, key)] for kind, key, _ in changes}
        for kind, key, value in changes:  # under way until it is acknowledged
            run.facts[kind, key] = [*before[kind, key], value]
        with self.may_crash():
            self.engine.recorder.write(run.id, op)
            for kind, key, value in changes:
                run.facts[kind, key] = [value]

    def points(self, run: Expected, key: str, count: int) -> None:
        """Log points, each by a call of its own."""
        self.say(f"{run.label}: {count} points of {key}")
        with self.may_crash():
            self.engine.live.begin_queue(run.id)
            for _ in range(count):
                step = self.number()
                run.points[key, 1000 + step, step] = False
                self.engine.recorder.log_metric(run.id, key, float(step), 1000 + step, step, None)
                run.points[key, 1000 + step, step] = True

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Let the process not end in what is one step to whoever calls it."""
        left, self.steps.left = self.steps.left, None
        yield
        self.steps.left = left

    def register(self, run: Expected | None, name: str) -> None:
        """Ask for a version, of a run's model or of one from elsewhere."""
        version = Version(f"key{self.number()}", name)
        self.versions.append(version)
        self.say(f"{run.label if run else 'no run'}: {version.key} of {name} is registered")
        facts: VersionFacts = {
            "key": version.key,
            "name": name,
            "source": {"kind": "uri", "uri": "s3://bucket/model"},
            "run": run.id if run else None,
            "tags": {},
            "to": [*ROLES],
        }
        queue = run.id if run else REGISTRY_QUEUE
        with self.may_crash():
            ask_for(self.engine.state, self.engine.recorder.write, queue, facts, self.clock)
            version.sure = True

    def tag_version(self, version: Version) -> None:
        """Tag a version, which may have no number yet."""
        version.said = str(self.number())
        self.say(f"{version.key} is tagged {version.said}")
        waiting = self.engine.state.model_versions.open_of(version.name)
        change: RegistryChange = {
            "do": "version_tag",
            "name": version.name,
            "version": "0",
            "of": version.key,
            "key": "said",
            "value": version.said,
            "to": [*ROLES],
            "after": {key: queue for key, queue in waiting.items() if key == version.key},
        }
        with self.at_once():
            self.engine.recorder.write(REGISTRY_QUEUE, ChangeRegistry(change))

    def rename_registered(self, name: str) -> None:
        """Rename a registered model, some of whose versions may have no number yet."""
        new_name = f"{name.split()[0]} {self.number()}"
        self.say(f"{name} is renamed {new_name}")
        waiting = self.engine.state.model_versions.open_of(name)
        rename: RegistryChange = {
            "do": "rename_model",
            "name": name,
            "new_name": new_name,
            "to": [*ROLES],
            "after": waiting,
        }
        twins: RegistryChange = {"do": "twins", "name": new_name, "old_name": name, "to": [*ROLES]}
        with self.at_once():
            self.engine.recorder.write(REGISTRY_QUEUE, ChangeRegistry(rename))
            self.engine.state.model_versions.follow_rename(name, new_name)
            self.engine.recorder.write(REGISTRY_QUEUE, ChangeRegistry(twins))
        self.renamed = True
        for version in self.versions:
            if version.name == name:
                version.name = new_name

    # --- logged models

    def log_model(self, run: Expected) -> None:
        """Log a model of a run that no workspace has named yet."""
        number = self.number()
        model = Logged(f"m-{number:032x}", f"model{number}", run.id)
        self.models.append(model)
        self.say(f"{run.label}: {model.name} is logged")
        facts: ModelFacts = {
            "id": model.id,
            "experiment": "0",
            "name": model.name,
            "run": run.id,
            "type": None,
            "params": {},
            "tags": {},
            "created": 1000 + number,
        }
        with self.may_crash():
            self.engine.state.remember_model(model.id, run.id, facts)
            self.engine.live.begin_queue(run.id)
            self.engine.recorder.write_all(run.id, [CreateModel(facts)], lasting=True)
            model.sure = True

    def change_model(self, model: Logged, change: str) -> None:
        """Change a logged model, or delete it."""
        op: ModelChange | FinalizeModel
        key = f"k{self.number()}"
        match change:
            case "untag" if model.tags:
                key = self.chance.choice([*model.tags])
                op = DeleteModelTag(model.id, key)
                del model.tags[key]
            case "param":
                op = LogModelParams(model.id, {key: "1"})
                model.params[key] = "1"
            case "status":
                model.status = self.chance.choice(["READY", "FAILED"])
                op = FinalizeModel(model.id, model.status)
            case "delete":
                op, model.deleted = DeleteModel(model.id), True
            case _:
                op = SetModelTags(model.id, {key: "1"})
                model.tags[key] = "1"
        self.say(f"{model.name}: {op.describe()}")
        with self.at_once():
            self.engine.recorder.write(model.queue, op)

    def known(self) -> list[Expected]:
        """Return the runs that can be logged to."""
        return [run for run in self.runs if run.sure and run.is_surely("stage", "active")]

    # --- delivery

    def deliver(self, role: str, *, urgent: bool = False) -> None:
        """Let one destination's worker do what its thread does when it is woken."""
        with self.may_crash():
            worker = self.engine.workers[role]
            if urgent:
                worker.hurry()
            worker.step()

    def peace(self) -> None:
        """Have everything delivered, and compare."""
        self.deliver_all()
        dead = [(role, op, cause) for _, role, _, op, cause, _ in self.engine.state.dead(None)]
        assert not dead, f"put aside: {dead}"
        for role, there in self.there.items():
            self._compare(role, there)
            self._compare_models(role, there)
        self._compare_versions()
        self.say("equal")

    def deliver_all(self) -> None:
        """End all faults, and have everything delivered."""
        self.say("peace")
        self.steps.left = None
        for there in self.there.values():
            there.heal()
            there.away_until = there.no_files_until = 0.0
        until = self.clock.now + PATIENCE_S
        while any(self._waits(role) for role in ROLES):
            assert self.clock.now < until, f"after an hour without a fault {self._left()} waits"
            for role in ROLES:
                self.deliver(role, urgent=True)
            self.clock.sleep(0.5)

    def _waits(self, role: str) -> bool:
        """Tell whether writes are on their way, or files put aside until the storage takes them."""
        return bool(self.engine.backlog.waiting(role)[0] or self.engine.workers[role].held.numbers())

    def _left(self) -> str:
        return ", ".join(f"{self.engine.backlog.waiting(role)[0]} for {role}" for role in ROLES)

    def _compare(self, role: str, there: Destination) -> None:
        found: dict[str, Run] = {}
        for each in there.search_runs(["0"], "", ViewType.ALL):
            label = each.data.tags["label"]
            assert label not in found, f"{role} has {label} twice"
            found[label] = each
        for run in self.runs:
            if (held := found.pop(run.label, None)) is None:
                assert not run.sure, f"{role} lacks {run.label}"
            else:
                self._compare_run(f"{role}, {run.label}", there, run, held)
        assert not found, f"{role} has runs that nobody began: {[*found]}"

    def _compare_models(self, role: str, there: Destination) -> None:
        found: dict[str, LoggedModel] = {}
        for each in there.search_logged_models(["0"], most=1000):
            key = each.tags[MODEL_TAG]
            assert key not in found, f"{role} has {each.name} twice"
            found[key] = each
        for model in self.models:
            held = found.pop(model.id, None)
            if held is None or model.deleted:
                assert model.deleted or not model.sure, f"{role} lacks {model.name}"
                assert held is None, f"{role} still has {model.name}, which is deleted"
                continue
            tags = {key: value for key, value in held.tags.items() if key != MODEL_TAG}
            stands = held.status.value, tags, held.params
            expected = model.status, model.tags, model.params
            assert stands == expected, f"{role}, {model.name}: {stands}, not {expected}"
        assert not found, f"{role} has logged models that nobody logged: {[*found]}"

    def _compare_versions(self) -> None:
        numbers: dict[str, dict[str, str]] = {}
        there_are = {each.tags[KEY_TAG] for each in self.there[ROLES[0]].search_model_versions("")}
        self.versions = [each for each in self.versions if each.sure or each.key in there_are]
        for role, there in self.there.items():
            found = sorted(there.search_model_versions(""), key=lambda each: int(each.version))
            numbers[role] = {each.tags[KEY_TAG]: f"{role}:{each.name}/{each.version}" for each in found}
            for name in {each.name for each in self.versions}:
                asked = [each.key for each in self.versions if each.name == name]
                keys = [each.tags[KEY_TAG] for each in found if each.name == name]
                if self.lost_the_state:  # and with it what was asked for, in which order
                    asked, keys = sorted(asked), sorted(keys)
                assert keys == asked, f"{role}: the versions of {name} are {keys}, not {asked}"
            if self.lost_the_state:
                continue
            said = {each.tags[KEY_TAG]: each.tags.get("said") for each in found}
            expected = {each.key: each.said for each in self.versions}
            assert said == expected, f"{role}: the versions are tagged {said}, not {expected}"
        for role, other in (ROLES, ROLES[::-1]):
            twins = {
                each.tags[KEY_TAG]: each.tags[TWIN_TAG] for each in self.there[role].search_model_versions("")
            }
            assert twins == numbers[other], f"{role}: the twins are {twins}, not {numbers[other]}"

    def _compare_run(self, what: str, there: Destination, run: Expected, held: Run) -> None:
        own = ("mlflow.", "dbml_", "label")
        files = there.artifacts(held.info.artifact_uri)
        stands: dict[tuple[str, str], str | None] = {
            ("status", ""): held.info.status,
            ("name", ""): held.info.run_name,
            ("stage", ""): held.info.lifecycle_stage,
            **{("param", key): value for key, value in held.data.params.items()},
            **{("tag", key): value for key, value in held.data.tags.items() if not key.startswith(own)},
            **{("file", each.path): str(each.file_size) for each in files.list_artifacts()},
        }
        for place in {*stands, *run.facts}:
            expected = run.facts.get(place, [None])
            kind = " ".join(place).strip()
            assert stands.get(place) in expected, f"{what}: {kind} is {stands.get(place)!r}, not {expected}"
        there_are = [
            (each.key, each.timestamp, each.step)
            for key in held.data.metrics
            for each in there.get_metric_history(held.info.run_id, key)
        ]
        points = set(there_are)
        assert len(points) == len(there_are), f"{what}: {len(there_are) - len(points)} points arrived twice"
        lost = {point for point, sure in run.points.items() if sure} - points
        assert not lost, f"{what}: {len(lost)} points are lost: {sorted(lost)[:3]}"
        assert points <= run.points.keys(), f"{what}: points that nobody logged"
        if run.parent is not None:
            above = there.get_run(held.data.tags[PARENT_TAG]).data.tags["label"]
            assert above == run.parent.label, f"{what}: its parent is {above}, not {run.parent.label}"
        assert held.data.tags[RUN_TAG] == run.id, f"{what}: {held.data.tags[RUN_TAG]} of {run.id}"
