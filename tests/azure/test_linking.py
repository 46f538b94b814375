"""Linking to Azure ML: names, files, clouds, sign-ins, what refuses and what to do about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.core.azure import clouds
from dbml_magics.core.azure.identity import SignIn
from dbml_magics.core.azure.names import WorkspaceId
from dbml_magics.core.azure.studio import page as page_in_studio
from dbml_magics.core.link import WorkspaceSpec
from dbml_magics.errors import (
    BadLink,
    DbmlError,
    NotConfirmed,
    NotPermitted,
    SecretRefused,
    WorkspaceNotFound,
    WorkspaceUnreachable,
)
from tests.infra.hostile import Hostile
from tests.standins.azure import AzureStandIn
from tests.standins.azure.login import CLIENT_SECRET
from tests.standins.azure.state import ADB, ADB_GROUP

ML = "Microsoft.MachineLearningServices"


def linked(**more: Any) -> Any:
    return dbml.link(track="azureml", registry="azureml", **more)


def refused(kind: type[DbmlError], **more: Any) -> str:
    """Return what a user sees of a link that is refused."""
    with pytest.raises(kind) as caught:
        linked(**more)
    assert not sessions.current().linked
    return "\n".join(caught.value.lines())


def test_the_real_workspace_object_is_in_reach(signed_in: AzureStandIn, names: dict[str, Any]) -> None:
    link = linked(**names)
    workspace = link.workspace
    assert type(workspace).__module__ == "azureml.core.workspace"
    assert workspace.name == signed_in.workspace
    assert workspace.get_mlflow_tracking_uri().rstrip("?") == link.destinations[0].uri
    sessions.current().unlink()


def test_an_existing_uri_links_as_it_is(signed_in: AzureStandIn) -> None:
    status = linked(azureml=signed_in.tracking_uri())
    assert status.destinations[0].uri == signed_in.tracking_uri().rstrip("?")
    again = status.uri
    sessions.current().unlink()
    assert dbml.link(again=True).uri == again
    sessions.current().unlink()
    with signed_in.proxy.away():
        status = dbml.link(again=True)
        assert status.destinations[0].away, "a link is taken up again also while its workspace is away"
        sessions.current().unlink()


@pytest.mark.parametrize("name", ["config.json", ".azureml/config.json", "dbml.toml"])
def test_a_file_above_the_notebook_names_the_workspace(
    signed_in: AzureStandIn, names: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path.cwd() / name
    file.parent.mkdir(exist_ok=True)
    if file.suffix == ".json":
        facts = {
            "subscription_id": names["subscription"],
            "resource_group": names["resource_group"],
            "workspace_name": names["workspace"],
        }
        file.write_text(json.dumps(facts))
    else:
        rows = [f'{key.replace("_", "-")} = "{value}"' for key, value in names.items()]
        file.write_text(
            "\n".join(['[link]\nregistry = "azureml"', "[azureml]", *rows, 'auth = "service-principal"'])
        )
    below = Path.cwd() / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    status = dbml.link(config=True, track="azureml")
    assert status.destinations[0].place == f"{signed_in.workspace} in {signed_in.group}"
    dbml.unlink()


def test_files_that_say_too_much_or_nonsense_are_refused(signed_in: AzureStandIn) -> None:
    file = Path("dbml.toml")
    file.write_text(f'[azureml]\nclient-secret = "{CLIENT_SECRET}"')
    said = refused(SecretRefused, config="dbml.toml")
    assert CLIENT_SECRET not in said
    file.write_text('[azureml]\nsubscripton = "x"')
    assert "Did you mean 'subscription'" in refused(BadLink, config="dbml.toml")
    file.write_text("[azureml")
    assert "is not TOML" in refused(BadLink, config="dbml.toml")
    assert "no file" in refused(BadLink, config="none.toml")
    file.unlink()
    assert "no dbml.toml" in refused(BadLink, config=True)


def test_the_two_usual_mistakes_and_a_near_name_are_named(
    signed_in: AzureStandIn, names: dict[str, Any]
) -> None:
    right = f"--resource-group {signed_in.group} --workspace {signed_in.workspace}"
    said = refused(WorkspaceNotFound, **{**names, "resource_group": ADB_GROUP})
    assert f"managed resource group of the Databricks workspace {ADB}" in said
    assert right in said
    said = refused(WorkspaceNotFound, **{**names, "workspace": ADB})
    assert f"{ADB} is a Databricks workspace" in said
    assert right in said
    assert right in refused(WorkspaceNotFound, **{**names, "workspace": "aml-w"})
    assert "no resource group" in refused(WorkspaceNotFound, **{**names, "resource_group": "rg-nowhere"})
    other = "5ab5c41b-0000-4000-8000-00000000ffff"
    assert "no subscription" in refused(WorkspaceNotFound, **{**names, "subscription": other})


def test_names_that_cannot_be_are_refused_before_anybody_is_asked(
    signed_in: AzureStandIn, names: dict[str, Any]
) -> None:
    before = signed_in.proxy.count()
    assert "--workspace is missing" in refused(BadLink, **{**names, "workspace": None})
    assert "is a GUID" in refused(BadLink, **{**names, "subscription": "Contoso"})
    assert "belongs to --create" in refused(BadLink, **{**names, "location": "westeurope"})
    assert "--auth is" in refused(BadLink, **{**names, "auth": "magic"})
    assert signed_in.proxy.count(path="Microsoft.MachineLearningServices") == 0, f"of {before} before"


def test_a_role_that_is_missing_is_named_with_the_smallest_that_has_it(
    signed_in: AzureStandIn, names: dict[str, Any]
) -> None:
    with signed_in.deny(f"{ML}/workspaces/read"):
        said = refused(NotPermitted, **names)
    assert f"{ML}/workspaces/read" in said
    assert "Reader" in said
    assert "az role assignment create" in said
    for words in (True, False):  # Azure ML answers 403 with and without a body
        with signed_in.set(forbidden_body=words), signed_in.deny(f"{ML}/workspaces/experiments/*"):
            said = refused(NotPermitted, **names)
        assert f"{ML}/workspaces/experiments/read" in said
        assert "Reader" in said


def test_networks_and_tokens_that_are_refused_say_so(
    signed_in: AzureStandIn, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with signed_in.set(private_link=True):
        assert "private endpoint" in refused(NotPermitted, **names)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "not-the-secret-Xy7")
    from dbml_magics.core.azure import identity

    identity._shared.clear()
    said = refused(NotPermitted, **names)
    assert "Invalid client secret" in said
    assert "not-the-secret" not in said
    for name in ("AZURE_CLIENT_SECRET", "AZURE_CLIENT_ID", "AZURE_TENANT_ID"):
        monkeypatch.delenv(name)
    said = refused(NotPermitted, **names)
    assert "nothing here is signed in" in said
    assert "--auth device-code" in said
    assert "could answer" in refused(NotPermitted, **{**names, "auth": "interactive"})


def test_an_outage_of_resource_manager_is_no_refusal(signed_in: AzureStandIn, names: dict[str, Any]) -> None:
    with signed_in.proxy.away():
        said = refused(WorkspaceUnreachable, **names)
    assert "curl" in said


def test_a_private_cloud_is_known_by_name_after_mlflow_was_imported(
    signed_in: AzureStandIn, names: dict[str, Any]
) -> None:
    import mlflow  # noqa: F401 - its plugins read the list of clouds

    found = clouds.named(signed_in.cloud)
    assert found.resource_manager == signed_in.uri
    assert not found.authority_is_public
    assert "Did" not in refused(BadLink, **{**names, "cloud": "AzureClod"})
    assert clouds.named(None).name == signed_in.cloud


@pytest.mark.parametrize(
    ("host", "cloud", "studio"),
    [
        ("westeurope.api.azureml.ms", "AzureCloud", "https://ml.azure.com"),
        ("usgovvirginia.api.ml.azure.us", "AzureUSGovernment", "https://ml.azure.us"),
        ("chinaeast2.api.ml.azure.cn", "AzureChinaCloud", "https://studio.ml.azure.cn"),
    ],
)
def test_sovereign_clouds_have_a_studio_of_their_own(
    host: str, cloud: str, studio: str, monkeypatch: pytest.MonkeyPatch, names: dict[str, Any]
) -> None:
    for name in (clouds.METADATA_VARIABLE, clouds.CLOUD_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    found = clouds.named(None, host)
    assert (found.name, found.studio) == (cloud, studio)
    workspace = WorkspaceId(*names.values())
    facts = (("studio", str(found.studio)), ("tenant", "t-1"))
    spec = WorkspaceSpec("azureml", workspace.uri(host), settings=facts)
    page = page_in_studio(spec, "/runs/r-1")
    assert page == f"{studio}/runs/r-1?wsid={workspace.studio_id}&tid=t-1"


@pytest.mark.parametrize("how", ["app-service", "service-principal"])
def test_default_takes_what_fits_and_says_which(
    signed_in: AzureStandIn, names: dict[str, Any], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "app-service":
        for name in ("AZURE_CLIENT_SECRET", "AZURE_CLIENT_ID", "AZURE_TENANT_ID"):
            monkeypatch.delenv(name)
        for name, value in signed_in.sign_in(how).items():
            monkeypatch.setenv(name, value)
    status = linked(**names)
    wanted = "a managed identity" if how == "app-service" else "a service principal"
    assert any(wanted in note for note in status.notes)
    sessions.current().unlink()


def test_a_device_code_is_shown_through_the_prompt_and_asked_for_once(
    signed_in: AzureStandIn, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbml_magics.common import environment

    monkeypatch.setattr(environment, "is_attended", lambda running=None: True)
    for name in ("AZURE_CLIENT_SECRET", "AZURE_CLIENT_ID"):
        monkeypatch.delenv(name)
    shown: list[str] = []
    linked(**{**names, "auth": "device-code"}, prompt=shown.append)
    assert len(shown) == 1
    assert "enter the code" in shown[0]
    sessions.current().unlink()
    linked(**{**names, "auth": "device-code"}, prompt=shown.append)
    assert len(shown) == 1, "a user who signed in once is not asked again"
    sessions.current().unlink()


def test_a_token_is_renewed_when_it_ages_and_never_shown(signed_in: AzureStandIn) -> None:
    with signed_in.set(token_lifetime=2.0):
        sign_in = SignIn("service-principal", clouds.named(None))
        first = sign_in.get_token()
        assert sign_in.get_token() == first, "a token that holds is not asked for again"
        sign_in.forget_token()
        assert sign_in.get_token().token
    assert first.token not in repr(sign_in)


def test_create_shows_its_plan_wants_the_name_and_makes_the_workspace(
    signed_in: AzureStandIn, names: dict[str, Any]
) -> None:
    wish = {
        **names,
        "resource_group": "rg-new",
        "workspace": "fresh-ws",
        "create": True,
        "tags": {"team": "ml"},
    }
    assert "needs a place" in refused(BadLink, **wish)
    wish["location"] = "westeurope"
    said = refused(NotConfirmed, **wish)
    assert "resource group           rg-new" in said
    assert "team=ml" in said
    assert "--confirm fresh-ws" in said
    assert signed_in.proxy.count(method="PUT") == 0, "nothing was made for a plan"
    wish["confirm"] = "other"
    assert "nothing was made" in refused(NotConfirmed, **wish)
    wish["confirm"] = "fresh-ws"
    signed_in.register_provider("Microsoft.KeyVault", False)
    assert "az provider register --namespace Microsoft.KeyVault" in refused(NotPermitted, **wish)
    signed_in.register_provider("Microsoft.KeyVault", True)
    with signed_in.deny(f"{ML}/workspaces/write"):
        said = refused(NotPermitted, **wish)
    assert "Contributor" in said
    assert "Made before: resource group rg-new, storage account" in said
    steps: list[str] = []
    status = linked(**wish, progress=lambda done, total, what: steps.append(f"{done}/{total} {what}"))
    assert status.destinations[0].place == "fresh-ws in rg-new"
    assert steps[-1] == "5/5 the workspace fresh-ws is there", "its group was there by then"
    sessions.current().unlink()


def test_no_other_host_gets_the_token_of_an_operation(signed_in: AzureStandIn, names: dict[str, Any]) -> None:
    wish = {**names, "workspace": "led-ws", "create": True, "location": "westeurope", "confirm": "led-ws"}
    with Hostile(certificate=signed_in.certificate) as elsewhere:
        with signed_in.set(operations_at=elsewhere.uri):
            said = refused(DbmlError, **wish)
        assert "it names another host to go on at" in said
        assert elsewhere.requests == []
        assert elsewhere.secrets() == []


def shown_line(said: str) -> str:
    """Return the line that an error offers to make the workspace."""
    [line] = [each for each in said.splitlines() if "--confirm" in each]
    return line.removeprefix("  try  ").split("   ")[0].strip()


@pytest.mark.full
def test_the_line_that_create_offers_is_the_whole_line_and_runs(
    signed_in: AzureStandIn,
    names: dict[str, Any],
    shell: Any,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    given = f"--subscription {signed_in.subscription} --resource-group rg-whole --workspace whole-ws"
    rest = f"--databricks sqlite:///{tmp_path}/d.db --track both --registry both"
    rest += f" --auth service-principal --cloud {signed_in.cloud}"
    line = f"%dbml link {given} {rest} --create --location westeurope --tag 'team=ml and more'"
    assert not shell.run_cell(line).success
    offered = shown_line("".join(capsys.readouterr()))
    for words in (*rest.split(" --"), "tag 'team=ml and more'"):
        assert words.removeprefix("--") in offered
    assert shell.run_cell(offered).success, capsys.readouterr()
    status = sessions.current().status()
    assert (status.track, status.registry) == ("both", "both")
    assert [d.kind for d in status.destinations] == ["mlflow", "azureml"]
    shell.run_cell("%dbml unlink")


def test_create_leans_on_the_storage_account_and_the_key_vault_that_are_there(
    signed_in: AzureStandIn, names: dict[str, Any]
) -> None:
    group = signed_in.scope().rpartition("/providers/")[0]
    storage = f"{group}/providers/Microsoft.Storage/storageAccounts/amlwsstorage"
    vault = f"{group}/providers/Microsoft.KeyVault/vaults/amlwskeyvault"
    azure = {**names, "workspace": "made-ws", "create": True, "storage_account": storage, "key_vault": vault}
    said = refused(NotConfirmed, **azure)
    assert f"existing storage account {storage}" in said
    assert f"--storage-account {storage} --key-vault {vault} --confirm made-ws" in shown_line(said)
    linked(**{**azure, "confirm": "made-ws"})
    made = requests.get(
        f"{signed_in.uri}{signed_in.scope('made-ws')}?api-version=2022-05-01",
        headers={"Authorization": f"Bearer {signed_in.token()}"},
        timeout=30,
    ).json()
    leaning = [made["properties"][key].lower() for key in ("storageAccount", "keyVault")]
    assert leaning == [storage.lower(), vault.lower()], "the service spells providers in its own case"
    assert signed_in.proxy.count(method="PUT", path="Microsoft.Storage") == 0
    sessions.current().unlink()
    for name, given in (("storage_account", f"{storage}x"), ("key_vault", "amlwskeyvault")):
        assert "az resource list" in refused(BadLink, **{**azure, "workspace": "other-ws", name: given})


def test_the_failed_operation_of_a_new_workspace_tells_that_a_deleted_one_keeps_the_name(
    signed_in: AzureStandIn, names: dict[str, Any]
) -> None:
    azure = {**names, "create": True, "location": "westeurope", "auth": "default"}
    with signed_in.softly_deleted():
        assert "deleted" not in refused(NotConfirmed, **azure), "nobody tells before"
        said = refused(BadLink, **azure, confirm=names["workspace"])
    assert "workspace aml-ws could not be made: a deleted workspace keeps the name aml-ws" in said
    assert "Made before: storage account" in said
    assert "--workspace aml-ws-2 --auth default --create --location westeurope" in said.replace(
        "--track azureml --registry azureml ", ""
    )


def test_404_for_a_put_of_resource_manager_is_no_success(
    signed_in: AzureStandIn, names: dict[str, Any]
) -> None:
    azure = {**names, "workspace": "lost-ws", "create": True, "location": "westeurope", "auth": "default"}
    body = '{"error": {"code": "NotFound", "message": "The specified resource was not found."}}'
    with signed_in.proxy.status(404, body=body, method="PUT", path="Microsoft.Storage"):
        said = refused(BadLink, **azure, confirm="lost-ws")
    assert "could not be made: Resource Manager does not find where it would be, rg-ml (404)" in said
    assert "Made before: nothing" in said


def test_no_remedy_names_a_workspace_that_nobody_named(
    signed_in: AzureStandIn, names: dict[str, Any]
) -> None:
    with pytest.raises(BadLink) as caught:
        dbml.link(track="both", registry="databricks", **names)
    said = "\n".join(caught.value.lines())
    assert "azureml://it" not in said
    assert f"--workspace {names['workspace']}" in said


def test_a_pair_that_the_portal_links_is_noticed(signed_in: AzureStandIn, names: dict[str, Any]) -> None:
    other = (
        f"{signed_in.scope().rpartition('/providers/')[0]}/providers/Microsoft.Databricks/workspaces/{ADB}"
    )
    facts = {"properties": {"parameters": {"amlWorkspaceId": {"value": signed_in.scope()}}}}
    answer = requests.patch(
        f"{signed_in.uri}{other}?api-version=2023-02-01",
        json=facts,
        headers={"Authorization": f"Bearer {signed_in.token()}"},
        timeout=30,
    )
    assert answer.status_code == 200
    status = linked(**names)
    assert any("Azure portal" in note and "--track databricks" in note for note in status.notes)
    sessions.current().unlink()
