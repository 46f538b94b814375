"""Operations: one class for each kind of write to a link, with its form in the journal and its words.

A journal line holds ``[stamp, code, …]``: ``stamp`` orders the writes of a queue, ``code`` names the kind,
and the kind's fields follow. Dead letters keep the same list. No other module reads codes or positions.

A training logs points by the million. ``point_of`` reads one and ``encoded_point`` writes one without an
object of its own; both are tested against :class:`LogMetric`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard, TypeVar

from dbml_magics.core.model.facts import DatasetFacts, ModelFacts, RegistryChange, StoredFile, VersionFacts
from dbml_magics.results.text import count

Line = list[Any]
"""A write as the journal holds it: ``[stamp, code, …]``."""
Point = Sequence[Any]
"""A metric's key, value, time and step; of a logged model's point [model, dataset name, digest], too."""

_NAMED = 3  # keys that words for a batch name
DAMAGED = (IndexError, KeyError, TypeError, ValueError, AttributeError)
"""What reading the fields of a damaged line raises."""


class Operation:
    """A write to a link; subclasses are its kinds."""

    __slots__: tuple[str, ...] = ()

    code: str
    words: ClassVar[str] = ""
    """Words for a kind whose operations differ in nothing that a reader looks for."""
    noun: ClassVar[str] = ""
    """What a label calls the kind, before the operation's first field."""

    @property
    def kind(self) -> type[Operation]:
        """Return the kind of write."""
        return type(self)

    def fields(self) -> Line:
        """Return what follows the code in the journal."""
        return self._fields()

    def encode(self, stamp: int = 0) -> Line:
        """Return the operation as the journal holds it."""
        return [stamp, self.code, *self._fields()]

    def meant_for(self, role: str) -> bool:
        """Tell whether a workspace has yet to get the write."""
        del role
        return True

    def describe(self) -> str:
        """Return the operation in words, without its values: a param may be long, or private."""
        try:
            return self._words()
        except DAMAGED:
            return self._plain()

    def label(self) -> str:
        """Return the operation in a few words, for the message of a refusal."""
        name = next(iter(self._fields()), "")
        if isinstance(name, dict):
            name = name.get("path") or name.get("name") or ""
        return f"{self.kind.noun or f'a write ({self.code})'} {name}".strip()

    # --- what kinds do otherwise

    def _fields(self) -> Line:
        return [getattr(self, name) for name in self.__slots__]

    @classmethod
    def _read(cls, given: Line) -> Operation:
        """Return the operation with these fields. Raises one of DAMAGED where they are not this kind's."""
        return cls(*given[: len(cls.__slots__)])

    def _words(self) -> str:
        return self._plain()

    def _plain(self) -> str:
        return self.kind.words or f"a write ({self.code})"


class _Addressed(Operation):
    """A write that names the workspaces that have yet to get it; a line of the first release names none."""

    __slots__ = ()

    to: list[str] | None

    def _fields(self) -> Line:
        found = Operation._fields(self)
        return found[:-1] if self.to is None else found

    def meant_for(self, role: str) -> bool:
        return self.to is None or role in self.to


class _Keyed(Operation):
    """A write whose fields stand in one object, under their names; some may be missing in it."""

    __slots__: tuple[str, ...] = ()

    def _fields(self) -> Line:
        return [{name: getattr(self, name) for name in self.__slots__}]

    @classmethod
    def _read(cls, given: Line) -> Operation:
        fields: dict[str, Any] = {n: value for n, value in given[0].items() if n in cls.__slots__}
        return cls(**fields)


# --- metrics, params and tags of runs


@dataclass(frozen=True, slots=True)
class LogMetric(Operation):
    """One point of a metric."""

    code = "m"
    noun = "metric"

    key: str
    value: float
    time: int
    step: int
    extra: Sequence[str | None] | None = None

    def _fields(self) -> Line:
        point = [self.key, self.value, self.time, self.step]
        return point if self.extra is None else [*point, self.extra]

    def _words(self) -> str:
        return f"metric {self.key} at step {self.step}"


@dataclass(frozen=True, slots=True)
class LogParam(Operation):
    """One param."""

    code = "p"
    noun = "param"

    key: str
    value: str

    def _words(self) -> str:
        return f"param {self.key}"


@dataclass(frozen=True, slots=True)
class SetTag(Operation):
    """One tag."""

    code = "g"
    noun = "tag"

    key: str
    value: str

    def _words(self) -> str:
        return f"tag {self.key}"


@dataclass(frozen=True, slots=True)
class SetTagAt(Operation):
    """One tag for some workspaces: what a run was made without there."""

    code = "t"

    to: list[str]
    key: str
    value: str

    def _words(self) -> str:
        return f"tag {self.key}"


@dataclass(frozen=True, slots=True)
class LogBatch(Operation):
    """Points, params and tags of one call."""

    code = "b"

    points: Sequence[Point]
    params: dict[str, str]
    tags: dict[str, str]

    def _words(self) -> str:
        keys = list(dict.fromkeys(point[0] for point in self.points))
        named = f"{', '.join(keys[:_NAMED])}{', …' if keys[_NAMED:] else ''}"
        parts = [f"{count(len(self.points), 'point')} of {named}"] if self.points else []
        return ", ".join([*parts, *_some("param", self.params), *_some("tag", self.tags)])

    def label(self) -> str:
        """Return how many things the batch holds."""
        amount = len(self.points) + len(self.params) + len(self.tags)
        return f"{amount:,} metrics, params and tags"


def _some(kind: str, given: Mapping[str, str]) -> list[str]:
    more = [f"{len(given) - _NAMED} more {kind}s"] if len(given) > _NAMED else []
    return [*(f"{kind} {key}" for key in list(given)[:_NAMED]), *more]


@dataclass(frozen=True, slots=True)
class DeleteTag(Operation):
    """The removal of a tag."""

    code = "G"

    key: str

    def _words(self) -> str:
        return f"the removal of tag {self.key}"


# --- runs


@dataclass(frozen=True, slots=True)
class CreateRun(_Keyed):
    """A run's creation."""

    code = "c"
    words = "the run itself"

    experiment: str
    user: str
    start: int
    tags: dict[str, str]


@dataclass(frozen=True, slots=True)
class UpdateRun(_Keyed):
    """A run's new status, with its end, or its new name."""

    code = "u"
    words = "the run's status or name"

    status: str | None = None
    end: int | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class DeleteRun(_Addressed):
    """A run's deletion."""

    code = "x"
    words = "the run's deletion"

    to: list[str] | None = None


@dataclass(frozen=True, slots=True)
class RestoreRun(_Addressed):
    """A run's restoration."""

    code = "r"
    words = "the run's restoration"

    to: list[str] | None = None


@dataclass(frozen=True, slots=True)
class LogInputs(_Keyed):
    """Datasets and logged models that a run takes."""

    code = "i"
    words = "the run's inputs"

    datasets: list[DatasetFacts]
    models: list[str]


@dataclass(frozen=True, slots=True)
class LogOutputs(Operation):
    """Logged models that a run made: model -> step."""

    code = "o"
    words = "the run's outputs"

    steps: dict[str, int]


@dataclass(frozen=True, slots=True)
class LogArtifact(Operation):
    """The upload of a file."""

    code = "a"
    noun = "artifact"

    owner: str
    """``run:<id>`` or ``model:<id>``."""
    path: str
    file: StoredFile

    def _fields(self) -> Line:
        return [{"owner": self.owner, "path": self.path, **self.file}]

    @classmethod
    def _read(cls, given: Line) -> LogArtifact:
        file: Any = dict(given[0])
        owner, path = file.pop("owner"), file.pop("path")
        return cls(owner, path, file)

    def _words(self) -> str:
        return f"artifact {self.path}"


@dataclass(frozen=True, slots=True)
class CopyFiles(Operation):
    """The copy of what a run had before the link to one workspace: its files, and what hangs on it."""

    code = "K"
    noun = "the earlier files of the run for"

    role: str


# --- experiments


@dataclass(frozen=True, slots=True)
class CreateExperiment(_Keyed):
    """An experiment; the state file names what a line leaves out."""

    code = "E"
    words = "an experiment"

    id: str
    name: str | None = None
    tags: dict[str, str] | None = None

    def _fields(self) -> Line:
        return [{key: value for key, value in _Keyed._fields(self)[0].items() if value is not None}]


@dataclass(frozen=True, slots=True)
class ChangeExperiment(_Keyed, _Addressed):
    """A change of an experiment: ``do`` is tag (key, value), untag (key), rename (name), delete, restore."""

    code = "e"

    do: str
    id: str
    key: str | None = None
    value: str | None = None
    name: str | None = None
    to: list[str] | None = None
    tried: bool | None = None
    """The primary may have carried it out, its answer lost."""

    def _fields(self) -> Line:
        own = {"tag": ("key", "value"), "untag": ("key",), "rename": ("name",)}.get(self.do, ())
        fields = {name: getattr(self, name) for name in ("do", "id", *own)}
        asked = {"to": self.to, "tried": self.tried}
        return [{**fields, **{name: value for name, value in asked.items() if value is not None}}]

    def _words(self) -> str:
        return f"{self.do} of an experiment"


# --- logged models


@dataclass(frozen=True, slots=True)
class CreateModel(Operation):
    """A logged model."""

    code = "L"
    noun = "model"

    facts: ModelFacts

    def _words(self) -> str:
        return f"model {self.facts['name']}"


@dataclass(frozen=True, slots=True)
class FinalizeModel(Operation):
    """A logged model's final status."""

    code = "F"
    words = "the status of a model"

    model: str
    status: str


@dataclass(frozen=True, slots=True)
class SetModelTags(_Addressed):
    """Tags of a logged model."""

    code = "T"
    words = "tags of a model"

    model: str
    tags: dict[str, str]
    to: list[str] | None = None


@dataclass(frozen=True, slots=True)
class DeleteModelTag(_Addressed):
    """The removal of a logged model's tag."""

    code = "D"
    words = "a tag's removal from a model"

    model: str
    key: str
    to: list[str] | None = None


@dataclass(frozen=True, slots=True)
class LogModelParams(_Addressed):
    """Params of a logged model."""

    code = "P"
    words = "params of a model"

    model: str
    params: dict[str, str]
    to: list[str] | None = None


@dataclass(frozen=True, slots=True)
class DeleteModel(_Addressed):
    """A logged model's deletion."""

    code = "X"
    words = "the deletion of a model"

    model: str
    to: list[str] | None = None


# --- registries


@dataclass(frozen=True, slots=True)
class RegisterVersion(Operation):
    """The registration of a model version."""

    code = "V"
    noun = "the registration of"

    facts: VersionFacts

    def _words(self) -> str:
        return f"the registration of {self.facts['name']}"


@dataclass(frozen=True, slots=True)
class ChangeRegistry(Operation):
    """A change of a registered model, of a version or of an alias."""

    code = "W"

    change: RegistryChange

    def _words(self) -> str:
        return f"{str(self.change['do']).replace('_', ' ')} of model {self.change['name']}"


# --- delivery's own


@dataclass(frozen=True, slots=True)
class RetryDeadLetter(Operation):
    """Another try of one dead letter of one workspace."""

    code = "d"

    role: str
    number: int


@dataclass(frozen=True, slots=True)
class DamagedLine(Operation):
    """A line that cannot be read, as a dead letter keeps it."""

    code = "?"
    words = "a damaged line of the journal"

    text: str


# --- what no operation can be read from


@dataclass(frozen=True, slots=True)
class Malformed(Operation):
    """A write of a known kind whose fields are not that kind's."""

    code: str
    rest: Line
    cause: str

    @property
    def kind(self) -> type[Operation]:
        return _BY_CODE[self.code]

    def _fields(self) -> Line:
        return self.rest


@dataclass(frozen=True, slots=True)
class Unknown(Operation):
    """A write of a kind that this release does not know: a newer one made it."""

    code: Any
    rest: Line

    def _fields(self) -> Line:
        return self.rest


Item = LogMetric | LogParam | SetTag
"""A write of one metric, param or tag: what a refused batch is split into."""
ModelChange = SetModelTags | DeleteModelTag | LogModelParams | DeleteModel
BATCHED: tuple[type[Operation], ...] = (LogMetric, LogParam, SetTag, LogBatch, SetTagAt)
"""The kinds that travel in batches: metrics, params and tags."""
KINDS: tuple[type[Operation], ...] = (
    *BATCHED,
    DeleteTag,
    CreateRun,
    UpdateRun,
    DeleteRun,
    RestoreRun,
    LogInputs,
    LogOutputs,
    LogArtifact,
    CopyFiles,
    CreateExperiment,
    ChangeExperiment,
    CreateModel,
    FinalizeModel,
    SetModelTags,
    DeleteModelTag,
    LogModelParams,
    DeleteModel,
    RegisterVersion,
    ChangeRegistry,
    RetryDeadLetter,
    DamagedLine,
)
_BY_CODE: dict[object, type[Operation]] = {kind.code: kind for kind in KINDS}
_METRIC = LogMetric.code
_PLAIN = 4  # fields of a point that is of no logged model

K = TypeVar("K", bound=Operation)


def decode(line: Line) -> Operation:
    """Return the operation in a line; one that cannot be read is Malformed or Unknown."""
    code, rest = line[1], line[2:]
    kind = _BY_CODE.get(code) if isinstance(code, str) else None
    if kind is None:
        return Unknown(code, rest)
    try:
        return kind._read(rest)
    except DAMAGED as error:
        return Malformed(code, rest, str(error))


def is_line(value: object) -> TypeGuard[Line]:
    """Tell whether this is a stamp with a code and perhaps fields, whatever these are."""
    return isinstance(value, list) and len(value) >= 2 and isinstance(value[0], int)


def stamp_of(line: Line) -> int:
    """Return what orders a line among its queue's."""
    stamp: int = line[0]
    return stamp


def read_as(kind: type[K], line: Line | None) -> K | None:
    """Return the operation in a line if it is of a kind; another kind's line is not decoded."""
    if line is None or line[1] != kind.code:
        return None
    found = decode(line)
    return found if isinstance(found, kind) else None


def point_of(line: Line) -> tuple[Any, ...] | None:
    """Return the fields of a line with one point, unchecked; None for another line."""
    return tuple(line[2:]) if line[1] == _METRIC and len(line) >= 2 + _PLAIN else None


def encoded_point(key: str, value: float, time: int, step: int, extra: Sequence[str | None] | None) -> str:
    """Return the JSON of a point's line behind its stamp; ``key`` is JSON already."""
    if value - value == 0.0:
        text = repr(value)
    else:
        text = "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    tail = "]" if extra is None else f",{json.dumps(extra)}]"
    return f',"{_METRIC}",{key},{text},{time},{step}{tail}'
