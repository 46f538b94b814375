"""Tell a workspace's adapter by its kind, without importing the adapter: that takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeGuard

if TYPE_CHECKING:
    from dbml_magics.core.destinations.azureml import AzuremlWorkspace
    from dbml_magics.core.destinations.base import HttpWorkspace, Workspace
    from dbml_magics.core.destinations.databricks import DatabricksWorkspace

    RemoteWorkspace: TypeAlias = HttpWorkspace | AzuremlWorkspace | DatabricksWorkspace


def is_azureml(workspace: Workspace) -> TypeGuard[AzuremlWorkspace]:
    """Tell whether a workspace is an Azure ML one."""
    return workspace.kind == "azureml"


def is_databricks(workspace: Workspace) -> TypeGuard[DatabricksWorkspace]:
    """Tell whether a workspace is a Databricks one."""
    return workspace.kind == "databricks"


def is_remote(workspace: Workspace) -> TypeGuard[RemoteWorkspace]:
    """Tell whether a workspace is a service that answers by REST."""
    return workspace.kind != "mlflow" or workspace.uri.startswith(("http://", "https://"))
