"""A share of a split's examples, always the same ones: what `limit` leaves of the training split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.autograph.experimental import do_not_convert

from src.data.batch import Batch
from src.data.pipeline import Batches

Examples: TypeAlias = Batch | Sequence[Batch] | tf.data.Dataset | Batches


class Subset(Sequence):
    """Some of a sequence's examples."""

    def __init__(self, examples: Sequence[Any], chosen: np.ndarray) -> None:
        self._examples, self._chosen = examples, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index):
        return self._examples[int(self._chosen[index])]


def share_of(examples: Examples, limit: float | None) -> Examples:
    """A share of the examples in their order, at least one; None is all of them."""
    if limit is None or limit == 1:
        return examples
    if isinstance(examples, Batches):
        raise ValueError(f"limit is {limit}, and the train split is batches as they are; take(n) of the dataset")
    count = length(examples)
    chosen = np.sort(np.random.default_rng(0).permutation(count)[: math.ceil(round(limit * count, 6))])
    if isinstance(examples, tuple):
        return tf.nest.map_structure(
            lambda part: part[chosen] if isinstance(part, np.ndarray) else tf.gather(part, chosen), examples
        )
    if not isinstance(examples, tf.data.Dataset):
        return Subset(examples, chosen)
    is_chosen = np.zeros(count, bool)
    is_chosen[chosen] = True
    # In batches of one, since a single example of a ragged tensor would leave `map` as a plain one.
    kept = tf.data.Dataset.zip(tf.data.Dataset.from_tensor_slices(is_chosen), examples.batch(1))
    kept = kept.filter(do_not_convert(lambda is_kept, batch: is_kept))
    kept = kept.map(do_not_convert(lambda is_kept, batch: batch)).unbatch()
    return kept.apply(tf.data.experimental.assert_cardinality(len(chosen)))


def length(examples: Examples) -> int:
    if isinstance(examples, Batches):
        return examples.steps_per_epoch
    return int(tf.nest.flatten(examples)[0].shape[0]) if isinstance(examples, tuple) else len(examples)
