"""A run on several devices is that on one: each case in a process of its own, as a process has one strategy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from src.runs.record import Record
from src.training.replicas import Mirrored, Replicated
from tests.support import forks
from tests.support.folders import save, write_pairs
from tests.support.helpers import only_run, train

SMALL = "data=digits model=cnn batch_size=337"  # 1350 examples: 4 batches, and one of 2
THREE = "strategy=mirrored strategy.devices=3"
TABLE = "data=table model=table_mlp batch_size=100 optimizer=adam optimizer.learning_rate=0.01"
# Else it makes whole steps of gradients that are zero but for rounding.
CALM = "optimizer=adam optimizer.epsilon=0.001"
MASKS = "data=image_folder data.path={folder} data.ignore_label=3 model=unet model.filters=4 model.batch_norm=false"
MASKS += f" data.transforms=null {CALM} batch_size=7"
CASES = {
    "two heads, batch normalisation, a batch of one": "two_heads",
    "two heads on three devices": f"two_heads {THREE}",
    "three devices": f"{SMALL} {THREE}",
    "three devices, accumulation of a loss that is no mean": (
        f"{SMALL} loss=tversky trainer.gradient_accumulation_steps=2 {THREE}"
    ),
    "adam": SMALL,
    "sgd": f"{SMALL} optimizer=sgd",
    "batch of one": "data=digits model=cnn batch_size=1349",
    "clipping": f"{SMALL} trainer.clip_norm=0.5",
    "accumulation": f"{SMALL} trainer.gradient_accumulation_steps=3",
    "accumulation of a loss that is no mean": f"{SMALL} loss=dice trainer.gradient_accumulation_steps=3",
    "mixed precision": f"{SMALL} precision=mixed_bfloat16",
    "loss scaling": f"{SMALL} precision=mixed_float16",
    "averages": f"{SMALL} optimizer.use_ema=true",
    **{f"loss {name}": f"{SMALL} loss={name}" for name in ("combo", "cross_entropy", "dice", "focal", "tversky")},
    "loss binary_crossentropy": "data=digits_binary model=mlp batch_size=337",
    "loss mean_squared_error": TABLE,
    "sample weights": f"{TABLE} data.weight=bmi",
    "sample weights on three devices, accumulation": (
        f"{TABLE} data.weight=bmi trainer.gradient_accumulation_steps=2 {THREE}"
    ),
    "class weights": f"{SMALL} loss=cross_entropy loss.class_weights=balanced {CALM}",
    "a label that is ignored": MASKS,
    "a label that is ignored, class weights, three devices": (
        f"{MASKS} loss=cross_entropy loss.class_weights=balanced {THREE}"
    ),
    "a label that is ignored, no mean, accumulation": f"{MASKS} loss=dice trainer.gradient_accumulation_steps=2",
}
# In 50 steps. Batches whose examples stand in another order make on one device 6e-3 in bfloat16, 2e-3 in float16.
LOSSES_WITHIN = {"mixed precision": 0.01, "loss scaling": 0.005}


@pytest.mark.sample(1)
@pytest.mark.parametrize("case", CASES)
def test_several_devices_train_as_one(case, tmp_path):
    words = CASES[case].format(folder=tmp_path)
    if MASKS in CASES[case]:
        write_pairs(tmp_path, count=60, classes=4)
    command = [sys.executable, "-m", "tests.support.replicas", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    found = re.search(r"^differences (\S+) (\S+) (\S+)$", done.stdout, re.MULTILINE)
    assert found, done.stderr[-3000:]
    print(found[0])
    losses, metrics, weights = map(float, found.groups())
    assert losses < LOSSES_WITHIN.get(case, 1e-5) and metrics < 0.01
    if "two_heads" in CASES[case]:
        assert weights < 1e-12


def leg(folder: Path, devices: int, until: int, dropout: float = 0) -> list[float]:
    words = [str(folder), str(devices), str(until), str(dropout)]
    command = [sys.executable, "-m", "tests.support.replicas", "leg", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    found = re.search(r"^losses (.*)$", done.stdout, re.MULTILINE)
    assert found, done.stderr[-3000:]
    return json.loads(found[1])


@pytest.mark.exhaustive
def test_a_run_goes_on_on_other_numbers_of_devices_with_the_same_order(tmp_path):
    straight = leg(tmp_path / "straight", 1, 20)
    parts = [leg(tmp_path / "moved", devices, until) for devices, until in ((2, 7), (1, 13), (2, 20))]
    assert [len(part) for part in parts] == [7, 6, 7]
    assert np.abs(np.concatenate(parts) - straight).max() < 1e-5


@pytest.mark.exhaustive
def test_a_run_goes_on_on_as_many_devices_with_the_same_bits(tmp_path):
    straight = leg(tmp_path / "straight", 2, 20, dropout=0.5)
    assert leg(tmp_path / "kept", 2, 7, dropout=0.5) + leg(tmp_path / "kept", 2, 20, dropout=0.5) == straight


@pytest.mark.exhaustive
def test_a_run_goes_on_on_more_devices_which_is_said_and_is_used_on_one(tmp_path):
    command = (*SMALL.split(), "strategy=mirrored", "epochs=3", "trainer.threads=1")
    begun = train(*command, "strategy.devices=2", "max_seconds=0.001", cwd=tmp_path)
    assert begun.returncode == 0 and "max_seconds: ended after step" in begun.stderr, begun.stderr
    done = train(*command, "strategy.devices=3", cwd=tmp_path)
    assert done.returncode == 0 and "continued on other devices" in done.stderr, done.stderr
    run = only_run(tmp_path / "outputs" / "digits")
    record = Record(run).read()
    assert record["environment"]["replicas"] == 3
    assert record["environment"]["changes"] == ["replicas 2 -> 3 (after epoch 0)"]
    save(tmp_path / "digit.png", np.zeros([8, 8], np.uint8))
    for module, words in {"evaluate": ["split=val"], "export": ["--to", "keras"], "predict": ["digit.png"]}.items():
        used = forks.run(f"src.{module}", [str(run), *words], cwd=tmp_path)
        assert used.returncode == 0, used.stderr
    measured = json.loads((run / "evaluation" / "val" / "metrics.json").read_text())["metrics"]
    for weights in ("best_weights", "saved_model"):
        for name in ("loss", "accuracy"):
            assert measured[weights][name] == pytest.approx(record["best"]["metrics"][f"val/{name}"], abs=1e-5)


@pytest.mark.parametrize(
    ("layers", "optimizer", "said"),
    [
        ([keras.layers.Dense(3)], {"clipnorm": 0.1}, r"optimizer\.clipnorm=0\.1 .* trainer\.clip_norm"),
        ([keras.layers.Dense(3, activity_regularizer="l2")], {}, "add to the loss when they are called"),
        (
            [
                keras.layers.Reshape([4, 1]),
                keras.layers.Masking(name="gaps"),
                keras.layers.BatchNormalization(),
                keras.layers.GlobalAveragePooling1D(),
                keras.layers.Dense(3),
            ],
            {},
            "the mask of gaps",
        ),
        ([keras.layers.Dense(3, kernel_regularizer="l2"), keras.layers.BatchNormalization()], {}, None),
    ],
    ids=["clipping", "activity", "mask", "accepted"],
)
def test_what_keras_computes_of_a_part_alone_is_refused(layers, optimizer, said):
    strategy = Mirrored().start()
    with strategy.scope():
        model = keras.Sequential([keras.Input([4]), *[type(x).from_config(x.get_config()) for x in layers]])
        optimizer = keras.optimizers.SGD(0.1, **optimizer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with nullcontext() if said is None else pytest.raises(ValueError, match=said):
        learner = Replicated(strategy=strategy, batch_size=8, model=model, optimizer=optimizer, loss=loss, metrics={})
        learner.check((tf.TensorSpec([None, 4], tf.float32), tf.TensorSpec([None], tf.int64)))
