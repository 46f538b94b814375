"""Random sequences of calls come to the same through a link.

``python -m tests.conformance --examples N`` plays as many as one likes, and prints the smallest that differs.
"""

from __future__ import annotations

import os

from tests.conformance.places import Places
from tests.conformance.sequences import Sequences

ASKED = os.environ.get("DBML_TEST_EXAMPLES")


def test_random_sequences_come_to_the_same(places: Places) -> None:
    with places.linked() as linked:
        Sequences(places, linked).search(int(ASKED or 6), fixed=ASKED is None)
