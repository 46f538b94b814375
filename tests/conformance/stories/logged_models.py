"""Logged models: made, logged to, finalized, searched, deleted; as inputs and outputs of runs."""

from __future__ import annotations

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelStatus,
)

from tests.conformance.player import Player, Table

table = Table("logged models")


def made(p: Player, **given: object) -> tuple[str, str, str]:
    """Make an experiment, a run and a logged model of it; returns the three ids."""
    own = p.client.create_experiment(p.name("a"))
    run = p.client.create_run(own).info.run_id
    model = p.client.create_logged_model(own, "model", run, **given).model_id
    return str(own), str(run), str(model)


@table.story("a life", away=True)
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    run = p.client.create_run(own).info.run_id
    p.away()
    model = p.client.create_logged_model(own, "model", run, {"t": "1"}, {"p": "1"}, "agent").model_id
    p.client.log_model_params(model, {"q": "2"})
    p.client.set_logged_model_tags(model, {"t": "2", "u": 3})
    p.client.delete_logged_model_tag(model, "u")
    p.client.log_model_artifact(model, p.file("one.txt"))
    p.file("folder/two.txt")
    p.client.log_model_artifacts(model, str(p.folder / "folder"))
    p.client.get_logged_model(model)
    p.client.finalize_logged_model(model, LoggedModelStatus.READY)
    p.client.log_outputs(run, [LoggedModelOutput(model, 2)])
    p.client.log_metric(run, "m", 0.5, 1, 1, model_id=model)
    p.client.get_logged_model(model)
    p.client.get_run(run)
    p.client.list_logged_model_artifacts(model)


@table.story("made otherwise")
def _(p: Player) -> None:
    own, run, _ = made(p)
    p.client.create_logged_model(own)
    p.client.create_logged_model(own, "model", run)
    p.client.create_logged_model(own, "model", "0" * 32)
    p.client.create_logged_model(own, "")
    p.client.create_logged_model(own, "a/b")
    p.client.create_logged_model(own, "a:b")
    p.client.create_logged_model(own, "x" * 300)
    p.client.create_logged_model(own, "named", tags={"": "v"})
    p.client.create_logged_model(own, "named", params={"": "v"})
    p.client.create_logged_model(own, "named", params={"k": "x" * 7000})
    p.client.create_logged_model(own, "named", tags={"k": 5}, params={"k": 5})
    p.client.create_logged_model(own, "named", model_type="")
    p.client.search_logged_models([own])


@table.story("changes that are refused")
def _(p: Player) -> None:
    _, _, model = made(p, params={"p": "1"})
    p.client.log_model_params(model, {"p": "2"})
    p.client.log_model_params(model, {"p": "1"})
    p.client.log_model_params(model, {"": "2"})
    p.client.log_model_params(model, {"q": None})
    p.client.log_model_params(model, {"q": 5})
    p.client.log_model_params(model, {"long": "x" * 7000})
    p.client.log_model_params(model, {})
    p.client.set_logged_model_tags(model, {"": "1"})
    p.client.set_logged_model_tags(model, {"t": "x" * 9000})
    p.client.set_logged_model_tags(model, {})
    p.client.set_logged_model_tags(model, None)
    p.client.delete_logged_model_tag(model, "none")
    p.client.delete_logged_model_tag(model, "")
    p.client.finalize_logged_model(model, "nonsense")
    p.client.finalize_logged_model(model, "PENDING")
    p.client.finalize_logged_model(model, None)
    p.client.log_model_artifact(model, "none.txt")
    p.client.log_model_artifacts(model, "none")
    p.client.get_logged_model(model)


@table.story("finalized twice")
def _(p: Player) -> None:
    _, _, model = made(p)
    p.client.finalize_logged_model(model, "READY")
    p.client.finalize_logged_model(model, "FAILED")
    p.client.get_logged_model(model)
    p.client.log_model_params(model, {"late": "1"})
    p.client.set_logged_model_tags(model, {"late": "1"})
    p.client.log_model_artifact(model, p.file("late.txt"))
    p.client.get_logged_model(model)


@table.story("no such model")
def _(p: Player) -> None:
    _, run, _ = made(p)
    for model in ("m-" + "0" * 32, "nonsense", "", None, "0" * 32, "m-x/y"):
        p.client.get_logged_model(model)
        p.client.log_model_params(model, {"p": "1"})
        p.client.set_logged_model_tags(model, {"t": "1"})
        p.client.delete_logged_model_tag(model, "t")
        p.client.finalize_logged_model(model, "READY")
        p.client.delete_logged_model(model)
        p.client.list_logged_model_artifacts(model)
        p.client.log_model_artifact(model, p.file("one.txt"))
        p.client.log_metric(run, "m", 1.0, 1, 1, model_id=model)
        p.client.log_outputs(run, [LoggedModelOutput(model, 1)])
        p.client.log_inputs(run, models=[LoggedModelInput(model)])
    p.client.get_run(run)


@table.story("deleted")
def _(p: Player) -> None:
    own, run, model = made(p)
    p.client.log_outputs(run, [LoggedModelOutput(model, 1)])
    p.client.log_model_artifact(model, p.file("one.txt"))
    p.client.delete_logged_model(model)
    p.client.delete_logged_model(model)
    p.client.get_logged_model(model)
    p.client.log_model_params(model, {"p": "1"})
    p.client.set_logged_model_tags(model, {"t": "1"})
    p.client.finalize_logged_model(model, "READY")
    p.client.list_logged_model_artifacts(model)
    p.client.log_metric(run, "m", 1.0, 1, 1, model_id=model)
    p.client.search_logged_models([own])
    p.client.get_run(run)


@table.story("a run that is deleted has one")
def _(p: Player) -> None:
    own, run, model = made(p)
    p.client.log_outputs(run, [LoggedModelOutput(model, 1)])
    p.client.finalize_logged_model(model, "READY")
    p.client.delete_run(run)
    p.client.get_logged_model(model)
    p.client.search_logged_models([own])
    p.client.get_run(run)


@table.story("metrics", away=True)
def _(p: Player) -> None:
    _, run, model = made(p)
    p.away()
    p.client.log_metric(run, "m", 1.0, 1, 1, model_id=model)
    p.client.get_logged_model(model)
    p.client.log_metric(run, "m", 2.0, 2, 2, model_id=model)
    p.client.log_metric(run, "m", 2.0, 2, 2, model_id=model, dataset_name="d", dataset_digest="1")
    p.client.log_metric(run, "n", float("nan"), 1, 1, model_id=model)
    p.client.log_metric(run, "o", 3.0, 1, 1, dataset_name="d", dataset_digest="1")
    p.client.log_metric(run, "o", 3.0, 2, 2, dataset_name="d")
    p.client.get_logged_model(model)
    p.client.get_metric_history(run, "m")
    p.client.get_run(run)


@table.story("one metric of a model that is not")
def _(p: Player) -> None:
    from mlflow.entities import Metric, Param

    _, run, model = made(p)
    missing = "m-" + "0" * 32
    p.client.log_batch(
        run,
        [Metric("a", 1.0, 1, 1), Metric("b", 1.0, 1, 1, missing), Metric("c", 1.0, 1, 1, model)],
        [Param("p", "1")],
    )
    p.client.log_metric(run, "d", 1.0, 1, 1)
    p.client.get_run(run)


@table.story("inputs and outputs", away=True)
def _(p: Player) -> None:
    own, run, model = made(p)
    other = p.client.create_run(own).info.run_id
    data = Dataset("data", "12345678", "local", "data.csv", "a schema", "a profile")
    p.away()
    p.client.log_inputs(
        run, [DatasetInput(data, [InputTag("mlflow.data.context", "train"), InputTag("k", "v")])]
    )
    p.client.log_inputs(run, [DatasetInput(data)])
    p.client.log_inputs(other, [DatasetInput(data, [])], [LoggedModelInput(model)])
    p.client.log_inputs(other, models=[LoggedModelInput(model)])
    p.client.log_inputs(run)
    p.client.log_inputs(run, [])
    p.client.log_outputs(run, [LoggedModelOutput(model, 0)])
    p.client.log_outputs(other, [LoggedModelOutput(model, 7)])
    p.client.get_run(run)
    p.client.get_run(other)


@table.story("inputs that are refused")
def _(p: Player) -> None:
    _, run, model = made(p)
    data = Dataset("data", "1", "local", "data.csv")
    p.client.log_inputs(run, [DatasetInput(data, [InputTag("k", "1"), InputTag("k", "2")])])
    p.client.log_inputs(run, [DatasetInput(data), DatasetInput(data)])
    p.client.log_inputs(run, [DatasetInput(Dataset("", "1", "local", "x"))])
    p.client.log_inputs(run, [DatasetInput(Dataset("d", "", "local", "x"))])
    p.client.log_inputs(run, [DatasetInput(Dataset("d", "1", "", "x"))])
    p.client.log_inputs(run, [DatasetInput(Dataset("d" * 501, "1", "local", "x"))])
    p.client.log_inputs(run, [DatasetInput(Dataset("d", "1" * 37, "local", "x"))])
    p.client.log_inputs(run, [DatasetInput(Dataset("d", "1", "local", "x"), [InputTag("", "1")])])
    p.client.log_inputs(run, [DatasetInput(Dataset("d", "1", "local", "x"), [InputTag("k" * 300, "1")])])
    p.client.log_inputs(run, [DatasetInput(Dataset("d", "1", "local", "x"), [InputTag("k", "v" * 600)])])
    p.client.log_inputs(run, ["nonsense"])
    p.client.log_inputs(run, models=["nonsense"])
    p.client.log_outputs(run, ["nonsense"])
    p.client.log_outputs(run, [])
    p.client.log_outputs(run, [LoggedModelOutput(model, -1)])
    p.client.log_outputs(run, [LoggedModelOutput(model, 1), LoggedModelOutput(model, 1)])
    p.client.log_outputs(run, [LoggedModelOutput(model, 1)])
    p.client.log_outputs(run, [LoggedModelOutput(model, 2)])
    p.client.log_inputs("0" * 32, [DatasetInput(data)])
    p.client.log_outputs("0" * 32, [LoggedModelOutput(model, 2)])
    p.client.delete_run(run)
    p.client.log_inputs(run, [DatasetInput(Dataset("late", "1", "local", "x"))])
    p.client.log_outputs(run, [LoggedModelOutput(model, 5)])
    p.client.get_run(run)


@table.story("searches")
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    other = p.client.create_experiment(p.name("b"))
    run = p.client.create_run(own).info.run_id
    for number, name in enumerate("abcd"):
        model = p.client.create_logged_model(
            own, name, run, {"half": str(number % 2)}, {"p": str(number)}, model_type="x" if number else "y"
        ).model_id
        p.client.log_metric(
            run, "m", float(number), 1, number, model_id=model, dataset_name="d", dataset_digest="1"
        )
        p.client.finalize_logged_model(model, "READY" if number % 2 else "FAILED")
    p.client.create_logged_model(other, "elsewhere")
    by_name = [{"field_name": "name"}]
    for where in (
        "metrics.m > 1",
        "params.p = '1'",
        "params.p != '1'",
        "tags.half = '1'",
        "name = 'a'",
        "name LIKE 'a%'",
        "model_type = 'x'",
        "status = 'READY'",
        "attributes.name IN ('a', 'b')",
        f"source_run_id = '{run}'",
        "creation_timestamp > 5",
        "metrics.m > 0 AND params.p = '3'",
        "nonsense",
        "metrics.m = 'x'",
        "none = 'x'",
    ):
        p.client.search_logged_models([own], where, order_by=by_name)
    p.client.search_logged_models([own], order_by=[{"field_name": "metrics.m", "ascending": False}])
    p.client.search_logged_models(
        [own], order_by=[{"field_name": "metrics.m", "dataset_name": "d", "dataset_digest": "1"}]
    )
    p.client.search_logged_models([own], order_by=[{"field_name": "params.p"}])
    p.client.search_logged_models([own], order_by=[{"field_name": "creation_timestamp", "ascending": True}])
    p.client.search_logged_models([own], order_by=["nonsense"])
    p.client.search_logged_models([own], order_by=[{"field_name": "nonsense"}])
    p.client.search_logged_models(
        [own], "metrics.m > 1", datasets=[{"dataset_name": "d", "dataset_digest": "1"}], order_by=by_name
    )
    p.client.search_logged_models(
        [own], "metrics.m > 1", datasets=[{"dataset_name": "none"}], order_by=by_name
    )
    page = p.client.search_logged_models([own, other], max_results=3, order_by=by_name)
    p.client.search_logged_models([own, other], max_results=3, order_by=by_name, page_token=page.token)
    p.client.search_logged_models([own], max_results=0)
    p.client.search_logged_models([own], max_results=5001)
    p.client.search_logged_models([own], page_token="nonsense")
    p.client.search_logged_models([])
    p.client.search_logged_models(["987654"])
    p.mlflow.search_logged_models([own], "metrics.m > 1", None, 2, by_name, "list")
    p.mlflow.search_logged_models(experiment_ids=[own], order_by=by_name, output_format="pandas")
    p.mlflow.search_logged_models(
        experiment_ids=[own],
        datasets=[{"dataset_name": "d"}],
        filter_string="metrics.m > 1",
        output_format="list",
        order_by=by_name,
    )


@table.story("files by address")
def _(p: Player) -> None:
    _, _, model = made(p)
    p.file("folder/MLmodel.txt", "1")
    p.file("folder/sub/two.txt", "2")
    p.client.log_model_artifacts(model, str(p.folder / "folder"))
    p.client.finalize_logged_model(model, "READY")
    root = p.raw.get_logged_model(model).artifact_location
    for where in (
        f"models:/{model}",
        f"models:/{model}/",
        f"models:/{model}/sub",
        f"models:/{model}/none",
        root,
        f"{root}/",
        f"{root}/sub",
        f"{root}/.",
        f"{root}/sub/two.txt",
        f"{root}/none",
    ):
        p.mlflow.artifacts.download_artifacts(where)
        p.mlflow.artifacts.list_artifacts(where)
    for path in (None, "", "sub", "none", "..", "/"):
        p.client.list_logged_model_artifacts(model, path)
