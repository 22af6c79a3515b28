"""Names of files are bytes: what is no UTF-8 is escaped in print and told apart; spellings of one name are one."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from src.data.data import DataError
from src.data.images.folder_layout import Example, find_layout
from src.data.images.folders import image_folder, split_examples
from src.verify_resume import compare
from tests.support import forks
from tests.support.folders import save, write_classes, write_pairs
from tests.support.helpers import only_run, train

NFC, NFD = (unicodedata.normalize(form, "Rückgrat/é") for form in ("NFC", "NFD"))


def load(path, **options):
    return image_folder(path=str(path), batch_size=4, seed=0, val_share=0, test_share=0, **options)


@pytest.mark.exhaustive
def test_commands_take_names_that_are_no_text(tmp_path):
    """A folder, a class and files: trained on, evaluated, predicted, looked at and reused."""
    root = write_classes(tmp_path / "pets", {"cats": 9, "dogs": 9})
    os.rename(root / "dogs" / "000.png", os.fsencode(root) + b"/dogs/\xe4\xff.png")
    os.rename(root / "cats", os.fsencode(root) + b"/c\xe4ts")
    os.rename(root, os.fsencode(tmp_path) + b"/p\xe4ts")
    path = os.fsdecode(b"p\xe4ts")
    command = ["data=class_folder", f"data.path='{path}'", "model=mlp", "epochs=1", "~data.transforms", "name=pets"]
    result = train(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = only_run(tmp_path / "outputs" / "pets")
    record = json.loads((run / "run.json").read_text())
    assert record["class_names"] == ["c\\udce4ts", "dogs"] and record["config"]["data.path"] == path
    assert "p\\udce4ts: images" in result.stderr and "p\\udce4ts: images" in (run / "train.log").read_text()
    again = train(*command, cwd=tmp_path)
    assert again.returncode == 0 and "already completed" in again.stdout, again.stderr
    evaluated = forks.run("src.evaluate", [str(run)], cwd=tmp_path)
    assert evaluated.returncode == 0 and "c\\udce4ts" in evaluated.stdout, evaluated.stderr
    predicted = forks.run("src.predict", [str(run), path], cwd=tmp_path)
    assert predicted.returncode == 0 and "p\\udce4ts/dogs/\\udce4\\udcff.png  " in predicted.stdout, predicted.stderr
    files = {entry["file"] for entry in json.loads((run / "predictions" / "predictions.json").read_text())["images"]}
    assert len(files) == 18 and all(os.path.isfile(tmp_path / file) for file in files)
    looked = forks.run("src.data", command, cwd=tmp_path)
    assert looked.returncode == 0 and "c\\udce4ts" in looked.stdout, looked.stderr
    compared = forks.run("src.compare", ["outputs/pets"], cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr


def test_brackets_and_stars_in_a_name_stand_for_themselves(tmp_path):
    """In a run's folder and in the data's: trained, resumed, evaluated and predicted, which TensorFlow globs for."""
    write_classes(tmp_path / "p[1]*?", {"cats": 9, "dogs": 9})
    options = ["data=class_folder", "data.path='p[1]*?'", "model=mlp", "epochs=1", "hydra.run.dir='r[1]*?/\\[a]'"]
    options += ["~data.transforms", "~callback.images", "model.hidden_units=[8]"]
    assert "saved; the same command goes on from there" in train(*options, "max_seconds=1e-9", cwd=tmp_path).stderr
    resumed = train(*options, cwd=tmp_path)
    assert resumed.returncode == 0 and "continuing after step" in resumed.stderr, resumed.stderr
    [run] = (path.parent for path in tmp_path.glob("r*/*/run.json"))
    evaluated = forks.run("src.evaluate", [str(run)], cwd=tmp_path)
    assert evaluated.returncode == 0 and "SavedModel" in evaluated.stdout, evaluated.stderr
    predicted = forks.run("src.predict", [str(run), "p[1]*?/d*/**/*.png"], cwd=tmp_path)
    assert predicted.returncode == 0 and predicted.stdout.count("p[1]*?/dogs/") == 9, predicted.stderr
    assert compare(run, run) == []


def test_a_broken_file_is_named_whatever_its_name(tmp_path):
    root = write_classes(tmp_path / "pets", {"cats": 5, "dogs": 5})
    Path(os.fsdecode(os.fsencode(root) + b"/dogs/\xff.png")).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"dogs/\\udcff\.png: it is no image") as error:
        load(root)
    str(error.value).encode()


def test_names_that_are_no_text_draw_their_own_splits():
    """Not all that lack a letter fall into one."""
    names = [os.fsdecode(b"%d\xff" % n) for n in range(40)] + [os.fsdecode(b"%d\xfe" % n) for n in range(40)]
    examples = [Example(name, None, f"{name}.png") for name in names]
    drawn = {e.name for e in split_examples(examples, val_share=0.25, test_share=0.25, seed=0)["val"]}
    assert {os.fsdecode(b"%d\xff" % n) in drawn for n in range(40)} == {True, False}
    assert [os.fsdecode(b"%d\xff" % n) in drawn for n in range(40)] != [
        os.fsdecode(b"%d\xfe" % n) in drawn for n in range(40)
    ]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_splits_are_drawn_by_names_as_they_are_spelt(form):
    """Else images that a Mac has named would change their splits."""
    names = [unicodedata.normalize(form, f"é{number}") for number in range(40)]
    examples = [Example(name, None, f"{name}.png") for name in names]
    drawn = split_examples(examples, val_share=0.25, test_share=0, seed=3)["val"]
    by_hash = sorted(names, key=lambda name: hashlib.sha256(f"3/{name}".encode()).digest())
    assert {example.name for example in drawn} == set(by_hash[-10:])


@pytest.mark.parametrize(("image", "mask"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_spellings_of_one_name_are_a_pair(tmp_path, image, mask):
    write_pairs(tmp_path, count=1)
    (tmp_path / "images" / "000.png").rename(save(tmp_path / "images" / f"{image}.png", np.zeros((2, 2), np.uint8)))
    (tmp_path / "masks" / "000.png").rename(save(tmp_path / "masks" / f"{mask}é_mask.png", np.zeros((2, 2), np.uint8)))
    suffix = unicodedata.normalize("NFD", "é_mask")
    (example,) = find_layout(tmp_path, mask_suffix=suffix).examples
    assert (example.problem, example.name, example.image) == (None, image, f"images/{image}.png")
    assert load(tmp_path, mask_suffix=suffix).num_classes == 3


def test_two_images_of_one_name_are_told(tmp_path):
    write_pairs(tmp_path, count=3)
    for form in ("NFC", "NFD"):
        save(tmp_path / "images" / unicodedata.normalize(form, "é.png"), np.zeros((16, 16), np.uint8))
    save(tmp_path / "masks" / "é.png", np.zeros((16, 16), np.uint8))
    with pytest.raises(DataError, match="has the same name"):
        load(tmp_path)


def test_a_class_is_one_in_all_spellings(tmp_path):
    """Splits, classes.txt and data.class_names may each have their own."""
    for split, form in (("train", "NFC"), ("val", "NFD")):
        write_classes(tmp_path / split, {unicodedata.normalize(form, "é"): 3, "dogs": 3})
    (tmp_path / "classes.txt").write_text(unicodedata.normalize("NFD", "é") + "\ndogs\n", encoding="utf-8")
    data = load(tmp_path)
    assert data.num_classes == 2
    for split in ("train", "val"):
        batches = data.raw(split)
        labels = np.concatenate([batches.next(batches.open(0, 0), step)[1] for step in range(2)])
        assert sorted(labels.tolist()) == [0, 0, 0, 1, 1, 1]
    write_classes(tmp_path / "train", {unicodedata.normalize("NFD", "é"): 3})
    with pytest.raises(ValueError, match="twice, in two spellings"):
        load(tmp_path)
