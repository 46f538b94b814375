"""What one workspace calls the user's experiments, and whether that is still the experiment it was.

A server that was restored from a backup gives its next experiments numbers that it has given before: a number
that the link remembers may be somebody else's by now. So with an experiment's id its name and the time it was
made at are remembered, and an id stands for the user's experiment only while the workspace tells the same of
it. What is logged goes on to an experiment of the user's name, made anew if need be; never to the other one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from dbml_magics.core.destinations.errors import is_missing
from dbml_magics.core.destinations.naming import EXPERIMENT_TAG, told_apart
from dbml_magics.core.outbox.experiment_notes import ExperimentFacts
from dbml_magics.core.outbox.state import Identity
from dbml_magics.core.tracking.ids import names_nothing_yet, provisional

if TYPE_CHECKING:
    from dbml_magics.core.tracking.apply import Applier

_FRESH_S = 5.0  # how long a look at an experiment holds, unless the workspace was away since
_KNOWN_RUNS = 100_000


def name_of(experiment: Experiment) -> str:
    """Return what the user calls an experiment."""
    return str(experiment.tags.get(EXPERIMENT_TAG, experiment.name))


def own_tags(experiment: Experiment) -> dict[str, str]:
    """Return the tags that an experiment of another workspace gets too."""
    return {k: v for k, v in experiment.tags.items() if not k.startswith(("mlflow.", "dbml_"))}


class Experiments:
    """The experiments of one workspace as the user knows them."""

    def __init__(self, applier: Applier) -> None:
        self.applier = applier
        self.role = applier.role
        self.state = applier.state
        self._looked: dict[str, float] = {}  # the user's id -> when the experiment was seen to be the same

    # --- for writes

    def at(self, visible: str) -> str:
        """Return this workspace's id of an experiment, making one under its own naming rule if need be."""
        known = self._known(visible)
        if known is not None and known.actual:
            if self._is_fresh(visible):
                return known.actual
            found = self._ask(known.actual)
            if found is None and known.extra == {} and not self.state.experiments.is_known(visible):
                raise MlflowException(f"No Experiment with id={visible} exists", RESOURCE_DOES_NOT_EXIST)
            if found is not None and self._recognised(visible, known, found):
                return known.actual
            known = self._lose(visible, known, found)
        applier = self.applier
        if known is not None and not self.state.experiments.is_known(visible):
            facts = ExperimentFacts(str(known.extra["name"]), {})
        else:
            if not self.state.experiments.is_known(visible):
                with applier._asking_primary():
                    applier.engine.experiment_facts(visible)
            facts = applier.engine.experiment_facts(visible)
        actual = applier._make_experiment(facts.name, facts.tags)
        made = self.state.set_identity(self.role, "experiment", visible, actual)
        self._looked[visible] = self.applier.engine.clock.monotonic()
        if (found := self._ask(actual)) is not None:
            self._remember(visible, made, found)
        return actual

    def _known(self, visible: str) -> Identity | None:
        known = self.state.identity(self.role, "experiment", visible)
        if known is None and self._is_primary and not names_nothing_yet(visible):
            return Identity(visible, {})  # it was the primary that named it
        return known

    @property
    def _is_primary(self) -> bool:
        return self.role == self.applier.engine.link.primary

    def _ask(self, actual: str) -> Experiment | None:
        try:
            found: Experiment = self.applier.workspace.get_experiment(actual)
            return found
        except MlflowException as error:
            if not is_missing(error):
                raise
        return None

    def _is_fresh(self, visible: str) -> bool:
        looked = self._looked.get(visible, float("-inf"))
        line = self.applier.engine.health[self.role]
        return looked > line.back_at and self.applier.engine.clock.monotonic() - looked < _FRESH_S

    # --- for whoever reads

    def seen(self, found: Experiment) -> str | None:
        """Return the user's id of an experiment as this workspace tells it, or None where there is none.

        One that has the id of another which the link remembers is told apart from that.
        """
        actual = str(found.experiment_id)
        visible = self.state.visible(self.role, "experiment", actual)
        if visible is None and self._is_primary:
            if self._is_taken(actual):
                return self._named(found)
            if not self.state.experiments.is_known(actual):
                return actual  # the link has nothing to do with it
            visible = actual
        if visible is None:
            return None
        known = self.state.identity(self.role, "experiment", visible) or Identity(actual, {})
        if self._recognised(visible, known, found):
            return visible
        self._lose(visible, known, found)
        return self.state.visible(self.role, "experiment", actual)

    def visible(self, actual: str) -> str:
        """Return the user's id for one of this workspace's own, whatever is there."""
        known = self.state.visible(self.role, "experiment", actual)
        if known is None and self._is_primary and self._is_taken(actual):
            known = provisional()
            self.state.set_identity(self.role, "experiment", known, actual)
        return known or actual

    def accept(self, found: Experiment, name: str) -> None:
        """Take the experiment that the user calls by its name for the user's own, whatever was before."""
        actual, visible = str(found.experiment_id), self.state.experiments.named(name)
        if visible is None:
            return
        known = self.state.identity(self.role, "experiment", visible)
        if known is None or known.actual not in ("", actual):
            return
        if known.actual and self._recognised(visible, known, found):
            return
        if known.actual:
            self._lose(visible, known, None)
        other = self.state.visible(self.role, "experiment", actual)
        if other is not None:
            self.state.forget_identity(self.role, "experiment", other)
        self._remember(visible, Identity(actual, {}), found)

    def lost(self, visible: str) -> Identity | None:
        """Return what is remembered of an experiment that this workspace had and has no more, or None."""
        known = self.state.identity(self.role, "experiment", visible)
        return known if known is not None and not known.actual else None

    def look(self, visible: str) -> None:
        """Look whether an experiment that was not listed is gone."""
        known = self.state.identity(self.role, "experiment", visible)
        if known is not None and known.actual:
            found = self._ask(known.actual)
            if found is None or not self._recognised(visible, known, found):
                self._lose(visible, known, found)

    # --- whether it is the same

    def _recognised(self, visible: str, known: Identity, found: Experiment) -> bool:
        created = known.extra.get("created")
        if created is not None and found.creation_time:
            same = bool(created == found.creation_time)
        else:
            same = self._is_called_so(visible, known, found) or self._is_old_enough(visible, found)
        if same:
            self._remember(visible, known, found)
        return same

    def _is_called_so(self, visible: str, known: Identity, found: Experiment) -> bool:
        noted = self.state.experiments.name(visible)
        name = known.extra.get("name") or noted
        called = {found.name, name_of(found)}
        if name is None or name in called:
            return True
        # The user may have renamed it since, and the new name be on its way there.
        if any(self._was_called(visible, each) for each in called):
            return True
        return EXPERIMENT_TAG not in found.tags and found.name in self.forms(name)

    def _was_called(self, visible: str, name: str) -> bool:
        experiments = self.state.experiments
        return experiments.named(name) == visible or experiments.had_name(visible, name)

    def _is_old_enough(self, visible: str, found: Experiment) -> bool:
        """Tell whether one of another name was there before the runs in it began: then it was renamed."""
        starts = [
            told["start"]
            for _, told in self.state.recent_runs(_KNOWN_RUNS)
            if told.get("experiment") == visible and told.get("start")
        ]
        return bool(starts and found.creation_time and found.creation_time <= min(starts))

    def forms(self, name: str) -> set[str]:
        """Return what this workspace may call the experiment that the user calls ``name``."""
        legal = self.applier.workspace.experiment_name(name)
        return {legal, told_apart(name, legal), told_apart(self.applier._whose(name), legal)}

    # --- what is remembered

    def _remember(self, visible: str, known: Identity, found: Experiment) -> None:
        extra: dict[str, Any] = {**known.extra, "name": name_of(found), "created": found.creation_time}
        if self.state.identity(self.role, "experiment", visible) != Identity(known.actual, extra):
            self.state.set_identity(self.role, "experiment", visible, known.actual, **extra)
        self._looked[visible] = self.applier.engine.clock.monotonic()

    def _lose(self, visible: str, known: Identity, found: Experiment | None) -> Identity:
        """Remember that an id means the user's experiment no more; ``found`` is what it means now."""
        self._looked.pop(visible, None)
        name = self.state.experiments.name(visible) or visible
        extra = {"name": name, **known.extra, "was": known.actual}
        lost = self.state.set_identity(self.role, "experiment", visible, "", **extra)
        if self._is_primary:  # what was agreed stands under the primary's own id
            self.state.merge_base.forget(f"experiment/{known.actual}")
            if found is not None:
                self._named(found)
        return lost

    def _is_taken(self, actual: str) -> bool:
        """Tell whether the user knows another experiment, or one that is gone, by what is an id here."""
        taken = self.state.identity(self.role, "experiment", actual)
        return taken is not None and taken.actual != actual

    def _named(self, found: Experiment) -> str:
        """Give an experiment an id of its own, as its number means another one to the user."""
        visible, name = provisional(), name_of(found)
        self.state.set_identity(
            self.role, "experiment", visible, str(found.experiment_id), name=name, created=found.creation_time
        )
        self.state.experiments.note(visible, name, own_tags(found))
        if self.state.experiments.named(name) is None:  # else the user's own is called so
            self.state.experiments.note_name(name, visible)
        return visible
