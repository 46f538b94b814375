"""Artifacts: the history and artifact services, which hand out links, and the blobs behind the links."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree

from starlette.responses import FileResponse, Response, StreamingResponse

from tests.standins.azure.access import Access
from tests.standins.azure.state import SUFFIX, State, Workspace
from tests.standins.azure.tracking import workspace_of
from tests.standins.azure.web import ML, WORKSPACE, Call, Refusal, ml_refusal, reply, route, utc

__all__ = ["Artifacts", "Blob"]

RUN = "/history/v1.0" + WORKSPACE + "/experiments/{experiment}/runs/{run}/artifacts"
RUN_BY_ID = "/history/v1.0" + WORKSPACE + "/experimentids/{experiment}/runs/{run}/artifacts"
CONTAINER = "/artifact/v2.0" + WORKSPACE + "/artifacts/{origin}/{container}"
CORE_WRITE = "/artifact/v2.0" + WORKSPACE + "/artifacts/write/{origin}/{container}/{path*}"
PIECE = 1 << 18
PAGE = 500  # artifacts in one page of a listing
READ, WRITE = "read", "write"
# The class says what is wrong in Azure's words; the message is the one that clients show.
STORAGE_ERRORS = {
    "AuthenticationFailed": (
        403,
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed "
        "correctly including the signature.",
    ),
    "AuthorizationFailure": (403, "This request is not authorized to perform this operation."),
    "AuthorizationPermissionMismatch": (
        403,
        "This request is not authorized to perform this operation using this permission.",
    ),
    # common-rest-api-error-codes: 409, where a firewall and a missing role are 403
    "PublicAccessNotPermitted": (409, "Public access is not permitted on this storage account."),
    "BlobAlreadyExists": (409, "The specified blob already exists."),
    "BlobNotFound": (404, "The specified blob does not exist."),
    "InvalidBlockList": (400, "The specified block list is invalid."),
    "InvalidRange": (416, "The range specified is invalid for the current size of the resource."),
    "Md5Mismatch": (400, "The MD5 value specified in the request did not match the MD5 value calculated."),
    "RequestBodyTooLarge": (413, "The request body is too large and exceeds the maximum permissible limit."),
}
LARGEST_PUT = 5000 * 1024 * 1024


@dataclass
class Blob:
    """The bytes behind a link."""

    path: Path
    size: int = 0
    etag: str = ""
    modified: float = 0.0
    written: bool = False
    blocks: dict[str, Path] = field(default_factory=dict)  # put, but not yet in the list


def storage_refusal(code: str, detail: str = "") -> Refusal:
    """Return a refusal in the words of Azure Storage."""
    status, message = STORAGE_ERRORS[code]
    request = str(uuid.uuid4())
    inner = f"<AuthenticationErrorDetail>{detail}</AuthenticationErrorDetail>" if detail else ""
    body = (
        f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{message}\n'
        f"RequestId:{request}\nTime:{utc()}</Message>{inner}</Error>"
    )
    return Refusal(status, body, {"x-ms-error-code": code, "x-ms-request-id": request})


class Artifacts:
    """Which artifacts there are, and their blobs, kept in a folder."""

    def __init__(self, state: State, access: Access, folder: Path) -> None:
        self.state, self.access, self.folder = state, access, folder
        self.key = secrets.token_bytes(32)
        self.blobs: dict[str, Blob] = {}  # account/container/path -> blob

    # Links

    def blob_path(self, workspace: Workspace, origin: str, container: str, path: str) -> str:
        return f"{workspace.account}.blob.{SUFFIX}/azureml/{origin}/{container}/{path}"

    def link(self, blob: str, permissions: str) -> str:
        """Return a signed link to a blob; it ends after ``sas_lifetime`` seconds."""
        until = utc(time.time() + self.state.switches.sas_lifetime)
        query = {
            "sv": "2019-07-07",
            "sr": "b",
            "sig": self._signature(blob, until, permissions),
            "se": until,
            "sp": permissions,
        }
        words = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        return f"{self.state.public}/{quote(blob)}?{words}"

    def _signature(self, blob: str, until: str, permissions: str) -> str:
        signed = hmac.new(self.key, f"{blob}\n{until}\n{permissions}".encode(), hashlib.sha256).digest()
        return base64.b64encode(signed).decode()

    # The services

    async def _names(self, call: Call, verb: str) -> tuple[Workspace, str, str]:
        workspace = workspace_of(self.state, call, "ml")
        self.access.require(call, f"{ML}/workspaces/artifacts/{verb}", "ml")
        if "run" in call.names:
            return workspace, "ExperimentRun", f"dcid.{call.names['run']}"
        return workspace, call.names["origin"], unquote(call.names["container"])

    def _dto(self, origin: str, container: str, path: str, entry: dict[str, Any]) -> dict[str, Any]:
        return {
            "artifactId": f"{origin}/{container}/{path}",
            "origin": origin,
            "container": container,
            "path": path,
            "etag": entry["etag"],
            "createdTime": entry["created"],
            "dataPath": None,
            "tags": {},
        }

    @route("POST", RUN + "/batch/metadata", "", words="ml")
    @route("POST", RUN_BY_ID + "/batch/metadata", "", words="ml")
    @route("POST", CONTAINER + "/batch/metadata", "", words="ml")
    async def create(self, call: Call) -> Response:
        """Name new artifacts and hand out links to write them; a taken name is an error of its own."""
        workspace, origin, container = await self._names(call, WRITE)
        known = workspace.artifacts.setdefault((origin, container), {})
        answer: dict[str, dict[str, Any]] = {"artifacts": {}, "artifactContentInformation": {}, "errors": {}}
        asked, limits = (await call.json()).get("paths", []), self.state.limits
        if len(asked) > limits["artifacts_batch"]:
            message = f"Artifact batch size exceeded the limit of {limits['artifacts_batch']}"
            raise ml_refusal(400, message, inner="BadArgument", component="artifact")
        for entry in asked:
            path = entry["path"].strip("/")
            if len(path) > limits["artifact_path"]:
                message = f"Artifact path exceeded the limit of {limits['artifact_path']} characters"
                raise ml_refusal(400, message, inner="BadArgument", component="artifact")
            if path in known and self.state.switches.write_once:
                message = f"Resource Conflict: ArtifactId {origin}/{container}/{path} already exists."
                refused = ml_refusal(409, message, inner="ConflictError", component="artifact")
                answer["errors"][entry["path"]] = refused.body
                continue
            known[path] = {"etag": f'"{uuid.uuid4()}"', "created": utc()}
            blob = self.blob_path(workspace, origin, container, path)
            if blob not in self.blobs or not self.state.switches.blocks_stay:
                self.blobs[blob] = Blob(self.folder / uuid.uuid4().hex)
            answer["artifacts"][entry["path"]] = self._dto(origin, container, path, known[path])
            answer["artifactContentInformation"][entry["path"]] = {
                "contentUri": self.link(blob, "rcw"),
                "origin": origin,
                "container": container,
                "path": path,
                "tags": {},
            }
        return reply(answer)

    @route("GET", RUN, "", words="ml")
    @route("GET", RUN_BY_ID, "", words="ml")
    @route("GET", CONTAINER, "", words="ml")
    async def listing(self, call: Call) -> Response:
        """List all artifacts of a run or container, a page at a time."""
        workspace, origin, container = await self._names(call, READ)
        known = workspace.artifacts.get((origin, container), {})
        paths, begin = sorted(known), int(call.query.get("continuationToken") or 0)
        page = paths[begin : begin + PAGE]
        answer: dict[str, Any] = {"value": [self._dto(origin, container, p, known[p]) for p in page]}
        if begin + PAGE < len(paths):
            answer["continuationToken"] = str(begin + PAGE)
            answer["nextLink"] = f"{self.state.public}{call.path}?continuationToken={begin + PAGE}"
        return reply(answer)

    @route("GET", RUN + "/contentinfo", "", words="ml")
    @route("GET", RUN_BY_ID + "/contentinfo", "", words="ml")
    @route("GET", CONTAINER + "/contentinfo", "", words="ml")
    async def content(self, call: Call) -> Response:
        """Hand out a link to read one artifact."""
        workspace, origin, container = await self._names(call, READ)
        path = call.query.get("path", "").strip("/")
        if path not in workspace.artifacts.get((origin, container), {}):
            message = f"Artifact not found: {origin}/{container}/{path}"
            raise ml_refusal(404, message, inner="NotFoundError", component="artifact")
        return reply(self._information(workspace, origin, container, path))

    def _information(self, workspace: Workspace, origin: str, container: str, path: str) -> dict[str, Any]:
        blob = self.blob_path(workspace, origin, container, path)
        return {
            "contentUri": self.link(blob, "r"),
            "origin": origin,
            "container": container,
            "path": path,
            "tags": {},
        }

    @route("GET", RUN + "/prefix/contentinfo", "", words="ml")
    @route("GET", RUN_BY_ID + "/prefix/contentinfo", "", words="ml")
    @route("GET", CONTAINER + "/prefix/contentinfo", "", words="ml")
    async def contents(self, call: Call) -> Response:
        """Hand out links to read everything below a path."""
        workspace, origin, container = await self._names(call, READ)
        prefix = call.query.get("path", "")
        known = workspace.artifacts.get((origin, container), {})
        paths = [path for path in sorted(known) if path.startswith(prefix)]
        return reply({"value": [self._information(workspace, origin, container, path) for path in paths]})

    @route("GET", CONTAINER + "/write", "", words="ml")
    async def rewrite(self, call: Call) -> Response:
        """Hand out one more link to write a named artifact, as azureml-mlflow asks for it."""
        return await self._link_anew(call, call.query.get("path", "").strip("/"))

    @route("GET", CORE_WRITE, "", words="ml")
    async def rewrite_by_address(self, call: Call) -> Response:
        """Hand out the same to azureml-core, which has the path in the address."""
        return await self._link_anew(call, unquote(call.names["path"]).strip("/"))

    async def _link_anew(self, call: Call, path: str) -> Response:
        if not self.state.switches.write_links:
            return Response(status_code=404)
        workspace, origin, container = await self._names(call, WRITE)
        if not path:
            raise ml_refusal(400, "The path field is required.", inner="BadArgument", component="artifact")
        if path not in workspace.artifacts.get((origin, container), {}):
            message = f"Artifact not found: {origin}/{container}/{path}"
            raise ml_refusal(404, message, inner="NotFoundError", component="artifact")
        link = self.link(self.blob_path(workspace, origin, container, path), "rcw")
        return reply({**self._information(workspace, origin, container, path), "contentUri": link})

    @route("DELETE", CONTAINER + "/metadata", "", words="ml")
    async def forget(self, call: Call) -> Response:
        """Delete an artifact's name (``hardDelete`` its bytes too)."""
        workspace, origin, container = await self._names(call, "delete")
        path = call.query.get("path", "").strip("/")
        if workspace.artifacts.get((origin, container), {}).pop(path, None) is None:
            raise ml_refusal(404, f"Artifact not found: {path}", inner="NotFoundError", component="artifact")
        if not self.state.switches.blocks_stay:
            self.blobs.pop(self.blob_path(workspace, origin, container, path), None)
        return Response(status_code=200)

    # What the registry asks

    def files_of(self, workspace: Workspace, source: str) -> int | None:
        """Return how many artifacts lie at a model's source; None where it is no place of this service."""
        found = self.place_of(workspace, source)
        if found is None:
            return None
        origin, container, path = found
        known = workspace.artifacts.get((origin, container), {})
        return sum(1 for name in known if not path or name == path or name.startswith(f"{path}/"))

    def place_of(self, workspace: Workspace, source: str) -> tuple[str, str, str] | None:
        """Return origin, container and path of a model's source."""
        parts = urlsplit(source)
        if parts.scheme == "models" and self.state.switches.logged_models:
            return "LoggedModel", parts.path.strip("/"), "model"
        if parts.scheme != "azureml":
            return None
        run = re.search(r"/experiments/[^/]+/runs/([^/]+)/artifacts/?(.*)", parts.path, re.IGNORECASE)
        if run is not None:
            return "ExperimentRun", f"dcid.{run[1]}", run[2].strip("/")
        if parts.netloc == "artifacts":
            origin, container, *path = parts.path.strip("/").split("/")
            return origin, container, "/".join(path)
        return None

    def read(self, workspace: Workspace, source: str, folder: Path) -> Path:
        """Copy what lies at a model's source into a folder, for a server of ours that scores."""
        origin, container, path = self.place_of(workspace, source) or ("", "", "")
        for name in workspace.artifacts.get((origin, container), {}):
            if name.startswith(f"{path}/"):
                target = folder / name.removeprefix(f"{path}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(
                    self.blobs[self.blob_path(workspace, origin, container, name)].path.read_bytes()
                )
        return folder

    # Blobs

    @route("GET HEAD", "/{account}.blob." + SUFFIX)
    async def account(self, call: Call) -> Response:
        """Refuse whoever asks a storage account without a signature: the network first, then the caller."""
        if self.state.switches.storage_firewall:
            raise storage_refusal("AuthorizationFailure")
        if not self.state.switches.storage_public:
            raise storage_refusal("PublicAccessNotPermitted")
        raise storage_refusal("AuthenticationFailed", "No signature.")

    @route("PUT GET HEAD", "/{account}.blob." + SUFFIX + "/{container}/{path*}")
    async def blob(self, call: Call) -> Response:
        """Read or write a blob by its link."""
        name = unquote(call.path).lstrip("/")
        self._admit(call, name, "w" if call.method == "PUT" else "r")
        blob = self.blobs.get(name)
        if call.method != "PUT":
            if blob is None or not blob.written:
                raise storage_refusal("BlobNotFound")
            return self._read(call, blob)
        if blob is None:
            blob = self.blobs[name] = Blob(self.folder / uuid.uuid4().hex)
        what = call.query.get("comp", "")
        if what == "block":
            await self._put_block(call, blob)
        elif what == "blocklist":
            self._once(call, blob)
            self._put_blocks(blob, await call.request.body())
        else:
            self._once(call, blob)
            await self._put(call, blob)
        return Response(b"", 201, self._headers(blob))

    def _admit(self, call: Call, name: str, permission: str) -> None:
        """Refuse what the link does not allow, the network or the role."""
        query = {key: values[0] for key, values in parse_qs(str(call.request.url.query)).items()}
        if self.state.switches.storage_firewall:
            raise storage_refusal("AuthorizationFailure")
        if not self.state.switches.storage_public:
            raise storage_refusal("PublicAccessNotPermitted")
        until, permissions = query.get("se", ""), query.get("sp", "")
        if not hmac.compare_digest(query.get("sig", ""), self._signature(name, until, permissions)):
            raise storage_refusal("AuthenticationFailed", "Signature did not match.")
        if datetime.fromisoformat(until) <= datetime.now(timezone.utc):
            detail = f"Signature not valid in the specified time frame: Expiry [{until}] - Current [{utc()}]"
            raise storage_refusal("AuthenticationFailed", detail)
        if permission not in permissions or not self.state.switches.storage_role:
            raise storage_refusal("AuthorizationPermissionMismatch")

    def _once(self, call: Call, blob: Blob) -> None:
        if blob.written and call.header("if-none-match") == "*":
            raise storage_refusal("BlobAlreadyExists")

    async def _receive(self, call: Call, target: Path) -> int:
        digest, size = hashlib.md5(usedforsecurity=False), 0
        with target.open("wb") as file:
            async for piece in call.request.stream():
                size += len(piece)
                if size > LARGEST_PUT:
                    raise storage_refusal("RequestBodyTooLarge")
                digest.update(piece)
                file.write(piece)
        given = call.header("content-md5")
        if given and given != base64.b64encode(digest.digest()).decode():
            raise storage_refusal("Md5Mismatch")
        return size

    async def _put(self, call: Call, blob: Blob) -> None:
        part = blob.path.with_suffix(f".{uuid.uuid4().hex}")
        blob.size = await self._receive(call, part)
        part.replace(blob.path)
        self._written(blob)

    async def _put_block(self, call: Call, blob: Blob) -> None:
        part = blob.path.with_suffix(f".{uuid.uuid4().hex}")
        await self._receive(call, part)
        blob.blocks[call.query.get("blockid", "")] = part

    def _put_blocks(self, blob: Blob, wanted: bytes) -> None:
        names = [element.text or "" for element in ElementTree.fromstring(wanted)]
        if any(name not in blob.blocks for name in names):
            raise storage_refusal("InvalidBlockList")
        with blob.path.open("wb") as file:
            for name in names:
                with blob.blocks[name].open("rb") as part:
                    while piece := part.read(PIECE):
                        file.write(piece)
        for part_path in blob.blocks.values():
            part_path.unlink()
        blob.blocks.clear()
        blob.size = blob.path.stat().st_size
        self._written(blob)

    def _written(self, blob: Blob) -> None:
        blob.etag, blob.modified, blob.written = f'"0x{uuid.uuid4().hex[:15].upper()}"', time.time(), True

    def _headers(self, blob: Blob) -> dict[str, str]:
        headers = {
            "x-ms-request-id": str(uuid.uuid4()),
            "x-ms-version": "2019-07-07",
            "x-ms-request-server-encrypted": "true",
        }
        if blob.written:
            headers |= {"ETag": blob.etag, "Last-Modified": formatdate(blob.modified, usegmt=True)}
        return headers

    def _read(self, call: Call, blob: Blob) -> Response:
        headers = {
            **self._headers(blob),
            "x-ms-blob-type": "BlockBlob",
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if call.method == "HEAD":
            return Response(b"", 200, {**headers, "Content-Length": str(blob.size)})
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", call.header("x-ms-range") or call.header("range"))
        if wanted is None:
            return FileResponse(blob.path, 200, headers)
        first, last = int(wanted[1]), min(int(wanted[2] or blob.size - 1), blob.size - 1)
        if first >= blob.size:
            raise storage_refusal("InvalidRange")
        headers["Content-Range"] = f"bytes {first}-{last}/{blob.size}"
        headers["Content-Length"] = str(last - first + 1)
        return StreamingResponse(_piecewise(blob.path, first, last + 1), 206, headers)


def _piecewise(path: Path, begin: int, end: int) -> Iterable[bytes]:
    with path.open("rb") as file:
        file.seek(begin)
        while begin < end and (piece := file.read(min(PIECE, end - begin))):
            begin += len(piece)
            yield piece
