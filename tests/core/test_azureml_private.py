"""What is relied on of each private part of azureml-mlflow and azureml-core."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from azureml.core.authentication import AbstractAuthentication
from azureml.mlflow._common._cloud import cloud as clouds
from azureml.mlflow._internal.service_context_loader import _AzureMLServiceContextLoader
from mlflow.store.model_registry.rest_store import RestStore as RegistryStore
from mlflow.store.tracking.rest_store import RestStore as TrackingStore
from mlflow.utils.rest_utils import MlflowHostCreds

from dbml_magics.core.azure import azureml_mlflow_private as private
from dbml_magics.core.azure import core_auth

SCOPE = "subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
RUN = f"azureml://h.api.azureml.ms/mlflow/v2.0/{SCOPE}/experiments/e/runs/r/artifacts"
UPLOAD = "azureml://artifacts/LocalUpload/stamp/model"
METADATA = {
    "name": "OwnCloud",
    "resourceManager": "https://rm.own/",
    "portal": "https://portal.own",
    "authentication": {"loginEndpoint": "https://login.own/", "audiences": ["https://rm.own/"]},
    "suffixes": {"storage": "core.own", "keyVaultDns": "vault.own"},
}


@pytest.fixture
def context() -> Any:
    return private.ServiceContext(
        host_url="https://h",
        subscription_id="s",
        workspace_name="w",
        resource_group_name="g",
        auth=SimpleNamespace(get_token=lambda *_: None),
        cloud=private.known_clouds()["AzureCloud"],
    )


def test_a_context_keeps_what_it_was_given(context: Any) -> None:
    where = (context.host_url, context.subscription_id, context.resource_group_name, context.workspace_name)
    assert where == ("https://h", "s", "g", "w")
    assert context.auth.get_token() is None
    assert isinstance(context.cloud, private.SdkCloud)
    assert context.cloud.name == "AzureCloud"


def test_the_stores_take_a_context_and_credentials_and_ask_as_mlflows_do(context: Any) -> None:
    creds = MlflowHostCreds("https://h")
    for kind, own in (
        (private.AzureMLRestStore, TrackingStore),
        (private.AzureMLflowModelRegistry, RegistryStore),
    ):
        store = kind(context, host_creds=lambda: creds)
        assert isinstance(store, own)
        assert store.get_host_creds() is creds


def test_a_files_uri_names_a_run_or_a_container() -> None:
    run = private.artifact_uri_decomp(RUN)
    assert (run["experiment"], run["runid"]) == ("e", "r")
    upload = private.artifact_uri_decomp(UPLOAD)
    assert (upload["origin"], upload["container"], upload.get("runid")) == ("LocalUpload", "stamp", None)
    assert "model" in (upload.get("_artifact_path"), upload.get("artifact_path"))


@pytest.mark.parametrize(
    ("method", "of"),
    [
        ("batch_create_empty_artifacts", ("run", "container")),
        ("get_content_information", ("run", "container")),
        ("get_sas", ("any container",)),
        ("delete_meta_data", ("any container",)),
    ],
)
def test_the_services_have_the_operations_that_are_asked(
    context: Any, method: str, of: tuple[str, ...]
) -> None:
    operations = {
        "run": private.operations(private.RunArtifactsClient(context, "e", "r", "")),
        "container": private.operations(private.LocalArtifactClient(context, "LocalUpload", "stamp", "")),
        "any container": private.container_operations(context),
    }
    assert isinstance(operations["run"], private.RunArtifactsOperations)
    assert isinstance(operations["any container"], private.ArtifactsOperations)
    for each in of:
        assert callable(getattr(operations[each], method))


def test_a_list_of_paths_is_what_is_named() -> None:
    body = private.ArtifactPathList(paths=[private.ArtifactPath(path="a/b")])
    assert [each.path for each in body.paths] == ["a/b"]


def test_a_context_is_found_by_its_uri(context: Any) -> None:
    uri = f"azureml://h.api.azureml.ms/mlflow/v1.0/{SCOPE}"
    private.register_context(uri, context)
    assert _AzureMLServiceContextLoader.load_service_context(uri) is context


def test_clouds_have_names_endpoints_and_suffixes_and_more_can_be_added() -> None:
    known = private.known_clouds()
    assert {"AzureCloud", "AzureChinaCloud", "AzureUSGovernment"} <= known.keys()
    before = dict(clouds.KNOWN_CLOUDS)
    try:
        own = private.add_clouds([METADATA])["OwnCloud"]
        assert isinstance(own, private.SdkCloud)
        assert own.endpoints.resource_manager.rstrip("/") == "https://rm.own"
        assert own.endpoints.active_directory.rstrip("/") == "https://login.own"
        assert own.endpoints.portal.rstrip("/") == "https://portal.own"
        assert own.suffixes.storage_endpoint == "core.own"
        assert private.known_clouds()["OwnCloud"] is own
        for broken in ([{"name": "x"}], 3, {"a": 1}):
            with pytest.raises((KeyError, TypeError, ValueError)):
                private.add_clouds(broken)
    finally:
        clouds.KNOWN_CLOUDS.clear()
        clouds.KNOWN_CLOUDS.update(before)


def test_azureml_core_takes_a_sign_in_of_ours() -> None:
    sdk = private.known_clouds()["AzureUSGovernment"]
    token = SimpleNamespace(token="t")
    asked: list[tuple[str, ...]] = []

    def get_token(*scopes: str) -> SimpleNamespace:
        asked.append(scopes)
        return token

    cloud = SimpleNamespace(sdk=sdk, scope="https://rm/.default")
    sign_in: Any = SimpleNamespace(cloud=cloud, get_token=get_token)
    auth = core_auth.Authentication(sign_in, "s")
    assert vars(AbstractAuthentication("AzureCloud")).keys() == {"_cloud_type"} <= vars(auth).keys()
    assert auth.get_authentication_header() == {"Authorization": "Bearer t"}
    assert asked == [("https://rm/.default",)]
    ours = {name for name in vars(core_auth.Authentication) if name.startswith("_get_")}
    assert ours <= vars(AbstractAuthentication).keys(), "azureml-core asks for tokens by these names"
    for name in ours:
        theirs = inspect.signature(getattr(AbstractAuthentication, name)).parameters
        assert [*inspect.signature(getattr(core_auth.Authentication, name)).parameters] == [*theirs]
    (found,), _ = auth._get_all_subscription_ids()
    assert (found.subscription_id, found.subscription_name) == ("s", "s")
    cloud = core_auth.core_cloud(sdk)
    assert (cloud.name, cloud.endpoints.resource_manager) == (sdk.name, sdk.endpoints.resource_manager)
