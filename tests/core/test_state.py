"""The link's state while its disk takes nothing: it goes on in another place, and comes back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dbml_magics.core.outbox import fallback
from dbml_magics.core.outbox.state import Identity, State
from dbml_magics.errors import JournalError, JournalFull

FAILURES = ("disk I/O error", "attempt to write a readonly database", "database or disk is full")


class Failing:
    """A connection to a file whose disk fails: each statement of ``verbs`` does."""

    def __init__(self, db: sqlite3.Connection, said: str, verbs: tuple[str, ...]) -> None:
        self.db, self.said, self.verbs = db, said, verbs

    def execute(self, sql: str, *args: Any) -> Any:
        if sql.startswith(self.verbs):
            raise sqlite3.OperationalError(self.said)
        return self.db.execute(sql, *args)

    def executemany(self, sql: str, rows: Any) -> Any:
        if sql.startswith(self.verbs):
            raise sqlite3.OperationalError(self.said)
        return self.db.executemany(sql, rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)


def fail(state: State, said: str, *verbs: str) -> None:
    """Let a state's own disk fail from now on."""
    state._has_reserve = False
    own = state._connect()
    state._db = Failing(own, said, verbs or ("INSERT", "DELETE", "UPDATE"))  # type: ignore[assignment]


def heal(state: State) -> None:
    """Let a state's own disk take writes again."""
    if isinstance(state._db, Failing):
        state._db = state._db.db


@pytest.fixture
def spare(tmp_path: Path) -> Path:
    """Return the link's folder on another disk; not there yet."""
    return tmp_path / "other" / "mine" / "links" / "key"


@pytest.fixture
def state(tmp_path: Path, spare: Path) -> Iterator[State]:
    """Return the state of a link that has one other disk."""
    spare.parents[2].mkdir()
    made = State(tmp_path / "home" / "state.db", (spare,))
    made._answers.put("before", 1)
    yield made
    made.close()


def copies(spare: Path) -> list[str]:
    """Return the names of what is of a state in a folder of another disk."""
    return sorted(path.name for path in spare.glob("state-*")) if spare.exists() else []


@pytest.mark.parametrize("said", FAILURES)
def test_a_write_that_the_disk_does_not_take_is_kept_on_another_disk(
    state: State, spare: Path, said: str
) -> None:
    fail(state, said)
    state._answers.put("after", 2)
    assert state.set_identity("azureml", "run", "seen", "actual") == Identity("actual", {})
    state.mark_sending("azureml", "run", {"file": 10})
    state.mark_delivered("azureml", "run", {"file": 10}, 3, {"points": 3})
    assert state._answers.below("") == {"before": 1, "after": 2}
    assert len([name for name in copies(spare) if name.endswith(".db")]) == 1
    assert (spare / copies(spare)[0]).stat().st_mode & 0o777 == 0o600


def test_what_is_read_while_the_disk_does_not_read_comes_from_another_disk(state: State) -> None:
    fail(state, "disk I/O error", "SELECT", "INSERT")
    assert state._answers.get("before") == 1


def test_another_process_goes_on_where_the_first_one_went(tmp_path: Path, state: State, spare: Path) -> None:
    other = State(state.path, (spare,))
    assert other._answers.get("before") == 1
    fail(state, FAILURES[0])
    state._answers.put("mine", 1)
    other._answers.put("theirs", 2)  # its own disk does not fail it, and must not have a second truth
    assert state._answers.below("") == {"before": 1, "mine": 1, "theirs": 2}
    state.close()  # it dies
    later = State(state.path, (spare,))
    assert later._answers.below("") == {"before": 1, "mine": 1, "theirs": 2}
    later.come_back(at_once=True)
    assert copies(spare) == []
    other._answers.put("theirs", 3)
    assert State(state.path)._answers.below("") == {"before": 1, "mine": 1, "theirs": 3}
    for each in (other, later):
        each.close()


def test_the_state_comes_back_with_all_that_was_written_and_deleted_elsewhere(
    state: State, spare: Path
) -> None:
    first, second = (state.reject("azureml", "run", [0, "m", n], "refused") for n in range(2))
    state._answers.put("goes", True)
    state.mark_delivered("azureml", "run", {"file": 5}, 1, {"points": 1})
    fail(state, FAILURES[2])
    state._answers.forget("goes")
    state.discard_dead([second])
    third = state.reject("azureml", "run", [0, "m", 3], "refused")
    state.mark_delivered("azureml", "run", {"file": 10}, 1, {"points": 1})
    state.come_back(at_once=True)
    assert copies(spare), "it stays while its disk fails"
    heal(state)
    state.come_back(at_once=True)
    assert copies(spare) == []
    found = State(state.path)
    assert found._answers.below("") == {"before": 1}
    assert found.dead_numbers("azureml") == {first, third}
    assert found.reject("azureml", "run", [0, "m", 4], "refused") > third, "no number is given twice"
    assert found.cursors("azureml", "run") == {"file": (10, 0)}
    assert found.receipts.arrived("azureml", "run")["points"].count == 2
    found.close()


def test_without_another_disk_the_users_call_passes_and_nothing_is_sent_that_cannot_be_noted(
    tmp_path: Path,
) -> None:
    state = State(tmp_path / "state.db")
    state._answers.put("before", 1)
    fail(state, FAILURES[2])
    state.remember_run("run", {"name": "n"})
    assert state.run("run") == {"name": "n"}
    with pytest.raises(JournalFull, match="is full"):
        state.mark_sending("azureml", "run", {"file": 10})
    heal(state)
    state.come_back(at_once=True)
    state.mark_sending("azureml", "run", {"file": 10})
    assert State(state.path).run("run") == {"name": "n"}
    state.close()


def test_a_state_of_which_only_a_part_can_be_read_is_doubted_and_not_written_back(
    state: State, spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubted = []
    state.on_loss = lambda: doubted.append(True)

    def unreadable(path: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError(f"disk I/O error: {path}")

    state.mark_delivered("azureml", "run", {"file": 5}, 1)
    monkeypatch.setattr(fallback, "read_only", unreadable)
    fail(state, FAILURES[0])
    state._answers.put("after", 2)
    assert doubted == [True]
    assert state.cursors("azureml", "run") == {}
    heal(state)
    state.come_back(at_once=True)
    assert copies(spare)
    state.close()
    later = State(state.path, (spare,))
    later.come_back(at_once=True)
    assert later._answers.get("after") == 2
    assert copies(spare)
    later.close()


def test_a_full_disk_has_the_reserve_given_before_the_state_leaves_it(state: State, spare: Path) -> None:
    reserve = state.path.with_name("reserve")
    assert reserve.exists()
    fail(state, FAILURES[2])
    state._has_reserve = True
    state._answers.put("after", 2)
    assert not reserve.exists()
    assert state._answers.get("after") == 2


def test_a_copy_that_cannot_be_read_is_said_and_not_passed_over(state: State, spare: Path) -> None:
    fail(state, FAILURES[0])
    state._answers.put("after", 2)
    state.close()
    for name in copies(spare):
        (spare / name).write_bytes(b"no database at all" * 400)
    with pytest.raises(JournalError, match="cannot be read"):
        State(state.path, (spare,))._answers.get("after")


def test_a_wal_stays_small(state: State) -> None:
    for number in range(2000):
        state._answers.put(f"answer{number}", "a" * 500)
    assert Path(f"{state.path}-wal").stat().st_size < 2 << 20


def test_receipts_go_with_the_state_to_another_machine_and_into_a_mended_file(
    state: State, tmp_path: Path
) -> None:
    state.mark_delivered("azureml", "run", {"file": 10}, 5, {"points": 4, "params": 1})
    payload = state.receipts.arrived("azureml", "run")
    elsewhere = State(tmp_path / "elsewhere" / "state.db")
    elsewhere.load(json.loads(json.dumps(state.dump())))
    assert elsewhere.receipts.arrived("azureml", "run") == payload
    elsewhere.close()
    state.mend()
    assert state.receipts.arrived("azureml", "run") == payload
