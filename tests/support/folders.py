"""Small folders of images, as users have them.

write_pairs(folder, count=20)                       # folder/images/*.jpg and folder/masks/*.png
write_classes(folder, {"cats": 8, "dogs": 9})       # folder/cats/*.png and folder/dogs/*.png
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from src.data.digit_scenes.digits import digit_indices, load_digits
from src.data.images.files import Reading

COLOURS = np.array([(20, 20, 20), (220, 30, 30), (30, 220, 30), (30, 30, 220)], np.uint8)


def write_pairs(folder: Path, *, count: int, size: int = 16, classes: int = 3, suffix: str = ".png") -> Path:
    """Images of coloured blocks and the masks that say which colour is where: images/000.png, masks/000.png, ..."""
    random = np.random.default_rng(0)
    for number in range(count):
        mask = np.kron(random.integers(0, classes, (4, 4), np.uint8), np.ones([size // 4] * 2, np.uint8))
        noise = random.normal(0, 10, (size, size, 3))
        save(folder / "images" / f"{number:03}{suffix}", np.clip(COLOURS[mask] + noise, 0, 255).astype(np.uint8))
        save(folder / "masks" / f"{number:03}.png", mask)
    return folder


def write_classes(folder: Path, counts: Mapping[str, int], *, size: int = 8) -> Path:
    """Images of one colour a class, with noise: cats/000.png, ..., dogs/000.png, ..."""
    random = np.random.default_rng(0)
    for colour, (name, count) in zip(COLOURS, counts.items(), strict=False):
        for number in range(count):
            pixels = np.clip(colour + random.normal(0, 20, (size, size, 3)), 0, 255).astype(np.uint8)
            save(folder / name / f"{number:03}.png", pixels)
    return folder


def write_records(folder: Path) -> Path:
    """The digits as tf.train.Examples: folder/train.tfrecord and folder/val.tfrecord."""
    images, labels = load_digits()
    folder.mkdir()
    for split in ("train", "val"):
        with tf.io.TFRecordWriter(str(folder / f"{split}.tfrecord")) as file:
            for i in digit_indices(split):
                png = tf.train.BytesList(value=[tf.io.encode_png(images[i]).numpy()])
                label = tf.train.Feature(int64_list=tf.train.Int64List(value=[labels[i]]))
                feature = {"image": tf.train.Feature(bytes_list=png), "label": label}
                file.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return folder


def read_image(source: Path | bytes, **options) -> np.ndarray:
    """Pixels [H, W, C]."""
    return Reading(**options).image(source).pixels


def read_mask(source: Path | bytes, *, colors: bool = False) -> np.ndarray:
    """Values [H, W]."""
    return Reading().mask(source, colors=colors).pixels


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    """Write an image file of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def save_palette(path: Path, mask: np.ndarray, colours: np.ndarray = COLOURS) -> Path:
    """Write a mask as palette indices with these colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    image.putpalette(colours.ravel().tolist())
    image.save(path)
    return path


def png(values: np.ndarray, *, bits: int, palette: np.ndarray | None = None) -> bytes:
    """A PNG by the standard alone: values [H, W] or [H, W, 2 to 4] of this depth, indices where there is a palette."""
    channels = values.shape[2] if values.ndim == 3 else 1
    kind = 3 if palette is not None else {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = []
    for row in values.reshape(len(values), -1).tolist():
        number = "".join(f"{value:0{bits}b}" for value in row)
        number += "0" * (-len(number) % 8)
        rows.append(b"\0" + int(number, 2).to_bytes(len(number) // 8, "big"))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, kind, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    if palette is not None:
        parts.insert(1, (b"PLTE", palette.astype(np.uint8).tobytes()))
    chunks = [
        (struct.pack(">I", len(data)), name + data, struct.pack(">I", zlib.crc32(name + data))) for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(b"".join, chunks))
