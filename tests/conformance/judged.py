"""What somebody has judged: methods that the table leaves out, and deviations that are meant."""

from __future__ import annotations

from dataclasses import dataclass

TRACES = "traces and assessments go to the primary alone: tests/core/test_surface.py plays them"
GENAI = "prompts and GenAI datasets go to the primary alone: tests/core/test_surface.py plays them"
OTHERS = "gateways, MCP servers, webhooks and workspaces belong to one server: forwarded to the primary alone"
PROCESS = "sets or tells something of this process; it asks no server"
NONE = "reads or writes nothing of a server's itself"
MODULE = "a module or class, not a call"

LEFT_OUT: dict[str, dict[str, str]] = {
    "client": {
        TRACES: """
            delete_trace_tag delete_traces end_span end_trace get_trace link_traces_to_run search_traces
            set_trace_tag start_span start_trace unlink_traces_from_run link_prompt_versions_to_trace
        """,
        GENAI: """
            add_dataset_to_experiments create_dataset create_prompt create_prompt_version delete_dataset
            delete_dataset_tag delete_prompt delete_prompt_alias delete_prompt_tag delete_prompt_version
            delete_prompt_version_tag detach_prompt_from_run get_dataset get_prompt get_prompt_version
            get_prompt_version_by_alias link_prompt_version_to_model link_prompt_version_to_run
            list_logged_prompts load_prompt parse_prompt_uri register_prompt remove_dataset_from_experiments
            search_datasets search_prompt_versions search_prompts set_dataset_tags set_prompt_alias
            set_prompt_tag set_prompt_version_tag
        """,
        OTHERS: """
            create_mcp_access_endpoint create_mcp_server create_mcp_server_version create_webhook
            create_workspace delete_mcp_access_endpoint delete_mcp_server delete_mcp_server_alias
            delete_mcp_server_tag delete_mcp_server_version delete_mcp_server_version_tag delete_webhook
            delete_workspace get_latest_mcp_server_version get_mcp_access_endpoint get_mcp_server
            get_mcp_server_version get_mcp_server_version_by_alias get_webhook get_workspace
            get_workspace_store_uri list_webhooks list_workspaces refresh_mcp_server_version_tools
            search_mcp_access_endpoints search_mcp_server_versions search_mcp_servers set_mcp_server_alias
            set_mcp_server_tag set_mcp_server_version_tag test_webhook update_mcp_access_endpoint
            update_mcp_server update_mcp_server_version update_webhook update_workspace
        """,
        PROCESS: "tracking_uri",
    },
    "mlflow": {
        TRACES: """
            add_trace context delete_assessment delete_trace_tag flush_trace_async_logging
            get_active_trace_id get_assessment get_current_active_span get_last_active_trace_id get_trace
            log_assessment log_expectation log_feedback log_issue log_trace override_feedback
            search_sessions search_traces set_trace_tag start_span start_span_no_context trace
            update_assessment update_current_trace
        """,
        GENAI: "delete_prompt_alias load_prompt register_prompt search_prompts set_prompt_alias",
        OTHERS: """
            create_workspace delete_workspace gateway get_workspace list_workspaces set_workspace
            update_workspace
        """,
        PROCESS: """
            disable_system_metrics_logging enable_system_metrics_logging get_registry_uri get_tracking_uri
            is_tracking_uri_set login set_registry_uri set_system_metrics_node_id
            set_system_metrics_samples_before_logging set_system_metrics_sampling_interval set_tracking_uri
        """,
        NONE: "doctor run test validate_evaluation_results",
        MODULE: "ActiveModel ActiveRun Image MlflowClient MlflowException pyfunc",
    },
    "mlflow.artifacts": {},
}
"""What is called through -> why -> the names that no story calls."""

_EVALUATE = "what evaluates is MLflow's own part; what it logs goes by log_metric, log_table, log_artifact"
_AUTOLOG = "says what a library logs, not how it arrives: tests/conformance/libraries.py"
_BY_HAND = "names a server by hand, past the link"
_ABSENT = "no part of an open MLflow server"

LEFT_OUT_ARGUMENTS: dict[str, str] = {
    "mlflow.evaluate._called_from_genai_evaluate": _EVALUATE,
    "mlflow.evaluate.custom_artifacts": _EVALUATE,
    "mlflow.evaluate.dataset_path": _EVALUATE,
    "mlflow.evaluate.env_manager": _EVALUATE,
    "mlflow.evaluate.evaluator_config": _EVALUATE,
    "mlflow.evaluate.evaluators": _EVALUATE,
    "mlflow.evaluate.extra_metrics": _EVALUATE,
    "mlflow.evaluate.feature_names": _EVALUATE,
    "mlflow.evaluate.inference_params": _EVALUATE,
    "mlflow.evaluate.model": _EVALUATE,
    "mlflow.evaluate.model_config": _EVALUATE,
    "mlflow.evaluate.model_id": _EVALUATE,
    "mlflow.evaluate.predictions": _EVALUATE,
    "mlflow.evaluate.targets": _EVALUATE,
    "mlflow.autolog.disable_for_unsupported_versions": _AUTOLOG,
    "mlflow.autolog.exclude_flavors": _AUTOLOG,
    "mlflow.autolog.exclusive": _AUTOLOG,
    "mlflow.autolog.extra_tags": _AUTOLOG,
    "mlflow.autolog.log_datasets": _AUTOLOG,
    "mlflow.autolog.log_input_examples": _AUTOLOG,
    "mlflow.autolog.log_model_signatures": _AUTOLOG,
    "mlflow.autolog.log_traces": _AUTOLOG,
    "mlflow.artifacts.download_artifacts.registry_uri": _BY_HAND,
    "mlflow.artifacts.download_artifacts.tracking_uri": _BY_HAND,
    "mlflow.artifacts.list_artifacts.tracking_uri": _BY_HAND,
    "mlflow.create_experiment.trace_location": _ABSENT,
    "mlflow.set_experiment.trace_location": _ABSENT,
    "mlflow.register_model.env_pack": _ABSENT,
}
"""A call's argument (``client.create_run.tags``) -> why no story gives it."""


@dataclass(frozen=True)
class Known:
    """A deviation that is meant: where it is seen, what both say, and why.

    ``story`` is a pattern of the shell's, the others are regular expressions searched for in the place and in
    what both answered (as Python writes it).
    """

    story: str
    where: str
    plain: str
    link: str
    reason: str


_LOCAL = r"'error': '(TypeError|ValueError|AttributeError|HTTPError)'"
_REFUSED = r"'code': '(INVALID_PARAMETER_VALUE|RESOURCE_DOES_NOT_EXIST)'"

KNOWN: list[Known] = [
    Known(
        "*",
        "",
        _LOCAL,
        f"'error': 'MlflowException', {_REFUSED}",
        "what MLflow's HTTP client stumbles over is refused in MLflow's own words",
    ),
    Known(
        "*",
        "",
        "'code': '(INTERNAL_ERROR|ENDPOINT_NOT_FOUND|BAD_REQUEST)'",
        f"'error': 'MlflowException', {_REFUSED}",
        "both refuse; a server that fails (500), lacks an address or tells of its database names no cause",
    ),
    Known(
        "*",
        r"tags\.dbml_(run_id|twin)$",
        "absent",
        "",
        "a version names its twin and its run to whoever reads it",
    ),
    Known(
        "*",
        r"(^|[ .])source$",
        "(runs|models):/|files of",
        "(models:/|files of)",
        "a registry keeps the address of its own files: one of the link's would tell others nothing",
    ),
    Known(
        "*",
        r"run_id$",
        "^''$",
        "run of",
        "a version of a run's files names the run, also where the caller left it out",
    ),
    Known(
        "registry*/searches",
        "search_model_versions.*run_id = ",
        "ModelVersion",
        "ModelVersion",
        "so a search by the run finds it, too",
    ),
    Known(
        "runs/*",
        r"dbml/overflow\.json$",
        "absent",
        "stands in this file",
        "what is longer than MLflow takes is kept whole in a file of the run",
    ),
    Known(
        "runs/*",
        r"get_run.*data\.(params|tags)\.",
        "x{4000}",
        "x{4000}",
        "and the link shows it whole",
    ),
    Known(
        "*",
        "get_model_version_download_uri",
        "",
        "dbml://[0-9a-f]+/versions/",
        "the address of a version's files goes through the link; what is downloaded is compared",
    ),
    Known(
        "*",
        r"mlflow\.modelVersions$",
        '"version": "',
        "",
        "MLflow notes a version twice at its model, as a number and as text: once suffices",
    ),
    Known(
        "*",
        "",
        _LOCAL,
        _LOCAL,
        "both stumble over a value of a kind that there is no place for",
    ),
    Known(
        "*",
        "",
        "'code': 'INTERNAL_ERROR'",
        "'code': 'TEMPORARILY_UNAVAILABLE'",
        "a read that every workspace answers with an error of its own is answered as an outage",
    ),
    Known(
        "artifacts/names of files that a server changes",
        "^(?!put aside)",
        "",
        "",
        "a name that a server cuts, or writes over another file's, is refused or kept whole",
    ),
    Known(
        "artifacts/names of files that are paths",
        r"c:\\",
        "",
        "INVALID_PARAMETER_VALUE|absent",
        "a name that MLflow's clients read as a Windows path is refused: they list nothing of its folder",
    ),
    Known(
        "artifacts/names of files that are paths",
        r"list_artifacts\('\w+'\)$",
        "INVALID_PARAMETER_VALUE",
        "FileInfo",
        "so the folder stays listed",
    ),
    Known(
        "runs/the latest point",
        r"log_metric\('\w+', 'nan', nan, 10, 5\)$",
        "BAD_REQUEST",
        "^None$",
        "NaN that is logged twice is one point, as any other: MLflow's SQL store stumbles over the second",
    ),
    Known(
        "runs/no such run",
        r"\.\./x",
        "RESOURCE_DOES_NOT_EXIST",
        "INVALID_PARAMETER_VALUE",
        "an id that is a path is refused before any server is asked",
    ),
    Known(
        "runs/searches",
        r"metrics\.m (<|!=)",
        "Run",
        "Run",
        "NaN fulfils no comparison: MLflow's SQL store compares a zero that it keeps in its place",
    ),
    Known(
        "registry/sources",
        r"runs:/\.\./x",
        "INVALID_PARAMETER_VALUE",
        "RESOURCE_DOES_NOT_EXIST",
        "both refuse what names no run",
    ),
    Known(
        "registry/a run that is not there",
        "",
        "ModelVersion|RegisteredModel|absent",
        "",
        "files that are nowhere cannot be kept for a second registry: said at the call",
    ),
    Known(
        "registry away/*",
        r"(^|[ .])(version|aliases\.best)$",
        r"^'\d+'$",
        "^'0'$",
        "a version gets its number when the first registry answers; until then it is number 0",
    ),
    Known(
        "registry away/a version of a logged model",
        r"get_logged_model.*mlflow\.modelVersions$",
        '"version": ',
        "absent",
        "and its logged model names it once it has one",
    ),
    Known(
        "experiments/an artifact location of its own",
        "artifact_location$",
        "elsewhere",
        "files of the experiment",
        "a place of the primary's is none of the mirror's, which keeps the files where it keeps all",
    ),
    Known(
        "runs/what only the link takes",
        "",
        "",
        "",
        "what MLflow's stores in files and databases take passes, though its HTTP client cannot send it",
    ),
    Known(
        "logged models/one metric of a model that is not",
        r"(data\.(metrics|params)|histories)\.",
        "",
        "^'absent'$",
        "a batch that is refused at the call leaves nothing behind: plain MLflow keeps all but "
        "the tags and the points of models",
    ),
]
