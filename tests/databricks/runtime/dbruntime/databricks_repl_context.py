"""The notebook as the runtime knows it."""

from __future__ import annotations

from types import SimpleNamespace

from dbruntime import configured


def get_context() -> SimpleNamespace:
    """Return the context of the notebook's interpreter."""
    here = configured()
    return SimpleNamespace(
        isInNotebook=True,
        isInJob=here.get("job", False),
        isInCluster=True,
        notebookId=here["notebook_id"],
        notebookPath=here["notebook_path"],
        workspaceUrl=here["host"].partition("://")[2],
        workspaceId="7405605512345678",
        clusterId="0101-120000-abcdefgh",
    )
