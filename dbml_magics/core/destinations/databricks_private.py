"""The private parts of databricks-sdk that the package relies on; only this module touches any.

``tests/core/test_databricks_private.py`` says of each what is relied on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import requests
    from databricks.sdk import WorkspaceClient

__all__ = ["session", "upload_sessions"]


def session(client: WorkspaceClient) -> requests.Session:
    """Return the session that a client sends its calls through."""
    own: requests.Session = client.api_client._api_client._session
    return own


def upload_sessions(client: WorkspaceClient) -> Iterator[requests.Session]:
    """Yield the sessions of a client's uploads in parts, where its release has any."""
    for name in ("_cloud_provider_session", "_authenticated_session"):
        if (made := getattr(client.files, name, None)) is not None:
            yield made()
