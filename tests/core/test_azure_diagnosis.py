"""Refusals of Azure's services as others recorded them, word for word, and what each is taken for."""

from __future__ import annotations

import json

import pytest

from dbml_magics.core.azure import diagnosis
from dbml_magics.core.azure.names import WorkspaceId

OURS = WorkspaceId("5ab5c41b-0000-4000-8000-000000000001", "rg-ml", "mlw-dp100-labs")
PRIVATE = "Access to workspace was denied based on workspace private link configuration."


def said(status: int, code: str, message: str, **more: object) -> diagnosis.Said:
    """Read an answer in Resource Manager's form."""
    body = json.dumps({"error": {"code": code, "message": message, **more}})
    return diagnosis.Said.by(status, body)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            said(
                404,
                "ParentResourceNotFound",
                "Can not perform requested operation on nested resource. Parent resource 'mlw-dp100-labs' "
                "not found.",
            ),
            "the workspace mlw-dp100-labs is not in rg-ml",
        ),
        (said(502, "UserError", PRIVATE), "behind its private endpoint"),
        (said(403, "UserError", PRIVATE), "behind its private endpoint"),
        (
            said(403, "UserError", "User is not authorized: it is outside of the designated private link"),
            "behind its private endpoint",
        ),
        (
            said(
                404,
                "ParentResourceNotFound",
                "Can not perform requested operation on nested resource. Parent resource 'an-endpoint' not "
                "found.",
            ),
            None,
        ),
        (said(502, "BadGateway", "The service is busy."), None),
    ],
)
def test_a_refusal_of_the_whole_workspace_is_told_from_others(
    answer: diagnosis.Said, reason: str | None
) -> None:
    away = diagnosis.trouble(answer, OURS, "read")
    assert away is None if reason is None else reason in getattr(away, "reason", "")


def test_the_cause_within_a_failed_deployment_is_read() -> None:
    inner = {"code": "BadRequest", "message": "Soft-deleted workspace exists. Please purge or recover it."}
    nested = {"code": "DeploymentFailed", "message": "At least one failed.", "details": [inner]}
    answer = said(200, "ResourceDeploymentFailure", "It reached 'Failed'.", details=[nested])
    assert answer.message == (
        "It reached 'Failed'. (DeploymentFailed: At least one failed.) "
        "(BadRequest: Soft-deleted workspace exists. Please purge or recover it.)"
    )
    strange: object
    for strange in ("text", {"code": 1}, [], None):
        assert said(400, "Bad", "Words.", details=strange).message == "Words."


@pytest.mark.parametrize(
    ("status", "code"), [(409, "PublicAccessNotPermitted"), (403, "AuthorizationFailure")]
)
def test_a_storage_account_that_refuses_the_network_says_so_by_its_code(status: int, code: str) -> None:
    xml = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Not permitted.</Message></Error>"
    away = diagnosis.storage(diagnosis.Said.by(status, xml), "account", writing=True)
    assert away is not None
    assert "firewall" in away.reason
    exists = diagnosis.Said.by(409, "<Error><Code>BlobAlreadyExists</Code></Error>")
    assert diagnosis.storage(exists, "account", writing=True) is None
