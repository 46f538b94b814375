"""What a user asks of ``link``, and the link that it comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from dbml_magics.common import environment
from dbml_magics.common.hints import Argument, Remedy
from dbml_magics.core import link as links
from dbml_magics.core import remembered_links
from dbml_magics.core.azure.wish import NAMES, AzureWish
from dbml_magics.core.link import Link, LinkOptions, WorkspaceSpec
from dbml_magics.errors import BadLink

__all__ = ["LinkRequest"]

_PLACEHOLDER = "azureml://it"  # an Azure ML workspace that is yet to be found


@dataclass(frozen=True)
class LinkRequest:
    """The arguments of :func:`dbml_magics.api.link`."""

    local: str | bool | None = None
    databricks: str | None = None
    azureml: str | None = None
    options: LinkOptions = field(default_factory=LinkOptions)
    azure: AzureWish = field(default_factory=AzureWish)
    again: bool = False
    config: str | bool | None = None
    prompt: Callable[[str], None] | None = None
    progress: Callable[[int, int, str], None] | None = None

    def resolve(self, folder: str, refuse_active_run: Callable[[str], None]) -> Link:
        """Return the link that is meant, its Azure ML workspace found (or made) and signed in to.

        Raises BadLink, BadUri, SecretRefused, RunActive, WorkspaceUnreachable, NotConfirmed or NotPermitted.
        """
        if self.again:
            if self.local or self.databricks or self.azureml or self.azure != AzureWish() or self.config:
                raise BadLink(
                    "--again takes up the link remembered for this folder; it takes no workspace beside it.",
                    remedies=[Remedy("link", again=True)],
                )
            link = remembered_links.remembered(folder)
            refuse_active_run("link")
            return self._signed_in(link)
        whole = self if self.config in (None, False) else self._with_file(folder)
        whole = whole._in_databricks()
        return whole._signed_in(whole._link(folder, refuse_active_run))

    def _with_file(self, folder: str) -> LinkRequest:
        """Add what a file says and the user did not. Raises BadLink, NotConfirmed, SecretRefused."""
        from dbml_magics.core import known_places, link_files

        file = link_files.read(None if self.config is True else str(self.config), folder)
        options, azure, places = link_files.settings_of(file)
        if self.azureml is not None:  # a workspace that the line names otherwise
            azure = AzureWish(cloud=azure.cloud, auth=azure.auth, settings=azure.settings)
        elif self.azure.names_workspace:
            places["azureml"] = None
        given = {"databricks": self.databricks, "azureml": self.azureml}
        chosen = {role: places[role] for role, uri in given.items() if uri is None}
        spill = options.spill if self.options.spill is None else None
        left = known_places.agree(chosen, spill, folder, self.azure.confirm, file.path)
        return replace(
            self,
            databricks=self.databricks if self.databricks is not None else places["databricks"],
            azureml=self.azureml if self.azureml is not None else places["azureml"],
            options=self.options.over(options),
            azure=replace(self.azure, confirm=left or None).over(azure),
        )

    def _in_databricks(self) -> LinkRequest:
        """Return it with the workspace at hand, in a Databricks notebook; alone, unless more is said."""
        if self.local or self.databricks is not None or environment.databricks() is None:
            return self
        alone = self.azureml is None and self.azure == AzureWish()
        track = self.options.track or ("databricks" if alone else None)
        return replace(self, databricks="databricks", options=replace(self.options, track=track))

    def _link(self, folder: str, refuse_active_run: Callable[[str], None]) -> Link:
        """Return the link; an Azure ML workspace that is named by its Azure names is found."""

        def make(azureml: str | WorkspaceSpec | None) -> Link:
            return links.make(
                folder=folder,
                local=self.local,
                databricks=self.databricks,
                azureml=azureml,
                options=self.options,
            )

        self.azure.check(self.azureml)
        if not self.azure.names_workspace:
            link = make(self.azureml)
            refuse_active_run("link")
            return link
        from dbml_magics.core.azure import finding

        # What does not hang on the workspace is refused before anybody signs in, or a workspace is made.
        named: dict[str, Argument] = {name: str(getattr(self.azure, name)) for name in NAMES}
        try:
            make(WorkspaceSpec("azureml", _PLACEHOLDER))
        except BadLink as error:
            remedies = [(_naming(command, named), what) for command, what in error.remedies]
            raise BadLink(
                error.message.replace(_PLACEHOLDER, self.azure.workspace or ""), remedies=remedies
            ) from None
        refuse_active_run("link")
        rest = {"config": self.config, "databricks": self.databricks, **vars(self.options)}
        rest |= {"cloud": self.azure.cloud, "auth": self.azure.auth}
        said = {name: value for name, value in rest.items() if value}
        return make(finding.resolve(self.azure, self.prompt, self.progress, said))

    def _signed_in(self, link: Link) -> Link:
        """Return the link with its Azure ML workspace signed in to, where it has one."""
        specs = []
        for spec in link.workspaces:
            if spec.kind == "azureml":
                from dbml_magics.core.azure import finding

                if self.again:
                    finding.sign_in_again(spec, self.prompt)
                elif not spec.settings:
                    spec = finding.of_uri(spec, self.azure, self.prompt)
            specs.append(spec)
        return replace(link, workspaces=tuple(specs))


def _naming(command: str, names: Mapping[str, Argument]) -> str:
    """Return a command with an Azure ML workspace's names in the place of the URI that stood for it."""
    if not isinstance(command, Remedy) or command.options.get("azureml") != _PLACEHOLDER:
        return command
    options: dict[str, Argument] = {}
    for name, value in command.options.items():
        options.update(names if name == "azureml" else {name: value})
    return Remedy(command.command, *command.values, **options)
