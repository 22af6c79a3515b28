"""Keeps the run's record while it trains: a line of history.jsonl an epoch, and run.json up to date.

Validations within epochs have lines of their own, in validations.jsonl.

RecordCallback(record=Record(run_dir), seconds_before=0.0)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from src.runs.record import Record
from src.runs.record_schema import EMPTY, metrics_of
from src.training.callback import Callback

if TYPE_CHECKING:
    from src.training.state import TrainState

log = logging.getLogger(__name__)


class RecordCallback(Callback):
    """Write epochs and progress.

    Args:
        record: of the run.
        seconds_before: training time of the run's earlier parts.
        validate_every_steps: the trainer's.
        clock: seconds, as time.monotonic.
    """

    def __init__(
        self,
        *,
        record: Record,
        seconds_before: float = 0.0,
        validate_every_steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._record, self._clock, self._began = record, clock, clock() - seconds_before
        self._validate_every_steps = validate_every_steps

    def on_train_begin(self, state: TrainState) -> None:
        """Bring the record to where training goes on, which a power cut or a kill may have left it before or after."""
        record = self._record
        values = record.read() or EMPTY
        first = 1 + (values["parent"]["epoch"] if values["parent"] else 0)
        record.cut_history(epoch=state.epoch)
        record.cut_validations(step=state.validated_step)
        lines = {line["epoch"]: line for line in record.history()}
        missing = [epoch for epoch in range(first, state.epoch + 1) if epoch not in lines]
        lost = self._lost_validations(state, first_step=values["parent"]["step"] if values["parent"] else 0)
        for path, where, numbers in (
            (record.history_path, "in epoch", missing),
            (record.validations_path, "at step", lost),
        ):
            if numbers:
                log.warning(
                    "%s lacks what was measured %s %s, which a power cut or a damaged disk took away and which is "
                    "not done again; run.json says so in %s_missing",
                    *(path, where, ", ".join(map(str, numbers)), path.stem),
                )
        if state.epoch in lines:
            metrics = metrics_of(lines[state.epoch])
        else:
            metrics = values["metrics"] if values["epoch"] == state.epoch else {}
        record.update(**self._progress(state), metrics=metrics, history_missing=missing, validations_missing=lost)

    def _lost_validations(self, state: TrainState, *, first_step: int) -> list[int]:
        """The steps after `first_step` of validations in the midst of epochs that the record lacks."""
        if not (every := self._validate_every_steps):
            return []
        steps_per_epoch = (state.step - state.epoch_step) // state.epoch if state.epoch else state.step + 1
        due = range(first_step - first_step % every + every, state.validated_step + 1, every)
        there = {line.get("step") for line in self._record.validations()}
        return [step for step in due if step % steps_per_epoch and step not in there]

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
