"""Records where the time of some training steps goes, for the profile page of TensorBoard.

    Profile(directory="run/summaries", enabled=True, first_step=10, last_step=20)

The record is `train/plugins/profile/<time>/<host>.xplane.pb`; looking at it needs the extra `profile`.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping

import tensorflow as tf

from src.callbacks.events import EventCallback
from src.common.extras import install_command
from src.common.ranges import Count, enforce_ranges
from src.training.state import TrainState

log = logging.getLogger(__name__)


@enforce_ranges
class Profile(EventCallback):
    """Profile the steps `first_step` to `last_step`, once in a run; graph calls end around them.

    Args:
        directory: of the splits' folders.
        enabled: whether anything is recorded.
        first_step, last_step: counted from 1; a run that ends before the last one is profiled to its end.

    Raises:
        ValueError: they are not in order.
    """

    def __init__(self, *, directory: str, enabled: bool = False, first_step: Count = 10, last_step: Count = 20) -> None:
        super().__init__(directory=directory)
        if first_step > last_step:
            raise ValueError(f"first_step is {first_step} and last_step {last_step}; they must be in this order")
        self._first, self._last = first_step, last_step
        self._folder = self._directory / "train"
        self._waiting, self._running = enabled, False
        self.at_steps = (first_step - 1, last_step) if enabled else ()

    def on_train_begin(self, state: TrainState) -> None:
        super().on_train_begin(state)
        if any(self._folder.glob("plugins/profile/*/*.xplane.pb")):
            self._waiting = False
        if self._waiting and not importlib.util.find_spec("xprof"):
            log.warning("TensorBoard shows the profile only after: %s", install_command("profile"))
        self._follow(state.step)

    def on_log(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self._follow(state.step)

    def on_train_end(self, state: TrainState) -> None:
        self._stop()

    def close(self) -> None:
        self._stop()
        super().close()

    def _follow(self, step: int) -> None:
        if self._waiting and self._first - 1 <= step < self._last:
            self._waiting = False
            self._running = _tried(tf.profiler.experimental.start, str(self._folder))
        elif self._running and step >= self._last:
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            _tried(tf.profiler.experimental.stop)


def _tried(call: Callable[..., object], *args: object) -> bool:
    """Whether it could be done; where not, as when another profiler runs, that is said, and training goes on."""
    try:
        call(*args)
    except (OSError, tf.errors.OpError) as error:
        log.warning("no profile: %s", error)
        return False
    return True
