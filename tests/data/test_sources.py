"""The built-in data sets as training takes them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from src.data.digit_scenes.digits import digit_indices, load_digits
from src.data.digit_scenes.scenes import SPLIT_SIZES, compose_scene
from src.data.images.transforms import Flip, Noise
from src.data.sources import digit_scenes, digits

OPTIONS = {"batch_size": 64, "seed": 0, "transforms": {"flip": Flip(), "noise": Noise()}}


def first(batches, *, epoch: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return tuple(part.numpy() for part in batches.next(batches.open(epoch, 0), tf.constant(0)))


def every(batches) -> list[tuple[np.ndarray, np.ndarray]]:
    cursor, draw = batches.open(0, 0), tf.function(batches.next)
    return [tuple(x.numpy() for x in draw(cursor, tf.constant(step))) for step in range(batches.steps_per_epoch)]


@pytest.fixture(scope="module")
def scenes():
    return digit_scenes(**OPTIONS)


@pytest.fixture(scope="module")
def streamed_scenes():
    return digit_scenes(**OPTIONS, in_memory=False)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_digits(split):
    data = digits(**OPTIONS)
    images, labels = load_digits()
    got_images, got_labels = first(data.raw(split))
    chosen = digit_indices(split)[:64]
    np.testing.assert_array_equal(got_images, images[chosen])
    np.testing.assert_array_equal(got_labels, labels[chosen])
    assert data.split(split).steps_per_epoch == -(-len(digit_indices(split)) // 64)
    assert data.input_shape == (8, 8, 1) and data.num_classes == 10


def test_scenes_are_those_composed(scenes):
    assert scenes.input_shape == (48, 48, 3) and scenes.num_classes == 11
    for split, count in SPLIT_SIZES.items():
        images, masks = first(scenes.raw(split))
        for index in (0, 63):
            scene = compose_scene(split, index)
            np.testing.assert_array_equal(images[index], scene.image)
            np.testing.assert_array_equal(masks[index], scene.mask[..., 0])
        assert scenes.split(split).steps_per_epoch == -(-count // 64)


def test_streaming_measures_the_same_batches(scenes, streamed_scenes):
    assert streamed_scenes.train.steps_per_epoch == scenes.train.steps_per_epoch
    assert streamed_scenes.train.element_spec == scenes.train.element_spec
    for a, b in zip(every(scenes.val), every(streamed_scenes.val), strict=True):
        for x, y in zip(a, b, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("size", [128, 32])
def test_resized_masks_are_nearest(streamed_scenes, size):
    data = digit_scenes(**OPTIONS, image_size=size, in_memory=False)
    assert data.input_shape == (size, size, 3)
    images, masks = first(data.raw("val"))
    small_images, small_masks = first(streamed_scenes.raw("val"))
    assert images.dtype == masks.dtype == np.uint8 and masks.shape == (64, size, size)
    nearest = ((np.arange(size) + 0.5) * 48 / size).astype(int)
    np.testing.assert_array_equal(masks, small_masks[:, nearest][:, :, nearest])
    for mask, small in zip(masks, small_masks, strict=True):
        assert set(np.unique(mask)) <= set(np.unique(small))
    means = [x.astype(float).mean((1, 2)) for x in (images, small_images)]
    np.testing.assert_allclose(*means, atol=3)  # of 255: the picture is the same


def test_resized_training_masks_hold_only_labels():
    data = digit_scenes(**OPTIONS, image_size=128, in_memory=False, shuffle=False)
    images, masks = first(data.train)
    raw_images, raw_masks = first(data.raw("train"))
    assert images.dtype == np.float32 and images.min() >= 0 and images.max() <= 1
    for mask, raw in zip(masks, raw_masks, strict=True):
        np.testing.assert_array_equal(np.bincount(mask.ravel(), minlength=11), np.bincount(raw.ravel(), minlength=11))
    assert np.abs(np.sort(images.mean((1, 2, 3))) - np.sort(raw_images.mean((1, 2, 3)) / 255)).max() < 0.01


@pytest.mark.parametrize(
    ("source", "dataset", "there"),
    [
        (digits, "digits:2.0.0", "digits:1.0.0"),
        (digits, "mnist:1.0.0", "digits:1.0.0"),
        (digit_scenes, "digit_scenes:0.9.0", "digit_scenes:1.0.0"),
        (digit_scenes, "digits:1.0.0", "digit_scenes:1.0.0"),
    ],
)
def test_another_version_is_refused(source, dataset, there):
    with pytest.raises(ValueError, match=f"data.dataset is '{dataset}'; this project has {there}"):
        source(batch_size=8, seed=0, dataset=dataset)
