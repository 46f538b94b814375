"""The committed notebooks run from top to bottom, and are committed with the outputs that they give."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def _text(cell: Any) -> str:
    """Return a cell's outputs as the terminal shows them."""
    shown = []
    for output in cell.get("outputs", []):
        shown.append(
            output.text if output.output_type == "stream" else output.get("data", {}).get("text/plain", "")
        )
    return "\n".join(shown)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the quickstart, executed in a fresh folder by a fresh kernel."""
    place = tmp_path_factory.mktemp("quickstart")
    shutil.copy(NOTEBOOKS / "quickstart.ipynb", place)
    notebook = nbformat.read(place / "quickstart.ipynb", as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBML_HOME", str(place / "home"))
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(place)}}
        ).execute()
    return notebook


def _cell(notebook: Any, beginning: str) -> Any:
    return next(c for c in notebook.cells if c.cell_type == "code" and c.source.startswith(beginning))


def test_the_quickstart_links_trains_and_registers_in_both_workspaces(quickstart: Any) -> None:
    assert "Linked: tracking to both" in _text(_cell(quickstart, "%dbml link"))
    summary = _text(_cell(quickstart, "%%track boosting"))
    assert "Run boosting  FINISHED" in summary
    assert summary.count("✓ delivered") == 2
    assert "wine version 1 (databricks), wine version 1 (azureml)" in summary
    assert "confusion.png" in summary


def test_the_quickstart_finds_run_curve_and_figure_in_each_workspace_with_plain_clients(
    quickstart: Any,
) -> None:
    found = _text(_cell(quickstart, "from mlflow import MlflowClient"))
    assert len(re.findall(r"boosting +FINISHED +loss [\d.]+ in 60 points, \['confusion.png'\]", found)) == 2
    assert "azureml: experiment wine" in found


def test_the_quickstart_survives_an_outage_and_delivers_afterwards(quickstart: Any) -> None:
    during = _text(_cell(quickstart, "%%track during-the-outage"))
    assert "FINISHED" in during
    assert "databricks ✓ delivered" in during
    assert "azureml …" in during
    assert "every workspace is up to date" in _text(_cell(quickstart, "%dbml sync"))


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_committed_notebook_has_its_outputs_and_no_path_of_the_machine_it_was_run_on(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code), f"{path.name} was committed without being run"
    assert any(cell["outputs"] for cell in code)
    outputs = json.dumps([cell["outputs"] for cell in code])
    assert not re.search(r"/(root|home|tmp|work|Users/(?!you@example))/?\w", outputs)
    assert '"output_type": "error"' not in outputs
