"""Which points of a run are at a workspace already, when a batch that may have arrived is in doubt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from dbml_magics.core.delivery.writers.ids import Ids
from dbml_magics.core.delivery.writers.reader import Reader
from dbml_magics.core.destinations.errors import Unavailable, classify_error, is_missing
from dbml_magics.core.destinations.protocol import Destination, Point
from dbml_magics.core.mlflow_private import metric_points
from dbml_magics.core.run_view import Mark, mark


@dataclass(eq=False)
class PointsThere:
    """The points that runs have at one workspace, as found while they were in doubt and sent since.

    Runs are named by the workspace's own ids.
    """

    destination: Destination
    ids: Ids
    reader: Reader
    _there: dict[str, dict[str, set[Mark]]] = field(default_factory=dict, init=False)

    def forget(self, run_id: str) -> None:
        """Ask anew for the points of a run at the next doubt."""
        self._there.pop(run_id, None)

    def forget_run(self, run: str) -> None:
        """Ask anew for the points of a run, by the user's id."""
        if self.ids.has_run(run):
            self.forget(self.ids.known_run(run))

    def note_sent(self, run_id: str, marks: Mapping[str, list[Mark]]) -> None:
        """Note points that a run was sent, by metric."""
        for key, there in self._there.get(run_id, {}).items():
            there.update(marks.get(key, ()))

    def missing(self, run_id: str, points: list[Point]) -> list[Point]:
        """Return those of some points of a run, or of its models, that are not here; asks for them."""
        of_models, of_run = self._by_model(points)
        missing = [
            point
            for model, some in of_models.items()
            for point in self._missing_at_model(run_id, model, some)
        ]
        # In the order in which they came: a workspace may call the last of them the latest.
        missing += self._missing_at_run(run_id, of_run)
        wanted = {id(point) for point in missing}
        return [point for point in points if id(point) in wanted]

    def without_copies(self, run_id: str, points: list[Point]) -> list[Point]:
        """Leave out a model's copies of what its run has: without logged models both are the run's.

        ``log_model`` logs the points of its run once more, for the model.
        """
        kept = self.kept_of(points)
        of_run = [p for p in points if model_of(p) not in kept]
        seen = {(p[0], mark(*p[1:4])) for p in of_run}
        others = {(p[0], mark(*p[1:4])): p for p in points}
        new = [point for key, point in others.items() if key not in seen]
        wanted = {id(point) for point in (*of_run, *self._missing_at_run(run_id, new))}
        return [point for point in points if id(point) in wanted]

    def kept_of(self, points: list[Point]) -> set[str]:
        """Return which of the models of some points we keep."""
        named = {model_of(point) for point in points}
        return {model for model in named if model and self.ids.emulated.keeps(model)}

    def _by_model(self, points: list[Point]) -> tuple[dict[str, list[Point]], list[Point]]:
        of_models: dict[str, list[Point]] = {}
        of_run, kept = [], self.kept_of(points)
        for point in points:
            model = model_of(point)
            # MLflow's own server tells a model's NaN as 0, and refuses one that its run has.
            if model and model not in kept and point[1] == point[1]:
                of_models.setdefault(model, []).append(point)
            else:
                of_run.append(point)
        return of_models, of_run

    def _missing_at_model(self, run_id: str, model: str, points: list[Point]) -> list[Point]:
        # A run's history does not say for which model a point was logged; the model does.
        try:
            logged = self.ids.logged_model(self.ids.model_at(model).actual).metrics or []
        except MlflowException as error:
            if isinstance(classify_error(error), Unavailable) or not is_missing(error):
                raise
            return points  # there is no such model here: they are refused one by one
        there = {
            (m.key, mark(m.value, m.timestamp, m.step), m.dataset_name or None, m.dataset_digest or None)
            for m in logged
            if not m.run_id or m.run_id == run_id
        }
        return [p for p in points if (p[0], mark(*p[1:4]), p[4][1] or None, p[4][2] or None) not in there]

    def _missing_at_run(self, run_id: str, points: list[Point]) -> list[Point]:
        if not points:
            return []
        given: dict[str, set[Mark]] = {}
        for point in points:
            given.setdefault(point[0], set()).add(mark(*point[1:4]))
        there, known = self._there.setdefault(run_id, {}), dict[str, set[Mark]]()
        asked = [key for key in given if key not in there]
        # get_run, for a search lags behind on metrics (azure-sdk-for-python#39198).
        latest = latest_of(self.destination.get_run(run_id)) if asked else {}
        for key in asked:
            if given[key] == {latest.get(key)}:
                known[key] = given[key]
            elif key not in latest:
                there[key] = set()
            else:  # only a metric that has other points needs a request of its own
                there[key] = {mark(m.value, m.timestamp, m.step) for m in self.reader.history(run_id, key)}
        return [p for p in points if mark(*p[1:4]) not in (known.get(p[0]) or there[p[0]])]


def latest_of(run: Run) -> dict[str, Mark]:
    """Return the latest point of each metric, as a run's workspace tells it."""
    return {m.key: mark(m.value, m.timestamp, m.step) for m in metric_points(run)}


def model_of(point: Point) -> str | None:
    """Return the model for which a point was logged, or None: it is the run's alone."""
    return point[4][0] or None if len(point) > 4 and point[4] is not None else None
