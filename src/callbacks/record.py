"""Keeps the run's record while it trains: a line of history.jsonl an epoch, and run.json up to date.

Validations within epochs have lines of their own, in validations.jsonl.

RecordCallback(record=Record(run_dir), seconds_before=0.0)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from src.callbacks.base import Callback
from src.runs.record import Record
from src.state import TrainState


class RecordCallback(Callback):
    """Write epochs and progress.

    Args:
        record: of the run.
        seconds_before: training time of the run's earlier parts.
        clock: seconds, as time.monotonic.
    """

    def __init__(
        self, *, record: Record, seconds_before: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._record, self._clock, self._began = record, clock, clock() - seconds_before

    def on_train_begin(self, state: TrainState) -> None:
        self._record.cut_history(epoch=state.epoch)
        self._record.cut_validations(step=state.validated_step)

    def on_epoch_end(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        seconds = round(self._clock() - self._began, 3)
        line: dict[str, Any] = {"epoch": state.epoch, "step": state.step, "seconds": seconds}
        if state.learning_rate is not None:  # of the epoch's last step
            line["learning_rate"] = state.learning_rate
        self._record.append_epoch({**line, **metrics})
        self._record.update(**self._progress(state), metrics=dict(metrics))

    def on_validation(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self._record.append_validation({"epoch": state.epoch + 1, "step": state.step, **metrics})
        self._record.update(**self._progress(state))

    def on_interrupt(self, state: TrainState, reason: str) -> None:
        self._record.update(**self._progress(state))

    def on_train_end(self, state: TrainState) -> None:
        self._record.update(**self._progress(state))

    def _progress(self, state: TrainState) -> dict[str, Any]:
        return {
            "best": state.best and asdict(state.best),
            "epoch": state.epoch,
            "step": state.step,
            "seconds": round(self._clock() - self._began, 3),
        }
