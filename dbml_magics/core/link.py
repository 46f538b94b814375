"""A link: which workspaces, in which roles, and the ``dbml:`` URI that says all of it but the secrets.

Child processes, joblib workers and Spark tasks get MLFLOW_TRACKING_URI and nothing else, so a link can be
built from its URI alone. Where it is kept: the user's own data folder on a local disk, never the notebook's
folder (a cloned repository must not bring a link along).
"""

from __future__ import annotations

import difflib
import getpass
import hashlib
import json
import os
import re
import shlex
import stat
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from dbml_magics.common.config import data_home, role_variable, spare_homes
from dbml_magics.common.hints import WSL, Argument, Remedy, say
from dbml_magics.common.secrecy import looks_secret
from dbml_magics.core.azure import names
from dbml_magics.errors import (
    BadLink,
    BadUri,
    JournalError,
    NothingRemembered,
    PlatformRefused,
    SecretRefused,
)
from dbml_magics.results.text import count

ROLES = ("databricks", "azureml")
SCHEME = "dbml"
_DATABRICKS_HOST = re.compile(
    r"\.(azuredatabricks\.net|databricks\.azure\.(us|cn)|cloud\.databricks\.com|gcp\.databricks\.com)$"
)
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


@dataclass(frozen=True)
class WorkspaceSpec:
    """One workspace of a link: what is known of it before it is asked anything."""

    role: str  # databricks or azureml
    uri: str
    local: bool = False  # made by --local
    settings: tuple[tuple[str, str], ...] = ()
    """How it is reached (cloud, sign-in): what child processes need beside the URI, and never a secret."""

    def setting(self, name: str) -> str | None:
        """Return one of the settings, or None."""
        return dict(self.settings).get(name)

    @property
    def kind(self) -> str:
        """Return databricks, azureml or mlflow."""
        if self.uri == "databricks" or self.uri.startswith("databricks://"):
            return "databricks"
        return "azureml" if self.uri.startswith("azureml://") else "mlflow"

    @property
    def place(self) -> str:
        """Return where it is, for people."""
        if self.local:
            folder = Path(self.uri.removeprefix("sqlite:///")).parent
            return f"local  {_relative(folder)}"
        if self.uri.startswith("sqlite:///"):
            return f"sqlite  {_relative(Path(self.uri.removeprefix('sqlite:///')))}"
        named = names.of_uri(self.uri)
        if named is not None:
            return f"{named[1].name} in {named[1].group}"
        return masked(self.uri)

    @property
    def options(self) -> dict[str, Argument]:
        """Return the options of ``%dbml link`` that name it."""
        named = names.of_uri(self.uri)
        options = {self.role: masked(self.uri)} if named is None else named[1].options
        cloud, auth = self.setting("cloud"), self.setting("auth")
        return {**options, "cloud": None if cloud == "AzureCloud" else cloud or None, "auth": auth or None}


@dataclass(frozen=True)
class Link:
    """Two workspaces (or one) that are one tracking URI."""

    folder: str
    workspaces: tuple[WorkspaceSpec, ...]
    track: str = "both"
    registry: str = "databricks"
    mode: str = "journal"
    on_undelivered: str = "warn"
    """What the end of a process does about writes that wait: warn, or fail (an exit code that is not 0)."""
    spill: str | None = None
    """The folder that takes what waits at the end of a process, for another machine to deliver."""
    taken: str | None = None
    """The package of another process's writes that this link delivers; never in its URI."""

    @cached_property
    def key(self) -> str:
        """Return the name of the link's own folder: the same workspaces, folder and user give the same."""
        parts = [_user(), self.folder, self.track, self.registry]
        parts += [f"{w.role}={w.uri}{' local' if w.local else ''}" for w in self.workspaces]
        parts += [f"taken={self.taken}"] if self.taken else []
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def home(self) -> Path:
        """Return the link's own folder: journal, spool, state.

        Where a newer release has one that this release cannot read, another beside it.
        """
        return _beside_newer(self._place)

    @property
    def _place(self) -> Path:
        return data_home() / ("taken" if self.taken else "links") / (self.taken or self.key)

    @property
    def newer_home(self) -> Path | None:
        """Return the link's folder that a newer release has written, which this release leaves alone."""
        return None if self.home == self._place else self._place

    @property
    def spares(self) -> tuple[Path, ...]:
        """Return the link's folders on other disks of this machine: its journal's, while its own fails."""
        lead = "taken" if self.taken else "links"
        return tuple(spare / lead / self.home.name for spare in spare_homes())

    @property
    def uri(self) -> str:
        """Return the tracking URI."""
        query = {"track": self.track, "registry": self.registry, "mode": self.mode, "folder": self.folder}
        if self.on_undelivered != "warn":
            query["on-undelivered"] = self.on_undelivered
        if self.spill is not None:
            query["spill"] = self.spill
        for workspace in self.workspaces:
            query[workspace.role] = workspace.uri
            query.update({f"{workspace.role}.{name}": value for name, value in workspace.settings})
        if any(w.local for w in self.workspaces):
            query["local"] = "1"
        return f"{SCHEME}://{self.key}?{urlencode(query, quote_via=quote, safe='')}"

    @property
    def tracked(self) -> tuple[str, ...]:
        """Return the roles that runs go to, the primary first."""
        return ROLES if self.track == "both" else (self.track,)

    @property
    def registries(self) -> tuple[str, ...]:
        """Return the roles that models are registered at, the first registry first."""
        return ROLES if self.registry == "both" else (self.registry,)

    @property
    def primary(self) -> str:
        """Return the role that names runs."""
        return self.tracked[0]

    @property
    def used(self) -> tuple[str, ...]:
        """Return all roles that anything goes to."""
        return tuple(r for r in ROLES if r in self.tracked or r in self.registries)

    def spec(self, role: str) -> WorkspaceSpec:
        """Return one role's workspace."""
        return next(w for w in self.workspaces if w.role == role)

    @property
    def command(self) -> Remedy:
        """Return the command that makes this link again."""
        options: dict[str, Argument] = {}
        if all(w.local for w in self.workspaces):
            folder = Path(self.workspaces[0].uri.removeprefix("sqlite:///")).parent.parent
            options["local"] = _relative(folder, self.folder)
        else:
            for workspace in self.workspaces:
                options |= {name: value for name, value in workspace.options.items() if value is not None}
        first = "azureml" if self.track == "azureml" else "databricks"
        return Remedy(
            "link",
            **options,
            track=None if self.track == "both" else self.track,
            registry=None if self.registry == first else self.registry,
            mode=None if self.mode == "journal" else self.mode,
            on_undelivered=None if self.on_undelivered == "warn" else self.on_undelivered,
            spill=self.spill,
        )

    def __repr__(self) -> str:
        return f"Link({', '.join(f'{w.role}={masked(w.uri)}' for w in self.workspaces)}, track={self.track})"


@lru_cache(maxsize=64)
def _beside_newer(place: Path) -> Path:
    """Return a link's folder, or the one beside it where that one's format is newer than this release's."""
    state = place / "state.db"
    if not state.exists():
        return place
    from dbml_magics.core.outbox.tables import FORMAT, format_of

    return place.with_name(f"{place.name}-{FORMAT}") if format_of(state) > FORMAT else place


def from_uri(uri: str) -> Link:
    """Read a ``dbml:`` URI. Raises BadUri."""
    split = urlsplit(uri)
    query = {k: v[-1] for k, v in parse_qs(split.query).items()}
    specs = tuple(
        WorkspaceSpec(role, query[role], local=query.get("local") == "1", settings=_settings(role, query))
        for role in ROLES
        if query.get(role)
    )
    link = Link(
        folder=query.get("folder", ""),
        workspaces=specs,
        track=query.get("track", "both"),
        registry=query.get("registry", "databricks"),
        mode=query.get("mode", "journal"),
        on_undelivered=query.get("on-undelivered", "warn"),
        spill=query.get("spill"),
    )
    for spec in specs:
        refuse_secret(spec.role, spec.uri)  # a URI that was written by hand
    legal = all(value in values for _, value, values in _wishes(link))
    if split.scheme != SCHEME or not legal or not set(link.used) <= {w.role for w in specs}:
        raise BadUri(
            f"{masked(uri)!r} is not the URI of a link.",
            remedies=[(Remedy("link", local=True), "makes one, and sets it")],
        )
    return link


def _settings(role: str, query: dict[str, str]) -> tuple[tuple[str, str], ...]:
    lead = f"{role}."
    return tuple(
        sorted((name.removeprefix(lead), value) for name, value in query.items() if name.startswith(lead))
    )


def _wishes(link: Link) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    return (
        ("track", link.track, ("both", *ROLES)),
        ("registry", link.registry, ("both", *ROLES)),
        ("mode", link.mode, ("journal", "sync")),
        ("on-undelivered", link.on_undelivered, ("warn", "fail")),
    )


@dataclass(frozen=True)
class LinkOptions:
    """How a link works, whatever its workspaces; what is None is as the user did not say."""

    track: str | None = None
    registry: str | None = None
    mode: str | None = None
    on_undelivered: str | None = None
    spill: str | None = None

    def over(self, other: LinkOptions) -> LinkOptions:
        """Return them with what they do not say as others say it."""
        said = {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}
        return replace(other, **said)


def make(
    *,
    folder: str,
    local: str | bool | None,
    databricks: str | None,
    azureml: str | WorkspaceSpec | None,
    options: LinkOptions,
) -> Link:
    """Check the wishes of ``link`` and return the link; asks no workspace yet.

    ``azureml`` may be a workspace that was found already.
    """
    refuse_platform()
    track, mode, spill = options.track or "both", options.mode or "journal", options.spill
    registry, on_undelivered = options.registry, options.on_undelivered or "warn"
    given = {"databricks": databricks, "azureml": azureml}
    if local and any(given.values()):
        raise BadLink(
            "--local makes both workspaces; it cannot stand beside --databricks or --azureml.",
            remedies=[Remedy("link", local=True), Remedy("link", databricks="URI", azureml="URI")],
        )
    for name, value, legal in _wishes(Link(folder, (), track, registry or "both", mode, on_undelivered)):
        if value not in legal:
            near = difflib.get_close_matches(str(value), legal, n=1)
            raise BadLink(
                f"--{name} is {value!r}; it can be {', '.join(legal)}.",
                remedies=[Remedy("link", "…", **{name: near[0] if near else legal[0]})],
            )
    registry = registry or ("azureml" if track == "azureml" else "databricks")
    if local:
        specs = _local_specs(folder, local if isinstance(local, str) else ".dbml")
    else:
        specs = tuple(
            w if isinstance(w, WorkspaceSpec) else WorkspaceSpec(role, checked_uri(role, w))
            for role, w in given.items()
            if w is not None
        )
    spill = None if spill is None else _spill_folder(folder, spill)
    link = Link(folder, specs, track, registry, mode, on_undelivered, spill)
    missing = [role for role in link.used if role not in {w.role for w in specs}]
    if missing:
        _refuse_missing(link, missing)
    link = replace(link, workspaces=tuple(w for w in specs if w.role in link.used))
    uris = [w.uri for w in link.workspaces]
    if len(uris) == 2 and same_place(uris[0]) == same_place(uris[1]):
        raise BadLink(
            f"both workspaces are {masked(uris[0])}: every run would be there twice.",
            remedies=[(Remedy("link", databricks=masked(uris[0]), track="databricks"), "one workspace")],
        )
    return link


def _refuse_missing(link: Link, missing: list[str]) -> None:
    if not link.workspaces:
        raise BadLink(
            "which workspaces? link needs --local, or the URI of at least one workspace.",
            remedies=[
                (Remedy("link", local=True), "two workspaces on this machine"),
                (Remedy("link", databricks="URI", azureml="URI"), "any two MLflow workspaces"),
                (Remedy("link", again=True), "the link remembered for this folder"),
            ],
        )
    have = link.workspaces[0]
    wish = f"--track {link.track} --registry {link.registry}"
    raise BadLink(
        f"{wish} needs the workspace {' and '.join(missing)}, and no URI was given for it.",
        remedies=[
            (Remedy("link", **{have.role: masked(have.uri)}, **{missing[0]: "URI"}), "both"),
            (
                Remedy("link", **{have.role: masked(have.uri)}, track=have.role, registry=have.role),
                "this one",
            ),
        ],
    )


def _local_specs(base: str, given: str) -> tuple[WorkspaceSpec, ...]:
    folder = Path(os.path.abspath(Path(base, Path(given).expanduser())))
    if folder.exists() and not folder.is_dir():
        raise BadLink(
            f"{folder} is a file, and --local needs a folder.", remedies=[Remedy("link", local=".dbml")]
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _probe(folder)
    except OSError as error:
        raise BadLink(
            f"{folder} cannot be written ({error.strerror}).",
            remedies=[(Remedy("link", local="~/dbml"), "a folder of your own")],
        ) from error
    return tuple(
        WorkspaceSpec(role, f"sqlite:///{folder / role / 'mlflow.db'}", local=True) for role in ROLES
    )


def _spill_folder(base: str, given: str) -> str:
    """Return the folder of ``--spill``, which can be written. Raises BadLink."""
    example = (Remedy("link", "…", spill="/Volumes/main/ml/dbml"), "a volume, or any mounted store")
    if not given or re.match(r"[a-z][a-z0-9+.-]+:", given):
        raise BadLink(f"--spill takes the path of a folder, and {given!r} is none.", remedies=[example])
    folder = Path(os.path.abspath(Path(base, Path(given).expanduser())))
    if folder.exists() and not folder.is_dir():
        raise BadLink(f"{folder} is a file, and --spill needs a folder.", remedies=[example])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _probe(folder)
    except OSError as error:
        raise BadLink(f"{folder} cannot be written ({error.strerror}).", remedies=[example]) from error
    return str(folder)


def _probe(folder: Path) -> None:
    """Write a file and delete it. Raises OSError."""
    probe = folder / f".writable-{os.getpid()}"
    probe.touch()
    probe.unlink()


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
            remedies=[(Remedy("link", **{role: uri}), "a model's name of three levels is Unity Catalog's")],
        )
    split = urlsplit(text)
    if _DATABRICKS_HOST.search(split.hostname or ""):
        raise BadUri(
            f"{split.hostname} is a Databricks workspace, which is signed in to by Databricks' own client.",
            remedies=[
                (f"databricks auth login --host https://{split.hostname}", "in a terminal, once; then"),
                (Remedy("link", **{role: "databricks"}), "or databricks://PROFILE"),
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


def _unknown_scheme(role: str, text: str) -> BadUri:
    service = "databricks" if role == "databricks" else "azureml://…"
    remedies = [
        (Remedy("link", **{role: "http://127.0.0.1:5000"}), "an MLflow server"),
        (Remedy("link", **{role: "sqlite:///mlflow.db"}), "a database file"),
        (Remedy("link", **{role: service}), "the service itself"),
    ]
    if not text:
        return BadUri(f"--{role} was given an empty URI.", remedies=remedies)
    host = re.fullmatch(r"[\w.-]+\.[a-z]{2,}(:\d+)?(/.*)?|(localhost|[\d.]+):\d+/?", text)
    if host:
        scheme = "https" if host.group(3) is None else "http"
        return BadUri(
            f"{text!r} lacks its scheme.",
            remedies=[Remedy("link", **{role: f"{scheme}://{text.rstrip('/')}"})],
        )
    if "://" not in text and (os.path.isdir(os.path.expanduser(text)) or "/" in text or text.startswith(".")):
        folder = (Remedy("link", local=text), "two workspaces in that folder")
        return BadUri(f"{text!r} is a folder, not a workspace's URI.", remedies=[folder, *remedies[:2]])
    return BadUri(f"{text!r} is not a workspace's URI.", remedies=remedies)


def _web_address(role: str, text: str) -> str:
    split = urlsplit(text)
    example = (Remedy("link", **{role: "http://127.0.0.1:5000"}), "an MLflow server's address")
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
            remedies=[(Remedy("link", **{role: bare}), "the workspace itself")],
        )
    return f"{split.scheme}://{split.netloc}{split.path.rstrip('/')}"


def _sqlite(role: str, text: str) -> str:
    path = text.removeprefix("sqlite:///").split("?")[0]
    if not text.startswith("sqlite:///") or not path or path == ":memory:":
        raise BadUri(
            f"{text!r} names no file.",
            remedies=[(Remedy("link", **{role: "sqlite:///mlflow.db"}), "three slashes, then the file")],
        )
    path = os.path.abspath(path)
    if os.path.isdir(path):
        raise BadUri(
            f"{path} is a folder, not a database.",
            remedies=[
                (Remedy("link", **{role: f"sqlite:///{path}/mlflow.db"}), "a database in it"),
                (Remedy("link", local=path), "two workspaces in it"),
            ],
        )
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        raise BadUri(f"the folder of {path} does not exist.", remedies=[f"mkdir -p {shlex.quote(above)}"])
    if not os.access(path if os.path.exists(path) else above, os.W_OK):
        raise BadUri(
            f"{path} cannot be written (permission denied).",
            remedies=[(Remedy("link", **{role: "sqlite:///mlflow.db"}), "a file in this folder")],
        )
    return f"sqlite:///{path}"


def _of_role(role: str, text: str) -> str:
    kind = "databricks" if text.startswith("databricks") else "azureml"
    if kind != role:
        raise BadUri(
            f"--{role} was given the URI of the other service ({masked(text)}).",
            remedies=[Remedy("link", **{kind: masked(text)})],
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
            remedies=[(Remedy("link", **{role: "http://127.0.0.1:5000"}), "an MLflow server's address")],
        ) from None
    userinfo = "@" in split.netloc
    if not userinfo and not looks_secret(uri) and masked(uri) == uri:
        return
    if split.scheme.split("+")[0] in ("postgresql", "mysql", "mssql"):
        remedies = [
            (
                Remedy("link", **{role: f"{split.scheme}://HOST/DATABASE"}),
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


def refuse_platform() -> None:
    """Raise PlatformRefused on Windows: the journal rests on POSIX file locks."""
    if sys.platform == "win32":
        raise PlatformRefused(
            "dbml_magics runs on Linux and macOS; its journal needs their file locks.",
            remedies=[WSL],
        )


def _relative(path: Path, base: str | None = None) -> str:
    try:
        return str(path.relative_to(base if base is not None else Path.cwd()))
    except (ValueError, FileNotFoundError):  # elsewhere, or the current folder is gone
        return str(path)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


# --- what is remembered for a folder


def _remembered_file(folder: str) -> Path:
    return data_home() / "remembered" / (hashlib.sha256(folder.encode()).hexdigest()[:16] + ".json")


def remember(link: Link) -> None:
    """Remember the link for its folder, for ``%dbml link --again``. Raises JournalError."""
    path = _remembered_file(link.folder)
    try:
        data_home().mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (path.parent, link.home.parent, link.home):  # mkdir's mode is the last folder's alone
            folder.mkdir(exist_ok=True)
            folder.chmod(0o700)
        temporary = path.with_suffix(f".{os.getpid()}")
        write_private(temporary, {"folder": link.folder, "uri": link.uri, "at": time.time()})
        os.replace(temporary, path)
        write_private(link.home / "link.json", {"uri": link.uri})
    except OSError as error:
        raise JournalError(
            f"the link's folder {data_home()} cannot be written ({error.strerror}).",
            remedies=[("DBML_HOME=/a/local/folder", "set it before the notebook starts")],
        ) from error


def forget(link: Link) -> None:
    """Forget a link that cannot be taken up any more; what it has in its own folder stays."""
    if _read_remembered(link.folder) is not None:
        _remembered_file(link.folder).unlink(missing_ok=True)


def write_private(path: Path, value: Mapping[str, object]) -> None:
    """Write a value as JSON to a file for the user's own eyes. Raises OSError."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as out:
        json.dump(value, out)


def read_own(path: Path) -> dict[str, Any] | None:
    """Return what stands in a file of this user's; another user's is never looked at."""
    if sys.platform == "win32":
        return None  # %load_ext looks here, and must not fail where a link will be refused
    try:
        found = path.lstat()  # no link to a file elsewhere, and none that others may write
        own = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
        kept = json.loads(path.read_text()) if own else None
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) else None


def remembered(folder: str) -> Link:
    """Return the link remembered for a folder. Raises NothingRemembered."""
    link = _read_remembered(folder)
    if link is None:
        raise NothingRemembered(
            f"no link is remembered for this folder ({folder}).",
            remedies=[
                (Remedy("link", local=True), "two workspaces on this machine"),
                (Remedy("link", databricks="URI", azureml="URI"), "any two MLflow workspaces"),
            ],
        )
    return link


def _read_remembered(folder: str) -> Link | None:
    kept = read_own(_remembered_file(folder))
    if kept is None or kept.get("folder") != folder:
        return None
    try:
        return from_uri(str(kept["uri"]))
    except (KeyError, BadUri):
        return None


def is_remembered(folder: str) -> bool:
    """Tell whether a link is remembered for a folder."""
    return _read_remembered(folder) is not None


def remembered_hint(folder: str) -> str | None:
    """Return one line about the link remembered for ``folder`` and what it has undelivered, or None."""
    link = _read_remembered(folder)
    if link is None:
        return None
    places = ", ".join(f"{w.role} {w.place}" for w in link.workspaces)
    waiting = waiting_by_role(link)
    most = max(waiting.values(), default=0)
    undelivered = f"; {count(most, 'write')} undelivered" if most else ""
    again = say(Remedy("link", again=True))
    return f"A link is remembered for this folder ({places}){undelivered}: {again} takes it up"


def waiting_by_role(link: Link) -> dict[str, int]:
    """Return how many writes wait for each workspace, from the files alone."""
    from dbml_magics.core.outbox.journal import Journal
    from dbml_magics.core.outbox.state import State

    if not (link.home / "state.db").exists():
        return {}
    journal = Journal(link.home, link.spares)
    state = State(link.home / "state.db", link.spares)
    try:
        waiting = {}
        for role in link.used:
            cursors = state.all_cursors(role)
            waiting[role] = sum(journal.count_waiting(q, cursors.get(q, {}))[0] for q in journal.queues())
        return waiting
    finally:
        state.close()


def leftovers(link: Link) -> list[str]:
    """Return one line for each earlier link of the same folder that has writes undelivered."""
    return [
        f"an earlier link of this folder has writes undelivered: {what}; {say(other.command)} sends them"
        for other, what in undelivered(link, link.folder)
    ]


def undelivered(but: Link | None, folder: str | None = None) -> list[tuple[Link, str]]:
    """Return the user's other links, of one folder or any, with writes undelivered, and how many for whom.

    What a live process in another folder still writes is no leftover.
    """
    found = []
    known = data_home() / "links"
    for place in sorted(known.iterdir()) if known.is_dir() else []:
        if but is not None and place.name == but.key:
            continue
        try:
            other = from_uri(str((read_own(place / "link.json") or {})["uri"]))
        except (KeyError, BadUri):
            continue
        if (but is not None and other.key == but.key) or folder not in (None, other.folder):
            continue
        try:
            if other.folder != (but.folder if but is not None else None) and _is_written(other):
                continue
            waiting = {role: n for role, n in waiting_by_role(other).items() if n}
        except (JournalError, OSError) as error:
            found.append((other, f"perhaps; its journal cannot be read ({' '.join(str(error).split())})"))
            continue
        if waiting:
            parts = [f"{n:,} for {role} {other.spec(role).place}" for role, n in waiting.items()]
            found.append((other, " and ".join(parts)))
    return found


def _is_written(link: Link) -> bool:
    """Tell whether a live process has a file of the link's journal open: it delivers what is in it."""
    from dbml_magics.core.outbox.journal import Journal

    journal = Journal(link.home, link.spares)
    return any(not journal.is_left(q, file) for q in journal.queues() for file in journal.files(q))
