"""What is relied on of each private part of databricks-sdk."""

from __future__ import annotations

import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config

from dbml_magics.core.destinations import databricks_private


def test_a_clients_calls_and_uploads_go_through_sessions_that_it_keeps() -> None:
    config = Config(
        host="http://127.0.0.1:9",
        token="t",
        retry_timeout_seconds=1,
        enable_experimental_files_api_client=True,
    )
    client = WorkspaceClient(config=config)
    own = databricks_private.session(client)
    assert isinstance(own, requests.Session)
    assert databricks_private.session(client) is own
    uploads = list(databricks_private.upload_sessions(client))
    assert len(uploads) == 2
    assert all(isinstance(each, requests.Session) and each is not own for each in uploads)
    again = list(databricks_private.upload_sessions(client))
    assert [id(each) for each in again] == [id(each) for each in uploads], "their hooks stay"
