"""What the form for linking offers: subscriptions and workspaces of Azure, profiles of Databricks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dbml_magics.core import session
from dbml_magics.errors import NotPermitted, WorkspaceNotFound, WorkspaceUnreachable
from tests.standins.azure import AzureStandIn


def test_subscriptions_and_their_workspaces_are_listed(
    signed_in: AzureStandIn, names: dict[str, Any]
) -> None:
    current = session.current()
    assert names["subscription"] in current.azure_subscriptions()
    assert (names["resource_group"], names["workspace"]) in current.azure_workspaces(names["subscription"])
    with pytest.raises((WorkspaceNotFound, NotPermitted)):
        current.azure_workspaces("00000000-0000-0000-0000-00000000dead")


def test_what_cannot_be_listed_says_why(signed_in: AzureStandIn, names: dict[str, Any]) -> None:
    current = session.current()
    current.azure_subscriptions()
    signed_in.proxy.refuse()
    with pytest.raises(WorkspaceUnreachable):
        current.azure_workspaces(names["subscription"])


def test_a_list_of_clouds_that_cannot_be_read_is_no_crash(azure: AzureStandIn, tmp_path: Path) -> None:
    asked = (
        "from dbml_magics.core import session\n"
        "from dbml_magics.errors import WorkspaceUnreachable\n"
        "try:\n    session.current().azure_subscriptions()\n"
        "except WorkspaceUnreachable as error:\n    print(error.message)\n"
    )
    with azure.proxy.away():
        done = subprocess.run(  # anew: the Azure libraries read the list while they are imported
            [sys.executable, "-c", asked],
            env=azure.environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert "the list of Azure clouds at https://127.0.0.1" in done.stdout, done.stderr
    assert "not reachable" in done.stdout


def test_profiles_are_read_from_databricks_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "databrickscfg"
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(file))
    assert session.current().databricks_profiles() == []
    file.write_text("[DEFAULT]\nhost = https://a\n[work]\nhost = https://b%20c\n")
    assert session.current().databricks_profiles() == ["DEFAULT", "work"]
    file.write_text("no ini file")
    assert session.current().databricks_profiles() == []
