"""Check everything: lint, format, types and tests. What fails does not keep the rest from being reported.

python tests/check.py                    in an environment with the extra ``test`` installed
python tests/check.py -k journal -x      arguments go to pytest
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TYPED = ["dbml_magics", "tests.infra", "tests.infra_tests", "tests.benchmarks", "tests.frontend"]
OUTCOMES = "passed|failed|skipped|errors?|deselected|xfailed"
CLOSING = re.compile(rf"(\d+ ({OUTCOMES})|no tests ran)\b.* in [\d.]+s")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def main(arguments: list[str]) -> int:
    """Run each check and print a summary; returns 1 if any of them failed."""
    colour = ["--color=yes"] if sys.stdout.isatty() else []
    checks = {
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
        "mypy": ["mypy", *(word for package in TYPED for word in ("-p", package))],
        "pytest": ["pytest", *colour, *arguments],
    }
    summary, failed = [], False
    for name, command in checks.items():
        print(f"\n── {' '.join(command)}", flush=True)
        begun = time.monotonic()
        code, closing = run([sys.executable, "-m", *command])
        failed = failed or code != 0
        words = [
            name.ljust(12),
            "ok    " if code == 0 else "FAILED",
            f"{time.monotonic() - begun:6.1f} s",
            closing,
        ]
        summary.append("  ".join(words).rstrip())
    print("\n── summary")
    print("\n".join(summary), flush=True)
    return int(failed)


def run(command: list[str]) -> tuple[int, str]:
    """Run a command, pass its output on, and return its exit code and pytest's closing line, if any."""
    closing = ""
    # Without PYTHONPATH a check sees what is installed, as a user does.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            bare = COLOURS.sub("", line).strip("= \n")
            if CLOSING.match(bare):
                closing = bare
    return process.returncode, closing


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
