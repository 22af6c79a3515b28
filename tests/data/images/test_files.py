"""Masks of all kinds keep their values; images of all depths keep their brightness."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from src.data.images.files import BadImage
from src.data.images.resizing import resized_nearest
from tests.support.folders import COLOURS, png, read_image, read_mask, save, save_palette

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
SEEDS = st.integers(0, 2**32 - 1)


def values_of(seed, shape, bits):
    return np.random.default_rng(seed).integers(0, 2**bits, shape)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, size=SIZES)
def test_gray_masks_of_any_depth(tmp_path_factory, bits, seed, size):
    path = tmp_path_factory.getbasetemp() / f"gray{bits}.png"
    values = values_of(seed, size, bits)
    path.write_bytes(png(values, bits=bits))
    mask = read_mask(path)
    assert mask.dtype == (np.uint16 if bits == 16 else np.uint8)
    np.testing.assert_array_equal(mask, values)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, size=SIZES)
def test_palettes_are_indices_or_colours(tmp_path_factory, bits, seed, size):
    path = tmp_path_factory.getbasetemp() / f"palette{bits}.png"
    values, palette = values_of(seed, size, bits), values_of(seed + 1, (2**bits, 3), 8)
    path.write_bytes(png(values, bits=bits, palette=palette))
    np.testing.assert_array_equal(read_mask(path), values)
    numbers = palette @ [2**16, 2**8, 1]
    np.testing.assert_array_equal(read_mask(path, colors=True), numbers[values])


@pytest.mark.parametrize(
    ("name", "dtype", "options"),
    [
        ("gray.bmp", np.uint8, {}),
        ("packed.tif", np.uint8, {"compression": "tiff_lzw"}),
        ("deep.tif", np.uint16, {}),
        ("deepest.tiff", np.int32, {}),
    ],
)
def test_other_kinds_of_masks(tmp_path, name, dtype, options):
    values = values_of(0, (9, 14), 8 * np.dtype(dtype).itemsize - (dtype == np.int32)).astype(dtype)
    mask = read_mask(save(tmp_path / name, values, **options))
    assert mask.dtype == dtype
    np.testing.assert_array_equal(mask, values)


@pytest.mark.parametrize("name", ["palette.png", "palette.gif", "palette.bmp", "palette.tif"])
def test_palettes_of_other_kinds(tmp_path, name):
    values = values_of(0, (9, 14), 2).astype(np.uint8)
    path = save_palette(tmp_path / name, values)
    np.testing.assert_array_equal(read_mask(path, colors=True), (COLOURS @ [2**16, 2**8, 1])[values])
    if not name.endswith("gif"):
        np.testing.assert_array_equal(read_mask(path), values)


def test_channels_that_say_the_same(tmp_path):
    values = values_of(0, (9, 14), 8)
    path = tmp_path / "mask.png"
    for channels, opacity in ((2, 255), (3, None), (4, 255)):
        stacked = np.stack([values] * channels, axis=-1)
        if opacity:
            stacked[..., -1] = opacity
        path.write_bytes(png(stacked, bits=8))
        np.testing.assert_array_equal(read_mask(path), values)


def test_colours(tmp_path):
    colours = values_of(0, (9, 14, 3), 8)
    for bits, channels in ((8, colours), (8, np.dstack([colours, colours[..., 0]]))):
        (tmp_path / "mask.png").write_bytes(png(channels, bits=bits))
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", colors=True), colours @ [2**16, 2**8, 1])
    with pytest.raises(BadImage, match=r"it has colours; .*data\.mask_colors"):
        read_mask(tmp_path / "mask.png")


@pytest.mark.parametrize(
    ("name", "dtype", "options", "reason"),
    [
        ("mask.jpg", np.uint8, {}, "it is a JPEG, a lossy kind"),
        ("mask.webp", np.uint8, {"lossless": False}, "it is a WEBP, a lossy kind"),
        ("mask.tif", np.uint8, {"compression": "jpeg"}, "it is a TIFF packed as jpeg, a lossy kind"),
        ("mask.tif", np.float32, {}, "its pixels are fractions"),
        ("mask.gif", np.uint8, {}, "it is a GIF, whose numbers may have changed"),
    ],
    ids=["jpeg", "webp", "tiff", "fractions", "gif"],
)
def test_masks_that_cannot_be_right(tmp_path, name, dtype, options, reason):
    path = save(tmp_path / name, values_of(0, (9, 14), 2).astype(dtype), **options)
    with pytest.raises(BadImage, match=reason):
        read_mask(path)


@pytest.mark.parametrize("colors", [False, True])
def test_several_channels_of_16_bits(tmp_path, colors):
    path = tmp_path / "mask.png"
    path.write_bytes(png(values_of(0, (5, 5, 3), 16), bits=16))
    with pytest.raises(BadImage, match=r"16 bits|8 bits"):
        read_mask(path, colors=colors)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_depth(tmp_path, bits, channels):
    values = values_of(0, (9, 14), bits)
    (tmp_path / "image.png").write_bytes(png(values, bits=bits))
    pixels = read_image(tmp_path / "image.png", channels=channels)
    expected = values >> 8 if bits == 16 else values * (255 // (2**bits - 1))
    np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], channels, axis=2))


def test_only_what_says_so_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6  # turn by 90 degrees, clockwise
    values = values_of(0, (9, 14), 8).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "turned.png", values, exif=exif)), np.rot90(values, -1))
    np.testing.assert_array_equal(read_mask(save(tmp_path / "plain.png", values)), values)


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS, old=SIZES, new=SIZES)
def test_nearest_values(seed, old, new):
    """Of each new pixel the value where its centre is, by exact fractions; Pillow's, but for centres on a border."""
    mask = values_of(seed, old, 16).astype(np.int32)
    rows, columns = ([Fraction(2 * i + 1, 2) * o / n for i in range(n)] for o, n in zip(old, new, strict=True))
    got = resized_nearest(mask, new)
    np.testing.assert_array_equal(got, mask[np.ix_([int(y) for y in rows], [int(x) for x in columns])])
    pillow = np.asarray(Image.fromarray(mask).resize(new[::-1], Image.Resampling.NEAREST))
    inside = np.ix_([y.denominator > 1 for y in rows], [x.denominator > 1 for x in columns])
    np.testing.assert_array_equal(got[inside], pillow[inside])
