"""A model's files on this machine, as long as this process may score with them."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from dbml_magics.common.config import data_home
from dbml_magics.common.hints import Remedy, corrected
from dbml_magics.core import processes
from dbml_magics.core.endpoints import models
from dbml_magics.core.endpoints.base import Found
from dbml_magics.core.mlflow_private import without_bars
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.core.scoring.carried.models import load
from dbml_magics.errors import NoModel

if TYPE_CHECKING:
    from dbml_magics.core.scoring.carried.models import Model

__all__ = ["fetched", "find", "loaded"]

_FOREIGN = re.compile(r"(?!models:|runs:)[a-z][a-z0-9+.-]*:/")

_lock = threading.Lock()
_folders: dict[str, Path] = {}
_models: dict[Path, Model] = {}


def _score(model: str) -> Remedy:
    return corrected(Remedy("score", model, input="$frame"), model)


def find(engine: Engine, given: str, last: str | None) -> Found:
    """Return the model that a word means, of the link or behind any other URI or path."""
    bare = given.strip()
    if _FOREIGN.match(bare) or (
        ("/" in bare or bare == ".") and (Path(bare).expanduser() / "MLmodel").is_file()
    ):
        place = bare if _FOREIGN.match(bare) else str(Path(bare).expanduser().absolute())
        return Found(label=bare, uri=place, identity=place)
    return models.find(engine, given, last, explicit=False, line=_score)


def fetched(engine: Engine, found: Found) -> Path:
    """Return the folder with a model's files, brought here once a process. Raises as ``fetch``."""
    with _lock:
        known = _folders.get(found.identity)
        if known is not None and known.is_dir():
            return known
        if os.path.isfile(os.path.join(found.uri, "MLmodel")):
            return Path(found.uri)
        folder = Path(tempfile.mkdtemp(dir=_home(), prefix="model-"))
        foreign = _FOREIGN.match(found.uri) is not None
        files = _foreign(found, folder) if foreign else models.fetch(engine, found, folder)
        _folders[found.identity] = files
        return files


def _foreign(found: Found, folder: Path) -> Path:
    try:
        with without_bars():
            return Path(download_artifacts(artifact_uri=found.uri, dst_path=str(folder)))
    except Exception as error:  # each kind of storage has errors of its own, and some URIs are none of a file
        said = " ".join(str(getattr(error, "message", None) or error).split())[:300]
        if not isinstance(error, (MlflowException, OSError)):
            said = f"{type(error).__name__}: {said}"
        raise NoModel(
            f"the model at {found.label} cannot be read: {said}",
            remedies=[(Remedy("models"), "lists what is registered")],
        ) from error


def loaded(files: Path) -> Model:
    """Return the model in a folder, loaded once a process. Raises NoModel."""
    with _lock:
        if files not in _models:
            try:
                _models[files] = load(str(files))
            except Exception as error:
                missing = getattr(error, "name", None) if isinstance(error, ImportError) else None
                remedies = [(f"%pip install {missing}", "then restart the kernel")] if missing else []
                said = " ".join(str(error).split())[:300]
                raise NoModel(
                    f"the model cannot be loaded here: {type(error).__name__}: {said}", remedies=remedies
                ) from error
        return _models[files]


def _home() -> Path:
    """Return this process's folder for models; those of processes that are gone are taken away."""
    base = data_home() / "scoring"
    own = base / str(os.getpid())
    if not own.is_dir():
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        atexit.register(shutil.rmtree, own, ignore_errors=True)
        for other in base.iterdir():
            if other.name.isdigit() and processes.start_of(int(other.name)) is None:
                shutil.rmtree(other, ignore_errors=True)
    return own
