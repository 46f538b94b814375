"""Play stories: call MLflow, note each answer, whatever it is."""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conformance.values import Frozen, failure, freeze

READS = ("get_", "search_", "list_", "download_", "load_", "last_", "active_run")


@dataclass(frozen=True)
class Refused:
    """What a call that failed gives to the rest of its story, which fails with it where it needs more."""

    error: BaseException

    def __repr__(self) -> str:
        return "refused"


@dataclass(frozen=True)
class Story:
    """A case: what is called, in order, with the names of a player."""

    name: str  # group/what
    tell: Callable[[Player], None]
    away: bool = False  # also played with the primary away, from where the story says


@dataclass
class Noted:
    """One answer."""

    label: str
    value: Frozen


@dataclass
class Played:
    """What came of a story at one place."""

    story: str
    answers: list[Noted] = field(default_factory=list)
    after: list[Noted] = field(default_factory=list)  # the last reads once more, when all is delivered
    used: set[tuple[str, str]] = field(default_factory=set)  # (call, argument), "" for the call itself


class Player:
    """What a story calls MLflow through."""

    def __init__(
        self,
        story: str,
        client: Any,
        folder: Path,
        away: Callable[[], None] | None = None,
        settle: Callable[[], None] | None = None,
    ) -> None:
        import mlflow
        import mlflow.artifacts

        self.story = story
        self.folder = folder
        self.played = Played(story)
        self.client = _Namespace(self, "client", client)
        self.mlflow = _Namespace(self, "mlflow", mlflow)
        self.artifacts = _Namespace(self, "mlflow.artifacts", mlflow.artifacts)
        self.raw = client
        self._away, self._settle = away, settle
        self._last_reads: list[tuple[str, Noted, Callable[[], Any]]] = []

    def name(self, what: str = "") -> str:
        """Return a name of this story's alone, the same at every place."""
        return f"{slug(self.story)}.{what}"

    def file(self, name: str, text: str = "text") -> str:
        """Make a file to be logged; returns its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def away(self) -> None:
        """From here on, where a story is played so, the primary is away."""
        if self._away is not None:
            self._away()

    def settle(self) -> None:
        """Wait until everything is delivered, where something is on its way."""
        if self._settle is not None:
            self._settle()

    def call(self, label: str, what: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call and note the answer; an error is noted, and returned as :class:`Refused`."""
        self._note_arguments(label, what, args, kwargs)
        name = label.rsplit(".", 1)[-1]
        ask = functools.partial(what, *args, **kwargs)
        answer, noted = self._ask(name, ask)
        said = ", ".join([*map(_short, args), *(f"{key}={_short(value)}" for key, value in kwargs.items())])
        self.played.answers.append(Noted(f"{label}({said})", noted))
        if name.startswith(READS):
            self._last_reads.append((name, self.played.answers[-1], ask))
        else:
            self._last_reads.clear()
        return answer

    def _ask(self, name: str, ask: Callable[[], Any]) -> tuple[Any, Frozen]:
        try:
            answer = ask()
            if isinstance(answer, Iterator):
                answer = list(answer)
            noted = freeze(answer)
        except Exception as error:
            return Refused(error), failure(error)
        if name == "create_experiment":
            noted = {"experiment_id": noted}
        if isinstance(answer, str) and name.startswith("download_") and Path(answer).exists():
            noted = freeze(Path(answer))
        return answer, noted

    def _note_arguments(
        self, label: str, what: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.played.used.add((label, ""))
        try:
            given = inspect.signature(what).bind(*args, **kwargs).arguments
        except (TypeError, ValueError):
            return
        self.played.used.update((label, name) for name in given)

    def see(self, label: str, value: object) -> None:
        """Note a value that the story made of the answers."""
        self.played.answers.append(Noted(label, freeze(value)))

    def tell(self, story: Story) -> Played:
        """Play a story to its end, or to where an answer before leaves it no way on."""
        try:
            story.tell(self)
        except Exception as error:
            self.see("the story ended early", error)
        return self.played

    def read_again(self) -> None:
        """Ask once more what the story asked last."""
        for name, first, ask in self._last_reads:
            _, noted = self._ask(name, ask)
            self.played.after.append(Noted(f"once delivered: {first.label}", noted))


class _Namespace:
    """An object or module of MLflow's whose calls are noted."""

    def __init__(self, player: Player, label: str, of: Any) -> None:
        self._player, self._label, self._of = player, label, of

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        if isinstance(found, types.ModuleType):
            return _Namespace(self._player, f"{self._label}.{name}", found)
        if not callable(found) or isinstance(found, type):
            return found
        return functools.partial(self._player.call, f"{self._label}.{name}", found)


def slug(story: str) -> str:
    """Return what the names of a story's begin with, before a dot."""
    return re.sub(r"[^a-z0-9]+", "-", story.lower())


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 70 else text[:60] + "…"


class Table:
    """The stories of one group, told by functions of a module."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.stories: list[Story] = []

    def story(
        self, name: str, *, away: bool = False
    ) -> Callable[[Callable[[Player], None]], Callable[[Player], None]]:
        """Add a function to the table as the story of this name."""

        def add(tell: Callable[[Player], None]) -> Callable[[Player], None]:
            assert name not in {story.name for story in self.stories}, f"two stories {name}"
            self.stories.append(Story(f"{self.group}/{name}", tell, away))
            return tell

        return add
