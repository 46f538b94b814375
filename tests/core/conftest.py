"""What the core's tests share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.conftest import Proxies
from tests.core.linking import link
from tests.infra.actors import ActorHost


@pytest.fixture(autouse=True)
def _own_autologging() -> Iterator[None]:
    """Let no test see another's autologging: MLflow keeps what was once said of a library for the process."""
    module: Any = sys.modules.get("mlflow.utils.autologging_utils")
    before = {} if module is None else {k: dict(v) for k, v in module.AUTOLOGGING_INTEGRATIONS.items()}
    yield
    module = sys.modules.get("mlflow.utils.autologging_utils")
    if module is not None:
        module.AUTOLOGGING_INTEGRATIONS.clear()
        module.AUTOLOGGING_INTEGRATIONS.update(before)


@pytest.fixture(scope="session")
def actor_host() -> Iterator[ActorHost]:
    """Return what starts processes that log as a test tells them."""
    with ActorHost() as host:
        yield host


@pytest.fixture
def linked(home: Path, proxies: Proxies, experiment_name: str) -> Proxies:
    """Return the proxies of a fresh link, which keep the batches that they pass; its experiment is set."""
    for proxy in proxies:
        proxy.keep_bodies()
    link(proxies)
    mlflow.set_experiment(experiment_name)
    return proxies
