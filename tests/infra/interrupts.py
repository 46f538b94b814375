"""Interrupts (SIGINT) at chosen moments: before a chosen step of some code, or at random.

The interpreter looks for signals at some of its steps only: at calls, as a function begins, where a loop goes
back. :class:`Interrupter` trips the signal right before one of these, in C, so that it is the interpreter
that raises it, exactly as it would raise what a keyboard sends.
"""

from __future__ import annotations

import ctypes
import dis
import gc
import os
import random
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

__all__ = ["Interrupter", "Storm", "is_of_interrupt"]

_LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE", "POP_JUMP_BACKWARD", "SEND")

_trip = ctypes.pythonapi.PyErr_SetInterrupt
_trip.argtypes = [ctypes.py_object]  # the weak reference whose object is gone
_trip.restype = None


class _Fuse:
    pass


class Interrupter:
    """Runs some code and interrupts it once: before the n-th of the steps of ``folder``'s code."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._known: dict[CodeType, frozenset[int]] = {}
        self._at = 0
        self.steps = 0
        """How many steps were made, up to the interrupt."""
        self.where = ""
        """The step that was interrupted."""
        self._burnt: weakref.ref[_Fuse] | None = None

    def run(self, code: Callable[[], Any], at: int = 0) -> bool:
        """Run it (``at`` 0: to its end); tells whether an interrupt came out of it."""
        assert threading.current_thread() is threading.main_thread()
        self._at, self.steps, self.where = at, 0, ""
        before, collects = sys.gettrace(), gc.isenabled()
        gc.disable()  # Python drops what is raised while garbage, perhaps another test's, is finalized
        sys.settrace(self._enter)
        try:
            code()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
            if collects:
                gc.enable()
        return False

    def _enter(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if event != "call" or not frame.f_code.co_filename.startswith(self._folder):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if event == "opcode" and frame.f_lasti in self._looks(frame.f_code):
            self.steps += 1
            if self.steps == self._at:
                self.where = (
                    f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
                )
                fuse = _Fuse()
                self._burnt = weakref.ref(fuse, _trip)
                del fuse  # calls C: no step of ours comes between that and the code's own
        return self._step

    def _looks(self, code: CodeType) -> frozenset[int]:
        found = self._known.get(code)
        if found is None:
            found = self._known[code] = frozenset(
                step.offset for step in dis.get_instructions(code) if step.opname.startswith(_LOOKS)
            )
        return found


class Storm:
    """Interrupts at random moments, while it is ``armed``, from a thread of its own."""

    def __init__(self, seed: int, longest_s: float) -> None:
        self.armed = False
        self.sent = 0
        """How many came while it was armed."""
        self._random = random.Random(seed)
        self._longest = longest_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go, name="storm", daemon=True)
        self._before: Any = None
        self._hook = sys.unraisablehook

    def __enter__(self) -> Storm:
        self._before = signal.signal(signal.SIGINT, self._heed)
        # What an interrupt leaves open is told as it is finalized, and pytest cannot be interrupted at that.
        self._hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.armed = False
        self._over.set()
        self._thread.join()
        signal.signal(signal.SIGINT, self._before)
        sys.unraisablehook = self._hook

    def _heed(self, number: int, frame: FrameType | None) -> None:
        if self.armed:
            self.sent += 1
            signal.default_int_handler(number, frame)

    def _go(self) -> None:
        # At times one follows upon the other at once: amid what is done about the first.
        while not self._over.wait(
            self._random.random() * self._random.choice((self._longest, self._longest, 0.003))
        ):
            if self.armed:
                os.kill(os.getpid(), signal.SIGINT)

    def during(self, code: Callable[[], Any]) -> bool:
        """Run it in the storm; tells whether an interrupt came out of it."""
        try:
            self.armed = True
            code()
            self.armed = False
        except BaseException as error:
            self.armed = False
            if not is_of_interrupt(error):
                raise
            return True
        return False


def is_of_interrupt(error: BaseException | None) -> bool:
    """Tell whether an error is an interrupt, or came of one: ``shutil.rmtree`` closes a file twice, say."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
