"""Sets of TensorFlow Datasets, read from folders that TFDS itself has written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import tempfile
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given

from src import build
from src.config.compose import compose
from src.data.data import DataError
from src.data.images.image_data import ImageData
from src.data.images.tfds_sets import tfds_images
from src.data.tfds_folders import prepared, unreachable
from tests.support.helpers import run_module, train
from tests.support.prepared import draw_pet, write_labels, write_pets, write_set

ClassLabel, Image = tfds.features.ClassLabel, tfds.features.Image
LEAN = ("callback.export=null", "callback.images=null", "callback.hparams=null", "callback.summaries=null")
CLOSED = "http://127.0.0.1:9"  # a proxy at which nobody listens
TRIMAPS = {"target_key": "segmentation_mask", "target_offset": -1, "class_names": ["pet", "background", "border"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data folder with the miniature of the pets, and with labels."""
    folder = tmp_path_factory.mktemp("tfds")
    write_pets(folder)
    write_labels(folder)
    return folder


def load(folder: Path, dataset: str = "labels", **options) -> ImageData:
    return tfds_images(**{"dataset": dataset, "data_dir": str(folder), "batch_size": 8, "seed": 0, **options})


def stored(data: ImageData, split: str) -> tuple[np.ndarray, np.ndarray]:
    """A split's raw images and targets in their order."""
    batches = data.raw(split)
    cursor = batches.open(0, 0)
    drawn = [batches.next(cursor, tf.constant(step)) for step in range(batches.steps_per_epoch)]
    return tuple(np.concatenate([part.numpy() for part in parts]) for parts in zip(*drawn, strict=True))


def epoch(data: ImageData, number: int, start: int = 0) -> list[np.ndarray]:
    """All that the training batches of an epoch hold."""
    cursor, draw = data.train.open(number, start), tf.function(data.train.next)
    steps = range(start, data.train.steps_per_epoch)
    return [part.numpy() for step in steps for part in draw(cursor, tf.constant(step))]


def assert_same(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for x, y in zip(first, second, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each new pixel's centre, looked up in the old mask: one by one, in exact fractions."""
    rows, columns = mask.shape
    return np.array(
        [[mask[(2 * y + 1) * rows // (2 * height), (2 * x + 1) * columns // (2 * width)] for x in range(width)]
         for y in range(height)]
    )  # fmt: skip


# The pets


def test_the_pets_are_what_tfds_reads(folder):
    data = build.build_data(compose(["data=oxford_iiit_pet", f"data.data_dir={folder}"]))
    assert {split: data.count(split) for split in ("train", "val", "test")} == {"train": 36, "val": 4, "test": 12}
    assert data.input_shape == (128, 128, 3) and data.class_names == ("pet", "background", "border")
    images, masks = stored(data, "test")
    reference = tfds.builder_from_directory(folder / "oxford_iiit_pet" / "4.0.0").as_dataset(split="test")
    for image, mask, example in zip(images, masks, reference, strict=True):
        trimap = tf.cast(example["segmentation_mask"], tf.int32) - 1
        np.testing.assert_array_equal(mask, tf.image.resize(trimap, (128, 128), method="nearest")[..., 0])
        resized = tf.image.resize(example["image"], (128, 128), antialias=True)
        assert np.abs(image - resized.numpy()).mean() < 1.5  # two JPEG decoders
    assert set(np.unique(masks)) == {0, 1, 2} and (images.dtype, masks.dtype) == (np.uint8, np.uint8)


def test_edges_of_masks_want_a_label_before_anything_is_read(folder):
    with pytest.raises(ValueError, match=r"^data.resize=pad gives masks edges.*data.ignore_label=255"):
        load(folder, "oxford_iiit_pet", target_key="segmentation_mask", image_size=8, resize="pad")


@pytest.mark.exhaustive
def test_the_miniature_trains_through_the_command(folder, tmp_path):
    options = ["model=unet_mobilenet_v2", "epochs=1", "batch_size=4", "data.image_size=32", "data.limit=0.2", *LEAN]
    result = train("data=oxford_iiit_pet", f"data.data_dir={folder}", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("val/mean_iou ")
    (record,) = tmp_path.glob("outputs/oxford_iiit_pet/*/run.json")
    values = json.loads(record.read_text())
    assert values["step"] == 2 and values["class_names"] == ["pet", "background", "border"]
    assert values["fingerprints"]["data"] == {"dataset": "oxford_iiit_pet:4.*.*"}


@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=2),
    resized_to=st.one_of(st.none(), st.tuples(st.integers(1, 40), st.integers(1, 40))),
    seed=st.integers(0, 2**32 - 1),
    held=st.booleans(),
)
def test_trimaps_survive_exactly(sizes, resized_to, seed, held):
    """Pixel for pixel at the same size; else as a nearest neighbour reference says."""
    size, rng = resized_to or sizes[0], np.random.default_rng(seed)
    masks = [rng.integers(1, 4, s, np.uint8) for s in (sizes if resized_to else sizes[:1])]
    examples = [{"image": np.zeros((*m.shape, 3), np.uint8), "segmentation_mask": m[..., None]} for m in masks]
    features = {"image": Image(encoding_format="jpeg"), "segmentation_mask": Image(shape=(None, None, 1))}
    with tempfile.TemporaryDirectory() as temporary:
        write_set(Path(temporary), "trimaps", features, {"train": examples, "validation": examples, "test": examples})
        memory = 1.0 if held else 1e-12
        data = load(Path(temporary), "trimaps", image_size=list(size), max_memory_gib=memory, shuffle=False, **TRIMAPS)
        assert data.is_in_memory("val") == held
        for batches in (data.train, data.val, data.test):
            _, found = batches.next(batches.open(0, 0), tf.constant(0))
            expected = np.stack([nearest(mask, *size).astype(np.int32) - 1 for mask in masks])
            np.testing.assert_array_equal(found, expected)


def test_the_border_can_be_ignored(folder):
    options = ["data.class_names=[pet,background]", "data.ignore_label=2", "data.image_size=16"]
    data = build.build_data(compose(["data=oxford_iiit_pet", f"data.data_dir={folder}", *options]))
    assert data.num_classes == 2 and set(np.unique(stored(data, "val")[1])) == {0, 1, 2}
    assert data.class_shares().sum() == pytest.approx(1)


def test_zero_minus_one_is_not_255(tmp_path):
    """Where 0 is unlabelled, it becomes -1, which may be ignored, and never the 255 of bytes."""
    mask = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    features = {"image": Image(shape=(2, 2, 3)), "segmentation_mask": Image(shape=(2, 2, 1))}
    example = {"image": np.zeros((2, 2, 3), np.uint8), "segmentation_mask": mask}
    write_set(tmp_path, "scenes", features, {"train": [example] * 4})
    data = load(tmp_path, "scenes", ignore_label=-1, **TRIMAPS)
    assert (stored(data, "train")[1] == [[-1, 0], [1, 2]]).all() and data.class_shares() == pytest.approx(1 / 3)
    with pytest.raises(DataError, match=r"example \d of scenes's train: labels -1, 0, 1, 2 .*or 255, which is ignored"):
        load(tmp_path, "scenes", ignore_label=255, **TRIMAPS)


def test_validation_is_the_same_for_every_seed(folder):
    first, second = (load(folder, "oxford_iiit_pet", image_size=16, seed=seed, **TRIMAPS) for seed in (0, 1))
    assert_same([*stored(first, "val")], [*stored(second, "val")])
    train_images, val_images = ({image.tobytes() for image in stored(first, s)[0]} for s in ("train", "val"))
    assert len(train_images) == 36 and len(val_images) == 4 and not train_images & val_images


def test_an_older_version_that_has_been_prepared(folder, tmp_path):
    """Its code is gone from TFDS; the folder is enough."""
    old = shutil.copytree(folder / "oxford_iiit_pet" / "4.0.0", tmp_path / "oxford_iiit_pet" / "3.2.0")
    info = json.loads((old / "dataset_info.json").read_text())
    (old / "dataset_info.json").write_text(json.dumps(info | {"version": "3.2.0"}))
    assert load(tmp_path, "oxford_iiit_pet:3.*.*", image_size=16, **TRIMAPS).count("test") == 12
    with pytest.raises(DataError, match=r"4\.\*\.\* is not prepared"):
        load(tmp_path, "oxford_iiit_pet:4.*.*", image_size=16, download=False, **TRIMAPS)


# Any set


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_batches_are_the_same_from_memory_and_from_disk(tmp_path, folder, file_format):
    write_labels(tmp_path, file_format=file_format)
    reference = load(folder)
    assert reference.is_in_memory("train") and not reference.is_in_memory("test")
    for memory in (4.0, 1e-9):
        data = load(tmp_path, max_memory_gib=memory)
        assert data.is_in_memory("train") == (memory == 4.0)
        for number in (0, 1):
            assert_same(epoch(data, number), epoch(reference, number))
        assert_same(epoch(data, 1, start=3), epoch(reference, 1)[2 * 3 :])
        assert_same([*stored(data, "test")], [*stored(reference, "test")])


def test_labels_are_found(folder):
    data = load(folder)
    assert data.class_names == ("dark", "medium", "bright") and data.input_shape == (8, 8, 1)
    images, labels = stored(data, "test")
    np.testing.assert_array_equal(labels, np.arange(12) % 3)
    np.testing.assert_array_equal(np.clip(images.mean((1, 2, 3)) // 80, 0, 2), labels)
    assert load(folder, channels=3, image_size=16).input_shape == (16, 16, 3)


def test_a_share_is_chosen_before_it_is_read(folder):
    whole, part = load(folder, shuffle=False), load(folder, limit=0.25, shuffle=False)
    assert part.count("train") == 9 and part.count("val") == whole.count("val") == 4
    assert {image.tobytes() for image in stored(part, "train")[0]} <= {i.tobytes() for i in stored(whole, "train")[0]}


def rows(count: int, start: int = 0) -> list[dict]:
    return [{"image": np.full((4, 4, 3), start + i, np.uint8), "label": i % 2} for i in range(count)]


FEATURES = {"image": Image(shape=(4, 4, 3)), "label": ClassLabel(names=["no", "yes"])}


@pytest.mark.parametrize(
    ("splits", "options", "counts"),
    [
        ({"train": 20, "validation": 4, "test": 3}, {}, (20, 4, 3)),
        ({"train": 20, "val": 4}, {}, (18, 4, 2)),
        ({"train": 20}, {"test_share": 0}, (18, 2, None)),
        ({"train": 20}, {"val_share": 0.25, "test_share": 0.5}, (5, 5, 10)),
        ({"full": 20}, {}, (16, 2, 2)),
        ({"train": 20, "test": 5}, {"splits": {"train": "train[:10]", "val": "train[50%:]"}}, (10, 10, 5)),
        ({"a": 5, "b": 6}, {"splits": {"train": "a", "val": "b"}, "test_share": 0}, (5, 6, None)),
        ({"a": 5, "b": 6}, {"splits": {"train": "a+b[:3]"}, "test_share": 0}, (7, 1, None)),
    ],
)
def test_splits(tmp_path, splits, options, counts):
    examples = {name: rows(count, 50 * i) for i, (name, count) in enumerate(splits.items())}
    write_set(tmp_path, "some", FEATURES, examples)
    data = load(tmp_path, "some", **options)
    names = [name for name in ("train", "val", "test") if getattr(data, name) is not None]
    assert tuple(data.count(name) if name in names else None for name in ("train", "val", "test")) == counts
    values = [value for name in names for value in stored(data, name)[0][:, 0, 0, 0]]
    assert len(values) == len(set(values))  # disjoint


def test_a_test_split_without_labels_is_left_out(tmp_path):
    unlabelled = [row | {"label": -1} for row in rows(5, 100)]
    write_set(tmp_path, "contest", FEATURES, {"train": rows(20), "test": unlabelled})
    data = load(tmp_path, "contest")
    assert data.count("test") == 2 and data.count("train") == 16
    with pytest.raises(DataError, match="labels -1"):
        load(tmp_path, "contest", splits={"test": "test"})


def test_sixteen_bits(tmp_path):
    """Of images the high byte; of masks all of it, with hundreds of classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2**16, (6, 5, 7, 3), np.uint16)
    masks = rng.integers(0, 300, (6, 5, 7, 1), np.uint16)
    features = {
        "image": Image(shape=(5, 7, 3), dtype=np.uint16),
        "mask": tfds.features.LabeledImage(labels=300, shape=(5, 7, 1), dtype=np.uint16),
    }
    examples = [{"image": image, "mask": mask} for image, mask in zip(images, masks, strict=True)]
    write_set(tmp_path, "deep", features, {"train": examples, "val": examples, "test": examples})
    found, targets = stored(load(tmp_path, "deep"), "test")
    np.testing.assert_array_equal(found, images >> 8)
    np.testing.assert_array_equal(targets, masks[..., 0])
    gray = {"image": Image(shape=(5, 7, 1), dtype=np.uint16), "mask": features["mask"]}
    pale = [{"image": image[..., :1], "mask": mask} for image, mask in zip(images, masks, strict=True)]
    write_set(tmp_path, "pale", gray, {"train": pale, "val": pale, "test": pale})
    data = load(tmp_path, "pale")
    np.testing.assert_array_equal(stored(data, "val")[0], images[..., :1] >> 8)
    assert data.num_classes == 300 and data.train.element_spec[1].dtype == tf.int32


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("oxford_iiit_pet", {}, r"no fixed size; give data.image_size=128 or \[height,width\].*image: Image"),
        ("oxford_iiit_pet", {"image_size": 8, "image_key": "picture"}, "'picture'; the set has .*image: Image"),
        ("oxford_iiit_pet", {"image_size": 8, "target_key": "file_name"}, "'file_name', neither a label nor a mask"),
        ("oxford_iiit_pet", {"image_size": 8, "image_key": "label", "target_key": "species"}, "'label', no image of 8"),
        ("oxford_iiit_pet", {"image_size": 8, "target_key": "segmentation_mask"}, "give data.num_classes"),
        ("labels", {"image_size": [8]}, r"image_size is \[8\]; it must be a number of pixels"),
        ("labels", {"channels": 2}, "channels is 2; it must be one of 1, 3, or null"),
        ("labels", {"splits": {"train": "trian"}}, r"data.splits.train is 'trian'; the set has train \(40\), test"),
        ("labels", {"splits": {"train": "train[:0]"}}, "which has no example"),
        ("labels", {"splits": {"valid": "train"}}, "data.splits has valid; it may have train, val, test"),
        ("labels", {"splits": {"val": "train[:10%]"}}, "have 4 examples in common"),
        ("labels", {"val_share": 1.0}, "val_share is 1.0; it must be a number at least 0 and below 1"),
        ("labels", {"limit": 0.0}, "limit is 0.0; it must be a number above 0 and at most 1"),
        ("labels", {"class_names": ["a", "b"]}, "labels 2 .*with 2 classes they must be 0 to 1"),
        ("labels:2.*.*", {}, r"is 'labels:2.\*.\*': .*; prepared in .*: 1.0.0; ask for one of these"),
        ("labels:2", {}, "it must be NAME, NAME:VERSION"),
        ("label", {}, "neither prepared in .* nor known to .*Did you mean labels"),
        ("oxford_iiit_pets", {}, "Did you mean oxford_iiit_pet"),
        ("oxford_iiit_pet:9.*.*", {}, "only: 4.0.0.*prepared in .*: 4.0.0"),
        ("mnist", {"download": False}, "mnist is not prepared in .*, and data.download is false"),
    ],
)  # fmt: skip
def test_what_cannot_be_used(folder, dataset, options, message):
    with pytest.raises(ValueError, match=message):
        load(folder, dataset, **options)


def test_which_features_could_be_meant(tmp_path):
    features = FEATURES | {"depth": Image(shape=(4, 4, 1)), "other": ClassLabel(num_classes=2)}
    more = {"depth": np.zeros((4, 4, 1), np.uint8), "other": 0}
    write_set(tmp_path, "much", features, {"train": [row | more for row in rows(4)]})
    with pytest.raises(ValueError, match=r"depth or label or other could be the target; choose with data.target_key"):
        load(tmp_path, "much")
    assert load(tmp_path, "much", target_key="label", test_share=0).class_names == ("no", "yes")
    write_set(tmp_path, "none", {"image": FEATURES["image"]}, {"train": [{"image": rows(1)[0]["image"]}] * 4})
    with pytest.raises(ValueError, match="no feature is of the kind of the target"):
        load(tmp_path, "none")


# What is damaged, or not there


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
@pytest.mark.parametrize(
    ("damage", "names", "message"),
    [
        ("cut", "labels-train", "damaged"),
        ("gone", "labels-train", "is not there"),
        ("flipped", "labels-train", "damaged"),
        ("gone", "dataset_info.json", "it has no dataset_info.json"),
        ("cut", "dataset_info.json", "damaged"),
        ("gone", "features.json", "damaged"),
    ],
)
def test_a_damaged_set_is_named(tmp_path, file_format, damage, names, message):
    write_labels(tmp_path, train=400, file_format=file_format)
    (file,) = (tmp_path / "labels" / "1.0.0").glob(f"*{names}*")
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 4])
    else:
        content[len(content) // 8] ^= 255
        file.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert str(file if "train" in names else file.parent) in str(caught.value)
    assert "Copy the set's folder anew, or remove it" in str(caught.value) and len(str(caught.value).splitlines()) <= 10


IMAGE_CLASS = "tensorflow_datasets.core.features.image_feature.Image"


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("features.json", lambda features: {**features, "pythonClassName": "stranger.payload.X"}),
        ("features.json", lambda features: json.loads(json.dumps(features).replace(IMAGE_CLASS, "stranger.payload.X"))),
        ("features.json", lambda features: json.loads(json.dumps(features).replace(IMAGE_CLASS, "stranger.payload.X")
                                                      .replace("pythonClassName", "python_class_name"))),
        ("features.json", lambda features: {"type": "stranger.payload.X", "content": {}}),
        ("features.json", lambda features: {
            "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
            "jsonFeature": {"json": json.dumps({"image": {"type": "stranger.payload.X", "content": {}}})}}),
        ("dataset_info.json", lambda info: {**info, "features": {"pythonClassName": "stranger.payload.X"}}),
    ],
)  # fmt: skip
def test_a_strangers_set_runs_no_code(tmp_path, monkeypatch, file, change):
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "payload.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = write_labels(tmp_path) / file
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DataError, match=rf"{file} has features of 'stranger.payload.X', and reading it would run"):
        load(tmp_path)
    assert not (tmp_path / "marker").exists()


def test_a_broken_image_is_named(tmp_path):
    features = {"image": Image(shape=(None, None, 3)), "label": ClassLabel(num_classes=2)}
    examples = [{"image": np.zeros((4, 4, 3), np.uint8), "label": 0} for _ in range(8)]
    examples[5] = {"image": b"\xff\xd8\xff no picture", "label": 1}
    write_set(tmp_path, "broken", features, {"train": examples, "val": examples[:2], "test": examples[:2]})
    with pytest.raises(DataError, match=r"example 5 of broken's train: it is no image"):
        load(tmp_path, "broken", image_size=4)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_without_network_the_answer_comes_soon(tmp_path):
    proxies = dict.fromkeys(("http_proxy", "https_proxy"), CLOSED)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run_module(
        "src.train", "data=oxford_iiit_pet", "model=unet_mobilenet_v2", "data.data_dir=here", cwd=tmp_path, **proxies
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    assert time.monotonic() - began < 60  # where TFDS itself, asked at once, tries for minutes
    assert result.returncode == 1 and len(result.stderr.splitlines()) <= 10
    assert f"oxford_iiit_pet:4.*.* is not prepared in {tmp_path}/here" in result.stderr
    assert "thor.robots.ox.ac.uk cannot be reached (Connection refused)" in result.stderr
    assert "python -m src.data data=tfds 'data.dataset=oxford_iiit_pet:4.*.*' data.image_size=128" in result.stderr
    assert "copy FOLDER/oxford_iiit_pet into" in result.stderr


class Served(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a web server of this machine, and its folder."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    pages = tmp_path / "pages"
    pages.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Served(*a, directory=pages)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", pages
        server.shutdown()


def test_which_hosts_can_be_reached(server, monkeypatch):
    monkeypatch.setattr("src.data.tfds_folders.HOST_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts and never answers
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        assert unreachable([f"http://{address}/a", f"http://{address}/b"]).startswith(f"{address} cannot be reached")
        assert time.monotonic() - began < 2
        assert unreachable([f"http://{address}/a", f"{server[0]}/missing"]) == ""
    assert "Connection refused" in unreachable(["http://127.0.0.1:9/x"])
    assert unreachable([]) == unreachable(["a file of the set's own"]) == ""


class WebDigits(tfds.core.GeneratorBasedBuilder):
    """A set that is downloaded from a web server."""

    VERSION = tfds.core.Version("1.0.0")
    url = ""

    def _info(self):
        features = tfds.features.FeaturesDict({"image": Image(shape=(2, 2, 1)), "label": ClassLabel(num_classes=3)})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(dl_manager.download(self.url))}

    def _generate_examples(self, path):
        for number, label in enumerate(Path(path).read_bytes()):
            yield number, {"image": np.full((2, 2, 1), 80 * label, np.uint8), "label": label}


def test_where_there_is_network_a_set_is_prepared_once(tmp_path, server, monkeypatch, capfd):
    address, pages = server
    (pages / "digits.bin").write_bytes(bytes([0, 1, 2] * 10))
    monkeypatch.setattr(WebDigits, "url", f"{address}/digits.bin")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    builder = prepared("web_digits:1.*.*", command="again")
    assert Path(builder.data_dir) == tmp_path / "sets" / "web_digits" / "1.0.0"
    shutil.rmtree(pages)
    data = tfds_images(dataset="web_digits", batch_size=4, seed=0)
    images, labels = stored(data, "train")
    assert data.count("train") == 24
    np.testing.assert_array_equal(images[:, 0, 0, 0], 80 * labels)
    assert capfd.readouterr().out == ""
    shutil.rmtree(tmp_path / "sets")
    with pytest.raises(DataError, match=r"web_digits could not be prepared in .*404"):
        prepared("web_digits", command="again")


def test_a_set_that_is_downloaded_by_hand_says_how(tmp_path):
    with pytest.raises(
        DataError, match=r"Manual directory .*downloads/manual does not exist .*cityscapes-dataset\.com"
    ):
        prepared("cityscapes", data_dir=tmp_path, command="again")


def test_masks_are_drawn_as_the_pets_are(folder):
    """The miniature itself: odd sizes, three values, of which the border is between pet and background."""
    sizes = {draw_pet(number)[1].shape for number in range(40)}
    assert len(sizes) > 30 and any(h % 2 and w % 2 for h, w in sizes)
    assert all(set(np.unique(draw_pet(number)[1])) == {1, 2, 3} for number in range(40))
    assert os.listdir(folder / "oxford_iiit_pet") == ["4.0.0"]
