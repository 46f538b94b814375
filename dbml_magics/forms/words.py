"""The words of the panel: what each form does, what its button says, and what each field is called."""

from __future__ import annotations

import re
from typing import NamedTuple

from dbml_magics.commands.grammar import Command, Option

__all__ = ["ACTIONS", "BROWSE", "TITLES", "Action", "label", "worded"]

_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


class Action(NamedTuple):
    """One form's words."""

    title: str  # in the list of a tab's forms
    verb: str  # on the button


BROWSE = "browse"
"""The runs' table, which stands among the forms of its tab."""

TITLES = {"link": "Link", "runs": "Runs", "register": "Register", "deploy": "Deploy", "score": "Score"}
"""Tab -> what its button says."""

ACTIONS: dict[str, Action] = {
    "link": Action("Link two workspaces", "Link"),
    "status": Action("Show where tracking goes", "Show"),
    "experiment": Action("Set the experiment", "Set"),
    "sync": Action("Deliver, compare or repair", "Start"),
    "doctor": Action("Check this environment", "Check"),
    "unlink": Action("Unlink", "Unlink"),
    "cleanup": Action("Delete a run, model, endpoint, …", "Delete"),
    BROWSE: Action("Browse the runs", ""),
    "runs": Action("List runs below", "List"),
    "compare": Action("Compare runs", "Compare"),
    "register": Action("Register a run's model", "Register"),
    "models": Action("Show registered models", "Show"),
    "deploy": Action("Deploy a model", "Deploy"),
    "endpoints": Action("Show endpoints", "Show"),
    "invoke": Action("Ask an endpoint for predictions", "Ask"),
    "logs": Action("Show an endpoint's logs", "Show"),
    "undeploy": Action("End an endpoint", "End"),
    "score": Action("Score data with a model", "Score"),
}

_LABELS = {
    "--again": "As last time",
    "--alias": "Aliases",
    "--all": "All experiments",
    "--also": "Delete these too",
    "--app-insights": "Send to App Insights",
    "--as": "New column",
    "--auth": "Sign in by",
    "--available-now": "Only what is there now",
    "--azureml": "Azure ML side",
    "--checkpoint": "Checkpoint",
    "--cloud": "Azure cloud",
    "--collect-data": "Keep inputs and results",
    "--columns": "Columns in order",
    "--compute": "Cluster",
    "--config": "Configuration file",
    "--confirm": "Type it to confirm",
    "--create": "Make the workspace",
    "--databricks": "Databricks side",
    "--dead": "Refused writes",
    "--deep": "Whole histories, all files",
    "--deployment": "Deployment",
    "--dry-run": "Only show what would go",
    "--endpoint": "Probe an endpoint",
    "--experiment": "Experiment",
    "--filter": "Filter",
    "--from": "Where it runs",
    "--input": "Data",
    "--instance-count": "Instances",
    "--instance-type": "Machine",
    "--json": "As JSON",
    "--key-vault": "Key vault",
    "--lines": "Lines",
    "--local": "Folder",
    "--location": "Azure region",
    "--max": "At most",
    "--metric": "Metrics",
    "--mode": "If the output is there",
    "--model-name": "Name at Azure ML",
    "--name": "Endpoint",
    "--no-wait": "Do not wait for it",
    "--on-error": "Rows that fail",
    "--on-undelivered": "If writes are left at the end",
    "--only": "Only these facts",
    "--order-by": "Order",
    "--output": "Predictions go to",
    "--params": "Parameters",
    "--path": "Path in the run",
    "--probe": "Probe the services",
    "--prune": "Delete what is missing there",
    "--registry": "Models go to",
    "--repair": "Repair",
    "--requests": "Count the requests",
    "--require-delivered": "Only if all has arrived",
    "--resource-group": "Resource group",
    "--result-type": "Type of the column",
    "--run": "Run",
    "--schema": "Unity Catalog schema",
    "--since": "Runs since",
    "--spill": "Folder for what is left",
    "--storage-account": "Storage account",
    "--subscription": "Subscription",
    "--tag": "Tags",
    "--timeout": "Seconds to wait",
    "--to": "Where",
    "--track": "Runs go to",
    "--traffic": "Percent of requests",
    "--verify": "Compare",
    "--where": "Condition in SQL",
    "--workspace": "Workspace",
    "DATA": "Data",
    "KIND": "Kind",
    "MODEL": "Model",
    "NAME": "Name",
    "RUN": "Run",
}
_OF_COMMAND = {
    ("cleanup", "KIND"): "What to delete",
    ("compare", "RUN"): "Runs",
    ("endpoints", "NAME"): "Endpoint",
    ("experiment", "NAME"): "Experiment",
    ("invoke", "NAME"): "Endpoint",
    ("link", "--confirm"): "Type the name to confirm",
    ("link", "--mode"): "Wait for each write",
    ("logs", "NAME"): "Endpoint",
    ("models", "NAME"): "Model",
    ("register", "NAME"): "Model name",
    ("sync", "--from"): "Make it like",
    ("undeploy", "NAME"): "Endpoint",
}


def label(command: str, option: Option) -> str:
    """Return what a field is called."""
    own = option.name.lstrip("-").replace("-", " ").capitalize()
    return _OF_COMMAND.get((command, option.name)) or _LABELS.get(option.name, own)


def worded(command: Command, message: str) -> str:
    """Return a message with each option called as its field is."""

    def called(found: re.Match[str]) -> str:
        option = command.flag(found[0])
        return found[0] if option is None else f'"{label(command.name, option)}"'

    return _OPTION.sub(called, message)
