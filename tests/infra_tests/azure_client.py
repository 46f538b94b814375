"""A process with the real Azure client libraries, imported once; tests have it call them.

One order a line: ``{"do": "eval", "code": …}`` runs statements and answers with the value of the last one,
``repr`` where it is no JSON, or with the error's class and text.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import warnings
from typing import Any

PREAMBLE = """
import io, os, pathlib, tempfile, time
import mlflow
from azure.identity import ClientSecretCredential
from azureml.core import Workspace
from azureml.core.authentication import AbstractAuthentication
from mlflow import MlflowClient

uri = os.environ["AZURE_AUTHORITY_HOST"]
work = pathlib.Path(tempfile.mkdtemp())
os.chdir(work)


class Wrapped(AbstractAuthentication):
    '''Any azure-identity credential, for every client.'''

    def __init__(self, credential):
        super().__init__()
        self.credential = credential

    def _get_arm_token(self):
        return self.get_token().token

    _get_graph_token = _get_arm_token

    def _check_if_subscription_exists(self, *_):
        return True

    def _get_all_subscription_ids(self):
        return [], None

    def get_token(self, *scopes, **_):
        return self.credential.get_token(uri + "/.default")


def service_principal(secret=os.environ["AZURE_CLIENT_SECRET"]):
    return ClientSecretCredential(
        os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], secret, disable_instance_discovery=True
    )


def get_workspace(name, group, subscription):
    found = Workspace.get(
        name=name, subscription_id=subscription, resource_group=group, auth=Wrapped(service_principal())
    )
    mlflow.set_tracking_uri(found.get_mlflow_tracking_uri())
    return found


def file(name, text):
    path = work / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)
"""


def run(code: str, names: dict[str, Any]) -> Any:
    """Run statements; returns the value of the last one if it is an expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<test>", "exec"), names)
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), "<test>", "eval"), names)


def main() -> None:
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    names: dict[str, Any] = {}
    run(PREAMBLE, names)
    answers.write("{}\n")
    answers.flush()
    for line in sys.stdin:
        said: dict[str, Any]
        try:
            value = run(json.loads(line)["code"], names)
            said = {"value": value} if _plain(value) else {"value": repr(value)}
        except BaseException as error:
            said = {"error": type(error).__name__, "message": str(error)}
        answers.write(json.dumps(said) + "\n")
        answers.flush()
    os._exit(0)  # at once: azureml's threads would be waited for


def _plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


if __name__ == "__main__":
    main()
