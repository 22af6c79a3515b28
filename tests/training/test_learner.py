"""The learner's seam: what the trainer's four things mean, and that another learner needs no other loop."""

from __future__ import annotations

import math
import runpy

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from src.data.pipeline import First, InMemory
from src.training.checkpoints import Checkpoints
from src.training.learner import SEED, Supervised
from src.training.trainer import NonFiniteLoss, Trainer
from tests.jobs import own_code
from tests.training.test_trainer import assert_same, weights

SIZE = 4


def dense(seed: int) -> keras.Model:
    inputs, start = keras.Input((SIZE,)), keras.initializers.GlorotUniform(seed)
    return keras.Model(inputs, layers.Dense(1, use_bias=False, kernel_initializer=start, name=f"dense_{seed}")(inputs))


def parts() -> dict:
    loss = keras.losses.MeanSquaredError()
    return {"model": dense(0), "optimizer": keras.optimizers.SGD(0.1, name="sgd"), "loss": loss}


def data(*, poison: float = 1.0) -> InMemory:
    inputs = np.random.default_rng(0).normal(size=(12, SIZE)).astype(np.float32)
    inputs[8] *= poison  # of the third batch
    return InMemory(inputs, inputs.sum(1, keepdims=True), batch_size=4)


class Rivals(Supervised):
    """Two models with an optimizer each; the second one's gradient is not finite for inputs of 0."""

    saves_all = True

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.rival, self.rival_optimizer = dense(1), keras.optimizers.Adam(name="adam")
        self.rival_optimizer.build(self.rival.trainable_variables)

    def variables(self):
        rival = {"rival": [*self.rival.variables, *self.rival_optimizer.variables]}
        return super().variables() | (rival if self.saves_all else {})

    def train_step(self, inputs, targets):
        with tf.GradientTape(persistent=True) as tape:
            forward = self.forward(inputs, targets, training=True)
            rivals = tf.reduce_mean(tf.sqrt(tf.abs(self.rival(inputs))))
        pairs = [(self.optimizer, forward.loss, self.model), (self.rival_optimizer, rivals, self.rival)]
        updates = [(optimizer, tape.gradient(loss, m.weights), m.weights) for optimizer, loss, m in pairs]
        return self.apply(updates, self.measure(forward, inputs, targets))


def test_model_optimizer_loss_and_metrics_are_a_supervised_learner():
    by_parts, by_learner = Trainer(**parts()), Trainer(learner=Supervised(**parts()))
    for trainer in (by_parts, by_learner):
        trainer.fit(data(), data(), epochs=2)
    assert_same(weights(by_learner), weights(by_parts))
    with pytest.raises(ValueError, match="clip_norm beside a learner"):
        Trainer(learner=Supervised(**parts()), clip_norm=1.0)


def test_a_learner_of_two_optimizers_trains_and_resumes_exactly(tmp_path):
    def fitted(epochs, folder):
        trainer = Trainer(learner=Rivals(**parts()))
        Checkpoints(folder).restore(trainer.state)
        trainer.fit(data(), data(), epochs=epochs)
        Checkpoints(folder).save(trainer.state)
        return weights(trainer)

    straight = fitted(3, tmp_path / "straight")
    fitted(1, tmp_path / "resumed")
    assert_same(fitted(3, tmp_path / "resumed"), straight)


@pytest.mark.parametrize("poison", [0.0, float("nan")])
def test_no_optimizer_takes_a_step_that_is_not_finite_for_one(poison):
    """For the second alone, or for both."""
    clean, poisoned = (Trainer(learner=Rivals(**parts())) for _ in range(2))
    clean.fit(First(data(poison=poison), steps=2), epochs=1)
    with pytest.raises(NonFiniteLoss, match="step 3"):
        poisoned.fit(data(poison=poison), epochs=1)
    groups = (trainer.learner.variables() for trainer in (clean, poisoned))
    assert_same(*([v.numpy() for name in ("model", "optimizer", "rival") for v in found[name]] for found in groups))


@pytest.mark.parametrize("name", ["vae", "gan", "rates"])
def test_a_learner_of_the_docs_changes_nothing_in_a_step_that_is_not_finite(name, tmp_path):
    """Of the rivals, only the critic sees images that are NaN."""
    (tmp_path / "mine.py").write_text(own_code()[f"mine/{name}.py"])
    mine = runpy.run_path(str(tmp_path / "mine.py"))
    optimizer, loss = keras.optimizers.Adam(), keras.losses.MeanSquaredError()
    if name == "vae":
        learner = mine["Reconstruction"](model=mine["vae"](input_shape=(8, 8, 1)), optimizer=optimizer, loss=loss)
    elif name == "gan":
        learner = mine["Gan"](latent=4, critic_rate=0.1, model=mine["generator"](latent=4), optimizer=optimizer)
    else:
        model = keras.Sequential([layers.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3), layers.Dense(1)])
        learner = mine["SlowBody"](body_rate=0.1, model=model, optimizer=optimizer, loss=loss)

    def trained():
        groups = {group: found for group, found in learner.variables().items() if group != "metrics"}
        return [v.numpy() for found in groups.values() for v in found if not v.path.endswith(SEED)]

    before = trained()
    found, _ = learner.train_step(tf.fill([3, 8, 8, 1], math.nan), tf.zeros([3, 1]))
    assert math.isnan(found)
    assert_same(trained(), before)
    found, _ = learner.train_step(tf.ones([3, 8, 8, 1]), tf.ones([3, 1]))
    changed = [(one != other).any() for one, other in zip(trained(), before, strict=True)]
    assert math.isfinite(found) and sum(changed) > len(changed) / 2


def test_what_a_learner_forgets_to_save_is_refused(monkeypatch):
    monkeypatch.setattr(Rivals, "saves_all", False)
    with pytest.raises(ValueError, match=r"a checkpoint cannot hold all .*(?s:.)*changes the variable 'dense"):
        Trainer(learner=Rivals(**parts())).fit(data(), epochs=1)


class Blind(Supervised):
    """Sees nothing of its inputs."""

    def forward(self, inputs, targets, *, training):
        return super().forward(inputs * 0, targets, training=training)


def test_parts_that_would_not_call_a_forward_of_ones_own_are_refused():
    def sum_of_squares(targets, outputs):
        return tf.reduce_sum((targets - outputs) ** 2)

    trainer = Trainer(learner=Blind(**{**parts(), "loss": sum_of_squares}, gradient_accumulation_steps=2))
    with pytest.raises(ValueError, match=r"gradient_accumulation_steps=2 does not go with Blind\.forward"):
        trainer.fit(data(), epochs=1)
    learner = Blind(**parts(), gradient_accumulation_steps=2)  # the mean, which does call it
    before = learner.model.get_weights()
    Trainer(learner=learner).fit(data(), epochs=1)
    assert_same(before, learner.model.get_weights())


class Bare(Supervised):
    def forward(self, inputs, targets=None, weights=None, *, training):
        return super().forward(inputs, targets, weights, training=training).loss


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}])
def test_a_forward_that_gives_something_else_is_told_what_to_give(options):
    learner = Bare(**parts(), **options)
    with pytest.raises(ValueError, match=r"Bare.forward gives float32 \(\); it must give Forward\(loss, targets, "):
        Trainer(learner=learner).fit(data(), data(), epochs=1)
