"""Batches of a pipeline of one's own, prepared and augmented as those of other examples are."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from src.data.batch import Batch, examples_of
from src.data.pipeline import Batches, Prepare, batch_spec, failure

MOST_OF_A_BATCH = 2**16  # examples, as far as their numbers are told apart


class Prepared:
    """Another split's batches, each prepared; an example's index is its place in the epoch, counted by batches.

    Args:
        prepare: as InMemory's.
    """

    def __init__(self, batches: Batches, prepare: Prepare) -> None:
        self.steps_per_epoch = batches.steps_per_epoch
        self.element_spec = batch_spec(prepare, batches.element_spec)
        self._batches, self._prepare = batches, prepare

    @property
    def failure(self) -> Exception | None:
        """As of the other split."""
        return failure(self._batches)

    def open(self, epoch: int, step: int) -> tuple[Any, tf.Tensor]:
        return self._batches.open(epoch, step), tf.constant(epoch, tf.int32)

    def next(self, cursor: tuple[Any, tf.Tensor], step: tf.Tensor) -> Batch:
        batch = self._batches.next(cursor[0], step)
        return self._prepare(*batch, cursor[1], step * MOST_OF_A_BATCH + tf.range(examples_of(batch)))
