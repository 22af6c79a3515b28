"""Writes what TensorBoard shows: one writer a split, the same tags in each, so that train and val overlay.

    Summaries(directory="run/summaries", every_steps=10)

Tags: `loss`, each metric and `learning_rate` once an epoch; while training, `batch_loss`, `steps_per_second` and
`learning_rate`; the model's graph. The step of all is the training step, and none is written twice after a resume.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from src.callbacks.base import Callback
from src.files import delete
from src.state import TrainState

log = logging.getLogger(__name__)


class Summaries(Callback):
    """Write event files in `directory/train` and `directory/val`.

    A summary that cannot be written is a warning: training goes on without.

    Args:
        directory: of the splits' folders.
        every_steps: how often `batch_loss` is written, in steps.
        graph: whether the model's graph is written.
    """

    def __init__(self, *, directory: str, every_steps: int = 10, graph: bool = True) -> None:
        if every_steps < 1:
            raise ValueError(f"every_steps is {every_steps}; it must be at least 1")
        self._directory, self._interval, self._graph = Path(directory), every_steps, graph
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        self._written: dict[tuple[str, str], int] = {}
        self._broken = False
        self._write_losses = tf.function(_write_losses)  # of its own: a graph keeps the writer that it was made with

    def on_train_begin(self, state: TrainState) -> None:
        if state.step:
            self._written = last_steps(self._directory)
            return
        for path in self._directory.glob("*/events.out.tfevents.*"):  # of a start that saved nothing
            delete(path)
        if self._graph:
            self._guard(self._write_graph, state)

    def on_log(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self._guard(self._write_steps, state, metrics)

    def on_epoch_end(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self._guard(self._write_epoch, state, metrics)

    def close(self) -> None:
        writers, self._writers = self._writers, {}
        for writer in writers.values():
            self._guard(writer.close)

    def _write_steps(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        steps = np.arange(state.step - len(state.losses) + 1, state.step + 1)
        chosen = (steps % self._interval == 0) & (steps > self._written.get(("train", "batch_loss"), 0))
        if chosen.any():
            with self._writer("train").as_default():
                self._write_losses(tf.constant(steps[chosen]), tf.constant(state.losses[chosen]))
        self._write("train", state.step, {name: metrics[name] for name in ("learning_rate", "steps_per_second")})
        self._flush()

    def _write_epoch(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        rate = {"learning_rate": float(state.optimizer.learning_rate)}
        for split in sorted({key.partition("/")[0] for key in metrics}):
            own = {key.partition("/")[2]: value for key, value in metrics.items() if key.startswith(f"{split}/")}
            self._write(split, state.step, own | rate)
        self._flush()

    def _write_graph(self, state: TrainState) -> None:
        (image,) = state.model.inputs
        spec = tf.TensorSpec([None, *image.shape[1:]], image.dtype)
        with self._writer("train").as_default():
            tf.summary.graph(state.predict.get_concrete_function(spec).graph)

    def _write(self, split: str, step: int, values: Mapping[str, float]) -> None:
        with self._writer(split).as_default(step):
            for tag, value in values.items():
                if step > self._written.get((split, tag), -1):
                    tf.summary.scalar(tag, value)
                    self._written[split, tag] = step

    def _writer(self, split: str) -> tf.summary.SummaryWriter:
        if split not in self._writers:
            self._writers[split] = tf.summary.create_file_writer(str(self._directory / split))
        return self._writers[split]

    def _flush(self) -> None:
        # What a checkpoint counts as done must have been written before it is listed.
        for writer in self._writers.values():
            writer.flush()

    def _guard(self, write, *args) -> None:
        if self._broken:
            return
        try:
            write(*args)
        except (OSError, tf.errors.OpError) as error:
            self._broken = True
            log.warning("no more summaries: %s cannot be written (%s)", self._directory, error)


def last_steps(directory: Path) -> dict[tuple[str, str], int]:
    """The last step written of each (split, tag)."""
    return {key: max(step for step, _ in points) for key, points in read_scalars(directory).items()}


def read_scalars(directory: Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(step, value) of each (split, tag) as written, duplicates included; a torn end of a file is left out."""
    scalars: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for path in sorted(directory.glob("*/events.out.tfevents.*")):
        records = iter(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        try:
            for record in records:
                event = tf.compat.v1.Event.FromString(record)
                for value in event.summary.value:
                    if value.tensor.dtype == tf.float32.as_datatype_enum:
                        points = scalars.setdefault((path.parent.name, value.tag), [])
                        points.append((event.step, float(tf.make_ndarray(value.tensor))))
        except tf.errors.DataLossError:
            pass
    return scalars


def _write_losses(steps: tf.Tensor, losses: tf.Tensor) -> None:
    for i in tf.range(tf.size(steps)):
        with tf.name_scope("/"):  # out of the loop's own name, which would be part of the tag
            tf.summary.scalar("batch_loss", losses[i], step=steps[i])
