"""Taking away what a sandbox made: in its own process, or by its note in a later one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dbml_magics.core.destinations.kinds import is_azureml
from dbml_magics.core.doctor.probes.made import Made, left_behind
from dbml_magics.core.doctor.probes.sandbox import NotMeasured, Sandbox, deadline

if TYPE_CHECKING:
    from dbml_magics.core.destinations.kinds import RemoteWorkspace

__all__ = ["clear", "clear_left_behind"]

_EACH_S = 60.0
_PAGE = 200
_PAGES = 50
_GONE = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


def clear(sandbox: Sandbox) -> list[str]:
    """Delete all that a sandbox made, the newest first; returns what could not be, with its cause."""
    left: list[Made] = []
    said: list[str] = []
    for what, name in reversed(sandbox.made):
        try:
            with deadline(_EACH_S):
                _REMOVE[what](sandbox, name)
        except Exception as error:
            left.insert(0, (what, name))
            said.append(f"{what} {name} at {sandbox.workspace.role} ({' '.join(str(error).split())[:160]})")
    sandbox.forget(left)
    return said


def clear_left_behind(workspace: RemoteWorkspace) -> list[str]:
    """Delete what probes at a workspace left whose process is gone; returns what could not be."""
    said: list[str] = []
    for note, made in left_behind(workspace):
        sandbox = Sandbox(workspace)
        sandbox.take_over(note, made)
        said += clear(sandbox)
    return said


def _remove_experiment(sandbox: Sandbox, name: str) -> None:
    while sandbox.runs:  # a search may not show the newest of them yet
        _must_go(sandbox, "POST", "runs/delete", {"run_id": sandbox.runs.pop()})
    for own in _experiments(sandbox, name):
        for run in _runs(sandbox, own):
            _must_go(sandbox, "POST", "runs/delete", {"run_id": run})
        _must_go(sandbox, "POST", "experiments/delete", {"experiment_id": own})


def _experiments(sandbox: Sandbox, name: str) -> Iterator[str]:
    """Yield the id of the experiment of a name, by a listing where it is not found by its name."""
    found = sandbox.ask("GET", "experiments/get-by-name", {"experiment_name": name})
    if found.taken:
        if found.body["experiment"].get("lifecycle_stage") != "deleted":
            yield str(found.body["experiment"]["experiment_id"])
        return
    token: str | None = ""
    for _ in range(_PAGES):
        asked: dict[str, object] = {"max_results": _PAGE, **({"page_token": token} if token else {})}
        page = sandbox.must("POST", "experiments/search", asked)
        yield from (str(e["experiment_id"]) for e in page.get("experiments") or [] if e["name"] == name)
        token = page.get("next_page_token")
        if not token:
            return


def _runs(sandbox: Sandbox, experiment: str) -> list[str]:
    """Return the runs of an experiment that a search shows."""
    asked = {"experiment_ids": [experiment], "max_results": _PAGE}
    found: list[str] = []
    token: str | None = ""
    for _ in range(_PAGES):
        page = sandbox.must("POST", "runs/search", {**asked, **({"page_token": token} if token else {})})
        found += [str(each["info"]["run_id"]) for each in page.get("runs") or []]
        token = page.get("next_page_token")
        if not token:
            break
    return found


def _remove_model(sandbox: Sandbox, name: str) -> None:
    workspace = sandbox.workspace
    if is_azureml(workspace):  # MLflow's interface deletes no model there
        from dbml_magics.core.doctor.probes.azure import arm

        status = arm(sandbox, "DELETE", f"{workspace.id.path}/models/{name}").status_code
        if status not in (200, 202, 204, 404):
            raise NotMeasured(f"deleting it is answered {status}")
        return
    _must_go(sandbox, "DELETE", "registered-models/delete", {"name": name})


def _remove_catalog_model(sandbox: Sandbox, name: str) -> None:
    call = "/api/2.0/mlflow/unity-catalog/registered-models/delete"
    _must_go(sandbox, "DELETE", call, {"name": name})


def _remove_logged_model(sandbox: Sandbox, name: str) -> None:
    _must_go(sandbox, "DELETE", f"logged-models/{name}", {})


def _remove_endpoint(sandbox: Sandbox, name: str) -> None:
    from dbml_magics.core.doctor.probes.azure import arm, own

    path = f"{own(sandbox).id.path}/onlineEndpoints/{name}"
    while (status := arm(sandbox, "DELETE", path).status_code) == 409:  # it is being made or changed
        time.sleep(min(2.0, sandbox.left()))
    if status not in (200, 202, 204, 404):
        raise NotMeasured(f"deleting it is answered {status}")


def _must_go(sandbox: Sandbox, method: str, call: str, body: dict[str, object]) -> None:
    """Delete something; that it is not there is as good."""
    answer = sandbox.ask(method, call, body)
    if not answer.taken and answer.status != 404 and answer.code not in _GONE:
        raise NotMeasured(answer.said)


_REMOVE = {
    "experiment": _remove_experiment,
    "model": _remove_model,
    "catalog-model": _remove_catalog_model,
    "logged-model": _remove_logged_model,
    "endpoint": _remove_endpoint,
}
