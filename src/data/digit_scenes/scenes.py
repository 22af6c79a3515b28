"""Composes one scene of handwritten digits as a pure function of (split, index) (NumPy only)."""

from typing import NamedTuple

import numpy as np

from src.data.digit_scenes.digits import DIGIT_SPLITS, check_split, digit_indices, load_digits

SCENE_SIZE = 48
CLASS_NAMES = ("background", *(str(digit) for digit in range(10)))
SPLIT_SIZES = {"train": 2000, "val": 400, "test": 400}

# What changes below changes the scenes: raise the builder's VERSION with it, so that they are stored anew.
_SEED = 20100
_QUADRANT = SCENE_SIZE // 2
_DIGITS_PER_SCENE = (2, 4)
_DIGIT_SIZE = (18.0, 24.0)
_MAX_TURN = 0.2
_INK_THRESHOLD = 0.35
_BACKGROUND_GRID = 4
_BACKGROUND_RANGE = (0.03, 0.30)
_NOISE = 0.02


class Scene(NamedTuple):
    """One scene: image uint8 [48, 48, 3], 0..255; mask uint8 [48, 48, 1], 0..10; digits int64 [2 to 4].

    The mask is 0 on the background and digit + 1 on ink. `digits` are the indices of the real ones used.
    """

    image: np.ndarray
    mask: np.ndarray
    digits: np.ndarray


def compose_scene(split: str, index: int) -> Scene:
    """Return scene number `index` (from 0, no upper end) of a split, made of that split's digits alone.

    The same arguments give the same scene, in any order and any process.

    Raises:
        ValueError: `split` is not one of `DIGIT_SPLITS`, or `index` is negative.
    """
    check_split(split)
    if index < 0:
        raise ValueError(f"a scene's index counts from 0, got {index}")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([_SEED, DIGIT_SPLITS.index(split), index])))
    images, labels = load_digits()

    count = int(rng.integers(_DIGITS_PER_SCENE[0], _DIGITS_PER_SCENE[1], endpoint=True))
    digits = rng.choice(digit_indices(split), size=count)
    quadrants = rng.permutation(4)[:count]
    sizes = rng.uniform(*_DIGIT_SIZE, size=count)
    turns = rng.uniform(-_MAX_TURN, _MAX_TURN, size=count)
    # The digit's square stays inside its quadrant; only the corners of a turned one may reach beyond.
    corners = np.stack([quadrants // 2, quadrants % 2], axis=-1) * float(_QUADRANT)
    centres = corners + sizes[:, None] / 2 + rng.random((count, 2)) * (_QUADRANT - sizes[:, None])
    colours = _bright_colours(rng, count)

    canvas = _background(rng)
    mask = np.zeros((SCENE_SIZE, SCENE_SIZE), np.uint8)
    for digit, size, turn, centre, colour in zip(digits, sizes, turns, centres, colours, strict=True):
        ink = _stamp(images[digit, ..., 0] / 255.0, size, turn, centre)
        canvas += ink[..., None] * (colour - canvas)
        mask[ink > _INK_THRESHOLD] = labels[digit] + 1
    canvas += rng.normal(0.0, _NOISE, canvas.shape)
    image = np.rint(np.clip(canvas, 0.0, 1.0) * 255.0).astype(np.uint8)
    return Scene(image, mask[..., None], digits)


def _stamp(ink: np.ndarray, size: float, turn: float, centre: np.ndarray) -> np.ndarray:
    """Return ink [48, 48] of a digit [n, n] enlarged to `size` pixels, turned, and centred at (y, x)."""
    pixels = np.arange(SCENE_SIZE) + 0.5
    y, x = pixels[:, None] - centre[0], pixels[None, :] - centre[1]
    step = len(ink) / size
    cos, sin = np.cos(turn) * step, np.sin(turn) * step
    # A border of paper, so that the clipped look-up outside the digit finds none of its ink.
    padded = np.pad(ink, 1)
    middle = (len(padded) - 1) / 2
    return _bilinear(padded, middle + y * cos - x * sin, middle + y * sin + x * cos)


def _background(rng: np.random.Generator) -> np.ndarray:
    """Return a smooth dim background, float64 [48, 48, 3]."""
    grid = rng.uniform(*_BACKGROUND_RANGE, size=(_BACKGROUND_GRID, _BACKGROUND_GRID, 3))
    at = np.linspace(0.0, _BACKGROUND_GRID - 1.0, SCENE_SIZE)
    return _bilinear(grid, at[:, None], at[None, :])


def _bilinear(source: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Sample source [h, w, ...] at float positions y, x (broadcast together), clipped to its edges."""
    height, width = source.shape[:2]
    y, x = np.broadcast_arrays(np.clip(y, 0, height - 1), np.clip(x, 0, width - 1))
    top, left = np.minimum(y.astype(int), height - 2), np.minimum(x.astype(int), width - 2)
    trailing = (1,) * (source.ndim - 2)
    down, right = (y - top).reshape(y.shape + trailing), (x - left).reshape(x.shape + trailing)
    upper = source[top, left] * (1 - right) + source[top, left + 1] * right
    lower = source[top + 1, left] * (1 - right) + source[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def _bright_colours(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return colours [count, 3] in 0..1 of any hue, bright, not so saturated that blue would look dark."""
    hue = rng.uniform(0.0, 6.0, size=(count, 1))
    saturation = rng.uniform(0.3, 0.75, size=(count, 1))
    value = rng.uniform(0.85, 1.0, size=(count, 1))
    sextant = (np.array([5.0, 3.0, 1.0]) + hue) % 6.0
    return value * (1.0 - saturation * np.clip(np.minimum(sextant, 4.0 - sextant), 0.0, 1.0))
