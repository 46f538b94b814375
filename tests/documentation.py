"""The pages of docs/ as a website: built strictly, and closed to other hosts.

python -m tests.documentation              builds the pages in a temporary folder, and says what is wrong
python -m tests.documentation docs/_build  builds them there, to be looked at

A warning of Sphinx (a link, an anchor or a picture that is not there, a page that no other one lists) fails
the build, and so does anything that a built page would fetch from another host.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from tests.arrows import ROOT

__all__ = ["DOCS", "build", "fetched", "main"]

DOCS = ROOT / "docs"
_ELSEWHERE = re.compile(r"\s*(?:https?:|wss?:)?//", re.IGNORECASE)
_IN_STYLES = re.compile(r"""(?:url\(|@import)\s*['"]?\s*((?:https?:)?//[^'")\s]+)""", re.IGNORECASE)
_IN_SCRIPTS = re.compile(
    r"""(?:fetch|import|importScripts|Worker|EventSource|WebSocket|open|src\s*=|href\s*=)\s*\(?\s*"""
    r"""(?:['"]GET['"]\s*,\s*)?['"`]((?:https?:|wss?:)?//[^'"`\s]+)"""
)
_FETCHING = {"src", "srcset", "poster", "data", "action", "background"}


class _Page(HTMLParser):
    """What a page makes a browser fetch; a link that a reader may follow is none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._within = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._within = tag
        for name, value in attributes:
            fetching = name in _FETCHING or (tag in ("link", "use", "image") and name.endswith("href"))
            if fetching and _ELSEWHERE.match(value or ""):
                self.found.append(value or "")
            if name == "style":
                self.found += _IN_STYLES.findall(value or "")

    def handle_data(self, data: str) -> None:
        if self._within == "style":
            self.found += _IN_STYLES.findall(data)
        if self._within == "script":
            self.found += _IN_SCRIPTS.findall(data)

    def handle_endtag(self, tag: str) -> None:
        self._within = ""


def fetched(folder: Path) -> Iterator[str]:
    """Yield what the built pages, styles and scripts in a folder would fetch from another host."""
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".html", ".css", ".js", ".svg"):
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".html", ".svg"):
            page = _Page()
            page.feed(text)
            found = page.found
        else:
            found = (_IN_STYLES if path.suffix == ".css" else _IN_SCRIPTS).findall(text)
        yield from (f"{path.relative_to(folder)} fetches {each}" for each in found)


def build(folder: Path, source: Path = DOCS) -> str:
    """Build the pages into a folder; returns what Sphinx says is wrong."""
    with tempfile.TemporaryDirectory(prefix="dbml-doctrees-") as doctrees:
        strictly = ["-W", "--keep-going", "-n", "-q", "-E", "-b", "html", "-d", doctrees]
        done = subprocess.run(
            [sys.executable, "-m", "sphinx", *strictly, str(source), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            check=False,
        )
    return done.stdout if done.returncode else ""


def main(arguments: list[str]) -> int:
    """Build the pages and print what is wrong; returns 1 if anything is."""
    with tempfile.TemporaryDirectory(prefix="dbml-docs-") as temporary:
        folder = Path(arguments[0] if arguments else temporary).resolve()
        wrong = [*build(folder).splitlines(), *fetched(folder)]
        pages = len(list(folder.rglob("*.html")))
    print("\n".join(wrong) or f"{pages} pages, no warning, nothing fetched from another host")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
