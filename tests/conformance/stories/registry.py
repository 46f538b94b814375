"""The registry: models, versions, stages, aliases, tags, copies."""

from __future__ import annotations

from tests.conformance.player import Player, Table

table = Table("registry")


def source(p: Player) -> tuple[str, str]:
    """Make a finished run with files; returns its id and the URI of the files."""
    own = p.client.create_experiment(p.name("a"))
    run = str(p.client.create_run(own).info.run_id)
    p.client.log_text(run, "x", "model/file.txt")
    p.client.set_terminated(run)
    return run, f"runs:/{run}/model"


@table.story("a registered model", away=True)
def _(p: Player) -> None:
    name = p.name("m")
    p.client.create_registered_model(name, {"k": "v", "n": "1"}, "words")
    p.client.create_registered_model(name)
    p.away()
    p.client.get_registered_model(name)
    p.client.update_registered_model(name, "other words")
    p.client.update_registered_model(name)
    p.client.get_registered_model(name)
    p.client.set_registered_model_tag(name, "k", "w")
    p.client.set_registered_model_tag(name, "new", 5)
    p.client.delete_registered_model_tag(name, "n")
    p.client.delete_registered_model_tag(name, "none")
    p.client.get_registered_model(name)


@table.story("deployment jobs")
def _(p: Player) -> None:
    name = p.name("m")
    p.client.create_registered_model(name, deployment_job_id="job")
    p.client.update_registered_model(name, deployment_job_id="other")
    p.client.update_registered_model(name, "words", "third")
    p.client.get_registered_model(name)


@table.story("renamed")
def _(p: Player) -> None:
    _, uri = source(p)
    p.client.create_registered_model(p.name("m"), tags={"k": "v"})
    p.client.create_model_version(p.name("m"), uri)
    p.client.set_registered_model_alias(p.name("m"), "best", "1")
    p.client.create_registered_model(p.name("taken"))
    p.client.rename_registered_model(p.name("m"), p.name("taken"))
    p.client.rename_registered_model(p.name("none"), p.name("x"))
    p.client.rename_registered_model(p.name("m"), "")
    p.client.rename_registered_model(p.name("m"), p.name("n"))
    p.client.get_registered_model(p.name("m"))
    p.client.get_registered_model(p.name("n"))
    p.client.get_model_version(p.name("n"), "1")
    p.client.get_model_version_by_alias(p.name("n"), "best")
    p.client.create_model_version(p.name("n"), uri)
    p.client.rename_registered_model(p.name("n"), p.name("n"))


@table.story("deleted")
def _(p: Player) -> None:
    _, uri = source(p)
    name = p.name("m")
    p.client.create_registered_model(name)
    p.client.create_model_version(name, uri)
    p.client.delete_registered_model(name)
    p.client.delete_registered_model(name)
    p.client.get_registered_model(name)
    p.client.get_model_version(name, "1")
    p.client.create_model_version(name, uri)
    p.client.set_registered_model_alias(name, "best", "1")
    p.client.update_registered_model(name, "words")
    p.client.set_registered_model_tag(name, "k", "v")
    p.client.set_model_version_tag(name, "1", "k", "v")
    p.client.create_registered_model(name)
    p.client.create_model_version(name, uri)
    p.client.search_model_versions(f"name = '{name}'")


@table.story("versions")
def _(p: Player) -> None:
    run, uri = source(p)
    name = p.name("m")
    p.client.create_registered_model(name)
    p.client.create_model_version(name, uri, run, {"k": "v", "n": "1"}, "http://link", "words")
    p.client.create_model_version(name, uri, run_id=run, await_creation_for=None)
    p.client.create_model_version(name, uri)
    p.client.get_model_version(name, "1")
    p.client.get_model_version(name, 2)
    p.client.get_model_version(name, "9")
    p.client.get_model_version(name, "nonsense")
    p.client.update_model_version(name, "1", "other words")
    p.client.update_model_version(name, "2")
    p.client.update_model_version(name, "9", "words")
    p.client.set_model_version_tag(name, "1", "k", "w")
    p.client.set_model_version_tag(name, "1", "new", 5)
    p.client.delete_model_version_tag(name, "1", "n")
    p.client.delete_model_version_tag(name, "1", "none")
    p.client.delete_model_version(name, "2")
    p.client.delete_model_version(name, "2")
    p.client.get_model_version(name, "2")
    p.client.set_model_version_tag(name, "2", "k", "w")
    p.client.get_registered_model(name)
    p.client.get_model_version_download_uri(name, "1")
    p.client.get_model_version_download_uri(name, "2")
    p.client.get_model_version_stages(name, "1")
    p.client.create_model_version(name, uri)
    p.client.get_model_version(name, "1")


@table.story("files that are not there")
def _(p: Player) -> None:
    run, _ = source(p)
    p.client.create_registered_model(p.name("m"))
    p.client.create_model_version(p.name("m"), f"runs:/{run}/none", run)


@table.story("a run that is not there")
def _(p: Player) -> None:
    p.client.create_registered_model(p.name("m"))
    p.client.create_model_version(p.name("m"), "runs:/" + "0" * 32 + "/model")


@table.story("sources")
def _(p: Player) -> None:
    run, uri = source(p)
    name = p.name("m")
    p.client.create_registered_model(name)
    own = p.raw.get_run(run).info.artifact_uri if run else ""
    for where in (
        f"{own}/model",
        own,
        f"{own}/",
        f"{uri}/",
        f"runs:/{run}",
        "models:/none/1",
        "models:/m-" + "0" * 32,
        f"models:/{name}/1",
        "s3://bucket/model",
        "https://example.com/model",
        "file:///tmp/none",
        "/tmp/none",
        "nonsense",
        "",
        None,
        "mlflow-artifacts:/none",
        "runs:/../x",
    ):
        p.client.create_model_version(name, where)
    p.client.create_model_version(name, uri, "0" * 32)
    p.client.create_model_version(name, "s3://bucket/model", "0" * 32)
    p.client.create_model_version(name, uri, model_id="m-" + "0" * 32)
    p.client.create_model_version(p.name("none"), uri)
    p.client.create_model_version("", uri)
    p.client.search_model_versions(f"name = '{name}'", order_by=["version_number ASC"])


@table.story("a version of a logged model", away=True)
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    run = p.client.create_run(own).info.run_id
    model = p.client.create_logged_model(own, "model", run, {"t": "1"}, {"p": "1"}).model_id
    p.client.log_model_artifact(model, p.file("MLmodel", "x: 1"))
    p.client.finalize_logged_model(model, "READY")
    p.client.log_metric(run, "m", 1.0, 1, 1, model_id=model)
    p.client.set_terminated(run)
    name = p.name("m")
    p.client.create_registered_model(name)
    p.away()
    p.client.create_model_version(name, f"models:/{model}", run, model_id=model)
    p.client.create_model_version(name, f"models:/{model}")
    p.client.get_logged_model(model)


@table.story("aliases", away=True)
def _(p: Player) -> None:
    _, uri = source(p)
    name = p.name("m")
    p.client.create_registered_model(name)
    for _ in range(3):
        p.client.create_model_version(name, uri)
    p.client.set_registered_model_alias(name, "old", "1")
    p.away()
    p.client.set_registered_model_alias(name, "best", "2")
    p.client.set_registered_model_alias(name, "best", "3")
    p.client.set_registered_model_alias(name, "new", "3")
    p.client.get_model_version_by_alias(name, "best")
    p.client.get_model_version_by_alias(name, "old")
    p.client.get_model_version(name, "3")
    p.client.get_registered_model(name)
    p.client.delete_registered_model_alias(name, "new")
    p.client.get_model_version_by_alias(name, "best")


@table.story("aliases that are refused")
def _(p: Player) -> None:
    _, uri = source(p)
    name = p.name("m")
    p.client.create_registered_model(name)
    p.client.create_model_version(name, uri)
    for alias in ("v1", "latest", "", "a b", "ü", "a" * 256, "a/b", "1", None, "Staging"):
        p.client.set_registered_model_alias(name, alias, "1")
    p.client.set_registered_model_alias(name, "best", "9")
    p.client.set_registered_model_alias(name, "best", "nonsense")
    p.client.set_registered_model_alias(p.name("none"), "best", "1")
    p.client.delete_registered_model_alias(name, "none")
    p.client.get_model_version_by_alias(name, "none")
    p.client.set_registered_model_alias(name, "best", 1)
    p.client.delete_model_version(name, "1")
    p.client.get_model_version_by_alias(name, "best")
    p.client.get_registered_model(name)


@table.story("stages")
def _(p: Player) -> None:
    _, uri = source(p)
    name = p.name("m")
    p.client.create_registered_model(name)
    for _ in range(3):
        p.client.create_model_version(name, uri)
    p.client.get_latest_versions(name)
    p.client.transition_model_version_stage(name, "1", "Staging")
    p.client.transition_model_version_stage(name, "2", "Production", archive_existing_versions=False)
    p.client.transition_model_version_stage(name, "3", "Production", archive_existing_versions=True)
    p.client.transition_model_version_stage(name, "1", "production")
    p.client.transition_model_version_stage(name, "1", "nonsense")
    p.client.transition_model_version_stage(name, "9", "Staging")
    p.client.transition_model_version_stage(name, "1", "None", True)
    p.client.get_latest_versions(name, ["Production"])
    p.client.get_latest_versions(name, ["Archived", "None"])
    p.client.get_latest_versions(name, ["nonsense"])
    p.client.get_latest_versions(p.name("none"))
    p.client.set_model_version_tag(name, key="k", value="v", stage="Production")
    p.client.delete_model_version_tag(name, key="k", stage="Production")
    p.client.set_model_version_tag(name, key="k", value="v", stage="Staging")
    p.client.set_model_version_tag(name, "1", "k", "v", stage="Production")
    p.client.set_model_version_tag(name, key="k", value="v")
    p.client.search_model_versions(f"name = '{name}'")


@table.story("copies")
def _(p: Player) -> None:
    _, uri = source(p)
    name, other = p.name("m"), p.name("copy")
    p.client.create_registered_model(name)
    p.client.create_model_version(name, uri, tags={"k": "v"}, description="words")
    p.client.set_registered_model_alias(name, "best", "1")
    p.client.copy_model_version(f"models:/{name}/1", other)
    p.client.copy_model_version(f"models:/{name}@best", other)
    p.client.copy_model_version(f"models:/{other}/1", p.name("copy of the copy"))
    p.client.copy_model_version(f"models:/{name}/9", other)
    p.client.copy_model_version("models:/none/1", other)
    p.client.copy_model_version(uri, other)
    p.client.copy_model_version("nonsense", other)
    p.client.get_model_version_download_uri(other, "1")
    p.client.get_model_version(other, "1")
    p.client.delete_model_version(name, "1")
    p.client.get_model_version_download_uri(other, "2")
    p.client.copy_model_version(f"models:/{name}/1", other)


@table.story("copied, and its source deleted at once")
def _(p: Player) -> None:
    _, uri = source(p)
    name, other = p.name("m"), p.name("copy")
    p.client.create_registered_model(name)
    for number in range(1, 4):
        p.client.create_model_version(name, uri)
        p.client.copy_model_version(f"models:/{name}/{number}", other)
        p.client.delete_model_version(name, str(number))
    p.client.delete_registered_model(name)
    p.client.search_model_versions(f"name = '{other}'")


@table.story("searches", away=True)
def _(p: Player) -> None:
    run, uri = source(p)
    for letter in "abc":
        p.client.create_registered_model(p.name(letter), tags={"n": letter})
        for number in range(2):
            p.client.create_model_version(
                p.name(letter), uri, run if number else None, tags={"n": str(number)}
            )
    named = f"name LIKE '{p.name('%')}'"
    p.away()
    p.client.search_registered_models(named)
    p.client.search_registered_models(named, max_results=2, order_by=["name DESC"])
    p.client.search_registered_models(named, order_by=["name ASC"])
    p.client.search_registered_models(filter_string=f"name = '{p.name('b')}'")
    p.client.search_registered_models(filter_string=f"tags.n = 'b' and {named}")
    p.client.search_model_versions(f"name = '{p.name('a')}'", order_by=["version_number ASC"])
    p.client.search_model_versions(f"run_id = '{run}'", order_by=["name"])
    p.client.search_model_versions(f"{named} and tags.n = '1'", order_by=["name DESC"])
    p.client.get_registered_model(p.name("a"))
    p.client.get_model_version(p.name("a"), "1")


@table.story("searches that are refused, and pages", away=True)
def _(p: Player) -> None:
    _, uri = source(p)
    for letter in "abc":
        p.client.create_registered_model(p.name(letter))
        p.client.create_model_version(p.name(letter), uri)
    named = f"name LIKE '{p.name('%')}'"
    p.away()
    page = p.client.search_registered_models(named, max_results=2)
    p.client.search_registered_models(named, max_results=2, page_token=page.token)
    page = p.client.search_model_versions(named, max_results=2, order_by=["name"])
    p.client.search_model_versions(named, max_results=2, order_by=["name"], page_token=page.token)
    for search in (p.client.search_registered_models, p.client.search_model_versions):
        search("nonsense")
        search(named, order_by=["nonsense"])
        search(named, max_results=0)
        search(named, max_results=-1)
        search(named, max_results=1_000_001)
        search(named, page_token="nonsense")
        search("name = 'none'")
        search(f"name IN ('{p.name('a')}')")
        search(f"{named} or name = 'x'")
        search(filter_string=f"{named} and tags.k != 'v'")
    p.client.search_model_versions(f"source_path = '{uri}'")
    p.client.search_model_versions(f"{named} and version_number = 1", order_by=["name"])
    p.client.search_model_versions("run_id = 'none'")


@table.story("names that are refused")
def _(p: Player) -> None:
    for name in (
        "",
        None,
        "a/b",
        "a:b",
        ".",
        "..",
        "a" * 257,
        5,
        " ",
        "registry-names-that-are-refused.ü",
        "a%b",
    ):
        p.client.create_registered_model(name)
        p.client.get_registered_model(name)
        p.client.update_registered_model(name, "x")
        p.client.delete_registered_model(name)
        p.client.get_model_version(name, "1")
        p.client.get_latest_versions(name)


@table.story("tags that are refused")
def _(p: Player) -> None:
    _, uri = source(p)
    name = p.name("m")
    p.client.create_registered_model(name)
    p.client.create_model_version(name, uri)
    for key in ("", None, "a/b", "a b", "a:b", "ü", "a" * 250, "a" * 251, 5):
        p.client.set_registered_model_tag(name, key, "v")
        p.client.set_model_version_tag(name, "1", key, "v")
    for value in ("", None, 5, True, "x" * 5000, "x" * 5001, "x" * 100_001):
        key = f"{type(value).__name__}{len(str(value))}"
        p.client.set_registered_model_tag(name, key, value)
        p.client.set_model_version_tag(name, "1", key, value)
    p.client.set_registered_model_tag(p.name("none"), "k", "v")
    p.client.set_model_version_tag(name, "9", "k", "v")
    p.client.delete_registered_model_tag(p.name("none"), "k")
    p.client.delete_model_version_tag(name, "9", "k")
    p.client.create_registered_model(p.name("n"), {"": "v"})
    p.client.create_model_version(name, uri, tags={"": "v"})
    p.client.get_registered_model(name)
    p.client.get_model_version(name, "1")


@table.story("models changed", away=True)
def _(p: Player) -> None:
    _, uri = source(p)
    for letter in "abc":
        p.client.create_registered_model(p.name(letter), {"k": letter}, letter)
    p.client.create_model_version(p.name("a"), uri, tags={"t": "1"})
    p.client.set_registered_model_alias(p.name("a"), "best", "1")
    named = f"name LIKE '{p.name('%')}'"
    p.away()
    p.client.set_registered_model_tag(p.name("c"), "k", "w")
    p.client.update_registered_model(p.name("c"), "other words")
    p.client.rename_registered_model(p.name("a"), p.name("renamed"))
    p.client.delete_registered_model(p.name("b"))
    p.client.create_registered_model(p.name("d"), {"k": "d"}, "d")
    p.client.set_registered_model_tag(p.name("d"), "new", "1")
    for which in ("a", "renamed", "b", "c", "d"):
        p.client.get_registered_model(p.name(which))
    p.client.get_model_version(p.name("a"), "1")
    p.client.get_model_version(p.name("renamed"), "1")
    p.client.get_model_version_by_alias(p.name("renamed"), "best")
    p.client.get_latest_versions(p.name("renamed"))
    p.client.get_latest_versions(p.name("d"))
    p.client.get_latest_versions(p.name("b"))
    p.client.search_registered_models(named)
    p.client.search_registered_models(f"{named} and tags.k = 'w'")
    p.client.search_registered_models(named, order_by=["last_updated_timestamp ASC"])
    p.client.search_model_versions(named)
    p.client.create_registered_model(p.name("b"), description="again")
    p.client.get_registered_model(p.name("b"))


@table.story("versions changed", away=True)
def _(p: Player) -> None:
    run, uri = source(p)
    name = p.name("m")
    p.client.create_registered_model(name)
    for number in range(1, 5):
        p.client.create_model_version(name, uri, run, {"n": str(number)}, "http://link", "words")
    p.client.transition_model_version_stage(name, "1", "Production")
    p.client.set_registered_model_alias(name, "best", "4")
    p.client.set_registered_model_alias(name, "old", "1")
    p.away()
    p.client.set_model_version_tag(name, "1", "n", "other")
    p.client.set_model_version_tag(name, "1", "new", 5)
    p.client.delete_model_version_tag(name, "2", "n")
    p.client.update_model_version(name, "2", "other words")
    p.client.update_model_version(name, "3")
    p.client.transition_model_version_stage(name, "2", "production", archive_existing_versions=True)
    p.client.delete_model_version(name, "4")
    p.client.set_registered_model_alias(name, "old", "3")
    for each in "1234":
        p.client.get_model_version(name, each)
    p.client.get_model_version_by_alias(name, "old")
    p.client.get_model_version_stages(name, "1")
    p.client.get_registered_model(name)
    p.client.get_latest_versions(name)
    p.client.get_latest_versions(name, ["Production"])
    p.client.get_latest_versions(name, ["nonsense"])
    p.client.set_model_version_tag(name, key="k", value="v", stage="Production")
    p.client.search_model_versions(f"name = '{name}'", order_by=["version_number ASC"])
    p.client.search_model_versions(f"name = '{name}'")
    p.client.search_model_versions(f"name = '{name}' and tags.n = 'other'")
    p.client.search_model_versions(f"run_id = '{run}'", order_by=["version_number DESC"], max_results=2)
    p.client.search_registered_models(f"name = '{name}'")
    p.client.get_model_version_download_uri(name, "2")


@table.story("versions made", away=True)
def _(p: Player) -> None:
    run, uri = source(p)
    name = p.name("m")
    p.away()
    p.client.create_registered_model(name, {"k": "v"}, "words")
    made = p.client.create_model_version(name, uri, run, {"n": "1"}, "http://link", "words")
    p.client.set_model_version_tag(name, made.version, "n", "2")
    p.client.set_model_version_tag(name, made.version, "new", "3")
    p.client.update_model_version(name, made.version, "other words")
    p.client.set_registered_model_alias(name, "best", made.version)
    p.client.get_model_version(name, made.version)
    p.client.get_model_version_by_alias(name, "best")
    p.client.transition_model_version_stage(name, made.version, "Staging")
    p.client.get_registered_model(name)
    p.client.get_latest_versions(name)
    p.client.get_latest_versions(name, ["Production"])
    p.client.search_model_versions(f"name = '{name}'")
    p.client.search_model_versions(f"run_id = '{run}'")
    p.client.search_registered_models(f"name = '{name}'")
    p.client.delete_model_version(name, made.version)
    p.client.get_model_version(name, made.version)
    p.client.search_model_versions(f"name = '{name}'")


@table.story("a logged model that is not finished and has no files")
def _(p: Player) -> None:
    name, own = p.name("m"), p.client.create_experiment(p.name("a"))
    run = str(p.client.create_run(own).info.run_id)
    model = p.client.create_logged_model(own, "model")
    p.client.create_registered_model(name)
    p.client.create_model_version(name, f"models:/{model.model_id}", run)
    p.settle()
    p.client.get_logged_model(model.model_id)
    p.client.get_run(run)
