"""The interface between the trainer and what watches it.

class StopAtLoss(Callback):
    def on_epoch_end(self, state, metrics):
        return "loss reached 0.1" if metrics["train/loss"] <= 0.1 else None
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from src.training.state import TrainState


class Callback:
    """All methods do nothing by default. `metrics` are read-only floats, keyed `train/loss`, `val/mean_iou`.

    Attributes:
        name: the key under which the run holds this callback; the trainer sets it.
        every_steps: end a graph call at every multiple of this step count; None for no wish.
        at_steps: end a graph call at these steps as well.
        make_all_durable: `make_durable` of all callbacks; the trainer sets it.
    """

    name: str = ""
    every_steps: int | None = None
    at_steps: Collection[int] = ()
    make_all_durable: Callable[[], None] = staticmethod(lambda: None)

    def on_train_begin(self, state: TrainState) -> None:
        """Training starts or continues; `state.step` is where."""

    def on_log(self, state: TrainState, metrics: Mapping[str, float]) -> str | None:
        """A graph call ended: `train/loss` (mean of its steps), `learning_rate` (of its last), `steps_per_second`.

        `state.losses` and `state.gradient_norms` have those of each of its steps. A returned reason stops training,
        without validation. How long a call is depends on the machine, so it may be given only at a step of
        `every_steps` or `at_steps`.
        """

    def on_validation(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """A validation in the midst of an epoch ended: `val/loss` and the like."""

    def on_epoch_end(self, state: TrainState, metrics: Mapping[str, float]) -> str | None:
        """An epoch and its validation, where it has one, ended. A returned reason stops training after this epoch."""

    def on_interrupt(self, state: TrainState, reason: str) -> None:
        """Training was asked to stop between two steps and can go on from `state` later."""

    def on_train_end(self, state: TrainState) -> None:
        """Training reached its end: the last epoch, or a reason to stop."""

    def make_durable(self) -> None:
        """Put on the disk, by fsync, what has been written: a checkpoint is about to count it, or training has ended.

        Called in the thread that writes checkpoints, too, while training and other methods of this callback go on.

        Raises:
            OSError: not all of it is there. The checkpoint then does not count, and training ends.
        """

    def close(self) -> None:
        """Release what is held; called in every case."""
