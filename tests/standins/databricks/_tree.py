"""The workspace's tree of folders, notebooks and experiments."""

from __future__ import annotations

import posixpath
import re

from tests.standins.databricks._sign_in import SignIn
from tests.standins.databricks._switches import invalid, missing, refuse
from tests.standins.service import Answer, Call, route


def _clean(path: str) -> str:
    """Return a path as the service reads it: slashes in a row count as one (databricks/cli)."""
    return re.sub("/+", "/", path)


def _place(path: str) -> str:
    """Return where a clean path leads: ``/Workspace`` is another name of the root."""
    return path.removeprefix("/Workspace") or "/" if f"{path}/".startswith("/Workspace/") else path


class Tree(SignIn):
    """Folders of the workspace; an experiment stands in one like a file."""

    def prepare(self) -> None:
        """Begin with the folders that every workspace has."""
        super().prepare()
        self.nodes: dict[str, str] = dict.fromkeys(("/", "/Users", "/Shared", "/Repos"), "DIRECTORY")
        self.notebooks: dict[str, str] = {}
        """Path and id of each notebook, whose own experiment has the same."""

    def add_user(self, user: str) -> None:
        """Give a user a home folder."""
        self.nodes[f"/Users/{user}"] = "DIRECTORY"

    def add_notebook(self, path: str) -> str:
        """Put a notebook into the tree, its folders and its own experiment too; returns its id."""
        self._make(posixpath.dirname(path))
        self.nodes[path] = "NOTEBOOK"
        self.notebooks[path] = self.experiment_of_notebook(path)
        return self.notebooks[path]

    def experiment_of_notebook(self, path: str) -> str:
        """Make the experiment that a notebook has of its own; returns its id."""
        raise NotImplementedError

    def _make(self, path: str) -> None:
        parts = path.strip("/").split("/")
        for n in range(1, len(parts) + 1):
            self.nodes.setdefault("/" + "/".join(parts[:n]), "DIRECTORY")

    @route("POST", "/api/2.0/workspace/mkdirs")
    def mkdirs(self, call: Call) -> Answer:
        """Make a folder and those above it."""
        asked = str(call.json.get("path", ""))
        if not asked.startswith("/"):
            raise invalid(f"Path ({asked}) doesn't start with '/'")
        path = _place(_clean(asked))
        parts = path.strip("/").split("/")
        if parts[0] == "Users" and len(parts) > 1 and f"/Users/{parts[1]}" not in self.nodes:
            # A user's home is made with the user, by nobody else.
            raise refuse(
                403, "PERMISSION_DENIED", f"{call.user} does not have permission to create /Users/{parts[1]}"
            )
        above = path
        while above not in ("/", ""):
            if self.nodes.get(above, "DIRECTORY") != "DIRECTORY":
                raise refuse(
                    400, "RESOURCE_ALREADY_EXISTS", f"Node {above} already exists and is no directory"
                )
            above = posixpath.dirname(above)
        self._make(path)
        return Answer({})

    @route("GET", "/api/2.0/workspace/get-status")
    def get_status(self, call: Call) -> Answer:
        """Say what stands at a path, under the name that was asked for."""
        asked = call.query.get("path", "")
        shown = _clean(asked)
        path = _place(shown)
        if path not in self.nodes:
            raise missing(f"Path ({asked}) doesn't exist.")
        if asked.startswith("//Workspace/"):
            shown = path
        number = int(self.notebooks.get(path) or abs(hash(path)) % 10**15)
        return Answer({"path": shown, "object_type": self.nodes[path], "object_id": number})
