"""What other libraries log by themselves, and what threads and processes log, arrives as on plain MLflow.

Those whose packages are in the extra ``conformance`` alone are skipped where it is not installed.
"""

from __future__ import annotations

import importlib.util

import pytest

from tests.conformance.libraries import NEEDS, table
from tests.conformance.places import Places
from tests.conformance.player import Story
from tests.conformance.table import compare_group


@pytest.mark.full
@pytest.mark.parametrize("story", table.stories, ids=lambda story: story.name)
def test_what_a_library_logs_is_what_it_logs_to_plain_mlflow(story: Story, places: Places) -> None:
    missing = [package for package in NEEDS[story.name] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"pip install '.[conformance]' for {', '.join(missing)}")
    (compared,) = compare_group(places, table.group, [story]).values()
    assert not compared.unjudged, "\n".join(f"   {each}" for each in compared.unjudged)
