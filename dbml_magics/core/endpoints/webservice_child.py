"""The process in which azureml-mlflow deploys to container instances and Kubernetes clusters.

Its client changes the working directory, prints as it goes, wants a config file, reads models through the
global URIs and leaves files behind in the temporary folder: here it does all that alone. The user's sign-in
stays where it is: each token is asked for over standard output, and read from standard input.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken

__all__ = ["main"]


class _Asking:
    """A credential that asks the process which started this one."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        """Return a token for the scopes."""
        from azure.core.credentials import AccessToken

        _tell(self._out, token=list(scopes))
        reply = json.loads(sys.stdin.readline())
        return AccessToken(reply["token"], int(reply["expires"]))


def _tell(out: IO[str], **what: object) -> None:
    """Say one thing to the process that started this one."""
    out.write(json.dumps(what) + "\n")
    out.flush()


def main() -> None:
    """Start the deployment that the first line of standard input describes; end once it is accepted."""
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the client prints goes to the log
    order = json.loads(sys.stdin.readline())
    try:
        _deploy(order, _Asking(out))
    except BaseException as error:
        _tell(out, failed=" ".join(_causes(error))[:2000])
        os._exit(1)
    _tell(out, done=True)
    os._exit(0)  # a thread of the client's goes on asking how far the service is, and prints


def _deploy(order: dict[str, Any], credential: _Asking) -> None:
    from mlflow.deployments import get_deploy_client

    from dbml_magics.core.azure import azureml_mlflow_private, clouds

    uri = order["uri"]
    context = azureml_mlflow_private.ServiceContext(
        host_url=order["host_url"],
        subscription_id=order["subscription"],
        workspace_name=order["workspace"],
        resource_group_name=order["group"],
        auth=credential,
        cloud=clouds.named(order["cloud"]).sdk,
    )
    azureml_mlflow_private.register_context(uri, context)
    config = Path("config.json")
    with os.fdopen(os.open(config, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:
        json.dump(order["config"], file)
    client = get_deploy_client(uri)
    begin = client.update_deployment if order["update"] else client.create_deployment
    begin(
        name=order["name"],
        model_uri=order["model"],
        config={"deploy-config-file": str(config.absolute())},
    )


def _causes(error: BaseException) -> list[str]:
    """Return the cause, the innermost error first: the client wraps it in a sentence without content."""
    found: list[str] = []
    each: BaseException | None = error
    while each is not None and len(found) < 6:
        found.insert(0, f"{type(each).__name__}: {' '.join(str(each).split())}")
        each = each.__cause__
    return found


if __name__ == "__main__":
    main()
