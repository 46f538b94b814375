"""One side of a link: a workspace, its ids and the writers that carry the journal's writes out there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mlflow.exceptions import MlflowException

from dbml_magics.core.clock import Clock
from dbml_magics.core.delivery.writers.acknowledged import Acknowledged
from dbml_magics.core.delivery.writers.adoption import Adoption
from dbml_magics.core.delivery.writers.batches import Batches
from dbml_magics.core.delivery.writers.emulated_models import EmulatedModels
from dbml_magics.core.delivery.writers.experiments import Experiments
from dbml_magics.core.delivery.writers.files import Files
from dbml_magics.core.delivery.writers.ids import Ids, Makers
from dbml_magics.core.delivery.writers.in_doubt import PointsThere
from dbml_magics.core.delivery.writers.learned import Learned
from dbml_magics.core.delivery.writers.lineage import Lineage
from dbml_magics.core.delivery.writers.model_emulation import ModelEmulation
from dbml_magics.core.delivery.writers.models import Models
from dbml_magics.core.delivery.writers.overflow import Overflow
from dbml_magics.core.delivery.writers.overflow_files import OverflowFiles
from dbml_magics.core.delivery.writers.ports import Peers, Queues, Topology, Turns
from dbml_magics.core.delivery.writers.reader import Reader
from dbml_magics.core.delivery.writers.registrations import Registrations
from dbml_magics.core.delivery.writers.runs import Runs
from dbml_magics.core.delivery.writers.sender import Sender
from dbml_magics.core.delivery.writers.versions import Versions
from dbml_magics.core.destinations.errors import classify_error
from dbml_magics.core.destinations.health import Health
from dbml_magics.core.destinations.protocol import Destination
from dbml_magics.core.giving_way import OneAtATime, gives_way
from dbml_magics.core.model.operations import (
    BATCHED,
    ChangeExperiment,
    ChangeRegistry,
    CopyFiles,
    CreateExperiment,
    CreateModel,
    CreateRun,
    DamagedLine,
    DeleteModel,
    DeleteModelTag,
    DeleteRun,
    DeleteTag,
    FinalizeModel,
    LogArtifact,
    LogInputs,
    LogModelParams,
    LogOutputs,
    Malformed,
    Operation,
    RegisterVersion,
    RestoreRun,
    RetryDeadLetter,
    SetModelTags,
    Unknown,
    UpdateRun,
)
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.state import State

_NOT_APPLIED = (*BATCHED, RetryDeadLetter, DamagedLine)


@dataclass(frozen=True)
class LinkParts:
    """What all sides of a link share."""

    topology: Topology
    destinations: Mapping[str, Destination]
    health: Mapping[str, Health]
    state: State
    journal: Journal
    queues: Queues
    clock: Clock
    readers: Callable[[str], Reader]
    """Returns the reader of any workspace of the link by its role."""


class Side:
    """Everything of a link that is at one workspace."""

    def __init__(self, role: str, parts: LinkParts, turns: Turns) -> None:
        self.role = role
        destinations = {role: gives_way(each) for role, each in parts.destinations.items()}
        self.destination = destination = destinations[role]
        alone = OneAtATime()
        state, clock, topology = parts.state, parts.clock, parts.topology
        journal, queues, peers = parts.journal, parts.queues, Peers(role, parts.health, parts.readers)
        # --- what is known of it, and read there
        self.learned = learned = Learned(role, destination, state.capabilities)
        self.emulated = emulated = EmulatedModels(role, destination, state, learned)
        self.ids = ids = Ids(role, topology, destination, state, emulated)
        self.experiments = experiments = Experiments(role, topology, destinations, state, clock, peers, alone)
        self.versions = versions = Versions(role, topology, destinations, state)
        self.reader = reader = Reader(role, destination, learned, ids, experiments)
        self.acknowledged = acknowledged = Acknowledged()
        self.points = points = PointsThere(destination, ids, reader)
        # --- what writes there
        shared = role, destination, learned, state, ids, alone
        overflow_files = OverflowFiles(*shared, reader, turns, clock)
        self.overflow = overflow = Overflow(*shared, acknowledged, overflow_files)
        self.sender = sender = Sender(*shared, points, overflow, acknowledged)
        self.runs = runs = Runs(*shared, experiments, sender, overflow, acknowledged, turns)
        self.emulation = emulation = ModelEmulation(*shared, sender, runs)
        self.batches = Batches(*shared, clock, points, overflow, acknowledged, sender, emulation)
        self.lineage = lineage = Lineage(*shared, emulation, peers)
        self.models = models = Models(*shared, experiments, emulation, versions, turns, peers)
        self.files = files = Files(*shared, reader, emulation, journal, queues, peers)
        self.adoption = adoption = Adoption(
            *shared,
            experiments,
            sender,
            runs,
            lineage,
            models,
            emulation,
            files,
            journal,
            queues,
            peers,
            clock,
        )
        self.registrations = Registrations(
            *shared, versions, models, lineage, files, reader, journal, queues, clock
        )
        ids.makers = Makers(adoption.bring, models.bring)

    def apply(self, queue: str, op: Operation, in_doubt: bool) -> None:
        """Apply one write that is no part of a batch. Raises Unavailable, or the workspace's refusal."""
        if isinstance(op, Unknown) or op.kind in _NOT_APPLIED:
            raise MlflowException(
                f"a write of an unknown kind ({op.code!r}): was it made by a newer dbml-magics?"
            )
        of_registry = issubclass(op.kind, (RegisterVersion, ChangeRegistry))
        if not (self.ids.is_tracked or of_registry) or not op.meant_for(self.role):
            return
        try:
            self._carry_out(queue, op, in_doubt)
        except Exception as error:
            raise classify_error(error) from error

    def _carry_out(self, queue: str, op: Operation, in_doubt: bool) -> None:
        match op:
            case CreateRun():
                self.runs.create(queue, op, in_doubt)
            case UpdateRun():
                self.runs.update(queue, op)
            case DeleteRun():
                self.runs.delete(queue)
            case RestoreRun():
                self.runs.restore(queue)
            case DeleteTag():
                self.runs.delete_tag(queue, op.key)
            case LogInputs():
                self.lineage.inputs(queue, op, in_doubt)
            case LogOutputs():
                self.lineage.outputs(queue, op.steps, in_doubt)
            case LogArtifact():
                self.files.log(queue, op, in_doubt)
            case CopyFiles():
                if op.role == self.role:
                    self.adoption.complete(queue)
            case CreateModel():
                self.models.create(op.facts, in_doubt)
            case FinalizeModel():
                self.models.finalize(op.model, op.status)
            case SetModelTags() | DeleteModelTag() | LogModelParams() | DeleteModel():
                self.models.change(op, in_doubt)
            case CreateExperiment():
                self.experiments.write_creation(op)
            case ChangeExperiment():
                self.experiments.write_change(op, in_doubt)
            case RegisterVersion():
                self.registrations.version(queue, op.facts, in_doubt)
            case ChangeRegistry():
                self.registrations.write(op.change, in_doubt)
            case Malformed():
                raise ValueError(op.cause)
