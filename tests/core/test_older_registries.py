"""Registered models, versions, tags, aliases and stages that were made without a link: named, and copied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

import dbml_magics as dbml
from tests.conftest import Servers
from tests.core.modelling import PLAIN_REQUIREMENTS, linear
from tests.infra.servers import ServerHost


@pytest.fixture
def fresh(server_host: ServerHost) -> Iterator[Servers]:
    """Return two servers that have nothing: what is older than a link is looked for in all of a registry."""
    pair = Servers(*server_host.start_pair())
    yield pair
    for server in pair:
        server.stop()


def a_registry(uri: str, name: str) -> None:
    """Register models with plain MLflow, in each of the ways that it has."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    mlflow.set_experiment(f"of {name}")
    client = MlflowClient(uri, registry_uri=uri)
    with mlflow.start_run(run_name="trained") as run:
        mlflow.sklearn.log_model(
            linear(), name="model", registered_model_name=name, pip_requirements=PLAIN_REQUIREMENTS
        )
        client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
        mlflow.log_text("{}", "model/MLmodel")
    client.update_registered_model(name, "of wine")
    client.set_registered_model_tag(name, "team", "cellar")
    client.update_model_version(name, "1", "the first")
    client.set_model_version_tag(name, "2", "checked", "yes")
    with pytest.warns(FutureWarning):
        client.transition_model_version_stage(name, "2", "Production")
    client.set_registered_model_alias(name, "champion", "2")
    client.create_model_version(name, "s3://bucket/model")
    client.set_registered_model_alias(name, "gone", "3")
    client.delete_model_version(name, "3")
    client.copy_model_version(f"models:/{name}/1", f"copy of {name}")
    client.create_registered_model(f"empty {name}", {"a": "b"}, "without versions")
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


def registry(uri: str) -> dict[str, Any]:
    """Return all that a registry says, without what names the service's own ids and places."""
    client = MlflowClient(uri, registry_uri=uri)

    def own(tags: dict[str, str]) -> dict[str, str]:
        return {k: v for k, v in tags.items() if not k.startswith("dbml_")}

    held: dict[str, Any] = {}
    for name in (model.name for model in client.search_registered_models()):
        model = client.get_registered_model(name)
        versions = client.search_model_versions(f"name='{name}'")
        held[name] = {
            "description": model.description or "",
            "tags": own(model.tags),
            "aliases": dict(model.aliases),
            "versions": {
                str(v.version): {
                    "run": client.get_run(v.run_id).info.run_name if v.run_id else None,
                    "description": v.description or "",
                    "tags": own(v.tags),
                    "stage": v.current_stage,
                    "kind": v.source.partition("/")[0],
                }
                for v in versions
            },
        }
    return held


@pytest.mark.full
def test_registries_older_than_the_link_are_named_and_copied_when_asked(home: Path, fresh: Servers) -> None:
    before: dict[str, Any] = {}
    for server, name in zip(fresh, ("wine", "gin"), strict=True):
        a_registry(server.uri, name)
        before |= registry(server.uri)
    dbml.link(databricks=fresh.databricks.uri, azureml=fresh.azureml.uri, registry="both")
    found = dbml.verify()
    assert found.older_models == {"databricks": 3, "azureml": 3}, str(found)
    assert "3 registered models of azureml" in str(found)
    assert found.equal, f"what is older is named, and is no difference until it is asked for: {found}"

    for source, name in zip(fresh._fields, ("wine", "gin"), strict=True):
        done = dbml.repair(everything=True, source=source)
        left = {str(r.difference.name) for r in done.remaining if r.difference.key != "gone"}
        assert not [each for each in left if name in each], f"{source}'s own registry leaves nothing: {done}"
    again = [dbml.repair(everything=True, source=source) for source in fresh._fields]
    assert not [r for done in again for r in done.repaired], f"a second time nothing is left to do: {again}"
    after = dbml.verify(everything=True)
    assert {(d.kind, d.key, d.name) for d in after.differences} == {
        ("alias", "gone", "wine"),
        ("alias", "gone", "gin"),
    }, str(after)
    assert "alias gone of wine points at version 3, which is gone in databricks" in str(after)
    assert not any(dbml.verify().older_models.values()), "nothing is older than the link any more"

    for server, other in zip(fresh, ("gin", "wine"), strict=True):
        held = registry(server.uri)
        assert "gone" not in held[other]["aliases"], "an alias that points at nothing is not carried over"
        held[other]["aliases"]["gone"] = "3"
        assert held == before
