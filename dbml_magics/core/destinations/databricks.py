"""A Databricks workspace: signed in by databricks-sdk, each call made once, its files and models in place.

MLflow's own stores ask ``/.well-known/databricks-config`` before each call, send creations again when an
answer was lost, and reach files and Unity Catalog by the default sign-in or the global tracking URI,
whatever the profile (mlflow 3.15); here one sign-in a workspace serves them all.
"""

from __future__ import annotations

import posixpath
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import requests
from databricks.sdk.config import Config
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, ErrorCode
from mlflow.store._unity_catalog.registry.rest_store import UcModelRegistryStore
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.databricks_models_artifact_repo import DatabricksModelsArtifactRepository
from mlflow.store.entities.paged_list import PagedList
from mlflow.utils.databricks_utils import get_databricks_host_creds
from mlflow.utils.rest_utils import MlflowHostCreds

from dbml_magics.common import environment
from dbml_magics.common.hints import Remedy, say
from dbml_magics.common.redaction import remember_secrets
from dbml_magics.core import hosts
from dbml_magics.core.destinations import answers, databricks_refusals, rest
from dbml_magics.core.destinations.aliases import AliasesAsTags
from dbml_magics.core.destinations.base import Workspace
from dbml_magics.core.destinations.databricks_artifacts import TRACKING_ROOT, CatalogFiles, RunFiles
from dbml_magics.core.destinations.errors import Unavailable, WouldRefuse, is_missing
from dbml_magics.core.destinations.naming import in_catalog, workspace_path
from dbml_magics.core.destinations.pages import DatabricksPages
from dbml_magics.core.destinations.protocol import Capabilities
from dbml_magics.core.destinations.rates import limiter_at
from dbml_magics.core.workspace_uri import same_place

if TYPE_CHECKING:
    from mlflow.entities import ExperimentTag, LoggedModel
    from mlflow.entities.model_registry import RegisteredModel

    from dbml_magics.core.link import WorkspaceSpec
    from dbml_magics.core.model.mlmodel import MLmodel

# databricks-sdk is imported above, at once: the seconds that it takes would count as a call's time.

_ME = "/api/2.0/preview/scim/v2/Me"
_MKDIRS = "/api/2.0/workspace/mkdirs"
_STATUS = "/api/2.0/workspace/get-status"
_TAKEN = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS"})
# learn.microsoft.com azure/databricks/database-objects/tags#constraint
_NOT_IN_KEYS = re.compile(r"[.,\-=/:]")
_CATALOG_KEY = 256
_CATALOG_VALUE = 1000


class DatabricksWorkspace(Workspace):
    """A Databricks workspace by notebook, environment or profile."""

    def __init__(self, spec: WorkspaceSpec) -> None:
        super().__init__(spec)
        self._config: Config | None = None
        self._me: str | None = None
        self._turn: _Turn | None = None
        self._signing = threading.Lock()
        # Address and id; they outlive the sign-in, since pages are named in outages too.
        self._home: tuple[str, str | None] | None = None

    @property
    def capabilities(self) -> Capabilities:
        """Return the workspace's capabilities."""
        return replace(super().capabilities, checks_file_names=False)

    def forget_connections(self) -> None:
        """Drop the sign-in too: its threads are the parent's."""
        super().forget_connections()
        self._config, self._turn, self._signing = None, None, threading.Lock()

    def reconfigure(self, spec: WorkspaceSpec) -> None:
        """Sign in anew: whoever links again may have a new token or profile."""
        super().reconfigure(spec)
        self.sign_in_anew()

    def sign_in_anew(self) -> None:
        """Read host and sign-in again at the next call: what was read is over, or was taken back."""
        self._config, self._me = None, None

    @property
    def config(self) -> Config:
        """Return databricks-sdk's configuration: host and a sign-in that renews itself.

        Raises Unavailable or ValueError where no sign-in is found.
        """
        found = self._config
        if found is None:
            profile = self.uri.removeprefix("databricks").removeprefix("://")
            with self._signing:  # not _lock: the SDK may ask the network meanwhile
                found = self._config
                if found is None:
                    hosts.exempt_loopback()
                    found = self._config = Config(
                        **({"profile": profile} if profile else {}),
                        retry_timeout_seconds=1,
                        http_timeout_seconds=30,
                        enable_experimental_files_api_client=True,
                    )
                    self._home = found.host.rstrip("/"), getattr(found, "workspace_id", None)
        return found

    def creds(self) -> MlflowHostCreds:
        """Return credentials for a call, judged and paced as this workspace's are. Raises Unavailable."""
        if ":" in self.uri.removeprefix("databricks://"):  # databricks://scope:prefix, from dbutils.secrets
            creds = get_databricks_host_creds(self.uri)
        else:
            creds = self.signed_in()
        creds.judge = self._judge
        # Two profiles, or one and the environment, may name one workspace.
        self.limiter = limiter_at(same_place(creds.host), self.limits.rates)
        return rest.paced(creds, self.limiter)

    def signed_in(self) -> MlflowHostCreds:
        """Return credentials with a token that lives. Raises Unavailable, within the call's time."""
        known = self._config
        if known is not None and known.auth_type == "pat":
            remember_secrets(known.token)
            return MlflowHostCreds(known.host, token=known.token)
        # The SDK asks for tokens without any time limit, and holds a lock meanwhile.
        turn = self._turn
        if turn is None or turn.done:
            turn = self._turn = _Turn(self._authorization)
        config, kind, token = turn.result(rest.timeout_left())
        if kind == "Bearer":
            return MlflowHostCreds(config.host, token=token)
        return get_databricks_host_creds(self.uri)

    def _authorization(self) -> tuple[Config, str, str]:
        try:
            config = self.config
            kind, _, token = config.authenticate().get("Authorization", "").partition(" ")
            remember_secrets(token)
        except (MlflowException, requests.RequestException):
            raise
        except Exception as error:  # the SDK's: no credentials, or what the token endpoint says
            self.sign_in_anew()
            said = " ".join(str(error).split())[:160]
            refused = (
                re.search(r"invalid_client|invalid_grant|unauthorized|credential", said, re.I) is not None
            )
            raise Unavailable(
                f"no token to be had ({said})",
                sent=False,
                denied=refused,
                remedies=databricks_refusals.signing_in(self.uri) if refused else (),
            ) from error
        return config, kind, token

    def _judge(self, response: requests.Response, method: str, endpoint: str) -> Exception | None:
        judged = databricks_refusals.judge(self.uri, response, method, endpoint)
        if isinstance(judged, Unavailable) and databricks_refusals.is_signed_out(
            response.status_code, judged.reason
        ):
            self.sign_in_anew()  # a token that was taken back looks fresh to the SDK until its hour is over
        return judged

    def _build_tracking(self) -> _Tracking:
        return _Tracking(self.creds)

    def _build_registry(self) -> _Registries:
        return _Registries(self)

    # --- names

    @property
    def known_user(self) -> str | None:
        """Return the user's name where it was asked for already."""
        return self._me

    def me(self) -> str:
        """Return the user's name, as the service says. Raises Unavailable."""
        if self._me is None:
            self._me = str(rest.own_call(self.creds(), _ME, "GET", "userName")["userName"])
        return self._me

    def experiment_name(self, name: str) -> str:
        """Return the workspace path of an experiment: a plain name stands in the user's own folder."""
        return workspace_path(name) if name.startswith("/") else f"/Users/{self.me()}/{name}"

    @property
    def pages(self) -> DatabricksPages | None:
        """Return the addresses of the workspace's pages; None where it was never signed in to."""
        return None if self._home is None else DatabricksPages(*self._home)

    def notes(self) -> list[str]:
        """Return that the local disk, with the journal on it, goes when the compute does."""
        there = environment.databricks()
        if there is None or there.keeps_its_disk:
            return []
        return [
            f"{there.title}: its disk goes when it ends, with what is undelivered; "
            f"{say(Remedy('sync'))} waits until nothing is"
        ]

    # --- files

    def artifacts(self, uri: str) -> ArtifactRepository:
        """Return the repository of a run's, a logged model's or a registered version's files."""
        if uri.startswith(TRACKING_ROOT):
            return RunFiles(self, uri)
        if uri.startswith("models:/"):
            name = uri.removeprefix("models:/").rpartition("/")[0]
            if in_catalog(name):
                return CatalogFiles(uri, self.catalog_uri)
            return DatabricksModelsArtifactRepository(uri, registry_uri=self.uri)
        return super().artifacts(uri)

    # --- what Unity Catalog refuses

    def check_version(self, name: str, tags: Mapping[str, str], model: Callable[[], MLmodel | None]) -> None:
        """Raise WouldRefuse for a version without a signature, or with a tag, that Unity Catalog refuses."""
        self.check_model_tags(name, tags)
        if not in_catalog(name):
            return
        mlmodel = model()
        signature = mlmodel.get("signature") or {} if mlmodel is not None else None
        if signature is None or (signature.get("inputs") and signature.get("outputs")):
            return
        lacks = "has no signature" if not signature else "has a signature of its inputs alone"
        raise WouldRefuse(
            f"{name} is in Unity Catalog, which wants a signature of inputs and outputs; this model {lacks}",
            (
                (
                    "mlflow.<flavor>.log_model(model, name='model', input_example=X[:5])",
                    "logs it with one (or signature=infer_signature(X, model.predict(X))), or",
                ),
                (
                    Remedy("register", "last", name.rpartition(".")[2]),
                    "the workspace's own registry, which wants none",
                ),
            ),
        )

    def check_model_tags(self, name: str, tags: Mapping[str, str]) -> None:
        """Raise WouldRefuse for a tag that Unity Catalog refuses (its tags are the securable's own)."""
        for key, value in tags.items() if in_catalog(name) else ():
            if len(key) > _CATALOG_KEY or _NOT_IN_KEYS.search(key) or key != key.strip():
                legal = re.sub(r"[.,\-=/:\s]+", "_", key.strip())[:_CATALOG_KEY]
                raise WouldRefuse(
                    f"{key!r} is no key for a tag in Unity Catalog: keys have none of . , - = / : there, no "
                    f"blank at an end, and at most {_CATALOG_KEY} characters",
                    (
                        (
                            Remedy("register", "last", name, tag=[f"{legal}=…"]),
                            "a key that both registries take",
                        ),
                    ),
                )
            if len(value) > _CATALOG_VALUE:
                raise WouldRefuse(
                    f"the value of tag {key!r} has {len(value):,} characters; Unity Catalog takes "
                    f"{_CATALOG_VALUE:,}",
                    (("mlflow.log_text(text, 'notes.txt')", "keeps a long text with the run"),),
                )

    @property
    def catalog_uri(self) -> str:
        """Return the registry URI of Unity Catalog behind this workspace."""
        return "databricks-uc" + self.uri.removeprefix("databricks")


class _Turn:
    """One attempt to sign in, in a thread of its own, which several callers may wait for."""

    def __init__(self, sign_in: Callable[[], tuple[Config, str, str]]) -> None:
        self._found: tuple[Config, str, str] | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(sign_in,), daemon=True)
        self._thread.start()

    def _run(self, sign_in: Callable[[], tuple[Config, str, str]]) -> None:
        try:
            self._found = sign_in()
        except Exception as error:
            self._error = error

    @property
    def done(self) -> bool:
        """Tell whether it came to an end."""
        return not self._thread.is_alive()

    def result(self, seconds: float) -> tuple[Config, str, str]:
        """Return (configuration, kind of token, token), waiting so long at most. Raises Unavailable."""
        self._thread.join(seconds)
        if self._error is not None:
            raise self._error
        if self._found is None:
            raise Unavailable("no token to be had (the sign-in does not answer)", sent=False)
        return self._found


class _Tracking(rest.DatabricksStore):
    """The tracking store; an experiment's folders are made with it."""

    def create_experiment(
        self, name: str, artifact_location: str | None = None, tags: list[ExperimentTag] | None = None
    ) -> str:
        """Make an experiment; the service wants its folder to be there, and MLflow does not make it.

        A notebook's own experiment is there with the notebook, under the notebook's id.
        """
        try:
            return str(super().create_experiment(name, artifact_location, tags))
        except MlflowException as error:
            if error.error_code in _TAKEN and (notebook := self._notebook(name)) is not None:
                return notebook
            if not is_missing(error):
                raise
        folder = {"path": posixpath.dirname(name)}
        rest.own_call(self.get_host_creds(), _MKDIRS, "POST", None, json=folder)
        return str(super().create_experiment(name, artifact_location, tags))

    def _notebook(self, path: str) -> str | None:
        response = rest.request(self.get_host_creds(), _STATUS, "GET", params={"path": path})
        entry = answers.read(response, "GET", _STATUS) if response.status_code == 200 else {}
        return str(entry["object_id"]) if entry.get("object_type") == "NOTEBOOK" else None


class _WorkspaceRegistry(AliasesAsTags, rest.RegistryStore):
    """The workspace's own model registry, which has no aliases: they are tags of ours."""

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        """Return the version itself: its files are reached by signed URLs, never by their place."""
        return f"models:/{name}/{version}"


class _Catalog(rest.RegistryCalls, UcModelRegistryStore):  # type: ignore[misc]
    """Models in Unity Catalog, registered from this workspace's runs."""

    def __init__(self, workspace: DatabricksWorkspace) -> None:
        super().__init__(workspace.catalog_uri, workspace.uri)
        self.workspace = workspace
        self.get_host_creds = workspace.creds
        self.get_tracking_host_creds = workspace.creds

    def create_registered_model(self, *args: Any, **kwargs: Any) -> RegisteredModel:
        """Make a model; a refusal that MLflow adds a hint to keeps its code, which MLflow loses."""
        try:
            return super().create_registered_model(*args, **kwargs)
        except RestException:
            raise
        except MlflowException as error:
            if isinstance(refused := error.__context__, RestException):
                raise MlflowException(error.message, ErrorCode.Value(refused.error_code)) from error
            raise

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        """Return the version itself: its files are reached with its own temporary credentials."""
        return f"models:/{name}/{version}"

    def _get_logged_model_from_model_id(self, model_id: str | None) -> LoggedModel | None:
        return None if model_id is None else self.workspace.tracking.get_logged_model(model_id)

    @contextmanager
    def _local_model_dir(self, source: str, local_model_path: str | None) -> Iterator[str]:
        if local_model_path is not None:
            yield local_model_path
            return
        with tempfile.TemporaryDirectory() as folder:
            yield str(self.workspace.artifacts(source).download_artifacts("", folder))

    def _validate_model_signature(self, local_model_path: str) -> None:
        try:
            super()._validate_model_signature(local_model_path)
        except MlflowException as error:  # MLflow calls it an internal error, which would be tried for ever
            raise MlflowException(error.message, INVALID_PARAMETER_VALUE) from error

    def search_model_versions(
        self,
        filter_string: str | None = None,
        max_results: int | None = None,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList:
        """Search a model's versions; the service's list lacks tags and aliases, so each is asked for."""
        page = super().search_model_versions(filter_string, max_results, order_by, page_token)
        return PagedList([self.get_model_version(v.name, v.version) for v in page], page.token)


class _Registries:
    """The workspace's registry and Unity Catalog as one: a three-level name is the catalog's."""

    def __init__(self, workspace: DatabricksWorkspace) -> None:
        self.own = _WorkspaceRegistry(workspace.creds)
        self.catalog = _Catalog(workspace)

    def _of(self, name: str) -> rest.RegistryStore | UcModelRegistryStore:
        return self.catalog if in_catalog(name) else self.own

    def search_model_versions(
        self, filter_string: str | None = None, *args: object, **kwargs: object
    ) -> PagedList:
        """Search versions where the model is."""
        text = (filter_string or "").strip()
        name = text.partition("=")[2].strip().strip("'\"") if text.startswith("name") else ""
        return self._of(name).search_model_versions(filter_string, *args, **kwargs)

    def search_registered_models(
        self,
        filter_string: str | None = None,
        max_results: int | None = None,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList:
        """Search the workspace's registry, then the catalog (which takes neither filter nor order)."""
        if page_token is None or not page_token.startswith("uc:"):
            try:
                page = self.own.search_registered_models(filter_string, max_results, order_by, page_token)
            except MlflowException as error:
                if isinstance(error, Unavailable) or error.error_code != "FEATURE_DISABLED":
                    raise
                page = PagedList([], None)
            return PagedList(list(page), page.token or (None if filter_string or order_by else "uc:"))
        try:
            page = self.catalog.search_registered_models(
                None, max_results, None, page_token.removeprefix("uc:") or None
            )
        except Unavailable:
            raise
        except MlflowException:  # no Unity Catalog in this workspace
            return PagedList([], None)
        return PagedList(list(page), f"uc:{page.token}" if page.token else None)

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        getattr(self.own, method)  # what neither has is an error here

        def call(name: str, *args: Any, **kwargs: Any) -> Any:
            return getattr(self._of(name), method)(name, *args, **kwargs)

        return call
