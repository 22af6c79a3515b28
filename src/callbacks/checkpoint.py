"""Saves the state: each epoch, in between if asked, and when training is interrupted.

    Checkpoint(directory="run/checkpoints", max_to_keep=3, every_seconds=600)

The best epoch's state is kept in `best/` below. It is called last, so that what others remember is saved with it.
Training waits only for the state to be copied: a thread writes it, and the next save waits for the one before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from src.common.ranges import Count, Positive, enforce_ranges
from src.training.callback import Callback
from src.training.checkpoints import Checkpoints
from src.training.manifest import BEST
from src.training.state import Snapshot, TrainState

log = logging.getLogger(__name__)


@enforce_ranges
class Checkpoint(Callback):
    """Write checkpoints. One that cannot be written ends training, at the latest with the next save.

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
        self._thread: ThreadPoolExecutor | None = None
        self._saving: Future[None] | None = None

    def on_train_begin(self, state: TrainState) -> None:
        self._thread, state.join_saving = ThreadPoolExecutor(1, "checkpoint"), self.join
        self._saved_at = (state.epoch, state.step) if state.step else None  # it was restored, or it is new
        self._saved_seconds = self._clock()

    def on_log(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if self._saving and self._saving.done():
            self.join()
        late = self._every_seconds and self._clock() - self._saved_seconds >= self._every_seconds
        if late or (self.every_steps and state.step % self.every_steps == 0):
            self._save(state, self._newest)

    def on_validation(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if state.improved:
            self._save(state, self._best)

    def on_epoch_end(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        best = [self._best] if state.improved else []
        self._save(state, *best, self._newest)  # in this order: the newest says that the best is there

    def on_interrupt(self, state: TrainState, reason: str) -> None:
        self.on_train_end(state)

    def on_train_end(self, state: TrainState) -> None:
        if self._saved_at != (state.epoch, state.step):
            self._save(state, self._newest)
        self.join()

    def join(self) -> None:
        """Wait for the save that is under way.

        Raises:
            CheckpointError: it failed.
            OSError: what it counts as done could not be put on the disk.
        """
        saving, self._saving = self._saving, None
        if saving:
            saving.result()

    def close(self) -> None:
        if self._thread:
            self._thread.shutdown()
        saving, self._saving = self._saving, None
        if saving and (error := saving.exception()):  # while another one ends training
            log.warning("%s", error)

    def _save(self, state: TrainState, *places: Checkpoints) -> None:
        self.join()
        assert self._thread
        self._saving = self._thread.submit(self._write, state.snapshot(), places)
        if self._newest in places:
            self._saved_at, self._saved_seconds = (state.epoch, state.step), self._clock()

    def _write(self, snapshot: Snapshot, places: tuple[Checkpoints, ...]) -> None:
        """In the thread."""
        began = self._clock()
        self.make_all_durable()
        for place in places:
            path = place.write(snapshot)
            log.debug("saved %s in %.3f s", path, self._clock() - began)
