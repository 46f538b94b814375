"""What commands return: frozen values with a text form and an HTML form.

Each is usable as a Python value (``runs = %dbml runs``); showing them is the display hook's and ``display.py``'s.
Times are milliseconds since the epoch, durations seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Destination",
    "ExperimentResult",
    "LinkStatus",
    "MetricSummary",
    "ModelVersion",
    "ModelsResult",
    "RegisterResult",
    "RunRow",
    "RunsResult",
    "SyncResult",
    "TrackSummary",
    "UnlinkResult",
]


@dataclass(frozen=True)
class Destination:
    """One workspace of the link, and how far delivery to it has come."""

    name: str  # databricks or azureml: its role
    kind: str  # databricks, azureml or mlflow
    uri: str  # masked: never a user name or password
    place: str  # for people: "local  .dbml/azureml", "http://host:5000"
    pending: int = 0  # writes on their way
    lag_seconds: float = 0.0  # age of the oldest write on its way
    last_error: str | None = None  # why delivery waits; None when the last attempt was fine
    away: bool = False  # known to be unreachable
    dead: int = 0  # writes that the workspace refused for good
    tracked: bool = True  # runs go there; False for a workspace that is only a registry
    delivered: int = 0  # writes delivered since the link was made by this process


@dataclass(frozen=True)
class LinkStatus:
    """Where tracking goes, what is still on its way, how far behind."""

    uri: str
    track: str  # both, databricks or azureml
    registry: str  # databricks, azureml or both
    mode: str  # journal or sync
    destinations: tuple[Destination, ...]
    folder: str  # the folder that the link belongs to
    experiment: str | None = None
    notes: tuple[str, ...] = ()  # one line each: provisional versions' final numbers, older links' leftovers
    fresh: bool = False  # made by this very command: shown as "Linked: …"


@dataclass(frozen=True)
class UnlinkResult:
    """What unlinking restored, and what is still undelivered."""

    tracking_uri: str  # restored
    registry_uri: str  # restored
    undelivered: Mapping[str, int]  # workspace -> writes that wait in the journal


@dataclass(frozen=True)
class ExperimentResult:
    """The experiment that runs go to, under each workspace's own name."""

    name: str
    experiment_id: str
    names: Mapping[str, str]  # workspace -> its name there
    created: bool


@dataclass(frozen=True)
class MetricSummary:
    """A metric's last value and a thinned curve of it."""

    key: str
    last: float
    count: int
    curve: tuple[float, ...] = ()


@dataclass(frozen=True)
class RunRow:
    """One run."""

    run_id: str
    name: str
    experiment: str
    status: str
    start_time: int
    end_time: int | None
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    undelivered: Mapping[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """Return the run's duration in seconds, or None while it runs."""
        return None if self.end_time is None else (self.end_time - self.start_time) / 1000


@dataclass(frozen=True)
class RunsResult:
    """Runs, newest first unless ordered otherwise."""

    rows: tuple[RunRow, ...]
    experiment: str
    note: str = ""  # e.g. how many writes are missing from the answer

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[RunRow]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> RunRow:
        return self.rows[index]

    def to_pandas(self) -> Any:
        """Return the runs as a DataFrame, params and metrics as columns ``params.*`` and ``metrics.*``."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "run_id": row.run_id,
                    "name": row.name,
                    "experiment": row.experiment,
                    "status": row.status,
                    "start_time": pd.Timestamp(row.start_time, unit="ms", tz="UTC"),
                    "seconds": row.seconds,
                    **{f"params.{k}": v for k, v in row.params.items()},
                    **{f"metrics.{k}": v for k, v in row.metrics.items()},
                }
                for row in self.rows
            ]
        )


@dataclass(frozen=True)
class ModelVersion:
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


@dataclass(frozen=True)
class RegisterResult:
    """The versions that ``register`` made, the link's first registry first."""

    name: str
    run_id: str | None
    versions: tuple[ModelVersion, ...]
    new_model: bool  # the name was new: this is version 1


@dataclass(frozen=True)
class ModelsResult:
    """Registered models (``name`` is None) or one model's versions."""

    name: str | None
    versions: tuple[ModelVersion, ...]  # without a name: the newest version of each model at each workspace


@dataclass(frozen=True)
class SyncResult:
    """What ``sync`` delivered, and what remains (nothing, unless its time was up)."""

    delivered: Mapping[str, int]
    remaining: Mapping[str, int]
    seconds: float
    dead: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TrackSummary:
    """What a ``%%track`` cell (or ``dbml.track``) recorded."""

    run_id: str
    name: str
    experiment: str
    status: str
    seconds: float
    params: Mapping[str, str]
    metrics: tuple[MetricSummary, ...]
    artifacts: tuple[str, ...]
    models: tuple[str, ...]  # names of the models logged
    registered: tuple[ModelVersion, ...]
    destinations: tuple[Destination, ...]
    notes: tuple[str, ...] = ()  # overflow, provisional ids, refused writes: one line each
    links: Mapping[str, str] = field(default_factory=dict)  # workspace -> the run's page, where there is one
