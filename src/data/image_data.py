"""A data set of images and labels or masks, ready for training: what every option of the group `data` returns.

data = ImageData(train=(images, masks), val=(images, masks), num_classes=11, batch_size=32, seed=0)
data.train      # shuffled and augmented batches of float32 images
data.raw("val") # the same order each time, raw pixels: what an exported model takes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from src.data.pipeline import Batches, InMemory, Prepare, Stream, to_float
from src.data.transforms import Augment

Examples: TypeAlias = tuple[np.ndarray, np.ndarray] | tf.data.Dataset
SPLITS = ("train", "val", "test")


class ImageData:
    """Splits of (image, target) examples as batches.

    Args:
        train, val, test: each two arrays, images uint8 [n, H, W, C] and integer targets [n] or masks [n, H, W]; or a
            tf.data.Dataset of such single examples, of known length and always in one order; val and test may be None.
        num_classes: targets are 0 to num_classes - 1.
        batch_size: examples a step.
        seed: decides order and augmentation of the training split, with the epoch.
        class_names: one for each class; their numbers by default.
        transforms: augmentation of the training split by name, see `src.data.transforms`; None leaves one out.
        shuffle: whether epochs are permuted.

    Raises:
        ValueError: class_names and num_classes disagree, or a split is empty.
    """

    def __init__(
        self,
        *,
        train: Examples,
        val: Examples | None = None,
        test: Examples | None = None,
        num_classes: int,
        batch_size: int,
        seed: int,
        class_names: Sequence[str] | None = None,
        transforms: Mapping[str, Callable | None] = MappingProxyType({}),
        shuffle: bool = True,
    ) -> None:
        self.num_classes = num_classes
        self.class_names = tuple(class_names or map(str, range(num_classes)))
        if len(self.class_names) != num_classes:
            raise ValueError(f"{len(self.class_names)} class names for {num_classes} classes")
        self._examples = dict(zip(SPLITS, (train, val, test), strict=True))
        self._batch_size = batch_size
        chosen = {name: transform for name, transform in (transforms or {}).items() if transform is not None}
        augment = Augment(chosen, seed=seed)

        def prepare_train(images, targets, epoch, index):
            return augment(to_float(images), targets, epoch, index)

        self.train = self._batches("train", prepare_train if chosen else _prepare, seed if shuffle else None)
        self.val = None if val is None else self._batches("val", _prepare)
        self.test = None if test is None else self._batches("test", _prepare)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image."""
        return tuple(self.train.element_spec[0].shape[1:])

    def are_scores(self, outputs: tf.TensorShape) -> bool:
        """Whether outputs of this shape are class scores: [n, classes] for labels, [n, H, W, classes] for masks."""
        targets = self.train.element_spec[1]
        known = targets.dtype.is_integer and targets.shape.rank in (1, 3)
        return known and len(outputs) == targets.shape.rank + 1 and outputs[-1] == self.num_classes >= 2

    def split(self, name: str) -> Batches:
        """The split's batches as the model takes them.

        Raises:
            ValueError: there is no such split.
        """
        self._check(name)
        return getattr(self, name)

    def raw(self, name: str) -> Batches:
        """The split's batches in their stored order, images as raw uint8 pixels.

        Raises:
            ValueError: there is no such split.
        """
        self._check(name)
        return self._batches(name, None)

    def _check(self, name: str) -> None:
        there = [split for split, examples in self._examples.items() if examples is not None]
        if name not in there:
            raise ValueError(f"split is {name!r}; this data has {', '.join(there)}")

    def _batches(self, name: str, prepare: Prepare | None, shuffle_seed: int | None = None) -> Batches:
        examples = self._examples[name]
        assert examples is not None
        if isinstance(examples, tf.data.Dataset):
            return _stream(examples, self._batch_size, shuffle_seed, prepare or _as_they_are)
        images, targets = examples
        return InMemory(images, targets, batch_size=self._batch_size, shuffle_seed=shuffle_seed, prepare=prepare)


def _prepare(images, targets, epoch, index):
    return to_float(images), targets


def _as_they_are(images, targets, epoch, index):
    return images, targets


def _stream(examples: tf.data.Dataset, batch_size: int, shuffle_seed: int | None, prepare: Prepare) -> Stream:
    """Batches of a data set too large for memory; a buffer of 4,096 examples is shuffled anew each epoch."""
    count = int(examples.cardinality())
    if count < 1:
        raise ValueError("a streamed split needs a known number of examples, at least 1")

    def make(epoch: int) -> tf.data.Dataset:
        numbered = examples.enumerate()
        if shuffle_seed is not None:
            seed = int(np.random.default_rng([shuffle_seed, epoch]).integers(2**31))
            numbered = numbered.shuffle(min(count, 4096), seed=seed, reshuffle_each_iteration=False)
        batches = numbered.batch(batch_size)
        epoch_number = tf.constant(epoch, tf.int32)
        return batches.map(
            lambda index, pair: prepare(pair[0], pair[1], epoch_number, tf.cast(index, tf.int32)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        ).prefetch(2)

    return Stream(make, steps_per_epoch=-(-count // batch_size))
