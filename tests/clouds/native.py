"""A process that reads workspaces with MLflow's own clients, and imports nothing of the package.

Run as a script it takes orders, one JSON object a line; :class:`Reader` gives them.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from tests.infra.orders import Orders


class Reader(Orders):
    """MLflow's own client, in a process of its own, at any of the workspaces."""

    def __init__(self, environment: dict[str, str]) -> None:
        root = Path(__file__).parents[2]
        super().__init__(["-m", "tests.clouds.native"], cwd=root, environment=environment)
        self._read()

    def sign_in(self, databricks: str, token: str, azureml: str) -> None:
        """Say where the workspaces are, and the token for the first (the second's is in the environment)."""
        self._where = {"databricks": databricks, "token": token, "azureml": azureml}
        self._told(do="sign_in", **self._where)

    def sign_in_again(self) -> None:
        """Get a new token of the second workspace: those until now have run out."""
        self._told(do="sign_in", **self._where)

    def run(
        self, side: str, run_id: str, models: tuple[str, ...] = (), registry: str | None = None
    ) -> dict[str, Any]:
        """Return a run as a workspace's own client sees it, and what its models predict of 3."""
        return self._told(do="run", side=side, run_id=run_id, models=models, registry=registry)

    def version(self, side: str, name: str, version: str, registry: str | None = None) -> dict[str, Any]:
        """Return a registered version."""
        return self._told(do="version", side=side, name=name, version=version, registry=registry)

    def runs(self, side: str, experiment: str) -> list[str]:
        """Return the ids of all runs of an experiment, by its name there."""
        found: list[str] = self._told(do="runs", side=side, experiment=experiment)["runs"]
        return found

    def begin(self, side: str, experiment: str) -> str:
        """Begin a run with a metric in it, and leave it running; returns its id."""
        return str(self._told(do="begin", side=side, experiment=experiment)["run"])

    def _told(self, **order: Any) -> dict[str, Any]:
        answer = self._ask(**order)
        assert "failed" not in answer, f"MLflow's own client fails:\n{answer.get('failed')}"
        return answer


class _Renewed:
    """A credential of azure-identity, made anew at each sign-in; MLflow keeps the one that it was given."""

    def __init__(self) -> None:
        self.own: Any = None

    def get_token(self, *scopes: str, **more: Any) -> Any:
        return self.own.get_token(*scopes, **more)


class _Native:
    """The other side of the pipe."""

    def __init__(self) -> None:
        self.azureml = ""
        self.credential = _Renewed()

    def sign_in(self, databricks: str, token: str, azureml: str) -> dict[str, Any]:
        from azure.identity import ClientSecretCredential
        from azureml.mlflow._common._cloud.cloud import _get_cloud_or_default
        from azureml.mlflow._internal.service_context_loader import _AzureMLServiceContextLoader
        from azureml.mlflow._internal.utils import ServiceContext
        from mlflow.utils import rest_utils

        os.environ.update(DATABRICKS_HOST=databricks, DATABRICKS_TOKEN=token)
        rest_utils.get_workspace_client.cache_clear()
        who = [os.environ[f"AZURE_{name}"] for name in ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET")]
        self.credential.own = ClientSecretCredential(*who, disable_instance_discovery=True)
        if azureml == self.azureml:
            return {}
        self.azureml = azureml
        parts = azureml.rstrip("?").split("/mlflow/v2.0/")[1].split("/")
        context = ServiceContext(
            "https://" + azureml.split("/")[2],
            parts[1],
            parts[7],
            parts[3],
            cloud=_get_cloud_or_default(),
            auth=self.credential,
        )
        _AzureMLServiceContextLoader.add_service_context(azureml, context)
        return {}

    def _client(self, side: str, registry: str | None = None) -> Any:
        import mlflow

        uri = self.azureml if side == "azureml" else "databricks"
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(registry or uri)
        return mlflow.MlflowClient()

    def run(self, side: str, run_id: str, models: list[str], registry: str | None) -> dict[str, Any]:
        import mlflow
        import numpy as np

        client = self._client(side, registry)
        run = client.get_run(run_id)
        store = client._tracking_client.store
        return {
            "metrics": run.data.metrics,
            "params": run.data.params,
            "tags": run.data.tags,
            "status": run.info.status,
            "name": run.info.run_name,
            "experiment": client.get_experiment(run.info.experiment_id).name,
            "files": sorted(file.path for file in client.list_artifacts(run_id)),
            "history": {
                key: [[m.step, m.value] for m in store.get_metric_history(run_id, key, max_results=900)]
                for key in run.data.metrics
            },
            "predictions": {
                uri: [float(x) for x in mlflow.pyfunc.load_model(uri).predict(np.array([[3.0]]))]
                for uri in models
            },
        }

    def version(self, side: str, name: str, version: str, registry: str | None) -> dict[str, Any]:
        found = self._client(side, registry).get_model_version(name, version)
        return {"run": found.run_id, "tags": found.tags, "status": str(found.status), "source": found.source}

    def begin(self, side: str, experiment: str) -> dict[str, Any]:
        client = self._client(side)
        run = client.create_run(client.create_experiment(experiment))
        client.log_metric(run.info.run_id, "before", 1.0)
        return {"run": run.info.run_id}

    def runs(self, side: str, experiment: str) -> dict[str, Any]:
        client = self._client(side)
        found = client.get_experiment_by_name(experiment)
        return {
            "runs": [run.info.run_id for run in client.search_runs([found.experiment_id], run_view_type=3)]
        }


def main() -> None:
    """Take orders until standard input ends."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import mlflow.pyfunc  # noqa: F401 - before the first order waits for it

    native = _Native()
    answers.write("{}\n")
    answers.flush()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(native, order.pop("do"))(**order)
        except Exception:
            answer = {"failed": traceback.format_exc()[-3000:]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)  # at once: azureml's threads would be waited for


if __name__ == "__main__":
    main()
