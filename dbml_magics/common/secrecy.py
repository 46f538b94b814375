"""Secrets on a magic line: recognised, refused and never echoed.

A notebook keeps every line it ran, in its file, its history and its outputs, so a token on a line is a token
on disk. Where each belongs instead is said by :func:`refusal`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from dbml_magics.common.hints import Remedy
from dbml_magics.errors import SecretRefused

__all__ = [
    "is_secret_option",
    "looks_secret",
    "refusal",
    "refuse_secrets",
    "resembles_secret_option",
]

_NAMES = "password|passwd|passphrase|pwd|secret|token|(?:api|access|account)[-_]?key|credentials?"

# Words that make an option a secret's when they are one of its parts: --pat, --sas-token, --client-secret.
_WORDS = frozenset({"pat", "pw", "pass", "sas", "sig", "jwt", "bearer"})

_SECRET_OPTIONS = ("--token", "--password", "--secret", "--credential", "--api-key")

_VALUES = re.compile(
    "|".join(
        (
            r"dapi[0-9a-f]{32}",  # Databricks personal access token
            r"dose[0-9a-f]{32}",  # Databricks service principal's secret
            r"eyJ[\w-]+\.[\w-]+\.[\w-]*",  # a JSON web token: Microsoft Entra ID hands these out
            r"\bBearer\s+\S",
            r"\bBasic\s+[A-Za-z0-9+/]{8,}",
            r"\b(?:sig|AccountKey|SharedAccessKey|SharedAccessSignature)=",
            r"://[^\s@/?#]*:[^\s@]*@",  # user:password@ in a URI
            r"https?://[^\s@/?#]+@",  # a token as the user of a web address
            rf"(?:^|[?&;,\s\"'])[\w-]*(?:{_NAMES})=",  # in a query or a pair; not tokenizer= nor max_tokens=
            r"\bgh[pousr]_[A-Za-z0-9]{20,}",
        )
    ),
    re.IGNORECASE,
)


def looks_secret(text: str) -> bool:
    """Tell whether a text holds something that looks like a token, a password or a key."""
    return _VALUES.search(text) is not None


def is_secret_option(name: str) -> bool:
    """Tell whether an option is named after a secret, such as ``--client-secret``."""
    bare = name.lstrip("-").lower()
    return bool(re.search(_NAMES, bare)) or any(word in _WORDS for word in re.split(r"[-_]", bare))


def resembles_secret_option(name: str, known: Iterable[str]) -> bool:
    """Tell whether an unknown option is a misspelt secret's, such as ``--tokn``, rather than a known one."""
    close = difflib.get_close_matches(name.lower(), [*known, *_SECRET_OPTIONS], n=1, cutoff=0.75)
    return bool(close) and close[0] in _SECRET_OPTIONS


def refuse_secrets(line: str, tokens: Iterable[str] = ()) -> None:
    """Raise :class:`SecretRefused` when a line, or a word of it once its quotes are off, holds a secret."""
    words = [*tokens]
    # Both forms are looked at: quotes can hide a secret from the one, and blanks can from the other.
    if looks_secret(line) or any(looks_secret(word) for word in words):
        raise refusal()
    for word in [*line.split(), *words]:
        name = re.match(r"--?[A-Za-z][\w-]*", word.lstrip("'\""))
        if name and is_secret_option(name.group()):
            raise refusal()


def refusal() -> SecretRefused:
    """Return the error, which says where a secret belongs and nothing of what was written."""
    return SecretRefused(
        "a token or password stands on the line, and a notebook keeps its lines. Nothing was done with it; "
        "delete it here too.",
        remedies=[
            (
                "DBML_DATABRICKS_TOKEN, DBML_AZUREML_TOKEN",
                "environment variables: a token for an http(s) workspace",
            ),
            (
                "DBML_<ROLE>_USERNAME and DBML_<ROLE>_PASSWORD",
                "the same for a user; ROLE is DATABRICKS or AZUREML",
            ),
            (Remedy("link", databricks="databricks://PROFILE"), "a Databricks profile keeps its own token"),
        ],
    )
