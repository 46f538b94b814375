"""Who may do what: Azure's actions, refusals by role, the network and the rate."""

from __future__ import annotations

import re
import time
import uuid

from starlette.responses import Response

from tests.standins.azure.login import Login, Principal
from tests.standins.azure.state import Denial, State
from tests.standins.azure.web import (
    Call,
    Refusal,
    Route,
    arm_refusal,
    ml_refusal,
    mlflow_refusal,
    reply,
    route,
)

__all__ = ["Access"]


class Access:
    """What stands before every route that wants a token."""

    def __init__(self, state: State, login: Login) -> None:
        self.state, self.login = state, login
        self.recent: list[float] = []

    def deny(self, action: str, principal: str | None) -> int:
        """Take an action (``*`` is a wildcard, as in a role definition) away; returns the denial's number."""
        made = Denial(next(self.state.numbers), action, principal)
        self.state.denials.append(made)
        return made.id

    def allow(self, number: int) -> None:
        """Give a denied action back."""
        self.state.denials = [denial for denial in self.state.denials if denial.id != number]

    def admit(self, call: Call, matched: Route) -> None:
        """Set the caller, or refuse: no token, the wrong network, too many requests, no role."""
        if matched.action is None:
            return
        call.caller = self.login.check(call, matched.words)
        if matched.words == "arm" and call.caller.kind == "job":
            raise arm_refusal(401, "InvalidAuthenticationToken", "The access token is invalid.")
        if matched.words != "arm":
            self._network(matched.words)
            self._rate(matched.words)
        self.require(call, matched.action, matched.words)

    def require(self, call: Call, action: str, words: str) -> None:
        """Refuse with 403 where the caller's role lacks the action."""
        who: Principal = call.caller
        if not action or not any(denial.strikes(action, who.kind) for denial in self.state.denials):
            return
        scope = re.sub(r"^/(history|mlflow|artifact|modelmanagement)/v\d\.\d", "", call.path)
        scope = "/".join(scope.split("/")[:9])
        message = (
            f"The client '{who.name}' with object id '{who.oid}' does not have authorization to perform "
            f"action '{action}' over scope '{scope}' or the scope is invalid. If access was recently "
            "granted, please refresh your credentials."
        )
        raise self._forbidden(words, message, "AuthorizationFailed", "ForbiddenError")

    def _network(self, words: str) -> None:
        if self.state.switches.private_link:
            message = "Access to workspace was denied based on workspace private link configuration."
            refusal = self._forbidden(words, message, "UserError", "PrivateLinkAccessDenied")
            refusal.status = self.state.switches.private_link_status
            raise refusal

    def _forbidden(self, words: str, message: str, code: str, inner: str) -> Refusal:
        if words == "arm":
            return arm_refusal(403, code, message)
        if words == "ml":
            return ml_refusal(403, message, inner=inner)
        if not self.state.switches.forbidden_body:
            return Refusal(403)
        return mlflow_refusal(403, "PERMISSION_DENIED", message)

    def _rate(self, words: str) -> None:
        limit, now = self.state.switches.throttle, time.monotonic()
        if limit is None:
            return
        self.recent = [moment for moment in self.recent if moment > now - 1]
        if len(self.recent) >= limit:
            message = "Too many requests. Please try again later."
            if words == "mlflow":
                refusal = mlflow_refusal(429, "REQUEST_LIMIT_EXCEEDED", message)
            else:
                refusal = ml_refusal(429, message, inner="TooManyRequests")
            refusal.headers["Retry-After"] = "1"
            raise refusal
        self.recent.append(now)

    @route("GET", "/{scope*}/providers/Microsoft.Authorization/permissions", "")
    async def permissions(self, call: Call) -> Response:
        """List what the caller may do at a scope."""
        who: Principal = call.caller
        taken = [denial.action for denial in self.state.denials if denial.principal in (None, who.kind)]
        entry = {"actions": ["*"], "notActions": taken, "dataActions": [], "notDataActions": []}
        return reply({"value": [entry]})

    @route("GET", "/{scope*}/providers/Microsoft.Authorization/roleAssignments", "")
    async def assignments(self, call: Call) -> Response:
        """List the caller's role at a scope: one that allows everything that was not denied."""
        who: Principal = call.caller
        scope = f"/{call.names['scope']}"
        role = (
            f"{scope}/providers/Microsoft.Authorization/roleDefinitions/8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
        )
        properties = {"principalId": who.oid, "roleDefinitionId": role, "scope": scope}
        name = str(uuid.uuid5(uuid.UUID(who.oid), scope))
        return reply({"value": [{"name": name, "properties": properties}]})
