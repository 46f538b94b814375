"""What one workspace calls the user's experiments, and whether that is still the experiment it was.

A server that was restored from a backup gives its next experiments numbers that it has given before: a number
that the link remembers may be somebody else's by now. So with an experiment's id its name and the time it was
made at are remembered, and an id stands for the user's experiment only while the workspace tells the same of
it. What is logged goes on to an experiment of the user's name, made anew if need be; never to the other one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from dbml_magics.core.clock import Clock
from dbml_magics.core.delivery.writers.once import remove_once
from dbml_magics.core.delivery.writers.ports import Peers, Topology
from dbml_magics.core.destinations.errors import already_exists, is_missing
from dbml_magics.core.destinations.naming import EXPERIMENT_TAG, told_apart, workspace_path
from dbml_magics.core.destinations.protocol import Destination
from dbml_magics.core.giving_way import OneAtATime
from dbml_magics.core.model.ids import names_nothing_yet, provisional
from dbml_magics.core.model.operations import ChangeExperiment, CreateExperiment
from dbml_magics.core.model.queues import LINK_QUEUE
from dbml_magics.core.outbox.experiment_notes import ExperimentFacts
from dbml_magics.core.outbox.state import Identity, State

T = TypeVar("T")
_FRESH_S = 5.0  # how long a look at an experiment holds, unless the workspace was away since
_KNOWN_RUNS = 100_000


def name_of(experiment: Experiment) -> str:
    """Return what the user calls an experiment."""
    return workspace_path(experiment.tags.get(EXPERIMENT_TAG, experiment.name))


def own_tags(experiment: Experiment) -> dict[str, str]:
    """Return the tags that an experiment of another workspace gets too."""
    return {k: v for k, v in experiment.tags.items() if not k.startswith(("mlflow.", "dbml_"))}


@dataclass(eq=False)
class Experiments:
    """The experiments of one workspace as the user knows them."""

    role: str
    topology: Topology
    destinations: Mapping[str, Destination]
    """All of the link: the primary knows the experiments, and Databricks their names in full."""
    state: State
    clock: Clock
    peers: Peers[object]
    alone: OneAtATime
    _looked: dict[str, float] = field(default_factory=dict, init=False)
    """The user's id -> when the experiment was seen to be the same."""
    _restored: dict[str, float] = field(default_factory=dict, init=False)
    """The workspace's id -> when a deleted experiment was restored for what is logged to it."""

    @property
    def destination(self) -> Destination:
        """Return the workspace itself."""
        return self.destinations[self.role]

    # --- for writes

    def at(self, visible: str) -> str:
        """Return this workspace's id of an experiment, making one under its own naming rule if need be."""
        known = self._known(visible)
        if known is not None and known.actual and self._is_fresh(visible):
            return known.actual
        with self.alone.doing("experiment", visible):
            return self._found_or_made(visible)

    def _found_or_made(self, visible: str) -> str:
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
        if known is not None and not self.state.experiments.is_known(visible):
            facts = ExperimentFacts(str(known.extra["name"]), {})
        else:
            facts = self._facts(visible)
        fitting, over = self._fitting(facts.tags)
        actual = self.make(facts.name, fitting)
        for key, cause in over.items():
            tag = ChangeExperiment("tag", visible, key=key, value=facts.tags[key])
            self.state.reject(self.role, LINK_QUEUE, tag.encode(), cause)
        made = self.state.set_identity(self.role, "experiment", visible, actual)
        self._looked[visible] = self.clock.monotonic()
        if (found := self._ask(actual)) is not None:
            self._remember(visible, made, found)
        return actual

    def _fitting(self, tags: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """Return the tags that an experiment can be made with here, and why each of the others cannot."""
        limits, fitting, over = self.destination.limits, dict[str, str](), dict[str, str]()
        room = None if limits.experiment_tags is None else limits.experiment_tags - 1  # one is ours
        for key, value in tags.items():
            for most, size, what in (
                (limits.experiment_tag_key, len(key), "characters in the name of an experiment's tag"),
                (limits.experiment_tag_value, len(value), "characters in an experiment's tag"),
                (room, len(fitting) + 1, "tags an experiment beside ours"),
            ):
                if most is not None and size > most:
                    over[key] = f"{self.role} takes {most:,} {what}"
                    break
            else:
                fitting[key] = value
        return fitting, over

    def _facts(self, visible: str) -> ExperimentFacts:
        """Return the user's name of an experiment and its tags, asking the primary if need be."""
        known = self.state.experiments.facts(visible)
        if known is None:
            with self.peers.asking(self.topology.primary):
                found = self.destinations[self.topology.primary].get_experiment(visible)
            known = ExperimentFacts(name_of(found), own_tags(found))
            self.state.experiments.remember(visible, known.name, known.tags)
        return known

    def _known(self, visible: str) -> Identity | None:
        known = self.state.identity(self.role, "experiment", visible)
        if known is None and self._is_primary and not names_nothing_yet(visible):
            return Identity(visible, {})  # it was the primary that named it
        return known

    @property
    def _is_primary(self) -> bool:
        return self.role == self.topology.primary

    def _ask(self, actual: str) -> Experiment | None:
        try:
            return self.destination.get_experiment(actual)
        except MlflowException as error:
            if not is_missing(error):
                raise
        return None

    def _is_fresh(self, visible: str) -> bool:
        looked = self._looked.get(visible, float("-inf"))
        return looked > self.peers.health[self.role].back_at and self.clock.monotonic() - looked < _FRESH_S

    # --- for whoever reads

    def seen(self, found: Experiment) -> str | None:
        """Return the user's id of an experiment as this workspace tells it, or None where there is none.

        One that has the id of another which the link remembers is kept apart from that.
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
            info["start"]
            for _, info in self.state.recent_runs(_KNOWN_RUNS)
            if info.get("experiment") == visible and info.get("start")
        ]
        return bool(starts and found.creation_time and found.creation_time <= min(starts))

    def forms(self, name: str) -> set[str]:
        """Return what this workspace may call the experiment that the user calls ``name``."""
        legal = self.destination.experiment_name(name)
        return {legal, told_apart(name, legal), told_apart(self.full_name(name), legal)}

    # --- what is remembered

    def _remember(self, visible: str, known: Identity, found: Experiment) -> None:
        extra: dict[str, Any] = {**known.extra, "name": name_of(found), "created": found.creation_time}
        if self.state.identity(self.role, "experiment", visible) != Identity(known.actual, extra):
            self.state.set_identity(self.role, "experiment", visible, known.actual, **extra)
        self._looked[visible] = self.clock.monotonic()

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

    # --- what is made and changed

    def make(self, name: str, tags: dict[str, str]) -> str:
        """Return this workspace's id of the experiment that the user calls ``name``, made if need be."""
        own_name, found = self.find(name)
        if found is None:
            try:
                return self.create(own_name, name, tags)
            except MlflowException as error:
                if not already_exists(error):
                    raise
                found = self.destination.get_experiment_by_name(own_name)
                assert found is not None
        if found.lifecycle_stage == "deleted":
            self.destination.restore_experiment(found.experiment_id)
        if self.destination.capabilities.names_experiments_itself and EXPERIMENT_TAG not in found.tags:
            # It was made without us; from now on it is this name's, and nobody else's of the same last part.
            self.destination.set_experiment_tag(found.experiment_id, EXPERIMENT_TAG, self.full_name(name))
        return str(found.experiment_id)

    def find(self, name: str) -> tuple[str, Experiment | None]:
        """Return (its name here, the experiment or None) of the experiment that the user calls ``name``."""
        name = workspace_path(name)
        own_name = self.destination.experiment_name(name)
        found = self.destination.get_experiment_by_name(own_name)
        if found is None or not self.destination.capabilities.names_experiments_itself:
            return own_name, found
        tagged = workspace_path(found.tags.get(EXPERIMENT_TAG, name))
        whose = self.full_name(name)
        # Where nothing else is tracked to, a plain name is this workspace's own, whoever made it.
        plain = self.topology.tracked == (self.role,) and tagged.rpartition("/")[2] == name
        if tagged not in (name, whose) and not plain:
            own_name = told_apart(whose, own_name)  # two people's "iris"
            found = self.destination.get_experiment_by_name(own_name)
        return own_name, found

    def full_name(self, name: str) -> str:
        """Return an experiment's name in full: a plain one stands in the user's folder at Databricks."""
        name = workspace_path(name)
        there = next((w for w in self.destinations.values() if w.kind == "databricks"), None)
        if there is None or there.role not in self.topology.tracked or name.startswith("/"):
            return name
        known = self.state.experiments.full_name(there.role, name)
        if known is None:  # asked for once: that workspace may be away when it is wanted again
            with self.peers.asking(self.topology.primary):
                known = there.experiment_name(name)
            self.state.experiments.note_full_name(there.role, name, known)
        return known

    def create(self, own_name: str, name: str, tags: dict[str, str], files: str | None = None) -> str:
        """Make an experiment under ``own_name`` that says what the user calls it; returns its id here."""
        named = self.destination.capabilities.names_experiments_itself
        kept = {**tags, EXPERIMENT_TAG: self.full_name(name)} if named else tags
        return self.destination.create_experiment(own_name, kept, files)

    def write_creation(self, op: CreateExperiment) -> None:
        """Make the experiment of a journaled write."""
        if op.name is not None and not self.state.experiments.is_known(op.id):  # the state was lost
            self.state.experiments.remember(op.id, op.name, op.tags or {})
        self.at(op.id)

    def write_change(self, change: ChangeExperiment, in_doubt: bool) -> None:
        """Make a journaled change of an experiment."""
        if change.do in ("delete", "restore") and self._is_in_stage(change):
            return
        try:
            self.change(change, in_doubt or bool(change.tried))
        except MlflowException as error:
            if change.do != "untag" or not is_missing(error):
                raise

    def _is_in_stage(self, change: ChangeExperiment) -> bool:
        found = self.destination.get_experiment(self.at(change.id))
        stage = "deleted" if change.do == "delete" else "active"
        return bool(found.lifecycle_stage == stage)

    def change(self, change: ChangeExperiment, again: bool) -> None:
        """Change an experiment as the user asked; ``again`` where it may have been done before.

        Raises Unavailable, or the workspace's refusal.
        """
        experiment_id, what = self.at(change.id), change.do
        if what == "tag":
            value = cast(str, change.value)  # the service refuses none
            self.destination.set_experiment_tag(experiment_id, change.key or "", value)
        elif what == "untag":
            remove_once(
                partial(self.destination.delete_experiment_tag, experiment_id, change.key or ""), again
            )
        elif what == "rename":
            name = change.name or ""
            own_name, found = self.find(name)
            there = found if found is not None and str(found.experiment_id) == experiment_id else None
            # A deleted one cannot be renamed: that it has the name shows nothing.
            if not again or there is None or there.lifecycle_stage == LifecycleStage.DELETED:
                self.destination.rename_experiment(experiment_id, own_name)
            if self.destination.capabilities.names_experiments_itself:
                self.destination.set_experiment_tag(experiment_id, EXPERIMENT_TAG, self.full_name(name))
        elif again and self._is_in_stage(change):
            return
        elif what == "delete":
            self.destination.delete_experiment(experiment_id)
        else:
            self.destination.restore_experiment(experiment_id)

    def in_living(self, experiment_id: str, make: Callable[[], T]) -> T:
        """Make something in an experiment, which is restored first if somebody deleted it there."""
        began = self.clock.monotonic()
        try:
            return make()
        except MlflowException as error:
            # Somebody deleted the experiment there: what is logged to it must not be lost.
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "INVALID_STATE"):
                raise
            if not self.is_restored(experiment_id, began):
                raise
            return make()

    def is_restored(self, experiment_id: str, since: float) -> bool:
        """Restore an experiment that somebody deleted there; tells whether any thread has since then."""
        with self.alone.doing("restored experiment", experiment_id):
            if self.destination.get_experiment(experiment_id).lifecycle_stage == "deleted":
                self.destination.restore_experiment(experiment_id)
                self._restored[experiment_id] = self.clock.monotonic()
        return self._restored.get(experiment_id, float("-inf")) >= since
