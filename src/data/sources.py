"""The built-in data sets: each function returns an ImageData and is an option of the group `data`.

data = digits(batch_size=32, seed=0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from tensorflow.autograph.experimental import do_not_convert

from src.common.ranges import Count, enforce_ranges
from src.data import SPLITS
from src.data.data import Data, Limit
from src.data.digit_scenes.digits import digit_indices, load_digits
from src.data.digit_scenes.scenes import CLASS_NAMES
from src.data.images.files import ImageSize, Reading, height_and_width
from src.data.images.image_data import ImageData
from src.data.images.resizing import Fit


@enforce_ranges
def digits(
    *,
    batch_size: Count,
    seed: int,
    shuffle: bool = True,
    transforms: Mapping[str, Callable | None] = MappingProxyType({}),
    limit: Limit | None = None,
    dataset: str = "digits:1.0.0",
) -> ImageData:
    """1,797 handwritten digits: images uint8 [8, 8, 1], labels 0 to 9, in fixed disjoint splits.

    Raises:
        ValueError: `dataset` is another name or version than the one there is.
    """
    _check_version(dataset, "digits:1.0.0")
    images, labels = load_digits()
    splits: dict[str, Any] = {
        name: (images[index], labels[index]) for name in SPLITS for index in [digit_indices(name)]
    }
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "shuffle": shuffle, "transforms": transforms}
    options["limit"] = limit
    return ImageData(**splits, num_classes=10, **options)


PROPERTIES: dict[str, Sequence[int]] = {"even": (0, 2, 4, 6, 8), "prime": (2, 3, 5, 7), "round": (0, 6, 8, 9)}


@enforce_ranges
def digit_properties(
    *,
    batch_size: Count,
    seed: int,
    properties: Sequence[Literal["even", "prime", "round"]],
    shuffle: bool = True,
    limit: Limit | None = None,
) -> Data:
    """The same digits, float32 [8, 8, 1] in [0, 1], and what is true of each.

    Args:
        properties: one gives its number 0 or 1, int32 [n], for a model of one logit; several give a column of 0 or 1
            for each, float32 [n, properties].
    """
    images, labels = load_digits()
    known = np.stack([np.isin(labels, PROPERTIES[name]) for name in properties], -1)
    is_one = len(properties) == 1
    targets = known[:, 0].astype(np.int32) if is_one else known.astype(np.float32)
    inputs = (images / np.float32(255)).astype(np.float32)
    splits: dict[str, Any] = {
        name: (inputs[index], targets[index]) for name in SPLITS for index in [digit_indices(name)]
    }
    names = (f"not {properties[0]}", properties[0]) if is_one else tuple(properties)
    facts = {"num_outputs": len(properties)}
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "shuffle": shuffle, "limit": limit}
    return Data(**splits, **options, class_names=names, facts=facts)


@enforce_ranges
def digit_scenes(
    *,
    batch_size: Count,
    seed: int,
    data_dir: str | None = None,
    image_size: ImageSize | None = None,
    resize: Fit | None = None,
    in_memory: bool = True,
    shuffle: bool = True,
    transforms: Mapping[str, Callable | None] = MappingProxyType({}),
    limit: Limit | None = None,
    dataset: str = "digit_scenes:1.0.0",
) -> ImageData:
    """Scenes of handwritten digits with masks, through TensorFlow Datasets; prepared on first use.

    Args:
        image_size: resize images [48, 48, 3] and masks [48, 48] to this height and width, or [height, width].
        resize: `pad` and `crop` keep the aspect, which None does not; edges are background.
        in_memory: keep the splits in memory; False streams them from disk.
        data_dir: of TensorFlow Datasets; None takes its default.

    Raises:
        ValueError: `dataset` is another name or version than the one there is.
        DataError: the scenes cannot be written, or are damaged.
    """
    from src.data.digit_scenes import builder  # TensorFlow Datasets takes a second to import

    _check_version(dataset, f"digit_scenes:{builder.DigitScenes.VERSION}")
    prepared = builder.prepare(data_dir)
    size = None if image_size is None else height_and_width(image_size)
    reading = Reading(size=size, fit=resize, outside=0)
    splits: dict[str, Any] = {name: examples(prepared, name, reading) for name in SPLITS}
    if in_memory:
        splits = {name: arrays(split) for name, split in splits.items()}
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "shuffle": shuffle, "transforms": transforms}
    options["limit"] = limit
    return ImageData(**splits, num_classes=11, class_names=CLASS_NAMES, **options)


def examples(builder, split: str, reading: Reading) -> tf.data.Dataset:
    """A split's single examples in stored order: (image uint8 [H, W, C], mask uint8 [H, W])."""

    @do_not_convert
    def pair(features):
        image, mask = features["image"], features["segmentation_mask"][..., 0]
        if reading.size:
            parts = tf.numpy_function(reading.resize, (image, mask), (tf.uint8, tf.uint8))
            image, mask = (
                tf.ensure_shape(part, [*reading.size, *stored.shape[2:]])
                for part, stored in zip(parts, (image, mask), strict=True)
            )
        return image, mask

    return builder.as_dataset(split=split, shuffle_files=False).map(pair, num_parallel_calls=2, deterministic=True)


def arrays(dataset: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """All examples of a data set as two arrays."""
    batches = list(dataset.batch(256).as_numpy_iterator())
    images, targets = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return images, targets


def _check_version(asked: str, there: str) -> None:
    if asked != there:
        raise ValueError(f"data.dataset is {asked!r}; this project has {there}")
