"""Shows how training goes: a bar on a terminal, plain lines elsewhere; both in the log.

Progress(epochs=20, every_steps=10)
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from src.callbacks.base import Callback
from src.state import TrainState

log = logging.getLogger(__name__)


class Progress(Callback):
    """Report losses and epochs.

    Args:
        epochs: of the whole run.
        steps_per_epoch: training steps an epoch.
        every_steps: how often a `loss at step` line is logged, in steps (level DEBUG).
        console: where the bar goes; standard error by default.
        clock: seconds, as time.monotonic.
    """

    def __init__(
        self,
        *,
        epochs: int,
        steps_per_epoch: int,
        every_steps: int = 10,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if every_steps < 1:
            raise ValueError(f"every_steps is {every_steps}; it must be at least 1")
        self._epochs, self._steps, self._interval, self._clock = epochs, epochs * steps_per_epoch, every_steps, clock
        self._console = console or Console(file=sys.stderr)
        self._bar: Bar | None = None
        self._epoch_began = clock()

    def on_train_begin(self, state: TrainState) -> None:
        self._epoch_began = self._clock()
        if self._console.is_terminal:
            columns = ("{task.description}", "loss {task.fields[loss]}", "{task.fields[rate]} steps/s", "left")
            description, loss, rate, left = map(TextColumn, columns)
            step = TextColumn("step {task.completed}/{task.total}")
            times = (TimeElapsedColumn(), left, TimeRemainingColumn())
            self._bar = Bar(description, BarColumn(), step, loss, rate, *times, console=self._console)
            self._task = self._bar.add_task("", total=self._steps, completed=state.step, loss="-", rate="-")
            self._show(state)
            self._bar.start()

    def on_log(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        first = state.step - len(state.losses) + 1
        for step in range(first + (-first) % self._interval, state.step + 1, self._interval):
            log.debug("loss at step %d: %.6g", step, state.losses[step - first])
        self._show(state, loss=f"{metrics['train/loss']:.4f}", rate=f"{metrics['steps_per_second']:.4g}")

    def on_epoch_end(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        now = self._clock()
        shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        star = "  (best)" if state.improved else ""
        log.info("epoch %d/%d  %.1f s  %s%s", state.epoch, self._epochs, now - self._epoch_began, shown, star)
        self._epoch_began = now
        self._show(state)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _show(self, state: TrainState, **fields: Any) -> None:
        if self._bar:
            epoch = min(state.epoch + 1, self._epochs)
            self._bar.update(self._task, completed=state.step, description=f"epoch {epoch}/{self._epochs}", **fields)
