"""Python's control flow on tensors is named with its line, as no function is rewritten that is not decorated."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from src.common.errors import MADE_LATE, control_flow_on_tensor, described
from src.config.targets import TargetError, build
from src.data.pipeline import InMemory
from src.training.trainer import Trainer
from tests.support.helpers import ROOT

BARE, DECORATED = (lambda function: function), tf.function


def loss(decorate):
    @decorate
    def doubled(targets, outputs):
        value = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(targets, outputs, from_logits=True))
        if value > 1:
            value = value * 2
        return value

    return doubled


def layer(decorate, *, training_only=False):
    class Adds(layers.Layer):
        @decorate
        def call(self, inputs, training=False):
            if training or not training_only:
                for _ in tf.range(3):
                    inputs = inputs + 1.0
            return inputs

    return Adds()


def metric(decorate):
    @decorate
    def counted(targets, outputs):
        count = tf.zeros([])
        while count < 3.0:
            count += 1.0
        return count

    return counted


def model(inner=None):
    inputs = outputs = keras.Input((4,))
    if inner:
        outputs = inner(outputs)
    return keras.Model(inputs, layers.Dense(3)(outputs))


def in_a_range(decorate):
    @decorate
    def summed(targets, outputs):
        value = tf.reduce_mean(outputs)
        for _ in range(tf.shape(outputs)[0]):
            value = value + 1.0
        return value

    return summed


PARTS = {
    "range": lambda decorate: {"loss": in_a_range(decorate), "model": model()},
    "loss": lambda decorate: {"loss": loss(decorate), "model": model()},
    "layer": lambda decorate: {"model": model(layer(decorate, training_only=True))},
    "metric": lambda decorate: {
        "metrics": {"counted": keras.metrics.MeanMetricWrapper(metric(decorate), name="counted")},
        "model": model(),
    },
}
WRONG_LINES = {
    "range": "for _ in range(tf.shape(outputs)[0]):",
    "loss": "if value > 1:",
    "layer": "for _ in tf.range(3):",
    "metric": "while count < 3.0:",
}


def fit(kind: str, decorate) -> Trainer:
    options = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), **PARTS[kind](decorate)}
    trainer = Trainer(optimizer=keras.optimizers.SGD(1e-2), **options)
    random = np.random.default_rng(0)
    inputs, targets = random.normal(size=(8, 4)).astype(np.float32), random.integers(0, 3, 8).astype(np.int32)
    trainer.fit(InMemory(inputs, targets, batch_size=4), epochs=1)
    return trainer


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", PARTS)
def test_python_that_asks_a_tensor_is_named_before_the_first_step(kind):
    with pytest.raises(ValueError, match=r"test_control_flow\.py:\d+, `.*@tf.function") as caught:
        fit(kind, BARE)
    assert f"`{WRONG_LINES[kind]}`" in str(caught.value)
    assert fit(kind, DECORATED).state.step == 2


def test_a_layer_is_named_where_the_model_is_built(monkeypatch):
    monkeypatch.setattr("src.config.targets.resolve", lambda *_, **__: lambda: model(layer(BARE)))
    with pytest.raises(TargetError, match=r"model \(mine.net\): .*\.py:\d+, `for _ in tf.range\(3\):`"):
        build({"_target_": "mine.net"}, key="model")
    assert model(layer(DECORATED)).count_params() == 15


def test_other_errors_are_left_as_they_are():
    for error in (TypeError("another kind"), ValueError("Using a symbolic `tf.Tensor` without a frame")):
        assert control_flow_on_tensor(error) is None


def test_a_model_among_the_projects_own_is_named_too(tmp_path, monkeypatch):
    """Where README puts it; and Keras's colours are left out."""
    path = ROOT / "src" / "models" / "mine_that_is_not_there.py"
    gate = "class Gate(layers.Layer):\n    def call(self, x):\n        return x if x[0, 0] > 0 else -x\n"
    text = f"from keras import layers\n{gate}"
    namespace: dict = {"__name__": "src.models.mine_that_is_not_there"}
    exec(compile(text, path, "exec"), namespace)
    monkeypatch.setattr("src.config.targets.resolve", lambda *_, **__: lambda: model(namespace["Gate"]()))
    with pytest.raises(TargetError, match=r"mine_that_is_not_there.py:4, .*@tf.function") as caught:
        build({"_target_": "mine.net"}, key="model")
    assert "\x1b" not in str(caught.value)


class InBranch(layers.Layer):
    """Keeps a variable that it makes when it is called: in one branch on a tensor, or while training."""

    def __init__(self, make, *, on_tensor):
        super().__init__()
        self.make, self.on_tensor, self.count = make, on_tensor, None

    @tf.function
    def call(self, x, training=False):
        if tf.reduce_mean(x) > 0.5 if self.on_tensor else training:
            if self.count is None:
                self.count = self.make(self)
            self.count.assign_add(1.0)
        return x


def raw(layer):
    return tf.Variable(0.0, trainable=False)


def weight(layer):
    return layer.add_weight(shape=(), trainable=False)


@pytest.mark.parametrize(("make", "on_tensor"), [(raw, True), (raw, False), (weight, True), (weight, False)])
def test_a_variable_made_while_a_layer_is_called_is_told_in_our_words_first(monkeypatch, make, on_tensor):
    layer = InBranch(make, on_tensor=on_tensor)
    monkeypatch.setattr("src.config.targets.resolve", lambda *_, **__: lambda: model(layer))
    monkeypatch.setitem(PARTS, "variable", lambda _: {"model": build({"_target_": "mine.net"}, key="model")})
    with pytest.raises(ValueError, match="InBranch") as caught:
        fit("variable", BARE)
    told = described(caught.value)
    assert MADE_LATE in told.partition("\n")[0] and "InBranch.call()" in told and "__autograph" not in told
    if on_tensor:
        assert "test_control_flow.py:" in told.splitlines()[0]


def test_the_line_of_a_function_that_autograph_has_rewritten_is_the_users(tmp_path):
    @tf.function
    def wrong(x):
        if x > 0:
            x = x["a"]
        return x

    with pytest.raises(TypeError) as caught:
        wrong(tf.zeros([]))
    line = next(number for number, text in enumerate(Path(__file__).read_text().splitlines(), 1) if 'x["a"]' in text)
    assert f'test_control_flow.py:{line}, in wrong: x = x["a"]' in described(caught.value)
