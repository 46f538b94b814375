"""Where this user has linked to before: a file of somebody else's choosing must not choose who gets a token.

A team's ``dbml.toml`` comes with a repository. What it names for the first time (a server, a database, the
folder of ``--spill``) is named to the user and wants their word; what a line of the user's own named, or was
confirmed once, is remembered in the user's data folder, for each role apart.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from dbml_magics.common import private_files
from dbml_magics.common.config import data_home
from dbml_magics.common.foreign_text import one_line
from dbml_magics.common.hints import Remedy, corrected
from dbml_magics.core import link as links
from dbml_magics.core import workspace_uri
from dbml_magics.errors import NotConfirmed

_SPILL = "spill"
_PORTS = {"http": 80, "https": 443}


def place_of(uri: str) -> str | None:
    """Return the host (and port) or the file that a workspace's URI names.

    None where the user's own configuration does: a Databricks profile, the notebook's workspace.
    """
    if uri == "databricks" or uri.startswith("databricks://"):
        return None
    split = urlsplit(uri)
    if split.scheme in ("sqlite", "file") or not split.hostname:
        return f"/{uri.partition(':')[2].lstrip('/')}"
    port = split.port or _PORTS.get(split.scheme)
    # The same host without TLS is another place: anybody on the way reads what goes there.
    return split.hostname if port in (None, 443) and split.scheme != "http" else f"{split.hostname}:{port}"


def agree(
    named: Mapping[str, str | None], spill: str | None, folder: str, confirm: str | None, file: Path
) -> str | None:
    """Check that the user agrees to what a file names: workspaces' URIs by role, and the folder of --spill.

    Returns what of ``confirm`` was meant for something else. Raises NotConfirmed, which names the places.
    """
    wanted = {
        (role, place): f"the {role} workspace"
        for role, uri in named.items()
        if uri is not None and (place := place_of(workspace_uri.checked_uri(role, uri))) is not None
    }
    if spill:
        place = os.path.abspath(Path(folder, Path(spill).expanduser()))
        wanted[_SPILL, place] = "the folder that takes what is undelivered"
    known = _known()
    new = {key: what for key, what in wanted.items() if _key(*key) not in known}
    typed = [word for word in (confirm or "").split(",") if word]
    places = list(dict.fromkeys(place for _, place in new))
    if not set(places) <= {*typed, confirm}:
        lines = [f"  {what}: {one_line(place)}" for (_, place), what in new.items()]
        confirmed = ",".join(places)
        line = corrected(Remedy("link", config=str(file), confirm=confirmed), confirm=confirmed)
        raise NotConfirmed(
            "\n".join([f"{file} names what you have not linked to before; nothing was sent there:", *lines]),
            remedies=[(line, "if you trust it: your credentials for its role go there")],
        )
    if confirm in places:
        return None
    return ",".join(word for word in typed if word not in places) or None


def remember(link: links.Link) -> None:
    """Remember a link's places as the user's own."""
    keys = {_key(w.role, place) for w in link.workspaces if (place := place_of(w.uri)) is not None}
    keys |= {_key(_SPILL, link.spill)} if link.spill is not None else set()
    _add(keys)


def _key(role: str, place: str) -> str:
    return f"{role} {place}"


def _file() -> Path:
    return data_home() / "places.json"


def _known() -> Mapping[str, object]:
    return private_files.read(_file()) or {}


def _add(keys: Iterable[str]) -> None:
    known = dict(_known())
    new = {key: time.time() for key in keys if key not in known}
    if new:
        private_files.write(_file(), {**known, **new})
