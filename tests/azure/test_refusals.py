"""Refusals, at a link and in the middle of a run: the cause, the way out, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.errors import DbmlError
from tests.infra.wait import eventually
from tests.standins.azure import AzureStandIn
from tests.standins.azure.login import CLIENT_SECRET

ML = "Microsoft.MachineLearningServices"
STALE = "not-the-secret-Xy7"
Breaking = Callable[[AzureStandIn, pytest.MonkeyPatch], AbstractContextManager[None]]


@contextmanager
def throttled(azure: AzureStandIn, _: pytest.MonkeyPatch) -> Iterator[None]:
    with azure.set(throttle=0):
        yield


@contextmanager
def private(azure: AzureStandIn, _: pytest.MonkeyPatch) -> Iterator[None]:
    with azure.set(private_link=True):
        yield


@contextmanager
def gateway(azure: AzureStandIn, _: pytest.MonkeyPatch) -> Iterator[None]:
    with azure.set(private_link=True, private_link_status=502):  # azure-docs#90426
        yield


@contextmanager
def signed_out(azure: AzureStandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", STALE)
    azure.expire_tokens()
    yield
    monkeypatch.setenv("AZURE_CLIENT_SECRET", CLIENT_SECRET)


@contextmanager
def softly_deleted(azure: AzureStandIn, _: pytest.MonkeyPatch) -> Iterator[None]:
    with azure.softly_deleted():
        yield


@contextmanager
def without_role(azure: AzureStandIn, _: pytest.MonkeyPatch) -> Iterator[None]:
    with azure.deny(f"{ML}/workspaces/experiments/*"):
        yield


# What breaks it, what status says in the middle of a run, what a link says.
CASES: dict[str, tuple[Breaking, str, list[str]]] = {
    "throttling": (throttled, "429: Too many requests", ["429: Too many requests", "in a minute"]),
    "a private endpoint": (private, "behind its private endpoint", ["private endpoint", "virtual network"]),
    "a gateway before it": (gateway, "behind its private endpoint", ["private endpoint", "az ml workspace"]),
    "a sign-in that ended": (signed_out, "Invalid client secret", ["Invalid client secret", "AZURE_CLIENT"]),
    "a deleted workspace": (softly_deleted, "may be softly deleted", ["can be recovered", "--create"]),
    "a role taken away": (
        without_role,
        "Microsoft.MachineLearningServices/workspaces",
        ["Reader", "az role"],
    ),
}


@pytest.mark.full
@pytest.mark.parametrize("case", CASES)
def test_in_the_middle_of_a_run_it_is_an_outage_that_says_why(
    case: str, signed_in: AzureStandIn, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    broken, wanted, _ = CASES[case]
    session = sessions.current()
    dbml.link(track="azureml", registry="azureml", **names)
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 1.0)
        dbml.sync(timeout=60)
        with broken(signed_in, monkeypatch):
            for step in range(1, 20):
                mlflow.log_metric("loss", 1.0 - step / 100, step=step)
            eventually(lambda: wanted in str(session.status().destinations[0].last_error), "status says why")
            assert wanted in str(session.status())
            assert session.status().destinations[0].pending
    dbml.sync(timeout=60)
    assert session.status().destinations[0].dead == 0
    store = session.engine("the test").workspaces["azureml"].tracking
    assert len(store.get_metric_history(run.info.run_id, "loss")) == 20
    assert store.get_run(run.info.run_id).info.status == "FINISHED"
    session.unlink()


@pytest.mark.parametrize("case", CASES)
def test_at_a_link_it_says_the_cause_and_what_to_do(
    case: str, signed_in: AzureStandIn, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, _, words = CASES[case]
    with broken(signed_in, monkeypatch), pytest.raises(DbmlError) as caught:
        dbml.link(track="azureml", registry="azureml", **names)
    said = "\n".join(caught.value.lines())
    assert signed_in.workspace in said or "Azure: " in said
    assert "/subscriptions/" not in said.partition("\n")[0], "names, not addresses"
    assert not sessions.current().linked
    for word in words:
        assert word in said
    assert caught.value.remedies
    assert STALE not in said
