"""A model's environment files: what conda.yaml and requirements.txt ask for, and copies that ask for more."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

__all__ = ["Conda", "add_pip_packages", "package_name", "pip_requirements", "read_conda", "read_requirements"]

_CONDA, _REQUIREMENTS = "conda.yaml", "requirements.txt"


@dataclass(frozen=True)
class Conda:
    """The contents of a conda.yaml."""

    packages: tuple[str, ...] = ()  # of conda's own, without Python and pip
    pip: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


def read_conda(files: Path) -> tuple[Conda, str | None]:
    """Parse the model's conda.yaml; the second value is why it cannot be read."""
    path = files / _CONDA
    if not path.exists():
        return Conda(), None
    try:
        content = yaml.safe_load(path.read_text()) or {}
        listed, channels = content.get("dependencies") or [], content.get("channels") or []
        pip = [line for each in listed if isinstance(each, dict) for line in each.get("pip") or []]
        own = [each for each in listed if not isinstance(each, dict)]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())[:120]
        return Conda(), f"{_CONDA} is not YAML: {where}"
    except (AttributeError, TypeError):
        return Conda(), f"{_CONDA} is not of conda's form: name, channels, dependencies"
    wanted = [line for line in _lines(own) if package_name(line).rpartition("::")[2] not in ("python", "pip")]
    named = read_requirements(files) if any(_includes_requirements(line) for line in pip) else []
    return Conda(tuple(wanted), (*_lines(pip), *named), tuple(_lines(channels))), None


def _includes_requirements(line: object) -> bool:
    return bool(re.fullmatch(rf"(-r|--requirement)[ =]*(\./)?{re.escape(_REQUIREMENTS)}", str(line).strip()))


def read_requirements(files: Path) -> list[str]:
    """Return the lines of the model's requirements.txt."""
    path = files / _REQUIREMENTS
    return _lines(path.read_text(errors="replace").splitlines()) if path.exists() else []


def pip_requirements(files: Path) -> list[str]:
    """Return the pip requirements of a model: of its requirements.txt, else of its conda.yaml."""
    return read_requirements(files) if (files / _REQUIREMENTS).exists() else list(read_conda(files)[0].pip)


def add_pip_packages(files: Path, packages: Sequence[str]) -> None:
    """Add packages to the environment files in a folder, which is a copy of the user's.

    Every other entry stays; python_env.yaml refers to requirements.txt.
    """
    conda, requirements = files / _CONDA, files / _REQUIREMENTS
    if conda.exists():
        content = yaml.safe_load(conda.read_text()) or {}
        listed = content.setdefault("dependencies", [])
        of_pip = next((each for each in listed if isinstance(each, dict) and "pip" in each), None)
        if of_pip is None:
            of_pip = {"pip": []}
            listed.append(of_pip)
        if not any(isinstance(each, str) and package_name(each) == "pip" for each in listed):
            listed.insert(0, "pip")
        of_pip["pip"] = [*(of_pip["pip"] or []), *packages]
        _replace(conda, yaml.safe_dump(content, sort_keys=False))
    if requirements.exists() or not conda.exists():
        before = requirements.read_text() if requirements.exists() else ""
        kept = [before.rstrip("\n")] if before.strip() else []
        _replace(requirements, "\n".join([*kept, *packages]) + "\n")


def _replace(path: Path, text: str) -> None:
    """Write a new file in a file's place: another name of the old one keeps its contents."""
    part = path.with_name(f".{path.name}.new")
    part.write_text(text)
    os.replace(part, path)


def package_name(line: str) -> str:
    """Return the package of a requirement, spelled as the index spells it."""
    return re.split(r"[\s<>=!~\[;@+]", line, maxsplit=1)[0].lower().replace("_", "-")


def _lines(written: Sequence[object]) -> list[str]:
    bare = (str(line).partition(" #")[0].strip() for line in written)
    return [line for line in bare if line and not line.startswith(("#", "-"))]
