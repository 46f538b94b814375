"""Waiting until what is logged is delivered."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from dbml_magics.common.hints import Remedy
from dbml_magics.core import status
from dbml_magics.core.runtime import handoff, shutdown, taking
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.core.runtime.waiting import IN_TURN, PROGRESS_S
from dbml_magics.errors import DeliveryIncomplete
from dbml_magics.results.delivery import SyncResult
from dbml_magics.results.text import count

__all__ = ["wait"]

Progress = Callable[[Mapping[str, int], float], None]

_LOOK_S = 10.0  # between two looks, while one waits without an end, whether who delivers was stopped


def wait(
    engine: Engine, timeout: float | None, packages: str | os.PathLike[str] | None, progress: Progress | None
) -> SyncResult:
    """Wait until what is logged is delivered; raises DeliveryIncomplete when ``timeout`` (seconds) is up.

    A run that another thread or process goes on logging to does not keep it: ``remaining`` says so.

    ``packages`` is a folder whose packages are delivered first: what other processes left undelivered.
    ``progress`` is called about four times a second with the writes that remain for each workspace and
    the rate (writes a second).
    """
    began = time.monotonic()
    taken, left = (0, []) if packages is None else _take_up(engine, packages, timeout, progress)
    first = {role: engine.state.delivered_count(role) for role in engine.link.used}
    for worker in engine.workers.values():
        worker.held.try_all()
        worker.side.overflow.files.try_again()
    goal, turns = engine.backlog.goal(), 1
    next_look = _LOOK_S
    while True:
        missing = engine.waiting.wait_at(dict.fromkeys(engine.link.used), PROGRESS_S, goal)
        remaining = {role: engine.backlog.waiting(role)[0] for role in engine.link.used}
        delivered = {r: engine.state.delivered_count(r) - first[r] for r in engine.link.used}
        seconds = time.monotonic() - began
        if progress is not None:
            progress(remaining, sum(delivered.values()) / max(seconds, 0.001))
        if not missing and (
            not any(remaining.values())
            or (
                turns >= IN_TURN
                and not any(c.side.overflow.files.unwritten() for c in engine.workers.values())
            )
        ):
            return SyncResult(
                delivered=delivered,
                remaining=remaining,
                seconds=seconds,
                dead={role: engine.state.dead_count(role) for role in engine.link.used},
                taken=taken,
                left=tuple(left),
            )
        if timeout is not None and seconds >= timeout:
            raise _incomplete(engine, remaining, timeout)
        if timeout is None and missing and seconds >= next_look:
            next_look = seconds + _LOOK_S
            if status.stopped_holders(engine):  # it may be so for ever
                raise _incomplete(engine, remaining, round(seconds))
        if not missing:  # what is left is tried again in a while; what came meanwhile is waited for, too
            time.sleep(0.1)
            goal, turns = engine.backlog.goal(), turns + 1


def _incomplete(engine: Engine, remaining: Mapping[str, int], timeout: float) -> DeliveryIncomplete:
    parts = []
    holders = status.stopped_holders(engine)
    for role, amount in remaining.items():
        reason = shutdown.stopped(holders[role], role) if role in holders else engine.health[role].reason
        if amount:
            waits = "writes wait" if amount > 1 else "write waits"
            parts.append(f"{amount:,} {waits} for {role}" + (f" ({reason})" if reason else ""))
    return DeliveryIncomplete(
        f"after {timeout:g} s {' and '.join(parts)}; nothing is lost.",
        remedies=[
            *((f"kill -CONT {pid}", "in a terminal: lets it go on") for pid in {*holders.values()}),
            (Remedy("sync"), "waits until everything is delivered"),
            (Remedy("status"), "shows how far delivery is"),
        ],
    )


def _take_up(
    engine: Engine,
    folder: str | os.PathLike[str],
    timeout: float | None,
    progress: Progress | None,
) -> tuple[int, list[str]]:
    """Deliver the packages in a folder; returns how many, and a line for each that is left there.

    Raises DeliveryIncomplete when the time is up, BadLink.
    """
    until = None if timeout is None else time.monotonic() + timeout
    done = 0
    found_there, left = handoff.packages(folder)
    for package in found_there:
        with taking.taken_up(package, engine) as found:
            if isinstance(found, str):
                left.append(found)
                continue
            waiting = taking.deliver(found, until, progress)
            if waiting:
                parts = [f"{count(n, 'write')} for {role}" for role, n in waiting.items()]
                raise DeliveryIncomplete(
                    f"after {timeout:g} s {' and '.join(parts)} of {package.path} remain; it stays there, "
                    "and nothing is lost.",
                    remedies=[
                        (handoff.command(folder), "goes on"),
                        (Remedy("status"), "is a workspace away?"),
                    ],
                )
            left += taking.refused(found)
            done += 1
    return done, left
