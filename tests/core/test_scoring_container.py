"""The packages that a managed endpoint's container needs: one table for the check, the copy and the log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from dbml_magics.core.endpoints import checks, scoring_container
from dbml_magics.core.endpoints.environment_files import add_pip_packages, pip_requirements, read_conda

NAMES = [need.package for need in scoring_container.NEEDS]
ALL = "\n".join(f"  - {name}" for name in NAMES)


def model(folder: Path, conda: str | None = None, requirements: str | None = None) -> Path:
    """Write a model's environment files."""
    for name, text in (("conda.yaml", conda), ("requirements.txt", requirements)):
        if text is not None:
            (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("conda", "requirements", "missing"),
    [
        ("dependencies:\n- python=3.11\n- pip:\n  - mlflow==3.6.0\n", None, NAMES),
        (f"dependencies:\n- pip:\n{ALL}\n", None, []),
        ("dependencies: [numpy]\n", "\n".join(NAMES), NAMES),  # the image is built by conda.yaml
        (None, "\n".join(NAMES), []),
        ("dependencies:\n- pip: ['-r requirements.txt']\n", "\n".join(NAMES), []),
        ("dependencies:\n- pip: [azureml-defaults==1.62.0, azureml_contrib_services>=1]\n", None, NAMES[2:]),
        (f"dependencies: [{', '.join(NAMES)}]\n", None, []),
    ],
)
def test_what_the_container_lacks_is_read_from_the_file_that_the_image_is_built_by(
    tmp_path: Path, conda: str | None, requirements: str | None, missing: list[str]
) -> None:
    assert scoring_container.missing_packages(model(tmp_path, conda, requirements)) == missing


@pytest.mark.parametrize(
    ("line", "doubtful"),
    [
        ("mlflow==3.6.0", False),
        ("mlflow==3.7.0", True),
        ("mlflow==3.15.0", True),
        ("mlflow-skinny==4.0", True),
        ("mlflow", True),
        ("mlflow>=2.9", True),
        ("mlflow<3", False),
        ("mlflow>=3,<3.7", False),
        ("mlflow==3.*", False),
        ("mlflow-export-import==9", False),
    ],
)
def test_an_mlflow_of_which_broken_containers_are_reported_is_found(
    tmp_path: Path, line: str, doubtful: bool
) -> None:
    files = model(tmp_path, f"dependencies:\n- pip: ['{line}']\n")
    assert (scoring_container.doubtful_mlflow(files) == line) is doubtful


@pytest.mark.parametrize(
    "conda",
    [
        "name: env\nchannels: [conda-forge]\ndependencies: [python=3.11, pip<=24, {pip: [mlflow==3.6]}]\n",
        "channels: [conda-forge]\ndependencies: [python=3.11, scikit-learn=1.5]\n",
        "dependencies:\n- pip:\n",
        "name: env\n",
        None,
    ],
)
def test_packages_are_added_to_a_copy_and_every_other_entry_stays(tmp_path: Path, conda: str | None) -> None:
    files = model(tmp_path, conda, "mlflow==3.6\n# a comment\n")
    linked = tmp_path / "another name"
    os.link(files / "requirements.txt", linked)
    before = yaml.safe_load(conda) if conda else {}
    add_pip_packages(files, NAMES)
    assert scoring_container.missing_packages(files) == []
    assert linked.read_text() == "mlflow==3.6\n# a comment\n", "whoever shares the file keeps his own"
    assert pip_requirements(files) == ["mlflow==3.6", *NAMES]
    if conda is not None:
        after = yaml.safe_load((files / "conda.yaml").read_text())
        assert {key: after[key] for key in before if key != "dependencies"} == {
            key: before[key] for key in before if key != "dependencies"
        }
        kept = [each for each in before.get("dependencies") or [] if isinstance(each, str)]
        assert [each for each in after["dependencies"] if each in kept] == kept
        assert any(str(each).startswith("pip") for each in after["dependencies"]), "conda warns otherwise"
        assert read_conda(files)[1] is None


@pytest.mark.parametrize(
    ("line", "packages"),
    [
        ("ModuleNotFoundError: No module named 'azureml'", NAMES[1:]),
        ("ModuleNotFoundError: No module named 'azureml.ai'", ["azureml-ai-monitoring"]),
        ("ModuleNotFoundError: No module named 'azureml.contrib'", ["azureml-contrib-services"]),
        ("/bin/python: No module named azureml_inference_server_http", ["azureml-inference-server-http"]),
    ],
)
def test_an_import_error_of_the_services_own_script_names_the_package_and_the_way_on(
    line: str, packages: list[str]
) -> None:
    cause = str(checks.likely_cause(["Traceback (most recent call last):", line]))
    assert ", ".join(packages) in cause
    assert all(name not in cause for name in NAMES if name not in packages)
    assert "--add-packages adds it" in cause
    other = str(checks.likely_cause(["ModuleNotFoundError: No module named 'azureml_data'"]))
    assert "log the model with it among pip_requirements (azureml_data)" in other


def test_what_the_container_alone_needs_is_not_asked_of_this_machine(tmp_path: Path) -> None:
    found = checks.here(model(tmp_path, None, "\n".join(f"{name}>=0.1" for name in NAMES)))
    assert [each.fine for each in found] == [True]
