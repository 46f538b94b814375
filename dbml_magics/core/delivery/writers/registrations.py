"""Model versions and registry writes at one workspace's registry, and the twin that each version carries.

A registration travels in its run's queue, behind the run's files; every other registry write in the queue
``registry``. What orders the two: a registration lets the registry writes that were made before it go first,
and registrations and writes name the registrations of their model that they come after (``after``).
:meth:`Registrations.before` says so before a write is sent.
"""

from __future__ import annotations

import posixpath
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_LIMIT_EXCEEDED
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.utils.uri import append_to_uri_path

from dbml_magics.common.log_records import logger
from dbml_magics.core.clock import SYSTEM, Clock
from dbml_magics.core.delivery.writers.files import Files
from dbml_magics.core.delivery.writers.ids import RUN_TAG
from dbml_magics.core.delivery.writers.lineage import Lineage
from dbml_magics.core.delivery.writers.models import Models
from dbml_magics.core.delivery.writers.ports import Queues
from dbml_magics.core.delivery.writers.reader import Reader
from dbml_magics.core.delivery.writers.versions import KEY_TAG, TWIN_TAG, Versions
from dbml_magics.core.delivery.writers.writer import Writer
from dbml_magics.core.destinations.errors import Blocked, Busy, Unavailable, already_exists, is_missing
from dbml_magics.core.destinations.limits import names_a_limit
from dbml_magics.core.destinations.protocol import Destination, Registry
from dbml_magics.core.giving_way import gives_way
from dbml_magics.core.mlflow_private import without_bars
from dbml_magics.core.model.facts import RegistryChange, VersionFacts, VersionSource
from dbml_magics.core.model.mlmodel import MLmodel
from dbml_magics.core.model.operations import (
    ChangeRegistry,
    Line,
    LogArtifact,
    Operation,
    RegisterVersion,
    read_as,
)
from dbml_magics.core.model.queues import HELD_QUEUE, LINK_QUEUE, REGISTRY_QUEUE, registration_queue
from dbml_magics.core.model.sendable import refuse_bad_text
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.model_versions import Answer, ModelVersions, Refusal, Registered
from dbml_magics.core.outbox.state import State
from dbml_magics.core.paging import files_below

_log = logger(__name__)

_READY_WITHIN_S = 300.0
_LINE_WITHIN_S = 60.0  # after its note, and for another process to see it
_PENDING_S = 5.0  # between two tries while a workspace has too many versions in registration


def ask_for(
    state: State,
    write: Callable[[str, Operation], None],
    queue: str,
    facts: VersionFacts,
    clock: Clock = SYSTEM,
) -> None:
    """Journal a registration, and remember it until every registry has answered it.

    Versions of a model are numbered in the order in which they were asked for, in every registry: later ones
    wait for those that are remembered. One whose line cannot be written, on full disks, is forgotten; so is
    one whose process was killed before it had written the line, a minute later.
    """
    facts["after"] = {**(facts.get("after") or {}), **state.model_versions.open_of(facts["name"])}
    state.model_versions.ask(queue, facts, clock.time())
    try:
        write(queue, RegisterVersion(facts))
    except BaseException:
        state.model_versions.withdraw(facts)
        raise


def check_before(
    destinations: Mapping[str, Destination],
    files_of: Callable[[str], ArtifactRepository],
    facts: VersionFacts,
) -> None:
    """Raise WouldRefuse for a registration that a registry would refuse, before anything is made for it.

    Raises MLflow's refusal for text that no workspace can be sent.
    """
    refuse_bad_text(f"the version of {facts['name']!r}:", facts)
    for role in facts["to"]:
        destinations[role].check_version(
            facts["name"], facts["tags"], lambda: _mlmodel(files_of, facts["source"])
        )


@without_bars()
def _mlmodel(files_of: Callable[[str], ArtifactRepository], source: VersionSource) -> MLmodel | None:
    """Return the content of a model's file MLmodel, or None where it cannot be read now."""
    if source["kind"] not in ("model", "run"):
        return None
    owner = f"{source['kind']}:{source.get('id') or source['run']}"
    path = posixpath.join(source.get("path") or "", "MLmodel")
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = files_of(owner).download_artifacts(path, folder)
            read: MLmodel | None = yaml.safe_load(Path(file).read_text())
    except (MlflowException, OSError, yaml.YAMLError):
        return None
    return read if isinstance(read, dict) else None


@dataclass(eq=False)
class Registrations(Writer):
    """Registers versions and makes registry writes at one workspace."""

    versions: Versions
    models: Models
    lineage: Lineage
    files: Files
    reader: Reader
    journal: Journal
    queues: Queues
    clock: Clock
    _goals: dict[str, dict[str, int]] = field(default_factory=dict, init=False)
    _seen_in: dict[str, str] = field(default_factory=dict, init=False)
    """Registration -> the queue in which its line was seen."""
    _under_way: dict[str, tuple[str, str]] = field(default_factory=dict, init=False)
    """Registration that is carried out now -> its queue, and its model."""

    @property
    def registry(self) -> Registry:
        """Return the destination as a registry."""
        return self.destination

    @property
    def notes(self) -> ModelVersions:
        """Return what is remembered of registrations."""
        return self.state.model_versions

    # --- what goes first

    def before(self, queue: str, op: Operation) -> Iterator[Blocked]:
        """Yield what a write comes after that has not arrived."""
        match op:
            case RegisterVersion(facts) if self._is_asked_for(facts):
                source_queue = facts.get("queue", queue)
                if self.queues.is_waiting(self.role, REGISTRY_QUEUE):  # what is in it was asked for earlier
                    moves = self._is_name_moved(facts)
                    yield Blocked("lets registry writes go first", on=REGISTRY_QUEUE, needed=moves)
                yield from self._registrations(facts.get("after") or {})
                if not self.ids.is_tracked:
                    yield from self._run_at_primary(source_queue, facts["key"])
                yield from self._held_files(source_queue, facts)
            case ChangeRegistry(change) if self.role in change["to"]:
                yield from self._registrations(change.get("after") or {})
                yield from self._carried_out(change)

    def _is_asked_for(self, facts: VersionFacts) -> bool:
        """Tell whether a registration is one for this registry."""
        return self.role in facts["to"] and facts.get("only", self.role) == self.role

    def _is_name_moved(self, facts: VersionFacts) -> bool:
        """Tell whether the model of that name is to be another one before a version of it is made.

        What comes after the registration does not count: the change that waits for it, or that renamed its
        own model, and all behind that.
        """
        name, key = facts["name"], facts["key"]
        since = self.notes.names(key, name)[:-1]
        moved = False
        for entry in self.journal.beyond(REGISTRY_QUEUE, self.state.cursors(self.role, REGISTRY_QUEUE)):
            op = read_as(ChangeRegistry, entry.line)
            if op is None or op.change["do"] not in _MOVES:
                continue
            names = {op.change["name"], op.change.get("new_name")}
            if key in op.change.get("after", {}) or (since and name in names and since[-1] in names):
                return moved
            moved = moved or (self.role in op.change["to"] and name in names)
        return moved and not since

    def _registrations(self, after: dict[str, str]) -> Iterator[Blocked]:
        """Yield the registrations that a write comes after: each is in its run's queue, or in its own."""
        for key, queue in after.items():
            if self.notes.is_open(key, self.role):
                own = registration_queue(key)
                if self._is_lost(key, (queue, own)):
                    continue
                places = [each for each in (queue, own) if self.queues.is_waiting(self.role, each)] or [own]
                for place in places:
                    last = place == places[-1]
                    yield Blocked("waits for the registration of a version", on=place, needed=last)

    def _carried_out(self, change: RegistryChange) -> Iterator[Blocked]:
        """Yield a wait for a registration that goes on: its version may be there, what belongs to it not."""
        ours = change.get("own")  # a twin's tag, which no other version's registration concerns
        for key, (queue, name) in self._under_way.items():
            if not ours and (key == change.get("of") or name == change["name"]):
                yield Blocked("waits for the registration of a version", on=queue)
                return

    def _is_lost(self, key: str, queues: tuple[str, str]) -> bool:
        """Tell whether a registration has no line, and forget it then: its process was killed meanwhile.

        That its queue waits does not show that it has one: what waits there may wait for it.
        """
        if not self.notes.was_asked_before(key, self.clock.time() - _LINE_WITHIN_S):
            return False
        seen = self._seen_in.get(key)
        if seen is not None and self.queues.is_waiting(self.role, seen):
            return False
        for queue in queues:
            waiting = self.journal.beyond(queue, self.state.cursors(self.role, queue))
            if key in self._keys_in(entry.line for entry in waiting):
                self._seen_in[key] = queue
                return False
            if key in self._keys_in(line for _, _, _, line, _, _ in self.state.dead(None, queue)):
                return False
        self.notes.forget_lost(key)
        return True

    @staticmethod
    def _keys_in(lines: Iterable[Line | None]) -> Iterator[str]:
        registered = (read_as(RegisterVersion, line) for line in lines)
        return (op.facts["key"] for op in registered if op is not None)

    def _run_at_primary(self, queue: str, key: str) -> Iterator[Blocked]:
        """Yield a wait until the run is whole where it is tracked: from there it is carried over."""
        goal = self._goals.setdefault(key, self.journal.files(queue))
        if self.queues.left(self.ids.topology.primary, queue, goal):
            yield Blocked(f"waits for the run to arrive in {self.ids.topology.primary}")
        else:
            del self._goals[key]

    def _held_files(self, queue: str, facts: VersionFacts) -> Iterator[Blocked]:
        """Yield a wait for those files of a model that the workspace does not take now."""
        source, waiting = facts["source"], set(self.state.deferred_uploads.numbers(self.role))
        owner = f"model:{source['id']}" if source["kind"] == "model" else f"run:{source.get('run')}"
        lead = f"{source['path']}/" if source["kind"] == "run" and source["path"] else ""
        for number, _, _, line, _, _ in self.state.dead(self.role, queue) if waiting else ():
            upload = read_as(LogArtifact, line) if number in waiting else None
            if upload is not None and upload.owner == owner and upload.path.startswith(lead):
                yield Blocked("waits for the model's files to arrive there", on=HELD_QUEUE)

    # --- versions

    def version(self, queue: str, facts: VersionFacts, in_doubt: bool) -> None:
        """Register one version, once, and exchange twins with the other registry.

        Its line may stand in two queues where a process was killed that moved it apart.
        """
        if not self._is_asked_for(facts):
            return
        key = facts["key"]
        with self.alone.doing("registration", key):
            self._under_way[key] = queue, facts["name"]
            try:
                self._version(facts, in_doubt)
            finally:
                del self._under_way[key]

    def _version(self, facts: VersionFacts, in_doubt: bool) -> None:
        key, others = facts["key"], [role for role in facts["to"] if role != self.role]
        if in_doubt and "only" in facts:
            self._recall(facts, others)
        made = self.notes.registered(key, self.role)
        if made is None:  # or refused before, and tried again
            twin = next((self._twin(role, self.notes.registered(key, role)) for role in others), None)
            made = self.register(facts, in_doubt, twin)
        for role, other in self._note_registered(key, made, others).items():
            if isinstance(other, Registered):
                self._exchange(facts, made, role, other)
        self._replay(key)
        self.notes.open_of(facts["name"])  # which forgets what all have answered

    def _recall(self, facts: VersionFacts, others: Iterable[str]) -> None:
        """Note what other registries have made of a registration, where the state that knew it was lost.

        The line that they had may be gone with the run's queue, from which this one was moved apart.
        """
        key = facts["key"]
        for role in others:
            if self.notes.is_answered(key, role):
                continue
            try:
                found = self._find(facts["name"], key, role)
            except (MlflowException, Unavailable) as error:
                _log.debug("%s is not asked for its version of %s: %s", role, facts["name"], error)
                continue
            if found is not None:
                version = str(found.version)
                if role == self.ids.topology.registries[0]:
                    self.notes.note_number(found.name, version, key)
                self.notes.note_registered(key, role, Registered(found.name, version, found.source, False))

    def register_now(self, facts: VersionFacts, within: float) -> None:
        """Register one version at the call that asks for it.

        Raises the registry's refusal, or Unavailable.
        """
        try:
            made = self.register(facts, False, None, within)
        except MlflowException as error:
            if not isinstance(error, Unavailable):
                self.notes.settle(facts["key"], self.role)
            raise
        self._note_registered(facts["key"], made, ())

    def _note_registered(self, key: str, made: Registered, others: Iterable[str]) -> Mapping[str, Answer]:
        """Keep the version that was made for a registration; returns what ``others`` answered before."""
        if self.role == self.ids.topology.registries[0]:
            self.notes.note_number(self.notes.names(key, made.name)[0], made.version, key)
        return self.notes.exchange(key, self.role, made, others)

    def register(
        self, facts: VersionFacts, in_doubt: bool, twin: str | None, ready_within: float = _READY_WITHIN_S
    ) -> Registered:
        """Register one version here, which an earlier try may have made; returns it once it is ready.

        Raises Unavailable, or the registry's refusal.
        """
        name, key = facts["name"], facts["key"]
        source, run_id, model_id = self._source(facts)
        self._check_files(facts["source"])
        new = self._make_model(name)
        made = None
        if in_doubt or self.notes.is_begun(key, self.role):
            made = self._find(name, key)
        if made is None:
            self.notes.begin(key, self.role)
            tags = {**facts["tags"], KEY_TAG: key}
            if run := facts.get("run"):
                tags[RUN_TAG] = run
            if twin:
                tags[TWIN_TAG] = twin
            try:
                made = self.registry.create_model_version(
                    name,
                    source,
                    run_id,
                    tags,
                    facts.get("run_link"),
                    facts.get("description"),
                    model_id,
                )
            except MlflowException as error:
                if not self._are_too_many_pending(error):
                    raise
                self.notes.settle(key, self.role)
                most = self.learned.limits.pending_versions
                raise Busy(
                    f"takes no version while {most or 'too many'} are being registered: {error.message}",
                    retry_after=_PENDING_S,
                ) from error
        made = self._ready(made, ready_within)
        self.notes.settle(key, self.role)
        return Registered(made.name, str(made.version), made.source, new)

    @staticmethod
    def _are_too_many_pending(error: MlflowException) -> bool:
        """Tell whether a registry refuses a version for those, anybody's, that it has not registered yet.

        Databricks documents the limit for a workspace and not the words of its refusal.
        """
        said = str(error.message)
        return (
            not isinstance(error, Unavailable)
            and re.search(r"\bpending\b", said, re.I) is not None
            and names_a_limit(said, error.error_code)
        )

    def _check_files(self, source: VersionSource) -> None:
        """Refuse a version that has more files than the service takes: it would fail half-way there."""
        most = self.learned.limits.model_files
        if most is None or source["kind"] not in ("model", "run"):
            return
        owner = f"{source['kind']}:{source.get('id') or source['run']}"
        repository = gives_way(self.reader.repository(owner))
        files = files_below(
            lambda folder: repository.list_artifacts(folder or None), (source.get("path") or "").strip("/")
        )
        if sum(1 for _ in islice(files, most + 1)) > most:
            raise MlflowException(
                f"the model has more files than {self.role} takes for a version ({most:,}); they are all in "
                "its run there",
                RESOURCE_LIMIT_EXCEEDED,
            )

    def _make_model(self, name: str) -> bool:
        try:
            self.registry.create_registered_model(name, {})
        except MlflowException as error:
            if not already_exists(error):
                raise
            return False
        return True

    def _find(self, name: str, key: str, role: str | None = None) -> ModelVersion | None:
        """Return the version that a registry, this one or another, has made for a registration."""
        there = self.versions.all_of(name, role)
        return next((found for found in there if found.tags.get(KEY_TAG) == key), None)

    def _ready(self, made: ModelVersion, within: float) -> ModelVersion:
        until = self.clock.monotonic() + within
        while made.status == "PENDING_REGISTRATION":
            if self.clock.monotonic() > until:
                raise Unavailable(f"version {made.version} of {made.name} is still being registered there")
            self.clock.sleep(1.0)
            made = self.registry.get_model_version(made.name, made.version)
        return made

    def _source(self, facts: VersionFacts) -> tuple[str, str | None, str | None]:
        """Return (source, run, model) under this workspace's own names, its files there."""
        given = facts["source"]
        run = facts.get("run")
        run_id = self.ids.run_at(run) if run else facts.get("foreign_run")
        if given["kind"] == "model":
            identity = self.ids.model_at(given["id"])
            self._bring_files(f"model:{given['id']}", "", lambda: self._finish_copy(given["id"], run_id))
            kept = self.ids.emulated.keeps(given["id"])
            native = not kept and self.destination.uri.startswith(("http://", "https://"))
            # A database's own registry would look models:/ up through the global URI, which is the link's.
            source = f"models:/{identity.actual}" if native else identity.extra["artifacts"]
            # A server notes at the model those versions only that were asked for by its id.
            own = native and given.get("named", True)
            own = own or (not kept and self.destination.kind == "databricks")
            return source, run_id or identity.extra.get("run"), identity.actual if own else None
        if given["kind"] == "run":
            identity = self.ids.run_identity(given["run"])
            owner, place = f"run:{given['run']}", identity.extra["artifacts"]
            self._bring_files(owner, given["path"])
            source = append_to_uri_path(place, given["path"]) if given["path"] else place
            return source, run_id or identity.actual, None
        if given["kind"] == "version":
            version = self.versions.own_version(given["name"], given["version"], given.get("of"))
            if version is None:
                raise MlflowException.invalid_parameter_value(
                    f"version {given['version']} of {given['name']} is not registered in {self.role}"
                )
            return f"models:/{given['name']}/{version}", run_id, None
        return given["uri"], run_id, None

    def _bring_files(self, owner: str, path: str, finish: Callable[[], object] = lambda: None) -> None:
        """Copy a folder that is elsewhere, once for all the versions that are registered from it."""
        with self.alone.doing(f"folder {path} of", owner):
            if self._lacks_files(owner, path):
                self.files.copy_folder(owner, path)
                finish()

    def _lacks_files(self, owner: str, path: str) -> bool:
        """Tell whether a folder of a run's is elsewhere and not here, as when a run is not tracked here."""
        if self.ids.is_primary or self.files.has(owner, posixpath.join(path, "MLmodel")):
            return False
        return bool(gives_way(self.queues.files_of(owner)).list_artifacts(path))

    def _finish_copy(self, model: str, run_id: str | None) -> None:
        """Finish a logged model whose files were carried over: its status, and its run's output."""
        self.models.finalize(model, "READY")
        if run_id and not self.ids.emulated.keeps(model):
            self.lineage.attach_output(self.ids.shown("run", run_id), run_id, model)

    def _twin(self, role: str, made: Registered | None) -> str | None:
        return None if made is None else self.versions.place(role, made.name, made.version)

    def _exchange(self, facts: VersionFacts, own: Registered, role: str, other: Registered) -> None:
        """Give each of two versions the other's name; the later of two registrations does it for both."""
        first = facts["to"][0]
        a, b = (own, other) if first == self.role else (other, own)
        second = role if first == self.role else self.role
        self.state.set_identity(second, "version", f"{a.name}/{a.version}", b.version)
        self._tag_twin(self._naming(facts, self.role, own, role, other))
        change = self._naming(facts, role, other, self.role, own)
        self.queues.write(LINK_QUEUE, ChangeRegistry(change))

    def _naming(
        self, facts: VersionFacts, role: str, made: Registered, twins_role: str, twin: Registered
    ) -> RegistryChange:
        """Return the change that lets a version name its twin."""
        return {
            "to": [role],
            "do": "version_tag",
            "name": made.name,
            "version": made.version,
            "of": facts["key"],
            "own": True,
            "key": TWIN_TAG,
            "value": self.versions.place(twins_role, twin.name, twin.version),
        }

    # --- other writes

    def write(self, change: RegistryChange, in_doubt: bool) -> None:
        """Make one registry write here; writes that say a state are harmless when made twice."""
        if self.role not in change["to"]:
            return
        if change["do"] == "twins":
            self._rename_twins(change)
            return
        if change.get("own"):
            self._tag_twin(change)
            return
        version = None
        if "version" in change:
            version = self.versions.own_version(change["name"], change["version"], change.get("of"))
            if version is None:
                self._defer(change)
                return  # that version was never registered here, or is not yet
        try:
            _WRITES[change["do"]](self.registry, change, version)
        except MlflowException as error:
            if change["do"] == "create_model" and already_exists(error):
                self._complete_model(change)
            elif not _is_done(self.registry, change, error, in_doubt or bool(change.get("tried"))):
                raise

    def _defer(self, change: RegistryChange) -> None:
        """Keep what was written to a version that was refused here, until it is registered after all."""
        key = change.get("of")
        if key and isinstance(self.notes.answer(key, self.role), Refusal):
            self.notes.defer_write(key, self.role, change)

    def _replay(self, key: str) -> None:
        for place, deferred in self.notes.deferred_writes(key, self.role):
            self.write(deferred, True)
            self.notes.drop_deferred(key, self.role, place)

    def _tag_twin(self, change: RegistryChange) -> None:
        """Let a version here name its twin; a version that was deleted meanwhile needs no tag."""
        key, name = change.get("of"), change["name"]
        role, its_name, number = self.versions.read_place(change["value"])
        twin = self.versions.place(role, self.notes.names(key, its_name)[0], number)
        for own_name in chain(names := self.notes.names(key, name), self._again(key, name)):
            try:
                if len(names) > 1 and key and not self._is_registered_as(own_name, change["version"], key):
                    continue
                self.registry.set_model_version_tag(own_name, change["version"], TWIN_TAG, twin)
                return
            except MlflowException as error:
                if is_missing(error):
                    continue
                if isinstance(error, Unavailable) or not self._is_gone(own_name, change["version"]):
                    raise
                # A database may refuse so the tag of a version that is renamed in the same moment.
                raise Unavailable(
                    f"{own_name} is being renamed or deleted", sent=False, elsewhere=True
                ) from error

    def _again(self, key: str | None, name: str) -> Iterator[str]:
        """Yield a renamed model's names once more: a rename may have arrived between two looks."""
        names = self.notes.names(key, name)
        yield from names if len(names) > 1 else ()

    def _is_registered_as(self, name: str, version: str, key: str) -> bool:
        """Tell whether a version is that of a registration. Raises MLflow's "not found"."""
        return bool(self.registry.get_model_version(name, version).tags.get(KEY_TAG) == key)

    def _is_gone(self, name: str, version: str) -> bool:
        try:
            self.registry.get_model_version(name, version)
        except MlflowException as error:
            if not is_missing(error):
                raise
            return True
        return False

    def _complete_model(self, change: RegistryChange) -> None:
        """Give a model that a registration made here what the user made it with."""
        for key, value in change["tags"].items():
            self.registry.set_registered_model_tag(change["name"], key, value)
        if change.get("description"):
            self.registry.update_registered_model(change["name"], change["description"])

    def _rename_twins(self, change: RegistryChange) -> None:
        """Let a renamed model's versions here name their twins by the new name."""
        for found in self.versions.all_of(change["name"]):
            role, name, number = self.versions.read_place(found.tags.get(TWIN_TAG, ""))
            if name == change["old_name"]:
                twin = self.versions.place(role, change["name"], number)
                self.registry.set_model_version_tag(change["name"], str(found.version), TWIN_TAG, twin)


_MOVES = frozenset({"delete_model", "rename_model"})
_REMOVALS = frozenset({"delete_model", "model_untag", "version_delete", "version_untag", "unalias"})


def _is_done(registry: Registry, change: RegistryChange, error: MlflowException, again: bool) -> bool:
    """Tell whether a refusal says that there is nothing left to do."""
    if is_missing(error):
        if change["do"] == "rename_model" and again:
            return _has_model(registry, change["new_name"])
        return change["do"] in _REMOVALS
    return False


def _has_model(registry: Registry, name: str) -> bool:
    try:
        registry.get_registered_model(name)
    except MlflowException as error:
        if not is_missing(error):
            raise
        return False
    return True


_WRITES: dict[str, Callable[[Registry, RegistryChange, Any], Any]] = {
    "create_model": lambda r, t, _: r.create_registered_model(t["name"], t["tags"], t.get("description")),
    "update_model": lambda r, t, _: r.update_registered_model(t["name"], t["description"]),
    "rename_model": lambda r, t, _: r.rename_registered_model(t["name"], t["new_name"]),
    "delete_model": lambda r, t, _: r.delete_registered_model(t["name"]),
    "model_tag": lambda r, t, _: r.set_registered_model_tag(t["name"], t["key"], t["value"]),
    "model_untag": lambda r, t, _: r.delete_registered_model_tag(t["name"], t["key"]),
    "version_update": lambda r, t, v: r.update_model_version(t["name"], v, t["description"]),
    "version_delete": lambda r, t, v: r.delete_model_version(t["name"], v),
    "version_tag": lambda r, t, v: r.set_model_version_tag(t["name"], v, t["key"], t["value"]),
    "version_untag": lambda r, t, v: r.delete_model_version_tag(t["name"], v, t["key"]),
    "version_stage": lambda r, t, v: r.transition_model_version_stage(t["name"], v, t["stage"], t["archive"]),
    "alias": lambda r, t, v: r.set_registered_model_alias(t["name"], t["alias"], v),
    "unalias": lambda r, t, _: r.delete_registered_model_alias(t["name"], t["alias"]),
}


def write_directly(registry: Registry, change: RegistryChange, again: bool) -> Any:
    """Make one registry write at a registry and return its answer; ``again`` where one was lost before."""
    try:
        return _WRITES[change["do"]](registry, change, change.get("version"))
    except MlflowException as error:
        if again and change["do"] == "create_model" and already_exists(error):
            return registry.get_registered_model(change["name"])
        if again and _is_done(registry, change, error, again):
            return (
                registry.get_registered_model(change["new_name"]) if change["do"] == "rename_model" else None
            )
        raise
