"""What a user says about the Azure ML side of a link, beside a URI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from dbml_magics.common.hints import Remedy, corrected
from dbml_magics.core.azure import names
from dbml_magics.errors import BadLink

__all__ = ["NAMES", "AzureWish"]

NAMES = ("subscription", "resource_group", "workspace")
_NAMED = Remedy("link", subscription="…", resource_group="…", workspace="…")
_MAKE = _NAMED.but(create=True, location="…")


@dataclass(frozen=True)
class AzureWish:
    """The options of ``link`` that name the Azure ML workspace other than by a URI."""

    subscription: str | None = None
    resource_group: str | None = None
    workspace: str | None = None
    cloud: str | None = None
    auth: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)  # secret-scope, service-credential
    create: bool = False
    location: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    storage_account: str | None = None
    key_vault: str | None = None
    confirm: str | None = None

    def over(self, other: AzureWish) -> AzureWish:
        """Return it with what it does not say as another one says it."""
        said = {each.name: value for each in fields(self) if (value := getattr(self, each.name))}
        return replace(other, **said)

    @property
    def names_workspace(self) -> bool:
        """Tell whether a workspace is named by subscription, resource group and name, or a part of them."""
        return any(getattr(self, name) for name in NAMES)

    def check(self, uri: str | None) -> None:
        """Raise BadLink for a wish that makes no sense, before anybody is asked; ``uri``: ``--azureml``'s."""
        if self.names_workspace and uri is not None:
            raise BadLink(
                "--azureml names the workspace by its URI, and --subscription, --resource-group, --workspace "
                "name it too: one of the two.",
                remedies=[
                    corrected(_NAMED, azureml=None),
                    corrected(Remedy("link", azureml="azureml://…"), **dict.fromkeys(NAMES)),
                ],
            )
        missing = [name for name in NAMES if not getattr(self, name)]
        if self.names_workspace and missing:
            wanted = " and ".join(f"--{name.replace('_', '-')}" for name in missing)
            are = "is" if len(missing) == 1 else "are"
            raise BadLink(
                f"an Azure ML workspace has three names, and {wanted} {are} missing.",
                remedies=[
                    (corrected(_NAMED, **dict.fromkeys(missing, "…")), "all three, or"),
                    (Remedy("link", config=True), "from Azure ML's config.json or a team's dbml.toml"),
                ],
            )
        made_of = [
            name for name in ("location", "storage_account", "key_vault", "confirm") if getattr(self, name)
        ]
        made_of += ["tag"] if self.tags else []
        if made_of and not self.create:
            raise BadLink(
                f"--{made_of[0].replace('_', '-')} belongs to --create.",
                remedies=[corrected(_MAKE, create=True)],
            )
        if self.create and not self.names_workspace:
            raise BadLink(
                "--create needs to know what to make.",
                remedies=[_MAKE],
            )
        if self.names_workspace:
            wrong = names.troubles(*(str(getattr(self, name)) for name in NAMES))
            if wrong:
                raise BadLink(
                    f"{'; '.join(wrong)}.",
                    remedies=[("az ml workspace show --query id", "prints all three in one line")],
                )
