"""Processes that outlive the kernel that started them: begun, known again by a later kernel, ended.

A process is known by its id and its start time, so nothing is ever ended but what was started here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["bare_environment", "end", "memory_bytes", "python", "runs", "spawn", "start_of", "started_here"]

_PATIENCE_S = 5.0  # for an end that was asked for
_FOREIGN = ("MLFLOW_", "_MLFLOW", "DBML_", "DATABRICKS_", "AZUREML_", "ARM_")
_CODE = "import sys; sys.path[:] = [p for p in sys.path if p]; "

started_here: dict[int, subprocess.Popen[bytes]] = {}
"""The processes that this one has started, which it has to collect when they end."""


def bare_environment() -> dict[str, str]:
    """Return this process's environment without MLflow's settings, the services' and ours."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    environment.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
    return environment


def python(code: str) -> list[str]:
    """Return the command that runs code in this interpreter, without the current folder on its path."""
    return [sys.executable, "-W", "ignore", "-c", _CODE + code]


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    folder: Path,
    environment: Mapping[str, str],
    descriptors: Sequence[int],
) -> tuple[int, str]:
    """Start a process that neither Ctrl-C nor the end of this process ends; returns its id and start.

    What it prints goes to ``log``, which is begun anew and is the user's own (0600).
    """
    out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=dict(environment),
            cwd=folder,
            pass_fds=tuple(descriptors),
            start_new_session=True,
        )
    finally:
        os.close(out)
    started_here[process.pid] = process
    return process.pid, start_of(process.pid) or ""


def start_of(pid: int) -> str | None:
    """Return when a process began, in the system's own words; None when it does not run."""
    child = started_here.get(pid)
    if child is not None and child.poll() is not None:
        del started_here[pid]
        return None
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else f"{_boot()} {fields[19]}"
    told = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, began = told.stdout.strip().partition(" ")
    return None if not began or state.startswith("Z") else began.strip()


def runs(pid: int, started: str) -> bool:
    """Tell whether the process that began then runs still."""
    return bool(started) and start_of(pid) == started


def end(pid: int, started: str) -> None:
    """End a process that was started here: asked first, then killed."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        if not runs(pid, started):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
        until = time.monotonic() + _PATIENCE_S
        while runs(pid, started) and time.monotonic() < until:
            time.sleep(0.02)


def memory_bytes(pid: int) -> int:
    """Return how much memory a process holds; 0 where the system does not say."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _boot() -> str:
    """Return what tells one run of the machine from the next: start times count from its beginning."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
