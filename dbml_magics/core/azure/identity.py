"""Signing in to Azure: one credential for every client, whichever way the user has.

:class:`SignIn` wraps a credential of azure-identity. MLflow's stores, blob storage's links, the resource
manager and (through :mod:`.core_auth`) azureml-core all ask it for tokens. It never prompts by itself: a way
that needs the user is gone through once, when the user links, with a prompt that the caller shows.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from dbml_magics.common import environment
from dbml_magics.common.fork_locks import ForkLock
from dbml_magics.common.hints import Remedy, amended
from dbml_magics.common.redaction import remember_secrets
from dbml_magics.core import hosts
from dbml_magics.core.azure import job
from dbml_magics.core.azure.identity_names import METHODS, SETTINGS
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.errors import BadLink, NotPermitted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from azure.core.credentials import AccessToken, TokenCredential
    from dbruntime.dbutils import DBUtils

    from dbml_magics.core.azure.clouds import Cloud

SCOPE_SETTING, SERVICE_CREDENTIAL_SETTING = SETTINGS
SCOPE_VARIABLE = "DBML_SECRET_SCOPE"
_SERVICE_CREDENTIAL_VARIABLE = "DATABRICKS_DEFAULT_SERVICE_CREDENTIAL_NAME"
_NEEDS_USER = ("interactive", "device-code")
_RENEW_BEFORE_S = 300.0
_DEVICE_CODE_S = 900
_ISSUED_NOW = '{{"access_token":{{"nbf":{{"essential":true,"value":"{}"}}}}}}'
_SPEAK = tuple(
    f"azure.identity._internal.{name}"
    for name in ("decorators", "get_token_mixin", "interactive", "msal_managed_identity_client")
)

Prompt = Callable[[str], None]

_quiet: ContextVar[bool] = ContextVar("dbml_signing_in", default=False)


class SignIn:
    """A token credential (``get_token``) that chooses its method, renews its tokens, and explains a refusal.

    ``settings`` may name a Databricks secret scope or service credential. Raises BadLink for a method that
    does not exist or that lacks what it needs here, NotPermitted where no way is open.
    """

    def __init__(
        self,
        method: str,
        cloud: Cloud,
        settings: Mapping[str, str] | None = None,
        prompt: Prompt | None = None,
    ) -> None:
        if method not in METHODS:
            raise BadLink(
                f"--auth is {method!r}; it can be {', '.join(METHODS)}.",
                remedies=[amended("link", "…", auth="default")],
            )
        self.cloud = cloud
        self.asked = method
        self.settings = dict(settings or {})
        self._prompt = prompt
        self._lock = ForkLock()
        self._tokens: dict[tuple[str, ...], tuple[AccessToken, float]] = {}
        self._credential: TokenCredential | None = None
        self._signed_in = False
        self._claims = ""
        self.method, self.why = method, ""
        hosts.exempt_loopback()
        if method == "default":
            self.method, self.why = self._choose()

    def __repr__(self) -> str:
        return f"SignIn({self.method}, {self.cloud.name})"  # never a token

    @property
    def description(self) -> str:
        """Return which way was taken and why, for people."""
        return f"{_NAMES[self.method]}{f' ({self.why})' if self.why else ''}"

    @property
    def tenant(self) -> str | None:
        """Return the tenant that this sign-in is of, as its token says. Raises Unavailable."""
        import jwt

        try:
            claims = jwt.decode(
                self.get_token().token, options={"verify_signature": False, "verify_aud": False}
            )
        except jwt.PyJWTError:
            return None
        return str(claims["tid"]) if claims.get("tid") else None

    # --- which way

    def _choose(self) -> tuple[str, str]:
        """Return (method, why) for this environment. Raises NotPermitted where none is open."""
        if _has_service_principal():
            return "service-principal", "AZURE_CLIENT_ID and its secret or certificate are set"
        if self._secret_scope() and environment.dbutils() is not None:
            return "service-principal", f"the secret scope {self._secret_scope()}"
        if environment.dbutils() is not None and self._service_credential():
            return "databricks", f"the service credential {self._service_credential()}"
        compute = environment.azureml_compute()
        if compute is not None:  # which may have an identity assigned, or none
            if self._answers("managed-identity", unless_away=True):
                return "managed-identity", f"an Azure ML {compute}"
        elif environment.has_managed_identity():
            return "managed-identity", "this machine has an identity of its own"
        if shutil.which("az") and self._answers("cli"):
            return "cli", "az is signed in"
        if environment.dbutils() is not None and self._answers("databricks"):
            return "databricks", "the notebook's own sign-in"
        if job.has_token():
            return "job-token", "an Azure ML job without an identity"
        if self._prompt is not None and environment.is_attended():
            if environment.place() == "jupyter" and environment.has_browser():
                return "interactive", "nothing is signed in here, and this machine has a browser"
            return "device-code", "nothing is signed in here"
        raise NotPermitted(
            "nothing here is signed in to Azure, and nobody is there to ask: no service principal in AZURE_* "
            "variables, no managed identity, no az login.",
            remedies=self.remedies(),
        )

    def _answers(self, method: str, *, unless_away: bool = False) -> bool:
        """Tell whether a way is open now; with ``unless_away`` also one whose service does not answer now."""
        try:
            with _quietly():
                _BUILDERS[method](self).get_token(self.cloud.scope)
        except Exception as error:  # whatever a way's library raises, it is not open
            classified = self._refused(error)
            return unless_away and isinstance(classified, Unavailable) and not classified.denied
        return True

    def remedies(self) -> list[tuple[str, str]]:
        """Return the ways to sign in from here, the likeliest first."""
        found: list[tuple[str, str]] = []
        if environment.dbutils() is not None:
            found.append(
                (
                    amended("link", "…", auth="databricks"),
                    "a Unity Catalog service credential: docs/azureml.md, Signing in",
                )
            )
        elif shutil.which("az"):
            login = (
                "az login" if not os.environ.get("AZURE_TENANT_ID") else "az login --tenant $AZURE_TENANT_ID"
            )
            found.append((login, "in a terminal, then link again"))
        there = environment.databricks()
        in_job = environment.azureml_compute() == "job"
        if not in_job and not (there is not None and there.job):  # where nobody could enter it
            found.append(
                (
                    amended("link", "…", auth="device-code"),
                    "shows a code to enter in any browser",
                )
            )
        if in_job:
            found.append(
                (
                    "identity: {type: managed}",
                    "in the job's YAML, for a cluster that has one: az ml compute update --identity-type "
                    "system_assigned",
                )
            )
        found.append(
            (
                "AZURE_TENANT_ID=… AZURE_CLIENT_ID=… AZURE_CLIENT_SECRET=…",
                "a service principal, in the environment",
            )
        )
        return found

    # --- settings

    def _secret_scope(self) -> str | None:
        return self.settings.get(SCOPE_SETTING) or os.environ.get(SCOPE_VARIABLE) or None

    def _service_credential(self) -> str | None:
        chosen = self.settings.get(SERVICE_CREDENTIAL_SETTING)
        return chosen or os.environ.get(_SERVICE_CREDENTIAL_VARIABLE) or None

    def _authority(self) -> dict[str, object]:
        """Return the settings of every credential that talks to the authority."""
        settings: dict[str, object] = {"authority": self.cloud.authority}
        if not self.cloud.authority_is_public:
            settings["disable_instance_discovery"] = (
                True  # a private authority is none that Microsoft's list has
            )
        return settings

    # --- tokens

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        """Return a token for the scopes (the cloud's resource manager by default), renewed when it ages.

        Raises Unavailable, ``denied`` where the sign-in itself is refused: delivery waits, nothing is lost.
        """
        asked = scopes or (self.cloud.scope,)
        kept = self._tokens.get(asked)
        if kept is not None and time.time() < kept[1]:
            return kept[0]
        with self._lock:
            kept = self._tokens.get(asked)
            now = time.time()
            if kept is not None and now < kept[1]:
                return kept[0]
            token = self._ask(asked)
            remember_secrets(token.token)
            # A short-lived token is renewed in the last fifth of its life.
            margin = min(_RENEW_BEFORE_S, max(0.0, (token.expires_on - now) / 5))
            self._tokens[asked] = (token, token.expires_on - margin)
            return token

    def _ask(self, scopes: tuple[str, ...]) -> AccessToken:
        if self.method in _NEEDS_USER and not self._signed_in:
            raise Unavailable(
                "not signed in: this process cannot ask the user",
                sent=False,
                denied=True,
                remedies=((Remedy("link", again=True), "in the notebook, which asks"),),
            )
        try:
            with _quietly():
                # A claim of its own makes MSAL redeem the refresh token; the user is not asked again.
                extra = {"claims": self._claims} if self._claims else {}
                token: AccessToken = self._own_credential().get_token(*scopes, **extra)
                self._claims = ""
        except Exception as error:
            if self.method not in _NEEDS_USER:
                self._credential = None  # made anew from what it is made of: a secret may be put right
            raise self._refused(error) from error
        return token

    def _refused(self, error: Exception) -> Exception:
        from azure.core.exceptions import AzureError, ClientAuthenticationError
        from azure.identity import AuthenticationRequiredError, CredentialUnavailableError

        if isinstance(error, AuthenticationRequiredError):
            reason = "signed out: the sign-in has run out and wants the user again"
            return Unavailable(
                reason, sent=False, denied=True, remedies=((Remedy("link", again=True), "signs in again"),)
            )
        said = _first_sentence(error)
        if isinstance(error, CredentialUnavailableError):
            return Unavailable(
                f"not signed in ({self.method}: {said})", sent=False, denied=True, remedies=self.remedies()
            )
        if isinstance(error, ClientAuthenticationError):
            status = getattr(getattr(error, "response", None), "status_code", None)
            if isinstance(status, int) and (status == 429 or status >= 500):
                return Unavailable(f"not reachable (the sign-in service answers {status})", sent=False)
            if _is_network(error):
                way = hosts.through(self.cloud.login)
                return Unavailable(f"not reachable (the sign-in service does not answer){way}", sent=False)
            return Unavailable(
                f"sign-in refused ({self.method}: {said})", sent=False, denied=True, remedies=self.remedies()
            )
        if isinstance(error, (AzureError, OSError)):
            way = hosts.through(self.cloud.login)
            return Unavailable(f"not reachable (the sign-in service: {said}){way}", sent=False)
        if isinstance(error, (Unavailable, BadLink, NotPermitted)):
            return error
        return Unavailable(
            f"not signed in ({self.method}: {said})", sent=False, denied=True, remedies=self.remedies()
        )

    def forget_token(self) -> None:
        """Forget the tokens, and those that azure-identity keeps itself: the service would not have one."""
        with self._lock:
            self._tokens.clear()
            if self.method in _NEEDS_USER:
                self._claims = _ISSUED_NOW.format(int(time.time()))
            else:
                self._credential = None

    # --- signing in

    def _own_credential(self) -> TokenCredential:
        if self._credential is None:
            self._credential = _BUILDERS[self.method](self)
        return self._credential

    def begin(self) -> None:
        """Sign in now, asking the user where the way needs one. Raises NotPermitted, BadLink, Unavailable."""
        if self.method in _NEEDS_USER and not self._signed_in:
            self._ask_user()
        self.get_token(self.cloud.scope)

    def _ask_user(self) -> None:
        if self._prompt is None or not environment.is_attended():
            raise NotPermitted(
                f"--auth {self.asked} asks the user, and this runs without anybody who could answer.",
                remedies=[r for r in self.remedies() if "device-code" not in r[0]],
            )
        if self.method == "interactive" and not environment.has_browser():
            raise NotPermitted(
                "--auth interactive opens a browser, and the machine that the kernel runs on has none.",
                remedies=[
                    (
                        amended("link", "…", auth="device-code"),
                        "shows a code to enter in any browser",
                    )
                ],
            )
        if self.method == "interactive":
            self._prompt("a browser window opens: sign in to Azure there")
        try:
            with _quietly():
                self._own_credential().authenticate(scopes=[self.cloud.scope])
        except Exception as error:
            classified = self._refused(error)
            if isinstance(classified, Unavailable) and classified.denied:
                raise NotPermitted(
                    f"the sign-in did not work: {classified.reason}.", remedies=self.remedies()
                ) from error
            raise classified from error
        self._signed_in = True

    def _show_code(self, address: str, code: str, _expires: object) -> None:
        assert self._prompt is not None
        self._prompt(f"to sign in to Azure, open {address} in any browser and enter the code {code}")

    # --- the ways

    def _cli(self) -> TokenCredential:
        from azure.identity import AzureCliCredential

        if shutil.which("az") is None:
            raise BadLink(
                "--auth cli needs the Azure CLI (az), and it is not on this machine's path.",
                remedies=[
                    (
                        amended("link", "…", auth="device-code"),
                        "shows a code to enter in any browser",
                    )
                ],
            )
        return AzureCliCredential(tenant_id=os.environ.get("AZURE_TENANT_ID", ""))

    def _interactive(self) -> TokenCredential:
        from azure.identity import InteractiveBrowserCredential

        return InteractiveBrowserCredential(
            tenant_id=os.environ.get("AZURE_TENANT_ID"),
            disable_automatic_authentication=True,
            **self._authority(),
        )

    def _device_code(self) -> TokenCredential:
        from azure.identity import DeviceCodeCredential

        return DeviceCodeCredential(
            tenant_id=os.environ.get("AZURE_TENANT_ID"),
            prompt_callback=self._show_code,
            timeout=_DEVICE_CODE_S,
            disable_automatic_authentication=True,
            **self._authority(),
        )

    def _service_principal(self) -> TokenCredential:
        from azure.identity import CertificateCredential, ClientSecretCredential, WorkloadIdentityCredential

        given = {name: os.environ.get(name) for name in _PRINCIPAL}
        scope = self._secret_scope()
        if scope is not None and environment.dbutils() is not None:
            given = {name: _secret(scope, name) or value for name, value in given.items()}
        tenant, client = given["AZURE_TENANT_ID"], given["AZURE_CLIENT_ID"]
        if tenant and client and given["AZURE_CLIENT_SECRET"]:
            return ClientSecretCredential(tenant, client, given["AZURE_CLIENT_SECRET"], **self._authority())
        if tenant and client and given["AZURE_CLIENT_CERTIFICATE_PATH"]:
            return CertificateCredential(
                tenant,
                client,
                given["AZURE_CLIENT_CERTIFICATE_PATH"],
                password=os.environ.get("AZURE_CLIENT_CERTIFICATE_PASSWORD"),
                **self._authority(),
            )
        if tenant and client and given["AZURE_FEDERATED_TOKEN_FILE"]:
            return WorkloadIdentityCredential(
                tenant_id=tenant,
                client_id=client,
                token_file_path=given["AZURE_FEDERATED_TOKEN_FILE"],
                **self._authority(),
            )
        missing = [n for n in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET") if not given[n]]
        where = f"the environment and the secret scope {scope}" if scope else "the environment"
        raise BadLink(
            f"--auth service-principal lacks {', '.join(missing)} in {where}.",
            remedies=[
                (
                    "AZURE_TENANT_ID=… AZURE_CLIENT_ID=… AZURE_CLIENT_SECRET=…",
                    "before the notebook starts, or",
                ),
                (f"{SCOPE_VARIABLE}=NAME", "a Databricks secret scope that has keys of these names"),
            ],
        )

    def _managed_identity(self) -> TokenCredential:
        from azure.identity import ManagedIdentityCredential

        # Azure ML's compute names its user-assigned identity so.
        client = os.environ.get("AZURE_CLIENT_ID") or os.environ.get("DEFAULT_IDENTITY_CLIENT_ID")
        return ManagedIdentityCredential(client_id=client) if client else ManagedIdentityCredential()

    def _databricks(self) -> TokenCredential:
        tools = environment.dbutils()
        if tools is None:
            raise BadLink(
                "--auth databricks is a Databricks notebook's own sign-in, and this is none.",
                remedies=[amended("link", "…", auth="default")],
            )
        name = self._service_credential()
        if name:
            # docs.databricks.com, data-governance/unity-catalog/service-credentials (runtime 15.4 and later)
            return tools.credentials.getServiceCredentialsProvider(name)
        return _Passthrough(tools)

    def _job_token(self) -> TokenCredential:
        if not job.has_token():
            raise BadLink(
                "--auth job-token is the token of an Azure ML job, and this is none that was given one.",
                remedies=[amended("link", "…", auth="default")],
            )
        return job.JobToken()


class _Passthrough:
    """The Entra token of a cluster with credential passthrough; azureml-mlflow takes the same."""

    def __init__(self, tools: DBUtils) -> None:
        self._tools = tools

    def get_token(self, *_scopes: str, **_: object) -> AccessToken:
        """Return the notebook's own token. Raises CredentialUnavailableError."""
        import jwt
        from azure.core.credentials import AccessToken
        from azure.identity import CredentialUnavailableError

        try:
            context = self._tools.notebook.entry_point.getDbutils().notebook().getContext()
            token = str(context.adlsAadToken().get())
            expiry = jwt.decode(token, options={"verify_signature": False, "verify_aud": False})["exp"]
        except Exception as error:  # py4j's, or a token that is none
            raise CredentialUnavailableError(
                message="this cluster hands out no Azure token; name a service credential instead"
            ) from error
        return AccessToken(token, int(expiry))


_PRINCIPAL = (
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_FEDERATED_TOKEN_FILE",
)
_NAMES = {
    "cli": "the Azure CLI's sign-in",
    "interactive": "a sign-in in the browser",
    "device-code": "a device code",
    "service-principal": "a service principal",
    "managed-identity": "a managed identity",
    "databricks": "the Databricks notebook's identity",
    "job-token": "the job's own token",
}
_BUILDERS: dict[str, Callable[[SignIn], TokenCredential]] = {
    "cli": SignIn._cli,
    "interactive": SignIn._interactive,
    "device-code": SignIn._device_code,
    "service-principal": SignIn._service_principal,
    "managed-identity": SignIn._managed_identity,
    "databricks": SignIn._databricks,
    "job-token": SignIn._job_token,
}


def _has_service_principal() -> bool:
    if not (os.environ.get("AZURE_TENANT_ID") and os.environ.get("AZURE_CLIENT_ID")):
        return False
    return any(os.environ.get(name) for name in _PRINCIPAL[2:])


def _secret(scope: str, key: str) -> str | None:
    """Return a secret of a Databricks scope, or None where the scope has none of that name."""
    try:
        found = str(environment.dbutils().secrets.get(scope=scope, key=key)) or None
        remember_secrets(found if "SECRET" in key else None)
        return found
    except Exception:  # py4j's: no such key, or no right to read it
        return None


def _first_sentence(error: Exception) -> str:
    """Return a sign-in library's message without the trace ids and advice that follow it."""
    text = " ".join(str(getattr(error, "message", None) or error).split())
    text = (
        text.partition(" Trace ID:")[0].partition("\nTo mitigate")[0].removeprefix("Authentication failed: ")
    )
    return text if len(text) <= 160 else text[:157] + "…"


def _is_network(error: BaseException) -> bool:
    import requests
    from azure.core.exceptions import ServiceRequestError, ServiceResponseError

    seen: BaseException | None = error
    for _ in range(6):
        if seen is None:
            return False
        if isinstance(
            seen, (requests.ConnectionError, requests.Timeout, ServiceRequestError, ServiceResponseError)
        ):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


class _Muted(logging.Filter):
    """Drop azure-identity's log records while our own errors report the same."""

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - logging's signature
        return not _quiet.get()


@contextmanager
def _quietly() -> Iterator[None]:
    for logger in map(logging.getLogger, _SPEAK):
        if not any(isinstance(f, _Muted) for f in logger.filters):
            logger.addFilter(_Muted())
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


_shared: dict[tuple[str, ...], SignIn] = {}
_shared_lock = ForkLock()


def shared(
    method: str, cloud: Cloud, settings: Mapping[str, str] | None = None, prompt: Prompt | None = None
) -> SignIn:
    """Return this process's sign-in of that kind: a user who signed in once is not asked again.

    ``prompt`` shows what the user must do, where somebody can see it. Raises as :class:`SignIn` does.
    """
    own = {name: value for name, value in (settings or {}).items() if name in SETTINGS}
    whose = [os.environ.get(name, "") for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID")]
    where = (cloud.name, cloud.authority, *whose, *(f"{k}={v}" for k, v in sorted(own.items())))
    with _shared_lock:
        found = _shared.get((method, *where))
        if found is None:
            made = SignIn(method, cloud, own, prompt)
            found = _shared.setdefault((made.method, *where), made)
            found.why = made.why
            if method != "default":  # what fits best may change: it is looked for at each link
                _shared[(method, *where)] = found
    if prompt is not None:
        found._prompt = prompt
    return found
