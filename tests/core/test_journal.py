"""The journal by itself: what damaged, truncated and old files still say, and what orders the writes."""

from __future__ import annotations

import json
import resource
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dbml_magics.core import outbox
from dbml_magics.core.outbox import stamps
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.lines import OLD_SUFFIX, Entry, frame, line_of
from dbml_magics.core.run_view import QueueView
from dbml_magics.errors import JournalFull
from tests.infra.interrupts import Interrupter

WRITES: list[list[Any]] = [
    ["c", {"experiment": "0", "user": "me", "start": 1, "tags": {"mlflow.runName": "first"}}],
    ["m", "loss", 0.25, 1790000000000, 1],
    ["p", "depth", "7"],
    ["g", "städtchen", "größer 🙂"],
    ["g", "looks like a line", "deadbeef [12,"],
    ["b", [["loss", 0.5, 1790000000000, 2]], {"rate": "0.1"}, {"stage": "two"}],
    ["u", {"status": "FINISHED", "end": 1790000000000, "name": None}],
]


@pytest.fixture
def written(tmp_path: Path) -> tuple[Journal, Path, list[list[Any]]]:
    """A journal with one file of one queue, its path, and what was written."""
    journal = Journal(tmp_path)
    ops = [[1790000000000000000 + n, *write] for n, write in enumerate(WRITES)]
    for op in ops:
        name, _ = journal.append("run", line_of(op))
    journal.close()
    return journal, journal.path("run", name), ops


def entries(journal: Journal, path: Path) -> list[Entry]:
    return list(journal.read("run", path.name, 0))


def test_no_flipped_bit_makes_another_write_of_a_line(
    written: tuple[Journal, Path, list[list[Any]]],
) -> None:
    """A line with a flipped bit is a damaged line; the lines beside it are read as they were."""
    journal, path, ops = written
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 7):  # in every place of a byte
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        found = entries(journal, path)
        read = [entry.line for entry in found if entry.line is not None]
        assert [op for op in ops if op in read] == read, f"bit {bit} made another write: {read}"
        assert len(read) >= len(ops) - 1, f"bit {bit} cost {len(ops) - len(read)} writes"
        places = [(entry.start, entry.end) for entry in found]
        assert places == sorted(places)
        assert all(before[1] == after[0] for before, after in pairwise(places))
        if len(read) < len(ops):
            assert any(entry.line is None for entry in found), f"bit {bit}: a write is gone, nothing says so"


def test_a_file_cut_at_any_byte_has_the_whole_lines_before_it(
    written: tuple[Journal, Path, list[list[Any]]],
) -> None:
    journal, path, ops = written
    whole = path.read_bytes()
    ends = [n + 1 for n, byte in enumerate(whole) if byte == 10]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        found = entries(journal, path)
        assert [entry.line for entry in found] == ops[: sum(end <= length for end in ends)]


def test_files_of_the_first_release_are_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    folder = journal.folder("run")
    folder.mkdir(parents=True)
    (folder / f"1-ab-1{OLD_SUFFIX}").write_bytes(b'[17,"p","a","1"]\n[18,"p","b"\n[19,"p","c","3"]\n')
    (found,) = journal.files("run")
    assert [entry.line for entry in journal.read("run", found, 0)] == [
        [17, "p", "a", "1"],
        None,
        [19, "p", "c", "3"],
    ]
    assert journal.count_waiting("run", {}) == (3, 17)
    assert journal.next_stamp("run") > 19


def test_deep_nesting_is_a_damaged_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    name, _ = journal.append("run", frame(b'[17,"g","k",' + b"[" * 100_000 + b"]" * 100_000 + b"]"))
    (entry,) = journal.read("run", name, 0)
    assert entry.line is None


def test_a_clock_that_is_set_back_changes_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Journal(tmp_path), Journal(tmp_path)
    now = time.time_ns()
    clock = iter([now, now - 3 * 3600 * 10**9, now + 1, now + 86_400 * 10**9, now + 2, now - 10**18])
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    drawn = [journal.next_stamp("run") for journal in (first, second, first, second, first, second)]
    assert drawn == sorted(set(drawn))


def test_files_of_ended_runs_that_are_written_to_no_more_are_closed(tmp_path: Path) -> None:
    journal, other = Journal(tmp_path), Journal(tmp_path)
    for queue in ("ended", "live", "written"):
        journal.append(queue, line_of([journal.next_stamp(queue), "t", "a", "1"]))
    has_ended = {"ended", "written"}.__contains__
    journal.sync_to_disk()
    journal.close_quiet(has_ended)
    assert all(journal.own_end(queue) for queue in ("ended", "live", "written")), "they were written just now"
    journal.append("written", line_of([journal.next_stamp("written"), "t", "a", "2"]))
    journal.sync_to_disk()
    journal.close_quiet(has_ended)
    assert [bool(journal.own_end(queue)) for queue in ("ended", "live", "written")] == [False, True, True]
    assert other.delete_if_done("ended", *next(iter(other.files("ended").items())))
    assert not other.delete_if_done("live", *next(iter(other.files("live").items())))
    journal.append("ended", line_of([journal.next_stamp("ended"), "t", "a", "3"]))
    assert len(journal.files("ended")) == 1, "a later write begins another file"
    journal.close()
    other.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes share no memory")
def test_the_last_process_of_a_link_deletes_the_shared_memory(tmp_path: Path) -> None:
    memory = stamps._path(tmp_path)
    first, second = Journal(tmp_path), Journal(tmp_path)
    assert memory.stat().st_mode & 0o777 == 0o600
    ahead = first.next_stamp("run")
    first.close()
    assert memory.exists(), "another one shares it"
    assert second.next_stamp("run") > ahead
    second.close()
    assert not memory.exists()
    assert second.next_stamp("run") > ahead, "what is written later is still behind what was"
    second.close()


def test_without_shared_memory_a_process_writes_behind_what_the_journal_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    ahead = time.time_ns() + 3 * 3600 * 10**9
    first, second = Journal(tmp_path), Journal(tmp_path)
    for size in (10, 20_000, 200_000):  # the last line is found however long the lines are
        ahead += 10**9
        first.append("run", line_of([ahead, "g", "k", "x" * size]))
        assert second.next_stamp("run") == ahead + 1


def test_writes_of_several_files_come_in_the_order_of_their_stamps(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    folder = journal.folder("run")
    folder.mkdir(parents=True)
    for number, name in enumerate(("7-ab-9.jnl", "7-ab-10.jnl")):
        (folder / name).write_bytes(
            b"".join(line_of([1000 + 2 * n + number, "g", "k", f"{name} {n}"]) for n in range(5))
        )
    order = [entry.line[0] for entry in journal.entries("run", journal.files("run"), {}) if entry.line]
    assert order == list(range(1000, 1010))


def test_a_view_shows_what_was_written_last_in_whichever_order_it_is_folded() -> None:
    """Another process's earlier writes are read after this process's own later ones."""
    creation = [1, "c", {"experiment": "0", "user": "me", "start": 1, "tags": {}}]
    writes = [
        [10, "g", "k", "older"],
        [20, "g", "k", "newer"],
        [11, "G", "gone"],
        [9, "g", "gone", "before"],
        [12, "u", {"status": "RUNNING", "end": None, "name": "older"}],
        [30, "u", {"status": "FINISHED", "end": 5, "name": "newer"}],
        [13, "a", {"owner": "run:r", "path": "f", "size": 1}],
        [31, "a", {"owner": "run:r", "path": "f", "size": 2}],
        [14, "x"],
        [15, "r"],
        [16, "L", {"id": "m-1", "experiment": "0", "name": "m", "created": 1}],
        [17, "T", "m-1", {"t": "older"}],
        [18, "T", "m-1", {"t": "newer"}],
    ]
    views = []
    for order in (writes, [*writes[10:11], *reversed(writes)]):
        view = QueueView("r")
        for number, op in enumerate([creation, *order]):
            view.fold_line(Entry(f"file-{number}", 0, 1, json.loads(json.dumps(op))), "dbml://x")
        run = view.run
        assert run is not None
        views.append(
            (
                run.tags,
                run.status,
                run.end,
                run.deleted,
                view.artifacts["run:r"]["f"].size,
                view.models["m-1"].tags,
            )
        )
    assert views[0] == ({"k": "newer", "mlflow.runName": "newer"}, "FINISHED", 5, False, 2, {"t": "newer"})
    assert views[1][:5] == views[0][:5]


def test_a_line_that_was_acknowledged_outlives_an_interrupt_and_a_full_disk_after_it(tmp_path: Path) -> None:
    """What an interrupt left uncounted is counted before a half line is taken back."""
    interrupter = Interrupter(Path(outbox.__file__).parent)
    first, second, third, fourth = (line_of([number, "p", "k", "v" * 50]) for number in (1, 2, 3, 4))
    at, steps = 0, 1
    while at < steps:
        journal = Journal(tmp_path / str(at))
        journal.append("q", first)
        cut = interrupter.run(partial(journal.append, "q", second), at)
        steps = interrupter.steps + 1 if at == 0 else steps
        journal.append("q", third)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        file = next((tmp_path / str(at) / "queues" / "q").iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 7, hard))
        try:
            with pytest.raises(JournalFull):
                journal.append("q", fourth)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        journal.append("q", fourth)
        found = [
            line for file, size in journal.files("q").items() for line in journal.read("q", file, 0, size)
        ]
        kept = [entry.line[0] if entry.line else None for entry in found]
        assert kept in ([1, 2, 3, 4], *([[1, 3, 4]] if cut else [])), (
            f"after an interrupt at {interrupter.where}"
        )
        journal.close()
        at += 1
