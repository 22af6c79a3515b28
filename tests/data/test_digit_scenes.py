"""The built-in digit scenes: disjoint digits, reproducible scenes, a set that survives crowds and kills."""

import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from src.data.data import DataError
from src.data.digit_scenes import builder as builder_module
from src.data.digit_scenes.builder import prepare
from src.data.digit_scenes.digits import DIGIT_SPLITS, digit_indices, load_digits
from src.data.digit_scenes.scenes import CLASS_NAMES, SPLIT_SIZES, compose_scene
from src.data.sources import digit_scenes

_ROOT = Path(__file__).resolve().parents[2]
# Waits for a line on its input once everything is imported. Setting the threads raises if TensorFlow has run
# an op, which preparing must not do.
_PREPARE = """
import json, sys
import tensorflow as tf
from src.data.digit_scenes.builder import prepare
print("ready", flush=True)
sys.stdin.readline()
info = prepare(sys.argv[1]).info
tf.config.threading.set_intra_op_parallelism_threads(1)
print(json.dumps({name: split.num_examples for name, split in info.splits.items()}))
"""


def _start(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PREPARE, str(data_dir)],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "CUDA_VISIBLE_DEVICES": "-1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _unfinished(data_dir: Path) -> list[Path]:
    return list((data_dir / "digit_scenes").glob("incomplete.*"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the whole set."""
    folder = tmp_path_factory.mktemp("data") / "not" / "there" / "yet"
    prepare(folder)
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Sizes that are prepared in a blink."""
    sizes = {"train": 8, "val": 4, "test": 4}
    monkeypatch.setattr(builder_module, "SPLIT_SIZES", sizes)
    return sizes


def test_digits_are_scaled_to_the_full_range_and_split_for_good() -> None:
    images, labels = load_digits()
    assert images.shape == (1797, 8, 8, 1)
    assert images.dtype == np.uint8
    assert labels.shape == (1797,)
    assert labels.dtype == np.int32
    assert (images.min(), images.max()) == (0, 255)
    assert len(np.unique(images)) == 17
    assert sorted(np.unique(labels)) == list(range(10))

    parts = [digit_indices(split) for split in DIGIT_SPLITS]
    assert [len(part) for part in parts] == [1257, 270, 270]
    assert sorted(np.concatenate(parts)) == list(range(1797))  # disjoint and complete
    for part in parts:
        assert len(np.unique(labels[part])) == 10
    # A moved split would leak evaluated digits into the training of older checkpoints.
    digest = hashlib.sha256(np.concatenate(parts).astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "80a9d63ed6c4039c"


def test_shared_digits_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match=r"read-only"):
        load_digits()[0][0] = 0


def test_scenes_of_a_split_use_only_its_digits() -> None:
    for split in DIGIT_SPLITS:
        used = np.concatenate([compose_scene(split, index).digits for index in range(50)])
        assert set(used) <= set(digit_indices(split))


def test_scene_depends_on_split_and_index_alone() -> None:
    forward = [compose_scene("train", index) for index in range(20)]
    backward = [compose_scene("train", index) for index in reversed(range(20))][::-1]
    for first, second in zip(forward, backward, strict=True):
        assert first.image.tobytes() == second.image.tobytes()
        assert first.mask.tobytes() == second.mask.tobytes()
    assert len({scene.image.tobytes() for scene in forward}) == 20
    assert compose_scene("val", 0).image.tobytes() != forward[0].image.tobytes()


@pytest.mark.parametrize("split", DIGIT_SPLITS)
def test_mask_agrees_with_the_ink(split: str) -> None:
    labels = load_digits()[1]
    counts = set()
    for index in range(60):
        image, mask, digits = compose_scene(split, index)
        assert image.shape == (48, 48, 3)
        assert image.dtype == np.uint8
        assert mask.shape == (48, 48, 1)
        assert mask.dtype == np.uint8
        counts.add(len(digits))
        assert set(np.unique(mask)) == {0, *(labels[digits] + 1)}
        ink, brightness = mask[..., 0] > 0, image.max(axis=-1)
        assert 60 * len(digits) < ink.sum() < 24 * 24 * len(digits)
        assert brightness[ink].mean() > 2 * brightness[~ink].mean()
        # Most of each quadrant's ink is one digit's: nothing is pasted over its neighbour.
        for rows in (slice(0, 24), slice(24, 48)):
            for columns in (slice(0, 24), slice(24, 48)):
                votes = np.bincount(mask[rows, columns, 0].ravel(), minlength=11)[1:]
                assert votes.sum() < 60 or votes.max() > 0.8 * votes.sum()
    assert counts == {2, 3, 4}


def test_scene_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match=r"choose one of train, val, test"):
        compose_scene("validation", 0)
    with pytest.raises(ValueError, match=r"choose one of train, val, test"):
        digit_indices("all")
    with pytest.raises(ValueError, match=r"from 0"):
        compose_scene("train", -1)


@pytest.mark.exhaustive
def test_stored_set_reads_back_as_composed(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        stored = prepare(data_dir)
    assert not caplog.records  # nothing to prepare, nothing to say
    assert stored.name == "digit_scenes"
    assert str(stored.version) == "1.0.0"
    assert stored.info.supervised_keys == ("image", "segmentation_mask")
    assert tuple(stored.info.features["segmentation_mask"].names) == CLASS_NAMES
    assert len(CLASS_NAMES) == 11
    for split, size in SPLIT_SIZES.items():
        examples = list(stored.as_dataset(split=split).as_numpy_iterator())
        assert len(examples) == size
        for index in (0, 1, size // 2, size - 1):
            scene = compose_scene(split, index)
            np.testing.assert_array_equal(examples[index]["image"], scene.image)
            np.testing.assert_array_equal(examples[index]["segmentation_mask"], scene.mask)


def test_prepared_folder_is_not_written_to(tmp_path: Path, small: dict[str, int]) -> None:
    data_dir = tmp_path / "not" / "there" / "yet"
    prepare(data_dir)
    lock = data_dir / "digit_scenes" / ".lock"
    lock.unlink()
    prepare(data_dir)
    assert not lock.exists() and not _unfinished(data_dir)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_processes_that_start_at_once_prepare_one_set(tmp_path: Path) -> None:
    processes = [_start(tmp_path) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert json.loads(out) == SPLIT_SIZES
        assert "%|" not in err  # no progress bar off a terminal
    assert not _unfinished(tmp_path)
    assert prepare(tmp_path).info.splits["val"].num_examples == SPLIT_SIZES["val"]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_killed_preparation_is_cleaned_up_and_repeated(tmp_path: Path, small: dict[str, int]) -> None:
    process = _start(tmp_path)
    process.stdin.write("\n")
    process.stdin.flush()
    deadline = time.monotonic() + 120
    while not list((tmp_path / "digit_scenes").glob("incomplete.*_1.0.0/*")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert _unfinished(tmp_path)
    assert not (tmp_path / "digit_scenes" / "1.0.0").exists()

    stored = prepare(tmp_path)
    assert not _unfinished(tmp_path)
    assert len(list(stored.as_dataset(split="train"))) == small["train"]


@pytest.mark.parametrize("damage", ["short record file", "no record file", "broken info", "no info"])
def test_damaged_set_is_named(tmp_path: Path, small: dict[str, int], damage: str) -> None:
    """A power cut may leave short files in place; without its folder the set is made anew."""
    folder = Path(prepare(tmp_path).data_dir)
    (records,) = folder.glob("*train.tfrecord*")
    info = folder / "dataset_info.json"
    if damage == "short record file":
        os.truncate(records, records.stat().st_size // 2)
    elif damage == "broken info":
        info.write_text("{")
    else:
        (records if "record" in damage else info).unlink()
    with pytest.raises(DataError, match=r"is damaged(.|\n)*remove it") as caught:
        digit_scenes(batch_size=2, seed=0, data_dir=str(tmp_path))
    assert str(records if "record" in damage else folder) in str(caught.value)
    shutil.rmtree(folder)
    assert digit_scenes(batch_size=2, seed=0, data_dir=str(tmp_path)).count("train") == small["train"]


def test_default_folder_is_that_of_tfds(
    tmp_path: Path, small: dict[str, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "chosen"))
    with caplog.at_level(logging.INFO):
        stored = prepare()
    assert Path(stored.data_dir) == tmp_path / "chosen" / "digit_scenes" / "1.0.0"
    (record,) = caplog.records
    assert "digit_scenes" in record.getMessage()
    assert str(stored.data_dir) in record.getMessage()

    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Path(prepare().data_dir).is_relative_to(tmp_path / "home" / "tensorflow_datasets")


def test_preparing_prints_nothing(tmp_path: Path, small: dict[str, int], capfd: pytest.CaptureFixture) -> None:
    prepare(tmp_path)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


def test_full_folder_gives_one_clear_error(tmp_path: Path, small: dict[str, int]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, before[1]))  # writing more fails, as on a full disk
    try:
        with pytest.raises(DataError, match=r"data.data_dir.*TFDS_DATA_DIR") as caught:
            prepare(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(tmp_path) in str(caught.value)
    assert prepare(tmp_path).info.splits["train"].num_examples == small["train"]  # works once there is space


def test_folder_that_cannot_be_made_gives_one_clear_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match=r"data.data_dir.*TFDS_DATA_DIR") as caught:
        prepare(blocked / "data")
    assert str(blocked) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_gives_one_clear_error_unless_prepared(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, small: dict[str, int]
) -> None:
    prepare(data_dir := tmp_path_factory.mktemp("prepared"))
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(DataError, match=r"data.data_dir.*TFDS_DATA_DIR"):
            prepare(tmp_path)
    finally:
        tmp_path.chmod(0o755)
    shutil.copytree(data_dir / "digit_scenes", tmp_path / "digit_scenes")
    (tmp_path / "digit_scenes").chmod(0o555)
    try:
        assert prepare(tmp_path).info.splits["train"].num_examples == small["train"]
    finally:
        (tmp_path / "digit_scenes").chmod(0o755)


def test_remote_folder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data.data_dir"):
        prepare("gs://bucket/data")
