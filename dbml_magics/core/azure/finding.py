"""Resolve the user's options to a workspace that can be linked: sign in, find it, or create it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from dbml_magics.common.hints import Argument, amended
from dbml_magics.core.azure import clouds, job, names
from dbml_magics.core.azure.arm import Arm, Found
from dbml_magics.core.azure.identity import SignIn, shared
from dbml_magics.core.azure.identity_names import SETTINGS
from dbml_magics.core.azure.making import Maker, Progress, Wish
from dbml_magics.core.azure.wish import NAMES, AzureWish
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.link import WorkspaceSpec
from dbml_magics.core.workspace_uri import checked_uri
from dbml_magics.errors import BadUri, DbmlError, NotPermitted, WorkspaceUnreachable

if TYPE_CHECKING:
    from dbml_magics.core.azure.clouds import Cloud


def resolve(
    wish: AzureWish,
    prompt: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    rest: Mapping[str, Argument] | None = None,
) -> WorkspaceSpec:
    """Return the workspace that the wish names, signed in and found; made, if that is wished and confirmed.

    ``rest`` are the command's other options, for the command that a plan offers.
    Raises WorkspaceNotFound, NotPermitted, WorkspaceUnreachable, BadLink, NotConfirmed.
    """
    wanted = names.WorkspaceId(*(str(getattr(wish, name)) for name in NAMES))
    cloud = _cloud(wish.cloud, None)
    sign_in = _signed_in(wish.auth, cloud, wish.settings, prompt)
    arm = Arm(sign_in, wanted.subscription)
    if wish.create:
        kept = (wish.storage_account, wish.key_vault)
        maker = Maker(arm)
        plan = maker.plan(Wish(wanted, wish.location, wish.tags, *kept, rest or {}))
        found = maker.create(plan, wish.confirm, progress)
    elif sign_in.method == "job-token":
        return _spec(_of_job(wanted), sign_in, cloud.studio)
    else:
        found = arm.find(wanted)
    return _spec(found.uri, sign_in, found.studio)


def _of_job(wanted: names.WorkspaceId) -> str:
    """Return the URI of the job's own workspace, which its token opens. Raises NotPermitted."""
    own = job.workspace()
    if own is None or own[1].path.lower() != wanted.path.lower():
        there = f"{own[1].name} in {own[1].group}" if own is not None else "not named in its environment"
        raise NotPermitted(
            f"the job's own token opens the job's own workspace alone ({there}), not {wanted.name}.",
            remedies=[
                ("identity: {type: managed}", "in the job's YAML, for a cluster that has an identity"),
                (
                    "AZURE_TENANT_ID=… AZURE_CLIENT_ID=… AZURE_CLIENT_SECRET=…",
                    "a service principal, in the job's environment",
                ),
            ],
        )
    return own[1].uri(own[0])


def of_uri(
    spec: WorkspaceSpec, wish: AzureWish, prompt: Callable[[str], None] | None = None
) -> WorkspaceSpec:
    """Return an ``azureml://`` workspace signed in; its studio's address where Resource Manager tells it."""
    parsed = names.of_uri(spec.uri)
    if parsed is None:
        raise BadUri(
            f"{spec.uri!r} names no workspace.",
            remedies=[("az ml workspace show --query mlflow_tracking_uri", "prints the workspace's URI")],
        )
    host, workspace = parsed
    cloud = _cloud(wish.cloud, host)
    sign_in = _signed_in(wish.auth, cloud, wish.settings, prompt)
    try:
        studio = Arm(sign_in, workspace.subscription).find(workspace).studio
    except DbmlError:  # a link by URI needs no right to read the resource
        studio = cloud.studio
    return replace(_spec(workspace.uri(host), sign_in, studio), role=spec.role)


def _spec(uri: str, sign_in: SignIn, studio: str | None) -> WorkspaceSpec:
    settings = {"auth": sign_in.method, "cloud": sign_in.cloud.name, **sign_in.settings}
    known = {"studio": studio, "tenant": sign_in.tenant}
    settings |= {name: value for name, value in known.items() if value}
    return WorkspaceSpec("azureml", checked_uri("azureml", uri), settings=tuple(sorted(settings.items())))


def sign_in_for(spec: WorkspaceSpec, prompt: Callable[[str], None] | None = None) -> SignIn:
    """Return this process's sign-in for a workspace of a link; asks nobody yet.

    Raises Unavailable, BadLink.
    """
    parsed = names.of_uri(spec.uri)
    cloud = clouds.named(spec.setting("cloud"), parsed[0] if parsed else None)
    return shared(spec.setting("auth") or "default", cloud, dict(spec.settings), prompt)


def sign_in_again(spec: WorkspaceSpec, prompt: Callable[[str], None] | None) -> None:
    """Sign in where that needs the user, for a link that is taken up again; an outage is no trouble."""
    try:
        sign_in_for(spec, prompt).begin()
    except Unavailable as error:
        if error.denied:
            raise NotPermitted(f"Azure: {error.reason}.", remedies=error.remedies) from error


def _cloud(name: str | None, host: str | None) -> Cloud:
    try:
        return clouds.named(name, host)
    except Unavailable as error:
        raise WorkspaceUnreachable(
            f"Azure's clouds are {error.reason}.",
            remedies=[(f"curl -sS ${clouds.METADATA_VARIABLE}", "from this machine: does it answer?")],
        ) from error


def signed_in(wish: AzureWish) -> SignIn:
    """Return the sign-in of a wish that names no workspace. Raises NotPermitted, WorkspaceUnreachable."""
    return _signed_in(wish.auth, _cloud(wish.cloud, None), wish.settings, None)


def _signed_in(
    method: str | None, cloud: Cloud, settings: Mapping[str, str], prompt: Callable[[str], None] | None
) -> SignIn:
    sign_in = shared(method or "default", cloud, settings, prompt)
    try:
        sign_in.begin()
    except Unavailable as error:
        if error.denied:
            raise NotPermitted(f"Azure: {error.reason}.", remedies=error.remedies) from error
        raise WorkspaceUnreachable(
            f"Azure's sign-in is {error.reason}.",
            remedies=[
                (f"curl -sSI {cloud.authority}", "from this machine: is it reachable?"),
                (
                    amended("link", "…", cloud="NAME"),
                    "if the workspace is in another cloud",
                ),
            ],
        ) from error
    return sign_in


__all__ = [
    "SETTINGS",
    "AzureWish",
    "Found",
    "of_uri",
    "resolve",
    "sign_in_again",
    "sign_in_for",
    "signed_in",
]
