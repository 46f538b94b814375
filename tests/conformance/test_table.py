"""Every story of the table, played on plain MLflow and through a link, comes to the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator

import mlflow
import mlflow.artifacts
import pytest

from tests.conformance.judged import KNOWN, LEFT_OUT, LEFT_OUT_ARGUMENTS
from tests.conformance.places import Places
from tests.conformance.table import Compared, compare_group, is_of, tables

TABLES = {table.group: table for table in tables()}
QUICK = ("experiments",)
"""The groups that are played in every check."""

NAMES = [
    name
    for table in TABLES.values()
    for story in table.stories
    for name in (story.name, *([story.name.replace("/", " away/", 1)] if story.away else []))
]
Play = Callable[[str], dict[str, Compared]]


@pytest.fixture(scope="module")
def kept() -> dict[str, dict[str, Compared]]:
    """Return what the groups that were played have shown: each is played once."""
    return {}


@pytest.fixture
def play(places: Places, kept: dict[str, dict[str, Compared]]) -> Play:
    """Return what plays a group, the first time that it is asked for."""

    def play(group: str) -> dict[str, Compared]:
        if group not in kept:
            kept[group] = compare_group(places, group, TABLES[group].stories)
        return kept[group]

    return play


@pytest.mark.full(but=[name for name in NAMES if name.split("/")[0].removesuffix(" away") in QUICK])
@pytest.mark.parametrize("name", NAMES)
def test_the_link_answers_as_plain_mlflow_does(name: str, play: Play) -> None:
    compared = play(name.split("/")[0].removesuffix(" away"))[name]
    assert not compared.unjudged, f"{name}: {len(compared.unjudged)} differences:\n" + "\n".join(
        f"   {each}" for each in compared.unjudged
    )


def everything(play: Play) -> Iterator[Compared]:
    """Play every group."""
    for group in TABLES:
        yield from play(group).values()


@pytest.mark.full
def test_every_deviation_that_was_judged_is_still_there(play: Play) -> None:
    found = [deviation for compared in everything(play) for deviation in compared.deviations]
    stale = [known for known in KNOWN if not any(is_of(deviation, known) for deviation in found)]
    assert not stale, f"no story shows these any more: take them off tests/conformance/judged.py: {stale}"


@pytest.mark.full
def test_every_call_of_mlflow_is_in_the_table_or_judged(play: Play) -> None:
    used = {call for compared in everything(play) for call, argument in compared.used if not argument}
    for label, names in surface().items():
        judged = {name for listed in LEFT_OUT[label].values() for name in listed.split()}
        played = {name for name in names if f"{label}.{name}" in used}
        new, gone, both = names - judged - played, judged - names, judged & played
        assert not new, (
            f"MLflow {mlflow.__version__} has calls of {label} that nobody has judged: {sorted(new)}. What "
            "reads or writes runs, experiments, logged or registered models or files gets a story in "
            "tests/conformance/stories; the others their reason in tests/conformance/judged.py."
        )
        assert not gone, (
            f"MLflow {mlflow.__version__} has no {sorted(gone)} at {label}: take them off the list"
        )
        assert not both, f"stories call {sorted(both)} of {label}: take them off the list"


@pytest.mark.full
def test_every_argument_is_given_in_some_story(play: Play) -> None:
    used = {each for compared in everything(play) for each in compared.used}
    called = sorted({call for call, _ in used})
    missing = []
    for call in called:
        label, name = call.rsplit(".", 1)
        like = getattr(holders().get(label), name, None)
        if like is None:
            continue
        for argument in inspect.signature(like).parameters:
            if argument != "self" and (call, argument) not in used:
                missing.append(f"{call}.{argument}")
    new = sorted(set(missing) - set(LEFT_OUT_ARGUMENTS))
    assert not new, f"no story gives these arguments of MLflow {mlflow.__version__}: {new}"
    assert not set(LEFT_OUT_ARGUMENTS) - set(missing), "given by a story: take them off the list"


def holders() -> dict[str, object]:
    """Return what calls are made through, by the label that a story's calls have."""
    return {"client": mlflow.MlflowClient, "mlflow": mlflow, "mlflow.artifacts": mlflow.artifacts}


def surface() -> dict[str, set[str]]:
    """Return MLflow's public calls: the client's, the fluent ones, and those of files."""
    files = {
        name
        for name, each in vars(mlflow.artifacts).items()
        if inspect.isfunction(each) and each.__module__ == "mlflow.artifacts" and not name.startswith("_")
    }
    return {
        "client": {name for name in dir(mlflow.MlflowClient) if not name.startswith("_")},
        "mlflow": {name for name in mlflow.__all__ if not name.startswith("_")},
        "mlflow.artifacts": files,
    }
