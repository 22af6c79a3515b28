"""data=image_folder: pixels and labels arrive as they are in the files, in splits that stay, in memory or not."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings, strategies as st
from PIL import Image

from src.config.compose import ConfigError, compose
from src.config.identity import config_hash, settings as identity_settings
from src.data.data import SPLITS, DataError
from src.data.images.folder_layout import Example
from src.data.images.folders import image_folder, split_examples
from src.data.images.transforms import Flip
from tests.support.folders import COLOURS, png, save, save_palette, write_classes, write_pairs
from tests.support.helpers import train

TINY = (
    *("model.depth=1", "model.filters=2", "epochs=1", "batch_size=64", "data.transforms=null", "schedule=constant"),
    *(f"callback.{name}=null" for name in ("export", "images", "hparams", "summaries")),
)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def load(path, **options):
    options = {"val_share": 0, "test_share": 0, "shuffle": False, **options}
    return image_folder(path=str(path), batch_size=4, seed=0, **options)


def read(batches, epoch=0, start=0):
    cursor, steps = batches.open(epoch, start), range(start, batches.steps_per_epoch)
    return [tuple(part.numpy() for part in batches.next(cursor, tf.constant(step))) for step in steps]


def stored(data, split="train"):
    """A split's raw images and targets."""
    return tuple(np.concatenate(parts) for parts in zip(*read(data.raw(split)), strict=True))


@settings(max_examples=8, deadline=None)
@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    bits=st.sampled_from([1, 2, 4, 8, 16]),
    seed=st.integers(0, 99),
)
def test_labels_and_pixels_survive_exactly(tmp_path_factory, size, bits, seed):
    root = tmp_path_factory.mktemp("exact")
    random = np.random.default_rng(seed)
    masks = random.integers(0, 2 ** min(bits, 10), (3, *size))
    images = random.integers(0, 256, (3, *size, 3), np.uint8)
    for name, image, mask in zip("abc", images, masks, strict=True):
        save(root / "images" / f"{name}.bmp", image)
        save(root / "masks" / f"{name}.png", image[..., 0]).write_bytes(png(mask, bits=bits))
    data = load(root, class_names=[f"class {number}" for number in range(2 ** min(bits, 10))])
    got_images, got_masks = stored(data)
    assert got_masks.dtype == (np.int32 if bits == 16 else np.uint8)
    np.testing.assert_array_equal(got_images, images)
    np.testing.assert_array_equal(got_masks, masks)


def test_resized_masks_hold_no_new_label(tmp_path):
    mask = np.random.default_rng(0).choice([0, 7, 250], (40, 30)).astype(np.uint8)
    save(tmp_path / "images" / "a.png", mask)
    save_palette(tmp_path / "masks" / "a.png", mask, np.zeros((256, 3), np.uint8))
    data = load(tmp_path, image_size=[17, 23], class_names=[str(n) for n in range(251)], channels=1)
    images, masks = stored(data)
    assert images.shape == (1, 17, 23, 1) and data.input_shape == (17, 23, 1)
    rows, columns = ((2 * np.arange(n) + 1) * o // (2 * n) for n, o in zip((17, 23), mask.shape, strict=True))
    np.testing.assert_array_equal(masks[0], mask[np.ix_(rows, columns)])
    smooth = np.asarray(Image.fromarray(mask).resize((23, 17), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(images[0, ..., 0], smooth)


def test_colours_and_an_ignored_one(tmp_path):
    masks = np.random.default_rng(0).integers(0, 4, (4, 8, 8), np.uint8)
    for number, mask in enumerate(masks):
        save(tmp_path / "images" / f"{number}.png", COLOURS[mask])
        save(tmp_path / "masks" / f"{number}.png", COLOURS[mask])
    colours = {"green": "#1EDC1E", "dark": [20, 20, 20], "red": COLOURS[1].tolist()}
    data = load(tmp_path, mask_colors=colours, ignore_color="#1e1edc")
    assert (data.class_names, data.num_classes, data.ignore_label) == (("green", "dark", "red"), 3, 255)
    np.testing.assert_array_equal(stored(data)[1], np.array([1, 2, 0, 255])[masks])
    assert load(tmp_path, mask_colors=colours, ignore_color="#1e1edc", ignore_label=-1).ignore_label == -1


def test_classes_that_occur(tmp_path):
    data = load(write_pairs(tmp_path, count=4))
    assert (data.class_names, data.num_classes, data.ignore_label) == (("0", "1", "2"), 3, None)
    (tmp_path / "classes.txt").write_text("dark\nred\ngreen\nblue\n")
    assert load(tmp_path).class_names == ("dark", "red", "green", "blue")


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6  # turn by 90 degrees, clockwise
    mask = np.random.default_rng(0).integers(0, 2, (8, 12), np.uint8)
    save(tmp_path / "images" / "a.jpg", COLOURS[np.rot90(mask)], exif=exif, quality=100, subsampling=0)
    save(tmp_path / "masks" / "a.png", mask)
    images, masks = stored(load(tmp_path))
    np.testing.assert_array_equal(masks[0], mask)
    assert np.abs(images[0].astype(int) - COLOURS[mask]).mean() < 20


def test_a_folder_for_each_class(tmp_path):
    write_classes(tmp_path, {"cats": 4, "dogs": 6})
    data = load(tmp_path)
    images, labels = stored(data)
    assert (data.class_names, labels.dtype, labels.tolist()) == (("cats", "dogs"), np.int32, [0] * 4 + [1] * 6)
    assert np.abs(images.astype(int) - COLOURS[labels][:, None, None]).mean() < 20
    (tmp_path / "classes.txt").write_text("dogs\ncats")
    assert stored(load(tmp_path))[1].tolist() == [1] * 4 + [0] * 6


@pytest.mark.parametrize("kind", ["masks", "classes"])
def test_from_disk_as_in_memory(tmp_path, kind):
    """Order, augmentation and pixels are the same to the last bit, and from the middle of an epoch."""
    if kind == "masks":
        write_pairs(tmp_path, count=23, size=12, suffix=".jpg")
    else:
        write_classes(tmp_path, {"a": 11, "b": 12}, size=12)
    options = {"image_size": [10, 9], "shuffle": True, "val_share": 0.2, "test_share": 0.1}
    options["transforms"] = {"flip": Flip()} if kind == "masks" else {}
    in_memory, on_disk = load(tmp_path, **options), load(tmp_path, max_memory_gib=1e-9, **options)
    for split in SPLITS:
        one, other = in_memory.split(split), on_disk.split(split)
        assert type(one) is not type(other) and one.steps_per_epoch == other.steps_per_epoch
        for epoch in (0, 3):
            expected = read(one, epoch)
            for start in (0, one.steps_per_epoch // 2):
                for x, y in zip(expected[start:], read(other, epoch, start), strict=True):
                    np.testing.assert_array_equal(x[0], y[0])
                    np.testing.assert_array_equal(x[1], y[1])
                    assert [part.dtype for part in x] == [part.dtype for part in y]


def examples(names, class_name=None, split=None):
    return [Example(name, split, f"{name}.png", class_name=class_name) for name in names]


def by_name(splits):
    return {(example.class_name, example.name): split for split, members in splits.items() for example in members}


@pytest.mark.parametrize("count", [3, 10, 200])
def test_shares_hold_in_each_class(count):
    names = [f"image {number}" for number in range(count)]
    found = [*examples(names, "a"), *examples(names[: count // 2], "b")]
    splits = split_examples(found, val_share=0.15, test_share=0.1, seed=0)
    assert sorted(map(str, (e for members in splits.values() for e in members))) == sorted(map(str, found))
    for class_name, total in (("a", count), ("b", count // 2)):
        counts = Counter(split for (name, _), split in by_name(splits).items() if name == class_name)
        least = 1 if total >= 3 else 0
        assert counts["val"] == max(round(0.15 * total), least) and counts["test"] == max(round(0.1 * total), least)


def test_few_change_their_split_when_some_are_added():
    names = [f"image {number}" for number in range(220)]
    options = {"val_share": 0.2, "test_share": 0.2}
    before = by_name(split_examples(examples(names[:200]), seed=0, **options))
    after = by_name(split_examples(examples(names), seed=0, **options))
    moved = {(before[key], after[key]) for key in before if before[key] != after[key]}
    assert sum(before[key] != after[key] for key in before) <= 10
    assert not moved & {("val", "test"), ("test", "val")}
    other = by_name(split_examples(examples(names[:200]), seed=1, **options))
    assert sum(before[key] != other[key] for key in before) > 50


def test_no_split_is_left_without_training():
    for count in (1, 2, 3):
        splits = split_examples(examples("abc"[:count]), val_share=0.5, test_share=0.45, seed=0)
        assert splits["train"]


def test_splits_by_folder(tmp_path):
    write_pairs(tmp_path / "train", count=6)
    write_pairs(tmp_path / "test", count=2)
    data = load(tmp_path, val_share=0.34, test_share=0.3)
    assert [len(stored(data, split)[1]) for split in SPLITS] == [4, 2, 2]
    write_pairs(tmp_path / "valid", count=3)
    data = load(tmp_path, val_share=0.34, test_share=0.3)
    assert [len(stored(data, split)[1]) for split in SPLITS] == [6, 3, 2]


def test_the_seed_of_the_order_is_not_that_of_the_splits(tmp_path):
    write_pairs(tmp_path, count=12)
    sets = [
        image_folder(path=str(tmp_path), batch_size=4, **seeds)
        for seeds in ({"seed": 0}, {"seed": 1}, {"seed": 0, "split_seed": 1})
    ]
    vals = [stored(data, "val")[0] for data in sets]
    np.testing.assert_array_equal(vals[0], vals[1])
    assert (vals[0] != vals[2]).any()


def spoil(root: Path) -> dict[str, str]:
    """Make six of 200 pairs unusable, each in its own way: what stands in the message of each file."""
    images, masks = root / "images", root / "masks"
    content = (images / "010.jpg").read_bytes()
    (images / "010.jpg").write_bytes(content[:-20])
    (images / "020.jpg").write_bytes(b"")
    (images / "030.jpg").write_text("not an image")
    (masks / "040.png").unlink()
    save(masks / "050.png", np.zeros((16, 17), np.uint8))
    save(masks / "060.png", np.full((16, 16), 77, np.uint8))
    return {
        "images/010.jpg": "image file is truncated",
        "images/020.jpg": "it is empty",
        "images/030.jpg": "it is no image",
        "images/040.jpg": "its mask is missing",
        "masks/050.png": "it is 16 x 17, its image 16 x 16",
        "masks/060.png": "label 77, while no mask has 3",
    }


@pytest.mark.exhaustive
def test_six_of_200_images_are_broken(tmp_path):
    """As a user sees it: all are named in one go and nothing trains; left out, the others do."""
    reasons = spoil(write_pairs(tmp_path / "photos", count=200, suffix=".jpg"))
    command = ["data=image_folder", "data.path=photos", *TINY]
    refused = train(*command, cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (1, ""), refused.stderr
    told = refused.stderr[refused.stderr.index("error: ") :].splitlines()
    assert told[0] == "error: 6 of 200 images in photos cannot be used:" and len(told) == 8 <= 10
    for line, (path, reason) in zip(told[1:], reasons.items(), strict=False):
        assert line.startswith(f"  {path}: {reason}"), refused.stderr
    assert told[-1].startswith("Mend or remove them, or data.skip_bad=true leaves them out.")
    assert not list(tmp_path.glob("outputs/*/*/checkpoints/*"))

    trained = train(*command, "data.skip_bad=true", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "6 of 200 images in photos are left out:" in trained.stderr
    assert all(path in trained.stderr for path in reasons)
    run = tmp_path / trained.stdout.splitlines()[-1]
    assert "(136 train, 29 val, 29 test)" in (run / "train.log").read_text() and 136 + 29 + 29 == 194
    assert json.loads((run / "run.json").read_text())["step"] == 3  # of 64, 64 and 8


def test_one_mistake_of_all_files(tmp_path):
    """Masks of 0 and 255 are many a user's first: the message says both ways out."""
    write_pairs(tmp_path, count=12)
    for path in (tmp_path / "masks").iterdir():
        save(path, np.where(np.asarray(Image.open(path)) > 0, 255, 0).astype(np.uint8))
    with pytest.raises(DataError) as raised:
        load(tmp_path)
    lines = str(raised.value).splitlines()
    assert lines[0] == f"12 of 12 images in {tmp_path} cannot be used:" and len(lines) == 3
    assert lines[1] == "  all 12 masks: label 255, while no mask has 1"
    assert (
        "skip_bad" not in lines[-1]
        and "data.ignore_label=255" in lines[-1]
        and "data.mask_colors={background:[0,0,0],object:[255" in lines[-1]
    )
    data = load(tmp_path, mask_colors={"background": [0, 0, 0], "object": [255, 255, 255]})
    assert set(np.unique(stored(data)[1])) == {0, 1}


def test_masks_in_colours_name_them(tmp_path):
    write_pairs(tmp_path, count=4)
    for path in (tmp_path / "masks").iterdir():
        save(path, COLOURS[np.asarray(Image.open(path))])
    with pytest.raises(DataError) as raised:
        load(tmp_path)
    lines = str(raised.value).splitlines()
    assert lines[1] == "  all 4 masks: it has colours; data.mask_colors says which class each stands for"
    option = lines[-1].partition("'")[2].removesuffix("'.")
    given = compose(["data=image_folder", f"data.path={tmp_path}", option]).data.mask_colors
    assert list(given) == ["background", "a", "b"]
    assert load(tmp_path, mask_colors={name: list(colour) for name, colour in given.items()}).num_classes == 3


def test_a_list_of_colours_gets_as_far_as_its_message(tmp_path):
    cfg = compose(["data=image_folder", f"data.path={tmp_path}", "data.mask_colors=[[0,0,0],[1,1,1]]"])
    assert len(config_hash(cfg)) == 64 and identity_settings(cfg)
    with pytest.raises(ValueError, match=r"data.mask_colors is a list"):
        load(write_pairs(tmp_path, count=2), mask_colors=[[0, 0, 0], [1, 1, 1]])


@pytest.mark.parametrize(("option", "kind"), [("image_folder", "masks"), ("class_folder", "classes")])
def test_each_option_takes_its_kind_of_folder(tmp_path, option, kind):
    assert compose([f"data={option}", f"data.path={tmp_path}"]).data.kind == kind


def test_nothing_is_left(tmp_path):
    write_pairs(tmp_path, count=2)
    for path in tmp_path.glob("images/*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 2 images in .* cannot be used"):
        load(tmp_path, skip_bad=True)


def test_files_that_change_later_are_named(tmp_path):
    write_pairs(tmp_path, count=4)
    data = load(tmp_path, max_memory_gib=1e-9)
    (tmp_path / "images" / "002.png").write_bytes(b"")
    with pytest.raises(
        tf.errors.OpError, match=r"images/002\.png: it is empty; it was fine when the files were checked"
    ):
        read(data.raw("train"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 2}, "channels is 2; it must be one of 1, 3, 4"),
        ({"val_share": 1.5}, "val_share is 1.5; it must be a number at least 0 and below 1"),
        ({"val_share": 0.5, "test_share": 0.5}, "nothing is left to train"),
        ({"ignore_label": 0}, r"data\.ignore_label is 0, which is among the 3 classes .*; give values as colours"),
        ({"ignore_label": 1}, r"data\.ignore_label is 1, which is among the 3 classes"),
        ({"limit": 2.0}, "limit is 2.0"),
        *(({"image_size": n}, "image_size is .*; it must be a number") for n in (0, -3, [8], 2.5, "8", [8] * 3, True)),
    ],
)
def test_options_out_of_range(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load(write_pairs(tmp_path, count=4), **options)


def test_masks_of_one_label(tmp_path):
    with pytest.raises(ValueError, match="have no label except 0; two classes are needed"):
        load(write_pairs(tmp_path, count=2, classes=1))


def test_images_of_several_sizes(tmp_path):
    write_pairs(tmp_path, count=3)
    write_pairs(tmp_path / "images" / "large", count=1, size=20)
    (tmp_path / "images" / "large" / "images" / "000.png").rename(tmp_path / "images" / "zero.png")
    (tmp_path / "images" / "large" / "masks" / "000.png").rename(tmp_path / "masks" / "zero.png")
    with pytest.raises(
        ValueError, match=r"have 2 sizes, such as 16 x 16 in images/000.png and 20 x 20 in images/zero.png"
    ):
        load(tmp_path)
    assert load(tmp_path, image_size=8).input_shape == (8, 8, 3)
    (tmp_path / "masks" / "001.png").unlink()
    with pytest.raises(
        DataError, match=r"1 of 4 images .*\n.*\n.* The others are of several sizes: give data.image_size"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore_label": 255}, r"data.ignore_label: there are no masks in .*, but a folder for each class"),
        ({"class_names": ["cats", "cows"]}, "classes are named cats, cows, and the folders in .* cats, dogs"),
    ],
)
def test_options_of_masks_and_classes(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load(write_classes(tmp_path, {"cats": 2, "dogs": 2}), **options)


def test_an_empty_class(tmp_path):
    write_classes(tmp_path, {"cats": 2, "dogs": 2})
    (tmp_path / "owls").mkdir()
    with pytest.raises(ValueError, match=r"owls has no image; fill it or remove it"):
        load(tmp_path)
    save(tmp_path / "owls" / "1.png", np.zeros((8, 8, 3), np.uint8)).write_bytes(b"")
    with pytest.raises(ValueError, match=r"no usable image of owls in .* is left to train with"):
        load(tmp_path, skip_bad=True)


def test_folders_may_be_links(tmp_path):
    write_pairs(tmp_path / "elsewhere" / "there", count=6)
    data, far = tmp_path / "photos", tmp_path / "elsewhere" / "there"
    (data / "images").mkdir(parents=True)
    (data / "images" / "few").symlink_to(far / "images")
    (data / "masks").symlink_to(tmp_path / "elsewhere" / "masks")
    (tmp_path / "elsewhere" / "masks").mkdir()
    (tmp_path / "elsewhere" / "masks" / "few").symlink_to(far / "masks")
    for number, circle in enumerate([data, data / "images", tmp_path, Path("."), tmp_path / "elsewhere"]):
        (far / "images" / f"circle{number}").symlink_to(circle)
    assert load(data).count("train") == 6


def test_a_palette_numbered_anew_is_named(tmp_path):
    """Programs that save only the colours that occur give a class another index from mask to mask."""
    write_pairs(tmp_path, count=12)
    masks = {path: np.asarray(Image.open(path)) for path in sorted((tmp_path / "masks").iterdir())}
    for path, mask in masks.items():
        save_palette(path, mask)
    by_index = load(tmp_path)
    order = np.array([2, 0, 1])
    turned = sorted(masks)[3:5]
    for path in turned:
        save_palette(path, order[masks[path]].astype(np.uint8), COLOURS[np.argsort(order)])
    with pytest.raises(DataError) as raised:
        load(tmp_path)
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("2 of 12 images") and "003.png" in lines[1] and len(lines) <= 10
    assert "label 0 is [220,30,30], which is label 1 in other masks" in lines[1]
    option = lines[-1].partition("'")[2].removesuffix("'.")
    given = compose(["data=image_folder", f"data.path={tmp_path}", option]).data.mask_colors
    colours = {name: list(colour) for name, colour in given.items()}
    by_colour = load(tmp_path, mask_colors=dict(sorted(colours.items(), key=lambda c: COLOURS.tolist().index(c[1]))))
    for before, after in zip(stored(by_index), stored(by_colour), strict=True):
        np.testing.assert_array_equal(before, after)


def test_palettes_that_say_the_same(tmp_path):
    """Longer ones, unused colours, ramps of gray, and another colour of what is ignored."""
    write_pairs(tmp_path, count=12)
    ramp = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(256, 3)
    other = COLOURS.copy()
    other[3] = 99
    for number, path in enumerate(sorted((tmp_path / "masks").iterdir())):
        mask = np.asarray(Image.open(path)).copy()
        longer = np.concatenate([COLOURS, ramp])[:256]
        longer[200] = number
        mask[0, 0] = 200
        save_palette(path, mask, [longer, ramp, np.concatenate([other, longer[4:]])][number % 3])
    assert load(tmp_path, ignore_label=200).num_classes == 3


def test_a_split_of_broken_images(tmp_path):
    write_pairs(tmp_path / "train", count=4)
    write_pairs(tmp_path / "val", count=1)
    (tmp_path / "val" / "images" / "000.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no image of val in .* can be used"):
        load(tmp_path, skip_bad=True)


def test_what_has_been_found_is_told(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        image_folder(path=str(write_pairs(tmp_path, count=20)), batch_size=4, seed=0)
    assert f"checking {tmp_path}: 40 files" in caplog.messages
    told = f"{tmp_path}: images with masks (14 train, 3 val, 3 test), 16 x 16, 20 kB in memory; 3 classes: 0, 1, 2"
    assert told in caplog.messages


def test_folders_one_level_too_high_are_named(tmp_path, caplog):
    for name, deeper in (("old", "cats"), ("new", "cats"), ("old", "dogs"), ("new", "dogs")):
        write_classes(tmp_path / name, {deeper: 4})
    assert load(tmp_path).class_names == ("new", "old")
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "all lie deeper, as in new/cats, and are of the class new: if the inner folders are" in warning
    caplog.clear()
    write_classes(tmp_path, {"old": 1})  # one that lies where they should
    load(tmp_path)
    assert "deeper" not in caplog.text


def test_a_path_from_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_pairs(tmp_path / "photos", count=3)
    assert len(stored(load("~/photos"))[0]) == 3


@pytest.mark.parametrize("option", ["image_folder", "class_folder"])
def test_the_path_must_be_given(option):
    with pytest.raises(ConfigError, match=r"data\.path must be given"):
        compose([f"data={option}"])


def test_the_order_of_colours_is_part_of_the_identity():
    base = ["data=image_folder", "data.path=."]
    one, other = (
        config_hash(compose([*base, f"data.mask_colors={{{colours}}}"]))
        for colours in ("a:[0,0,0],b:[1,1,1]", "b:[1,1,1],a:[0,0,0]")
    )
    assert one != other
    assert config_hash(compose([*base, "data.cache_dir=there"])) == config_hash(compose(base))
