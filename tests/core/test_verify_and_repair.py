"""``%dbml sync --verify`` and ``--repair`` on two real servers, edited behind the link's back."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

import dbml_magics as dbml
from dbml_magics.common.hints import Remedy, typing
from dbml_magics.errors import BadCommand, ExperimentNotFound, NotConfirmed
from dbml_magics.results.reconcile import ABSENT, RepairResult, VerifyResult
from tests.conftest import Proxies, Servers
from tests.core import linking
from tests.core.modelling import log_linear
from tests.infra import plain
from tests.infra.servers import Server
from tests.infra.wait import eventually


@pytest.fixture
def experiment(linked: Proxies, experiment_name: str) -> str:
    """Return the experiment that a link of two workspaces is on."""
    return experiment_name


@pytest.fixture
def clients(servers: Servers) -> tuple[MlflowClient, MlflowClient]:
    """Return plain clients of both workspaces, which know nothing of the link."""
    return MlflowClient(servers.databricks.uri), MlflowClient(servers.azureml.uri)


def a_run(folder: Path, name: str = "forest") -> str:
    with mlflow.start_run(run_name=name) as run:
        mlflow.log_params({"depth": 3, "rate": 0.1})
        mlflow.set_tag("team", "wine")
        for step in range(40):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.log_metric("odd", math.nan)
        mlflow.log_text("notes", "notes/a.txt")
        mlflow.log_dict({"a": 1}, "config.json")
        with mlflow.start_run(run_name=f"{name}-child", nested=True):
            mlflow.log_metric("loss", 0.5)
    return str(run.info.run_id)


def mirrored(servers: Servers, run_id: str, experiment: str) -> str:
    found = plain.twin_id(servers.azureml.uri, run_id, experiment)
    assert found is not None, f"azureml has no run {run_id}"
    return found


def put(client: MlflowClient, server: Server, run_id: str, path: str) -> None:
    """Upload a file behind the link's back; a client of this process knows the run's files by the link."""
    root = client.get_run(run_id).info.artifact_uri.removeprefix("mlflow-artifacts:/")
    answer = requests.put(f"{server.uri}/api/2.0/mlflow-artifacts/artifacts/{root}/{path}", data=b"late")
    assert answer.status_code == 200, answer.text


def named(result: VerifyResult) -> set[tuple[str, str]]:
    return {(d.kind, d.key) for d in result.differences}


def of_experiment(experiment: str, **options: Any) -> VerifyResult:
    return dbml.verify(experiment=experiment, **options)


def repaired(experiment: str, **options: Any) -> RepairResult:
    return dbml.repair(experiment=experiment, **options)


def test_what_was_delivered_is_the_same_and_each_edit_is_found_and_mended(
    experiment: str, servers: Servers, clients: tuple[MlflowClient, MlflowClient], tmp_path: Path
) -> None:
    run = a_run(tmp_path)
    dbml.sync(60)
    same = of_experiment(experiment, deep=True)
    assert same.equal, f"just delivered, and yet: {same}"
    assert same.runs_compared == 2
    assert same.requests >= same.least

    primary, mirror = clients
    twin = mirrored(servers, run, experiment)
    mirror.set_tag(twin, "team", "beer")  # edited in the mirror alone
    primary.set_tag(run, "owner", "me")  # added in the primary alone
    mirror.set_tag(twin, "mlflow.note.content", "looks good")
    primary.log_param(run, "late", "1")
    mirror.log_metric(twin, "loss", 7.0, step=99)
    primary.log_batch(run, [Metric("more", 0.5, 1_700_000_000_000, n) for n in range(3)])
    mirror.set_terminated(twin, "FAILED")
    put(primary, servers.databricks, run, "notes/late.txt")
    primary.update_run(run, name="renamed")
    found = of_experiment(experiment)
    assert named(found) >= {
        ("tag", "team"),
        ("tag", "owner"),
        ("note", ""),
        ("param", "late"),
        ("metric", "loss"),
        ("metric", "more"),
        ("status", ""),
        ("artifact", "notes/late.txt"),
        ("name", ""),
    }
    assert {d.run for d in found.differences} == {run}, "the other runs were not touched"
    team = next(d for d in found.differences if d.key == "team")
    assert (team.databricks, team.azureml) == ("wine", "beer")
    note = next(d for d in found.differences if d.kind == "note")
    assert (note.databricks, note.azureml) == (ABSENT, "looks good")
    assert "%dbml sync --repair" in str(found)

    done = repaired(experiment)
    assert {(r.difference.kind, r.difference.key) for r in done.remaining} == {("metric", "loss")}
    assert "cannot be taken back" in done.remaining[0].done
    there = plain.comparable(plain.run(servers.azureml.uri, twin))
    here = plain.comparable(plain.run(servers.databricks.uri, run))
    for held in (there, here):
        held["metrics"].pop("loss")
        held["last"].pop("loss")
    assert there == here
    assert here["tags"]["team"] == "beer", "what was edited in the mirror alone reaches the primary"
    assert here["tags"]["mlflow.note.content"] == "looks good"
    again = repaired(experiment)
    assert not again.repaired, f"a second time there is nothing to do, but: {again}"


def test_files_are_asked_for_of_those_runs_alone_that_may_have_some(
    experiment: str, proxies: Proxies, servers: Servers, clients: tuple[MlflowClient, MlflowClient]
) -> None:
    ids = []
    for number in range(3):
        with mlflow.start_run(run_name=f"run {number}") as run:
            mlflow.log_metric("loss", number)
            if number == 1:
                mlflow.log_text("notes", "a.txt")
        ids.append(run.info.run_id)
    dbml.sync(60)

    def listings() -> list[int]:
        found = [proxy.count("mlflow-artifacts/artifacts$", "GET") for proxy in proxies]
        for proxy in proxies:
            proxy.forget()
        return found

    listings()
    same = of_experiment(experiment)
    assert same.equal, str(same)
    assert listings() == [2, 2], "expected: those of the experiment, and of the run with a file"

    primary, _ = clients
    with proxies.databricks.status(403, path="mlflow-artifacts/artifacts$", method="GET", times=1):
        assert of_experiment(experiment).equal
    assert listings() == [2, 2], "the receipts tell what was delivered to a place that is not listed"
    put(primary, servers.databricks, ids[2], "late.txt")
    assert named(of_experiment(experiment)) == {("artifact", "late.txt")}
    listings()
    with proxies.databricks.status(403, path="mlflow-artifacts/artifacts$", method="GET", times=1):
        assert repaired(experiment).repaired, "a repair goes by what is there, not by receipts"
    assert of_experiment(experiment, deep=True).equal
    listings()
    assert dbml.verify(run=ids[0]).equal
    assert listings() == [1, 1], "one run's own files are asked for"


def test_where_both_were_edited_the_primary_wins_and_the_other_value_is_shown(
    experiment: str, servers: Servers, clients: tuple[MlflowClient, MlflowClient], tmp_path: Path
) -> None:
    run = a_run(tmp_path)
    dbml.sync(60)
    primary, mirror = clients
    primary.set_tag(run, "team", "gin")
    mirror.set_tag(mirrored(servers, run, experiment), "team", "beer")
    done = repaired(experiment)
    assert [r.difference.key for r in done.repaired] == ["team"]
    assert "'beer'" in done.repaired[0].done
    assert mirror.get_run(mirrored(servers, run, experiment)).data.tags["team"] == "gin"


def test_a_repair_can_go_the_other_way(
    experiment: str, servers: Servers, clients: tuple[MlflowClient, MlflowClient], tmp_path: Path
) -> None:
    run = a_run(tmp_path)
    dbml.sync(60)
    primary, mirror = clients
    twin = mirrored(servers, run, experiment)
    primary.set_tag(run, "team", "gin")
    put(mirror, servers.azureml, twin, "there.txt")
    done = repaired(experiment, source="azureml")
    assert not done.remaining, str(done)
    assert primary.get_run(run).data.tags["team"] == "wine"
    assert "there.txt" in plain.run(servers.databricks.uri, run)["artifacts"]
    assert of_experiment(experiment).equal


@pytest.mark.full
def test_runs_older_than_the_link_come_over_whole_once_and_only_when_asked(
    home: object,
    proxies: Proxies,
    servers: Servers,
    experiment_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mlflow.set_tracking_uri(servers.databricks.uri)
    mlflow.set_experiment(experiment_name)
    runs = [a_run(tmp_path, f"old-{n}") for n in range(3)]
    with mlflow.start_run(run_name="with a model") as run:
        log_linear("model")
    runs.append(str(run.info.run_id))
    mlflow.set_tracking_uri(None)
    time.sleep(0.01)  # the link is younger than the last run
    linking.link(proxies)
    first = dbml.verify()
    assert first.older["databricks"] >= 7
    assert "--repair --all" in str(first)
    assert not [d for d in first.differences if d.run in runs]

    done = repaired(experiment_name)
    assert done.copied == 7
    assert not done.remaining, str(done)
    for run_id in runs:
        linking.arrived(servers, run_id, experiment_name)
    assert of_experiment(experiment_name, deep=True).equal
    again = repaired(experiment_name)
    assert not again.repaired, str(again)
    assert linking.runs_at(servers, experiment_name) == [7, 7]
    assert mlflow.get_run(runs[0]).info.run_name == "old-0"


@pytest.mark.full
def test_a_model_that_was_named_while_the_primary_was_away_is_one_on_another_machine_too(
    experiment: str, proxies: Proxies, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dbml.sync(60)
    with mlflow.start_run(), proxies.databricks.away():
        log_linear("model")
    dbml.sync(120)
    monkeypatch.setenv("DBML_HOME", str(tmp_path / "elsewhere"))
    code = f"""
        import dbml_magics as dbml
        dbml.link(databricks={proxies.databricks.uri!r}, azureml={proxies.azureml.uri!r})
        name = {experiment!r}
        print(dbml.verify(experiment=name).equal, len(dbml.repair(experiment=name).repaired))
    """
    output = linking.finish(linking.child(code))
    assert output.splitlines()[-1:] == ["True 0"], f"one model under one id, but: {output}"


def test_a_team_that_begins_from_azure_ml(
    home: object, proxies: Proxies, servers: Servers, experiment_name: str, tmp_path: Path
) -> None:
    mlflow.set_tracking_uri(servers.azureml.uri)
    mlflow.set_experiment(experiment_name)
    run = a_run(tmp_path)
    mlflow.set_tracking_uri(None)
    linking.link(proxies)
    done = repaired(experiment_name, source="azureml")
    assert done.copied == 2
    assert not done.remaining, str(done)
    assert of_experiment(experiment_name, deep=True).equal
    # Through the link the run is known by the id that people know.
    assert mlflow.get_run(run).data.params["depth"] == "3"
    assert len(mlflow.search_runs(experiment_names=[experiment_name])) == 2


def test_nothing_is_deleted_without_being_asked_and_told(
    experiment: str, servers: Servers, clients: tuple[MlflowClient, MlflowClient], tmp_path: Path
) -> None:
    run = a_run(tmp_path)
    dbml.sync(60)
    primary, mirror = clients
    twin = mirrored(servers, run, experiment)
    other = mirror.create_run(mirror.get_run(twin).info.experiment_id, run_name="stray")
    mirror.set_tag(twin, "stray", "1")
    primary.delete_tag(run, "team")
    done = repaired(experiment)
    assert {r.difference.kind for r in done.remaining} == {"run", "tag"}
    typed = Remedy("sync", repair=True, prune=True, timeout=60, experiment=experiment)
    with typing(typed), pytest.raises(NotConfirmed, match="stray") as asked:
        repaired(experiment, prune=True)
    assert [line for line, _ in asked.value.remedies] == [
        f"%dbml sync --repair --prune --timeout 60 --experiment {experiment} --confirm",
        f"%dbml sync --repair --timeout 60 --experiment {experiment}",
    ]
    with pytest.raises(NotConfirmed, match="stray") as refused:
        repaired(experiment, prune=True)
    assert any("--prune --confirm" in line for line in refused.value._render_traceback_())
    assert mirror.get_run(other.info.run_id).info.lifecycle_stage == "active"
    pruned = repaired(experiment, prune=True, confirm=True)
    assert not pruned.remaining, str(pruned)
    assert mirror.get_run(other.info.run_id).info.lifecycle_stage == "deleted"
    assert "team" not in mirror.get_run(twin).data.tags


def test_a_repair_that_was_interrupted_ends_the_same(
    home: object, proxies: Proxies, servers: Servers, experiment_name: str, tmp_path: Path
) -> None:
    mlflow.set_tracking_uri(servers.databricks.uri)
    mlflow.set_experiment(experiment_name)
    run = a_run(tmp_path)
    mlflow.set_tracking_uri(None)
    linking.link(proxies)
    # The answer to each kind of write is lost once, after it was made.
    for call in ("runs/create$", "runs/log-batch$", "runs/update$"):
        proxies.azureml.drop(path=call, times=1)
    done = repaired(experiment_name)
    assert not done.remaining, str(done)
    linking.arrived(servers, run, experiment_name)
    assert linking.runs_at(servers, experiment_name) == [2, 2]
    assert of_experiment(experiment_name, deep=True).equal


def test_what_cannot_be_meant_is_said(experiment: str, proxies: Proxies) -> None:
    with pytest.raises(ExperimentNotFound, match="no experiment 'nowhere'"):
        of_experiment("nowhere")
    with pytest.raises(BadCommand, match="--since wants a date"):
        dbml.verify(since="yesterdayish")
    with pytest.raises(BadCommand, match="each choose the runs"):
        dbml.verify(experiment=experiment, everything=True)
    with pytest.raises(BadCommand, match="--from takes one of"):
        dbml.repair(source="gcp")


def test_a_line_that_cannot_be_meant_is_corrected_in_its_readers_words(experiment: str) -> None:
    line = Remedy("sync", verify=True, deep=True, since="yesterdayish")
    with typing(line), pytest.raises(BadCommand) as since:
        dbml.verify(since="yesterdayish", deep=True)
    assert since.value.remedies[1][0] == "%dbml sync --verify --deep --since 7d"
    line = Remedy("sync", verify=True, deep=True, experiment=experiment, all=True)
    with typing(line), pytest.raises(BadCommand) as both:
        dbml.verify(experiment=experiment, everything=True, deep=True)
    assert both.value.remedies[0][0] == "%dbml sync --verify --deep --all"
    with typing(Remedy("sync", repair=True, from_="gcp", timeout=60)), pytest.raises(BadCommand) as source:
        dbml.repair(source="gcp", timeout=60)
    assert [line for line, _ in source.value.remedies] == [
        f"%dbml sync --repair --from {role} --timeout 60" for role in ("databricks", "azureml")
    ]


def test_the_result_is_a_table_of_what_stands_on_either_side(
    experiment: str, servers: Servers, clients: tuple[MlflowClient, MlflowClient], tmp_path: Path
) -> None:
    run = a_run(tmp_path)
    dbml.sync(60)
    clients[1].set_tag(mirrored(servers, run, experiment), "b", "<i>")
    found = of_experiment(experiment)
    page = found._repr_html_() or ""
    assert "<i>" not in page
    assert "&lt;i&gt;" in page
    assert 'scope="col"' in page
    assert json.dumps([d.what for d in found.differences]) == '["tag b"]'


@pytest.mark.full
def test_a_repair_that_is_killed_is_gone_on_with(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, tmp_path: Path
) -> None:
    mlflow.set_tracking_uri(servers.databricks.uri)
    mlflow.set_experiment(experiment_name)
    runs = [a_run(tmp_path, f"old-{n}") for n in range(4)]
    mlflow.set_tracking_uri(None)
    linking.link(proxies)
    proxies.azureml.delay(0.05)
    code = f"""
        import dbml_magics as dbml
        dbml.link(again=True)
        print("experiment", flush=True)
        dbml.repair(experiment={experiment_name!r})
    """
    for after in (3, 9, 14):
        proxies.azureml.forget()
        process = linking.child(code)
        assert process.stdout is not None
        assert process.stdout.readline() == "experiment\n"
        writes = "runs/(create|log-batch|update|set-tag)$|artifacts/"
        eventually(
            lambda: proxies.azureml.count(writes, "POST|PUT") >= after or process.poll() is not None,  # noqa: B023
            "the repair to be under way",
        )
        process.kill()
        process.communicate()
    proxies.azureml.clear()
    done = repaired(experiment_name)
    assert not done.remaining, str(done)
    for run in runs:
        linking.arrived(servers, run, experiment_name)
    assert linking.runs_at(servers, experiment_name) == [8, 8], "each run once"
    assert of_experiment(experiment_name, deep=True).equal


def test_registered_versions_are_compared_with_their_twins(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    linking.link(proxies, registry="both")
    dbml.experiment(experiment_name)
    name = f"wine-{experiment_name[-12:]}"
    with mlflow.start_run() as run:
        log_linear("model", registered_model_name=name)
    dbml.register(run.info.run_id, name, aliases=["champion"])
    dbml.sync(120)
    same = of_experiment(experiment_name)
    assert same.equal, f"just registered, and yet: {same}"

    here, there = (MlflowClient(s.uri, registry_uri=s.uri) for s in servers)
    twin = there.get_model_version_by_alias(name, "champion")
    there.set_model_version_tag(name, twin.version, "stage", "test")
    there.delete_registered_model_alias(name, "champion")
    here.update_model_version(name, "1", "the first of its kind")
    there.delete_model_version(name, "1")
    found = named(of_experiment(experiment_name))
    assert found == {("version", "tag stage"), ("alias", "champion"), ("version", "")}
    done = repaired(experiment_name)
    assert not done.remaining, str(done)
    assert there.get_model_version_by_alias(name, "champion").version == twin.version
    first = here.get_model_version_by_alias(name, "champion")
    assert first.tags["stage"] == "test", "what was edited in the mirror alone reaches the primary"
    assert of_experiment(experiment_name).equal
    (new,) = (v for v in there.search_model_versions(f"name='{name}'") if v.version != twin.version)
    assert new.description == "the first of its kind"
    assert mlflow.pyfunc.load_model(f"models:/{name}/1") is not None


def registered_name(experiment: str) -> str:
    return f"wine-{experiment[-14:]}"


def a_registered_model(experiment: str) -> tuple[str, str]:
    """Register a model that both workspaces then have alike; returns its name and its run's id."""
    name = registered_name(experiment)
    with mlflow.start_run(run_name="registered") as run:
        log_linear("model", registered_model_name=name)
    dbml.sync(120)
    same = of_experiment(experiment)
    assert same.equal, f"just registered, and yet: {same}"
    return name, str(run.info.run_id)


@pytest.fixture
def registries(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> tuple[MlflowClient, MlflowClient]:
    """Link both registries, and return plain clients of them."""
    linking.link(proxies, registry="both")
    dbml.experiment(experiment_name)
    here, there = (MlflowClient(s.uri, registry_uri=s.uri) for s in servers)
    return here, there


@pytest.mark.full
def test_edits_in_the_mirrors_registry_alone_reach_the_primary_and_where_both_were_edited_both_are_shown(
    registries: tuple[MlflowClient, MlflowClient], servers: Servers, experiment_name: str
) -> None:
    here, there = registries
    name, run = a_registered_model(experiment_name)
    model = mlflow.get_run(run).outputs.model_outputs[0].model_id
    twin = mirrored(servers, run, experiment_name)
    (theirs,) = there.search_logged_models([there.get_run(twin).info.experiment_id])

    there.update_model_version(name, "1", "said in the mirror")
    there.update_registered_model(name, "a model of wine")
    there.set_registered_model_tag(name, "owner", "me")
    there.set_registered_model_alias(name, "champion", "1")
    there.set_logged_model_tags(theirs.model_id, {"checked": "yes"})
    found = named(of_experiment(experiment_name))
    assert found == {
        ("version", "description"),
        ("registered model", "description"),
        ("registered model", "tag owner"),
        ("alias", "champion"),
        ("model", f"{model} tag checked"),
    }
    done = repaired(experiment_name)
    assert not done.remaining, str(done)
    assert here.get_model_version(name, "1").description == "said in the mirror"
    assert here.get_registered_model(name).description == "a model of wine"
    assert here.get_registered_model(name).tags["owner"] == "me"
    assert here.get_model_version_by_alias(name, "champion").version == "1"
    assert here.get_logged_model(model).tags["checked"] == "yes"

    # Both were said alike: from now on an edit is told from what was there, and the other one is kept.
    there.update_model_version(name, "1", "said again")
    there.set_logged_model_tags(theirs.model_id, {"checked": "twice"})
    here.update_registered_model(name, "a model of gin")
    there.update_registered_model(name, "a model of beer")
    done = repaired(experiment_name)
    assert here.get_model_version(name, "1").description == "said again"
    assert here.get_logged_model(model).tags["checked"] == "twice"
    assert there.get_registered_model(name).description == "a model of gin"
    (both,) = (r.done for r in done.repaired if r.difference.kind == "registered model")
    assert "a model of gin" in both
    assert "a model of beer" in both
    assert of_experiment(experiment_name).equal
    assert not repaired(experiment_name).repaired


def test_an_alias_that_was_moved_is_moved_and_pruning_does_not_delete_it(
    registries: tuple[MlflowClient, MlflowClient], experiment_name: str
) -> None:
    here, there = registries
    name, run = a_registered_model(experiment_name)
    dbml.register(run, name, aliases=["champion"])
    dbml.sync(120)
    assert of_experiment(experiment_name).equal
    here.set_registered_model_alias(name, "champion", "1")
    done = repaired(experiment_name, prune=True)  # nothing is to be deleted: no confirmation is asked for
    assert [(r.difference.kind, r.difference.key) for r in done.repaired] == [("alias", "champion")]
    assert there.get_model_version_by_alias(name, "champion").version == "1"


def test_an_experiment_that_was_renamed_in_one_portal_is_renamed_in_the_other(
    experiment: str, servers: Servers, clients: tuple[MlflowClient, MlflowClient], tmp_path: Path
) -> None:
    a_run(tmp_path)
    dbml.sync(60)
    primary, mirror = clients
    assert of_experiment(experiment).equal
    one, other = (c.get_experiment_by_name(experiment).experiment_id for c in clients)
    mirror.rename_experiment(other, f"{experiment}-b")
    assert named(of_experiment(experiment)) == {("experiment", "name")}
    assert not repaired(experiment).remaining
    assert primary.get_experiment(one).name == f"{experiment}-b"
    primary.rename_experiment(one, f"{experiment}-c")
    mirror.rename_experiment(other, f"{experiment}-d")
    done = repaired(f"{experiment}-c")
    assert mirror.get_experiment(other).name == f"{experiment}-c"
    assert f"{experiment}-d" in done.repaired[0].done
    assert of_experiment(f"{experiment}-c").equal


@pytest.mark.full
def test_what_prune_would_delete_is_all_named_and_nothing_else_goes(
    registries: tuple[MlflowClient, MlflowClient], servers: Servers, experiment_name: str, tmp_path: Path
) -> None:
    here, there = registries
    name, run = a_registered_model(experiment_name)
    with mlflow.start_run(run_name="second"):
        mlflow.set_tag("mlflow.note.content", "a note")
        mlflow.log_metric("m", 1.0)
    dbml.sync(60)
    second = mlflow.last_active_run().info.run_id
    model = mlflow.get_run(run).outputs.model_outputs[0].model_id
    twin, other = (mirrored(servers, each, experiment_name) for each in (run, second))
    one, two = (client.get_run(own).info.experiment_id for client, own in ((here, run), (there, twin)))
    # All that can be edited is at both, and both are known to say it.
    here.set_tag(run, "team", "wine")
    here.set_experiment_tag(one, "owner", "me")
    here.set_logged_model_tags(model, {"checked": "yes"})
    here.update_model_version(name, "1", "the first")
    here.set_model_version_tag(name, "1", "stage", "test")
    here.update_registered_model(name, "of wine")
    here.set_registered_model_tag(name, "owner", "me")
    here.set_registered_model_alias(name, "champion", "1")
    assert not repaired(experiment_name).remaining
    assert of_experiment(experiment_name).equal

    # All of it is taken away at the primary, and the mirror has things of its own.
    here.delete_tag(run, "team")
    here.delete_tag(second, "mlflow.note.content")
    here._tracking_client.store.delete_experiment_tag(one, "owner")
    here.delete_logged_model_tag(model, "checked")
    here.update_model_version(name, "1", "")
    here.delete_model_version_tag(name, "1", "stage")
    here.update_registered_model(name, "")
    here.delete_registered_model_tag(name, "owner")
    here.delete_registered_model_alias(name, "champion")
    put(there, servers.azureml, twin, "stray.txt")
    stray = there.create_run(two, run_name="stray")
    there.set_terminated(stray.info.run_id)
    copy = there.create_run(two, run_name="copied", tags={"dbml_run_id": second})
    third = here.create_run(one, run_name="third")
    here.set_terminated(third.info.run_id)
    assert repaired(experiment_name).copied == 1
    here.delete_run(third.info.run_id)
    here.update_run(run, name="renamed")  # mended, and nothing of that is a deletion

    expected = {
        ("tag", "team"),
        ("note", ""),
        ("artifact", "stray.txt"),
        ("run", ""),
        ("copy", ""),
        ("stage", ""),
        ("experiment", "tag owner"),
        ("model", f"{model} tag checked"),
        ("version", "description"),
        ("version", "tag stage"),
        ("registered model", "description"),
        ("registered model", "tag owner"),
        ("alias", "champion"),
    }
    kept = repaired(experiment_name)
    here.update_run(run, name="renamed again")
    assert {(r.difference.kind, r.difference.key) for r in kept.remaining} == expected, str(kept)
    with pytest.raises(NotConfirmed) as refused:
        repaired(experiment_name, prune=True)
    named = refused.value.message.splitlines()[1:]
    assert len(named) == len(expected), named
    for word in ("team", "note", "stray.txt", "run stray", "third", "tag owner", "checked", "champion"):
        assert any(word in line for line in named), f"{word} is not among {named}"
    assert not any("renamed again" in line and "name" in line.split(" of ")[0] for line in named)
    assert there.get_model_version_by_alias(name, "champion").version == "1"
    assert there.get_run(copy.info.run_id).info.lifecycle_stage == "active"

    done = repaired(experiment_name, prune=True, confirm=True)
    gone = {(r.difference.kind, r.difference.key) for r in done.repaired if "deleted" in r.done}
    assert gone == expected, str(done)
    assert not done.remaining, str(done)
    assert of_experiment(experiment_name).equal
    assert there.get_registered_model(name).aliases == {}
    assert there.get_run(stray.info.run_id).info.lifecycle_stage == "deleted"
    assert there.get_run(other).info.lifecycle_stage == "active"


def test_an_experiment_goes_only_when_it_was_named_and_confirmed(
    experiment: str, servers: Servers, clients: tuple[MlflowClient, MlflowClient], tmp_path: Path
) -> None:
    a_run(tmp_path)
    dbml.sync(60)
    primary, mirror = clients
    primary.delete_experiment(primary.get_experiment_by_name(experiment).experiment_id)
    with pytest.raises(NotConfirmed, match=f"experiment {experiment}"):
        repaired(experiment, prune=True)
    assert mirror.get_experiment_by_name(experiment).lifecycle_stage == "active"
    repaired(experiment, prune=True, confirm=True)
    assert mirror.get_experiment_by_name(experiment).lifecycle_stage == "deleted"


def test_pruning_with_nothing_to_delete_repairs_and_fails_nothing(
    experiment: str, clients: tuple[MlflowClient, MlflowClient], tmp_path: Path
) -> None:
    run = a_run(tmp_path)
    dbml.sync(60)
    clients[0].set_tag(run, "team", "gin")
    done = repaired(experiment, prune=True)
    assert [r.difference.key for r in done.repaired] == ["team"]
    assert str(repaired(experiment, prune=True)).startswith("Nothing to repair")


def test_many_runs_come_over_in_few_requests(
    home: object, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    primary, mirror = (MlflowClient(server.uri) for server in servers)
    for number in range(8):  # where a run's parent is not
        for client in (primary, mirror):
            client.create_experiment(f"{experiment_name}-{number}")
    at = primary.create_experiment(experiment_name)
    parent = ""
    for number in range(12):
        tags = {"mlflow.parentRunId": parent} if number % 4 else {}
        run = primary.create_run(at, run_name=f"run {number}", tags=tags).info.run_id
        parent = parent if number % 4 else run
        points = [Metric(f"m{k}", float(k), step + 1, step) for k in range(6) for step in range(5)]
        params = [Param(f"p{k}", str(k)) for k in range(10)]
        primary.log_batch(run, points, params)
        model = primary.create_logged_model(at, f"model-{number}", run)
        primary.finalize_logged_model(model.model_id, "READY")
        primary.set_terminated(run)
    time.sleep(0.01)
    linking.link(proxies)
    for proxy in proxies:
        proxy.forget()
    done = dbml.repair(experiment=experiment_name)
    assert done.copied == 12
    assert not done.remaining, str(done)
    assert linking.runs_at(servers, experiment_name) == [12, 12]
    assert of_experiment(experiment_name, deep=True).equal
    # Each run's points, params and tags go together, each history is read once, models are listed once.
    assert proxies.azureml.count("runs/log-batch$") <= 12 + 3
    assert proxies.databricks.count("metrics/get-history") <= (12 + 12) * 6 + 30
    assert proxies.databricks.count("logged-models/search$") <= 30
    assert proxies.azureml.count("runs/search$") <= 12 + 4 + 10


def nested_runs(uri: str, experiment: str, parent: str, count: int) -> list[str]:
    """Make ended runs that are nested in one."""
    client = MlflowClient(uri)
    at = client.get_experiment_by_name(experiment).experiment_id
    runs = [client.create_run(at, tags={"mlflow.parentRunId": parent}).info.run_id for _ in range(count)]
    for run in runs:
        client.set_terminated(run)
    return runs


@pytest.mark.parametrize("later", [False, True])
def test_a_parent_is_looked_for_once_however_many_runs_are_nested_in_it(
    home: object, proxies: Proxies, servers: Servers, experiment_name: str, later: bool
) -> None:
    """A parent that began before them is copied in its own turn, which comes first."""
    primary, mirror = (MlflowClient(server.uri) for server in servers)
    at = primary.create_experiment(experiment_name)
    began = int((time.time() + (3600 if later else 0)) * 1000)
    parent = primary.create_run(at, began, run_name="parent").info.run_id
    primary.set_terminated(parent)
    nested_runs(servers.databricks.uri, experiment_name, parent, 15)
    linking.link(proxies)
    for proxy in proxies:
        proxy.forget()
    done = repaired(experiment_name)
    assert done.copied == 16
    assert not done.remaining, str(done)
    lacking = [r for r in proxies.azureml.requests("runs/get$") if r.status == 404]
    assert len(lacking) == later, "the mirror is asked for a parent by its id once, if at all"
    asked = [r for r in proxies.databricks.requests("runs/get$") if parent in r.query]
    assert len(asked) <= 3, "the primary once for all that is nested in it, then for what was copied"
    found = mirror.search_runs([mirror.get_experiment_by_name(experiment_name).experiment_id])
    own = linking.own_id(servers.azureml.uri, parent, experiment_name)
    nested = [run for run in found if run.data.tags.get("mlflow.parentRunId") == own]
    assert len(nested) == 15
    assert of_experiment(experiment_name).equal


def test_a_parent_that_is_nowhere_is_looked_for_once_and_keeps_each_of_its_runs_from_being_copied(
    home: object, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    primary = MlflowClient(servers.databricks.uri)
    primary.create_experiment(experiment_name)
    nowhere = "0" * 31 + "1"
    nested_runs(servers.databricks.uri, experiment_name, nowhere, 12)
    linking.link(proxies)
    for proxy in proxies:
        proxy.forget()
    done = repaired(experiment_name)
    assert done.copied == 0
    assert [r.done for r in done.remaining] == [
        f"azureml refused it: its run {nowhere} is in neither workspace"
    ] * 12
    assert proxies.azureml.count("runs/get$") <= 1
    assert proxies.azureml.count("runs/create$") == 0
