"""What no workspace can be sent: text that is not Unicode, numbers beyond 64 bits, some names of files.

MLflow's wire is protobuf: text is UTF-8, steps and times are int64. A server that is sent anything else drops
the rest of the batch and answers 200; plain MLflow refuses it at the call, and so is it here.
"""

from __future__ import annotations

import operator
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from typing import SupportsInt

from mlflow.exceptions import MlflowException
from mlflow.utils.uri import validate_path_is_safe

_CHANGED = re.compile(r"%[0-9a-fA-F]{2}|[\x00-\x1f\x7f]|(?:^|(?<=/)) ")
"""What MLflow's servers decode, drop or escape in the name of a file."""
_OF_A_URI = re.compile(r"[#:;?\\]")
"""What MLflow's check of paths reads as part of a URI or of a Windows path."""
_SURROGATE = re.compile("[\ud800-\udfff]")
LEAST, MOST = -(1 << 63), (1 << 63) - 1


def whole_number(what: str, value: SupportsInt) -> int:
    """Return a step or a time as an int64. Raises MLflow's refusal where it is none."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        try:
            number = int(value)
            whole = number == value
        except (TypeError, ValueError, OverflowError):
            whole = False
        if not whole:
            raise MlflowException.invalid_parameter_value(
                f"{what} must be a whole number, not {value!r}"
            ) from None
    if not LEAST <= number <= MOST:
        raise MlflowException.invalid_parameter_value(
            f"{what} is {number}: MLflow keeps whole numbers of 64 bits, from {LEAST} to {MOST}"
        )
    return number


def required(name: str, value: object) -> None:
    """Raise MLflow's refusal of a call that lacks what it cannot do without."""
    if not value:
        raise MlflowException.invalid_parameter_value(f"Missing value for required parameter '{name}'.")


def is_text(value: object) -> bool:
    """Tell whether a value is text that UTF-8 can carry."""
    return isinstance(value, str) and (value.isascii() or _SURROGATE.search(value) is None)


def refuse_bad_text(what: str, value: object) -> None:
    """Raise MLflow's refusal, with the place, for text anywhere in ``value`` that UTF-8 cannot carry."""
    for place, text in _texts(what, value):
        if not is_text(text):
            at = next(_SURROGATE.finditer(text)).start()
            raise MlflowException.invalid_parameter_value(
                f"{place} is no Unicode text: the character at position {at} of {text!r} is a lone "
                "surrogate, which no workspace can store (a file's name in another encoding than UTF-8? "
                "os.fsencode(name) returns its bytes)"
            )


def refuse_bad_name(path: str) -> None:
    """Raise MLflow's refusal, with the cause, of a file's path that servers keep or list as another one."""
    found = _CHANGED.search(path)
    if found is not None:
        raise MlflowException.invalid_parameter_value(
            f"the file {path!r} cannot be logged under its name: MLflow's servers change {found[0]!r} in it, "
            "and it would be found under another name, or overwrite the file of that name; rename it"
        )


def refuse_unsafe_name(path: str) -> None:
    """Raise MLflow's refusal, with the cause, of a file's path that MLflow's own check refuses or shortens.

    An MLflow server checks the whole path when it is written, and a client each name that it lists.
    """
    steps = path.split("/") if _OF_A_URI.search(path) else []
    for number, name in enumerate(steps, 1):
        whole = posixpath.join("run", *steps[:number])
        try:
            kept = validate_path_is_safe(whole)
            validate_path_is_safe(name)
        except (MlflowException, ValueError) as error:
            raise MlflowException.invalid_parameter_value(
                f"the file {path!r} cannot be logged under its name: MLflow's servers and clients refuse the "
                f"path {name!r}; rename it (a name may have no #, and must not look like file:… or like a "
                "Windows path)"
            ) from error
        if kept != whole:
            raise MlflowException.invalid_parameter_value(
                f"the file {path!r} cannot be logged under its name: MLflow's servers would keep {name!r} as "
                f"{posixpath.basename(kept)!r}; rename it"
            )


def refuse_taken_place(path: str, stands: Callable[[str], bool | None]) -> None:
    """Raise MLflow's refusal of a file below another file, or where a folder is.

    ``stands`` tells what is at a path: True for a folder, False for a file, None where nothing is known.
    """
    steps = path.split("/")
    for above in ("/".join(steps[:n]) for n in range(1, len(steps))):
        if stands(above) is False:
            raise MlflowException.invalid_parameter_value(
                f"the file {path!r} cannot be logged: {above!r} is a file already, and no folder"
            )
    if stands(path):
        raise MlflowException.invalid_parameter_value(
            f"the file {path!r} cannot be logged: there is a folder of that name already"
        )


def _texts(place: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield f"a key of {place}", str(key)
            yield from _texts(f"{place} {key!r}", each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(place, each)
