"""Metrics against NumPy and Keras."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings, strategies as st

from src.metrics import MeanIoU


def reference(targets: np.ndarray, predictions: np.ndarray, classes: int) -> float:
    """The docstring, class by class."""
    ratios = []
    for k in range(classes):
        union = np.sum((targets == k) | (predictions == k))
        if union:
            ratios.append(np.sum((targets == k) & (predictions == k)) / union)
    return float(np.mean(ratios))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 6), used=st.integers(1, 6), batches=st.integers(1, 3))
def test_mean_iou_is_that_of_numpy_and_keras(seed, classes, used, batches):
    random, used = np.random.default_rng(seed), min(used, classes)
    targets = random.integers(0, used, [batches, 2, 3, 4])
    logits = random.normal(size=[batches, 2, 3, 4, classes]).astype(np.float32)
    ours, theirs = MeanIoU(num_classes=classes), keras.metrics.MeanIoU(num_classes=classes, sparse_y_pred=False)
    for y, x in zip(targets, logits, strict=True):
        ours.update_state(y.astype(np.uint8), x)
        theirs.update_state(y, x)
    assert float(ours.result()) == pytest.approx(reference(targets, logits.argmax(-1), classes), abs=1e-6)
    assert float(ours.result()) == pytest.approx(float(theirs.result()), abs=1e-6)


@pytest.mark.parametrize("label", [-1, 3, 255])
@pytest.mark.parametrize("graph", [False, True])
def test_a_label_out_of_range_is_an_error(label, graph):
    metric = MeanIoU(num_classes=3)
    update = tf.function(metric.update_state) if graph else metric.update_state
    with pytest.raises(tf.errors.InvalidArgumentError, match="targets must be 0 to 2"):
        update(tf.constant([0, label, 2]), tf.zeros([3, 3]))


def test_empty_reset_and_config():
    metric = MeanIoU(num_classes=4)
    assert float(metric.result()) == 0
    metric.update_state([3, 3], tf.one_hot([3, 3], 4))
    assert float(metric.result()) == 1
    metric.reset_state()
    assert float(metric.result()) == 0
    assert keras.metrics.deserialize(keras.metrics.serialize(metric)).num_classes == 4
    with pytest.raises(ValueError, match="num_classes is 1"):
        MeanIoU(num_classes=1)


@pytest.mark.parametrize("examples", [1, 4])
def test_masks_may_have_a_channel(examples):
    random = np.random.default_rng(0)
    masks, logits = random.integers(0, 3, [examples, 4, 4, 1]), random.normal(size=[examples, 4, 4, 3])
    with_channel, without = MeanIoU(num_classes=3), MeanIoU(num_classes=3)
    with_channel.update_state(masks, logits)
    without.update_state(masks[..., 0], logits)
    assert float(with_channel.result()) == float(without.result()) > 0
    assert int(tf.reduce_sum(with_channel.confusion.value)) == masks.size


def test_one_target_for_each_prediction():
    with pytest.raises(tf.errors.InvalidArgumentError, match="one target for each prediction"):
        MeanIoU(num_classes=3).update_state(tf.zeros([2, 4]), tf.zeros([2, 5, 3]))
