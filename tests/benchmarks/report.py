"""Figures as tables: for the terminal, and for the README."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Figure", "Row", "Section", "markdown", "terminal"]


@dataclass(frozen=True)
class Figure:
    """A number with so many decimals, or a text."""

    number: float | None = None
    decimals: int = 0
    text: str = ""

    def __str__(self) -> str:
        return self.text if self.number is None else f"{self.number:,.{self.decimals}f}"


@dataclass(frozen=True)
class Row:
    """One thing that was measured, or why it was not; the last columns may be left out."""

    label: str
    figures: tuple[Figure, ...] = ()
    problem: str = ""
    absent: bool = False  # not measured because an optional library is not installed: no failure


@dataclass
class Section:
    """Rows under the same columns."""

    title: str
    columns: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Append a row."""
        self.rows.append(row)

    @property
    def failed(self) -> bool:
        """Tell whether something could not be measured that should have been."""
        return any(row.problem and not row.absent for row in self.rows)


def terminal(sections: list[Section]) -> str:
    """Return aligned tables: labels to the left, figures to the right."""
    lines: list[str] = []
    for section in sections:
        cells = [[str(figure) for figure in row.figures] for row in section.rows]
        label_width = max(len(text) for text in (section.title, *(f"  {row.label}" for row in section.rows)))
        widths = [
            max([len(column), *(len(row[number]) for row in cells if number < len(row))])
            for number, column in enumerate(section.columns)
        ]

        def line(
            label: str, values: Sequence[str], width: int = label_width, widths: list[int] = widths
        ) -> str:
            aligned = (value.rjust(size) for value, size in zip(values, widths, strict=False))
            return "  ".join([label.ljust(width), *aligned]).rstrip()

        lines += ["", line(section.title, section.columns)]
        for row, values in zip(section.rows, cells, strict=True):
            if row.problem:
                lines.append(f"{f'  {row.label}'.ljust(label_width)}  not measured: {row.problem}")
            else:
                lines.append(line(f"  {row.label}", values))
    return "\n".join(lines)


def markdown(sections: list[Section]) -> str:
    """Return the tables in Markdown."""
    lines: list[str] = []
    for section in sections:
        lines += ["", f"| {section.title} | " + " | ".join(section.columns) + " |"]
        lines.append("|---|" + "---:|" * len(section.columns))
        for row in section.rows:
            values = [str(figure) for figure in row.figures]
            if row.problem:
                values = [f"not measured: {row.problem}"]
            values += [""] * (len(section.columns) - len(values))
            lines.append(f"| {row.label} | " + " | ".join(values) + " |")
    return "\n".join(lines).lstrip()
