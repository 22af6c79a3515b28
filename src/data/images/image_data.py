"""A data set of images and labels or masks, ready for training: what every option of the group `data` returns.

data = ImageData(train=(images, masks), val=(images, masks), num_classes=11, batch_size=32, seed=0)
data.train      # shuffled and augmented batches of float32 images
data.raw("val") # the same order each time, raw pixels: what an exported model takes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.autograph.experimental import do_not_convert

from src.common.ranges import Count, Range, enforce_ranges
from src.data.data import SPLITS, DataError
from src.data.images.transforms import Augment
from src.data.pipeline import Batches, First, InMemory, Lazy, Prepare, Stream, as_they_are, to_float

Limit = Annotated[float, Range(0, 1, above=True)]  # the share of the training examples

Pair: TypeAlias = tuple[np.ndarray, np.ndarray]
Examples: TypeAlias = Pair | Sequence[Pair] | tf.data.Dataset

# What a run can be of; what refuses the rest is `ImageData.check`, `Augment.check` and `preflight.shape_problem`.
UNDERSTOOD = (
    "What is understood: images [n, height, width, channels], uint8 or floats in [0, 1], or features [n, ...], finite "
    "floats of another rank; an integer label of each [n], or of each pixel [n, height, width], 0 to num_classes - 1 "
    "with num_classes at least 2; and a model that gives one logit for each class"
)


@enforce_ranges
class ImageData:
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
        self.num_classes, self.ignore_label = num_classes, ignore_label
        if ignore_label is not None and 0 <= ignore_label < num_classes:
            raise ValueError(f"ignore_label is {ignore_label}, which is one of the {num_classes} classes")
        self.class_names = tuple(class_names or map(str, range(num_classes)))
        if len(self.class_names) != num_classes:
            raise ValueError(f"{len(self.class_names)} class names for {num_classes} classes")
        train = share_of(train, limit)
        self._examples = dict(zip(SPLITS, (train, val, test), strict=True))
        self._batch_size, self._shuffle_seed = batch_size, seed if shuffle else None
        for name in self._there():
            spec, examples = self.stored_spec(name), self._examples[name]
            if isinstance(examples, tuple) and not self._not_understood(*spec):
                self._check_labels(examples[1], f"the {name} split has")
        chosen = {name: transform for name, transform in (transforms or {}).items() if transform is not None}
        augment = Augment(chosen, seed=seed)
        augment.check(*self.stored_spec("train"))

        def prepare_train(images, targets, epoch, index):
            return augment(to_float(images), targets, epoch, index)

        self.train = self._batches("train", prepare_train if chosen else _prepare, self._shuffle_seed)
        self.val = None if val is None else self._batches("val", _prepare)
        self.test = None if test is None else self._batches("test", _prepare)

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
        self._check(name)
        examples: Any = self._examples[name]
        if isinstance(examples, tuple):
            return tuple(tf.TensorSpec([None, *part.shape[1:]], part.dtype) for part in examples)
        is_dataset = isinstance(examples, tf.data.Dataset)
        parts = examples.element_spec if is_dataset else tuple(map(np.asarray, examples[0]))
        if not (
            isinstance(parts, tuple)
            and len(parts) == 2
            and all(isinstance(part, tf.TensorSpec | np.ndarray) for part in parts)
        ):
            raise DataError(f"an example of the {name} split is {parts}. {UNDERSTOOD}")
        return tuple(tf.TensorSpec(tf.TensorShape([None]).concatenate(part.shape), part.dtype) for part in parts)

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

    def unaugmented(self) -> Batches:
        """The training split's batches in the same order, without augmentation."""
        return self._batches("train", _prepare, self._shuffle_seed)

    def count(self, name: str) -> int:
        """The number of the split's examples.

        Raises:
            ValueError: there is no such split.
        """
        self._check(name)
        return _length(self._examples[name])

    def is_in_memory(self, name: str) -> bool:
        """Whether the split is held as arrays; else it is read whenever it is needed."""
        return isinstance(self._examples[name], tuple)

    def check(self) -> None:
        """Look at what a model would be given: shapes and dtypes; the values of arrays, else of each first batch.

        Raises:
            DataError: it is nothing that is understood, or a label is neither a class nor the ignored one.
        """
        specs = {name: self.stored_spec(name) for name in self._there()}
        for name, (images, targets) in specs.items():
            if reason := self._not_understood(images, targets) or _differing(specs["train"], (images, targets)):
                raise DataError(
                    f"the {name} split has inputs {_described(images)} and targets {_described(targets)}: {reason}. "
                    f"{UNDERSTOOD}"
                )
        for name in specs:
            values = self._examples[name]
            if not isinstance(values, tuple):
                batches = self._unlooked_at(name, as_they_are)
                values = tuple(part.numpy() for part in batches.next(batches.open(0, 0), tf.constant(0)))
                self._check_labels(values[1], f"the first batch of the {name} split has")
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

    def class_shares(self, batches: Batches | None = None) -> np.ndarray:
        """The share of each class among the targets that count: float64 [num_classes]; reads them once.

        Args:
            batches: of which, by default the training split's.
        """
        batches, counts = batches or self.raw("train"), np.zeros(self.num_classes, np.int64)
        cursor = batches.open(0, 0)
        for step in range(batches.steps_per_epoch):
            targets = batches.next(cursor, tf.constant(step))[1].numpy().astype(np.int64).reshape(-1)
            self._check_labels(targets, "the train split has")
            counts += np.bincount(targets[targets != self.ignore_label], minlength=self.num_classes)
        return counts / max(counts.sum(), 1)

    def balanced_class_weights(self) -> list[float]:
        """Weights that make all classes of the training split count alike: 1 / (classes x share), or 0 for want of any.

        As scikit-learn's class_weight="balanced".
        """
        shares = self.class_shares()
        occurring = int((shares > 0).sum())
        return [float(1 / (occurring * share)) if share else 0.0 for share in shares]

    def limit_batches(self, *, train: int | None = None, val: int | None = None) -> None:
        """Use only the first batches of each epoch, of the training or of the val split."""
        if train is not None:
            self.train = First(self.train, steps=train)
        if val is not None and self.val is not None:
            self.val = First(self.val, steps=val)

    def overfit(self, *, batches: int) -> None:
        """Train on the first batches of the training split alone, as they are stored, and validate on them."""
        self.train = self.val = First(self._batches("train", _prepare), steps=batches)

    def _check_labels(self, targets: np.ndarray, what: str) -> None:
        counted = targets if self.ignore_label is None else targets[targets != self.ignore_label]
        low, high = (int(counted.min()), int(counted.max())) if counted.size else (0, 0)
        if low < 0 or high >= self.num_classes:
            ignored = "" if self.ignore_label is None else f", or {self.ignore_label}, which is ignored"
            raise DataError(
                f"{what} labels from {low} to {high}; with class count {self.num_classes} they must be "
                f"0 to {self.num_classes - 1}{ignored}. Mend the labels, or name all classes"
                + (", or ignore one with ignore_label" if self.ignore_label is None else "")
            )

    def _check(self, name: str) -> None:
        if name not in self._there():
            raise ValueError(f"split is {name!r}; this data has {', '.join(self._there())}")

    def _there(self) -> list[str]:
        return [name for name, examples in self._examples.items() if examples is not None]

    def _batches(self, name: str, prepare: Prepare | None, shuffle_seed: int | None = None) -> Batches:
        if not self.is_in_memory(name) and self.stored_spec(name)[0].dtype.is_floating:
            prepare = _looked_at(prepare or as_they_are, f"the {name} split")
        return self._unlooked_at(name, prepare, shuffle_seed)

    def _unlooked_at(self, name: str, prepare: Prepare | None, shuffle_seed: int | None = None) -> Batches:
        examples = self._examples[name]
        assert examples is not None
        if isinstance(examples, tf.data.Dataset):
            return _stream(examples, self._batch_size, shuffle_seed, prepare or as_they_are)
        if not isinstance(examples, tuple):
            return Lazy(examples, batch_size=self._batch_size, shuffle_seed=shuffle_seed, prepare=prepare)
        images, targets = examples
        return InMemory(images, targets, batch_size=self._batch_size, shuffle_seed=shuffle_seed, prepare=prepare)


class _Subset(Sequence):
    """Some of a sequence's examples."""

    def __init__(self, examples: Sequence[Pair], chosen: np.ndarray) -> None:
        self._examples, self._chosen = examples, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index):
        return self._examples[int(self._chosen[index])]


def label_dtype(num_classes: int, ignore_label: int | None, *, is_mask: bool) -> np.dtype:
    """The smallest of uint8 and int32 that holds all labels of masks; int32 for those of images."""
    ends = (num_classes - 1, ignore_label or 0)
    return np.dtype(np.uint8 if is_mask and min(ends) >= 0 and max(ends) <= 255 else np.int32)


def share_of(examples: Examples, limit: float | None) -> Examples:
    """A share of the examples in their order, at least one; None is all of them."""
    if limit is None or limit == 1:
        return examples
    count = _length(examples)
    chosen = np.sort(np.random.default_rng(0).permutation(count)[: math.ceil(round(limit * count, 6))])
    if isinstance(examples, tuple):
        return examples[0][chosen], examples[1][chosen]
    if not isinstance(examples, tf.data.Dataset):
        return _Subset(examples, chosen)
    is_chosen = np.zeros(count, bool)
    is_chosen[chosen] = True
    kept = tf.data.Dataset.zip(tf.data.Dataset.from_tensor_slices(is_chosen), examples)
    kept = kept.filter(do_not_convert(lambda is_kept, pair: is_kept))
    kept = kept.map(do_not_convert(lambda is_kept, pair: pair))
    return kept.apply(tf.data.experimental.assert_cardinality(len(chosen)))


def _differing(train: tuple[tf.TensorSpec, ...], other: tuple[tf.TensorSpec, ...]) -> str | None:
    same = train[0].dtype == other[0].dtype and all(
        a.shape.is_compatible_with(b.shape) for a, b in zip(train, other, strict=True)
    )
    return None if same else f"the train split has {' and '.join(map(_described, train))}"


def _described(spec: tf.TensorSpec) -> str:
    return f"{spec.dtype.name} [{', '.join(['n', *('?' if size is None else str(size) for size in spec.shape[1:])])}]"


def _length(examples: Examples) -> int:
    return len(examples[0]) if isinstance(examples, tuple) else len(examples)


def _prepare(images, targets, epoch, index):
    return to_float(images), targets


def _looked_at(prepare: Prepare, split: str) -> Prepare:
    """Floats that are only read when they are needed are looked at then, as `ImageData.check` does at first."""

    def looked_at(images, targets, epoch, index):
        good = (images >= 0) & (images <= 1) if images.shape.rank == 4 else tf.math.is_finite(images)
        looked = tf.debugging.Assert(tf.reduce_all(good), [f"{split} has other inputs. {UNDERSTOOD}"])
        with tf.control_dependencies([looked]):
            return prepare(tf.identity(images), targets, epoch, index)

    return looked_at


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
            do_not_convert(lambda index, pair: prepare(pair[0], pair[1], epoch_number, tf.cast(index, tf.int32))),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        ).prefetch(2)

    return Stream(make, steps_per_epoch=-(-count // batch_size))
