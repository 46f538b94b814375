"""Signing in to Azure: each ``--auth`` method, what ``default`` chooses where, and who is never asked."""

from __future__ import annotations

import json
import os
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from IPython.core.interactiveshell import InteractiveShell

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core import session as sessions
from dbml_magics.core.azure import clouds
from dbml_magics.core.azure.identity import SignIn
from dbml_magics.core.azure.identity_names import METHODS
from dbml_magics.core.azure.wish import AzureWish
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.link import LinkOptions
from dbml_magics.core.link_request import LinkRequest
from dbml_magics.errors import BadLink, DbmlError, NotPermitted
from tests.standins.azure import AzureStandIn
from tests.standins.azure.login import CLIENT_ID, CLIENT_SECRET
from tests.standins.azure.state import TENANT

PRINCIPAL = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")


class Browser(webbrowser.BaseBrowser):
    """Follows where it is sent: to the authority, and back to the address that waits for its code."""

    def open(self, url: str, new: int = 0, autoraise: bool = True) -> bool:
        del new, autoraise
        self.at_it = threading.Thread(target=requests.get, args=(url,), kwargs={"timeout": 60})
        self.at_it.start()
        return True


class Secrets:
    """``dbutils.secrets``: raises for what a scope has not, as py4j does."""

    def __init__(self, kept: dict[tuple[str, str], str]) -> None:
        self.kept = kept

    def get(self, scope: str, key: str) -> str:
        if (scope, key) not in self.kept:
            raise RuntimeError(f"Secret does not exist with scope: {scope} and key: {key}")
        return self.kept[scope, key]


class Dbutils:
    """What a Databricks notebook has: secrets, service credentials, and a token where it passes through."""

    def __init__(
        self,
        kept: dict[tuple[str, str], str] | None = None,
        service: dict[str, Any] | None = None,
        token: Callable[[], str] | None = None,
    ) -> None:
        self.secrets = Secrets(kept or {})
        self.credentials = SimpleNamespace(getServiceCredentialsProvider=lambda name: (service or {})[name])
        context = SimpleNamespace(adlsAadToken=lambda: SimpleNamespace(get=token)) if token else None
        notebook = SimpleNamespace(getContext=lambda: context)
        point = SimpleNamespace(getDbutils=lambda: SimpleNamespace(notebook=lambda: notebook))
        self.notebook = SimpleNamespace(entry_point=point)


@pytest.fixture
def nobody(signed_in: AzureStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AzureStandIn:
    """Return Azure, with nothing in this process's environment that could sign in."""
    for name in (*PRINCIPAL, "DISPLAY", "WAYLAND_DISPLAY", "IDENTITY_ENDPOINT", "MSI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return signed_in


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """Return the running shell, as in a notebook whose kernel lets nobody answer."""
    found = InteractiveShell.instance()
    yield found
    InteractiveShell.clear_instance()


def attended(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a front end that somebody can answer in."""
    monkeypatch.setattr(shell, "kernel", SimpleNamespace(_allow_stdin=True), raising=False)


def azure_cli(azure: AzureStandIn, tmp_path: Path) -> Path:
    """Put an ``az`` on the path that is signed in; returns the file of what it answers."""
    answer = tmp_path / "az.json"
    until = int(time.time()) + 3600
    facts = {
        "accessToken": azure.token("user"),
        "expires_on": until,
        "expiresOn": "2099-01-01 00:00:00.000000",
    }
    answer.write_text(json.dumps({**facts, "tokenType": "Bearer", "tenant": TENANT}))
    az = tmp_path / "bin" / "az"
    az.write_text(
        f"#!/bin/sh\ntest -s {answer} && cat {answer} && exit 0\necho 'Please run az login' >&2\nexit 1\n"
    )
    az.chmod(0o755)
    return answer


def link(names: dict[str, Any], method: str = "default", **more: Any) -> Any:
    """Link an Azure ML workspace; ``settings`` are those that a file says beside the sign-in's name."""
    given = {**names, "auth": method}
    if (settings := given.pop("settings", None)) is None:
        return dbml.link(track="azureml", registry="azureml", **given, **more)
    options = LinkOptions(track="azureml", registry="azureml")
    wish = AzureWish(**given, settings=settings)
    return session.current().link(LinkRequest(options=options, azure=wish, **more))


def refused(kind: type[DbmlError], names: dict[str, Any], method: str, **more: Any) -> str:
    with pytest.raises(kind) as caught:
        link(names, method, **more)
    return "\n".join(caught.value.lines())


def user_of(sign_in: SignIn) -> str:
    claims = jwt.decode(sign_in.get_token().token, options={"verify_signature": False})
    return str(claims.get("upn") or claims.get("appid") or claims.get("xms_mirid"))


def current() -> SignIn:
    found: SignIn = sessions.current().engine("the test").workspaces["azureml"].sign_in  # type: ignore[attr-defined]
    return found


def test_the_azure_clis_sign_in_is_used_and_its_end_is_said(
    nobody: AzureStandIn, names: dict[str, Any], tmp_path: Path
) -> None:
    assert "not on this machine's path" in refused(BadLink, names, "cli")
    answer = azure_cli(nobody, tmp_path)
    status = link(names, "cli")
    assert any("the Azure CLI's sign-in" in note for note in status.notes)
    assert user_of(current()) == "ada@contoso.test"
    sessions.current().unlink()
    status = link(names)
    assert any("the Azure CLI's sign-in (az is signed in)" in note for note in status.notes)
    sessions.current().unlink()
    answer.write_text("")
    from dbml_magics.core.azure import identity

    identity._shared.clear()
    said = refused(NotPermitted, names, "cli")
    assert "az login" in said


def test_a_browser_signs_in_where_there_is_one_and_somebody_is_there(
    nobody: AzureStandIn,
    names: dict[str, Any],
    shell: InteractiveShell,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[str] = []
    said = refused(NotPermitted, names, "interactive", prompt=shown.append)
    assert "without anybody who could answer" in said
    attended(shell, monkeypatch)
    said = refused(NotPermitted, names, "interactive", prompt=shown.append)
    assert "opens a browser, and the machine that the kernel runs on has none" in said
    assert "device-code" in said
    assert not shown
    monkeypatch.setenv("DISPLAY", ":99")
    browser = Browser()
    webbrowser.register("of-the-test", None, browser, preferred=True)
    try:
        status = link(names, "interactive", prompt=shown.append)
    finally:
        webbrowser._tryorder.remove("of-the-test")  # type: ignore[attr-defined]
    browser.at_it.join()
    assert shown == ["a browser window opens: sign in to Azure there"]
    assert any("a sign-in in the browser" in note for note in status.notes)
    assert user_of(current()) == "ada@contoso.test"
    sessions.current().unlink()


def test_a_device_code_is_shown_in_the_cell(
    nobody: AzureStandIn,
    names: dict[str, Any],
    shell: InteractiveShell,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    attended(shell, monkeypatch)
    shell.run_line_magic("load_ext", "dbml_magics")
    words = (
        f"--subscription {nobody.subscription} --resource-group {nobody.group} --workspace {nobody.workspace}"
    )
    line = f"%dbml link {words} --track azureml --registry azureml --auth device-code"
    assert shell.run_cell(line).success, capsys.readouterr()
    shown = "".join(capsys.readouterr())
    assert f"open {nobody.uri}/devicelogin in any browser and enter the code" in shown
    # A sign-in of a person ends one day: nothing is lost, and status says what to do.
    sign_in = current()
    nobody.forget_sign_ins()
    nobody.expire_tokens()
    sign_in.forget_token()
    with pytest.raises(Unavailable, match="wants the user again") as caught:
        sign_in.get_token()
    assert caught.value.denied
    shell.run_cell("%dbml unlink")
    shell.run_line_magic("unload_ext", "dbml_magics")


@pytest.mark.parametrize("how", ["secret", "certificate", "federated"])
def test_a_service_principal_signs_in_by_what_the_environment_has(
    nobody: AzureStandIn, names: dict[str, Any], how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = refused(BadLink, names, "service-principal")
    assert "lacks AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET in the environment" in said
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_ID", CLIENT_ID)
    if how == "secret":
        monkeypatch.setenv("AZURE_CLIENT_SECRET", CLIENT_SECRET)
    else:
        key = rsa.generate_private_key(65537, 2048)
        certificate = self_signed(key)
        file = tmp_path / "app.pem"
        file.write_bytes(pem(key) + certificate.public_bytes(serialization.Encoding.PEM))
        public = certificate.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        if how == "certificate":
            monkeypatch.setenv("AZURE_CLIENT_CERTIFICATE_PATH", str(file))
        else:
            until = int(time.time()) + 600
            assertion = jwt.encode({"iss": "cluster", "sub": "pod", "exp": until}, pem(key), "RS256")
            (tmp_path / "token").write_text(assertion)
            monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
        assert "not trusted" in refused(NotPermitted, names, "service-principal")
        nobody.trust(public.decode())
    status = link(names)  # the default takes what the environment has
    assert any("a service principal (AZURE_CLIENT_ID" in note for note in status.notes)
    assert user_of(current()) == CLIENT_ID
    sessions.current().unlink()


def self_signed(key: Any) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "app.contoso.test")])
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )


def pem(key: Any) -> bytes:
    found: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return found


def test_a_service_principal_comes_from_a_databricks_secret_scope(
    nobody: AzureStandIn, names: dict[str, Any], shell: InteractiveShell
) -> None:
    kept = {("ml", name): value for name, value in nobody.sign_in().items()}
    shell.user_ns["dbutils"] = Dbutils(kept)
    said = refused(BadLink, {**names, "settings": {"secret-scope": "other"}}, "service-principal")
    assert "the environment and the secret scope other" in said
    status = link({**names, "settings": {"secret-scope": "ml"}})
    assert any("a service principal (the secret scope ml)" in note for note in status.notes)
    assert user_of(current()) == CLIENT_ID
    assert CLIENT_SECRET not in f"{status}{status.uri}"
    sessions.current().unlink()


@pytest.mark.parametrize("how", ["imds", "app-service"])
def test_a_managed_identity_signs_in(
    nobody: AzureStandIn, names: dict[str, Any], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in nobody.sign_in(how).items():
        monkeypatch.setenv(name, value)
    status = link(names, "managed-identity")
    assert any("a managed identity" in note for note in status.notes)
    assert user_of(current()) == "vm"
    sessions.current().unlink()


def test_on_azure_ml_compute_the_identity_is_taken_where_there_is_one_and_else_what_there_is(
    nobody: AzureStandIn, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZUREML_RUN_ID", "job-1")
    said = refused(NotPermitted, names, "default")
    assert "device-code" not in said, "nobody is there to enter a code"
    assert "identity: {type: managed}" in said
    assert "AZURE_CLIENT_ID" in said
    assert "is none that was given one" in refused(BadLink, names, "job-token")
    monkeypatch.setenv("AZUREML_RUN_TOKEN", nobody.token("job", lifetime=300))
    assert "opens the job's own workspace alone" in refused(NotPermitted, names, "default")
    for name, value in {
        "SUBSCRIPTION": nobody.subscription,
        "RESOURCEGROUP": nobody.group,
        "WORKSPACE_NAME": nobody.workspace,
    }.items():
        monkeypatch.setenv(f"AZUREML_ARM_{name}", value)
    monkeypatch.setenv("AZUREML_SERVICE_ENDPOINT", nobody.uri)
    status = link(names)
    assert any("the job's own token (an Azure ML job without an identity)" in n for n in status.notes)
    assert current().method == "job-token"
    import mlflow

    with mlflow.start_run() as run:
        mlflow.log_text("hello", "a.txt")
    dbml.sync(timeout=60)
    # Its token ends before the job does: the next one is asked for while this one counts.
    monkeypatch.setenv("AZUREML_EXPERIMENT_ID", mlflow.get_run(run.info.run_id).info.experiment_id)
    monkeypatch.setenv("AZUREML_RUN_ID", run.info.run_id)
    current().forget_token()
    assert current().get_token().expires_on - time.time() > 600
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/a.txt") == "hello"
    sessions.current().unlink()
    azure_cli(nobody, tmp_path)
    assert any("az is signed in" in note for note in link(names).notes)
    sessions.current().unlink()
    for name, value in nobody.sign_in("app-service").items():
        monkeypatch.setenv(name, value)
    assert any("a managed identity (an Azure ML job)" in note for note in link(names).notes)
    sessions.current().unlink()


def test_a_databricks_notebook_signs_in_by_itself(
    nobody: AzureStandIn, names: dict[str, Any], shell: InteractiveShell
) -> None:
    assert "a Databricks notebook's own sign-in, and this is none" in refused(BadLink, names, "databricks")
    shell.user_ns["dbutils"] = Dbutils()  # a cluster that hands out no token
    assert "service credential" in refused(NotPermitted, names, "databricks")
    shell.user_ns["dbutils"] = Dbutils(token=lambda: nobody.token("user"))
    status = link(names)
    assert any("the Databricks notebook's identity (the notebook's own sign-in)" in n for n in status.notes)
    assert user_of(current()) == "ada@contoso.test"
    sessions.current().unlink()
    shell.user_ns["dbutils"] = Dbutils(service={"ml-cred": nobody.credential()})
    status = link({**names, "settings": {"service-credential": "ml-cred"}})
    assert any("(the service credential ml-cred)" in note for note in status.notes)
    sessions.current().unlink()


CHOICES: dict[str, tuple[dict[str, str], bool, str]] = {
    "a service principal in the environment": (
        {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT_ID, "AZURE_CLIENT_SECRET": "x"},
        True,
        "service-principal",
    ),
    "an Azure ML job without an identity": (
        {"AZUREML_RUN_ID": "job-1", "AZUREML_RUN_TOKEN": "a.b.c"},
        False,
        "job-token",
    ),
    "an Azure ML job whose identity's service is down": (
        {"AZUREML_RUN_ID": "job-1", "IDENTITY_ENDPOINT": "http://127.0.0.1:1", "IDENTITY_HEADER": "x"},
        False,
        "managed-identity",
    ),
    "a machine with an identity": ({"IDENTITY_ENDPOINT": "http://127.0.0.1:1"}, True, "managed-identity"),
    "Jupyter on a desktop": ({"DISPLAY": ":0"}, True, "interactive"),
    "Jupyter on a server": ({}, True, "device-code"),
    "Jupyter over SSH": ({"DISPLAY": ":0", "SSH_CONNECTION": "a b"}, True, "device-code"),
    "VS Code": ({"DISPLAY": ":0", "VSCODE_PID": "1"}, True, "device-code"),
    "a Databricks notebook": ({"DATABRICKS_RUNTIME_VERSION": "15.4"}, True, "device-code"),
}


@pytest.mark.full
@pytest.mark.parametrize("case", CHOICES)
def test_default_takes_what_fits_the_place(
    case: str, nobody: AzureStandIn, shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, somebody, wanted = CHOICES[case]
    for name in (
        "SSH_CONNECTION",
        "SSH_TTY",
        "VSCODE_PID",
        "VSCODE_CWD",
        "VSCODE_AGENT_FOLDER",
        "CODESPACES",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if somebody:
        attended(shell, monkeypatch)
    assert SignIn("default", clouds.named(None), prompt=print).method == wanted


@pytest.mark.parametrize("place", ["a kernel without input", "a Databricks job", "a script"])
def test_where_nobody_can_answer_nothing_asks(
    place: str, nobody: AzureStandIn, shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    if place == "a script":
        InteractiveShell.clear_instance()
    else:
        monkeypatch.setattr(shell, "kernel", SimpleNamespace(_allow_stdin=False), raising=False)
    if place == "a Databricks job":
        monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "15.4")
        monkeypatch.setenv("DB_IS_JOB_CLUSTER", "TRUE")
    shown: list[str] = []
    with pytest.raises(NotPermitted, match="nothing here is signed in"):
        SignIn("default", clouds.named(None), prompt=shown.append)
    for method in ("interactive", "device-code"):
        sign_in = SignIn(method, clouds.named(None), prompt=shown.append)
        with pytest.raises(NotPermitted, match="without anybody who could answer"):
            sign_in.begin()
        with pytest.raises(Unavailable, match="cannot ask the user"):
            sign_in.get_token()
    assert not shown


def test_the_chosen_authority_is_asked_and_no_public_one(
    signed_in: AzureStandIn, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever is not on this machine would have to pass a proxy that is not there.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    before = signed_in.proxy.count(path=f"/{TENANT}/oauth2/v2.0/token")
    link(names)
    assert signed_in.proxy.count(path=f"/{TENANT}/oauth2/v2.0/token") > before
    assert signed_in.proxy.count(path="/common/discovery/instance") == 0
    assert current()._authority() == {"authority": signed_in.uri, "disable_instance_discovery": True}
    sessions.current().unlink()
    monkeypatch.setenv(clouds.AUTHORITY_VARIABLE, "login.microsoftonline.us")
    government = SignIn("service-principal", clouds.named(None))
    assert government._authority() == {"authority": "https://login.microsoftonline.us"}


def test_every_method_has_a_test_here() -> None:
    text = Path(__file__).read_text()
    assert not [method for method in METHODS if f'"{method}"' not in text]
    assert os.environ.get("AZURE_CLIENT_SECRET") is None, "a test put the environment back"
