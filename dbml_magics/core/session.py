"""What is linked now.

One :class:`Session` a process holds the link; the module-level :func:`current` returns it. What can be asked
of the link is in :mod:`dbml_magics.api`. Importing this module imports nothing heavy: the first link imports
MLflow.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dbml_magics.common.config import role_variable
from dbml_magics.common.hints import Remedy, corrected
from dbml_magics.core import link as links
from dbml_magics.core import mlflow_private, remembered_links, status, workspace_uri
from dbml_magics.core.azure.wish import AzureWish
from dbml_magics.core.spark_tasks import tell_tasks
from dbml_magics.errors import (
    BadLink,
    DbmlError,
    NotLinked,
    NotMlflow,
    NotPermitted,
    RunActive,
    WorkspaceUnreachable,
)
from dbml_magics.results.link import LinkStatus, UnlinkResult

if TYPE_CHECKING:
    from dbml_magics.core.destinations.base import Workspace
    from dbml_magics.core.link_request import LinkRequest
    from dbml_magics.core.runtime.engine import Engine
    from dbml_magics.core.track import Track

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
        """Tell whether there is a link now: one that was made here, or that MLflow's own URI names."""
        return self._engine is not None or _uri_of_link() is not None

    @property
    def joined(self) -> Engine | None:
        """Return the link's engine where one is at work in this process already."""
        return self._engine

    def engine(self, what: str) -> Engine:
        """Return the link's engine. Raises NotLinked, naming ``what`` needs it."""
        if self._engine is None:
            uri = _uri_of_link()
            if uri is None:
                raise NotLinked(what, again=remembered_links.is_remembered(current_folder()))
            self._engine = self._join(uri)
        return self._engine

    def _join(self, uri: str) -> Engine:
        """Take up the link that MLflow tracks to: a parent process's, whose environment this one has."""
        links.refuse_platform()
        import mlflow

        from dbml_magics.core.runtime.engines import engine_for

        engine = engine_for(uri)
        self._before = _Before.now().without_link()
        mlflow.set_tracking_uri(uri)
        if "MLFLOW_REGISTRY_URI" not in os.environ:
            mlflow.set_registry_uri(uri)
        tell_tasks()
        engine.lifetime.retired = False
        for worker in engine.workers.values():
            worker.start()
        return engine

    def tracking_engine(self, what: str) -> Engine:
        """Return the engine for what goes through MLflow's global URI. Raises BadLink when it is another."""
        engine = self.engine(what)
        elsewhere = status.tracking_elsewhere(engine)
        if elsewhere is not None:
            raise BadLink(
                f"MLflow tracks to {elsewhere} now, not to the link: set_tracking_uri was called after it.",
                remedies=[
                    (
                        Remedy("link", again=True),
                        "back to the link; leave set_tracking_uri out of the notebook",
                    ),
                    (Remedy("unlink"), "if the link is not wanted any more"),
                ],
            )
        return engine

    def link(self, request: LinkRequest) -> LinkStatus:
        """Make what was requested MLflow's tracking URI; see :func:`dbml_magics.api.link`.

        Raises BadLink, BadUri, SecretRefused, RunActive, JournalError, WorkspaceUnreachable, NotMlflow,
        NotConfirmed or NotPermitted; the link that was there stays then.
        """
        links.refuse_platform()
        wanted = request.resolve(current_folder(), _refuse_active_run)
        again = request.again
        known = (wanted.home / "link.json").exists()
        from dbml_magics.core import known_places
        from dbml_magics.core.runtime.engines import discard, engine_of, heed_sigterm

        engine = engine_of(wanted)
        for spec in wanted.workspaces:
            engine.workspaces[spec.role].reconfigure(spec)
        try:
            _check(engine, may_be_away=known or again)
            remembered_links.remember(wanted)
            known_places.remember(wanted)
            engine.link_began()
        except DbmlError:
            if engine is not self._engine and not known:
                discard(engine)  # nothing was ever written to it
            raise
        engine.link = wanted  # perhaps in another mode than before
        for role in wanted.used:
            engine.side(role).learned.reset_capabilities()
        heed_sigterm(wanted)
        self._take(engine)
        if again:
            _resume_experiment(engine)
        for worker in engine.workers.values():
            worker.start()
        return self._status(engine, fresh=True)

    def _take(self, engine: Engine) -> None:
        import mlflow

        if self._before is None:
            self._before = _Before.now()
        mlflow.set_tracking_uri(engine.link.uri)
        # Set explicitly: unset, every MlflowClient() looks for a Spark session, and that costs more than the
        # journal does.
        mlflow.set_registry_uri(engine.link.uri)
        tell_tasks()
        if self._engine is not engine:
            _forget_ids()
            self.last_run = None
            if self._engine is not None:
                self._engine.lifetime.retire()
        engine.lifetime.retired = False
        self._engine = engine

    def unlink(self) -> UnlinkResult:
        """Restore the tracking and registry URIs that were there before the link.

        What is undelivered stays in the journal and goes on being delivered while this process lives; where
        there is no link nothing changes. Raises RunActive.
        """
        if not self.linked:
            uri = mlflow_private.tracking_uri_if_imported() or os.environ.get("MLFLOW_TRACKING_URI") or ""
            return UnlinkResult(workspace_uri.masked(uri), workspace_uri.masked(uri), {}, was_linked=False)
        engine = self.engine(Remedy("unlink"))
        _refuse_active_run("unlink")
        undelivered = {role: engine.backlog.waiting(role)[0] for role in engine.link.used}
        assert self._before is not None
        _forget_ids()
        self._before.restore()
        engine.lifetime.retire()
        self._engine, self._before, self.last_run = None, None, None
        import mlflow

        return UnlinkResult(
            tracking_uri=workspace_uri.masked(mlflow.get_tracking_uri()),
            registry_uri=workspace_uri.masked(mlflow.get_registry_uri()),
            undelivered={role: count for role, count in undelivered.items() if count},
        )

    def status(self) -> LinkStatus:
        """Return where tracking goes and what is still on its way; needs no network. Raises NotLinked."""
        return self._status(self.engine(Remedy("status")), fresh=False)

    def _status(self, engine: Engine, *, fresh: bool) -> LinkStatus:
        link = engine.link
        return LinkStatus(
            uri=link.uri,
            track=link.track,
            registry=link.registry,
            mode=link.mode,
            destinations=tuple(status.destination(engine, role) for role in link.used),
            folder=link.folder,
            experiment=_active_experiment(engine),
            notes=tuple(status.notes(engine, fresh=fresh)),
            fresh=fresh,
            get_workspace=lambda: _azure_workspace(engine),
        )

    def begin_track(self, name: str | None = None, **settings: Any) -> Track:
        """Begin a run that :meth:`Track.end` ends and sums up; see :func:`dbml_magics.core.track.begin`."""
        from dbml_magics.core import track

        engine = self.tracking_engine(Remedy("track"))
        return track.begin(self._remember_run, engine, name, **settings)

    def _remember_run(self, run_id: str) -> None:
        self.last_run = run_id

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
        return sorted(self._engine.state.model_versions.registered_names())

    def known_endpoints(self) -> list[str]:
        """Return names of this machine's endpoints, and of those deployed from it, for completion."""
        from dbml_magics.core.endpoints import remembered
        from dbml_magics.core.endpoints.local import home

        local = {path.parent.name for path in home().glob("*/endpoint.json")}
        return sorted(local | {record.name for record in remembered.records()})

    # --- look-ups for forms: they may ask Azure, in the background, and never the user

    def azure_subscriptions(self, *, cloud: str | None = None, auth: str | None = None) -> list[str]:
        """Return the ids of the Azure subscriptions that can be seen.

        Raises NotPermitted, WorkspaceUnreachable, BadLink.
        """
        _check_clouds()
        from dbml_magics.core.azure import choices

        return choices.subscriptions(AzureWish(cloud=cloud, auth=auth))

    def azure_workspaces(
        self, subscription: str, *, cloud: str | None = None, auth: str | None = None
    ) -> list[tuple[str, str]]:
        """Return (resource group, name) of a subscription's Azure ML workspaces.

        Raises NotPermitted, WorkspaceNotFound, WorkspaceUnreachable, BadLink.
        """
        _check_clouds()
        from dbml_magics.core.azure import choices

        return choices.workspaces(AzureWish(subscription, cloud=cloud, auth=auth))

    def databricks_profiles(self) -> list[str]:
        """Return the names of the profiles in Databricks' own configuration file, where there is one."""
        import configparser

        given = os.environ.get("DATABRICKS_CONFIG_FILE") or "~/.databrickscfg"
        profiles = configparser.ConfigParser(interpolation=None)
        try:
            profiles.read(os.path.expanduser(given), encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            return []
        return [*(["DEFAULT"] if profiles.defaults() else []), *profiles.sections()]

    def known_experiments(self) -> list[str]:
        """Return names of experiments for completion."""
        if self._engine is None:
            return []
        return self._engine.state.experiments.names()


def _check_clouds() -> None:
    """Raise WorkspaceUnreachable where a private cloud's list of clouds does not answer.

    The Azure libraries ask ARM_CLOUD_METADATA_URL for the list of clouds while they are imported, and MLflow
    imports them: where nothing answers, both would stay half imported, and no link would work any more in
    this process. So the address is tried first.
    """
    url = os.environ.get("ARM_CLOUD_METADATA_URL")
    if url and "azureml.mlflow" not in sys.modules:
        import requests

        from dbml_magics.core import hosts

        hosts.exempt_loopback()  # the Azure libraries ask it too
        try:
            hosts.session().get(url, timeout=10).raise_for_status()
        except requests.RequestException as error:
            raise WorkspaceUnreachable(
                f"the list of Azure clouds at {url} is not reachable ({type(error).__name__}).",
                remedies=[("%env ARM_CLOUD_METADATA_URL", "shows the address; it is tried anew each time")],
            ) from error


def _refuse_active_run(what: str) -> None:
    if "mlflow" not in sys.modules:
        return
    import mlflow

    run = mlflow.active_run() or _active_elsewhere()
    if run is not None:
        raise RunActive(
            f"run {run.info.run_name or run.info.run_id} is active, and {what}ing under it would lose "
            "it: its next log call would look for it elsewhere.",
            remedies=[("mlflow.end_run()", f"then {what} again")],
        )


def _active_elsewhere() -> Any:
    """Return a run that is active in another thread (forms work in threads of their own), if there is one."""
    return next((stack[-1] for stack in mlflow_private.active_runs().values() if stack), None)


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
        before = cls(*mlflow_private.global_uris(), os.environ.get("MLFLOW_REGISTRY_URI"))
        before._experiment = mlflow_private.active_experiment_id()
        return before

    def without_link(self) -> _Before:
        """Return them without the link's own URIs, where another process has set those."""
        self._tracking = self._registry = self._tracking_variable = None
        if (self._registry_variable or "").startswith(workspace_uri.SCHEME + ":"):
            self._registry_variable = None
        return self

    def restore(self) -> None:
        import mlflow

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
        mlflow_private.set_active_experiment_id(self._experiment)
        tell_tasks()


def _uri_of_link() -> str | None:
    """Return the link's URI that MLflow tracks to; its environment alone is asked until it is imported."""
    uri = mlflow_private.tracking_uri_if_imported() or os.environ.get("MLFLOW_TRACKING_URI") or ""
    return uri if uri.startswith(f"{workspace_uri.SCHEME}:") else None


def _forget_ids() -> None:
    """Forget ids that mean something only under the link (or URI) that is being left."""
    mlflow_private.forget_ids()
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)  # set_experiment exports it to child processes


def current_folder() -> str:
    """Return the current folder, which a link belongs to. Raises BadLink where it is gone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise BadLink(
            "the notebook's current folder does not exist any more, and a link belongs to a folder.",
            remedies=[("%cd ~", "or any other folder, then link again")],
        ) from None


def _check(engine: Engine, *, may_be_away: bool) -> None:
    """Ask each workspace once whether it is there and is MLflow; all at the same time."""
    from dbml_magics.core.destinations.errors import Unavailable, classify_error
    from dbml_magics.core.destinations.rest import call_timeout

    failures: dict[str, Exception] = {}

    def ask(workspace: Workspace) -> None:
        try:
            with call_timeout(_CHECK_S):
                workspace.identify()
        except Exception as error:
            failures.setdefault(workspace.role, classify_error(error))
        else:
            engine.health[workspace.role].fine()

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
            failures.setdefault(role, Unavailable("not reachable (timed out)", sent=False))
    for role, error in failures.items():
        refused = _refusal(engine, role, error, [r for r in engine.link.used if r not in failures])
        # Of a link that is known, a sign-in page is a gateway's word on a workspace that is away.
        if not (may_be_away and isinstance(refused, (WorkspaceUnreachable, NotMlflow))):
            raise refused from error
        if isinstance(error, Unavailable):
            engine.health[role].trouble(error)
            engine.health[role].trouble(error)  # a second failure in a row is what counts as away


def _refusal(engine: Engine, role: str, error: Exception, others: Sequence[str]) -> DbmlError:
    from dbml_magics.core.destinations.answers import Foreign
    from dbml_magics.core.destinations.errors import Unavailable

    workspace = engine.workspaces[role]
    place = workspace.place if workspace.kind == "azureml" else workspace_uri.masked(workspace.uri)
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
    if isinstance(error, Unavailable) and error.denied:
        remedies: list[tuple[str, str]] = list(error.remedies) or _sign_in(workspace)
        return NotPermitted(f"the {role} workspace {place} answers: {error.reason}.", remedies=remedies)
    if isinstance(error, Unavailable) and not isinstance(error, Foreign):
        remedies = [
            (f"curl -sS {place}/health", "from a terminal on this machine: does anything answer there?")
        ]
        if not place.startswith("http"):
            remedies = [(corrected(Remedy("link", **{role: "URI"}), **{role: "URI"}), "check the URI")]
        if workspace.kind == "databricks":
            remedies = [
                (f"databricks current-user me{_profile(place)}", "in a terminal: does the sign-in work?")
            ]
        elif workspace.kind == "azureml":
            host = workspace.uri.partition("://")[2].partition("/")[0]
            remedies = [(f"curl -sSI https://{host}", "from this machine: is it reachable?")]
        if error.reason.startswith("answers 429"):
            remedies = [("the same line again", "in a minute: it has too many requests now")]
        for other in others:
            spec = workspace_uri.masked(engine.link.spec(other).uri)
            only = corrected(
                Remedy("link", **{other: spec}, track=other, registry=other),
                **{role: None},
                track=other,
                registry=other,
            )
            remedies.append((only, "track to the other one for now"))
        said = error.reason if error.reason.startswith("answers") else f"is {error.reason}"
        if not error.reason.startswith(("answers", "not ")):
            said = f"does not work: {error.reason[:160]}"
        return WorkspaceUnreachable(f"the {role} workspace {place} {said.rstrip('.')}.", remedies=remedies)
    return NotMlflow(
        f"what answers at {place} is not an MLflow tracking server ({' '.join(str(error).split())[:120]}).",
        remedies=[
            ("mlflow server --host 127.0.0.1 --port 5000", "starts one; then"),
            (
                corrected(
                    Remedy("link", **{role: "http://127.0.0.1:5000"}), **{role: "http://127.0.0.1:5000"}
                ),
                "the URI without a path, as MLflow prints it",
            ),
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


def _azure_workspace(engine: Engine) -> Any:
    """Return azureml-core's own object of the link's Azure ML workspace. Raises BadLink where it has none."""
    found = next((w for w in engine.workspaces.values() if w.kind == "azureml"), None)
    if found is None:
        raise BadLink(
            "the link has no Azure ML workspace of Azure's own.",
            remedies=[Remedy("link", subscription="…", resource_group="…", workspace="…")],
        )
    return found.azure_workspace()  # type: ignore[attr-defined]


def _active_experiment(engine: Engine) -> str | None:
    known = mlflow_private.active_experiment_id()
    if known is None:
        return None
    return engine.state.experiments.name(known)


def _resume_experiment(engine: Engine) -> None:
    """Make the experiment that runs went to last under this link the active one again."""
    if mlflow_private.active_experiment_id() is None:
        recent = engine.state.recent_runs(1)
        known = engine.state.experiments.active() or (recent[0][1].get("experiment") if recent else None)
        if known is not None:
            mlflow_private.set_active_experiment_id(str(known))


_session = Session()


def current() -> Session:
    """Return the process's session."""
    return _session
