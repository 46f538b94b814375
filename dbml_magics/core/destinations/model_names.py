"""Azure ML's registry by the names that the link uses: ``main.ml.iris`` goes in and comes out."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException

from dbml_magics.core.destinations.errors import is_missing
from dbml_magics.core.destinations.naming import azureml_model_name, model_name_behind

if TYPE_CHECKING:
    from dbml_magics.core.destinations.answers import Message

_IN_FILTER = re.compile(r"(\bname\s*=\s*)(['\"])(.*?)\2")
_IN_SOURCE = re.compile(r"models:/([^/]+)/(\d+)")


class LegalModelNames:
    """Translates models' names in each call of a registry store, and in its answer.

    A name that means nothing so is tried as it stands: somebody may have read it in the studio.
    """

    def _call_endpoint(
        self, api: type[Message], json_body: str | None, *args: object, **kwargs: object
    ) -> Message:
        asked: dict[str, str] = json.loads(json_body) if json_body else {}
        call = super()._call_endpoint  # type: ignore[misc]
        translated = _translated(asked)
        try:
            answer = call(api, json.dumps(translated), *args, **kwargs)
        except MlflowException as error:
            if (
                translated == asked
                or not is_missing(error)
                or azureml_model_name(translated["name"]) == translated["name"]
            ):
                raise
            answer = call(api, json_body, *args, **kwargs)
        return _named_back(answer)


def _translated(asked: dict[str, str]) -> dict[str, str]:
    translated = dict(asked)
    for field in ("name", "new_name"):
        if field in translated:
            translated[field] = azureml_model_name(translated[field])
    if translated.get("filter"):
        translated["filter"] = _IN_FILTER.sub(
            lambda found: f"{found[1]}{found[2]}{azureml_model_name(found[3])}{found[2]}",
            translated["filter"],
        )
    source = _IN_SOURCE.fullmatch(translated.get("source") or "")
    if source is not None:
        translated["source"] = f"models:/{azureml_model_name(source[1])}/{source[2]}"
    return translated


def _named_back(answer: Message) -> Message:
    held = {field.name: value for field, value in answer.ListFields()} if answer is not None else {}
    models = [held[key] for key in ("registered_model", "registered_model_detailed") if key in held]
    models += list(held.get("registered_models", ()))
    versions = [held["model_version"]] if "model_version" in held else []
    versions += list(held.get("model_versions", ()))
    for model in models:
        versions += list(model.latest_versions)
    for named in (*models, *versions):
        named.name = model_name_behind(named.name)
    return answer
