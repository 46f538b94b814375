"""What the answers of a workspace have taught of it, beyond what its kind declares."""

from __future__ import annotations

from typing import Literal

from mlflow.exceptions import MlflowException

from dbml_magics.core.destinations.errors import MissingEndpoint, Unavailable, classify_error
from dbml_magics.core.destinations.limits import Limits
from dbml_magics.core.destinations.protocol import Destination
from dbml_magics.core.outbox.capability_notes import CapabilityNotes

Lack = Literal["logged-models", "inputs", "outputs"]
"""What services are without: logged models, or a call for the inputs or outputs of runs."""


class Learned:
    """The limits and lacks of one workspace's service; the one place where they change."""

    def __init__(self, role: str, destination: Destination, notes: CapabilityNotes) -> None:
        self.role = role
        self._destination = destination
        self._notes = notes
        self.limits: Limits = destination.limits
        """As the service's kind has them, lowered by what the service refused since."""

    def lacks(self, capability: Lack) -> bool:
        """Tell whether the service answered that it has no such call."""
        return self._notes.lacks(self.role, capability)

    def note_lack(self, capability: Lack) -> None:
        """Remember that the service answered that it has no such call, until the next link."""
        self._notes.note_lack(self.role, capability)

    @property
    def has_logged_models(self) -> bool:
        """Tell whether the service has logged models; True until it said otherwise."""
        return not self.lacks("logged-models")

    def note_no_logged_models(self) -> None:
        """Remember that the service answered that it has no logged models."""
        self.note_lack("logged-models")

    def look_for_logged_models(self) -> bool:
        """Settle whether the service lacks logged models or has no call for one id; True where it has them.

        The id stands in the request's path: one that the service reads otherwise gets the same answer.
        """
        try:
            self._destination.search_logged_models(["0"], most=1)
        except MissingEndpoint:
            self.note_no_logged_models()
        except MlflowException as error:
            if isinstance(classify_error(error), Unavailable):
                raise
        return self.has_logged_models

    def reset_capabilities(self) -> None:
        """Forget what the service lacked: it may have learned it since, and is asked at the next use."""
        self._notes.forget_lacks(self.role)

    @property
    def takes_run_ids(self) -> bool | None:
        """Tell whether the service makes runs under the id that it is given; None until one was made."""
        return self._notes.takes_run_ids(self.role)

    def note_takes_run_ids(self, takes: bool) -> None:
        """Remember whether the service made a run under the id that it was given."""
        self._notes.note_takes_run_ids(self.role, takes)

    @property
    def asks_for_ids(self) -> bool:
        """Tell whether the service is to be asked to make runs under the ids that the user saw."""
        return self._destination.capabilities.takes_run_ids and self.takes_run_ids is not False
