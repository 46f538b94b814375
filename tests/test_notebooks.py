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

from dbml_magics.commands import COMMANDS

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
    return _executed("quickstart", tmp_path_factory.mktemp("quickstart"))


def _executed(name: str, place: Path) -> Any:
    shutil.copy(NOTEBOOKS / f"{name}.ipynb", place)
    notebook = nbformat.read(place / f"{name}.ipynb", as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBML_HOME", str(place / "home"))
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(place)}}
        ).execute()
    return notebook


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the tour, executed in a fresh folder by a fresh kernel."""
    return _executed("tour", tmp_path_factory.mktemp("tour"))


@pytest.fixture(scope="module")
def serve_and_score(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the notebook about endpoints and scoring as it runs now."""
    pytest.importorskip("pyspark", reason="pyspark is not installed (the extra 'spark')")
    return _executed("serve-and-score", tmp_path_factory.mktemp("serve-and-score"))


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


@pytest.mark.full
def test_a_model_is_served_and_asked_in_three_lines(serve_and_score: Any) -> None:
    assert "Deployed wine/1 to wine on local" in _text(_cell(serve_and_score, "%dbml deploy"))
    assert "True" in _text(_cell(serve_and_score, "(answer.predictions =="))
    assert "Undeployed wine" in _text(_cell(serve_and_score, "%dbml undeploy"))


@pytest.mark.full
def test_frames_files_streams_and_sql_are_scored_alike(serve_and_score: Any) -> None:
    frame = _text(_cell(serve_and_score, "%dbml score wine/1 --input $bottles"))
    assert "Scored 5 rows by wine/1" in frame
    assert "this process, without Spark" in frame
    written = _text(_cell(serve_and_score, "%dbml score wine/1 --input harvest.parquet"))
    assert "Spark was started on this machine" in written
    assert re.search(r"Scored 9\d rows by wine/1", written)
    assert re.search(r"True\S*, 9\d\)", _text(_cell(serve_and_score, "import pandas as pd")))
    assert "178" in _text(_cell(serve_and_score, "stream ="))
    assert re.search(r"\| +2\| +48\|", _text(_cell(serve_and_score, "grower =")))


WITHOUT_OUTPUTS = {"azure.ipynb"}  # they would show somebody's workspaces; tests/databricks runs it


def test_a_notebook_that_is_committed_without_outputs_says_so() -> None:
    for name in WITHOUT_OUTPUTS:
        cells = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]
        assert "committed without outputs" in " ".join("".join(cells[0]["source"]).split())
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.parametrize(
    "path",
    sorted(path for path in NOTEBOOKS.glob("*.ipynb") if path.name not in WITHOUT_OUTPUTS),
    ids=lambda path: path.stem,
)
def test_a_committed_notebook_has_its_outputs_and_no_path_of_the_machine_it_was_run_on(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code), f"{path.name} was committed without being run"
    assert any(cell["outputs"] for cell in code)
    outputs = json.dumps([cell["outputs"] for cell in code])
    assert not re.search(r"/(root|home|tmp|work|Users/(?!you@example))/?\w", outputs)
    assert '"output_type": "error"' not in outputs


@pytest.mark.full
def test_the_tour_shows_every_magic_and_what_comes_of_it(tour: Any) -> None:
    code = "\n".join(cell.source for cell in tour.cells if cell.cell_type == "code")
    assert [name for name in COMMANDS if f"%dbml {name}" not in code] == [], "the tour lacks a magic"
    assert "Doctor: " in _text(_cell(tour, "%dbml doctor"))
    assert re.search(r"databricks +1 .* azureml:doubler/1\n", _text(_cell(tour, "%dbml models doubler")))
    assert "Scored 3 rows by doubler/1" in _text(_cell(tour, "%dbml score doubler/1"))
    assert "%dbml register last wine" in _text(_cell(tour, "%dbml panel"))
    assert "≠ rate" in _text(_cell(tour, "from dbml_magics.results.runs_table"))
    assert "Deployed doubler/1" in _text(_cell(tour, "%dbml deploy"))
    assert "42.0" in _text(_cell(tour, "result = %dbml invoke"))
    assert "match: 3 runs compared" in _text(_cell(tour, "%dbml sync --verify"))
    assert "4 things deleted" in _text(_cell(tour, "%dbml cleanup model doubler --confirm"))


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_s_pictures_are_there(path: Path) -> None:
    for picture in re.findall(r"\]\((images/[^)]+)\)", path.read_text(encoding="utf-8")):
        assert (NOTEBOOKS / picture).is_file(), picture
