"""What a workspace's service was found to lack, or to take."""

from __future__ import annotations

from dbml_magics.core.outbox.answers import Answers, Family, Marks

_RUN_IDS = "run-ids"


class CapabilityNotes:
    """Capabilities of a workspace that only its answers show."""

    def __init__(self, answers: Answers) -> None:
        self._lacks = Marks(answers, "lacks")
        self._takes = Family(answers, "takes", bool)

    def note_lack(self, role: str, capability: str) -> None:
        """Note that a service has no such call."""
        self._lacks.add(role, capability)

    def lacks(self, role: str, capability: str) -> bool:
        """Tell whether a service has no such call."""
        return self._lacks.has(role, capability)

    def forget_lacks(self, role: str) -> None:
        """Forget what a service lacked: it is asked again at the next use."""
        for capability in self._lacks.listed(role):
            self._lacks.forget(role, capability)

    def note_takes_run_ids(self, role: str, takes: bool) -> None:
        """Note whether a service makes runs under the id that it is given."""
        self._takes.put(takes, role, _RUN_IDS)

    def takes_run_ids(self, role: str) -> bool | None:
        """Tell whether a service makes runs under the id that it is given; None until one was made."""
        return self._takes.get(role, _RUN_IDS)
