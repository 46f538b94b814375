"""Deploying, showing, asking and ending endpoints, the same on every target."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dbml_magics.common.hints import Argument, Remedy, Template, corrected, instead, is_typed
from dbml_magics.common.hints import say as said_to_reader
from dbml_magics.core.destinations.naming import azureml_model_name
from dbml_magics.core.endpoints import local, remembered, scoring_container
from dbml_magics.core.endpoints.base import TARGETS, Order, Target, check_name
from dbml_magics.core.endpoints.settings import read_config
from dbml_magics.core.endpoints.shapes import Settings
from dbml_magics.core.model.mlmodel import Params
from dbml_magics.errors import (
    BadCommand,
    DbmlError,
    DeploymentFailed,
    EndpointNotFound,
    NotConfirmed,
    NotLinked,
)
from dbml_magics.results.endpoints import (
    Check,
    Deployment,
    DeployResult,
    Endpoint,
    EndpointsResult,
    InvokeResult,
    LogsResult,
    UndeployResult,
)
from dbml_magics.results.text import duration

if TYPE_CHECKING:
    from dbml_magics.core.runtime.engine import Engine

__all__ = ["Progress", "deploy", "invoke", "listed", "logs", "named", "notes", "undeploy"]

Progress = Callable[[str], None]
"""Told a line with the state and the elapsed time, each second and with each state."""

_HELP = (Remedy("help", "deploy"), "what it takes")
_OPTIONS = {"instance_type": "--instance-type", "instance_count": "--instance-count", "compute": "--compute"}


def deploy(
    engine: Engine,
    model: str,
    *,
    to: str,
    name: str,
    last: str | None = None,
    model_name: str | None = None,
    deployment: str | None = None,
    config: str | os.PathLike[str] | None = None,
    compute: str | None = None,
    instance_type: str | None = None,
    instance_count: int | None = None,
    app_insights: bool = False,
    collect_data: bool = False,
    add_packages: bool = False,
    traffic: int | None = None,
    wait: bool = True,
    require_delivered: bool = False,
    progress: Progress | None = None,
) -> DeployResult:
    """Deploy a model to an endpoint; see :func:`dbml_magics.api.deploy`."""
    from dbml_magics.core.endpoints import checks, models

    began = time.monotonic()
    target = _target(engine, to, f"--to {to}")
    check_name(name, target=to)
    if deployment is not None:
        check_name(deployment, "deployment", target=to)
    options = {
        "compute": compute,
        "instance_type": instance_type,
        "instance_count": instance_count,
        "app_insights": app_insights or None,
        "collect_data": collect_data or None,
        "add_packages": add_packages or None,
    }
    bare = _line(to, name, model_name=model_name, add_packages=add_packages)
    line = _line(
        to,
        name,
        model_name=model_name,
        deployment=deployment,
        config=None if config is None else os.fspath(config),
        compute=compute,
        instance_type=instance_type,
        instance_count=instance_count,
        app_insights=app_insights,
        collect_data=collect_data,
        add_packages=add_packages,
        traffic=traffic,
        require_delivered=require_delivered,
        no_wait=not wait,
    )
    _refuse_numbers(traffic, instance_count, line(model))
    settings = _settings(target, config, options, line(model))
    say = _telling(progress, name, to)
    say("looking for the model")
    found = models.find(engine, model, last, explicit=to != "local", line=line)
    if require_delivered and found.run_id is not None:
        from dbml_magics.core import receipts

        say("waiting until its run is delivered")
        receipts.require(engine, found.run_id, line(model))
    with tempfile.TemporaryDirectory(dir=_scratch(), prefix=".fetch-") as folder:
        say("fetching its files")
        files = models.fetch(engine, found, Path(folder))
        mlmodel = models.read_mlmodel(files)
        order = Order(
            name=name,
            model=found,
            files=files,
            mlmodel=mlmodel,
            deployment=deployment,
            settings=settings,
            traffic=traffic,
            wait=wait,
            model_name=model_name,
            add_packages=add_packages,
            line=line(model),
        )
        say("checking")
        looked = [Check("name", name), *checks.of_files(files, mlmodel, cloud=to != "local")]
        if looked[-1].fine is not False:
            looked += target.checks(order)
        checks.refuse(looked, found.label, order.line)
        try:
            under, changed = target.deploy(order, say)
        except KeyboardInterrupt:
            if target.endpoint(name) is None:
                raise DeploymentFailed("interrupted: nothing of it is left.", remedies=[order.line]) from None
            raise DeploymentFailed(
                f"interrupted: what was begun for {found.label} goes on by itself.",
                remedies=[
                    (Remedy("endpoints", name), "shows how far it is"),
                    (Remedy("undeploy", name), "ends it"),
                ],
            ) from None
    endpoint = target.endpoint(name)
    if endpoint is None:
        raise DeploymentFailed(
            f"{name} is not there any more: somebody deleted it meanwhile.", remedies=[order.line]
        )
    notes = [*([found.said] if found.said else []), *order.notes]
    share = endpoint.traffic.get(under, 0)
    if wait and not share and traffic is None and changed != "nothing":
        notes.append(
            f"{under} gets 0 % of the requests until its traffic is set: "
            + said_to_reader(bare(model).but(deployment=under, traffic=100))
        )
    return DeployResult(
        endpoint=endpoint,
        deployment=under,
        model=found.label,
        seconds=time.monotonic() - began,
        checks=tuple(looked),
        notes=tuple(notes),
        waited=wait,
        changed=changed,
    )


def listed(
    engine: Engine | None, name: str | None, *, target: str | None = None
) -> EndpointsResult | Endpoint:
    """Return every endpoint, or the named one. Raises EndpointNotFound."""
    if name is not None:
        return named(engine, name, target=target)
    found: list[Endpoint] = []
    missed: list[str] = []
    for each in _targets(engine, target):
        try:
            found += each.endpoints()
        except DbmlError as error:
            missed.append(f"{each.name} could not be asked: {error.message}")
    return EndpointsResult(tuple(found), tuple(missed))


def named(engine: Engine | None, name: str, *, target: str | None = None) -> Endpoint:
    """Return one endpoint. Raises EndpointNotFound."""
    return _the(engine, name, target)[1]


def logs(
    engine: Engine | None,
    name: str,
    *,
    deployment: str | None = None,
    lines: int = 50,
    target: str | None = None,
) -> LogsResult:
    """Return the last lines that a deployment has written. Raises EndpointNotFound."""
    from dbml_magics.core.endpoints.checks import likely_cause

    place, endpoint = _the(engine, name, target)
    under = _under(endpoint, deployment)
    found, file = place.logs(name, under, lines)
    each = endpoint.deployment(under)
    cause = likely_cause(found) if each is not None and each.state == "failed" else None
    return LogsResult(name, under, tuple(found), place.name, file, cause)


def invoke(
    engine: Engine | None,
    name: str,
    data: object,
    *,
    deployment: str | None = None,
    target: str | None = None,
    params: Params | str | None = None,
    progress: Progress | None = None,
) -> InvokeResult:
    """Return an endpoint's predictions; see :func:`dbml_magics.api.invoke`."""
    from dbml_magics.core.endpoints import scoring

    place, endpoint = _the(engine, name, target)
    under = None if deployment is None else _under(endpoint, deployment)
    if endpoint.state in ("stopped", "empty") or endpoint.uri is None:
        line = Remedy("deploy", "MODEL", to=place.name, name=name)
        raise EndpointNotFound(
            f"endpoint {name} on {place.name} is {endpoint.state}: nothing answers there.",
            remedies=[(Remedy("endpoints", name), "shows it"), (line, "serves a model there")],
        )
    return scoring.ask(
        endpoint, place.address(endpoint, under), data, under, params, _telling(progress, name, "")
    )


def undeploy(
    engine: Engine | None,
    name: str,
    *,
    target: str | None = None,
    deployment: str | None = None,
    confirm: str | None = None,
    progress: Progress | None = None,
) -> UndeployResult:
    """End an endpoint, or one deployment of it. Raises EndpointNotFound, NotConfirmed, BadCommand."""
    place, endpoint = _the(engine, name, target)
    if deployment is not None:
        deployment = _under(endpoint, deployment)
        _refuse_the_one_that_answers(endpoint, deployment)
        gone: tuple[str, ...] = (deployment,)
    else:
        gone = tuple(d.name for d in endpoint.deployments)
    if place.name != "local" and confirm != name:
        what = f"deployment {deployment} of endpoint" if deployment else "endpoint"
        line = corrected(
            Remedy("undeploy", name, from_=place.name, deployment=deployment or None, confirm=name),
            from_=place.name,
            confirm=name,
        )
        held = ", ".join(f"{d.name} ({d.model})" for d in endpoint.deployments if d.name in gone)
        raise NotConfirmed(
            f"{what} {name} on {place.name} would be deleted, with {held or 'nothing in it'}; "
            "nothing is deleted.",
            remedies=[(line, "deletes it")],
        )
    place.remove(endpoint, deployment, _telling(progress, name, place.name))
    return UndeployResult(name, place.name, gone, whole=deployment is None)


def notes(engine: Engine | None = None) -> list[str]:
    """Return a line for each endpoint deployed from this machine, for ``status``; makes no request."""
    found = [endpoint.summary() for endpoint in local.LocalTarget().endpoints()]
    linked = engine.workspaces["azureml"].uri.lower() if engine and "azureml" in engine.link.used else ""
    for endpoint, workspace, seen in remembered.all_of():
        elsewhere = "" if workspace.lower() in linked else f" at {workspace.rpartition('/')[2]}"
        found.append(f"{endpoint.summary()}; seen {duration(time.time() - seen)} ago{elsewhere}")
    return found


# --- which target, which endpoint


def _line(to: str, name: str, **options: Argument) -> Template:
    """Return what makes the command with all that was given, of a model."""
    return lambda model: Remedy("deploy", model, to=to, name=name, **options)


def _target(engine: Engine | None, name: str, written: str) -> Target:
    if name == "local":
        return local.LocalTarget()
    if name not in TARGETS:
        near = difflib.get_close_matches(name, TARGETS, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise BadCommand(f"{name!r} is no target: {', '.join(TARGETS)} are.{hint}", remedies=[_HELP])
    if engine is None:
        raise NotLinked(written)
    return _cloud_target(engine, name, written)


def _cloud_target(engine: Engine, name: str, written: str) -> Target:
    from dbml_magics.core.endpoints import online, webservices

    if name == "online":
        return online.OnlineTarget(engine, written)
    return webservices.WebserviceTarget(engine, name, written)


def _targets(engine: Engine | None, name: str | None) -> list[Target]:
    """Return the targets that can be asked, this machine first."""
    if name is not None:
        return [_target(engine, name, f"--from {name}")]
    found: list[Target] = [local.LocalTarget()]
    if (
        engine is not None
        and "azureml" in engine.link.used
        and engine.workspaces["azureml"].kind == "azureml"
    ):
        found += [_cloud_target(engine, each, Remedy("endpoints")) for each in TARGETS if each != "local"]
    return found


def _the(engine: Engine | None, name: str, target: str | None) -> tuple[Target, Endpoint]:
    """Return the endpoint of that name. Raises EndpointNotFound, BadCommand."""
    found: list[tuple[Target, Endpoint]] = []
    for each in _targets(engine, target):
        endpoint = each.endpoint(name)
        if endpoint is None:
            continue
        found.append((each, endpoint))
        if each.name == "local" and not remembered.is_known(name):
            break  # one's own machine answers at once; nobody is asked about what was not deployed from here
    if len(found) == 1:
        return found[0]
    if found:
        where = [t.name for t, _ in found]
        raise BadCommand(
            f"there is an endpoint {name} on {' and on '.join(where)}: which one?",
            remedies=[corrected(Remedy("endpoints", name, from_=each), from_=each) for each in where],
        )
    known = [e.name for t in _targets(engine, target) for e in t.endpoints()]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    remedies: list[tuple[str, str]] = [(Remedy("endpoints"), "lists what there is")]
    if near:
        remedies = [(instead(name, near[0], Remedy("endpoints", near[0])), "")]
    elif not (is_typed("undeploy") or is_typed("cleanup")):
        remedies.append((Remedy("deploy", "MODEL", to="local", name=name), "makes one"))
    raise EndpointNotFound(
        f"no endpoint {name!r}" + (f" on {target}." if target else ".") + hint, remedies=remedies
    )


def _under(endpoint: Endpoint, deployment: str | None) -> str:
    """Return the deployment that is meant: the named one, else the one with the most traffic."""
    if deployment is None:
        if not endpoint.deployments:
            raise EndpointNotFound(
                f"endpoint {endpoint.name} has no deployment.",
                remedies=[(Remedy("endpoints", endpoint.name), "shows it")],
            )
        return max(endpoint.deployments, key=lambda d: d.traffic).name
    if endpoint.deployment(deployment) is None:
        names = [d.name for d in endpoint.deployments]
        near = difflib.get_close_matches(deployment, names, n=1, cutoff=0.5)
        raise EndpointNotFound(
            f"endpoint {endpoint.name} has no deployment {deployment!r}; "
            f"it has {', '.join(names) or 'none'}.",
            remedies=[
                *(instead(deployment, each, Remedy("endpoints", endpoint.name)) for each in near),
                (Remedy("endpoints", endpoint.name), "shows them"),
            ],
        )
    return deployment


def _refuse_the_one_that_answers(endpoint: Endpoint, deployment: str) -> None:
    share = endpoint.traffic.get(deployment, 0)
    others = [d for d in endpoint.deployments if d.name != deployment]
    if share and others:
        line = _again(endpoint, others[0])
        raise BadCommand(
            f"deployment {deployment} gets {share} % of the requests: give them to another one first.",
            remedies=[(line.but(deployment=others[0].name, traffic=100), "then undeploy it")],
        )


def _again(endpoint: Endpoint, each: Deployment) -> Remedy:
    """Return the command that names a deployment's model as it was named."""
    label = each.model.partition(" (")[0]
    run = label.split()[1] if label.startswith("run ") else None
    there = None if each.registered is None else each.registered[0]
    copied = there is not None and scoring_container.is_copy(there, label)
    same = run is None and there == azureml_model_name(label.rpartition("/")[0] or label)
    model_name = None if same or copied else there
    return _line(endpoint.target, endpoint.name, model_name=model_name, add_packages=copied)(run or label)


# --- what a line asks for


def _refuse_numbers(traffic: int | None, instance_count: int | None, line: Remedy) -> None:
    """Refuse values that Python can pass and a magic's line cannot."""
    if traffic is not None and not 0 <= traffic <= 100:
        raise BadCommand("--traffic wants a percentage from 0 to 100.", remedies=[line.but(traffic=100)])
    if instance_count is not None and instance_count < 1:
        raise BadCommand(
            "--instance-count wants a whole number from 1 on.", remedies=[line.but(instance_count=1)]
        )


def _settings(
    target: Target, config: str | os.PathLike[str] | None, options: Settings, line: Remedy
) -> dict[str, object]:
    """Return the config file's settings with the line's options in front of them."""
    found = {} if config is None else dict(read_config(os.fspath(config), target.legal, target.name))
    compute, collect = options["compute"], options["collect_data"]
    if compute is not None and target.name != "aks":
        raise BadCommand(
            f"--compute names an AKS cluster, and {target.name} takes none.",
            remedies=[
                (line.but(to="aks"), "deploys to it"),
                (line.without("compute"), f"stays on {target.name}"),
            ],
        )
    managed = target.name in ("local", "online")
    for key in ("instance_type", "instance_count"):
        if options[key] is None:
            continue
        if managed:
            found[key] = options[key]
        elif key == "instance_count" and target.name == "aks":
            found["numReplicas"] = options[key]
        else:
            raise BadCommand(
                f"{_OPTIONS[key]} is not for {target.name}: its size stands in a config file.",
                remedies=[
                    ("containerResourceRequirements: {cpu: 1, memoryInGB: 2}", "in the file of --config")
                ],
            )
    if compute is not None:
        found["computeTargetName"] = compute
    if options["app_insights"]:
        found["app_insights_enabled" if managed else "appInsightsEnabled"] = True
    if collect and target.name == "aci":
        raise BadCommand(
            "--collect-data is not for aci: container instances keep no data.",
            remedies=[(line.but(to="online"), "keeps inputs and predictions")],
        )
    if options["add_packages"] and not managed:
        raise BadCommand(
            f"--add-packages is for online: a container of {target.name} has its own scoring script.",
            remedies=[(line.but(to="online"), "deploys to a managed endpoint")],
        )
    if collect and managed:
        found.setdefault(
            "data_collector",
            {"collections": {"model_inputs": {"enabled": True}, "model_outputs": {"enabled": True}}},
        )
    elif collect:
        found["dataCollection"] = {"storageEnabled": True}
    return found


def _telling(progress: Progress | None, name: str, to: str) -> Callable[[str], None]:
    began, told = time.monotonic(), ""

    def say(state: str) -> None:
        nonlocal told
        where = f"{name} on {to}" if to else name
        line = f"{where}  {state}  {time.monotonic() - began:.0f} s"
        if progress is not None and line != told:  # printed, the same line again would fill a page
            told = line
            progress(line)

    return say


def _scratch() -> str:
    """Return the folder that files are fetched into: on the disk where they will stay."""
    local.home().mkdir(mode=0o700, parents=True, exist_ok=True)
    for stale in local.home().glob(".fetch-*"):  # of a process that was killed
        if time.time() - stale.stat().st_mtime > 86_400:
            shutil.rmtree(stale, ignore_errors=True)
    return str(local.home())
