"""Experiments: made, found, renamed, tagged, deleted and brought back."""

from __future__ import annotations

from mlflow.entities import ViewType

from tests.conformance.player import Player, Table

table = Table("experiments")


@table.story("a life", away=True)
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"), tags={"team": "ml", "n": "1"})
    p.client.get_experiment(own)
    p.away()
    p.client.set_experiment_tag(own, "team", "dl")
    p.client.set_experiment_tag(own, "count", 7)
    p.client.delete_experiment_tag(own, "n")
    p.client.rename_experiment(own, p.name("b"))
    p.client.get_experiment(own)
    p.client.get_experiment_by_name(p.name("b"))
    p.client.get_experiment_by_name(p.name("a"))


@table.story("a name that is taken")
def _(p: Player) -> None:
    one = p.client.create_experiment(p.name("a"))
    other = p.client.create_experiment(p.name("b"))
    p.client.create_experiment(p.name("a"))
    for each in (one, other):
        run = p.client.create_run(each)
        p.client.log_metric(run.info.run_id, "m", 1.0)
    p.client.rename_experiment(one, p.name("b"))
    p.client.rename_experiment(one, p.name("a"))
    p.client.get_experiment(one)


@table.story("a name that was deleted")
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    p.client.delete_experiment(own)
    p.client.create_experiment(p.name("a"))
    p.mlflow.set_experiment(p.name("a"))
    p.mlflow.create_experiment(p.name("a"))
    p.client.rename_experiment(own, p.name("b"))
    p.client.get_experiment_by_name(p.name("a"))
    p.client.restore_experiment(own)
    p.client.get_experiment_by_name(p.name("a"))


@table.story("a deleted one is changed")
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"), tags={"k": "v"})
    p.client.delete_experiment(own)
    p.client.get_experiment(own)
    p.client.rename_experiment(own, p.name("b"))
    p.client.set_experiment_tag(own, "k", "w")
    p.client.delete_experiment_tag(own, "k")
    p.client.delete_experiment(own)
    p.client.create_run(own)
    p.client.create_logged_model(own, "model")
    p.client.search_runs([own])
    p.client.get_experiment(own)


@table.story("an active one is restored")
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    p.client.restore_experiment(own)
    p.client.delete_experiment_tag(own, "never set")
    p.client.get_experiment(own)


@table.story("deleted and restored with a finished run", away=True)
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    p.away()
    run = p.client.create_run(own).info.run_id
    p.client.log_metric(run, "m", 1.0)
    p.client.log_param(run, "p", 1)
    p.client.set_terminated(run)
    p.client.delete_experiment(own)
    p.client.restore_experiment(own)


@table.story("deleted with a finished run")
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    run = p.client.create_run(own).info.run_id
    p.client.log_metric(run, "m", 1.0)
    p.client.log_text(run, "text", "a.txt")
    p.client.set_terminated(run)
    p.client.delete_experiment(own)
    p.client.get_run(run)
    p.client.search_runs([own])
    p.client.search_runs([own], run_view_type=ViewType.DELETED_ONLY)


@table.story("deleted and restored at once, twice")
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    for _ in range(2):
        p.client.delete_experiment(own)
        p.client.restore_experiment(own)
    run = p.client.create_run(own).info.run_id
    p.client.log_metric(run, "m", 1.0)
    p.client.delete_experiment(own)
    p.client.restore_experiment(own)
    p.client.get_run(run)


@table.story("renamed while a run goes on")
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    run = p.client.create_run(own).info.run_id
    for step in range(3):
        p.client.log_metric(run, "m", step, step=step)
        p.client.rename_experiment(own, p.name(f"n{step}"))
    p.client.create_experiment(p.name("a"))
    p.client.set_terminated(run)
    p.client.search_runs([own])


@table.story("names exchanged")
def _(p: Player) -> None:
    one = p.client.create_experiment(p.name("a"))
    other = p.client.create_experiment(p.name("b"))
    p.client.create_run(one, run_name="of a")
    p.client.create_run(other, run_name="of b")
    p.client.rename_experiment(one, p.name("c"))
    p.client.rename_experiment(other, p.name("a"))
    p.client.rename_experiment(one, p.name("b"))


@table.story("searches")
def _(p: Player) -> None:
    ids = [p.client.create_experiment(p.name(n), tags={"n": n, "half": "1"}) for n in "abcde"]
    p.client.delete_experiment(ids[4])
    named = f"name LIKE '{p.name('%')}'"
    p.client.search_experiments(filter_string=named, order_by=["name ASC"])
    p.client.search_experiments(filter_string=named, order_by=["name DESC"], max_results=2)
    page = p.client.search_experiments(filter_string=named, order_by=["name"], max_results=3)
    p.client.search_experiments(filter_string=named, order_by=["name"], max_results=3, page_token=page.token)
    p.client.search_experiments(ViewType.DELETED_ONLY, filter_string=named)
    p.client.search_experiments(view_type=ViewType.ALL, filter_string=named, order_by=["experiment_id DESC"])
    p.client.search_experiments(filter_string=f"{named} AND tags.n = 'b'")
    p.client.search_experiments(filter_string=f"{named} AND tags.n != 'b'", order_by=["name"])
    p.client.search_experiments(filter_string="nonsense")
    p.client.search_experiments(filter_string=named, order_by=["nonsense"])
    p.client.search_experiments(filter_string=named, max_results=0)
    p.client.search_experiments(filter_string=named, max_results=50_001)
    p.client.search_experiments(filter_string=named, page_token="nonsense")
    p.mlflow.search_experiments(filter_string=named, order_by=["name"], max_results=2)
    p.mlflow.search_experiments(view_type=ViewType.DELETED_ONLY, filter_string=named)


@table.story("an artifact location of its own")
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"), artifact_location="mlflow-artifacts:/elsewhere")
    run = p.client.create_run(own).info.run_id
    p.client.log_text(run, "text", "a.txt")
    p.client.list_artifacts(run)


@table.story("fluent calls")
def _(p: Player) -> None:
    own = p.mlflow.create_experiment(p.name("a"), tags={"k": "v"})
    p.mlflow.set_experiment(experiment_id=own)
    p.mlflow.set_experiment_tag("one", 1)
    p.mlflow.set_experiment_tags({"two": 2, "k": "w"})
    p.mlflow.delete_experiment_tag("two")
    p.mlflow.get_experiment(own)
    p.mlflow.get_experiment_by_name(p.name("a"))
    p.mlflow.get_experiment_by_name(p.name("none"))
    p.mlflow.set_experiment(p.name("new"))
    p.mlflow.set_experiment(p.name("new"), own)
    p.mlflow.set_experiment()
    p.mlflow.set_experiment(experiment_id="987654")
    p.mlflow.delete_experiment(own)
    p.mlflow.delete_experiment(own)
    p.mlflow.set_experiment(experiment_id=own)
    p.mlflow.get_experiment(own)
