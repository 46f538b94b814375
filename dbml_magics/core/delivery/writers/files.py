"""Files of runs and logged models at one workspace, an MLmodel's ids being the workspace's own."""

from __future__ import annotations

import posixpath
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mlflow.exceptions import MlflowException

from dbml_magics.core.delivery.writers.model_emulation import ModelEmulation
from dbml_magics.core.delivery.writers.ports import Peers, Queues
from dbml_magics.core.delivery.writers.reader import Reader
from dbml_magics.core.delivery.writers.writer import Writer
from dbml_magics.core.destinations.errors import Unavailable, WouldRefuse, classify_error, is_missing
from dbml_magics.core.giving_way import gives_way, giving_way
from dbml_magics.core.model.operations import LogArtifact, read_as
from dbml_magics.core.model.sendable import refuse_taken_place
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.paging import files_below, standing

# (a queue, how far its files were read), {(owner, path): the name of its newest copy}
_Newest = tuple[tuple[str, dict[str, int]], dict[tuple[str, str], str]]


def _spool_of(op: LogArtifact) -> str:
    """Return the name of a file's copy; "" where its line holds the content."""
    return str(op.file.get("spool", ""))


@dataclass(eq=False)
class Files(Writer):
    """Uploads files of runs and logged models to one workspace."""

    reader: Reader
    emulation: ModelEmulation
    journal: Journal
    queues: Queues
    peers: Peers[Reader]
    _newest: _Newest = field(default=(("", {}), {}), init=False)

    def log(self, queue: str, op: LogArtifact, in_doubt: bool) -> None:
        """Upload a file whose copy is in the spool.

        In doubt, what comes in its place may be there already, and its copy gone: it is not overwritten.
        """
        with self.writing(op):
            self._log(queue, op, in_doubt)

    def writing(self, op: LogArtifact) -> AbstractContextManager[None]:
        """Keep other threads from uploading a file of the same place during a block."""
        return self.alone.doing(f"file {op.path} of", op.owner)

    def _log(self, queue: str, op: LogArtifact, in_doubt: bool) -> None:
        if in_doubt and self._newest_in(queue).get((op.owner, op.path), _spool_of(op)) != _spool_of(op):
            return
        with self.journal.spool.lent(op.file, posixpath.basename(op.path), self.role) as lent:
            if lent is None:
                if self._has_arrived(queue, op):
                    return
                raise MlflowException.invalid_parameter_value(f"the copy of {op.path} is gone from the spool")
            try:
                self.upload(op.owner, op.path, lent)
            except Exception as error:
                classified = classify_error(error)
                if isinstance(classified, Unavailable) and classified.sent and not classified.elsewhere:
                    self._refuse_taken_place(op.owner, op.path)
                raise

    def _has_arrived(self, queue: str, op: LogArtifact) -> bool:
        """Tell whether a file has arrived whose copy is gone, or another one comes in its place.

        Copies of what has arrived everywhere are deleted; a link whose state was lost delivers it anew.
        """
        view = self.queues.queue_view(queue)
        newest = view.artifacts.get(op.owner, {}).get(op.path) if view is not None else None
        if newest is not None and newest.spool != _spool_of(op):
            return True
        repository = gives_way(self.reader.repository(op.owner))
        there = repository.list_artifacts(posixpath.dirname(op.path) or None)
        return any((each.path, each.file_size) == (op.path, op.file["size"]) for each in there)

    def _newest_in(self, queue: str) -> dict[tuple[str, str], str]:
        """Return {(owner, path): the copy's name} of the newest files that a queue's lines tell of.

        Not by a view of the queue: one would keep a run that nobody ended from being tidied away.
        """
        sizes = self.journal.files(queue)
        if self._newest[0] != (queue, sizes):
            lines = self.journal.entries(queue, sizes, {})
            uploads = (read_as(LogArtifact, entry.line) for entry in lines)
            found = {(op.owner, op.path): _spool_of(op) for op in uploads if op is not None}
            self._newest = (queue, sizes), found
        return self._newest[1]

    def _refuse_taken_place(self, owner: str, path: str) -> None:
        """Raise MLflow's refusal of a file that failed where a file is in its way, or a folder in its place.

        MLflow's servers answer that with a 500, as if they were in trouble.
        """
        repository = gives_way(self.reader.repository(owner))
        refuse_taken_place(path, standing(lambda folder: repository.list_artifacts(folder or None)))

    def copy_missing(self, owner: str, role: str) -> None:
        """Copy the files of a run or model from another workspace, one at a time, where they are not here."""
        with self.peers.asking(role) as other:
            source = gives_way(other.repository(owner))
            found = files_below(lambda folder: source.list_artifacts(folder or None))
            paths = [info.path for info in found]
        for path in paths:
            if self.has(owner, path):
                continue
            with tempfile.TemporaryDirectory() as folder:
                with self.peers.asking(role):
                    file = Path(source.download_artifacts(path, folder))
                self.upload(owner, path, file)

    def upload(self, owner: str, path: str, file: Path) -> None:
        """Upload one file to ``path`` of a run or model, its MLmodel rewritten to this workspace's ids."""
        most = self.destination.limits.artifact_path
        if most is not None and len(path) > most:
            raise WouldRefuse(f"{self.role} takes {most:,} characters in a file's path")
        folder = posixpath.dirname(path) or None
        repository = self.reader.repository(owner)
        text = self._own_mlmodel(owner, path, file) if file.name == "MLmodel" else None
        if text is not None:
            with tempfile.TemporaryDirectory() as temporary:
                rewritten = Path(temporary, "MLmodel")
                rewritten.write_text(text, encoding="utf-8")
                self._note_beside(owner, path, self.destination.upload(repository, rewritten, folder))
                self.emulation.note_model_file(owner, path, text)
        else:
            self._note_beside(owner, path, self.destination.upload(repository, file, folder))

    def _note_beside(self, owner: str, path: str, got: str | None) -> None:
        """Remember that a file had to go beside another content of its name: the summary says so."""
        if got is not None:
            self.state.renamed_files.note(owner, self.role, path, got)

    def _own_mlmodel(self, owner: str, path: str, file: Path) -> str | None:
        """Return an MLmodel as this workspace shall have it; None where it stays byte for byte.

        A user's own file may have the name, and be no model of MLflow's.
        """
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            return None
        if not isinstance(content, dict) or not isinstance(content.get("flavors"), dict):
            return None
        given = dict(content)
        try:
            self._translate_mlmodel(owner, path, content)
        except MlflowException as error:
            if not is_missing(error):
                raise  # else it names a run or model of some other server: it stays as it is
        if content == given:
            return None
        return str(yaml.safe_dump(content, default_flow_style=False, allow_unicode=True, sort_keys=True))

    def _translate_mlmodel(self, owner: str, path: str, content: dict[str, Any]) -> None:
        model_id = content.get("model_id") or (
            owner.partition(":")[2] if owner.startswith("model:") else None
        )
        if content.get("run_id"):
            content["run_id"] = self.ids.run_at(str(content["run_id"]))
        if model_id:
            identity = self.ids.model_at(str(model_id))
            for key in ("model_id", "model_uuid"):  # MLflow 3 gives both the same value
                if content.get(key) == model_id:
                    content[key] = identity.actual
            # Where we keep the model it is one of its run's folders, as in MLflow 2.
            content["artifact_path"] = identity.extra.get("path") or identity.extra["artifacts"]
        elif str(content.get("artifact_path", "")).startswith("dbml:"):
            content["artifact_path"] = posixpath.dirname(path)

    def has(self, owner: str, path: str) -> bool:
        """Tell whether this workspace has a file."""
        folder = posixpath.dirname(path)
        try:
            repository = gives_way(self.reader.repository(owner))
            return any(f.path == path for f in repository.list_artifacts(folder or None))
        except MlflowException as error:
            if isinstance(classify_error(error), Unavailable):
                raise
            return False

    def copy_folder(self, owner: str, folder: str) -> None:
        """Copy one folder of a run's or model's files from where they are."""
        with tempfile.TemporaryDirectory() as temporary:
            with giving_way():
                local = Path(self.queues.files_of(owner).download_artifacts(folder, temporary))
            # An MLmodel goes last: whoever finds it finds a whole model.
            for file in sorted(
                (p for p in local.rglob("*") if p.is_file()), key=lambda p: p.name == "MLmodel"
            ):
                self.upload(owner, posixpath.join(folder, file.relative_to(local).as_posix()), file)
