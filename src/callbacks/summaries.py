"""Writes the curves that TensorBoard shows: the same tags for each split, so that train and val overlay.

    Summaries(directory="run/summaries", every_steps=10)

Tags: `loss`, each metric and `learning_rate` once an epoch, or validation; while training, `batch_loss`,
`gradient_norm`, `steps_per_second` and `learning_rate`; the model's graph. The step of all is the training step, the
rate that of this step, and none is written twice after a resume.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorboard.plugins.scalar.metadata import create_summary_metadata

from src.callbacks.events import EventCallback, read_values
from src.common.ranges import Count, enforce_ranges
from src.training.state import TrainState

SCALAR = create_summary_metadata(display_name=None, description=None)


@enforce_ranges
class Summaries(EventCallback):
    """Write event files in `directory/train` and `directory/val`.

    A summary that cannot be written ends training, which then goes on from the last checkpoint: none is ever missing.

    Args:
        directory: of the splits' folders.
        every_steps: how often `batch_loss` and `gradient_norm` are written, in steps.
        graph: whether the model's graph is written.
    """

    def __init__(self, *, directory: str, every_steps: Count = 10, graph: bool = True) -> None:
        super().__init__(directory=directory)
        self._interval, self._graph = every_steps, graph

    def on_train_begin(self, state: TrainState) -> None:
        super().on_train_begin(state)
        # A new one each time: a graph keeps the writer that it was made with.
        self._write_points = tf.function(_write_points, autograph=False)
        if self._graph and not self.files.written:
            self.files.submit("train", [("graph_def", 0)], functools.partial(tf.summary.graph, state.inference.graph))

    def on_log(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self._write_steps(state, metrics)

    def on_validation(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self._write_epoch(state, metrics)

    def on_epoch_end(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self._write_epoch(state, metrics)

    def _write_steps(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        steps = np.arange(state.step - len(state.losses) + 1, state.step + 1)
        points: list[tuple[int, str, float]] = []
        for tag, series in {"batch_loss": state.losses, "gradient_norm": state.gradient_norms}.items():
            chosen = (steps % self._interval == 0) & (steps > self.files.written.get(("train", tag), 0))
            if chosen.any():
                points += [(int(step), tag, value) for step, value in zip(steps[chosen], series[chosen], strict=True)]
        if points:
            at, tags, values = zip(*points, strict=True)

            def write() -> None:
                self._write_points(tf.constant(at, tf.int64), tf.constant(tags), tf.constant(values))

            self.files.submit("train", [*zip(tags, at, strict=True)], write)
        rates = {name: metrics[name] for name in ("learning_rate", "steps_per_second")}
        self.files.write_later(tf.summary.scalar, "train", state.step, rates)

    def _write_epoch(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        rate = {} if state.learning_rate is None else {"learning_rate": state.learning_rate}
        for split in sorted({key.partition("/")[0] for key in metrics}):
            own = {key.partition("/")[2]: value for key, value in metrics.items() if key.startswith(f"{split}/")}
            self.files.write_later(tf.summary.scalar, split, state.step, own | rate)


def read_scalars(directory: Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(step, value) of each (split, tag) as written, duplicates included; a torn end of a file is left out."""
    scalars: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for split, step, value in read_values(directory):
        if value.metadata.plugin_data.plugin_name == SCALAR.plugin_data.plugin_name:
            scalars.setdefault((split, value.tag), []).append((step, float(tf.make_ndarray(value.tensor))))
    return scalars


def _write_points(steps: tf.Tensor, tags: tf.Tensor, values: tf.Tensor) -> None:
    def write_point(i):
        tf.summary.write(tags[i], values[i], step=steps[i], metadata=SCALAR)
        return i + 1

    tf.while_loop(lambda i: i < tf.size(steps), write_point, [tf.constant(0)], parallel_iterations=1)
