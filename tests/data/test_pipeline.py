"""Batches are a function of (seed, epoch, index): each example once an epoch, the same from any start."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, strategies as st

from src.data.data import Data, DataError
from src.data.digit_scenes.digits import load_digits
from src.data.images.transforms import Augment, Brightness, Noise, Shift
from src.data.pipeline import First, InMemory, Lazy, Stream, as_batches, every_batch, to_float
from src.models.cnn import cnn
from src.training.trainer import Trainer

COUNT = 37
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 5, 2), np.uint8)
AUGMENT = Augment({"shift": Shift(), "brightness": Brightness(), "noise": Noise()}, seed=5)


def prepare(images, targets, epoch, index):
    return AUGMENT(to_float(images), targets, epoch, index)


def augmented(batch_size: int, *, seed: int | None = 0) -> InMemory:
    """Examples whose target is their own index."""
    return InMemory(IMAGES, np.arange(COUNT), batch_size=batch_size, shuffle_seed=seed, prepare=prepare)


def indices(count: int, *, batch_size: int, seed: int | None = 0) -> InMemory:
    return InMemory(np.arange(count), np.arange(count), batch_size=batch_size, shuffle_seed=seed)


def read(batches, epoch: int, *, start: int = 0, graph: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    """The batches of an epoch from its batch number `start`, drawn as the trainer draws them."""
    cursor = batches.open(epoch, start)
    draw = tf.function(batches.next) if graph else batches.next
    steps = range(start, batches.steps_per_epoch)
    return [tuple(part.numpy() for part in draw(cursor, tf.constant(step))) for step in steps]


def assert_same(a, b) -> None:
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        for x, y in zip(left, right, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


sizes = {"count": st.integers(1, 60), "batch_size": st.integers(1, 70)}
seeds = st.integers(0, 2**32 - 1)


@given(**sizes, seed=st.none() | seeds, epoch=st.integers(0, 1000))
def test_each_example_once_an_epoch(count, batch_size, seed, epoch):
    batches = indices(count, batch_size=batch_size, seed=seed)
    read_batches = [targets for _, targets in read(batches, epoch)]
    lengths = [len(targets) for targets in read_batches]
    assert batches.steps_per_epoch == len(lengths) == -(-count // batch_size)
    assert all(length == batch_size for length in lengths[:-1]) and 1 <= lengths[-1] <= batch_size
    seen = np.concatenate(read_batches)
    np.testing.assert_array_equal(np.sort(seen), np.arange(count))
    np.testing.assert_array_equal(seen, batches.order(epoch))
    if seed is None:
        np.testing.assert_array_equal(seen, np.arange(count))


@given(seed=seeds, epoch=st.integers(0, 1000), other=st.integers(0, 1000), **sizes)
def test_order_is_a_function_of_seed_and_epoch(count, batch_size, seed, epoch, other):
    order = indices(count, batch_size=batch_size, seed=seed).order(epoch)
    np.testing.assert_array_equal(order, indices(count, batch_size=1, seed=seed).order(epoch))
    if count >= 20:  # two permutations of 20 agree once in 2e18
        assert epoch == other or (order != indices(count, batch_size=batch_size, seed=seed).order(other)).any()
        assert (order != indices(count, batch_size=batch_size, seed=(seed + 1) % 2**32).order(epoch)).any()


@given(batch_size=st.sampled_from([1, 2, 3, 5, 8, 13, 36, 37, 50]), epoch=st.integers(0, 3), seed=st.integers(0, 5))
def test_augmented_bytes_do_not_depend_on_the_batch(batch_size, epoch, seed):
    whole = dict(zip(range(COUNT), *read(augmented(COUNT, seed=None), epoch)[0][:1], strict=True))
    for images, targets in read(augmented(batch_size, seed=seed), epoch):
        for image, index in zip(images, targets, strict=True):
            np.testing.assert_array_equal(image, whole[index])


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("start", [0, 1, 4])
def test_start_within_an_epoch(start, graph):
    batches = augmented(8)
    assert_same(read(batches, 2, start=start, graph=graph), read(batches, 2)[start:])


def test_epochs_differ_and_repeat():
    first, second = read(augmented(COUNT), 0)[0], read(augmented(COUNT), 1)[0]
    by_index = [images[np.argsort(targets)] for images, targets in (first, second)]
    assert (first[1] != second[1]).any()
    assert not (by_index[0] == by_index[1]).all((1, 2, 3)).any()
    assert_same([first, second], [read(augmented(COUNT), epoch)[0] for epoch in (0, 1)])


def test_element_spec():
    assert augmented(8).element_spec == (
        tf.TensorSpec([None, 6, 5, 2], tf.float32),
        tf.TensorSpec([None], tf.int64),
    )


@pytest.mark.parametrize(
    ("inputs", "targets", "batch_size", "message"),
    [
        (3, 2, 1, "3 inputs and 2 targets: all need the same number"),
        (0, 0, 1, "0 inputs and 0 targets: .* at least 1"),
        (3, 3, 0, "batch_size is 0; it must be an integer at least 1"),
    ],
)
def test_impossible_splits(inputs, targets, batch_size, message):
    with pytest.raises(ValueError, match=message):
        InMemory(np.zeros((inputs, 2)), np.zeros(targets), batch_size=batch_size)


def test_stream_opens_anywhere():
    def make(epoch: int) -> tf.data.Dataset:
        return tf.data.Dataset.range(10).map(lambda i: (i + 100 * epoch, -i)).batch(4)

    stream = Stream(make, steps_per_epoch=3)
    assert stream.element_spec == (tf.TensorSpec([None], tf.int64),) * 2
    assert [len(targets) for _, targets in read(stream, 0)] == [4, 4, 2]
    assert_same(read(stream, 7, start=2), [(np.array([708, 709]), np.array([-8, -9]))])
    assert_same(read(stream, 7, start=1, graph=True), read(stream, 7)[1:])


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.arange(256, dtype=np.uint8), np.arange(256) / 255),
        (np.array([0.25, 1.0]), np.array([0.25, 1.0])),
        (np.array([-2.0, 300.0], np.float32), np.array([-2.0, 300.0])),
    ],
)
def test_to_float(pixels, expected):
    """The same bits eager and in a graph, whose optimizer rewrites arithmetic."""
    floats = to_float(tf.constant(pixels)).numpy()
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, expected, rtol=2e-7)
    np.testing.assert_array_equal(floats[[0, -1]], expected[[0, -1]])
    np.testing.assert_array_equal(floats, tf.function(to_float)(tf.constant(pixels)).numpy())
    np.testing.assert_array_equal(floats, tf.function(to_float, jit_compile=True)(tf.constant(pixels)).numpy())


def pairs(count: int) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((np.zeros((count, 3), np.float32), np.arange(count)))


@pytest.mark.parametrize(
    ("dataset", "steps"),
    [
        (pairs(10).batch(4), 3),
        (pairs(10).batch(4).repeat().take(5), 5),
        (pairs(10).batch(4).filter(lambda x, y: True).apply(tf.data.experimental.assert_cardinality(3)), 3),
    ],
    ids=["batched", "taken", "asserted"],
)
def test_datasets_of_known_length(dataset, steps):
    batches = as_batches(dataset)
    assert batches.steps_per_epoch == steps
    assert batches.element_spec == (tf.TensorSpec([None, 3], tf.float32), tf.TensorSpec([None], tf.int64))
    assert_same(read(batches, 0), list(dataset.as_numpy_iterator()))
    assert_same(read(batches, 1, start=1), list(dataset.as_numpy_iterator())[1:])


def test_batches_pass_as_they_are():
    batches = indices(3, batch_size=1)
    assert as_batches(batches) is batches


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (pairs(10).batch(4).repeat(), "number of batches is infinite; .*take"),
        (pairs(10).batch(4).filter(lambda x, y: True), "number of batches is unknown; .*assert_cardinality"),
        (pairs(0).batch(4), "number of batches is 0; it must be known and at least 1"),
        (pairs(10).batch(4).map(lambda x, y: (x, y, y, y)), r"must be tuples \(inputs, targets, weights\)"),
        (pairs(10), r"must be batches of known rank: use dataset\.batch"),
    ],
    ids=["infinite", "unknown", "empty", "quadruple", "unbatched"],
)
def test_datasets_that_cannot_be_trained_on(dataset, message):
    with pytest.raises(ValueError, match=message):
        as_batches(dataset)


def of_rows(*targets):
    """Read one by one: the targets as one array."""
    rows = [(np.float32(number), target) for number, target in enumerate(targets)]
    batches = Lazy(rows, batch_size=len(rows))
    assert batches.element_spec == Data(train=rows, batch_size=1, seed=0).stored_spec("train")
    return next(every_batch(batches))[1].numpy()


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        ((0, 1.5), r"example 1 has targets float64 \(\), and example 0 int32 \(\)"),
        ((0, 2.0, np.float32("nan")), "example 2 has targets float32"),
        ((0, 2**31), "example 1 has targets int64"),
        ((np.float32(0), np.float64(0.1)), "targets float64 .* example 0 float32"),
        ((np.int32(0), np.int64(2**40)), "targets int64 .* example 0 int32"),
        ((np.int8(0), np.uint8(255)), "targets uint8 .* example 0 int8"),
        ((np.float64(0), np.int64(2**53 + 1)), "targets int64 .* example 0 float64"),
        ((0.5, 1e300), "targets float64 .* example 0 float32"),
        ((False, 2), "targets int64 .* example 0 bool"),
        ((0, "1"), "targets string .* example 0 int32"),
        (("a", 1), "targets int64 .* example 0 string"),
        ((np.zeros(2), np.zeros(3)), r"targets float64 \(3,\), and example 0 float64 \(2,\)"),
        (({"a": 1, "b": 0}, {"a": 1, "b": 0.5}), r"targets\.b float64"),
        (({"a": 1}, {"b": 1}), "example 1 has other parts than example 0"),
    ],
)
def test_a_value_that_the_first_examples_dtype_cannot_hold_is_refused(targets, told):
    with pytest.raises(ValueError, match=told):
        of_rows(*targets)


@pytest.mark.parametrize(
    ("targets", "dtype"),
    [
        ((0.1, 2, 0.3), np.float32),
        ((np.float64(0.1), 0.2, np.float32(0.5), 3), np.float64),
        ((np.float32(1), np.float64(0.5), np.float64("nan"), np.int64(2**24)), np.float32),
        ((1, np.int64(-2), np.uint8(3), 4.0), np.int32),
        (("a", "é"), object),
    ],
)
def test_values_that_it_can_hold_are_what_they_were(targets, dtype):
    found = of_rows(*targets)
    wanted = np.array([text.encode() for text in targets], dtype) if dtype is object else np.array(targets, dtype)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def test_an_example_that_cannot_be_read_ends_training_with_its_own_error():
    class Pairs(list):
        def __getitem__(self, index):
            if index == 5:
                raise DataError("photo.jpg: it is broken")
            return super().__getitem__(index)

    images, labels = load_digits()
    pairs = Pairs((image / np.float32(255), label) for image, label in zip(images[:8], labels[:8], strict=True))
    for batches in (Lazy(pairs, batch_size=4), First(Lazy(pairs, batch_size=4), steps=9)):
        trainer = Trainer(
            model=cnn(input_shape=(8, 8, 1), num_classes=10),
            optimizer=keras.optimizers.SGD(0.1),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        with pytest.raises(DataError, match=r"^photo\.jpg: it is broken$"):
            trainer.fit(batches, epochs=1)
        with pytest.raises(DataError, match=r"^photo\.jpg: it is broken$"):
            trainer.evaluate(batches)
