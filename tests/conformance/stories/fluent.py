"""The fluent calls: an active run, and what is logged to it."""

from __future__ import annotations

import contextlib
import os
from io import BytesIO

import numpy as np
import pandas as pd
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import LoggedModelInput, LoggedModelOutput

from tests.conformance.player import Player, Table

table = Table("fluent")


@table.story("a run", away=True)
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    p.away()
    with p.mlflow.start_run(
        run_name="one", tags={"k": "1"}, description="a note", log_system_metrics=False
    ) as run:
        p.mlflow.log_metric("m", 1, step=1, timestamp=10)
        p.mlflow.log_metrics({"m": 2, "n": 3.5}, step=2, timestamp=20)
        p.mlflow.log_param("p", 1)
        p.mlflow.log_params({"q": 2, "r": None})
        p.mlflow.set_tag("t", 1)
        p.mlflow.set_tags({"t": 2, "u": 3})
        p.mlflow.delete_tag("k")
        p.mlflow.active_run()
        p.mlflow.get_run(run.info.run_id)
    p.mlflow.active_run()
    p.mlflow.last_active_run()
    p.mlflow.get_run(run.info.run_id)


@table.story("return values")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    with p.mlflow.start_run():
        p.mlflow.log_metric("m", 1, synchronous=True)
        p.mlflow.log_param("p", 1.5, synchronous=True)
        p.mlflow.log_params({"a": 1}, synchronous=True)
        p.mlflow.set_tag("t", 1, synchronous=True)
        p.mlflow.set_tags({"a": 1}, synchronous=True)
        p.mlflow.log_metrics({"a": 1}, synchronous=True)
        p.mlflow.log_metrics({"a": 1}, synchronous=False)
        p.mlflow.log_metric("m", 1, synchronous=False)
        p.mlflow.log_param("b", 1.5, synchronous=False)
        p.mlflow.set_tag("b", 1, synchronous=False)
        p.mlflow.log_params({"c": 1}, synchronous=False)
        p.mlflow.set_tags({"c": 1}, synchronous=False)
        p.mlflow.log_text("x", "a.txt")
        p.mlflow.log_dict({"a": 1}, "a.json")
    p.mlflow.flush_async_logging()


@table.story("a run that fails")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    run = p.mlflow.start_run()
    with contextlib.suppress(ValueError), run:
        p.mlflow.log_metric("m", 1)
        raise ValueError
    p.mlflow.get_run(run.info.run_id)
    run = p.mlflow.start_run()
    p.mlflow.end_run("KILLED")
    p.mlflow.get_run(run.info.run_id)
    run = p.mlflow.start_run()
    p.mlflow.end_run("nonsense")
    p.mlflow.end_run()
    p.mlflow.get_run(run.info.run_id)


@table.story("nested")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    with p.mlflow.start_run(run_name="parent") as parent:
        p.mlflow.start_run(run_name="refused")
        with p.mlflow.start_run(nested=True, run_name="child") as child:
            p.mlflow.log_metric("m", 1, step=1)
            with p.mlflow.start_run(nested=True, run_name="grandchild"):
                p.mlflow.log_metric("m", 2, step=1)
        p.mlflow.log_metric("m", 3, step=1)
    p.mlflow.get_parent_run(child.info.run_id)
    p.mlflow.get_parent_run(parent.info.run_id)
    with p.mlflow.start_run(parent_run_id=parent.info.run_id, run_name="late", nested=True):
        p.mlflow.log_metric("m", 4, step=1)
    p.mlflow.start_run(parent_run_id="0" * 32, nested=True)
    p.mlflow.end_run()


@table.story("taken up again")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    with p.mlflow.start_run() as run:
        p.mlflow.log_metric("m", 1, step=1)
    own = run.info.run_id
    with p.mlflow.start_run(run_id=own):
        p.mlflow.get_run(own)
        p.mlflow.log_metric("m", 2, step=2)
    p.mlflow.get_run(own)
    with p.mlflow.start_run(run_id=own, run_name="renamed", tags={"more": "1"}):
        p.mlflow.get_run(own)
    p.mlflow.start_run(run_id=own, experiment_id="987654")
    p.mlflow.end_run()
    os.environ["MLFLOW_RUN_ID"] = own
    with p.mlflow.start_run():
        p.mlflow.log_metric("m", 3, step=3)
    p.client.delete_run(own)
    p.mlflow.start_run(run_id=own)
    p.mlflow.start_run(run_id="0" * 32)
    p.mlflow.get_run(own)


@table.story("logging by id while another is active")
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    p.mlflow.set_experiment(experiment_id=own)
    other = p.client.create_run(own).info.run_id
    with p.mlflow.start_run(experiment_id=own):
        p.mlflow.log_metric("m", 1, step=1, run_id=other)
        p.mlflow.log_metrics({"n": 1}, step=1, run_id=other)
        p.mlflow.log_params({"p": 1}, run_id=other)
        p.mlflow.log_param("q", 1)
        p.mlflow.log_text("text", "a.txt", run_id=other)
        p.mlflow.log_dict({"a": 1}, "a.yaml", run_id=other)
        p.mlflow.log_artifact(p.file("f.txt"), "sub", run_id=other)
    p.mlflow.get_run(other)


@table.story("without a run")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    p.mlflow.log_metric("m", 1, step=1)
    p.mlflow.log_param("p", 1)
    p.mlflow.active_run()
    p.mlflow.get_artifact_uri()
    p.mlflow.get_artifact_uri("a/b.txt")
    p.mlflow.end_run()
    p.mlflow.last_active_run()
    p.mlflow.active_run()
    p.mlflow.end_run()


@table.story("files")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    p.file("folder/one.txt", "1")
    p.file("folder/sub/two.txt", "2")
    with p.mlflow.start_run() as run:
        p.mlflow.log_artifact(p.file("f.txt", "f"))
        p.mlflow.log_artifact(p.file("f.txt", "g"), "sub")
        p.mlflow.log_artifact(str(p.folder / "folder"))
        p.mlflow.log_artifacts(str(p.folder / "folder"), "all")
        p.mlflow.log_artifacts(str(p.folder / "none"))
        p.mlflow.log_artifact(str(p.folder / "none.txt"))
        p.mlflow.log_text("text", "t/text.txt")
        p.mlflow.log_dict({"a": [1, 2]}, "d.json")
        p.mlflow.log_dict({"a": [1, 2]}, "d.yml")
        p.mlflow.log_dict([1], "d.txt")
        p.mlflow.log_stream(BytesIO(b"stream"), "s.bin")
        p.mlflow.log_image(np.zeros((2, 2, 3), dtype=np.uint8), "image.png")
        p.mlflow.log_table({"a": [1, 2], "b": ["x", "y"]}, "table.json")
        p.mlflow.log_table(pd.DataFrame({"a": [3], "b": ["z"]}), "table.json")
        p.mlflow.log_table({"a": [1]}, "table.txt")
        p.mlflow.load_table("table.json")
        p.mlflow.load_table("table.json", [run.info.run_id], ["run_id", "start_time"])
        p.mlflow.load_table("none.json", [run.info.run_id])
        p.mlflow.get_artifact_uri("t/text.txt")
    p.mlflow.artifacts.list_artifacts(run_id=run.info.run_id)
    p.mlflow.load_table("table.json", extra_columns=["run_id"])


@table.story("an image with a key")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    with p.mlflow.start_run() as run:
        p.mlflow.log_image(np.zeros((2, 2, 3), dtype=np.uint8), key="dogs", step=3, timestamp=7)
        p.mlflow.log_image(np.zeros((2, 2, 3), dtype=np.uint8))
        p.mlflow.log_image(np.zeros((2, 2, 3), dtype=np.uint8), "a.png", key="dogs")
        p.mlflow.log_image("nonsense", "a.png")
    p.mlflow.flush_artifact_async_logging()
    names = p.raw.list_artifacts(run.info.run_id, "images")
    p.see("images", sorted(each.path.split("%")[0] for each in names))


@table.story("a figure")
def _(p: Player) -> None:
    from matplotlib.figure import Figure

    p.mlflow.set_experiment(p.name("a"))
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    with p.mlflow.start_run() as run:
        p.mlflow.log_figure(figure, "figure.png", save_kwargs={"metadata": {"Software": None}})
        p.mlflow.log_figure("nonsense", "figure.png")
        p.mlflow.log_figure(figure, "figure.nonsense")
    p.client.log_figure(run.info.run_id, figure, "again.png", save_kwargs={"metadata": {"Software": None}})
    p.client.list_artifacts(run.info.run_id)


@table.story("inputs", away=True)
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    train = from_pandas(pd.DataFrame({"a": [1, 2]}), source="train.csv", name="train")
    test = from_pandas(pd.DataFrame({"a": [3]}), source="test.csv", name="test", targets="a")
    p.away()
    with p.mlflow.start_run() as run:
        p.mlflow.log_input(train, context="training", tags={"k": "v"})
        p.mlflow.log_input(train, context="training")
        p.mlflow.log_input(test)
        p.mlflow.log_input()
        p.mlflow.log_inputs([train, test], ["a", "b"], [{"x": "1"}, None])
        p.mlflow.log_inputs([train], ["a", "b"])
        p.mlflow.log_metric("m", 1, step=1, dataset=train)
        p.mlflow.log_metrics({"n": 1}, step=1, dataset=test)
        p.mlflow.get_run(run.info.run_id)
    p.mlflow.get_run(run.info.run_id)


@table.story("models as inputs and outputs")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    model = p.mlflow.initialize_logged_model("model", params={"a": "1"}, tags={"t": "1"}, model_type="agent")
    with p.mlflow.start_run() as run:
        p.mlflow.log_input(model=LoggedModelInput(model.model_id))
        p.mlflow.log_inputs(models=[LoggedModelInput(model.model_id)])
        p.mlflow.log_outputs([LoggedModelOutput(model.model_id, 3)])
        p.mlflow.log_outputs([LoggedModelOutput(model.model_id, 3)])
        p.mlflow.log_outputs([LoggedModelOutput("m-" + "0" * 32, 0)])
        p.mlflow.log_outputs([])
        p.mlflow.log_outputs()
        p.mlflow.get_run(run.info.run_id)
    p.mlflow.finalize_logged_model(model.model_id, "READY")
    p.mlflow.get_run(run.info.run_id)


@table.story("logged models")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    model = p.mlflow.initialize_logged_model("model", params={"a": "1"}, tags={"t": "1"})
    own = model.model_id
    p.mlflow.log_model_params({"b": "2"}, own)
    p.mlflow.log_model_params({"b": "3"}, own)
    p.mlflow.set_logged_model_tags(own, {"t": "2", "u": "3"})
    p.mlflow.delete_logged_model_tag(own, "t")
    p.mlflow.delete_logged_model_tag(own, "none")
    p.mlflow.get_logged_model(own)
    p.mlflow.finalize_logged_model(own, "FAILED")
    p.mlflow.last_logged_model()
    outer = p.mlflow.create_external_model("outer", tags={"a": "b"}, params={"c": "d"}, model_type="x")
    p.mlflow.search_logged_models(output_format="list", order_by=[{"field_name": "creation_timestamp"}])
    p.mlflow.search_logged_models(filter_string="name = 'outer'")
    with p.mlflow.start_run() as run:
        p.mlflow.set_active_model(name="active")
        p.mlflow.get_active_model_id()
        p.mlflow.log_metric("m", 1, step=1)
        p.mlflow.clear_active_model()
        p.mlflow.log_metric("m", 2, step=2, model_id=outer.model_id)
        p.mlflow.log_metrics({"n": 2}, step=2, model_id=outer.model_id)
        p.mlflow.log_metric("m", 2, step=3, model_id="m-" + "0" * 32)
    p.mlflow.get_logged_model(outer.model_id)
    p.mlflow.get_run(run.info.run_id)
    p.mlflow.set_active_model(model_id=outer.model_id)
    p.mlflow.set_active_model(model_id="m-" + "0" * 32)
    p.mlflow.set_active_model()


@table.story("checkpoints")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    p.file("checkpoints/one.txt", "1")
    p.mlflow.import_checkpoints(str(p.folder / "checkpoints"), model_prefix="ck")
    p.mlflow.search_logged_models(output_format="list")


@table.story("registering")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    with p.mlflow.start_run() as run:
        p.mlflow.log_text("x", "model/MLmodel.txt")
    p.mlflow.register_model(f"runs:/{run.info.run_id}/model", p.name("model"), tags={"k": "v"})
    p.mlflow.register_model(f"runs:/{run.info.run_id}/none", p.name("model"))
    p.mlflow.register_model("runs:/" + "0" * 32 + "/model", p.name("model"))
    p.mlflow.set_model_version_tag(p.name("model"), "1", "t", "u")
    p.mlflow.search_registered_models(
        filter_string=f"name = '{p.name('model')}'", max_results=2, order_by=["name"]
    )
    p.mlflow.search_model_versions(
        filter_string=f"name = '{p.name('model')}'", max_results=1, order_by=["version_number DESC"]
    )


@table.story("further arguments")
def _(p: Player) -> None:
    own = p.mlflow.create_experiment(p.name("a"), artifact_location=None)
    black = np.zeros((2, 2, 3), dtype=np.uint8)
    run = p.client.create_run(own).info.run_id
    p.file("folder/one.txt", "1")
    p.mlflow.log_artifacts(str(p.folder / "folder"), run_id=run)
    p.mlflow.log_stream(BytesIO(b"stream"), "s.bin", run_id=run)
    p.mlflow.log_table({"a": [1]}, "t.json", run_id=run)
    p.client.log_image(run, black, key="cats", step=1, timestamp=5, synchronous=True)
    p.mlflow.set_experiment(experiment_id=own)
    with p.mlflow.start_run():
        p.mlflow.log_image(black, key="cats", timestamp=5, synchronous=True)
    p.mlflow.initialize_logged_model("model", source_run_id=run, experiment_id=own)
    p.mlflow.create_external_model("outer", source_run_id=run, experiment_id=own)
    p.mlflow.import_checkpoints(str(p.folder / "folder"), source_run_id=run, overwrite_checkpoints=True)
    p.mlflow.register_model(f"runs:/{run}/t.json", p.name("m"), await_registration_for=5)


@table.story("refused values")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    with p.mlflow.start_run() as run:
        p.mlflow.log_metric("", 1)
        p.mlflow.log_metric("m", "x")
        p.mlflow.log_metric("m", None)
        p.mlflow.log_metrics({"a": 1, "b": "x"})
        p.mlflow.log_metrics({"": 1})
        p.mlflow.log_metrics("nonsense")
        p.mlflow.log_params({"a": 1, "": 2})
        p.mlflow.log_param("a", 1)
        p.mlflow.log_param("a", 2)
        p.mlflow.log_params({"a": 2, "z": 1})
        p.mlflow.set_tags({"a": 1, "": 2})
        p.mlflow.delete_tag("none")
        p.mlflow.set_tags({"a" * 251: 1})
        p.mlflow.log_text(5, "a.txt")
        p.mlflow.log_text("x", "../a.txt")
        p.mlflow.log_text("x", "/a.txt")
        p.mlflow.log_text("x", "")
        p.mlflow.get_run(run.info.run_id)


@table.story("evaluation")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    data = from_pandas(
        pd.DataFrame({"y": [1.0, 2.0], "z": [1.0, 2.5]}), targets="y", predictions="z", name="data"
    )
    with p.mlflow.start_run() as run:
        p.mlflow.evaluate(data=data, model_type="regressor")
    p.mlflow.get_run(run.info.run_id)


@table.story("autologging is asked for")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    p.mlflow.autolog(disable=True)
    p.mlflow.autolog(disable=True, log_models=False, silent=True)
    p.mlflow.flush_artifact_async_logging()
    p.mlflow.flush_async_logging()
