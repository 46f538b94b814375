"""A line of a journal file: a checksum and ``[t, code, …]``, and what a damaged file still says.

``t`` orders the writes of all processes of the link on one run (``stamps.py``). Files with the suffix
``.jsonl`` are release 0.1's: their lines have no checksum.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from dbml_magics.core.model.operations import Line, Operation, decode, is_line, stamp_of

SUFFIX, OLD_SUFFIX = ".jnl", ".jsonl"
"""Of files whose lines carry a checksum, and of release 0.1's, whose processes do not look for the others."""

_RECORD = re.compile(rb"[0-9a-f]{8} \[\d+,")
_STAMP = re.compile(rb"(?:[0-9a-f]{8} )?\[(\d+),")
_CHECKSUM = 9  # bytes of a line before its JSON: eight hexadecimal digits and a space
_TAIL = 8192
_CHUNK = 256 * 1024


@dataclass(slots=True)  # not frozen: delivery makes one a line, and freezing is two thirds of what that costs
class Entry:
    """One write as it stands in a journal file; ``line`` is None where it cannot be read."""

    file: str
    start: int
    end: int
    line: Line | None
    text: str = ""

    @property
    def stamp(self) -> int:
        """Return what orders the write among its queue's, 0 for a line that cannot be read."""
        return stamp_of(self.line) if self.line else 0

    @property
    def order(self) -> tuple[int, str, int]:
        """Return the key that merges several processes' writes."""
        return self.stamp, self.file, self.start

    @property
    def operation(self) -> Operation | None:
        """Return the write, or None for a line that cannot be read."""
        return None if self.line is None else decode(self.line)


# json.dumps makes an encoder a call. Text stays text: what UTF-8 cannot carry fails before it is written.
_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def frame(body: bytes) -> bytes:
    """Return the journal line of an encoded write: its checksum, the write, a newline."""
    return b"%08x %b\n" % (zlib.crc32(body), body)


def line_of(op: Line) -> bytes:
    """Encode one write, ``[stamp, code, …]``, as a journal line. Raises UnicodeEncodeError."""
    return frame(_to_json(op).encode())


def read_lines(handle: BinaryIO, file: str, start: int, limit: int) -> Iterator[Entry]:
    """Yield the whole lines of a file from ``start`` on; a torn last line is not there yet."""
    checked = file.endswith(SUFFIX)
    handle.seek(start)
    position, rest = start, b""
    while position < limit:
        chunk = handle.read(_CHUNK)
        if not chunk:
            break
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        for line in lines:
            end = position + len(line) + 1
            op = _decode(line, checked)
            if op is not None:
                yield Entry(file, position, end, op)
            else:
                yield from _damaged(file, position, line, checked)
            position = end
            if position >= limit:
                return
    if checked and (op := _decode(rest[:-1], checked)) is not None:
        # The damaged byte is the newline: the line was whole, and acknowledged.
        yield Entry(file, position, position + len(rest), op)


def last_stamp(handle: BinaryIO) -> int:
    """Return the stamp of a file's last whole line, 0 where none can be read."""
    end, length = handle.seek(0, os.SEEK_END), _TAIL
    while True:
        handle.seek(max(0, end - length))
        lines = handle.read().split(b"\n")[:-1]  # what follows the last newline is half a line
        whole = lines if length >= end else lines[1:]
        if whole or length >= end:
            return _stamp(whole[-1]) or 0 if whole else 0
        length *= 8


def count_lines(handle: BinaryIO, start: int) -> tuple[int, int | None]:
    """Return how many lines a file has from ``start`` on, and the first one's stamp if it can be read."""
    handle.seek(start)
    count, first = 0, None
    chunk = handle.read(_CHUNK)
    if chunk:
        first = _stamp(chunk[:40])
    while chunk:
        count += chunk.count(b"\n")
        chunk = handle.read(_CHUNK)
    return count, first


def _stamp(line: bytes) -> int | None:
    found = _STAMP.match(line)
    return None if found is None else int(found[1])


def _decode(line: bytes, checked: bool) -> Line | None:
    """Return the write in a line, or None where the line is damaged."""
    if checked:
        body = line[_CHECKSUM:]
        try:
            if line[8:_CHECKSUM] != b" " or int(line[:8], 16) != zlib.crc32(body):
                return None
        except ValueError:
            return None
        line = body
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if is_line(found) else None


def _damaged(file: str, position: int, line: bytes, checked: bool) -> Iterator[Entry]:
    """Yield a damaged line, or the whole lines in it where only the newline between them is damaged."""
    starts = [found.start() for found in _RECORD.finditer(line)] if checked else []
    bounds = [0, *(start for start in starts if start), len(line) + 1]
    damaged_from = 0
    for begin, following in pairwise(bounds):
        op = _decode(line[begin : following - 1], checked)
        if op is not None:
            if damaged_from < begin:
                yield Entry(
                    file, position + damaged_from, position + begin, None, _text(line[damaged_from:begin])
                )
            yield Entry(file, position + begin, position + following, op)
            damaged_from = following
    if damaged_from < len(line) or not line:
        yield Entry(file, position + damaged_from, position + len(line) + 1, None, _text(line[damaged_from:]))


def _text(damaged: bytes) -> str:
    return damaged[:500].decode("utf-8", "replace")
