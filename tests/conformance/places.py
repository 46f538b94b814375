"""The three servers of a comparison, and what stands at each when the stories are over."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import requests
from mlflow.entities import LoggedModel, ViewType
from mlflow.exceptions import MlflowException

import dbml_magics as dbml
from dbml_magics.errors import DbmlError
from dbml_magics.results.reconcile import Difference
from tests.conformance.player import Played, Player, Story, slug
from tests.conformance.values import Frozen, Names, freeze, tree
from tests.infra import plain
from tests.infra.proxy import Proxy
from tests.infra.servers import Server

PATIENCE = 60.0  # seconds that a story's writes may take until they are delivered
AWAY_BUDGET_S = 5.0  # that a story waits for a primary that it took away
SETTINGS = {
    "DBML_LINGER": "0.02",
    "DBML_IDENTITY_BUDGET": str(PATIENCE),  # on a crowded machine a server is slow, and not away
    "DBML_LONGEST_PAUSE": "0.5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT": "1",  # a process that imports everything once more
}
OWN = "dbml_"  # what begins so is the link's own note


@dataclass
class Linked:
    """What came of a story through the link, beside its answers."""

    played: Played
    refused: list[str] = field(default_factory=list)  # dead letters
    stuck: str = ""  # why not everything was delivered
    differing: list[str] = field(default_factory=list)  # what verify says
    warned: list[str] = field(default_factory=list)


class Warned(logging.Handler):
    """Keeps what the link warns of, which is printed beside a deviation."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def quiet() -> Iterator[list[str]]:
    """Let MLflow and the link neither warn nor print; gives the list of what the link warns of."""
    mlflows, links = logging.getLogger("mlflow"), logging.getLogger("dbml_magics")
    level, propagates, warned = mlflows.level, links.propagate, Warned()
    nowhere = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        warnings.simplefilter("ignore")
        mlflows.setLevel(logging.CRITICAL)
        links.propagate = False
        links.addHandler(warned)
        try:
            yield warned.lines
        finally:
            mlflows.setLevel(level)
            links.propagate = propagates
            links.removeHandler(warned)


@contextlib.contextmanager
def settings(folder: Path, **more: str) -> Iterator[None]:
    """Set what makes a link quick, and a home for it; put the environment and the folder back."""
    before, where = dict(os.environ), os.getcwd()
    os.environ.update(SETTINGS, DBML_HOME=str(folder / "home"), **more)
    (folder / "home").mkdir(exist_ok=True)
    (folder / "work").mkdir(exist_ok=True)
    os.chdir(folder / "work")
    try:
        yield
    finally:
        os.chdir(where)
        for name in [*os.environ]:
            if name not in before:
                del os.environ[name]
        os.environ.update(before)


def forget() -> None:
    """Forget what MLflow's fluent calls keep in the process: active runs, experiment and model."""
    from mlflow.tracking import fluent

    while mlflow.active_run() is not None:
        mlflow.end_run()
    mlflow.clear_active_model()
    fluent._active_experiment_id = None
    fluent._last_active_run_id.set(None)
    fluent._last_logged_model_id.set(None)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        os.environ.pop(name, None)


class PlainPlace:
    """The plain server, as what MLflow's fluent calls go to."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder

    def play(self, story: Story) -> Played:
        """Play a story, and ask once more what it asked last."""
        with settings(self.folder), quiet():
            mlflow.set_tracking_uri(self.server.uri)
            mlflow.set_registry_uri(self.server.uri)
            player = Player(story.name, plain.client(self.server.uri), _folder(self.folder))
            played = player.tell(story)
            player.read_again()
            forget()
            mlflow.set_tracking_uri(None)
            mlflow.set_registry_uri(None)
        return played


class LinkedPlace:
    """A link to two servers, as what MLflow's fluent calls go to; with ``away``, stories end the primary."""

    def __init__(
        self, uris: Sequence[str], folder: Path, seen: list[Difference], away: Proxy | None = None
    ) -> None:
        self.uris, self.folder, self.away = uris, folder, away
        self.played: dict[str, Linked] = {}  # what went through the link that stands
        self.home = folder
        self.own: list[Proxy] = []
        self.seen = seen  # differences that were told
        self.uri = ""
        self.began = 0.0  # milliseconds since 1970, when the link was made

    def __enter__(self) -> LinkedPlace:
        self._link()
        return self

    def __exit__(self, *_: object) -> None:
        from dbml_magics.core import session

        with settings(self.home), quiet():
            session.current().unlink()
        for proxy in self.own:
            proxy.close()

    def _link(self) -> None:

        self.home = _folder(self.folder)
        self.played.clear()
        with settings(self.home), quiet():
            linked = dbml.link(databricks=self.uris[0], azureml=self.uris[1], registry="both")
        self.uri = linked.uri
        self.began = time.time() * 1000

    def play(self, story: Story) -> Linked:
        """Play a story, wait until it is delivered, and ask once more what it asked last."""
        budget = {"DBML_IDENTITY_BUDGET": str(AWAY_BUDGET_S)} if self.away else {}
        with settings(self.home, **budget), quiet() as warned:
            mlflow.set_tracking_uri(self.uri)
            mlflow.set_registry_uri(self.uri)
            away = self.away.refuse if self.away else None
            player = Player(story.name, mlflow.MlflowClient(), _folder(self.folder), away, self._settle)
            found = self.played[story.name] = Linked(player.tell(story), warned=warned)
            if self.away:
                self._end_runs()
                self.away.accept()
            self._sync(found)
            player.read_again()
            forget()
        if found.stuck:
            self._leave()
        return found

    def _end_runs(self) -> None:
        """End the active runs while the primary is still away."""
        with contextlib.suppress(Exception):
            while mlflow.active_run() is not None:
                mlflow.end_run()

    def _leave(self) -> None:
        """Go on with a new link: the next stories shall not wait for what this one cannot deliver."""
        from dbml_magics.core import session

        engine = session.current().engine("this comparison")
        with settings(self.home), quiet():
            session.current().unlink()
            for worker in engine.workers.values():
                worker.stop()
        # By another address it is another link.
        self.own += [Proxy(uri) for uri in self.uris]
        self.uris = [proxy.uri for proxy in self.own[-2:]]
        if self.away:
            self.away = self.own[-2]
        self._link()

    def _settle(self) -> None:

        dbml.sync(timeout=PATIENCE)

    def _sync(self, found: Linked) -> None:
        """Have everything delivered, and note what cannot be."""
        from dbml_magics.core import session

        try:
            dbml.sync(timeout=PATIENCE)
        except DbmlError as error:
            found.stuck = str(error)
        state = session.current().engine("this comparison").state
        letters = state.dead()
        found.refused += [f"{role}: {op}: {cause}" for _, role, _, op, cause, _ in letters]
        state.discard_dead(letter[0] for letter in letters)

    def verify(self) -> None:
        """Compare the two workspaces as ``sync --verify --deep`` does; a difference is its story's."""

        facts = {
            name: repr([each.value for each in found.played.answers]) for name, found in self.played.items()
        }
        try:
            with settings(self.home), quiet():
                differing = dbml.verify(deep=True, timeout=PATIENCE).differences
        except DbmlError as error:
            for found in self.played.values():
                found.differing.append(f"verify failed: {error}")
            return
        for each in differing:
            if each in self.seen or self._is_older(each.run):  # of another group's stories, or another test
                continue
            self.seen.append(each)
            line = f"{each.kind} {each.key} of {each.name or each.run}: {dict(each.values)} {each.cause}"
            whose = [name for name, text in facts.items() if each.run and each.run in text]
            whose = (
                whose or [name for name in facts if each.name.startswith(f"{slug(name)}.")] or [*facts][:1]
            )
            for name in whose[:1]:
                self.played[name].differing.append(line)

    def _is_older(self, run_id: str) -> bool:
        """Tell whether a run began before the link was made: in experiment 0 all tests meet."""
        try:
            return bool(plain.client(self.uris[0]).get_run(run_id).info.start_time < self.began)
        except MlflowException:
            return False


class Places:
    """A plain server, and two more behind a link; ``proxies`` stand before the latter for outages."""

    def __init__(
        self,
        plain_server: Server,
        databricks: Server,
        azureml: Server,
        proxies: Sequence[Proxy],
        folder: Path,
    ) -> None:
        self.plain, self.databricks, self.azureml = plain_server, databricks, azureml
        self.proxies = proxies
        self.folder = folder
        self.seen: list[Difference] = []

    def plainly(self) -> PlainPlace:
        """Return the plain server as a place for stories."""
        return PlainPlace(self.plain, self.folder)

    def linked(self, *, away: bool = False) -> LinkedPlace:
        """Return a link as a place for stories; with ``away`` the primary is away from where they say so."""
        if away:
            return LinkedPlace([proxy.uri for proxy in self.proxies], self.folder, self.seen, self.proxies[0])
        return LinkedPlace([self.databricks.uri, self.azureml.uri], self.folder, self.seen)

    def standing(self, group: str) -> dict[str, Standing]:
        """Read what stands at each server of a group's stories."""
        servers = {"plain": self.plain, "databricks": self.databricks, "azureml": self.azureml}
        return {name: Standing(server, group, mirror=name == "azureml") for name, server in servers.items()}


def _folder(within: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=within))


class Standing:
    """What a server holds of a group's stories, read with plain clients in a few requests."""

    def __init__(self, server: Server, group: str, *, mirror: bool = False) -> None:
        self.server, self.group, self.mirror = server, group, mirror
        client = plain.client(server.uri)
        like = f"name LIKE '{slug(group)}-%'"
        found = entries(lambda token: client.search_experiments(ViewType.ALL, 1000, like, page_token=token))
        self.experiments = {each.experiment_id: each for each in found}
        ids = [*self.experiments, "0"]
        self.runs = entries(
            lambda token: client.search_runs(
                ids, "", ViewType.ALL, 1000, ["attributes.start_time ASC"], page_token=token
            )
        )
        self.models = entries(lambda token: client.search_logged_models(ids, page_token=token))
        self.registered = entries(lambda token: client.search_registered_models(like, 100, page_token=token))
        self.versions = entries(lambda token: client.search_model_versions(like, 1000, page_token=token))
        self.histories = self._histories()
        self.twins = {
            each.info.run_id: each.data.tags["dbml_run_id"]
            for each in self.runs
            if "dbml_run_id" in each.data.tags
        }
        self.model_twins = {
            each.model_id: each.tags["dbml_model_id"]
            for each in (*self.models, *self._deleted_models(client))
            if "dbml_model_id" in each.tags
        }

    def _deleted_models(self, client: mlflow.MlflowClient) -> Iterator[LoggedModel]:
        """Yield the models that runs name as theirs and no search finds."""
        named = {each.model_id for run in self.runs for each in run.outputs.model_outputs}
        for own in named - {model.model_id for model in self.models}:
            with contextlib.suppress(MlflowException):
                yield client._tracking_client.store.get_logged_model(own, allow_deleted=True)

    def _histories(self) -> dict[tuple[str, str], list[Frozen]]:
        """Return every point of every metric, 100 runs a request."""
        having: dict[str, list[str]] = {}
        for run in self.runs:
            for key in run.data.metrics:
                having.setdefault(key, []).append(run.info.run_id)
        held: dict[tuple[str, str], list[Frozen]] = {}
        for key, ids in having.items():
            asked = [("metric_key", key), ("max_results", "25000")]
            for first in range(0, len(ids), 100):
                answer = requests.get(
                    f"{self.server.uri}/ajax-api/2.0/mlflow/metrics/get-history-bulk",
                    params=[*(("run_id", each) for each in ids[first : first + 100]), *asked],
                    timeout=60,
                )
                answer.raise_for_status()
                for point in answer.json()["metrics"]:
                    own = {name: value for name, value in point.items() if name not in ("run_id", "key")}
                    held.setdefault((point["run_id"], key), []).append(freeze(own))
        return held

    def of(self, story: str, facts: str, names: Names) -> Frozen:
        """Return what there is of one story, ``facts`` being all its answers in one text."""
        begins = f"{slug(story)}."
        own = {key: each for key, each in self.experiments.items() if each.name.startswith(begins)}
        # At the primary, the tag of a model that has its own id there is the key of its creation.
        models = {one: other for one, other in self.model_twins.items() if self.mirror or other in facts}
        twins = self.twins | models
        at = names.at(twins, {key: each.name for key, each in self.experiments.items()})

        def is_own(experiment_id: str, entity_id: str) -> bool:
            return experiment_id in own or (experiment_id == "0" and twins.get(entity_id, entity_id) in facts)

        runs = [run for run in self.runs if is_own(run.info.experiment_id, run.info.run_id)]
        runs.sort(
            key=lambda run: (not at.knows(run.info.run_id), run.info.start_time, str(run.info.run_name))
        )
        logged = [model for model in self.models if is_own(model.experiment_id, model.model_id)]
        logged.sort(key=lambda model: (not at.knows(model.model_id), model.creation_timestamp, model.name))
        held: dict[str, Frozen] = {
            "experiments": {each.name: freeze(each) for each in own.values()},
            "runs": {run.info.run_id: self._run(run) for run in runs},
            "logged models": {model.model_id: self._model(model) for model in logged},
            "registered models": {
                each.name: _without(freeze(each), "latest_versions")
                for each in self.registered
                if each.name.startswith(begins)
            },
            "versions": {
                f"{each.name}/{each.version}": freeze(each)
                for each in self.versions
                if each.name.startswith(begins)
            },
        }
        named = at.value(_sorted(_without_own(held)))
        _count_once(named)
        return named

    def _run(self, run: Any) -> Frozen:
        return {
            "run": freeze(run),
            "histories": {
                key: list(self.histories.get((run.info.run_id, key), [])) for key in run.data.metrics
            },
            "files": self._files(run.info.artifact_uri),
        }

    def _model(self, model: Any) -> Frozen:
        return {"model": freeze(model), "files": self._files(model.artifact_location)}

    def _files(self, uri: str) -> Frozen:
        folder = self.server.folder / "artifacts" / uri.removeprefix("mlflow-artifacts:/")
        return tree(folder) if folder.is_dir() else {"folder": {}}


def entries(page: Callable[[str | None], Any]) -> list[Any]:
    """Return what all pages of a search hold."""
    found: list[Any] = []
    token: str | None = None
    while True:
        answer = page(token)
        found += answer
        token = answer.token
        if not token:
            return found


def _without(value: Frozen, key: str) -> Frozen:
    assert isinstance(value, dict)
    return {name: each for name, each in value.items() if name != key}


def _without_own(value: Frozen) -> Frozen:
    """Leave out the link's own tags."""
    if isinstance(value, dict):
        return {key: _without_own(each) for key, each in value.items() if not key.startswith(OWN)}
    if isinstance(value, list):
        return [
            _without_own(each)
            for each in value
            if not (isinstance(each, dict) and str(each.get("key", "")).startswith(OWN))
        ]
    return value


def _count_once(held: Frozen) -> None:
    """Count points of one value and step once: those of one millisecond are one point at every server."""
    assert isinstance(held, dict)
    assert isinstance(held["runs"], dict)
    for run in held["runs"].values():
        assert isinstance(run, dict)
        if isinstance(histories := run["histories"], dict):
            for key, points in histories.items():
                if isinstance(points, list):
                    histories[key] = [p for n, p in enumerate(points) if p not in points[:n]]


def _sorted(value: Frozen) -> Frozen:
    """Put every list in an order of its own: what stands at a server has none."""
    if isinstance(value, dict):
        return {key: _sorted(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted((_sorted(each) for each in value), key=str)
    return value
