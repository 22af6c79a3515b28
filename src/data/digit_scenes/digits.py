"""The 1,797 real handwritten digits of `digits.npz` and their fixed split (NumPy only)."""

import functools
from pathlib import Path

import numpy as np

DIGIT_SPLITS = ("train", "val", "test")

_FILE = Path(__file__).with_name("digits.npz")  # source and licence: ATTRIBUTION.md
_MAX_INK = 16
_SPLIT_SEED = 1797
_SPLIT_ENDS = (0.70, 0.85)


@functools.cache
def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [1797, 8, 8, 1], 0 (paper) to 255 (ink), and labels int32 [1797], 0 to 9.

    Both arrays are shared between callers and read-only; copy them to change them.
    """
    with np.load(_FILE) as file:
        images = np.rint(file["images"] * (255.0 / _MAX_INK)).astype(np.uint8)[..., np.newaxis]
        labels = file["labels"].astype(np.int32)
    images.flags.writeable = labels.flags.writeable = False
    return images, labels


def digit_indices(split: str) -> np.ndarray:
    """Return one split's indices into `load_digits()`: int64 [1257] for train, [270] for val and for test.

    The sets are disjoint, cover all digits and never change: no digit seen in training is evaluated on.

    Raises:
        ValueError: `split` is not one of `DIGIT_SPLITS`.
    """
    check_split(split)
    return _splits()[split]


def check_split(split: str) -> None:
    """Raise ValueError unless `split` is one of `DIGIT_SPLITS`."""
    if split not in DIGIT_SPLITS:
        raise ValueError(f"unknown split {split!r} of the digits: choose one of {', '.join(DIGIT_SPLITS)}")


@functools.cache
def _splits() -> dict[str, np.ndarray]:
    count = len(load_digits()[1])
    # NumPy promises that a bit generator's raw numbers never change; those of Generator.permutation may.
    order = np.random.PCG64(_SPLIT_SEED).random_raw(count).argsort(kind="stable").astype(np.int64)
    order.flags.writeable = False
    parts = np.split(order, [int(end * count) for end in _SPLIT_ENDS])
    return dict(zip(DIGIT_SPLITS, parts, strict=True))
