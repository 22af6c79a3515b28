"""One contract for every option of every group, each found by itself in conf/*/*.yaml.

An option composes, trains, improves a batch that it sees again and again, is saved in the midst of an epoch and goes on
from there with the same bits in new objects, and is exported to a SavedModel with the same bits.

What an option needs beside the defaults stands in its header, as `# partners: data=digits model=cnn`. A name in braces
is a folder of data that is made here, see PLACES: `# partners: data.path={image_folder}`. Options that say nothing are
tried with what is small and suits their group. What needs network, as weights=imagenet, is no option of its own.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from src import build
from src.callbacks.export import export, export_any, serving_function
from src.config.compose import CONFIG_DIR, compose
from src.data.batch import INPUTS, named_parts
from src.data.images.image_data import ImageData
from src.data.pipeline import as_batches
from src.models.mlp import mlp
from src.training.callback import Callback
from src.training.checkpoints import Checkpoints
from src.training.state import TrainState
from tests.support.folders import write_classes, write_pairs
from tests.support.prepared import write_labels, write_pets

NOT_TRIED = {"hydra", "search"}  # no part of a run
NOT_TRIED |= {"strategy"}  # of a whole process: tests/training/test_replicas.py has it
OPTIONS = sorted(path for path in CONFIG_DIR.glob("*/*.yaml") if path.parent.name not in NOT_TRIED)
# What others of their kind stand for, or that takes long; an option that is new is tried.
EXHAUSTIVE = {
    "callback": {"default", "early_stopping"},  # which test_resume.py has
    "data": {"class_folder", "digit_scenes", "digits", "digits_binary", "image_folder", "oxford_iiit_pet"},
    "debug": {"fast", "profile"},
    "experiment": {"digits_fast"},
    "learner": {"distillation"},  # which tests/training/test_distillation.py has
    "loss": {"binary_crossentropy", "cross_entropy", "dice", "focal", "sparse_categorical_crossentropy", "tversky"},
    "metric": {"accuracy", "binary", "classification", "forecast", "perplexity", "regression", "segmentation"},
    "model": {"cnn", "lstm", "mlp", "table_mlp", "text_bag", "transformer", "unet", "unet_mobilenet_v2"},
    "optimizer": {
        "adadelta",
        "adafactor",
        "adagrad",
        "adam",
        "adamax",
        "adamw",
        "ftrl",
        "lamb",
        "lion",
        "muon",
        "nadam",
        "rmsprop",
        "sgd",
    },
    "schedule": {"constant", "cosine", "exponential", "one_cycle", "piecewise", "polynomial", "reduce_on_plateau"},
    "trainer": {"default"},
}
# Small graphs, for groups that are about something else.
QUICK = {"optimizer": ("optimizer=sgd", "optimizer.learning_rate=0.02"), "schedule": ("schedule=constant",)}
SMALL_UNET = ("model=unet", "model.depth=1", "model.filters=4")
SMALL = {
    "model": ("data=image_folder", "data.path={image_folder}"),
    "data": SMALL_UNET,
    "experiment": (),
}
SMALLEST = ("data=digits", "model=mlp", "model.hidden_units=[16]")  # for other groups
IMAGE_SIZE = 32
CALLBACKS = ("summaries", "images", "examples", "progress", "export", "hparams", "checkpoint")
WITH_CALLBACKS = {"callback", "experiment", "debug"}
WITH_SPLITS = {"data", "trainer", *WITH_CALLBACKS}  # train on the data's own splits; the others on one batch alone
OWN_LENGTH = {"debug"}

BATCH, STEPS = 8, 4  # examples of a batch, batches of an epoch
AGAIN = 5  # epochs of one batch


def tfds_sets(folder: Path) -> None:
    write_pets(folder)
    write_labels(folder)


def teacher(folder: Path) -> None:
    folder.mkdir()
    mlp(input_shape=(8, 8, 1), num_classes=10).save(folder / "teacher.keras")


PLACES = {
    "image_folder": lambda folder: write_pairs(folder, count=48),
    "class_folder": lambda folder: write_classes(folder, {"cats": 24, "dogs": 24}),
    "tfds": tfds_sets,
    "teacher": teacher,
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders of data by name, made when they are first asked for."""
    base = tmp_path_factory.mktemp("places")

    def place(name: str) -> str:
        if not (base / name).exists():
            PLACES[name](base / name)
        return str(base / name)

    return place


@pytest.fixture(scope="module", autouse=True)
def same_bits():
    build.set_up_process(threads=1)


def named(path: Path) -> str:
    return f"{path.parent.name}={path.stem}"


def overrides(path: Path, places) -> list[str]:
    """The option with its partners, small."""
    group = path.parent.name
    header = re.search(r"^# partners: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    partners = tuple(header[1].split()) if header else SMALL.get(group, SMALLEST)
    if group == "data" and not any(word.startswith("model=") for word in partners):
        partners += SMALL_UNET
    words = [] if group == "experiment" else [word for key, words in QUICK.items() if key != group for word in words]
    words += [re.sub(r"\{(\w+)\}", lambda found: places(found[1]), word) for word in partners]
    words += [named(path), f"batch_size={BATCH}", f"epochs={AGAIN + 2}"]
    if group not in OWN_LENGTH:
        words += [f"trainer.limit_train_batches={STEPS}", "trainer.limit_val_batches=1"]
    if group not in WITH_CALLBACKS:
        words += [f"callback.{name}=null" for name in CALLBACKS]
    if group not in WITH_SPLITS:
        words += ["monitor=train/loss", "mode=min"]
    return list({word.partition("=")[0]: word for word in words}.values())  # of two with one key, the later


class Watch(Callback):
    """Remembers the losses of all steps, and leaves a copy of the run as a kill after `save_at` steps would."""

    def __init__(self, run_dir: Path, copy: Path, *, save_at: int) -> None:
        self.losses: list[float] = []
        self.at_steps = [save_at]
        self._run_dir, self._copy = run_dir, copy

    def on_log(self, state, metrics):
        self.losses += state.losses.tolist()
        if state.step in self.at_steps:
            state.join_saving()  # whose files may be half written
            shutil.copytree(self._run_dir, self._copy)
            Checkpoints(self._copy / "checkpoints").save(state)


def differing(one: TrainState, other: TrainState, folder: Path) -> list[str]:
    """What is not equal, bit for bit, of everything that determines the future."""
    assert one.manifest() == other.manifest()
    prefixes = [state.tensors().write(str(folder / name)) for state, name in ((one, "one"), (other, "other"))]
    first, second = map(tf.train.load_checkpoint, prefixes)
    names = set(first.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    return sorted(name for name in names if bits(first.get_tensor(name)) != bits(second.get_tensor(name)))


def bits(value) -> bytes:
    return np.asarray(value).tobytes()


def marked(path: Path):
    exhaustive = path.stem in EXHAUSTIVE.get(path.parent.name, ())
    return pytest.param(path, id=named(path), marks=[pytest.mark.exhaustive] if exhaustive else [])


@pytest.mark.parametrize("path", map(marked, OPTIONS))
def test_an_option(path, tmp_path, places):
    cfg = compose(overrides(path, places))
    if "image_size" in cfg.data:
        cfg.data.image_size = IMAGE_SIZE
    data = build.build_data(cfg)
    build.check(cfg)
    again = tf.data.Dataset.from_tensors(data.train.next(data.train.open(0, 0), tf.constant(0))).repeat(STEPS)
    with_splits = path.parent.name in WITH_SPLITS
    train, val, steps = (data.train, data.val, data.train.steps_per_epoch) if with_splits else (again, None, STEPS)
    straight_dir, resumed_dir = tmp_path / "straight", tmp_path / "resumed"
    straight_dir.mkdir()
    watch = Watch(straight_dir, resumed_dir, save_at=AGAIN * STEPS + max(1, steps // 2))

    straight = build.build_trainer(cfg, data, run_dir=straight_dir, extra_callbacks={"watch": watch})
    before = [variable.numpy() for variable in straight.model.trainable_variables]
    straight.fit(again, val, epochs=AGAIN)
    losses = watch.losses
    assert len(losses) == AGAIN * STEPS and np.isfinite(losses).all()
    after = [variable.numpy() for variable in straight.model.trainable_variables]
    assert any((x != y).any() for x, y in zip(before, after, strict=True))
    assert np.median(losses[-10:]) < losses[0], losses

    straight.fit(train, val, epochs=AGAIN + 2)
    if with_splits:
        data = build.build_data(cfg)
        train, val = data.train, data.val
    resumed = build.build_trainer(cfg, data, run_dir=resumed_dir)
    resumed.check(train if with_splits else as_batches(train), val)  # some metrics make their variables here
    assert differing(resumed.state, straight.state, tmp_path)
    assert Checkpoints(resumed_dir / "checkpoints").restore(resumed.state)
    assert resumed.state.step == watch.at_steps[0]
    resumed.fit(train, val, epochs=AGAIN + 2)
    assert resumed.state.step > watch.at_steps[0]
    assert differing(resumed.state, straight.state, tmp_path) == []

    inputs = data.raw("train").next(data.raw("train").open(0, 0), tf.constant(0))[0]
    if not isinstance(data, ImageData):
        saved = tf.saved_model.load(str(export_any(straight.state, data, tmp_path / "export")))
        found = saved.signatures["serving_default"](**named_parts(inputs, INPUTS))
        expected = resumed.state.predict(data.prepare(inputs))
        assert bits(found["logits" if "logits" in found else "outputs"]) == bits(expected)
        return
    with straight.state.measured_weights(), resumed.state.measured_weights():
        saved = tf.saved_model.load(str(export(straight.model, tmp_path / "export"))).signatures["serving_default"]
        expected = serving_function(resumed.model, data.input_shape)(inputs)
    found = saved(image=inputs)
    assert {name: bits(found[name]) for name in found} == {name: bits(expected[name]) for name in expected}
