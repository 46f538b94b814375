"""The stand-in as tests hold it: addresses, sign-in, switches, the request log."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme

from tests.infra.orders import Orders
from tests.infra.proxy import Proxy
from tests.infra.servers import Server, ServerHost, clean_environment
from tests.standins.azure.login import CLIENT_ID, CLIENT_SECRET, CLOUD, IDENTITY_SECRET
from tests.standins.azure.state import GROUP, SUBSCRIPTION, TENANT, WORKSPACE_NAME
from tests.standins.azure.web import ML

__all__ = ["AzureStandIn"]

ROOT = Path(__file__).resolve().parents[3]
SPARES = 1


class _Service(Orders):
    """The process behind the proxy."""

    def __init__(self, folder: Path) -> None:
        super().__init__(["-m", "tests.standins.azure.server", str(folder)], cwd=ROOT)
        self.port = int(self._read()["port"])

    def order(self, verb: str, **what: Any) -> dict[str, Any]:
        answer = self._ask(do=verb, **what)
        if "failed" in answer:
            raise RuntimeError(answer["failed"])
        return answer


class AzureStandIn:
    """Azure on this machine; see the package's docstring for how a test uses it."""

    def __init__(self, host: ServerHost) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dbml-azure-"))
        self._host = host
        self._spares = 0  # that were started
        self.mlflow: Server = host.start("azureml-workspace", wait=False)
        blobs = self.folder / "blobs"
        blobs.mkdir()
        self._service = _Service(blobs)
        self.bundle = self.folder / "ca.pem"
        self.certificate = self._certificate()
        """Of 127.0.0.1, with its key; clients of the stand-in trust it."""
        self.proxy = Proxy(f"http://127.0.0.1:{self._service.port}", self.certificate)
        self.mlflow.wait_until_ready()
        self._service.order("begin", public=self.uri, home=self.mlflow.uri)

    def _certificate(self) -> Path:
        import certifi

        authority = trustme.CA()
        issued = self.folder / "server.pem"
        authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(issued)
        self.bundle.write_bytes(Path(certifi.where()).read_bytes() + authority.cert_pem.bytes())
        return issued

    # Addresses

    @property
    def uri(self) -> str:
        """Return the one address of everything: ARM, the authority, Azure ML's services, blobs."""
        return self.proxy.uri

    cloud = CLOUD
    tenant = TENANT
    subscription = SUBSCRIPTION
    group = GROUP
    workspace = WORKSPACE_NAME

    def scope(
        self, workspace: str = WORKSPACE_NAME, group: str = GROUP, subscription: str = SUBSCRIPTION
    ) -> str:
        """Return a workspace's resource id."""
        return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{ML}/workspaces/{workspace}"

    def tracking_uri(self, workspace: str = WORKSPACE_NAME) -> str:
        """Return the URI that ``Workspace.get_mlflow_tracking_uri()`` gives."""
        return f"azureml://{self.uri.split('://')[1]}/mlflow/v2.0{self.scope(workspace)}?"

    # The clients' environment

    def settings(self, home: Path) -> dict[str, str]:
        """Return the variables that lead the real clients here, without any sign-in.

        They must be set before ``mlflow`` or ``azureml`` is imported. ``home`` is a fresh folder:
        azureml-core keeps what it discovered in ``~/.azureml``, and the ports of another run would mislead.
        """
        home.mkdir(parents=True, exist_ok=True)
        return {
            "ARM_CLOUD_METADATA_URL": f"{self.uri}/metadata/endpoints?api-version=2019-05-01",
            "AZUREML_CURRENT_CLOUD": CLOUD,
            "AZURE_AUTHORITY_HOST": self.uri,
            "REQUESTS_CA_BUNDLE": str(self.bundle),
            "SSL_CERT_FILE": str(self.bundle),
            "HOME": str(home),
            "AZUREML_AUTH_CONFIG_DIR": str(home / "azureml-auth"),
            "AZURE_CONFIG_DIR": str(home / "azure"),
        }

    def sign_in(self, how: str = "service-principal") -> dict[str, str]:
        """Return the variables of a sign-in: ``service-principal``, ``imds`` or ``app-service``."""
        if how == "service-principal":
            return {
                "AZURE_TENANT_ID": TENANT,
                "AZURE_CLIENT_ID": CLIENT_ID,
                "AZURE_CLIENT_SECRET": CLIENT_SECRET,
            }
        if how == "imds":
            return {"AZURE_POD_IDENTITY_AUTHORITY_HOST": self.uri}
        if how == "app-service":
            return {"IDENTITY_ENDPOINT": f"{self.uri}/msi/token", "IDENTITY_HEADER": IDENTITY_SECRET}
        raise ValueError(how)

    def environment(self, home: Path, how: str | None = "service-principal") -> dict[str, str]:
        """Return the whole environment of a child process that uses the real clients."""
        signed = {} if how is None else self.sign_in(how)
        return {**clean_environment(home), **self.settings(home), **signed}

    def install(self, monkeypatch: Any, home: Path, how: str | None = "service-principal") -> None:
        """Set this process's environment for one test (``monkeypatch`` is pytest's)."""
        for name in [name for name in os.environ if name.startswith(("AZURE_", "AZUREML_", "ARM_", "MSI_"))]:
            monkeypatch.delenv(name)
        for name, value in {**self.settings(home), **({} if how is None else self.sign_in(how))}.items():
            monkeypatch.setenv(name, value)

    def credential(self) -> Any:
        """Return a real ``azure.identity`` credential of the service principal."""
        from azure.identity import ClientSecretCredential

        return ClientSecretCredential(
            TENANT,
            CLIENT_ID,
            CLIENT_SECRET,
            authority=self.uri,
            disable_instance_discovery=True,
            connection_verify=str(self.bundle),
        )

    def token(self, who: str = "application", lifetime: float | None = None, tenant: str = TENANT) -> str:
        """Return a signed access token of ``application``, ``user`` or ``identity``."""
        return str(self._service.order("sign", who=who, lifetime=lifetime, tenant=tenant)["access_token"])

    # Switches

    @contextmanager
    def set(self, **switches: Any) -> Iterator[None]:
        """Set switches (:class:`tests.standins.azure.state.Switches`) for the length of the block."""
        before = self._service.order("set", **switches)
        try:
            yield
        finally:
            self._service.order("set", **before)

    @contextmanager
    def limits(self, **limits: int) -> Iterator[None]:
        """Set limits (:data:`tests.standins.azure.state.LIMITS`) for the length of the block."""
        before = self._service.order("limit", **limits)
        try:
            yield
        finally:
            self._service.order("limit", **before)

    @contextmanager
    def deny(self, action: str, who: str | None = None) -> Iterator[None]:
        """Take an Azure action (``*`` is a wildcard) from a principal, or all, for the block's length."""
        number = self._service.order("deny", action=action, principal=who)["id"]
        try:
            yield
        finally:
            self._service.order("allow", number=number)

    @contextmanager
    def softly_deleted(self) -> Iterator[None]:
        """Have the first workspace deleted, softly, for the length of the block; then it is recovered."""
        self._service.order("delete", deleted=True)
        try:
            yield
        finally:
            self._service.order("delete", deleted=False)

    def expire_tokens(self) -> None:
        """Refuse every token signed until now as expired."""
        self._service.order("expire")

    def trust(self, public_key: str) -> None:
        """Register a public key (PEM) with the application: a certificate's, or a federation's."""
        self._service.order("trust", key=public_key)

    def forget_sign_ins(self) -> None:
        """Have every person's sign-in run out: their refresh tokens are refused."""
        self._service.order("forget_sign_ins")

    def confirm_devices(self, confirmed: bool) -> None:
        """Say whether the person behind a device code has confirmed it (from the beginning: yes, at once)."""
        self._service.order("confirm", devices=confirmed)

    def register_provider(self, namespace: str, registered: bool, subscription: str = SUBSCRIPTION) -> None:
        """Set whether a resource provider is registered."""
        self._service.order("register", subscription=subscription, namespace=namespace, registered=registered)

    # What was asked

    def endpoints(self) -> dict[str, Any]:
        """Return the managed endpoints and the web services there are, with the bodies that made them."""
        return self._service.order("endpoints")

    def unknown(self) -> list[str]:
        """Return the requests that no route knew, and defects of the stand-in itself."""
        found: list[str] = self._service.order("unknown")["unknown"]
        return found

    def deviations(self) -> dict[str, Any]:
        """Return what was held against the contracts since the last time, and what deviated from them."""
        return self._service.order("deviations")

    def forget_unknown(self) -> None:
        """Forget them: a test that provoked them says so."""
        self._service.order("forget_unknown")

    def reset(self) -> None:
        """Be as new: no faults, an empty log; the runs and models of the first workspace stay."""
        self.proxy.reset_all()
        left = int(self._service.order("reset", spares=[])["spares"])
        wanted = [
            self._host.start(f"azureml-spare-{self._spares + n}", wait=False) for n in range(SPARES - left)
        ]
        self._spares += len(wanted)
        for server in wanted:
            server.wait_until_ready()
        if wanted:
            self._service.order("reset", spares=[server.uri for server in wanted])

    def close(self) -> None:
        """End the processes and remove what they kept."""
        self.proxy.close()
        self._service.close()
        shutil.rmtree(self.folder, ignore_errors=True)
