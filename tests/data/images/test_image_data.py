"""ImageData: training is shuffled and augmented, validation and test are what is stored; in memory or streamed."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from src.data.data import SPLITS
from src.data.images.image_data import ImageData
from src.data.images.transforms import Noise, Shift
from src.data.pipeline import to_float

COUNTS = {"train": 37, "val": 21, "test": 10}


def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images whose label is their own index."""
    rng = np.random.default_rng(SPLITS.index(split))
    return rng.integers(0, 256, (COUNTS[split], 6, 5, 3), np.uint8), np.arange(COUNTS[split], dtype=np.int32)


def streamed(split: str) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(arrays(split))


def make(source=arrays, **options) -> ImageData:
    options = {"num_classes": 37, "batch_size": 8, "seed": 3, "transforms": all_transforms(), **options}
    return ImageData(**{**{split: source(split) for split in SPLITS}, **options})


def all_transforms() -> dict:
    return {"shift": Shift(), "noise": Noise(), "none": None}


def read(batches, epoch: int = 0, *, start: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    cursor, draw = batches.open(epoch, start), tf.function(batches.next)
    steps = range(start, batches.steps_per_epoch)
    return [tuple(part.numpy() for part in draw(cursor, tf.constant(step))) for step in steps]


def joined(batches, epoch: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.concatenate(parts) for parts in zip(*read(batches, epoch), strict=True))


def by_index(batches, epoch: int = 0) -> np.ndarray:
    images, targets = joined(batches, epoch)
    return images[np.argsort(targets)]


SOURCES = pytest.mark.parametrize("source", [arrays, streamed])


@SOURCES
@pytest.mark.parametrize("split", ["val", "test"])
def test_measured_splits_are_what_is_stored(source, split):
    data, (images, targets) = make(source), arrays(split)
    for epoch in (0, 3):
        got_images, got_targets = joined(data.split(split), epoch)
        np.testing.assert_array_equal(got_images, to_float(tf.constant(images)).numpy())
        np.testing.assert_array_equal(got_targets, targets)
    assert data.split(split).steps_per_epoch == -(-COUNTS[split] // 8)
    assert [len(targets) for _, targets in read(data.split(split))][-1] == COUNTS[split] % 8


@SOURCES
@pytest.mark.parametrize("split", SPLITS)
def test_raw_is_what_is_stored(source, split):
    images, targets = joined(make(source).raw(split), epoch=1)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, arrays(split)[0])
    np.testing.assert_array_equal(targets, arrays(split)[1])


@SOURCES
def test_training_visits_each_example_once_in_another_order(source):
    data = make(source)
    orders = [joined(data.train, epoch)[1] for epoch in range(2)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(COUNTS["train"]))
        assert (order != np.arange(COUNTS["train"])).any()
    assert (orders[0] != orders[1]).any()
    np.testing.assert_array_equal(joined(make(source).train, 1)[1], orders[1])
    assert (joined(make(source, seed=4).train, 1)[1] != orders[1]).any()


@pytest.mark.sample(2)
@SOURCES
@pytest.mark.parametrize("start", [3, 1, 4])
def test_start_within_an_epoch(source, start):
    data = make(source)
    for whole, part in zip(read(data.train, 2)[start:], read(data.train, 2, start=start), strict=True):
        for x, y in zip(whole, part, strict=True):
            np.testing.assert_array_equal(x, y)


def test_streamed_examples_are_those_in_memory():
    """The augmentation is that of the example; only the order may be another."""
    in_memory = by_index(make(arrays).train, 1)
    np.testing.assert_array_equal(by_index(make(streamed, batch_size=5).train, 1), in_memory)
    assert (in_memory != to_float(tf.constant(arrays("train")[0])).numpy()).any((1, 2, 3)).all()


def test_a_stream_longer_than_its_buffer():
    count = 4096 + 100
    examples = tf.data.Dataset.range(count).map(lambda i: (tf.zeros([1, 1, 1], tf.uint8), i))
    data = ImageData(train=examples, num_classes=2, batch_size=512, seed=0)
    orders = [joined(data.train, epoch)[1] for epoch in (0, 1)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(count))
    assert (orders[0] != orders[1]).mean() > 0.99


@SOURCES
def test_without_shuffling(source):
    images, targets = joined(make(source, shuffle=False).train)
    np.testing.assert_array_equal(targets, np.arange(COUNTS["train"]))
    np.testing.assert_array_equal(images, by_index(make(source).train))


@pytest.mark.parametrize("transforms", [{}, {"flip": None}])
@SOURCES
def test_without_transforms(source, transforms):
    stored = to_float(tf.constant(arrays("train")[0])).numpy()
    np.testing.assert_array_equal(by_index(make(source, transforms=transforms).train), stored)


def test_facts():
    data = make()
    assert data.input_shape == (6, 5, 3)
    assert data.class_names == tuple(map(str, range(37)))
    images, labels = arrays("train")
    named = make(train=(images, labels % 2), val=None, test=None, num_classes=2, class_names=["cat", "dog"])
    assert named.class_names == ("cat", "dog")
    images, targets = data.train.element_spec
    assert (images.dtype, images.shape.as_list()) == (tf.float32, [None, 6, 5, 3])
    assert (targets.dtype, targets.shape.as_list()) == (tf.int32, [None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["one"]}, "1 class names for 37 classes"),
        ({"val": (np.zeros((0, 6, 5, 3), np.uint8), np.zeros(0, np.int32))}, "0 inputs and 0 targets"),
        ({"val": streamed("val").take(0)}, "known number of examples, at least 1"),
        ({"val": streamed("val").repeat()}, "known number of examples, at least 1"),
        ({"val": streamed("val").filter(lambda x, y: True)}, "known number of examples, at least 1"),
    ],
    ids=["names", "empty", "empty-stream", "infinite", "unknown"],
)
def test_impossible_data(options, message):
    with pytest.raises(ValueError, match=message):
        ImageData(**{"train": arrays("train"), "num_classes": 37, "batch_size": 8, "seed": 0, **options})


@pytest.mark.parametrize("name", ["test", "validation"])
@pytest.mark.parametrize("method", ["split", "raw"])
def test_a_split_that_is_not_there(method, name):
    data = ImageData(train=arrays("train"), val=arrays("val"), num_classes=37, batch_size=8, seed=0)
    with pytest.raises(ValueError, match=f"split is '{name}'; this data has train, val"):
        getattr(data, method)(name)
