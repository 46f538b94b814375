"""A proxy in the environment sees nothing of what is on this machine, and is named where it is in the way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import requests
from requests.utils import get_environ_proxies, select_proxy

import dbml_magics as dbml
from dbml_magics import errors
from dbml_magics.core import hosts
from dbml_magics.core.destinations.connecting import connect
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.link import WorkspaceSpec
from tests.conftest import Servers
from tests.core.linking import arrived, sync
from tests.infra.hostile import WEB_PAGE, Answer, Hostile

NAMED = "http://mlflow.example"


@pytest.fixture
def proxy(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    """Return a proxy that the environment names, with a password, and that leads to the mirror."""
    with Hostile(servers.azureml.uri) as made:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://ada:pass-word@{made.netloc}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "")
        yield made


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:5000", True),
        ("http://127.0.0.1", True),
        ("https://127.8.9.10:5000/path", True),
        ("http://localhost:5000", True),
        ("http://LOCALHOST", True),
        ("http://localhost.:5000", True),
        ("http://[::1]:5000", True),
        ("http://[::ffff:127.0.0.1]:5000", True),
        ("http://user:word@127.0.0.1", True),
        ("http://127.0.0.1.example", False),
        ("http://localhost.example", False),
        ("http://128.0.0.1", False),
        ("http://10.0.0.1", False),
        ("http://127.0.0.1@elsewhere.example", False),
        ("http://mlflow.example:5000/127.0.0.1", False),
        ("http://[::1", False),
        ("databricks", False),
        ("", False),
    ],
)
def test_this_machine_is_told_from_others(url: str, here: bool) -> None:
    assert hosts.is_loopback(url) is here


def test_no_proxy_sees_what_goes_to_this_machine(
    proxy: Hostile, servers: Servers, home: Path, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBML_AZUREML_TOKEN", "azureml-secret")
    monkeypatch.setenv("DBML_DATABRICKS_TOKEN", "databricks-secret")
    there = servers.azureml.uri.replace("127.0.0.1", "localhost")
    dbml.link(databricks=servers.databricks.uri, azureml=there, registry="both")
    dbml.experiment(experiment_name)
    with mlflow.start_run() as run:
        mlflow.log_metric("m", 1.0)
        mlflow.log_text("kept", "notes.txt")
    mlflow.MlflowClient().create_registered_model(experiment_name)
    sync()
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/notes.txt") == "kept"
    assert not dbml.verify(experiment=experiment_name).differences
    dbml.doctor()
    assert [r.target for r in proxy.requests if "127.0.0.1" in r.target or "localhost" in r.target] == []
    assert not any("secret" in each for each in proxy.secrets())
    arrived(servers, run.info.run_id, experiment_name)  # the tests' own reader is plain MLflow


def test_what_no_proxy_names_goes_past_the_proxy(proxy: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "other.example,.mlflow.example,mlflow.example")
    workspace = connect(WorkspaceSpec("azureml", NAMED))
    with pytest.raises(Unavailable, match="no such host"):
        workspace.identify()
    with hosts.session() as own, pytest.raises(requests.ConnectionError):
        own.get(NAMED, timeout=10)
    assert proxy.requests == []


def test_a_remote_workspace_is_reached_through_the_proxy(
    proxy: Hostile, servers: Servers, home: Path, experiment_name: str
) -> None:
    dbml.link(databricks=servers.databricks.uri, azureml=NAMED)
    dbml.experiment(experiment_name)
    with mlflow.start_run() as run:
        mlflow.log_metric("m", 1.0)
        mlflow.log_text("kept", "notes.txt")
    sync()
    arrived(servers, run.info.run_id, experiment_name)
    assert any(r.target.startswith(NAMED) for r in proxy.requests)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (Answer(407, b"", {"Proxy-Authenticate": "Basic"}), "the proxy wants a sign-in"),
        (Answer(502, b"<html>Bad Gateway</html>"), "answers 502"),
        (Answer(403, b"<html>Blocked</html>"), "not permitted"),
        (Answer(302, b"", {"Location": "https://login.example/?token=abc"}), "redirect"),
        (WEB_PAGE, "a web page"),
    ],
)
def test_a_proxy_in_the_way_is_named_without_its_password(
    answer: Answer, what: str, proxy: Hostile, servers: Servers, home: Path
) -> None:
    proxy.answer(answer)
    with pytest.raises(Unavailable) as found:
        connect(WorkspaceSpec("azureml", NAMED)).tracking.get_run("0" * 32)
    assert what in found.value.reason
    assert f"through the proxy http://{proxy.netloc}" in found.value.reason
    with pytest.raises(errors.DbmlError) as raised:
        dbml.link(databricks=servers.databricks.uri, azureml=NAMED)
    for text in (found.value.reason, str(found.value), str(raised.value)):
        assert "pass-word" not in text
        assert "ada" not in text
        assert "token=abc" not in text


def test_a_proxy_that_is_not_there_is_named(proxy: Hostile) -> None:
    named = f"through the proxy http://{proxy.netloc}"
    proxy.close()
    with pytest.raises(Unavailable, match=named) as found:
        connect(WorkspaceSpec("azureml", NAMED)).tracking.get_run("0" * 32)
    assert "pass-word" not in f"{found.value} {found.value.reason}"


def asked(url: str) -> str | None:
    """Return the proxy that requests would ask by itself."""
    return select_proxy(url, get_environ_proxies(url))


def test_libraries_that_know_the_environment_alone_are_told_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "internal.example")
    hosts.exempt_loopback()
    assert os.environ["NO_PROXY"] == "internal.example", "nothing to be told where there is no proxy"
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    assert asked("http://127.0.0.1:5000")
    hosts.exempt_loopback()
    for url in ("http://127.0.0.1:5000", "http://localhost", "http://[::1]:80", "http://internal.example"):
        assert asked(url) is None, url
    assert asked("http://mlflow.example")


def test_a_session_of_ours_follows_no_redirect_and_keeps_its_pools() -> None:
    with Hostile() as elsewhere, Hostile() as server, hosts.session() as own:
        server.answer(Answer(307, b"", {"Location": elsewhere.uri}))
        answer = own.put(server.uri, data=b"file", headers={"Authorization": "Bearer secret"}, timeout=10)
        assert answer.status_code == 307
        assert elsewhere.requests == []
        adapters = dict(own.adapters)
        assert dict(hosts.harden(own).adapters) == adapters, "hardened twice is hardened once"
