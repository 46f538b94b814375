"""Azure ML's artifacts: named by its history service, kept as blobs behind links that run out.

It asks azureml-mlflow's clients with the store's own service context, and does not build on azureml-mlflow's
repository: its constructor takes the context from the global tracking URI, it matches by bare prefix, returns
run-absolute paths, and sends a request again whose answer was lost.
"""

from __future__ import annotations

import base64
import filecmp
import os
import posixpath
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError, HttpResponseError
from azure.storage.blob import BlobBlock, BlobClient
from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from dbml_magics.common.log_records import logger
from dbml_magics.core import hosts
from dbml_magics.core.azure import diagnosis, permissions
from dbml_magics.core.azure.azureml_mlflow_private import (
    ArtifactPath,
    ArtifactPathList,
    LocalArtifactClient,
    RunArtifactsClient,
    artifact_uri_decomp,
    container_operations,
    operations,
)
from dbml_magics.core.azure.names import WorkspaceId
from dbml_magics.core.destinations.answers import Foreign
from dbml_magics.core.destinations.errors import Unavailable, classify_error, is_missing, refusal
from dbml_magics.core.destinations.rest import retry_after, timeout_left

if TYPE_CHECKING:
    from dbml_magics.core.azure.azureml_mlflow_private import (
        ArtifactsOperations,
        RunArtifactsOperations,
        ServiceContext,
    )

_log = logger(__name__)
T = TypeVar("T")

_BLOCK = 8 * 1024 * 1024
_SINGLE = 16 * 1024 * 1024  # a file of this size is one request; a larger one goes in blocks
_RENEWALS = 5  # of a link for one request: one that has run out before its request came
_BEGINNINGS = 2  # of a large file whose blocks were lost on the way
_RUN_ORIGIN = "ExperimentRun"


class AzuremlArtifacts(ArtifactRepository):  # type: ignore[misc]
    """Files of a run, or of an uploaded model, at one Azure ML workspace."""

    def __init__(self, artifact_uri: str, context: ServiceContext, workspace: WorkspaceId) -> None:
        super().__init__(artifact_uri)
        self._context = context
        self._workspace = workspace
        parts = artifact_uri_decomp(artifact_uri)
        path = str(parts.get("_artifact_path") or parts.get("artifact_path") or "").strip("/")
        self._root = path
        run = parts.get("runid")
        if run:
            self.artifacts = RunArtifactsClient(context, parts["experiment"], run, path)
            self._origin, self._container = _RUN_ORIGIN, f"dcid.{run}"
            self._names = {"experiment_name": parts["experiment"], "run_id": run}
        else:
            self.artifacts = LocalArtifactClient(context, parts["origin"], parts["container"], path)
            self._origin, self._container = parts["origin"], parts["container"]
            self._names = {"origin": self._origin, "container": self._container}

    # --- asking the services, once

    def _scope(self) -> dict[str, object]:
        context = self._context
        return {
            "subscription_id": context.subscription_id,
            "resource_group_name": context.resource_group_name,
            "workspace_name": context.workspace_name,
            **self._once(str(context.host_url)),
            **self._names,
        }

    @staticmethod
    def _once(url: str) -> dict[str, object]:
        """Return azure-core's options for one request to ``url``: no second try, no redirect."""
        seconds = timeout_left()
        return {
            "retry_total": 0,
            "connection_timeout": min(5.0, seconds),
            "read_timeout": seconds,
            "permit_redirects": False,
            **({"proxies": proxies} if (proxies := hosts.past_proxies(url)) else {}),
        }

    @property
    def _service(self) -> RunArtifactsOperations | ArtifactsOperations:
        return operations(self.artifacts)

    def _ask(self, question: Callable[[], T], *, writing: bool) -> T:
        try:
            return question()
        except HttpResponseError as error:
            try:
                raise self._meant(error, writing) from error
            finally:
                _close(error.response)
        except AzureError as error:
            classified = classify_error(error.__cause__ if isinstance(error.__cause__, Exception) else error)
            if isinstance(classified, Unavailable):
                classified.by_way(hosts.through(str(self._context.host_url)))
            raise classified from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # JSON of another shape
            raise Foreign("a request for files is answered by what is not Azure ML's") from error

    def _meant(self, error: HttpResponseError, writing: bool) -> Exception:
        response = error.response
        status = error.status_code or 0
        try:
            body = response.text() if response is not None else ""
        except Exception:  # a stream that was read already
            body = ""
        said = diagnosis.Said.by(status, body)
        if not said.code and response is not None:
            said = diagnosis.Said(
                status, str(response.headers.get("x-ms-error-code", "")), str(error.message)
            )
        url = urlsplit(str(getattr(getattr(response, "request", None), "url", "")))
        if ".blob." in url.netloc + url.path:
            account = (url.path if ".blob." in url.path else f"/{url.netloc}").lstrip("/").partition(".")[0]
            away = diagnosis.storage(said, account, writing)
        else:
            action = f"{permissions.ML}/workspaces/artifacts/{'write' if writing else 'read'}"
            away = diagnosis.trouble(said, self._workspace, action)
            if away is not None and status == 401:
                forget = getattr(self._context.auth, "forget_token", None)
                if forget is not None:
                    forget()
        if away is not None:
            return away
        if status < 400 and status != 0:  # a redirect, or a web page: azure-core takes its own statuses alone
            return Foreign(
                f"a request for files is answered by {status} with what is neither Azure ML's nor a storage's"
                f"{hosts.through(url.geturl())}"
            )
        if status in (408, 429) or status >= 500 or status == 0:
            return Unavailable(
                f"answers {status}: {said.message[:200]}",
                sent=status != 429,
                retry_after=retry_after(response) if response is not None else None,
            )
        if status in (401, 403):
            return Unavailable(
                f"not permitted ({status}: {said.code} {said.message[:200]})", sent=False, denied=True
            )
        return refusal(status, said.message or said.code)

    # --- writing

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Upload one file; a second content under one path goes beside the first."""
        self.put(local_file, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Upload a folder."""
        for file in sorted(Path(local_dir).rglob("*")):
            if file.is_file():
                below = file.relative_to(local_dir).parent.as_posix()
                folder = posixpath.join(artifact_path or "", "" if below == "." else below)
                self.put(str(file), folder or None)

    def put(self, local_file: str, folder: str | None) -> str:
        """Upload one file under its own name; returns the path (within the repository) that it got."""
        name = os.path.basename(local_file)
        path = posixpath.join(folder or "", name)
        for tried in _names(path):
            link = self._name(tried)
            if link is None:
                there = self._state_of(tried, local_file)
                if there == "same":
                    return tried
                if there == "other":
                    continue  # write-once: what is there stays, and this goes beside it
                link = self._renew(tried)
            self._write(tried, link, local_file)
            return tried
        raise AssertionError("names do not end")

    def _name(self, path: str) -> str | None:
        """Name an artifact and return the link to write it, or None where the name is taken."""
        full = self._full(path)
        body = ArtifactPathList(paths=[ArtifactPath(path=full)])

        def named() -> tuple[str | None, str]:
            answer = self._service.batch_create_empty_artifacts(body=body, **self._scope())
            if answer.errors:
                return None, str(next(iter(answer.errors.values())).error.message)
            return answer.artifact_content_information[full].content_uri, ""

        link, refused = self._ask(named, writing=True)
        if refused:
            if "already exists" in refused or "Conflict" in refused:
                return None
            raise refusal(400, refused)
        return self._checked(link)

    @staticmethod
    def _checked(link: object) -> str:
        """Check that a link is a signed URL of a blob. Raises Foreign."""
        if hosts.origin(str(link)) is None or not str(link).startswith("https://"):
            raise Foreign("a request for files is answered without a link to the storage")
        return str(link)

    def _by_container(self) -> tuple[ArtifactsOperations, dict[str, object]]:
        """Return the artifact service, which knows a run's files by their container, and where they are."""
        scope = {k: v for k, v in self._scope().items() if k not in ("experiment_name", "run_id")}
        scope |= {"origin": self._origin, "container": self._container}
        return container_operations(self._context), scope

    def _renew(self, path: str) -> str:
        """Return a new signed URL for an upload that never completed, or whose URL expired.

        Nothing is taken back for it where the service gives links anew, as azureml-mlflow's ``get_sas`` and
        azureml-core's ``get_write_sas`` ask it to.
        """
        link = self._given_anew(path)
        return self._checked(link) if link else self._rename(path)

    def _given_anew(self, path: str) -> str | None:
        """Return another link to a name; None where the service has no such call or name."""
        service, scope = self._by_container()
        try:
            answer = self._ask(lambda: service.get_sas(path=self._full(path), **scope), writing=True)
        except MlflowException as error:
            if isinstance(error, Unavailable):
                raise
            return None
        return str(answer.content_uri) if answer and answer.content_uri else None

    def _rename(self, path: str) -> str:
        """Delete the name of an upload that never completed, or whose URL expired; return a new URL.

        Blocks that were put and not committed stay with the blob (Put Block: for a week).
        """
        service, scope = self._by_container()
        try:
            self._ask(lambda: service.delete_meta_data(path=self._full(path), **scope), writing=True)
        except MlflowException as error:
            if not is_missing(error):
                raise
        link = self._name(path)
        if link is None:
            raise Unavailable(f"another process uploads {path}")
        return link

    def _state_of(self, path: str, local_file: str) -> str:
        """Compare the file at ``path`` with a local one: "same", "other" or "nothing"."""
        # Asked for the sake of writing: whoever may not, needs the role that may, not one to read.
        size = self.size(path, writing=True)
        if size is None:
            return "nothing"
        if size != os.path.getsize(local_file):
            return "other"
        with tempfile.TemporaryDirectory() as temporary:
            there = os.path.join(temporary, "there")
            self._download_file(path, there, writing=True)
            return "same" if filecmp.cmp(there, local_file, shallow=False) else "other"

    def _write(self, path: str, link: str, local_file: str) -> None:
        size = os.path.getsize(local_file)
        with open(local_file, "rb") as data:
            if size <= _SINGLE:
                self._single(path, link, data, size)
                return
            for again in range(_BEGINNINGS):
                data.seek(0)
                try:
                    self._blocks(path, link, data)
                    return
                except MlflowException as error:
                    if "block list" not in str(error):
                        raise
                    if again == _BEGINNINGS - 1:  # its links run out faster than it goes up
                        raise Unavailable(
                            f"the links to write {path} run out before it is there, and what was sent is lost"
                        ) from error
                    link = self._renew(path)  # blocks that an earlier link put are gone: all of them again

    def _blob(self, link: str) -> BlobClient:
        return BlobClient.from_blob_url(link, max_single_put_size=_SINGLE, **self._once(link))

    def _with_links(self, path: str, link: str) -> Callable[[Callable[[BlobClient], object]], None]:
        """Return a function that runs a step of an upload and renews the signed URL when it expires."""
        current = [link]

        def take(step: Callable[[BlobClient], object]) -> None:
            for attempt in range(_RENEWALS):
                try:
                    self._ask(lambda: step(self._blob(current[0])), writing=True)
                    return
                except Unavailable as error:
                    if not _has_run_out(error) or attempt == _RENEWALS - 1:
                        raise
                    current[0] = self._renew(path)

        return take

    def _single(self, path: str, link: str, data: BinaryIO, size: int) -> None:
        def upload(blob: BlobClient) -> None:
            data.seek(0)
            blob.upload_blob(data.read() if size else b"", length=size, overwrite=False)

        self._with_links(path, link)(upload)

    def _blocks(self, path: str, link: str, data: BinaryIO) -> None:
        """Upload a large file in blocks, one in memory at a time; a link that runs out is renewed."""
        listed: list[BlobBlock] = []
        with_link = self._with_links(path, link)
        for number, block in enumerate(_pieces(data)):
            name = base64.b64encode(f"{number:08d}".encode()).decode()
            with_link(lambda blob, n=name, b=block: blob.stage_block(n, b, length=len(b)))  # type: ignore[misc]
            listed.append(BlobBlock(name))
        with_link(lambda blob: blob.commit_block_list(listed))

    # --- measuring (the doctor's probes)

    def blocks_outlive_their_name(self, path: str, stage: Callable[[BlobClient], list[BlobBlock]]) -> bool:
        """Upload blocks, delete the name, commit them by a new URL; tells whether the file is complete."""
        link = self._name(path)
        if link is None:
            raise refusal(409, f"{path} is there already")
        staged: list[BlobBlock] = []
        self._ask(lambda: staged.extend(stage(self._blob(link))), writing=True)
        renewed = self._rename(path)
        try:
            self._ask(lambda: self._blob(renewed).commit_block_list(staged), writing=True)
        except MlflowException as error:
            if isinstance(error, Unavailable):
                raise
            return False
        return bool(self.size(path))

    def links_are_given_anew(self, path: str) -> bool:
        """Name a file and request another URL to write it; tells whether the service gives one."""
        if self._name(path) is None:
            raise refusal(409, f"{path} is there already")
        return self._given_anew(path) is not None

    def account_address(self, path: str) -> str:
        """Return the address of the storage account behind the repository, without a signature."""
        link = self._name(path)
        split = urlsplit(link if link is not None else self._link(path))
        account = f"/{split.path.lstrip('/').partition('/')[0]}" if ".blob." in split.path else ""
        return f"{split.scheme}://{split.netloc}{account}/"

    # --- reading

    def _full(self, path: str | None) -> str:
        return posixpath.join(self._root, path or "").strip("/")

    def _all(self) -> Iterator[str]:
        """Yield the paths of all files below the repository's place, relative to it."""
        lead = f"{self._root}/" if self._root else ""
        pages = self._ask(lambda: list(self._service.list_in_container(**self._scope())), writing=False)
        for entry in pages:
            if entry.path.startswith(lead):
                yield entry.path[len(lead) :]

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """List one folder by whole names; sizes are requested when they are read."""
        lead = f"{path.strip('/')}/" if path else ""
        found: dict[str, FileInfo] = {}
        for file in self._all():
            if file.startswith(lead):
                head, below, _ = file[len(lead) :].partition("/")
                name = lead + head
                found.setdefault(name, FileInfo(name, True, None) if below else _File(name, self.size))
        return sorted(found.values(), key=lambda info: info.path)

    def _link(self, path: str, writing: bool = False) -> str:
        answer = self._ask(
            lambda: self._service.get_content_information(path=self._full(path), **self._scope()),
            writing=writing,
        )
        return self._checked(getattr(answer, "content_uri", None))

    def size(self, path: str, *, writing: bool = False) -> int | None:
        """Return a file's size in bytes, or None where there is no such file."""
        try:
            link = self._link(path, writing)
            return int(self._ask(lambda: self._blob(link).get_blob_properties().size, writing=writing))
        except MlflowException as error:
            if isinstance(error, Unavailable):
                raise
            return None

    def download_artifacts(self, artifact_path: str | None, dst_path: str | None = None) -> str:
        """Download a file or a folder with one listing; returns its local path."""
        target = Path(dst_path or tempfile.mkdtemp())
        wanted = (artifact_path or "").strip("/")
        files = [f for f in self._all() if not wanted or f == wanted or f.startswith(f"{wanted}/")]
        if not files:
            raise MlflowException(f"no artifact {wanted or '/'} there", RESOURCE_DOES_NOT_EXIST)
        for file in files:
            local = target / file
            local.parent.mkdir(parents=True, exist_ok=True)
            self._download_file(file, str(local))
        return str(target / wanted) if wanted else str(target)

    def _download_file(
        self, remote_file_path: str, local_path: str, *, writing: bool = False, **_: object
    ) -> None:
        """Download one file in pieces; a partial file is an error."""
        link = self._link(remote_file_path, writing)

        def download() -> None:
            with self._blob(link) as client, open(local_path, "wb") as out:
                blob = client.download_blob(max_concurrency=1)
                if not blob.properties.blob_type:  # the storage tells it of every blob; a web page does not
                    raise Foreign(f"{remote_file_path} is answered by what is not the storage's")
                blob.readinto(out)

        self._ask(download, writing=writing)


class _File(FileInfo):  # type: ignore[misc]
    """A file whose size is requested when it is read: Azure ML's listings have none."""

    def __init__(self, path: str, ask: Callable[[str], int | None]) -> None:
        super().__init__(path, False, None)
        self._place, self._ask = path, ask
        self._known: int | None = None

    @property
    def file_size(self) -> int | None:
        """Return the size in bytes, or None while the storage does not answer."""
        if self._known is None:
            try:
                self._known = self._ask(self._place)
            except MlflowException:
                return None
        return self._known


def _names(path: str) -> Iterator[str]:
    """Yield a path and the ones beside it: ``a/b.txt``, ``a/b~2.txt``, …"""
    yield path
    stem, dot = posixpath.splitext(path)
    number = 2
    while True:
        yield f"{stem}~{number}{dot}"
        number += 1


def _close(response: object) -> None:
    """Release the connection of a refused download, whose body stays unread."""
    inner = getattr(response, "internal_response", None)
    if inner is not None:
        inner.close()


def _pieces(data: BinaryIO) -> Iterator[bytes]:
    while block := data.read(_BLOCK):
        yield block


def _has_run_out(error: Unavailable) -> bool:
    return "AuthenticationFailed" in error.reason
