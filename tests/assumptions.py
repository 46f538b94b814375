"""docs/assumptions.md, written from the table of facts that ``doctor --probe`` compares with.

``python -m tests.assumptions --write`` writes it anew; a test fails where it is not up to date.
"""

from __future__ import annotations

import sys

from dbml_magics.core.doctor.probes.facts import Fact, facts
from tests.arrows import ROOT

__all__ = ["PAGE", "page"]

PAGE = ROOT / "docs" / "assumptions.md"
SERVICES = {"azureml": "Azure ML", "databricks": "Databricks", "mlflow": "Any MLflow server"}

HEAD = """# What is assumed of the services

The package was written without reaching the services themselves. This is all that it takes for granted of
them, or that others recorded: what is expected, where that stands, on which day it was read, and the probe of
[`%dbml doctor --probe`](probe.md) that tells whether your service does it. Where no probe can tell, the last
column says what to do by hand, or why that would cost too much.

Written from `core/doctor/probes/facts.json` by `python -m tests.assumptions --write`; a test fails where it
is not up to date.
"""


def _probe(fact: Fact) -> str:
    if fact.by_hand:
        return f"by hand: {fact.by_hand}"
    value = " CATALOG.SCHEMA" if fact.option == "schema" else ""
    return f"`{fact.id}`" + (f", with `--{fact.option}{value}`" if fact.option else "")


def page() -> str:
    """Return the page as it should be."""
    parts = [HEAD]
    for service, title in SERVICES.items():
        every = facts(service)
        by_hand = sum(bool(fact.by_hand) for fact in every)
        asked = (
            f"{len(every)} lines; {len(every) - by_hand} have a probe, {by_hand} can be seen by hand alone."
        )
        rows = [
            " | ".join(
                ["", fact.says, fact.expects, f"{fact.source} ({fact.date})", _probe(fact), ""]
            ).strip()
            for fact in every
        ]
        head = ["| assumed | expected | source | probe |", "|---|---|---|---|"]
        parts.append("\n".join([f"## {title}", "", asked, "", *head, *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page())
