"""Models in a process: each loaded once, and its own code apart from that of any other."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from dbml_magics.core.scoring.carried.plan import MARK

if TYPE_CHECKING:
    from typing import TypeAlias

    from mlflow.pyfunc import PyFuncModel

    Model: TypeAlias = PyFuncModel | "_Apart"

_KEPT = "_dbml_scoring_models"
T = TypeVar("T")


def kept(name: str, make: Callable[[], T]) -> T:
    """Return a process-wide object by name: this module may be loaded more than once."""
    module = sys.modules.setdefault(_KEPT, types.ModuleType(_KEPT))
    kept: T = module.__dict__.setdefault(name, make())
    return kept


def load(place: str) -> Model:
    """Return the model in a folder; one with code of its own (``code_paths``) shares no module."""
    import mlflow.pyfunc
    from mlflow.models import Model

    flavor = Model.load(os.path.join(place, "MLmodel")).flavors.get("python_function") or {}
    folder = os.path.join(place, str(flavor["code"])) if flavor.get("code") else ""
    names = _modules_in(folder) if os.path.isdir(folder) else frozenset()
    return _Apart(place, folder, names) if names else mlflow.pyfunc.load_model(place)


_RUNS_ON = ("cloudpickle", "mlflow", "numpy", "pandas", "pyarrow", "pyspark")


def _modules_in(folder: str) -> frozenset[str]:
    """Return the modules that a folder has, without those that Python and MLflow run on."""
    found = {
        each.partition(".")[0] for each in os.listdir(folder) if not each.startswith((".", "__pycache__"))
    }
    return frozenset(found - set(sys.stdlib_module_names) - set(_RUNS_ON))


class _Apart:
    """A model whose own modules are there only while it is loaded or asked.

    Another version's modules of the same names, and the notebook's, are put aside meanwhile: Python has one
    module of a name, and would give the second model the first one's code.
    """

    def __init__(self, place: str, folder: str, names: frozenset[str]) -> None:
        import mlflow.pyfunc

        self._folder, self._names = folder, names
        self._modules: dict[str, types.ModuleType] = {}
        with self._inside():
            self.inner = mlflow.pyfunc.load_model(place)

    def predict(self, data: object, params: Mapping[str, object] | None = None) -> object:
        with self._inside():
            return self.inner.predict(data, params=params) if params else self.inner.predict(data)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        with kept("lock", threading.RLock):
            others = self._taken_out()
            sys.modules.update(self._modules)
            sys.path.insert(0, self._folder)
            try:
                yield
            finally:
                self._modules = self._taken_out()
                sys.modules.update(others)
                sys.path[:] = [place for place in sys.path if place != self._folder]

    def _taken_out(self) -> dict[str, types.ModuleType]:
        named = [name for name in list(sys.modules) if name.partition(".")[0] in self._names]
        return {name: sys.modules.pop(name) for name in named}


def unpacked(name: str) -> str:
    """Return where Spark has unpacked an archive."""
    places = [os.getcwd()]
    try:
        from pyspark import SparkFiles

        places.insert(0, SparkFiles.getRootDirectory())
    except Exception:
        pass  # a worker behind Spark Connect: archives are in its working directory
    for place in places:
        if os.path.isfile(os.path.join(place, name, "MLmodel")):
            return os.path.join(place, name)
    raise RuntimeError(f"{MARK} the model's files ({name}) did not arrive at this worker")


def takes_params(model: Model) -> bool:
    """Tell whether a model's own predict sees params: from one that does not, MLflow keeps them."""
    own: PyFuncModel = getattr(model, "inner", model)
    try:
        predict = own.unwrap_python_model().predict
    except Exception:  # it is of another flavor
        predict = getattr(own, "_predict_fn", own.predict)
    found = inspect.signature(predict).parameters.get("params")
    return found is not None and found.kind is not inspect.Parameter.VAR_KEYWORD
