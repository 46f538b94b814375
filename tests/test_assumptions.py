"""The table of facts, the probes, the limits that delivery keeps to and the page of assumptions agree."""

from __future__ import annotations

import re

import pytest

from dbml_magics.core.destinations.limits import BY_KIND
from dbml_magics.core.doctor.probes import azure, behaviour, databricks, endpoints, sizes
from dbml_magics.core.doctor.probes.facts import Fact, facts
from tests.assumptions import PAGE, SERVICES, page

EVERYWHERE = [*sizes.PROBES, *behaviour.PROBES]
PROBES = {
    "azureml": [*EVERYWHERE, *azure.PROBES, *endpoints.PROBES],
    "databricks": [*EVERYWHERE, *databricks.PROBES],
    "mlflow": EVERYWHERE,
}
EVERY = [fact for service in SERVICES for fact in facts(service)]


def test_the_page_of_assumptions_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.assumptions --write"


@pytest.mark.parametrize("service", SERVICES)
def test_every_fact_has_a_probe_or_says_how_to_see_it_by_hand(service: str) -> None:
    probes = [each.name for each in PROBES[service]]
    assert len(probes) == len(set(probes))
    assert {fact.id for fact in facts(service) if not fact.by_hand} <= set(probes)
    assert not {fact.id for fact in facts(service) if fact.by_hand} & set(probes)


def test_every_probe_has_a_fact() -> None:
    named = {each.name for probes in PROBES.values() for each in probes}
    assert named == {fact.id for fact in EVERY if not fact.by_hand}


def test_every_fact_is_named_once_and_has_a_source_with_its_day() -> None:
    named = [(fact.service, fact.id) for fact in EVERY]
    assert len(named) == len(set(named))
    for fact in EVERY:
        assert fact.source, fact.id
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", fact.date), fact.id
        assert (fact.expected is None) == bool(fact.by_hand), fact.id


@pytest.mark.parametrize("fact", [f for f in EVERY if f.limit], ids=lambda f: f"{f.service}-{f.id}")
def test_delivery_sends_no_more_than_is_recorded(fact: Fact) -> None:
    """A smaller figure loses nothing; a larger one would be refused."""
    figure = getattr(BY_KIND[fact.service], fact.limit)
    assert figure is not None
    assert fact.bound is not None
    assert figure <= fact.bound
