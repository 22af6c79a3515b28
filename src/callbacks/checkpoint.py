"""Saves the state: each epoch, in between if asked, and when training is interrupted.

    Checkpoint(directory="run/checkpoints", max_to_keep=3, every_seconds=600)

The best epoch's state is kept in `best/` below. It is called last, so that what others remember is saved with it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from src.common.ranges import Count, Positive, enforce_ranges
from src.training.callback import Callback
from src.training.checkpoints import Checkpoints
from src.training.manifest import BEST
from src.training.state import TrainState

log = logging.getLogger(__name__)


@enforce_ranges
class Checkpoint(Callback):
    """Write checkpoints.

    Args:
        directory: of the newest ones; the best is in `directory/best`.
        max_to_keep: how many of the newest stay.
        every_steps: also at every multiple of this step count.
        every_seconds: also when this much time passed since the last one, as soon as a graph call ends.
        clock: seconds, as time.monotonic.
    """

    def __init__(
        self,
        *,
        directory: str,
        max_to_keep: Count = 3,
        every_steps: Count | None = None,
        every_seconds: Positive | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._newest = Checkpoints(directory, max_to_keep=max_to_keep)
        self._best = Checkpoints(Path(directory) / BEST, max_to_keep=1)
        self.every_steps, self._every_seconds, self._clock = every_steps, every_seconds, clock
        self._saved_at: tuple[int, int] | None = None
        self._saved_seconds = clock()

    def on_train_begin(self, state: TrainState) -> None:
        self._saved_at = (state.epoch, state.step) if state.step else None  # it was restored, or it is new
        self._saved_seconds = self._clock()

    def on_log(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        late = self._every_seconds and self._clock() - self._saved_seconds >= self._every_seconds
        if late or (self.every_steps and state.step % self.every_steps == 0):
            self._save(state)

    def on_validation(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if state.improved:
            self._best.save(state, before=self.make_all_durable)

    def on_epoch_end(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if state.improved:  # before the newest, which says that it is there
            self._best.save(state, before=self.make_all_durable)
        self._save(state)

    def on_interrupt(self, state: TrainState, reason: str) -> None:
        self._save(state)

    def on_train_end(self, state: TrainState) -> None:
        self._save(state)

    def _save(self, state: TrainState) -> None:
        if self._saved_at != (state.epoch, state.step):
            began = self._clock()
            path = self._newest.save(state, before=self.make_all_durable)
            log.debug("saved %s in %.3f s", path, self._clock() - began)
            self._saved_at = state.epoch, state.step
        self._saved_seconds = self._clock()
