"""Play the table, and tell where the link answers otherwise than plain MLflow."""

from __future__ import annotations

import fnmatch
import importlib
import pkgutil
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.conformance import stories as package
from tests.conformance.judged import KNOWN, Known
from tests.conformance.places import Linked, Places, Standing
from tests.conformance.player import Noted, Played, Story, Table
from tests.conformance.values import Frozen, Names, differences

MOST = 8  # differences told of one answer


@dataclass
class Deviation:
    """One difference between what plain MLflow does and what the link does."""

    story: str
    where: str
    expected: Frozen
    found: Frozen

    def __str__(self) -> str:
        return f"{self.where}\n      plain: {_short(self.expected)}\n      link:  {_short(self.found)}"

    @property
    def reason(self) -> str | None:
        """Return why it is meant; None if nobody has judged it so."""
        return next((known.reason for known in KNOWN if is_of(self, known)), None)


@dataclass
class Compared:
    """What the comparison of one story has shown."""

    story: str
    deviations: list[Deviation] = field(default_factory=list)
    used: set[tuple[str, str]] = field(default_factory=set)

    @property
    def unjudged(self) -> list[Deviation]:
        """Return the deviations that are none of the known ones."""
        return [each for each in self.deviations if each.reason is None]


def is_of(deviation: Deviation, known: Known) -> bool:
    """Tell whether a deviation is the one that an entry of KNOWN describes."""
    return (
        fnmatch.fnmatchcase(deviation.story, known.story)
        and re.search(known.where, deviation.where) is not None
        and re.search(known.plain, repr(deviation.expected)) is not None
        and re.search(known.link, repr(deviation.found)) is not None
    )


def tables() -> list[Table]:
    """Return every group of stories."""
    return [
        importlib.import_module(f"{package.__name__}.{module.name}").table
        for module in pkgutil.iter_modules(package.__path__)
    ]


def compare_group(places: Places, group: str, stories: Sequence[Story]) -> dict[str, Compared]:
    """Play a group's stories at all places, and compare them."""
    compared = _compare(places, group, stories, away=False)
    if away := [story for story in stories if story.away]:
        again = [Story(f"{group} away/{story.name.split('/', 1)[1]}", story.tell) for story in away]
        compared |= _compare(places, f"{group} away", again, away=True)
    return compared


def _compare(places: Places, group: str, stories: Sequence[Story], *, away: bool) -> dict[str, Compared]:
    plainly = places.plainly()
    expected = {story.name: plainly.play(story) for story in stories}
    with places.linked(away=away) as linked:
        found = {story.name: linked.play(story) for story in stories}
        linked.verify()
    standing = places.standing(group)
    return {
        story.name: compare(story.name, expected[story.name], found[story.name], standing)
        for story in stories
    }


def compare(story: str, expected: Played, found: Linked, standing: dict[str, Standing]) -> Compared:
    """Compare one story's answers, and what stands of it at each side of the link."""
    compared = Compared(story, used=expected.used)

    def note(where: str, one: Frozen, other: Frozen) -> None:
        for at, left, right in differences(one, other)[:MOST]:
            compared.deviations.append(Deviation(story, f"{where}: {at}" if at else where, left, right))

    plain_names, link_names = Names(), Names()
    plain_text, link_text = repr(expected.answers), repr(found.played.answers)
    for number, (one, other) in enumerate(
        zip(_padded(expected, found.played), _padded(found.played, expected), strict=True)
    ):
        plain_names.step = link_names.step = f"{number + 1:02d}"
        note(f"{number + 1:02d} {one.label}", plain_names.value(one.value), link_names.value(other.value))
    plain_names.step = link_names.step = "what stands"
    for cause in found.refused:
        note("put aside", None, cause)
    if found.stuck:
        note("never delivered", None, found.stuck)
    for one, other in zip(expected.after, found.played.after, strict=False):
        note(one.label, plain_names.value(one.value), link_names.value(other.value))
    held = standing["plain"].of(story, plain_text, plain_names)
    for role in ("databricks", "azureml"):
        note(f"at {role}", held, standing[role].of(story, link_text, link_names))
    for each in found.differing:
        note("verify", None, each)
    return compared


def _padded(one: Played, other: Played) -> list[Noted]:
    more = max(len(other.answers) - len(one.answers), 0)
    return [*one.answers, *([Noted("(the story had ended)", "nothing")] * more)]


def _short(value: Frozen) -> str:
    text = repr(value)
    return text if len(text) < 400 else text[:390] + "…"
