"""What the caller may do at a Databricks workspace, command by command; asked, never tried.

The levels of experiments and models are those of docs.databricks.com security/auth/access-control, the
privileges those of data-governance/unity-catalog/manage-privileges/privileges and
machine-learning/manage-model-lifecycle/upgrade-workflows (registered models are FUNCTION in the grants API).
The API does not list groups within groups, so a group may grant more than is seen here.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dbml_magics.core.destinations.errors import EndlessListing
from dbml_magics.core.destinations.naming import in_catalog
from dbml_magics.core.destinations.rest import call_timeout
from dbml_magics.core.doctor.answering import CALL_S, not_fine
from dbml_magics.core.paging import Pages
from dbml_magics.results.doctor import Finding

if TYPE_CHECKING:
    from dbml_magics.core.destinations.databricks import DatabricksWorkspace
    from dbml_magics.core.link import Link
    from dbml_magics.core.outbox.state import State

__all__ = ["Known", "checks", "known"]

_ME = "/api/2.0/preview/scim/v2/Me"
_CATALOG = "/api/2.1/unity-catalog"
_MOST = 3  # models, of those that the link registered: the looks have seconds, not minutes
_PAGES = 20

_LEVELS = (
    "CAN_READ",
    "CAN_RUN",  # notebooks, whose experiment goes with them
    "CAN_EDIT",
    "CAN_MANAGE_STAGING_VERSIONS",
    "CAN_MANAGE_PRODUCTION_VERSIONS",
    "CAN_MANAGE",
)
_EXPERIMENT = (
    ("%dbml runs", "read the runs", "CAN_READ"),
    ("%%track", "log runs", "CAN_EDIT"),
    ("%dbml cleanup experiment", "delete it", "CAN_MANAGE"),
)
_MODEL = (
    ("%dbml models", "read its versions", "CAN_READ"),
    ("%dbml register", "register a version", "CAN_EDIT"),
    ("%dbml cleanup model", "delete it", "CAN_MANAGE"),
)
_RARE = "%dbml cleanup"  # what an owner does: missing, it is no news
# (command, what it does, where it is asked, the privilege)
_PRIVILEGES: tuple[tuple[str, str, str, str], ...] = (
    ("%dbml models", "see what is in the catalog", "catalog", "USE_CATALOG"),
    ("%dbml models", "see what is in the schema", "schema", "USE_SCHEMA"),
    ("%dbml register", "register a new model", "schema", "CREATE_MODEL"),
    ("%dbml register", "register a version", "function", "CREATE_MODEL_VERSION"),
    ("%dbml score, %dbml deploy", "load the model", "function", "EXECUTE"),
)
# Whoever may read a thing's description has this privilege on it, by whichever group (the API's own words).
_SHOWN_BY = {"catalog": "USE_CATALOG", "schema": "USE_SCHEMA", "function": "EXECUTE"}
_SQL = {"catalog": "CATALOG", "schema": "SCHEMA", "function": "MODEL"}
_OWNED = {"catalog": "catalogs", "schema": "schemas", "function": "models"}


@dataclass(frozen=True)
class Known:
    """What of a workspace the link has used: nothing else is asked about."""

    experiment: str | None = None  # its id there
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Caller:
    name: str
    groups: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        """Return every name under which something may have been given to the caller."""
        return self.groups | {self.name, "users", "account users"}


def known(state: State, link: Link, role: str) -> Known:
    """Return the active experiment's id and the registered models' names at a workspace of the link."""
    recent = state.recent_runs(1)
    active = state.experiments.active() or (recent[0][1].get("experiment") if recent else None)
    there = state.identity(role, "experiment", str(active)) if active is not None else None
    experiment = there.actual if there is not None else None
    if experiment is None and role == link.primary and str(active).isdigit():  # a provisional id is no number
        experiment = str(active)
    own = tuple(state.model_versions.model_names()) if link.registries[0] == role else ()
    return Known(experiment, own)


def checks(
    workspace: DatabricksWorkspace, used: Callable[[], Known]
) -> list[tuple[str, Callable[[], Iterator[Finding]]]]:
    """Return the checks of the caller's permissions, by name."""
    return [("permissions", lambda: _permissions(workspace, used()))]


def _permissions(workspace: DatabricksWorkspace, used: Known) -> Iterator[Finding]:
    try:
        with call_timeout(CALL_S):
            workspace.signed_in()  # bounded in time, which the SDK's own signing in is not
        ask = _asker(workspace)
        profile = ask(_ME)
    except Exception as error:
        yield not_fine(workspace, "permissions", error, "warning")
        return
    groups = frozenset(str(each["display"]) for each in profile.get("groups") or [] if each.get("display"))
    caller = _Caller(str(profile.get("userName", "")), groups)
    looks: list[Callable[[], Iterator[Finding]]] = []
    if used.experiment is not None:
        looks.append(partial(_of_experiment, workspace, ask, caller, used.experiment))
    for name in used.models[-_MOST:]:
        of = _of_catalog if in_catalog(name) else _of_model
        looks.append(partial(of, workspace, ask, caller, name))
    if not looks:
        why = "nothing to ask about: this link has no experiment and no model there yet"
        yield Finding(workspace.role, "permissions", cause=why)
    seen: set[Finding] = set()
    for look in looks:
        try:
            found = list(look())
        except Exception as error:
            found = [not_fine(workspace, "permissions", error, "warning")]
        yield from (finding for finding in found if finding not in seen)  # of two models in one schema
        seen.update(found)


Fields = dict[str, Any]
"""The JSON object of a reply; each of the APIs asked here has a form of its own."""
Ask = Callable[..., Fields]


def _asker(workspace: DatabricksWorkspace) -> Ask:
    """Return a caller of REST paths by databricks-sdk, whose typed calls differ between releases."""
    from databricks.sdk.core import ApiClient

    client = ApiClient(workspace.config)

    def ask(path: str, **query: object) -> Fields:
        answer = client.do("GET", path, query=query)
        return answer if isinstance(answer, dict) else {}

    return ask


def _hidden(workspace: DatabricksWorkspace, on: str) -> Finding:
    why = f"not shown to you for {on}: its owner and those who manage it see who has what"
    return Finding(workspace.role, "permissions", cause=why)


# --- levels: experiments, and models of the workspace's registry


def _of_experiment(
    workspace: DatabricksWorkspace, ask: Ask, caller: _Caller, experiment: str
) -> Iterator[Finding]:
    from databricks.sdk.errors import PermissionDenied

    with call_timeout(CALL_S):
        found = workspace.tracking.get_experiment(experiment)
    kind = "notebooks" if found.tags.get("mlflow.experimentType") == "NOTEBOOK" else "experiments"
    on = f"the experiment {posixpath.basename(found.name) or found.name}"
    try:
        reply = ask(f"/api/2.0/permissions/{kind}/{quote(experiment)}")
    except PermissionDenied:
        yield _hidden(workspace, on)
        return
    level = _highest(
        str(each.get("permission_level"))
        for entry in reply.get("access_control_list") or []
        if _principal(entry) in caller.all
        for each in entry.get("all_permissions") or []
    )
    yield from _levels(workspace, caller, _EXPERIMENT, level, on, f"{kind} {experiment}")


def _principal(entry: Fields) -> str | None:
    return entry.get("user_name") or entry.get("group_name") or entry.get("service_principal_name")


def _highest(levels: Iterable[str]) -> str | None:
    return max((each for each in levels if each in _LEVELS), key=_LEVELS.index, default=None)


def _of_model(workspace: DatabricksWorkspace, ask: Ask, caller: _Caller, name: str) -> Iterator[Finding]:
    from databricks.sdk.errors import NotFound

    try:
        reply = ask("/api/2.0/mlflow/databricks/registered-models/get", name=name)
    except NotFound:  # deleted, or still on its way
        return
    model = reply.get("registered_model_databricks") or {}
    level = _highest([str(model.get("permission_level"))])
    on = f"the model {name}"
    yield from _levels(workspace, caller, _MODEL, level, on, f"registered-models {model.get('id')}")


def _levels(
    workspace: DatabricksWorkspace,
    caller: _Caller,
    needs: tuple[tuple[str, str, str], ...],
    level: str | None,
    on: str,
    place: str,
) -> Iterator[Finding]:
    have = -1 if level is None else _LEVELS.index(level)
    able = []
    for command, what, needed in needs:
        if have >= _LEVELS.index(needed):
            able.append(command)
        elif not command.startswith(_RARE):
            words = needed.replace("_", " ")
            seen = "nothing is given" if level is None else f"{level.replace('_', ' ')} is"
            yield Finding(
                workspace.role,
                command,
                "warning",
                f"not permitted to {what}: {on} wants {words}, and {seen} to {caller.name} or a group of "
                "theirs that can be seen",
                _grant(place, caller, needed),
                "by somebody who manages it, in a terminal",
            )
    if able:
        yield Finding(workspace.role, "permissions", cause=f"{on}: for {', '.join(able)}")


def _grant(place: str, caller: _Caller, level: str) -> str:
    whose = "user_name" if "@" in caller.name else "service_principal_name"
    change = {"access_control_list": [{whose: caller.name, "permission_level": level}]}
    return f"databricks permissions update {place} --json '{json.dumps(change)}'"


# --- privileges: models in Unity Catalog


def _of_catalog(workspace: DatabricksWorkspace, ask: Ask, caller: _Caller, name: str) -> Iterator[Finding]:
    from databricks.sdk.errors import NotFound

    catalog, schema, _ = name.split(".")
    places = {"catalog": catalog, "schema": f"{catalog}.{schema}", "function": name}
    held: dict[str, _Held] = {}
    for kind, full_name in places.items():
        try:
            held[kind] = _held(ask, caller, kind, full_name)
        except NotFound:  # a model that is still on its way
            continue
    able: dict[str, None] = {}
    lacking: set[str] = set()
    unseen: dict[str, None] = {}
    for command, what, kind, needed in _PRIVILEGES:
        if kind not in held:
            continue
        words = needed.replace("_", " ")
        if held[kind].privileges & {needed, "ALL_PRIVILEGES"}:
            able[command] = None
        elif needed == _SHOWN_BY[kind] or held[kind].whole:
            lacking.add(command)
            yield Finding(
                workspace.role,
                command,
                "warning",
                f"not permitted to {what}: {words} on {places[kind]} in Unity Catalog is given neither to "
                f"{caller.name} nor to a group of theirs",
                f"GRANT {words} ON {_SQL[kind]} {places[kind]} TO `{caller.name}`",
                "by its owner, in a SQL cell",
            )
        else:
            lacking.add(command)
            unseen[f"{words} on {places[kind]}"] = None
    if fine := [command for command in able if command not in lacking]:
        yield Finding(workspace.role, "permissions", cause=f"{name}: for {', '.join(fine)}")
    if unseen:
        yield _hidden(workspace, " and ".join(unseen))


@dataclass(frozen=True)
class _Held:
    """What the caller has on something of Unity Catalog."""

    privileges: frozenset[str]
    whole: bool = True  # what their groups have is among it


def _held(ask: Ask, caller: _Caller, kind: str, full_name: str) -> _Held:
    """Return the caller's privileges, those from above and by groups included. Raises NotFound."""
    from databricks.sdk.errors import PermissionDenied

    try:
        reply = ask(f"{_CATALOG}/{_OWNED[kind]}/{quote(full_name)}")
    except PermissionDenied:
        return _Held(frozenset(), whole=False)
    if reply.get("owner") in caller.all:
        return _Held(frozenset({"ALL_PRIVILEGES"}))
    shown = {_SHOWN_BY[kind]}
    try:
        return _Held(frozenset({*shown, *_granted(ask, kind, full_name, caller.all)}))
    except PermissionDenied:  # the whole list is its owner's; each may see what they were given themselves
        own = _granted(ask, kind, full_name, caller.all, principal=caller.name)
        return _Held(frozenset({*shown, *own}), whole=False)


def _granted(ask: Ask, kind: str, full_name: str, names: frozenset[str], **only: str) -> Iterator[str]:
    # max_results=0 asks for pages, whose size is the service's: a page may be empty, and another follow.
    query: dict[str, object] = {"max_results": 0, **only}
    pages = Pages()
    for _ in range(_PAGES):
        reply = ask(f"{_CATALOG}/effective-permissions/{kind}/{quote(full_name)}", **query)
        page = reply.get("privilege_assignments") or []
        for entry in page:
            if entry.get("principal") in names:
                yield from (str(each.get("privilege")) for each in entry.get("privileges") or [])
        try:
            following = pages.follow(reply.get("next_page_token"), page)
        except EndlessListing:
            return
        if following is None:
            return
        query["page_token"] = following
