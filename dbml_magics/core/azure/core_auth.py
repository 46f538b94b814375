"""azureml-core's face of the link's sign-in, and its ``Workspace`` object. Imports azureml-core: seconds."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from azureml._vendor.azure_cli_core.cloud import Cloud as CoreCloud
from azureml._vendor.azure_cli_core.cloud import CloudEndpoints, CloudSuffixes
from azureml.core import Workspace
from azureml.core.authentication import AbstractAuthentication, _SubscriptionInfo

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken

    from dbml_magics.core.azure.azureml_mlflow_private import SdkCloud
    from dbml_magics.core.azure.identity import SignIn
    from dbml_magics.core.azure.names import WorkspaceId


class Authentication(AbstractAuthentication):  # type: ignore[misc]
    """Hands azureml-core the tokens of a :class:`SignIn`, for its cloud, renewed."""

    def __init__(self, sign_in: SignIn, subscription: str) -> None:
        # Not the base class's: it looks its cloud up in a list that was read when it was imported.
        self._cloud_type = core_cloud(sign_in.cloud.sdk)
        self._sign_in = sign_in
        self._subscription = subscription

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        """Return a token for the scopes."""
        return self._sign_in.get_token(*scopes)

    def _get_arm_token(self) -> str:
        return str(self._sign_in.get_token(self._sign_in.cloud.scope).token)

    def _get_graph_token(self) -> str:
        resource = self._cloud_type.endpoints.active_directory_graph_resource_id
        return str(self._sign_in.get_token(f"{resource.rstrip('/')}/.default").token)

    def _get_azureml_client_token(self) -> str:
        return self._get_arm_token()

    def _get_all_subscription_ids(self) -> tuple[list[_SubscriptionInfo], str]:
        # The link's own: what it may not see, Resource Manager itself refuses, in plainer words.
        return [_SubscriptionInfo(self._subscription, self._subscription)], ""


def core_cloud(sdk: SdkCloud) -> CoreCloud:
    """Return azureml-core's object of a cloud that azureml-mlflow has."""
    return CoreCloud(
        sdk.name,
        endpoints=CloudEndpoints(**vars(sdk.endpoints)),
        suffixes=CloudSuffixes(**vars(sdk.suffixes)),
    )


def workspace_object(workspace: WorkspaceId, sign_in: SignIn) -> Workspace:
    """Return the real ``azureml.core.Workspace``."""
    logging.getLogger("azureml").addHandler(logging.NullHandler())
    return Workspace.get(
        workspace.name,
        auth=Authentication(sign_in, workspace.subscription),
        subscription_id=workspace.subscription,
        resource_group=workspace.group,
    )
