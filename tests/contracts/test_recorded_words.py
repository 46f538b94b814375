"""Recorded words and figures of the services, read by what the package itself reads them with."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import RestException

from dbml_magics.core.azure import diagnosis
from dbml_magics.core.azure.names import WorkspaceId
from dbml_magics.core.destinations import databricks_refusals, limits, naming
from dbml_magics.core.destinations.databricks import DatabricksWorkspace
from dbml_magics.core.destinations.errors import Unavailable, WouldRefuse, classify_error
from dbml_magics.core.endpoints import managed_body, scoring_container
from dbml_magics.core.endpoints.checks import likely_cause
from dbml_magics.core.endpoints.rest import Answer
from dbml_magics.core.endpoints.rest import words as words_of
from dbml_magics.core.link import WorkspaceSpec
from tests.contracts import test_recorded_services
from tests.contracts.recorded import FACTS, filled, named_in, replayed, replays
from tests.infra import service_limits
from tests.standins.azure import online, state
from tests.standins.databricks import _sign_in

OURS = WorkspaceId("5ab5c41b-0000-4000-8000-000000000001", "my-rg", "myws")


def test_each_fact_has_its_replay_and_its_source() -> None:
    modules = (test_recorded_services, sys.modules[__name__])
    tests = replayed(*modules)
    assert set().union(*tests.values()) == FACTS.keys()
    for name, facts in tests.items():
        (test,) = (vars(each)[name] for each in modules if name in vars(each))
        assert facts == named_in(test), f"{name} is marked for other facts than it names"
    assert [each.id for each in FACTS.values() if not each.sources or not all(each.sources)] == []


# --- limits


@replays("limit-params", "limit-metrics", "artifact-batch", "model-metrics")
@pytest.mark.parametrize(
    ("refusal", "number"),
    [
        ("limit-params", 200),
        ("limit-metrics", 250),
        ("artifact-batch", 100),
        ("model-metrics", 1000),
    ],
)
def test_a_limit_is_known_by_its_words_with_its_number(refusal: str, number: int) -> None:
    says = FACTS[refusal].says
    assert limits.names_a_limit(says)
    assert limits.number_named(says) == number
    assert limits.cut_to(says, "x" * 5000) is None, "it is of no value's length"


@replays("limit-metrics", "limit-params", "model-metrics")
def test_a_batch_becomes_smaller_by_a_refusal_of_its_own_size_alone() -> None:
    known = replace(limits.AZUREML, metrics=1000, items=1000)
    lowered = known.lowered(FACTS["limit-metrics"].says, 699)
    assert lowered is not None
    assert (lowered.metrics, lowered.items) == (250, 400)
    for refusal in ("limit-params", "model-metrics"):
        assert known.lowered(FACTS[refusal].says, 1000) is None
    assert limits.is_of_a_model(FACTS["model-metrics"].says)


@replays("limit-page")
def test_a_page_of_a_history_becomes_smaller() -> None:
    known = limits.Limits(metrics=1, params=1, tags=1, items=1)
    lowered = known.lowered_page(FACTS["limit-page"].says)
    assert lowered is not None
    assert lowered.history_page == limits.AZUREML.history_page == 999


@replays("metric-rows", "aml-limits", "model-metrics")
def test_the_tables_figures_are_the_recorded_ones() -> None:
    aml, stand_in = limits.AZUREML, state.LIMITS
    assert (aml.run_params, aml.metrics, aml.artifacts_batch) == (200, 250, 100)
    assert aml.metric_rows == FACTS["metric-rows"].figures["rows of metrics a run"]
    for name, value in FACTS["aml-limits"].figures.items():
        assert getattr(aml, name) == value == stand_in[name], name
    assert (stand_in["run_params"], stand_in["batch_metrics"], stand_in["artifacts_batch"]) == (200, 250, 100)
    assert limits.DATABRICKS.model_metrics == limits.number_named(FACTS["model-metrics"].says)


@replays("adb-batch", "adb-search")
def test_databricks_figures_are_the_recorded_ones() -> None:
    figures = dict(FACTS["adb-batch"].figures)
    length = figures.pop("characters of a value, by the page")
    for name, value in figures.items():
        assert getattr(limits.DATABRICKS, name) == value, name
    documented = service_limits.DATABRICKS_DOCUMENTED
    assert documented["param_value"] == documented["tag_value"] == length
    assert "says 250" in limits.SOURCES["databricks"]["param_value"], "a refusal of less is learnt"
    assert limits.DATABRICKS.rates["search"] == FACTS["adb-search"].figures["searches a second"]


@replays("adb-exhausted", "adb-rate")
@pytest.mark.parametrize("refusal", ["adb-exhausted", "adb-rate"])
def test_too_many_requests_are_an_outage_that_passes_and_no_limit(refusal: str) -> None:
    fact = FACTS[refusal]
    code = fact.figures["error_code"]
    settled = classify_error(RestException({"error_code": code, "message": fact.says}))
    assert isinstance(settled, Unavailable)
    assert not settled.denied
    assert not limits.names_a_limit(fact.says, code)
    first_words = fact.says.partition("…")[0]
    assert [code] == [known for known, said in _sign_in.RATE_REFUSALS if said.startswith(first_words)]


@replays("model-metrics", "source-format")
@pytest.mark.parametrize("refusal", ["model-metrics", "source-format"])
def test_a_refusal_with_one_of_mlflows_codes_stays_one(refusal: str) -> None:
    fact = FACTS[refusal]
    error = RestException({"error_code": fact.figures["error_code"], "message": fact.says})
    assert classify_error(error) is error


@replays("model-metrics")
def test_databricks_code_for_a_full_model_is_the_recorded_one() -> None:
    fact = FACTS["model-metrics"]
    assert service_limits.code_of(fact.says) == fact.figures["error_code"]


# --- names


@replays("aml-names")
@pytest.mark.parametrize(
    "name", ["wine", "-wine", "_wine", "/Users/me/a wine", "wîne", "x" * 400, "/Shared/--", "9-a_b", "ж"]
)
def test_names_of_experiments_are_legal_at_azure_ml(name: str) -> None:
    legal = re.compile(FACTS["aml-names"].figures["experiment"], re.ASCII)
    made = naming.azureml_experiment_name(name)
    assert legal.search(made)
    assert legal.search(naming.told_apart(name, made))
    assert naming.is_azureml_legal(name) is (legal.search(name) is not None)


@replays("uc-tag-chars")
def test_unity_catalog_takes_none_of_these_characters_in_a_tags_key() -> None:
    listed = FACTS["uc-tag-chars"].says.removeprefix("List(").removesuffix(")")
    characters = listed.split(", ")
    assert characters == [*".,-=/:"]
    workspace = DatabricksWorkspace(WorkspaceSpec("databricks", "databricks"))
    workspace.check_model_tags("main.ml.wine", {"team_a": "x"})
    for each in characters:
        with pytest.raises(WouldRefuse):
            workspace.check_model_tags("main.ml.wine", {f"team{each}a": "x"})
        workspace.check_model_tags("wine", {f"team{each}a": "x"})


# --- refusals


@replays("adb-403", "adb-expiring")
@pytest.mark.parametrize("refusal", ["adb-403", "adb-expiring"])
def test_databricks_words_for_a_sign_in_that_is_over(refusal: str) -> None:
    fact = FACTS[refusal]
    says = fact.says or fact.body["message"]
    away = databricks_refusals.not_permitted("databricks", 403, says, "GET", "/api/2.0/mlflow/runs/get")
    assert away.denied
    assert away.reason.startswith("the sign-in is over (403")


@replays("private-link", "private-link-2", "parent-404", "ws-404", "purge-unfindable", "403-empty")
@pytest.mark.parametrize(
    ("refusal", "status", "reason"),
    [
        ("private-link", 502, "behind its private endpoint"),
        ("private-link", 403, "behind its private endpoint"),
        ("private-link-2", 403, "behind its private endpoint"),
        ("parent-404", 404, "the workspace myws is not in my-rg"),
        ("purge-unfindable", 404, "the workspace myws is not in my-rg"),  # the report names no status
        ("403-empty", 403, "workspaces/read is missing"),
        ("ws-404", 404, None),
    ],
)
def test_azures_words_for_a_workspace_that_takes_nothing(
    refusal: str, status: int, reason: str | None
) -> None:
    fact = FACTS[refusal]
    named = {"workspace": OURS.name, "group": OURS.group}
    body: Any = fact.body
    if fact.says:
        body = {"error": {"code": fact.figures.get("code", "UserError"), "message": fact.says}}
    said = diagnosis.Said.by(status, filled(body, named))
    away = diagnosis.trouble(said, OURS, "Microsoft.MachineLearningServices/workspaces/read")
    assert (away is None) is (reason is None)
    assert (reason or "") in getattr(away, "reason", "")
    if refusal == "purge-unfindable" and away is not None:
        assert "Recently deleted" in away.remedies[0][0], "az cannot end it, the portal can"


@replays("soft-deleted")
def test_the_cause_inside_a_failed_deployment_is_read() -> None:
    fact = FACTS["soft-deleted"]
    inner = {"code": fact.figures["code"], "message": fact.says}
    error = {"code": fact.figures["inside"], "message": "It failed.", "details": [inner]}
    ended = Answer(200, {"status": "Failed", "error": error})
    assert ended.is_over
    assert words_of(ended.failure) == f"ResourceDeploymentFailure: It failed. (BadRequest: {fact.says})"


@replays("put-404", "score-import")
@pytest.mark.parametrize(
    ("fact", "figure", "cause"),
    [
        ("put-404", "", "the name of an endpoint that was deleted"),
        ("score-import", "the server imports", "azureml-contrib-services"),
        ("score-import", "the scoring script imports", "azureml-ai-monitoring"),
    ],
)
def test_the_likely_cause_is_named(fact: str, figure: str, cause: str) -> None:
    found = FACTS[fact]
    line = f"No module named '{found.figures[figure]}'" if figure else words_of(found.body)
    assert cause in str(likely_cause(["starting", line]))


@replays("score-import")
def test_a_models_environment_is_held_against_what_the_container_imports(tmp_path: Path) -> None:
    figures = FACTS["score-import"].figures
    modules = {need.module: need.package for need in scoring_container.NEEDS}
    assert modules[figures["the scoring script imports"]] == figures["package"]
    assert figures["the server imports"] in modules
    others = [each for each in modules.values() if each != figures["package"]]
    (tmp_path / "conda.yaml").write_text(f"dependencies: [{', '.join(others)}]\n")
    assert scoring_container.missing_packages(tmp_path) == [figures["package"]]


@replays("immutable")
def test_what_a_deployment_keeps_from_its_creation_on() -> None:
    (field,) = FACTS["immutable"].figures
    name = field.partition(".")[2]
    assert FACTS["immutable"].figures[field]["x-ms-mutability"] == ["create", "read"]
    assert tuple(managed_body.CREATE_ONLY) == online.CREATE_ONLY == (name,)
