"""Receipts: what was delivered of a run where and when, from what delivery itself has noted down.

A run that this machine has not delivered has no such notes: there the two workspaces are compared.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dbml_magics.common.hints import Remedy
from dbml_magics.core import runs
from dbml_magics.errors import DeliveryIncomplete
from dbml_magics.results.delivery import Delivery, Receipt
from dbml_magics.results.text import count

if TYPE_CHECKING:
    from dbml_magics.core.runtime.engine import Engine

__all__ = ["of", "require"]

_WAIT_S = 30.0
_ORDER = ("runs", "points", "params", "tags", "files", "models", "registrations", "changes")


def of(engine: Engine, given: str, last: str | None) -> Receipt:
    """Return a run's receipt; asks no workspace for a run of this machine. Raises RunNotFound, …"""
    run_id = runs.resolve(engine, given, last, lambda run: Remedy("status", run=run))
    return _receipt(engine, run_id)


def _receipt(engine: Engine, run_id: str) -> Receipt:
    deliveries = tuple(_delivery(engine, role, run_id) for role in engine.link.tracked)
    if any(each.arrived or each.waiting for each in deliveries):
        name = str((engine.state.run(run_id) or {}).get("name") or run_id[:8])
        return Receipt(run_id, name, deliveries)
    return _compared(engine, run_id)


def _delivery(engine: Engine, role: str, run_id: str) -> Delivery:
    noted = engine.state.receipts.arrived(role, run_id)
    cursors = {file: offset for file, (offset, _) in engine.state.cursors(role, run_id).items()}
    waiting, _ = engine.journal.count_waiting(run_id, cursors)
    known = engine.state.identity(role, "run", run_id)
    there = known.actual if known is not None else run_id if noted else None
    arrived = {kind: noted[kind].count for kind in sorted(noted, key=_rank)}
    return Delivery(
        role,
        there,
        arrived,
        int(min(each.first for each in noted.values()) * 1000) if noted else None,
        int(max(each.last for each in noted.values()) * 1000) if noted else None,
        waiting,
        len(engine.state.dead_numbers(role, run_id)),
        (*engine.side(role).overflow.files.notes(run_id), *_sent_again(engine, role, run_id))
        if noted
        else (),
    )


def _sent_again(engine: Engine, role: str, run_id: str) -> list[str]:
    named = engine.state.receipts.resent(role, run_id)
    return [f"acknowledged, found missing when the run ended, and sent again: {named}"] if named else []


def _rank(kind: str) -> int:
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


def _compared(engine: Engine, run_id: str) -> Receipt:
    """Return the receipt of a run that another machine delivered: whether the workspaces say the same."""
    found = runs.client(engine).get_run(run_id)
    name, now = found.info.run_name or run_id[:8], int(time.time() * 1000)
    if len(engine.link.tracked) < 2:
        here = Delivery(engine.link.primary, run_id, {}, last=now)
        return Receipt(run_id, name, (here,), verified=True)
    from dbml_magics.core.reconcile import entry

    comparison = entry.verify(
        engine, None, run_id, False, None, None, deep=False, timeout=_WAIT_S, progress=None
    )
    differing = count(len(comparison.differences), "difference")
    note = (f"{differing} between the workspaces: %dbml sync --verify --run {run_id[:8]} shows them",)
    deliveries = tuple(
        Delivery(
            role,
            run_id if comparison.equal or role == engine.link.primary else None,
            {},
            last=now if comparison.equal else None,
            notes=() if comparison.equal or role == engine.link.primary else note,
        )
        for role in engine.link.tracked
    )
    return Receipt(run_id, name, deliveries, verified=True)


def require(engine: Engine, run_id: str, command: str) -> Receipt:
    """Return the run's receipt when all of it is everywhere; what is on its way is waited for, 30 s at most.

    Raises DeliveryIncomplete, and ``command`` is what was to be done with the run.
    """
    engine.waiting.wait_at({role: [run_id] for role in engine.link.tracked}, _WAIT_S)
    receipt = _receipt(engine, run_id)
    if receipt.delivered:
        return receipt
    missing = "; ".join(f"{d.workspace}: {d.state()}" for d in receipt.deliveries if not d.complete)
    remedies = [(Remedy("status", run=run_id[:8]), "its receipt: what is where, since when")]
    if any(each.refused for each in receipt.deliveries):
        remedies.append((Remedy("sync", dead="list", run=run_id[:8]), "why it was refused"))
    elif receipt.verified:
        remedies.append((Remedy("sync", repair=True, run=run_id[:8]), "makes the workspaces alike"))
    else:
        remedies.append((Remedy("sync"), "waits for the rest"))
    raise DeliveryIncomplete(
        f"{command} was to require delivery, and not all of run {receipt.name} has arrived ({missing}); "
        "nothing was done.",
        remedies=remedies,
    )
