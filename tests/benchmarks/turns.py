"""How a scenario's process speaks with :mod:`tests.benchmarks.measure`: lines of JSON, in turns."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.sampler import VARIABLE, Sampler

__all__ = ["Scenarios", "commands", "play", "resident", "resources", "say", "turn"]

Scenarios = Mapping[str, Callable[[dict[str, Any]], None]]


def say(**what: Any) -> None:
    """Tell the parent."""
    print(json.dumps(what), flush=True)


def turn(event: str, **what: Any) -> None:
    """Tell the parent and wait for its word."""
    say(event=event, **what)
    sys.stdin.readline()


def commands(calls: Mapping[str, Callable[[], object]], repeats: int) -> None:
    """Tell the median milliseconds of each call; the parent counts the requests of all its repeats."""
    measured = {}
    for name, call in calls.items():
        call()  # the first one imports what is used first
        turn(name)
        samples = []
        for _ in range(repeats):
            begun = time.perf_counter()
            call()
            samples.append((time.perf_counter() - begun) * 1000)
        measured[name] = median(samples)
        turn("over")
    say(measured=measured)


def resident() -> float:
    """Return this process's resident megabytes, where the system says so."""
    pages = Path("/proc/self/statm")
    if not pages.exists():
        return 0.0
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def resources() -> dict[str, float]:
    """Return this process's resident megabytes, its threads and its open file descriptors."""
    return {"MB": resident(), "threads": threading.active_count(), "files": len(os.listdir("/dev/fd"))}


def play(scenarios: Scenarios) -> None:
    """Play the scenario that the first argument names."""
    scenario = json.loads(sys.argv[1])
    profile = os.environ.get(VARIABLE)
    sampler = Sampler() if profile else None
    try:
        scenarios[scenario["name"]](scenario)
    except Exception as error:
        traceback.print_exc()
        say(error=f"{type(error).__name__}: {error}")
    sys.stdout.flush()
    if sampler is not None and profile:
        with open(profile, "a") as out:
            sampler.end(scenario["name"], out)
    # The figures are told: what still waits for delivery in this throw-away place is nobody's.
    os._exit(0)
