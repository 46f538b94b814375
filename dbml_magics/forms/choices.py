"""Choices of a field, looked up in the background when it is first seen; said when they cannot be."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from dbml_magics import api
from dbml_magics.common.environment import variables
from dbml_magics.common.foreign_text import is_plain
from dbml_magics.errors import DbmlError

if TYPE_CHECKING:
    from dbml_magics.core.session import Session

__all__ = ["DEPENDS", "WHEN_ASKED", "Choices", "source"]

Values = Mapping[str, str]
"""What the form's fields hold, by option name."""


DEPENDS: dict[str, tuple[str, ...]] = {
    "of kind": ("KIND",),
    "resource group": ("--subscription",),
    "workspace": ("--subscription", "--resource-group"),
}
"""Kind of choices -> the fields that they hang on: they are looked up again when one of those changes."""


WHEN_ASKED = frozenset({"subscription"})
"""Kinds that are looked up when the user asks: who links elsewhere is not to sign in to Azure for them."""

_SUBSCRIPTION = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Choices:
    """The choices of one field: loading, loaded or failed; ``changed`` is called at each."""

    def __init__(self, ask: Callable[[Values], Sequence[str] | None], changed: Callable[[], None]) -> None:
        self._ask = ask
        self._changed = changed
        self._lock = threading.Lock()
        self._number = 0
        self.state = "unasked"  # loading, loaded, failed
        self.found: tuple[str, ...] = ()
        self.problem = ""

    def load(self, values: Values) -> None:
        """Ask in the background; an answer to an older question is passed over."""
        with self._lock:
            self._number += 1
            number = self._number
            self.state = "loading"
        self._changed()
        threading.Thread(
            target=self._look, args=(number, dict(values)), name="dbml-choices", daemon=True
        ).start()

    def _look(self, number: int, values: Values) -> None:
        found: tuple[str, ...] = ()
        problem, asked = "", True
        try:
            answer = self._ask(values)
            # A name that cannot be typed, or looks like another one, is no choice.
            asked, found = answer is not None, tuple(dict.fromkeys(filter(is_plain, answer or ())))
        except DbmlError as error:
            problem = str(error)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        with self._lock:
            if number != self._number:
                return
            self.found, self.problem = found, problem
            self.state = "failed" if problem else "loaded" if asked else "unasked"
        self._changed()

    @property
    def state_text(self) -> str:
        """Return the state in words; empty when there is nothing to say."""
        if self.state == "loading":
            return "… looking up the choices"
        if self.state == "failed":
            return f"✗ the choices cannot be looked up: {self.problem}"
        if self.state == "loaded" and not self.found:
            return "none found; type one"
        return ""


def source(
    kind: str, session: Callable[[], Session], namespace: Mapping[str, object]
) -> Callable[[Values], Sequence[str] | None] | None:
    """Return what looks up choices of a kind (``Option.completes``), or None."""

    def runs(_values: Values) -> list[str]:
        if not session().linked:
            return []
        return ["last", *(run.run_id for run in api.runs(max_results=50))]

    def models(_values: Values) -> list[str]:
        return sorted({version.name for version in api.models()}) if session().linked else []

    def deployable(_values: Values) -> list[str]:
        if not session().linked:
            return []
        return [f"{version.name}/{version.version}" for version in api.models() if version.version != "0"]

    def endpoints(_values: Values) -> list[str]:
        from dbml_magics.results.endpoints import EndpointsResult

        found = api.endpoints()
        return [each.name for each in found] if isinstance(found, EndpointsResult) else [found.name]

    def experiments(_values: Values) -> list[str]:
        return list(session().known_experiments())

    def variable(_values: Values) -> list[str]:
        return [f"${name}" for name in variables(namespace)]

    def of_kind(values: Values) -> list[str]:
        ask = {"endpoint": endpoints, "model": models, "run": runs, "experiment": experiments}
        found = ask.get(values.get("KIND", ""))
        return found(values) if found is not None else []

    def account(values: Values) -> dict[str, str | None]:
        return {name: values.get(f"--{name}") or None for name in ("cloud", "auth")}

    def subscriptions(values: Values) -> list[str]:
        return session().azure_subscriptions(**account(values))

    def workspaces(values: Values) -> list[tuple[str, str]] | None:
        subscription = values.get("--subscription", "")
        if not _SUBSCRIPTION.fullmatch(subscription):
            return None  # it is not typed yet
        return session().azure_workspaces(subscription, **account(values))

    def groups(values: Values) -> list[str] | None:
        found = workspaces(values)
        return None if found is None else [group for group, _ in found]

    def names(values: Values) -> list[str] | None:
        found, chosen = workspaces(values), values.get("--resource-group", "").lower()
        return None if found is None else [name for group, name in found if chosen in ("", group.lower())]

    def profiles(_values: Values) -> list[str]:
        return ["databricks", *(f"databricks://{name}" for name in session().databricks_profiles())]

    known: dict[str, Callable[[Values], Sequence[str] | None]] = {
        "run": runs,
        "model": models,
        "deployable": deployable,
        "endpoint": endpoints,
        "experiment": experiments,
        "variable": variable,
        "of kind": of_kind,
        "subscription": subscriptions,
        "resource group": groups,
        "workspace": names,
        "profile": profiles,
    }
    return known.get(kind)
