"""Questions to the workspaces: the primary answers, or the mirror while the primary is away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Generic, TypeVar

from mlflow.exceptions import MlflowException

from dbml_magics.common.config import identity_budget_seconds
from dbml_magics.common.hints import Remedy, say
from dbml_magics.core.destinations.errors import Unavailable, is_missing
from dbml_magics.core.destinations.health import Health
from dbml_magics.core.link import Link

SECOND_ASK_S = 2.0
"""How long a read waits for the mirror when the primary has cost its budget."""
Asked = TypeVar("Asked", covariant=True)
T = TypeVar("T")


class Asking(Generic[Asked]):
    """Asks the workspaces of one link, within the budget of an outage.

    ``at`` gives what a question is asked of at the workspace of a role.
    """

    def __init__(self, link: Link, health: Mapping[str, Health], at: Callable[[str], Asked]) -> None:
        self._link = link
        self._health = health
        self._at = at

    def read(self, question: Callable[[Asked], T]) -> T:
        """Ask the primary, or the mirror when the primary is away. Raises Unavailable, or the refusal."""
        return self.answered(question)[1]

    def answered(self, question: Callable[[Asked], T]) -> tuple[str, T]:
        """Ask as :meth:`read` does; returns (the role that answered, its answer)."""
        failure: Exception | None = None
        for role in self._link.tracked:
            budget = identity_budget_seconds() if failure is None else SECOND_ASK_S
            try:
                return role, self._health[role].ask(partial(question, self._at(role)), budget)
            except Unavailable as error:
                failure = failure or error
            except MlflowException as error:
                if failure is None or not is_missing(error):
                    raise failure or error from error
        assert failure is not None
        if isinstance(failure, Unavailable):
            asked = " nor ".join(self._link.tracked)
            raise Unavailable(
                failure.reason,
                sent=False,
                denied=failure.denied,
                shown=f"{'neither ' if ' nor ' in asked else ''}{asked} answers: {failure.reason}; "
                f"{say(Remedy('status'))} shows what waits",
            ) from failure
        raise failure

    def ask_primary(self, question: Callable[[Asked], T]) -> T:
        """Ask the primary for what it alone can name, within the budget. Raises Unavailable, or a refusal."""
        primary = self._link.primary
        return self._health[primary].ask(lambda: question(self._at(primary)), what="name")
