"""What the registry answers while the first one is away: what plain MLflow answers, as far as it is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tests.conftest import Proxies, Servers
from tests.core.linking import link, sync
from tests.infra import plain

# MLflow's stages are on their way out, and still what many registries have.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated since 2.9.0:FutureWarning")

WRITES = "registered-models/|model-versions/"
UNKNOWN = ("creation_timestamp", "last_updated_timestamp", "deployment_job_state", "source", "user_id")


def shown(value: Any, names: dict[str, str]) -> Any:
    """Return an answer without what differs between any two servers."""
    if isinstance(value, list):
        return [shown(each, names) for each in value]
    if not hasattr(value, "_properties"):
        return names.get(value, value) if isinstance(value, str) else value
    fields = {key: each for key, each in dict(value).items() if key not in UNKNOWN}
    fields["tags"] = {k: v for k, v in fields["tags"].items() if not k.startswith("dbml_")}
    fields["aliases"] = sorted(fields["aliases"])
    if "latest_versions" in fields:
        fields["latest_versions"] = shown(sorted(fields["latest_versions"], key=lambda v: v.version), names)
    return {key: names.get(each, each) if isinstance(each, str) else each for key, each in fields.items()}


def answered(ask: Callable[[], Any], names: dict[str, str]) -> Any:
    """Return what a call answers, or the code of its error."""
    try:
        return shown(ask(), names)
    except MlflowException as error:
        return error.error_code


def before(client: MlflowClient, experiment: str) -> str:
    """Register what the changes change; returns the run."""
    run = client.create_run(client.create_experiment(experiment)).info.run_id
    client.log_text(run, "x", "model/file.txt")
    client.set_terminated(run)
    for letter in "abc":
        client.create_registered_model(f"{experiment}-{letter}", {"k": letter}, letter)
    for number in "1234":
        client.create_model_version(
            f"{experiment}-a", f"runs:/{run}/model", run, {"n": number}, "http://run", number
        )
    client.transition_model_version_stage(f"{experiment}-a", "1", "Production")
    client.set_registered_model_alias(f"{experiment}-a", "old", "1")
    client.set_registered_model_alias(f"{experiment}-a", "gone", "2")
    return str(run)


def change(client: MlflowClient, experiment: str, run: str) -> list[Any]:
    """Make every kind of change; returns what those answer that answer something."""
    a, b, c, d = (f"{experiment}-{letter}" for letter in "abcd")
    fields = [
        client.update_registered_model(c, "other"),
        client.update_model_version(a, "2", "other"),
        client.transition_model_version_stage(a, "2", "production", True),
    ]
    client.set_registered_model_tag(c, "new", "1")
    client.delete_registered_model_tag(c, "k")
    client.set_model_version_tag(a, "3", "n", "other")
    client.delete_model_version_tag(a, "2", "n")
    client.delete_model_version(a, "4")
    client.set_registered_model_alias(a, "best", "3")
    client.delete_registered_model_alias(a, "gone")
    client.delete_registered_model(b)
    fields += [
        client.create_registered_model(d, {"k": "d"}, "d"),
        client.rename_registered_model(a, f"{a}-new"),
    ]
    made = client.create_model_version(d, f"runs:/{run}/model", run, {"n": "1"}, "http://run", "words")
    client.set_model_version_tag(d, made.version, "new", "1")
    client.set_registered_model_alias(d, "made", made.version)
    fields.append(client.update_model_version(d, made.version, "changed"))
    return fields


def reads(client: MlflowClient, experiment: str, run: str, made: str) -> dict[str, Callable[[], Any]]:
    """Return every kind of read of what was changed, by its name."""
    a, b, c, d = (f"{experiment}-{letter}" for letter in "abcd")
    new, like = f"{a}-new", f"name LIKE '{experiment}-%'"
    asked: dict[str, Callable[[], Any]] = {
        f"the model {name}": lambda name=name: client.get_registered_model(name)  # type: ignore[misc]
        for name in (a, b, c, d, new)
    }
    asked |= {
        f"version {version} of {name}": lambda name=name, version=version: client.get_model_version(  # type: ignore[misc]
            name, version
        )
        for name, version in (*((new, number) for number in "1234"), (a, "1"), (d, made), (new, "none"))
    }
    asked |= {
        f"the alias {alias} of {name}": lambda name=name, alias=alias: client.get_model_version_by_alias(  # type: ignore[misc]
            name, alias
        )
        for name, alias in ((new, "old"), (new, "best"), (new, "gone"), (d, "made"))
    }
    by_name = ["name ASC", "version_number ASC"]
    return asked | {
        "the latest": lambda: sorted(client.get_latest_versions(new), key=lambda v: int(v.version)),
        "the latest of a stage": lambda: client.get_latest_versions(new, ["Production"]),
        "the latest of no stage": lambda: client.get_latest_versions(new, ["nonsense"]),
        "the latest of a model that is gone": lambda: client.get_latest_versions(b),
        "all models": lambda: list(client.search_registered_models(like)),
        "two models": lambda: list(client.search_registered_models(like, 2, ["name DESC"])),
        "models by a tag": lambda: list(client.search_registered_models(f"{like} and tags.k = 'd'")),
        "all versions": lambda: list(client.search_model_versions(like, order_by=by_name)),
        "versions by the run": lambda: list(
            client.search_model_versions(f"run_id = '{run}'", order_by=by_name)
        ),
        "versions by a number": lambda: list(client.search_model_versions(f"{like} and version_number = 2")),
        "too many models": lambda: client.search_registered_models(like, max_results=1001),
        "no versions": lambda: client.search_model_versions(like, max_results=0),
        "versions by a tag": lambda: list(client.search_model_versions(f"{like} and tags.n = 'other'")),
    }


@pytest.mark.full
@pytest.mark.parametrize("mirror", ["has it all", "takes nothing"])
def test_changes_are_read_while_the_first_registry_is_away(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, mirror: str
) -> None:
    """The mirror answers, and what it has not got yet is known from the journal."""
    mlflow.set_tracking_uri(servers.databricks.uri)
    mlflow.set_registry_uri(servers.databricks.uri)
    reference = f"{experiment_name}-plain"
    run = before(MlflowClient(), reference)
    names = {run: "the run", **{f"{reference}-{each}": each for each in ("a", "b", "c", "d", "a-new")}}
    fields = shown(change(MlflowClient(), reference, run), names)
    expected = {
        what.replace(reference, ""): answered(ask, names)
        for what, ask in reads(MlflowClient(), reference, run, "1").items()
    }

    link(proxies, registry="both")
    run = before(MlflowClient(), experiment_name)
    sync()
    number = {"0": "1"}  # a version gets its number when the first registry answers
    names = {run: "the run", **number}
    names |= {f"{experiment_name}-{each}": each for each in ("a", "b", "c", "d", "a-new")}
    proxies.databricks.refuse()
    if mirror == "takes nothing":
        for method in ("POST", "PATCH", "DELETE"):
            proxies.azureml.status(503, path=WRITES, method=method)
    assert shown(change(MlflowClient(), experiment_name, run), names) == fields
    found = {
        what.replace(experiment_name, "").replace("version 0", "version 1"): answered(ask, names)
        for what, ask in reads(MlflowClient(), experiment_name, run, "0").items()
    }
    for what, answer in expected.items():
        assert found[what] == answer, what
    proxies.azureml.clear()
    proxies.databricks.accept()
    sync()
    for server in servers:
        assert [v["version"] for v in plain.model_versions(server.uri, f"{experiment_name}-d")] == ["1"]


@pytest.mark.full
def test_what_nobody_here_knows_of_the_registry_is_an_outage_with_its_cause(
    home: Path, proxies: Proxies, experiment_name: str
) -> None:
    link(proxies, registry="both")
    client = MlflowClient()
    client.create_registered_model(experiment_name)
    sync()
    proxies.databricks.refuse()
    questions: list[Callable[[], Any]] = [
        lambda: client.get_registered_model("never-seen"),
        lambda: client.get_model_version(experiment_name, "7"),
        lambda: client.get_model_version_by_alias(experiment_name, "none"),
        lambda: client.get_latest_versions("never-seen"),
    ]
    for ask in questions:
        with pytest.raises(
            MlflowException, match=r"databricks does not answer \(.*\), and azureml does not have"
        ):
            ask()
    proxies.azureml.refuse()
    with pytest.raises(MlflowException, match=r"neither databricks nor azureml answers: .*%dbml status"):
        client.search_registered_models()
