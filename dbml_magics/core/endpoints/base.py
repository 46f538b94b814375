"""The protocol of endpoints: the operations of a target and their arguments.

A target is a place where models are served: this machine, or one of Azure ML's services. ``service`` speaks
to all of them in the same words.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dbml_magics.common.hints import Remedy, corrected
from dbml_magics.core.endpoints.shapes import Settings
from dbml_magics.core.model.mlmodel import MLmodel, Signature
from dbml_magics.errors import BadCommand, BadName, DeploymentFailed
from dbml_magics.results.endpoints import Check, Deployment, Endpoint

__all__ = [
    "ENDPOINT_NAME",
    "TARGETS",
    "Address",
    "Found",
    "Order",
    "Say",
    "Target",
    "check_name",
    "combined_state",
    "failed",
    "only",
    "shared",
    "with_share",
]

TARGETS = ("local", "aci", "aks", "online")

Say = Callable[[str], None]
"""Told the state in a few words whenever it changes, and now and then while it does not."""

# Managed online endpoints: 3 to 32 letters, digits and hyphens, a letter first, no hyphen last (Azure ML,
# "Manage resource quotas"). The v1 web services take lower-case letters alone (azureml-core, Webservice).
ENDPOINT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,30}[A-Za-z0-9]")
_SERVICE_NAME = re.compile(r"[a-z][a-z0-9-]{1,30}[a-z0-9]")


@dataclass(frozen=True)
class Found:
    """The model that a command names, and where its files are."""

    label: str  # for people: "wine/1"
    uri: str  # through the link
    identity: str  # the same for the same files: a version, a logged model, a run's folder
    name: str | None = None  # of the registered model
    version: str | None = None
    workspace: str | None = None  # whose registry it is in
    run_id: str | None = None
    said: str | None = None  # what was chosen on the user's behalf


@dataclass(frozen=True)
class Order:
    """What is to be deployed, and how."""

    name: str
    model: Found
    files: Path  # the model's files on this machine
    mlmodel: MLmodel
    deployment: str | None = None
    settings: Settings = field(default_factory=dict)  # of the config file and the common options
    traffic: int | None = None
    wait: bool = True
    model_name: str | None = None  # what to call it in Azure ML's registry
    add_packages: bool = False  # serve a copy with the packages that the container needs
    line: Remedy = field(default_factory=lambda: Remedy("deploy", "MODEL"))  # the command, for messages
    notes: list[str] = field(default_factory=list)  # what the target wants to be said about it


@dataclass(frozen=True)
class Address:
    """Where and how an endpoint is asked for predictions."""

    uri: str
    headers: Callable[[bool], dict[str, str]]
    """Returns the headers with the key or token, fetched anew when the argument is true; never shown."""
    signature: Signature | None  # MLmodel's own words, or None where nobody knows it
    limit: int  # bytes of one request
    direct: bool = False  # on this machine: no proxy in between
    deployments: tuple[str, ...] = ()


class Target(ABC):
    """A place where models are served."""

    name: str
    legal: Mapping[str, str]
    """The keys of its config file, each with a description."""

    @abstractmethod
    def checks(self, order: Order) -> list[Check]:
        """Check everything that can be checked before anything is created."""

    @abstractmethod
    def deploy(self, order: Order, say: Say) -> tuple[str, str]:
        """Deploy, and return (deployment's name, what changed: deployed, updated, traffic or nothing).

        Raises DeploymentFailed with the end of the server's log; what was there before goes on.
        """

    @abstractmethod
    def endpoint(self, name: str) -> Endpoint | None:
        """Return the endpoint of that name, or None."""

    @abstractmethod
    def endpoints(self) -> list[Endpoint]:
        """Return all endpoints."""

    @abstractmethod
    def logs(self, name: str, deployment: str, lines: int) -> tuple[list[str], str | None]:
        """Return the last lines of a deployment's log, and the file that has all of it."""

    @abstractmethod
    def address(self, endpoint: Endpoint, deployment: str | None) -> Address:
        """Return how the endpoint is asked for predictions."""

    @abstractmethod
    def remove(self, endpoint: Endpoint, deployment: str | None, say: Say) -> None:
        """End a deployment, or the endpoint with all that it has."""


def check_name(name: str, what: str = "endpoint", *, target: str = "local") -> None:
    """Raise BadName for a name that Azure ML would refuse: local endpoints obey the same rule."""
    old = target in ("aci", "aks")
    rule = _SERVICE_NAME if old else ENDPOINT_NAME
    if rule.fullmatch(name):
        return
    legal = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:32].strip("-")
    legal = legal.lower() if old else legal
    legal = legal if rule.fullmatch(legal) else f"my-{legal}"[:32].strip("-")
    option = {"name" if what == "endpoint" else "deployment": legal if rule.fullmatch(legal) else "my-model"}
    raise BadName(
        f"{name!r} is no name for {'an' if what[0] in 'aeiou' else 'a'} {what}: Azure ML wants 3 to 32 "
        f"{'lower-case ' if old else ''}letters, digits and hyphens, a letter first and no hyphen last.",
        remedies=[(corrected(Remedy("deploy", "MODEL", to=target, **option), **option), "for example")],
    )


def shared(traffic: Mapping[str, int], name: str, percent: int) -> dict[str, int]:
    """Return the traffic with ``percent`` for one deployment, the others keeping their proportions."""
    others = {other: share for other, share in traffic.items() if other != name and share > 0}
    left, whole = 100 - percent, sum(others.values())
    exact = {other: share * left / whole for other, share in others.items()}
    given = {other: int(share) for other, share in exact.items()}
    # What rounding leaves goes to those that it took most from.
    for other in sorted(exact, key=lambda o: given[o] - exact[o])[: left - sum(given.values())]:
        given[other] += 1
    return {
        **{other: share for other, share in given.items() if share},
        **({name: percent} if percent else {}),
    }


def only(endpoint: str, known: list[str], line: Remedy) -> str:
    """Return the deployment that a line without ``--deployment`` means. Raises BadCommand."""
    if not known:
        return endpoint
    if len(known) == 1:
        return known[0]
    raise BadCommand(
        f"endpoint {endpoint} has the deployments {', '.join(known)}: which one?",
        remedies=[(line.but(deployment=each), f"updates {each}") for each in known]
        + [(line.but(deployment="NAME"), "adds another")],
    )


def with_share(traffic: Mapping[str, int], name: str, percent: int, line: Remedy) -> dict[str, int]:
    """Return the traffic with ``percent`` for one deployment; refuse to leave requests to nobody."""
    if any(share for other, share in traffic.items() if other != name):
        return shared(traffic, name, percent)
    if 0 < percent < 100:
        raise BadCommand(
            f"--traffic {percent} leaves {100 - percent} % of the requests to nobody: "
            "no other deployment gets any.",
            remedies=[(line.but(traffic=100), "all of them")],
        )
    if percent == 0 and traffic.get(name):
        raise BadCommand(
            f"--traffic 0 leaves all requests to nobody: {name} alone gets any.",
            remedies=[(line.but(deployment="OTHER", traffic=100), "gives them to another deployment")],
        )
    return shared(traffic, name, percent)


def combined_state(deployments: tuple[Deployment, ...]) -> str:
    """Return the state of an endpoint by those of its deployments."""
    states = {deployment.state for deployment in deployments}
    for state in ("updating", "creating"):
        if state in states and not (state == "creating" and "ready" in states):
            return state
    if "ready" in states:
        return "ready"
    return "failed" if states else "empty"


def failed(label: str, name: str, target: str, line: str, why: str, lines: Sequence[str]) -> DeploymentFailed:
    """Return why a deployment failed: the likely cause, and the end of its log."""
    from dbml_magics.core.endpoints.checks import likely_cause
    from dbml_magics.core.workspace_uri import masked

    cause = likely_cause([*lines, why])
    text = [f"{label} was not deployed to {name} on {target}: {masked(why.rstrip('.'))}."]
    text += [f"  likely cause: {cause}"] if cause else []
    if lines:
        text += ["  the last lines of its log:", *(f"    {masked(each)[:200]}" for each in lines)]
    return DeploymentFailed("\n".join(text), remedies=[(line, "again, once the cause is gone")])
