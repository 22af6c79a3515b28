"""Keeps the run's record while it trains: a line of history.jsonl an epoch, and run.json up to date.

Validations within epochs have lines of their own, in validations.jsonl.

RecordCallback(record=Record(run_dir), seconds_before=0.0)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from src.callbacks.base import Callback
from src.runs.checked import metrics_of
from src.runs.record import Record
from src.state import TrainState

log = logging.getLogger(__name__)


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
        """Bring the record to where training goes on, which a power cut or a kill may have left it before or after."""
        record, first = self._record, 1
        values = record.read() or {}
        if parent := values.get("parent"):
            first += parent.get("epoch") or 0
        record.cut_history(epoch=state.epoch)
        record.cut_validations(step=state.validated_step)
        lines = {line["epoch"]: line for line in record.history()}
        missing = [epoch for epoch in range(first, state.epoch + 1) if epoch not in lines]
        if missing:
            log.warning(
                "%s lacks what was measured in epoch %s, which a power cut or a damaged disk took away and which is "
                "not done again; run.json says so in history_missing",
                record.history_path,
                ", ".join(map(str, missing)),
            )
        if state.epoch in lines:
            metrics = metrics_of(lines[state.epoch])
        else:
            metrics = values.get("metrics") or {} if values.get("epoch") == state.epoch else {}
        record.update(**self._progress(state), metrics=metrics, history_missing=missing)

    def on_epoch_end(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        seconds = round(self._clock() - self._began, 3)
        line: dict[str, Any] = {"epoch": state.epoch, "step": state.step, "seconds": seconds}
        if state.learning_rate is not None:  # of the epoch's last step
            line["learning_rate"] = state.learning_rate
        self._record.append_epoch({**line, **metrics})
        self._record.update(**self._progress(state), metrics=dict(metrics))

    def make_durable(self) -> None:
        self._record.make_durable()

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
