"""Repair differences in runs, from the source to the target: each fix is declared before it is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial

from mlflow.entities import Run, RunStatus
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from dbml_magics.common.hints import Remedy, say
from dbml_magics.core.delivery.batching import Batch
from dbml_magics.core.delivery.writers.attached import Attached
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.outbox.merge_base import RunBase
from dbml_magics.core.reconcile.carrying import Carrier
from dbml_magics.core.reconcile.compare import ALL_FILES, PARENT, name_of, parent_key, user_tags
from dbml_magics.core.reconcile.copying import Copier
from dbml_magics.core.reconcile.files import Files
from dbml_magics.core.reconcile.fixes import PRUNE, Fix, Outcome, Outcomes, unread
from dbml_magics.core.reconcile.pairs import RunPair
from dbml_magics.core.reconcile.repairing import Repairing
from dbml_magics.core.reconcile.survey import Survey
from dbml_magics.core.reconcile.verify import differences
from dbml_magics.core.runtime.retention import NOTE_TAG
from dbml_magics.results.reconcile import ABSENT, LOST, UNREAD, Difference

_TRIES = 4
_WORDS = {"dataset": "input", "input": "input", "output": "output"}


@dataclass(frozen=True)
class Case:
    """A difference of a run, and the run as source and target have it."""

    difference: Difference
    key: str
    source: Run
    target: Run
    files: Callable[[], tuple[Files, Files]]  # the source's and the target's, listed once


class Repairer(Repairing):
    """Mends runs; each fix is declared before it is done."""

    def __init__(
        self, survey: Survey, source: str | None, *, prune: bool, deep: bool, dry_run: bool = False
    ) -> None:
        super().__init__(survey, source, prune=prune, deep=deep, dry_run=dry_run)
        self.carrier = Carrier(self)
        self.copier = Copier(self, self.carrier)

    # --- one run

    def pair(self, pair: RunPair) -> Outcomes:
        """Mend what differs in one run; a workspace that does not answer is tried again from the start."""
        before: dict[tuple[str, str], tuple[Difference, Outcome]] = {}
        try:
            return self._pair(pair, before)
        except Exception as error:
            trouble = self.survey.unread(pair.key, name_of(pair.either), error)
            return [*before.values(), *unread(trouble)]
        finally:
            self.trying.again = False

    def _pair(self, pair: RunPair, before: dict[tuple[str, str], tuple[Difference, Outcome]]) -> Outcomes:
        for tries in range(_TRIES):
            self.trying.again = tries < _TRIES - 1
            try:
                found = differences(self.comparer, pair)
                files = cache(partial(self._files, pair))
                with self._writable(pair) if found else nullcontext():
                    for difference in found:
                        outcome = self.mended(partial(self._plan, difference, pair, files))
                        before[difference.kind, difference.key] = (difference, outcome)
                if self.dry_run:
                    return list(before.values())
                if not found and not before:
                    self._note_alike(pair)
                if not any(outcome.good for _, outcome in before.values()):
                    return list(before.values())
                return self._checked(pair, before)
            except Unavailable as error:
                if error.denied or tries == _TRIES - 1:
                    raise
                time.sleep(max(error.retry_after or 0.0, 0.5 * 2**tries))
                pair = self._again(pair)
        raise AssertionError("the loop ends by returning or raising")

    def _writable(self, pair: RunPair) -> AbstractContextManager[None]:
        """Let a run that is deleted at both be mended: a server takes nothing for one that is."""
        target, deleted = (
            self.of(self.target, pair),
            {run.info.lifecycle_stage for run in (pair.first, pair.second) if run is not None},
        )
        if self.dry_run or target is None or pair.double or deleted != {"deleted"}:
            return nullcontext()
        return self.copier.awake(pair.key, target.info.run_id)

    def _note_alike(self, pair: RunPair) -> None:
        """Remember what both workspaces say alike of what people edit: whoever differs later was edited."""
        if pair.first is None or pair.second is None:
            return
        known = self.merge_base.of_run(pair.key)
        before = known or RunBase(name=None, tags={})
        ours, theirs = edited_tags(pair.first), edited_tags(pair.second)
        tags = {k: v for k, v in before["tags"].items() if ours.get(k) != theirs.get(k)}
        tags |= {k: v for k, v in ours.items() if theirs.get(k) == v}
        name = name_of(pair.first)
        base = RunBase(name=name if name == name_of(pair.second) else before["name"], tags=tags)
        if base != known:  # that both still say it costs no write
            self.merge_base.note_run(pair.key, base)

    def _checked(self, pair: RunPair, done: dict[tuple[str, str], tuple[Difference, Outcome]]) -> Outcomes:
        """Compare both workspaces again afterwards; only equal facts count as repaired."""
        self.carrier.write_overflow(pair.key)
        pair = self._again(pair)
        left = {(d.kind, d.key): d for d in differences(self.comparer, pair)}
        self._note_alike(pair)
        outcomes: Outcomes = []
        for key, (difference, outcome) in done.items():
            if outcome.good and key in left:
                outcome = Outcome(False, f"{outcome.said}, and still differs")
            outcomes.append((difference, outcome))
        # What came to light while it was mended: a run that was copied may lack what its service refuses.
        causes = self.carrier.causes.get(pair.key, {})
        for key, difference in left.items():
            if key not in done:
                cause = causes.get(key)
                role = self.target.role
                said = f"{role} refused it: {cause}" if cause else f"{role} did not take it"
                outcomes.append((difference, Outcome(False, said)))
        return outcomes

    def _again(self, pair: RunPair) -> RunPair:
        if not pair.double:
            return self.survey.pair(pair.key)
        reader = self.survey.first if pair.first is not None else self.survey.second
        run = reader.get_run(pair.either.info.run_id)
        return replace(pair, first=run) if pair.first is not None else replace(pair, second=run)

    def _files(self, pair: RunPair) -> tuple[Files, Files]:
        source, target = self.of(self.source, pair), self.of(self.target, pair)
        assert source is not None
        assert target is not None
        return self.files(source, target)

    def _plan(self, difference: Difference, pair: RunPair, files: Callable[[], tuple[Files, Files]]) -> Fix:
        source, target = self.of(self.source, pair), self.of(self.target, pair)
        if difference.kind == UNREAD:
            return Fix(difference.cause)
        if difference.kind == LOST and target is not None:
            return self._lost(pair)
        if difference.kind == "copy":
            return self._lone(target, "a second copy of the run")
        if target is None:
            assert source is not None
            return Fix(f"copied to {self.target.role}", partial(self._copied, pair.key, source))
        if source is None:
            return self._lone(target, f"{self.source.role} has no such run")
        known = _PLANS[difference.kind]
        return known(self, Case(difference, pair.key, source, target, files))

    def _copied(self, key: str, source: Run) -> None:
        self.copier.copy(key, source)

    def _lost(self, pair: RunPair) -> Fix:
        """Leave to a person what the source had and has no more: the target's may be the only one."""
        source, target = self.source.role, self.target.role
        if pair.first is not None and pair.second is not None:
            return Fix("the id of the run means another one by now in one of the two: neither is changed")
        command = say(Remedy("sync", repair=True, run=pair.key, from_=target))
        return Fix(f"{source} had it and has it no more, so it stays in {target}: {command} copies it back")

    def _lone(self, run: Run | None, why: str) -> Fix:
        if run is None:
            return Fix(f"{why}, in {self.source.role}: --from {self.target.role} --prune deletes it")
        back = f"; --from {self.target.role} copies it" if "no such" in why else ""
        return Fix(
            f"deleted in {self.target.role}",
            lambda: self.write(lambda: self.target.workspace.delete_run(run.info.run_id)),
            f"{why}: {PRUNE}{back}",
        )

    # --- kinds of differences

    def _info(self, case: Case) -> Fix:
        status = RunStatus.from_string(case.source.info.status)

        def update() -> None:
            self.write(
                lambda: self.target.workspace.update_run_info(
                    case.target.info.run_id, status, case.source.info.end_time, None
                )
            )

        return Fix(f"{case.difference.kind} as in {self.source.role}", update)

    def _name(self, case: Case) -> Fix:
        ours, theirs = name_of(case.source), name_of(case.target)
        back = self._edited_there(case.key, "name", "", ours, theirs)
        reader, run, name = (self.source, case.source, theirs) if back else (self.target, case.target, ours)
        return Fix(
            self.said(back, case.difference),
            lambda: reader.ask(lambda: reader.workspace.update_run_info(run.info.run_id, None, None, name)),
        )

    def _start(self, _case: Case) -> Fix:
        return Fix("a run's start cannot be changed")

    def _stage(self, case: Case) -> Fix:
        store, own, role = self.target.workspace, case.target.info.run_id, self.target.role
        if case.source.info.lifecycle_stage == "active":
            return Fix(f"restored in {role}", lambda: self.write(lambda: store.restore_run(own)))
        why = f"deleted in {self.source.role}"
        if self.copier.is_awake(case.key):
            return Fix(f"{why}, and in {role} again", lambda: self.write(lambda: store.delete_run(own)))
        return Fix.deletion(role, why, lambda: self.write(lambda: store.delete_run(own)), too=True)

    def _parent(self, case: Case) -> Fix:
        parent = parent_key(self.source, case.source)
        if not parent:
            return Fix(f"nested in {self.target.role} alone, which cannot be undone")

        def nest() -> None:
            own = self.copier.run_at_target(parent)
            self.write(lambda: self.target.workspace.set_tag(case.target.info.run_id, PARENT, own))

        return Fix(f"nested as in {self.source.role}", nest)

    def _param(self, case: Case) -> Fix:
        name = case.difference.key
        if name not in case.source.data.params:
            return Fix(f"in {self.target.role} alone; MLflow has no way to delete a param")
        if name in case.target.data.params:
            return Fix("a param cannot be changed once it is logged")
        batch = Batch(params={name: case.source.data.params[name]})
        own = case.target.info.run_id
        return Fix(f"added to {self.target.role}", lambda: self.carrier.send(case.key, own, batch))

    def _tag(self, case: Case) -> Fix:
        name = NOTE_TAG if case.difference.kind == "note" else case.difference.key
        ours, theirs = case.source.data.tags.get(name), case.target.data.tags.get(name)
        back = self._edited_there(case.key, "tags", name, ours, theirs)
        if back:
            own = case.source.info.run_id
            return Fix(
                self.said(back, case.difference),
                lambda: self.source.ask(lambda: self.source.workspace.set_tag(own, name, str(theirs))),
            )
        if ours is None:
            own = case.target.info.run_id
            return Fix.deletion(
                self.target.role,
                f"deleted in {self.source.role}",
                lambda: self.write(lambda: self.target.workspace.delete_tag(own, name)),
                too=True,
            )
        return Fix(
            self.said(back, case.difference),
            lambda: self.carrier.send(case.key, case.target.info.run_id, Batch(tags={name: ours})),
        )

    def _edited_there(self, key: str, kind: str, name: str, ours: str | None, theirs: str | None) -> bool:
        """Tell whether a value was edited at the target alone, and so is to be carried to the source."""
        if self.one_way or theirs is None:
            return False
        base = self.merge_base.of_run(key)
        if base is None:
            return ours is None  # added there, as far as anybody can tell: nothing is lost by keeping it
        return ours == (base["tags"].get(name) if kind == "tags" else base["name"])

    def _metric(self, case: Case) -> Fix:
        name, role = case.difference.key, self.target.role
        points = self.comparer.points(self.source, case.source, self.target, case.target, name)
        lacking, own = points.only_first, points.only_second.total()
        if not lacking and own:
            return Fix(f"{own:,} points in {role} alone, which cannot be taken back")
        sent = f"{lacking.total():,} points added to {role}"

        def add() -> Outcome:
            self.carrier.send_points(case.key, case.source, case.target, {name: lacking})
            kept = f"; {own:,} points of its own cannot be taken back"
            return Outcome(False, sent + kept) if own else Outcome(True, sent)

        return Fix(sent, add)

    def _attached(self, case: Case) -> Fix:
        """Plan for a dataset or model that one of the two forms of a run names as taken or made."""
        kind, key, role = case.difference.kind, case.difference.key, self.target.role
        if case.difference.values.get(self.source.role, ABSENT) is ABSENT:
            return Fix(f"in {role} alone; MLflow has no way to delete an {_WORDS[kind]}")
        if case.difference.values.get(role, ABSENT) is not ABSENT:
            return Fix(f"an {_WORDS[kind]} cannot be changed once it is logged")
        lacking = self.lacking(case.source, case.target)
        one = Attached(
            {k: v for k, v in lacking.datasets.items() if kind == "dataset" and k == key},
            tuple(m for m in lacking.inputs if kind == "input" and m == key),
            {m: step for m, step in lacking.outputs.items() if kind == "output" and m == key},
        )
        if not one:  # a fact of a dataset that is there
            return Fix(f"an {_WORDS[kind]} cannot be changed once it is logged")

        def add() -> Outcome:
            self.copier.attach(case.key, case.target, one)
            if self.target.side.learned.lacks("outputs" if kind == "output" else "inputs"):
                return Outcome(False, f"{role} takes no {_WORDS[kind]}s of runs")
            return Outcome(True, f"added to {role}")

        return Fix(f"added to {role}", add)

    def _artifact(self, case: Case) -> Fix:
        path, role = case.difference.key, self.target.role
        if path == ALL_FILES:
            why = next((str(value) for value in case.difference.values.values() if value != "there"), "")
            return Fix(f"none is read or written: {why}")
        if case.difference.values.get(self.source.role, ABSENT) is ABSENT:
            theirs = self.target.side.destination.artifacts(case.target.info.artifact_uri)
            if type(theirs).delete_artifacts is ArtifactRepository.delete_artifacts:
                return Fix(f"in {role} alone, where files cannot be deleted one by one")
            return Fix.deletion(
                role, f"in {role} alone", lambda: self.write(lambda: theirs.delete_artifacts(path))
            )

        def upload() -> None:
            self._know(case.key, case.source, case.target)
            ours = self.source.side.destination.artifacts(case.source.info.artifact_uri)
            self.carrier.put(ours, f"run:{case.key}", path, *case.files())

        return Fix(f"uploaded to {role}", upload)

    def _know(self, key: str, source: Run, target: Run) -> None:
        """Let the link know both forms of a run, as it does of those that it made."""
        for reader, run in ((self.source, source), (self.target, target)):
            if self.state.identity(reader.role, "run", key) is None:
                reader.side.ids.remember_run(key, run)


def edited_tags(run: Run) -> dict[str, str]:
    """Return the tags that people edit, and the note."""
    note = run.data.tags.get(NOTE_TAG)
    return user_tags(run) | ({NOTE_TAG: note} if note is not None else {})


_PLANS: dict[str, Callable[[Repairer, Case], Fix]] = {
    "status": Repairer._info,
    "end": Repairer._info,
    "name": Repairer._name,
    "start": Repairer._start,
    "stage": Repairer._stage,
    "parent": Repairer._parent,
    "param": Repairer._param,
    "tag": Repairer._tag,
    "note": Repairer._tag,
    "metric": Repairer._metric,
    "history": Repairer._metric,
    "dataset": Repairer._attached,
    "input": Repairer._attached,
    "output": Repairer._attached,
    "artifact": Repairer._artifact,
}
