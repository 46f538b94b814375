"""``notebooks/azure.ipynb``, run from top to bottom against what stands for the two services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.databricks.conftest import ADA
from tests.standins.azure import AzureStandIn
from tests.standins.databricks import Databricks
from tests.test_notebooks import NOTEBOOKS, _cell, _text


def executed(both: dict[str, Any], place: Path) -> Any:
    """Return the notebook, its names filled in, executed by a fresh kernel in ``place``."""
    notebook: Any = nbformat.read(NOTEBOOKS / "azure.ipynb", as_version=4)
    names = _cell(notebook, "subscription =")
    assert names.source.count('""') == 3, "a reader fills in three names"
    names.source = "\n".join(f"{name} = {value!r}" for name, value in both["azure"].items())
    where = {"metadata": {"path": str(place)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    return notebook


@pytest.mark.full
def test_the_walk_through_does_what_it_says_at_both_services(
    both: dict[str, Any], adb: Databricks, azure: AzureStandIn, home: Path
) -> None:
    model, there = "main.default.wine", "main--default--wine"
    notebook = executed(both, Path.cwd())
    linked = _text(_cell(notebook, "link ="))
    assert "Linked: tracking to both" in linked
    assert "signed in to with" in linked
    assert azure.workspace in _text(_cell(notebook, "ws ="))
    assert f"/Users/{ADA}/wine-adb-aml" in _text(_cell(notebook, "%dbml experiment wine-adb-aml"))
    for run in ("first", "second"):
        summary = _text(_cell(notebook, f"%%track {run}"))
        assert f"Run {run}  FINISHED" in summary
        assert f"{adb.uri}/?o=" in summary, "the run's page in the Databricks workspace"
        assert f"{azure.uri}/studio/runs/" in summary, "the run's page in the studio"
    assert f"{model} version 1 (databricks)" in _text(_cell(notebook, "%%track second"))
    versions = _text(_cell(notebook, "%dbml models"))
    assert there in versions
    assert "champion" in versions
    assert "array([" in _text(_cell(notebook, "champion ="))
    assert "databricks and azureml match: 2 runs" in _text(_cell(notebook, "verified ="))
    assert f"Deployed {model}/1 to wine-{azure.workspace} on online" in _text(_cell(notebook, "%dbml deploy"))
    assert "True" in _text(_cell(notebook, "bottles ="))
    assert f"Undeployed wine-{azure.workspace} from online" in _text(_cell(notebook, "%dbml undeploy"))
    assert not azure.endpoints()["online"], "nothing is left that costs"
    assert "Run only-here  FINISHED" in _text(_cell(notebook, "%%track only-here"))
    assert max(adb.written.values()) == 1, "a point was written twice"
