"""The workspace model registry: the real MLflow server's, with a copy of each version's files."""

from __future__ import annotations

import json
import posixpath

from tests.standins.databricks._switches import invalid, missing, refuse
from tests.standins.databricks._tracking import Tracking, folder_of
from tests.standins.service import Answer, Call, route

_API = "/api/2[.]0/mlflow/"


class Registry(Tracking):
    """Registered models of the workspace; it has stages and no aliases."""

    def _forward(self, call: Call) -> Answer:
        if not self.switches.workspace_registry:
            raise refuse(
                400,
                "FEATURE_DISABLED",
                "Workspace Model Registry is disabled for your workspace. Use models in Unity Catalog.",
            )
        return self.forward(call)

    @route("GET|POST|PATCH|DELETE", _API + "registered-models/(create|rename|update|delete|get|search)")
    def registered_models(self, call: Call) -> Answer:
        """Make, change, find registered models; a name that is empty is refused in the service's words."""
        if call.path.endswith("/create") and not call.json.get("name"):
            # databricks/cli, acceptance/bundle/resources/models/empty-name/out.deploy.direct.txt
            raise invalid("Got an invalid name ''. Registered Model names cannot be empty strings.")
        return self._forward(call)

    @route("GET|POST|DELETE", _API + "registered-models/(set-tag|delete-tag|get-latest-versions)")
    def registered_model_tags(self, call: Call) -> Answer:
        """Change a model's tags; find its newest version by stage."""
        return self._forward(call)

    @route("GET|POST|DELETE", _API + "registered-models/alias")
    def alias(self, call: Call) -> Answer:
        """Refuse: the workspace's registry has no aliases."""
        raise refuse(400, "FEATURE_DISABLED", "Aliases are supported for models in Unity Catalog only.")

    @route(
        "GET|POST|PATCH|DELETE",
        _API + "model-versions/(update|transition-stage|delete|get|search|set-tag|delete-tag)",
    )
    def model_versions(self, call: Call) -> Answer:
        """Change and find versions."""
        return self._forward(call)

    @route("POST", _API + "model-versions/create")
    def create_model_version(self, call: Call) -> Answer:
        """Register a version: copy its files, which must be there."""
        self.check_pending()
        source = str(call.json.get("source", ""))
        files = self._files_of(source)
        if not any(path.endswith("/MLmodel") for path in files):
            raise invalid(f"Unable to find a model at {source}: it has no file MLmodel")
        found = self._forward(call)
        if found.status == 200:
            made = json.loads(found.data)["model_version"]
            folder = _folder(made["name"], made["version"])
            for path, data in files.items():
                self.put(folder + path, data)
        return found

    def _files_of(self, source: str) -> dict[str, bytes]:
        if source.startswith("models:/m-"):
            folder = self.artifact_folder("model", source.removeprefix("models:/"))
        elif source.startswith("models:/"):
            name, _, version = source.removeprefix("models:/").rpartition("/")
            folder = _folder(name, version)
        elif source.startswith("dbfs:/databricks/mlflow-tracking/"):
            folder = folder_of(source)
        else:
            raise invalid(f"Invalid model version source: '{source}'")
        found = self.below(folder)
        return {path[len(folder) :]: self.files[path][0] for path in found}

    @route("GET", _API + "model-versions/get-download-uri")
    def download_uri(self, call: Call) -> Answer:
        """Return where a version's files are."""
        found = self._forward(call)
        if found.status != 200:
            return found
        name, version = call.query["name"], call.query["version"]
        return Answer({"artifact_uri": f"dbfs:/databricks/mlflow-registry/{name}/versions/{version}"})

    @route("GET", _API + "model-versions/list-artifacts")
    def list_version(self, call: Call) -> Answer:
        """List one folder of a version's files."""
        folder = self._existing_version(call)
        return Answer(self.listed(folder, call.query.get("path", "")))

    @route("GET", _API + "model-versions/get-signed-download-uri")
    def sign_version(self, call: Call) -> Answer:
        """Sign the address of one of a version's files."""
        path = posixpath.join(self._existing_version(call), call.query.get("path", ""))
        if path not in self.files:
            raise missing(f"No file {call.query.get('path')}")
        return Answer({"signed_uri": self.sign(call, path), "headers": []})

    def _existing_version(self, call: Call) -> str:
        folder = _folder(call.query["name"], call.query["version"])
        if not self.below(folder):
            raise missing(
                f"Model Version (name={call.query['name']}, version={call.query['version']}) not found"
            )
        return folder


def _folder(name: str, version: str) -> str:
    return f"/WorkspaceInternal/Mlflow/Registry/{name}/{version}"
