"""Model versions and registry writes at one workspace's registry, and the twin that each version carries."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.exceptions import MlflowException
from mlflow.utils.uri import append_to_uri_path

from dbml_magics.core.tracking.faults import Away, already_exists, is_missing
from dbml_magics.core.tracking.journal import LINK_QUEUE, encode

if TYPE_CHECKING:
    from dbml_magics.core.tracking.apply import Applier

KEY_TAG = "dbml_key"
RUN_TAG = "dbml_run_id"
TWIN_TAG = "dbml_twin"
_READY_WITHIN_S = 300.0


def answer_key(key: str, role: str) -> str:
    """Return where the answer to a registration stands."""
    return f"version/{key}/{role}"


class Registrations:
    """Registers versions and makes registry writes at one workspace."""

    def __init__(self, applier: Applier) -> None:
        self.applier = applier
        self.role = applier.role
        self.state = applier.state

    @property
    def registry(self) -> Any:
        """Return the workspace's registry store."""
        return self.applier.workspace.registry

    # --- versions

    def version(self, queue: str, op: list[Any], doubt: bool) -> None:
        """Register one version, once, and exchange twins with the other registry."""
        told = op[2]
        if self.role not in told["to"]:
            return
        key = answer_key(told["key"], self.role)
        others = {r: answer_key(told["key"], r) for r in told["to"] if r != self.role}
        answer = self.state.answer(key)
        if answer is None:
            twin = next((self._twin(r, self.state.answer(k)) for r, k in others.items()), None)
            answer = self._register(told, doubt, twin)
        found = self.state.set_answer_and_read(key, answer, others.values())
        for role, other_key in others.items():
            if other_key in found and "version" in found[other_key]:
                self._exchange(told, answer, role, found[other_key])
        del queue

    def _register(self, told: dict[str, Any], doubt: bool, twin: str | None) -> dict[str, Any]:
        name = told["name"]
        source, run_id, model_id = self._source(told)
        new = self._make_model(name)
        trying = f"creating/{self.role}/version/{told['key']}"
        made = None
        if doubt or self.state.answer(trying) is not None:
            made = self._find(name, told["key"])
        if made is None:
            self.state.set_answer(trying, True)
            tags = {**told["tags"], KEY_TAG: told["key"]}
            if told.get("run"):
                tags[RUN_TAG] = told["run"]
            if twin:
                tags[TWIN_TAG] = twin
            made = self.registry.create_model_version(
                name,
                source,
                run_id,
                [ModelVersionTag(k, v) for k, v in tags.items()],
                told.get("run_link"),
                told.get("description"),
                model_id=model_id,
            )
        made = self._ready(made)
        self.state.forget_answer(trying)
        return {"name": made.name, "version": str(made.version), "source": made.source, "new": new}

    def _make_model(self, name: str) -> bool:
        try:
            self.registry.create_registered_model(name)
        except MlflowException as error:
            if not already_exists(error):
                raise
            return False
        return True

    def _find(self, name: str, key: str) -> Any:
        for found in self.registry.search_model_versions(f"name='{name}'", max_results=1000):
            if found.tags.get(KEY_TAG) == key:
                return found
        return None

    def _ready(self, made: Any) -> Any:
        until = time.monotonic() + _READY_WITHIN_S
        while made.status == "PENDING_REGISTRATION":
            if time.monotonic() > until:
                raise Away(f"version {made.version} of {made.name} is still being registered there")
            time.sleep(1.0)
            made = self.registry.get_model_version(made.name, made.version)
        return made

    def _source(self, told: dict[str, Any]) -> tuple[str, str | None, str | None]:
        """Return (source, run, model) under this workspace's own names, its files there."""
        given, applier = told["source"], self.applier
        run_id = applier.run_at(told["run"]) if told.get("run") else None
        if given["kind"] == "model":
            identity = applier.model_at(given["id"])
            if not applier.has_file(f"model:{given['id']}", "MLmodel"):
                applier.copy_from_primary(f"model:{given['id']}", "")
            native = applier.has_logged_models and applier.workspace.uri.startswith(("http://", "https://"))
            # A database's own registry would look models:/ up through the global URI, which is the link's.
            source = f"models:/{identity.actual}" if native else identity.extra["artifacts"]
            return source, run_id or identity.extra.get("run"), identity.actual if native else None
        if given["kind"] == "run":
            identity = applier.run_identity(given["run"])
            owner = f"run:{given['run']}"
            if not applier.has_file(owner, f"{given['path']}/MLmodel"):
                applier.copy_from_primary(owner, given["path"])
            return append_to_uri_path(identity.extra["artifacts"], given["path"]), identity.actual, None
        if given["kind"] == "version":
            version = self.own_version(given["name"], given["version"], None)
            if version is None:
                raise MlflowException.invalid_parameter_value(
                    f"version {given['version']} of {given['name']} is not registered in {self.role}"
                )
            return f"models:/{given['name']}/{version}", run_id, None
        return given["uri"], run_id, None

    def _twin(self, role: str, answer: Any) -> str | None:
        return f"{role}:{answer['name']}/{answer['version']}" if answer and "version" in answer else None

    def _exchange(self, told: dict[str, Any], own: dict[str, Any], role: str, other: dict[str, Any]) -> None:
        """Give each of two versions the other's name; the later of two registrations does it for both."""
        first = told["to"][0]
        a, b = (own, other) if first == self.role else (other, own)
        second = role if first == self.role else self.role
        self.state.set_identity(second, "version", f"{a['name']}/{a['version']}", b["version"])
        twin = self._twin(role, other)
        self.registry.set_model_version_tag(own["name"], own["version"], ModelVersionTag(TWIN_TAG, twin))
        change = {
            "to": [role],
            "do": "version_tag",
            "name": other["name"],
            "version": other["version"],
            "own": True,
            "key": TWIN_TAG,
            "value": self._twin(self.role, own),
        }
        self.applier.engine.append(LINK_QUEUE, encode("W", change))

    def own_version(self, name: str, version: str, key: str | None) -> str | None:
        """Return this registry's number for a version that the user knows by the first registry's."""
        if key is not None:
            answer = self.state.answer(answer_key(key, self.role))
            return answer["version"] if answer and "version" in answer else None
        if self.role == self.applier.engine.link.registries[0]:
            return str(version)
        known = self.state.identity(self.role, "version", f"{name}/{version}")
        return known.actual if known else None

    # --- other writes

    def write(self, _queue: str, op: list[Any], _doubt: bool) -> None:
        """Make one registry write here; writes that say a state are harmless when made twice."""
        told = op[2]
        if self.role not in told["to"]:
            return
        version = None
        if "version" in told:
            version = (
                told["version"]
                if told.get("own")
                else self.own_version(told["name"], told["version"], told.get("of"))
            )
            if version is None:
                return  # that version was never registered here
        try:
            _WRITES[told["do"]](self.registry, told, version)
        except MlflowException as error:
            if already_exists(error) or (told["do"] in _REMOVALS and is_missing(error)):
                return
            raise


_REMOVALS = frozenset({"delete_model", "model_untag", "version_delete", "version_untag", "unalias"})

_WRITES: dict[str, Callable[[Any, dict[str, Any], Any], Any]] = {
    "create_model": lambda r, t, _: r.create_registered_model(
        t["name"], [RegisteredModelTag(k, v) for k, v in t["tags"].items()], t.get("description")
    ),
    "update_model": lambda r, t, _: r.update_registered_model(t["name"], t["description"]),
    "rename_model": lambda r, t, _: r.rename_registered_model(t["name"], t["new_name"]),
    "delete_model": lambda r, t, _: r.delete_registered_model(t["name"]),
    "model_tag": lambda r, t, _: r.set_registered_model_tag(t["name"], RegisteredModelTag(t["key"], t["value"])),
    "model_untag": lambda r, t, _: r.delete_registered_model_tag(t["name"], t["key"]),
    "version_update": lambda r, t, v: r.update_model_version(t["name"], v, t["description"]),
    "version_delete": lambda r, t, v: r.delete_model_version(t["name"], v),
    "version_tag": lambda r, t, v: r.set_model_version_tag(t["name"], v, ModelVersionTag(t["key"], t["value"])),
    "version_untag": lambda r, t, v: r.delete_model_version_tag(t["name"], v, t["key"]),
    "version_stage": lambda r, t, v: r.transition_model_version_stage(t["name"], v, t["stage"], t["archive"]),
    "alias": lambda r, t, v: r.set_registered_model_alias(t["name"], t["alias"], v),
    "unalias": lambda r, t, _: r.delete_registered_model_alias(t["name"], t["alias"]),
}


def write_directly(registry: Any, told: dict[str, Any], version: Any) -> Any:
    """Make one registry write at a registry and return its answer."""
    return _WRITES[told["do"]](registry, told, version)
