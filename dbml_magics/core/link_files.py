"""Files that say which workspaces to link: Azure ML's config.json, and a team's dbml.toml.

Both are found upwards from the notebook's folder, as ``Workspace.from_config`` does. Neither holds a secret:
a file that does is refused.
"""

from __future__ import annotations

import difflib
import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dbml_magics.common import disks
from dbml_magics.common.hints import Remedy
from dbml_magics.common.secrecy import is_secret_option, looks_secret
from dbml_magics.core.azure.identity_names import SETTINGS
from dbml_magics.core.azure.wish import AzureWish
from dbml_magics.core.link import LinkOptions
from dbml_magics.errors import BadLink, SecretRefused

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEAM_FILE = "dbml.toml"
# Where azureml-core looks in each folder (Workspace.from_config).
_AZUREML_FILES = ("config.json", ".azureml/config.json", "aml_config/config.json")

_AZUREML_KEYS = ("uri", "subscription", "resource-group", "workspace", "cloud", "auth", *SETTINGS)
_KNOWN: dict[str, tuple[str, ...]] = {
    "link": ("track", "registry", "mode", "on-undelivered", "spill"),
    "databricks": ("uri",),
    "azureml": _AZUREML_KEYS,
}
_EXAMPLE = '[azureml]\nsubscription = "…"\nresource-group = "…"\nworkspace = "…"'


@dataclass(frozen=True)
class LinkFile:
    """What a file says: settings by section, in the words of ``%dbml link``'s options."""

    path: Path
    link: dict[str, str] = field(default_factory=dict)
    databricks: dict[str, str] = field(default_factory=dict)
    azureml: dict[str, str] = field(default_factory=dict)


def read(given: str | None, folder: str) -> LinkFile:
    """Read a file, or the one that is found from ``folder`` (or the folder given) upwards.

    Raises BadLink where there is none or it cannot be read, SecretRefused where it holds a secret.
    """
    path = Path(folder, given).expanduser() if given else Path(folder)
    if path.is_file():
        return _read(path)
    if not path.is_dir():
        raise BadLink(
            f"--config: there is no file {path}.",
            remedies=[
                (Remedy("link", config=True), "looks for dbml.toml and config.json from this folder upwards"),
                (Remedy("link", subscription="…", resource_group="…", workspace="…"), "without a file"),
            ],
        )
    for candidate in _candidates(path.resolve()):
        if candidate.is_file() and (candidate.name == TEAM_FILE or _is_azureml(candidate)):
            return _read(candidate)
    raise BadLink(
        f"--config: no {TEAM_FILE} and no Azure ML config.json in {path} or a folder above it.",
        remedies=[
            ("https://ml.azure.com, the workspace's name, Download config file", "gives config.json"),
            (Remedy("link", subscription="…", resource_group="…", workspace="…"), "without a file"),
        ],
    )


def _candidates(folder: Path) -> Iterator[Path]:
    for each in (folder, *folder.parents):
        yield each / TEAM_FILE
        for name in _AZUREML_FILES:
            yield each / name


def _is_azureml(path: Path) -> bool:
    """Tell whether a config.json is Azure ML's: other tools have files of that name."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "workspace_name" in content


def check_owner(path: Path) -> None:
    """Raise BadLink for a file that somebody else wrote, or can: it says where runs and credentials go.

    On a mount that tells nothing of owners (a Databricks workspace folder) there is nothing to check.
    """
    real, path = path.resolve(), path.absolute()
    if sys.platform == "win32" or disks.of_databricks(real) is not None:
        return
    for each in dict.fromkeys((path, *path.parents, real, *real.parents)):
        try:
            entry = each.lstat()
        except OSError:
            continue
        if entry.st_uid not in (os.getuid(), 0):
            raise _not_own(path, f"{each} is another user's (uid {entry.st_uid})", f"cp {path} .")
        if not stat.S_ISLNK(entry.st_mode) and _others_write(entry):
            raise _not_own(path, f"others can write to {each}", f"chmod go-w {each}")


def _others_write(entry: os.stat_result) -> bool:
    """Tell whether others than the user may change a file, or put another one into a folder."""
    if entry.st_mode & stat.S_IWOTH:
        return not (stat.S_ISDIR(entry.st_mode) and entry.st_mode & stat.S_ISVTX)
    return bool(entry.st_mode & stat.S_IWGRP) and not _is_own_group(entry.st_gid)


def _is_own_group(gid: int) -> bool:
    """Tell whether a group is the user's alone, as many systems make one for each user, or root's."""
    import grp
    import pwd

    try:
        return gid == 0 or grp.getgrgid(gid).gr_name == pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return False


def _not_own(path: Path, why: str, mends: str) -> BadLink:
    return BadLink(
        f"--config: {path} is not taken: {why}, and such a file says where runs and credentials go.",
        remedies=[
            (mends, "in a terminal, if you trust what stands in it"),
            Remedy("link", config="dbml.toml"),
        ],
    )


def _read(path: Path) -> LinkFile:
    check_owner(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise BadLink(f"--config: {path} cannot be read ({error.strerror}).") from error
    except ValueError as error:  # both decoders' errors are
        raise BadLink(
            f"--config: {path} is not {'JSON' if path.suffix == '.json' else 'TOML'} ({error}).",
            remedies=[("[azureml]", "begins a team's dbml.toml: docs/azureml.md, A team's file")],
        ) from error
    if not isinstance(content, dict):
        raise BadLink(f"--config: {path} holds no settings.", remedies=[Remedy("link", config="dbml.toml")])
    return _of_azureml(path, content) if path.suffix == ".json" else _of_team(path, content)


def _of_azureml(path: Path, content: Mapping[str, object]) -> LinkFile:
    names = {
        "subscription_id": "subscription",
        "resource_group": "resource-group",
        "workspace_name": "workspace",
    }
    missing = [key for key in names if not isinstance(content.get(key), str) or not content[key]]
    if missing:
        raise BadLink(
            f"--config: {path} lacks {', '.join(missing)}.",
            remedies=[
                ("https://ml.azure.com, the workspace's name, Download config file", "gives a whole one")
            ],
        )
    return LinkFile(path, azureml={own: str(content[key]) for key, own in names.items()})


def _of_team(path: Path, content: Mapping[str, object]) -> LinkFile:
    sections: dict[str, dict[str, str]] = {name: {} for name in _KNOWN}
    for name, section in content.items():
        if name not in _KNOWN:
            raise _unknown(path, name, list(_KNOWN), "section")
        if not isinstance(section, dict):
            raise BadLink(
                f"--config: {path}: {name} is a section, not a value.",
                remedies=[(line, "") for line in _EXAMPLE.splitlines()],
            )
        for key, value in section.items():
            if looks_secret(f"{key}={value}") or (key not in _KNOWN[name] and is_secret_option(key)):
                raise SecretRefused(
                    f"{path} holds a secret ({name}.{key}), and files like it are shared and committed. "
                    "Nothing was done with it; delete it there too.",
                    remedies=[
                        ("AZURE_CLIENT_SECRET=…", "in the environment, or"),
                        (f'[azureml] {SETTINGS[0]} = "NAME"', "a Databricks secret scope that has it"),
                    ],
                )
            if key not in _KNOWN[name]:
                raise _unknown(path, key, list(_KNOWN[name]), f"key of [{name}]")
            if not isinstance(value, str):
                raise BadLink(
                    f"--config: {path}: {name}.{key} is {value!r}, and it takes a text.",
                    remedies=[f'{key} = "…"'],
                )
            sections[name][key] = value
    if not sections["azureml"] and not sections["databricks"]:
        raise BadLink(
            f"--config: {path} names no workspace.",
            remedies=[(line, "") for line in _EXAMPLE.splitlines()],
        )
    return LinkFile(path, **sections)


def _unknown(path: Path, name: str, known: list[str], what: str) -> BadLink:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else f" Known are {', '.join(known)}."
    return BadLink(
        f"--config: {path}: {name!r} is no {what}.{hint}",
        remedies=[(Remedy("link", help=True), "the options that the file can hold")],
    )


def settings_of(file: LinkFile) -> tuple[LinkOptions, AzureWish, dict[str, str | None]]:
    """Return (the link's options, the Azure wish, the URIs by role) that a file says."""
    named = file.azureml
    extra = {key: value for key, value in named.items() if key in SETTINGS}
    return (
        LinkOptions(**{key.replace("-", "_"): value for key, value in file.link.items()}),
        AzureWish(
            named.get("subscription"),
            named.get("resource-group"),
            named.get("workspace"),
            named.get("cloud"),
            named.get("auth"),
            settings=extra,
        ),
        {"databricks": file.databricks.get("uri"), "azureml": file.azureml.get("uri")},
    )
