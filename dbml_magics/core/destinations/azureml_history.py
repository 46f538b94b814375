"""Azure ML's run history service, which makes a run under an id that the caller chose.

MLflow's own call lets the service choose. azureml-core chooses the id itself (``RunClient.create_run``, a
PATCH of a run that need not be there), and Microsoft's former link between the two products kept the run of
one under the other's id in this way. Whether a workspace does it is found out with the first run made there.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from mlflow.entities import Run, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.utils.rest_utils import MlflowHostCreds

from dbml_magics.core.destinations import answers, rest
from dbml_magics.core.destinations.errors import MissingEndpoint, Unavailable, is_missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflow.store.tracking.abstract_store import AbstractStore

_PARENT_TAG = "mlflow.parentRunId"
_NAME_TAG = "mlflow.runName"


class History:
    """Run history beside the tracking store of one workspace; ``creds`` are for its own address."""

    def __init__(self, creds: Callable[[], MlflowHostCreds], tracking: AbstractStore) -> None:
        self._creds = creds
        self._tracking = tracking

    def make_run(self, run_id: str, experiment_id: str, start: int, tags: dict[str, str]) -> Run | None:
        """Make a run that MLflow's interface then shows, running; None where there is none.

        Raises Unavailable.

        Done twice, it makes one run. The tags are the caller's to set, within what the service takes.
        """
        body = {
            "runId": run_id,
            "status": "Running",
            "startTimeUtc": datetime.fromtimestamp(start / 1000, timezone.utc).isoformat(),
            "displayName": tags.get(_NAME_TAG),
            "parentRunId": tags.get(_PARENT_TAG),
        }
        reply = self._patch(experiment_id, run_id, body)
        if reply is None:
            return None
        made = str(reply["runId"])
        try:
            found: Run = self._tracking.get_run(made)
        except MlflowException as error:
            if isinstance(error, Unavailable) or not is_missing(error):
                raise
            # Made, but not where MLflow looks: nobody shall wait for it to end.
            self._patch(experiment_id, made, {"runId": made, "status": "Canceled"})
            return None
        if found.info.status == RunStatus.to_string(RunStatus.SCHEDULED):
            self._tracking.update_run_info(made, RunStatus.RUNNING, None, None)
        return found

    def _patch(self, experiment_id: str, run_id: str, body: Mapping[str, object]) -> dict[str, Any] | None:
        fields = {name: value for name, value in body.items() if value is not None}
        try:
            response = rest.request(
                self._creds(), f"/experimentids/{experiment_id}/runs/{run_id}", "PATCH", json=fields
            )
        except MissingEndpoint:
            return None
        if response.status_code >= 400:  # refused, as one call; the rest was raised
            return None
        return answers.entity(response, "PATCH", "a run in run history", "runId")
