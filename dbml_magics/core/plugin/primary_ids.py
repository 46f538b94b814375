"""Translation of ids in calls that go to the primary unseen: its runs have other ids after an outage."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from mlflow.entities import Trace, TraceInfo
from mlflow.tracing.constant import TraceMetadataKey
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION

from dbml_magics.core.model.ids import names_nothing_yet
from dbml_magics.core.runtime.engine import Engine

_HEX = re.compile(r"\b[0-9a-f]{32}\b")


class PrimaryIds:
    """Translates arguments to the primary's ids of runs and experiments, and answers back to the user's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of_primary(self, value: Any) -> Any:
        """Return arguments with the ids in them as the primary knows them."""
        if isinstance(value, str):
            kind = "run" if _HEX.fullmatch(value) else "experiment" if names_nothing_yet(value) else None
            engine = self._engine
            known = engine.state.identity(engine.link.primary, kind, value) if kind else None
            return known.actual if known else value
        if isinstance(value, TraceInfo):
            translated = copy.deepcopy(value)
            _rename(translated, self.of_primary, self.of_primary)
            return translated
        if isinstance(value, (list, tuple)):
            return type(value)([self.of_primary(each) for each in value])
        return {k: self.of_primary(v) for k, v in value.items()} if type(value) is dict else value

    def of_user(self, answer: Any) -> Any:
        """Return an answer with the user's ids in its traces, and their files behind the link.

        MLflow looks for the files through the global tracking URI, which is no server's.
        """
        if isinstance(answer, (TraceInfo, Trace)):
            info = answer if isinstance(answer, TraceInfo) else answer.info
            _rename(info, self._engine.ids.experiment, self._engine.ids.run)
            place = info.tags.get(MLFLOW_ARTIFACT_LOCATION)
            if place and not place.startswith("dbml:"):
                link = self._engine.link
                behind = f"dbml://{link.key}/at/{link.primary}/{quote(place, safe='')}"
                info.tags[MLFLOW_ARTIFACT_LOCATION] = behind
        elif isinstance(answer, (list, tuple)):
            for each in answer:
                self.of_user(each)
        return answer


def _rename(info: TraceInfo, experiment: Callable[[str], str], run: Callable[[str], str]) -> None:
    """Translate the ids of a trace's experiment and run, in place."""
    place = info.trace_location.mlflow_experiment
    if place is not None:
        place.experiment_id = experiment(place.experiment_id)
    source = info.trace_metadata.get(TraceMetadataKey.SOURCE_RUN)
    if source:
        info.trace_metadata[TraceMetadataKey.SOURCE_RUN] = run(source)
