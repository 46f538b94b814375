"""Measure everything on this machine and print the figures side by side.

python -m tests.benchmarks               some forty minutes, a third of them for the sweep
python -m tests.benchmarks --quick       some minutes: that everything can be measured, not how fast it is
python -m tests.benchmarks --markdown    the README's tables
python -m tests.benchmarks --profile verify    one section, and in which functions its time went
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

from tests.benchmarks.measure import SECTIONS, Bench, machine
from tests.benchmarks.report import markdown, terminal
from tests.benchmarks.sampler import VARIABLE
from tests.benchmarks.sizes import QUICK, Sizes


def main(arguments: list[str]) -> int:
    """Print the figures; returns 1 if something could not be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick", action="store_true", help="few calls: a smoke test, its figures mean nothing"
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument(
        "--only",
        choices=SECTIONS,
        action="append",
        help="measure this section only (may be repeated)",
    )
    parser.add_argument(
        "--profile", choices=SECTIONS, help="measure this section, and print where its time went"
    )
    options = parser.parse_args(arguments)
    if options.profile:
        options.only = [options.profile]

    def progress(label: str) -> None:
        print(f"measuring: {label}", file=sys.stderr, flush=True)

    with tempfile.NamedTemporaryFile("r", prefix="dbml-profile-") as profile:
        if options.profile:
            os.environ[VARIABLE] = profile.name
        with Bench(QUICK if options.quick else Sizes(), progress) as bench:
            sections = [getattr(bench, name)() for name in options.only or SECTIONS]
        print(profile.read(), end="")
    print(f"Measured on {machine()}. Ratios travel between machines, microseconds do not.")
    print(f"\n{markdown(sections)}" if options.markdown else terminal(sections))
    return int(any(section.failed for section in sections))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
