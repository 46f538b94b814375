"""The adapter of each kind of workspace."""

from __future__ import annotations

from dbml_magics.core.destinations.base import HttpWorkspace, LocalWorkspace, Workspace
from dbml_magics.core.destinations.imports import let_threads_import
from dbml_magics.core.link import WorkspaceSpec


def connect(spec: WorkspaceSpec) -> Workspace:
    """Return the adapter for one workspace of a link; opens no connection."""
    let_threads_import()
    if spec.local:
        return LocalWorkspace(spec)
    if spec.kind == "databricks":
        from dbml_magics.core.destinations.databricks import DatabricksWorkspace  # which is slow to import

        return DatabricksWorkspace(spec)
    if spec.uri.startswith(("http://", "https://")):
        return HttpWorkspace(spec)
    if spec.kind == "azureml":
        from dbml_magics.core.destinations.azureml import AzuremlWorkspace

        return AzuremlWorkspace(spec)
    return Workspace(spec)
