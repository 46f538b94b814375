"""Check the workspaces of a link, from the sign-in to the files; nothing is changed there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dbml_magics.common.config import credentials
from dbml_magics.core.destinations.kinds import is_azureml, is_databricks
from dbml_magics.core.destinations.rest import call_timeout
from dbml_magics.core.doctor import azure, databricks
from dbml_magics.core.doctor.answering import CALL_S, base_of, not_fine, reach, timed
from dbml_magics.results.doctor import Finding

if TYPE_CHECKING:
    from dbml_magics.core.destinations.base import Workspace
    from dbml_magics.core.doctor.databricks import Known

__all__ = ["checks"]

_PINGS = 3


def checks(
    workspace: Workspace, used: Callable[[], Known]
) -> list[tuple[str, Callable[[], Iterator[Finding]]]]:
    """Return the checks of one workspace, by name; each can run on its own.

    ``used`` tells what of it the link has used, where that is asked about.
    """
    found: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("sign-in and API", lambda: _sign_in_and_api(workspace)),
        ("host", lambda: _host(workspace)),
    ]
    if is_azureml(workspace):
        found += azure.checks(workspace)
    elif not workspace.spec.local:
        found.append(("files", lambda: _files(workspace)))
    if is_databricks(workspace):
        found += databricks.checks(workspace, used)
    return found


# --- who calls, and whether it answers


def _sign_in_and_api(workspace: Workspace) -> Iterator[Finding]:
    role = workspace.role
    try:
        how = _signed_in(workspace)
    except Exception as error:
        yield not_fine(workspace, "sign-in", error)
        return
    yield Finding(role, "sign-in", cause=how)
    took: list[float] = []
    try:
        for _ in range(1 if workspace.spec.local else _PINGS):
            began = time.perf_counter()
            with call_timeout(CALL_S):
                workspace.identify()
            took.append((time.perf_counter() - began) * 1000)
    except Exception as error:
        yield not_fine(workspace, "API", error)
        return
    yield timed(role, "API", statistics.median(took), f"answers at {workspace.place}")
    try:
        with call_timeout(CALL_S):
            workspace.registry.search_registered_models(max_results=1)
        yield Finding(role, "registry", cause="can be read")
    except Exception as error:
        yield not_fine(workspace, "registry", error, "warning")


def _signed_in(workspace: Workspace) -> str:
    """Return how a workspace is signed in to; asks for a token, and for nothing else."""
    if workspace.spec.local:
        return "not needed: on this machine"
    if is_azureml(workspace):
        sign_in = workspace.sign_in
        sign_in.get_token(sign_in.cloud.scope)
        return sign_in.description
    if is_databricks(workspace):
        config = workspace.config
        config.authenticate()
        with call_timeout(CALL_S):
            return f"{config.auth_type}, as {workspace.me()}"
    if not workspace.uri.startswith(("http://", "https://")):
        return "the database driver's own"
    shown = repr(credentials(workspace.role)).partition("(")[2].rstrip(")")
    return "none: the server asks for none, or a proxy adds it" if shown == "none" else shown


# --- the host: network, clock


def _host(workspace: Workspace) -> Iterator[Finding]:
    url = base_of(workspace)
    if url is None:
        return
    yield from reach(workspace.role, "network", url, clock=True, again=_PINGS)


# --- files


def _files(workspace: Workspace) -> Iterator[Finding]:
    """List the files of one run, which shows whether its storage can be reached from here."""
    try:
        with call_timeout(CALL_S):
            experiments = workspace.tracking.search_experiments(max_results=5)
            runs = workspace.tracking.search_runs([e.experiment_id for e in experiments], "", 1, 1)
    except Exception:  # said already, of the API
        return
    if not runs:
        yield Finding(workspace.role, "files", cause="no run there yet whose files could be listed")
        return
    uri = runs[0].info.artifact_uri
    began = time.perf_counter()
    try:
        with call_timeout(CALL_S):
            found = workspace.artifacts(uri).list_artifacts()
    except Exception as error:
        yield not_fine(workspace, "files", error)
        return
    took = (time.perf_counter() - began) * 1000
    scheme = urlsplit(uri).scheme or "file"
    yield timed(workspace.role, "files", took, f"of a run can be listed ({scheme}:, {len(found)} there)")
