"""A workspace as delivery and the stores see it: an MLflow server, a database, or a folder here."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.utils.rest_utils import MlflowHostCreds
from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

from dbml_magics.common.config import credentials
from dbml_magics.core import hosts
from dbml_magics.core.destinations import local_tables, places, rest
from dbml_magics.core.destinations.errors import WouldRefuse
from dbml_magics.core.destinations.limits import BY_KIND, Limits
from dbml_magics.core.destinations.mlflow import MlflowCalls
from dbml_magics.core.destinations.naming import (
    azureml_experiment_name,
    azureml_model_name,
    model_name_behind,
)
from dbml_magics.core.destinations.pages import MlflowPages, Pages
from dbml_magics.core.destinations.protocol import Capabilities
from dbml_magics.core.destinations.rates import limiter_at
from dbml_magics.core.link import WorkspaceSpec
from dbml_magics.core.workspace_uri import masked, same_place

if TYPE_CHECKING:
    from mlflow.store.model_registry.abstract_store import AbstractStore as RegistryStore
    from mlflow.store.tracking.abstract_store import AbstractStore as TrackingStore

    from dbml_magics.core.model.mlmodel import MLmodel

_BY_REST = ("http://", "https://", "databricks", "azureml://")


class Workspace(MlflowCalls):
    """One workspace of a link; stores are built at first use, once a process."""

    def __init__(self, spec: WorkspaceSpec) -> None:
        self.spec = spec
        self.role = spec.role
        self.kind = spec.kind
        self.uri = spec.uri
        self.limits: Limits = BY_KIND[spec.kind]
        self.limiter = limiter_at(same_place(spec.uri), self.limits.rates)
        self._lock = threading.RLock()
        self._tracking: TrackingStore | None = None
        self._registry: RegistryStore | None = None

    @property
    def capabilities(self) -> Capabilities:
        """Return the workspace's capabilities."""
        return Capabilities(
            answers_by_rest=self.uri.startswith(_BY_REST),
            copies_registered_files=self.kind == "databricks",
            names_experiments_itself=self.kind == "azureml" or (self.role == "azureml" and self.spec.local),
        )

    # --- stores

    @property
    def tracking(self) -> TrackingStore:
        """Return the workspace's own tracking store."""
        if self._tracking is None:
            with self._lock:
                if self._tracking is None:
                    self._tracking = self._build_tracking()
        return self._tracking

    @property
    def registry(self) -> RegistryStore:
        """Return the workspace's own registry store."""
        if self._registry is None:
            with self._lock:
                if self._registry is None:
                    self._registry = self._build_registry()
        return self._registry

    def _build_tracking(self) -> TrackingStore:
        # The registry's builder, not _get_store: MLflow's building lock is not re-entrant, and we may
        # be inside it.
        from mlflow.tracking._tracking_service.utils import _tracking_store_registry

        with local_tables.making():
            return _tracking_store_registry.get_store_builder(self.uri)(store_uri=self.uri, artifact_uri=None)

    def _build_registry(self) -> RegistryStore:
        from mlflow.tracking._model_registry.utils import _get_store_registry

        self.tracking  # noqa: B018 - in a database it makes the tables, which the registry shares
        return _get_store_registry().get_store_builder(self.uri)(store_uri=self.uri)

    def artifacts(self, uri: str) -> ArtifactRepository:
        """Return the repository behind one of this workspace's own artifact URIs.

        Raises WouldRefuse for a place that the workspace has no business to name.
        """
        places.check(self.spec, uri)
        try:
            return get_artifact_repository(
                add_databricks_profile_info_to_artifact_uri(uri, self.uri),
                tracking_uri=self.uri,
                registry_uri=self.uri,
            )
        except MlflowException as error:  # to MLflow it is an internal error, which would be tried for ever
            raise WouldRefuse(f"{self.role}: {error.message}") from error

    def upload(self, repository: ArtifactRepository, file: Path, folder: str | None) -> str | None:
        """Upload one file under its own name into ``folder``; returns its path where it got another."""
        repository.log_artifact(str(file), folder)
        if isinstance(repository, LocalArtifactRepository):
            # The spool's copy is 0600; what a workspace keeps has the mode that MLflow itself would give.
            os.chmod(Path(repository.artifact_dir, folder or "", file.name), 0o666 & ~_UMASK)
        return None

    def reconfigure(self, spec: WorkspaceSpec) -> None:
        """Reach the same workspace in another way from now on, where the link says so."""
        if spec != self.spec:
            self.spec = spec
            self._tracking, self._registry = None, None

    def notes(self) -> list[str]:
        """Return what the user should know about this workspace when it is linked, a line each."""
        return []

    def forget_connections(self) -> None:
        """Drop the stores, in a forked child: their connections are the parent's."""
        self._lock = threading.RLock()
        self._tracking = None
        self._registry = None
        self.limiter.after_fork()

    def close_idle(self) -> None:
        """Close the databases' connections that nobody uses now; the next call opens them again."""
        for store in (self._tracking, self._registry):
            pool = getattr(store, "engine", None)  # MLflow keeps one for each database for good
            if pool is not None:
                pool.dispose()

    # --- names and places

    def experiment_name(self, name: str) -> str:
        """Return what this workspace calls the experiment that the user calls ``name``."""
        return azureml_experiment_name(name) if self.capabilities.names_experiments_itself else name

    def model_name(self, name: str) -> str:
        """Return what this workspace's pages call the registered model that the link calls ``name``."""
        return azureml_model_name(name) if self.kind == "azureml" else name

    def model_name_behind(self, own_name: str) -> str:
        """Return what the link calls the registered model that this workspace's pages call ``own_name``."""
        return model_name_behind(own_name) if self.kind == "azureml" else own_name

    def check_version(self, name: str, tags: Mapping[str, str], model: Callable[[], MLmodel | None]) -> None:
        """Raise WouldRefuse for a version that the registry would not take, before anything is made.

        ``model`` returns the content of its file MLmodel, or None where it cannot be read now.
        """

    def check_model_tags(self, name: str, tags: Mapping[str, str]) -> None:
        """Raise WouldRefuse for tags of a registered model or version that the registry would not take."""

    @property
    def place(self) -> str:
        """Return where the workspace is, for people."""
        return self.spec.place

    @property
    def pages(self) -> Pages | None:
        """Return the addresses of the workspace's pages, or None where there are none."""
        return MlflowPages(self.uri) if self.uri.startswith(("http://", "https://")) else None

    def ping(self) -> None:
        """Ask the least that shows whether the workspace answers. Raises Unavailable."""
        self.tracking.search_experiments(max_results=1)

    def identify(self) -> None:
        """Ask whether this is an MLflow workspace at all.

        Raises Unavailable, or Foreign: something else answers.
        """
        self.ping()


class HttpWorkspace(Workspace):
    """An MLflow server at an http(s) URI, with the role's own credentials."""

    def identify(self) -> None:
        """Ask for an experiment in a way that nothing but MLflow answers."""
        rest.identify(self.creds())

    def creds(self, host: str | None = None) -> MlflowHostCreds:
        """Return the role's own credentials, for the workspace's host. Raises WouldRefuse for another one."""
        if host is not None and hosts.origin(host) != hosts.origin(self.uri):
            raise WouldRefuse(
                f"{self.role}'s credentials go to {masked(self.uri)} alone, not to {masked(host)}"
            )
        own = credentials(self.role)
        creds = MlflowHostCreds(
            host=host or self.uri,
            username=own.username,
            password=own.password,
            token=own.token,
            ignore_tls_verification=os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower()
            in ("1", "true"),
            server_cert_path=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"),
            client_cert_path=os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"),
        )
        return rest.paced(creds, self.limiter)

    def _build_tracking(self) -> TrackingStore:
        return rest.TrackingStore(self.creds)

    def _build_registry(self) -> RegistryStore:
        return rest.RegistryStore(self.creds)

    def artifacts(self, uri: str) -> ArtifactRepository:
        """Return the repository; proxied artifacts go with the role's own credentials."""
        if uri.partition(":")[0].lower() in ("mlflow-artifacts", "http", "https"):
            path = places.own_path(self.spec, uri)
            return rest.ProxiedArtifacts(f"mlflow-artifacts:/{path}", self.uri, self.creds)
        return super().artifacts(uri)


class LocalWorkspace(Workspace):
    """A workspace on this machine: SQLite and a folder of artifacts, no server."""

    def _build_tracking(self) -> TrackingStore:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        database = Path(self.uri.removeprefix("sqlite:///"))
        root = database.parent
        root.mkdir(parents=True, exist_ok=True)
        with local_tables.making(root / ".making"):
            return local_tables.begun(
                database, lambda: SqlAlchemyStore(self.uri, (root / "artifacts").as_uri())
            )


def _read_umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


_UMASK = _read_umask()  # at import: setting it, even for a moment, is the whole process's business
