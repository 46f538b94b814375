"""Files that went beside another content of their name, since the service writes a file once."""

from __future__ import annotations

from dbml_magics.core.outbox.answers import Answers, Texts


class RenamedFiles:
    """Under which name a workspace has a file of a run or model."""

    def __init__(self, answers: Answers) -> None:
        self._names = Texts(answers, "beside")

    def note(self, owner: str, role: str, path: str, there: str) -> None:
        """Note the path under which a workspace has a file."""
        self._names.put(there, owner, role, path)

    def of(self, owner: str) -> list[tuple[str, str, str]]:
        """Return (workspace, path, path there) of the renamed files of a run or model."""
        places = ((*place.partition("/"), there) for place, there in self._names.below(owner).items())
        return [(role, path, there) for role, _, path, there in places]
