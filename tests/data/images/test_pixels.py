"""A file's pixels are the same numbers wherever it is read, and those that independent decoders give.

The decoders are pypng, tifffile with imagecodecs, and imagecodecs' own for JPEG and WebP; none of them knows
orientations, which are computed here by what the EXIF standard says of each. What each kind of file is refused for is
listed in REFUSED.
"""

from __future__ import annotations

import io
import itertools
import re
import struct
import zlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import imagecodecs
import numpy as np
import png as pypng
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
import tifffile
from PIL import Image

from src.data import sources
from src.data.data import DataError
from src.data.images.files import BadImage, Decoded, Reading
from src.data.images.folders import image_folder
from src.data.images.image_data import ImageData
from src.data.images.oddities import Oddities
from src.data.images.resizing import fitted, fitted_mask, resized, resized_nearest
from src.data.images.tfds_sets import tfds_images
from src.inspection import predict_images
from tests.support.folders import png, read_image, read_mask, save
from tests.support.prepared import write_set

H, W = 5, 7
ORIENTATIONS = range(1, 9)
# What no reader takes, and what it says.
REFUSED = {
    "signed values": "its values are signed",
    "floats": "32-bit numbers",
    "whole numbers of 32 bits": "32-bit numbers|cannot be read",
    "gray and opacity of 16 bits": "cannot be read",
    "16 bits that count from white, big-endian": "cannot be read",
    "12 bits, big-endian or counting from white": "cannot be read",
    "6 bits": "cannot be read",
    "10 bits": "cannot be read",
    "planes of 16 bits, unpacked": "a plane of 16 bits for each colour",
    "gray and opacity in planes, unpacked": "raw mode",
    "YCbCr, unpacked": "in YCbCr, unpacked",
}


@dataclass(frozen=True)
class File:
    """A file and its stored pixels in RGB [5, 7, 3] as another decoder gives them, or a key of REFUSED."""

    name: str
    content: bytes
    pixels: np.ndarray
    orientation: int = 1
    refused: str | None = None

    @property
    def upright(self):
        return turned(self.pixels, self.orientation)


def turned(stored, orientation):
    """Where the standard's 0th row and 0th column are, for each upright pixel."""
    height, width = stored.shape[:2]
    rows, columns = np.indices((width, height) if orientation > 4 else (height, width))
    up, left = height - 1, width - 1
    places = {
        1: (rows, columns),
        2: (rows, left - columns),
        3: (up - rows, left - columns),
        4: (up - rows, columns),
        5: (columns, rows),
        6: (up - columns, rows),
        7: (up - columns, left - rows),
        8: (columns, left - rows),
    }
    return stored[places[orientation]]


def values_of(bits, *shape, seed=0):
    values = np.random.default_rng([seed, bits, *shape]).integers(0, 2**bits, shape)
    values.flat[0] = 2**bits - 1
    return values.astype(np.uint8 if bits <= 8 else np.uint16)


def rgb(gray):
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)


def exif(orientation):
    """EXIF data of one tag, big-endian."""
    return b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">HHI", orientation, 0, 0)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunks(content, *chunks, behind=False):
    """A PNG with more chunks, before its pixels or behind them."""
    place = content.index(b"IEND" if behind else b"IDAT") - 4
    return content[:place] + b"".join(chunks) + content[place:]


def with_segment(content, data, marker=0xE1):
    """A JPEG with a further segment at its start."""
    return content[:2] + struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data + content[2:]


def tiff(values, *, bits, packed=False, order="<", photometric=1, orientation=1):
    """A TIFF by the standard alone: values [H, W] of this depth."""
    rows = ["".join(f"{value:0{bits}b}" for value in row) for row in values.tolist()]
    rows = [row + "0" * (-len(row) % 8) for row in rows]
    data = b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)
    data = zlib.compress(data) if packed else data
    height, width = values.shape
    tags = [(256, width), (257, height), (258, bits), (259, 8 if packed else 1), (262, photometric), (273, 8)]
    tags += [(274, orientation), (277, 1), (278, height), (279, len(data)), (339, 1)]
    data += b"\0" * (len(data) % 2)
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8 + len(data))
    return start + data + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def written(values, orientation=1, **options):
    """A TIFF of tifffile's."""
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, extratags=[(274, 3, 1, orientation, True)], **options)
    return file.getvalue()


def seen(array, *, photometric, colormap=None):
    """RGB uint8 [H, W, 3] of what tifffile gives, [H, W] or [H, W, C]."""
    high = (array >> 8 if array.dtype == np.uint16 else array).astype(np.uint8)
    if photometric == "palette":
        return (colormap >> 8).T.astype(np.uint8)[array]
    if photometric == "separated":
        ink, black = 255 - high[..., :3].astype(int), 255 - high[..., 3:].astype(int)
        return np.round(ink * black / 255).astype(np.uint8)
    if photometric == "rgb":
        return high[..., :3]
    gray = high[..., 0] if high.ndim == 3 else high
    return rgb(255 - gray if photometric == "miniswhite" else gray)


def png_files():
    """Gray, colours and palettes of each depth, plain and interlaced, in each orientation."""
    for (kind, channels), bits in itertools.product(
        {"gray": 1, "LA": 2, "RGB": 3, "RGBA": 4, "palette": 1}.items(), (1, 2, 4, 8, 16)
    ):
        if (bits < 8 and channels > 1) or (bits == 16 and kind == "palette"):
            continue
        palette = values_of(8, 2**bits, 3) if kind == "palette" else None
        values = values_of(bits, H, W, channels)
        for orientation, interlaced in itertools.product(ORIENTATIONS, (False, True)):
            encoded = io.BytesIO()
            writer = pypng.Writer(
                **{"width": W, "height": H, "bitdepth": bits, "interlace": interlaced},
                **({"palette": palette.tolist()} if kind == "palette" else {}),
                **({"greyscale": channels < 3, "alpha": channels in (2, 4)} if kind != "palette" else {}),
            )
            writer.write(encoded, values.reshape(H, -1).tolist())
            _, _, rows, info = pypng.Reader(bytes=encoded.getvalue()).read()
            read = np.array(list(rows)).reshape(H, W, -1)
            if kind == "palette":
                expected = np.array(info["palette"], np.uint8)[read[..., 0]][..., :3]
            else:
                high = read >> 8 if bits == 16 else read * (255 // (2**bits - 1))
                expected = high[..., :3].astype(np.uint8) if channels > 2 else rgb(high[..., 0])
            content = with_chunks(encoded.getvalue(), chunk(b"eXIf", exif(orientation)), behind=orientation % 2 == 0)
            name = f"PNG {kind} of {bits} bits{', interlaced' * interlaced}, turned {orientation}"
            yield File(name, content, expected, orientation)


def tiff_files():
    """What tifffile writes: by kind, depth, packing, byte order, planes, tiles and orientation."""
    kinds = {
        "gray": ("minisblack", 1, None),
        "white is 0": ("miniswhite", 1, None),
        "gray and opacity": ("minisblack", 2, "unassalpha"),
        "RGB": ("rgb", 3, None),
        "RGBA": ("rgb", 4, "unassalpha"),
        "CMYK": ("separated", 4, None),
        "palette": ("palette", 1, None),
        "YCbCr": ("ycbcr", 3, None),
    }
    for (kind, (photometric, channels, extra)), bits in itertools.product(kinds.items(), (8, 16)):
        if bits == 16 and kind in ("palette", "YCbCr"):
            continue
        colormap = values_of(16, 3, 256) if kind == "palette" else None
        values = values_of(bits, H, W, channels) if channels > 1 else values_of(bits, H, W)
        ways = itertools.product((None, "zlib", "lzw", "packbits"), "<>", (False, True), (False, True))
        for number, (packing, order, planes, tiles) in enumerate(ways):
            if (planes and channels == 1) or (kind == "YCbCr" and (packing or planes or tiles)):
                continue
            refused = {
                "16 bits that count from white, big-endian": (kind, bits, order) == ("white is 0", 16, ">"),
                "gray and opacity of 16 bits": (kind, bits) == ("gray and opacity", 16),
                "gray and opacity in planes, unpacked": kind == "gray and opacity" and planes and not packing,
                "planes of 16 bits, unpacked": bits == 16 and planes and not packing,
                "YCbCr, unpacked": kind == "YCbCr",
            }
            options = {"colormap": colormap, "extrasamples": extra and [extra], "tile": (16, 16) if tiles else None}
            options |= {"planarconfig": ("separate" if planes else "contig") if channels > 1 else None}
            options |= {"photometric": photometric, "compression": packing, "byteorder": order}
            options = {key: value for key, value in options.items() if value is not None}
            # Each orientation of what Pillow would map, two of the rest.
            for orientation in ORIENTATIONS if not (packing or planes or tiles) else (1, 2 + number % 7):
                content = written(np.moveaxis(values, 2, 0) if planes else values, orientation, **options)
                pixels = np.zeros((H, W, 3))
                if not any(refused.values()):
                    read = tifffile.imread(io.BytesIO(content))
                    read = np.moveaxis(read, 0, 2) if planes else read
                    pixels = seen(read, photometric=photometric, colormap=colormap)
                name = f"TIFF {kind} of {bits} bits, {packing}, {order}, planes {planes}, tiles {tiles}, {orientation}"
                yield File(
                    name,
                    content,
                    pixels,
                    orientation,
                    next((k for k, is_it in refused.items() if is_it), None),
                )


def other_tiff_files():
    """Few bits by the standard alone, and what has no black or white."""
    for bits, packed, order, photometric in itertools.product((1, 2, 4, 6, 10, 12), (False, True), "<>", (0, 1)):
        values = values_of(bits, H, W)
        orientation = 1 + (3 * bits + photometric) % 8
        options = {"packed": packed, "order": order, "photometric": photometric, "orientation": orientation}
        content = tiff(values, bits=bits, **options)
        refused = f"{bits} bits" if bits in (6, 10) else None
        if bits == 12 and (order == ">" or not photometric):
            refused = "12 bits, big-endian or counting from white"
        if not refused:
            np.testing.assert_array_equal(tifffile.imread(io.BytesIO(content)), values)
        positive = values.astype(int) if photometric else 2**bits - 1 - values.astype(int)
        eight = positive >> (bits - 8) if bits >= 8 else positive * 255 // (2**bits - 1)
        yield File(f"TIFF of {bits} bits, {options}", content, rgb(eight), orientation, refused)
    kinds = {np.int8: "signed values", np.int16: "signed values", np.float32: "floats"}
    for (dtype, refused), order in itertools.product({**kinds, np.uint32: "whole numbers of 32 bits"}.items(), "<>"):
        content = written(values_of(7, H, W).astype(dtype), byteorder=order)
        yield File(f"TIFF of {dtype.__name__}, {order}", content, np.zeros((H, W, 3)), refused=refused)


def jpeg_and_webp_files():
    gray, colours, ink = values_of(8, H, W), values_of(8, H, W, 3), values_of(8, H, W, 4)
    for orientation in ORIENTATIONS:
        for kind, pixels in {"gray": gray, "RGB": colours}.items():
            content = imagecodecs.jpeg8_encode(pixels, level=90)
            read = imagecodecs.jpeg8_decode(content)
            content = with_segment(content, b"Exif\0\0" + exif(orientation))
            expected = rgb(read) if kind == "gray" else read
            yield File(f"JPEG {kind}, turned {orientation}", content, expected, orientation)
        # Adobe's, whose inks are stored inverted.
        encoded = io.BytesIO()
        Image.fromarray(ink, "CMYK").save(encoded, "JPEG", quality=95)
        read = 255 - imagecodecs.jpeg8_decode(encoded.getvalue(), outcolorspace="CMYK")
        content = with_segment(encoded.getvalue(), b"Exif\0\0" + exif(orientation))
        yield File(f"JPEG CMYK, turned {orientation}", content, seen(read, photometric="separated"), orientation)
        encoded = io.BytesIO()
        Image.fromarray(colours).save(encoded, "WEBP", lossless=True, exif=b"Exif\0\0" + exif(orientation))
        read = imagecodecs.webp_decode(encoded.getvalue())[..., :3]
        yield File(f"WebP, turned {orientation}", encoded.getvalue(), read, orientation)


@pytest.fixture(scope="module")
def files():
    found = [*png_files(), *tiff_files(), *other_tiff_files(), *jpeg_and_webp_files()]
    assert len({file.name for file in found}) == len(found) > 500
    return found


def test_pixels_are_those_of_other_decoders(files, tmp_path):
    wrong = defaultdict(list)
    for file in files:
        path = tmp_path / "image"
        path.write_bytes(file.content)
        for source in (path, file.content):
            try:
                pixels = read_image(source, channels=3)
                stored = read_image(source, channels=3, apply_exif=False)
            except BadImage as error:
                if not file.refused or not re.search(REFUSED[file.refused], str(error)):
                    wrong[str(error)].append(file.name)
                continue
            if file.refused:
                wrong["not refused"].append(file.name)
            elif not (np.array_equal(pixels, file.upright) and np.array_equal(stored, file.pixels)):
                wrong["other pixels"].append(file.name)
    assert not wrong
    assert {file.refused for file in files} == {None, *REFUSED}


def raw(data, split="train"):
    """A split's images and targets as they are stored."""
    batches = data.raw(split)
    cursor = batches.open(0, 0)
    parts = [batches.next(cursor, tf.constant(step)) for step in range(batches.steps_per_epoch)]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def from_class_folder(folder, files, **options):
    for number, file in enumerate(files):
        path = folder / "ab"[number % 2] / f"{number:04}.png"  # what a file is, its content says
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
    found = raw(image_folder(path=str(folder), val_share=0, test_share=0, batch_size=32, seed=0, **options))[0]
    half = (len(files) + 1) // 2
    return [found[number // 2 + half * (number % 2)] for number in range(len(files))]


def from_image_folder(folder, files, **options):
    for number, file in enumerate(files):
        mask = np.arange(H * W, dtype=np.uint8).reshape(file.upright.shape[:2]) % 2
        save(folder / "masks" / f"{number:04}.png", mask)
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / f"{number:04}.png").write_bytes(file.content)
    options |= {"max_memory_gib": 1e-9, "batch_size": 32, "seed": 0, "ignore_label": 255}
    return raw(image_folder(path=str(folder), val_share=0, test_share=0, **options))[0]


def from_tfds(folder, files, **options):
    shape = files[0].upright.shape
    features = {"image": tfds.features.Image(shape=shape), "label": tfds.features.ClassLabel(num_classes=2)}
    examples = [{"image": io.BytesIO(file.content), "label": number % 2} for number, file in enumerate(files)]
    write_set(folder, "mine", features, {"train": examples})
    options |= {"data_dir": str(folder), "val_share": 0, "test_share": 0, "batch_size": 32, "seed": 0}
    return raw(tfds_images(dataset="mine", **options))[0]


def from_predict(folder, files, image_size=None, **options):
    """What src.predict asks the model."""
    asked, paths = [], [folder / f"{number:04}" for number in range(len(files))]
    folder.mkdir()
    for path, file in zip(paths, files, strict=True):
        path.write_bytes(file.content)

    def serve(images):
        asked.extend(images)
        return np.zeros((len(images), 2), np.float32), np.zeros(len(images), np.int32)

    config = {f"data.{name}": value for name, value in options.items()}
    model = predict_images.Model(serve, image_size and tuple(image_size), 3, classes=2, scores=2)
    with ThreadPoolExecutor(2) as pool:
        done = predict_images.predictions(
            model, paths, predict_images.ImageReader(3, config), lambda file, image, answer: {}, pool
        )
        assert all(result == {} for _, result in done)
    return asked


READERS = {
    "class folder": from_class_folder,
    "image folder": from_image_folder,
    "TFDS": from_tfds,
    "predict": from_predict,
}


@pytest.mark.parametrize(("image_size", "resize"), [(None, None), *(([4, 6], fit) for fit in (None, "pad", "crop"))])
@pytest.mark.parametrize("reader", READERS)
def test_all_readers_give_the_same_pixels(files, tmp_path, reader, image_size, resize):
    usable = [file for file in files if not file.refused]
    chosen = [usable[n] for n in np.sort(np.random.default_rng(0).choice(len(usable), 120, replace=False))]
    options = {"image_size": image_size, "resize": resize} if image_size else {}
    for shape in ((H, W), (W, H)):
        some = [file for file in chosen if file.upright.shape[:2] == shape]
        expected = [fitted(file.upright, tuple(image_size or shape), resize) for file in some]
        for file, pixels, image in zip(
            some, READERS[reader](tmp_path / str(shape), some, **options), expected, strict=True
        ):
            np.testing.assert_array_equal(pixels, image, err_msg=file.name)


def mask_files():
    """Labels of each depth, in gray and in palettes, in each orientation; those of 16 bits are below 300."""
    for bits, orientation in itertools.product((1, 2, 4, 8, 16), ORIENTATIONS):
        values = values_of(bits, H, W) if bits < 16 else values_of(bits, H, W) % 300
        turn = chunk(b"eXIf", exif(orientation))
        yield File(f"PNG gray of {bits}", with_chunks(png(values, bits=bits), turn), values, orientation)
        if bits < 16:
            palette = png(values, bits=bits, palette=values_of(8, 256, 3)[: 2**bits])
            yield File(f"PNG palette of {bits}", with_chunks(palette, turn), values, orientation)
        if bits < 8:
            for packed in (False, True):
                content = tiff(values, bits=bits, packed=packed, orientation=orientation)
                yield File(f"TIFF of {bits}, {packed}", content, values, orientation)
        else:
            for dtype, packing, order in itertools.product((values.dtype, np.int16, np.int32), (None, "zlib"), "<>"):
                if dtype in (np.int16, np.int32) and (packing, order) == ("zlib", ">"):
                    continue  # test_masks_whose_labels_are_not_known
                content = written(values.astype(dtype), orientation, compression=packing, byteorder=order)
                np.testing.assert_array_equal(tifffile.imread(io.BytesIO(content)), values)
                yield File(f"TIFF of {np.dtype(dtype)}, {packing}, {order}", content, values, orientation)


def test_labels_are_the_stored_numbers_in_all_readers(tmp_path, caplog):
    for shape in ((H, W), (W, H)):
        files, folder = [file for file in mask_files() if file.upright.shape == shape], tmp_path / str(shape)
        blank = io.BytesIO()
        Image.new("RGB", shape[::-1]).save(blank, "PNG")
        for number, file in enumerate(files):
            save(folder / "images" / f"{number:04}.png", np.zeros((*shape, 3), np.uint8))
            (folder / "masks").mkdir(exist_ok=True)
            (folder / "masks" / f"{number:04}.png").write_bytes(file.content)
        features = {
            "image": tfds.features.Image(shape=(*shape, 3)),
            "mask": tfds.features.LabeledImage(labels=300, shape=(*shape, 1), dtype=np.uint16),
        }
        pairs = [{"image": io.BytesIO(blank.getvalue()), "mask": io.BytesIO(file.content)} for file in files]
        write_set(folder, "mine", features, {"train": pairs})
        options = {"val_share": 0, "test_share": 0, "batch_size": 32, "seed": 0}
        options["class_names"] = [str(number) for number in range(300)]
        found = {
            "alone": [read_mask(file.content) for file in files],
            "folder": raw(image_folder(path=str(folder), **options))[1],
            "TFDS": raw(tfds_images(dataset="mine", data_dir=str(folder), **options))[1],
        }
        for reader, masks in found.items():
            for file, mask in zip(files, masks, strict=True):
                np.testing.assert_array_equal(mask, file.upright, err_msg=f"{reader}: {file.name}")
    assert "turned by EXIF data that its mask does not have" in caplog.text  # all but those of orientation 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff(values_of(1, H, W), bits=1, photometric=0), "counts from white"),
        (tiff(values_of(8, H, W), bits=8, photometric=0), "counts from white"),
        (png(values_of(8, H, W, 3), bits=8), "it has colours"),
        (png(values_of(16, H, W, 4), bits=16), "several channels of 16 bits"),
        (imagecodecs.jpeg8_encode(values_of(8, H, W)), "lossy"),
        (written(values_of(7, H, W).astype(np.int16), byteorder=">", compression="zlib"), "big-endian and packed"),
        (written(values_of(7, H, W).astype(np.int32), byteorder=">", compression="lzw"), "big-endian and packed"),
        (written(values_of(7, H, W).astype(np.float32)), "fractions"),
    ],
    ids=["1 bit, white is 0", "8 bits, white is 0", "colours", "deep colours", "JPEG", "int16", "int32", "floats"],
)
def test_masks_whose_labels_are_not_known(content, reason):
    with pytest.raises(BadImage, match=reason):
        read_mask(content)


def with_pairs(folder, turns, *, mask_turns=None, size=(H, W)):
    """Folders and a TFDS set of gray images [5, 7] with these orientations, and masks of the stored size."""
    shape, label = (*size, 3), tfds.features.LabeledImage(labels=2, shape=(*size, 1))
    pairs = []
    for number, (turn, other) in enumerate(zip(turns, mask_turns or [1] * len(turns), strict=True)):
        image = with_chunks(png(values_of(8, *size, seed=number), bits=8), chunk(b"eXIf", exif(turn)))
        mask = with_chunks(png(values_of(1, *size, seed=number), bits=8), chunk(b"eXIf", exif(other)))
        for kind, content in (("images", image), ("masks", mask)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / kind / f"{number}.png").write_bytes(content)
        pairs.append({"image": io.BytesIO(image), "mask": io.BytesIO(mask)})
    write_set(folder, "mine", {"image": tfds.features.Image(shape=shape), "mask": label}, {"train": pairs})


def load(source, folder, **options):
    options = {"val_share": 0, "test_share": 0, "batch_size": 32, "seed": 0, **options}
    if source == "folder":
        return image_folder(path=str(folder), **options)
    return tfds_images(dataset="mine", data_dir=str(folder), **options)


@pytest.mark.parametrize("source", ["folder", "TFDS"])
class TestOrientations:
    def test_a_turn_that_masks_do_not_have_is_told(self, source, tmp_path, caplog):
        with_pairs(tmp_path, [1, 3, 2, 1])
        images, masks = raw(load(source, tmp_path))
        for number, turn in enumerate([1, 3, 2, 1]):
            np.testing.assert_array_equal(images[number], rgb(turned(values_of(8, H, W, seed=number), turn)))
            np.testing.assert_array_equal(masks[number], values_of(1, H, W, seed=number))
        (warning,) = [
            record.getMessage()
            for record in caplog.records
            if record.levelname == "WARNING" and record.name.startswith("src")
        ]
        first = "images/1.png" if source == "folder" else "example 1 of mine's train"
        assert f"{first} and 1 more turned by EXIF data" in warning and "data.apply_exif=false" in warning

    def test_files_that_lie_are_taken_as_they_are_stored(self, source, tmp_path, caplog):
        with_pairs(tmp_path, [1, 6, 3, 8], mask_turns=[6, 1, 1, 1])
        images, masks = raw(load(source, tmp_path, apply_exif=False))
        for number in range(4):
            np.testing.assert_array_equal(images[number], rgb(values_of(8, H, W, seed=number)))
            np.testing.assert_array_equal(masks[number], values_of(1, H, W, seed=number))
        assert "EXIF" not in caplog.text

    def test_a_turn_after_which_the_mask_does_not_fit(self, source, tmp_path):
        with_pairs(tmp_path, [1, 6, 1, 1])
        with pytest.raises(DataError, match=r"(masks/1\.png|example 1 of).*data\.apply_exif=false"):
            load(source, tmp_path)

    def test_turns_that_agree_are_not_told(self, source, tmp_path, caplog):
        with_pairs(tmp_path, [1, 3, 3, 4], mask_turns=[1, 3, 3, 4])
        _, masks = raw(load(source, tmp_path))
        np.testing.assert_array_equal(masks[1], values_of(1, H, W, seed=1)[::-1, ::-1])
        assert "EXIF" not in caplog.text

    def test_a_turn_that_there_is_not(self, source, tmp_path, caplog):
        with_pairs(tmp_path, [1, 9, 1, 1])
        np.testing.assert_array_equal(raw(load(source, tmp_path))[0][1], rgb(values_of(8, H, W, seed=1)))
        assert "name no orientation" in caplog.text and "1" in caplog.text


def test_a_turn_that_is_found_late_is_told_once(caplog):
    """As of an example of a large set, which is first read while training."""
    oddities = Oddities("mine", Reading())
    oddities.add("a", Decoded(COLOURED, turn=1), mask_turn=1)
    oddities.report()
    assert not caplog.messages
    for name in ("b", "c"):
        oddities.add(name, Decoded(COLOURED, turn=6), mask_turn=1)
    (warning,) = caplog.messages
    assert warning.startswith("mine: b turned by EXIF data that its mask does not have")


@pytest.mark.parametrize("source", ["folder", "TFDS", "TFDS array"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_values_of_few_bits_that_are_stored_in_16(source, bits, tmp_path):
    """Their high bytes would be as good as black."""
    values = [values_of(bits, H, W, seed=number).astype(np.uint16) for number in range(2)]
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for number, deep in enumerate(values):
            content = png(deep, bits=16) if kind == "images" else png(deep % 2, bits=8)
            (tmp_path / kind / f"{number}.png").write_bytes(content)
    kind = tfds.features.Tensor if source == "TFDS array" else tfds.features.Image
    features = {"image": kind(shape=(H, W, 1), dtype=np.uint16)}
    features["mask"] = tfds.features.LabeledImage(labels=2, shape=(H, W, 1))
    pairs = [{"image": deep[..., None], "mask": (deep[..., None] % 2).astype(np.uint8)} for deep in values]
    write_set(tmp_path, "mine", features, {"train": pairs})
    keys = {"image_key": "image", "target_key": "mask"} if source == "TFDS array" else {}
    with pytest.raises(DataError, match=rf"needs {bits}: .*data\.bit_depth={bits} takes all values as {bits} bits"):
        load(source, tmp_path, **keys)
    expected = [rgb(deep >> (bits - 8)) for deep in values]
    np.testing.assert_array_equal(raw(load(source, tmp_path, bit_depth=bits, channels=3, **keys))[0], expected)
    high = raw(load(source, tmp_path, bit_depth=16, channels=3, **keys))[0]
    np.testing.assert_array_equal(high, [rgb(deep >> 8) for deep in values])
    if bits > 8:
        with pytest.raises(DataError, match=f"needs {bits} bits, which is more than data.bit_depth={bits - 1}"):
            load(source, tmp_path, bit_depth=bits - 1, **keys)


@pytest.mark.parametrize("source", ["folder", "TFDS array"])
def test_colours_of_few_bits_that_are_stored_in_16(source, tmp_path):
    """data.bit_depth is for gray, so that no other one than 16 is offered or taken."""
    deep, mask = values_of(12, H, W, 3).astype(np.uint16), values_of(1, H, W).astype(np.uint8)
    for kind, content in {"images": png(deep, bits=16), "masks": png(mask, bits=8)}.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "1.png").write_bytes(content)
    features = {"image": tfds.features.Tensor(shape=(H, W, 3), dtype=np.uint16)}
    features["mask"] = tfds.features.LabeledImage(labels=2, shape=(H, W, 1))
    write_set(tmp_path, "mine", features, {"train": [{"image": deep, "mask": mask[..., None]}]})
    keys = {"image_key": "image", "target_key": "mask"} if source == "TFDS array" else {}
    with pytest.raises(DataError, match=r"needs 12: .* save them with 8; data\.bit_depth=16 takes the high") as error:
        load(source, tmp_path, **keys)
    assert "bit_depth=12" not in str(error.value)
    with pytest.raises(DataError, match=r"of 16 bits, and data\.bit_depth=12 is for gray alone") as error:
        load(source, tmp_path, bit_depth=12, **keys)
    assert "it was fine when the files were checked" not in str(error.value)
    np.testing.assert_array_equal(raw(load(source, tmp_path, bit_depth=16, **keys))[0], [deep >> 8])


def test_scenes_are_resized_as_predict_does_it(tmp_path):
    """And their stored images are those that TensorFlow decodes."""
    image, mask = values_of(8, 12, 12, 3), values_of(1, 12, 12)
    features = {"image": tfds.features.Image(shape=(12, 12, 3))}
    features["segmentation_mask"] = tfds.features.LabeledImage(labels=2, shape=(12, 12, 1))
    write_set(tmp_path, "mine", features, {"train": [{"image": image, "segmentation_mask": mask[..., None]}]})
    builder = tfds.builder_from_directory(tmp_path / "mine" / "1.0.0")
    for shape, fit in itertools.product(((5, 9), (20, 16)), (None, "pad", "crop")):
        reading = Reading(size=shape, fit=fit, outside=0)
        ((pixels, labels),) = sources.examples(builder, "train", reading).as_numpy_iterator()
        np.testing.assert_array_equal(pixels, fitted(image, shape, fit))
        np.testing.assert_array_equal(labels, fitted_mask(mask, shape, fit, outside=0))
        if fit is None:
            np.testing.assert_array_equal(pixels, resized(image, shape))
            np.testing.assert_array_equal(labels, resized_nearest(mask, shape))


def test_predict_reads_as_its_run_did(tmp_path):
    deep, path = values_of(12, H, W), tmp_path / "image.png"
    path.write_bytes(with_chunks(png(deep, bits=16), chunk(b"eXIf", exif(6))))
    for options in ({}, {"apply_exif": False}, {"bit_depth": 12}, {"apply_exif": False, "bit_depth": 12}):
        reader = predict_images.ImageReader(3, {f"data.{key}": value for key, value in options.items()})
        expected = rgb(deep >> options.get("bit_depth", 16) - 8)
        np.testing.assert_array_equal(reader(path), turned(expected, 6 if options.get("apply_exif", True) else 1))
        assert reader.dark == ([] if "bit_depth" in options else [path])


JUNK = bytes(np.random.default_rng(0).integers(0, 256, 300, np.uint8))
COLOURED = values_of(8, H, W, 3)
BROKEN = bytes([*chunk(b"iCCP", JUNK)[:-1], 0])  # its checksum is wrong
LONG = bytes(30_000_000)


def wrong_metadata():
    """Chunks, segments and tags that are broken or longer than Pillow takes; the pixels are well."""
    for name in (b"eXIf", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"gAMA", b"cHRM", b"pHYs", b"tIME", b"sBIT", b"acTL"):
        yield f"PNG, {name.decode()}", with_chunks(png(COLOURED, bits=8), chunk(name, JUNK))
        yield f"PNG, empty {name.decode()}", with_chunks(png(COLOURED, bits=8), chunk(name, b""))
    for name, text in {
        "long profile": chunk(b"iCCP", b"x\0\0" + zlib.compress(LONG)),
        "long text": chunk(b"tEXt", b"x\0" + LONG),
        "longer EXIF in plain text": chunk(b"tEXt", b"Raw profile type exif\0" + 3 * LONG),
        "long packed text": chunk(b"zTXt", b"x\0\0" + zlib.compress(LONG)),
        "many texts": 100 * chunk(b"tEXt", b"Raw profile type exif\0" + LONG[:1_000_000]),
        "many packed texts": 100 * chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(LONG[:1_000_000])),
        "long EXIF in text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(LONG)),
        "broken XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + JUNK),
        "checksum": BROKEN,
    }.items():
        yield f"PNG, {name}", with_chunks(png(COLOURED, bits=8), text)
    starts = ((0xE1, b"Exif\0\0"), (0xE2, b"ICC_PROFILE\0\1\5"), (0xE2, b"MPF\0"), (0xED, b"Photoshop 3.0\0"))
    for marker, start in starts:
        for data in (start + JUNK, start + b"MM\0*\0\0\0\x08" + JUNK, start):
            content = imagecodecs.jpeg8_encode(COLOURED)
            yield f"JPEG, {marker:x} {data[:30]!r}", with_segment(content, data, marker)
    for number in (34675, 34377, 700, 33723):
        file, tag = io.BytesIO(), (number, 7, len(JUNK), JUNK, True)
        tifffile.imwrite(file, COLOURED, photometric="rgb", metadata=None, extratags=[tag])
        yield f"TIFF, tag {number}", file.getvalue()


def test_metadata_that_are_not_needed_refuse_no_picture():
    for name, content in wrong_metadata():
        expected = COLOURED if "JPEG" not in name else imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(COLOURED))
        np.testing.assert_array_equal(read_image(content, channels=3), expected, err_msg=name)


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("kind", ["eXIf", "raw profile", "XMP"])
def test_orientations_of_a_png_in_all_places(kind, behind):
    data = exif(6).hex()
    text = f"\nexif\n{len(data)}\n{data}\n"
    chunks = {
        "eXIf": chunk(b"eXIf", exif(6)),
        "raw profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text.encode())),
        "XMP": chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'),
    }
    content = with_chunks(png(COLOURED, bits=8), chunks[kind], behind=behind)
    np.testing.assert_array_equal(read_image(content, channels=3), turned(COLOURED, 6))


def test_an_image_of_180_megapixels(tmp_path, monkeypatch):
    side = 13_500
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    pixels = zlib.compress(bytes(side * (1 + -(-side // 8))), 1)
    path = tmp_path / "large.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    assert predict_images.ImageReader(1, {})(path).shape == (side, side, 1)
    monkeypatch.setattr("src.data.images.files.free_memory", lambda: 100_000_000)
    with pytest.raises(BadImage, match=r"its 182 megapixels need at least 364 MB of memory, and 100 MB are free"):
        read_image(path, channels=1)


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("held", [True, False])
def test_an_example_without_a_label_is_told_alike_in_all_splits(split, held, tmp_path):
    features = {"image": tfds.features.Image(shape=(4, 4, 1)), "label": tfds.features.ClassLabel(num_classes=3)}
    blank, labels = np.zeros((4, 4, 1), np.uint8), [0, 1, -1, 2, 0]
    examples = {
        name: [{"image": blank, "label": label if name == split else abs(label)} for label in labels]
        for name in ("train", "val", "test")
    }
    write_set(tmp_path, "mine", features, examples)
    options = {"data_dir": str(tmp_path), "batch_size": 2, "seed": 0, "max_memory_gib": 4 if held else 1e-9}
    message = rf"example 2 of mine's {split}: labels -1, TFDS's sign for a missing label; .*data\.ignore_label=-1"
    with pytest.raises(DataError, match=message):
        tfds_images(dataset="mine", **options)
    assert tfds_images(dataset="mine", ignore_label=-1, **options).num_classes == 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("masks", "the masks in .* have no label except 0; two classes are needed"),
        ("classes", "nor a folder for each of two or more classes"),
        ("TFDS", "the data has 1 class, .* give at least two"),
        ("arrays", "the data has 1 class, .* give at least two"),
    ],
)
def test_one_class_is_refused_whatever_the_source(source, message, tmp_path):
    blank, options = np.zeros((4, 4, 1), np.uint8), {"batch_size": 2, "seed": 0}
    for number in range(4):
        for kind in {"masks": ("images", "masks"), "classes": ("cats",)}.get(source, ()):
            save(tmp_path / kind / f"{number}.png", blank[..., 0])
    features = {"image": tfds.features.Image(shape=(4, 4, 1)), "label": tfds.features.ClassLabel(num_classes=1)}
    if source == "TFDS":
        write_set(tmp_path, "mine", features, {"train": [{"image": blank, "label": 0}] * 20})
    make = {
        "TFDS": lambda: tfds_images(dataset="mine", data_dir=str(tmp_path), **options),
        "arrays": lambda: ImageData(train=(np.stack([blank] * 4), np.zeros(4, np.int32)), num_classes=1, **options),
    }.get(source, lambda: image_folder(path=str(tmp_path), **options))
    with pytest.raises(ValueError, match=message):
        make()
