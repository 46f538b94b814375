"""What is linked now, and everything that can be asked of it.

One :class:`Session` a process holds the link; the module-level :func:`current` hands it out. The magics, the
shell commands and the Python API call the same methods. Importing this module imports nothing heavy: MLflow
comes in with the first link.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dbml_magics import results
from dbml_magics.config import role_variable
from dbml_magics.core import link as links
from dbml_magics.errors import (
    BadLink,
    DbmlError,
    DeliveryIncomplete,
    NotLinked,
    NotMlflow,
    NotPermitted,
    RunActive,
    WorkspaceUnreachable,
)

if TYPE_CHECKING:
    from dbml_magics.core.track import Track
    from dbml_magics.core.tracking.engine import Engine
    from dbml_magics.core.workspaces.base import Workspace

_CHECK_S = 5.0
_DRIVERS = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
_PATIENCE_S = 60.0  # making a database's tables, or signing in, takes longer than a request


class Session:
    """The one holder of the link."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._before: _Before | None = None
        self.last_run: str | None = None
        """The newest run that a cell of this process has ended."""

    # --- the link

    @property
    def linked(self) -> bool:
        """Tell whether there is a link now."""
        return self._engine is not None

    def engine(self, what: str) -> Engine:
        """Return the link's engine. Raises NotLinked, naming ``what`` needs it."""
        if self._engine is None:
            raise NotLinked(what, again=links.is_remembered(_folder()))
        return self._engine

    def _tracking_engine(self, what: str) -> Engine:
        """Return the engine for what goes through MLflow's global URI. Raises BadLink when it is another."""
        engine = self.engine(what)
        elsewhere = _tracking_elsewhere(engine)
        if elsewhere is not None:
            raise BadLink(
                f"MLflow tracks to {elsewhere} now, not to the link: set_tracking_uri was called after it.",
                remedies=[
                    ("%dbml link --again", "back to the link; leave set_tracking_uri out of the notebook"),
                    ("%dbml unlink", "if the link is not wanted any more"),
                ],
            )
        return engine

    def link(
        self,
        *,
        local: str | bool | None = None,
        databricks: str | None = None,
        azureml: str | None = None,
        track: str = "both",
        registry: str | None = None,
        mode: str = "journal",
        again: bool = False,
    ) -> results.LinkStatus:
        """Make two workspaces one tracking URI and set it as MLflow's.

        ``local`` is a folder for two workspaces on this machine (True: ``.dbml``); ``again`` takes up the
        link remembered for the current folder, also while a workspace is away. Raises BadLink, BadUri,
        SecretRefused, RunActive, JournalError, WorkspaceUnreachable, NotMlflow or NotPermitted; the link that
        was there stays then.
        """
        links.refuse_platform()
        folder = _folder()
        if again:
            if local or databricks or azureml:
                raise BadLink(
                    "--again takes up the link remembered for this folder; it takes no workspace beside it.",
                    remedies=["%dbml link --again"],
                )
            wanted = links.remembered(folder)
        else:
            wanted = links.make(
                folder=folder,
                local=local,
                databricks=databricks,
                azureml=azureml,
                track=track,
                registry=registry,
                mode=mode,
            )
        self._refuse_active_run("link")
        known = (wanted.home / "link.json").exists()
        from dbml_magics.core.tracking.engine import discard, engine_of

        engine = engine_of(wanted)
        try:
            _check(engine, may_be_away=known or again)
            links.remember(wanted)
        except DbmlError:
            if engine is not self._engine and not known:
                discard(engine)  # nothing was ever written to it
            raise
        engine.link = wanted  # perhaps in another mode than before
        self._take(engine)
        if again:
            _resume_experiment(engine)
        for courier in engine.couriers.values():
            courier.start()
        return self._status(engine, fresh=True)

    def _refuse_active_run(self, what: str) -> None:
        import sys

        if "mlflow" not in sys.modules:
            return
        import mlflow

        run = mlflow.active_run()
        if run is not None:
            raise RunActive(
                f"run {run.info.run_name or run.info.run_id} is active, and {what}ing under it would lose "
                "it: its next log call would look for it elsewhere.",
                remedies=[("mlflow.end_run()", f"then {what} again")],
            )

    def _take(self, engine: Engine) -> None:
        import mlflow

        if self._before is None:
            self._before = _Before.now()
        mlflow.set_tracking_uri(engine.link.uri)
        # Set explicitly: unset, every MlflowClient() looks for a Spark session, and that costs more than the
        # journal does.
        mlflow.set_registry_uri(engine.link.uri)
        if self._engine is not engine:
            _forget_ids()
            self.last_run = None
            if self._engine is not None:
                self._engine.retired = True
        engine.retired = False
        self._engine = engine

    def unlink(self) -> results.UnlinkResult:
        """Restore the tracking and registry URIs that were there before the link.

        What is undelivered stays in the journal and goes on being delivered while this process lives. Raises
        NotLinked, RunActive.
        """
        engine = self.engine("%dbml unlink")
        self._refuse_active_run("unlink")
        undelivered = {role: engine.waiting(role)[0] for role in engine.link.used}
        assert self._before is not None
        _forget_ids()
        self._before.restore()
        engine.retired = True
        self._engine, self._before, self.last_run = None, None, None
        import mlflow

        return results.UnlinkResult(
            tracking_uri=links.masked(mlflow.get_tracking_uri()),
            registry_uri=links.masked(mlflow.get_registry_uri()),
            undelivered={role: count for role, count in undelivered.items() if count},
        )

    def status(self) -> results.LinkStatus:
        """Return where tracking goes and what is still on its way; needs no network. Raises NotLinked."""
        return self._status(self.engine("%dbml status"), fresh=False)

    def _status(self, engine: Engine, *, fresh: bool) -> results.LinkStatus:
        link = engine.link
        return results.LinkStatus(
            uri=link.uri,
            track=link.track,
            registry=link.registry,
            mode=link.mode,
            destinations=tuple(destination(engine, role) for role in link.used),
            folder=link.folder,
            experiment=_active_experiment(engine),
            notes=tuple(_notes(engine)),
            fresh=fresh,
        )

    # --- runs, experiments, models

    def experiment(self, name: str) -> results.ExperimentResult:
        """Set the experiment on both sides, each in its own naming rule. Raises BadName, NotLinked."""
        from dbml_magics.core import runs

        return runs.set_experiment(self._tracking_engine("%dbml experiment"), name)

    def runs(
        self,
        experiment: str | None = None,
        *,
        filter: str = "",  # noqa: A002 - the MLflow CLI's own word
        order_by: Sequence[str] = (),
        max_results: int = 20,
    ) -> results.RunsResult:
        """List the experiment's runs (the active experiment's by default).

        Raises ExperimentNotFound, BadCommand.
        """
        from dbml_magics.core import runs

        return runs.list_runs(self.engine("%dbml runs"), experiment, filter, order_by, max_results)

    def compare(self, *given: str, metrics: Sequence[str] = ()) -> results.CompareResult:
        """Set two runs or more side by side (each an id, a prefix or ``last``).

        ``metrics`` are those to show; by default those that tell most. Raises BadCommand, RunNotFound,
        AmbiguousRun, WorkspaceUnreachable.
        """
        from dbml_magics.core import compare

        return compare.compare(self.engine("%dbml compare"), given, metrics, self.last_run)

    def register(
        self,
        run: str,
        name: str,
        *,
        path: str | None = None,
        to: str | None = None,
        aliases: Iterable[str] = (),
        tags: Mapping[str, str] | None = None,
    ) -> results.RegisterResult:
        """Register a run's model (``run``: an id, a prefix or ``last``) in one registry or both.

        Raises RunNotFound, AmbiguousRun, NoModel, BadName, Refused.
        """
        from dbml_magics.core import registry, runs

        engine = self.engine("%dbml register")
        run_id = runs.resolve(engine, run, self.last_run)
        return registry.register(
            engine, run_id, name, path=path, to=to, aliases=tuple(aliases), tags=dict(tags or {})
        )

    def models(self, name: str | None = None) -> results.ModelsResult:
        """List the registered models, or one model's versions at each workspace. Raises ModelNotFound."""
        from dbml_magics.core import registry

        return registry.list_models(self.engine("%dbml models"), name)

    # --- delivery

    def sync(
        self,
        timeout: float | None = None,
        *,
        progress: Callable[[Mapping[str, int], float], None] | None = None,
    ) -> results.SyncResult:
        """Wait until everything is delivered; raises DeliveryIncomplete when ``timeout`` (seconds) is up.

        ``progress`` is called about four times a second with the writes that remain for each workspace and
        the rate (writes a second).
        """
        engine = self.engine("%dbml sync")
        began = time.monotonic()
        first = {role: engine.state.delivered_count(role) for role in engine.link.used}
        while True:
            # Each is waited for, also behind one that is not done: a list, not a generator.
            waits = [engine.wait(role, None, 0.25 / len(engine.link.used)) for role in engine.link.used]
            remaining = {role: engine.waiting(role)[0] for role in engine.link.used}
            delivered = {r: engine.state.delivered_count(r) - first[r] for r in engine.link.used}
            seconds = time.monotonic() - began
            if progress is not None:
                progress(remaining, sum(delivered.values()) / max(seconds, 0.001))
            if all(waits) and not any(remaining.values()):
                return results.SyncResult(
                    delivered=delivered,
                    remaining=remaining,
                    seconds=seconds,
                    dead={role: engine.state.dead_count(role) for role in engine.link.used},
                )
            if timeout is not None and seconds >= timeout:
                raise self._incomplete(engine, remaining, timeout)

    def _incomplete(self, engine: Engine, remaining: Mapping[str, int], timeout: float) -> DbmlError:
        parts = []
        for role, count in remaining.items():
            reason = engine.lines[role].reason
            if count:
                waits = "writes wait" if count > 1 else "write waits"
                parts.append(f"{count:,} {waits} for {role}" + (f" ({reason})" if reason else ""))
        return DeliveryIncomplete(
            f"after {timeout:g} s {' and '.join(parts)}; nothing is lost.",
            remedies=[
                ("%dbml sync", "waits until everything is delivered"),
                ("%dbml status", "shows how far delivery is"),
            ],
        )

    def dead_letters(self, run: str | None = None) -> results.DeadLetters:
        """List the writes that a workspace refused for good. Raises RunNotFound, AmbiguousRun."""
        from dbml_magics.core import dead_letters

        return dead_letters.listed(self.engine("%dbml sync --dead list"), run, self.last_run)

    def retry_dead_letters(
        self,
        run: str | None = None,
        *,
        timeout: float | None = None,
        progress: Callable[[Mapping[str, int], float], None] | None = None,
    ) -> results.RetryResult:
        """Try refused writes again, each at the workspace that refused it, and wait for what becomes of them.

        ``timeout`` are seconds (60 by default); a workspace that is away is not waited for. Raises
        RunNotFound, AmbiguousRun, JournalError.
        """
        from dbml_magics.core import dead_letters

        engine = self.engine("%dbml sync --dead retry")
        return dead_letters.retry(engine, run, self.last_run, timeout, progress)

    def discard_dead_letters(
        self, confirm: int | None = None, *, run: str | None = None
    ) -> results.DiscardResult:
        """Forget refused writes; ``confirm`` is how many there are.

        Raises NotConfirmed (naming them; nothing is forgotten then), RunNotFound, AmbiguousRun.
        """
        from dbml_magics.core import dead_letters

        engine = self.engine("%dbml sync --dead discard")
        return dead_letters.discard(engine, run, self.last_run, confirm)

    def ui(self, *, stop: bool = False) -> results.UiResult:
        """Return each workspace's page, starting MLflow's UI for those in a file.

        ``stop`` ends what was started. Raises ServerFailed.
        """
        from dbml_magics.core import ui

        link = self.engine("%dbml ui").link
        return ui.stop(link) if stop else ui.show(link)

    def begin_track(
        self,
        name: str | None = None,
        *,
        experiment: str | None = None,
        autolog: bool | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        nested: bool = False,
        register: str | None = None,
        source: str | None = None,
    ) -> Track:
        """Begin a run that :meth:`Track.end` ends and sums up; ``source`` is a cell's text to log, masked."""
        from dbml_magics.core import track

        return track.begin(
            self,
            self._tracking_engine("%%track"),
            name,
            experiment=experiment,
            autolog=autolog,
            params=params,
            tags=tags,
            nested=nested,
            register=register,
            source=source,
        )

    # --- cheap look-ups for completion: from what is known already, never a request that may block

    def known_runs(self) -> list[tuple[str, str]]:
        """Return (run id, name) of recent runs for completion."""
        if self._engine is None:
            return []
        return [(run, str(info.get("name", ""))) for run, info in self._engine.state.recent_runs(100)]

    def known_models(self) -> list[str]:
        """Return names of registered models for completion."""
        if self._engine is None:
            return []
        kept = self._engine.state.answers("version/").values()
        return sorted({str(answer["name"]) for answer in kept if "name" in answer})

    def known_experiments(self) -> list[str]:
        """Return names of experiments for completion."""
        if self._engine is None:
            return []
        lead = "experiment-name/"
        return sorted(key.removeprefix(lead) for key in self._engine.state.answers(lead))


class _Before:
    """MLflow's global settings as they were before the link."""

    def __init__(self, tracking: str | None, registry: str | None, registry_variable: str | None) -> None:
        self._tracking = tracking
        self._registry = registry
        self._registry_variable = registry_variable
        self._tracking_variable = os.environ.get("MLFLOW_TRACKING_URI")
        self._experiment_variable = os.environ.get("MLFLOW_EXPERIMENT_ID")
        self._experiment: str | None = None

    @classmethod
    def now(cls) -> _Before:
        from mlflow.tracking import fluent
        from mlflow.tracking._model_registry import utils as registry
        from mlflow.tracking._tracking_service import utils as tracking

        before = cls(tracking._tracking_uri, registry._registry_uri, os.environ.get("MLFLOW_REGISTRY_URI"))
        before._experiment = fluent._active_experiment_id
        return before

    def restore(self) -> None:
        import mlflow
        from mlflow.tracking import fluent

        mlflow.set_tracking_uri(self._tracking)
        mlflow.set_registry_uri(self._registry)
        for name, value in (
            ("MLFLOW_TRACKING_URI", self._tracking_variable),
            ("MLFLOW_REGISTRY_URI", self._registry_variable),
            ("MLFLOW_EXPERIMENT_ID", self._experiment_variable),
        ):
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        fluent._active_experiment_id = self._experiment


def _forget_ids() -> None:
    """Forget ids that mean something only under the link (or URI) that is being left."""
    from mlflow.tracking import fluent
    from mlflow.tracking._tracking_service import utils

    fluent._active_experiment_id = None
    fluent._last_active_run_id.set(None)
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)  # set_experiment exports it to child processes
    utils._artifact_repos_cache.clear()


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise BadLink(
            "the notebook's current folder does not exist any more, and a link belongs to a folder.",
            remedies=[("%cd ~", "or any other folder, then link again")],
        ) from None


def _check(engine: Engine, *, may_be_away: bool) -> None:
    """Ask each workspace once whether it is there and is MLflow; all at the same time."""
    from dbml_magics.core.tracking.faults import Away, settle
    from dbml_magics.core.workspaces.rest import call_timeout

    failures: dict[str, Exception] = {}

    def ask(workspace: Workspace) -> None:
        try:
            with call_timeout(_CHECK_S):
                workspace.identify()
        except Exception as error:
            failures.setdefault(workspace.role, settle(error))
        else:
            engine.lines[workspace.role].fine()

    threads = {
        role: threading.Thread(target=ask, args=(workspace,), daemon=True)
        for role, workspace in engine.workspaces.items()
    }
    for thread in threads.values():
        thread.start()
    until = time.monotonic() + _PATIENCE_S
    for role, thread in threads.items():
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            failures.setdefault(role, Away("not reachable (timed out)", sent=False))
    for role, error in failures.items():
        refused = _refusal(engine, role, error, [r for r in engine.link.used if r not in failures])
        if not (may_be_away and isinstance(refused, WorkspaceUnreachable)):
            raise refused from error
        if isinstance(error, Away):
            engine.lines[role].trouble(error)
            engine.lines[role].trouble(error)  # a second failure in a row is what counts as away


def _refusal(engine: Engine, role: str, error: Exception, others: Sequence[str]) -> DbmlError:
    from dbml_magics.core.tracking.faults import Away
    from dbml_magics.core.workspaces.rest import Foreign

    workspace = engine.workspaces[role]
    place = links.masked(workspace.uri)
    if isinstance(error, ImportError):
        package = _DRIVERS.get(error.name or "", error.name or "the database's driver")
        return BadLink(
            f"{place} needs a package that is not installed here ({error.name}).",
            remedies=[(f"%pip install {package}", "then restart the kernel and link again")],
        )
    if workspace.kind == "databricks" and "credential" in str(error):
        return NotPermitted(
            f"this machine has no sign-in for the {role} workspace {place}.",
            remedies=[
                *_sign_in(workspace),
                ("DATABRICKS_HOST=… DATABRICKS_TOKEN=…", "or in the environment before the notebook starts"),
            ],
        )
    if isinstance(error, Away) and error.denied:
        remedies = _sign_in(workspace)
        return NotPermitted(f"the {role} workspace {place} answers: {error.reason}.", remedies=remedies)
    if isinstance(error, Away) and not isinstance(error, Foreign):
        remedies = [
            (f"curl -sS {place}/health", "from a terminal on this machine: does anything answer there?")
        ]
        if not place.startswith("http"):
            remedies = [(f"%dbml link --{role} URI", "check the URI")]
        if workspace.kind == "databricks":
            remedies = [
                (f"databricks current-user me{_profile(place)}", "in a terminal: does the sign-in work?")
            ]
        elif workspace.kind == "azureml":
            remedies = [("az login", "in a terminal, then link again")]
        for other in others:
            spec = links.masked(engine.link.spec(other).uri)
            only = f"%dbml link --{other} {spec} --track {other} --registry {other}"
            remedies.append((only, "track to the other one for now"))
        said = error.reason if error.reason.startswith("answers") else f"is {error.reason}"
        if not error.reason.startswith(("answers", "not ")):
            said = f"does not work: {error.reason[:160]}"
        return WorkspaceUnreachable(f"the {role} workspace {place} {said}.", remedies=remedies)
    return NotMlflow(
        f"what answers at {place} is not an MLflow tracking server ({' '.join(str(error).split())[:120]}).",
        remedies=[
            ("mlflow server --host 127.0.0.1 --port 5000", "starts one; then"),
            (f"%dbml link --{role} http://127.0.0.1:5000", "the URI without a path, as MLflow prints it"),
        ],
    )


def _sign_in(workspace: Workspace) -> list[tuple[str, str]]:
    if workspace.kind == "databricks":
        return [(f"databricks auth login{_profile(workspace.uri)}", "in a terminal, then link again")]
    if workspace.kind == "azureml":
        return [("az login", "in a terminal, then link again")]
    role = workspace.role
    pair = f"{role_variable(role, 'username')}=… {role_variable(role, 'password')}=…"
    return [
        (
            f"%env {role_variable(role, 'token')}",
            "shows whether a token is set: set it before the notebook starts",
        ),
        (pair, "the same for a user name and password"),
    ]


def _profile(uri: str) -> str:
    name = uri.removeprefix("databricks").removeprefix("://")
    return f" --profile {name}" if name else ""


def destination(engine: Engine, role: str, queue: str | None = None) -> results.Destination:
    """Return how far delivery to one workspace has come (for one run only, when ``queue`` is given)."""
    workspace, line = engine.workspaces[role], engine.lines[role]
    if queue is None:
        pending, lag = engine.waiting(role)
        dead = engine.state.dead_count(role)
    else:
        cursors = {file: offset for file, (offset, _) in engine.state.cursors(role, queue).items()}
        pending, oldest = engine.journal.count_waiting(queue, cursors)
        lag = max(0.0, time.time() - oldest / 1e9) if oldest else 0.0
        dead = len(engine.state.dead(role, queue))
    return results.Destination(
        name=role,
        kind=workspace.kind,
        uri=links.masked(workspace.uri),
        place=workspace.place,
        pending=pending,
        lag_seconds=lag,
        last_error=line.reason,
        away=line.away,
        dead=dead,
        tracked=role in engine.link.tracked,
        delivered=engine.couriers[role].delivered,
    )


def _active_experiment(engine: Engine) -> str | None:
    from mlflow.tracking import fluent

    known = fluent._active_experiment_id
    if known is None:
        return None
    told = engine.state.answer(f"experiment/{known}")
    return told["name"] if told else None


def _resume_experiment(engine: Engine) -> None:
    """Make the experiment that runs went to last under this link the active one again."""
    from mlflow.tracking import fluent

    if fluent._active_experiment_id is None:
        recent = engine.state.recent_runs(1)
        known = engine.state.answer("active-experiment") or (
            recent[0][1].get("experiment") if recent else None
        )
        if known is not None:
            fluent._active_experiment_id = str(known)


def _tracking_elsewhere(engine: Engine) -> str | None:
    """Return where MLflow tracks to when somebody has set its URI after the link, else None."""
    import mlflow

    uri = str(mlflow.get_tracking_uri())
    return None if uri.partition("?")[0] == engine.link.uri.partition("?")[0] else links.masked(uri)


def _notes(engine: Engine) -> list[str]:
    from dbml_magics.core import ui

    notes = []
    elsewhere = _tracking_elsewhere(engine)
    if elsewhere is not None:
        notes.append(
            f"MLflow itself tracks to {elsewhere} now: %dbml link --again brings it back to the link"
        )
    for key, told in engine.state.answers("provisional/").items():
        answer = engine.state.answer(f"version/{key.removeprefix('provisional/')}/{told['to'][0]}")
        if answer is None:
            notes.append(
                f"{told['name']} has a provisional version: it gets its number when {told['to'][0]} answers"
            )
        elif "version" in answer and told["at"] >= engine.began:  # news to who saw version 0, to nobody else
            notes.append(
                f"{told['name']} version 0 (provisional) is version {answer['version']} in {told['to'][0]}"
            )
    for leftover in links.leftovers(engine.link):
        notes.append(leftover)
    running = ui.note(engine.link)
    return [*notes, running] if running else notes


_session = Session()


def current() -> Session:
    """Return the process's session."""
    return _session
