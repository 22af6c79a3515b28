"""How a folder is laid out is found out, or said clearly."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from src.data.images.folder_layout import find_layout


def touch(root: Path, *names: str) -> Path:
    """Empty files; a name that ends in a slash is a folder."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return root


def pairs(root: Path, **options) -> list[tuple[str | None, str, str | None, str | None]]:
    layout = find_layout(root, **options)
    assert layout.has_masks and layout.classes == ()
    return [(example.split, example.name, example.image, example.mask) for example in layout.examples]


def labelled(root: Path) -> list[tuple[str | None, str | None, str | None]]:
    layout = find_layout(root)
    assert not layout.has_masks
    return [(example.split, example.class_name, example.image) for example in layout.examples]


def test_images_and_masks(tmp_path):
    touch(tmp_path, "images/b.JPG", "images/deep/a.png", "masks/b.png", "masks/deep/a.TIF", "images/.hidden.png")
    touch(tmp_path, ".git/images/c.png", "images/notes.txt", "images/Thumbs.db", "previews/b.png", "classes.txt")
    assert pairs(tmp_path) == [
        (None, "b", "images/b.JPG", "masks/b.png"),
        (None, "deep/a", "images/deep/a.png", "masks/deep/a.TIF"),
    ]
    assert find_layout(tmp_path).passed_over == {".txt": 2, ".db": 1, "images in other folders": 1}


@pytest.mark.parametrize("order", ["{split}/{kind}/{name}", "{kind}/{split}/{name}"])
def test_splits_by_folder(tmp_path, order):
    names = {"Train": "train", "validation": "val", "test": "test"}
    for split in names:
        touch(tmp_path, *(order.format(split=split, kind=kind, name="a.png") for kind in ("Images", "masks")))
    assert {(split, name) for split, name, *_ in pairs(tmp_path)} == {(split, "a") for split in names.values()}


def test_suffix_of_masks(tmp_path):
    touch(tmp_path, "images/1.jpg", "masks/1_mask.gif", "images/2.jpg", "masks/2.gif")
    assert pairs(tmp_path, mask_suffix="_mask")[:2] == [
        (None, "1", "images/1.jpg", "masks/1_mask.gif"),
        (None, "2", "images/2.jpg", None),
    ]
    reasons = [example.problem for example in find_layout(tmp_path, mask_suffix="_mask").examples]
    assert reasons == [None, ("images/2.jpg", "its mask is missing"), ("masks/2.gif", "its image is missing")]


@pytest.mark.parametrize(
    ("masks", "suffix", "message"),
    [
        ("{}_mask.png", "", "a mask of its own name, but 12 masks end in _mask: data.mask_suffix=_mask"),
        ("{} (gt).png", "", "but 12 masks end in ' (gt)': \"data.mask_suffix=' (gt)'\""),
        ("{}.png", "_mask", "data.mask_suffix=_mask, but 12 masks have the image's own name: data.mask_suffix=null"),
        ("{}_gt.png", "_mask", "data.mask_suffix=_mask, but 12 masks end in _gt: data.mask_suffix=_gt"),
        ("mask_{}.png", "", "the first image is called 0, the first mask mask_0; give both one name"),
        (None, "", "has no image in masks/; images end in .png"),
    ],
)
def test_no_image_has_a_mask(tmp_path, masks, suffix, message):
    touch(tmp_path, "masks/", *(f"images/{number}.jpg" for number in range(12)))
    touch(tmp_path, *(f"masks/{masks.format(number)}" for number in range(12) if masks))
    with pytest.raises(ValueError, match=re.escape(message)):
        find_layout(tmp_path, mask_suffix=suffix)


def test_a_suffix_that_is_proposed_helps(tmp_path):
    touch(tmp_path, "images/1.jpg", "images/10.jpg", "masks/1_m.png", "masks/10_m.png")
    with pytest.raises(ValueError, match=r"2 masks end in _m: data\.mask_suffix=_m$"):
        find_layout(tmp_path)
    assert [example.problem for example in find_layout(tmp_path, mask_suffix="_m").examples] == [None, None]


def test_the_folder_above_is_meant(tmp_path, monkeypatch):
    touch(tmp_path / "pal", "images/1.png", "masks/1.png")
    message = "is only one of images/ and masks/; give their parent: {}data.path={}$"
    for kind, option in ((None, ""), ("masks", ""), ("classes", "data=image_folder ")):
        with pytest.raises(ValueError, match=message.format(option, tmp_path / "pal")):
            find_layout(tmp_path / "pal" / "images", kind=kind)
    monkeypatch.chdir(tmp_path / "pal" / "masks")
    with pytest.raises(ValueError, match=message.format("", tmp_path / "pal")):
        find_layout(Path("."))
    touch(tmp_path / "pal" / "images", "cats/1.png", "dogs/1.png")
    assert find_layout(tmp_path / "pal" / "images", kind="classes").classes == ("cats", "dogs")


def test_the_option_for_another_kind_of_folder(tmp_path):
    touch(tmp_path, "a/images/1.png", "a/masks/1.png", "b/cats/1.png", "b/dogs/1.png", "b/owls/1.png")
    for kind, folder in (("masks", "a"), ("classes", "b"), (None, "a"), (None, "b")):
        assert find_layout(tmp_path / folder, kind=kind).has_masks == (folder == "a")
    with pytest.raises(ValueError, match=r"has images/ and masks/, .* data=image_folder takes images with masks"):
        find_layout(tmp_path / "a", kind="classes")
    with pytest.raises(
        ValueError, match=r"but 3 folders, cats, dogs, owls: if .* classes, data=class_folder model=cnn;"
    ):
        find_layout(tmp_path / "b", kind="masks")
    with pytest.raises(ValueError, match="kind is 'boxes'; it must be one of masks, classes, or null"):
        find_layout(tmp_path / "b", kind="boxes")


def test_files_without_a_partner_or_with_two(tmp_path):
    touch(tmp_path, "images/1.jpg", "images/1.png", "masks/1.png", "images/2.jpg", "masks/3.png", "images/4.jpg")
    touch(tmp_path, "masks/4.png", "masks/4.bmp")
    problems = [example.problem for example in find_layout(tmp_path).examples]
    assert problems == [
        ("images/1.png", "images/1.jpg has the same name"),
        ("images/2.jpg", "its mask is missing"),
        ("masks/3.png", "its image is missing"),
        ("masks/4.png", "masks/4.bmp has the same name"),
    ]


def test_a_folder_for_each_class(tmp_path):
    touch(tmp_path, "dogs/2.png", "cats/1.jpg", "cats/deep/1.jpg", "dogs/.hidden.png", "dogs/list.csv")
    assert labelled(tmp_path) == [
        (None, "cats", "cats/1.jpg"),
        (None, "cats", "cats/deep/1.jpg"),
        (None, "dogs", "dogs/2.png"),
    ]
    assert find_layout(tmp_path).classes == ("cats", "dogs")
    touch(tmp_path, "lonely.png")
    assert find_layout(tmp_path).examples[0].problem == ("lonely.png", "it lies in no class's folder")
    touch(tmp_path, "empty/.hidden.png")
    with pytest.raises(ValueError, match="empty has no image; fill it or remove it"):
        find_layout(tmp_path)


def test_classes_in_splits(tmp_path):
    touch(tmp_path, "train/cats/1.jpg", "train/dogs/1.jpg", "val/dogs/2.jpg", "test/cats/3.jpg")
    assert labelled(tmp_path) == [
        ("test", "cats", "test/cats/3.jpg"),
        ("train", "cats", "train/cats/1.jpg"),
        ("train", "dogs", "train/dogs/1.jpg"),
        ("val", "dogs", "val/dogs/2.jpg"),
    ]


def test_a_class_may_be_called_train(tmp_path):
    touch(tmp_path, "bus/1.jpg", "car/1.jpg", "train/1.jpg")
    assert find_layout(tmp_path).classes == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no image below .*; images end in .png"),
        (["notes.txt"], "no image below"),
        (["1.jpg", "2.jpg"], "has neither images/ and masks/ nor a folder for each .*; it has 1.jpg, 2.jpg$"),
        (["pets/cats/1.jpg", "pets/dogs/1.jpg", "list.txt"], "it has list.txt, pets: give data.path=.*/pets$"),
        (["pets/images/1.jpg", "pets/masks/1.png"], "it has pets: give data.path=.*/pets$"),
        (["pets/cats/1.jpg"], "it has pets$"),
        (["cats/1.jpg"], "nor a folder for each of two or more classes; it has cats"),
        (["images/1.jpg", "labels/1.png"], "has images/ and no masks/; it has images, labels"),
        (["masks/1.jpg", "photos/"], "has masks/ and no images/; it has masks, photos"),
        (["img/1.jpg", "label/1.png"], "as classes, img is a strange one.*call the folders images and masks"),
        (["train/images/1.jpg", "train/masks/1.png", "test/images/2.jpg"], "test has images/ and no masks/"),
        (["train/images/1.jpg", "train/masks/1.png", "test/2.jpg"], "test has no images/ and masks/ as the other"),
        (["train/a/1.jpg", "train/b/1.jpg", "val/c/1.jpg"], "val has c, which is no class of .*train"),
        (["train/a/1.jpg", "val/a/1.jpg", "old/1.jpg"], "has splits, train, val, and beside them old"),
        (["train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"], "has val/ and valid/, which name the same split"),
        (["train/a/1.jpg", "train/b/1.jpg", "val/a/", "val/b/"], "val has no image; fill it or remove it"),
        (["val/a/1.jpg", "test/a/1.jpg"], "has test, val and no train/"),
        (["images/train/1.jpg", "images/val/2.jpg", "masks/train/1.png"], "differ: images/ has train, val and masks/"),
    ],
)
def test_layouts_that_fit_nothing(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        find_layout(touch(tmp_path, *names))


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match=r"data.path is '.*nowhere', which does not exist; name a folder"):
        find_layout(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="a file; name a folder"):
        find_layout(touch(tmp_path, "a.png") / "a.png")


def test_suffix_without_masks(tmp_path):
    with pytest.raises(ValueError, match=r"data\.mask_suffix is '_m', and there are no masks/"):
        find_layout(touch(tmp_path, "a/1.png", "b/1.png"), mask_suffix="_m")
