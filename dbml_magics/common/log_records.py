"""Loggers of ours: what they say of others' words has no control characters and no secret in it."""

from __future__ import annotations

import logging
import traceback

from dbml_magics.common.foreign_text import visible
from dbml_magics.common.redaction import redacted

__all__ = ["logger"]


class _Clean(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = visible(redacted(record.getMessage())), None
        if record.exc_info and record.exc_info[1] is not None:
            # What handlers show of an error is the text that stands here, once one does.
            trace = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
            record.exc_text = visible(redacted(trace))
        return True


_clean = _Clean()


def logger(name: str) -> logging.Logger:
    """Return a module's logger."""
    found = logging.getLogger(name)
    found.addFilter(_clean)
    return found
