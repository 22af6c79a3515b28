"""Pictures: colours, overlays, sheets and confusion matrices, against plain NumPy."""

import io

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from src.common.pictures import (
    GAP,
    TILE,
    confusion_counts,
    confusion_picture,
    examples_sheet,
    mask_png,
    overlay,
    palette,
    png,
)


@pytest.fixture
def random():
    """A generator that gives the same each time."""
    return np.random.default_rng(0)


@pytest.mark.parametrize("classes", [1, 2, 11, 100, 256])
def test_each_class_has_a_colour_of_its_own_and_the_first_is_black(classes):
    colours = palette(classes)
    assert colours.shape == (classes, 3) and colours.dtype == np.uint8
    assert len({tuple(colour) for colour in colours.tolist()}) == classes
    assert not colours[0].any() and (colours[1:].max(1) > 200).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_overlay_mixes_colours_with_the_image_where_there_is_a_class(random, channels):
    image = random.integers(0, 256, [20, 30, channels], dtype=np.uint8)
    mask = random.integers(0, 5, [20, 30])
    mixed = overlay(image, mask, 5, opacity=0.25)
    wanted = np.where(mask[..., None] > 0, 0.75 * image + 0.25 * palette(5)[mask], image)
    assert mixed.shape == (20, 30, 3) and mixed.dtype == np.uint8
    assert np.abs(mixed - wanted).max() < 1
    np.testing.assert_array_equal(mixed[mask == 0], np.repeat(image, 3 // channels, axis=2)[mask == 0])


def test_masks_in_a_sheet_have_the_palettes_colours_and_an_image_its_own(random):
    images = random.integers(0, 256, [2, 48, 48, 3], dtype=np.uint8)
    targets, predicted = random.integers(0, 4, [2, 2, 48, 48])
    sheet = examples_sheet(images, targets, predicted, class_names=list("abcd"))
    left = sheet.shape[1] - 2 * (96 + GAP)
    for row, pictures in enumerate([images, palette(4)[targets], palette(4)[predicted]]):
        for column, picture in enumerate(pictures):
            top, start = GAP + row * (96 + GAP), left + column * (96 + GAP)
            np.testing.assert_array_equal(sheet[top : top + 96 : 2, start : start + 96 : 2], picture)


def test_small_images_are_enlarged_and_large_ones_are_not(random):
    for size in (8, 200):
        images, masks = np.zeros([3, size, size, 1], np.uint8), np.zeros([3, size, size], int)
        side = max(TILE, size)
        sheet = examples_sheet(images, masks, masks, class_names=["a", "b"])
        assert 3 * side < sheet.shape[0] < 3 * side + 80 and 3 * side < sheet.shape[1] < 3 * side + 150


def test_captions_stand_above_and_move_the_rest_down():
    images, labels, masks = np.zeros([2, 8, 8, 1], np.uint8), np.zeros(2, int), np.zeros([2, 8, 8], int)
    for targets in (labels, masks):
        plain = examples_sheet(images, targets, targets, class_names=["a", "b"])
        captioned = examples_sheet(images, targets, targets, class_names=["a", "b"], captions=["#1", "#2"])
        head = len(captioned) - len(plain)
        assert head > 0 and plain.shape[1] == captioned.shape[1]
        np.testing.assert_array_equal(captioned[head + GAP :], plain[GAP:])
        assert (captioned[: head + GAP] < 255).any()
    wide = examples_sheet(images, labels, labels, class_names=["a", "b"], captions=["a caption " * 9, ""])
    assert wide.shape[1] > 2 * captioned.shape[1]


def test_a_right_label_is_green_and_a_wrong_one_red():
    images = np.zeros([2, 8, 8, 1], np.uint8)
    sheet = examples_sheet(images, np.array([0, 0]), np.array([0, 1]), class_names=["a", "b"]).astype(int)
    left, right = np.array_split(sheet, 2, axis=1)
    red, green = (lambda p: p[..., 0] - p[..., 1]), (lambda p: p[..., 1] - p[..., 0])
    assert green(left).max() > 80 > red(left).max() and red(right).max() > 80 > green(right).max()


@given(
    st.integers(1, 6).flatmap(
        lambda classes: st.tuples(
            st.just(classes),
            st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), max_size=40),
        )
    )
)
def test_confusion_is_counted_as_a_loop_would(drawn):
    classes, pairs = drawn
    wanted = np.zeros([classes, classes], int)
    for target, prediction in pairs:
        wanted[target, prediction] += 1
    targets, predicted = np.array(pairs, np.uint8).reshape(-1, 2).T
    np.testing.assert_array_equal(confusion_counts(targets, predicted, classes), wanted)


@pytest.mark.parametrize(("targets", "predicted"), [([0, 3], [0, 0]), ([0, 0], [0, 3]), ([-1, 0], [0, 0])])
def test_confusion_refuses_what_is_no_class(targets, predicted):
    with pytest.raises(ValueError, match="must be 0 to 2"):
        confusion_counts(np.array(targets), np.array(predicted), 3)


@pytest.mark.parametrize("classes", [2, 11, 150])
def test_a_confusion_matrix_is_darkest_where_a_rows_share_is_largest(classes):
    sure = confusion_picture(np.eye(classes, dtype=int) * 1000, [str(i) for i in range(classes)])
    unsure = confusion_picture(np.ones([classes, classes], int), [str(i) for i in range(classes)])
    darkest = np.array([8, 69, 148])
    assert (np.abs(sure.astype(int) - darkest).sum(-1) == 0).any()
    assert not (np.abs(unsure.astype(int) - darkest).sum(-1) == 0).any()
    assert max(sure.shape) < 2000


def test_classes_without_examples_leave_a_confusion_matrix_white():
    empty = confusion_picture(np.zeros([40, 40], int), [""] * 40)
    assert (empty[-100:, -100:] == 255).all()


@pytest.mark.parametrize("classes", [2, 11, 256, 300])
def test_a_mask_file_has_class_numbers_as_pixels(random, classes):
    mask = random.integers(0, classes, [30, 50])
    file = Image.open(io.BytesIO(mask_png(mask, classes)))
    np.testing.assert_array_equal(np.asarray(file), mask)
    assert file.mode == ("P" if classes <= 256 else "I;16")
    if classes <= 256:
        np.testing.assert_array_equal(np.asarray(file.convert("RGB")), palette(classes)[mask])


def test_a_picture_is_read_back_from_its_bytes_with_its_colours_in_order(random):
    picture = random.integers(0, 256, [5, 7, 3], dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(picture)))), picture)
