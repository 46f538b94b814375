"""A cell's text as it may be kept with a run: what looks like a secret masked, rather too much than none."""

from __future__ import annotations

import re

_MASK = "***"
# What the name of a secret has in it; not tokenizer, max_tokens, path or pattern.
_NAME = (
    r"(?:pass(?:word|wd|phrase|code)|pwd|secret|token(?!iz|s\b)|credential"
    r"|(?:api|access|account|shared|private|auth|subscription)[_-]?key"
    r"|(?<![a-z])(?:sas|pat|pw)(?![a-z]))[\w-]*"
)
_STRING = r"(?:(?P<long>\"\"\"|''')(?:.*?)(?P=long)|(?P<short>[\"'])(?:\\.|(?!(?P=short))[^\n\\])+(?P=short))"
# password = "…", d["token"] = f'…', secret: str = """…""", {"token": "…"}, setdefault("DB_PASSWORD", "…")
_ASSIGNED = re.compile(
    rf"(?P<lead>{_NAME}[\"']?\s*\]?\s*(?::\s*[\w.\[\] |]+?)?\s*(?:=|:|,)\s*[rbuf]{{0,2}}){_STRING}",
    re.I | re.S,
)
_QUOTED = re.compile(r"(?P<q>[\"'])(?:\\.|(?!(?P=q))[^\n\\])*(?P=q)")
_PAIR = re.compile(rf"({_NAME}\s*[=:]\s*)[^\s;&,\"'{{}}]+", re.I)  # in a string: Pwd=…; X-Api-Key: …
_OPTION = re.compile(rf"(--?[\w-]*{_NAME}(?:=|[ \t]+))(?!-)[^\s\"']+", re.I)
_SHELL = re.compile(rf"(?m)^(\s*[!%]+[ \t]*.*?\b[\w]*{_NAME}(?:=|[ \t]+))[^\s\"']+", re.I)
_EXPORTED = re.compile(rf"(?m)^(\s*(?:export\s+|set\s+)?[A-Z0-9_]*(?i:{_NAME})=)[^\s\"'(\[]+")
_VALUES = re.compile(
    r"dapi[0-9a-f]{32}(?:-\d+)?|dose[0-9a-f]{32}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|\bsk-[\w-]{20,}|\bAKIA[0-9A-Z]{16}|(?i:\bbearer)\s+[\w.~+/=-]{8,}|(?i:\bbasic)\s+[A-Za-z0-9+/]{8,}=*"
    r"|(?i:(?:sig|AccountKey|SharedAccessKey)=)[^&\s\"';]+"
    r"|(?s:-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----)"
)
_USERINFO = re.compile(r"(://)[^\s/@\"']+@")


def masked_text(text: str) -> str:
    """Return source text with passwords, tokens and keys replaced by ``***``."""
    text = _VALUES.sub(_MASK, text)
    text = _USERINFO.sub(rf"\1{_MASK}@", text)
    text = _ASSIGNED.sub(_without_value, text)
    text = _QUOTED.sub(lambda found: _PAIR.sub(rf"\1{_MASK}", found.group()), text)
    for pattern in (_OPTION, _SHELL, _EXPORTED):
        text = pattern.sub(rf"\1{_MASK}", text)
    return text


def _without_value(found: re.Match[str]) -> str:
    quote = found["long"] or found["short"]
    return f"{found['lead']}{quote}{_MASK}{quote}"
