"""`gradient_accumulation_steps`: a batch in parts trains as a whole one, whatever the loss."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from keras import layers

from src.config import targets
from src.config.compose import CONFIG_DIR
from src.data.pipeline import InMemory
from src.losses import CrossEntropy
from src.training.trainer import Trainer
from tests.training.test_trainer import Recorder

CLASSES, IGNORED, BATCH, STEPS = 3, 255, 8, 20
WEIGHTS = [0.2, 1.0, 3.0]

# Each option of the group, as it stands, and with what makes it no mean over examples.
LOSSES = {path.stem: {} for path in sorted((CONFIG_DIR / "loss").glob("*.yaml"))} | {
    "cross_entropy weights": {"class_weights": WEIGHTS, "label_smoothing": 0.1},
    "focal weights": {"class_weights": WEIGHTS},
    "dice weights": {"class_weights": WEIGHTS},
    "tversky exponent": {"exponent": 0.75},
}


def built(name: str, ignore_label: int | None):
    text = (CONFIG_DIR / "loss" / f"{name.partition(' ')[0]}.yaml").read_text()
    for reference in ('"${run.ignore_label}"', "${run.ignore_label}"):
        text = text.replace(reference, "null" if ignore_label is None else str(ignore_label))
    return targets.build(yaml.safe_load(text) | LOSSES[name], key="loss")


def masks(ignore_label: int | None) -> InMemory:
    """Masks of which some parts of batches have nothing that counts, and few pixels of the last class."""
    random = np.random.default_rng(0)
    count = BATCH * 2 + 3
    found = random.choice(CLASSES, [count, 4, 4], p=[0.7, 0.25, 0.05]).astype(np.int32)
    if ignore_label is not None:
        found[: BATCH // 2], found[-2:, :2] = ignore_label, ignore_label
    images = random.normal(size=[count, 4, 4, 2]).astype(np.float32) + 0.5 * (found[..., None] % 3)
    return InMemory(images, found, batch_size=BATCH)


def fitted(loss, *, parts, ignore_label=None, inner=(), scaled=False, epochs=-(-STEPS // 3), clip_norm=None):
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 2))
    outputs = inputs
    for layer in inner:
        outputs = layer()(outputs)
    recorder = Recorder()
    trainer = Trainer(
        model=keras.Model(inputs, layers.Conv2D(CLASSES, 3, padding="same")(outputs)),
        optimizer=keras.optimizers.SGD(0.3),
        loss=loss,
        metrics={"accuracy": keras.metrics.SparseCategoricalAccuracy()},
        ignore_label=ignore_label,
        callbacks={"recorder": recorder},
        gradient_accumulation_steps=parts,
        loss_scaling=scaled,
        clip_norm=clip_norm,
    )
    trainer.fit(masks(ignore_label), epochs=epochs)
    return [w.copy() for w in trainer.model.get_weights()], recorder


def assert_alike(ours, whole, *, rtol=2e-4):
    (weights, recorder), (expected_weights, expected) = ours, whole
    np.testing.assert_allclose(recorder.losses, expected.losses, rtol=rtol)
    for found, wanted in zip(recorder.epochs, expected.epochs, strict=True):
        assert found == pytest.approx(wanted, rel=rtol)
    for a, b in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=2e-5)


# A plain mean, one that counts by weights, and one of the whole batch's overlap; the others are as one of these.
KINDS = ("sparse_categorical_crossentropy", "focal weights", "combo")


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("name", "ignore_label"),
    [
        ("sparse_categorical_crossentropy", None),
        *(pytest.param(name, IGNORED, marks=[] if name in KINDS else pytest.mark.exhaustive) for name in LOSSES),
    ],
)
def test_every_loss_option_trains_in_parts_as_in_whole_batches(name, ignore_label):
    """Losses, metrics and, after 20 steps, weights; the last batch of each epoch is short, and has a shorter part."""
    loss = built(name, ignore_label)
    ours, whole = (fitted(loss, parts=parts, ignore_label=ignore_label) for parts in (4, None))
    assert_alike(ours, whole)


class Penalises(layers.Layer):
    def call(self, inputs):
        self.add_loss(0.1 * tf.reduce_mean(tf.square(inputs)))
        return inputs


@pytest.mark.sample(1)
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(
    ("loss", "ignore_label"), [(CrossEntropy(ignore_label=IGNORED), IGNORED), (built("dice", None), None)]
)
def test_regularisers_count_once_and_scaled_losses_too(scaled, loss, ignore_label):
    def dense():
        return layers.Dense(4, kernel_regularizer="l2", activity_regularizer=keras.regularizers.L2(0.05))

    options = {"inner": (dense, Penalises), "scaled": scaled, "epochs": 2, "clip_norm": 0.5}
    ours, whole = (fitted(loss, parts=p, ignore_label=ignore_label, **options) for p in (3, None))
    assert_alike(ours, whole)


@pytest.mark.exhaustive
def test_the_second_pass_draws_what_the_first_drew():
    """As a mean over examples shows, whose gradient needs no second pass."""
    loss = CrossEntropy()
    options = {"parts": 4, "inner": (lambda: layers.Dropout(0.5), lambda: layers.GaussianNoise(0.3)), "epochs": 2}
    assert_alike(fitted(lambda y, x: loss(y, x), **options), fitted(loss, **options))


@pytest.mark.sample(1)
@pytest.mark.parametrize("loss", [CrossEntropy(), CrossEntropy(class_weights=WEIGHTS)], ids=["mean", "weighted"])
def test_a_layer_that_mixes_examples_is_named(loss, caplog):
    normal = (lambda: layers.BatchNormalization(name="mixes"), lambda: layers.Dropout(0.1), layers.LayerNormalization)
    with caplog.at_level(logging.WARNING, logger="src.training.learner"):
        fitted(loss, parts=2, inner=normal, epochs=1)
        (said,) = [record.message for record in caplog.records if record.name == "src.training.learner"]
        assert "gradient_accumulation_steps=2: " in said and "mixes would see all of a batch at once" in said
        caplog.clear()
        fitted(loss, parts=2, inner=normal[1:], epochs=1)
        fitted(loss, parts=None, inner=normal, epochs=1)
        fitted(loss, parts=2, inner=(lambda: layers.BatchNormalization(trainable=False),), epochs=1)
    assert [record for record in caplog.records if record.name == "src.training.learner"] == []
