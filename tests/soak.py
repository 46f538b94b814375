"""Log for hours from several processes, with faults and kills all the while, and compare every so often.

    python -m tests.soak --minutes 60

Each process makes runs one after another and logs points, params, tags and files to them; one is never
killed, so that its memory tells of leaks. Workspaces fail at random, processes are killed with SIGKILL in the
middle of a call. Every few minutes there is peace: everything is delivered, both workspaces are compared with
what MLflow's calls acknowledged, and figures are printed. Ends with an error at the first difference.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import Proxies, Servers
from tests.core.histories import PATHS, ROLES, ExpectedRun, Said, World
from tests.core.linking import assert_written_once
from tests.infra.actors import Actor, ActorHost
from tests.infra.faults import FAULTS
from tests.infra.proxy import Proxy
from tests.infra.servers import ServerHost

SETTINGS = {"DBML_IDENTITY_BUDGET": "1"}  # the rest is as users have it
SAMPLE = 200_000
SYNC_S = 600.0


@dataclass
class Figures:
    """What was done, and what it cost."""

    runs: int = 0
    points: int = 0
    files: int = 0
    faults: int = 0
    kills: int = 0
    compared: int = 0
    seconds: list[float] = field(default_factory=list)  # of log_metric calls, a sample
    slowest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def took(self, seconds: list[float]) -> None:
        """Note what calls of log_metric took."""
        with self.lock:
            self.slowest = max([self.slowest, *seconds])
            self.seconds += seconds
            if len(self.seconds) > SAMPLE:
                self.seconds = random.sample(self.seconds, SAMPLE // 2)

    def quantile(self, share: float) -> float:
        """Return the time in microseconds that so large a share of the calls took at most."""
        ordered = sorted(self.seconds)
        return 1e6 * ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


class Soak:
    """The processes, what befalls them, and the times of peace."""

    def __init__(self, world: World, processes: int, chance: random.Random, pause: float) -> None:
        self.world, self.chance, self.pause = world, chance, pause
        self.figures = Figures()
        self.war = threading.Event()
        self.over = threading.Event()
        self.failure: BaseException | None = None
        self.busy = threading.Semaphore(processes)
        self.linking = threading.Lock()
        self.processes = processes
        self.watched = world.start()
        self.memory_at_first = 0

    def log(self, number: int) -> None:
        """Make runs in one process until it is over, which is killed now and then unless it is the first."""
        actor: Actor | None = self.watched if number == 0 else None
        try:
            while not self.over.is_set():
                if not self.war.wait(0.1):
                    continue
                with self.busy:
                    if not self.war.is_set():
                        continue
                    if actor is None or actor not in self.world.actors:
                        actor = self._start()
                    self._one_run(actor, number)
        except BaseException as error:
            self.failure = self.failure or error
            self.over.set()

    def _start(self) -> Actor:
        """Start a process in a moment without faults: a sign-in that is refused refuses a link, too."""
        with self.linking:
            for role in ROLES:
                self.world.clear(role)
            return self.world.start()

    def _one_run(self, actor: Actor, number: int) -> None:
        world, chance, figures = self.world, self.chance, self.figures
        world.tell(actor, world.create(world.experiments[0], None, {"by": str(number)}))
        run = next(r for r in reversed(world.runs) if r.tags["by"].sure == str(number))
        figures.runs += 1
        for _ in range(chance.randint(1, 6)):
            if self.over.is_set():
                return
            count = chance.choice([20, 200, 1000])
            said = [world.points(run, actor, count), *self._words(run)]
            said[0].order["pause"] = self.pause
            if number and chance.random() < 0.03:
                world.together([(actor, said)], 0, chance.random() * 0.5)
                figures.kills += 1
                figures.points += len(run.points)
                return
            figures.took(world.tell(actor, said[0]))
            figures.points += count
            for each in said[1:]:
                world.tell(actor, each)
                figures.files += each.order["do"] == "text"
        if chance.random() < 0.1:
            world.tell(actor, world.model(run))
        else:
            world.tell(actor, world.change(run, "end"))

    def _words(self, run: ExpectedRun) -> list[Said]:
        world, chance = self.world, self.chance
        kinds = chance.choices(["param", "tag", "text"], k=chance.randint(0, 4))
        said = [world.write(run, kind, f"k{chance.randrange(3)}", f"v{chance.random()}") for kind in kinds]
        return [*said, world.batch(run, repr(chance.random()), "text")]

    def trouble(self) -> None:
        """Begin and end faults at either workspace until it is over."""
        chance = self.chance
        while not self.over.wait(chance.uniform(1, 15)):
            if self.war.is_set():
                role = chance.choice(ROLES)
                with self.linking:
                    self.world.strike(role, chance.choice(sorted(FAULTS)), chance.choice(PATHS))
                self.figures.faults += 1
                self.over.wait(chance.uniform(0.5, 10))
                self.world.clear(role)

    def peace(self) -> None:
        """Have the processes pause, have everything delivered, and compare."""
        self.war.clear()
        for _ in range(self.processes):
            self.busy.acquire()
        try:
            if self.failure is not None:
                raise self.failure
            world = self.world
            for role in ROLES:
                world.clear(role)
            began = time.monotonic()
            self._sync()
            dead = self.watched.do("dead")
            assert not dead, f"put aside: {dead}"
            took = time.monotonic() - began
            world.compare()
            assert_written_once(world.proxies)
            self.figures.compared += len(world.runs)
            for proxy in world.proxies:
                proxy.forget()
            self.say(took)
            world.runs.clear()
            world.experiments.clear()
            world.tell(self.watched, world.experiment())
        finally:
            for _ in range(self.processes):
                self.busy.release()

    def _sync(self) -> None:
        """Have everything delivered; where that takes long, say why, from another process."""
        self.watched.patience(SYNC_S + 60)
        done = threading.Event()

        def tell() -> None:
            while not done.wait(30):
                others = [
                    actor for actor in self.world.actors if actor is not self.watched and not actor.pending
                ]
                for other in others:
                    print(f"still delivering; process {other.pid} says {other.do('report')}", flush=True)

        telling = threading.Thread(target=tell, daemon=True)
        telling.start()
        try:
            self.watched.do("sync", timeout=SYNC_S)
        finally:
            done.set()
            telling.join()

    def say(self, took: float) -> None:
        """Print a line of figures."""
        figures = self.figures
        memory = self.watched.memory()
        self.memory_at_first = self.memory_at_first or memory
        sizes = {"journal": "queues/**/*", "spool": "spool/*", "state": "state.db*"}
        size = {
            what: sum(p.stat().st_size for p in self.world.home.glob(f"links/*/{where}") if p.is_file())
            for what, where in sizes.items()
        }
        print(
            f"{time.strftime('%H:%M:%S')}  {figures.runs:,} runs  {figures.points:,} points  "
            f"{figures.files:,} files  {figures.faults} faults  {figures.kills} kills  "
            f"compared {figures.compared:,}, equal, after {took:.1f} s  "
            f"memory {memory / 1e6:.0f} MB (first {self.memory_at_first / 1e6:.0f})  "
            f"threads {self.watched.threads()}  descriptors {self.watched.descriptors()}  "
            + "  ".join(f"{what} {bytes_ / 1e6:.2f} MB" for what, bytes_ in size.items())
            + f"  log_metric p50 {figures.quantile(0.5):.0f} p99 {figures.quantile(0.99):.0f} "
            f"µs, slowest {figures.slowest * 1e3:.0f} ms",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> int:
    """Soak; returns 1 at the first difference."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--every", type=float, default=180.0, help="seconds between two comparisons")
    parser.add_argument("--pause", type=float, default=0.002, help="seconds between two points")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    chosen = parser.parse_args(arguments)
    print(f"seed {chosen.seed}, {chosen.processes} processes, {chosen.minutes:g} minutes", flush=True)
    with ServerHost() as servers, tempfile.TemporaryDirectory(prefix="dbml-soak-") as place:
        pair = Servers(*servers.start_pair())
        with Proxy(pair[0].uri) as first, Proxy(pair[1].uri) as second, ActorHost() as host:
            world = World(
                pair,
                Proxies(first, second),
                host,
                Path(place),
                f"soak{os.getpid()}",
                lambda _: None,
                SETTINGS,
            )
            return soak(world, chosen)


def soak(world: World, chosen: argparse.Namespace) -> int:
    """Run the processes in threads of this one's, and make peace every so often."""
    whole = Soak(world, chosen.processes, random.Random(chosen.seed), chosen.pause)
    world.tell(whole.watched, world.experiment())
    threads = [threading.Thread(target=whole.log, args=(n,), daemon=True) for n in range(chosen.processes)]
    threads.append(threading.Thread(target=whole.trouble, daemon=True))
    for thread in threads:
        thread.start()
    until = time.monotonic() + 60 * chosen.minutes
    try:
        for round_ in itertools.count():
            left = until - time.monotonic()
            if left <= 0:
                break
            whole.war.set()
            whole.over.wait(min(left, chosen.every if round_ else min(20.0, chosen.every)))
            whole.peace()
        whole.over.set()
        for thread in threads:
            thread.join(60)
        world.experiments.clear()
        world.check_nothing_is_left()
    except AssertionError as failure:
        print(f"DIFFERENT: {failure}", flush=True)
        return 1
    finally:
        whole.over.set()
        world.close()
    print("nothing lost, nothing doubled, nothing left behind", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
