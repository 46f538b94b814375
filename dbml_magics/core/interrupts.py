"""Ctrl-C, which Python raises in the main thread between any two of its steps.

What has to be done whole is done within :func:`deferred`. Locks and events written in Python (``Event``,
``Condition``) stay closed for good where an interrupt comes between their steps; :class:`Flag` and
:class:`Waiters` rest on ``SimpleQueue``, whose calls are one step each.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import CodeType, FrameType, TracebackType
from typing import cast

__all__ = ["Flag", "Guard", "Waiters", "deferred", "is_held_back"]

_Handler = Callable[[int, FrameType | None], object]

# The functions in C behind the module's own, which spend ten times as long on turning numbers into enums.
_set: Callable[[int, _Handler], object] = getattr(signal.signal, "__wrapped__", signal.signal)
_get: Callable[[int], object] = getattr(signal.getsignal, "__wrapped__", signal.getsignal)
_SIGINT = int(signal.SIGINT)


def _handler() -> _Handler | None:
    """Return what SIGINT calls in this thread, or None where it raises nothing here."""
    if threading.get_ident() != threading.main_thread().ident:
        return None
    found = _get(_SIGINT)
    # A default action ends the process; and who set a handler in C cannot be given it back.
    return cast(_Handler, found) if callable(found) else None


class deferred:  # noqa: N801 - used as contextlib's functions are
    """Hold an interrupt back until a block is done; it is raised as the block ends, after ``undo()``.

    ``undo`` is for what the block made for a caller who will never hear of it. A block in a block leaves all
    that to the outer one. Only for what is bounded in time.
    """

    __slots__ = ("_before", "_came", "_undo")

    def __init__(self, undo: Callable[[], object] | None = None) -> None:
        self._before: _Handler | None = None
        self._came = False
        self._undo = undo

    def __enter__(self) -> deferred:
        before = _handler()
        if before is not None and _holder(before) is None:
            self._before = before
            _set(_SIGINT, self._note)  # one step: from here on nothing is raised
        return self

    @property
    def raises(self) -> bool:
        """Tell whether an interrupt came that is raised as this very block ends."""
        return self._came

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        before = self._before
        if before is None:
            return
        try:
            _set(_SIGINT, before)
        except KeyboardInterrupt:  # one that came at this very step
            self._undo_held()
            raise
        if self._came and not (kind is not None and issubclass(kind, KeyboardInterrupt)):
            self._undo_held()
            before(_SIGINT, sys._getframe(1))

    def _undo_held(self) -> None:
        if self._undo is not None and self._before is not None:
            _set(_SIGINT, self._note)
            try:
                self._undo()
            finally:
                _set(_SIGINT, self._before)


def _holder(handler: _Handler) -> deferred | None:
    owner = getattr(handler, "__self__", None)
    return owner if isinstance(owner, deferred) else None


def is_held_back() -> bool:
    """Tell whether an interrupt came that is raised at the end of the block that goes on."""
    before = _handler()
    holder = None if before is None else _holder(before)
    return holder is not None and holder._came


class Guard:
    """Holds interrupts back from the first step of a ``with`` block's end, which :class:`deferred` cannot.

    What is called there may be interrupted before it has done anything. So a handler looks, all through the
    block, whether an interrupt comes amid that call: of the method with that ``code``, of that ``owner``.
    """

    def __init__(self, code: CodeType, owner: object) -> None:
        self._code, self._owner = code, owner
        self._before: _Handler | None = None
        self._removed = False
        self.holds = True
        """Everything is held back, wherever it comes."""
        self.came = False
        """One was held back."""

    def install(self) -> None:
        """Begin."""
        before = _handler()
        if before is not None and _holder(before) is None:
            self._before = before
            _set(_SIGINT, self._heed)

    def _heed(self, number: int, frame: FrameType | None) -> None:
        if not self._removed and (self.holds or self._is_amid(frame)):
            self.came = True
        elif self._before is not None:
            self._before(number, frame)

    def _is_amid(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code is self._code and frame.f_locals.get("self") is self._owner:
                return True
            frame = frame.f_back
        return False

    def give(self) -> None:
        """Raise what was held back."""
        if self.came and self._before is not None:
            self.came = False
            self._before(_SIGINT, sys._getframe(1))

    def remove(self) -> None:
        """End; raises what was held back."""
        if self._before is not None and not self._removed:
            if _handler() == self._heed:
                _set(_SIGINT, self._before)
            self._removed = True  # its handler may still stand behind another one
        self.give()


class Flag:
    """An event for threads, of single steps."""

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens: SimpleQueue[None] = SimpleQueue()

    def is_set(self) -> bool:
        """Tell whether it is set."""
        return not self._tokens.empty()

    def set(self) -> None:
        """Set it, and wake who waits."""
        if self._tokens.empty():
            self._tokens.put(None)

    def clear(self) -> None:
        """Take it back."""
        try:
            while True:
                self._tokens.get_nowait()
        except Empty:
            pass

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is set, at most so long; tells whether it is."""
        try:
            self._tokens.get(timeout=None if seconds is None else max(0.0, seconds))
        except Empty:
            return False
        self._tokens.put(None)
        return True


class Waiters:
    """Those who wait for the next of something, all of them woken by it."""

    def __init__(self) -> None:
        self._waiting: list[SimpleQueue[None]] = []

    def wait(self, seconds: float) -> None:
        """Wait for the next one, at most so long."""
        own: SimpleQueue[None] = SimpleQueue()
        self._waiting.append(own)
        try:
            own.get(timeout=max(0.0, seconds))
        except Empty:
            pass

    def wake(self) -> None:
        """Wake all who wait now."""
        while self._waiting:
            try:
                self._waiting.pop().put(None)
            except IndexError:  # another thread woke the last one
                return
