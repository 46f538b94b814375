"""The files that hold what a workspace does not take of a run."""

from __future__ import annotations

from typing import Any, TypedDict

from dbml_magics.core.outbox.answers import Answers, Family


class OverflowFile(TypedDict, total=False):
    """The newest version of a run's overflow file."""

    written: bool
    """Whether it holds all that overflowed."""
    number: int
    path: str
    once: bool
    """Whether the service refuses to write a file again, so that each version has a name of its own."""
    keys: list[tuple[str, str, str, int]]
    """(kind, key, why, how many) of what it holds."""
    trouble: str
    """Why the last try to write it failed."""
    cleared: bool
    """Whether its rows were deleted here, so that it alone holds them."""


def _file(value: Any) -> OverflowFile:
    file: OverflowFile = value
    return file


class OverflowFiles:
    """The overflow file of each run at a workspace."""

    def __init__(self, answers: Answers) -> None:
        self._files = Family(answers, "overflow", _file)

    def of(self, role: str, run: str) -> OverflowFile:
        """Return a run's overflow file; an empty one where nothing overflowed."""
        return self._files.get(role, run) or OverflowFile()

    def note(self, role: str, run: str, file: OverflowFile) -> None:
        """Note the state of a run's overflow file."""
        self._files.put(file, role, run)

    def forget(self, role: str, run: str) -> None:
        """Forget a run's overflow file."""
        self._files.forget(role, run)

    def runs(self, role: str) -> list[str]:
        """Return the runs of which something overflowed at a workspace."""
        return [*self._files.below(role)]

    def unwritten(self, role: str) -> set[str]:
        """Return the runs whose overflow file lacks something."""
        return {run for run, file in self._files.below(role).items() if not file["written"]}
