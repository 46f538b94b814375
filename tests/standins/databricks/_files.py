"""Files: the Files API, and the cloud's storage behind signed URLs."""

from __future__ import annotations

import posixpath
import re
import secrets
import time
from email.utils import formatdate
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from tests.standins.databricks._switches import invalid, refuse
from tests.standins.databricks._tree import Tree
from tests.standins.service import Answer, Call, Refusal, route

_FILES = "/api/2.0/fs/files(?P<path>/.+)"
_DIRECTORIES = "/api/2.0/fs/directories(?P<path>/.*)"
_PAGE = 1000


class Files(Tree):
    """One flat store of files by absolute path; folders are what stands before a slash."""

    def prepare(self) -> None:
        """Begin empty."""
        super().prepare()
        self.files: dict[str, tuple[bytes, float]] = {}
        self._signatures: dict[str, tuple[str, float]] = {}
        self._blocks: dict[str, dict[str, bytes]] = {}
        self._sessions: dict[str, tuple[str, dict[int, bytes]]] = {}

    # --- for the other parts

    def put(self, path: str, data: bytes) -> None:
        """Keep a file."""
        self.files[path] = (data, time.time())

    def below(self, folder: str) -> list[str]:
        """Return the paths of all files below a folder."""
        lead = folder.rstrip("/") + "/"
        return sorted(path for path in list(self.files) if path.startswith(lead))

    def entries(self, folder: str) -> list[dict[str, Any]]:
        """Return what stands right in a folder, as the Files API lists it."""
        lead = folder.rstrip("/") + "/"
        found: dict[str, dict[str, Any]] = {}
        for path in self.below(folder):
            name, _, rest = path[len(lead) :].partition("/")
            data, at = self.files[path]
            file = {} if rest else {"file_size": len(data), "last_modified": int(at * 1000)}
            found[name] = {"path": lead + name, "name": name, "is_directory": bool(rest), **file}
        return [found[name] for name in sorted(found)]

    def sign(self, call: Call, path: str) -> str:
        """Return an address at which a file may be read and written without signing in, for a time."""
        signature = secrets.token_urlsafe(16)
        self._signatures[signature] = (path, time.time() + self.switches.signed_lifetime)
        return f"http://{call.headers['Host']}/storage{quote(path)}?sig={signature}"

    # --- the Files API

    def _path(self, call: Call) -> str:
        path = "/" + call.args["path"].strip("/")
        if path.startswith("/WorkspaceInternal/") and not self.switches.files_api:
            raise refuse(403, "PERMISSION_DENIED", "The Files API is not enabled for this path")
        return path

    def _existing(self, path: str) -> tuple[bytes, dict[str, str]]:
        if path not in self.files:
            raise refuse(404, "NOT_FOUND", f"The file being accessed is not found. Path: {path}")
        data, at = self.files[path]
        return data, {
            "Content-Type": "application/octet-stream",
            "Last-Modified": formatdate(at, usegmt=True),
        }

    @route("PUT", _FILES)
    def upload(self, call: Call) -> Answer:
        """Write a file."""
        path = self._path(call)
        if path in self.files and call.query.get("overwrite") != "true":
            raise refuse(409, "ALREADY_EXISTS", f"The file already exists: {path}")
        self.put(path, call.body)
        return Answer(None, 204)

    @route("GET", _FILES)
    def download(self, call: Call) -> Answer:
        """Read a file."""
        data, headers = self._existing(self._path(call))
        return Answer(data, 200, headers)

    @route("HEAD", _FILES)
    def measure(self, call: Call) -> Answer:
        """Say how large a file is."""
        data, headers = self._existing(self._path(call))
        return Answer(None, 200, {**headers, "Content-Length": str(len(data))})

    @route("DELETE", _FILES)
    def delete(self, call: Call) -> Answer:
        """Delete a file."""
        path = self._path(call)
        self._existing(path)
        del self.files[path]
        return Answer(None, 204)

    @route("HEAD", _DIRECTORIES)
    def is_directory(self, call: Call) -> Answer:
        """Say whether a folder is there."""
        path = self._path(call)
        if not self.below(path):
            raise Refusal(404, None)
        return Answer(None)

    @route("GET", _DIRECTORIES)
    def list_directory(self, call: Call) -> Answer:
        """List a folder, a page at a time."""
        path = self._path(call)
        entries = self.entries(path)
        if not entries:
            raise refuse(404, "NOT_FOUND", f"The directory being accessed is not found. Path: {path}")
        start = int(call.query.get("page_token") or 0)
        page = {"contents": entries[start : start + _PAGE]}
        more = {"next_page_token": str(start + _PAGE)} if len(entries) > start + _PAGE else {}
        return Answer({**page, **more})

    @route("PUT", _DIRECTORIES)
    def make_directory(self, call: Call) -> Answer:
        """Do nothing: a folder is there with its first file, and nowhere that a file is (databricks/cli)."""
        if self._path(call) in self.files:
            said = "The given path points to an existing file. This API does not support operations on files."
            raise Refusal(409, {"message": said})
        return Answer(None, 204)

    # --- signed URLs of the Files API

    @route("POST", "/api/2.0/fs/create-(?P<what>download|upload)-url")
    def signed_url(self, call: Call) -> Answer:
        """Sign the address of one file."""
        if call.args["what"] == "download" and not self.switches.download_urls:
            return self.missing(call)
        path = str(call.json["path"])
        if call.args["what"] == "download":
            self._existing(path)
        return Answer({"url": self.sign(call, path), "headers": []})

    @route("POST", _FILES)
    def multipart(self, call: Call) -> Answer:
        """Begin or complete an upload in parts."""
        path, action = self._path(call), call.query.get("action")
        if action == "initiate-upload":
            session = secrets.token_urlsafe(12)
            self._sessions[session] = (path, {})
            return Answer({"multipart_upload": {"session_token": session}})
        if action == "complete-upload":
            _, parts = self._sessions.pop(call.query["session_token"])
            named = sorted(int(part["part_number"]) for part in call.json["parts"])
            if named != sorted(parts):
                raise invalid(f"parts {named} were named, {sorted(parts)} were uploaded")
            self.put(path, b"".join(parts[n] for n in named))
            return Answer({})
        raise invalid(f"unknown action {action!r}")

    @route("POST", "/api/2.0/fs/create-upload-part-urls")
    def part_urls(self, call: Call) -> Answer:
        """Sign the addresses of some parts."""
        asked = call.json
        first, session = int(asked["start_part_number"]), asked["session_token"]
        numbers = range(first, first + int(asked.get("count", 1)))
        lead = f"http://{call.headers['Host']}/parts/{session}"
        return Answer({"upload_part_urls": [{"url": f"{lead}/{n}", "part_number": n} for n in numbers]})

    @route("PUT", "/parts/(?P<session>[^/]+)/(?P<number>[0-9]+)")
    def put_part(self, call: Call) -> Answer:
        """Keep one part."""
        if call.args["session"] not in self._sessions:
            raise Refusal(404, None)
        self._sessions[call.args["session"]][1][int(call.args["number"])] = call.body
        return Answer(None, 200, {"ETag": f'"{call.args["number"]}"'})

    # --- the cloud's storage

    def _signed(self, call: Call) -> str:
        path, until = self._signatures.get(call.query.get("sig", ""), ("", 0.0))
        if path != call.args["path"] or until < time.time():
            raise Refusal(
                403, "<Error><Code>AuthenticationFailed</Code></Error>", {"Content-Type": "application/xml"}
            )
        return path

    @route("PUT", "/storage(?P<path>/.+)")
    def put_blob(self, call: Call) -> Answer:
        """Write a blob: whole, or by blocks as Azure has it."""
        path, what = self._signed(call), call.query.get("comp")
        if what == "block":
            self._blocks.setdefault(path, {})[call.query["blockid"]] = call.body
        elif what == "blocklist":
            kept = self._blocks.pop(path, {})
            names = [e.text or "" for e in ElementTree.fromstring(call.body)]
            self.put(path, b"".join(kept[name] for name in names))
        else:
            self.put(path, call.body)
        return Answer(None, 201, {"ETag": '"1"'})

    @route("GET", "/storage(?P<path>/.+)")
    def get_blob(self, call: Call) -> Answer:
        """Read a blob, or a range of it."""
        path = self._signed(call)
        if path not in self.files:
            raise Refusal(404, None)
        data, headers = self._existing(path)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("Range", ""))
        if asked is None:
            return Answer(data, 200, headers)
        first, last = int(asked[1]), int(asked[2] or len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return Answer(data[first : last + 1], 206, headers)

    # --- artifacts of runs, logged models and traces, by credentials

    def artifact_folder(self, kind: str, owner: str) -> str:
        """Return where a run's, logged model's or trace's files are. Raises the service's refusal."""
        raise NotImplementedError

    def _credentials(self, call: Call, folder: str, path: str) -> dict[str, Any]:
        return {
            "path": path,
            "signed_uri": self.sign(call, posixpath.join(folder, path)),
            "type": "AZURE_SAS_URI",
            "headers": [],
        }

    @route("POST", "/api/2.0/mlflow/artifacts/credentials-for-(?P<what>read|write)")
    def run_credentials(self, call: Call) -> Answer:
        """Sign the addresses of some of a run's files."""
        asked = call.json
        folder = self.artifact_folder("run", asked["run_id"])
        paths = asked["path"] if isinstance(asked["path"], list) else [asked["path"]]
        infos = [{"run_id": asked["run_id"], **self._credentials(call, folder, p)} for p in paths]
        return Answer({"credential_infos": infos})

    @route(
        "POST",
        "/api/2.0/mlflow/logged-models/(?P<model>[^/]+)/artifacts/credentials-for-(?P<what>upload|download)",
    )
    def model_credentials(self, call: Call) -> Answer:
        """Sign the addresses of some of a logged model's files."""
        folder = self.artifact_folder("model", call.args["model"])
        found = [
            {"model_id": call.args["model"], "credential_info": self._credentials(call, folder, p)}
            for p in call.json["paths"]
        ]
        return Answer({"credentials": found})

    @route("GET", "/api/2.0/mlflow/traces/(?P<trace>[^/]+)/credentials-for-data-(?P<what>upload|download)")
    def trace_credentials(self, call: Call) -> Answer:
        """Sign the address of a trace's data."""
        folder = self.artifact_folder("trace", call.args["trace"])
        return Answer(
            {"credential_info": self._credentials(call, folder, call.json.get("path", "traces.json"))}
        )

    def listed(self, folder: str, path: str) -> dict[str, Any]:
        place = posixpath.join(folder, path) if path else folder
        if place in self.files:
            return {"files": [{"path": path, "is_dir": False, "file_size": len(self.files[place][0])}]}
        return {
            "files": [
                {
                    "path": posixpath.relpath(e["path"], folder),
                    "is_dir": e["is_directory"],
                    **({} if e["is_directory"] else {"file_size": e["file_size"]}),
                }
                for e in self.entries(place)
            ]
        }

    @route("GET", "/api/2.0/mlflow/artifacts/list")
    def list_run_artifacts(self, call: Call) -> Answer:
        """List one folder of a run's files."""
        folder = self.artifact_folder("run", call.query["run_id"])
        return Answer(self.listed(folder, call.query.get("path", "")))

    @route("GET", "/api/2.0/mlflow/logged-models/(?P<model>[^/]+)/artifacts/directories")
    def list_model_artifacts(self, call: Call) -> Answer:
        """List one folder of a logged model's files."""
        folder = self.artifact_folder("model", call.args["model"])
        return Answer(self.listed(folder, call.query.get("artifact_directory_path", "")))
