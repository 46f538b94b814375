"""Reading a package of ``--spill``: every field of one is foreign input.

Whoever may write into the shared folder can plant a package, and what takes it up holds the user's tokens and
files. So names match our own patterns, paths stay below what they are given for, sizes are looked at before
the bytes behind them are read, and the rows of the state have the shapes that this release writes. Nothing
that a package names is opened but what is in the package itself.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
import sys
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeGuard
from urllib.parse import quote, unquote, urlsplit

from dbml_magics.common.disks import private_folder
from dbml_magics.core import link as links
from dbml_magics.core.model.facts import VersionSource
from dbml_magics.core.model.operations import (
    CopyFiles,
    CreateModel,
    LogArtifact,
    Malformed,
    Operation,
    RegisterVersion,
    decode,
    is_line,
    stamp_of,
)
from dbml_magics.core.outbox import tables
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.lines import OLD_SUFFIX, SUFFIX
from dbml_magics.core.outbox.spool import is_copys_name, small_file
from dbml_magics.errors import DbmlError

FORMAT = 1
HEAD, STATE, END = "head.json", "state.json", "end.json"

_QUEUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")  # a run's id, or one of our own words
_FILE = re.compile(rf"[0-9]{{1,10}}-[0-9a-f]{{8}}-[0-9]{{1,12}}({re.escape(SUFFIX)}|{re.escape(OLD_SUFFIX)})")
_ID = re.compile(r"[\w.-]{1,255}", re.ASCII)
_OWNER = re.compile(r"(run|model):[A-Za-z0-9][\w.-]{0,254}", re.ASCII)
_CODE = re.compile(r"[A-Za-z*?]")

_MOST_MEMBERS = 1_000_000
_HEAD_BYTES = 64 << 10
_STATE_BYTES = 512 << 20
_NAME_BYTES = 64 << 10  # of the header that holds a member's long name
_LINE_BYTES = 64 << 20
_SPARE_BYTES = 256 << 20  # that stay free on the disk
_CHUNK = 1 << 20
_CUT_OFF = "it is not whole: it was cut off on its way there, or is on its way yet"


class Unfit(Exception):
    """A package that is not taken up, with why: it is left as it is."""


@dataclass(frozen=True)
class Head:
    """What a package says of itself."""

    link: links.Link
    host: str
    at: float
    writes: dict[str, int]


def opened(path: Path, most: int | None = None) -> BinaryIO:
    """Open a regular file of a shared folder, never what a link there names. Raises Unfit, OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise Unfit("it is a link to another file") from error
        raise
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or (most is not None and status.st_size > most):
        os.close(fd)
        raise Unfit(
            "it is no file" if most is None or not stat.S_ISREG(status.st_mode) else "it is too large"
        )
    return os.fdopen(fd, "rb")


class _Member(tarfile.TarInfo):
    """A header that is looked at before what it announces is read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        made = super().frombuf(buf, encoding, errors)
        if made.type not in (tarfile.REGTYPE, tarfile.XHDTYPE):
            raise Unfit("it holds something else than files")
        if made.size < 0 or (made.type == tarfile.XHDTYPE and made.size > _NAME_BYTES):
            raise Unfit("a size in it cannot be")
        return made


def _reader(source: BinaryIO) -> tarfile.TarFile:
    return tarfile.open(fileobj=source, mode="r|", tarinfo=_Member)


def head_of(path: Path) -> Head:
    """Return what a package's head says. Raises Unfit, OSError."""
    with opened(path) as source:
        try:
            with _reader(source) as tar:
                first = tar.next()
                if first is None or first.name != HEAD:
                    raise Unfit("it is no package of ours")
                return _head(_json_of(tar, first, _HEAD_BYTES))
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise Unfit("it is no package of ours") from error


def _of_format(value: object, newest: int, otherwise: str) -> dict[str, Any]:
    """Return an object that names its format. Raises Unfit for none, and for a newer one than ``newest``."""
    if not isinstance(value, dict) or type(value.get("format")) is not int or value["format"] < 1:
        raise Unfit(otherwise)
    if value["format"] > newest:
        raise Unfit("a newer dbml-magics made it (pip install --upgrade dbml-magics)")
    return value


def _head(value: object) -> Head:
    head = _of_format(value, FORMAT, "it is no package of ours")
    writes, at, host = head.get("writes"), head.get("at"), head.get("host")
    if (
        not isinstance(writes, dict)
        or not all(role in links.ROLES and _is_count(n) for role, n in writes.items())
        or not _is_time(at)
        or not isinstance(host, str)
        or len(host) > 255
    ):
        raise Unfit("its head is damaged")
    try:
        link = links.from_uri(head["uri"])
    except (DbmlError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unfit("it names no link") from error
    return Head(link, host, float(at), writes)


def unpack(path: Path, home: Path) -> dict[str, Any]:
    """Unpack a package's journal and copies into ``home``; returns its state. Raises Unfit, OSError."""
    private_folder(home)
    with opened(path) as source:
        try:
            state = _unpack(source, home)
        except (tarfile.TarError, EOFError) as error:
            raise Unfit(_CUT_OFF) from error
        except ValueError as error:
            raise Unfit("its state is damaged") from error
    journal = Journal(home)
    files = {queue: journal.files(queue) for queue in journal.queues()}
    for queue, sizes in files.items():
        for file, size in sizes.items():
            for entry in journal.read(queue, file, 0, size):
                if entry.line is not None:  # a damaged line becomes a dead letter
                    check_write(entry.line)
    return _checked_state(state, files)


def _unpack(source: BinaryIO, home: Path) -> object:
    left = os.fstat(source.fileno()).st_size
    if left > shutil.disk_usage(home).free - _SPARE_BYTES:
        raise Unfit(f"the disk of {home} has no room for its {left / 1e6:,.0f} MB")
    state: object = None
    seen: set[str] = set()
    with _reader(source) as tar:
        for member in tar:
            if len(seen) >= _MOST_MEMBERS or member.name in seen or not _is_plain(member):
                raise Unfit("its list of files cannot be")
            left -= member.size
            if left < 0:
                raise Unfit(_CUT_OFF)
            seen.add(member.name)
            if member.name == END:
                if state is None:
                    raise Unfit("its state is not in it")
                return state
            if member.name == STATE:
                state = _json_of(tar, member, _STATE_BYTES)
            elif member.name != HEAD:
                _copy(tar.extractfile(member), home / _place(member.name), member)
    raise Unfit(_CUT_OFF)


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Tell whether a member is stored as we store them: whole, its header saying name and size alone."""
    plain = member.isreg() and not member.issparse() and member.size >= 0
    return plain and not {*member.pax_headers} - {"path", "size"}


def _place(name: str) -> Path:
    """Return where a member goes, below the package's own folder. Raises Unfit."""
    lead, _, rest = name.partition("/")
    if lead == "spool" and is_copys_name(rest):
        return Path("spool", rest)
    folder, _, file = rest.partition("/")
    queue = unquote(folder)
    if lead == "queues" and _is_queue(queue) and quote(queue, safe="") == folder and _FILE.fullmatch(file):
        return Path("queues", folder, file)
    raise Unfit(f"it holds a file that no package of ours has ({name[:100]!r})")


def _copy(source: IO[bytes] | None, target: Path, member: tarfile.TarInfo) -> None:
    assert source is not None  # it is a regular file
    private_folder(target.parent)
    left, line = member.size, 0
    is_journal = target.suffix in (SUFFIX, OLD_SUFFIX)
    with open(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as out:
        while left > 0:
            chunk = source.read(min(left, _CHUNK))
            if not chunk:
                raise Unfit(_CUT_OFF)
            left -= len(chunk)
            last = chunk.rfind(b"\n")
            line = line + len(chunk) if last < 0 else len(chunk) - last
            if is_journal and line > _LINE_BYTES:
                raise Unfit("a line of its journal is too long")
            out.write(chunk)


def _json_of(tar: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> object:
    source = tar.extractfile(member)
    if source is None or member.size > most:
        raise Unfit(f"its {member.name} is too large")
    return _parsed(source.read(member.size))


def _parsed(data: bytes | str) -> object:
    try:
        return json.loads(data)
    except RecursionError as error:
        raise Unfit("it is nested too deeply") from error


# --- what a write may say


def check_write(line: object) -> None:
    """Look at what a write names: files, owners, places. Raises Unfit."""
    if not is_line(line):
        raise Unfit("a write in it has no form of ours")
    try:
        op = decode(line)
        if not _is_count(stamp_of(line)) or not _CODE.fullmatch(op.code):
            raise Unfit("a write in it has no form of ours")
        _look_at(op)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unfit("a write in it has no form of ours") from error


def _look_at(op: Operation) -> None:
    match op:
        case LogArtifact():
            _look_at_artifact(op)
        case CreateModel(facts=facts):
            _need(_ID.fullmatch(facts["id"]), "names no model", facts["id"])
            name = facts["name"]
            _need(is_safe_path(name) and "/" not in name, "names no model", name)
        case RegisterVersion(facts=facts):
            _look_at_source(facts["source"])
        case CopyFiles(role=role):
            _need(role in links.ROLES, "names no workspace", role)
        case Malformed() if op.kind in (LogArtifact, CreateModel, RegisterVersion, CopyFiles):
            raise Unfit("a write in it has no form of ours")


def _look_at_artifact(op: LogArtifact) -> None:
    _need(_OWNER.fullmatch(op.owner), "names no run or model", op.owner)
    _need(is_safe_path(op.path), "names a path that leads out of its run", op.path)
    _need(_is_count(op.file["size"]), "names a size that cannot be", op.file["size"])
    if "spool" in op.file:
        own = is_copys_name(op.file["spool"]) and "data" not in op.file
        _need(own, "names a file elsewhere", op.file["spool"])
    else:
        small_file(op.file)


def _look_at_source(source: VersionSource) -> None:
    if source.get("path"):
        _need(is_safe_path(source["path"]), "names a path that leads out of its run", source["path"])
    if source.get("uri") is not None:  # some registries upload what stands there
        scheme = urlsplit(source["uri"]).scheme
        _need(scheme not in ("", "file"), "registers files of this machine", source["uri"])


def _need(holds: object, what: str, value: object) -> None:
    if not holds:
        raise Unfit(f"a write in it {what} ({str(value)[:100]!r})")


# --- what its state may say


def _checked_state(value: object, files: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Return the state, its places at the workspaces left out: those are asked for. Raises Unfit."""
    state = _of_format(value, tables.FORMAT, "its state is damaged")
    given, columns = state.get("tables"), tables.columns()
    if not isinstance(given, dict) or {*given} - {*columns}:
        raise Unfit("its state has tables that no state of ours has")
    found: dict[str, list[list[Any]]] = {}
    for table, rows in given.items():
        if not isinstance(rows, list):
            raise Unfit("its state is damaged")
        found[table] = [_checked_row(table, columns[table], row) for row in rows]
    for _, queue, file, offset, sending in found.get("cursors", []):
        size = files.get(queue, {}).get(file)
        if size is not None and not (0 <= offset <= size and 0 <= sending <= size):
            raise Unfit("its state says that more has arrived than it holds")
    return {"format": state["format"], "tables": found}


def _checked_row(table: str, columns: list[tuple[str, str]], row: object) -> list[Any]:
    if not isinstance(row, list) or len(row) != len(columns):
        raise Unfit(f"a row of its {table} has another shape than ours")
    checked = []
    for (name, kind), value in zip(columns, row, strict=True):
        if not _is_of(kind, value) or (name in _NAMED and not _NAMED[name](value)):
            raise Unfit(f"a row of its {table} has a {name} that cannot be ({str(value)[:100]!r})")
        checked.append(value)
    places = {name: place for place, (name, _) in enumerate(columns)}
    try:
        if table == "dead":
            check_write(_parsed(row[places["op"]]))
        elif table == "ids":
            checked[places["extra"]] = _without_places(_parsed(row[places["extra"]]))
        elif table == "answers":
            _check_answer(row[places["k"]], _parsed(row[places["v"]]))
        elif table in ("runs", "models") and not isinstance(_parsed(row[places["info"]]), dict):
            raise Unfit(f"a row of its {table} has another shape than ours")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unfit(f"a row of its {table} has another shape than ours") from error
    return checked


def _without_places(extra: object) -> str:
    """Return the note beside an id without where its files are: that is a place, and asked for again."""
    if not isinstance(extra, dict) or not is_safe_path(extra.get("path", "x")):
        raise Unfit("a row of its ids has another shape than ours")
    return json.dumps({key: value for key, value in extra.items() if key != "artifacts"})


def _check_answer(key: str, answer: Any) -> None:
    lead, _, rest = key.partition("/")
    paths: Iterable[object] = ()
    if lead in ("kept", "overflow"):
        paths = [answer["path"]] if "path" in answer else []
        if lead == "overflow" and not isinstance(answer.get("written"), bool):
            raise Unfit("what its state says of overflow has another shape than ours")
    elif lead == "kept-path":
        paths = [rest.partition("/")[2].partition("/")[2]]
    elif lead == "held":
        int(rest.rpartition("/")[2])
    elif lead == "steps" and not _is_count(answer):
        raise Unfit("what its state says of steps is no number")
    elif lead in ("registering", "provisional") and not _is_queue(answer.get("queue", "x")):
        raise Unfit(f"what its state says of {lead} names no queue")
    if not all(is_safe_path(path) for path in paths):
        raise Unfit(f"what its state says of {lead} leads out of a run")


_COLUMNS: dict[str, type | tuple[type, ...]] = {"TEXT": str, "INTEGER": int, "REAL": (int, float)}


def _is_of(kind: str, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, _COLUMNS.get(kind, str)):
        return False
    if isinstance(value, str):
        return _is_text(value)
    return isinstance(value, (int, float)) and math.isfinite(value) and abs(value) < 1 << 63


def _is_queue(value: object) -> bool:
    return isinstance(value, str) and bool(_QUEUE.fullmatch(value)) and ".." not in value


_NAMED: dict[str, Callable[[Any], bool]] = {
    "dest": lambda value: value in links.ROLES,
    "queue": _is_queue,
    "file": lambda value: bool(_FILE.fullmatch(value)),
    "delivered": lambda value: value >= 0,
    "count": lambda value: value >= 0,
}


def is_safe_path(path: object) -> bool:
    """Tell whether a path stays below whatever it is joined to."""
    return (
        isinstance(path, str)
        and 0 < len(path) <= 4096
        and not path.startswith("/")
        and not any(part in ("", ".", "..") for part in path.split("/"))
        and "\0" not in path
        and _is_text(path)
    )


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < sys.maxsize


def _is_time(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and 0 <= value < 1e11
