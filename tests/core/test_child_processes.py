"""What processes that the product starts are given: no secret, and no module of the folder they start in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

import dbml_magics as dbml
from dbml_magics.core import processes
from dbml_magics.core.doctor import imports
from tests.core.linking import child, finish

pytestmark = pytest.mark.filterwarnings("ignore:.*Add type hints to the `predict` method:UserWarning")

SECRETS = [
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZUREML_RUN_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "CUDA_API_KEY",
    "DATABRICKS_CLIENT_SECRET",
    "DATABRICKS_TOKEN",
    "DBML_AZUREML_PASSWORD",
    "DBML_DATABRICKS_TOKEN",
    "GITHUB_TOKEN",
    "HF_TOKEN",
    "HTTPS_PROXY",
    "KERAS_AUTH",
    "LC_SECRET",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "OPENAI_API_KEY",
    "PGPASSWORD",
    "SNOWFLAKE_PASSWORD",
    "SPARK_AUTH_SECRET",
    "TF_TOKEN_app_terraform_io",
    "WANDB_API_KEY",
    "my_own_word",
]
MARK = "5ecr3t-of-a-test"
GIVEN = {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "", "LC_TIME": "C", "NO_PROXY": "127.0.0.1"}
PLANTED = [
    "dbml_magics",
    "mlflow",
    "json",
    "uvicorn",
    "pandas",
    "pyspark",
    "socket",
    "azure",
    "IPython",
    "runpy",
]


@pytest.fixture
def planted(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder, the current one, with modules in it that tell when they are run."""
    folder = tmp_path / "repository"
    folder.mkdir()
    marker = tmp_path / "told"
    for name in PLANTED:
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write({name + chr(10)!r})\n")
    (folder / "of_the_user.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", "src"]))
    for name in SECRETS:
        monkeypatch.setenv(name, f"http://me:{MARK}@127.0.0.1:9" if name == "HTTPS_PROXY" else MARK)
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    yield folder
    assert not marker.exists(), f"planted modules were run: {marker.read_text().split()}"


def environment_of(pid: int) -> dict[str, str]:
    path = Path(f"/proc/{pid}/environ")
    if not path.exists():
        pytest.skip("this system does not tell a process's environment")
    pairs = path.read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def assert_bare(found: dict[str, str], whose: str) -> None:
    leaked = [name for name, value in found.items() if MARK in value]
    assert not leaked, f"{whose} was given {leaked}"
    assert found["PATH"] == os.environ["PATH"]
    lacking = {name for name, value in GIVEN.items() if found.get(name) != value}
    assert not lacking, f"{whose} needs {lacking}"


def log_code(code: str) -> str:
    file = Path("code_of_a_model.py")
    file.write_text(textwrap.dedent(code))
    with warnings.catch_warnings(), mlflow.start_run():
        warnings.simplefilter("ignore")
        logged = mlflow.pyfunc.log_model(name="model", python_model=str(file), pip_requirements=["mlflow"])
    return str(logged.model_uri)


TELLING = """
    import mlflow, os
    class Model(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return [dict(os.environ)]
    mlflow.models.set_model(Model())
"""


@pytest.mark.full
def test_an_endpoint_and_its_model_get_a_list_of_the_environment_and_what_they_are_promised(
    planted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dbml.link(local=True)
    monkeypatch.setenv("DBML_PASS", "my_own_word, UNSET_ONE")
    model = log_code(TELLING)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"environment_variables": {"OF_ITS_OWN": "7"}}))
    dbml.deploy(model, to="local", name="telling", config=str(config))
    try:
        kept = json.loads(
            (Path(os.environ["DBML_HOME"]) / "endpoints" / "telling" / "endpoint.json").read_text()
        )
        server = environment_of(kept["pid"])
        predictions = dbml.invoke("telling", data=[[1]]).predictions
        of_model = (
            dict(predictions[0])
            if isinstance(predictions, list)
            else {k: v[0] for k, v in dict(predictions).items()}
        )
    finally:
        dbml.undeploy("telling")
    for found, whose in ((server, "the server"), (of_model, "the model")):
        assert found.pop("my_own_word") == MARK, "what the user names goes along"
        assert_bare(found, whose)
        assert "DBML_HOME" not in found
    assert of_model["OF_ITS_OWN"] == "7"
    assert "OF_ITS_OWN" not in server


@pytest.mark.full
def test_the_uis_server_gets_no_secret(planted: Path) -> None:
    dbml.link(local=True)
    shown = dbml.ui()
    try:
        folder = next(Path(os.environ["DBML_HOME"]).rglob("ui.json"))
        servers = json.loads(folder.read_text())
        for role, kept in servers.items():
            assert_bare(environment_of(kept["pid"]), f"the server for {role}")
        assert servers, str(shown)
    finally:
        dbml.ui(stop=True)


def test_imports_are_tried_on_packages_and_without_secrets(planted: Path) -> None:
    found = list(imports.look(time.monotonic() + 120, ["uvicorn", "of_the_user"]))
    assert [f.level for f in found if f.what == "uvicorn"] in ([], ["fine"]), found
    assert [f.level for f in found if f.what == "of_the_user"] == ["broken"], found
    done = subprocess.run(
        processes.python("import os; print(chr(10).join(os.environ.values()), sys.path)"),
        env={**processes.bare_environment(), **processes.allowed(os.environ, leads=("MLFLOW_",))},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert MARK not in done
    assert str(planted) not in done.splitlines()[-1], "the current folder is on the path"


def test_the_console_script_runs_our_module_and_no_other(planted: Path, tmp_path: Path) -> None:
    scripts = (Path(__file__).parents[2] / "pyproject.toml").read_text().partition("[project.scripts]")[2]
    assert 'dbml-magics = "dbml_magics.__main__:run"' in scripts.split("[", 1)[0]
    script = tmp_path / "bin" / "dbml-magics"  # as an installer writes it
    script.parent.mkdir()
    script.write_text("import sys\nfrom dbml_magics.__main__ import run\nsys.exit(run())\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(script), "--version"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, dbml.__version__), done.stderr
    done = subprocess.run(
        [sys.executable, str(script), "nonsense"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 2
    assert "dbml-magics status" in done.stderr
    assert "python -m" not in done.stderr


@pytest.mark.full
def test_a_program_that_only_takes_a_module_does_not_take_one_of_the_folder(
    planted: Path, tmp_path: Path
) -> None:
    """As Spark starts its workers; the way for a Python that does not know PYTHONSAFEPATH."""
    folder = tmp_path / "wrapped"
    folder.mkdir()
    program = processes.safe_interpreter(sys.executable, folder)
    done = subprocess.run(
        [program, "-m", "dbml_magics.core.scoring.files"],
        capture_output=True,
        text=True,
        env=processes.bare_environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.full
def test_sparks_workers_get_no_secret_and_modules_of_the_folder_come_last(planted: Path) -> None:
    pytest.importorskip("pyspark")
    (planted / "pyspark.py").unlink()  # the driver itself would import it, as plain Spark does
    code = """
        import os, sys
        sys.path[:] = [p for p in sys.path if p and p != os.getcwd()]
        import json
        from dbml_magics.core.scoring.spark import start_here
        spark, _ = start_here(lambda said: None, cores="1")
        def look(batches):
            import pyarrow as pa, of_the_user
            for _ in batches:
                output = {"environment": dict(os.environ), "path": sys.path, "twice": of_the_user.double(4)}
                yield pa.RecordBatch.from_pydict({"output": [json.dumps(output)]})
        print(spark.range(1).mapInArrow(look, "output string").collect()[0].output)
        spark.stop()
    """
    output = json.loads(finish(child(code), 180).splitlines()[-1])
    assert output["twice"] == 8, "a module beside the notebook is found, as plain Spark finds it"
    assert not {"", str(planted)} & set(output["path"]), "but after every package"
    output["environment"]["OMP_NUM_THREADS"] = GIVEN["OMP_NUM_THREADS"]  # Spark sets it to a task's cores
    assert_bare(output["environment"], "a worker of Spark's")
    assert output["environment"]["DBML_HOME"] == os.environ["DBML_HOME"]
