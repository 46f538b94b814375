"""A cell's text as it may be kept with a run: what looks like a secret masked."""

from __future__ import annotations

import re

_NAMES = r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|credential|(?:api|access|account|shared)_?key|sas|pat)"
_ASSIGNED = re.compile(rf"(?i)(\b[\w.]*{_NAMES}[\w.]*[\"']?\]?\s*(?:=|:)\s*[rbuf]*)([\"'])(?:(?!\2).)+\2")
_VALUES = re.compile(
    r"dapi[0-9a-f]{32}(?:-\d+)?|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|(?i:bearer)\s+[\w.~+/=-]{8,}"
    r"|(?i:(?:sig|AccountKey|SharedAccessKey)=)[^&\s\"';]+|\bgh[pousr]_[A-Za-z0-9]{20,}"
)
_USERINFO = re.compile(r"(://)[^\s/@\"']+@")


def masked_text(text: str) -> str:
    """Return source text with passwords, tokens and keys replaced by ``***``."""
    text = _ASSIGNED.sub(r"\1\2***\2", text)
    text = _USERINFO.sub(r"\1***@", text)
    return _VALUES.sub("***", text)
