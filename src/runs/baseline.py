"""Whether a model has learned anything: its best values against those of one answer to everything.

learned_nothing(state.best, data)   # None, or "the model has learned nothing: its best val/accuracy, ..."
"""

from __future__ import annotations

import math

from src.data.data import Data
from src.training.state import Best

# What answering the most frequent class to everything gives, from its share and the number of classes that occur.
CONSTANT_ANSWER = {
    "accuracy": lambda share, occurring: share,
    "mean_iou": lambda share, occurring: share / occurring,
    "mean_dice": lambda share, occurring: 2 * share / (1 + share) / occurring,
    "mean_f1": lambda share, occurring: 2 * share / (1 + share) / occurring,
    "mean_precision": lambda share, occurring: share / occurring,
    "mean_recall": lambda share, occurring: 1 / occurring,
}
ROUNDING = 1e-6  # of a metric's float32


def learned_nothing(best: Best | None, data: Data) -> str | None:
    """What to say of a model none of whose scores is better than those of a constant answer; None if one is.

    None too where nothing was measured that can be compared. The targets that were measured are read once.
    """
    split, batches = ("train", data.train) if data.val is None else ("val", data.val)
    measured = (best and best.metrics) or {}
    values = {name: measured[f"{split}/{name}"] for name in CONSTANT_ANSWER if f"{split}/{name}" in measured}
    if not values or not data.targets_are_classes:
        return None
    shares = data.class_shares(batches, weighted=True)
    share, occurring = float(shares.max()), int((shares > 0).sum())
    constant = {name: CONSTANT_ANSWER[name](share, occurring) for name in values}
    if any(
        value > constant[name] and not math.isclose(value, constant[name], rel_tol=ROUNDING)
        for name, value in values.items()
    ):
        return None
    name, value = next(iter(values.items()))
    return (
        f"the model has learned nothing: its best {split}/{name}, {value:.4f}, is no better than answering "
        f"{data.class_names[shares.argmax()]!r} to everything, {constant[name]:.4f}. Try a higher or a lower "
        "optimizer.learning_rate, more epochs, or another model, and look at the data with python -m src.data"
    )
