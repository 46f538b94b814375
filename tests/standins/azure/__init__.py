"""Azure on this machine: Entra ID, Resource Manager and Azure ML, for the real client libraries to talk to.

    def test_something(azure, tmp_path):            # the fixture ``azure``: an AzureStandIn, as new
        done = subprocess.run(..., env=azure.environment(tmp_path / "home"))          # a child process
        azure.proxy.count(path="runs/log-batch")    # the request log, and every fault of tests.infra.proxy
        with azure.set(logged_models=True): ...     # switches: state.Switches
        with azure.limits(batch_metrics=200): ...   # limits: state.LIMITS
        with azure.deny("Microsoft.MachineLearningServices/workspaces/models/write"): ...  # a missing role
        with azure.proxy.away(): ...                # an outage

One HTTPS address (``azure.uri``, a certificate of an authority made for the run) is ARM, the authority, the
discovery and data services of every workspace and their blobs. Behind the first workspace,
``azure.workspace`` in ``azure.group`` of ``azure.subscription``, is a real MLflow server, ``azure.mlflow``,
to look at with plain readers: its ids are its own (numbers for experiments, 32 hexadecimal digits for
runs), while clients see GUIDs as Azure ML writes them.

How clients find it: ``azure.environment(home)`` is a child's whole environment (before it imports
``mlflow`` or ``azureml``, which read the clouds at import); ``azure.install(monkeypatch, home)`` sets this
process's, for code that takes the cloud from ARM_CLOUD_METADATA_URL after the import too. Their second
argument chooses the sign-in: service-principal, imds, app-service or None. ``azure.credential()`` is a real
credential for a test's own calls. AZURE_AUTHORITY_HOST leads azure-identity here, with
``disable_instance_discovery=True`` where it has that option.

A request that no route knows is answered 404 and fails the test that used the fixture. Beside the first
workspace there are the Databricks workspace ``state.ADB`` with its managed group ``state.ADB_GROUP``, the
storage account, key vault, insights and registry of the workspace, and a second, empty subscription.
"""

from tests.standins.azure.standin import AzureStandIn

__all__ = ["AzureStandIn"]
