"""What operations carry of runs, models, versions and files, as JSON objects with these fields."""

from __future__ import annotations

from typing import TypedDict


class DatasetFacts(TypedDict):
    """A dataset input of a run: the fields of MLflow's entity that are set, and its tags."""

    dataset: dict[str, str]
    tags: dict[str, str]


class _Sized(TypedDict):
    size: int


class StoredFile(_Sized, total=False):
    """Where the journal keeps a file: in base64 in the line, or as a copy in the spool."""

    data: str
    spool: str


class RunFacts(TypedDict, total=False):
    """What this machine notes of a run that was begun or resumed here, under the ids that the user knows."""

    experiment: str
    user: str
    start: int
    name: str
    parent: str | None
    provisional: bool
    """The primary was away when it began: it has another id there."""
    ended: bool
    others: bool
    """Another process began it, and ends it."""
    curves: dict[str, list[float]]
    """A few points of some metrics, which a list of runs draws; noted as the run ends here."""


class ModelFacts(TypedDict, total=False):
    """What a logged model is created with, under the ids that the user knows."""

    id: str
    experiment: str
    name: str
    run: str | None
    foreign_run: str | None
    """The run as the user gave it, where it is none of the link's."""
    type: str | None
    params: dict[str, str]
    tags: dict[str, str]
    created: int
    updated: int


class VersionSource(TypedDict, total=False):
    """What a model version is made from; ``kind`` tells which of the other fields there are."""

    kind: str
    """``model`` (id, named), ``run`` (run, path), ``version`` (name, version, of) or ``uri`` (uri)."""
    id: str
    named: bool
    """The registration was asked for by the model's id."""
    run: str
    path: str
    name: str
    version: str
    of: str | None
    uri: str


class VersionFacts(TypedDict, total=False):
    """What a model version is registered with."""

    key: str
    name: str
    source: VersionSource
    run: str | None
    foreign_run: str | None
    tags: dict[str, str]
    run_link: str | None
    description: str | None
    to: list[str]
    after: dict[str, str]
    """{key: queue} of the registrations that go first."""
    only: str
    """The one registry that has yet to get it; it waits in a queue of its own."""
    queue: str
    """The queue of its run, where it waits in another one."""


class RegistryChange(TypedDict, total=False):
    """A change of a registered model or of one of its versions."""

    do: str
    name: str
    new_name: str
    old_name: str
    tags: dict[str, str]
    description: str | None
    key: str
    value: str
    version: str
    of: str | None
    """The key of the registration behind ``version``."""
    stage: str
    archive: bool
    alias: str
    own: bool
    """The link's own tag, which names the twin of a version."""
    tried: bool
    to: list[str]
    after: dict[str, str]
