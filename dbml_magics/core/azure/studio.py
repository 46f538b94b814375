"""Pages of an Azure ML workspace's studio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from dbml_magics.core.azure import names

if TYPE_CHECKING:
    from dbml_magics.core.link import WorkspaceSpec

_STUDIO = "https://ml.azure.com"


def page(spec: WorkspaceSpec, path: str = "") -> str | None:
    """Return a page of an Azure ML workspace's studio, as azureml-core writes it, or None.

    The studio's address is the workspace's own (its discovery tells it), so sovereign clouds have theirs.
    """
    parsed = names.of_uri(spec.uri)
    if parsed is None:
        return None
    tenant = spec.setting("tenant")
    return (
        f"{(spec.setting('studio') or _STUDIO).rstrip('/')}{path}?wsid={parsed[1].studio_id}"
        f"{f'&tid={tenant}' if tenant else ''}"
    )


@dataclass(frozen=True)
class StudioPages:
    """The pages of one workspace."""

    spec: WorkspaceSpec

    def experiment(self, experiment_id: str) -> str | None:
        """Return an experiment's page."""
        return page(self.spec, f"/experiments/id/{quote(experiment_id)}")

    def run(self, experiment_id: str, run_id: str) -> str | None:
        """Return a run's page."""
        del experiment_id
        return page(self.spec, f"/runs/{quote(run_id)}")

    def artifact(self, experiment_id: str, run_id: str, path: str) -> None:
        """Return None: no address of a file in the studio is documented; the run's page has them."""

    def version(self, name: str, version: str) -> str | None:
        """Return a registered version's page."""
        return page(self.spec, f"/model/{quote(name)}:{quote(version)}/details")

    def endpoint(self, name: str) -> str | None:
        """Return an endpoint's page."""
        return page(self.spec, f"/endpoints/realtime/{quote(name)}/detail")
