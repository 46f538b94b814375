"""Translation of a search's filter: the link's own ids and URIs in it become one workspace's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException

from dbml_magics.core.destinations.errors import Unavailable

if TYPE_CHECKING:
    from dbml_magics.core.delivery.writers.side import Side

_NAMED = re.compile(
    # A user's param or tag has the same value at every workspace, even where it looks like an id.
    r"\b(?:param|parameter|tag)s?\.(?![`\"]?mlflow\.(?:parent|root)RunId)(?:`[^`]*`|\"[^\"]*\"|[^\s=!]+)"
    r"\s*(?:!?=|I?LIKE)\s*(?:'[^']*'|\"[^\"]*\")"
    r"|runs:/(?P<by>[0-9a-f]{32})/(?P<folder>[^'\"%]*)"
    r"|dbml://(?P<link>\w+)/(?P<of>run|model)s/(?P<owner>[\w-]+)/artifacts"
    r"|\b(?P<model>m-[0-9a-f]{32})\b"
    r"|\b(?P<run>[0-9a-f]{32})\b"
    r"|(?<=')(?P<all>dbml:(?://)?(?:\w+/)?(?:runs/|models/)?)(?=%)",
    re.I,
)
# An experiment's own name; a tag may be called so too.
_PATH = re.compile(
    r"((?<![\w.`\"])(?:attr(?:ibutes?)?\.)?[`\"]?name[`\"]?\s*(?:!?=|I?LIKE)\s*['\"])/Workspace(?=/)", re.I
)


def by_path(where: str | None) -> str | None:
    """Return a filter of experiments with the paths in it as :func:`..naming.workspace_path` has them."""
    return where and _PATH.sub(r"\1", where)


def own_filter(side: Side, where: str | None, *, places_only: bool = False) -> str | None:
    """Return a filter with the runs, models and places in it as the workspace knows them.

    A pattern that every place of the link fits (``'dbml://%'``) fits every place there. What the workspace
    does not have stays as it is: nothing there fits it. With ``places_only`` runs and models keep the ids
    that the user knows.
    """
    if not where:
        return where

    def own(found: re.Match[str]) -> str:
        if found["by"]:
            return _source(side, found["by"], found["folder"]) or found[0]
        if found["link"] == side.ids.topology.key:
            return _place(side, found["of"], found["owner"]) or found[0]
        for kind in () if places_only else ("model", "run"):
            if found[kind]:
                known = side.ids.state.identity(side.role, kind, found[0])
                return known.actual if known is not None else found[0]
        return "" if found["all"] else found[0]

    return _NAMED.sub(own, where)


def _source(side: Side, run: str, folder: str) -> str | None:
    """Return what a version's source is at a workspace that was asked for as a folder of a run."""
    model = next((m for m, facts in side.ids.state.models_of(run) if facts.get("name") == folder), None)
    known = side.ids.state.identity(side.role, "model", model) if model is not None else None
    if known is not None and side.destination.uri.startswith(("http://", "https://")):
        return f"models:/{known.actual}"
    place = _place(side, "run", run) if known is None else str(known.extra["artifacts"])
    return f"{place}/{folder}" if place is not None and known is None else place


def _place(side: Side, kind: str, name: str) -> str | None:
    """Return where a workspace has a run's or model's files; asks for those older than the link."""
    known = side.ids.state.identity(side.role, kind, name)
    if known is not None and "artifacts" in known.extra:
        return str(known.extra["artifacts"])
    actual = known.actual if known is not None else name
    try:
        if kind == "run":
            return str(side.destination.get_run(actual).info.artifact_uri)
        return str(side.destination.get_logged_model(actual).artifact_location)
    except MlflowException as error:
        if isinstance(error, Unavailable):
            raise
        return None
