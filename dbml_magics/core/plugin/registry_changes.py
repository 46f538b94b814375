"""Changes of registered models and versions: made at the first registry, journaled for the others.

While the first registry is away, or lacks what was written before, a change is journaled for it too.
"""

from __future__ import annotations

from dbml_magics.core.delivery.writers.registrations import write_directly
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.model.facts import RegistryChange
from dbml_magics.core.model.operations import ChangeRegistry
from dbml_magics.core.model.queues import REGISTRY_QUEUE
from dbml_magics.core.model.sendable import refuse_bad_text
from dbml_magics.core.outbox.model_names import AliasTarget
from dbml_magics.core.outbox.model_versions import Registered
from dbml_magics.core.plugin.asked import ask
from dbml_magics.core.plugin.first_registry import FirstRegistry
from dbml_magics.core.plugin.registry_shown import Shown
from dbml_magics.core.plugin.registry_view import WAITING
from dbml_magics.core.runtime.engine import Engine


class RegistryChanges:
    """Makes changes of one link's registries."""

    def __init__(self, engine: Engine, first: FirstRegistry, shown: Shown) -> None:
        self._engine = engine
        self._first = first
        self._shown = shown

    def make(self, change: RegistryChange) -> object:
        """Make a change; returns the first registry's answer as the user sees it, None while it has none."""
        do, name = change["do"], change["name"]
        refuse_bad_text(f"the change ({do}) of a registered model:", change)
        versions, roles = self._first.versions, list(self._engine.link.registries)
        after = versions.open_of(name)
        provisional = False
        if "version" in change:
            change["of"] = key = self._first.registration(name, change["version"])
            copies = versions.copies_of(name, change["version"]) if do == "version_delete" else set()
            after = {k: queue for k, queue in after.items() if k == key or k in copies}
            answer = versions.answer(key, self._first.role) if key else None
            if change["version"] == WAITING:
                provisional = answer is None
                change["version"] = answer.version if isinstance(answer, Registered) else WAITING
            elif answer is None:
                del change["of"]  # registered from elsewhere: its number says which it is
        made: object = None
        if not provisional and self._first.has_caught_up(after):
            tried: list[bool] = []
            try:
                made = self._make_at_first(change, tried)
                roles = roles[1:]
            except Unavailable:
                change["tried"] = bool(tried)  # it may have been done there, its answer lost
        if "alias" in change:
            self._note_alias(change)
        elif do == "delete_model":
            self._engine.state.model_names.drop_aliases(name)
        if roles:
            self._engine.recorder.write(
                REGISTRY_QUEUE, ChangeRegistry({**change, "to": roles, "after": after})
            )
        return self._shown.answer(made)

    def rename_twins(self, name: str, new_name: str) -> None:
        """After a rename, have the tags of versions name their twins under the new name."""
        roles = list(self._engine.link.registries)
        if len(roles) > 1:
            twins: RegistryChange = {"do": "twins", "name": new_name, "old_name": name, "to": roles}
            self._engine.recorder.write(REGISTRY_QUEUE, ChangeRegistry(twins))

    def _make_at_first(self, change: RegistryChange, tried: list[bool]) -> object:
        def once() -> object:
            again = bool(tried)
            tried.append(True)
            return write_directly(self._engine.workspaces[self._first.role], change, again)

        return ask(self._engine, self._first.role, "registry write", once)

    def _note_alias(self, change: RegistryChange) -> None:
        """Note which version an acknowledged alias points at, for reads while no registry answers."""
        names, name, alias = self._engine.state.model_names, change["name"], change["alias"]
        if change["do"] == "alias":
            names.point(name, alias, AliasTarget(str(change["version"]), change.get("of")))
        else:
            names.drop_alias(name, alias)
