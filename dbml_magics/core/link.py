"""A link: which workspaces, in which roles, and the ``dbml:`` URI that says all of it but the secrets.

Child processes, joblib workers and Spark tasks get MLFLOW_TRACKING_URI and nothing else, so a link can be
built from its URI alone.
"""

from __future__ import annotations

import difflib
import getpass
import hashlib
import os
import re
import sys
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from dbml_magics.common.config import data_home, spare_homes
from dbml_magics.common.hints import WSL, Argument, Remedy, amended, corrected
from dbml_magics.core.azure import names
from dbml_magics.core.workspace_uri import SCHEME, checked_uri, masked, refuse_secret, same_place
from dbml_magics.errors import BadLink, BadUri, PlatformRefused

ROLES = ("databricks", "azureml")


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
            remedies=[
                corrected(Remedy("link", local=True), databricks=None, azureml=None),
                corrected(Remedy("link", databricks="URI", azureml="URI"), local=None),
            ],
        )
    for name, value, legal in _wishes(Link(folder, (), track, registry or "both", mode, on_undelivered)):
        if value not in legal:
            near = difflib.get_close_matches(str(value), legal, n=1)
            good = {name.replace("-", "_"): near[0] if near else legal[0]}
            raise BadLink(
                f"--{name} is {value!r}; it can be {', '.join(legal)}.",
                remedies=[corrected(Remedy("link", "…", **good), **good)],
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
            remedies=[
                (
                    corrected(
                        Remedy("link", databricks=masked(uris[0]), track="databricks"),
                        azureml=None,
                        track="databricks",
                        registry=None,
                    ),
                    "one workspace",
                )
            ],
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
            (
                corrected(
                    Remedy("link", **{have.role: masked(have.uri)}, **{missing[0]: "URI"}),
                    **{missing[0]: "URI"},
                ),
                "both",
            ),
            (
                corrected(
                    Remedy("link", **{have.role: masked(have.uri)}, track=have.role, registry=have.role),
                    track=have.role,
                    registry=have.role,
                ),
                "this one",
            ),
        ],
    )


def _local_specs(base: str, given: str) -> tuple[WorkspaceSpec, ...]:
    folder = Path(os.path.abspath(Path(base, Path(given).expanduser())))
    if folder.exists() and not folder.is_dir():
        raise BadLink(
            f"{folder} is a file, and --local needs a folder.",
            remedies=[amended("link", local=".dbml")],
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _probe(folder)
    except OSError as error:
        raise BadLink(
            f"{folder} cannot be written ({error.strerror}).",
            remedies=[(amended("link", local="~/dbml"), "a folder of your own")],
        ) from error
    return tuple(
        WorkspaceSpec(role, f"sqlite:///{folder / role / 'mlflow.db'}", local=True) for role in ROLES
    )


def _spill_folder(base: str, given: str) -> str:
    """Return the folder of ``--spill``, which can be written. Raises BadLink."""
    example = (
        amended("link", "…", spill="/Volumes/main/ml/dbml"),
        "a volume, or any mounted store",
    )
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
