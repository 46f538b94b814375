"""Models in Unity Catalog: three-level names, aliases, no stages, files in the catalog's own storage."""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.standins.databricks._registry import Registry
from tests.standins.databricks._switches import invalid, missing, refuse
from tests.standins.service import Answer, Call, route

_API = "/api/2[.]0/mlflow/unity-catalog/"
_NAME = re.compile(r"[^. /:\x00-\x1f]+")
_TAG_KEY = re.compile(r"[^.,\-=/:]{1,256}")
_TAG_VALUE = 1000
_STORAGE = "abfss://metastore@storage.dfs.core.windows.net"


@dataclass
class _Model:
    name: str
    description: str = ""
    created: int = field(default_factory=lambda: int(time.time() * 1000))
    user: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    last: int = 0

    def wire(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "description": self.description,
            "creation_timestamp": self.created,
            "last_updated_timestamp": self.created,
            "user_id": self.user,
            "aliases": [{"alias": a, "version": v} for a, v in self.aliases.items()],
            "tags": _tags(self.tags),
        }

    def version_wire(self, number: str) -> dict[str, Any]:
        held = self.versions[number]
        return {
            **{k: v for k, v in held.items() if v is not None},
            "name": self.name,
            "version": number,
            "aliases": [{"alias": a, "version": v} for a, v in self.aliases.items() if v == number],
            "tags": _tags(held["tags"]),
        }


def _tags(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": k, "value": v} for k, v in tags.items()]


class Catalog(Registry):
    """MLflow's unity-catalog calls."""

    def prepare(self) -> None:
        """Begin with the catalog ``main`` and its schema ``ml``."""
        super().prepare()
        self.schemas = {"main.ml", "main.default"}
        self.catalog: dict[str, _Model] = {}
        self.lineage: list[str] = []
        """The lineage headers that came with new versions, decoded."""

    def _named(self, name: str) -> str:
        if not self.switches.unity_catalog:
            raise refuse(404, "METASTORE_DOES_NOT_EXIST", "No metastore assigned for the current workspace.")
        parts = name.split(".")
        if len(parts) != 3 or not all(_NAME.fullmatch(part) for part in parts):
            raise invalid(
                f"Invalid model name '{name}': please specify all three levels of the model in the form "
                "`catalog_name.schema_name.model_name`"
            )
        if f"{parts[0]}.{parts[1]}" not in self.schemas:
            raise refuse(404, "SCHEMA_DOES_NOT_EXIST", f"Schema '{parts[0]}.{parts[1]}' does not exist.")
        return name

    def _model(self, name: str) -> _Model:
        found = self.catalog.get(self._named(name))
        if found is None:
            raise missing(f"Registered Model '{name}' does not exist.")
        return found

    def _version(self, asked: dict[str, Any]) -> tuple[_Model, str]:
        model = self._model(asked["name"])
        number = str(asked["version"])
        if number not in model.versions:
            raise missing(f"Model version '{number}' of '{model.name}' does not exist.")
        return model, number

    @staticmethod
    def _checked_tags(given: list[dict[str, str]]) -> dict[str, str]:
        for tag in given:
            if not _TAG_KEY.fullmatch(tag["key"]):
                raise invalid(
                    f"Tag key '{tag['key']}' is not valid: keys must not contain . , - = / : and have at "
                    "most 256 characters."
                )
            if len(tag.get("value", "")) > _TAG_VALUE:
                raise invalid(f"The value of tag '{tag['key']}' has more than {_TAG_VALUE} characters.")
        return {tag["key"]: tag.get("value", "") for tag in given}

    # --- models

    @route("POST", _API + "registered-models/create")
    def uc_create_model(self, call: Call) -> Answer:
        """Make a model."""
        asked = call.json
        name = self._named(asked["name"])
        if name in self.catalog:
            raise refuse(400, "RESOURCE_ALREADY_EXISTS", f"Function or model '{name}' already exists.")
        tags = self._checked_tags(asked.get("tags", []))
        made = _Model(name, asked.get("description", ""), user=call.user, tags=tags)
        self.catalog[name] = made
        return Answer({"registered_model": made.wire()})

    @route("PATCH", _API + "registered-models/update")
    def uc_update_model(self, call: Call) -> Answer:
        """Describe or rename a model."""
        asked = call.json
        model = self._model(asked["name"])
        if "description" in asked:
            model.description = asked["description"]
        if new := asked.get("new_name"):
            self.catalog[self._named(new)] = self.catalog.pop(model.name)
            for path in self.below(_folder(model.name)):
                self.files[_folder(new) + path[len(_folder(model.name)) :]] = self.files.pop(path)
            model.name = new
        return Answer({"registered_model": model.wire()})

    @route("DELETE", _API + "registered-models/delete")
    def uc_delete_model(self, call: Call) -> Answer:
        """Delete a model that has no versions left."""
        model = self._model(call.json["name"])
        if model.versions:
            raise invalid(f"Model '{model.name}' is not empty: delete its versions first.")
        del self.catalog[model.name]
        return Answer({})

    @route("GET", _API + "registered-models/get")
    def uc_get_model(self, call: Call) -> Answer:
        """Return a model."""
        return Answer({"registered_model": self._model(call.query["name"]).wire()})

    @route("GET", _API + "registered-models/search")
    def uc_search_models(self, call: Call) -> Answer:
        """List every model, without tags and aliases."""
        if not self.switches.unity_catalog:
            self._named("a.b.c")
        bare = [
            {k: v for k, v in self.catalog[name].wire().items() if k not in ("tags", "aliases")}
            for name in sorted(self.catalog)
        ]
        return Answer(_page("registered_models", bare, call))

    @route("POST", _API + "registered-models/set-tag")
    def uc_tag_model(self, call: Call) -> Answer:
        """Tag a model."""
        self._model(call.json["name"]).tags.update(self._checked_tags([call.json]))
        return Answer({})

    @route("DELETE", _API + "registered-models/delete-tag")
    def uc_untag_model(self, call: Call) -> Answer:
        """Remove a model's tag."""
        self._model(call.json["name"]).tags.pop(call.json["key"], None)
        return Answer({})

    @route("POST|GET|DELETE", _API + "registered-models/alias")
    def uc_alias(self, call: Call) -> Answer:
        """Set, follow, remove an alias."""
        asked = call.json
        model = self._model(asked["name"])
        if call.method == "POST":
            model.aliases[asked["alias"]] = self._version(asked)[1]
            return Answer({})
        if call.method == "DELETE":
            model.aliases.pop(asked["alias"], None)
            return Answer({})
        number = model.aliases.get(asked["alias"])
        if number is None:
            raise missing(f"Alias '{asked['alias']}' of model '{model.name}' does not exist.")
        return Answer({"model_version": model.version_wire(number)})

    # --- versions

    def _pending(self) -> list[dict[str, Any]]:
        """Return the versions in registration."""
        known = (version for each in self.catalog.values() for version in each.versions.values())
        return [version for version in known if version["status"] == "PENDING_REGISTRATION"]

    def fail_pending(self) -> None:
        """Have the versions in registration fail, as those do whose files never come."""
        for version in self._pending():
            version["status"] = "FAILED_REGISTRATION"

    @route("POST", _API + "model-versions/create")
    def uc_create_version(self, call: Call) -> Answer:
        """Make a version that waits for its files."""
        asked = call.json
        model = self._model(asked["name"])
        self.check_pending(len(self._pending()))
        if header := call.headers.get("X-Databricks-Lineage-Identifier"):
            self.lineage.append(base64.b64decode(header).decode())
        tags = self._checked_tags(asked.get("tags", []))
        model.last += 1
        number = str(model.last)
        model.versions[number] = {
            "source": asked.get("source"),
            "run_id": asked.get("run_id"),
            "model_id": asked.get("model_id"),
            "description": asked.get("description"),
            "run_tracking_server_id": asked.get("run_tracking_server_id"),
            "creation_timestamp": int(time.time() * 1000),
            "last_updated_timestamp": int(time.time() * 1000),
            "user_id": call.user,
            "status": "PENDING_REGISTRATION",
            "storage_location": "abfss://metastore@storage.dfs.core.windows.net"
            + _folder(model.name, number),
            "tags": tags,
        }
        return Answer({"model_version": model.version_wire(number)})

    @route("POST", _API + "model-versions/finalize")
    def uc_finalize(self, call: Call) -> Answer:
        """Take a version whose model has a signature of inputs and outputs."""
        model, number = self._version(call.json)
        found = self.files.get(_folder(model.name, number) + "/MLmodel")
        signature = yaml.safe_load(found[0]).get("signature") if found else None
        if not signature or not signature.get("inputs") or not signature.get("outputs"):
            model.versions[number]["status"] = "FAILED_REGISTRATION"
            raise invalid("The model has no signature of inputs and outputs, which Unity Catalog requires.")
        model.versions[number]["status"] = "READY"
        return Answer({"model_version": model.version_wire(number)})

    @route("GET", _API + "model-versions/get")
    def uc_get_version(self, call: Call) -> Answer:
        """Return a version."""
        model, number = self._version(call.query)
        return Answer({"model_version": model.version_wire(number)})

    @route("GET", _API + "model-versions/search")
    def uc_search_versions(self, call: Call) -> Answer:
        """List a model's versions in pages, newest first, without tags and aliases."""
        wanted = re.fullmatch(r"\s*name\s*=\s*['\"](.+)['\"]\s*", call.query.get("filter", ""))
        if wanted is None:
            raise invalid("Model versions in Unity Catalog can be searched by name alone.")
        model = self.catalog.get(self._named(wanted[1]))
        numbers = sorted(model.versions, key=int, reverse=True) if model else []
        bare = [
            {k: v for k, v in model.version_wire(n).items() if k not in ("tags", "aliases")}
            for n in numbers
            if model
        ]
        return Answer(_page("model_versions", bare, call))

    @route("PATCH", _API + "model-versions/update")
    def uc_update_version(self, call: Call) -> Answer:
        """Describe a version."""
        model, number = self._version(call.json)
        model.versions[number]["description"] = call.json.get("description")
        return Answer({"model_version": model.version_wire(number)})

    @route("DELETE", _API + "model-versions/delete")
    def uc_delete_version(self, call: Call) -> Answer:
        """Delete a version and its files."""
        model, number = self._version(call.json)
        del model.versions[number]
        model.aliases = {a: v for a, v in model.aliases.items() if v != number}
        for path in self.below(_folder(model.name, number)):
            del self.files[path]
        return Answer({})

    @route("POST", _API + "model-versions/set-tag")
    def uc_tag_version(self, call: Call) -> Answer:
        """Tag a version."""
        model, number = self._version(call.json)
        model.versions[number]["tags"].update(self._checked_tags([call.json]))
        return Answer({})

    @route("DELETE", _API + "model-versions/delete-tag")
    def uc_untag_version(self, call: Call) -> Answer:
        """Remove a version's tag."""
        model, number = self._version(call.json)
        model.versions[number]["tags"].pop(call.json["key"], None)
        return Answer({})

    # --- files

    @route("POST", _API + "model-versions/generate-temporary-credentials")
    def uc_credentials(self, call: Call) -> Answer:
        """Say how a version's files are reached: by signed URLs of the default storage."""
        model, number = self._version(call.json)
        writing = call.json.get("operation") == "MODEL_VERSION_OPERATION_READ_WRITE"
        if writing and model.versions[number]["status"] == "READY":
            raise invalid(f"Version {number} of '{model.name}' is finished: its files cannot be changed.")
        return Answer({"credentials": {"storage_mode": "DEFAULT_STORAGE"}})

    @route("GET", _API + "model-versions/get-download-uri")
    def uc_download_uri(self, call: Call) -> Answer:
        """Return where a version's files are."""
        model, number = self._version(call.query)
        return Answer({"artifact_uri": model.versions[number]["storage_location"]})

    @route("GET", _API + "registered-models:is-databricks-sdk-models-artifact-repository-enabled")
    def uc_through_files_api(self, call: Call) -> Answer:
        """Say whether versions' files go through the Files API."""
        on = self.switches.catalog_files_api
        return Answer({"is_databricks_sdk_models_artifact_repository_enabled": on})

    @route("POST", _API + "model-versions/emit-lineage")
    def uc_lineage(self, call: Call) -> Answer:
        """Take note of who reads a version."""
        return Answer({})


def _page(what: str, listed: list[dict[str, Any]], call: Call) -> dict[str, Any]:
    """Return the page that a search asked for, and where the next one begins."""
    start, size = int(call.query.get("page_token") or 0), int(call.query.get("max_results") or 100)
    more = {"next_page_token": str(start + size)} if len(listed) > start + size else {}
    return {what: listed[start : start + size], **more}


def _folder(name: str, version: str = "") -> str:
    folder = "/Models/" + name.replace(".", "/")
    return f"{folder}/{version}" if version else folder
