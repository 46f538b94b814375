"""A Databricks workspace on 127.0.0.1, in front of a real MLflow server.

    with ServerHost() as host, Databricks(host.start("databricks").uri) as workspace:
        token = workspace.token("ada@example.com")
        # DATABRICKS_HOST=workspace.uri DATABRICKS_TOKEN=token; then MLflow's own ``databricks`` stores work

It knows what databricks-sdk and MLflow 3.15 ask of the service, keeps the limits of ``services.md``, and
refuses what the service refuses: relative experiment names, names without a parent folder, one-level model
names in Unity Catalog, tag keys with ``. , - = / :`` there. What can be switched stands in :class:`Switches`.
"""

from __future__ import annotations

from tests.contracts.checker import Checker
from tests.contracts.messages import MlflowContract
from tests.infra.service_limits import DATABRICKS_LIMITS
from tests.standins.databricks._permissions import Permissions
from tests.standins.databricks._switches import ORGANIZATION, Switches
from tests.standins.service import Upstream

__all__ = ["ORGANIZATION", "Databricks", "Switches"]


class Databricks(Permissions):
    """One workspace, with all it holds in memory and in the MLflow server behind it."""

    contracts: Checker

    def __init__(self, mlflow_uri: str) -> None:
        self.switches = Switches()
        self.upstream = Upstream(mlflow_uri)
        self.contracts = Checker(contracts=[MlflowContract()])
        self.prepare()
        super().__init__()

    def __enter__(self) -> Databricks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening."""
        super().close()
        self.upstream.close()

    def reset(self) -> None:
        """Forget log, faults, denials and switches; what the workspace holds stays, but is not under way."""
        super().reset()
        self.switches = Switches()
        self.limit(DATABRICKS_LIMITS)
        self.allow_all()
        self.written.clear()
        self.give_anew()
        self.fail_pending()
