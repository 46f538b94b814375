"""Processes that outlive the kernel that started them: begun, known again by a later kernel, ended.

A process is known by its id and its start time, so nothing is ever ended but what was started here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dbml_magics.common.config import passed_variables

__all__ = [
    "allowed",
    "bare_environment",
    "end",
    "memory_bytes",
    "python",
    "runs",
    "safe_interpreter",
    "spawn",
    "start_of",
    "started_here",
]

_PATIENCE_S = 5.0  # for an end that was asked for
_CODE = "import sys; sys.path[:] = [p for p in sys.path if p]; "
# A variable that neither list has stays in the process that has it: most secrets are among those.
_NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"),
        *("VIRTUAL_ENV", "CONDA_PREFIX", "JAVA_HOME", "SPARK_HOME", "HADOOP_HOME", "HADOOP_CONF_DIR"),
        *("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONHASHSEED", "PYTHONUTF8"),
        *("PYTHONIOENCODING", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONUNBUFFERED"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NO_PROXY", "no_proxy"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
        *("TOKENIZERS_PARALLELISM", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
        *("MPLBACKEND", "MPLCONFIGDIR", "JOBLIB_TEMP_FOLDER", "LOKY_MAX_CPU_COUNT"),
    }
)
_LEADS = (
    *("LC_", "XDG_", "MALLOC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_", "VECLIB_"),
    *("CUDA_", "NVIDIA_", "CUBLAS_", "CUDNN_", "NCCL_", "ROCR_", "ROCM_", "HIP_", "HSA_", "ONEAPI_", "SYCL_"),
    *("TF_", "XLA_", "JAX_", "TORCH_", "PYTORCH_", "KERAS_", "ARROW_", "NUMBA_", "POLARS_"),
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|PWD|CREDENTIAL|KEY|SAS|AUTH|CERTIFICATE|CONNECTION_?STRING", re.I)

started_here: dict[int, subprocess.Popen[bytes]] = {}
"""The processes that this one has started, which it has to collect when they end."""


def bare_environment() -> dict[str, str]:
    """Return what of this process's environment one that runs a model or a server needs: a list of ours.

    No secret is on it, nor are MLflow's settings, the services' and ours. ``DBML_PASS`` names more.
    """
    found = allowed(os.environ, *passed_variables())
    found.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
    return found


def allowed(environment: Mapping[str, str], *more: str, leads: Sequence[str] = ()) -> dict[str, str]:
    """Return the variables of an environment that a child process gets, and those that are named besides.

    ``leads`` are beginnings of further names; what is called like a secret does not come with them.
    """
    found = {}
    for name, value in environment.items():
        known = name in _NAMES or (name.startswith((*_LEADS, *leads)) and not _SECRET.search(name))
        if name in more or (known and not (name.lower().endswith("_proxy") and "@" in value)):
            found[name] = value
    if "PYTHONPATH" in found and "PYTHONPATH" not in more:  # a relative place is one of the current folder
        places = found["PYTHONPATH"].split(os.pathsep)
        found["PYTHONPATH"] = os.pathsep.join(place for place in places if os.path.isabs(place))
    return found


def python(code: str) -> list[str]:
    """Return the command that runs code in this interpreter, without the current folder on its path."""
    safe = ["-P"] if sys.version_info >= (3, 11) else []  # what -P leaves out is taken out again before that
    return [sys.executable, *safe, "-W", "ignore", "-c", _CODE + code]


def safe_interpreter(interpreter: str, folder: Path) -> str:
    """Return a program in ``folder`` that runs ``-m MODULE`` without the current folder on the path.

    For whoever starts Python by its name and that option alone: before 3.11 no variable does it.
    """
    program = folder / "python"
    run = "import runpy; sys.argv[:] = sys.argv[2:]; runpy.run_module(sys.argv[0], None, '__main__', True)"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(interpreter)} -c {shlex.quote(_CODE + run)} "$@"\n')
    program.chmod(0o700)
    return str(program)


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
    answered = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, began = answered.stdout.strip().partition(" ")
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
