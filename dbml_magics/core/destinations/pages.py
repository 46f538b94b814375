"""The addresses of a workspace's pages: of experiments, runs, files and registered versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from dbml_magics.core.destinations.naming import in_catalog

__all__ = ["DatabricksPages", "MlflowPages", "Pages"]


class Pages(Protocol):
    """The pages of one workspace, each None where there is none; nobody is asked for their addresses."""

    def experiment(self, experiment_id: str) -> str | None:
        """Return an experiment's page."""

    def run(self, experiment_id: str, run_id: str) -> str | None:
        """Return a run's page."""

    def artifact(self, experiment_id: str, run_id: str, path: str) -> str | None:
        """Return the page that shows a file, or a folder, of a run."""

    def version(self, name: str, version: str) -> str | None:
        """Return a registered version's page."""


@dataclass(frozen=True)
class MlflowPages:
    """The pages of MLflow's own UI at a server's address."""

    server: str

    def experiment(self, experiment_id: str) -> str:
        """Return an experiment's page."""
        return self._page(f"experiments/{quote(experiment_id)}")

    def run(self, experiment_id: str, run_id: str) -> str:
        """Return a run's page."""
        return f"{self.experiment(experiment_id)}/runs/{quote(run_id)}"

    def artifact(self, experiment_id: str, run_id: str, path: str) -> str:
        """Return the page that shows a file, or a folder, of a run."""
        return f"{self.run(experiment_id, run_id)}/artifacts/{quote(path)}"

    def version(self, name: str, version: str) -> str:
        """Return a registered version's page."""
        return self._page(f"models/{quote(name, safe='')}/versions/{quote(version)}")

    def _page(self, path: str) -> str:
        return f"{self.server.rstrip('/')}/#/{path}"


@dataclass(frozen=True)
class DatabricksPages:
    """The pages of a Databricks workspace."""

    host: str
    workspace: str | None  # its id, which a host that serves several of them needs

    def experiment(self, experiment_id: str) -> str:
        """Return an experiment's page."""
        return self._page(tail=f"#mlflow/experiments/{quote(experiment_id)}")

    def run(self, experiment_id: str, run_id: str) -> str:
        """Return a run's page."""
        return f"{self.experiment(experiment_id)}/runs/{quote(run_id)}"

    def artifact(self, experiment_id: str, run_id: str, path: str) -> str:
        """Return the page that shows a file, or a folder, of a run.

        The notebooks that Databricks' AutoML writes name it so.
        """
        return f"{self.run(experiment_id, run_id)}/artifactPath/{quote(path)}"

    def version(self, name: str, version: str) -> str:
        """Return a registered version's page, in its catalog where it is in one."""
        if in_catalog(name):
            path = "/".join(quote(part) for part in name.split("."))
            return self._page(f"explore/data/models/{path}/version/{quote(version)}")
        return self._page(tail=f"#mlflow/models/{quote(name)}/versions/{quote(version)}")

    def _page(self, path: str = "", tail: str = "") -> str:
        """Return the address of a page: ``path`` before the workspace's id, ``tail`` behind it."""
        return f"{self.host}/{path}{f'?o={self.workspace}' if self.workspace else ''}{tail}"
