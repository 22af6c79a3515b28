"""Batches as a pure function of (seed, epoch, index), drawn inside the training graph.

    train = InMemory(images, labels, batch_size=32, shuffle_seed=0, augment=Augment({"shift": shift}, seed=0))
    train = Lazy(pairs, batch_size=32, shuffle_seed=0)      # read when they are needed
    train = Stream(lambda epoch: dataset_of_batches, steps_per_epoch=63)
    train = as_batches(any_tf_data_dataset_of_batches)

Since the position in the data is one number, the step, a resumed run needs no iterator state: `open(epoch, step)`
goes there. All kinds deliver (inputs, targets) with a batch dimension; the last batch of an epoch may be shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from tensorflow.autograph.experimental import do_not_convert

from src.common.ranges import Count, enforce_ranges

Prepare = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class Batches(Protocol):
    """What the trainer needs of a split.

    Attributes:
        steps_per_epoch: batches an epoch, the short last one included.
        element_spec: (inputs, targets) as tf.TensorSpec, the batch dimension None.
    """

    steps_per_epoch: int
    element_spec: tuple[tf.TensorSpec, tf.TensorSpec]

    def open(self, epoch: int, step: int) -> Any:
        """A cursor for the epoch (from 0), at its batch number `step`: a value that a tf.function takes."""

    def next(self, cursor: Any, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The batch at `step` (int32 []) of the cursor's epoch; called inside a graph, in order."""


@enforce_ranges
class InMemory:
    """A split held as two tensors and gathered by index inside the graph.

    Args:
        inputs: uint8 or float [n, ...].
        targets: any dtype, [n, ...].
        batch_size: examples a step.
        shuffle_seed: orders each epoch by a permutation of (shuffle_seed, epoch); None keeps the order.
        prepare: called in the graph as prepare(inputs, targets, epoch int32 [], index int32 [b]), as `to_float`.

    Raises:
        ValueError: no examples, lengths that differ, or a batch size below 1.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        *,
        batch_size: Count,
        shuffle_seed: int | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        if len(inputs) != len(targets) or not len(inputs):
            raise ValueError(f"{len(inputs)} inputs and {len(targets)} targets: both need the same number, at least 1")
        self.examples = len(inputs)
        self.batch_size = batch_size
        self.steps_per_epoch = -(-self.examples // batch_size)
        self._shuffle_seed = shuffle_seed
        self._prepare = prepare or as_they_are
        with tf.device("CPU"):
            # A copy: what tf.constant gives keeps a second one of the array for itself.
            self._inputs, self._targets = tf.identity(tf.constant(inputs)), tf.identity(tf.constant(targets))
        self.element_spec = batch_spec(self._prepare, self._inputs, self._targets)

    def order(self, epoch: int) -> np.ndarray:
        """The indices of the epoch's examples in their order: int32 [examples]."""
        return epoch_order(self.examples, self._shuffle_seed, epoch)

    def open(self, epoch: int, step: int) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.constant(self.order(epoch)), tf.constant(epoch, tf.int32)

    def next(self, cursor: tuple[tf.Tensor, tf.Tensor], step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        order, epoch = cursor
        index = order[step * self.batch_size : (step + 1) * self.batch_size]
        return self._prepare(tf.gather(self._inputs, index), tf.gather(self._targets, index), epoch, index)


@enforce_ranges
class Lazy:
    """A split whose examples are read one by one when they are needed, in the same order as an InMemory one.

    Args:
        examples: a sequence of pairs (inputs [...], target [...]) of arrays, all of the same shapes and dtypes; read
            by several threads at once.
        batch_size, shuffle_seed, prepare: as InMemory's.

    Attributes:
        failure: what reading an example has raised, if anything.

    Raises:
        ValueError: no examples, or a batch size below 1.
    """

    def __init__(
        self,
        examples: Sequence[tuple[np.ndarray, np.ndarray]],
        *,
        batch_size: Count,
        shuffle_seed: int | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        if not len(examples):
            raise ValueError("there are no examples; at least 1 is needed")
        self.failure: Exception | None = None
        self._read, self.examples, self.batch_size = examples.__getitem__, len(examples), batch_size
        self.steps_per_epoch = -(-self.examples // batch_size)
        self._shuffle_seed, self._prepare = shuffle_seed, prepare or as_they_are
        self._parts = [tf.constant(part) for part in examples[0]]
        self.element_spec = batch_spec(self._prepare, *(part[None] for part in self._parts))

    def open(self, epoch: int, step: int) -> tf.data.Iterator:
        order = epoch_order(self.examples, self._shuffle_seed, epoch)[step * self.batch_size :]
        number = tf.constant(epoch, tf.int32)

        @do_not_convert
        def read(index: tf.Tensor) -> tuple[tf.Tensor, ...]:
            parts = tf.numpy_function(self._arrays, [index], [part.dtype for part in self._parts], stateful=False)
            return (index, *(tf.ensure_shape(x, part.shape) for x, part in zip(parts, self._parts, strict=True)))

        @do_not_convert
        def prepare(index: tf.Tensor, inputs: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return self._prepare(inputs, targets, number, index)

        parallel: dict[str, Any] = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
        examples = tf.data.Dataset.from_tensor_slices(order).map(read, **parallel)
        return iter(examples.batch(self.batch_size).map(prepare, **parallel).prefetch(2))

    def next(self, cursor: tf.data.Iterator, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return next(cursor)

    def _arrays(self, index: np.ndarray) -> list[np.ndarray]:
        try:
            parts = zip(self._read(int(index)), self._parts, strict=True)
            return [np.asarray(x, part.dtype.as_numpy_dtype) for x, part in parts]
        except Exception as error:  # which TensorFlow buries in a traceback of its own
            self.failure = error
            raise


class Stream:
    """A split read through tf.data, for what does not fit in memory.

    Args:
        make: the dataset of batches (inputs, targets) of an epoch (from 0), the same each time it is called.
        steps_per_epoch: its number of batches.
    """

    def __init__(self, make: Callable[[int], tf.data.Dataset], *, steps_per_epoch: int) -> None:
        self._make = make
        self.steps_per_epoch = steps_per_epoch
        self.element_spec = tuple(tf.TensorSpec([None, *spec.shape[1:]], spec.dtype) for spec in make(0).element_spec)

    def open(self, epoch: int, step: int) -> tf.data.Iterator:
        return iter(self._make(epoch).skip(step))

    def next(self, cursor: tf.data.Iterator, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return next(cursor)


class First:
    """The first `steps` batches of each epoch of another split."""

    def __init__(self, batches: Batches, *, steps: int) -> None:
        self.steps_per_epoch = min(steps, batches.steps_per_epoch)
        self.element_spec, self.open, self.next = batches.element_spec, batches.open, batches.next
        self._batches = batches

    @property
    def failure(self) -> Exception | None:
        """As of the other split."""
        return failure(self._batches)


def failure(batches: Batches) -> Exception | None:
    """What was raised where examples were read outside of TensorFlow; None if nothing was."""
    return getattr(batches, "failure", None)


@contextmanager
def errors_of_reading(batches: Batches) -> Iterator[None]:
    """What the reading of an example raised is raised as it is, and not as TensorFlow wraps it."""
    try:
        yield
    except tf.errors.OpError:
        if (error := failure(batches)) is None:
            raise
        raise error from None


def epoch_order(examples: int, shuffle_seed: int | None, epoch: int) -> np.ndarray:
    """The indices of an epoch's examples in their order: int32 [examples]; None does not shuffle."""
    if shuffle_seed is None:
        return np.arange(examples, dtype=np.int32)
    return np.random.default_rng([shuffle_seed, epoch]).permutation(examples).astype(np.int32)


def as_batches(data: Batches | tf.data.Dataset) -> Batches:
    """Take a tf.data.Dataset of batches (inputs, targets) as it is; each epoch iterates it anew.

    Raises:
        ValueError: its length is not known or infinite, or its elements are not pairs of batched tensors.
    """
    if not isinstance(data, tf.data.Dataset):
        return data
    spec = data.element_spec
    if not (isinstance(spec, tuple) and len(spec) == 2 and all(isinstance(s, tf.TensorSpec) for s in spec)):
        raise ValueError(f"the dataset's elements are {spec}; they must be pairs of tensors (inputs, targets)")
    if not all(s.shape.rank for s in spec):
        raise ValueError(f"the dataset's elements are {spec}; they must be batches of known rank: use dataset.batch(n)")
    steps = int(data.cardinality())
    if steps < 1:
        kind = {tf.data.INFINITE_CARDINALITY: "infinite", tf.data.UNKNOWN_CARDINALITY: "unknown"}.get(steps, "0")
        raise ValueError(
            f"the dataset's number of batches is {kind}; it must be known and at least 1: "
            "use dataset.take(n) or dataset.apply(tf.data.experimental.assert_cardinality(n))"
        )
    return Stream(lambda epoch: data, steps_per_epoch=steps)


def batch_spec(prepare: Prepare, inputs: tf.Tensor, targets: tf.Tensor) -> tuple[tf.TensorSpec, tf.TensorSpec]:
    """What `prepare` makes of batches of these tensors [n, ...], the batch dimension None."""
    args = [tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for tensor in (inputs, targets)]
    index = tf.TensorSpec([None], tf.int32)
    graph = tf.function(prepare, autograph=False).get_concrete_function(*args, tf.TensorSpec([], tf.int32), index)
    outputs = graph.structured_outputs
    return tuple(tf.TensorSpec([None, *output.shape[1:]], output.dtype) for output in outputs)


def as_they_are(
    inputs: tf.Tensor, targets: tf.Tensor, epoch: tf.Tensor, index: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """A `Prepare` that changes nothing."""
    return inputs, targets


def to_float(pixels: tf.Tensor) -> tf.Tensor:
    """Raw pixels uint8 [...] as float32 in [0, 1]: what models take. Floats pass as they are."""
    floats = tf.cast(pixels, tf.float32)
    # A product, as graphs turn a quotient into one while eager code does not: their last bits would differ.
    return floats * (1 / 255) if pixels.dtype == tf.uint8 else floats
