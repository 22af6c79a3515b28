"""A data set of images and labels or masks, ready for training: what every option of the group `data` returns.

data = ImageData(train=(images, masks), val=(images, masks), num_classes=11, batch_size=32, seed=0)
data.train      # shuffled and augmented batches of float32 images
data.raw("val") # the same order each time, raw pixels: what an exported model takes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from src.common.ranges import Count, enforce_ranges
from src.data.batch import Batch
from src.data.data import Data, DataError, Limit
from src.data.images.transforms import Augment
from src.data.limit import Examples
from src.data.pipeline import as_they_are, every_batch, to_float

Pair: TypeAlias = tuple[np.ndarray, np.ndarray]

# What a run can be of; what refuses the rest is `ImageData.check`, `Augment.check` and `preflight.shape_problem`.
UNDERSTOOD = (
    "What is understood: images [n, height, width, channels], uint8 or floats in [0, 1], or features [n, ...], finite "
    "floats of another rank; an integer label of each [n], or of each pixel [n, height, width], 0 to num_classes - 1 "
    "with num_classes at least 2; and a model that gives one logit for each class, or for two classes a single one. "
    "Data of any other inputs and targets are a src.data.data.Data"
)


@enforce_ranges
class ImageData(Data):
    """Splits of (image, target) examples as batches.

    Args:
        train, val, test: each a tuple of two arrays, images uint8 [n, H, W, C] and integer targets [n] or masks
            [n, H, W]; or a sequence of n pairs (image, target), each read when it is needed, by several threads; or a
            tf.data.Dataset of such pairs, of known length and always in one order. val and test may be None.
        num_classes: targets are 0 to num_classes - 1.
        ignore_label: a target that counts nowhere, outside of the classes; None if there is none.
        limit: the share of the training examples that is used, above 0 to 1: always the same ones, and those of a
            smaller share among those of a larger one.
        batch_size: examples a step.
        seed: decides order and augmentation of the training split, with the epoch.
        class_names: one for each class; their numbers by default.
        transforms: augmentation of the training split by name, see `src.data.images.transforms`; None leaves one out.
        shuffle: whether epochs are permuted.

    Raises:
        ValueError: there are not two classes, class_names and num_classes disagree, limit is out of its range, a split
            is empty, or a transform moves pixels and the targets are neither labels nor masks of the images' size.
        DataError: labels of arrays are neither classes nor the ignored one, or examples are no pairs.
    """

    num_classes: int

    def __init__(
        self,
        *,
        train: Examples,
        val: Examples | None = None,
        test: Examples | None = None,
        num_classes: int,
        batch_size: Count,
        seed: int,
        class_names: Sequence[str] | None = None,
        transforms: Mapping[str, Callable | None] = MappingProxyType({}),
        shuffle: bool = True,
        ignore_label: int | None = None,
        limit: Limit | None = None,
    ) -> None:
        if num_classes < 2:
            raise ValueError(
                f"the data has {num_classes} class, which leaves nothing to tell apart; give at least two. "
                "Masks of one kind of object have two, background and it"
            )
        self.ignore_label = ignore_label
        if ignore_label is not None and 0 <= ignore_label < num_classes:
            raise ValueError(f"ignore_label is {ignore_label}, which is one of the {num_classes} classes")
        names = tuple(class_names or map(str, range(num_classes)))
        if len(names) != num_classes:
            raise ValueError(f"{len(names)} class names for {num_classes} classes")
        chosen = {name: transform for name, transform in (transforms or {}).items() if transform is not None}
        self._augment = Augment(chosen, seed=seed) if chosen else None
        super().__init__(
            train=train,
            val=val,
            test=test,
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            limit=limit,
            class_names=names,
        )

    def check_examples(self) -> None:
        for name, examples in self._examples.items():
            spec = self.stored_spec(name)
            if isinstance(examples, tuple) and not self._not_understood(*spec):
                self.count_labels(examples[1], f"the {name} split has")
        if self._augment:
            self._augment.check(*self.stored_spec("train"))

    def prepare(self, inputs: tf.Tensor) -> tf.Tensor:
        return to_float(inputs)

    def augment(self, images: tf.Tensor, targets: tf.Tensor, epoch: tf.Tensor, index: tf.Tensor) -> Batch:
        return self._augment(images, targets, epoch, index) if self._augment else (images, targets)

    def look(self, name: str, inputs: tf.Tensor) -> tf.Tensor:
        if not inputs.dtype.is_floating:
            return inputs
        good = (inputs >= 0) & (inputs <= 1) if inputs.shape.rank == 4 else tf.math.is_finite(inputs)
        told = f"the {name} split has other inputs. {UNDERSTOOD}"
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(good), [told])]):
            return tf.identity(inputs)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image."""
        return tuple(self.train.element_spec[0].shape[1:])

    def stored_spec(self, name: str) -> tuple[tf.TensorSpec, tf.TensorSpec]:
        """Of a split's images and targets as they are stored, the batch dimension None.

        Raises:
            ValueError: there is no such split.
            DataError: its examples are no pairs of single tensors.
        """
        parts = super().stored_spec(name)
        if not (
            isinstance(parts, tuple) and len(parts) == 2 and all(isinstance(part, tf.TensorSpec) for part in parts)
        ):
            raise DataError(f"an example of the {name} split is {parts}. {UNDERSTOOD}")
        return parts

    def check(self) -> None:
        """Look at what a model would be given: shapes and dtypes; the values of arrays, else of each first batch.

        Raises:
            DataError: it is nothing that is understood, or a label is neither a class nor the ignored one.
        """
        specs = {name: self.stored_spec(name) for name in self.splits()}
        for name, (images, targets) in specs.items():
            if reason := self._not_understood(images, targets) or _differing(specs["train"], (images, targets)):
                raise DataError(
                    f"the {name} split has inputs {_described(images)} and targets {_described(targets)}: {reason}. "
                    f"{UNDERSTOOD}"
                )
        for name in specs:
            values = self._examples[name]
            if not isinstance(values, tuple):
                batches = self._batches(name, as_they_are, is_looked_at=False)
                values = tuple(part.numpy() for part in next(every_batch(batches)))
                self.count_labels(values[1], f"the first batch of the {name} split has")
            if specs[name][0].dtype.is_floating:
                low, high = float(values[0].min()), float(values[0].max())  # NaN where one is
                if not (0 <= low <= high <= 1 if values[0].ndim == 4 else -math.inf < low <= high < math.inf):
                    raise DataError(f"the {name} split has inputs from {low:g} to {high:g}. {UNDERSTOOD}")

    @staticmethod
    def _not_understood(images: tf.TensorSpec, targets: tf.TensorSpec) -> str | None:
        rank, size = images.shape.rank, images.shape[1:3] if images.shape.rank == 4 else None
        if images.dtype == tf.uint8 and rank != 4:
            return "uint8 stands for the pixels of images, which have four axes"
        if images.dtype != tf.uint8 and not images.dtype.is_floating:
            return f"{images.dtype.name} is neither pixels nor features"
        if rank is None or rank < 2:
            return "inputs need an axis of features, or of height, width and channels"
        if not targets.dtype.is_integer:
            return f"{targets.dtype.name} targets are no class numbers"
        shapes = [[None], [None, 1]] + ([[None, *size], [None, *size, 1]] if size else [])
        if not any(targets.shape.is_compatible_with(shape) for shape in shapes):
            return "targets of this shape are neither labels nor masks of the images' size"
        return None


def label_dtype(num_classes: int, ignore_label: int | None, *, is_mask: bool) -> np.dtype:
    """The smallest of uint8 and int32 that holds all labels of masks; int32 for those of images."""
    ends = (num_classes - 1, ignore_label or 0)
    return np.dtype(np.uint8 if is_mask and min(ends) >= 0 and max(ends) <= 255 else np.int32)


def _differing(train: tuple[tf.TensorSpec, ...], other: tuple[tf.TensorSpec, ...]) -> str | None:
    same = train[0].dtype == other[0].dtype and all(
        a.shape.is_compatible_with(b.shape) for a, b in zip(train, other, strict=True)
    )
    return None if same else f"the train split has {' and '.join(map(_described, train))}"


def _described(spec: tf.TensorSpec) -> str:
    return f"{spec.dtype.name} [{', '.join(['n', *('?' if size is None else str(size) for size in spec.shape[1:])])}]"
