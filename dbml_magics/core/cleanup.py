"""Delete what is not wanted any more: the whole plan is shown first, then each deletion is done and reported.

A plan says everything that goes, by name, and what each deletion asks of whom. It is made anew each time, so
that a clean-up which failed half-way is simply done again.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from dbml_magics.common.foreign_text import one_line
from dbml_magics.common.hints import Remedy, corrected, instead
from dbml_magics.core.cleanup_plan import Plan, Step
from dbml_magics.core.session import Session
from dbml_magics.errors import BadCommand, CleanupIncomplete, DbmlError, NotConfirmed
from dbml_magics.results.cleanup import CleanupItem, CleanupResult

__all__ = ["KINDS", "clean"]

KINDS = ("endpoint", "model", "run", "experiment", "workspace", "resource-group")
_SHOWN = 25

Progress = Callable[[str], None]


def clean(
    session: Session,
    kind: str,
    name: str,
    *,
    dry_run: bool = False,
    confirm: str | None = None,
    also: Sequence[str] = (),
    azure: Mapping[str, str | None] | None = None,
    progress: Progress | None = None,
) -> CleanupResult:
    """Delete something with all that belongs to it; ``confirm`` is its name again.

    For a run it is its name, or eight characters of its id or more, as the list shows them.
    ``also`` names what goes with a workspace or a resource group beside its own. ``azure`` are subscription,
    resource_group, cloud and auth of a workspace that is not the link's. Raises NotConfirmed (listing
    everything; nothing is deleted then), CleanupIncomplete (with the result as ``.result``), BadCommand.
    """
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        remedy = instead(kind, near[0], Remedy("help", "cleanup")) if near else _HELP
        raise BadCommand(f"{kind!r} is nothing to clean up: {', '.join(KINDS)} are.{hint}", remedies=[remedy])
    _refuse_strays(kind, name, also, azure or {})
    say = progress or (lambda _: None)
    say(f"looking for what belongs to {kind} {name}")
    plan = _planned(session, kind, name, also, azure or {})
    words = corrected(Remedy("cleanup", kind, name, **plan.options), confirm=None, dry_run=None)
    line = words.but(confirm=plan.name)
    going = CleanupResult(
        kind,
        plan.name,
        tuple(step.item for step in plan.steps) + tuple(plan.kept),
        tuple(plan.stays),
        dry_run=True,
        notes=tuple(plan.notes),
        command=line if plan.steps else "",
    )
    if dry_run or not plan.steps:
        return going if dry_run else replace(going, dry_run=False)
    if not plan.confirmed_by(confirm):
        raise _unconfirmed(going, confirm, line, words)
    return _carry_out(plan, line, say)


_HELP = (Remedy("help", "cleanup"), "what it takes")


def _refuse_strays(kind: str, name: str, also: Sequence[str], azure: Mapping[str, str | None]) -> None:
    """Refuse options that mean nothing for what is deleted."""
    if kind in ("workspace", "resource-group"):
        return
    strays = [*(["also"] if also else []), *(key for key in azure if azure[key])]
    if strays:
        without = corrected(Remedy("cleanup", kind, name), **dict.fromkeys(strays))
        given = " and ".join(f"--{stray.replace('_', '-')}" for stray in strays)
        belong = "belongs" if len(strays) == 1 else "belong"
        raise BadCommand(f"{given} {belong} to workspace and resource-group.", remedies=[without])


def _planned(
    session: Session, kind: str, name: str, also: Sequence[str], azure: Mapping[str, str | None]
) -> Plan:
    if kind == "endpoint":
        return _endpoint(session, name)
    if kind in ("workspace", "resource-group"):
        from dbml_magics.core import cleanup_azure

        return cleanup_azure.plan(session, kind, name, also, azure)
    from dbml_magics.core import cleanup_tracking

    engine = session.engine(Remedy("cleanup", kind))
    return cleanup_tracking.plan(session, engine, kind, name)


def _endpoint(session: Session, name: str) -> Plan:
    from dbml_magics.core.endpoints import service

    found = service.named(session.joined, name)

    def delete() -> None:
        service.undeploy(session.joined, name, target=found.target, confirm=name)

    held = [
        CleanupItem(found.target, "deployment", f"{each.name} ({each.model})", "goes with it")
        for each in found.deployments
    ]
    step = Step(CleanupItem(found.target, "endpoint", name), delete)
    return Plan("endpoint", name, [step], held, notes=["registered models stay"])


def _unconfirmed(going: CleanupResult, confirm: str | None, line: Remedy, words: Remedy) -> NotConfirmed:
    items = [one_line(" ".join(item.cells[:3])) for item in going if item.state != "stays"]
    shown = [f"  {each}" for each in items[:_SHOWN]]
    if len(items) > _SHOWN:
        shown.append(f"  … {len(items) - _SHOWN:,} more: --dry-run returns all of them")
    wrong = f"--confirm is {confirm!r}, and the name is {going.name!r}; " if confirm else ""
    stays = [one_line(f"  stays billed: {each}") for each in going.stays]
    return NotConfirmed(
        "\n".join([f"{wrong}nothing is deleted. This would delete:", *shown, *stays]),
        remedies=[(line, "deletes it"), (words.but(dry_run=True), "shows it as a table")],
    )


def _carry_out(plan: Plan, line: Remedy, say: Progress) -> CleanupResult:
    done: list[CleanupItem] = []
    remedies: list[tuple[str, str]] = []
    for number, step in enumerate(plan.steps, 1):
        item = step.item
        say(f"{number:,} of {len(plan.steps):,}  deleting {item.what} {item.name}")
        if step.last and any(each.state == "failed" and each.where == item.where for each in done):
            done.append(replace(item, state="failed", why="kept, since not all that is in it could go"))
            continue
        item, ways = _carried_out(step)
        done.append(item)
        remedies += ways
    failed = any(item.state == "failed" for item in done)
    notes = [*plan.notes, *([] if failed else plan.after())]
    result = CleanupResult(
        plan.kind,
        plan.name,
        (
            *done,
            *(replace(each, state="deleted", why="") if _went(each, done) else each for each in plan.kept),
        ),
        tuple(plan.stays),
        notes=tuple(notes),
        command=line if failed else "",
    )
    if not failed:
        return result
    failures = [
        one_line(f"  {each.where} {each.what} {each.name}: {each.why}") for each in result.failed[:_SHOWN]
    ]
    error = CleanupIncomplete(
        "\n".join([one_line(f"{result.headline()}."), *failures]),
        remedies=[*remedies[:1], (line, "tries the rest again")],
    )
    error.result = result
    raise error


def _went(item: CleanupItem, done: Sequence[CleanupItem]) -> bool:
    """Tell whether what goes with something else went with it."""
    return item.state == "goes with it" and not any(each.state == "failed" for each in done)


def _carried_out(step: Step) -> tuple[CleanupItem, list[tuple[str, str]]]:
    """Delete one thing; returns what became of it, and what helps where it failed."""
    from dbml_magics.core.destinations.errors import Unavailable, classify_error, is_missing

    try:
        stays = step.delete()
    except DbmlError as error:
        why = " ".join(error.message.split())
        return replace(step.item, state="failed", why=why), list(error.remedies)
    except Exception as error:
        classified = classify_error(error)
        if is_missing(classified):
            return replace(step.item, state="gone already"), []
        if isinstance(classified, Unavailable):
            return replace(step.item, state="failed", why=classified.reason), list(classified.remedies)
        why = " ".join(str(classified).split())[:300]
        return replace(step.item, state="failed", why=why), []
    if stays:
        return replace(step.item, state="stays", why=stays), []
    return replace(step.item, state="deleted"), []
