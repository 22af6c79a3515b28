"""python -m src.data: what it says of a data set is so, its picture shows it, and mistakes are answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from src.data.data import Data, DataError
from src.data.images.image_data import ImageData
from src.data.images.transforms import Flip
from src.inspection.command import show
from src.inspection.summary import Shared, batch_picture, summarize, time_batches
from tests.support import forks
from tests.support.helpers import ROOT, run_module
from tests.support.prepared import write_pets

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (50, 12, 10, 3), np.uint8)
MASKS = RNG.choice([0, 1, 2, 255], (50, 12, 10), p=[0.5, 0.3, 0.1, 0.1]).astype(np.uint8)


def masks(**options) -> ImageData:
    splits = {
        "train": (IMAGES[:30], MASKS[:30]),
        "val": (IMAGES[30:40], MASKS[30:40]),
        "test": (IMAGES[40:], MASKS[40:]),
    }
    return ImageData(**{"num_classes": 3, "ignore_label": 255, "batch_size": 8, "seed": 0, **splits, **options})


class Pairs(list):
    """Examples that are read one by one."""


@pytest.mark.parametrize("held", [True, False])
def test_counts_are_those_of_numpy(held):
    split = (IMAGES[:30], MASKS[:30]) if held else Pairs(zip(IMAGES[:30], MASKS[:30], strict=True))
    found = summarize(masks(train=split))
    train = found.splits["train"]
    assert (train.examples, train.looked_at, train.batches, train.in_memory) == (30, 30, 4, held)
    assert train.bytes == IMAGES[:30].nbytes + MASKS[:30].nbytes
    np.testing.assert_array_equal(train.counts, np.unique(MASKS[:30], return_counts=True)[1][:3])
    assert train.ignored == (MASKS[:30] == 255).sum()
    np.testing.assert_allclose(train.shares, train.counts / (MASKS[:30] != 255).sum())
    np.testing.assert_allclose(found.mean, (IMAGES[:30] / 255).mean((0, 1, 2)))
    np.testing.assert_allclose(found.deviation, (IMAGES[:30] / 255).std((0, 1, 2)))
    assert found.image == ((12, 10, 3), "uint8") and found.target == ((12, 10), "uint8")
    assert found.missing == [] and found.shared == [] and found.batch_size == 8 and found.images_a_second > 0
    assert json.loads(json.dumps(found.as_json()))["splits"]["train"]["counts"]["2"] == int(train.counts[2])


def test_floats_have_a_mean_too():
    floats = RNG.normal(3, 2, (30, 5, 5, 2)).astype(np.float32)
    found = summarize(ImageData(train=(floats, np.arange(30) % 2), num_classes=2, batch_size=8, seed=0))
    np.testing.assert_allclose(found.mean, floats.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.deviation, floats.std((0, 1, 2)), rtol=1e-5)


def test_data_of_any_kind_are_counted_and_compared(capsys):
    ages, names = np.float32([[0], [1], [2], [3]]), np.array(["a", "b", "c", "d"])
    data = Data(
        train=({"age": ages[:3], "name": names[:3]}, ages[:3]),
        val=({"age": ages[2:], "name": names[2:]}, ages[2:]),
        batch_size=2,
        seed=0,
    )
    found = summarize(data)
    assert found.shared == [Shared(("train", "val"), 1, (2, 0))] and not found.are_images
    assert found.image == {"age": ((1,), "float32"), "name": ((), "object")} and found.target == ((1,), "float32")
    assert json.loads(json.dumps(found.as_json()))["splits"]["train"]["examples"] == 3
    show(found)
    assert "inputs   age: float32 1, name: text" in capsys.readouterr().out
    assert summarize(Data(train=(ages,), batch_size=2, seed=0)).mean == [1.5]


def test_only_the_first_examples_are_looked_at():
    found = summarize(masks(), examples=11).splits["train"]
    assert (found.examples, found.looked_at) == (30, 11)
    np.testing.assert_array_equal(found.counts, np.unique(MASKS[:11], return_counts=True)[1][:3])


def test_leaks_and_missing_classes_are_told():
    val = IMAGES[[30, 7, 31, 9, 7]], np.zeros((5, 12, 10), np.uint8)
    found = summarize(masks(val=val, train=(IMAGES[:30], np.minimum(MASKS[:30], 1))))
    (shared,) = found.shared
    assert (shared.splits, shared.examples, shared.indices) == (("train", "val"), 2, (7, 1))
    assert found.missing == ["2"]


def test_a_wrong_label_is_an_error_wherever_it_is():
    wrong = MASKS[:30].copy()
    wrong[29, 0, 0] = 9
    with pytest.raises(DataError, match="the train split has labels from 0 to 9; with class count 3"):
        summarize(masks(train=Pairs(zip(IMAGES[:30], wrong, strict=True))))


def test_a_single_batch_can_be_timed():
    data = ImageData(train=(IMAGES[:3], MASKS[:3, 0, 0] % 3), num_classes=3, batch_size=8, seed=0)
    seconds, size = time_batches(data.train)
    assert 0 < seconds < 1 and size == 3


def test_the_picture_shows_a_batch_before_and_after_augmentation():
    plain, flipped = batch_picture(masks()), batch_picture(masks(transforms={"flip": Flip(p=1.0)}))
    assert flipped.shape[0] > 1.8 * plain.shape[0]
    batches = masks().unaugmented()
    image = (batches.next(batches.open(0, 0), np.int32(0))[0][0].numpy() * 255).round()
    assert contains(plain, image) and not contains(plain, image[:, ::-1])
    assert contains(flipped, image) and contains(flipped, image[:, ::-1])


def contains(picture: np.ndarray, image: np.ndarray, *, times: int = 8) -> bool:
    """Whether an image, enlarged, is somewhere in a picture."""
    height, width = (times * n for n in image.shape[:2])
    corners = np.argwhere((picture[: 1 - height, : 1 - width] == image[0, 0]).all(-1))
    return any((picture[y : y + height : times, x : x + width : times] == image).all() for y, x in corners)


@pytest.mark.slow
def test_the_command(tmp_path):
    write_pets(tmp_path)
    options = ["data=oxford_iiit_pet", f"data.data_dir={tmp_path}", "batch_size=8"]
    result = forks.run("src.data", options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "128 x 128 x 3 uint8, masks uint8, 3 classes" in result.stdout and "background" in result.stdout
    assert result.stdout.splitlines()[-1] == "outputs/oxford_iiit_pet/data.png"
    with PIL.Image.open(tmp_path / "outputs/oxford_iiit_pet/data.png") as picture:
        assert picture.width > 8 * 128 and picture.height > 4 * 128
    others = ["data=digits", "--json", "--output", "look.png", "--examples", "5"]
    result = forks.run("src.data", others, cwd=tmp_path)
    found = json.loads(result.stdout)
    assert found["splits"]["train"]["looked_at"] == 5 and (tmp_path / "look.png").is_file()
    assert sum(found["splits"]["train"]["shares"].values()) == pytest.approx(1)


def test_a_reader_that_has_seen_enough(tmp_path):
    """As `| head`: the command ends without a word, wherever the pipe is found to be closed."""
    code = "from src.common.command import run_command; run_command(lambda argv: print('x' * {}))"
    for length in (10, 1_000_000):  # which is written when the command ends, or at once
        reader, writer = os.pipe()
        os.close(reader)
        words = [sys.executable, "-c", code.format(length)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(words, cwd=tmp_path, env=env, stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=digts"], "Did you mean digits?"),
        (["data=tfds"], "data.dataset"),
        (["--examples", "0"], "--examples is 0; it must be at least 1"),
    ],
)
def test_a_wrong_command_is_answered_at_once(arguments, message, tmp_path):
    result = run_module("src.data", *arguments, cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert result.returncode == 2 and message in result.stderr
    assert "tensorflow.python" not in result.stderr and list(tmp_path.iterdir()) == []


def test_failures_say_the_way_out(tmp_path):
    (tmp_path / "file").touch()
    result = forks.run("src.data", ["data=digits", "--output", "file/data.png"], cwd=tmp_path)
    assert result.returncode == 1
    assert "file/data.png cannot be written (File exists); give another file as --output" in result.stderr
    result = forks.run("src.data", ["data=tfds", "data.dataset=mnst"], cwd=tmp_path)
    assert result.returncode == 2 and "Did you mean mnist" in result.stderr
