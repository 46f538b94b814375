"""Each fault of the proxy, as a plain client sees it."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from tests.conftest import Proxies, Servers
from tests.infra import plain
from tests.infra.proxy import AZUREML_LIMITS, Proxy, basic
from tests.infra.wait import eventually

SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
BATCH = "/api/2.0/mlflow/runs/log-batch"


@pytest.fixture
def proxy(proxies: Proxies) -> Proxy:
    return proxies.databricks


@pytest.fixture
def run_id(servers: Servers, experiment_name: str) -> str:
    """Return a run at the server behind the proxy, made without the proxy."""
    client = MlflowClient(servers.databricks.uri, servers.databricks.uri)
    return str(client.create_run(client.create_experiment(experiment_name)).info.run_id)


def points(count: int) -> list[dict[str, object]]:
    return [{"key": "loss", "value": 1.0, "timestamp": 1000 + step, "step": step} for step in range(count)]


def log_batch(proxy: Proxy, run_id: str, count: int) -> requests.Response:
    return requests.post(proxy.uri + BATCH, json={"run_id": run_id, "metrics": points(count)}, timeout=20)


def test_without_faults_mlflow_works_through_it_and_the_log_tells_what_came(
    proxy: Proxy, run_id: str
) -> None:
    client = MlflowClient(proxy.uri, proxy.uri)
    client.log_batch(run_id, metrics=[Metric("loss", float(i), i, i) for i in range(1000)])

    assert len(plain.history(proxy.uri, run_id, "loss")) == 1000
    (batch,) = proxy.requests("log-batch")
    assert (batch.method, batch.status, batch.fault) == ("POST", 200, None)
    assert batch.received > 10_000


def test_large_files_stream_through_both_ways(proxy: Proxy, run_id: str, tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    big.write_bytes(b"0123456789abcdef" * (2 << 20))
    MlflowClient(proxy.uri, proxy.uri).log_artifact(run_id, str(big))

    assert plain.artifacts(proxy.uri, run_id) == {"big.bin": hashlib.sha256(big.read_bytes()).hexdigest()}
    assert proxy.requests("mlflow-artifacts", "PUT")[0].received >= 32 << 20


def test_a_delay_is_added_to_every_round_trip_on_a_kept_connection(proxy: Proxy) -> None:
    with requests.Session() as session, proxy.delay(0.2) as far:
        begun = time.monotonic()
        session.get(f"{proxy.uri}/health", timeout=5)
        session.get(f"{proxy.uri}/health", timeout=5)
        assert time.monotonic() - begun >= 0.4
        assert far.hits == 2


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_service_that_is_away_refuses_and_returns_at_the_same_address(proxy: Proxy, how: str) -> None:
    with requests.Session() as session:
        session.get(f"{proxy.uri}/health", timeout=5)
        with proxy.away(how), pytest.raises(requests.ConnectionError):
            session.get(f"{proxy.uri}/health", timeout=5)
        assert session.get(f"{proxy.uri}/health", timeout=5).text == "OK"


def test_a_service_that_hangs_takes_the_request_and_says_nothing(proxy: Proxy) -> None:
    with proxy.hang(path="/health"), pytest.raises(requests.ReadTimeout):
        requests.get(f"{proxy.uri}/health", timeout=0.3)
    assert proxy.requests("/health")[0].status is None
    assert requests.get(f"{proxy.uri}/health", timeout=5).text == "OK"


def test_a_reset_reaches_the_client_and_never_the_service(proxy: Proxy, run_id: str) -> None:
    with proxy.reset(path="log-batch"), pytest.raises(requests.ConnectionError):
        log_batch(proxy, run_id, 3)
    assert plain.run(proxy.uri, run_id)["metrics"] == {}


def test_a_dropped_answer_leaves_the_write_done(proxy: Proxy, run_id: str) -> None:
    proxy.drop(path="log-batch", times=1)
    with pytest.raises(requests.ConnectionError):
        log_batch(proxy, run_id, 3)
    assert len(plain.history(proxy.uri, run_id, "loss")) == 3
    assert log_batch(proxy, run_id, 4).status_code == 200


def test_an_answer_can_break_off_in_the_middle(proxy: Proxy) -> None:
    with proxy.cut(path="experiments/search"), pytest.raises(requests.RequestException):
        requests.get(proxy.uri + SEARCH, timeout=5)


def test_half_of_a_batch_is_written_and_the_answer_is_an_error(proxy: Proxy, run_id: str) -> None:
    proxy.half_batch(times=1)
    assert log_batch(proxy, run_id, 10).status_code == 500
    assert [step for step, *_ in plain.history(proxy.uri, run_id, "loss")] == [0, 1, 2, 3, 4]
    assert proxy.requests("log-batch")[0].left_out == 5


def test_a_status_comes_with_its_retry_after_for_the_next_requests_only(proxy: Proxy) -> None:
    proxy.status(429, retry_after=7, path="/health", times=2)
    answers = [requests.get(f"{proxy.uri}/health", timeout=5) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "7"


def test_a_fault_can_end_by_itself_after_a_time(proxy: Proxy) -> None:
    proxy.status(503, seconds=0.3)
    assert requests.get(f"{proxy.uri}/health", timeout=5).status_code == 503
    eventually(lambda: requests.get(f"{proxy.uri}/health", timeout=5).ok, "the fault is over", 10)


def test_a_service_without_logged_models_answers_404_with_nothing(proxy: Proxy) -> None:
    proxy.without_logged_models()
    answer = requests.post(f"{proxy.uri}/api/2.0/mlflow/logged-models", json={}, timeout=5)
    assert (answer.status_code, answer.content) == (404, b"")
    with pytest.raises(MlflowException, match=r"ENDPOINT_NOT_FOUND|404"):
        MlflowClient(proxy.uri, proxy.uri).create_logged_model("0")
    assert requests.get(proxy.uri + SEARCH, timeout=5).ok


def test_limits_are_refused_in_the_service_s_own_words(proxy: Proxy, run_id: str) -> None:
    proxy.limit({"metrics": 200})
    assert log_batch(proxy, run_id, 200).status_code == 200
    assert "at most 200 metrics" in log_batch(proxy, run_id, 201).json()["message"]

    proxy.clear()
    proxy.limit(AZUREML_LIMITS, wording="azureml")
    client = MlflowClient(proxy.uri, proxy.uri)
    with pytest.raises(MlflowException, match=r"Tags\.Value, Limit=1000, Size=1001"):
        client.set_tag(run_id, "note", "x" * 1001)
    for number in range(50):
        client.log_metric(run_id, f"m{number}", 1.0)
    with pytest.raises(MlflowException, match="FieldName=Metrics, Limit=50, Size=51"):
        client.log_metric(run_id, "m50", 1.0)
    with pytest.raises(ValueError, match="no such limits"):
        proxy.limit({"metric": 200})


def test_limits_of_a_run_count_what_the_run_was_made_with(proxy: Proxy) -> None:
    proxy.limit({**AZUREML_LIMITS, "metric_rows": 3}, wording="azureml")
    client = MlflowClient(proxy.uri, proxy.uri)
    run_id = client.create_run("0", tags={f"t{number}": "v" for number in range(40)}).info.run_id
    made = len(client.get_run(run_id).data.tags)
    for number in range(50 - made):
        client.set_tag(run_id, f"late{number}", "v")
    with pytest.raises(MlflowException, match="FieldName=Tags, Limit=50, Size=51"):
        client.set_tag(run_id, "one too many", "v")
    client.delete_tag(run_id, "t0")
    client.set_tag(run_id, "one too many", "v")
    for step in range(3):
        client.log_metric(run_id, "loss", 1.0, step=step, timestamp=1)
    client.log_metric(run_id, "loss", 1.0, step=2, timestamp=1)
    with pytest.raises(MlflowException, match=r"FieldName=MetricV2Dto\.Rows, Limit=3, Size=4"):
        client.log_metric(run_id, "loss", 1.0, step=3, timestamp=1)
    history = f"{proxy.uri}/api/2.0/mlflow/metrics/get-history"
    asked = {"run_id": run_id, "metric_key": "loss", "max_results": "25000"}
    assert "must be less than 1000" in requests.get(history, params=asked, timeout=5).json()["message"]
    assert (
        len(requests.get(history, params={**asked, "max_results": "999"}, timeout=5).json()["metrics"]) == 3
    )


def test_each_kind_of_request_has_a_rate_of_its_own(proxy: Proxy, run_id: str) -> None:
    proxy.rates({"search": 2, "log-batch": 3})
    codes = [requests.get(proxy.uri + SEARCH, timeout=5).status_code for _ in range(6)]
    assert codes[:2] == [200, 200]
    assert 429 in codes
    assert log_batch(proxy, run_id, 1).status_code == 200
    assert requests.get(f"{proxy.uri}/health", timeout=5).status_code == 200


def test_a_rate_is_kept_up_by_429(proxy: Proxy) -> None:
    proxy.rate(3, path="/health", retry_after=0.5)
    codes = [requests.get(f"{proxy.uri}/health", timeout=5).status_code for _ in range(8)]
    assert codes.count(429) >= 1
    assert codes[:3] == [200, 200, 200]


@pytest.mark.parametrize(
    ("header", "auth"),
    [
        ("Bearer secret", lambda r: r.headers.update(Authorization="Bearer secret") or r),
        (basic("ann", "pw"), ("ann", "pw")),
    ],
)
def test_a_service_may_want_credentials_and_remembers_what_it_was_shown(
    proxy: Proxy, header: str, auth: Any
) -> None:
    proxy.require(header)
    assert requests.get(proxy.uri + SEARCH, timeout=5).status_code == 401
    assert requests.get(proxy.uri + SEARCH, auth=auth, timeout=5).status_code == 200
    assert [request.authorization for request in proxy.requests()] == [None, header]


def test_a_server_that_dies_resets_the_clients_of_its_proxy(proxy: Proxy, servers: Servers) -> None:
    servers.databricks.kill()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{proxy.uri}/health", timeout=5)
    servers.databricks.start()
    assert requests.get(f"{proxy.uri}/health", timeout=5).ok


def test_bodies_are_kept_when_asked_for(proxy: Proxy, run_id: str) -> None:
    proxy.keep_bodies()
    log_batch(proxy, run_id, 1)
    assert '"loss"' in (proxy.requests("log-batch")[0].body or "")
    proxy.forget()
    assert proxy.requests() == []
