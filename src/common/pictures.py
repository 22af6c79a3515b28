"""Pictures of images, masks, predictions, confusion matrices and numbers, as arrays uint8 [H, W, 3].

sheet = examples_sheet(images, masks, predicted, class_names=["background", "cat"])
Path("sheet.png").write_bytes(png(sheet))
"""

from __future__ import annotations

import colorsys
import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE = 96  # pixels that the longer side of a small image is enlarged to, at least
GAP, FONT_SIZE, LINE = 6, 12, 16  # pixels
Colour = tuple[int, int, int]
INK, PAPER, RIGHT, WRONG = (32, 32, 32), (255, 255, 255), (30, 130, 50), (200, 30, 30)
POINT = (8, 69, 148)
STRIP_PIXELS = 4_000_000  # of a mask or an overlay that are made at a time
LEGEND_CLASSES = 24  # more colours look alike
SCATTER_SIDE, SCATTER_POINTS = 360, 20_000  # pixels, and points that are drawn at most
MOST_PANELS = 6  # of numbers that are drawn apart
CELL_NUMBERS = 20  # with more classes, a confusion matrix has no numbers


def palette(classes: int) -> np.ndarray:
    """A colour for each class, the first black: uint8 [classes, 3]."""
    others = max(1, classes - 1)
    colours = [colorsys.hsv_to_rgb(i / others, 0.75 if i % 2 else 0.45, 1.0) for i in range(classes - 1)]
    return np.array([(0, 0, 0), *(np.multiply(colour, 255) for colour in colours)]).astype(np.uint8)


def overlay(image: np.ndarray, mask: np.ndarray, classes: int, *, opacity: float = 0.5) -> np.ndarray:
    """An image with the colours of its classes over it; class 0 is left clear.

    Args:
        image: uint8 [H, W, 1 or 3].
        mask: integers [H, W], 0 to classes - 1.
        opacity: of the colours, 0 to 1.
    """
    image, colours = _rgb(image), palette(classes)

    def mixed(rows: slice) -> np.ndarray:
        blend = Image.blend(Image.fromarray(image[rows]), Image.fromarray(colours[mask[rows]]), opacity)
        return np.where((mask[rows] > 0)[..., None], np.asarray(blend), image[rows])

    return np.concatenate([mixed(rows) for rows in strips(mask.shape[:2])])


def strips(size: tuple[int, int]) -> Iterator[slice]:
    """Rows of an image, few enough to make at a time."""
    height = max(1, STRIP_PIXELS // size[1])
    return (slice(top, min(top + height, size[0])) for top in range(0, size[0], height))


def examples_sheet(
    images: np.ndarray,
    targets: np.ndarray,
    predicted: np.ndarray,
    *,
    class_names: Sequence[str],
    captions: Sequence[str] = (),
) -> np.ndarray:
    """Examples side by side: image, truth and prediction below each other, or a label's truth and prediction as text.

    Args:
        images: uint8 [n, H, W, 1 or 3].
        targets, predicted: integers, labels [n] or masks [n, H, W].
        class_names: of the classes 0 to len - 1.
        captions: one above each example, or none.
    """
    if targets.ndim == 1:
        answers = [
            [(f"truth {class_names[t]}", INK), (f"predicted {class_names[p]}", RIGHT if t == p else WRONG)]
            for t, p in zip(targets, predicted, strict=True)
        ]
        return rows_sheet({"": images}, captions=captions, answers=answers)
    colours = palette(len(class_names))
    rows = {"image": images, "truth": colours[targets], "prediction": colours[predicted]}
    return rows_sheet(rows, class_names=class_names, captions=captions)


def rows_sheet(
    rows: Mapping[str, np.ndarray],
    *,
    class_names: Sequence[str] = (),
    captions: Sequence[str] = (),
    answers: Sequence[Sequence[tuple[str, Colour]]] = (),
) -> np.ndarray:
    """Rows of pictures below each other, each with its name, and a legend of the classes' colours.

    Args:
        rows: by name, uint8 [n, H, W, 1 or 3], all of one shape except for the channels.
        class_names: of the legend; none leave it out.
        captions: one above each column, or none.
        answers: coloured lines below each column, or none.
    """
    images = next(iter(rows.values()))
    side = _enlarged(images.shape[1:3])
    texts = [*captions, *(text for lines in answers for text, _ in lines)]
    width, height = max(side[1], *map(_text_width, texts), 0) + GAP, side[0] + GAP
    margin = GAP + max((_text_width(name) + GAP for name in rows if name), default=0)
    head = LINE if captions else 0
    legend = _legend(class_names, margin + len(images) * width)
    below = head + len(rows) * height
    bottom = below + GAP + max(map(len, answers), default=0) * LINE
    canvas, draw = _canvas(margin + len(images) * width, bottom + (legend.height if legend else 0))
    for column, caption in enumerate(captions):
        draw.text((margin + column * width, GAP // 2), caption, INK, _font())
    for row, (name, pictures) in enumerate(rows.items()):
        top = head + GAP + row * height
        draw.text((GAP, top + side[0] // 2 - LINE // 2), name, INK, _font())
        for column, picture in enumerate(pictures):
            canvas.paste(_tile(picture, side), (margin + column * width, top))
    for column, lines in enumerate(answers):
        for line, (text, colour) in enumerate(lines):
            draw.text((margin + column * width, below + line * LINE), text, colour, _font())
    if legend:
        canvas.paste(legend, (0, bottom))
    return np.asarray(canvas)


def confusion_picture(counts: np.ndarray, class_names: Sequence[str], *, title: str = "") -> np.ndarray:
    """A confusion matrix: a row for each true class, shaded by the share of the row.

    Args:
        counts: integers [classes, classes], true class by predicted class.
        class_names: one for each class.
    """
    classes = len(class_names)
    numbers = classes <= CELL_NUMBERS
    texts = [[_short(count) for count in row] for row in counts]
    widest = max(_text_width(text) for row in texts for text in row) if numbers else 0
    cell = max(widest + 8, LINE + 8) if numbers else max(4, 480 // classes)
    names = [str(name) for name in class_names] if numbers else ["" for _ in class_names]
    margin = max(map(_text_width, [*names, "true"])) + 2 * GAP
    top = margin + 2 * LINE
    canvas, draw = _canvas(margin + classes * cell + GAP, top + classes * cell + GAP)
    draw.text((GAP, GAP), title, INK, _font())
    draw.text((margin, GAP + LINE), "predicted", INK, _font())
    draw.text((GAP, top - LINE), "true", INK, _font())
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    for row in range(classes):
        draw.text(
            (margin - GAP - _text_width(names[row]), top + row * cell + cell // 2 - LINE // 2), names[row], INK, _font()
        )
        _upright(canvas, names[row], (margin + row * cell + cell // 2, top - GAP))
        for column in range(classes):
            share, left, upper = float(shares[row, column]), margin + column * cell, top + row * cell
            shade = tuple(round(255 - share * (255 - c)) for c in (8, 69, 148))
            draw.rectangle((left, upper, left + cell - 2, upper + cell - 2), fill=shade)
            if numbers:
                text = texts[row][column]
                ink = PAPER if share > 0.5 else INK
                draw.text(
                    (left + (cell - 2 - _text_width(text)) // 2, upper + cell // 2 - LINE // 2), text, ink, _font()
                )
    return np.asarray(canvas)


def scatter_picture(truth: np.ndarray, predicted: np.ndarray, *, title: str = "") -> np.ndarray:
    """True against predicted numbers, and the line where they are equal; points that are not finite are left out.

    Args:
        truth, predicted: float [n].
    """
    points = np.stack([truth, predicted], -1).astype(np.float64)
    points = points[np.isfinite(points).all(1)]
    low, high = (points.min(), points.max()) if len(points) else (0.0, 1.0)
    places = (points - low) / (high - low or 1.0) * SCATTER_SIDE
    ends = [f"{low:.4g}", f"{high:.4g}"]
    left = _text_width("-1.234e+100") + 2 * GAP  # the same for all, to lie side by side
    top, bottom = 2 * LINE, 2 * LINE + SCATTER_SIDE
    canvas, draw = _canvas(left + SCATTER_SIDE + 2 * GAP, bottom + 2 * LINE)
    draw.text((GAP, GAP), title, INK, _font())
    draw.rectangle((left, top, left + SCATTER_SIDE, bottom), outline=INK)
    draw.line((left, bottom, left + SCATTER_SIDE, top), fill=RIGHT)
    for x, y in places[:: -(-len(places) // SCATTER_POINTS) or 1].round().astype(int).tolist():
        draw.rectangle((left + x - 1, bottom - y - 1, left + x + 1, bottom - y + 1), fill=POINT)
    for text, x, y in (
        *((text, left - GAP - _text_width(text), y) for text, y in zip(ends, (bottom - LINE, top), strict=True)),
        ("predicted", left - GAP - _text_width("predicted"), (top + bottom - LINE) // 2),
        (ends[0], left, bottom + GAP),
        ("true", left + (SCATTER_SIDE - _text_width("true")) // 2, bottom + GAP),
        (ends[1], left + SCATTER_SIDE - _text_width(ends[1]), bottom + GAP),
    ):
        draw.text((x, y), text, INK, _font())
    return np.asarray(canvas)


def scatters_picture(truth: np.ndarray, predicted: np.ndarray, *, title: str = "") -> np.ndarray:
    """As `scatter_picture`, apart for each of the last axis's numbers, the first ones of many.

    Args:
        truth, predicted: float [n, ...], of one shape.
    """
    count = truth.shape[-1] if truth.ndim > 1 else 1
    truth, predicted = truth.reshape(-1, count), predicted.reshape(-1, count)
    titles = [title] if count == 1 else [f"{title}, {i + 1} of {count}" for i in range(min(count, MOST_PANELS))]
    panels = [scatter_picture(truth[:, i], predicted[:, i], title=told) for i, told in enumerate(titles)]
    return np.concatenate(panels, axis=1)


def confusion_counts(targets: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How often each class was taken for each: int64 [classes, classes], true by predicted; any equal shapes.

    Raises:
        ValueError: a target or prediction is not 0 to classes - 1.
    """
    targets, predicted = np.ravel(targets).astype(np.int64), np.ravel(predicted).astype(np.int64)
    for name, values in {"target": targets, "prediction": predicted}.items():
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise ValueError(f"{name}s are {values.min()} to {values.max()}; they must be 0 to {classes - 1}")
    return np.bincount(targets * classes + predicted, minlength=classes**2).reshape(classes, classes)


def png(picture: np.ndarray) -> bytes:
    """A picture uint8 [H, W, 3] as a PNG file's bytes."""
    return _png(Image.fromarray(picture))


def mask_png(mask: np.ndarray, classes: int, *, has_unseen: bool = False) -> bytes:
    """A mask of integers [H, W] as a PNG file's bytes, whose pixels are the class numbers.

    Up to 256 classes have their colours in its palette (8 bits); more make it gray, of 16 bits.

    Args:
        has_unseen: whether the highest number of these bits, 255 or 65535, is of pixels whose class is not known.
    """
    if classes > 256 - has_unseen:
        return _png(Image.fromarray(mask.astype(np.uint16)))
    image = Image.fromarray(mask.astype(np.uint8))
    colours = palette(classes).tobytes()
    image.putpalette(colours.ljust(3 * 256, b"\0") if has_unseen else colours)
    return _png(image, bits=8)


def _png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def _legend(class_names: Sequence[str], width: int) -> Image.Image | None:
    if not 0 < len(class_names) <= LEGEND_CLASSES:
        return None
    places, left, top = [], GAP, 0
    for name in class_names:
        needed = LINE + _text_width(str(name)) + 2 * GAP
        if left > GAP and left + needed > width:
            left, top = GAP, top + LINE
        places.append((left, top))
        left += needed
    canvas, draw = _canvas(width, top + LINE + GAP)
    for (left, top), name, colour in zip(places, class_names, palette(len(class_names)), strict=True):
        draw.rectangle((left, top + 3, left + 10, top + 13), fill=tuple(map(int, colour)), outline=INK)
        draw.text((left + LINE, top), str(name), INK, _font())
    return canvas


def _canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("RGB", (width, height), PAPER)
    return canvas, ImageDraw.Draw(canvas)


def _tile(picture: np.ndarray, side: tuple[int, int]) -> Image.Image:
    return Image.fromarray(_rgb(picture)).resize((side[1], side[0]), Image.Resampling.NEAREST)


def _enlarged(shape: tuple[int, ...]) -> tuple[int, int]:
    times = max(1, -(-TILE // max(shape)))
    return shape[0] * times, shape[1] * times


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.broadcast_to(image, (*image.shape[:2], 3))


def _upright(canvas: Image.Image, text: str, bottom: tuple[int, int]) -> None:
    label = Image.new("RGB", (_text_width(text) + 1, LINE), PAPER)
    ImageDraw.Draw(label).text((0, 0), text, INK, _font())
    label = label.rotate(90, expand=True)
    canvas.paste(label, (bottom[0] - label.width // 2, bottom[1] - label.height))


def _short(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= 10 * size:
            return f"{count / size:.0f}{unit}"
    return str(count)


def _text_width(text: str) -> int:
    return int(_font().getlength(text)) + 1


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_SIZE)
