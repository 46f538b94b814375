"""Which of several values of a metric is the best, as far as the metric's name tells."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

__all__ = ["BEST", "best_of", "best_so_far"]

BEST = "★"
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Za-z][a-z]*")
_LOSSES = {"loss", "logloss", "nll", "perplexity", "deviance", "brier", "fid"}
_ERRORS = {"error", "err", "mse", "rmse", "rmsle", "mae", "mape", "smape", "wer", "cer"}
_RATES = {"acc", "accuracy", "precision", "recall", "sensitivity", "specificity", "f"}
_SCORES = {"score", "auc", "auroc", "auprc", "r", "kappa", "mcc", "likelihood"}
_MATCHES = {"iou", "dice", "bleu", "rouge", "ndcg", "mrr"}
_LOWER, _HIGHER = _LOSSES | _ERRORS, _RATES | _SCORES | _MATCHES


def best_of(key: str, values: Sequence[float | None]) -> int | None:
    """Return the place of the best of a metric's values.

    None where its name does not tell whether less or more of it is better, and where two are equally good.
    """
    better = _better(key)
    there = [value for value in values if value is not None and math.isfinite(value)]
    if better is None or len(there) < 2:
        return None
    best = better(there)
    return values.index(best) if there.count(best) == 1 else None


def best_so_far(key: str, values: Sequence[float]) -> float | None:
    """Return the best of the values that a metric has had; None where its name does not tell it."""
    better = _better(key)
    there = [value for value in values if math.isfinite(value)]
    return better(there) if better is not None and there else None


def _better(key: str) -> Callable[[Sequence[float]], float] | None:
    """Return what finds the best of several values, as far as a metric's name tells."""
    words = {word.lower() for word in _WORD.findall(key)}
    lower, higher = bool(words & _LOWER), bool(words & _HIGHER)
    return None if lower == higher else min if lower else max
