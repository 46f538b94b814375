"""``%dbml deploy``: serve a model at an endpoint."""

from __future__ import annotations

import re
from argparse import Namespace

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option, percent
from dbml_magics.common.hints import Remedy

_EXAMPLE = Remedy("deploy", "wine/1", to="local", name="wine")


def _name_of_model(args: Namespace) -> str | None:
    """Return the model's own name, where it is one that an endpoint can have."""
    name = re.split(r"[/@]", str(args.model).removeprefix("models:/"))[0].rpartition(".")[2]
    return name if re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{2,31}", name) and name != "last" else None


COMMAND = Command(
    name="deploy",
    help="serve a model at an endpoint, on this machine or at Azure ML",
    examples=(
        _EXAMPLE,
        Remedy("deploy", "wine/2", to="local", name="wine", deployment="green"),
        Remedy("deploy", "wine/2", to="local", name="wine", deployment="green", traffic="100"),
        Remedy("deploy", "wine/1", to="online", name="wine", instance_type="Standard_DS3_v2", no_wait=True),
        Remedy("deploy", "wine/1", to="aks", name="wine", compute="cluster", config="deploy.yaml"),
    ),
    call=api.deploy,
    details=(
        "MODEL is name/version, name@alias, a name (its newest version; a cloud target wants the version),\n"
        "a run (its model; by id or name), m-…, or a runs:/ or models:/ URI. The same name again updates\n"
        "the endpoint in place, and what the line does not name stays as it is; another --deployment\n"
        "stands beside the one that answers and gets 0 % of the requests until --traffic says otherwise,\n"
        "so that going over to it, and back, is one line each.\n"
        "A key is asked for unless the config file says otherwise (auth_mode: none on local,\n"
        "authEnabled: false on aci and aks). A local endpoint keeps running after the notebook: until\n"
        "%dbml undeploy NAME. A cloud endpoint costs until then; %dbml status shows what runs.\n"
        "A model that Azure ML's registry lacks is registered there on the way; quota and the like are\n"
        "looked at before anything is made. --config takes the keys of Azure ML's own files.\n"
        "A managed endpoint's container needs packages that a model seldom names: a model without them is\n"
        "refused, and --add-packages adds them to a copy, which is registered beside it."
    ),
    options=(
        Option("MODEL", "the model to serve", completes="deployable"),
        Option(
            "--to",
            "where: this machine, a container instance, a Kubernetes cluster, a managed endpoint",
            choices=("local", "aci", "aks", "online"),
            example=Remedy("deploy", "wine/1", name="wine", to="local"),
        ),
        Option(
            "--name",
            "the endpoint's name: 3 to 32 letters, digits, hyphens",
            metavar="N",
            completes="endpoint",
            likely=_name_of_model,
            example=_EXAMPLE,
        ),
        Option(
            "--model-name",
            "what to call the model at Azure ML, when it is registered there on the way",
            metavar="M",
        ),
        Option("--deployment", "a deployment under the endpoint (its name by default)", metavar="D"),
        Option("--config", "a YAML or JSON file with more options of the target", metavar="FILE"),
        Option("--compute", "the attached cluster, for aks", metavar="C"),
        Option("--instance-type", "the machine, for online", metavar="T"),
        Option(
            "--instance-count",
            "how many instances (processes on local)",
            metavar="K",
            example=_EXAMPLE.but(instance_count=2),
        ),
        Option("--app-insights", "send requests and failures to Application Insights"),
        Option("--collect-data", "keep inputs and predictions, which drift detection needs"),
        Option(
            "--add-packages",
            "add the packages that a managed endpoint's container needs, to a copy of the model",
        ),
        Option(
            "--traffic",
            "the percent of the requests that this deployment gets",
            metavar="P",
            convert=percent,
            example=_EXAMPLE.but(traffic=100),
        ),
        Option("--require-delivered", "only when all of the model's run has arrived at every workspace"),
        Option("--no-wait", "return at once; %dbml endpoints NAME shows how far it is", parameter="wait"),
    ),
)
