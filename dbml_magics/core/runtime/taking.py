"""Packages of another machine's writes, taken up here once.

Whoever takes a package up claims it first (``<name>.claim``), keeps it until everything in it is delivered,
and asks of every write whether it has arrived before it is sent: a package that comes a second time, its
taker having died, doubles nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from dbml_magics.common.config import data_home
from dbml_magics.common.disks import private_folder
from dbml_magics.core import link as links
from dbml_magics.core import workspace_uri
from dbml_magics.core.model.operations import decode
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.provenance import place_of
from dbml_magics.core.outbox.state import State
from dbml_magics.core.runtime import engines
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.core.runtime.handoff import Bundle, left
from dbml_magics.core.runtime.unpacking import Unfit, opened, unpack
from dbml_magics.core.runtime.waiting import PROGRESS_S

_CLAIM_BYTES = 4096
_SETTLE_S = 1.0  # a mount that cannot make a file exclusively shows by then whose claim stands


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
                why = left(package.path, error)
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
    places = {w.role: workspace_uri.same_place(w.uri) for w in ours.workspaces}
    return all(workspace_uri.same_place(theirs.spec(role).uri) == places.get(role) for role in theirs.used)


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
        note = self._note.lstat()
        return f"{place_of(self._note, self._note)} {socket.gethostname()} {note.st_ctime_ns}"

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
    engine = Engine(link, own)
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
        number = engine.backlog.waiting(role)[0] + len(engine.state.deferred_uploads.numbers(role))
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
        engine.waiting.wait_at(dict.fromkeys(engine.link.used), PROGRESS_S)
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
    for worker in engine.workers.values():
        worker.stop()
    engine.lifetime.retired = True
    engines.discard(engine)
    engine.journal.close()
    engine.state.close()
