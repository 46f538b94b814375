"""The parts of azureml-mlflow that the package relies on, all of them private; only this module touches any.

``tests/core/test_azureml_private.py`` says of each what is relied on, so that a release that changes one is
noticed before users notice it. Imports azureml-mlflow: seconds.
"""

from __future__ import annotations

from azureml.mlflow._client.artifact.local_artifact_client import LocalArtifactClient
from azureml.mlflow._client.artifact.run_artifact_client import RunArtifactsClient
from azureml.mlflow._common._cloud import cloud as _clouds
from azureml.mlflow._common._cloud.cloud import Cloud as SdkCloud
from azureml.mlflow._internal.service_context_loader import _AzureMLServiceContextLoader
from azureml.mlflow._internal.utils import ServiceContext
from azureml.mlflow._restclient.artifact._azure_machine_learning_workspaces import (
    AzureMachineLearningWorkspaces,
)
from azureml.mlflow._restclient.artifact.models import ArtifactPath, ArtifactPathList
from azureml.mlflow._restclient.artifact.operations import ArtifactsOperations
from azureml.mlflow._restclient.run_artifact.operations import RunArtifactsOperations
from azureml.mlflow._store.artifact.utils import artifact_uri_decomp
from azureml.mlflow._store.model_registry.model_registry import AzureMLflowModelRegistry
from azureml.mlflow._store.tracking.store import AzureMLRestStore

__all__ = [
    "ArtifactPath",
    "ArtifactPathList",
    "ArtifactsOperations",
    "AzureMLRestStore",
    "AzureMLflowModelRegistry",
    "LocalArtifactClient",
    "RunArtifactsClient",
    "RunArtifactsOperations",
    "SdkCloud",
    "ServiceContext",
    "add_clouds",
    "artifact_uri_decomp",
    "container_operations",
    "known_clouds",
    "operations",
    "register_context",
]


def operations(
    client: RunArtifactsClient | LocalArtifactClient,
) -> RunArtifactsOperations | ArtifactsOperations:
    """Return the operations of the service that a client of artifacts asks: a run's, or a container's."""
    service = client._client
    return service.run_artifacts if isinstance(client, RunArtifactsClient) else service.artifacts


def container_operations(context: ServiceContext) -> ArtifactsOperations:
    """Return the operations of the artifact service, which knows a run's files by their container too."""
    return AzureMachineLearningWorkspaces(
        credential=context.auth,
        base_url=context.host_url,
        credential_scopes=[context.cloud._get_default_scope()],
    ).artifacts


def register_context(uri: str, context: ServiceContext) -> None:
    """Have azureml-mlflow take this context for a tracking URI instead of a sign-in of its own."""
    _AzureMLServiceContextLoader.add_service_context(uri, context)


def known_clouds() -> dict[str, SdkCloud]:
    """Return the clouds that azureml-mlflow knows by name: those it read at its import, and public ones."""
    known: dict[str, SdkCloud] = dict(_clouds.KNOWN_CLOUDS)
    return known | {each.name: each for each in _clouds.HARD_CODED_CLOUD_LIST if each.name not in known}


def add_clouds(metadata: object) -> dict[str, SdkCloud]:
    """Make the clouds of Resource Manager's metadata known to azureml-mlflow, and return them by name.

    Raises KeyError, TypeError and the like for what is no such metadata.
    """
    found: dict[str, SdkCloud] = _clouds._convert_arm_to_cli(metadata)
    _clouds.KNOWN_CLOUDS.update(found)
    return found
