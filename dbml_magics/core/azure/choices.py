"""What a form offers for the Azure ML side: subscriptions, and the Azure ML workspaces in one of them."""

from __future__ import annotations

from dbml_magics.core.azure import permissions
from dbml_magics.core.azure.arm import Arm, client_settings
from dbml_magics.core.azure.finding import AzureWish, signed_in
from dbml_magics.core.azure.names import WorkspaceId

_SUBSCRIPTIONS = "Microsoft.Resources/subscriptions/read"


def subscriptions(wish: AzureWish) -> list[str]:
    """Return the ids of the subscriptions that the sign-in sees; nobody is asked to sign in.

    Raises NotPermitted, WorkspaceUnreachable, BadLink.
    """
    from azure.mgmt.resource import SubscriptionClient

    sign_in = signed_in(wish)
    client = SubscriptionClient(sign_in, **client_settings(sign_in))
    listed = Arm(sign_in, "").ask(
        lambda _: list(client.subscriptions.list()), WorkspaceId("", "", ""), _SUBSCRIPTIONS
    )
    return sorted(str(each.subscription_id) for each in listed or [])


def workspaces(wish: AzureWish) -> list[tuple[str, str]]:
    """Return (resource group, name) of the Azure ML workspaces in the wish's subscription.

    Raises NotPermitted, WorkspaceNotFound, WorkspaceUnreachable, BadLink.
    """
    subscription = wish.subscription or ""
    kind = f"{permissions.ML}/workspaces"
    listed = Arm(signed_in(wish), subscription).ask(
        lambda client: list(client.resources.list(filter=f"resourceType eq '{kind}'")),
        WorkspaceId(subscription, "", ""),
        f"{kind}/read",
    )
    return sorted((str(each.id).split("/")[4], str(each.name)) for each in listed or [])
