"""A data set, and a transform of its images."""

import numpy as np

from src.data.images.image_data import ImageData


def halves(*, batch_size, seed, examples=600, transforms=None, limit=None):
    """Find the brighter half: images uint8 [8, 8, 1], labels 0 (left) and 1 (right)."""
    random = np.random.default_rng(0)
    images = random.integers(0, 200, [examples, 8, 8, 1], dtype=np.uint8)
    labels = random.integers(0, 2, examples, dtype=np.int32)
    images[labels == 0, :, :4] += 20
    images[labels == 1, :, 4:] += 20
    train, val, test = np.split(np.arange(examples), [examples * 7 // 10, examples * 17 // 20])
    return ImageData(
        train=(images[train], labels[train]),
        val=(images[val], labels[val]),
        test=(images[test], labels[test]),
        num_classes=2,
        class_names=["left", "right"],
        batch_size=batch_size,
        seed=seed,
        transforms=transforms or {},
        limit=limit,
    )


class Darken:
    """Takes up to a share of its brightness from each image."""

    moves_pixels = False

    def __init__(self, *, share):
        self.share = share

    def __call__(self, images, masks, random):
        return images * (1 - self.share * random.uniform((1, 1, 1))), masks
