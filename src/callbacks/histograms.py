"""Shows in TensorBoard how weights and gradient norms are distributed, epoch by epoch.

    Histograms(directory="run/summaries", enabled=True)

Tags, in `train`: each weight by its path, as `conv_1/kernel`, and `gradient_norms` of the epoch's steps, as far as they
were taken in this process.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from src.callbacks.events import EventCallback
from src.training.state import TrainState


class Histograms(EventCallback):
    """Write histograms once an epoch.

    Args:
        directory: of the splits' folders.
        enabled: whether anything is written.
    """

    def __init__(self, *, directory: str, enabled: bool = False) -> None:
        super().__init__(directory=directory)
        self._enabled = enabled
        self._norms: list[np.ndarray] = []

    def on_train_begin(self, state: TrainState) -> None:
        super().on_train_begin(state)
        self._norms = []

    def on_log(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if self._enabled:
            self._norms.append(state.gradient_norms)

    def on_epoch_end(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if self._enabled:
            values = {weight.path: weight.value.numpy() for weight in state.model.weights}
            if self._norms:
                values["gradient_norms"] = np.concatenate(self._norms)
            self._norms = []
            self.files.write_later(tf.summary.histogram, "train", state.step, values)
