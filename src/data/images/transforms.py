"""Augmentation as a pure function of (seed, epoch, index): the same whatever the batch, the order or the restart.

    augment = Augment({"flip": Flip(p=0.5), "noise": Noise(stddev=0.02)}, seed=0)
    images, masks = augment(images, masks, epoch, index)

A transform is a callable (images, masks, random) -> (images, masks): float32 [n, H, W, C] in [0, 1], and integer masks
[n, H, W, 1], or None where the targets are no masks. `random.uniform(shape)` gives each example its own numbers. One
whose attribute `moves_pixels` is False leaves pixels where they are; any other is refused where targets say a place in
the image and are no masks, since they would stay behind.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Annotated

import tensorflow as tf

from src.common.ranges import Fraction, Range, enforce_ranges

Pair = tuple[tf.Tensor, tf.Tensor | None]


def _mix(x: tf.Tensor) -> tf.Tensor:
    """Scramble uint32: the function `lowbias32` of C. Wellons, "Prospecting for Hash Functions", 2018."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32)))
        x *= tf.constant(factor, tf.uint32)
    return x


class Random:
    """Random numbers keyed by example: a counter-based generator, without state.

    Args:
        key: uint32 [n], one for each example.
    """

    def __init__(self, key: tf.Tensor) -> None:
        self._key, self._drawn = key, 0

    def bits(self, shape: tuple[int, ...] = ()) -> tf.Tensor:
        """Uniform uint32 [n, *shape]; each call draws new ones."""
        count = int(tf.TensorShape(shape).num_elements())
        counter = _mix(tf.cast(tf.range(self._drawn, self._drawn + count), tf.uint32))
        self._drawn += count
        mixed = _mix(tf.bitwise.bitwise_xor(self._key[:, None], counter[None, :]))
        return tf.reshape(mixed, [-1, *shape])

    def uniform(self, shape: tuple[int, ...] = ()) -> tf.Tensor:
        """Uniform float32 in [0, 1), [n, *shape]."""
        return tf.cast(tf.bitwise.right_shift(self.bits(shape), tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24

    def normal(self, shape: tuple[int, ...] = ()) -> tf.Tensor:
        """Approximately normal float32 [n, *shape]: mean 0, deviation 1, at most 3.45 away (sum of four bytes)."""
        bits = self.bits(shape)
        shifted = [tf.bitwise.right_shift(bits, tf.constant(8 * i, tf.uint32)) for i in range(4)]
        total = tf.add_n([tf.cast(tf.bitwise.bitwise_and(x, tf.constant(255, tf.uint32)), tf.int32) for x in shifted])
        return tf.cast(total - 510, tf.float32) / (65535 / 3) ** 0.5


class Augment:
    """Transforms applied in their order, compiled with XLA, each with random numbers of its own.

    Args:
        transforms: by name; the name seeds the transform, so adding one leaves the others' numbers as they are.
        seed: any int of 32 bits.
    """

    def __init__(self, transforms: Mapping[str, Callable[..., Pair]], *, seed: int) -> None:
        self._transforms, self._seed = dict(transforms), seed

    def check(self, images: tf.TensorSpec, targets: tf.TensorSpec) -> None:
        """Refuse what these transforms would spoil, given what images and targets are: [n, ...] both.

        Raises:
            ValueError: naming the transform and the targets.
        """
        for name in self._transforms:
            if images.shape.rank != 4:
                raise ValueError(
                    f"transforms.{name} is for images [n, height, width, channels], not for {images.dtype.name} "
                    f"{images.shape}; give data.transforms.{name}=null"
                )
        for name, transform in self._transforms.items():
            size = images.shape[1:3]
            shapes = ([None], [None, 1], [None, *size], [None, *size, 1])
            fits = targets.dtype.is_integer and any(map(targets.shape.is_compatible_with, shapes))
            if getattr(transform, "moves_pixels", True) and not fits:
                raise ValueError(
                    f"transforms.{name} moves pixels, and targets {targets.dtype.name} {targets.shape} would not move "
                    f"with them: integer labels [n] and masks [n, {size[0]}, {size[1]}] may; give "
                    f"data.transforms.{name}=null"
                )

    @tf.function(jit_compile=True, autograph=False)
    def __call__(
        self, images: tf.Tensor, targets: tf.Tensor, epoch: tf.Tensor, index: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Augment a batch.

        Args:
            images: float32 [n, H, W, C] in [0, 1].
            targets: integer masks [n, H, W] or [n, H, W, 1], which move with their images; others pass unchanged.
            epoch: int32 []; index: int32 [n], the examples' numbers in their split.
        """
        is_mask = targets.shape.rank >= 3
        masks = tf.reshape(targets, [-1, *images.shape[1:3], 1]) if is_mask else None
        for name, transform in self._transforms.items():
            words = [tf.constant(self._seed % 2**32, tf.uint32), tf.constant(zlib.crc32(name.encode()), tf.uint32)]
            key = tf.zeros_like(index, tf.uint32)
            for word in (*words, tf.cast(epoch, tf.uint32), tf.cast(index, tf.uint32)):
                key = _mix(tf.bitwise.bitwise_xor(key, word) + tf.constant(0x9E3779B9, tf.uint32))
            images, masks = transform(images, masks, Random(key))
        return images, tf.reshape(masks, [-1, *targets.shape[1:]]) if is_mask else targets


@enforce_ranges
class Flip:
    """Mirror left and right with probability `p`."""

    def __init__(self, *, p: Fraction = 0.5) -> None:
        self.p = p

    def __call__(self, images: tf.Tensor, masks: tf.Tensor | None, random: Random) -> Pair:
        coin = random.uniform()[:, None, None, None] < self.p
        images = tf.where(coin, tf.reverse(images, [2]), images)
        return images, None if masks is None else tf.where(coin, tf.reverse(masks, [2]), masks)


@enforce_ranges
class Shift:
    """Move by whole pixels, up to `max_pixels` each way; the border repeats. Masks move alike."""

    def __init__(self, *, max_pixels: Annotated[int, Range(0, 2**15)] = 2) -> None:
        self.max_pixels = max_pixels

    def __call__(self, images: tf.Tensor, masks: tf.Tensor | None, random: Random) -> Pair:
        offset = tf.cast(tf.floor(random.uniform((2,)) * (2 * self.max_pixels + 1)), tf.int32) - self.max_pixels

        def move(x: tf.Tensor) -> tf.Tensor:
            for axis in (1, 2):
                place = tf.range(x.shape[axis])[None, :] + offset[:, axis - 1 : axis]
                x = tf.gather(x, tf.clip_by_value(place, 0, x.shape[axis] - 1), axis=axis, batch_dims=1)
            return x

        return move(images), None if masks is None else move(masks)


@enforce_ranges
class Brightness:
    """Multiply an image's pixels by one factor from [1 - max_delta, 1 + max_delta), cut to [0, 1]."""

    moves_pixels = False

    def __init__(self, *, max_delta: Fraction = 0.2) -> None:
        self.max_delta = max_delta

    def __call__(self, images: tf.Tensor, masks: tf.Tensor | None, random: Random) -> Pair:
        factor = 1 + self.max_delta * (2 * random.uniform() - 1)
        return tf.clip_by_value(images * factor[:, None, None, None], 0, 1), masks


@enforce_ranges
class Noise:
    """Add normal noise of deviation `stddev` to every pixel and channel, cut to [0, 1]."""

    moves_pixels = False

    def __init__(self, *, stddev: Fraction = 0.02) -> None:
        self.stddev = stddev

    def __call__(self, images: tf.Tensor, masks: tf.Tensor | None, random: Random) -> Pair:
        noise = self.stddev * random.normal(tuple(images.shape[1:]))
        return tf.clip_by_value(images + noise, 0, 1), masks
