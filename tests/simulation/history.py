"""What a seed draws: a training, what befalls it, and peace at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from dbml_magics.core.delivery.worker import DeliveryWorker
from dbml_magics.core.model.operations import (
    DeleteRun,
    DeleteTag,
    LogArtifact,
    LogBatch,
    LogParam,
    RestoreRun,
    SetTag,
    UpdateRun,
)
from dbml_magics.core.outbox.spool import SMALL
from dbml_magics.core.runtime.disk_thread import DiskThread
from tests.simulation.world import FAULTS, ROLES, Expected, World

Act = Callable[[World], None]
ACTS: dict[Act, int] = {}
"""What may happen next, and how often it does."""
MORE_ACTS: dict[Act, int] = {}
"""What may happen too where turns go on together; without it, old seeds play what they once did."""


def act(weight: int, among: dict[Act, int] = ACTS) -> Callable[[Act], Act]:
    """Add something that may happen."""

    def add(happens: Act) -> Act:
        among[happens] = weight
        return happens

    return add


def of_a_run(weight: int, among: dict[Act, int] = ACTS) -> Callable[[Callable[[World, Expected], None]], Act]:
    """Add something that a process does to a run, if there is one."""

    def add(does: Callable[[World, Expected], None]) -> Act:
        def happens(world: World) -> None:
            if runs := world.known():
                does(world, world.chance.choice(runs))

        return act(weight, among)(happens)

    return add


@act(2)
def _begin(world: World) -> None:
    if len(world.runs) < 4:
        world.begin()


@of_a_run(6)
def _points(world: World, run: Expected) -> None:
    world.points(run, world.chance.choice(["loss", "acc"]), world.chance.choice([1, 2, 5, 30]))


@of_a_run(3)
def _batch(world: World, run: Expected) -> None:
    steps = [world.number() for _ in range(world.chance.randrange(4))]
    points = [("m", float(step), 1000 + step, step) for step in steps]
    params, tags = {f"p{world.number()}": "1"}, {"t": f"{world.number()}"}
    for step in steps:
        run.points["m", 1000 + step, step] = False
    changes = [("param", key, value) for key, value in params.items()]
    crashes = world.crashes
    world.write(run, LogBatch(points, params, tags), *changes, ("tag", "t", tags["t"]))
    if world.crashes == crashes:
        run.points.update({("m", 1000 + step, step): True for step in steps})


@of_a_run(2)
def _param(world: World, run: Expected) -> None:
    key = f"p{world.number()}"
    world.write(run, LogParam(key, "1"), ("param", key, "1"))


@of_a_run(3)
def _tag(world: World, run: Expected) -> None:
    key, value = world.chance.choice("tu"), str(world.number())
    world.write(run, SetTag(key, value), ("tag", key, value))


@of_a_run(1)
def _untag(world: World, run: Expected) -> None:
    if None not in run.may_be("tag", "t"):
        world.write(run, DeleteTag("t"), ("tag", "t", None))


@of_a_run(2)
def _file(world: World, run: Expected) -> None:
    path, size = world.chance.choice(["a.txt", "b.txt"]), world.chance.choice([1, 10, 2 * SMALL])
    size += world.number() % 10
    source = world.folder / "written.txt"
    source.write_bytes(b"x" * size)
    with world.may_crash():
        kept = world.engine.retention.keep(source)
        world.write(run, LogArtifact(f"run:{run.id}", path, kept), ("file", path, str(size)))


@of_a_run(2)
def _end(world: World, run: Expected) -> None:
    status = world.chance.choice(["FINISHED", "FAILED", "KILLED"])
    world.write(run, UpdateRun(status, 2000 + world.number()), ("status", "", status))


@of_a_run(1)
def _rename(world: World, run: Expected) -> None:
    name = f"name {world.number()}"
    world.write(run, SetTag("mlflow.runName", name), ("name", "", name))


@of_a_run(1)
def _delete(world: World, run: Expected) -> None:
    run.deleted = True
    world.write(run, DeleteRun(), ("stage", "", "deleted"))


@act(1)
def _restore(world: World) -> None:
    if deleted := [run for run in world.runs if run.is_surely("stage", "deleted")]:
        world.write(world.chance.choice(deleted), RestoreRun(), ("stage", "", "active"))


@act(2)
def _register(world: World) -> None:
    run = world.chance.choice([None, *world.known()])
    world.register(run, world.chance.choice(["wine", "beer"]))


@act(2)
def _tag_a_version(world: World) -> None:
    if versions := [each for each in world.versions if each.sure]:
        world.tag_version(world.chance.choice(versions))


@act(10)
def _deliver(world: World) -> None:
    world.deliver(world.chance.choice(ROLES), urgent=world.chance.random() < 0.5)


@act(4)
def _fault(world: World) -> None:
    role, what = world.chance.choice(ROLES), world.chance.choice([*FAULTS])
    number, of = world.chance.randint(1, 6), world.chance.choice(["", "", "log_batch", "create_run"])
    world.say(f"{role}: {what} at call {number}" + (f" of {of}" if of else ""))
    world.there[role].fail(FAULTS[what], number, of=of)


@act(1)
def _outage(world: World) -> None:
    role, seconds = world.chance.choice(ROLES), world.chance.choice([1.0, 10.0, 100.0])
    world.say(f"{role} is away for {seconds:g} s")
    world.there[role].away_until = world.clock.now + seconds


@act(3)
def _time(world: World) -> None:
    world.clock.sleep(world.chance.choice([0.1, 1.0, 5.0, 60.0]))


@act(3)
def _crash(world: World) -> None:
    steps = world.chance.randrange(40)
    world.say(f"the process has {steps} more steps")
    world.steps.left = steps


@act(1)
def _restart(world: World) -> None:
    world.restart("the process ends, and another begins")


def _all_may_go_again(world: World) -> bool:
    """Tell whether nothing was ever deleted or renamed: it would refuse what is delivered anew."""
    return not (world.renamed or any(r.deleted for r in world.runs) or any(m.deleted for m in world.models))


@act(1)
def _lose_the_state(world: World) -> None:
    if _all_may_go_again(world):
        world.lose_the_state()


@act(1)
def _put_back(world: World) -> None:
    if _all_may_go_again(world):
        world.put_back()


@of_a_run(2, MORE_ACTS)
def _log_a_model(world: World, run: Expected) -> None:
    world.log_model(run)


@act(3, MORE_ACTS)
def _change_a_model(world: World) -> None:
    if models := [model for model in world.models if model.sure and not model.deleted]:
        model = world.chance.choice(models)
        change = world.chance.choice(["tag", "untag", "param", "status", "delete"])
        world.change_model(model, change)


@act(1, MORE_ACTS)
def _rename_a_registered_model(world: World) -> None:
    # With the state goes what waits for which name: the link would say that there is no such model.
    if versions := [each for each in world.versions if each.sure and not world.lost_the_state]:
        world.rename_registered(world.chance.choice(versions).name)


@act(2, MORE_ACTS)
def _storage_refuses(world: World) -> None:
    role, seconds = world.chance.choice(ROLES), world.chance.choice([10.0, 100.0, 1000.0])
    world.say(f"{role}: the storage refuses files for {seconds:g} s")
    world.there[role].no_files_until = world.clock.now + seconds


@contextmanager
def stillness() -> Iterator[None]:
    """Have engines without threads: a world takes their steps."""
    real = DeliveryWorker.start, DiskThread.start
    DeliveryWorker.start = lambda self: None  # type: ignore[method-assign]
    DiskThread.start = lambda self: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        DeliveryWorker.start, DiskThread.start = real  # type: ignore[method-assign]


def play(seed: int, acts: int = 40, lanes: int = 3) -> list[str]:
    """Play the history of a seed, in which so many turns go on at a time, and return it.

    Raises AssertionError, with the history, where it goes wrong.
    """
    folder = Path(tempfile.mkdtemp(prefix="dbml-simulation-", dir=_quick()))
    with patch.dict(os.environ, DBML_HOME=str(folder)):
        return _play(folder, seed, acts, lanes)


def _play(folder: Path, seed: int, acts: int, lanes: int) -> list[str]:
    world = World(folder, seed, lanes)
    acts_of = ACTS | MORE_ACTS if lanes > 1 else ACTS
    happenings, weights = [*acts_of], [*acts_of.values()]
    try:
        world.begin()
        for happens in world.chance.choices(happenings, weights, k=acts):
            happens(world)
        world.peace()
    except Exception as error:
        story = "\n".join(world.story)
        raise AssertionError(f"seed {seed}: {error!r}\n\nthe history:\n{story}") from error
    finally:
        world.close()
        shutil.rmtree(folder)
    return world.story


def _quick() -> str | None:
    """Return a folder in memory, where this machine has one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
