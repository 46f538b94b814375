"""Ctrl-C at every step of a tracked run, and a storm of 20,000 at random moments: some minutes.

python -m tests.interrupts                    every step, then the storm
python -m tests.interrupts --count 2000       a smaller storm
python -m tests.interrupts --stride 10        only each tenth step

Afterwards everything that was acknowledged is at both sides, once, and no run goes on. Prints what it did.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dbml_magics as dbml

ROUND = 500  # interrupts between two looks at everything, which begin with a fresh link


@contextmanager
def fresh(number: int) -> Iterator[str]:
    """Link two fresh local folders, and return the name of an experiment there."""
    import mlflow

    from dbml_magics.core import session

    with tempfile.TemporaryDirectory(prefix="dbml-interrupts-", ignore_cleanup_errors=True) as folder:
        os.environ["DBML_HOME"] = folder
        os.chdir(folder)
        dbml.link(local=f"{folder}/two")
        experiment = f"interrupts-{number}"
        mlflow.set_experiment(experiment)
        dbml.sync(60)
        yield experiment
        session.current().unlink()
        os.chdir("/")


def every_step(stride: int) -> None:
    """Interrupt a run at each of its steps, one a run."""
    from dbml_magics.core import track
    from tests.core.interrupted import Story
    from tests.infra.interrupts import Interrupter

    interrupter = Interrupter(Path(track.__file__).parents[1])
    for goes_on in (False, True):
        began, at, steps, tried, raised, runs = time.monotonic(), 1, 1 << 30, 0, 0, 0
        number = 0
        while at < steps:
            number += 1
            with fresh(number) as experiment:
                story = Story(experiment, goes_on=goes_on)
                story.tell()
                interrupter.run(story.tell)
                steps = interrupter.steps
                for _ in range(ROUND):
                    raised += interrupter.run(story.tell, at)
                    tried, at = tried + 1, at + stride
                    if at >= steps:
                        break
                story.tell()
                runs += story.check()
        kind = "caught in the block" if goes_on else "out of the block"
        print(
            f"every {stride}. of {steps:,} steps, {kind}: {tried:,} interrupts, {raised:,} came out, "
            f"{runs:,} runs whole at both sides, {time.monotonic() - began:,.0f} s",
            flush=True,
        )


def storm(count: int, seed: int) -> None:
    """Interrupt runs at random moments with real signals."""
    from tests.core.interrupted import Story
    from tests.infra.interrupts import Storm

    began, sent, runs, blocks, number = time.monotonic(), 0, 0, 0, 0
    while sent < count:
        number += 1
        with fresh(number) as experiment:
            story = Story(experiment, goes_on=bool(number % 2), points=20)
            with Storm(seed + number, (0.03, 0.1, 0.2)[number % 3]) as wind:
                while wind.sent < min(ROUND, count - sent):
                    wind.during(story.tell)
                    blocks += 1
                sent += wind.sent
            story.tell()
            runs += story.check()
    print(
        f"a storm of {sent:,} interrupts (seed {seed}) over {blocks:,} blocks: {runs:,} runs at both sides, "
        f"whole, none going on, none lost, none doubled, {time.monotonic() - began:,.0f} s",
        flush=True,
    )


def main(arguments: list[str]) -> int:
    """Do both; an assertion says what was lost."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.interrupts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=20_000, help="interrupts of the storm (0: none)")
    parser.add_argument("--stride", type=int, default=1, help="take each n-th step only (0: none)")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from dbml_magics.core import track

    track._SUMMARY_WAIT_S = 0.0
    if options.stride:
        every_step(options.stride)
    if options.count:
        storm(options.count, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
