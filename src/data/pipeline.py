"""Batches as a pure function of (seed, epoch, index), drawn inside the training graph.

    train = InMemory(images, labels, batch_size=32, shuffle_seed=0)
    train = Lazy(pairs, batch_size=32, shuffle_seed=0)      # read when they are needed
    train = Stream(lambda epoch: dataset_of_batches, steps_per_epoch=63)
    train = as_batches(any_tf_data_dataset_of_batches)

Since the position in the data is one number, the step, a resumed run needs no iterator state: `open(epoch, step)`
goes there. All kinds deliver batches (inputs, targets, weights), see `src.data.batch`; the last of an epoch may be
shorter.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow as tf
from tensorflow.autograph.experimental import do_not_convert

from src.common.ranges import Count, enforce_ranges
from src.data.batch import NAMES, Batch, Nest, batch_spec_of, described, leaf_names

HASHED_BATCHES = 3
BUFFER = 4096  # examples of a stream that are shuffled at a time
UNCOUNTED = {tf.data.INFINITE_CARDINALITY: "infinite", tf.data.UNKNOWN_CARDINALITY: "unknown"}
# prepare(*batch, epoch int32 [], index int32 [n]) -> batch
Prepare = Callable[..., Batch]


@runtime_checkable
class Batches(Protocol):
    """What the trainer needs of a split.

    Attributes:
        steps_per_epoch: batches an epoch, the short last one included.
        element_spec: of a batch, any number of examples: a tuple of nests of tf.TypeSpec.
    """

    steps_per_epoch: int
    element_spec: Batch

    def open(self, epoch: int, step: int) -> Any:
        """A cursor for the epoch (from 0), at its batch number `step`: a value that a tf.function takes."""

    def next(self, cursor: Any, step: tf.Tensor) -> Batch:
        """The batch at `step` (int32 []) of the cursor's epoch; called inside a graph, in order."""


@enforce_ranges
class InMemory:
    """A split held as tensors and gathered by index inside the graph.

    Args:
        parts: inputs, targets and weights, the last two of which may be left out: nests of arrays [n, ...].
        batch_size: examples a step.
        shuffle_seed: orders each epoch by a permutation of (shuffle_seed, epoch); None keeps the order.
        prepare: called in the graph as prepare(*batch, epoch int32 [], index int32 [b]); gives a batch.

    Raises:
        ValueError: no examples, lengths that differ, or a batch size below 1.
    """

    def __init__(
        self,
        *parts: Nest,
        batch_size: Count,
        shuffle_seed: int | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        lengths = [int(array.shape[0]) for part in parts for array in tf.nest.flatten(part)]
        if len(set(lengths)) != 1 or not lengths[0]:
            counts = (
                f"{'/'.join(str(array.shape[0]) for array in tf.nest.flatten(part))} {name}"
                for part, name in zip(parts, NAMES, strict=False)
            )
            raise ValueError(f"{' and '.join(counts)}: all need the same number, at least 1")
        self.examples = lengths[0]
        self.batch_size = batch_size
        self.steps_per_epoch = -(-self.examples // batch_size)
        self._shuffle_seed = shuffle_seed
        self._prepare = prepare or as_they_are
        with tf.device("CPU"):
            # A copy: what tf.convert_to_tensor gives keeps a second one of the array for itself.
            self._parts = tf.nest.map_structure(
                lambda array: array if isinstance(array, tf.RaggedTensor) else tf.identity(tf.constant(array)), parts
            )
        self.element_spec = batch_spec(self._prepare, self._parts)

    def order(self, epoch: int) -> np.ndarray:
        """The indices of the epoch's examples in their order: int32 [examples]."""
        return epoch_order(self.examples, self._shuffle_seed, epoch)

    def open(self, epoch: int, step: int) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.constant(self.order(epoch)), tf.constant(epoch, tf.int32)

    def next(self, cursor: tuple[tf.Tensor, tf.Tensor], step: tf.Tensor) -> Batch:
        order, epoch = cursor
        index = order[step * self.batch_size : (step + 1) * self.batch_size]
        return self._prepare(*tf.nest.map_structure(lambda part: tf.gather(part, index), self._parts), epoch, index)


@enforce_ranges
class Lazy:
    """A split whose examples are read one by one when they are needed, in the same order as an InMemory one.

    Args:
        examples: a sequence of tuples (inputs, target, weight) of nests of arrays, the last two of which may be left
            out, all of the first one's shapes and of its dtypes, or of values that these hold exactly; read by several
            threads at once. Numbers of Python's are float32 and int32.
        batch_size, shuffle_seed, prepare: as InMemory's.

    Attributes:
        failure: what reading an example has raised, if anything.

    Raises:
        ValueError: no examples, or a batch size below 1; when read, an example that is not as the first one.
    """

    def __init__(
        self,
        examples: Sequence[Batch],
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
        first = tuple(examples[0])
        self._structure, self._names = first, leaf_names(first)
        self._tensors = [tf.constant(part) for part in tf.nest.flatten(first)]
        self.element_spec = batch_spec(self._prepare, self._packed([part[None] for part in self._tensors]))

    def open(self, epoch: int, step: int) -> tf.data.Iterator:
        order = epoch_order(self.examples, self._shuffle_seed, epoch)[step * self.batch_size :]
        number = tf.constant(epoch, tf.int32)

        @do_not_convert
        def read(index: tf.Tensor) -> tuple[tf.Tensor, ...]:
            parts = tf.numpy_function(self._arrays, [index], [part.dtype for part in self._tensors], stateful=False)
            return (index, *(tf.ensure_shape(x, part.shape) for x, part in zip(parts, self._tensors, strict=True)))

        @do_not_convert
        def prepare(index: tf.Tensor, *parts: tf.Tensor) -> Batch:
            return self._prepare(*self._packed(parts), number, index)

        parallel: dict[str, Any] = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
        examples = tf.data.Dataset.from_tensor_slices(order).map(read, **parallel)
        return iter(examples.batch(self.batch_size).map(prepare, **parallel).prefetch(2))

    def next(self, cursor: tf.data.Iterator, step: tf.Tensor) -> Batch:
        return next(cursor)

    def _packed(self, tensors: Sequence[tf.Tensor]) -> Batch:
        return tf.nest.pack_sequence_as(self._structure, tensors)

    def _arrays(self, index: np.ndarray) -> list[np.ndarray]:
        try:
            example = tuple(self._read(int(index)))
            try:
                tf.nest.assert_same_structure(self._structure, example)
            except (ValueError, TypeError) as error:
                reason = str(error).partition("\n")[0]
                raise ValueError(f"example {index} has other parts than example 0: {reason}") from error
            parts = zip(self._names, tf.nest.flatten(example), self._tensors, strict=True)
            return [_as_first(given, first, f"example {index} has {name}") for name, given, first in parts]
        except Exception as error:  # which TensorFlow buries in a traceback of its own
            self.failure = error
            raise


def _as_first(given: Any, first: tf.Tensor, what: str) -> np.ndarray:
    """A part of an example as an array of the dtype that it has in the first example.

    Args:
        what: has it, for the message.

    Raises:
        ValueError: it has another shape, or a value that this dtype cannot hold.
    """
    array, wanted = np.asarray(given), first.dtype.as_numpy_dtype
    if array.shape == first.shape and (array.dtype == wanted or _holds(wanted, array, hasattr(given, "dtype"))):
        return array.astype(wanted, copy=False)
    raise ValueError(
        f"{what} {described(array)}, and example 0 {described(first)}: all examples need the same shape, and a dtype "
        "whose values that of example 0 can hold"
    )


def _holds(dtype: Any, values: np.ndarray, is_typed: bool) -> bool:
    """Whether all values stay what they are as this dtype; those without a type of their own may be rounded."""
    if values.dtype.kind in "OSU" or dtype is object:
        return values.dtype.kind in "OSU" and dtype is object
    with np.errstate(invalid="ignore", over="ignore"):
        kept = values.astype(dtype)
        if not is_typed and values.dtype.kind == kept.dtype.kind == "f":
            return np.array_equal(np.isfinite(kept), np.isfinite(values))
        # Either alone takes some pairs for equal: 255 and -1 of 8 bits, or 2^53 and 2^53 + 1.
        return all(np.array_equal(values, other, equal_nan=True) for other in (kept, kept.astype(values.dtype)))


class Stream:
    """A split read through tf.data, for what does not fit in memory.

    Args:
        make: the dataset of batches of an epoch (from 0), the same each time it is called.
        steps_per_epoch: its number of batches.
    """

    def __init__(self, make: Callable[[int], tf.data.Dataset], *, steps_per_epoch: int) -> None:
        self._make = make
        self.steps_per_epoch = steps_per_epoch
        self.element_spec = batch_spec_of(make(0).element_spec)

    def open(self, epoch: int, step: int) -> tf.data.Iterator:
        return iter(self._make(epoch).skip(step))

    def next(self, cursor: tf.data.Iterator, step: tf.Tensor) -> Batch:
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


def every_batch(batches: Batches) -> Iterator[Batch]:
    """Those of the first epoch, one after another, outside of a graph."""
    cursor = batches.open(0, 0)
    for step in range(batches.steps_per_epoch):
        with errors_of_reading(batches):
            batch = batches.next(cursor, tf.constant(step))
        yield batch


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


def shuffled_stream(examples: tf.data.Dataset, batch_size: int, shuffle_seed: int | None, prepare: Prepare) -> Stream:
    """Batches of a data set too large for memory; a buffer of examples is shuffled anew each epoch."""
    count = int(examples.cardinality())

    def make(epoch: int) -> tf.data.Dataset:
        numbered = examples.enumerate()
        if shuffle_seed is not None:
            seed = int(np.random.default_rng([shuffle_seed, epoch]).integers(2**31))
            numbered = numbered.shuffle(min(count, BUFFER), seed=seed, reshuffle_each_iteration=False)
        batches = numbered.batch(batch_size)
        epoch_number = tf.constant(epoch, tf.int32)
        return batches.map(
            do_not_convert(lambda index, batch: prepare(*batch, epoch_number, tf.cast(index, tf.int32))),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        ).prefetch(2)

    return Stream(make, steps_per_epoch=-(-count // batch_size))


def as_examples(examples: Any) -> Any:
    """What a split is made of, as it is; of a tf.data.Dataset the elements as tuples.

    Raises:
        ValueError: its length is not known.
    """
    if not isinstance(examples, tf.data.Dataset):
        return examples
    if (count := int(examples.cardinality())) < 1:
        raise ValueError(
            f"the dataset's number of examples is {UNCOUNTED.get(count, '0')}; a split needs a known number of "
            "examples, at least 1: use dataset.take(n) or dataset.apply(tf.data.experimental.assert_cardinality(n)), "
            "or give batches: as_batches(dataset.batch(n), steps_per_epoch=...)"
        )
    return _of_tuples(examples)


def _of_tuples(data: tf.data.Dataset) -> tf.data.Dataset:
    """Elements that are no tuples are inputs."""
    return data if isinstance(data.element_spec, tuple) else data.map(do_not_convert(lambda inputs: (inputs,)))


def as_batches(data: Batches | tf.data.Dataset, *, steps_per_epoch: int | None = None) -> Batches:
    """Take a tf.data.Dataset of batches as it is.

    Args:
        data: of elements (inputs, targets, weights), the last two of which may be left out.
        steps_per_epoch: how many batches of it are an epoch, each of which goes on where the one before ended, and
            passes over what came before. None takes the whole dataset, and iterates it anew each epoch.

    Raises:
        ValueError: its length is not known or infinite and steps_per_epoch is None, it is shorter than that, or its
            elements are not batches.
    """
    if not isinstance(data, tf.data.Dataset):
        return data
    data = _of_tuples(data)
    spec = data.element_spec
    if not 1 <= len(spec) <= len(NAMES):
        raise ValueError(f"the dataset's elements are {spec}; they must be tuples ({', '.join(NAMES)}) or begin so")
    if not all(part.shape.rank for part in tf.nest.flatten(spec)):
        raise ValueError(f"the dataset's elements are {spec}; they must be batches of known rank: use dataset.batch(n)")
    steps = int(data.cardinality())
    if steps_per_epoch is None and steps < 1:
        raise ValueError(
            f"the dataset's number of batches is {UNCOUNTED.get(steps, '0')}; it must be known and at least 1: give "
            "steps_per_epoch, or use dataset.take(n) or dataset.apply(tf.data.experimental.assert_cardinality(n))"
        )
    if steps_per_epoch is None:
        return Stream(lambda epoch: data, steps_per_epoch=steps)
    if 0 <= steps < steps_per_epoch:
        raise ValueError(
            f"steps_per_epoch is {steps_per_epoch}, and the dataset has {steps} batches; give at most these"
        )

    def make(epoch: int) -> tf.data.Dataset:
        following = data.repeat().skip(epoch * steps_per_epoch).take(steps_per_epoch)
        return following.apply(tf.data.experimental.assert_cardinality(steps_per_epoch))

    return Stream(make, steps_per_epoch=steps_per_epoch)


def is_repeatable(batches: Batches) -> bool:
    """Whether an epoch's first batches are the same, to the last bit, each time that it is opened.

    Else an interrupted run cannot go on exactly; a dataset that is shuffled needs a seed for it.
    """

    def hashed() -> list[bytes]:
        first = itertools.islice(every_batch(batches), HASHED_BATCHES)
        parts = [part for batch in first for part in tf.nest.flatten(batch, expand_composites=True)]
        return [hashlib.sha256(repr(part.numpy().tolist()).encode()).digest() for part in parts]

    return hashed() == hashed()


def batch_spec(prepare: Prepare, batch: Batch) -> Batch:
    """The spec of what `prepare` makes of such batches, of any number of examples."""
    number, index = tf.TensorSpec([], tf.int32), tf.TensorSpec([None], tf.int32)
    graph = tf.function(prepare, autograph=False).get_concrete_function(*batch_spec_of(batch), number, index)
    return batch_spec_of(graph.structured_outputs)


def as_they_are(*batch_epoch_index: Nest) -> Batch:
    """A `Prepare` that changes nothing."""
    return batch_epoch_index[:-2]


def to_float(pixels: tf.Tensor) -> tf.Tensor:
    """Raw pixels uint8 [...] as float32 in [0, 1]: what models take. Floats pass as they are."""
    floats = tf.cast(pixels, tf.float32)
    # A product, as graphs turn a quotient into one while eager code does not: their last bits would differ.
    return floats * (1 / 255) if pixels.dtype == tf.uint8 else floats
