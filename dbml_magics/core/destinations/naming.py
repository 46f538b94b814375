"""Each workspace's naming rules: experiments (``/Users/me/folder/name`` there, ``name`` here) and models."""

from __future__ import annotations

import hashlib
import posixpath
import re

from dbml_magics.common.hints import Remedy
from dbml_magics.errors import BadName

_AZUREML_LEGAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}\Z")
_BAD_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
_MODEL_LEGAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}\Z")
_WORD = re.compile(r"[A-Za-z0-9_]")
_CODED = re.compile(r"-u([0-9a-f]{1,6})-|--")
_LIKE_CODE = re.compile(r"-u[0-9a-f]{1,6}(?![A-Za-z0-9_])")
_MAX_MLFLOW = 500  # mlflow.utils.validation.MAX_EXPERIMENT_NAME_LENGTH

EXPERIMENT_TAG = "dbml_experiment"
"""The name that the user gave, on an experiment that another rule made call itself otherwise."""


def workspace_path(name: str) -> str:
    """Return the name that Databricks keeps an experiment under: ``/Users/…`` for ``/Workspace/Users/…``.

    It makes the experiment without the prefix, and finds none by the name with it (mlflow#11077).
    """
    return name.removeprefix("/Workspace") if name.startswith("/Workspace/") else name


def check_experiment_name(name: str) -> str:
    """Return the name that a link knows an experiment by.

    Raises BadName for one that Databricks would refuse, wherever runs go now: notebooks move there.
    """
    trouble, name = None, workspace_path(name)
    if not name.strip():
        trouble = "it is empty"
    elif _BAD_CHARACTERS.search(name):
        trouble = "it has control characters"
    elif len(name) > _MAX_MLFLOW:
        trouble = f"it has {len(name)} characters, at most {_MAX_MLFLOW} are allowed"
    elif name.startswith("/"):
        trouble = _trouble_of_path(name)
    elif posixpath.normpath(name) in (".", "..") or name.startswith("../"):
        trouble = "it is a relative path"
    if trouble:
        last = (
            re.sub(r"[^A-Za-z0-9_-]+", "-", name.strip("/ ").split("/")[-1]).strip("-")[:60]
            or "my-experiment"
        )
        raise BadName(
            f"{_shown(name)} is not a name for an experiment: {trouble}.",
            remedies=[
                (Remedy("experiment", last), "a plain name"),
                (
                    Remedy("experiment", f"/Users/you@example.com/{last}"),
                    "a workspace path, as Databricks has it",
                ),
            ],
        )
    return name


def _trouble_of_path(path: str) -> str | None:
    parts = path.split("/")[1:]
    if "" in parts:
        return (
            "it ends in a slash"
            if path.endswith("/") and "" not in parts[:-1]
            else "it has an empty folder (//)"
        )
    if "." in parts or ".." in parts:
        return "it has . or .. in its path"
    if parts[0] == "Users" and len(parts) < 3:
        return "it names a user's folder, not an experiment in it"
    if parts[0] in ("Users", "Shared", "Repos", "Workspace") and len(parts) < 2:
        return "it names a folder, not an experiment in it"
    return None


def _shown(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:57] + "…")


def azureml_experiment_name(name: str) -> str:
    """Return the legal Azure ML name: 1-255 letters, digits, ``_``, ``-``, the first a letter or a digit.

    So azureml-core checks it; resource-limits-capacity.md says 256 and nothing of the first.
    """
    last = name.rstrip("/").rsplit("/", 1)[-1]
    legal = re.sub(r"[^A-Za-z0-9_-]+", "-", last).rstrip("-").lstrip("_-")[:255]
    return legal if legal else "experiment-" + short_hash(name)


def told_apart(name: str, legal: str) -> str:
    """Return another legal name for ``name`` when ``legal`` is taken by somebody else's experiment."""
    return f"{legal[:246]}-{short_hash(name)}"


def short_hash(text: str) -> str:
    """Return eight hexadecimal digits that stand for ``text``."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def is_azureml_legal(name: str) -> bool:
    """Tell whether Azure ML takes the name as it is."""
    return _AZUREML_LEGAL.match(name) is not None


def in_catalog(name: str) -> bool:
    """Tell whether a model's name has Unity Catalog's three levels."""
    return name.count(".") == 2 and all(name.split("."))


def azureml_model_name(name: str) -> str:
    """Return what Azure ML calls a model: ``main--ml--iris`` for ``main.ml.iris``, a legal name as it is.

    Any other character that Azure ML refuses (its ARM schema takes 1-255 letters, digits, ``_`` and ``-``)
    becomes ``-u<code>-``; no two models have one name there, and :func:`model_name_behind` is the inverse.
    """
    if _MODEL_LEGAL.match(name) and model_name_behind(name) == name:
        return name
    parts = name.split(".") if in_catalog(name) else [name]
    coded = "--".join(_coded(part, first=number == 0) for number, part in enumerate(parts))
    return "0" + coded if re.match(r"0*-u", coded) else coded  # it must begin with a letter or a digit


def model_name_behind(azureml_name: str) -> str:
    """Return the model that Azure ML calls so: the inverse of :func:`azureml_model_name`."""
    text = azureml_name[1:] if re.match(r"0+-u", azureml_name) else azureml_name
    try:
        name = _CODED.sub(lambda found: chr(int(found[1], 16)) if found[1] else ".", text)
    except (ValueError, OverflowError):  # no character has that code
        return azureml_name
    return name if name != azureml_name and azureml_model_name(name) == azureml_name else azureml_name


def _coded(part: str, *, first: bool) -> str:
    coded = ""
    for place, character in enumerate(part):
        kept = _WORD.match(character) is not None
        if character == "-":
            inside = (
                0 < place < len(part) - 1 and _WORD.match(part[place - 1]) and _WORD.match(part[place + 1])
            )
            kept = bool(inside) and not _LIKE_CODE.match(part, place)
        if first and place == 0 and character == "_":
            kept = False
        coded += character if kept else f"-u{ord(character):x}-"
    return coded
