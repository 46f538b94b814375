"""The three servers of the comparisons, shared with all other tests."""

from __future__ import annotations

import pytest

from tests.conformance.places import Places
from tests.conftest import Proxies, Servers
from tests.infra.servers import ServerHost


@pytest.fixture(scope="session")
def _places(
    server_host: ServerHost,
    _server_pair: Servers,
    _proxy_pair: Proxies,
    tmp_path_factory: pytest.TempPathFactory,
) -> Places:
    folder = tmp_path_factory.mktemp("conformance")
    return Places(server_host.start("plain"), *_server_pair, _proxy_pair, folder)


@pytest.fixture
def places(_places: Places, proxies: Proxies) -> Places:
    """Return a plain server, and a link's two behind proxies without faults."""
    return _places
