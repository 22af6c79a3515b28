"""Every optimizer of Keras is an option, and what its file says of it holds."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from src.models.cnn import cnn
from src.optimizers import Ftrl
from src.schedules import cosine
from tests.support.helpers import ROOT

WRAPPERS = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer", "OptimizerMap"}
SCHEDULE = cosine(learning_rate=0.1, steps_per_epoch=2, total_steps=4)


def arguments(option: str) -> dict[str, Any]:
    """Those of the option's file that are not left to Keras."""
    content = yaml.safe_load((ROOT / f"conf/optimizer/{option}.yaml").read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if value is not None and not key.startswith("_")}


def test_every_optimizer_of_keras_is_an_option():
    classes = {name for name, member in inspect.getmembers(keras.optimizers, inspect.isclass)} - WRAPPERS
    files = (ROOT / "conf/optimizer").glob("*.yaml")
    targets = {yaml.safe_load(path.read_text(encoding="utf-8"))["_target_"] for path in files}
    assert {target.rpartition(".")[2] for target in targets} == classes


def step(optimizer: keras.optimizers.Optimizer, gradient: np.ndarray) -> np.ndarray:
    """Ones [4, 4] after two steps."""
    variable = keras.Variable(np.ones([4, 4], np.float32))
    for _ in range(2):
        optimizer.apply([tf.constant(gradient, tf.float32)], [variable])
    return variable.numpy()


def test_adafactor_bears_weights_without_gradients():
    """As those of pixels that are always black, to a unit that never fires; Keras's own epsilon_1 does not."""
    gradient = np.outer([1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0])
    ours = arguments("adafactor")
    assert np.isfinite(step(keras.optimizers.Adafactor(**ours), gradient)).all()
    assert not np.isfinite(step(keras.optimizers.Adafactor(**{**ours, "epsilon_1": 1e-30}), gradient)).all()


def test_ftrl_refuses_a_schedule_which_would_take_its_weights_away():
    with pytest.raises(ValueError, match="constant rate only: choose schedule=constant"):
        Ftrl(SCHEDULE)
    ours = arguments("ftrl")
    assert np.isfinite(step(Ftrl(**ours), np.ones([4, 4]))).all()
    theirs = keras.optimizers.Ftrl(
        **{**ours, "learning_rate": cosine(learning_rate=0.1, steps_per_epoch=1, total_steps=2)}
    )
    assert not np.isfinite(step(theirs, np.ones([4, 4]))).all()
    again = keras.optimizers.deserialize(keras.optimizers.serialize(Ftrl(**ours)))
    assert type(again) is Ftrl and again.get_config() == Ftrl(**ours, name=again.name).get_config()


def test_muon_is_for_matrices_but_the_last():
    """The others have AdamW's second moments."""
    model = cnn(input_shape=(8, 8, 1), num_classes=2)
    optimizer = keras.optimizers.Muon(**arguments("muon"))
    optimizer.build(model.trainable_variables)
    paths = [v.path for v in optimizer.variables if v.path.endswith("velocity")]
    without = [v.path for v in model.trainable_variables if not any(v.path.replace("/", "_") in path for path in paths)]
    assert without == ["dense/kernel"]
