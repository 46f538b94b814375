"""Pages of an Azure ML workspace's studio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbml_magics.core.azure import names

if TYPE_CHECKING:
    from dbml_magics.core.link import WorkspaceSpec

_STUDIO = "https://ml.azure.com"


def page(spec: WorkspaceSpec, path: str = "") -> str | None:
    """Return a page of an Azure ML workspace's studio, as azureml-core writes it, or None.

    The studio's address is the workspace's own (its discovery tells it), so sovereign clouds have theirs.
    """
    parsed = names.of_uri(spec.uri)
    if parsed is None:
        return None
    tenant = spec.setting("tenant")
    return (
        f"{(spec.setting('studio') or _STUDIO).rstrip('/')}{path}?wsid={parsed[1].studio_id}"
        f"{f'&tid={tenant}' if tenant else ''}"
    )
