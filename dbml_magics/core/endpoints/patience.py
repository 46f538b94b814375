"""Time limits of the local HTTP server: close connections that send no request."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["HEAD_S", "TAKE_S", "Impatient"]

HEAD_S = 15.0
"""How many seconds a request's head may take, and how long a new connection may bring none."""

TAKE_S = 60.0
"""How many seconds a caller may leave an answer that is too large for the system's buffers untaken."""


class Impatient(H11Protocol):
    """uvicorn's own protocol, which waits for a head as long as bytes of it drop in."""

    _timer: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        """Feed received bytes to the parser without extending the deadline of the request's head."""
        super().data_received(data)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        if self._taking is not None:
            self._taking.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for a caller that does not take its answer no longer than for one that does not ask."""
        super().pause_writing()
        if self._taking is None:
            self._taking = self.loop.call_later(TAKE_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the caller takes its answer."""
        super().resume_writing()
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _look(self) -> None:
        """Wait for a head where no request is being answered; a byte more of it wins no time."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_S, self._close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self._timer = None
        answering = self.cycle is not None and not self.cycle.response_complete
        if not answering and not self.transport.is_closing():
            self.transport.close()
