"""Adapts a Keras callback that needs only the metrics of each epoch.

    KerasCallback(keras.callbacks.RemoteMonitor(root="http://localhost:9000"))

It is told of `on_train_begin`, `on_epoch_end` (epochs counted from 0; `loss`, `accuracy`, `val_loss`, `learning_rate`)
and `on_train_end`, the last when training is interrupted, too. A run that is continued makes it anew, so what it has
remembered is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from src.training.callback import Callback
from src.training.state import TrainState

INSTEAD = {
    "BackupAndRestore": "callback.checkpoint saves each epoch",
    "EarlyStopping": "choose callback=early_stopping",
    "History": "history.jsonl has what it collects",
    "LearningRateScheduler": "choose a schedule",
    "ModelCheckpoint": "callback.checkpoint saves each epoch",
    "OrbaxCheckpoint": "callback.checkpoint saves each epoch",
    "ProgbarLogger": "callback.progress shows how far a run is",
    "ReduceLROnPlateau": "choose schedule=reduce_on_plateau",
    "SwapEMAWeights": "give optimizer.use_ema=true",
    "TensorBoard": "callback.summaries writes what it shows",
    "TerminateOnNaN": "a loss that is no number ends training by itself",
}
OWN = "A callback of your own, src.training.callback.Callback, is told of each graph call and has the state"
WHY = "batches run within a graph, and what changes a run must be remembered when it is continued"
NEVER_CALLED = ("on_epoch_begin", "on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")


class KerasCallback(Callback):
    """Hand the metrics on.

    Args:
        callback: what reads nothing but the logs of epochs.

    Raises:
        ValueError: it is one of Keras's that needs the model, or has a method that would never be called; says what to
            use instead. So does the first use of its `model`.
    """

    def __init__(self, callback: keras.callbacks.Callback) -> None:
        kind = type(callback)
        instead = next((INSTEAD[c.__name__] for c in kind.__mro__ if c.__name__ in INSTEAD), None)
        if instead:
            raise ValueError(f"{kind.__name__} needs the model or its optimizer, not only logs: {WHY}; {instead}")
        for name in NEVER_CALLED:
            if getattr(getattr(callback, name), "__func__", None) is not getattr(keras.callbacks.Callback, name):
                raise ValueError(f"{kind.__name__} has {name}, which is never called: {WHY}. {OWN}")
        self._callback, self._is_open = callback, False
        callback.set_params({})
        callback.set_model(_NoModel(kind.__name__))

    def on_train_begin(self, state: TrainState) -> None:
        self._is_open = True
        self._callback.on_train_begin({})

    def on_epoch_end(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        logs = {name.removeprefix("train/").replace("val/", "val_"): value for name, value in metrics.items()}
        if state.learning_rate is not None:
            logs["learning_rate"] = state.learning_rate
        self._callback.on_epoch_end(state.epoch - 1, logs)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._callback.on_train_end({})


class _NoModel:
    """Refuses all that is asked of a model, and says why."""

    def __init__(self, kind: str) -> None:
        object.__setattr__(self, "_kind", kind)

    def __getattr__(self, name: str) -> Any:
        raise ValueError(f"{self._kind} uses model.{name}, and gets only logs: {WHY}. {OWN}")

    def __setattr__(self, name: str, value: Any) -> None:
        getattr(self, name)
