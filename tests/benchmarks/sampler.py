"""Where a benchmark's own process spends its time: all threads, looked at a hundred times a second.

cProfile sees one thread, and delivery has threads of its own; a look at every thread's stack costs little
enough that a row's figures stay what they are.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from types import FrameType
from typing import TextIO

VARIABLE = "DBML_BENCH_PROFILE"
"""The variable that ``python -m tests.benchmarks --profile`` sets for the processes that it starts."""
_EVERY_S = 0.01
_SHOWN = 25
_IDLE = ("wait", "select", "poll", "accept", "readline", "_wait_for_tstate_lock", "read", "_worker", "_go_on")


class Sampler:
    """Counts in which functions the threads of this process are."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._within: Counter[tuple[str, str]] = (
            Counter()
        )  # (thread, function) -> looks at it or what it calls
        self._threads: Counter[str] = Counter()
        self._began = (time.monotonic(), time.process_time())
        self._thread = threading.Thread(target=self._look, name="sampler", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(_EVERY_S):
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            for ident, frame in sys._current_frames().items():
                if ident != threading.get_ident() and frame.f_code.co_name not in _IDLE:
                    self._note(names.get(ident, "?").rstrip("0123456789_-"), frame)

    def _note(self, thread: str, leaf: FrameType) -> None:
        self._threads[thread] += 1
        seen: set[str] = set()
        frame: FrameType | None = leaf
        while frame is not None:
            code = frame.f_code
            seen.add(f"{_short(code.co_filename)}: {getattr(code, 'co_qualname', code.co_name)}")
            frame = frame.f_back
        for function in seen:
            self._within[thread, function] += 1

    def end(self, title: str, out: TextIO) -> None:
        """Print the threads and the functions in which they were most, with what those call."""
        self._over.set()
        self._thread.join()
        seconds = time.monotonic() - self._began[0]
        processor = time.process_time() - self._began[1]
        out.write(f"\n{title}: {seconds:.1f} s, {processor:.1f} s of processor time\n")
        for thread, looks in self._threads.most_common():
            out.write(f"  {looks * _EVERY_S:7.1f} s  {thread}\n")
            own = Counter({name: n for (of, name), n in self._within.items() if of == thread})
            for name, n in own.most_common(_SHOWN):
                if n < looks:  # what all looks have in common is how the thread began
                    out.write(f"      {n * _EVERY_S:7.1f} s  {name}\n")


def _short(file: str) -> str:
    parts = file.split(os.sep)
    for root in ("dbml_magics", "site-packages", "tests"):
        if root in parts:
            return "/".join(parts[parts.index(root) + (root == "site-packages") :])
    return parts[-1]
