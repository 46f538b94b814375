"""What waits at the end of a process, put where another machine can take it up.

A package is one tar file in a shared folder (a volume, a mounted store): written from front to back and
renamed when it is whole, since such mounts can do no more. It holds the journal's files, the copies of
artifacts and the state of one link; no secret.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import secrets
import socket
import tarfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dbml_magics.common.hints import Remedy
from dbml_magics.common.log_records import logger
from dbml_magics.core import link as links
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.spool import copy_of
from dbml_magics.core.outbox.state import State
from dbml_magics.core.runtime.backlog import Backlog
from dbml_magics.core.runtime.unpacking import END, FORMAT, HEAD, STATE, Unfit, head_of
from dbml_magics.errors import BadLink

_log = logger(__name__)

_NAME = re.compile(r"dbml-[0-9a-z-]{1,100}\.tar")
_MARKER = "spilling.json"


@dataclass(frozen=True)
class Bundle:
    """A package of writes in a shared folder."""

    path: Path
    link: links.Link
    host: str
    at: float
    writes: dict[str, int]

    @property
    def claim(self) -> Path:
        """Return the file that says who delivers it."""
        return self.path.with_suffix(".claim")

    @property
    def name(self) -> str:
        """Return what it is called."""
        return self.path.stem


# --- putting


def put(link: links.Link, journal: Journal, state: State, backlog: Backlog) -> Path | None:
    """Move what waits for the workspaces into the link's spill folder; returns the package.

    None when another process of the link lives: it delivers, or puts it there at its own end. The workers
    must be at rest, with the leases theirs. Raises OSError.
    """
    assert link.spill is not None
    folder = Path(link.spill)
    journal.close()  # a worker may have opened one again before it came to rest
    queues = [q for q in journal.queues() if any(backlog.is_waiting(r, q) for r in link.used)]
    files = {queue: journal.files(queue) for queue in queues}
    if not all(journal.is_left(queue, file) for queue, sizes in files.items() for file in sizes):
        return None
    held = [number for role in link.used for number in state.deferred_uploads.numbers(role)]
    letters = [letter for n in held if (letter := state.dead_letter(n)) is not None]
    copies = _copies(journal, files) | {name for op in letters if (name := copy_of(op))}
    name = f"dbml-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(6)}"
    path = folder / f"{name}.tar"
    # Whoever finds this note after a crash looks whether the package is there before anything is sent.
    note = link.home / _MARKER
    moved = {"package": str(path), "files": files, "copies": sorted(copies), "held": held}
    writes = {role: backlog.waiting(role)[0] for role in link.used}
    with open(os.open(note, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), "w", encoding="utf-8") as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        try:
            out.write(json.dumps(moved))
            out.flush()
            _write(_head(link, writes), journal, state, path, files, copies)
            _forget(journal, state, moved)
            for role in link.used:
                for run in backlog.overflowing(role):
                    state.overflow_rows.clear(role, run)
                    state.overflow_files.forget(role, run)
        finally:
            if not path.exists() or not any(journal.path(q, f).exists() for q in files for f in files[q]):
                note.unlink(missing_ok=True)
    return path


def _copies(journal: Journal, files: dict[str, dict[str, int]]) -> set[str]:
    """Return the names of the artifacts' copies that writes name and that are here."""
    return {
        name
        for queue, sizes in files.items()
        for file, size in sizes.items()
        for entry in journal.read(queue, file, 0, size)
        if (name := copy_of(entry.line)) and journal.spool.find(name) is not None
    }


def _head(link: links.Link, writes: dict[str, int]) -> str:
    head = {
        "format": FORMAT,
        "uri": link.uri,
        "host": socket.gethostname(),
        "at": time.time(),
        "writes": writes,
    }
    return json.dumps(head)


def _write(
    head: str, journal: Journal, state: State, path: Path, files: dict[str, dict[str, int]], copies: set[str]
) -> None:
    part = path.with_suffix(".part")
    try:
        fd = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with (
            os.fdopen(fd, "wb") as out,
            tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            _add_text(tar, HEAD, head)
            _add_text(tar, STATE, json.dumps(state.dump()))
            for queue, sizes in files.items():
                for file, size in sizes.items():
                    _add_file(tar, f"queues/{quote(queue, safe='')}/{file}", journal.path(queue, file), size)
            for name in sorted(copies):
                copy = journal.spool.find(name)
                if copy is not None:
                    _add_file(tar, f"spool/{name}", copy, copy.stat().st_size)
            _add_text(tar, END, "{}")  # a package without its end is not whole
            tar.close()
            out.flush()
            with suppress(OSError):  # some mounts cannot
                os.fsync(out.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o600
    tar.addfile(info, io.BytesIO(data))


def _add_file(tar: tarfile.TarFile, name: str, path: Path, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    with open(path, "rb") as source:
        tar.addfile(info, source)


def _forget(journal: Journal, state: State, moved: dict[str, Any]) -> None:
    """Delete here what a package holds now."""
    for queue, sizes in moved["files"].items():
        for file in sizes:
            journal.path(queue, file).unlink(missing_ok=True)
            state.drop_file(queue, file)
        with suppress(OSError):
            journal.folder(queue).rmdir()
    for name in moved["copies"]:
        journal.spool.delete(name)
    state.discard_dead(moved["held"])
    for role, number in state.deferred_uploads.all_numbers():
        if number in moved["held"]:
            state.deferred_uploads.discard(role, number)


def settle(link: links.Link, journal: Journal, state: State) -> None:
    """Finish what a process that was killed while it put writes into a package had begun."""
    note = link.home / _MARKER
    if not note.exists():
        return
    try:
        with open(note, encoding="utf-8") as kept:
            fcntl.flock(kept, fcntl.LOCK_EX)
            if not note.exists():
                return  # another process has seen to it
            try:
                moved = json.loads(kept.read())
            except ValueError:  # killed before it had begun
                moved = {"package": "", "files": {}, "copies": [], "held": []}
            package = Path(moved["package"])
            if package.exists() or package.with_suffix(".claim").exists():
                _forget(journal, state, moved)
            else:  # it was not made; or it was, and everything in it is delivered: asking tells
                for role in link.used:
                    for queue, sizes in moved["files"].items():
                        state.mark_sending(role, queue, sizes)
            note.unlink(missing_ok=True)
    except OSError:
        return


# --- finding


def packages(folder: str | os.PathLike[str]) -> tuple[list[Bundle], list[str]]:
    """Return the packages in a folder, the oldest first, and a line for each that is none. Raises BadLink."""
    try:
        names = sorted(name for name in os.listdir(folder) if _NAME.fullmatch(name))
    except OSError as error:
        raise BadLink(
            f"the folder {folder} cannot be read ({error.strerror}).",
            remedies=[(Remedy("sync", spill="PATH"), "the folder that %dbml link --spill was given")],
        ) from error
    found, refused = [], []
    for path in (Path(folder, name) for name in names):
        try:
            head = head_of(path)
        except FileNotFoundError:
            continue  # another machine has just delivered it
        except Unfit as error:
            refused.append(left(path, error))
        except OSError as error:
            refused.append(f"{path} is left as it is: it cannot be read ({error.strerror})")
        else:
            found.append(Bundle(path, head.link, head.host, head.at, head.writes))
    return found, refused


def left(path: Path, why: Unfit) -> str:
    """Return the line about a package that was refused."""
    return f"{path} is left as it is, and nothing of it was sent: {why}"


def command(folder: str | os.PathLike[str]) -> Remedy:
    """Return the command that takes up what is in a folder."""
    return Remedy("sync", spill=os.fspath(folder))


def mentioned(link: links.Link) -> list[str]:
    """Return a line about the packages that wait in a link's spill folder."""
    if link.spill is None:
        return []
    try:
        number = sum(1 for name in os.listdir(link.spill) if _NAME.fullmatch(name))
    except OSError as error:
        return [f"the folder {link.spill} cannot be read ({error.strerror}), so nothing can be put there"]
    if not number:
        return []
    from dbml_magics.common.hints import say
    from dbml_magics.results.text import count

    return [f"{count(number, 'package')} of undelivered writes in {link.spill}: "
            f"{say(command(link.spill))} delivers them"]  # fmt: skip
