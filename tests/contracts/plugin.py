"""Fail a test for its deviations from the contracts, and a whole run for a line of ``allowed.txt`` not used.

Each process counts for itself; the processes of pytest-xdist's hand their counts to the one that reports. A
line is stale where a run of the whole suite, without a failure, came to nothing that it allows: a run of
chosen tests says nothing of the lines that it did not use.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.checker import ALLOWED, Line, read_allowed

__all__ = ["settle", "stale"]

FULL = "DBML_TEST_FULL"
_WORD = "contracts"
_FILE = "contracts_allowed"

_totals: Counter[str] = Counter()
_stale: list[str] = []


def settle(taken: Mapping[str, Any]) -> None:
    """Count what a stand-in's checker found since the last time; fail for what no line allows."""
    _totals.update(taken["counts"])
    found = dict.fromkeys(taken["unallowed"])
    assert not found, "contradicts the services' own descriptions (tests/contracts):\n" + "\n".join(found)


def stale(lines: Iterable[Line], used: Mapping[str, int], *, full: bool) -> list[str]:
    """Return the lines that a whole run had no use for; those of full runs count in a full one alone."""
    return [line.key for line in lines if not used.get(line.key) and (full or not line.full)]


def _is_whole(session: pytest.Session) -> bool:
    """Return whether every test of the suite ran, and passed."""
    config = session.config
    chosen = config.option.keyword or config.option.markexpr or config.option.deselect
    chosen = chosen or config.option.collectonly or getattr(config.option, "lf", False)
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return everything and not chosen and session.testsfailed == 0 and not session.shouldstop


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a suite name its own file of what is allowed."""
    parser.addini(_FILE, "the lines that allow deviations from the contracts", default=str(ALLOWED))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Hand the counts over, or look for stale lines."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_WORD] = dict(_totals)
    elif exitstatus == pytest.ExitCode.OK and _is_whole(session):
        _stale.extend(
            stale(read_allowed(Path(session.config.getini(_FILE))), _totals, full=FULL in os.environ)
        )
        if _stale:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    """Take over the counts of a process of pytest-xdist's."""
    _totals.update(getattr(node, "workeroutput", {}).get(_WORD, {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many exchanges were held against the contracts, and what was allowed."""
    if not _totals:
        return
    areas = sum(count for key, count in _totals.items() if key.startswith("area "))
    allowed = {key: count for key, count in _totals.items() if key.startswith("deviation ")}
    terminalreporter.write_line(
        f"contracts: {_totals['checked']} exchanges checked, {areas} of services without a description, "
        f"{sum(allowed.values())} deviations allowed by {len(allowed)} lines"
    )
    for each in _stale:
        terminalreporter.write_line(f"contracts: FAILED, a line of allowed.txt that nothing uses: {each}")
