"""Every method of MLflow's two store classes has been looked at by somebody, and does what was decided.

A method that MLflow adds is forwarded to the primary as if it were a read. If it writes to runs, experiments,
logged models or registered models, that would leave the second workspace without it, unseen: so this fails
until the method stands in one of the lists below.
"""

from __future__ import annotations

import inspect
import json
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.store.model_registry.abstract_store import AbstractStore as RegistryBase
from mlflow.store.tracking.abstract_store import AbstractStore as TrackingBase

import dbml_magics as dbml
from dbml_magics.core.plugin.forwarding import is_own
from dbml_magics.core.plugin.registry_store import DbmlRegistryStore
from dbml_magics.core.plugin.tracking_store import DbmlTrackingStore
from tests.core.test_link import log_model
from tests.infra import plain

OURS = "overridden: mirrored, or read with what is on its way"
READ = "a read, forwarded to the primary (for the registry: the link's first one)"
PRIMARY = "a write, forwarded to the primary alone on purpose: traces, GenAI, gateways, prompts, webhooks"
BASE = "MLflow's base class builds it from the others"

TRACKING = {
    OURS: """
        create_experiment create_logged_model create_run delete_experiment delete_experiment_tag
        delete_logged_model delete_logged_model_tag delete_run end_async_logging finalize_logged_model
        flush_async_logging get_experiment get_experiment_by_name get_logged_model get_metric_history
        get_metric_history_bulk_interval_from_steps get_run log_batch log_batch_async log_inputs
        log_metric log_metric_async log_outputs log_param log_param_async record_logged_model
        rename_experiment restore_experiment restore_run search_experiments search_logged_models
        search_runs set_experiment_tag set_logged_model_tags set_tag set_tag_async shut_down_async_logging
        update_run_info
    """,
    READ: """
        _load_dataset_records _search_runs batch_get_trace_infos batch_get_traces
        calculate_trace_filter_correlation filter_active_experiment_ids find_completed_sessions
        get_active_online_scorers
        get_assessment get_budget_policy get_dataset get_dataset_experiment_ids get_gateway_endpoint
        get_gateway_guardrail get_gateway_model_definition get_issue get_label_schema
        get_label_schema_by_name get_latest_mcp_server_version get_mcp_access_endpoint get_mcp_server
        get_mcp_server_version get_mcp_server_version_by_alias get_mcp_server_versions_for_trace
        get_online_scoring_configs get_online_trace_details get_review_queue get_review_queue_by_name
        get_scorer get_secret_info get_trace get_trace_info list_budget_policies list_endpoint_bindings
        list_endpoint_guardrail_configs list_gateway_endpoints list_gateway_guardrails
        list_gateway_model_definitions list_label_schemas list_review_queue_items list_review_queues
        list_scorer_versions list_scorers list_scorers_across_experiments list_secret_infos
        query_trace_metrics resolve_trace_archival_config search_datasets search_issues
        search_mcp_access_endpoints search_mcp_server_versions search_mcp_servers search_traces
        sum_gateway_trace_cost supports_trace_archival supports_workspaces
    """,
    PRIMARY: """
        _delete_traces add_dataset_to_experiments add_guardrail_to_endpoint add_items_to_review_queue
        archive_traces attach_model_to_endpoint create_assessment create_budget_policy create_dataset
        create_endpoint_binding create_gateway_endpoint create_gateway_guardrail
        create_gateway_model_definition create_gateway_secret create_issue create_label_schema
        create_mcp_access_endpoint create_mcp_server create_mcp_server_version create_review_queue
        delete_assessment delete_budget_policy delete_dataset delete_dataset_records delete_dataset_tag
        delete_endpoint_binding delete_gateway_endpoint delete_gateway_endpoint_tag
        delete_gateway_guardrail delete_gateway_model_definition delete_gateway_secret delete_label_schema
        delete_mcp_access_endpoint delete_mcp_server delete_mcp_server_alias delete_mcp_server_tag
        delete_mcp_server_version delete_mcp_server_version_tag delete_review_queue delete_scorer
        delete_trace_tag delete_traces detach_model_from_endpoint get_or_create_user_queue
        link_mcp_server_versions_to_trace link_prompts_to_trace link_traces_to_run log_spans
        log_spans_async register_scorer remove_dataset_from_experiments remove_guardrail_from_endpoint
        remove_items_from_review_queue set_dataset_tags set_gateway_endpoint_tag set_mcp_server_alias
        set_mcp_server_tag set_mcp_server_version_tag set_review_queue_item_status set_trace_tag
        start_trace unlink_traces_from_run update_assessment update_budget_policy
        update_endpoint_guardrail_config update_gateway_endpoint update_gateway_model_definition
        update_gateway_secret update_issue update_label_schema update_mcp_access_endpoint
        update_mcp_server update_mcp_server_version update_review_queue upsert_dataset_records
        upsert_online_scoring_config
    """,
    BASE: """
        _evenly_spaced_indices get_metric_history_bulk_interval set_model_versions_tags
    """,
}

REGISTRY = {
    OURS: """
        _await_model_version_creation copy_model_version create_model_version create_registered_model
        delete_model_version delete_model_version_tag delete_registered_model
        delete_registered_model_alias delete_registered_model_tag get_latest_versions get_model_version
        get_model_version_by_alias get_model_version_download_uri get_registered_model
        rename_registered_model search_model_versions search_registered_models set_model_version_tag
        set_registered_model_alias set_registered_model_tag transition_model_version_stage
        update_model_version update_registered_model
    """,
    READ: """
        get_prompt get_prompt_version get_prompt_version_by_alias get_webhook list_webhooks
        list_webhooks_by_event search_prompt_versions search_prompts supports_workspaces
    """,
    PRIMARY: """
        create_prompt create_prompt_version create_webhook delete_prompt delete_prompt_alias
        delete_prompt_tag delete_prompt_version delete_prompt_version_tag delete_webhook
        link_prompt_version_to_model link_prompt_version_to_run link_prompts_to_trace set_prompt_alias
        set_prompt_tag set_prompt_version_tag test_webhook update_webhook
    """,
    BASE: """
        _await_model_version_creation_impl _parse_experiment_id_filter
    """,
}

NEWER = {"filter_active_experiment_ids"}
"""Methods that releases later than the oldest one in use have: they are judged, and may be missing."""

SURFACES = [
    pytest.param(TrackingBase, DbmlTrackingStore, TRACKING, id="tracking"),
    pytest.param(RegistryBase, DbmlRegistryStore, REGISTRY, id="registry"),
]
# What changes runs, experiments, logged models or registered models must reach both workspaces.
MIRRORED_NOUNS = (
    "experiment",
    "run",
    "param",
    "metric",
    "tag",
    "batch",
    "inputs",
    "outputs",
    "logged_model",
    "registered_model",
    "model_version",
)
# Names with one of those words in them that write something else.
OTHER_THINGS = (
    "trace",
    "dataset",
    "gateway",
    "endpoint",
    "mcp_",
    "prompt",
    "label",
    "review",
    "scorer",
    "spans",
    "assessment",
    "issue",
    "budget",
)


def judged(lists: dict[str, str]) -> dict[str, str]:
    """Return {method: what was decided}."""
    found: dict[str, str] = {}
    for decision, names in lists.items():
        for name in names.split():
            assert name not in found, f"{name} stands in two lists"
            found[name] = decision
    return found


@pytest.mark.parametrize(("base", "ours", "lists"), SURFACES)
def test_every_method_of_mlflow_has_been_judged(base: type, ours: type, lists: dict[str, str]) -> None:
    there = {name for name in dir(base) if not name.startswith("__")}
    new, gone = there - set(judged(lists)), set(judged(lists)) - there - NEWER
    assert not new, (
        f"MLflow {mlflow.__version__} has methods that nobody has judged: {sorted(new)}. They are forwarded "
        f"to the primary now. For each: does it write to runs, experiments, logged or registered models? "
        f"Then mirror it in {ours.__module__}. Then write it into the right list of {Path(__file__).name}."
    )
    assert not gone, f"MLflow {mlflow.__version__} no longer has {sorted(gone)}: take them off the lists"


@pytest.mark.parametrize(("base", "ours", "lists"), SURFACES)
def test_every_method_does_what_was_decided(base: type, ours: type, lists: dict[str, str]) -> None:
    for name, decision in judged(lists).items():
        if name in NEWER and not hasattr(base, name):
            continue
        own = inspect.getattr_static(ours, name) if is_own(ours, base, name) else None
        forwarded = isinstance(own, property) or hasattr(own, "__wrapped__")
        if decision == OURS:
            assert own is not None, f"{name} is not overridden"
            assert not forwarded, f"{name} is forwarded"
        elif decision == BASE:
            assert own is None, f"{name} is not MLflow's own"
        else:
            assert forwarded, f"{name} is not forwarded"
        if not isinstance(own, property) and own is not None:
            assert inspect.iscoroutinefunction(own) == inspect.iscoroutinefunction(getattr(base, name)), name


@pytest.mark.parametrize(("base", "ours", "lists"), SURFACES)
def test_no_write_to_what_is_mirrored_goes_to_one_workspace_alone(
    base: type, ours: type, lists: dict[str, str]
) -> None:
    verbs = (
        "create",
        "delete",
        "update",
        "set",
        "log",
        "rename",
        "restore",
        "record",
        "finalize",
        "transition",
    )
    for name, decision in judged(lists).items():
        writes = name.startswith(verbs) and not any(other in name for other in OTHER_THINGS)
        if writes and any(noun in name for noun in MIRRORED_NOUNS):
            assert decision in (OURS, BASE), f"{name}: {decision}"


def test_arguments_are_those_of_mlflow() -> None:
    """A caller that names its arguments must find them."""
    for base, ours in ((TrackingBase, DbmlTrackingStore), (RegistryBase, DbmlRegistryStore)):
        for name in filter(partial(is_own, ours, base), dir(base)):
            like, own = getattr(base, name), inspect.getattr_static(ours, name)
            if name.startswith("_") or isinstance(own, property) or not callable(own):
                continue
            wanted = [
                p.name for p in inspect.signature(like).parameters.values() if p.kind is not p.VAR_KEYWORD
            ]
            have = list(inspect.signature(own).parameters)
            assert [p for p in wanted if p not in have] == [], f"{ours.__name__}.{name}"


def test_what_is_forwarded_works_on_a_real_server(home: Path, proxies: Any, experiment_name: str) -> None:
    dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    experiment = mlflow.set_experiment(experiment_name)
    client = mlflow.MlflowClient()
    store = client._tracking_client.store

    with mlflow.start_run() as run, mlflow.start_span("step") as span:
        span.set_inputs({"x": 1})
    mlflow.flush_trace_async_logging()
    (trace,) = mlflow.search_traces(locations=[experiment.experiment_id], return_type="list")
    assert store.get_trace_info(trace.info.trace_id).trace_id == trace.info.trace_id
    client.set_trace_tag(trace.info.trace_id, "stage", "test")
    assert mlflow.get_trace(trace.info.trace_id).info.tags["stage"] == "test"
    client.link_traces_to_run([trace.info.trace_id], run.info.run_id)
    client.delete_traces(experiment.experiment_id, trace_ids=[trace.info.trace_id])
    assert mlflow.search_traces(locations=[experiment.experiment_id], return_type="list") == []

    dataset = mlflow.genai.datasets.create_dataset(
        name=f"questions-{experiment_name}", experiment_id=experiment.experiment_id
    )
    assert store.get_dataset(dataset.dataset_id).name == f"questions-{experiment_name}"

    prompt = mlflow.genai.register_prompt(f"ask-{experiment_name}", "Say {{word}}")
    assert (
        mlflow.genai.load_prompt(f"prompts:/ask-{experiment_name}/{prompt.version}").template
        == "Say {{word}}"
    )

    # What MLflow's base class lacks and clients call all the same.
    assert store.list_scorers(experiment.experiment_id) == []
    with pytest.raises(AttributeError):
        store.no_such_method


@pytest.mark.full
def test_forwarded_calls_know_a_run_by_the_id_that_the_user_saw(
    home: Path, proxies: Any, experiment_name: str
) -> None:
    dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    experiment = mlflow.set_experiment(experiment_name)
    dbml.sync(60)
    with proxies.databricks.away(), mlflow.start_run() as run:
        mlflow.log_metric("loss", 1.0)
    dbml.sync(60)
    twin = plain.twin_id(proxies.databricks.uri, run.info.run_id, experiment_name)
    assert twin != run.info.run_id
    with mlflow.start_span("step"):
        pass
    mlflow.flush_trace_async_logging()
    (trace,) = mlflow.search_traces(locations=[experiment.experiment_id], return_type="list")
    mlflow.MlflowClient().link_traces_to_run([trace.info.trace_id], run.info.run_id)
    found = plain.client(proxies.databricks.uri).search_traces(
        locations=[experiment.experiment_id], filter_string=f"attributes.run_id = '{twin}'"
    )
    assert [t.info.trace_id for t in found] == [trace.info.trace_id]


def test_model_versions_of_a_logged_model_reach_both_workspaces(
    home: Path, proxies: Any, experiment_name: str
) -> None:
    """``set_model_versions_tags`` is the base class's, over our ``set_logged_model_tags``."""
    dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri, registry="both")
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run():
        model_id = log_model().model_id
    name = f"model-{experiment_name}"
    mlflow.MlflowClient().create_registered_model(name)
    version = mlflow.MlflowClient().create_model_version(name, f"models:/{model_id}", model_id=model_id)
    store = mlflow.MlflowClient()._tracking_client.store
    store.set_model_versions_tags(name, version.version, model_id)
    dbml.sync(60)
    for proxy in proxies:
        experiment = plain.client(proxy.uri).get_experiment_by_name(experiment_name)
        (found,) = plain.client(proxy.uri).search_logged_models([experiment.experiment_id])
        assert json.loads(found.tags["mlflow.modelVersions"]) == [{"name": name, "version": 1}]
