"""``link``: two workspaces become one tracking URI; ``unlink`` gives back what was there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

import dbml_magics as dbml
from dbml_magics.core import link as links
from dbml_magics.core import remembered_links, session
from dbml_magics.core.link import LinkOptions
from dbml_magics.errors import BadName, NothingRemembered
from tests.infra import plain
from tests.infra.proxy import basic
from tests.infra.wait import eventually

SCRIPT = """
import mlflow
with mlflow.start_run(run_name="child") as run:
    mlflow.log_param("who", "child")
    mlflow.log_metric("loss", 0.25, step=1)
    mlflow.log_text("from the child", "note.txt")
print(run.info.run_id)
"""


def in_child(code: str, *, cwd: Path | None = None, **environment: str) -> str:
    """Run a script as a child process of the notebook; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.strip()


def log_one_run(name: str = "one") -> str:
    """Log a run with a little of everything, with plain MLflow calls."""
    with mlflow.start_run(run_name=name) as run:
        mlflow.log_param("depth", 3)
        mlflow.log_metric("loss", 0.5, step=0)
        mlflow.log_text("hello", "notes/hello.txt")
    return str(run.info.run_id)


def held(status: Any, run_id: str, experiment: str) -> list[dict[str, Any]]:
    """Return a run as each tracked workspace holds it."""
    runs = []
    for workspace in status.destinations:
        if not workspace.tracked:
            continue
        own = workspace.name == "azureml" and workspace.place.startswith("local")
        twin = plain.twin_id(workspace.uri, run_id, experiment.rsplit("/", 1)[-1] if own else experiment)
        assert twin is not None, f"{workspace.name} has no such run"
        runs.append(plain.run(workspace.uri, twin))
    return runs


def log_model() -> Any:
    """Log a small model in the active run."""
    import numpy as np
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(np.array([[0.0], [1.0]]), np.array([0.0, 2.0]))
    return mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"])


# --- --local


@pytest.mark.full
def test_a_local_link_is_two_databases_and_two_folders_of_artifacts_without_a_server(home: Path) -> None:
    status = dbml.link(local=True)
    run_id = log_one_run()
    dbml.sync(60)

    folder = Path.cwd() / ".dbml"
    assert sorted(p.name for p in folder.iterdir()) == ["azureml", "databricks"]
    for role in ("databricks", "azureml"):
        assert (folder / role / "mlflow.db").is_file()
        assert len(list((folder / role / "artifacts").rglob("hello.txt"))) == 1
    assert [(d.name, d.kind, d.uri, d.place) for d in status.destinations] == [
        ("databricks", "mlflow", f"sqlite:///{folder}/databricks/mlflow.db", "local  .dbml/databricks"),
        ("azureml", "mlflow", f"sqlite:///{folder}/azureml/mlflow.db", "local  .dbml/azureml"),
    ]
    first, second = held(status, run_id, "Default")
    assert plain.comparable(first) == plain.comparable(second)
    assert first["params"] == {"depth": "3"}
    assert first["last"] == {"loss": 0.5}
    assert list(first["artifacts"]) == ["notes/hello.txt"]


@pytest.mark.full
@pytest.mark.parametrize("given", ["here", "{tmp}/there", "~/mine"])
def test_the_folder_of_a_local_link_can_be_chosen(
    home: Path, tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    dbml.link(local=given.format(tmp=tmp_path))
    folder = {"h": Path.cwd() / "here", "{": tmp_path / "there", "~": tmp_path / "me" / "mine"}[given[0]]
    assert (folder / "databricks" / "mlflow.db").is_file()
    assert (folder / "azureml" / "mlflow.db").is_file()
    assert not (Path.cwd() / ".dbml").exists()


@pytest.mark.full
def test_nothing_but_the_local_workspaces_is_kept_in_the_notebooks_folder(home: Path) -> None:
    dbml.link(local="data")
    log_one_run()
    dbml.sync(60)
    assert [p.name for p in Path.cwd().iterdir()] == ["data"]


# --- what is linked


def test_the_link_says_where_everything_goes(home: Path, proxies: Any) -> None:
    made = dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    assert (made.track, made.registry, made.mode) == ("both", "databricks", "journal")
    assert [d.name for d in made.destinations] == ["databricks", "azureml"]
    assert [d.uri for d in made.destinations] == [proxies.databricks.uri, proxies.azureml.uri]
    assert {d.kind for d in made.destinations} == {"mlflow"}
    assert made.uri.startswith("dbml://")
    assert mlflow.get_tracking_uri() == mlflow.get_registry_uri() == made.uri
    assert os.environ["MLFLOW_TRACKING_URI"] == made.uri
    assert str(made).splitlines()[0] == "Linked: tracking to both, models registered in databricks"

    with proxies.azureml.away():
        with mlflow.start_run():
            mlflow.log_metric("loss", 1.0)

        def error_is_told() -> bool:
            return session.current().status().destinations[1].last_error is not None

        eventually(error_is_told, "the status says why delivery to azureml waits")
        status = session.current().status()
        primary, mirror = status.destinations
        assert mirror.pending > 0
        assert mirror.lag_seconds > 0
        assert "not reachable" in str(mirror.last_error)
        assert "not reachable" in str(status)
        assert primary.last_error is None
    dbml.sync(60)
    for d in session.current().status().destinations:
        assert (d.pending, d.lag_seconds, d.last_error) == (0, 0.0, None)


@pytest.mark.full(but=["nothing", "azureml alone", "sync"])
@pytest.mark.parametrize(
    ("wish", "track", "registry", "used"),
    [
        ({}, "both", "databricks", ["databricks", "azureml"]),
        ({"registry": "azureml"}, "both", "azureml", ["databricks", "azureml"]),
        ({"registry": "both"}, "both", "both", ["databricks", "azureml"]),
        ({"track": "databricks"}, "databricks", "databricks", ["databricks"]),
        ({"track": "azureml"}, "azureml", "azureml", ["azureml"]),
        ({"track": "azureml", "registry": "databricks"}, "azureml", "databricks", ["databricks", "azureml"]),
        ({"track": "databricks", "registry": "both"}, "databricks", "both", ["databricks", "azureml"]),
        ({"mode": "sync"}, "both", "databricks", ["databricks", "azureml"]),
    ],
    ids=[
        *("nothing", "registry azureml", "both registries", "databricks alone", "azureml alone"),
        *("azureml, registry databricks", "databricks, both registries", "sync"),
    ],
)
def test_tracking_and_registry_can_be_chosen(
    home: Path, wish: dict[str, str], track: str, registry: str, used: list[str]
) -> None:
    made = dbml.link(
        local=True, track=wish.get("track"), registry=wish.get("registry"), mode=wish.get("mode")
    )
    assert (made.track, made.registry) == (track, registry)
    assert made.mode == wish.get("mode", "journal")
    assert [d.name for d in made.destinations] == used
    run_id = log_one_run()
    dbml.sync(60)
    tracked = [d.name for d in made.destinations if d.tracked]
    assert tracked == (["databricks", "azureml"] if track == "both" else [track])
    assert len(held(made, run_id, "Default")) == len(tracked)
    for d in made.destinations:
        if not d.tracked:
            assert plain.runs(d.uri, "Default") == {}
            assert "models only" in str(session.current().status())


def test_one_workspace_is_enough_where_everything_goes_to_one(home: Path, servers: Any) -> None:
    made = dbml.link(databricks=servers.databricks.uri, track="databricks")
    assert [d.name for d in made.destinations] == ["databricks"]
    made = dbml.link(azureml=servers.azureml.uri, track="azureml")
    assert [d.name for d in made.destinations] == ["azureml"]
    assert (made.track, made.registry) == ("azureml", "azureml")


def test_any_mlflow_uri_is_a_workspace(home: Path, servers: Any, experiment_name: str) -> None:
    made = dbml.link(databricks=servers.databricks.uri + "/", azureml="sqlite:///here.db")
    assert [d.uri for d in made.destinations] == [servers.databricks.uri, f"sqlite:///{Path.cwd()}/here.db"]
    assert [d.place for d in made.destinations] == [servers.databricks.uri, "sqlite  here.db"]
    mlflow.set_experiment(experiment_name)
    run_id = log_one_run()
    dbml.sync(60)
    first, second = held(made, run_id, experiment_name)
    assert plain.comparable(first) == plain.comparable(second)


def test_models_go_to_the_chosen_registry(home: Path) -> None:
    made = dbml.link(local=True, registry="both")
    with mlflow.start_run():
        info = log_model()
        mlflow.register_model(info.model_uri, "wine")
    dbml.sync(60)
    versions = [plain.model_versions(d.uri, "wine") for d in made.destinations]
    assert [[v["version"] for v in found] for found in versions] == [["1"], ["1"]]
    assert versions[0][0]["tags"]["dbml_twin"] == "azureml:wine/1"
    assert versions[1][0]["tags"]["dbml_twin"] == "databricks:wine/1"


# --- unlink


@pytest.mark.full(but=["environment"])
@pytest.mark.parametrize("how", ["call", "environment", "unset"])
def test_unlink_restores_what_was_there(
    home: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = f"sqlite:///{tmp_path}/before.db"
    registry = f"sqlite:///{tmp_path}/registry.db"
    if how == "call":
        mlflow.set_tracking_uri(before)
        mlflow.set_registry_uri(registry)
    elif how == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", before)
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry)
    uris = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_ID")
    variables = [os.environ.get(name) for name in names]

    dbml.link(local=True)
    mlflow.set_experiment("linked")
    log_one_run()
    dbml.sync(60)
    result = session.current().unlink()

    assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == uris
    assert [os.environ.get(name) for name in names] == variables
    assert not session.current().linked
    assert not result.undelivered
    assert str(result).startswith("Unlinked: MLflow tracks to ")
    if how != "unset":
        assert uris == (before, registry)
        run_id = log_one_run("after")
        assert plain.client(before).get_experiment(
            plain.client(before).get_run(run_id).info.experiment_id
        ).name == ("Default")


def test_the_active_experiment_of_before_is_active_again(home: Path, tmp_path: Path) -> None:
    before = f"sqlite:///{tmp_path}/before.db"
    mlflow.set_tracking_uri(before)
    mlflow.set_experiment("first")
    experiment_id = mlflow.set_experiment("mine").experiment_id
    dbml.link(local=True)
    # Its id means another experiment, or none, under the link.
    with mlflow.start_run() as run:
        pass
    assert mlflow.get_experiment(run.info.experiment_id).name == "Default"
    mlflow.set_experiment("linked")
    dbml.sync(60)
    session.current().unlink()
    with mlflow.start_run() as run:
        pass
    assert run.info.experiment_id == experiment_id
    assert os.environ["MLFLOW_EXPERIMENT_ID"] == experiment_id


def _open_below(folder: Path) -> list[str]:
    """Return the files below a folder that this process has open."""
    names = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed since it was listed
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [name for name in names if name.startswith(f"{folder}/")]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are listed by Linux alone")
def test_a_link_that_was_left_keeps_no_file_open_and_works_again(home: Path, tmp_path: Path) -> None:
    dbml.link(local=True)
    client = MlflowClient()
    run_id = log_one_run()
    assert _open_below(tmp_path) != []
    dbml.sync(timeout=60)
    session.current().unlink()
    eventually(lambda: _open_below(tmp_path) == [], "no file is open", show=lambda: _open_below(tmp_path))
    client.set_tag(run_id, "late", "yes")  # by a client that was made before
    assert client.get_run(run_id).data.tags["late"] == "yes"
    status = dbml.link(local=True)
    dbml.sync(timeout=60)
    assert [side["tags"]["late"] for side in held(status, run_id, "Default")] == ["yes", "yes"]


def test_unlink_says_what_is_undelivered_and_it_goes_on(
    home: Path, proxies: Any, experiment_name: str
) -> None:
    dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    mlflow.set_experiment(experiment_name)
    with proxies.azureml.away():
        run_id = log_one_run()
        with pytest.raises(Exception, match="wait for azureml"):
            dbml.sync(1)
        result = session.current().unlink()
        assert set(result.undelivered) == {"azureml"}
        assert result.undelivered["azureml"] > 1
        assert "azureml  … " in str(result)
        assert "nothing is lost" in str(result)
        assert "%dbml link --again" in str(result)

    def arrived() -> bool:
        twin = plain.twin_id(proxies.azureml.uri, run_id, experiment_name)
        return twin is not None and plain.run(proxies.azureml.uri, twin)["status"] == "FINISHED"

    eventually(arrived, "what was undelivered at unlink arrives while the process lives")


@pytest.mark.full
def test_linking_elsewhere_leaves_nothing_of_the_first_link(home: Path, tmp_path: Path) -> None:
    first = dbml.link(local="one")
    mlflow.set_experiment("iris")
    log_one_run()
    dbml.sync(60)
    second = dbml.link(local="two")
    assert second.uri != first.uri
    assert mlflow.get_tracking_uri() == second.uri
    run_id = log_one_run()
    dbml.sync(60)
    assert {plain.client(d.uri).get_run(run_id).info.experiment_id for d in second.destinations[:1]} == {"0"}
    session.current().unlink()
    assert mlflow.get_tracking_uri() not in (first.uri, second.uri)


def test_linking_the_same_again_changes_nothing(home: Path) -> None:
    first = dbml.link(local=True)
    mlflow.set_experiment("iris")
    again = dbml.link(local=True)
    assert again.uri == first.uri
    assert again.experiment == "iris"
    run_id = log_one_run()
    dbml.sync(60)
    assert held(again, run_id, "iris")


def test_another_mode_of_the_same_link_shares_its_journal(
    home: Path, proxies: Any, experiment_name: str
) -> None:
    dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    mlflow.set_experiment(experiment_name)
    with proxies.azureml.away():
        first = log_one_run("first")
        made = dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri, mode="sync")
        assert made.mode == session.current().status().mode == "sync"
        assert made.destinations[1].pending > 0
        mlflow.set_experiment(experiment_name)
        second = log_one_run("second")
        assert plain.run(proxies.databricks.uri, second)["status"] == "FINISHED"  # it waited for the primary
    dbml.sync(60)
    found = plain.runs(proxies.azureml.uri, experiment_name)
    assert sorted(r["name"] for r in found.values()) == ["first", "second"]
    assert all(r["metrics"]["loss"] == r["metrics"]["loss"][:1] for r in found.values())
    assert sorted(r["tags"]["dbml_run_id"] for r in found.values()) == sorted([first, second])


# --- --again


@pytest.mark.full
def test_again_takes_the_link_up_in_another_process(home: Path) -> None:
    made = dbml.link(local=True)
    mlflow.set_experiment("iris")
    dbml.sync(60)
    session.current().unlink()
    out = in_child(
        """
        import json, mlflow
        import dbml_magics as dbml
        status = dbml.link(again=True)
        mlflow.set_experiment("iris")
        with mlflow.start_run() as run:
            mlflow.log_metric("loss", 1.0)
        dbml.sync(timeout=60)
        print(json.dumps([status.uri, run.info.run_id]))
        """
    )
    uri, run_id = json.loads(out.splitlines()[-1])
    assert uri == made.uri
    assert held(made, run_id, "iris")
    again = dbml.link(again=True)
    assert again.uri == made.uri


def test_again_works_while_a_workspace_is_away(home: Path, proxies: Any, experiment_name: str) -> None:
    dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    mlflow.set_experiment(experiment_name)
    dbml.sync(60)
    session.current().unlink()
    with proxies.databricks.away(), proxies.azureml.away():
        status = dbml.link(again=True)
        assert all("not reachable" in str(d.last_error) for d in status.destinations)
        mlflow.set_experiment(experiment_name)
        run_id = log_one_run()
    dbml.sync(60)
    assert len(held(status, run_id, experiment_name)) == 2


def test_again_takes_a_gateways_page_for_a_workspace_that_is_away(
    home: Path, proxies: Any, experiment_name: str
) -> None:
    dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    mlflow.set_experiment(experiment_name)
    dbml.sync(60)
    session.current().unlink()
    with proxies.databricks.status(200, body="<html>sign in</html>"):
        status = dbml.link(again=True)
        assert "a web page" in str(status.destinations[0].last_error)
        mlflow.set_experiment(experiment_name)
        run_id = log_one_run()
    dbml.sync(60)
    assert len(held(status, run_id, experiment_name)) == 2


def test_a_link_is_remembered_for_its_folder_alone(home: Path, tmp_path: Path) -> None:
    dbml.link(local=True)
    session.current().unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    here = Path.cwd()
    os.chdir(elsewhere)
    try:
        with pytest.raises(NothingRemembered) as failure:
            dbml.link(again=True)
        assert str(elsewhere) in str(failure.value)
        assert remembered_links.remembered_hint(str(elsewhere)) is None
    finally:
        os.chdir(here)
    hint = remembered_links.remembered_hint(str(here))
    assert hint is not None
    assert "%dbml link --again" in hint


def test_a_copied_folder_brings_no_link_along(home: Path, tmp_path: Path) -> None:
    dbml.link(local=True)
    log_one_run()
    dbml.sync(60)
    session.current().unlink()
    subprocess.run(["cp", "-r", str(Path.cwd()), str(tmp_path / "clone")], check=True)
    os.chdir(tmp_path / "clone")
    with pytest.raises(NothingRemembered):
        dbml.link(again=True)
    text = "".join(
        p.read_text(errors="ignore") for p in Path.cwd().rglob("*") if p.suffix in (".json", ".toml")
    )
    assert "dbml://" not in text


def test_another_users_remembered_link_is_not_taken_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dbml.link(local=True)
    session.current().unlink()
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    assert remembered_links.remembered_hint(os.getcwd()) is None
    with pytest.raises(NothingRemembered):
        dbml.link(again=True)


def test_what_is_remembered_is_for_its_owner_alone(home: Path) -> None:
    dbml.link(local=True)
    log_one_run()
    dbml.sync(60)
    modes = {}
    for path in home.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # tidied away meanwhile: it is delivered
            if path.is_file():
                modes[path.name] = path.stat().st_mode & 0o077
    assert modes
    assert {name: oct(mode) for name, mode in modes.items() if mode} == {}
    assert [p.name for p in home.iterdir() if p.stat().st_mode & 0o077] == []


def test_an_earlier_links_leftovers_are_mentioned(home: Path, proxies: Any, experiment_name: str) -> None:
    dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    mlflow.set_experiment(experiment_name)
    with proxies.azureml.away():
        run_id = log_one_run()
        hint = remembered_links.remembered_hint(os.getcwd())
        assert hint is not None
        assert "writes undelivered" in hint
        status = dbml.link(local=True)
        (note,) = status.notes
        assert "an earlier link of this folder has writes undelivered" in note
        again = f"%dbml link --databricks {proxies.databricks.uri} --azureml {proxies.azureml.uri}"
        assert again in note
        assert note in str(session.current().status())
    status = dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    dbml.sync(60)
    assert len(held(status, run_id, experiment_name)) == 2
    assert dbml.link(local=True).notes == ()


@pytest.mark.parametrize(
    ("local", "databricks", "azureml", "options", "line"),
    [
        (True, None, None, LinkOptions(), "%dbml link --local .dbml"),
        ("my data", None, None, LinkOptions(), "%dbml link --local 'my data'"),
        (
            *(None, "http://a:1", "http://b:2", LinkOptions(registry="both", mode="sync")),
            "%dbml link --databricks http://a:1 --azureml http://b:2 --registry both --mode sync",
        ),
        (
            *(None, None, "http://b:2", LinkOptions(track="azureml")),
            "%dbml link --azureml http://b:2 --track azureml",
        ),
    ],
)
def test_a_link_knows_the_line_that_makes_it(
    home: Path,
    local: str | bool | None,
    databricks: str | None,
    azureml: str | None,
    options: LinkOptions,
    line: str,
) -> None:
    made = links.make(
        folder=os.getcwd(), local=local, databricks=databricks, azureml=azureml, options=options
    )
    assert made.command == line
    assert links.from_uri(made.uri) == made


# --- child processes


@pytest.mark.full
def test_a_child_process_needs_nothing_but_the_tracking_uri(home: Path) -> None:
    made = dbml.link(local=True)
    mlflow.set_experiment("iris")
    run_id = in_child(SCRIPT).splitlines()[-1]
    dbml.sync(60)
    first, second = held(made, run_id, "iris")
    assert plain.comparable(first) == plain.comparable(second)
    assert first["params"] == {"who": "child"}
    assert list(first["artifacts"]) == ["note.txt"]


def test_the_uri_holds_no_secret(home: Path, proxies: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBML_DATABRICKS_TOKEN", "squeamish")
    monkeypatch.setenv("DBML_AZUREML_USERNAME", "ossifrage")
    monkeypatch.setenv("DBML_AZUREML_PASSWORD", "magic-words")
    made = dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    log_one_run()
    dbml.sync(60)
    kept = b"".join(p.read_bytes() for p in home.rglob("*") if p.is_file())
    shown = "\n".join([made.uri, repr(made), str(made.html()), os.environ["MLFLOW_TRACKING_URI"]])
    for secret in ("squeamish", "ossifrage", "magic-words"):
        assert secret not in shown
        assert secret.encode() not in kept


def test_each_workspace_gets_its_own_credentials_and_no_others(
    home: Path, proxies: Any, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "for-somebody-else")
    monkeypatch.setenv("DBML_DATABRICKS_TOKEN", "brick")
    monkeypatch.setenv("DBML_AZUREML_USERNAME", "ann")
    monkeypatch.setenv("DBML_AZUREML_PASSWORD", "secret of ann")
    proxies.databricks.require("Bearer brick")
    proxies.azureml.require(basic("ann", "secret of ann"))
    dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri, registry="both")
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 1.0)
        mlflow.log_text("hello", "hello.txt")
        info = log_model()
        mlflow.register_model(info.model_uri, f"model-{experiment_name}")
    dbml.sync(60)
    assert mlflow.pyfunc.load_model(f"models:/model-{experiment_name}/1").predict([[2.0]]).round(
        6
    ).tolist() == [4.0]
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/hello.txt") == "hello"
    assert {r.authorization for r in proxies.databricks.requests()} == {"Bearer brick"}
    assert {r.authorization for r in proxies.azureml.requests()} == {basic("ann", "secret of ann")}
    assert {r.status for r in proxies.databricks.requests()} & {401, None} == set()


def test_a_renewed_token_is_taken_up_by_the_running_kernel(
    home: Path, proxies: Any, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBML_DATABRICKS_TOKEN", "old")
    proxies.databricks.require("Bearer old")
    dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    mlflow.set_experiment(experiment_name)
    proxies.databricks.require("Bearer new")
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 1.0)

    def refused() -> bool:
        return "401" in str(session.current().status().destinations[0].last_error)

    eventually(refused, "the status says that the credentials are refused")
    monkeypatch.setenv("DBML_DATABRICKS_TOKEN", "new")
    dbml.sync(60)
    proxies.databricks.require(None)
    assert plain.twin_id(proxies.databricks.uri, run.info.run_id, experiment_name) is not None


# --- experiments


def test_an_experiment_has_each_workspaces_own_kind_of_name(home: Path) -> None:
    made = dbml.link(local=True)
    databricks, azureml = (d.uri for d in made.destinations)
    names = {
        "iris": "iris",
        "/Users/me@example.com/flowers/tulip": "tulip",
        "/Shared/rose": "rose",
        "my lily (2. try)": "my-lily-2-try",
        "Größe": "Gr-e",
        "日本": None,
    }
    runs = {}
    for name in names:
        mlflow.set_experiment(name)
        with mlflow.start_run() as run:
            mlflow.log_metric("loss", 1.0)
        runs[name] = run.info
    dbml.sync(60)
    for name, there in names.items():
        assert plain.run(databricks, runs[name].run_id)["experiment"] == name
        twin = next(
            r
            for e in plain.client(azureml).search_experiments()
            for r in plain.runs(azureml, e.name).values()
            if r["tags"]["dbml_run_id"] == runs[name].run_id
        )
        assert twin["experiment"] == there or there is None
        assert re.fullmatch("[A-Za-z0-9_-]{1,256}", twin["experiment"])
        assert mlflow.get_experiment_by_name(name).name == name
        assert mlflow.get_experiment(runs[name].experiment_id).name == name


@pytest.mark.parametrize("track", ["both", "azureml"])
def test_two_peoples_iris_are_told_apart(home: Path, track: str) -> None:
    made = dbml.link(local=True, track=track)
    names = ["/Users/ann@example.com/iris", "/Users/bob@example.com/iris"]
    names += ["iris"] if track == "both" else []
    runs = {}
    for name in names:
        mlflow.set_experiment(name)
        with mlflow.start_run() as run:
            mlflow.log_param("of", name)
        runs[name] = run.info.run_id
    for name in names:  # and once more, now that all are there
        found = mlflow.set_experiment(name)
        assert found.name == name
        (row,) = mlflow.search_runs(output_format="list")
        assert row.info.run_id == runs[name]
    dbml.sync(60)
    azureml = next(d.uri for d in made.destinations if d.name == "azureml")
    found_there = {
        experiment.name: [r["params"]["of"] for r in plain.runs(azureml, experiment.name).values()]
        for experiment in plain.client(azureml).search_experiments()
        if experiment.name != "Default"
    }
    assert all(len(of) == 1 for of in found_there.values())
    assert all(name.split("-")[0] == "iris" for name in found_there)
    assert sorted(of[0] for of in found_there.values()) == sorted(names)
    assert len({mlflow.get_experiment_by_name(name).experiment_id for name in names}) == len(names)


def test_a_plain_name_is_what_the_only_workspace_calls_so(home: Path) -> None:
    dbml.link(local=True, track="azureml")
    ids = {}
    for name in ("/Users/ann@example.com/iris", "/Users/bob@example.com/iris"):
        ids[name] = mlflow.set_experiment(name).experiment_id
    # The studio shows Ann's under the name "iris": whoever reads it there can type it here.
    assert mlflow.set_experiment("iris").experiment_id == ids["/Users/ann@example.com/iris"]


def test_a_name_that_databricks_would_refuse_is_refused_by_plain_mlflow_too(home: Path) -> None:
    dbml.link(local=True)
    for bad in ("/Users//iris", "/Users/me@example.com/", "/Users/me@example.com", "tab\there"):
        with pytest.raises(mlflow.MlflowException, match="is not a name for an experiment"):
            mlflow.set_experiment(bad)
        with pytest.raises(BadName):
            dbml.experiment(bad)


def test_an_experiment_that_was_there_before_the_link_is_taken_up(home: Path) -> None:
    made = dbml.link(local=True, track="azureml")
    azureml = made.destinations[0].uri
    session.current().unlink()
    plain.client(azureml).create_experiment("iris")
    dbml.link(local=True)
    for name in ("/Users/ann@example.com/iris", "/Users/bob@example.com/iris"):
        mlflow.set_experiment(name)
        log_one_run(name.split("/")[2])
        dbml.sync(60)
    assert [r["name"] for r in plain.runs(azureml, "iris").values()] == ["ann@example.com"]
    result = dbml.experiment("/Users/bob@example.com/iris")
    assert [r["name"] for r in plain.runs(azureml, result.names["azureml"]).values()] == ["bob@example.com"]


def test_numbers_of_the_mirror_are_never_taken_for_the_primarys(
    home: Path, proxies: Any, experiment_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both servers count their experiments from 1; only one of them is read while the other is away."""
    wish = {"databricks": proxies.databricks.uri, "azureml": proxies.azureml.uri}
    plain.client(proxies.azureml.uri).create_experiment(f"{experiment_name}-other")
    dbml.link(**wish)
    mlflow.set_experiment(experiment_name)
    log_one_run("first")
    dbml.sync(60)
    session.current().unlink()
    # The same link on a machine that knows nothing yet.
    monkeypatch.setenv("DBML_HOME", str(tmp_path / "new"))
    dbml.link(**wish)
    session.current().unlink()
    with proxies.databricks.away():
        dbml.link(again=True)
        mlflow.set_experiment(experiment_name)
        second = log_one_run("second")
        assert [e.name for e in mlflow.search_experiments() if e.name == experiment_name] == [experiment_name]
    dbml.sync(60)
    for uri in wish.values():
        names = [r["name"] for r in plain.runs(uri, experiment_name).values()]
        assert names == ["first", "second"]
    for experiment in plain.client(proxies.databricks.uri).search_experiments():
        assert mlflow.get_experiment(experiment.experiment_id).name == experiment.name
    assert mlflow.get_run(second).info.run_name == "second"


def test_the_experiment_command_shows_both_names(home: Path) -> None:
    dbml.link(local=True)
    result = dbml.experiment("/Users/ann@example.com/iris")
    assert result.created
    assert dict(result.names) == {"databricks": "/Users/ann@example.com/iris", "azureml": "iris"}
    other = dbml.experiment("/Users/bob@example.com/iris")
    assert other.names["azureml"].startswith("iris-")
    again = dbml.experiment("/Users/ann@example.com/iris")
    assert not again.created
    assert again.experiment_id == result.experiment_id
    assert session.current().status().experiment == "/Users/ann@example.com/iris"
    assert MlflowClient().get_experiment(again.experiment_id).name == "/Users/ann@example.com/iris"
