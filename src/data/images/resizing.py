"""Images and masks at another height and width, and where in it they lie.

small = fitted(image, (48, 48), "pad")
taken, placed = windows(image.shape[:2], (48, 48), "pad")      # small[placed] is image[taken], resized
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

Fit = Literal["pad", "crop"]  # how an image keeps its aspect in another shape
Window = tuple[slice, slice]  # rows and columns


def resized(image: np.ndarray, shape: tuple[int, int], *, rows: slice | None = None) -> np.ndarray:
    """An image uint8 [H, W, C], or scores float32 [H, W], at another height and width: bilinear, antialiased.

    Args:
        rows: only these of the result.
    """
    start, stop, _ = (rows or slice(None)).indices(shape[0])
    if image.shape[:2] == shape:
        return image[start:stop]
    flat = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else np.ascontiguousarray(image)
    height, width = image.shape[:2]
    box = (0, start * height / shape[0], width, stop * height / shape[0])
    small = Image.fromarray(flat).resize((shape[1], stop - start), Image.Resampling.BILINEAR, box=box)
    return np.asarray(small).reshape(stop - start, shape[1], *image.shape[2:])


def resized_nearest(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask [H, W] of any dtype at another height and width: each new pixel has the value at its centre."""
    if mask.shape == shape:
        return mask
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(mask.shape, shape, strict=True))
    return mask[rows[:, None], columns]


def windows(size: tuple[int, int], shape: tuple[int, int], fit: Fit | None) -> tuple[Window, Window]:
    """Which part of an image is taken, and where it lies in the resized one: rows and columns of each, in the middle.

    Args:
        size, shape: (H, W) before and after.
    """
    scales = [new / old for old, new in zip(size, shape, strict=True)]
    taken = [min(old, max(1, round(new / max(scales)))) for old, new in zip(size, shape, strict=True)]
    placed = [min(new, max(1, round(old * min(scales)))) for old, new in zip(size, shape, strict=True)]
    return _middle(size, taken if fit == "crop" else size), _middle(shape, placed if fit == "pad" else shape)


def fitted(image: np.ndarray, shape: tuple[int, int], fit: Fit | None) -> np.ndarray:
    """An image uint8 [H, W, C] at another height and width, as `resized`; what lies outside of it is black."""
    taken, placed = windows(image.shape[:2], shape, fit)
    found = np.zeros((*shape, *image.shape[2:]), image.dtype)
    found[placed] = resized(image[taken], found[placed].shape[:2])
    return found


def fitted_mask(mask: np.ndarray, shape: tuple[int, int], fit: Fit | None, *, outside: int) -> np.ndarray:
    """A mask [H, W] at another height and width, as `resized_nearest`, of a dtype that holds `outside` too."""
    taken, placed = windows(mask.shape, shape, fit)
    found = np.full(shape, outside, np.result_type(mask.dtype, np.min_scalar_type(outside)))
    found[placed] = resized_nearest(mask[taken], found[placed].shape)
    return found


def _middle(whole: Sequence[int], part: Sequence[int]) -> Window:
    top, left = ((n - m) // 2 for n, m in zip(whole, part, strict=True))
    return slice(top, top + part[0]), slice(left, left + part[1])
