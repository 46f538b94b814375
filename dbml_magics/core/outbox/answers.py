"""The state file's table of keys and JSON values, and the families of keys that the repositories own.

A key is a family's name and its parts, joined by ``/``. Only the modules of this package use it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from dbml_magics.core.outbox.state_file import StateFile

T = TypeVar("T")


class Answers:
    """Keys and JSON values in one table; each call is one statement or one transaction."""

    def __init__(self, file: StateFile) -> None:
        self._file = file

    def get(self, key: str) -> Any:
        """Return the value of a key, or None."""
        row = self._file.one("SELECT v FROM answers WHERE k=?", key)
        return None if row is None else json.loads(row[0])

    def below(self, lead: str) -> dict[str, Any]:
        """Return {rest of the key: value} of all keys that begin with ``lead``."""
        rows = self._file.rows("SELECT k, v FROM answers WHERE substr(k, 1, ?)=?", len(lead), lead)
        return {key[len(lead) :]: json.loads(value) for key, value in rows}

    def put(self, key: str, value: object) -> None:
        """Set the value of a key."""
        self.put_and_read(key, value, ())

    def put_and_read(self, key: str, value: object, others: Iterable[str]) -> dict[str, Any]:
        """Set a value and read others in one transaction: the later of two processes sees the earlier."""
        found, asked = {}, [*others]

        def work(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO answers VALUES (?,?)", (key, json.dumps(value)))
            for other in asked:
                row = db.execute("SELECT v FROM answers WHERE k=?", (other,)).fetchone()
                if row is not None:
                    found[other] = json.loads(row[0])

        self._file.write(work)
        return found

    def forget(self, key: str) -> None:
        """Delete a key."""
        self._file.execute("DELETE FROM answers WHERE k=?", key)


class Family(Generic[T]):
    """The keys that begin with one name; ``read`` and ``write`` translate their values from and to JSON."""

    def __init__(
        self,
        answers: Answers,
        name: str,
        read: Callable[[Any], T],
        write: Callable[[T], object] = lambda value: value,
    ) -> None:
        self._answers = answers
        self._name = name
        self._read = read
        self._write = write

    def _key(self, *parts: str) -> str:
        return "/".join((self._name, *parts))

    def get(self, *parts: str) -> T | None:
        """Return a value, or None where there is none."""
        value = self._answers.get(self._key(*parts))
        return None if value is None else self._read(value)

    def has(self, *parts: str) -> bool:
        """Tell whether there is a value."""
        return self._answers.get(self._key(*parts)) is not None

    def put(self, value: T, *parts: str) -> None:
        """Set a value."""
        self._answers.put(self._key(*parts), self._write(value))

    def put_and_read(self, value: T, lead: str, part: str, others: Iterable[str]) -> dict[str, T]:
        """Set a value and return {part: value} of others with the same lead, in one transaction."""
        keys = {self._key(lead, other): other for other in others}
        found = self._answers.put_and_read(self._key(lead, part), self._write(value), keys)
        return {keys[key]: self._read(each) for key, each in found.items()}

    def forget(self, *parts: str) -> None:
        """Delete a value."""
        self._answers.forget(self._key(*parts))

    def below(self, *parts: str) -> dict[str, T]:
        """Return {rest of the key: value} of all keys that begin with some parts."""
        return {
            rest: self._read(value) for rest, value in self._answers.below(f"{self._key(*parts)}/").items()
        }


class Texts(Family[str]):
    """A family of texts."""

    def __init__(self, answers: Answers, name: str) -> None:
        super().__init__(answers, name, str)


class Marks(Family[bool]):
    """A family of keys that are there or not."""

    def __init__(self, answers: Answers, name: str) -> None:
        super().__init__(answers, name, bool)

    def add(self, *parts: str) -> None:
        """Set a mark."""
        self.put(True, *parts)

    def listed(self, *parts: str) -> list[str]:
        """Return the rest of each key that begins with some parts."""
        return [*self.below(*parts)]
