"""Small JSON files for this user's own eyes, written whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path


def write(path: Path, value: Mapping[str, object]) -> None:
    """Write a value as JSON in the place of what the file has. Raises OSError."""
    part = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as out:
        json.dump(value, out)
    os.replace(part, path)


def read(path: Path) -> dict[str, object] | None:
    """Return what stands in a file of this user's; another user's is never looked at."""
    if sys.platform == "win32":
        return None  # %load_ext looks here, and must not fail where a link will be refused
    try:
        found = path.lstat()  # no link to a file elsewhere, and none that others may write
        own = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
        kept = json.loads(path.read_text()) if own else None
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) else None
