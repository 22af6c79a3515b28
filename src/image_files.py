"""Image files of any usual kind as pixels uint8 [H, W, C], and where they are found.

files, base = find_images(["photos", "scans/**/*.png"])
image = read_image(files[0], channels=3)
small = resized(image, (48, 48))
labels = read_mask(Path("masks/1.png"))
few = resized_nearest(labels, (48, 48))
"""

from __future__ import annotations

import glob
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from src.files import walk

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
MASKS, OVERLAYS, RESULTS = "masks", "overlays", "predictions.json"  # in an output folder of src.predict
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names, by channels
HAS_COLOURS = "it has colours; data.mask_colors says which class each stands for"  # of a BadImage
LOSSLESS = ("PNG", "BMP", "TIFF", "GIF")  # Pillow's names of formats that keep a mask's values

# On large images, which are as good as others, and on transparent colours of a palette, which are left out.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BadImage(ValueError):
    """A file that is no image, or a broken one; the message is the reason alone."""


def find_images(words: Iterable[str], *, leave_out: Sequence[Path] = ()) -> tuple[list[Path], Path]:
    """The image files that are meant, each once, and the deepest folder that holds all that was named.

    Args:
        words: files; folders, searched at any depth for SUFFIXES; patterns such as `a/**/*.png`.
            Hidden files in folders are passed over, and so are the pictures in an output folder of src.predict.
        leave_out: folders whose images do not count, by whatever links they are reached.

    Raises:
        ValueError: a file or folder does not exist, or a folder or pattern has no image.
    """
    left_out = [os.path.realpath(folder) for folder in leave_out]
    files: dict[str, Path] = {}
    bases: list[Path] = []
    for word in words:
        path, is_folder = Path(word), os.path.isdir(word)
        if is_folder:
            found, bases = _below(path), [*bases, path]
        elif os.path.lexists(word):
            found, bases = [path], [*bases, path.parent]
        elif glob.has_magic(word):
            found, bases = _matching(word), [*bases, _fixed_part(path)]
        else:
            raise ValueError(f"there is no file or folder {word}")
        found = [file for file in found if not any(Path(os.path.realpath(file)).is_relative_to(f) for f in left_out)]
        if not found:
            where = f"in the folder {word}" if is_folder else f"matches {word!r}"
            raise ValueError(f"no image {where}; images end in {' '.join(SUFFIXES)}")
        for file in found:
            files.setdefault(os.path.abspath(file), file)
    parents = {os.path.dirname(file) for file in files}
    return list(files.values()), Path(os.path.commonpath([*map(os.path.abspath, bases), *parents]))


def read_image(path: Path, *, channels: int) -> np.ndarray:
    """The pixels uint8 [H, W, channels] of a file's first frame, turned upright as its EXIF data say.

    As TensorFlow decodes images: of 16-bit channels the high byte is taken, and transparency is dropped, so that the
    colours stay which it hides.

    Args:
        channels: 1 is gray, 3 RGB, 4 RGB and opacity.

    Raises:
        BadImage: the file is missing, empty, damaged or no image.
    """
    with _reasons(path):
        with Image.open(path) as image:
            image.verify()  # a PNG's checksums, which decoding passes over
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)  # a copy of a large image would be a burden
            pixels = _eight_bits(image, image.format)
            pixels = pixels if pixels.mode == MODES[channels] else pixels.convert(MODES[channels])
            return np.asarray(pixels).reshape(pixels.height, pixels.width, channels)


def read_mask(path: Path, *, colors: bool = False) -> np.ndarray:
    """The values of a mask's first frame as they are stored, [H, W], turned upright as its EXIF data say.

    Gray values of 1 to 16 bits, unscaled, or the indices of a palette: uint8 or uint16, and int32 in a TIFF of 32 bits.
    Of RGB those whose channels are equal.

    Args:
        colors: instead the colours that one sees, int32 0xrrggbb; transparency is dropped.

    Raises:
        BadImage: the file is missing, empty, damaged, no image, of a lossy format, or of several channels.
    """
    with _opened_mask(path) as (image, stored):
        return _colors(image, stored) if colors else _values(image, stored)


def read_labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The values of a mask, as read_mask gives them, and the colours int32 0xrrggbb that its palette has for 0, 1, ...

    Raises:
        BadImage: as read_mask does.
    """
    with _opened_mask(path) as (image, stored):
        values = _values(image, stored)
        palette = image.getpalette("RGB") if image.mode == "P" else []
        return values, np.array(palette, np.int32).reshape(-1, 3) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def count_pixels(path: Path) -> int:
    """Width times height as the file's first bytes say; 0 where they cannot be read."""
    try:
        with _reasons(path), Image.open(path) as image:
            return image.width * image.height
    except BadImage:
        return 0


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """What an option image_size means.

    Raises:
        ValueError: it is neither a number of pixels nor two.
    """
    sizes = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else (size, size)
    if len(sizes) != 2 or not all(type(n) is int and n >= 1 for n in sizes):
        raise ValueError(f"image_size is {size!r}; it must be a number of pixels, at least 1, or [height,width]")
    return sizes[0], sizes[1]


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


@contextmanager
def _opened_mask(path: Path) -> Iterator[tuple[Image.Image, str]]:
    """A mask upright, and how its pixels lie in the file."""
    with _reasons(path):
        with Image.open(path) as image:
            image.verify()
        with Image.open(path) as image:
            stored = _stored_as(image)
            ImageOps.exif_transpose(image, in_place=True)
            yield image, stored


@contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """Whatever a file's reading raises becomes a BadImage."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("it is no file")
        if not status.st_size:
            raise BadImage("it is empty")
        yield
    except BadImage:
        raise
    except FileNotFoundError as error:
        raise BadImage("it is a link to nothing" if path.is_symlink() else "there is no such file") from error
    except UnidentifiedImageError as error:
        raise BadImage("it is no image, or of a kind that cannot be read") from error
    except PermissionError as error:
        raise BadImage("it may not be read") from error
    except Exception as error:  # Pillow's decoders raise whatever they meet
        raise BadImage(" ".join(str(error).split()) or repr(error)) from error


def _eight_bits(image: Image.Image, kind: str | None) -> Image.Image:
    """Gray of 16 bits, which Pillow would clip; it takes the high byte of colours itself."""
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PPM"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImage("its pixels are 32-bit numbers, whose range is not known; save it with 8 or 16 bits")
    return image


def _stored_as(image: Image.Image) -> str:
    """How an image's pixels lie in its file, as Pillow names it before they are read: `L;2` is gray of 2 bits."""
    packing = str(image.info.get("compression", ""))
    if image.format not in LOSSLESS or "jpeg" in packing or "webp" in packing:
        kind = f"a {image.format}" if image.format not in LOSSLESS else f"a {image.format} packed as {packing}"
        raise BadImage(f"it is {kind}, a lossy kind, which smears labels; make the mask anew as PNG")
    tiles = getattr(image, "tile", None) or [(None, None, None, "")]
    how = tiles[0][3]
    return str(how[0] if isinstance(how, tuple) else how)


def _values(image: Image.Image, stored: str) -> np.ndarray:
    if image.format == "GIF":  # programs number its colours anew when they save it
        raise BadImage("it is a GIF, whose numbers may have changed; give data.mask_colors, or save masks as PNG")
    if image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "L" and stored.startswith(("L;2", "L;4")):  # which Pillow has spread over 0 to 255
            return values // (85 if stored.startswith("L;2") else 17)
        return values.astype({"1": np.uint8, "I": np.int32}.get(image.mode, values.dtype.newbyteorder("=")))
    if image.mode == "F":
        raise BadImage("its pixels are fractions, no labels; save whole numbers, as PNG")
    if "16" in stored:
        raise BadImage("it has several channels of 16 bits; save one channel, as PNG")
    channels = np.asarray(image if image.mode == "LA" else image.convert("RGB"))
    if image.mode != "LA" and (channels != channels[..., :1]).any():
        raise BadImage(HAS_COLOURS)
    return channels[..., 0]


def _colors(image: Image.Image, stored: str) -> np.ndarray:
    if "16" in stored or image.mode in ("I", "F"):
        raise BadImage("it has more than 8 bits a channel; colours of classes have 8")
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int32), 2, 0)
    return red << 16 | green << 8 | blue


def _below(folder: Path) -> list[Path]:
    found = []
    for parent, names, files in walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        found += [Path(parent, name) for name in sorted(files) if not name.startswith(".")]
    return _images(found, folder)


def _matching(pattern: str) -> list[Path]:
    return _images(map(Path, sorted(glob.glob(pattern, recursive=True))), _fixed_part(Path(pattern)))


def _images(paths: Iterable[Path], top: Path) -> list[Path]:
    """Those that are named like images; a link to nothing among them, so that its reading names it."""
    named = (path for path in paths if path.suffix.lower() in SUFFIXES and not _is_output(path, top))
    return [path for path in named if os.path.isfile(path) or (path.is_symlink() and not path.exists())]


def _is_output(path: Path, top: Path) -> bool:
    """Whether src.predict has drawn a picture, as its place below the top folder says."""
    folders = [top / part for part in path.relative_to(top).parents]
    return any(
        folder.name in (MASKS, OVERLAYS) and (folder.parent / RESULTS).is_file() and (folder.parent / MASKS).is_dir()
        for folder in folders[:-1]
    )


def _fixed_part(pattern: Path) -> Path:
    """The folders before the first part that stands for several."""
    return next(parent for parent in pattern.parents if not glob.has_magic(str(parent)))
