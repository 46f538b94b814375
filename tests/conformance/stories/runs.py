"""Runs: made, logged to, ended, renamed, deleted and brought back."""

from __future__ import annotations

from mlflow.entities import Metric, Param, RunTag, ViewType

from tests.conformance.player import Player, Table

table = Table("runs")


def begun(p: Player, **given: object) -> str:
    """Make an experiment and a run in it; returns the run's id."""
    own = p.client.create_experiment(p.name("a"))
    run = p.client.create_run(own, **given)
    return str(run.info.run_id)


@table.story("a life", away=True)
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    p.away()
    run = p.client.create_run(own, start_time=1234, tags={"k": "v"}, run_name="first").info.run_id
    p.client.log_metric(run, "m", 0.5, timestamp=1000, step=1)
    p.client.log_metric(run, "m", 0.25, 2000, 2)
    p.client.log_param(run, "p", 1.5)
    p.client.set_tag(run, "t", True)
    p.client.delete_tag(run, "k")
    p.client.get_run(run)
    p.client.get_metric_history(run, "m")
    p.client.get_metric_history(run, "none")
    p.client.update_run(run, name="second")
    p.client.update_run(run, status="FAILED")
    p.client.set_terminated(run, "FINISHED", 5678)
    p.client.get_run(run)


@table.story("every way to end")
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    for status in (None, "FINISHED", "FAILED", "KILLED", "RUNNING", "SCHEDULED", "finished", "nonsense", 3):
        run = p.client.create_run(own).info.run_id
        p.client.set_terminated(run, status)
        p.client.get_run(run)
    run = p.client.create_run(own).info.run_id
    for status in ("RUNNING", "FINISHED", "RUNNING", "nonsense", None):
        p.client.update_run(run, status)
    p.client.set_terminated(run)
    p.client.set_terminated(run, "KILLED", 99)
    p.client.get_run(run)


@table.story("logged to once it is over")
def _(p: Player) -> None:
    run = begun(p)
    p.client.set_terminated(run, end_time=1000)
    p.client.log_metric(run, "m", 1)
    p.client.log_param(run, "p", 1)
    p.client.set_tag(run, "t", 1)
    p.client.log_text(run, "text", "a.txt")
    p.client.get_run(run)
    p.client.set_terminated(run, end_time=2000)
    p.client.get_run(run)


@table.story("names")
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    run = p.client.create_run(own, run_name="one").info.run_id
    p.client.set_tag(run, "mlflow.runName", "two")
    p.client.get_run(run)
    p.client.delete_tag(run, "mlflow.runName")
    p.client.get_run(run)
    p.client.update_run(run, name="three")
    p.client.get_run(run)
    p.client.set_tag(run, "mlflow.runName", "")
    p.client.get_run(run)
    p.client.update_run(run, name="")
    p.client.get_run(run)
    p.client.update_run(run, status="FINISHED", name="")
    p.client.log_batch(run, tags=[RunTag("mlflow.runName", "four"), RunTag("mlflow.runName", "")])
    p.client.get_run(run)
    p.client.delete_tag(run, "mlflow.runName")
    p.client.set_tag(run, "mlflow.runName", "")
    p.client.log_batch(run, tags=[RunTag("mlflow.runName", ""), RunTag("t", "")])
    p.client.get_run(run)
    p.client.set_tag(run, "mlflow.runName", "five")
    p.client.get_run(run)
    p.client.create_run(own, tags={"mlflow.runName": ""})
    p.client.create_run(own, run_name="six", tags={"mlflow.runName": ""})
    p.client.create_run(own, run_name="x", tags={"mlflow.runName": "y"})
    p.client.create_run(own, tags={"mlflow.runName": "y"})
    p.client.create_run(own, run_name="")
    p.client.create_run(own, run_name="x", tags={"mlflow.runName": "x"})


@table.story("deleted and restored", away=True)
def _(p: Player) -> None:
    run = begun(p)
    p.client.log_metric(run, "m", 1.0)
    p.away()
    p.client.delete_run(run)
    p.client.get_run(run)
    p.client.restore_run(run)
    p.client.get_run(run)
    p.client.log_metric(run, "m", 2.0, step=1)
    p.client.set_terminated(run)


@table.story("a deleted one is changed")
def _(p: Player) -> None:
    run = begun(p)
    p.client.log_param(run, "p", 1)
    p.client.set_tag(run, "t", 1)
    p.client.delete_run(run)
    p.client.delete_run(run)
    p.client.log_metric(run, "m", 1)
    p.client.log_param(run, "q", 1)
    p.client.set_tag(run, "t", 2)
    p.client.delete_tag(run, "t")
    p.client.log_batch(run, [Metric("m", 1, 1, 1)])
    p.client.set_terminated(run)
    p.client.update_run(run, name="new")
    p.client.log_text(run, "text", "a.txt")
    p.client.get_run(run)
    p.client.restore_run(run)
    p.client.restore_run(run)
    p.client.get_run(run)


@table.story("deleted through the fluent call while others go on")
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    runs = [p.client.create_run(own, start_time=n).info.run_id for n in range(3)]
    p.mlflow.delete_run(runs[0])
    p.mlflow.delete_run("0" * 32)
    p.client.search_runs([own], order_by=["attributes.start_time"])
    p.client.search_runs([own], run_view_type=ViewType.DELETED_ONLY)
    p.client.search_runs([own], run_view_type=ViewType.ALL, order_by=["attributes.start_time DESC"])
    p.client.search_runs([own], run_view_type=7)


@table.story("values of metrics")
def _(p: Player) -> None:
    run = begun(p)
    for number, value in enumerate(
        (1, -0.0, 1e308, 5e-324, float("inf"), float("-inf"), float("nan"), True, "2.5", "x", None, 10**400)
    ):
        p.client.log_metric(run, f"m{number}", value, timestamp=1)
    p.client.get_run(run)
    for number in (4, 5, 6):
        p.client.get_metric_history(run, f"m{number}")


@table.story("times and steps of metrics")
def _(p: Player) -> None:
    run = begun(p)
    for at, step in (
        (0, 0),
        (1, -5),
        (2**63 - 1, 2**62),
        ("7", "8"),
        (-1, 0),
        (2**63, 0),
        (1, 2**63),
    ):
        p.client.log_metric(run, "m", 1, timestamp=at, step=step)
    p.client.log_metric(run, "m", 2, timestamp=1.7, step=1)
    p.client.log_metric(run, "m", 3, timestamp=1, step=1.5)
    p.client.get_metric_history(run, "m")
    p.client.get_run(run)


@table.story("the latest point")
def _(p: Player) -> None:
    run = begun(p)
    for value, at, step in ((1, 10, 5), (2, 20, 3), (3, 5, 5), (4, 10, 5), (3.5, 10, 5), (9, 99, 4)):
        p.client.log_metric(run, "m", value, at, step)
        p.client.get_run(run)
    for value, at, step in ((1, 10, 5), (1, 10, 5), (1, 10, 5)):
        p.client.log_metric(run, "same", value, at, step)
    p.client.get_metric_history(run, "same")
    for value in (float("nan"), 1.0, float("nan")):
        p.client.log_metric(run, "nan", value, 10, 5)
    p.client.get_metric_history(run, "nan")
    for number, other in enumerate((0.0, -1.0)):
        for values in ((other, float("nan")), (float("nan"), other)):
            for each in values:
                p.client.log_metric(run, f"nan-{number}-{values[0]}", each, 10, 5)
                p.client.get_run(run)


@table.story("params")
def _(p: Player) -> None:
    run = begun(p)
    for value in (1, None, True, 1.5, "", "ü€", ["list"], {"a": 1}, "x" * 6000):
        p.client.log_param(run, f"p-{type(value).__name__}-{str(value)[:5]}", value)
    p.client.log_param(run, "p", 1)
    p.client.log_param(run, "p", 1)
    p.client.log_param(run, "p", "1")
    p.client.log_param(run, "p", 2)
    p.client.log_param(run, "long", "x" * 6001)
    p.client.log_param(run, "longer", "x" * 7000)
    p.client.get_run(run)


@table.story("keys")
def _(p: Player) -> None:
    run = begun(p)
    for key in (
        "",
        "a/b",
        "a b",
        "a:b",
        "ü",
        ".",
        "..",
        "a/../b",
        "/a",
        "a//b",
        "a" * 250,
        "a" * 251,
        None,
        3,
        "a\nb",
    ):
        p.client.log_metric(run, key, 1, 1)
        p.client.log_param(run, key, 1)
        p.client.set_tag(run, key, 1)
        p.client.delete_tag(run, key)
    p.client.get_run(run)


@table.story("tags")
def _(p: Player) -> None:
    run = begun(p)
    for value in (1, None, True, 1.5, "", "ü€\n", ["list"], "x" * 5000, "x" * 8000, "x" * 8001, "x" * 12000):
        p.client.set_tag(run, f"t-{type(value).__name__}-{len(str(value))}", value)
    p.client.set_tag(run, "t", 1)
    p.client.set_tag(run, "t", 2)
    p.client.delete_tag(run, "none")
    p.client.delete_tag(run, "t")
    p.client.delete_tag(run, "t")
    p.client.set_tag(run, "mlflow.note.content", "a note")
    p.client.set_tag(run, "mlflow.user", "somebody")
    p.client.set_tag(run, "mlflow.source.name", "a script")
    p.client.get_run(run)


@table.story("batches")
def _(p: Player) -> None:
    run = begun(p)
    p.client.log_batch(run)
    p.client.log_batch(run, [Metric("m", 1.0, 1, n) for n in range(5)], [Param("p", "1")], [RunTag("t", "1")])
    p.client.log_batch(run, params=[Param("p", "1"), Param("q", "2")])
    p.client.log_batch(run, params=[Param("p", "2"), Param("r", "3")])
    p.client.log_batch(run, params=[Param("s", "1"), Param("s", "2")])
    p.client.log_batch(run, params=[Param("u", "1"), Param("u", "1")])
    p.client.log_batch(run, tags=[RunTag("t", "2"), RunTag("t", "3")])
    p.client.log_batch(run, metrics=[Metric("n", 1.0, 1, 1), Metric("", 2.0, 1, 1)])
    p.client.log_batch(run, metrics=[Metric("o", "x", 1, 1)])
    p.client.log_batch(run, metrics=[Metric("o", 1.0, None, 1)])
    p.client.log_batch(run, metrics=[Metric("o", 1.0, 1, None)])
    p.client.log_batch(run, metrics=[Metric("o", None, 1, 1)])
    p.client.log_batch(run, params=[Param("", "1")])
    p.client.log_batch(run, tags=[RunTag("", "1")])
    p.client.log_batch(run, params=["nonsense"])
    p.client.log_batch(run, metrics=[{"key": "m"}])
    p.client.log_batch(run, metrics="nonsense")
    p.client.get_run(run)


@table.story("what only the link takes")
def _(p: Player) -> None:
    run = begun(p)
    own = p.raw.get_run(run).info.experiment_id
    p.client.log_metric(run, "m", 1, timestamp=5, step=2.0)
    p.client.log_batch(run, params=[Param("int", 5)], tags=[RunTag("int", 5)])
    p.client.create_run(own, tags={"int": 5})
    p.client.create_logged_model(int(own), "model")
    p.client.set_experiment_tag(int(own), "k", "v")


@table.story("batches that are large")
def _(p: Player) -> None:
    run = begun(p)
    p.client.log_batch(run, metrics=[Metric("m", float(n), n, n) for n in range(1000)])
    p.client.log_batch(run, metrics=[Metric("n", float(n), n, n) for n in range(1001)])
    p.client.log_batch(run, params=[Param(f"p{n}", "1") for n in range(100)])
    p.client.log_batch(run, params=[Param(f"q{n}", "1") for n in range(101)])
    p.client.log_batch(run, tags=[RunTag(f"t{n}", "1") for n in range(101)])
    p.client.log_batch(
        run,
        metrics=[Metric(f"l{n % 5}", 1.0, n, n) for n in range(950)],
        tags=[RunTag(f"u{n}", "1") for n in range(60)],
    )
    p.client.get_run(run)


@table.story("asynchronous calls")
def _(p: Player) -> None:
    run = begun(p)
    p.client.log_metric(run, "m", 1, 1, synchronous=False)
    p.client.log_param(run, "p", 1, synchronous=False)
    p.client.set_tag(run, "t", 1, synchronous=False)
    p.client.log_batch(
        run, [Metric("m", 2.0, 2, 2)], [Param("q", "1")], [RunTag("u", "1")], synchronous=False
    )
    p.mlflow.flush_async_logging()
    p.client.get_run(run)
    p.client.log_param(run, "p", 2, synchronous=False)
    p.client.log_metric(run, "", 2, synchronous=False)
    p.mlflow.flush_async_logging()
    p.client.get_run(run)


@table.story("nested")
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    parent = p.client.create_run(own, run_name="parent").info.run_id
    child = p.client.create_run(own, tags={"mlflow.parentRunId": parent}, run_name="child").info.run_id
    lost = p.client.create_run(own, tags={"mlflow.parentRunId": "0" * 32}, run_name="lost").info.run_id
    p.client.get_parent_run(child)
    p.client.get_parent_run(parent)
    p.client.get_parent_run(lost)
    p.client.search_runs([own], f"tags.mlflow.parentRunId = '{parent}'")
    p.client.delete_run(parent)
    p.client.get_parent_run(child)
    p.client.get_run(child)


@table.story("searches")
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    other = p.client.create_experiment(p.name("b"))
    for number, value in enumerate((3.0, 1.0, float("nan"), float("inf"), 2.0, None)):
        run = p.client.create_run(own, start_time=number, run_name=f"run {number}").info.run_id
        if value is not None:
            p.client.log_metric(run, "m", value, 1, number)
        p.client.log_param(run, "p", number % 3)
        p.client.set_tag(run, "even", str(number % 2 == 0))
        p.client.set_terminated(run, ("FINISHED", "FAILED")[number % 2], 100 + number)
    p.client.create_run(other, start_time=50, run_name="elsewhere")
    for where in (
        "metrics.m > 1.5",
        "metrics.m >= 1",
        "metrics.m < 5",
        "metrics.m = 3",
        "metrics.m != 3",
        "params.p = '1'",
        "params.p != '1'",
        "params.p LIKE '%1%'",
        "params.p IN ('1', '2')",
        "tags.even = 'True' and metrics.m > 1",
        "tags.`even` ILIKE 'TRUE'",
        "attributes.status = 'FAILED'",
        "attributes.run_name LIKE 'run%'",
        "attributes.run_name = 'run 3'",
        "attributes.start_time > 2",
        "attributes.end_time < 103",
        "attributes.artifact_uri LIKE '%artifacts'",
        "attributes.user_id != 'nobody'",
        "attributes.run_id IN ('" + "0" * 32 + "')",
        "tags.none IS NULL",
        "tags.even IS NOT NULL",
        "nonsense",
        "metrics.m = 'x'",
        "params.p > 1",
        "attributes.none = '1'",
        "metrics.m > 1 or metrics.m < 1",
    ):
        p.client.search_runs([own], where, order_by=["attributes.start_time"])
    for order in (
        "metrics.m",
        "metrics.m DESC",
        "params.p, attributes.start_time",
        "tags.even",
        "nonsense",
        "attributes.end_time DESC",
        "attributes.run_name desc",
        "metrics.none",
    ):
        p.client.search_runs([own], order_by=order.split(", "))
    page = p.client.search_runs([own, other], max_results=4, order_by=["attributes.start_time"])
    page = p.client.search_runs(
        [own, other], max_results=4, order_by=["attributes.start_time"], page_token=page.token
    )
    p.client.search_runs([own], page_token="nonsense")
    p.client.search_runs([own], max_results=0)
    p.client.search_runs([own], max_results=-1)
    p.client.search_runs([own], max_results=50_001)
    p.client.search_runs([])
    p.client.search_runs(own)
    p.client.search_runs(["987654"])
    p.mlflow.search_runs([own], order_by=["attributes.start_time"], filter_string="metrics.m > 0")
    p.mlflow.search_runs(
        experiment_names=[p.name("a"), p.name("b")], max_results=3, order_by=["attributes.start_time"]
    )
    p.mlflow.search_runs(
        [own], output_format="list", order_by=["attributes.start_time"], run_view_type=ViewType.ALL
    )
    p.mlflow.search_runs([own], output_format="nonsense")
    p.mlflow.search_runs([own], experiment_names=[p.name("a")])
    p.mlflow.search_runs(
        search_all_experiments=True,
        filter_string="attributes.run_name = 'elsewhere' and attributes.start_time = 50",
        max_results=1,
    )


@table.story("searches of live runs", away=True)
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    p.away()
    runs = [p.client.create_run(own, start_time=n, run_name=f"r{n}").info.run_id for n in range(5)]
    for number, run in enumerate(runs):
        p.client.log_metric(run, "m", number, 1)
    p.client.search_runs([own], "metrics.m > 1", order_by=["metrics.m DESC"])
    page = p.client.search_runs([own], max_results=2, order_by=["attributes.start_time"])
    p.client.search_runs([own], max_results=2, order_by=["attributes.start_time"], page_token=page.token)


@table.story("no such run")
def _(p: Player) -> None:
    for run in ("0" * 32, "nonsense", "", None, 5, "../x"):
        p.client.get_run(run)
        p.client.log_metric(run, "m", 1)
        p.client.log_param(run, "p", 1)
        p.client.set_tag(run, "t", 1)
        p.client.delete_tag(run, "t")
        p.client.log_batch(run, [Metric("m", 1, 1, 1)])
        p.client.set_terminated(run)
        p.client.update_run(run, name="x")
        p.client.delete_run(run)
        p.client.restore_run(run)
        p.client.get_metric_history(run, "m")
        p.client.list_artifacts(run)
        p.client.log_text(run, "text", "a.txt")


@table.story("created in no experiment")
def _(p: Player) -> None:
    for own in ("987654", "nonsense", "", None):
        p.client.create_run(own)
        p.client.create_logged_model(own, "model")
        p.client.get_experiment(own)
        p.client.rename_experiment(own, p.name("x"))
        p.client.set_experiment_tag(own, "k", "v")
        p.client.delete_experiment_tag(own, "k")
        p.client.delete_experiment(own)
        p.client.restore_experiment(own)


@table.story("a metric history of many points")
def _(p: Player) -> None:
    run = begun(p)
    p.client.log_batch(run, metrics=[Metric("m", float(n), n, n) for n in range(900)])
    p.client.log_batch(run, metrics=[Metric("m", float(n), n, n) for n in range(900, 1800)])
    history = p.client.get_metric_history(run, "m")
    p.see("how many", len(history))
    p.client.set_terminated(run)
    p.client.get_metric_history(run, "m")
