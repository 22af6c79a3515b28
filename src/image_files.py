"""Image files of any usual kind as pixels uint8 [H, W, C], and where they are found.

files, base = find_images(["photos", "scans/**/*.png"])
image = read_image(files[0], channels=3)
small = resized(image, (48, 48))
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

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
MASKS, OVERLAYS, RESULTS = "masks", "overlays", "predictions.json"  # in an output folder of src.predict
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names, by channels

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


def count_pixels(path: Path) -> int:
    """Width times height as the file's first bytes say; 0 where they cannot be read."""
    try:
        with _reasons(path), Image.open(path) as image:
            return image.width * image.height
    except BadImage:
        return 0


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


def _below(folder: Path) -> list[Path]:
    found = []
    for parent, names, files in os.walk(folder):
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
