"""Who calls: personal access tokens, OAuth for service principals, and what each may do."""

from __future__ import annotations

import base64
import itertools
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from tests.standins.databricks._switches import ORGANIZATION, Switches, refuse
from tests.standins.service import Answer, Call, Refusal, Service, route

# databricks-sdk-py#274, WeatherGenerator#1482: which of the two a client gets, nobody has said.
RATE_REFUSALS = (
    ("REQUEST_LIMIT_EXCEEDED", "GetUserPermissionsRequest RPC token bucket limit has been exceeded."),
    ("RESOURCE_EXHAUSTED", "Too many requests. Please wait a moment and try again."),
)


@dataclass
class _Token:
    user: str
    until: float
    oauth: bool


class SignIn(Service):
    """Discovery, tokens, the caller's name, permissions and rates."""

    switches: Switches

    def prepare(self) -> None:
        """Begin with nobody."""
        self._tokens: dict[str, _Token] = {}
        self._principals: dict[str, tuple[str, str]] = {}
        self._denied: list[tuple[str, re.Pattern[str], str]] = []
        self.tokens_issued = 0
        self._rate_refusals = itertools.cycle(RATE_REFUSALS)

    # --- what a test orders

    def token(self, user: str, lifetime: float | None = None) -> str:
        """Give a user a personal access token that lives so many seconds (a year by default)."""
        made = "dapi" + secrets.token_hex(16)
        self._tokens[made] = _Token(user, time.time() + (lifetime or 3e7), False)
        self.add_user(user)
        return made

    def principal(self, user: str) -> tuple[str, str]:
        """Make a service principal; returns its client id and secret."""
        client, secret = secrets.token_hex(8), "dose" + secrets.token_hex(16)
        self._principals[client] = (secret, user)
        self.add_user(user)
        return client, secret

    def revoke(self, client: str) -> None:
        """Take back a service principal's secret and every token that it got."""
        _, user = self._principals[client]
        self._principals[client] = (secrets.token_hex(32), user)
        for token, each in list(self._tokens.items()):
            if each.oauth and each.user == user:
                del self._tokens[token]

    def renew(self, client: str) -> str:
        """Give a service principal a new secret and return it."""
        secret = "dose" + secrets.token_hex(16)
        self._principals[client] = (secret, self._principals[client][1])
        return secret

    def add_user(self, user: str) -> None:
        """Give a user a home folder."""
        raise NotImplementedError

    def expire(self) -> None:
        """Let every token given out so far be over."""
        for each in self._tokens.values():
            each.until = 0.0

    def deny(self, user: str, path: str, message: str) -> None:
        """Refuse a user what a path (an expression) does, with the service's message."""
        self._denied.append((user, re.compile(path), message))

    def allow_all(self) -> None:
        """Take back every denial."""
        self._denied.clear()

    # --- routes

    @route("GET", "/")
    def root(self, call: Call) -> Answer:
        """Send a browser to the sign-in page."""
        return Answer(b"", 303, {"Location": f"{_origin(call)}/login.html"})

    @route("GET", "/.well-known/databricks-config")
    def discovery(self, call: Call) -> Answer:
        """Say where tokens come from, and which workspace this is."""
        return Answer({"oidc_endpoint": f"{_origin(call)}/oidc", "workspace_id": ORGANIZATION})

    @route("GET", "/oidc/.well-known/oauth-authorization-server")
    def oidc(self, call: Call) -> Answer:
        """Name the token endpoint."""
        here = f"{_origin(call)}/oidc/v1"
        return Answer({"authorization_endpoint": f"{here}/authorize", "token_endpoint": f"{here}/token"})

    @route("POST", "/oidc/v1/token")
    def give_token(self, call: Call) -> Answer:
        """Give a service principal a token."""
        time.sleep(self.switches.token_delay)
        form = dict(parse_qsl(call.body.decode()))
        client, secret = form.get("client_id", ""), form.get("client_secret", "")
        if call.headers.get("Authorization", "").startswith("Basic "):
            client, _, secret = (
                base64.b64decode(call.headers["Authorization"].removeprefix("Basic ")).decode().partition(":")
            )
        known = self._principals.get(client)
        if known is None or known[0] != secret:
            raise Refusal(
                401, {"error": "invalid_client", "error_description": "Client authentication failed"}
            )
        made = "eyJ" + secrets.token_urlsafe(24)
        lifetime = self.switches.token_lifetime
        self._tokens[made] = _Token(known[1], time.time() + lifetime, True)
        self.tokens_issued += 1
        return Answer({"access_token": made, "token_type": "Bearer", "expires_in": lifetime})

    @route("GET", "/api/2.0/preview/scim/v2/Me")
    def me(self, call: Call) -> Answer:
        """Say who calls."""
        user = {
            "id": self.user_id(call.user),
            "userName": call.user,
            "active": True,
            "groups": self.groups_of(call.user),
        }
        return Answer(user, headers={"X-Databricks-Org-Id": ORGANIZATION})

    def user_id(self, user: str) -> str:
        """Return the number that a user has, as SCIM has it."""
        return str(int.from_bytes(user.encode()[:7], "big"))

    def groups_of(self, user: str) -> list[dict[str, str]]:
        """Return the groups that a user is a direct member of, as SCIM has them."""
        raise NotImplementedError

    def missing(self, call: Call) -> Answer:
        """Answer a call that the service has not (databricks/cli, acceptance/genie/ask-endpoint-gone)."""
        said = f"No API found for '{call.method} {re.sub(r'^/api/[0-9.]+', '', call.path)}'"
        return Answer({"error_code": "ENDPOINT_NOT_FOUND", "message": said}, 404)

    # --- who may

    def admit(self, call: Call, handler: Any) -> None:
        """Know the caller and check permission and rate; discovery and signed URLs need neither."""
        if not call.path.startswith("/api/"):
            return
        call.user = self._caller(call)
        for user, pattern, message in self._denied:
            if user == call.user and pattern.search(call.path):
                raise refuse(403, "PERMISSION_DENIED", message)
        self._meter(call)

    def _caller(self, call: Call) -> str:
        kind, _, given = call.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer":
            said = "Credential was not sent or was of an unsupported type for this API."
            raise Refusal(401, {"error_code": 401, "message": said})
        known = self._tokens.get(given)
        if known is None and given.startswith("eyJ"):
            raise refuse(401, "UNAUTHENTICATED", "Credential was revoked")
        if known is None:
            raise Refusal(403, {"error_code": 403, "message": "Invalid access token."})
        if known.until < time.time():
            if known.oauth:
                raise refuse(401, "UNAUTHENTICATED", "Token is expired")
            raise Refusal(403, {"error_code": 403, "message": "Token is expired."})
        return known.user

    def _meter(self, call: Call) -> None:
        with self._lock:
            wait = self.switches.rates.retry_after(call.method, call.path)
        if wait is not None:
            code, said = next(self._rate_refusals)
            raise refuse(429, code, said, Retry_After=f"{wait:g}")


def _origin(call: Call) -> str:
    return f"http://{call.headers['Host']}"
