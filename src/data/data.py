"""Splits of examples of any kind, as batches: what a run is trained, validated and tested on.

data = Data(train=({"age": ages, "kind": kinds}, labels), val=..., batch_size=32, seed=0, facts={"num_classes": 2})
data.train          # batches in an order that is the seed's and the epoch's, as the model takes them
data.raw("val")     # the same order each time, as they are stored: what an exported model takes

`src.data.images.image_data.ImageData` is the kind whose inputs are images.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
import tensorflow as tf

from src.common.ranges import Count, Range, enforce_ranges
from src.data import SPLITS
from src.data.batch import INPUTS, Batch, Nest, batch_spec_of, leaf_names, named_parts, told_apart
from src.data.limit import Examples, length, share_of
from src.data.pipeline import (
    Batches,
    First,
    InMemory,
    Lazy,
    Prepare,
    as_examples,
    as_they_are,
    every_batch,
    is_repeatable,
    shuffled_stream,
)
from src.data.prepared import Prepared

log = logging.getLogger(__name__)

Limit = Annotated[float, Range(0, 1, above=True)]  # the share of the training examples


class DataError(ValueError):
    """The files of a data set are not as they must be; the message says which, why, and the way out."""


@enforce_ranges
class Data:
    """Splits of examples (inputs, targets, weights) as batches; the last two may be left out, each is any nest.

    A kind of data is a class of this one that overrides what stands under "What a kind of data overrides".

    Args:
        train, val, test: each a tuple of nests of arrays or ragged tensors [n, ...]; or a sequence of n tuples of nests
            of arrays, each read when it is needed, by several threads; or a tf.data.Dataset of such tuples, of known
            length and always in one order; or batches, as `as_batches` makes of a tf.data.Dataset of batches, whose
            examples and order are taken as they are, whatever batch_size and shuffle are. val and test may be None.
        batch_size: examples a step.
        seed: decides order and augmentation of the training split, with the epoch.
        shuffle: whether epochs are permuted.
        limit: the share of the training examples that is used, above 0 to 1: always the same ones, and those of a
            smaller share among those of a larger one.
        class_names: where targets are numbers of classes, 0 to their number - 1, or a column of 0 or 1 for each class,
            any number of which may be 1; none where targets are something else.
        facts: what options may refer to as `${run.<name>}`, by names that conf/train.yaml has under `run`.

    Attributes:
        train, val, test: batches as the model takes them; None where there is no such split.
        num_classes: None where targets are no classes.

    Raises:
        ValueError: a split is empty or of unknown length, its parts differ in length, limit is out of its range or
            given for batches, or a class's name is none, see `told_apart`.
    """

    num_classes: int | None
    ignore_label: int | None = None

    def __init__(
        self,
        *,
        train: Examples,
        val: Examples | None = None,
        test: Examples | None = None,
        batch_size: Count,
        seed: int,
        shuffle: bool = True,
        limit: Limit | None = None,
        class_names: Sequence[str] = (),
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.class_names = told_apart(class_names)
        self.num_classes = len(self.class_names) or None
        examples = dict(zip(SPLITS, map(as_examples, (train, val, test)), strict=True))
        self._examples = {name: given for name, given in examples.items() if given is not None}
        self._examples["train"] = share_of(examples["train"], limit)
        self._batch_size, self._shuffle_seed, self._facts = batch_size, seed if shuffle else None, facts
        self.check_examples()
        self.train: Batches = self._batches("train", self._augmented, self._shuffle_seed)
        self.val = self._batches("val", self._prepared) if "val" in self._examples else None
        self.test = self._batches("test", self._prepared) if "test" in self._examples else None

    @property
    def facts(self) -> dict[str, Any]:
        """What options may refer to as `${run.<name>}`: the shape of an example's inputs, and what was given."""
        shapes = tf.nest.map_structure(lambda spec: list(spec.shape[1:]), self.train.element_spec[0])
        of_classes = {
            "num_classes": self.num_classes,
            "num_outputs": self.num_classes,
            "class_names": list(self.class_names),
            "ignore_label": self.ignore_label,
        }
        return {"input_shape": shapes, **of_classes, **self._facts}

    # What a kind of data overrides.

    def prepare(self, inputs: Any) -> Any:
        """Raw inputs, as an exported model takes them, as the model takes them; in a graph."""
        return inputs

    def augment(self, *batch_and_place: Any) -> Batch:
        """A prepared training batch changed at random: a function of what it is given, as `Prepare` is."""
        return batch_and_place[:-2]

    def answers(self, outputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """What an exported model gives beside its outputs, by name, where they are one tensor; in a graph."""
        return {}

    def look(self, name: str, inputs: Any) -> Any:
        """Raw inputs of a split that is not held in memory, after an assertion of what they must be; in a graph."""
        return inputs

    def check_examples(self) -> None:
        """Refuse examples that are not of the kind, before batches are made of them."""

    def check(self) -> None:
        """Look at what a model would be given.

        Raises:
            DataError: a number of arrays is not finite, a target of arrays or of a first batch is no class, there is
                none where classes are named, or two inputs cannot be told apart by their plain names.
        """
        try:
            named_parts(self.stored_spec("train")[0], INPUTS)
        except ValueError as error:
            raise DataError(f"the inputs cannot be exported: {error}") from error
        if self.num_classes and len(self.stored_spec("train")) < 2:
            raise DataError(
                "the data names classes and has no targets: examples and batches are (inputs, targets, weights), and a "
                "dict alone is inputs; map it, as by dataset.map(lambda row: (row['image'], row['label']))"
            )
        for name, examples in self._examples.items():
            if not isinstance(examples, tuple) and self.targets_are_classes:
                first = next(every_batch(self.raw(name)))
                self.count_labels(first[1].numpy(), f"the first batch of the {name} split has")
            if isinstance(examples, tuple):
                for part, held in zip(leaf_names(examples), tf.nest.flatten(examples), strict=True):
                    values = getattr(held, "flat_values", held)
                    dtype = tf.as_dtype(values.dtype)
                    if dtype.is_floating and not np.isfinite(values).all():
                        raise DataError(f"{part} of the {name} split has NaN or an infinite value; take the rows away")
                if self.targets_are_classes:
                    self.count_labels(np.asarray(examples[1]), f"the {name} split has")
        for name, examples in self._examples.items():
            if isinstance(examples, Batches) and not is_repeatable(examples):
                log.warning(
                    "the %s split gives other batches each time that it is opened: an interrupted run goes on, but not "
                    "to the same bits; give what shuffles a seed and reshuffle_each_iteration=False, and what draws "
                    "random numbers a seed",
                    name,
                )

    @property
    def targets_are_classes(self) -> bool:
        """Whether a target is the number of its class, for each example or each of its parts."""
        spec = self.train.element_spec[1] if len(self.train.element_spec) > 1 else None
        return self.num_classes is not None and isinstance(spec, tf.TensorSpec) and spec.dtype.is_integer

    def score(self, outputs: tf.TensorShape) -> Literal["softmax", "sigmoid"] | None:
        """What makes probabilities of outputs of this shape; None where they are no scores of classes.

        The sigmoid is for one logit of two classes, whose second one it scores, and for a logit of each class of which
        any number may be true.
        """
        if self.are_scores(outputs):
            return "softmax"
        is_one = self.num_classes == 2 and outputs[-1] == 1 and self._are_of_classes(outputs)
        targets = self.train.element_spec[1] if len(self.train.element_spec) > 1 else None
        is_like = isinstance(targets, tf.TensorSpec) and targets.shape.is_compatible_with(outputs)
        is_many = self.num_classes and len(outputs) > 1 and outputs[-1] == self.num_classes
        return "sigmoid" if is_one or (is_many and (targets is None or is_like)) else None

    def are_scores(self, outputs: tf.TensorShape) -> bool:
        """Whether outputs of this shape are a score of each class: [n, ..., classes] for targets [n, ...]."""
        return self._are_of_classes(outputs) and outputs[-1] == self.num_classes

    def _are_of_classes(self, outputs: tf.TensorShape) -> bool:
        """Whether targets are classes and outputs have an axis more, or one in place of an axis of 1."""
        shape = self.train.element_spec[1].shape if self.targets_are_classes else tf.TensorShape([])
        return outputs[:-1].is_compatible_with(shape[:-1] if shape[1:][-1:] == [1] else shape) and bool(shape)

    def class_shares(self, batches: Batches | None = None, *, weighted: bool = False) -> np.ndarray:
        """The share of each class among the targets that count: float64 [num_classes]; reads them once.

        Args:
            batches: of which, by default the training split's.
            weighted: whether a target counts as much as its weight, as in metrics, where batches have weights.
        """
        counts = np.zeros(len(self.class_names))
        for batch in every_batch(batches or self.raw("train")):
            targets = batch[1].numpy()
            count = self.count_labels(targets, "the train split has")
            if weighted and len(batch) > 2:
                weights = batch[2].numpy()
                if weights.size == len(targets):  # one an example, [n, 1] too
                    weights = weights.reshape(-1, *[1] * (targets.ndim - 1))
                weights = np.broadcast_to(weights, targets.shape)
                counts += [weights[targets == number].sum(dtype=float) for number in range(len(counts))]
            else:
                counts += count
        return counts / (counts.sum() or 1)

    def balanced_class_weights(self) -> list[float]:
        """Weights that make all classes of the training split count alike: 1 / (classes x share), or 0 for want of any.

        As scikit-learn's class_weight="balanced".
        """
        shares = self.class_shares()
        occurring = int((shares > 0).sum())
        return [float(1 / (occurring * share)) if share else 0.0 for share in shares]

    def count_labels(self, targets: np.ndarray, what: str) -> np.ndarray:
        """How often each class occurs among targets: int64 [num_classes]; those of ignore_label do not count.

        Args:
            what: what has them, for the message.

        Raises:
            DataError: one is neither a class nor the ignored one.
        """
        counted = targets.reshape(-1) if self.ignore_label is None else targets[targets != self.ignore_label]
        low, high = (int(counted.min()), int(counted.max())) if counted.size else (0, 0)
        if low < 0 or high >= len(self.class_names):
            ignored = "" if self.ignore_label is None else f", or {self.ignore_label}, which is ignored"
            raise DataError(
                f"{what} labels from {low} to {high}; with class count {len(self.class_names)} they must be "
                f"0 to {len(self.class_names) - 1}{ignored}. Mend the labels, or name all classes"
                + (", or ignore one with ignore_label" if self.ignore_label is None else "")
            )
        return np.bincount(counted.astype(np.int64), minlength=len(self.class_names))

    # Splits.

    def splits(self) -> list[str]:
        """The names of those that are there."""
        return list(self._examples)

    def split(self, name: str) -> Batches:
        """The split's batches as the model takes them.

        Raises:
            ValueError: there is no such split.
        """
        self._stored(name)
        return getattr(self, name)

    def raw(self, name: str) -> Batches:
        """The split's batches in their stored order, as they are stored.

        Raises:
            ValueError: there is no such split.
        """
        return self._batches(name, as_they_are)

    def prepared(self, name: str) -> Batches:
        """The split's batches in their stored order, as the model takes them.

        Raises:
            ValueError: there is no such split.
        """
        return self._batches(name, self._prepared)

    def inputs(self, name: str) -> Nest:
        """All inputs of a split as the model takes them, as tensors [n, ...], in their stored order; reads it once.

        Raises:
            ValueError: there is no such split.
        """
        parts = [batch[0] for batch in every_batch(self.prepared(name))]
        return tf.nest.map_structure(lambda *tensors: tf.concat(tensors, 0), *parts)

    def target_scale(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each of the training targets' numbers; 1 in place of 0. Reads them once."""
        targets = np.concatenate([batch[1].numpy() for batch in every_batch(self.raw("train"))])
        mean, deviation = scale_of(targets.reshape(len(targets), -1))
        return mean.tolist(), deviation.tolist()

    def unaugmented(self) -> Batches:
        """The training split's batches in the same order, without augmentation."""
        return self._batches("train", self._prepared, self._shuffle_seed)

    def count(self, name: str) -> int:
        """The number of the split's examples; of batches that are taken as they are, theirs.

        Raises:
            ValueError: there is no such split.
        """
        return length(self._stored(name))

    def is_in_memory(self, name: str) -> bool:
        """Whether the split is held as arrays; else it is read whenever it is needed."""
        return isinstance(self._stored(name), tuple)

    def stored_spec(self, name: str) -> Any:
        """Of a split's batches as they are stored, the batch dimension None.

        Raises:
            ValueError: there is no such split.
        """
        examples = self._stored(name)
        if isinstance(examples, tuple):
            return batch_spec_of(examples)
        if isinstance(examples, tf.data.Dataset):
            return batch_spec_of(examples.batch(1).element_spec)
        if isinstance(examples, Batches):
            return examples.element_spec
        return batch_spec_of(tf.nest.map_structure(lambda part: tf.constant(part)[None], tuple(examples[0])))

    def limit_batches(self, *, train: int | None = None, val: int | None = None) -> None:
        """Use only the first batches of each epoch, of the training or of the val split."""
        if train is not None:
            self.train = First(self.train, steps=train)
        if val is not None and self.val is not None:
            self.val = First(self.val, steps=val)

    def overfit(self, *, batches: int) -> None:
        """Train on the first batches of the training split alone, as they are stored, and validate on them."""
        self.train = self.val = First(self._batches("train", self._prepared), steps=batches)

    def _stored(self, name: str) -> Any:
        if name not in self._examples:
            raise ValueError(f"split is {name!r}; this data has {', '.join(self._examples)}")
        return self._examples[name]

    def _prepared(self, inputs: Any, *others: Any) -> Batch:
        return (self.prepare(inputs), *others[:-2])

    def _augmented(self, *batch_and_place: Any) -> Batch:
        return self.augment(*self._prepared(*batch_and_place), *batch_and_place[-2:])

    def _batches(
        self, name: str, prepare: Prepare, shuffle_seed: int | None = None, *, is_looked_at: bool = True
    ) -> Batches:
        examples = self._stored(name)
        if isinstance(examples, tuple):
            return InMemory(*examples, batch_size=self._batch_size, shuffle_seed=shuffle_seed, prepare=prepare)

        def looked_at(inputs: Any, *others: Any) -> Batch:
            return prepare(self.look(name, inputs) if is_looked_at else inputs, *others)

        if isinstance(examples, Batches):
            is_plain = type(self).prepare is Data.prepare and type(self).augment is Data.augment
            return examples if is_plain or prepare is as_they_are else Prepared(examples, looked_at)
        if isinstance(examples, tf.data.Dataset):
            return shuffled_stream(examples, self._batch_size, shuffle_seed, looked_at)
        return Lazy(examples, batch_size=self._batch_size, shuffle_seed=shuffle_seed, prepare=looked_at)


def scale_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column of [n, k], float64 [k]; 1 in place of the deviation of a constant."""
    values = values.astype(np.float64)
    return values.mean(0), np.where(np.ptp(values, axis=0) > 0, values.std(0), 1.0)
