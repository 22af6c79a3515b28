"""Learning from a teacher: the formula against NumPy, and a run whose teacher is another run, resumed exactly."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from src.training.distillation import Distillation
from src.verify_resume import verify
from tests.support.helpers import only_run, train

RANDOM = np.random.default_rng(0)
INPUTS, TARGETS = RANDOM.normal(size=(6, 4)).astype(np.float32), RANDOM.integers(0, 3, 6)
SHORT = ("data=digits", "model=mlp", "model.hidden_units=[16]", "data.limit=0.2", "epochs=2")


def linear(outputs=3):
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(outputs)(inputs))


def learner(**options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Distillation(model=linear(), optimizer=keras.optimizers.SGD(0.1), loss=loss, **options)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def test_the_loss_is_the_papers():
    teacher = linear()
    mine = learner(teacher=teacher, temperature=3.0, teacher_share=0.25)
    logits, wanted = (np.asarray(model(INPUTS), np.float64) for model in (mine.model, teacher))
    taught = 9 * -(softmax(wanted / 3) * np.log(softmax(logits / 3))).sum(-1).mean()
    hard = -np.log(softmax(logits)[np.arange(6), TARGETS]).mean()
    found = mine.forward(tf.constant(INPUTS), tf.constant(TARGETS), training=True)
    np.testing.assert_allclose(found.loss, 0.75 * hard + 0.25 * taught, rtol=1e-5)


def test_nothing_of_the_teacher_is_trained_and_its_shape_must_fit():
    teacher = linear()
    before = teacher.get_weights()
    learner(teacher=teacher).train_step(tf.constant(INPUTS), tf.constant(TARGETS))
    for one, other in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"the teacher gives \(6, 2\), and the model \(6, 3\)"):
        learner(teacher=linear(2)).train_step(tf.constant(INPUTS), tf.constant(TARGETS))


def test_a_batch_with_nan_changes_no_weight():
    mine = learner(teacher=linear())
    before = mine.model.get_weights()
    loss, _ = mine.train_step(tf.constant(INPUTS * np.nan), tf.constant(TARGETS))
    assert np.isnan(loss)
    for one, other in zip(before, mine.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_learns_from_another_one_and_resumes_exactly(tmp_path):
    assert train(*SHORT, cwd=tmp_path).returncode == 0
    teacher = only_run(tmp_path / "outputs" / "digits")
    taught = (*SHORT, "learner=distillation", f"learner.teacher={teacher}", "name=taught")
    done = train(*taught, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plain, other = (
        json.loads((only_run(tmp_path / "outputs" / name) / "run.json").read_text()) for name in ("digits", "taught")
    )
    assert other["id"] != plain["id"] and other["metrics"] != plain["metrics"]
    assert verify(list(taught), tmp_path / "verified", trials=1, kills=1, every_steps=3, jobs=1) == 0
