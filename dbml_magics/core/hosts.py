"""Which host a URL names, whether it is this machine, and how a client gets there: no proxy, no redirect.

Every HTTP client of the package is built with what stands here. A redirect would carry a write's body to a
host that nobody linked and count that host's answer as the workspace's; a proxy on the way to 127.0.0.1 would
see the bearer token, and asks its own machine.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies_environment

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy

__all__ = [
    "exempt_loopback",
    "harden",
    "header",
    "is_loopback",
    "origin",
    "past_proxies",
    "proxy_between",
    "session",
    "shown",
    "through",
]

_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
_PORTS = {"http": 80, "https": 443}
# Not None, which lets requests look into the environment again.
_NO_PROXY = {"http": "", "https": ""}


def origin(url: str) -> tuple[str, str, int | None] | None:
    """Return a URL's scheme, host and port, or None where clients may read its host in more than one way."""
    try:
        split = urlsplit(url)
        host, port = (split.hostname or "").rstrip("."), split.port
    except ValueError:
        return None
    if not host or _is_ambiguous(split):
        return None
    return split.scheme, host, port or _PORTS.get(split.scheme)


def _is_ambiguous(split: SplitResult) -> bool:
    return any(c in "@\\" or c.isspace() or not c.isprintable() for c in split.netloc)


def is_loopback(url: str) -> bool:
    """Tell whether a URL's host is this machine: 127.0.0.0/8, ::1 or localhost."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return False
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def past_proxies(url: str) -> dict[str, str]:
    """Return requests' and azure-core's ``proxies`` for a URL: none to this machine, else the environment's.

    Both honour NO_PROXY by themselves.
    """
    return dict(_NO_PROXY) if is_loopback(url) else {}


def exempt_loopback() -> None:
    """Have NO_PROXY name this machine, where a proxy is set: for libraries that make clients of their own.

    The sign-ins of databricks-sdk and azure-identity ask 127.0.0.1 on some machines (Azure ML's compute), and
    take nothing but the environment.
    """
    if not getproxies_environment().keys() - {"no"}:
        return
    for name in ("NO_PROXY", "no_proxy"):
        named = os.environ.get(name)
        if named is None and (name == "no_proxy" or os.environ.get("no_proxy") is not None):
            continue  # the other one counts
        have = {part.strip() for part in (named or "").split(",")}
        lacking = [] if "*" in have else [host for host in _THIS_MACHINE if host not in have]
        if lacking:
            os.environ[name] = ",".join([*filter(None, [named]), *lacking])


def proxy_between(url: str) -> str | None:
    """Return the proxy through which requests reaches a URL, without its credentials, or None."""
    if is_loopback(url):
        return None
    found = select_proxy(url, get_environ_proxies(url))
    if not found:
        return None
    scheme, _, rest = found.rpartition("://")
    return f"{scheme or 'http'}://{rest.rpartition('@')[2].partition('/')[0]}"


def through(url: str) -> str:
    """Return the words that name the proxy between here and a URL, or nothing."""
    proxy = proxy_between(url)
    return f" (through the proxy {proxy})" if proxy else ""


class _Adapter(HTTPAdapter):
    """Requests' own adapter; what is on this machine is reached directly, whatever the environment says."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        if is_loopback(request.url or ""):
            kwargs["proxies"] = {}
        return super().send(request, *args, **kwargs)


def session() -> requests.Session:
    """Return a session that goes past proxies to this machine and follows no redirect."""
    return harden(requests.Session())


def harden(made: requests.Session) -> requests.Session:
    """Make a session, also another library's, go past proxies to this machine and follow no redirect."""
    for prefix, adapter in list(made.adapters.items()):
        if not isinstance(adapter, _Adapter):
            made.mount(prefix, _like(adapter))
    if _stop not in made.hooks["response"]:
        made.hooks["response"].append(_stop)
    return made


def _like(adapter: Any) -> _Adapter:
    """Return an adapter with another one's pools and retries."""
    like: Any = _Adapter.__new__(_Adapter)
    like.__setstate__(adapter.__getstate__())
    return like  # type: ignore[no-any-return]


def _stop(response: requests.Response, *_: object, **__: object) -> requests.Response:
    """Give a redirect back as it is: requests follows what has a Location."""
    if response.is_redirect:
        response.headers.pop("Location", None)
    return response


def shown(url: str, location: object) -> str:
    """Return where a redirect leads, for people: its host alone, since the rest may carry a secret."""
    if not isinstance(location, str) or not location:
        return "elsewhere"
    there = origin(location)
    if there is None or not there[0].startswith("http"):
        return "elsewhere" if "//" in location.partition("?")[0] else "another page of its own"
    if there == origin(url):
        return "another page of its own"
    scheme, host, port = there
    return f"{scheme}://{host}" + ("" if port == _PORTS.get(scheme) else f":{port}")


def header(headers: Mapping[str, str] | None, name: str) -> str:
    """Return a header's value, or an empty text."""
    return str((headers or {}).get(name) or "")
