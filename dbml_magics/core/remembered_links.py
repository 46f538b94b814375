"""The links that this user has made: the one remembered for each folder, and what each has undelivered.

They are kept in the user's own data folder on a local disk, never the notebook's folder: a cloned repository
must not bring a link along.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from dbml_magics.common import private_files
from dbml_magics.common.config import data_home
from dbml_magics.common.hints import Remedy, say
from dbml_magics.core.link import Link, from_uri
from dbml_magics.errors import BadUri, JournalError, NothingRemembered
from dbml_magics.results.text import count


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
        private_files.write(path, {"folder": link.folder, "uri": link.uri, "at": time.time()})
        private_files.write(link.home / "link.json", {"uri": link.uri})
    except OSError as error:
        raise JournalError(
            f"the link's folder {data_home()} cannot be written ({error.strerror}).",
            remedies=[("DBML_HOME=/a/local/folder", "set it before the notebook starts")],
        ) from error


def forget(link: Link) -> None:
    """Forget a link that cannot be taken up any more; what it has in its own folder stays."""
    if _read_remembered(link.folder) is not None:
        _remembered_file(link.folder).unlink(missing_ok=True)


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
    kept = private_files.read(_remembered_file(folder))
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
            other = from_uri(str((private_files.read(place / "link.json") or {})["uri"]))
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
