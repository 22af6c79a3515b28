"""Lowers the learning rate when the monitored metric no longer improves.

ReduceOnPlateau(factor=0.5, patience=3)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated

from src.callbacks.patience import waited_epochs
from src.common.ranges import Count, NonNegative, Range, enforce_ranges
from src.training.callback import Callback
from src.training.state import TrainState

log = logging.getLogger(__name__)


@enforce_ranges
class ReduceOnPlateau(Callback):
    """Multiply the rate by `factor` after `patience` epochs in a row without an improvement; remembered over a resume.

    Args:
        factor: above 0 and below 1.
        patience: epochs, at least 1; those without validation do not count where the metric is of the val split.
        min_delta: an improvement smaller than this, in the metric's units, counts as none; at least 0.
        min_learning_rate: the rate does not go below this; at least 0.

    Raises:
        ValueError: an argument out of its range; when training begins, a schedule that decides the rate itself.
    """

    def __init__(
        self,
        *,
        factor: Annotated[float, Range(0, 1, above=True, below=True)] = 0.5,
        patience: Count = 3,
        min_delta: NonNegative = 0.0,
        min_learning_rate: NonNegative = 0.0,
    ) -> None:
        self._factor, self._patience, self._min_delta, self._min_rate = factor, patience, min_delta, min_learning_rate

    def on_train_begin(self, state: TrainState) -> None:
        if not state.constant_learning_rates():
            raise ValueError(
                f"callback {self.name} lowers the learning rate, which a schedule decides: "
                "choose schedule=reduce_on_plateau, or a constant one without warm-up"
            )

    def on_epoch_end(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        memory = state.memory(self.name)
        waited = waited_epochs(state, memory, metrics, min_delta=self._min_delta)
        if waited is not None and waited >= self._patience:
            memory["waited_epochs"] = 0
            rate = float(state.optimizer.learning_rate.numpy())
            lower = max(rate * self._factor, self._min_rate)
            if lower < rate:
                state.optimizer.learning_rate = lower
                log.info("%s has not improved for %d epochs: learning rate %g", state.monitor, self._patience, lower)
