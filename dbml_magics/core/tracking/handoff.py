"""What waits at the end of a process, put where another machine can take it up, and taken up there once.

A package is one tar file in a shared folder (a volume, a mounted store): written from front to back and
renamed when it is whole, since such mounts can do no more. It holds the journal's files, the copies of
artifacts and the state of one link; no secret. Whoever takes one up claims it first (``<name>.claim``), keeps
it until everything in it is delivered, and asks of every write whether it has arrived before it is sent: a
package that comes a second time, its taker having died, doubles nothing.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import sqlite3
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dbml_magics.common.config import data_home
from dbml_magics.common.disks import private_folder
from dbml_magics.common.log_records import logger
from dbml_magics.core import link as links
from dbml_magics.core.model.operations import decode
from dbml_magics.core.outbox.state import State
from dbml_magics.core.tracking.journal import Journal, copy_of
from dbml_magics.core.tracking.provenance import place_of
from dbml_magics.core.tracking.unpacking import (
    END,
    FORMAT,
    HEAD,
    STATE,
    Unfit,
    head_of,
    opened,
    unpack,
)
from dbml_magics.errors import BadLink

if TYPE_CHECKING:
    from dbml_magics.core.tracking.engine import Engine

_log = logger(__name__)

_NAME = re.compile(r"dbml-[0-9a-z-]{1,100}\.tar")
_CLAIM_BYTES = 4096
_MARKER = "spilling.json"
_SETTLE_S = 1.0  # a mount that cannot make a file exclusively shows by then whose claim stands


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


def put(engine: Engine) -> Path | None:
    """Move what waits for the workspaces into the link's spill folder; returns the package.

    None when another process of the link lives: it delivers, or puts it there at its own end. The workers
    must be at rest, with the leases theirs. Raises OSError.
    """
    assert engine.link.spill is not None
    folder, journal = Path(engine.link.spill), engine.journal
    journal.close()  # a worker may have opened one again before it came to rest
    queues = [q for q in journal.queues() if any(engine.is_waiting(r, q) for r in engine.link.used)]
    files = {queue: journal.files(queue) for queue in queues}
    if not all(journal.is_left(queue, file) for queue, sizes in files.items() for file in sizes):
        return None
    held = [number for role in engine.link.used for number in engine.workers[role].held.numbers()]
    letters = [letter for n in held if (letter := engine.state.dead_letter(n)) is not None]
    copies = _copies(journal, files) | {name for op in letters if (name := copy_of(op))}
    name = f"dbml-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(6)}"
    path = folder / f"{name}.tar"
    # Whoever finds this note after a crash looks whether the package is there before anything is sent.
    note = engine.link.home / _MARKER
    moved = {"package": str(path), "files": files, "copies": sorted(copies), "held": held}
    writes = {role: engine.waiting(role)[0] for role in engine.link.used}
    with open(os.open(note, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), "w", encoding="utf-8") as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        try:
            out.write(json.dumps(moved))
            out.flush()
            _write(engine, path, files, copies, writes)
            _forget(engine.journal, engine.state, moved)
            for role in engine.link.used:
                for run in engine.side(role).overflow.unwritten():
                    engine.state.overflow_rows.clear(role, run)
                    engine.state.overflow_files.forget(role, run)
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
        if (name := copy_of(entry.line)) and journal.spooled(name) is not None
    }


def _write(
    engine: Engine, path: Path, files: dict[str, dict[str, int]], copies: set[str], writes: dict[str, int]
) -> None:
    part = path.with_suffix(".part")
    head = {
        "format": FORMAT,
        "uri": engine.link.uri,
        "host": socket.gethostname(),
        "at": time.time(),
        "writes": writes,
    }
    journal = engine.journal
    try:
        fd = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with (
            os.fdopen(fd, "wb") as out,
            tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            _add_text(tar, HEAD, json.dumps(head))
            _add_text(tar, STATE, json.dumps(engine.state.dump()))
            for queue, sizes in files.items():
                for file, size in sizes.items():
                    _add_file(tar, f"queues/{quote(queue, safe='')}/{file}", journal.path(queue, file), size)
            for name in sorted(copies):
                copy = journal.spooled(name)
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
        journal.unspool(name)
    state.discard_dead(moved["held"])
    for role, number in state.deferred_uploads.all_numbers():
        if number in moved["held"]:
            state.deferred_uploads.discard(role, number)


def settle(engine: Engine) -> None:
    """Finish what a process that was killed while it put writes into a package had begun."""
    note = engine.link.home / _MARKER
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
                _forget(engine.journal, engine.state, moved)
            else:  # it was not made; or it was, and everything in it is delivered: asking tells
                for role in engine.link.used:
                    for queue, sizes in moved["files"].items():
                        engine.state.mark_sending(role, queue, sizes)
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
            remedies=[("%dbml sync --spill PATH", "the folder that %dbml link --spill was given")],
        ) from error
    found, refused = [], []
    for path in (Path(folder, name) for name in names):
        try:
            head = head_of(path)
        except FileNotFoundError:
            continue  # another machine has just delivered it
        except Unfit as error:
            refused.append(_left(path, error))
        except OSError as error:
            refused.append(f"{path} is left as it is: it cannot be read ({error.strerror})")
        else:
            found.append(Bundle(path, head.link, head.host, head.at, head.writes))
    return found, refused


def _left(path: Path, why: Unfit) -> str:
    return f"{path} is left as it is, and nothing of it was sent: {why}"


def command(folder: str | os.PathLike[str]) -> str:
    """Return the line that takes up what is in a folder."""
    return f"%dbml sync --spill {shlex.quote(os.fspath(folder))}"


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


# --- taking


@contextmanager
def taken_up(package: Bundle, own: Engine) -> Iterator[Engine | str]:
    """Claim a package and give the engine that delivers it, or say in a sentence why not.

    What is not delivered when the block ends stays in the package, for the next taker. Workspaces and
    sign-ins are those of ``own``, the link of this process; the package only says which it is for.
    """
    if not _is_for(package.link, own.link):
        places = " and ".join(f"{w.role} {w.place}" for w in package.link.workspaces)
        yield f"{package.name} is for {places}, and this link is not"
        return
    home = data_home() / "taken"
    private_folder(home)
    with open(os.open(home / f"{package.name}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield f"{package.name} is being delivered by another process of this machine"
            return
        claim = _Claim(package, home)
        refused = claim.take()
        if refused is not None:
            yield refused
            return
        engine, why = None, ""
        try:
            try:
                engine = _open(package, own)
            except Unfit as error:
                why = _left(package.path, error)
            yield engine or why
        finally:
            done = engine is not None and not _remaining(engine)
            if engine is not None:
                _close(engine)
            if done and claim.stands():
                package.path.unlink(missing_ok=True)
            shutil.rmtree(home / package.name, ignore_errors=True)
            claim.give_back()
            (home / f"{package.name}.lock").unlink(missing_ok=True)


def _is_for(theirs: links.Link, ours: links.Link) -> bool:
    """Tell whether a package's workspaces are this link's: nobody's package decides who gets a token."""
    places = {w.role: links.same_place(w.uri) for w in ours.workspaces}
    return all(links.same_place(theirs.spec(role).uri) == places.get(role) for role in theirs.used)


class _Claim:
    """A package's claim: a file beside it, made exclusively, that says whose it is.

    The same word stands in a note in this machine's own data folder, so that a process goes on with what a
    killed one had claimed. The claim says, too, on which machine and in which file that note is: neither a
    copied data folder nor a copied disk holds a claim of the folder that it was copied from. One whose holder
    is another machine is never taken over: that it is gone only a person can know, who deletes the claim.
    """

    def __init__(self, package: Bundle, home: Path) -> None:
        self.package = package
        self._note = home / f"{package.name}.claim"
        self._unpacked = home / package.name

    def take(self) -> str | None:
        """Claim the package; returns why it cannot be had, or None."""
        name = self.package.name
        try:
            if not self.stands():
                shutil.rmtree(self._unpacked, ignore_errors=True)  # of a claim that was deleted
                self._make()
        except FileExistsError:
            pass  # another's, which is read below
        except OSError as error:
            return f"{name} cannot be claimed ({error.strerror})"
        else:
            time.sleep(_SETTLE_S)
        if not self.stands():
            self._note.unlink(missing_ok=True)
            return self._held_by_another()
        if not self.package.path.exists():  # delivered between the look into the folder and the claim
            self.give_back()
            return f"{name} has just been delivered"
        return None

    def _make(self) -> None:
        """Write the note, then the claim that names it. Raises OSError, FileExistsError for another's."""
        self._note.unlink(missing_ok=True)
        word = secrets.token_hex(16)
        with os.fdopen(os.open(self._note, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as out:
            out.write(word)
            out.flush()
            os.fsync(out.fileno())
        said = {"taker": word, "seal": self._seal(), "host": socket.gethostname(), "at": time.time()}
        fd = os.open(self.package.claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w") as out:
                json.dump(said, out)
                out.flush()
                with suppress(OSError):  # some mounts cannot
                    os.fsync(out.fileno())
        except OSError:
            self.package.claim.unlink(missing_ok=True)  # nobody could hold it
            raise

    def _seal(self) -> str:
        """Return what a copy of the note, on this machine or another, has otherwise."""
        told = self._note.lstat()
        return f"{place_of(self._note, self._note)} {socket.gethostname()} {told.st_ctime_ns}"

    def stands(self) -> bool:
        """Tell whether the claim is this machine's."""
        said = self._said()
        try:
            word = self._note.read_text(encoding="utf-8")
            return bool(word) and (said.get("taker"), said.get("seal")) == (word, self._seal())
        except (OSError, ValueError):
            return False

    def _said(self) -> dict[str, Any]:
        try:
            with opened(self.package.claim, _CLAIM_BYTES) as source:
                said = json.loads(source.read(_CLAIM_BYTES))
        except (OSError, ValueError, RecursionError, Unfit):
            return {}
        return said if isinstance(said, dict) else {}

    def _held_by_another(self) -> str:
        said, at = self._said(), self.package.at
        if type(said.get("at")) in (int, float) and 0 <= said["at"] < 1e11:
            at = said["at"]
        since = time.strftime("%d %b %H:%M", time.localtime(at))
        who = str(said.get("host", "another machine"))[:255]
        if who == socket.gethostname():
            who = f"{who} (another data folder, or before a restart)"
        return (
            f"{self.package.name} is being delivered by {who} since {since}; "
            f"if that machine is gone for good, delete {self.package.claim}"
        )

    def give_back(self) -> None:
        """Delete the claim where it is this machine's."""
        if self.stands():
            self.package.claim.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def _open(package: Bundle, own: Engine) -> Engine:
    """Unpack a package (or go on with one that a killed process unpacked) and return its engine.

    Raises Unfit.
    """
    from dbml_magics.core.tracking import engine as engines

    theirs = package.link
    specs = tuple(own.link.spec(role) for role in theirs.used)
    link = replace(
        own.link,
        workspaces=specs,
        track=theirs.track,
        registry=theirs.registry,
        mode="journal",
        on_undelivered="warn",
        spill=None,
        taken=package.name,
    )
    whole = link.home / "whole"
    if not whole.exists():
        shutil.rmtree(link.home, ignore_errors=True)
        _unpack(package, link)
        whole.touch(mode=0o600)
    engine = engines.Engine(link, own)
    engines.register(engine)
    return engine


def _unpack(package: Bundle, link: links.Link) -> None:
    state = unpack(package.path, link.home)
    journal, kept = Journal(link.home), State(link.home / "state.db")
    try:
        kept.load(state)
        held = {number for _, number in kept.deferred_uploads.all_numbers()}
        kept.discard_dead(n for role in link.used for n in kept.dead_numbers(role) - held)
        for role in link.used:
            for queue in journal.queues():
                kept.mark_sending(role, queue, journal.files(queue))
    except sqlite3.IntegrityError as error:
        raise Unfit("its state is damaged") from error
    finally:
        kept.close()


def _remaining(engine: Engine) -> dict[str, int]:
    """Return how many writes of a package wait for each workspace, those with any."""
    found = {}
    for role in engine.link.used:
        number = engine.waiting(role)[0] + len(engine.workers[role].held.numbers())
        if number:
            found[role] = number
    return found


def deliver(
    engine: Engine, until: float | None, progress: Callable[[dict[str, int], float], None] | None
) -> dict[str, int]:
    """Deliver a package until nothing of it waits, or the time (monotonic) is up; returns what waits."""
    began = time.monotonic()
    for worker in engine.workers.values():
        worker.held.try_all()
        worker.start()
    while True:
        for role in engine.link.used:
            engine.wait(role, None, 0.25 / len(engine.link.used))
        waiting = _remaining(engine)
        if progress is not None:
            sent = sum(worker.delivered for worker in engine.workers.values())
            progress({r: waiting.get(r, 0) for r in engine.link.used}, sent / (time.monotonic() - began))
        if not waiting or (until is not None and time.monotonic() >= until):
            return waiting


def refused(engine: Engine) -> list[str]:
    """Return a line for each write of a package that a workspace refused for good."""
    return [
        f"{role} refused {decode(line).label()} of run "
        f"{(engine.state.run(queue) or {}).get('name') or queue}: {cause}"
        for _, role, queue, line, cause, _ in engine.state.dead()
    ]


def _close(engine: Engine) -> None:
    from dbml_magics.core.tracking import engine as engines

    for worker in engine.workers.values():
        worker.stop()
    engine.retired = True
    engines.discard(engine)
    engine.journal.close()
    engine.state.close()
