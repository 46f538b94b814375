"""Who may do what: levels on experiments and models, grants in Unity Catalog; what each may see of them.

The shapes are those of docs.databricks.com/api: permissions of MLflow experiments, ``registered-models/get``
of the workspace, ``effective-permissions``, and the descriptions of catalogs, schemas and models. They are
told, not enforced: what is refused is ordered with :meth:`deny`.
"""

from __future__ import annotations

import json
from typing import Any

from tests.standins.databricks._catalog import Catalog
from tests.standins.databricks._switches import invalid, missing, refuse
from tests.standins.service import Answer, Call, route

_KINDS = "(?P<kind>experiments|notebooks)"
_SECURABLES = "(?P<kind>catalog|schema|function)"
_UC = "/api/2[.]1/unity-catalog/"
_LEAST_PAGE = 150
# What can be given on each; what stands on something above is inherited where it applies.
_APPLIES = {
    "catalog": {"USE_CATALOG", "USE_SCHEMA", "CREATE_MODEL", "CREATE_MODEL_VERSION", "EXECUTE", "MANAGE"},
    "schema": {"USE_SCHEMA", "CREATE_MODEL", "CREATE_MODEL_VERSION", "EXECUTE", "MANAGE"},
    "function": {"CREATE_MODEL_VERSION", "EXECUTE", "MANAGE"},
}
ADMIN = "admin@example.com"
METASTORE = "6b1f2f4e-7a5d-4c0e-9d38-2f1c5a7e9b10"
EVERYBODY = "account users"


class Permissions(Catalog):
    """What the permissions APIs tell."""

    def prepare(self) -> None:
        """Begin with everybody permitted, and nobody in a group."""
        super().prepare()
        self.give_anew()

    def give_anew(self) -> None:
        """Take back what a test gave or took."""
        self.groups: dict[str, list[str]] = {}
        """The groups of each user."""
        self.levels: dict[str, dict[str, str]] = {}
        """By experiment id, who has which level; without an entry its maker manages it."""
        self.model_levels: dict[str, str] = {}
        """The level that a caller has on a model of the workspace's registry: CAN_MANAGE without an entry."""
        self.acl_hidden = False
        """Refuse to show an experiment's levels, as to somebody who does not manage it."""
        self.grants: dict[str, dict[str, list[str]]] = {
            "main": {
                EVERYBODY: ["USE_CATALOG", "USE_SCHEMA", "CREATE_MODEL", "CREATE_MODEL_VERSION", "EXECUTE"]
            }
        }
        """By full name in Unity Catalog, what each principal was given there."""
        self.owners: dict[str, str] = {}
        """By full name who owns it: a model's maker without an entry, the administrator above models."""

    def groups_of(self, user: str) -> list[dict[str, str]]:
        """Return a user's groups."""
        return [{"display": name, "value": str(n), "type": "direct"} for n, name in self._numbered(user)]

    def _numbered(self, user: str) -> list[tuple[int, str]]:
        return list(enumerate(self.groups.get(user, ()), 1))

    # --- levels

    @route("GET", f"/api/2[.]0/permissions/{_KINDS}/(?P<id>[^/]+)")
    def levels_of(self, call: Call) -> Answer:
        """Return who may do what with an experiment; a notebook's own goes with the notebook."""
        kind, number = call.args["kind"], call.args["id"]
        if (number in self.notebooks.values()) != (kind == "notebooks"):
            raise missing(f"{kind.rstrip('s').capitalize()} {number} does not exist.")
        if self.acl_hidden:
            raise refuse(
                403, "PERMISSION_DENIED", f"{call.user} does not have Manage permissions on {number}"
            )
        if kind == "experiments":
            found = self.asked("/api/2.0/mlflow/experiments/get", experiment_id=number)
            tags = {tag["key"]: tag["value"] for tag in found["experiment"].get("tags", [])}
            maker = tags.get("mlflow.ownerEmail", ADMIN)
        else:
            maker = call.user
        given = self.levels.get(number, {maker: "CAN_MANAGE"})
        entries = [self._entry(who, {"permission_level": level}) for who, level in given.items()]
        above = {
            "permission_level": "CAN_MANAGE",
            "inherited": True,
            "inherited_from_object": ["/directories/"],
        }
        return Answer(
            {
                "object_id": f"/{kind}/{number}",
                "object_type": "mlflowExperiment" if kind == "experiments" else "notebook",
                "access_control_list": [*entries, self._entry("admins", above)],
            }
        )

    @staticmethod
    def _entry(who: str, permission: dict[str, Any]) -> dict[str, Any]:
        kind = "user_name" if "@" in who else "group_name"
        return {kind: who, "display_name": who, "all_permissions": [{"inherited": False, **permission}]}

    @route("GET", "/api/2[.]0/mlflow/databricks/registered-models/get")
    def model_of_workspace(self, call: Call) -> Answer:
        """Return a model of the workspace's registry with its id and the caller's level."""
        name = call.query["name"]
        found = self.upstream.ask("GET", f"/api/2.0/mlflow/registered-models/get?name={name}")
        answer = json.loads(found.data)
        if found.status != 200:
            raise refuse(found.status, answer["error_code"], answer["message"])
        more = {"id": f"{abs(hash(name)):032x}"[-32:]}
        if (level := self.model_levels.get(name, "CAN_MANAGE")) != "":
            more["permission_level"] = level
        return Answer({"registered_model_databricks": {**answer["registered_model"], **more}})

    # --- Unity Catalog

    @route("GET", _UC + "(?P<kind>catalogs|schemas|models)/(?P<name>[^/]+)")
    def described(self, call: Call) -> Answer:
        """Describe a catalog, schema or model to those who may use it."""
        kind = {"catalogs": "catalog", "schemas": "schema", "models": "function"}[call.args["kind"]]
        name = call.args["name"]
        owner = self._owner(kind, name)
        needed = {"catalog": "USE_CATALOG", "schema": "USE_SCHEMA", "function": "EXECUTE"}[kind]
        mine = {call.user, EVERYBODY, *self.groups.get(call.user, ())}
        given = self._effective(kind, name)
        if owner not in mine and not any(
            each["privilege"] in (needed, "ALL_PRIVILEGES") for who in mine for each in given.get(who, [])
        ):
            said = f"User does not have {needed.replace('_', ' ')} on {kind.capitalize()} '{name}'."
            raise refuse(403, "PERMISSION_DENIED", said)
        names = {"name": name.rpartition(".")[2], "full_name": name, "owner": owner}
        return Answer({**names, **self._more(kind, name)})

    def _more(self, kind: str, name: str) -> dict[str, Any]:
        """Return what Unity Catalog says of a model besides (databricks/cli, registered_models.go)."""
        if kind != "function":
            return {}
        catalog, schema, _ = name.split(".")
        model = self.catalog[name]
        return {
            "catalog_name": catalog,
            "schema_name": schema,
            "comment": model.description,
            "created_at": model.created,
            "created_by": model.user,
            "updated_at": model.created,
            "updated_by": model.user,
            "metastore_id": METASTORE,
        }

    @route("GET", _UC + f"effective-permissions/{_SECURABLES}/(?P<name>[^/]+)")
    def effective(self, call: Call) -> Answer:
        """List who was given what on something or above it, in pages; the first one is empty."""
        kind, name, only = call.args["kind"], call.args["name"], call.query.get("principal")
        most = int(call.query.get("max_results", -1 if "max_results" in call.query else 0))
        if most < 0 or 0 < most < _LEAST_PAGE:
            raise invalid(f"max_results must be 0 or at least {_LEAST_PAGE}")
        mine = {call.user, *self.groups.get(call.user, ())}
        if self._owner(kind, name) not in mine and only != call.user:
            raise refuse(403, "PERMISSION_DENIED", f"User does not have MANAGE on {kind} '{name}'.")
        given = self._effective(kind, name)
        listed = [
            {"principal": who, "privileges": privileges}
            for who, privileges in sorted(given.items())
            if only in (None, who)
        ]
        if "max_results" not in call.query or call.query.get("page_token") == "rest":
            return Answer({"privilege_assignments": listed})
        return Answer({"next_page_token": "rest"})

    def _owner(self, kind: str, name: str) -> str:
        there = {s.partition(".")[0] for s in self.schemas} if kind == "catalog" else self.schemas
        if kind == "function":
            if name not in self.catalog:
                raise refuse(404, "RESOURCE_DOES_NOT_EXIST", f"Registered Model '{name}' does not exist.")
            return self.owners.get(name, self.catalog[name].user)
        if name not in there:
            raise refuse(
                404, f"{kind.upper()}_DOES_NOT_EXIST", f"{kind.capitalize()} '{name}' does not exist."
            )
        return self.owners.get(name, ADMIN)

    def _effective(self, kind: str, name: str) -> dict[str, list[dict[str, Any]]]:
        """Return what each principal has on something, and where what is inherited comes from."""
        found: dict[str, list[dict[str, Any]]] = {}
        parts = name.split(".")
        for depth, above in enumerate(("catalog", "schema", "function")[: len(parts)], 1):
            place = ".".join(parts[:depth])
            origin = {"inherited_from_type": above.upper(), "inherited_from_name": place}
            for who, privileges in self.grants.get(place, {}).items():
                found.setdefault(who, []).extend(
                    {"privilege": each, **(origin if place != name else {})}
                    for each in privileges
                    if each in (*_APPLIES[kind], "ALL_PRIVILEGES")
                )
        return found
