"""An order to score: the model, what is asked of it, and the error where it fails."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dbml_magics.common.hints import Remedy, say
from dbml_magics.core.model.mlmodel import ColumnSpec, MLmodel, Params
from dbml_magics.core.scoring import outputs
from dbml_magics.core.scoring.carried.plan import MARK, Plan
from dbml_magics.core.scoring.columns import Match
from dbml_magics.core.scoring.types import with_zone
from dbml_magics.errors import BadData, DbmlError, ScoringFailed

if TYPE_CHECKING:
    import pyarrow as pa

HELP = (Remedy("help", "score"), "what it takes")


@dataclass(frozen=True)
class Order:
    """What is asked for, and the model that it is asked of."""

    label: str
    identity: str
    files: Path
    mlmodel: MLmodel
    inputs: list[ColumnSpec]
    where: str | None
    columns: tuple[str, ...]
    column: str
    result: pa.DataType | None  # an Arrow type; None for MLlib, which says it itself
    skip: bool
    target: outputs.Target | None
    checkpoint: str | None
    available_now: bool
    environment: Mapping[str, str]
    notes: tuple[str, ...]
    params: Params
    line: Remedy  # the command, for messages

    @property
    def mllib(self) -> bool:
        """Tell whether Spark runs the model itself."""
        return "spark" in (self.mlmodel.get("flavors") or {})

    def noted(self, *said: str | None) -> Order:
        """Return the order with more notes."""
        return replace(self, notes=(*self.notes, *(each for each in said if each)))

    def plan(
        self,
        found: Match,
        *,
        path: str | None = None,
        archive: str | None = None,
        zone: str,
        zoned: bool = True,
    ) -> Plan:
        """Return what a worker has to know, for the columns that were found."""
        return Plan(
            identity=self.identity,
            path=path,
            archive=archive,
            columns=found.columns,
            names=found.names,
            wanted=found.wanted,
            shape=found.shape,
            output=self.column,
            result=with_zone(self.result, zone) if zoned and self.result is not None else self.result,
            skip=self.skip,
            zone=zone,
            environment=self.environment,
            params=self.params,
        )

    def failed(self, error: BaseException) -> DbmlError:
        """Return the error of a failed job, without Java's stack trace."""
        from dbml_magics.core.scoring.spark import first_line

        said = str(error)
        if MARK in said:
            cause = said.partition(MARK)[2].strip().splitlines()[0].strip()
            remedies: list[tuple[str, str]] = [HELP]
            whole = ("refuses every row", "cannot be loaded", "takes no params")  # not about some rows
            if not self.skip and not any(words in cause for words in whole):
                remedies = [
                    (
                        self.line.but(on_error="null"),
                        "gives null to the rows that the model refuses",
                    )
                ]
            if "--result-type" in cause:
                cause, _, wish = cause.partition(": --result-type")
                remedies = [(self.line.but(result_type=wish.strip()), "takes it as it is")]
            return ScoringFailed(f"{self.label} did not score: {cause}.", remedies=remedies)
        if isinstance(error, ValueError):
            return BadData(f"{said}.", remedies=[HELP])
        if importlib.util.find_spec("pyspark") is not None:
            lines = [
                line.strip() for line in said.splitlines() if ("Error: " in line or "Exception: " in line)
            ]
            if "PythonException" in type(error).__name__ and lines:
                return ScoringFailed(f"{self.label} did not score: {lines[-1][:400]}.", remedies=[HELP])
        cause = first_line(error)
        if self.mllib:
            # In a line: the rest of Spark's words is about options of the stage, which nobody has in hand.
            cause = cause.partition(" Consider ")[0]
            if not self.skip:
                lacking = (
                    self.line.but(on_error="null"),
                    "gives null to the rows that lack one of the model's columns",
                )
                return ScoringFailed(f"{self.label} did not score: {cause}.", remedies=[lacking])
        return ScoringFailed(f"{self.label} did not score: {cause}.", remedies=[HELP])


def in_a_line(error: DbmlError) -> str:
    """Return an error and its first remedy in one line."""
    if not error.remedies or error.remedies[0] == HELP:
        return error.message
    line, why = error.remedies[0]
    return f"{error.message.rstrip('.')}; {say(line)} {why}"
