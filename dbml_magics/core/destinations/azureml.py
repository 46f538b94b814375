"""An Azure ML workspace: stores with the link's own sign-in, pages, substitutes for missing calls.

azureml-mlflow's stores are subclassed, since its plugin checks for them; each call is made once
(:mod:`.rest`), and what a refusal means is said by :mod:`dbml_magics.core.azure.diagnosis`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.utils.rest_utils import MlflowHostCreds

from dbml_magics.common.hints import Remedy
from dbml_magics.core.azure import diagnosis, finding, names, studio
from dbml_magics.core.destinations import rest
from dbml_magics.core.destinations.base import Workspace
from dbml_magics.core.destinations.errors import Unavailable, is_missing
from dbml_magics.core.destinations.protocol import Capabilities
from dbml_magics.core.link import WorkspaceSpec
from dbml_magics.errors import BadUri

if TYPE_CHECKING:
    import requests
    from azureml.core import Workspace as AzureMLWorkspaceObject

    from dbml_magics.core.azure.azureml_mlflow_private import ServiceContext
    from dbml_magics.core.azure.identity import SignIn
    from dbml_magics.core.destinations.azureml_stores import AzuremlRegistry, AzuremlTracking

Judge = Callable[["SignIn", names.WorkspaceId, "requests.Response", str, str], Exception | None]

_HISTORY_TRIES = 3


class AzuremlWorkspace(Workspace):
    """An Azure ML workspace at an ``azureml://`` URI."""

    def __init__(self, spec: WorkspaceSpec) -> None:
        super().__init__(spec)
        parsed = names.of_uri(spec.uri)
        if parsed is None:
            raise BadUri(
                f"{spec.uri!r} names no workspace.", remedies=[Remedy("link", azureml="azureml://…")]
            )
        self.host, self.id = parsed
        self._context: ServiceContext | None = None
        self._object: AzureMLWorkspaceObject | None = None
        self._history_failed = 0

    @property
    def sign_in(self) -> SignIn:
        """Return the credential of all clients of this workspace."""
        return finding.sign_in_for(self.spec)

    @property
    def context(self) -> ServiceContext:
        """Return azureml-mlflow's service context, with the link's own sign-in."""
        if self._context is None:
            from dbml_magics.core.azure.azureml_mlflow_private import ServiceContext

            sign_in = self.sign_in
            self._context = ServiceContext(
                host_url=f"https://{self.host}",
                subscription_id=self.id.subscription,
                workspace_name=self.id.name,
                resource_group_name=self.id.group,
                auth=sign_in,
                cloud=sign_in.cloud.sdk,
            )
        return self._context

    def reconfigure(self, spec: WorkspaceSpec) -> None:
        """Use the link's new sign-in from now on."""
        if spec != self.spec:
            self._context = None
        super().reconfigure(spec)

    def creds(self, service: str = "mlflow/v2.0", judge: Judge = diagnosis.judge) -> MlflowHostCreds:
        """Return the sign-in's credentials for one of the workspace's services. Raises Unavailable."""
        sign_in = self.sign_in
        token = sign_in.get_token(sign_in.cloud.scope).token
        creds = rest.JudgedCreds(
            functools.partial(judge, sign_in, self.id),
            host=f"https://{self.host}/{service}{self.id.path}",
            token=token,
        )
        return rest.paced(creds, self.limiter)

    @property
    def capabilities(self) -> Capabilities:
        """Return the workspace's capabilities."""
        return replace(super().capabilities, checks_file_names=False, takes_run_ids=True)

    def make_run_as(self, run_id: str, experiment_id: str, start: int, tags: dict[str, str]) -> Run | None:
        """Have the run history service make a run under that id, as azureml-core does."""
        from dbml_magics.core.destinations.azureml_history import History

        creds = functools.partial(self.creds, "history/v1.0", diagnosis.kept_out)
        try:
            made = History(creds, self.tracking).make_run(run_id, experiment_id, start, tags)
        except Unavailable as error:
            self._history_failed += error.reason.startswith("answers 5")
            if self._history_failed < _HISTORY_TRIES:
                raise
            made = self._run(run_id)  # a service that fails so shall keep no run from being made
        self._history_failed = 0
        return made

    def _run(self, run_id: str) -> Run | None:
        try:
            found: Run = self.tracking.get_run(run_id)
        except MlflowException as error:
            if isinstance(error, Unavailable) or not is_missing(error):
                raise
            return None
        return found

    def _build_tracking(self) -> AzuremlTracking:
        from dbml_magics.core.destinations.azureml_stores import AzuremlTracking

        return AzuremlTracking(self.context, self.creds)

    def _build_registry(self) -> AzuremlRegistry:
        from dbml_magics.core.destinations.azureml_stores import AzuremlRegistry

        return AzuremlRegistry(self.context, self.creds)

    def artifacts(self, uri: str) -> ArtifactRepository:
        """Return the repository behind one of this workspace's artifact URIs."""
        from dbml_magics.core.destinations.azureml_artifacts import AzuremlArtifacts

        if uri.startswith("azureml:"):
            return AzuremlArtifacts(uri, self.context, self.id)
        return super().artifacts(uri)

    def upload(self, repository: ArtifactRepository, file: Path, folder: str | None) -> str | None:
        """Upload one file; returns its path where it had to go beside another content of that name."""
        put = getattr(repository, "put", None)
        if put is None:
            return super().upload(repository, file, folder)
        asked = f"{folder}/{file.name}" if folder else file.name
        got = str(put(str(file), folder))
        return got if got != asked else None

    @property
    def pages(self) -> studio.StudioPages:
        """Return the addresses of the workspace's pages in its own studio."""
        return studio.StudioPages(self.spec)

    def notes(self) -> list[str]:
        """Return how it is signed in to, and whether the portal links it too."""
        found = [f"azureml is signed in to with {self.sign_in.description}"]
        if self._tracks_by_portal():
            found.append(
                "Databricks tracks to this workspace by itself, by a link made in the Azure portal: "
                "tracked to both from here, every run would be there twice. %dbml link --track databricks "
                "--databricks databricks leaves it to the portal, whose link %dbml unlink cannot undo"
            )
        return found

    def _tracks_by_portal(self) -> bool:
        from dbml_magics.core.azure.arm import Arm

        if os.environ.get("MLFLOW_TRACKING_URI", "").startswith("adbazureml:"):
            return True
        return Arm(self.sign_in, self.id.subscription).linked_in_portal(self.id) is not None

    def azure_workspace(self) -> AzureMLWorkspaceObject:
        """Return azureml-core's ``Workspace``, made once. Raises the error behind Azure's refusal."""
        if self._object is None:
            from dbml_magics.core.azure.core_auth import workspace_object

            self._object = workspace_object(self.id, self.sign_in)
        return self._object
