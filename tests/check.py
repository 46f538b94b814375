"""Check everything: lint, format, types, pages and tests. What fails does not keep the rest from its turn.

python tests/check.py                    in an environment with the extra ``test`` installed
python tests/check.py -k journal -x      arguments go to pytest
python tests/check.py --full             what takes hours, too: benchmarks, storms, long lives, sequences
python tests/check.py --newest           in an environment of its own, with the newest MLflow: azureml-mlflow
                                         admits none but older ones, so nobody else sees what is to come

A few tests that fail among all the others are run once more, by themselves. Where they pass then, the machine
was crowded or the test is unsteady: the summary names each, as that is a defect to mend, and the run passes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TYPED = ("dbml_magics", "tests")
PAGES = ["tests.documentation"]
FULL = {
    "histories": ["pytest", "tests/core/test_histories.py", "tests/core/test_edited_histories.py"],
    "simulation": ["tests.simulation", "10000"],
    "interrupts": ["tests.interrupts"],
    "endurance": ["tests.endurance"],
    "sequences": ["tests.conformance", "--examples", "2000"],
    "libraries": ["tests.conformance", "--autolog"],  # those that are installed
}
EXAMPLES = {"histories": "200"}  # how many of them, where a test asks for it
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FEW = 3  # more failures than these are no accident
OUTCOMES = "passed|failed|skipped|errors?|deselected|xfailed"
CLOSING = re.compile(rf"(\d+ ({OUTCOMES})|no tests ran)\b.* in [\d.]+s")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def main(arguments: list[str]) -> int:
    """Run each check and print a summary; returns 1 if any of them failed."""
    if "--newest" in arguments:
        return with_newest([argument for argument in arguments if argument != "--newest"])
    install_browser()
    full = "--full" in arguments
    arguments = [argument for argument in arguments if argument != "--full"]
    if full:
        os.environ["DBML_TEST_FULL"] = "1"
    colour = ["--color=yes"] if sys.stdout.isatty() else []
    # A file's tests stay in one process, in their order; three keep two cores busy, since tests wait much.
    # The files begin in the order of tests/conftest.py: the longest first.
    parallel = [] if arguments else ["-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]
    types = ["mypy", *(word for package in TYPED for word in ("-p", package))]
    checks = {
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
        "pytest": ["pytest", *colour, *parallel, *arguments],
    }
    summary, failed = [], False
    unsteady: list[str] = []

    def note(name: str, code: int, seconds: float, closing: str) -> None:
        nonlocal failed
        failed = failed or code != 0
        words = [name.ljust(12), "ok    " if code == 0 else "FAILED", f"{seconds:6.1f} s", closing]
        summary.append("  ".join(words).rstrip())

    with ThreadPoolExecutor(1) as beside:
        others = {"mypy": types, "docs": PAGES}
        begun = {name: beside.submit(timed, command, show=False) for name, command in others.items()}
        for name, command in checks.items():
            print(f"\n── {' '.join(command)}", flush=True)
            code, seconds, lines = timed(command)
            closing = closing_line(lines)
            failures = failed_tests(lines)
            if name == "pytest" and parallel and code == 1 and 0 < len(failures) <= FEW:
                print("\n── the failed tests once more, by themselves", flush=True)
                code, more, lines = timed(["pytest", *colour, *failures])
                seconds, closing = seconds + more, f"{closing}; again by themselves: {closing_line(lines)}"
                unsteady += failures if code == 0 else []
            note(name, code, seconds, closing)
        for name, command in others.items():
            code, seconds, lines = begun[name].result()
            print(f"\n── {' '.join(command)}\n{''.join(lines)}", flush=True)
            note(name, code, seconds, "")
    for name, command in FULL.items() if full else ():
        print(f"\n── {' '.join(command)}", flush=True)
        os.environ.pop("DBML_TEST_EXAMPLES", None)
        if name in EXAMPLES:
            os.environ["DBML_TEST_EXAMPLES"] = EXAMPLES[name]
        code, seconds, lines = timed(command)
        note(name, code, seconds, lines[-1].strip() if lines else "")
    print("\n── summary")
    print("\n".join(summary), flush=True)
    for test in unsteady:
        print(f"UNSTEADY      {test} failed among the others and passed alone: a defect to mend", flush=True)
    return int(failed)


def with_newest(arguments: list[str]) -> int:
    """Run the checks with the newest MLflow of which all parts are there, against azureml-mlflow's cap."""
    with tempfile.TemporaryDirectory(prefix="dbml-newest-") as folder:
        venv.create(folder, symlinks=True)
        python = str(Path(folder, "bin", "python"))
        # One after the other: pip does not let what is installed already keep the newer one out.
        for wanted in (["pip", "--editable", f"{ROOT}[test]"], ["--upgrade", "mlflow"]):
            code, _ = run([sys.executable, "-m", "pip", "--python", python, "install", "-q", *wanted])
            if code != 0:
                return code
        run([python, "-c", "import mlflow; print('mlflow', mlflow.__version__, mlflow.__file__)"])
        return run([python, __file__, *arguments])[0]


def install_browser() -> None:
    """Install Chromium for the tests in a browser, on a machine of ours that has none.

    Only root can, and only Debian's kind has apt-get; elsewhere those tests say what they lack.
    """
    missing = not any(shutil.which(name) for name in BROWSERS)
    if not missing or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core"],
    ):
        print(f"\n── {' '.join(command)}", flush=True)
        if run(command)[0] != 0:
            print("no browser could be installed: the tests that need one say so", flush=True)
            return


def timed(command: list[str], *, show: bool = True) -> tuple[int, float, list[str]]:
    """Run a Python module with arguments; returns its exit code, the seconds it took and its output."""
    began = time.monotonic()
    code, lines = run([sys.executable, "-m", *command], show=show)
    return code, time.monotonic() - began, lines


def closing_line(lines: list[str]) -> str:
    """Return pytest's closing line, if there is one."""
    bare = [COLOURS.sub("", line).strip("= \n") for line in lines]
    return next((line for line in reversed(bare) if CLOSING.match(line)), "")


def failed_tests(lines: list[str]) -> list[str]:
    """Return the failed tests that pytest's summary names; none if an error is among them."""
    bare = [COLOURS.sub("", line).rstrip() for line in lines]
    if any(line.startswith("ERROR ") for line in bare):
        return []
    return [found[1] for line in bare if (found := re.match(r"FAILED (\S+?::.+?)(?: - .*)?$", line))]


def run(command: list[str], *, show: bool = True) -> tuple[int, list[str]]:
    """Run a command, pass its output on, and return its exit code and output."""
    lines = []
    # Without PYTHONPATH a check sees what is installed, as a user does.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if show:
                sys.stdout.write(line)
                sys.stdout.flush()
    return process.returncode, lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
