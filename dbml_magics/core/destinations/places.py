"""Where a workspace may have its files: what a server says of it is obeyed only as far as it cannot do harm.

An artifact location comes from the server, and MLflow's own clients go wherever it points: to another host
with the user's token, or into any folder of this machine, reading and writing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from dbml_magics.common.config import role_variable
from dbml_magics.core import hosts
from dbml_magics.core.destinations.errors import WouldRefuse
from dbml_magics.core.link import WorkspaceSpec
from dbml_magics.core.workspace_uri import masked

__all__ = ["PROXIED", "check", "own_path"]

PROXIED = "/api/2.0/mlflow-artifacts/artifacts"
# They name a run, a model or a link, which is looked up with whatever sign-in this process has; or another
# service, at a host that stands in them.
_NO_PLACES = frozenset({"runs", "models", "dbml", "azureml", "adbazureml", "databricks", "databricks-uc"})
# The folder that MLflow gives a run's, a logged model's or a trace's files, below an experiment's root.
_OWN_FOLDER = re.compile(r"/(?:[0-9a-f]{32}|m-[0-9a-f]{32}|tr-[0-9a-f]{32})/artifacts(?:/|$)")


def check(spec: WorkspaceSpec, uri: str) -> None:
    """Raise WouldRefuse for a place of files that this workspace has no business to name."""
    scheme = _split(spec, uri).scheme
    scheme = "" if len(scheme) == 1 else scheme  # the drive of Windows
    if scheme in ("", "file"):
        _check_folder(spec, uri)
    elif scheme in ("http", "https", "mlflow-artifacts"):
        own_path(spec, uri)
    elif scheme in _NO_PLACES and scheme != spec.kind:
        raise _refused(spec, uri, "names no place of files of its own")
    elif scheme == "dbfs" and spec.kind != "databricks":
        raise _refused(spec, uri, "is at a Databricks workspace, which it is not")


def own_path(spec: WorkspaceSpec, uri: str) -> str:
    """Return the path of files that a server serves itself, below its artifact service.

    Raises WouldRefuse for a place at another scheme, host or port: no credential goes there.
    """
    split = _split(spec, uri)
    served = spec.uri.startswith(("http://", "https://"))
    if split.scheme == "mlflow-artifacts":
        host = f"{urlsplit(spec.uri).scheme}://{split.netloc}" if split.netloc else spec.uri
        if served and hosts.origin(host) == hosts.origin(spec.uri) is not None:
            return split.path.strip("/")
    elif served and hosts.origin(uri) == hosts.origin(spec.uri) is not None:
        base = urlsplit(spec.uri).path.rstrip("/") + PROXIED
        if split.path == base or split.path.startswith(base + "/"):
            return split.path.removeprefix(base).strip("/")
    raise _refused(spec, uri, "is at another host than its own, which gets no credentials and no files")


def _split(spec: WorkspaceSpec, uri: str) -> SplitResult:
    """Return a place's parts as MLflow reads them. Raises WouldRefuse for what is no URI."""
    try:
        return urlsplit(uri.strip())
    except ValueError:
        raise _refused(spec, uri, "is no address") from None


def _check_folder(spec: WorkspaceSpec, uri: str) -> None:
    """Raise WouldRefuse for a folder of this machine, unless the workspace is on it.

    A database file that the user linked is. A server at 127.0.0.1 may be this user's (``mlflow server``
    without its artifact service has its files so), another's, or the end of a tunnel: it may name the folder
    of a run, below one that is this user's.
    """
    if spec.local or (spec.kind == "mlflow" and _is_file(spec.uri)):
        return
    folder = _folder(uri)
    trusted = os.environ.get(role_variable(spec.role, "files"))
    if trusted and folder.is_relative_to(Path(trusted).expanduser().resolve()):
        return
    if not hosts.is_loopback(spec.uri):
        raise _refused(spec, uri, "is a folder, and the workspace is not on this machine")
    if not _OWN_FOLDER.search(str(folder)):
        raise _refused(spec, uri, "is a folder of this machine that is no run's or model's own")
    above = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if above.stat().st_uid != os.geteuid():
        raise _refused(spec, uri, f"is below {above}, which is another user's")


def _is_file(uri: str) -> bool:
    """Tell whether a workspace is a file or folder of this machine itself."""
    scheme = urlsplit(uri).scheme
    return scheme in ("", "file") or scheme.partition("+")[0] == "sqlite"


def _folder(uri: str) -> Path:
    """Return the folder that a place names, through all symbolic links."""
    path = uri.strip()
    if urlsplit(path).scheme == "file":
        path = unquote(urlsplit(path).path)
    return Path(path).resolve()


def _refused(spec: WorkspaceSpec, uri: str, why: str) -> WouldRefuse:
    remedies = [
        ("mlflow server --serve-artifacts …", "a server that serves its files itself, on its side; or"),
        (f"{role_variable(spec.role, 'files')}=FOLDER", "a folder of this machine that it may name"),
    ]
    if not why.startswith("is a folder"):
        remedies = remedies[:1]
    return WouldRefuse(f"{spec.role} says that the files are at {masked(uri)[:200]}, which {why}", remedies)
