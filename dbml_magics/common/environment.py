"""Where the code runs: Databricks, VS Code, Colab, Jupyter, a terminal or a plain script.

Nothing is imported to find out: an interpreter that has not imported IPython is not inside it.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = [
    "Compute",
    "DatabricksPlace",
    "Place",
    "assign",
    "azureml_compute",
    "databricks",
    "dbutils",
    "differences",
    "has_browser",
    "has_kernel",
    "has_managed_identity",
    "in_spark_task",
    "is_attended",
    "is_interactive",
    "place",
    "prints_prompts",
    "rewrites_displays",
    "shell",
    "shows_widgets",
    "updates_displays",
    "uses_databricks_connect",
    "variables",
    "way_to_busy_kernel",
]

Compute = Literal["dedicated", "standard", "serverless"]
Place = Literal["databricks", "vscode", "colab", "jupyter", "terminal", "script"]

_CONSOLES = frozenset({"jupyter-console", "jupyter-qtconsole"})
_SHELL_NAMES = frozenset({"In", "Out", "exit", "quit", "get_ipython", "open"})


def shell() -> InteractiveShell | None:
    """Return the running IPython shell, or None outside IPython."""
    module = sys.modules.get("IPython.core.getipython")
    return None if module is None else module.get_ipython()


def has_kernel(running: InteractiveShell | None) -> bool:
    """Tell whether a shell talks to a front end, which shows HTML unless it is a console."""
    return getattr(running, "kernel", None) is not None


def rewrites_displays(running: InteractiveShell | None) -> bool:
    """Tell whether the front end changes in place what it showed.

    A Databricks notebook shows an update as one more output, and Jupyter's consoles show none at all: a
    result in the place of a line that was shown before would never be seen there.
    """
    return has_kernel(running) and databricks() is None and not _is_console(running)


def _is_console(running: InteractiveShell | None) -> bool:
    """Tell whether a kernel was started by Jupyter's console, its Qt console or Spyder."""
    kernel = type(getattr(running, "kernel", None)).__module__
    return kernel.partition(".")[0] == "spyder_kernels" or _starter() in _CONSOLES


@functools.cache
def _starter() -> str:
    """Return the program that started this process, by its name."""
    try:
        psutil = importlib.import_module("psutil")  # which comes with every kernel
        words = psutil.Process(os.getppid()).cmdline()
    except Exception:  # no such package, no such process, or another user's
        return ""
    names = (os.path.basename(word).removesuffix(".exe") for word in words[:2])
    return next((name for name in names if name in _CONSOLES), "")


def place(running: InteractiveShell | None = None) -> Place:
    """Return where the code runs; ``running`` is the shell when the caller has it."""
    running = running if running is not None else shell()
    if running is None:
        return "script"
    if databricks() is not None:
        return "databricks"
    if not has_kernel(running):
        return "terminal"
    if "google.colab" in sys.modules:
        return "colab"
    # VS Code starts its kernels from its own process, whose variables they inherit.
    if "VSCODE_PID" in os.environ or "VSCODE_CWD" in os.environ:
        return "vscode"
    return "jupyter"


def is_interactive(running: InteractiveShell | None) -> bool:
    """Tell whether somebody may be reading: a kernel's front end, or a terminal that is one."""
    if running is None:
        return False
    return has_kernel(running) or (prints_prompts(running) and _is_terminal())


def prints_prompts(running: InteractiveShell | None) -> bool:
    """Tell whether a shell is IPython's own program, which prints a prompt before each value."""
    return type(running).__name__ == "TerminalInteractiveShell"


def is_attended(running: InteractiveShell | None = None) -> bool:
    """Tell whether somebody can answer now: a front end that takes input, or a terminal.

    nbclient, papermill and a Databricks job run kernels that nobody reads: they allow no input.
    """
    running = running if running is not None else shell()
    if running is None or not has_kernel(running):
        return is_interactive(running)
    there = databricks()
    if there is not None:
        return not there.job
    return bool(getattr(getattr(running, "kernel", None), "_allow_stdin", False))


def updates_displays(running: InteractiveShell | None) -> bool:
    """Tell whether somebody watches what is shown and sees it change in place.

    Elsewhere a view that changes would fill the page, or stand still.
    """
    return rewrites_displays(running) and is_attended(running)


def shows_widgets(running: InteractiveShell | None) -> TypeGuard[InteractiveShell]:
    """Tell whether somebody is there who sees ipywidgets' own widgets and can use them.

    Databricks shows them from its runtime 11 on; a notebook that runs unattended is read afterwards, when
    no widget works any more.
    """
    if not has_kernel(running) or not is_attended(running) or _is_console(running):
        return False
    if place(running) == "databricks" and _databricks_runtime() < 11:
        return False
    from importlib.util import find_spec

    return find_spec("ipywidgets") is not None


def _databricks_runtime() -> int:
    """Return the major version of the Databricks runtime; serverless (``client.…``) is newer than any."""
    head = os.environ.get("DATABRICKS_RUNTIME_VERSION", "").partition(".")[0]
    return int(head) if head.isdigit() else 99


def way_to_busy_kernel(running: InteractiveShell | None) -> str | None:
    """Return the subshell by which a widget's click reaches a kernel that runs a cell, if there is one.

    The front end opens it, as JupyterLab 4.4 and Notebook 7.4 do for widgets with a kernel that can; VS Code
    and Databricks deliver a click when the cell is over.
    """
    channel = getattr(getattr(running, "kernel", None), "shell_channel_thread", None)
    listed = getattr(getattr(channel, "manager", None), "list_subshell", None)
    try:
        known = listed() if listed is not None else []
    except Exception:  # an older or newer kernel's own business
        return None
    return str(known[-1]) if known else None


def has_browser() -> bool:
    """Tell whether a browser that is opened here would open before the user: on a desktop, no server."""
    remote = ("SSH_CONNECTION", "SSH_TTY", "JUPYTERHUB_USER", "CODESPACES", "KUBERNETES_SERVICE_HOST")
    if any(name in os.environ for name in (*remote, "DATABRICKS_RUNTIME_VERSION", "VSCODE_AGENT_FOLDER")):
        return False
    if "google.colab" in sys.modules or azureml_compute() is not None:
        return False
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def azureml_compute() -> Literal["job", "instance"] | None:
    """Return whether the code runs in an Azure ML job, on an Azure ML compute instance, or on neither."""
    if "AZUREML_RUN_ID" in os.environ:
        return "job"
    return "instance" if os.path.exists("/mnt/azmnt/.nbvm") else None


def has_managed_identity() -> bool:
    """Tell whether this machine says that it has an identity of its own: App Service, Functions, Azure ML."""
    return any(name in os.environ for name in ("IDENTITY_ENDPOINT", "MSI_ENDPOINT"))


def in_spark_task() -> bool:
    """Tell whether the code runs in a task of Spark, on one of its workers."""
    module = sys.modules.get("pyspark.taskcontext")
    return module is not None and module.TaskContext.get() is not None


def dbutils() -> Any:
    """Return the notebook's ``dbutils``, or None outside Databricks notebooks."""
    running = shell()
    return None if running is None else running.user_ns.get("dbutils")


def assign(name: str, value: object) -> None:
    """Make a value a variable of the notebook, and of the script that ``%run`` runs in it just now."""
    running = shell()
    if running is not None:
        for space in (running.user_ns, vars(sys.modules["__main__"])):
            space[name] = value


def variables(namespace: Mapping[str, object]) -> list[str]:
    """Return the names of the notebook's values: no modules, functions, classes or IPython's own."""
    tools = (ModuleType, FunctionType, type)
    return sorted(
        name
        for name, value in list(namespace.items())
        if not name.startswith("_") and name not in _SHELL_NAMES and not isinstance(value, tools)
    )


def _is_terminal() -> bool:
    try:
        return sys.stdin.isatty() and sys.stdout.isatty()
    except (AttributeError, ValueError):  # closed or replaced streams
        return False


# --- Databricks


_DIFFERS: dict[Compute, tuple[str, ...]] = {
    "dedicated": ("Spark's driver is here: sc, Spark's configuration, the driver's packages in UDFs",),
    "standard": (
        "Spark is Spark Connect's: no sc, no RDDs",
        "UDFs run apart, with the cluster's packages and no access to the notebook's files",
    ),
    "serverless": (
        "Spark is Spark Connect's: no sc, no RDDs, few keys of Spark's configuration, "
        "streams AvailableNow alone",
        "UDFs run apart, with the environment's packages; no cluster libraries, no init scripts",
        "Databricks Autologging is off until mlflow.autolog()",
    ),
}
_CONNECT_DIFFERS = (
    "spark is a Databricks cluster's by Databricks Connect: the notebook, its files and the journal are here",
    "no sc; UDFs run there, with the cluster's packages; dbutils has fs, secrets and widgets alone",
)


@dataclass(frozen=True)
class DatabricksPlace:
    """Where in Databricks the code runs."""

    compute: Compute
    job: bool
    """A job's task: nobody reads, and the machine may go when it ends."""
    runtime: str = ""
    notebook: str | None = None
    """The notebook's path in the workspace."""
    host: str | None = None
    """The workspace's address, with its scheme."""

    @property
    def title(self) -> str:
        """Return it in words: ``Databricks, serverless compute, in a job``."""
        return f"Databricks, {self.compute} compute{', in a job' if self.job else ''}"

    @property
    def keeps_its_disk(self) -> bool:
        """Tell whether what is on the local disk is there for the next session of the notebook."""
        return self.compute != "serverless" and not self.job


def databricks() -> DatabricksPlace | None:
    """Return where in Databricks the code runs, or None outside its runtime (Databricks Connect too)."""
    runtime = os.environ.get("DATABRICKS_RUNTIME_VERSION", "")
    serverless = os.environ.get("DATABRICKS_ENV_VERSION") or runtime.startswith("client.")
    if not runtime and not serverless:
        return None
    context = _notebook_context()
    on_job_cluster = os.environ.get("DB_IS_JOB_CLUSTER", "").lower() == "true"
    connect = "SPARK_CONNECT_MODE_ENABLED" in os.environ or "SPARK_REMOTE" in os.environ
    address = getattr(context, "workspaceUrl", None)
    return DatabricksPlace(
        compute="serverless" if serverless else "standard" if connect else "dedicated",
        job=getattr(context, "isInJob", None) is True or on_job_cluster,
        runtime=runtime or f"client.{serverless}",
        notebook=getattr(context, "notebookPath", None),
        host=address if address is None or "://" in address else f"https://{address}",
    )


def differences(running: InteractiveShell | None = None) -> tuple[str, ...]:
    """Return what is other on this Databricks compute than on a laptop, a line each; nothing elsewhere.

    learn.microsoft.com azure/databricks: compute/standard-limitations, compute/serverless/limitations,
    dev-tools/databricks-connect/python/limitations.
    """
    there = databricks()
    if there is None:
        return _CONNECT_DIFFERS if uses_databricks_connect(running) else ()
    gone = () if there.keeps_its_disk else ("the local disk goes when it ends, with what is undelivered",)
    return (*_DIFFERS[there.compute], *gone)


def uses_databricks_connect(running: InteractiveShell | None = None) -> bool:
    """Tell whether the notebook's ``spark`` is a Databricks cluster's, reached from another machine."""
    running = running if running is not None else shell()
    names: Mapping[str, object] = getattr(running, "user_ns", {})
    spark = None if databricks() is not None else names.get("spark")
    try:  # a classic session raises an error of its own when it is asked for its client
        builder = getattr(getattr(spark, "client", None), "_builder", None)
        headers = dict(builder.metadata()) if builder is not None else {}
    except Exception:  # another Spark's own business
        return False
    return bool(headers.keys() & {"x-databricks-session-id", "x-databricks-cluster-id"})


def _notebook_context() -> Any:
    """Return what the runtime itself knows of the notebook (dbruntime's REPL context), or None."""
    try:
        from dbruntime.databricks_repl_context import get_context

        return get_context()
    except Exception:  # older runtimes, and workers, have none
        return None
