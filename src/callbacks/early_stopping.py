"""Ends training when the monitored metric no longer improves.

EarlyStopping(patience=5, min_delta=0.001)
"""

from __future__ import annotations

from collections.abc import Mapping

from src.callbacks.patience import waited_epochs
from src.common.ranges import Count, NonNegative, enforce_ranges
from src.training.callback import Callback
from src.training.state import TrainState


@enforce_ranges
class EarlyStopping(Callback):
    """Stop after `patience` epochs in a row without an improvement; remembered over a resume.

    Args:
        patience: epochs, at least 1; those without validation do not count where the metric is of the val split.
        min_delta: an improvement smaller than this, in the metric's units, counts as none; at least 0.
    """

    def __init__(self, *, patience: Count, min_delta: NonNegative = 0.0) -> None:
        self._patience, self._min_delta = patience, min_delta

    def on_epoch_end(self, state: TrainState, metrics: Mapping[str, float]) -> str | None:
        waited = waited_epochs(state, state.memory(self.name), metrics, min_delta=self._min_delta)
        if waited is None or waited < self._patience:
            return None
        return f"{state.monitor} has not improved for {self._patience} epochs"
