"""Before the first step: arguments are bound, the model must fit the data, and memory and disk must suffice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from src.config.binding import target_problems
from src.data.data import DataError
from src.data.images.image_data import ImageData
from src.data.pipeline import as_batches
from src.models.cnn import cnn
from src.models.unet import unet
from src.runs import preflight
from src.runs.preflight import (
    Shortage,
    check_disk,
    check_memory,
    free_memory,
    least_memory,
    shape_problem,
)
from src.training.trainer import Trainer
from tests.support.helpers import ROOT, train

GIVEN = {"optimizer": frozenset(["learning_rate"]), "callback": frozenset(["data"])}
CNN = {"_target_": "src.models.cnn.cnn", "input_shape": None, "num_classes": None}


@pytest.mark.parametrize(
    ("config", "problems"),
    [
        ({"model": CNN}, []),
        ({"model": {**CNN, "filtres": 3}}, ["model.filtres: .*takes no argument filtres. Did you mean filters?"]),
        ({"model": {**CNN, "zzz": 3}}, ["model.zzz: .*takes no argument zzz; it takes input_shape, num_classes"]),
        ({"model": {"_target_": "src.models.cnn.cnn"}}, ["model .*missing a required .*'input_shape'"]),
        ({"model": {**CNN, "_args_": [1]}}, ["model .*too many positional arguments"]),
        ({"optimizer": {"_target_": "keras.optimizers.Adam"}}, []),
        ({"optimizer": {"_target_": "keras.optimizers.SGD", "clipnorm": 1, "use_ema": True}}, []),
        ({"optimizer": {"_target_": "keras.optimizers.SGD", "_args_": [0.1]}}, ["multiple values.*'learning_rate'"]),
        ({"optimizer": {"_target_": "keras.optimizers.Adam", "lrr": 1}}, ["lrr.*Did you mean learning_rate?"]),
        ({"metric": {"a": {"_target_": "keras.metrics.MeanIoU"}}}, ["metric.a .*missing .*'num_classes'"]),
        ({"metric": {"a": {"_target_": "keras.metrics.Mean", "dtype": None}, "b": None}}, []),
        ({"loss": {"_target_": "src.losses.WeightedSum", "losses": {"a": {"_target_": "keras.losses.Dice", "x": 1}},
                   "weights": {"a": 1}}}, ["loss.losses.a.x: keras.losses.Dice takes no argument x"]),
        ({"callback": {"a": {"_target_": "src.callbacks.images.Images", "_partial_": True}}}, ["callback.a .*missing"]),
        ({"schedule": {"_target_": "src.schedules.constant", "_partial_": True}}, []),
        ({"model": {"_target_": "os.system"}, "loss": {"_target_": "keras.losses.Dise"}},
         ["model._target_ is 'os.system'", "Did you mean Dice?"]),
    ],
)  # fmt: skip
def test_all_that_is_wrong_with_targets_is_told_at_once(config, problems):
    found = target_problems(config, GIVEN)
    assert len(found) == len(problems)
    for text, pattern in zip(found, problems, strict=True):
        assert re.search(pattern.replace("?", r"\?"), text), text


def data_of(masks):
    random = np.random.default_rng(0)
    images = random.integers(0, 255, [8, 8, 8, 1], np.uint8)
    labels = random.integers(0, 3, [8, 8, 8] if masks else 8).astype(np.int32)
    return ImageData(train=(images, labels), num_classes=3, batch_size=4, seed=0)


@pytest.mark.parametrize("masks", [False, True])
def test_a_model_that_does_not_fit_is_told_with_those_that_there_are(masks):
    models = {"cnn": cnn(input_shape=(8, 8, 1), num_classes=3)}
    models["unet"] = unet(input_shape=(8, 8, 1), num_classes=3, depth=1, filters=2)
    right, wrong = ("unet", "cnn") if masks else ("cnn", "unet")
    options = {"data_option": "mine", "model_option": wrong}
    assert shape_problem(models[right], data_of(masks), **options) is None
    message = shape_problem(models[wrong], data_of(masks), **options)
    kind, given, wanted = ("pixel", "3", "8x8x3") if masks else ("image", "8x8x3", "3")
    assert f"model={wrong} does not fit data=mine: for images of 8x8x1 it gives {given} scores" in message
    assert f"one of 3 labels for each {kind}, which wants {wanted}." in message
    assert f"{right} (" in message and f"{wrong} (" not in message and len(message) < 500
    assert ("mlp (" in message) == ("cnn_pooled (" in message) == (not masks)
    assert "mobilenet" not in message  # which takes larger images, in colour
    mine, other = ("image_folder", "class_folder") if masks else ("class_folder", "image_folder")
    folders = shape_problem(models[wrong], data_of(masks), data_option=mine, model_option=wrong)
    assert f"another data option: {other} (" in folders


@pytest.mark.parametrize("frozen", [False, True])
def test_memory_of_a_step_by_hand(frozen):
    """Two convolutions and a normalisation, one of them in a model within the model; 4 bytes a number."""
    inputs = keras.Input((8, 8, 3))
    first = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, trainable=not frozen)
    x = keras.layers.BatchNormalization()(first(inputs))
    inner = keras.Input((8, 8, 4))
    head = keras.Model(inner, keras.layers.Conv2D(2, 1, use_bias=False)(inner))
    need = least_memory(keras.Model(inputs, head(keras.layers.ReLU()(x))), rows=5)
    gradients = (0 if frozen else 3 * 3 * 3 * 4) + 2 * 4 + 4 * 2
    assert need == 4 * (gradients + 5 * 8 * 8 * ((0 if frozen else 3) + 4 + 4))  # the inputs of what is trained


def test_averages_that_a_run_is_too_short_for_are_told():
    def model(trained=False, **options):
        inputs = keras.Input((4,))
        inner = keras.Sequential([keras.layers.BatchNormalization(**options)])
        made = keras.Model(inputs, inner(inputs))
        if trained:
            made.set_weights([np.full(4, 0.5, np.float32)] * 4)
        return made

    for made, steps, left in (
        (model(), 30, "74 %"),
        (model(), 458, "1 %"),
        (model(), 459, None),
        (model(momentum=0.9), 30, "4.2 %"),
        (model(momentum=0.9), 44, None),
        (model(trainable=False), 30, None),
        (model(trained=True), 30, None),
        (keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]), 1, None),
    ):
        for options in ({}, {"normalization": "batch"}):
            said = preflight.moving_average_problem(made, steps=steps, options=options)
            assert (said is None) == (left is None), (steps, said)
            if said:
                assert f"after all {steps} of this run they are {left} what they began with" in said
                assert ("model.normalization=none" in said) == bool(options)


def test_a_short_run_with_batch_normalisation_says_so_once(tmp_path):
    words = [
        "data=digits",
        "model=cnn",
        "model.batch_norm=true",
        "model.filters=2",
        "epochs=1",
        "data.limit=0.05",
        "callback.export=null",
    ]
    done = train(*words, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr.count("WARNING batch normalisation validates") == 1, done.stderr


MEASURE = """
import re
from pathlib import Path
import keras, numpy as np
from src.models.unet import unet
from src.runs.preflight import least_memory
from src.training.trainer import Trainer
import tensorflow as tf

def status(key):
    return int(re.search(rf"{key}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

model = unet(input_shape=(64, 64, 3), num_classes=2, filters=16, depth=3)
images, masks = np.zeros([128, 64, 64, 3], np.float32), np.zeros([128, 64, 64], np.int32)
trainer = Trainer(model=model, optimizer=keras.optimizers.SGD(), steps_per_call=1,
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
dataset = tf.data.Dataset.from_tensor_slices((images, masks)).batch(128)
before = status("VmRSS")
trainer.fit(dataset, epochs=1)
print(status("VmHWM") - before, least_memory(model, rows=128))
"""


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_real_step_needs_at_least_the_bound(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    measured, least = map(int, done.stdout.split())
    assert measured / 4 <= least <= measured


@pytest.fixture
def model():
    return unet(input_shape=(64, 64, 3), num_classes=2, filters=16, depth=2)


def test_too_little_memory_is_refused(model, monkeypatch):
    least = least_memory(model, rows=64)

    def check(free, **options):
        monkeypatch.setattr(preflight, "free_memory", lambda: free)
        check_memory(model, batch_size=64, **options)

    check(least)
    check(None)
    with pytest.raises(Shortage, match=r"batch_size=64: .*at least .* free: .*trainer\.gradient_accumulation_steps="):
        check(least - 1)
    check(least - 1, parts=8)  # each part alone fits
    check(least - 1, recomputes=True)


def test_a_model_of_unknown_shapes_is_let_through(monkeypatch):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs))
    monkeypatch.setattr(preflight, "free_memory", lambda: least_memory(model, rows=1))
    check_memory(model, batch_size=10**6)


def test_free_memory_is_what_the_system_says():
    total = int(re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)[1]) * 1024
    assert 0 < free_memory() < 2 * total


def test_the_disk_must_hold_the_checkpoints_that_are_not_there_yet(tmp_path, model, monkeypatch):
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    weights = 4 * sum(int(np.prod(v.shape)) for v in model.variables)
    one = weights + sum(v.numpy().nbytes for v in optimizer.variables)
    usage = namedtuple("usage", "total used free")

    def check(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, free))
        return check_disk(tmp_path, model, optimizer, checkpoints=3, export=True)

    assert check(5 * one + weights) == 4 * one + weights, "without the one that is being written"
    with pytest.raises(Shortage, match=r"5 checkpoints of .* free. .*callback\.checkpoint\.max_to_keep=1"):
        check(5 * one + weights - 1)
    (tmp_path / "checkpoints" / "best").mkdir(parents=True)
    (tmp_path / "checkpoints" / "best" / "ckpt-1.data").write_bytes(bytes(one))
    check(4 * one + weights)


def test_a_full_disk_is_not_taken_for_want_of_memory():
    for reason, told in {
        "part-0; No space left on device": "the disk is full",
        "OOM": "does not fit in memory",
    }.items():
        with pytest.raises(Shortage, match=told), preflight.naming_failures():
            raise tf.errors.ResourceExhaustedError(None, None, reason)


@pytest.mark.parametrize(("part", "value"), [("targets", 3), ("targets", -1), ("inputs", 3)])
def test_a_number_that_the_model_has_no_place_for_is_named(part, value):
    """In a later batch of a pipeline, which nobody can look through beforehand."""
    parts = {name: np.zeros([40], np.int32) for name in ("inputs", "targets")}
    parts[part][37] = value
    batches = as_batches(tf.data.Dataset.from_tensor_slices((parts["inputs"], parts["targets"])).batch(8))
    layers = [keras.Input([], dtype="int32"), keras.layers.Embedding(3, 4, name="words"), keras.layers.Dense(3)]
    trainer = Trainer(
        model=keras.Sequential(layers),
        optimizer=keras.optimizers.SGD(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics={},
        monitor="train/loss",
        mode="min",
    )
    told = {
        "targets": f"a target is {value}, and the model gives",
        "inputs": f"words.* was given {value}, and has rows",
    }
    with pytest.raises(DataError, match=f"{told[part]}.* 0 to 2: mend the data"), preflight.naming_failures():
        trainer.fit(batches, None, epochs=1)


def test_real_disks_are_asked(tmp_path, model):
    check_disk(tmp_path, model, SimpleNamespace(variables=[]), checkpoints=1, export=False)
    with pytest.raises(Shortage, match=re.escape(str(tmp_path))):
        check_disk(tmp_path, model, SimpleNamespace(variables=[]), checkpoints=10**12, export=False)


GREEDY = """
import keras
import tensorflow as tf
from src.models.mlp import mlp

class Greedy(keras.layers.Layer):
    def call(self, inputs):
        return inputs + tf.reduce_mean(tf.random.stateless_uniform([tf.shape(inputs)[0], 10**10], [1, 2]))

def model(**options):
    logits = mlp(**options)
    return keras.Model(logits.inputs, Greedy()(logits.outputs[0]))
"""


def test_memory_that_runs_out_while_training_is_told_with_what_to_change(tmp_path):
    (tmp_path / "mine.py").write_text(GREEDY)
    done = train("data=digits", "model=mlp", "model._target_=mine.model", "epochs=1", cwd=tmp_path)
    assert done.returncode == 1
    assert "training does not fit in memory" in done.stderr and "trainer.gradient_accumulation_steps" in done.stderr
