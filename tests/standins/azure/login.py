"""Sign-in: the cloud's metadata, tokens for applications, people and machines, and their inspection."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode

import jwt
from starlette.responses import RedirectResponse, Response

from tests.standins.azure.state import SUFFIX, TENANT, State
from tests.standins.azure.web import Call, Refusal, arm_refusal, ml_refusal, mlflow_refusal, reply, route, utc

__all__ = ["CLIENT_ID", "CLIENT_SECRET", "CLOUD", "IDENTITY_SECRET", "PRINCIPALS", "Login", "Principal"]

CLOUD = "StandInCloud"
CLIENT_ID = "c11e47a0-0000-4000-8000-00000000abcd"
CLIENT_SECRET = "stand-in-client-secret-Zq8"
IDENTITY_SECRET = "stand-in-identity-header-Vt3"


@dataclass(frozen=True)
class Principal:
    """Who a token speaks for."""

    kind: str  # application, user or identity
    name: str
    oid: str
    claims: dict[str, Any] = field(default_factory=dict, hash=False)


PRINCIPALS = {
    "application": Principal(
        "application", CLIENT_ID, "0b1ec700-0000-4000-8000-00000000a001", {"idtyp": "app", "appid": CLIENT_ID}
    ),
    "user": Principal(
        "user",
        "ada@contoso.test",
        "0b1ec700-0000-4000-8000-00000000a002",
        {"scp": "user_impersonation", "upn": "ada@contoso.test", "name": "Ada Contoso"},
    ),
    "job": Principal("job", "job", "0b1ec700-0000-4000-8000-00000000a004", {"idtyp": "job"}),
    "identity": Principal(
        "identity", "aml-compute", "0b1ec700-0000-4000-8000-00000000a003", {"idtyp": "app", "xms_mirid": "vm"}
    ),
}


class Login:
    """The authority, the metadata of the cloud, and the identity endpoints of machines in it."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.key = secrets.token_hex(32)
        self.devices: dict[str, dict[str, Any]] = {}
        self.devices_confirm = True  # the user types the code as soon as it is shown
        self.refreshes: dict[str, str] = {}  # refresh token -> principal
        self.codes: dict[str, tuple[str, str]] = {}  # code -> the challenge of its owner, and the nonce
        self.trusted: list[str] = []  # public keys of the application's certificates and federations

    # Tokens

    def sign(
        self, who: str, audience: str, lifetime: float | None = None, tenant: str = TENANT
    ) -> dict[str, Any]:
        """Return a token answer for a principal, as the authority gives it."""
        principal, now = PRINCIPALS[who], time.time()
        seconds = self.state.switches.token_lifetime if lifetime is None else lifetime
        claims = {
            "aud": audience,
            "iss": f"https://sts.windows.net/{tenant}/",
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now + seconds),
            "tid": tenant,
            "oid": principal.oid,
            "sub": principal.oid,
            "ver": "1.0",
            "uti": uuid.uuid4().hex,
            "issued": now,  # finer than iat, for expire_tokens()
            "expires": now + seconds,
            "who": who,
            **principal.claims,
        }
        token = jwt.encode(claims, self.key, algorithm="HS256")
        return {
            "token_type": "Bearer",
            "access_token": token,
            "expires_in": max(int(seconds), 0),
            "ext_expires_in": max(int(seconds), 0),
        }

    def check(self, call: Call, words: str, audience: str | None = None) -> Principal:
        """Return who sent a request; an absent, foreign or expired token is refused with 401.

        ``audience`` is whom the token has to be for, by default this cloud itself.
        """
        kind, _, token = call.header("authorization").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise self._unauthorized(
                words, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing."
            )
        try:
            claims = jwt.decode(
                token, self.key, algorithms=["HS256"], options={"verify_aud": False, "verify_exp": False}
            )
        except jwt.InvalidTokenError:
            raise self._unauthorized(
                words, "InvalidAuthenticationToken", "The access token is invalid."
            ) from None
        now = time.time()
        if claims["expires"] <= now or claims["issued"] < self.state.tokens_from:
            message = (
                f"The access token expiry UTC time '{utc(min(claims['expires'], now))}' is earlier than "
                f"current UTC time '{utc(now)}'."
            )
            raise self._unauthorized(words, "ExpiredAuthenticationToken", message)
        if claims["tid"] != TENANT:
            message = (
                f"The access token is from the wrong issuer 'https://sts.windows.net/{claims['tid']}/'. "
                f"It must match the tenant 'https://sts.windows.net/{TENANT}/' associated with this "
                f"subscription. Please use the authority (URL) '{self.state.public}/{TENANT}' for the token."
            )
            raise self._unauthorized(words, "InvalidAuthenticationTokenTenant", message)
        if not str(claims["aud"]).rstrip("/").startswith(audience or self.state.public):
            message = f"The access token has been obtained for wrong audience or resource '{claims['aud']}'."
            raise self._unauthorized(words, "InvalidAuthenticationTokenAudience", message)
        return PRINCIPALS[claims["who"]]

    def _unauthorized(self, words: str, code: str, message: str) -> Refusal:
        challenge = (
            f'Bearer authorization_uri="{self.state.public}/{TENANT}", error="invalid_token", '
            f'error_description="{message}"'
        )
        if words == "arm":
            return arm_refusal(401, code, message, WWW_Authenticate=challenge)
        if words == "mlflow":
            refusal = mlflow_refusal(401, "UNAUTHENTICATED", message)
        else:
            refusal = ml_refusal(401, message, inner="AuthorizationError")
        refusal.headers["WWW-Authenticate"] = challenge
        return refusal

    # The cloud

    @route("GET", "/metadata/endpoints")
    async def metadata(self, call: Call) -> Response:
        """List the clouds that this one knows: itself."""
        public = self.state.public
        cloud = {
            "name": CLOUD,
            "portal": f"{public}/portal",
            "resourceManager": f"{public}/",
            "gallery": f"{public}/gallery",
            "graph": f"{public}/graph",
            "graphAudience": f"{public}/graph",
            "batch": f"{public}/batch",
            "media": f"{public}/media",
            "sqlManagement": f"{public}/sql",
            "vmImageAliasDoc": f"{public}/aliases.json",
            "activeDirectoryDataLake": f"{public}/datalake",
            "authentication": {
                "loginEndpoint": f"{public}/",
                "audiences": [f"{public}/"],
                "tenant": "common",
                "identityProvider": "AAD",
            },
            "suffixes": {
                "storage": SUFFIX,
                "keyVaultDns": "vault.windows.test",
                "sqlServerHostname": "database.windows.test",
                "acrLoginServer": "azurecr.test",
                "azureDataLakeStoreFileSystem": "azuredatalakestore.test",
                "azureDataLakeAnalyticsCatalogAndJob": "azuredatalakeanalytics.test",
            },
        }
        return reply([cloud])

    # The authority

    @route("GET", "/common/discovery/instance")
    async def instances(self, call: Call) -> Response:
        """Name the well-known authorities: the public one asks here when discovery is on."""
        tenant = f"{self.state.public}/{TENANT}/v2.0/.well-known/openid-configuration"
        return reply({"tenant_discovery_endpoint": tenant, "api-version": "1.1", "metadata": []})

    @route("GET", "/{tenant}/v2.0/.well-known/openid-configuration")
    async def openid(self, call: Call) -> Response:
        """Describe the authority of a tenant."""
        tenant = call.names["tenant"]
        if tenant.lower() not in {TENANT, "organizations", "common", "contoso.test"}:
            body = {
                "error": "invalid_tenant",
                "error_description": f"AADSTS90002: Tenant '{tenant}' not found. Check to make sure you have "
                "the correct tenant ID and are signing into the correct cloud.",
                "error_codes": [90002],
            }
            return reply(body, 400)
        base = f"{self.state.public}/{tenant}"
        return reply(
            {
                "issuer": f"{self.state.public}/{TENANT}/v2.0",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                "tenant_region_scope": "EU",
            }
        )

    @route("POST", "/{tenant}/oauth2/v2.0/devicecode")
    async def device_code(self, call: Call) -> Response:
        """Begin a sign-in that a person confirms elsewhere."""
        form = await self._form(call)
        code, user_code = uuid.uuid4().hex, secrets.token_hex(4).upper()
        self.devices[code] = {
            "user_code": user_code,
            "scope": form.get("scope", ""),
            "until": time.time() + 900,
        }
        page = f"{self.state.public}/devicelogin"
        return reply(
            {
                "user_code": user_code,
                "device_code": code,
                "verification_uri": page,
                "expires_in": 900,
                "interval": 1,
                "message": f"To sign in, use a web browser to open the page {page} and enter the code "
                f"{user_code} to authenticate.",
            }
        )

    @route("GET", "/{tenant}/oauth2/v2.0/authorize")
    async def authorize(self, call: Call) -> Response:
        """Have the person at the browser agree, and send the browser back with a code."""
        asked = call.query
        wanted = {"response_type": "code", "code_challenge_method": "S256"}
        if any(asked.get(name) != value for name, value in wanted.items()):
            return self._denied("invalid_request", 900144, "The request lacks a code challenge.")
        code = secrets.token_hex(16)
        self.codes[code] = (asked["code_challenge"], asked.get("nonce", ""))
        back = urlencode({"code": code, "state": asked.get("state", "")})
        return RedirectResponse(f"{asked['redirect_uri']}?{back}", 302)

    @route("POST", "/{tenant}/oauth2/v2.0/token")
    @route("POST", "/{tenant}/oauth2/token")
    async def token(self, call: Call) -> Response:
        """Give a token for a client secret, a confirmed device code or a refresh token."""
        form = await self._form(call)
        grant = form.get("grant_type", "")
        audience = form.get("resource") or next(
            (word.removesuffix("/.default") for word in form.get("scope", "").split() if "://" in word), ""
        )
        if grant == "client_credentials":
            if form.get("client_id") != CLIENT_ID:
                return self._denied(
                    "unauthorized_client",
                    700016,
                    f"Application with identifier '{form.get('client_id')}' was not found in the directory.",
                )
            asserted = form.get("client_assertion")
            if asserted is not None and not self._trusts(asserted):
                return self._denied(
                    "invalid_client", 700027, "The assertion's signature is not trusted.", 401
                )
            if asserted is None and form.get("client_secret") != CLIENT_SECRET:
                return self._denied("invalid_client", 7000215, "Invalid client secret provided.", 401)
            return reply(self.sign("application", audience))
        if grant in {"device_code", "urn:ietf:params:oauth:grant-type:device_code"}:
            device = self.devices.get(form.get("device_code") or form.get("code") or "")
            if device is None or device["until"] < time.time():
                return self._denied(
                    "expired_token", 70020, "The provided value for 'device_code' is expired."
                )
            if not self.devices_confirm:
                return self._denied("authorization_pending", 70016, "Authorization is pending.")
            return reply(self._for_a_person(audience))
        if grant == "authorization_code":
            challenge, nonce = self.codes.pop(form.get("code", ""), ("", ""))
            proof = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            if challenge != base64.urlsafe_b64encode(proof).decode().rstrip("="):
                return self._denied("invalid_grant", 501481, "The code verifier does not match.")
            return reply(self._for_a_person(audience, nonce))
        if grant == "refresh_token":
            if form.get("refresh_token", "") not in self.refreshes:
                return self._denied(
                    "invalid_grant", 700082, "The refresh token has expired due to inactivity."
                )
            return reply(self._for_a_person(audience))
        return self._denied(
            "unsupported_grant_type", 70003, f"The app requested an unsupported grant '{grant}'."
        )

    def _trusts(self, assertion: str) -> bool:
        """Tell whether an assertion is signed by a key that the application's registration has."""
        for key in self.trusted:
            try:
                jwt.decode(assertion, key, ["RS256", "PS256"], options={"verify_aud": False})
            except jwt.InvalidTokenError:
                continue
            return True
        return False

    def _for_a_person(self, audience: str, nonce: str = "") -> dict[str, Any]:
        user = PRINCIPALS["user"]
        refresh = secrets.token_hex(16)
        self.refreshes[refresh] = "user"
        now = int(time.time())
        identity = {
            "aud": CLIENT_ID,
            "iss": f"{self.state.public}/{TENANT}/v2.0",
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
            "oid": user.oid,
            "tid": TENANT,
            "sub": user.oid,
            "preferred_username": user.name,
            "name": user.claims["name"],
            **({"nonce": nonce} if nonce else {}),
        }
        return {
            **self.sign("user", audience),
            "refresh_token": refresh,
            "scope": f"{audience}/.default",
            "id_token": jwt.encode(identity, self.key, algorithm="HS256"),
        }

    def _denied(self, error: str, number: int, message: str, status: int = 400) -> Response:
        body = {
            "error": error,
            "error_description": f"AADSTS{number}: {message} Trace ID: {uuid.uuid4()} Timestamp: {utc()}",
            "error_codes": [number],
            "timestamp": utc(),
        }
        return reply(body, status)

    async def _form(self, call: Call) -> dict[str, str]:
        raw = (await call.request.body()).decode()
        return {name: values[0] for name, values in parse_qs(raw).items()}

    # Machines in the cloud

    @route("GET", "/metadata/identity/oauth2/token")
    async def instance_metadata(self, call: Call) -> Response:
        """Give a virtual machine the token of its identity (IMDS)."""
        if call.header("metadata").lower() != "true":
            return reply(
                {"error": "invalid_request", "error_description": "Required metadata header missing"}, 400
            )
        return self._of_the_machine(call.query.get("resource", ""))

    @route("GET", "/msi/token")
    async def app_service(self, call: Call) -> Response:
        """Give Azure ML compute and App Service the token of their identity."""
        given = call.header("x-identity-header") or call.header("secret")
        if given != IDENTITY_SECRET:
            return reply({"statusCode": 401, "message": "Invalid identity header."}, 401)
        return self._of_the_machine(call.query.get("resource", ""))

    def _of_the_machine(self, resource: str) -> Response:
        signed = self.sign("identity", resource.removesuffix("/.default"))
        until = int(time.time()) + signed["expires_in"]
        return reply(
            {
                **signed,
                "expires_in": str(signed["expires_in"]),
                "expires_on": str(until),
                "not_before": str(int(time.time())),
                "resource": resource,
            }
        )
