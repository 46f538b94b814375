"""The conformance suite by itself; see the package's words."""

from __future__ import annotations

import os
import sys

os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")

import argparse
import contextlib
import importlib.util
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.conformance.places import Places
from tests.conformance.player import Table
from tests.infra.proxy import Proxy
from tests.infra.servers import ServerHost


def main(arguments: list[str]) -> int:
    """Play what is asked for; returns 1 when a deviation was found that nobody has judged."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("stories", nargs="*", help="a group, or a story; all without")
    parser.add_argument("--known", action="store_true", help="show the deviations that are meant, too")
    parser.add_argument(
        "--autolog", action="store_true", help="play what libraries log by themselves instead"
    )
    parser.add_argument("--examples", type=int, metavar="N", help="play N random sequences instead")
    asked = parser.parse_args(arguments)
    with all_places() as places:
        if asked.autolog:
            return play_libraries(places, asked.stories, asked.known)
        if asked.examples:
            return play_sequences(places, asked.examples)
        return play_table(places, asked.stories, asked.known)


@contextlib.contextmanager
def all_places() -> Iterator[Places]:
    """Start three servers, and a proxy before each of the link's two."""
    with ServerHost() as host, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        pair = host.start_pair()
        with Proxy(pair[0].uri) as one, Proxy(pair[1].uri) as other:
            yield Places(host.start("plain"), *pair, (one, other), Path(folder))


def play_sequences(places: Places, examples: int) -> int:
    """Play random sequences, and print what was done, or the smallest one that differs."""
    from tests.conformance.sequences import Sequences

    began = time.monotonic()
    with places.linked() as linked:
        sequences = Sequences(places, linked)
        try:
            sequences.search(examples, fixed=False)
            differs = ""
        except Exception as error:  # an assertion, or that the same sequence differs and does not
            differs = "".join(traceback.format_exception(error, limit=0, chain=False))
    seconds = time.monotonic() - began
    print(f"{sequences.played} sequences of {sequences.steps} steps in {seconds:.0f} s", differs, sep="\n")
    return int(bool(differs))


def play_table(places: Places, wanted: list[str], known: bool) -> int:
    """Play the table, or what is wanted of it, and print each deviation."""
    from tests.conformance.table import tables

    return play(places, tables(), wanted, known)


def play_libraries(places: Places, wanted: list[str], known: bool) -> int:
    """Play the libraries that are installed, and name those that are not."""
    from tests.conformance.libraries import NEEDS, table

    here = Table(table.group)
    for story in table.stories:
        missing = [package for package in NEEDS[story.name] if importlib.util.find_spec(package) is None]
        if missing:
            print(f"{story.name}: not played, {', '.join(missing)} is not installed")
        else:
            here.stories.append(story)
    return play(places, [here], wanted, known)


def play(places: Places, tables: Sequence[Table], wanted: list[str], known: bool) -> int:
    """Play groups of stories, or what is wanted of them, and print each deviation."""
    from tests.conformance.table import compare_group

    played = failed = 0
    for table in tables:
        stories = [s for s in table.stories if not wanted or any(s.name.startswith(w) for w in wanted)]
        if not stories:
            continue
        began, cpu = time.monotonic(), sum(os.times()[:4])
        compared = compare_group(places, table.group, stories)
        seconds, used = time.monotonic() - began, sum(os.times()[:4]) - cpu
        print(f"── {table.group}: {len(compared)} stories in {seconds:.1f} s ({used:.1f} s of this process)")
        for story in compared.values():
            shown = story.deviations if known else story.unjudged
            failed += bool(story.unjudged)
            if shown:
                print(f"\n{story.story}")
            for each in shown:
                print(f"   {each}" + (f"\n      meant: {each.reason}" if each.reason else ""))
        played += len(compared)
    print(f"\n{played} stories played on plain MLflow and through a link; {failed} differ")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
