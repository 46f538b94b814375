"""The protocol between a local endpoint's server and its workers: length-prefixed requests and answers.

A channel is one socket with one request on its way at a time, so an answer needs no number.
"""

from __future__ import annotations

import struct

__all__ = ["ANSWER", "AZUREML", "MLFLOW", "READY", "REQUEST", "answer", "request"]

REQUEST = struct.Struct("!IHB")
"""Bytes of the body, bytes of its content type, the format."""

ANSWER = struct.Struct("!IHH")
"""Bytes of the body, bytes of its content type, the HTTP status."""

AZUREML, MLFLOW = 0, 1
"""The formats: ``{"input_data": …}`` answered by a bare list, and MLflow's own."""

READY = 1
"""The status that a worker sends once its model is loaded."""


def request(kind: int, content_type: str, body: bytes) -> bytes:
    """Return a request as bytes."""
    named = content_type.encode("latin-1", "replace")[:500]
    return REQUEST.pack(len(body), len(named), kind) + named + body


def answer(status: int, content_type: str, body: bytes) -> bytes:
    """Return an answer as bytes."""
    named = content_type.encode("latin-1", "replace")
    return ANSWER.pack(len(body), len(named), status) + named + body
