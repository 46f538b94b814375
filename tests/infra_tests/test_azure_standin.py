"""The stand-in for Azure, as the real client libraries see it, without our package."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.azure.serving import NEEDED
from tests.infra.orders import Orders
from tests.standins.azure import AzureStandIn


class Refused(Exception):
    """What the real client raised: the class's name, then its text."""


class Client(Orders):
    """A process that has the real clients; ``client(code)`` runs statements there."""

    def __init__(self, environment: dict[str, str]) -> None:
        script = Path(__file__).with_name("azure_client.py")
        super().__init__(["-I", str(script)], environment=environment)
        self._read()

    def __call__(self, code: str) -> Any:
        answer = self._ask(do="eval", code=textwrap.dedent(code))
        if "error" in answer:
            raise Refused(f"{answer['error']}: {answer['message']}")
        return answer["value"]


@pytest.fixture(scope="module")
def _client(_azure_standin: AzureStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(_azure_standin.environment(tmp_path_factory.mktemp("home")))
    yield client
    client.close()


@pytest.fixture
def client(azure: AzureStandIn, _client: Client) -> Client:
    """Return the real clients, at the stand-in's first workspace."""
    _client(f"ws = get_workspace({azure.workspace!r}, {azure.group!r}, {azure.subscription!r})")
    return _client


@pytest.mark.full
def test_a_workspace_is_found_and_gives_its_tracking_uri(azure: AzureStandIn, client: Client) -> None:
    assert client("ws.get_mlflow_tracking_uri()") == azure.tracking_uri()
    assert client("[ws.name, ws.resource_group, ws.subscription_id, ws.location]") == [
        *(azure.workspace, azure.group, azure.subscription, "westeurope")
    ]
    assert client("ws.get_details()['storageAccount']").endswith("/storageAccounts/amlwsstorage")


@pytest.mark.full
def test_what_a_run_logs_is_read_back(azure: AzureStandIn, client: Client, experiment_name: str) -> None:
    run_id = client(f"""
        experiment = mlflow.set_experiment({experiment_name!r})
        with mlflow.start_run() as run:
            for step in range(3):
                mlflow.log_metric("loss", 1.0 / (step + 1), step=step)
            mlflow.log_params({{"depth": 3}})
            mlflow.log_artifact(file("notes.txt", "hello"), "sub")
            mlflow.log_text("", "empty.txt")
        run.info.run_id
    """)
    assert client(f"sorted(each.path for each in MlflowClient().list_artifacts({run_id!r}))") == [
        *("empty.txt", "sub")
    ]
    assert client("mlflow.artifacts.load_text(run.info.artifact_uri + '/sub/notes.txt')") == "hello"
    assert client("mlflow.artifacts.load_text(run.info.artifact_uri + '/empty.txt')") == ""
    # The plain client asks for 25,000 at once (mlflow#10694); its store can ask for less.
    with pytest.raises(Refused, match="MaxResults = 25000 is invalid: MaxResults must be less than 1000"):
        client("MlflowClient().get_metric_history(run.info.run_id, 'loss')")
    assert client("""
        page = MlflowClient()._tracking_client.store.get_metric_history(run.info.run_id, "loss", 2)
        [[metric.value for metric in page], page.token]
    """) == [[1.0, 0.5], "2"]
    assert client("""[r.info.run_id for r in mlflow.search_runs([experiment.experiment_id],
        filter_string="params.depth = '3'", output_format="list")]""") == [run_id]
    # Azure ML writes GUIDs: the experiment's stands in the artifact URI (mlflow#11103).
    assert client("run.info.artifact_uri").endswith(
        f"/experiments/{client('experiment.experiment_id')}/runs/{run_id}/artifacts"
    )
    assert "-" in run_id
    assert azure.proxy.count(path=r"\.blob\.core\.windows\.test/", method="PUT") == 2


@pytest.mark.full
def test_models_are_logged_as_on_azure_ml_and_registered_from_a_folder(
    client: Client, experiment_name: str
) -> None:
    client(f"""
        from sklearn.linear_model import LinearRegression
        import mlflow.sklearn
        model = LinearRegression().fit([[1], [2]], [1, 2])
        mlflow.set_experiment({experiment_name!r})
        folder = work / {experiment_name!r}
        mlflow.sklearn.save_model(model, str(folder), pip_requirements=["scikit-learn"])
    """)
    # azure-sdk-for-python#44896
    with pytest.raises(Refused, match=r"logged-models failed with error code 404 != 200. Response body: ''"):
        client("""
            with mlflow.start_run():
                mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"])
        """)
    assert client(f"mlflow.register_model('file://' + str(folder), {experiment_name!r}).source").startswith(
        "azureml://artifacts/LocalUpload/"
    )
    assert client(
        f"float(mlflow.sklearn.load_model('models:/{experiment_name}/1').predict([[3]])[0])"
    ) == pytest.approx(3)


def test_azureml_cores_own_client_chooses_a_runs_id(
    azure: AzureStandIn, client: Client, experiment_name: str
) -> None:
    chosen = f"{abs(hash(experiment_name)):032x}"
    code = f"""
        from azureml._restclient.experiment_client import ExperimentClient
        mlflow.set_experiment({experiment_name!r})
        history = ExperimentClient(ws.service_context, {experiment_name!r})
        history.create_run(run_id={chosen!r}, display_name="mine", tags={{"a": "b"}}).run_id
    """
    assert client(code) == chosen
    assert client(code) == chosen, "done twice, it is one run"
    assert client(f"MlflowClient().get_run({chosen!r}).data.tags['a']") == "b"
    assert client(f"MlflowClient().get_run({chosen!r}).info.run_name") == "mine"
    assert client(f"history.get_run({chosen!r}).status") == "Running"
    assert client("len(mlflow.search_runs(output_format='list'))") == 1
    with azure.set(run_ids="refused"), pytest.raises(Refused, match="assigned by the service"):
        client("history.create_run(run_id='another')")


@pytest.mark.full
def test_azureml_mlflows_deployment_client_serves_a_model_at_a_managed_endpoint(
    azure: AzureStandIn, client: Client, experiment_name: str
) -> None:
    client(f"""
        from mlflow.deployments import get_deploy_client
        import mlflow.sklearn
        from sklearn.linear_model import LinearRegression
        folder = work / ("served-" + {experiment_name!r})
        mlflow.sklearn.save_model(
            LinearRegression().fit([[1.0], [2.0]], [1.0, 2.0]), str(folder),
            pip_requirements=["scikit-learn", *{NEEDED!r}],
        )
        mlflow.set_registry_uri(ws.get_mlflow_tracking_uri())
        version = mlflow.register_model("file://" + str(folder), {experiment_name!r}).version
        deployer = get_deploy_client(ws.get_mlflow_tracking_uri())
        endpoint = file("endpoint.yaml", "auth_mode: key\\nidentity: {{type: system_assigned}}")
        deployer.create_endpoint("natively", config={{"endpoint-config-file": endpoint}})
        config = file("deployment.yaml", "instance_type: Standard_DS3_v2\\ninstance_count: 1")
        deployer.create_deployment(
            "blue", f"models:/{experiment_name}/{{version}}",
            config={{"deploy-config-file": config}}, endpoint="natively",
        )
        traffic = file("traffic.yaml", "traffic: {{blue: 100}}")
        deployer.update_endpoint("natively", config={{"endpoint-config-file": traffic}})
    """)
    assert azure.endpoints()["online"]["natively"]["traffic"] == {"blue": 100}
    assert client(
        "float(deployer.predict(endpoint='natively', df=__import__('pandas').DataFrame([[3.0]]))[0][0])"
    ) == (pytest.approx(3.0))
    assert client("[each['name'] for each in deployer.list_deployments('natively')]") == ["blue"]
    client("deployer.delete_endpoint('natively')")
    assert not azure.endpoints()["online"]
