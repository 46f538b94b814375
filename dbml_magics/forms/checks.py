"""What a command would refuse only when it runs, asked while somebody types."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dbml_magics.errors import BadName

__all__ = ["refusal"]

Check = Callable[[str, Mapping[str, str]], None]


def refusal(command: str, option: str, written: str, values: Mapping[str, str]) -> str:
    """Return why a command would refuse a value by itself; empty when it would not."""
    check = _CHECKS.get((command, option))
    if check is None or "$" in written:  # a variable is read when the line runs
        return ""
    try:
        check(written, values)
    except BadName as error:
        return error.message
    return ""


def _endpoint(name: str, values: Mapping[str, str]) -> None:
    from dbml_magics.core.endpoints.base import check_name

    check_name(name, target=values.get("--to") or "local")


def _deployment(name: str, values: Mapping[str, str]) -> None:
    from dbml_magics.core.endpoints.base import check_name

    check_name(name, "deployment", target=values.get("--to") or "local")


def _model(name: str, _values: Mapping[str, str]) -> None:
    from dbml_magics.core.registry import check_names

    check_names(name)


def _alias(name: str, _values: Mapping[str, str]) -> None:
    from dbml_magics.core.registry import check_names

    check_names("model", (name,))


_CHECKS: dict[tuple[str, str], Check] = {
    ("deploy", "--name"): _endpoint,
    ("deploy", "--deployment"): _deployment,
    ("register", "NAME"): _model,
    ("register", "--alias"): _alias,
}
