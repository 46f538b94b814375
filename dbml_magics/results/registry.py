"""Registered models and their versions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dbml_magics.common.hints import Remedy, say
from dbml_magics.results.base import Result
from dbml_magics.results.html import Html, code, html_table, link, panel
from dbml_magics.results.text import opened, text_table

__all__ = ["ModelVersion", "ModelsResult", "RegisterResult"]


@dataclass(frozen=True, repr=False)
class ModelVersion(Result):
    """A registered version at one workspace; version "0" is provisional: its workspace is away."""

    workspace: str
    name: str
    version: str
    run_id: str | None = None
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    twin: str | None = None  # "<workspace>:<name>/<version>"
    created: int | None = None
    status: str = "READY"
    source: str = ""
    page: str | None = None  # in its workspace, where there is one

    @property
    def label(self) -> str:
        """Return the version in words; its workspace may not have numbered it yet."""
        numbered = f"version {self.version}" if self.version != "0" else "version not numbered yet"
        return f"{self.name} {numbered} ({self.workspace})"

    def text(self) -> str:
        """Return the version with its aliases and its twin."""
        parts = [self.label, *(f"@{alias}" for alias in self.aliases)]
        return "  ".join([*parts, f"twin {self.twin}"] if self.twin else parts)


@dataclass(frozen=True, repr=False)
class RegisterResult(Result):
    """The versions that ``register`` made, the link's first registry first."""

    name: str
    run_id: str | None
    versions: tuple[ModelVersion, ...]
    new_model: bool  # the name was new: this is version 1
    notes: tuple[str, ...] = ()  # why a version has no number yet

    def _headline(self) -> str:
        return f"Registered {self.name}" + (", a new model" if self.new_model else "")

    def _see(self) -> str:
        return say(Remedy("models", self.name))

    def text(self) -> str:
        """Return a line for each version that was made."""
        lines = [f"  {line}" for line in _version_lines(self.versions, with_name=False)]
        lines += [f"  {note}" for note in self.notes]
        lines += opened(_newest_pages(self.versions))
        return "\n".join([self._headline(), *lines, f"  see  {self._see()}"])

    def html(self) -> str:
        """Return the same as a table."""
        table = _version_html(self._headline(), self.versions, with_name=False)
        return panel(table, *self.notes, Html(f"see {code(self._see())}"))


@dataclass(frozen=True, repr=False)
class ModelsResult(Result):
    """Registered models (``name`` is None) or one model's versions."""

    name: str | None
    versions: tuple[ModelVersion, ...]  # without a name: the newest version of each model at each workspace
    notes: tuple[str, ...] = ()  # a registry that could not be asked
    loadable: str | None = None  # the URI by which the link loads the newest version

    def _headline(self) -> str:
        if not self.versions:
            return f"No versions of {self.name}" if self.name else "No registered models"
        return f"Versions of {self.name}" if self.name else "Registered models, the newest version of each"

    def _see(self) -> str:
        if not self.versions:
            return say(Remedy("register", "last", "NAME"))
        if self.name is None:
            return say(Remedy("models", self.versions[0].name))
        return f'mlflow.pyfunc.load_model("{self.loadable}")' if self.loadable else ""

    def _lines_see(self) -> list[str]:
        return [f"  see  {self._see()}"] if self._see() else []

    def __len__(self) -> int:
        return len(self.versions)

    def __iter__(self) -> Iterator[ModelVersion]:
        return iter(self.versions)

    def __getitem__(self, index: int) -> ModelVersion:
        return self.versions[index]

    def text(self) -> str:
        """Return a line for each version."""
        lines = [f"  {line}" for line in _version_lines(self.versions, with_name=self.name is None)]
        lines += opened(_newest_pages(self.versions)) if self.name is not None else []
        lines += [f"  {note}" for note in self.notes]
        return "\n".join([self._headline(), *lines, *self._lines_see()])

    def html(self) -> str:
        """Return the same as a table."""
        see = Html(f"see {code(self._see())}") if self._see() else ""
        if not self.versions:
            return panel(self._headline(), *self.notes, see)
        table = _version_html(self._headline(), self.versions, with_name=self.name is None)
        return panel(table, *self.notes, see)


def _newest_pages(versions: Iterable[ModelVersion]) -> dict[str, str]:
    """Return the page of each workspace's newest version; the versions come newest first."""
    pages: dict[str, str] = {}
    for version in versions:
        if version.page is not None:
            pages.setdefault(version.workspace, version.page)
    return pages


def _version_cells(versions: Iterable[ModelVersion], with_name: bool) -> tuple[list[str], list[list[str]]]:
    shown = list(versions)
    twins = any(version.twin for version in shown)
    headers = [*(["model"] if with_name else []), "workspace", "version", "aliases", "run"]
    rows = []
    for version in shown:
        cells = [version.name] if with_name else []
        cells += [version.workspace, version.version if version.version != "0" else "not numbered yet"]
        cells += [", ".join(version.aliases), (version.run_id or "")[:8]]
        rows.append([*cells, version.twin or ""] if twins else cells)
    return ([*headers, "twin"] if twins else headers), rows


def _version_lines(versions: Iterable[ModelVersion], *, with_name: bool) -> list[str]:
    headers, rows = _version_cells(versions, with_name)
    return text_table(headers, rows, indent="") if rows else []


def _version_html(caption: str, versions: Iterable[ModelVersion], *, with_name: bool) -> Html:
    shown = list(versions)
    headers, rows = _version_cells(shown, with_name)
    place = headers.index("version")
    for version, cells in zip(shown, rows, strict=True):
        if version.page is not None:
            cells[place] = link(cells[place], version.page)
    return html_table(caption, headers, rows)
