"""Files at a Databricks workspace: of runs, of logged models and of versions in Unity Catalog."""

from __future__ import annotations

import os
import posixpath
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import requests
from databricks.sdk.config import Config
from mlflow.entities import FileInfo
from mlflow.exceptions import RestException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.databricks_artifact_repo import (
    _SERVICE_AND_METHOD_TO_INFO,
    DatabricksArtifactRepository,
)
from mlflow.store.artifact.unity_catalog_models_artifact_repo import UnityCatalogModelsArtifactRepository
from mlflow.utils.rest_utils import MlflowHostCreds
from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

from dbml_magics.core import hosts
from dbml_magics.core.destinations import answers, databricks_private, databricks_refusals, rest
from dbml_magics.core.destinations.answers import Foreign
from dbml_magics.core.destinations.errors import REFUSALS, Unavailable, classify_error, refusal

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.errors import DatabricksError

    from dbml_magics.core.destinations.answers import Message

TRACKING_ROOT = "dbfs:/databricks/mlflow-tracking/"
_FILES_ROOT = "/WorkspaceInternal/Mlflow/Artifacts"


class SignedIn(Protocol):
    """The workspace that files are of, as its sign-in is needed here."""

    uri: str

    @property
    def config(self) -> Config:
        """Return databricks-sdk's configuration."""

    def creds(self) -> MlflowHostCreds:
        """Return credentials for a call."""

    def signed_in(self) -> MlflowHostCreds:
        """Return credentials with a token that lives. Raises Unavailable, within the call's time."""

    def sign_in_anew(self) -> None:
        """Read host and sign-in again at the next call."""


class RunFiles(ArtifactRepository):  # type: ignore[misc]
    """Files in the tracking root: through the Files API, or by signed URLs where that is refused."""

    def __init__(self, workspace: SignedIn, uri: str) -> None:
        super().__init__(uri)
        parts = uri.removeprefix(TRACKING_ROOT).split("/")
        kind = ["LoggedModels"] if parts[1] == "logged_models" else ["Runs", parts[1]]
        root = posixpath.join(_FILES_ROOT, parts[0], *kind, *parts[2:])
        self._workspace = workspace
        self._root = root
        own = add_databricks_profile_info_to_artifact_uri(uri, workspace.uri)
        self._signed: Callable[[], _SignedFiles] = lambda: _SignedFiles(own, workspace)
        self._refused = False

    @property
    def _direct(self) -> _DirectFiles:
        from databricks.sdk import WorkspaceClient

        self._workspace.signed_in()  # bounded in time, which the SDK's own signing in is not
        client = WorkspaceClient(config=self._workspace.config)
        own = databricks_private.session(client)
        for session in (own, *databricks_private.upload_sessions(client)):
            hosts.harden(session).hooks["response"].append(_check_stored)
        return _DirectFiles(self._root, client)

    def _through(self, method: str, *args: str | None) -> Any:
        from databricks.sdk.errors import (
            BadRequest,
            DatabricksError,
            NotFound,
            PermissionDenied,
            ResourceConflict,
            Unauthenticated,
        )

        if not self._refused:
            direct = self._direct
            try:
                return getattr(direct, method)(*args)
            except NotFound as error:
                raise refusal(404, str(error)) from error
            except (Unauthenticated, PermissionDenied) as error:
                status = 401 if isinstance(error, Unauthenticated) else 403
                if databricks_refusals.is_signed_out(status, str(error)):
                    self._workspace.sign_in_anew()
                    raise databricks_refusals.not_permitted(
                        self._workspace.uri, status, str(error), "PUT", "/fs/files"
                    ) from error
                self._refused = True  # not every workspace lets the Files API at its artifacts
            except (BadRequest, ResourceConflict) as error:
                raise _refusal(error) from error
            except (DatabricksError, TimeoutError) as error:
                raise Unavailable(_words(error)) from error
        try:
            return getattr(self._signed(), method)(*args)
        except Exception as error:
            raise classify_error(error) from error

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Upload one file; a second time is harmless."""
        self._through("log_artifact", local_file, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Upload a folder."""
        for file in sorted(path for path in Path(local_dir).rglob("*") if path.is_file()):
            below = file.parent.relative_to(local_dir).as_posix()
            folder = posixpath.normpath(posixpath.join(artifact_path or "", below))
            self.log_artifact(str(file), None if folder == "." else folder)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """List one folder."""
        return list(self._through("list_artifacts", path))

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._through("_download_file", remote_file_path, local_path)


def _refusal(error: DatabricksError) -> Exception:
    """Return what the Files API refuses; an error without a code of the service's is a gateway's."""
    if error.error_code not in REFUSALS:
        return Unavailable(_words(error))
    refused: Exception = RestException({"error_code": error.error_code, "message": _words(error)})
    return refused


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _check_stored(response: requests.Response, *_: object, **__: object) -> requests.Response:
    """Raise Foreign for an answer that is not the Files API's, nor a storage's: the SDK takes any 2xx.

    It answers an upload by 204 (docs.databricks.com api/workspace/files/upload), and 200 without a body.
    """
    try:
        _check_answer(response)
    except Foreign:
        response.close()
        raise
    return response


def _check_answer(response: requests.Response) -> None:
    request = response.request
    path = urlsplit(request.url or "").path
    answers.check_redirect(response, str(request.method), path)
    if response.status_code >= 300:
        return
    kind = hosts.header(response.headers, "Content-Type").lower()
    whole = request.method == "PUT" and path.startswith("/api/2.0/fs/")
    if whole and (response.status_code not in (200, 204) or response.content not in (b"", b"{}")):
        raise Foreign(f"PUT {path} is answered by {response.status_code} with what is not the Files API's")
    if request.method != "GET" and kind.startswith("text/html"):
        raise Foreign(f"{request.method} {path} is answered by {response.status_code} with a web page")


class _SignedFiles(DatabricksArtifactRepository):  # type: ignore[misc]
    """MLflow's repository over signed URLs; the workspace is asked for them with its own sign-in."""

    def __init__(self, uri: str, workspace: SignedIn) -> None:
        self._workspace = workspace
        super().__init__(uri)

    def _call_endpoint(
        self,
        service: type,
        api: type[Message],
        json_body: str | None = None,
        path_params: dict[str, str] | None = None,
        retry_timeout_seconds: int | None = None,  # noqa: ARG002 - MLflow's signature
    ) -> Message:
        endpoint, method = _SERVICE_AND_METHOD_TO_INFO[service][api]
        if path_params:
            endpoint = endpoint.format(**path_params)
        return rest.call(self._workspace.creds(), endpoint, method, json_body, api.Response())

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Upload one file and look whether it is there: MLflow takes any status below 400 for done."""
        try:
            super().log_artifact(local_file, artifact_path)
        except IndexError as error:
            raise Foreign("the links to write files are answered without a link") from error
        path = posixpath.join(artifact_path or "", posixpath.basename(local_file))
        size = os.path.getsize(local_file)
        there = {f.path: f.file_size for f in self.list_artifacts(artifact_path or None)}
        if there.get(path) != size:
            raise Foreign(f"{path} was taken by its signed link, and is not there")


class _DirectFiles:
    """A folder of the Files API, by the workspace's own client: MLflow's repository signs in by default."""

    def __init__(self, root: str, client: WorkspaceClient) -> None:
        self._root, self._api = root, client.files

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Upload one file; one of that name is replaced."""
        name = posixpath.basename(local_file)
        with open(local_file, "rb") as data:
            self._api.upload(posixpath.join(self._root, artifact_path or "", name), data, overwrite=True)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """List one folder; a file has nothing under it."""
        from databricks.sdk.errors import NotFound

        folder = posixpath.join(self._root, path) if path else self._root
        try:
            self._api.get_directory_metadata(folder)
        except NotFound:
            return []
        found = [
            FileInfo(posixpath.relpath(entry.path, self._root), entry.is_directory, entry.file_size)
            for entry in self._api.list_directory_contents(folder)
        ]
        return sorted(found, key=lambda info: info.path)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        response = self._api.download(posixpath.join(self._root, remote_file_path))
        with closing(response.contents) as content, open(local_path, "wb") as out:
            shutil.copyfileobj(content, out, 10 * 1024 * 1024)


class CatalogFiles(UnityCatalogModelsArtifactRepository):  # type: ignore[misc]
    """A version's files in Unity Catalog."""

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """List one folder; MLflow's repository of signed URLs takes no None for the uppermost."""
        return list(super().list_artifacts(path or ""))

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._get_artifact_repo()._download_file(remote_file_path, local_path)
