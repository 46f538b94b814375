"""A report that names nobody: ids, names, addresses and people out of what services say.

What a service says may repeat anything, so texts lose every id and address by its look, and the names of this
link wherever they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dbml_magics.core.destinations.kinds import is_azureml, is_databricks

if TYPE_CHECKING:
    from dbml_magics.core.destinations.base import Workspace

__all__ = ["Anonymous"]

_BY_LOOK = (
    # Whatever a service quotes is a name of somebody's, though the end of the quotation be cut off; an
    # apostrophe within a word quotes nothing.
    (re.compile(r"(?<![\w'])'[^'\n]*(?:'(?!\w)|$)|\"[^\"\n]*(?:\"|$)|`[^`\n]*(?:`|$)"), "'…'"),
    (re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>()]+", re.I), "ADDRESS"),
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "PERSON"),
    (re.compile(r"/subscriptions/[^\s'\"<>(),]+", re.I), "RESOURCE"),
    (
        re.compile(
            r"(?<![\w/])/(?:Users|Workspace|Repos|Shared|home|root|tmp|mnt|dbfs|Volumes)/[^\s'\"<>(),]*"
        ),
        "PATH",
    ),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{1,12}){1,4}\b", re.I), "ID"),
    (re.compile(r"\b(?:[a-z]+-)?[0-9a-f]{16,}\b", re.I), "ID"),
    (re.compile(r"\bdbml-probe-[\w.-]*"), "PROBE"),
    (re.compile(r"\b\d{10,}\b"), "ID"),
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b"), "HOST"),
    (re.compile(r"\b(?:[a-z0-9-]+\.)+(?:net|com|ms|io|us|cn|org|test)\b", re.I), "HOST"),
)
# A name behind the word for what it names; the text may repeat it without that word.
_BY_WORD = (
    re.compile(r"\b(?:storage account|key vault|container registry) ([\w-]+)", re.I),
    re.compile(r"\b(?:workspace|group) ([\w-]*[\d-][\w-]*)", re.I),
)


class Anonymous:
    """What to take out of texts about some workspaces."""

    def __init__(self, workspaces: Iterable[Workspace], schema: str = "") -> None:
        named: dict[str, str] = {}
        for workspace in workspaces:
            named |= {urlsplit(workspace.uri).netloc: "HOST", urlsplit(workspace.uri).hostname or "": "HOST"}
            if is_azureml(workspace):
                own = workspace.id
                named |= {own.subscription: "SUBSCRIPTION", own.group: "GROUP", own.name: "WORKSPACE"}
                named[workspace.host] = "HOST"
            if is_databricks(workspace):
                user = workspace.known_user or ""
                named |= {user: "PERSON", user.partition("@")[0]: "PERSON"}
                named[workspace.uri.removeprefix("databricks").removeprefix("://")] = "PROFILE"
        named |= {schema: "SCHEMA", **dict.fromkeys(schema.split("."), "SCHEMA")}
        names = sorted((name for name in named if name), key=len, reverse=True)
        self._words = {name.lower(): named[name] for name in names}
        either = "|".join(map(re.escape, names))
        self._named = re.compile(rf"(?<![\w])(?:{either})(?![\w])", re.I) if names else None

    def text(self, text: str) -> str:
        """Return a text without ids, addresses, people and the names of the link."""
        for pattern, word in _BY_LOOK:
            text = pattern.sub(word, text)
        for name in {found[1] for pattern in _BY_WORD for found in pattern.finditer(text)}:
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", "NAME", text, flags=re.I)
        if self._named is None:
            return text
        return self._named.sub(lambda found: self._words[found[0].lower()], text)
