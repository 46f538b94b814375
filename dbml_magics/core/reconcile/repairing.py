"""A repair's sides and rules: whatever is mended is mended through it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from dbml_magics.core.delivery.writers.attached import Attached
from dbml_magics.core.destinations.errors import EndlessListing, Unavailable, cause_of, classify_error
from dbml_magics.core.reconcile.compare import Comparer
from dbml_magics.core.reconcile.files import Files
from dbml_magics.core.reconcile.fixes import Fix, Outcome
from dbml_magics.core.reconcile.pairs import RunPair
from dbml_magics.core.reconcile.readers import WorkspaceReader
from dbml_magics.core.reconcile.survey import Survey
from dbml_magics.results.reconcile import ABSENT, Difference

T = TypeVar("T")


class Repairing:
    """One repair: what is compared, which side is mended, and how each thing is.

    With ``dry_run`` nothing is done: the outcomes that are good are those that would delete something.
    """

    def __init__(
        self, survey: Survey, source: str | None, *, prune: bool, deep: bool, dry_run: bool = False
    ) -> None:
        self.survey = survey
        self.engine = survey.engine
        self.state = survey.engine.state
        self.merge_base = self.state.merge_base
        self.source = next(s for s in survey.readers if s.role == (source or survey.first.role))
        self.target = next(s for s in survey.readers if s is not self.source)
        self.one_way = source is not None
        self.prune = prune
        self.dry_run = dry_run
        self.comparer = Comparer(*survey.readers, survey.unread, deep=deep)
        self.trying = threading.local()  # whether this thread's run will be tried again

    @property
    def forwards(self) -> bool:
        """Tell whether the primary is the source."""
        return self.source is self.survey.first

    def of(self, reader: WorkspaceReader, pair: RunPair) -> Run | None:
        """Return one side's form of a run."""
        return pair.first if reader is self.survey.first else pair.second

    def write(self, write: Callable[[], T]) -> T:
        """Make one write at the target, counted; a write is not tried again before both were compared."""
        self.target.count_request()
        return write()

    def mended(self, plan: Callable[[], Fix]) -> Outcome:
        """Mend one thing; what goes wrong with it does not stop the others.

        Raises Unavailable where a workspace is, and where the run will be tried again from the start.
        """
        try:
            fix = plan()
            if self.dry_run:
                return Outcome(fix.deletes, "would be deleted")
            return fix.carry_out(prune=self.prune)
        except Exception as error:
            classified = classify_error(error)
            again = getattr(self.trying, "again", False) and not isinstance(classified, EndlessListing)
            if isinstance(classified, Unavailable) and again:
                raise classified from error
            if isinstance(classified, (MlflowException, OSError)) and not isinstance(classified, Unavailable):
                return Outcome(False, f"{self.target.role} refused it: {cause_of(classified)}")
            return Outcome(False, self.survey.unread("", "", error).cause)

    def files(self, source: Run, target: Run) -> tuple[Files, Files]:
        """Return a run's files at the source and at the target."""
        first, second = (source, target) if self.forwards else (target, source)
        found = self.comparer.run_files(first, second)
        return found if self.forwards else (found[1], found[0])

    def lacking(self, source: Run, target: Run, *, new: bool = False) -> Attached:
        """Return what hangs on the source's form of a run and not on the target's, as they are now.

        A search does not say which models a run took. On a ``new`` copy nothing hangs yet.
        """
        if not new or self.source.has_any_model:
            source = self.source.get_run(source.info.run_id)
        if not new:
            target = self.target.get_run(target.info.run_id)
        first, second = (source, target) if self.forwards else (target, source)
        ours, theirs = self.comparer.attached(first, second)
        return ours.without(theirs) if self.forwards else theirs.without(ours)

    def said(self, back: bool, difference: Difference) -> str:
        """Return what was done in words; where both differ both values are shown."""
        if back:
            return f"edited in {self.target.role}: carried to {self.source.role}"
        here = difference.values.get(self.source.role, ABSENT)
        there = difference.values.get(self.target.role, ABSENT)
        both = f": {here!r} (it was {there!r})" if there is not ABSENT else ""
        return f"as in {self.source.role}{both}"

    # --- facts of experiments, models and versions

    def fact(
        self,
        place: str,
        difference: Difference,
        values: tuple[str | None, str | None],
        write: Callable[[WorkspaceReader, str], object],
        delete: Callable[[WorkspaceReader], object],
    ) -> Fix:
        """Plan for something that people edit in either portal: its values at the source and the target.

        An edit at the target alone is carried to the source; where both were edited the source wins.
        """
        key, (ours, theirs) = difference.key, values
        if not self.one_way and self.merge_base.is_edited_there(place, key, ours, theirs):
            assert theirs is not None
            return Fix(
                self.said(True, difference), partial(self._set, place, key, self.source, theirs, write)
            )
        if ours is None:
            too = (self.merge_base.facts(place) or {}).get(key) is not None
            why = f"deleted in {self.source.role}" if too else f"in {self.target.role} alone"

            def remove() -> None:
                self.write(lambda: delete(self.target))
                self.merge_base.note_fact(place, key, None)

            return Fix.deletion(self.target.role, why, remove, too=too)
        return Fix(self.said(False, difference), partial(self._set, place, key, self.target, ours, write))

    def _set(
        self,
        place: str,
        key: str,
        reader: WorkspaceReader,
        value: str,
        write: Callable[[WorkspaceReader, str], object],
    ) -> None:
        if reader is self.target:
            self.write(lambda: write(reader, value))
        else:
            reader.ask(lambda: write(reader, value))
        self.merge_base.note_fact(place, key, value)
