"""Image files of any usual kind as pixels uint8 [H, W, C].

reading = Reading(channels=3, size=(48, 48))
image = reading.image(Path("photos/1.jpg"))      # Decoded: image.pixels, upright
mask = reading.mask(Path("masks/1.png"))
small, labels = reading.resize(image.pixels, mask.pixels)

All that needs the pixels of a file, or of an image inside another file, gets them here: they are the same numbers
everywhere.
"""

from __future__ import annotations

import io
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from src.common.machine import free_memory
from src.common.ranges import Count, Flag, Range, enforce_ranges
from src.common.text import size as as_size
from src.data.images.png_chunks import without_metadata
from src.data.images.resizing import Fit, fitted, fitted_mask

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names, by channels
ImageSize = Annotated[Count | tuple[Count, Count], "a number of pixels, at least 1, or [height, width]"]
BitDepth = Annotated[int, Range(8, 16)]  # of gray images that are stored in 16 bits
HAS_COLOURS = "it has colours; data.mask_colors says which class each stands for"  # of a BadImage
LOSSLESS = ("PNG", "BMP", "TIFF", "GIF")  # Pillow's names of formats that keep a mask's values

LARGE_IMAGE = 50_000_000  # pixels, from which on memory is asked for
FEW_BITS = 14  # of 16, or less, are what an image's brightest value needs: it is as good as black
ORIENTATION = 0x0112  # a tag of EXIF data, and of a TIFF
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_PLANES, TIFF_FORMAT = 258, 262, 284, 339  # further tags
# From the pixels as they are stored to the upright ones, by orientation.
TURNS: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
TURNED_BACK = {6: 8, 8: 6}  # the others are their own inverses

# On transparent colours of a palette, which are left out, and on metadata, which are passed over.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # the memory is what limits them: _check_memory


class BadImage(ValueError):
    """A file that is no image, or a broken one; the message is the reason alone."""


@dataclass(frozen=True)
class Decoded:
    """A file's pixels and their properties.

    Attributes:
        pixels: upright, or as they are stored.
        turn: the orientation that the file names, 1 to 8 as in EXIF, obeyed or not: 1 is upright; None is one that
            cannot be read or does not exist, and counts as 1.
        bits: of an image of 16 bits, unless the file itself declares fewer, those that its brightest value
            needs; else None.
        is_deep_colour: whether it has several channels of 16 bits, for which data.bit_depth can only be 16.
        palette: of a mask of palette indices the colours int32 0xrrggbb of 0, 1, ...
    """

    pixels: np.ndarray
    turn: int | None
    bits: int | None = None
    is_deep_colour: bool = False
    palette: np.ndarray | None = None


@enforce_ranges
@dataclass(frozen=True)
class Reading:
    """How a data set's images and masks are read: options that all its files share.

    Args:
        channels: of images: 1 is gray, 3 RGB, 4 RGB and opacity.
        size: (H, W) to resize to.
        fit: `pad` and `crop` keep the aspect, with black edges or without what is too long; None does not.
        outside: the label of the edges of masks.
        apply_exif: False leaves pixels as they are stored, None is True.
        bit_depth: of gray values that are stored in 16 bits so many count, 8 to 16; None is 16, or what the file says.

    Raises:
        ValueError: an option has no meaning; names it.
    """

    channels: int = 3
    size: tuple[int, int] | None = None
    apply_exif: Flag | None = None
    bit_depth: BitDepth | None = None
    fit: Fit | None = None
    outside: int | None = None

    def __post_init__(self) -> None:
        if self.fit and self.size is None:
            raise ValueError(f"data.resize={self.fit} says how images get to data.image_size: give that too")

    @property
    def is_upright(self) -> bool:
        """Whether pixels are turned as their files say."""
        return self.apply_exif is not False

    def image(self, source: Path | bytes | np.ndarray) -> Decoded:
        """The first frame of an image, pixels uint8 [H, W, channels].

        As TensorFlow decodes images: of 16-bit channels the high byte is taken, and transparency is dropped, so that
        the colours stay which it hides. Colour profiles are not applied.

        Args:
            source: a file, what it holds, or its upright pixels uint8 or uint16 [H, W, C].

        Raises:
            BadImage: the file is missing, empty, damaged, no image, or of a kind whose pixels are not known for sure.
        """
        if isinstance(source, np.ndarray):
            return self._array(source)
        with _reasons(source):
            image, stored = _opened(source)
            turn, upright = _load(image, is_upright=self.is_upright)
            if "transparency" in image.info and "16" in stored and self.channels == 4:
                raise BadImage("it has 16 bits and a transparent colour, no opacity; save it with 8 bits")
            shallow, bits = _eight_bits(image, stored, self.bit_depth)
            is_deep_colour = bits is not None and len(image.getbands()) > 1
            return Decoded(upright(_with_channels(shallow, self.channels)), turn, bits, is_deep_colour)

    def _array(self, values: np.ndarray) -> Decoded:
        values = values[..., 0] if values.shape[2] == 1 else values
        is_deep_colour = values.ndim == 3 and values.dtype == np.uint16  # which Pillow only has halved
        image = Image.fromarray((values >> 8).astype(np.uint8) if is_deep_colour else values)
        shallow, bits = _eight_bits(image, "16" if is_deep_colour else "", self.bit_depth)
        return Decoded(_with_channels(shallow, self.channels), 1, bits, is_deep_colour)

    def mask(self, source: Path | bytes, *, colors: bool = False) -> Decoded:
        """The first frame of a mask, values as they are stored, [H, W].

        Gray values of 1 to 16 bits, unscaled, or the indices of a palette: uint8 or uint16, and int32 in a TIFF of 32
        bits or of signed values. Of RGB those whose channels are equal.

        Args:
            source: a file, or what it holds.
            colors: instead the colours that one sees, int32 0xrrggbb; transparency is dropped.

        Raises:
            BadImage: the file is missing, empty, damaged, no image, of a lossy format, or of several channels.
        """
        with _reasons(source):
            image, stored = _opened(source)
            _check_mask(image)
            turn, upright = _load(image, is_upright=self.is_upright)
            values = _colors(image, stored) if colors else _values(image, stored)
            palette = image.getpalette("RGB") if image.mode == "P" else []
            numbers = np.array(palette, np.int32).reshape(-1, 3) @ np.array([1 << 16, 1 << 8, 1], np.int32)
            return Decoded(upright(values), turn, palette=numbers)

    def check_edges(self) -> None:
        """Raise ValueError where masks would get edges that have no label."""
        if self.fit == "pad" and self.outside is None:
            raise ValueError(
                "data.resize=pad gives masks edges, which must count nowhere: give them a label, data.ignore_label=255"
            )

    def resize(self, image: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An image, and its mask [H, W] or label [], at `size`."""
        if self.size is None:
            return image, target
        image = fitted(image, self.size, self.fit)
        return image, fitted_mask(target, self.size, self.fit, outside=self.outside or 0) if target.ndim else target


def why_too_deep(bits: int, bit_depth: int, *, is_deep_colour: bool = False) -> str | None:
    """What is wrong with an image of 16 bits whose brightest value needs so many; None where nothing is."""
    if is_deep_colour and bit_depth != 16:
        return f"it has several channels of 16 bits, and data.bit_depth={bit_depth} is for gray alone"
    more = f"its brightest value needs {bits} bits, which is more than data.bit_depth={bit_depth}"
    return more if bits > bit_depth else None


def count_pixels(path: Path) -> int:
    """Width times height as the file's first bytes say; 0 where they cannot be read."""
    try:
        with _reasons(path):
            image = Image.open(io.BytesIO(without_metadata(path.read_bytes())))
            return image.width * image.height
    except BadImage:
        return 0


@enforce_ranges
def height_and_width(size: ImageSize) -> tuple[int, int]:
    """What an option image_size means."""
    height, width = size if isinstance(size, Sequence) else (size, size)
    return height, width


def by(size: tuple[int, ...]) -> str:
    """Height by width, for eyes."""
    return f"{size[0]} x {size[1]}"


@contextmanager
def _reasons(source: Path | bytes) -> Iterator[None]:
    """Whatever a file's reading raises becomes a BadImage."""
    try:
        if isinstance(source, Path):
            status = source.stat()
            if not stat.S_ISREG(status.st_mode):
                raise BadImage("it is no file")
            if not status.st_size:
                raise BadImage("it is empty")
        yield
    except BadImage:
        raise
    except FileNotFoundError as error:
        is_link = isinstance(source, Path) and source.is_symlink()
        raise BadImage("it is a link to nothing" if is_link else "there is no such file") from error
    except UnidentifiedImageError as error:
        raise BadImage("it is no image, or of a kind that cannot be read") from error
    except PermissionError as error:
        raise BadImage("it may not be read") from error
    except Exception as error:  # Pillow's decoders raise whatever they meet
        raise BadImage(" ".join(str(error).split()) or repr(error)) from error


def _opened(source: Path | bytes) -> tuple[Image.Image, str]:
    """An image whose pixels are still to be read, and how they lie in the file: `L;2` is gray of 2 bits.

    From memory: Pillow maps a file that it is given by name, and scrambles pixels that are turned.
    """
    image = Image.open(io.BytesIO(without_metadata(source if isinstance(source, bytes) else source.read_bytes())))
    _check_memory(image)
    how = image.tile[0][3] if getattr(image, "tile", None) else ""
    stored = str(how[0] if isinstance(how, tuple) else how)
    _check_tiff(image, stored)
    return image, stored


def _check_memory(image: Image.Image) -> None:
    pixels = image.width * image.height
    need, free = pixels * 2 * (4 if len(image.getbands()) > 1 else 1), free_memory() if pixels > LARGE_IMAGE else None
    if free is not None and need > free:
        raise BadImage(
            f"its {pixels / 1e6:.0f} megapixels need at least {as_size(need)} of memory, and {as_size(free)} are free; "
            "make it smaller, or cut it into parts"
        )


def _tag(image: Image.Image, number: int) -> Any:
    """The value of a TIFF's tag; None where it has none, and of other images."""
    return image.tag_v2.get(number) if isinstance(image, TiffImagePlugin.TiffImageFile) else None


def _is_signed(image: Image.Image) -> bool:
    formats = _tag(image, TIFF_FORMAT)
    return formats is not None and 2 in np.atleast_1d(formats)


def _check_tiff(image: Image.Image, stored: str) -> None:
    """Refuse what Pillow reads wrongly, and does not refuse."""
    is_raw, several = image.info.get("compression") == "raw", len(image.getbands()) > 1
    if not is_raw and stored.endswith("BS"):
        raise BadImage("it is a TIFF of signed values, big-endian and packed; save it as PNG")
    if is_raw and several and _tag(image, TIFF_PLANES) == 2 and max(_tag(image, TIFF_BITS) or (8,)) > 8:
        raise BadImage("it is a TIFF with a plane of 16 bits for each colour, unpacked; save it as PNG")
    if is_raw and several and _tag(image, TIFF_PHOTOMETRIC) == 6:
        raise BadImage("it is a TIFF in YCbCr, unpacked; save it as PNG")


def _load(image: Image.Image, *, is_upright: bool) -> tuple[int | None, Callable[[np.ndarray], np.ndarray]]:
    """Read an image's pixels: Decoded's `turn`, and what turns them upright, or back to how they are stored."""
    is_turned = isinstance(image, TiffImagePlugin.TiffImageFile)  # by Pillow, while it is read
    turn = _turn(image) if is_turned else None
    image.load()
    turn = turn if is_turned else _turn(image)  # which may stand behind the pixels
    if is_turned:
        return turn, TURNS[1 if is_upright or turn is None else TURNED_BACK.get(turn, turn)]
    return turn, TURNS[(is_upright and turn) or 1]


def _turn(image: Image.Image) -> int | None:
    try:
        turn = image.getexif().get(ORIENTATION) or 1  # 0 is none too
    except Exception:  # of whatever is broken
        return None
    return turn if isinstance(turn, int) and turn in TURNS else None


def _eight_bits(image: Image.Image, stored: str, bit_depth: int | None) -> tuple[Image.Image, int | None]:
    """An image of 8 bits a channel, and Decoded's `bits`; Pillow clips gray of 16, and halves colours itself."""
    if _is_signed(image):
        raise BadImage("its values are signed, and which is black is not known; save it with 8 or 16 bits, unsigned")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        values = np.asarray(image).astype(np.int32)
        is_told = stored.startswith("I;12") or image.format == "PPM"  # which Pillow has spread over 16 bits
        depth = 12 if stored.startswith("I;12") else (None if is_told else bit_depth) or 16
        bits = None if is_told else int(values.max()).bit_length()
        if bits is not None and (why := why_too_deep(bits, depth)):
            raise BadImage(why)
        if _tag(image, TIFF_PHOTOMETRIC) == 0:  # 0 is white, which Pillow sees to elsewhere
            values = (1 << depth) - 1 - values
        return Image.fromarray((values >> (depth - 8)).astype(np.uint8)), bits
    if image.mode in ("I", "F"):
        raise BadImage("its pixels are 32-bit numbers, whose range is not known; save it with 8 or 16 bits")
    if "16" in stored and image.mode in ("LA", "RGB", "RGBA"):
        bits = 8 + int(np.asarray(image.convert("RGB")).max()).bit_length()
        if why := why_too_deep(bits, bit_depth or 16, is_deep_colour=True):
            raise BadImage(why)
        return image, bits
    return image, None


def _with_channels(image: Image.Image, channels: int) -> np.ndarray:
    pixels = np.asarray(image if image.mode == MODES[channels] else image.convert(MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def _check_mask(image: Image.Image) -> None:
    packing = str(image.info.get("compression", ""))
    if image.format not in LOSSLESS or "jpeg" in packing or "webp" in packing:
        kind = f"a {image.format}" if image.format not in LOSSLESS else f"a {image.format} packed as {packing}"
        raise BadImage(f"it is {kind}, a lossy kind, which smears labels; make the mask anew as PNG")
    if _tag(image, TIFF_PHOTOMETRIC) == 0:
        raise BadImage("it is a TIFF that counts from white, so that which label is 0 is not known; save it as PNG")


def _values(image: Image.Image, stored: str) -> np.ndarray:
    if image.format == "GIF":  # programs number its colours anew when they save it
        raise BadImage("it is a GIF, whose numbers may have changed; give data.mask_colors, or save masks as PNG")
    if image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "L" and stored.startswith(("L;2", "L;4")):  # which Pillow has spread over 0 to 255
            return values // (85 if stored.startswith("L;2") else 17)
        if image.mode == "L" and _is_signed(image):
            return values.view(np.int8).astype(np.int32)
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
