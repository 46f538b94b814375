"""A tracked cell or ``with`` block: the run it makes, the summary it ends with, what it leaves behind."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.utils.autologging_utils import autologging_is_disabled

import dbml_magics as dbml
from dbml_magics import errors
from dbml_magics.core import session
from dbml_magics.core.source import masked_text
from dbml_magics.notebook.cells import _began_another
from tests.core.test_link import log_model
from tests.infra import plain
from tests.infra.wait import eventually

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore:_ImportHookChainedLoader:ImportWarning"
)


@pytest.fixture
def linked(home: Path, proxies: Any, experiment_name: str) -> Any:
    """Link two servers and set an experiment."""
    made = dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    mlflow.set_experiment(experiment_name)
    dbml.sync(60)
    return made


def found_in(experiment: str) -> str:
    """Return an experiment's id."""
    return str(mlflow.get_experiment_by_name(experiment).experiment_id)


def test_a_summary_says_what_the_run_logged(linked: Any, experiment_name: str) -> None:
    track = session.current().begin_track("forest", tags={"stage": "test"}, params={"depth": 3})
    for step in range(300):
        mlflow.log_metric("loss", 1 - step / 300, step=step)
    mlflow.log_metric("score", 0.5)
    mlflow.log_text("hello", "notes/hello.txt")
    mlflow.log_text("top", "top.txt")
    log_model()
    for child in ("fold-1", "fold-2"):
        with mlflow.start_run(run_name=child, nested=True):
            mlflow.log_metric("loss", 0.1)
    summary = track.end(params={"rate": 0.1})

    assert (summary.name, summary.status, summary.experiment) == ("forest", "FINISHED", experiment_name)
    assert summary.run_id == track.run_id
    assert summary.seconds > 0
    assert dict(summary.params) == {"depth": "3", "rate": "0.1"}
    metrics = {m.key: m for m in summary.metrics}
    assert metrics["loss"].count == 300
    assert metrics["loss"].last == pytest.approx(1 - 299 / 300)
    assert 2 <= len(metrics["loss"].curve) <= 60
    assert metrics["loss"].curve[0] == 1.0
    assert metrics["loss"].curve[-1] == metrics["loss"].last
    assert (metrics["score"].last, metrics["score"].count, metrics["score"].curve) == (0.5, 1, ())
    assert set(summary.artifacts) >= {"notes/", "top.txt"}
    assert summary.models == ("model",)
    assert summary.registered == ()
    assert summary.children == ("fold-1", "fold-2")
    assert "2 nested runs: fold-1, fold-2" in str(summary)
    assert "%dbml register last NAME" in str(summary)
    assert summary.notes == ()
    assert [d.name for d in summary.destinations] == ["databricks", "azureml"]
    assert track.run_id in summary.links["databricks"]
    assert "Run forest  FINISHED" in str(summary)
    assert mlflow.active_run() is None

    dbml.sync(60)
    client = mlflow.MlflowClient()
    found = [mlflow.get_run(track.run_id), *client.search_runs([found_in(experiment_name)])]
    assert [key for run in found for key in run.data.tags if key.startswith("dbml")] == []
    model = client.get_logged_model(found[0].outputs.model_outputs[0].model_id)
    assert [key for key in model.tags if key.startswith("dbml")] == []
    for d in linked.destinations:
        twin = plain.twin_id(d.uri, track.run_id, experiment_name)
        assert twin is not None
        run = plain.run(d.uri, twin, files=False)
        assert run["tags"]["stage"] == "test"
        assert run["tags"]["dbml_run_id"] == track.run_id
        assert run["params"] == {"depth": "3", "rate": "0.1"}
        assert run["status"] == "FINISHED"


def test_metrics_logged_out_of_order_make_a_curve_in_order(linked: Any) -> None:
    with dbml.track("curve") as run:
        for step in (2, 0, 1):
            mlflow.log_metric("loss", float(step), step=step)
    assert run.summary is not None
    assert run.summary.metrics[0].curve == (0.0, 1.0, 2.0)
    assert run.summary.metrics[0].last == 2.0


def test_a_model_is_registered_at_the_end(linked: Any, experiment_name: str) -> None:
    name = f"model-{experiment_name}"
    with dbml.track("forest", register=name) as run:
        log_model()
    assert run.summary is not None
    (version,) = run.summary.registered
    assert (version.workspace, version.name, version.version) == ("databricks", name, "1")
    assert version.run_id == run.run_id
    assert f"{name} version 1 (databricks)" in str(run.summary)
    assert plain.model_versions(linked.destinations[0].uri, name)[0]["run_id"] == run.run_id
    again = dbml.register("last", name)
    assert again.versions[0].version == "2"
    assert "%dbml register" not in str(run.summary)
    listed = str(dbml.models(name))
    assert listed.endswith(f'see  mlflow.pyfunc.load_model("models:/{name}/2")')
    tags = mlflow.MlflowClient().get_model_version(name, "2").tags
    assert tags == {"dbml_run_id": run.run_id}, "what the design promises of a version, and no key of ours"


def test_a_run_within_a_run_is_told_apart_from_other_failures(linked: Any) -> None:
    with pytest.raises(Exception, match="already active") as failed, dbml.track("outer"):
        mlflow.start_run()
    assert _began_another(failed.value)


def test_a_deleted_experiment_is_named_with_the_way_back(linked: Any, experiment_name: str) -> None:
    mlflow.MlflowClient().delete_experiment(found_in(experiment_name))
    dbml.sync(60)
    for attempt in (
        lambda: dbml.experiment(experiment_name),
        lambda: dbml.runs(experiment_name),
        lambda: dbml.track("late").__enter__(),
        lambda: dbml.track("late", experiment=experiment_name).__enter__(),
    ):
        with pytest.raises(errors.ExperimentNotFound, match="is deleted") as refused:
            attempt()
        restore = refused.value.remedies[0][0]
        assert restore.startswith("mlflow.MlflowClient().restore_experiment(")
    eval(restore, {"mlflow": mlflow})
    with dbml.track("back") as run:
        mlflow.log_metric("loss", 0.5)
    assert run.summary is not None
    assert run.summary.status == "FINISHED"


def test_registering_without_a_model_fails_and_the_run_is_kept(linked: Any, experiment_name: str) -> None:
    with pytest.raises(errors.NoModel) as failure, dbml.track("empty", register="wine") as run:
        mlflow.log_metric("loss", 0.5)
    assert "--register wine: run" in str(failure.value)
    assert "log_model" in "\n".join(failure.value.lines())
    assert run.summary is not None
    assert run.summary.status == "FINISHED"
    assert failure.value.summary is run.summary  # type: ignore[attr-defined]
    assert mlflow.active_run() is None
    dbml.sync(60)
    assert mlflow.get_run(run.run_id).info.status == "FINISHED"


def test_a_failing_block_registers_nothing(linked: Any, experiment_name: str) -> None:
    name = f"model-{experiment_name}"
    run = dbml.track("failing", register=name)
    with pytest.raises(ZeroDivisionError), run:
        _train_and_fail()
    assert run.summary is not None
    assert run.summary.status == "FAILED"
    assert run.summary.registered == ()
    assert plain.model_versions(linked.destinations[0].uri, name) == []
    dbml.sync(60)
    assert mlflow.get_run(run.run_id).info.status == "FAILED"


def _train_and_fail() -> None:
    log_model()
    raise ZeroDivisionError


def test_an_interrupted_block_is_killed(linked: Any) -> None:
    with pytest.raises(KeyboardInterrupt), dbml.track("stopped") as run:
        raise KeyboardInterrupt
    assert run.summary is not None
    assert run.summary.status == "KILLED"


def test_a_bad_name_is_refused_before_the_run_begins(linked: Any, experiment_name: str) -> None:
    with pytest.raises(errors.BadName):
        session.current().begin_track(register="a/b")
    with pytest.raises(errors.BadName):
        session.current().begin_track(experiment="/Users//x")
    with pytest.raises(errors.BadCommand):
        session.current().begin_track(params={"bad key \x00": 1})
    assert mlflow.active_run() is None
    dbml.sync(60)
    assert [r["status"] for r in plain.runs(linked.destinations[0].uri, experiment_name).values()] == [
        "FAILED"
    ]


def test_a_param_that_cannot_be_logged_at_the_end_still_ends_the_run(linked: Any) -> None:
    track = session.current().begin_track("changed", params={"depth": 1})
    with pytest.raises(errors.BadCommand) as failure:
        track.end(params={"depth": 2})
    assert "Changing param values" in str(failure.value)
    assert failure.value.summary.status == "FINISHED"  # type: ignore[attr-defined]
    assert mlflow.active_run() is None
    dbml.sync(60)
    assert mlflow.get_run(track.run_id).info.status == "FINISHED"


def test_a_cell_that_ends_its_own_run(linked: Any) -> None:
    track = session.current().begin_track("own end")
    mlflow.log_metric("loss", 0.5)
    mlflow.end_run("FAILED")
    summary = track.end()
    assert summary.run_id == track.run_id
    assert summary.status == "FAILED"
    dbml.sync(60)
    assert mlflow.get_run(track.run_id).info.status == summary.status
    assert summary.metrics[0].last == 0.5


def test_a_cell_that_leaves_children_open(linked: Any) -> None:
    track = session.current().begin_track("parent")
    child = mlflow.start_run(run_name="child", nested=True)
    track.end()
    assert mlflow.active_run() is None
    dbml.sync(60)
    assert mlflow.get_run(child.info.run_id).info.status == "FINISHED"


def test_a_cell_that_starts_another_run_after_its_own(linked: Any) -> None:
    track = session.current().begin_track("first")
    mlflow.end_run()
    other = mlflow.start_run(run_name="mine")
    track.end()
    assert mlflow.active_run() is not None, "a run that the user began is the user's to end"
    assert mlflow.active_run().info.run_id == other.info.run_id
    mlflow.end_run()


def test_nested_tracks(linked: Any) -> None:
    with dbml.track("outer") as outer:
        with dbml.track("inner", nested=True) as inner:
            mlflow.log_metric("loss", 1.0)
        assert mlflow.active_run().info.run_id == outer.run_id
    dbml.sync(60)
    assert mlflow.get_run(inner.run_id).data.tags["mlflow.parentRunId"] == outer.run_id


def test_the_experiment_of_one_run_alone(linked: Any, experiment_name: str) -> None:
    with dbml.track("elsewhere", experiment=f"{experiment_name}-other") as run:
        pass
    assert run.summary is not None
    assert run.summary.experiment == f"{experiment_name}-other"
    with dbml.track("here") as run:
        pass
    assert run.summary is not None
    assert run.summary.experiment == experiment_name


@pytest.mark.full
@pytest.mark.parametrize(("before", "wanted"), [(False, True), (True, False), (True, None)])
def test_autolog_is_what_it_was_afterwards(
    home: Path, linked: Any, before: bool, wanted: bool | None
) -> None:
    from sklearn.linear_model import LinearRegression

    mlflow.autolog(disable=not before, silent=True)
    try:
        with dbml.track("auto", autolog=wanted) as run:
            LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
        assert run.summary is not None
        assert bool(run.summary.params) == (before if wanted is None else wanted)
        assert autologging_is_disabled("sklearn") == (not before)
    finally:
        mlflow.autolog(disable=True, silent=True)


@pytest.mark.full
def test_autolog_of_one_library_is_switched_off_for_a_cell_too(linked: Any) -> None:
    from sklearn.linear_model import LinearRegression

    mlflow.sklearn.autolog(silent=True)
    try:
        for wanted in (False, None):
            with dbml.track("auto", autolog=wanted) as run:
                LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
            assert run.summary is not None
            assert bool(run.summary.params) == (wanted is None)
    finally:
        mlflow.sklearn.autolog(disable=True)


def test_a_git_commit_is_noted_in_a_git_folder_and_nowhere_else(linked: Any, tmp_path: Path) -> None:
    def tags() -> dict[str, str]:
        with dbml.track("tagged") as run:
            pass
        return dict(mlflow.get_run(run.run_id).data.tags)

    assert "mlflow.source.git.commit" not in tags()
    for command in (
        ["init", "-q"],
        [
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@example.com",
            "commit",
            "-q",
            "--allow-empty",
            "-m",
            "first",
        ],
    ):
        subprocess.run(["git", *command], check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert tags()["mlflow.source.git.commit"] == head


def test_a_summary_while_the_mirror_is_away(linked: Any, proxies: Any) -> None:
    with proxies.azureml.away():
        with dbml.track("first"):
            mlflow.log_metric("loss", 0.5)
        eventually(
            lambda: session.current().status().destinations[1].away, "the link knows that azureml is away"
        )
        with dbml.track("forest") as run:
            mlflow.log_metric("loss", 0.5)
        assert run.summary is not None
        primary, mirror = run.summary.destinations
        assert primary.pending == 0
        assert mirror.pending > 0
        assert "writes waiting: not reachable" in mirror.outcome()
        assert "nothing is lost" in str(run.summary)
        assert run.summary.seconds < 20
    dbml.sync(60)


@pytest.mark.full
def test_a_summary_of_a_run_that_began_while_the_primary_was_away(linked: Any, proxies: Any) -> None:
    with proxies.databricks.away():
        with dbml.track("early") as run:
            mlflow.log_metric("loss", 0.5)
        assert run.summary is not None
        assert any("its id is provisional" in note for note in run.summary.notes)
        assert run.summary.metrics[0].last == 0.5
    dbml.sync(60)
    with dbml.track("late") as late:
        pass
    assert late.summary is not None
    assert late.summary.notes == ()


def test_last_is_the_newest_run_of_this_notebook(linked: Any) -> None:
    with dbml.track("first"):
        pass
    with dbml.track("second") as second:
        pass
    with pytest.raises(ZeroDivisionError), dbml.track("failed"):
        raise ZeroDivisionError
    with pytest.raises(errors.NoModel, match=second.run_id[:8]):
        dbml.register("last", "wine")


def test_a_block_is_tracked_once(linked: Any) -> None:
    once = dbml.track("once")
    with pytest.raises(RuntimeError, match="begins with its block"):
        once.run_id
    with once:
        pass
    with pytest.raises(RuntimeError, match="tracked once"):
        once.__enter__()


# --- the cell's text


def test_the_cells_text_is_logged_masked_and_only_when_asked(linked: Any, experiment_name: str) -> None:
    source = 'password = "hunter2"\nmodel.fit(X, y)\n'
    track = session.current().begin_track("with", source=source)
    track.end()
    without = session.current().begin_track("without")
    without.end()
    dbml.sync(60)
    assert mlflow.artifacts.list_artifacts(run_id=without.run_id) == []
    for d in linked.destinations:
        twin = plain.twin_id(d.uri, track.run_id, experiment_name)
        text = _text_at(d.uri, str(twin), "cell.py")
        assert "hunter2" not in text
        assert "model.fit(X, y)" in text


def _text_at(uri: str, run_id: str, path: str) -> str:
    return Path(plain.client(uri).download_artifacts(run_id, path)).read_text()


@pytest.mark.parametrize(
    "line",
    [
        'password = "S3CR3T"',
        "password='S3CR3T'",
        'PASSWORD: str = "S3CR3T"',
        'db_password = f"S3CR3T"',
        'os.environ["API_KEY"] = "S3CR3T"',
        "os.environ['AZURE_CLIENT_SECRET'] = 'S3CR3T'",
        'connect(user="ann", password="S3CR3T")',
        'config = {"token": "S3CR3T", "host": "x"}',
        'headers = {"Authorization": "Bearer S3CR3T.abc"}',
        'headers = {"Authorization": "Basic UzNDUjNUOlMzQ1IzVA=="}',
        'token = """S3CR3T"""',
        'secret = """\nS3CR3T\n"""',
        'url = "https://ann:S3CR3T@host/db"',
        'url = "https://S3CR3T@host/db"',
        'url = "https://store.blob.core.windows.net/c?sv=1&sig=S3CR3T"',
        'connection = "AccountName=a;AccountKey=S3CR3T;"',
        'connection = "Server=a;Pwd=S3CR3T;"',
        'connection = "Server=a;Password=S3CR3T;User=b"',
        'curl -H "X-Api-Key: S3CR3T" https://host',
        "%env DATABRICKS_TOKEN=S3CR3T",
        "%env DATABRICKS_TOKEN S3CR3T",
        "!export AZURE_CLIENT_SECRET=S3CR3T",
        "!tool --password S3CR3T --user ann",
        "!tool --api-key=S3CR3T",
        'key = "dapi' + "0123456789abcdef" * 2 + '"  # S3CR3T',
        'key = "ghp_S3CR3T0000000000000000000000000000"',
        'key = "eyJhbGciOiJI.eyJS3CR3T.sig-S3CR3T"',
        'os.environ.setdefault("DB_PASSWORD", "S3CR3T")',
        'login("ann", passwd = "S3CR3T")',
    ],
)
def test_secrets_in_a_cells_text_are_masked(line: str) -> None:
    shown = masked_text(f"x = 1\n{line}\nmodel.fit(X, y)\n").replace("# S3CR3T", "")
    assert "S3CR3T" not in shown
    assert "0123456789abcdef" not in shown
    assert "UzNDUjNU" not in shown
    assert shown.startswith("x = 1\n")
    assert shown.endswith("model.fit(X, y)\n")


@pytest.mark.parametrize(
    "line",
    [
        "model.fit(X, y)",
        "tokenizer = AutoTokenizer.from_pretrained('bert-base')",
        "max_tokens = 100",
        "n_tokens = len('a b c'.split())",
        "password = getpass()",
        "token = os.environ['TOKEN']",
        "path = 'data/train.csv'",
        "print('pattern', 'compass')",
        "url = 'https://example.com/a@b'",
        "signature = infer_signature(X, y)",
    ],
)
def test_what_is_no_secret_is_left_as_it_is(line: str) -> None:
    assert masked_text(line) == line
