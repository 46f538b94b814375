"""Secrets of this process in words of others: taken out of whatever is kept or shown.

A server may echo what it was sent, so its words go through :func:`redacted`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from itertools import takewhile
from urllib.parse import quote, quote_plus

__all__ = ["redacted", "remember_secrets"]

# What is taken out of a text by its look, whoever the secret is of: how it is recognised, and a part of it in
# small letters without which there is none. A long text is looked through for the parts much faster. Compiled
# at the first use, since that takes longer than the rest of this module.
_SHOWN = (
    ("dapi", r"dapi[0-9a-f]{32}"),
    ("dose", r"dose[0-9a-f]{32}"),
    ("eyj", r"eyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?"),
    ("@", r"(?<=//)[^/@\s'\"\\<>]+(?=@)"),
    ("bearer ", r"(?i:(?<=bearer )[\w.~+/=-]{8,})"),
    ("basic ", r"(?i:(?<=basic )[A-Za-z0-9+/=]{16,})"),
    ("sig=", r"(?i:(?<=sig=)[^&\s'\"\\]+)"),
    ("accountkey=", r"(?i:(?<=accountkey=)[^;\s'\"\\]+)"),
    ("gh", r"\bgh[pousr]_[A-Za-z0-9]{20,}"),
)
_SECRET_VARIABLE = r"(?i)TOKEN|SECRET|PASSWORD|PASSWD|_KEY$|CREDENTIAL|CONNECTION_STRING"
_SERVICES = ("MLFLOW_", "_MLFLOW", "DBML_", "DATABRICKS_", "AZURE", "ARM_", "MSI_", "IDENTITY_", "AWS_")
_PLACES = ("_FILE", "_PATH", "_DIR", "_URI", "_URL", "_ENDPOINT", "GOOGLE_APPLICATION_CREDENTIALS")
_SHORTEST = 8  # characters: a shorter value may be a word of any sentence
_TELLING = 12  # characters of a secret that give it away, where the rest was cut off
_MOST = 512  # values kept: a kernel that runs for weeks renews its tokens

_remembered: dict[str, None] = {}
_forms: dict[str, tuple[str, ...]] = {}


def remember_secrets(*values: str | None, username: str | None = None) -> None:
    """Remember values of secrets that this process uses: tokens, or the password of ``username``."""
    pairs = [_base64(f"{username}:{value}") for value in values if value and username is not None]
    for value in (*values, *pairs):
        if value and len(value) >= _SHORTEST and value not in _remembered:
            while len(_remembered) >= _MOST:
                _remembered.pop(next(iter(_remembered)), None)
            _remembered[value] = None


def redacted(text: str) -> str:
    """Return a text without the secrets that this process knows, nor what looks like one of anybody's.

    Of a secret that is cut off, its beginning is taken out too.
    """
    values = [*list(_remembered), *_of_environment()]
    spans: list[tuple[int, int]] = []
    for form in {form for value in values for form in _forms_of(value)}:
        begin = text.find(form[:_TELLING])
        while begin >= 0:
            alike = (a == b for a, b in zip(text[begin:], form, strict=False))
            spans.append((begin, begin + sum(takewhile(bool, alike))))
            begin = text.find(form[:_TELLING], begin + 1)
    if spans:
        text = _without(text, sorted(spans))
    lowered = text.lower()
    patterns = [pattern for part, pattern in _SHOWN if part in lowered]
    return re.sub("|".join(patterns), "***", text) if patterns else text


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    """Return a text with ``***`` in the place of each span; of those that begin at one place, the longest."""
    kept, at = [], 0
    for begin, end in spans:
        if end > at:
            kept += [text[at:begin], "***"] if begin >= at else []
            at = end
    return "".join([*kept, text[at:]])


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        named = re.search(_SECRET_VARIABLE, name) and not name.endswith(_PLACES)
        # A word in somebody else's variable (X_KEY=training) is more likely a word than a secret.
        if named and len(value) >= _SHORTEST and (name.startswith(_SERVICES) or not value.isalpha()):
            yield value


def _forms_of(value: str) -> tuple[str, ...]:
    """Return a secret as it is, and as headers, addresses and JSON have it."""
    found = _forms.get(value)
    if found is None:
        if len(_forms) > 4 * _MOST:
            _forms.clear()
        from html import escape

        encoded = _base64(value)
        plain = {value, " ".join(value.split()), json.dumps(value)[1:-1], repr(value)[1:-1]}
        addressed = {quote(value, safe="", errors="replace"), quote_plus(value, errors="replace")}
        addressed |= {quote(value, errors="replace"), quote(encoded, safe="")}
        found = tuple({*plain, *addressed, escape(value), encoded, encoded.rstrip("=")})
        _forms[value] = found
    return found


def _base64(text: str) -> str:
    from binascii import b2a_base64

    return b2a_base64(text.encode("utf-8", "surrogateescape"), newline=False).decode()
