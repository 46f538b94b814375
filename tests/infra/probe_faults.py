"""Services that do, or do not, what is recorded of them: a fault for each fact that a probe asks about.

A fault is a context manager; the tests of each service list theirs by fact and check that every fact has one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

from dbml_magics.core.doctor.probes.facts import facts
from dbml_magics.results.probes import ProbeReport
from tests.infra.proxy import Proxy

__all__ = ["Answer", "Fault", "Faults", "asked", "beside", "in_force", "refused"]

Fault = Callable[[Any], AbstractContextManager[Any]]
Faults = Mapping[str, Fault]


@dataclass(frozen=True)
class Answer:
    """An answer in the service's place; ``content`` is looked for in the request."""

    path: str
    status: int = 200
    body: Any = None
    content: str | None = None
    method: str = ".*"
    times: int | None = None
    seconds: float | None = None

    def __call__(self, service: Any) -> AbstractContextManager[Any]:
        """Answer so from now on. The service is a proxy, or has one."""
        proxy: Proxy = getattr(service, "proxy", service)
        text = self.body if isinstance(self.body, str) else json.dumps(self.body or {})
        return proxy.status(
            self.status,
            body=text,
            content=self.content,
            path=self.path,
            method=self.method,
            times=self.times,
            seconds=self.seconds,
        )


def refused(path: str, content: str | None = None, **more: Any) -> Answer:
    """Return a refusal in the words of MLflow's interface."""
    body = {"error_code": "INVALID_PARAMETER_VALUE", "message": "it is not taken here"}
    return Answer(path, 400, body, content, **more)


def in_force(faults: Faults, service: Any, only: set[str] | None = None) -> ExitStack:
    """Put faults into force, all or some."""
    stack = ExitStack()
    for fact, fault in faults.items():
        if only is None or fact in only:
            stack.enter_context(fault(service))
    return stack


def asked(service: str, *, option: str = "") -> set[str]:
    """Return the facts of a service that probes ask about: without an option, or with one alone."""
    return {each.id for each in facts(service) if not each.by_hand and each.option == option}


def beside(report: ProbeReport, verdict: bool | None) -> dict[str, str]:
    """Return what was found, by fact, where the verdict is another one; by hand does not count."""
    return {
        row.fact: row.outcome
        for row in report
        if row.confirmed is not verdict and not row.why.startswith(("by hand", "with the option"))
    }
