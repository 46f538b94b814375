"""Containers behind deployments: each a process that has loaded the model's own files and answers from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from tests.infra.servers import clean_environment
from tests.standins.azure.artifacts import Artifacts
from tests.standins.azure.state import State, Workspace
from tests.standins.azure.tracking import Tracking

__all__ = ["Container", "Containers"]

ROOT = Path(__file__).resolve().parents[3]
NO_EGRESS = (
    "Installing pip packages: Ran pip subprocess with arguments: pip install -r condaenv.requirements.txt",
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError: Failed to establish "
    "a new connection: [Errno -3] Temporary failure in name resolution'",
    "ERROR: Could not find a version that satisfies the requirement {0} (from versions: none)",
    "ERROR: No matching distribution found for {0}",
)


# What the service's own server and scoring script import (azureml-examples#3904, #3928, #4008; lab issue
# mslearn-aml-cli#5), and the package of each. The scoring script does so since 19 May 2026.
IMPORTED = {
    "azureml-inference-server-http": "azureml_inference_server_http",
    "azureml-contrib-services": "azureml.contrib.services",
    "azureml-ai-monitoring": "azureml.ai.monitoring",
}
NO_SERVER = ("/opt/miniconda/bin/python: No module named {0}",)
NO_CONTRIB = (
    "Traceback (most recent call last):",
    '  File "/azureml-envs/site-packages/azureml_inference_server_http/api/__init__.py", in <module>',
    "    _patch_azureml_contrib_services()",
    "ModuleNotFoundError: No module named '{0}'",
)
NO_MONITORING = (
    "Traceback (most recent call last):",
    '  File "/var/mlflow_resources/mlflow_score_script.py", in <module>',
    "    from azureml.ai.monitoring import Collector",
    "ModuleNotFoundError: No module named '{0}'",
    "[ERROR] Worker failed to boot.",
)


class Container:
    """One container, and what its folder says of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _state(self) -> dict[str, object]:
        with contextlib.suppress(OSError):
            return dict(json.loads((self.folder / "state.json").read_text()))
        return {}

    @property
    def settled(self) -> bool:
        """Tell whether it serves, or has crashed."""
        return bool(self._state())

    @property
    def failure(self) -> str | None:
        """Return why it crashed, or None."""
        seen = self._state().get("failed")
        return None if seen is None else str(seen)

    @property
    def pid(self) -> int | None:
        seen = self._state().get("pid")
        return int(str(seen)) if seen is not None else None

    def log(self, lines: int) -> str:
        """Return the end of what it has printed."""
        try:
            return "\n".join((self.folder / "log").read_text().splitlines()[-lines:])
        except OSError:
            return ""

    async def ask(self, body: bytes) -> tuple[int, bytes]:
        """Hand a request to the model; returns the status and the answer."""

        def post() -> tuple[int, bytes]:
            question = urllib.request.Request(f"http://127.0.0.1:{self._state()['port']}/score", data=body)
            try:
                with urllib.request.urlopen(question, timeout=60) as answer:
                    return int(answer.status), answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        return await asyncio.to_thread(post)


class Containers:
    """All containers of the stand-in; the process that forks them starts with the first."""

    def __init__(self, state: State, tracking: Tracking, artifacts: Artifacts) -> None:
        self.state, self.tracking, self.artifacts = state, tracking, artifacts
        self.folder = Path(tempfile.mkdtemp(prefix="dbml-containers-"))
        self._host: subprocess.Popen[bytes] | None = None
        self.running: list[Container] = []

    async def start(
        self,
        workspace: Workspace,
        model: str,
        version: str,
        environment: Mapping[str, str],
        *,
        managed: bool = False,
    ) -> Container | None:
        """Begin a container that serves a registered version; None where the registry has none.

        ``managed``: by the server and the scoring script of managed endpoints.
        """
        source = await self._source(workspace, model, version)
        if source is None:
            return None
        container = Container(self.folder / uuid.uuid4().hex)
        files = container.folder / "model"
        files.mkdir(parents=True)
        self.artifacts.read(workspace, source, files)
        self._order(
            folder=str(container.folder),
            environment=dict(environment),
            crash=self._crash(files, managed),
        )
        self.running.append(container)
        return container

    async def _source(self, workspace: Workspace, model: str, version: str) -> str | None:
        url = f"{workspace.upstream}/api/2.0/mlflow/model-versions/get"
        answer = await self.tracking.http.get(url, params={"name": model, "version": version})
        return str(answer.json()["model_version"]["source"]) if answer.status_code == 200 else None

    def _crash(self, files: Path, managed: bool) -> Sequence[str]:
        """Return what a container prints that cannot start, or nothing."""
        switches = self.state.switches
        wanted = files / "requirements.txt"
        packages = wanted.read_text().split() if wanted.exists() else []
        if not switches.egress and packages:
            return [line.format(packages[0]) for line in NO_EGRESS]
        return list(switches.container_crash) or (unimportable(files) if managed else [])

    def _order(self, **order: object) -> None:
        if self._host is None:
            self._host = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.standins.azure._container_host"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=clean_environment(Path(tempfile.gettempdir())),
                cwd=ROOT,
            )
        assert self._host.stdin is not None
        self._host.stdin.write(json.dumps(order).encode() + b"\n")
        self._host.stdin.flush()

    def end(self, container: Container | None) -> None:
        """End a container."""
        if container is not None and container in self.running:
            self.running.remove(container)
            if container.pid is not None:
                self._order(end=container.pid)

    def reset(self) -> None:
        """End them all."""
        for container in list(self.running):
            self.end(container)

    def close(self) -> None:
        """End them all and the process that forks them, and remove their files."""
        if self._host is not None and self._host.stdin is not None:
            self._host.stdin.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def unimportable(files: Path) -> Sequence[str]:
    """Return what a managed endpoint's container prints whose conda.yaml lacks a package, or nothing."""
    conda = files / "conda.yaml"
    content = yaml.safe_load(conda.read_text()) if conda.exists() else {}
    listed = content.get("dependencies") or []
    pip = [line for each in listed if isinstance(each, dict) for line in each.get("pip") or []]
    names = [re.split(r"[^A-Za-z0-9._-]", str(line))[0] for line in [*pip, *listed]]
    there = {name.lower().replace("_", "-") for name in names}
    lacks = {package: module for package, module in IMPORTED.items() if package not in there}
    if "azureml-inference-server-http" in lacks:
        return [line.format(lacks["azureml-inference-server-http"]) for line in NO_SERVER]
    namespace = len(lacks) == 2  # neither makes the package azureml
    for package, text in (("azureml-contrib-services", NO_CONTRIB), ("azureml-ai-monitoring", NO_MONITORING)):
        if package in lacks:
            module = "azureml" if namespace else lacks[package].rpartition(".")[0]
            return [line.format(module) for line in text]
    return []
