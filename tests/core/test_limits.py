"""What a service takes: batches fit, rates are kept, and a run that has too much loses nothing."""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from mlflow import MlflowClient

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core.delivery.batching import Batch, within
from dbml_magics.core.delivery.writers.overflow_files import ARTIFACT, OverflowFiles, item_row
from dbml_magics.core.destinations import limits as table
from dbml_magics.core.destinations import rates, rest
from dbml_magics.core.destinations.connecting import connect
from dbml_magics.core.destinations.databricks import DatabricksWorkspace
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.destinations.health import Health
from dbml_magics.core.destinations.limits import BY_KIND, SOURCES, Limits
from dbml_magics.core.destinations.rates import RateLimiter, backfill
from dbml_magics.core.link import WorkspaceSpec
from tests.conftest import Proxies, Servers
from tests.core.linking import (
    LOG_BATCH,
    arrived,
    assert_written_once,
    both_sides,
    child,
    dead_letters,
    finish,
    link,
    steps,
    sync,
)
from tests.core.modelling import log_linear
from tests.infra import plain, service_limits
from tests.infra.proxy import Proxy
from tests.infra.wait import eventually

# mlflow#20715
FULL_MODEL = (
    "BAD_REQUEST: Unable to log new or update existing logged model metrics for model m-1, exceeded maximum "
    "allowed number of logged model metrics per logged model: 1000. To raise this quota please contact the "
    "Databricks support team."
)


@pytest.fixture
def linked(linked: Proxies) -> Proxies:
    """Return the proxies of a link whose experiment both workspaces have."""
    sync()
    return linked


def known_as(role: str, kind: str) -> None:
    """Let the link know a role's limits as those of a kind of service."""
    engine = session.current().engine("this test")
    workspace = engine.workspaces[role]
    workspace.limits = engine.side(role).learned.limits = BY_KIND[kind]
    workspace.limiter = RateLimiter(workspace.limits.rates)


def refusals(proxy: Proxy) -> int:
    """Count the batches that a service refused."""
    return len([r for r in proxy.requests("log-batch") if r.status == 400])


@pytest.fixture
def clouds(linked: Proxies) -> Proxies:
    """Return the proxies, each with the limits of its role's service, which the link knows."""
    linked.databricks.limit(service_limits.DATABRICKS_LIMITS)
    linked.azureml.limit(service_limits.AZUREML_LIMITS, wording="azureml")
    known_as("databricks", "databricks")
    known_as("azureml", "azureml")
    return linked


def kept(servers: Servers, run_id: str, experiment: str, path: str | None = None) -> dict[str, Any]:
    """Return what the mirror keeps of a run in the (newest) file of what it does not take."""
    reader = plain.client(servers.azureml.uri)
    twin = plain.twin_id(servers.azureml.uri, run_id, experiment)
    files = [f.path for f in reader.list_artifacts(twin, "dbml") if "overflow" in f.path]
    newest = max(files, key=lambda name: (len(name), name))
    found = json.loads(Path(reader.download_artifacts(twin, path or newest)).read_text(encoding="utf-8"))
    assert found["run_id"] == run_id
    return dict(found)


# --- the table


def test_each_figure_of_the_table_has_its_source_and_fits_what_the_services_enforce() -> None:
    for kind, limits in BY_KIND.items():
        known = {name for name, value in vars(limits).items() if value not in (None, False, {})}
        assert known == set(SOURCES[kind]), f"sources of {kind}"
    enforced = {"databricks": service_limits.DATABRICKS_LIMITS, "azureml": service_limits.AZUREML_LIMITS}
    names = {"body": "body_bytes"}
    for kind, theirs in enforced.items():
        for name, value in theirs.items():
            own = getattr(BY_KIND[kind], names.get(name, name))
            assert own is not None, f"{kind} enforces {name}"
            assert own <= value, f"{kind} refuses more than {value} {name}"
    assert dict(BY_KIND["databricks"].rates) == service_limits.DATABRICKS_RATES


@pytest.mark.parametrize("kind", sorted(BY_KIND))
def test_requests_hold_no_more_than_a_service_takes_in_items_and_in_bytes(kind: str) -> None:
    limits = BY_KIND[kind]
    batch = Batch(
        [(f"k{n}" + "é" * 200, float(n), 1_763_900_000_000, n) for n in range(2500)],
        {f"p{n}": "ü" * 6000 for n in range(250)},
        {f"t{n}": '"' * 5000 for n in range(150)},
    )
    parts = list(within(batch, limits))
    assert [p for part in parts for p in part.metrics] == batch.metrics
    assert {k: v for part in parts for k, v in part.params.items()} == batch.params
    assert {k: v for part in parts for k, v in part.tags.items()} == batch.tags
    for part in parts:
        assert len(part.metrics) <= limits.metrics
        assert len(part.params) <= limits.params
        assert len(part.tags) <= limits.tags
        assert len(part) <= limits.items
        body = {
            "run_id": "f" * 32,
            "metrics": [{"key": k, "value": v, "timestamp": t, "step": s} for k, v, t, s in part.metrics],
            "params": [{"key": k, "value": v} for k, v in part.params.items()],
            "tags": [{"key": k, "value": v} for k, v in part.tags.items()],
        }
        assert len(json.dumps(body)) <= limits.body_bytes


@pytest.mark.parametrize(
    ("refusal", "limited"),
    [
        ("A field of the entity is over the size limit. FieldName=Parameters, Limit=200, Size=210.", True),
        ("Tag value 'x' had length 9000, which exceeded length limit of 8000", True),
        ("answers 413: <html>Request Entity Too Large</html>", True),
        ("Changing param values is not allowed.", False),
        ("Request rate limit exceeded, too many requests", False),
        ("Metric value must be a number", False),
        (FULL_MODEL, True),
    ],
)
def test_a_refusal_for_a_limit_is_told_from_one_for_another_reason(refusal: str, limited: bool) -> None:
    assert table.names_a_limit(refusal) is limited


@pytest.mark.parametrize(
    ("refusal", "value", "left"),
    [
        ("Param value 'x' had length 300, which exceeded length limit of 250", "x" * 300, 250),
        ("FieldName=Tags.Value, Limit=1000, Size=3000.", "x" * 3000, 1000),
        ("Tag value of 600 bytes exceeds the limit of 500 bytes: size=600", "é" * 300, 250),
        ("'value' exceeds the maximum length of 250 characters", "x" * 300, 250),
        ("the value exceeds the limit of 64 KB bytes", "x" * 70_000, 65_536),
        ("FieldName=Parameters, Limit=200, Size=210.", "x" * 300, None),
        ("the limit of 250 characters of a key", "x" * 100, None),
        ("Changing param values is not allowed.", "x" * 300, None),
    ],
)
def test_a_value_is_cut_to_what_its_refusal_admits(refusal: str, value: str, left: int | None) -> None:
    cut = table.cut_to(refusal, value)
    assert (None if cut is None else len(cut)) == left


def test_databricks_words_for_a_full_model_say_nothing_of_the_size_of_a_batch() -> None:
    assert table.number_named(FULL_MODEL) == 1000
    assert replace(table.DATABRICKS, metrics=5000).lowered(FULL_MODEL, 4000) is None


# --- what a run has too much of


def test_values_that_databricks_refuses_beyond_250_characters_are_cut_to_what_it_takes(
    clouds: Proxies, servers: Servers, experiment_name: str
) -> None:
    """Its page says 250, MLflow's own server takes 6,000: one refusal of each kind tells it."""
    clouds.databricks.limit(service_limits.DATABRICKS_DOCUMENTED)
    with mlflow.start_run() as run:
        mlflow.log_params({f"p{n}": str(n) * 3000 for n in range(4)})
        mlflow.set_tag("note", "é" * 400)
        sync()
        before = refusals(clouds.databricks)
        mlflow.log_params({f"q{n}": str(n) * 3000 for n in range(4)})
        mlflow.set_tag("other", "y" * 400)
        mlflow.log_metric("loss", 1.0)
    sync()
    assert refusals(clouds.databricks) == before, "a length that was learnt is not tried again"
    reader = plain.client(servers.databricks.uri)
    found = reader.get_run(run.info.run_id).data
    assert found.params == {f"{k}{n}": str(n) * 250 for n in range(4) for k in "pq"}
    assert (found.tags["note"], found.tags["other"]) == ("é" * 250, "y" * 250)
    assert found.metrics == {"loss": 1.0}
    file = json.loads(Path(reader.download_artifacts(run.info.run_id, ARTIFACT)).read_text(encoding="utf-8"))
    assert file["params"] == {f"{k}{n}": str(n) * 3000 for n in range(4) for k in "pq"}
    assert file["tags"] == {"note": "é" * 400, "other": "y" * 400}
    assert dead_letters() == []


def test_a_batch_that_azure_ml_refuses_for_a_size_that_it_does_not_name_is_halved_from_then_on(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """Its page says 250 metrics; some workspaces have refused what is above 200."""
    linked.azureml.limit({"metrics": 200}, wording="silent")
    known_as("azureml", "azureml")
    with mlflow.start_run() as run:
        for step in range(2000):
            mlflow.log_metric("m", step, step=step)
    sync()
    assert steps(arrived(servers, run.info.run_id, experiment_name), "m") == list(range(2000))
    assert refusals(linked.azureml) == 1
    assert dead_letters() == []
    assert_written_once(linked)


def test_a_runs_name_and_description_are_as_long_at_azure_ml_as_it_takes_them(
    clouds: Proxies, servers: Servers, experiment_name: str
) -> None:
    name, note = "n" * 300, "d" * 4000
    with mlflow.start_run(run_name=name, description=note) as run:
        mlflow.set_tag("long", "x" * 4000)
    sync()
    other = f"{name}-2"
    MlflowClient().update_run(run.info.run_id, name=other)
    sync()
    twin = plain.twin_id(servers.azureml.uri, run.info.run_id, experiment_name)
    there = plain.client(servers.azureml.uri).get_run(twin)
    assert (there.info.run_name, there.data.tags["mlflow.note.content"]) == (name[:256], note)
    assert "long" not in there.data.tags
    found = kept(servers, run.info.run_id, experiment_name)
    assert found["tags"] == {"mlflow.runName": other, "long": "x" * 4000}
    assert dead_letters() == []
    assert dbml.verify(run=run.info.run_id).differences == ()
    assert not [r for r in clouds.azureml.requests("/runs/") if r.status == 400], "nothing was tried in vain"


def test_what_azure_ml_does_not_take_is_left_out_there_said_and_kept(
    clouds: Proxies, servers: Servers, experiment_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One run that has more of everything; the rest of it arrives, and nothing is a dead letter."""
    tags = {"long": "x" * 3000, "k" * 120: "v", **{f"tag{n:02}": "v" for n in range(60)}}
    with caplog.at_level(logging.WARNING, logger="dbml_magics"):
        with dbml.track("rich", tags=tags) as run:
            for step in range(3):
                mlflow.log_metrics({f"m{n:02}": n + step for n in range(60)}, step=step)
            mlflow.log_metric("m59", float("nan"), step=3)
            mlflow.log_params({f"p{n:03}": n for n in range(60)})
            for start in (60, 120, 180):
                mlflow.log_params({f"p{n:03}": n for n in range(start, start + 60)})
            mlflow.set_tag("m00", "known names go on")
            mlflow.log_metric("m00", 7, step=9)
            mlflow.log_text("t", "t.txt")
        sync()
    summary = str(run.summary)
    primary, mirror = both_sides(servers, run.run_id, experiment_name)
    assert len(primary["metrics"]) == 60
    assert len(primary["params"]) == 240
    assert (len(mirror["metrics"]), len(mirror["params"]), mirror["status"]) == (50, 200, "FINISHED")
    assert steps(mirror, "m00") == [0, 1, 2, 9]
    assert mirror["artifacts"]["t.txt"] == primary["artifacts"]["t.txt"]
    own = plain.client(servers.azureml.uri).get_run(mirror["run_id"]).data.tags
    assert len(own) <= 50 - 1, "room is kept for our second tag"
    assert own["dbml_run_id"] == run.run_id
    assert own["mlflow.runName"] == "rich"
    found = kept(servers, run.run_id, experiment_name)
    assert set(found["metrics"]) == {f"m{n}" for n in range(50, 60)}
    assert [(step, value) for step, _, value in found["metrics"]["m59"]] == [
        (0, 59.0),
        (1, 60.0),
        (2, 61.0),
        (3, "NaN"),
    ]
    assert found["params"] == {f"p{n:03}": str(n) for n in range(200, 240)}
    assert found["tags"]["long"] == "x" * 3000
    assert {**own, **found["tags"]}.keys() >= tags.keys()
    for said in (
        "azureml takes 50 metric names a run: metrics m50, m51, m52 and 7 more (31 points) are",
        "azureml takes 200 params a run: params p200, p201, p202 and 37 more are",
        "azureml takes 1,000 characters in a tag: tag long is",
        "azureml takes 100 characters in a tag's name",
        "azureml takes 50 tags a run",
        ARTIFACT,
    ):
        assert said in summary
    assert "rich has more than azureml takes" in str(dbml.status())
    messages = [r.getMessage() for r in caplog.records if "50 metric names" in r.getMessage()]
    assert len(messages) == 1, "said once"
    assert not [r for r in clouds.azureml.requests("/runs/") if r.status == 400], "nothing was tried in vain"
    assert_written_once(clouds)


def test_limits_that_nobody_knew_are_learnt_from_the_refusals(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """An MLflow server with Azure ML behind it, say: once refused, the next item is not tried."""
    linked.azureml.limit({**service_limits.AZUREML_LIMITS, "metric_rows": 30}, wording="azureml")
    with dbml.track("rich", tags={"long": "x" * 3000, "short": "y"}) as run:
        mlflow.log_metrics({f"m{n:02}": n for n in range(60)}, step=0)
        mlflow.log_params({f"p{n:03}": n for n in range(100)})
        mlflow.log_params({f"p{n:03}": n for n in range(100, 200)})
        sync()
        for step in range(1, 100):
            mlflow.log_metric("m00", step, step=step)
        mlflow.log_params({f"p{n:03}": n for n in range(195, 220)})
        mlflow.log_metric("m01", 5, step=1)
    sync()
    _, mirror = both_sides(servers, run.run_id, experiment_name)
    assert (len(mirror["metrics"]), len(mirror["params"]), mirror["status"]) == (50, 200, "FINISHED")
    assert steps(mirror, "m00") == list(range(30))
    assert steps(mirror, "m01") == [0, 1]
    found = kept(servers, run.run_id, experiment_name)
    assert [step for step, *_ in found["metrics"]["m00"]] == list(range(30, 100))
    assert set(found["metrics"]) - {"m00"} == {f"m{n}" for n in range(50, 60)}
    assert len(found["params"]) == 20
    assert found["tags"] == {"long": "x" * 3000}
    assert dead_letters() == []
    with mlflow.start_run() as other:
        mlflow.log_metrics({f"n{n}": n for n in range(20)})
    sync()
    arrived(servers, other.info.run_id, experiment_name)
    assert_written_once(linked)


def test_our_two_tags_fit_a_run_that_is_full_of_others(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """Nobody knew of a limit, so the user's tags took all there was; one of them makes room."""
    linked.azureml.limit({"run_tags": 20}, wording="azureml")
    linked.azureml.without_logged_models()
    with mlflow.start_run() as run:
        mlflow.set_tags({f"u{n:02}": "v" for n in range(30)})
        sync()
        log_linear()
    sync(120)
    twin = plain.twin_id(servers.azureml.uri, run.info.run_id, experiment_name)
    own = plain.client(servers.azureml.uri).get_run(twin).data.tags
    assert {"dbml_run_id", "dbml_models"} <= own.keys()
    assert {**own, **kept(servers, run.info.run_id, experiment_name)["tags"]}.keys() >= {
        f"u{n:02}" for n in range(30)
    }
    assert dead_letters() == []


def test_a_tag_that_outgrows_the_limit_and_shrinks_again(
    clouds: Proxies, servers: Servers, experiment_name: str
) -> None:
    with mlflow.start_run() as run:
        mlflow.set_tag("note", "short")
        sync()
        twin = plain.twin_id(servers.azureml.uri, run.info.run_id, experiment_name)
        reader = plain.client(servers.azureml.uri)
        mlflow.set_tag("note", "x" * 2000)
        mlflow.set_tag("gone", "y" * 2000)
        sync()
        assert "note" not in reader.get_run(twin).data.tags, "it would say what is no longer so"
        assert kept(servers, run.info.run_id, experiment_name)["tags"]["note"] == "x" * 2000
        mlflow.set_tag("note", "short again")
        mlflow.delete_tag("gone")
    sync()
    assert reader.get_run(twin).data.tags["note"] == "short again"
    assert kept(servers, run.info.run_id, experiment_name)["tags"] == {}


def test_a_run_that_is_taken_up_again_has_one_whole_file(
    clouds: Proxies, servers: Servers, experiment_name: str, home: Path
) -> None:
    """Azure ML's files cannot be written again: the newest is complete, though the journal is long gone."""
    with mlflow.start_run() as run:
        mlflow.log_param("p", 1)
        mlflow.set_tag("first", "x" * 2000)
    sync()
    eventually(lambda: not list(home.glob("links/*/queues/*")), "the journal is cleaned")
    with mlflow.start_run(run_id=run.info.run_id):
        mlflow.set_tag("second", "y" * 2000)
    sync()
    found = kept(servers, run.info.run_id, experiment_name, "dbml/overflow-2.json")
    assert found["tags"] == {"first": "x" * 2000, "second": "y" * 2000}
    assert set(kept(servers, run.info.run_id, experiment_name, ARTIFACT)["tags"]) == {"first"}


def test_what_is_kept_while_its_file_is_being_written_stands_in_the_next(
    clouds: Proxies, servers: Servers, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, times = OverflowFiles._compose, iter([1])

    def compose(self: OverflowFiles, run: str, out: Any) -> None:
        real(self, run, out)
        if next(times, None):
            self.keep(run, [item_row("p", "late", "1", "200 params a run")])

    monkeypatch.setattr(OverflowFiles, "_compose", compose)
    with mlflow.start_run() as run:
        mlflow.log_metrics({f"m{n}": 1.0 for n in range(60)})
    sync()
    found = kept(servers, run.info.run_id, experiment_name)
    assert found["params"] == {"late": "1"}
    assert len(found["metrics"]) == 10


def test_a_primary_that_does_not_take_all_tags_names_the_run_all_the_same(
    home: Path, proxies: Proxies, experiment_name: str, servers: Servers
) -> None:
    """Track to Azure ML alone, with more tags than it takes: start_run must not raise."""
    proxies.azureml.limit(service_limits.AZUREML_LIMITS, wording="azureml")
    dbml.link(azureml=proxies.azureml.uri, track="azureml", registry="azureml")
    mlflow.set_experiment(experiment_name)
    tags = {"long": "x" * 3000, **{f"tag{n}": "v" for n in range(20)}}
    with mlflow.start_run(tags=tags) as run:
        mlflow.log_metric("m", 1)
        assert mlflow.get_run(run.info.run_id).data.tags["long"] == "x" * 3000
    sync()
    own = plain.client(servers.azureml.uri).get_run(run.info.run_id).data.tags
    assert {f"tag{n}" for n in range(20)} <= own.keys()
    assert own["dbml_run_id"] == run.info.run_id
    assert kept(servers, run.info.run_id, experiment_name)["tags"] == {"long": "x" * 3000}


@pytest.mark.full
def test_a_storage_that_is_closed_holds_up_the_file_alone(
    clouds: Proxies, servers: Servers, experiment_name: str
) -> None:
    """Uploads get 403 (a storage's firewall): the run is delivered, its file comes later."""
    denied = clouds.azureml.status(403, path="mlflow-artifacts", method="PUT")
    with mlflow.start_run() as run:
        mlflow.set_tag("long", "x" * 2000)
        mlflow.log_metric("m", 1)
    twin = eventually(
        lambda: plain.twin_id(servers.azureml.uri, run.info.run_id, experiment_name), "the run is there"
    )
    eventually(
        lambda: plain.run(servers.azureml.uri, twin, files=False)["status"] == "FINISHED", "it has ended"
    )
    eventually(lambda: denied.hits, "the file was tried")
    assert session.current().status().destinations[1].pending == 1, "the file still waits"
    with pytest.raises(dbml.DeliveryIncomplete, match="1 write waits for azureml"):
        dbml.sync(timeout=2)
    assert denied.hits <= 3, "a storage that refuses is not asked again and again"
    script = """
        import dbml_magics as dbml
        print(dbml.link(again=True).destinations[1].pending)
    """
    other = child(script)
    assert finish(other).splitlines()[-1] == "1", "another process sees it too, and need not write it"
    denied.clear()
    sync()
    assert kept(servers, run.info.run_id, experiment_name)["tags"] == {"long": "x" * 2000}


def test_a_model_of_too_many_files_is_not_registered_there_and_holds_up_nothing(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies, registry="both")
    mlflow.set_experiment(experiment_name)
    engine = session.current().engine("this test")
    engine.side("azureml").learned.limits = replace(BY_KIND["azureml"], model_files=3)
    with mlflow.start_run() as run:
        for name in ("a/1.bin", "a/2.bin", "b.bin", "MLmodel"):
            mlflow.log_text("flavors: {}", f"model/{name}")
        mlflow.register_model(f"runs:/{run.info.run_id}/model", experiment_name)
        mlflow.log_metric("m", 1)
    dbml.sync(60)
    ((role, op, cause),) = dead_letters()
    assert (role, op[1]) == ("azureml", "V")
    assert "more files than azureml takes for a version (3)" in cause
    arrived(servers, run.info.run_id, experiment_name)
    found = [plain.model_versions(server.uri, experiment_name) for server in servers]
    assert [len(versions) for versions in found] == [1, 0]


def test_a_model_with_too_many_metrics_costs_the_run_none(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    linked.azureml.limit({"model_metrics": 3})
    client = MlflowClient()
    with dbml.track("many") as run:
        experiment_id = client.get_run(run.run_id).info.experiment_id
        model = client.create_logged_model(experiment_id, name="m", source_run_id=run.run_id)
        for n in range(5):
            mlflow.log_metric(f"m{n}", n, step=1, model_id=model.model_id)
        sync()
        for n in range(5):
            mlflow.log_metric(f"m{n}", n, step=2)
    sync()
    _, mirror = both_sides(servers, run.run_id, experiment_name)
    assert {key: steps(mirror, key) for key in mirror["metrics"]} == {f"m{n}": [1, 2] for n in range(5)}
    found = kept(servers, run.run_id, experiment_name)
    assert set(found["metrics"]) == {"m3", "m4"}
    assert found["metrics"]["m3"][0][3][0] == model.model_id
    assert "azureml takes 3 metrics a logged model: metrics m3, m4 (2 points) are" in str(run.summary)
    before = refusals(linked.azureml)
    with dbml.track("more"):
        for n in range(20):
            mlflow.log_metric(f"m{n}", n, step=3, model_id=model.model_id)
    sync()
    assert refusals(linked.azureml) == before, "a full model takes no more of those that it has either"


def test_a_run_near_a_limit_is_named_before_it_is_reached(clouds: Proxies) -> None:
    with mlflow.start_run(run_name="wide"):
        mlflow.log_metrics({f"m{n}": n for n in range(47)})
        sync()
        assert "wide has 47 of the 50 metric names a run that azureml takes" in str(dbml.status())


def test_a_body_that_is_too_large_is_split_and_the_size_is_learnt(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """A gateway in front of the server takes 100 kB: 413 in words of its own, or a 400 that says so."""
    linked.azureml.limit({"body": 100_000})
    with mlflow.start_run() as run:
        for n in range(4):
            mlflow.log_params({f"p{n}-{k}": "ü" * 400 for k in range(90)})
        for step in range(2000):
            mlflow.log_metric("a metric with a name of some length", step, step=step)
    sync()
    arrived(servers, run.info.run_id, experiment_name)
    refused = [r for r in linked.azureml.requests(LOG_BATCH) if r.status == 400]
    assert 1 <= len(refused) <= 2
    assert_written_once(linked)


def test_a_long_history_is_read_in_pages_that_the_service_takes(
    clouds: Proxies, servers: Servers, experiment_name: str
) -> None:
    """A batch whose answer was lost is compared with the history; Azure ML takes pages below 1,000."""
    with mlflow.start_run() as run:
        for step in range(1500):
            mlflow.log_metric("m", step, step=step)
        sync()
        clouds.azureml.drop(path=LOG_BATCH, times=2)
        for step in range(1500, 1600):
            mlflow.log_metric("m", step, step=step)
    sync()
    assert steps(arrived(servers, run.info.run_id, experiment_name), "m") == list(range(1600))
    assert_written_once(clouds)


# --- rates


@pytest.mark.full
def test_one_process_keeps_to_databricks_rates(
    clouds: Proxies, servers: Servers, experiment_name: str
) -> None:
    """Two dozen runs at once, and searches beside them: next to no request is answered 429."""
    clouds.databricks.rates()
    client = MlflowClient()
    experiment_id = client.get_experiment_by_name(experiment_name).experiment_id
    begun = time.monotonic()
    for n in range(24):
        run = client.create_run(experiment_id)
        client.log_metric(run.info.run_id, "m", n)
        client.set_terminated(run.info.run_id)
    threads = [
        threading.Thread(target=lambda: [client.search_runs([experiment_id]) for _ in range(6)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sync()
    assert clouds.databricks.count("runs/search") >= 24
    assert time.monotonic() - begun > 2, "24 searches take three seconds at 7 a second"
    refused = [r for r in clouds.databricks.requests() if r.status == 429]
    # They leave here evenly; on a busy machine some arrive together.
    assert len(refused) <= 3, f"{len(refused)} requests came faster than Databricks takes them"
    assert len(plain.runs(servers.databricks.uri, experiment_name, files=False)) == 24


def test_retry_after_is_obeyed_by_everybody_in_the_process(linked: Proxies, experiment_name: str) -> None:
    linked.databricks.status(429, retry_after=2, path="runs/search", times=1)
    client = MlflowClient()
    experiment_id = client.get_experiment_by_name(experiment_name).experiment_id
    found = client.search_runs([experiment_id])
    assert found == []
    asked = linked.databricks.requests("runs/search")
    assert [r.status for r in asked] == [429, 200]
    assert asked[1].time - asked[0].time >= 1.9


def test_few_requests_are_under_way_at_once() -> None:
    limiter = RateLimiter({})
    lock, go = threading.Lock(), threading.Event()
    inside, most, done = 0, 0, 0

    def ask() -> None:
        nonlocal inside, most, done
        with limiter.turn("/api/2.0/mlflow/runs/create", 60):
            with lock:
                inside += 1
                most = max(most, inside)
            go.wait(60)
            with lock:
                inside -= 1
                done += 1

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    eventually(lambda: inside == rates._AT_ONCE, "as many as may are under way")
    with pytest.raises(Unavailable, match="has not answered 10 requests yet") as raised:
        limiter.take("/api/2.0/mlflow/runs/get", 0.2)
    assert not raised.value.sent
    with limiter.turn("/api/2.0/mlflow-artifacts/artifacts/a.txt", 0.2):
        pass  # a file may take minutes: it counts for none
    go.set()
    for thread in threads:
        thread.join()
    assert (most, done) == (rates._AT_ONCE, 40)


def test_live_runs_go_before_back_fill() -> None:
    limiter = RateLimiter({"log-batch": 20})
    order: list[str] = []
    stop = threading.Event()

    def ask(who: str) -> None:
        with limiter.turn("/api/2.0/mlflow/runs/log-batch", 30):
            pass
        order.append(who)

    def fill() -> None:
        with backfill():
            while not stop.is_set():
                ask("back-fill")

    filling = threading.Thread(target=fill)
    filling.start()
    eventually(lambda: len(order) >= 10, "back-fill has had its share")
    waited = []
    for _ in range(10):  # what back-fill leaves free
        began = time.monotonic()
        ask("live")
        waited.append(time.monotonic() - began)
    for _ in range(20):
        ask("live")
    last = len(order) - 1
    while order[last] != "live":
        last -= 1
    during = order[order.index("live") : last]
    stop.set()
    filling.join()
    assert max(waited) < 0.5, "a live run does not wait for back-fill"
    assert during.count("live") > during.count("back-fill")


class Noting(RateLimiter):
    """A limiter that notes who asked, whether as back-fill, when it began to wait, and when it went."""

    def __init__(self, rates: dict[str, float]) -> None:
        super().__init__(rates)
        self.went: list[tuple[str, str, bool, float, float]] = []

    def take(self, endpoint: str, patience: float, request: object = None) -> None:
        began = time.monotonic()
        super().take(endpoint, patience, request)
        who, back = threading.current_thread().name, rates._backfilling.get()
        self.went.append((rates.kind_of(endpoint), who, back, began, time.monotonic()))


@pytest.mark.full
@pytest.mark.parametrize("what", ["verify", "repair"])
def test_a_live_run_does_not_wait_for_the_runs_that_are_compared_and_repaired(
    linked: Proxies, servers: Servers, experiment_name: str, what: str
) -> None:
    with linked.azureml.away():
        session.current().unlink()
    plain_client = plain.client(servers.databricks.uri)
    experiment_id = plain_client.get_experiment_by_name(experiment_name).experiment_id
    for number in range(6):  # that the mirror lacks
        older = plain_client.create_run(experiment_id).info.run_id
        plain_client.log_metric(older, "m", number)
        plain_client.set_terminated(older)
    link(linked)
    mlflow.set_experiment(experiment_name)
    sync()
    engine = session.current().engine("this test")
    limiter = engine.workspaces["databricks"].limiter = Noting({"other": 20.0, "search": 20.0})
    done = threading.Event()

    def live() -> None:
        client = MlflowClient()
        while not done.is_set():
            client.set_terminated(client.create_run(experiment_id).info.run_id)
            done.wait(0.5)  # it leaves something to back-fill

    training = threading.Thread(target=live, name="live")
    training.start()
    try:
        eventually(lambda: [w for w in limiter.went if w[1] == "live"], "a run lives")
        if what == "verify":
            for _ in range(5):  # as long as some runs live
                assert len(dbml.verify(experiment=experiment_name).differences) >= 6
        else:
            assert len(dbml.repair(experiment=experiment_name).repaired) >= 6
    finally:
        done.set()
        training.join()
    back = [w for w in limiter.went if w[2]]
    live_ones = [w for w in limiter.went if not w[2]]
    assert {who for _, who, *_ in back} & {"MainThread", "dbml-compare_0"}
    assert {who for _, who, *_ in live_ones} <= {"live", "dbml-databricks", "dbml-azureml"}
    assert len([w for w in live_ones if w[1] == "live"]) >= 2
    for kind, _, _, began, went in live_ones:
        before = [w for w in back if w[0] == kind and began < w[3] and w[4] < went]
        assert not before, "back-fill that came later does not go before a live run"
    dbml.sync(60)


def test_two_links_to_one_workspace_share_its_limiter(
    home: Path, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = servers.databricks.uri
    first = connect(WorkspaceSpec("databricks", uri))
    second = connect(WorkspaceSpec("azureml", uri.replace("127.0.0.1", "localhost") + "/"))
    other = connect(WorkspaceSpec("azureml", servers.azureml.uri))
    assert first.limiter is second.limiter
    assert first.limiter is not other.limiter


def test_two_sign_ins_to_one_databricks_workspace_share_its_limiter(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "databrickscfg"
    one = "host = https://adb-1.azuredatabricks.net\ntoken = not-a-token\n"
    path.write_text(f"[ada]\n{one}[job]\n{one}")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(path))
    found = []
    for name in ("ada", "job"):
        workspace = connect(WorkspaceSpec("databricks", f"databricks://{name}"))
        assert isinstance(workspace, DatabricksWorkspace)
        found.append(workspace)
    assert [workspace.creds().limiter for workspace in found] == [found[0].limiter] * 2
    assert found[0].limiter._rates == dict(BY_KIND["databricks"].rates)


def answer_of(headers: dict[str, str]) -> requests.Response:
    """Return a service's answer that has these headers."""
    response = requests.Response()
    response.headers.update(headers)
    return response


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "600"}, 600.0),
        ({"Retry-After": "86400"}, 3600.0),
        ({"Retry-After": "-1"}, 0.0),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        ({}, None),
        ({"Retry-After": "Fri, 27 Nov 2026 08:01:30 GMT", "Date": "Fri, 27 Nov 2026 08:00:00 GMT"}, 90.0),
        ({"Retry-After": "Fri, 27 Nov 2026 07:00:00 GMT", "Date": "Fri, 27 Nov 2026 08:00:00 GMT"}, 0.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date_by_the_services_clock(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert rest.retry_after(answer_of(headers)) == seconds


def test_retry_after_without_the_services_time_is_read_by_this_clock() -> None:
    until = formatdate(time.time() + 120, usegmt=True)
    found = rest.retry_after(answer_of({"Retry-After": until}))
    assert found is not None
    assert 60 < found <= 121


def test_a_retry_after_of_minutes_is_obeyed_by_delivery() -> None:
    line = Health()
    line.trouble(Unavailable("answers 503", retry_after=1800.0))
    assert 1700 < line.pause() <= 1800


def test_a_long_hold_is_told_instead_of_waited_for() -> None:
    limiter = RateLimiter({})
    limiter.take("/api/2.0/mlflow/runs/search", 1)
    limiter.hold("/api/2.0/mlflow/runs/search", 60)
    with pytest.raises(Unavailable, match="429") as raised:
        limiter.take("/api/2.0/mlflow/runs/search", 100)
    assert raised.value.retry_after is not None
    assert 55 < raised.value.retry_after <= 60
    assert not raised.value.sent
    limiter.take("/api/2.0/mlflow/runs/log-batch", 1)


def test_a_smaller_body_is_learnt_from_what_names_it_or_from_half_of_what_was_sent() -> None:
    limits = Limits(metrics=1000, params=100, tags=100, items=1000)
    lowered = limits.lowered_body("must be at most 65536 bytes, got a request of size 90000", 90_000)
    assert lowered is not None
    assert lowered.body_bytes == 65536
    halved = limits.lowered_body("answers 413: <html>too large</html>", 90_000)
    assert halved is not None
    assert halved.body_bytes == 45_000
    assert limits.lowered_body("at most 100 params", 90_000) is None
    assert limits.lowered_body("answers 413", 15_000) is None, "one item may be that large"
