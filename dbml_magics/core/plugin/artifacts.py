"""The artifact repository behind the link's own artifact URIs: spool and journal going in, merged coming out.

``dbml://<link>/runs/<run>/artifacts``, ``dbml://<link>/models/<model>/artifacts`` and
``dbml://<link>/versions/<workspace>/<name>/<version>/<folder>``, each with any path below.
"""

from __future__ import annotations

import copy
import os
import posixpath
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import yaml
from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.store.artifact.artifact_repo import ArtifactRepository, verify_artifact_path

from dbml_magics.common.hints import Remedy, say
from dbml_magics.core.delivery.writers.side import Side
from dbml_magics.core.destinations.errors import Unavailable, classify_error, is_missing
from dbml_magics.core.model.operations import LogArtifact, read_as
from dbml_magics.core.model.sendable import (
    refuse_bad_name,
    refuse_bad_text,
    refuse_taken_place,
    refuse_unsafe_name,
)
from dbml_magics.core.outbox.spool import small_file
from dbml_magics.core.paging import standing
from dbml_magics.core.run_view import ArtifactLocation
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.core.runtime.engines import engine_by_key, engine_for

T = TypeVar("T")


def _engine_behind(artifact_uri: str, tracking_uri: str | None) -> Engine:
    key = urlsplit(artifact_uri).netloc
    engine = engine_by_key(key)
    if engine is None:
        import mlflow

        for uri in (tracking_uri, mlflow.get_tracking_uri()):
            if uri and uri.startswith("dbml:"):
                engine = engine_for(uri)
                if engine.link.key == key:
                    break
    if engine is None:
        raise MlflowException(
            f"{artifact_uri} belongs to a link that this process does not have; link again "
            f"({say(Remedy('link', again=True))}) or read the files at the workspace itself",
            INVALID_PARAMETER_VALUE,
        )
    return engine


def build(artifact_uri: str, tracking_uri: str | None, registry_uri: str | None) -> ArtifactRepository:
    """Build the repository of a ``dbml:`` artifact URI.

    ``dbml://<link>/at/<workspace>/<a place of its own>`` is that workspace's own repository: a trace's.
    """
    at = [p for p in urlsplit(artifact_uri).path.split("/") if p]
    if len(at) >= 3 and at[0] == "at":
        engine = _engine_behind(artifact_uri, tracking_uri)
        return engine.workspaces[at[1]].artifacts(posixpath.join(unquote(at[2]), *at[3:]))
    return DbmlArtifactRepository(artifact_uri, tracking_uri=tracking_uri, registry_uri=registry_uri)


class DbmlArtifactRepository(ArtifactRepository):  # type: ignore[misc]
    """Files of a run, a logged model or a registered version of the link."""

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self.engine = _engine_behind(artifact_uri, tracking_uri)
        # Not urlsplit: MLflow appends paths as they are, and a file's name may have a # or ? or % in it.
        self._parts = _steps(artifact_uri.removeprefix("dbml://").partition("/")[2].lstrip("/"))

    # --- whose file a path is

    def _where(self, path: str | None) -> tuple[str, str | None]:
        """Return (owner, path within the owner's files); no path for the folder that holds ``artifacts``.

        MLflow cuts a URI into root and path wherever it likes: the two are put together again first.
        """
        parts = self._parts + _steps(path)
        if len(parts) >= 4 and parts[0] == "versions":
            # What follows the number is the name of the folder: as at the registry, for a download's target.
            return "version:" + "/".join(parts[1:4]), "/".join(parts[5:])
        if len(parts) >= 2 and parts[0] in ("runs", "models"):
            owner = f"{parts[0][:-1]}:{parts[1]}"
            if len(parts) == 2:
                return owner, None
            if parts[2] == "artifacts":
                return owner, "/".join(parts[3:])
            raise MlflowException(
                f"{posixpath.join(self.artifact_uri, path or '')}: no files there", RESOURCE_DOES_NOT_EXIST
            )
        raise MlflowException(
            f"{posixpath.join(self.artifact_uri, path or '')} names no run, model or version whose files "
            "could be there",
            INVALID_PARAMETER_VALUE,
        )

    def _file(self, path: str) -> tuple[str, str]:
        """Return (owner, path within the owner's files) of a file."""
        owner, full = self._where(path)
        if not full:
            raise MlflowException(f"{self.artifact_uri}: no file {path!r} there", RESOURCE_DOES_NOT_EXIST)
        return owner, full

    # --- writing

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Copy a file into the spool and journal its upload."""
        verify_artifact_path(artifact_path)
        if not os.path.isfile(local_file):
            raise FileNotFoundError(f"No such file: '{local_file}'")
        self._journal([(str(local_file), posixpath.join(artifact_path or "", os.path.basename(local_file)))])

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Copy a folder's files into the spool and journal their upload."""
        verify_artifact_path(artifact_path)
        root = Path(local_dir)
        files = sorted(f for f in root.rglob("*") if f.is_file())
        # A model's MLmodel goes last: whoever finds it finds a whole model.
        files.sort(key=lambda f: f.name == "MLmodel")
        self._journal(
            [(str(f), posixpath.join(artifact_path or "", f.relative_to(root).as_posix())) for f in files]
        )

    def _journal(self, files: list[tuple[str, str]]) -> None:
        if not files:
            return
        placed = [(local, *self._file(path)) for local, path in files]
        owner = placed[0][1]
        kind, _, name = owner.partition(":")
        if kind == "version":
            raise MlflowException("a registered version's files cannot be changed", INVALID_PARAMETER_VALUE)
        queue = self._queue(kind, name)
        if kind == "run":
            self.engine.live.open_run(name)
        else:
            self.engine.live.begin_queue(queue)
        refuse_bad_text("the path of a file", [path for _, path in files])
        stands = self._standing(queue, owner)
        checked = any(
            self.engine.workspaces[role].capabilities.checks_file_names for role in self.engine.link.used
        )
        for _, _, path in placed:
            refuse_bad_name(path)
            if checked:
                refuse_unsafe_name(path)
            refuse_taken_place(path, stands)
        self.engine.recorder.write_all(
            queue,
            [LogArtifact(owner, path, self.engine.retention.keep(local)) for local, owner, path in placed],
        )
        if kind == "run":
            self.engine.thumbnails.note(name, [(path, local) for local, _, path in placed])
        if self.engine.link.mode == "sync":
            self.engine.waiting.wait_for_primary(queue)

    def _standing(self, queue: str, owner: str) -> Callable[[str], bool | None]:
        """Return a function that tells whether a path is a folder (True), a file (False) or unknown (None).

        The journal knows what was logged here; for an older run or model the function asks the primary.
        """
        view, (kind, _, name) = self.engine.live.queue_view(queue), owner.partition(":")
        files = view.artifacts.get(owner, {}) if view is not None else {}
        folders = view.folders.get(owner, set()) if view is not None else set()
        whole = view is not None and (view.created if kind == "run" else name in view.models)
        primary = self.engine.link.primary

        def listed(folder: str) -> list[FileInfo]:
            repository = self._remote(owner)
            return self.engine.health[primary].ask(lambda: _listed(repository(self.engine.primary), folder))

        there = standing(listed)

        def stands(path: str) -> bool | None:
            known = None if whole or self.engine.health[primary].away else there(path)
            if known is None and (path in files or path in folders):
                return path in folders
            return known

        return stands

    # --- reading

    def _on_their_way(self, owner: str) -> dict[str, ArtifactLocation]:
        kind, _, name = owner.partition(":")
        if kind == "version":
            return {}
        queue = self._queue(kind, name)
        view = self.engine.live.queue_view(queue)
        return {} if view is None else _still_waiting(self.engine, queue, dict(view.artifacts.get(owner, {})))

    def _journaled(self, owner: str) -> dict[str, ArtifactLocation] | None:
        """Return the files of a run or model of it, arrived or not, where the journal has the whole run.

        MLflow's ``register_model`` lists a run's files first, and must not fail because nobody answers.
        """
        kind, _, name = owner.partition(":")
        view = None if kind == "version" else self.engine.live.queue_view(self._queue(kind, name))
        return None if view is None or not view.created else dict(view.artifacts.get(owner, {}))

    def _queue(self, kind: str, name: str) -> str:
        return name if kind == "run" else self.engine.models.queue_of(name)

    def _remote(self, owner: str) -> Callable[[Side], ArtifactRepository]:
        """Return a function that finds a workspace's own repository of an owner's files."""
        kind, _, name = owner.partition(":")

        def repository(side: Side) -> ArtifactRepository:
            if kind == "version":
                role, model, version = (unquote(p) for p in name.split("/"))
                side = self.engine.side(role)
                workspace = self.engine.workspaces[role]
                return workspace.artifacts(workspace.registry.get_model_version_download_uri(model, version))
            if self.engine.state.identity(side.role, kind, name) is None:
                if kind == "run":
                    if self.engine.live.creation_of(name) is not None:
                        raise MlflowException(f"run {name} is on its way", RESOURCE_DOES_NOT_EXIST)
                    side.ids.remember_run(name, side.destination.get_run(side.ids.known_run(name)))
                else:
                    side.ids.find_model(name)
            return side.reader.repository(owner)

        return repository

    def _ask(self, owner: str, question: Callable[[Side], T]) -> T:
        """Ask the workspace that holds an owner's files: a version's own, else the primary or the mirror."""
        if owner.startswith("version:"):
            role = owner.removeprefix("version:").partition("/")[0]
            return self.engine.health[role].ask(lambda: question(self.engine.side(role)))
        return self.engine.asking.read(question)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """List one folder: the workspace's files, and those on their way to it."""
        owner, full = self._where(path)
        if full is None:
            return [FileInfo(posixpath.join(path or "", "artifacts"), True, None)]
        found: dict[str, FileInfo] = {}
        waiting = self._on_their_way(owner)
        try:
            repository = self._remote(owner)
            for info in self._ask(owner, lambda a: _listed(repository(a), full)):
                found[info.path] = info
        except MlflowException as error:
            classified = classify_error(error)
            if isinstance(classified, Unavailable):
                known = self._journaled(owner)
                if known is None and not waiting:
                    raise
                waiting = {**(known or {}), **waiting}
            elif not is_missing(classified):
                raise
        for info in _waiting_below(waiting, full):
            if not (info.is_dir and info.path in found):
                found[info.path] = info
        return [
            _moved(info, posixpath.join(path or "", posixpath.basename(info.path)))
            for info in sorted(found.values(), key=lambda i: i.path)
        ]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        owner, full = self._file(remote_file_path)
        waiting = self._on_their_way(owner).get(full)
        if waiting is not None:
            kind, _, name = owner.partition(":")
            if _copy_held(self.engine, self._queue(kind, name), owner, full, waiting, local_path):
                return  # else it has just arrived: it is read there
        repository = self._remote(owner)

        def fetch(side: Side) -> None:
            repository(side)._download_file(full, local_path)
            if posixpath.basename(full) == "MLmodel":
                role = side.role if not owner.startswith("version:") else owner.split(":")[1].split("/")[0]
                _show_own_ids(self.engine, role, Path(local_path))

        self._ask(owner, fetch)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:  # noqa: ARG002 - MLflow's signature
        """Refuse: MLflow's servers have no such call for runs, and both workspaces keep the same files."""
        raise MlflowException("artifacts of a linked run are deleted with the run", INVALID_PARAMETER_VALUE)


def _steps(path: str | None) -> list[str]:
    """Return the names of a relative path. Raises MLflow's refusal of one that leads out of its root."""
    steps = (path or "").split("/")
    if ".." in steps or (path or "").startswith("/"):
        raise MlflowException("Invalid path", INVALID_PARAMETER_VALUE)
    return [step for step in steps if step not in ("", ".")]


def _show_own_ids(engine: Engine, role: str, file: Path) -> None:
    """Put the ids that the user knows into an MLmodel that was read at a workspace."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return
    if not isinstance(content, dict):
        return
    shown = dict(content)
    for key, kind in (("run_id", "run"), ("model_id", "model"), ("model_uuid", "model")):
        if content.get(key):
            shown[key] = engine.state.visible(role, kind, str(content[key])) or content[key]
    if shown != content:
        file.write_text(
            yaml.safe_dump(shown, default_flow_style=False, allow_unicode=True, sort_keys=True),
            encoding="utf-8",
        )


def _still_waiting(
    engine: Engine, queue: str, files: Mapping[str, ArtifactLocation]
) -> dict[str, ArtifactLocation]:
    """Return those of a queue's files by path that some workspace of the link does not have yet."""
    found = {
        path: held for path, held in files.items() if held.spool and engine.journal.spool.find(held.spool)
    }
    small = {path: held for path, held in files.items() if not held.spool}
    if small:
        sizes = engine.journal.files(queue)
        passed = [engine.state.cursors(role, queue) for role in engine.link.used]
        letters = [line for _, _, _, line, _, _ in engine.state.dead(queue=queue)]
        dead = {upload.path for line in letters if (upload := read_as(LogArtifact, line)) is not None}
        for path, held in small.items():
            file, _, end = held.place
            waits = path in dead or any(cursors.get(file, (0, 0))[0] < end for cursors in passed)
            if waits and sizes.get(file, 0) >= end:
                found[path] = held
    return found


def _copy_held(
    engine: Engine, queue: str, owner: str, path: str, held: ArtifactLocation, target: str
) -> bool:
    """Copy a file that waits in the spool or journal to ``target``; False where it has just arrived."""
    if held.spool:
        copy = engine.journal.spool.find(held.spool)
        if copy is not None:
            with suppress(FileNotFoundError):
                shutil.copyfile(copy, target)
                return True
        return False
    for entry in engine.journal.read(queue, *held.place):
        upload = read_as(LogArtifact, entry.line)
        if upload is not None and (upload.owner, upload.path) == (owner, path):
            data = small_file(upload.file)
            if data is not None:
                Path(target).write_bytes(data)
                return True
    return False


def _moved(info: FileInfo, path: str) -> FileInfo:
    """Return a file's facts under another path; a size that is yet to be asked for stays so."""
    moved = copy.copy(info)
    moved._path = path
    return moved


def _listed(repository: ArtifactRepository, path: str) -> list[FileInfo]:
    return list(repository.list_artifacts(path or None))


def _waiting_below(waiting: dict[str, ArtifactLocation], folder: str) -> list[FileInfo]:
    lead = folder + "/" if folder else ""
    found: dict[str, FileInfo] = {}
    for path, held in waiting.items():
        if not path.startswith(lead) or path == folder:
            continue
        head, _, rest = path[len(lead) :].partition("/")
        found[lead + head] = FileInfo(lead + head, bool(rest), None if rest else held.size)
    return list(found.values())
