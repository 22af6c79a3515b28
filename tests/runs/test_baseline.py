"""A model that is no better than one answer to everything is told of, whatever was measured."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from src.data.data import Data
from src.data.images.image_data import ImageData
from src.data.sources import digits
from src.metrics import SCORES, ClassScores
from src.runs.baseline import CONSTANT_ANSWER, learned_nothing
from src.training.state import Best
from tests.support.helpers import only_run, train

IMAGES = np.zeros((20, 4, 4, 1), np.uint8)
LABELS = np.array([2] * 9 + [0] * 6 + [3] * 5, np.int32)  # of 4 classes
MASKS = np.where(np.arange(16).reshape(4, 4) < 4, 255, LABELS[:, None, None]).astype(np.uint8)


def data_of(targets, **options):
    split = (IMAGES, targets)
    options = {"train": split, "val": split, "num_classes": 4, "ignore_label": 255, **options}
    return ImageData(batch_size=8, seed=0, class_names=["ant", "bee", "cat", "dog"], **options)


def scores(targets, answers) -> dict[str, float]:
    """All scores, by the metrics themselves."""
    logits = tf.one_hot(answers, 4)
    metric = ClassScores(num_classes=4, scores=SCORES)
    metric.update_state(targets, logits, sample_weight=targets != 255)
    plain = keras.metrics.SparseCategoricalAccuracy()
    plain.update_state(targets, logits, sample_weight=tf.cast(targets != 255, tf.float32))
    return {**{name: float(value) for name, value in metric.result().items()}, "accuracy": float(plain.result())}


def best(values, split="val"):
    return Best(0.0, 1, 1, {f"{split}/{name}": value for name, value in values.items()})


@pytest.mark.parametrize("targets", [LABELS, MASKS], ids=["labels", "masks"])
@pytest.mark.parametrize("name", CONSTANT_ANSWER)
def test_the_constant_answer_has_learned_nothing_and_one_better_has(targets, name):
    data, constant = data_of(targets), np.full_like(targets, 2)
    told = learned_nothing(best({name: scores(targets, constant)[name], "loss": 0.1}), data)
    assert f"best val/{name}, " in told and "'cat' to everything" in told and len(told.splitlines()) == 1
    better = constant.copy()
    better[targets == 0] = 0
    assert learned_nothing(best({name: scores(targets, better)[name]}), data) is None


@pytest.mark.parametrize("shape", [[20], [20, 1]])
def test_targets_count_by_their_weights_as_in_the_metric(shape):
    """The most frequent class is then another one."""
    weights = np.where(LABELS == 3, 5.0, 1.0).astype(np.float32)
    splits = (IMAGES.astype(np.float32), LABELS, weights.reshape(shape))
    data = Data(train=splits, val=splits, class_names=["ant", "bee", "cat", "dog"], batch_size=8, seed=0)
    metric = keras.metrics.SparseCategoricalAccuracy()
    metric.update_state(LABELS, tf.one_hot(np.full_like(LABELS, 3), 4), sample_weight=weights)
    told = learned_nothing(best({"accuracy": float(metric.result())}), data)
    assert told and f"'dog' to everything, {25 / 40:.4f}" in told
    assert learned_nothing(best({"accuracy": 0.63}), data) is None


def test_one_score_that_is_better_is_enough():
    constant = scores(LABELS, np.full_like(LABELS, 2))
    assert learned_nothing(best(constant), data_of(LABELS))
    assert learned_nothing(best({**constant, "mean_recall": 0.6}), data_of(LABELS)) is None


def test_of_the_split_that_was_measured():
    others = data_of(LABELS, val=(IMAGES, np.zeros_like(LABELS)))
    assert "'ant' to everything, 1.0000" in learned_nothing(best({"accuracy": 0.99}), others)
    without = data_of(LABELS, val=None)
    assert learned_nothing(best({"accuracy": 0.45}, "train"), without)
    assert learned_nothing(best({"accuracy": 0.46}, "train"), without) is None
    for nothing in (None, Best(0.1, 1, 1), best({"loss": 0.1})):
        assert learned_nothing(nothing, without) is None


@pytest.mark.sample(1)
@pytest.mark.parametrize(("rate", "seed"), [("1e-9", 0), ("1e-9", 2), ("0.01", 1)])
def test_a_run_says_so_at_its_end(tmp_path, rate, seed):
    lean = [f"callback.{name}=null" for name in ("images", "summaries", "hparams", "export")]
    words = ["data=digits", "model=mlp", "model.hidden_units=[]", "optimizer=sgd", f"optimizer.learning_rate={rate}"]
    done = train(*words, "data.limit=0.1", "epochs=1", f"seed={seed}", *lean, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    data = digits(batch_size=32, seed=0)
    accuracy = json.loads((only_run(tmp_path / "outputs/digits") / "run.json").read_text())["best"]["value"]
    told = accuracy <= data.class_shares(data.val).max() + 1e-7
    assert done.stderr.count("the model has learned nothing: its best val/accuracy") == told
