"""The URI of a workspace, as a user may write it: what it can be, and what is wrong with any other."""

from __future__ import annotations

import os
import re
import shlex
from urllib.parse import urlsplit

from dbml_magics.common.config import role_variable
from dbml_magics.common.hints import Remedy, corrected
from dbml_magics.common.secrecy import looks_secret
from dbml_magics.errors import BadUri, SecretRefused

SCHEME = "dbml"
"""Of a link's own URI."""
_DATABRICKS_HOST = re.compile(
    r"\.(azuredatabricks\.net|databricks\.azure\.(us|cn)|cloud\.databricks\.com|gcp\.databricks\.com)$"
)
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def checked_uri(role: str, uri: str) -> str:
    """Return a workspace URI as it can be used. Raises BadUri, SecretRefused; echoes no secret."""
    text = uri.strip()
    refuse_secret(role, text)
    if text == "databricks":
        return _of_role(role, text)
    if text == "databricks-uc" or text.startswith("databricks-uc:"):
        uri = f"databricks{text.removeprefix('databricks-uc')}"
        raise BadUri(
            f"{text!r} is a registry alone; the workspace's URI serves Unity Catalog too.",
            remedies=[(_line(role, uri), "a model's name of three levels is Unity Catalog's")],
        )
    split = urlsplit(text)
    if _DATABRICKS_HOST.search(split.hostname or ""):
        raise BadUri(
            f"{split.hostname} is a Databricks workspace, which is signed in to by Databricks' own client.",
            remedies=[
                (f"databricks auth login --host https://{split.hostname}", "in a terminal, once; then"),
                (_line(role, "databricks"), "or databricks://PROFILE"),
            ],
        )
    if split.scheme in ("http", "https"):
        return _web_address(role, text)
    if split.scheme == "sqlite":
        return _sqlite(role, text)
    if split.scheme in ("databricks", "azureml"):
        return _of_role(role, text)
    if split.scheme == SCHEME:
        raise BadUri(
            f"--{role} was given a link's own URI; name the workspace behind it.",
            remedies=[(Remedy("link", again=True), "takes up the link remembered for this folder")],
        )
    if split.scheme == "file" or split.scheme.split("+")[0] in _DATABASES:
        return text
    raise _unknown_scheme(role, text)


def _line(role: str, uri: str) -> Remedy:
    """Return the command with another URI of a role."""
    return corrected(Remedy("link", **{role: uri}), **{role: uri})


def _unknown_scheme(role: str, text: str) -> BadUri:
    service = "databricks" if role == "databricks" else "azureml://…"
    remedies = [
        (_line(role, "http://127.0.0.1:5000"), "an MLflow server"),
        (_line(role, "sqlite:///mlflow.db"), "a database file"),
        (_line(role, service), "the service itself"),
    ]
    if not text:
        return BadUri(f"--{role} was given an empty URI.", remedies=remedies)
    host = re.fullmatch(r"[\w.-]+\.[a-z]{2,}(:\d+)?(/.*)?|(localhost|[\d.]+):\d+/?", text)
    if host:
        scheme = "https" if host.group(3) is None else "http"
        return BadUri(
            f"{text!r} lacks its scheme.",
            remedies=[_line(role, f"{scheme}://{text.rstrip('/')}")],
        )
    if "://" not in text and (os.path.isdir(os.path.expanduser(text)) or "/" in text or text.startswith(".")):
        folder = (Remedy("link", local=text), "two workspaces in that folder")
        return BadUri(f"{text!r} is a folder, not a workspace's URI.", remedies=[folder, *remedies[:2]])
    return BadUri(f"{text!r} is not a workspace's URI.", remedies=remedies)


def _web_address(role: str, text: str) -> str:
    split = urlsplit(text)
    example = (_line(role, "http://127.0.0.1:5000"), "an MLflow server's address")
    if not split.hostname or re.search(r"\s", text):
        raise BadUri(f"{text!r} names no host.", remedies=[example])
    try:
        port = split.port
    except ValueError:
        port = 0
    if port == 0:
        raise BadUri(f"the port in {text!r} is not a number from 1 to 65535.", remedies=[example])
    if split.hostname == "ml.azure.com":
        raise BadUri(
            f"{text.split('?')[0]!r} is the studio's page; a workspace's URI begins with azureml://.",
            remedies=[("az ml workspace show --query mlflow_tracking_uri", "prints the workspace's URI")],
        )
    if split.query or split.fragment:
        # What people copy from the browser: MLflow's pages are behind a #, a Databricks workspace's have ?o=.
        bare = f"{split.scheme}://{split.netloc}{split.path.rstrip('/')}"
        raise BadUri(
            f"{masked(text)!r} is the address of a page of the workspace.",
            remedies=[(_line(role, bare), "the workspace itself")],
        )
    return f"{split.scheme}://{split.netloc}{split.path.rstrip('/')}"


def _sqlite(role: str, text: str) -> str:
    path = text.removeprefix("sqlite:///").split("?")[0]
    if not text.startswith("sqlite:///") or not path or path == ":memory:":
        raise BadUri(
            f"{text!r} names no file.",
            remedies=[(_line(role, "sqlite:///mlflow.db"), "three slashes, then the file")],
        )
    path = os.path.abspath(path)
    if os.path.isdir(path):
        raise BadUri(
            f"{path} is a folder, not a database.",
            remedies=[
                (_line(role, f"sqlite:///{path}/mlflow.db"), "a database in it"),
                (Remedy("link", local=path), "two workspaces in it"),
            ],
        )
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        raise BadUri(f"the folder of {path} does not exist.", remedies=[f"mkdir -p {shlex.quote(above)}"])
    if not os.access(path if os.path.exists(path) else above, os.W_OK):
        raise BadUri(
            f"{path} cannot be written (permission denied).",
            remedies=[(_line(role, "sqlite:///mlflow.db"), "a file in this folder")],
        )
    return f"sqlite:///{path}"


def _of_role(role: str, text: str) -> str:
    kind = "databricks" if text.startswith("databricks") else "azureml"
    if kind != role:
        raise BadUri(
            f"--{role} was given the URI of the other service ({masked(text)}).",
            remedies=[
                corrected(
                    Remedy("link", **{kind: masked(text)}),
                    **{role: None, kind: masked(text), "track": None, "registry": None},
                )
            ],
        )
    if kind == "azureml":
        text = text.partition("?")[0].rstrip("/")  # Workspace.get_mlflow_tracking_uri() ends in a bare "?"
    if kind == "azureml" and not urlsplit(text).netloc:
        raise BadUri(
            f"{text!r} names no workspace.",
            remedies=[("az ml workspace show --query mlflow_tracking_uri", "prints the workspace's URI")],
        )
    return text


def same_place(uri: str) -> str:
    """Return what two spellings of one workspace's URI have in common."""
    if uri.startswith("sqlite:///"):
        return os.path.realpath(uri.removeprefix("sqlite:///"))
    split = urlsplit(uri)
    if split.scheme not in ("http", "https"):
        return uri.rstrip("/")
    host = {"localhost": "127.0.0.1", "::1": "127.0.0.1"}.get(split.hostname or "", split.hostname)
    port = split.port or (443 if split.scheme == "https" else 80)
    return f"{host}:{port}{split.path.rstrip('/')}"


def refuse_secret(role: str, uri: str) -> None:
    """Raise SecretRefused where a URI holds a user name and password, or a token."""
    try:
        split = urlsplit(uri)
    except ValueError:
        raise BadUri(
            f"the URI for --{role} cannot be read.",
            remedies=[(_line(role, "http://127.0.0.1:5000"), "an MLflow server's address")],
        ) from None
    userinfo = "@" in split.netloc
    if not userinfo and not looks_secret(uri) and masked(uri) == uri:
        return
    if split.scheme.split("+")[0] in ("postgresql", "mysql", "mssql"):
        remedies = [
            (
                _line(role, f"{split.scheme}://HOST/DATABASE"),
                "the user and password stay out of it:",
            ),
            (
                "PGUSER=… PGPASSWORD=…",
                "in the environment, or in the driver's own file (~/.pgpass, ~/.my.cnf)",
            ),
        ]
    else:
        remedies = [
            (f"{role_variable(role, 'token')}=…", "in the environment before the notebook starts, or"),
            (f"{role_variable(role, 'username')}=… {role_variable(role, 'password')}=…", "likewise"),
        ]
    raise SecretRefused(
        f"the URI for --{role} holds {'a user name or password' if userinfo else 'a secret'}; "
        "it would end in the notebook, in the environment of every child process and in logs.",
        remedies=remedies,
    )


def masked(uri: str) -> str:
    """Return a URI without what may be a secret in it."""
    shown = re.sub(r"//[^/@\s]*@", "//***@", uri)
    return re.sub(r"(?i)((?:token|password|passwd|secret|api_?key|sig|code)=)[^&\s]+", r"\1***", shown)
