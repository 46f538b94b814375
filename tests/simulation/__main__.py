"""Play histories by their seeds, and print the first that goes wrong.

python -m tests.simulation 10000          seeds 0 to 9,999
python -m tests.simulation 1 --first 42   that of one seed
python -m tests.simulation 1 --first 42 --tell   with its history
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")


def main(arguments: list[str]) -> int:
    """Play what is asked for; returns 1 where a history goes wrong."""
    from tests.simulation.history import play, stillness

    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("histories", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--acts", type=int, default=40)
    parser.add_argument("--lanes", type=int, default=3, help="turns that go on at a time at a workspace")
    parser.add_argument("--tell", action="store_true")
    asked = parser.parse_args(arguments)
    began = time.monotonic()
    with stillness():
        for seed in range(asked.first, asked.first + asked.histories):
            try:
                story = play(seed, asked.acts, asked.lanes)
            except AssertionError as error:
                print(error)
                return 1
            if asked.tell:
                print("\n".join(story))
    print(f"{asked.histories} histories in {time.monotonic() - began:.0f} s: nothing lost, doubled or left")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
