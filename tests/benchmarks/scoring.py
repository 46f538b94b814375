"""A model over many rows: by ``%dbml score``, by MLflow's spark_udf, by an empty map, in pandas.

The ways are timed in turns in one process, so that what else the machine does meets each of them. The memory
is that of a process for each way and number of rows, as what it holds more than before it began: a JVM that
has seen ten million rows keeps what it took, and says nothing of the next way then.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

COLUMNS = [f"c{number}" for number in range(8)]
WAYS = ("floor", "score", "spark_udf", "pandas")
_SAMPLE_S = 0.02
_WARM_ROWS = 2_000
_CHILD_S = 600.0


def measure(scenario: dict[str, Any]) -> dict[str, Any]:
    """Return for each number of rows the seconds of each way to score them, and the memory (MB) it takes."""
    import mlflow

    import dbml_magics as dbml

    warnings.simplefilter("ignore")
    dbml.link(local=True)
    model = _registered(mlflow)
    from dbml_magics.core.scoring import spark as sessions

    spark, _ = sessions.start_here(lambda _: None)
    files = mlflow.artifacts.download_artifacts(model, dst_path=str(Path.cwd()))
    return {str(rows): _sized(spark, model, files, rows, scenario["repeats"]) for rows in scenario["rows"]}


def _registered(mlflow: Any) -> str:
    import numpy as np
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.linear_model import LinearRegression

    x = pd.DataFrame(np.random.default_rng(0).random((1000, len(COLUMNS))), columns=COLUMNS)
    fitted = LinearRegression().fit(x, x.sum(axis=1))
    with mlflow.start_run():
        signature = infer_signature(x, fitted.predict(x))
        info = mlflow.sklearn.log_model(
            fitted, name="model", signature=signature, pip_requirements=["scikit-learn"]
        )
    return str(info.model_uri)


def _sized(spark: Any, model: str, files: str, rows: int, repeats: int) -> dict[str, Any]:
    for number in (rows, _WARM_ROWS):
        _drawn(spark, number)
    ways = {way: _way(way, spark, model, files, rows) for way in WAYS}
    for run in ways.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    ways.clear()  # the pandas frame is given back before others are measured
    memory = {way: _memory(way, model, files, rows) for way in WAYS}
    return {name: {"seconds": median(seconds[name]), **memory[name]} for name in WAYS}


def _place(rows: int) -> Path:
    return Path.cwd() / f"rows-{rows}.parquet"


def _drawn(spark: Any, rows: int) -> None:
    from pyspark.sql.functions import rand

    drawn = spark.range(rows).select(*(rand(number).alias(name) for number, name in enumerate(COLUMNS)))
    drawn.write.mode("overwrite").parquet(f"file:{_place(rows)}")


def _way(way: str, spark: Any, model: str, files: str, rows: int) -> Callable[[], Any]:
    """Return what scores the rows in one way; a pandas frame is read beforehand."""
    import mlflow

    import dbml_magics as dbml

    if way == "pandas":
        import pandas as pd

        in_memory, pandas = mlflow.pyfunc.load_model(files), pd.read_parquet(_place(rows))
        return lambda: in_memory.predict(pandas)
    frame = spark.read.parquet(f"file:{_place(rows)}")
    if way == "floor":

        def same(batches: Iterator[Any]) -> Iterator[Any]:
            yield from batches

        return lambda: _sink(frame.mapInPandas(same, frame.schema))
    if way == "score":
        scored: Any = dbml.score(model, frame)
        return lambda: _sink(scored.data)
    function = mlflow.pyfunc.spark_udf(spark, files, result_type="double", env_manager="local")
    return lambda: _sink(frame.withColumn("prediction", function(*COLUMNS)))


def _memory(way: str, model: str, files: str, rows: int) -> dict[str, float]:
    """Return the memory that one way takes for the rows, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __name__, json.dumps([way, model, files, rows])],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        timeout=_CHILD_S,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _alone(way: str, model: str, files: str, rows: int) -> dict[str, float]:
    """Score in one way: a few rows first, so that Java, its workers and the model are there; then all."""
    import dbml_magics as dbml

    warnings.simplefilter("ignore")
    spark = None
    if way != "pandas":
        dbml.link(again=True)
        from dbml_magics.core.scoring import spark as sessions

        spark, _ = sessions.start_here(lambda _: None)
    _way(way, spark, model, files, _WARM_ROWS)()
    before = _held()
    with _Peak() as peak:
        _way(way, spark, model, files, rows)()  # reading the rows counts: a pandas frame is what they take
    return {"memory": peak.megabytes - before, "before": before}


def _sink(frame: Any) -> None:
    frame.write.format("noop").mode("overwrite").save()


class _Peak:
    """The most memory that this process and its children have held at once: Java and Spark's workers too."""

    def __enter__(self) -> _Peak:
        self.megabytes = _held()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            self.megabytes = max(self.megabytes, _held())


def _held() -> float:
    """Return the memory of this process and all that come of it, in MB; shared pages by their share."""
    parents: dict[int, int] = {}
    for each in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(each.name)] = int((each / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    own, grown = {os.getpid()}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in own} - own
        grown = bool(more)
        own |= more
    return sum(map(_share, own)) / 1024


def _share(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


if __name__ == "__main__":
    print(json.dumps(_alone(*json.loads(sys.argv[1]))), flush=True)
    os._exit(0)
