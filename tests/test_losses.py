"""Losses against plain NumPy, on random cases and on corner cases."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, strategies as st

from src.losses import CrossEntropy, Tversky, WeightedSum, is_mean

IGNORED = 255


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def cross_entropy(targets, logits, *, class_weights=None, label_smoothing=0.0, focus=0.0, ignore_label=None):
    """One target at a time."""
    total = weights = 0.0
    classes = logits.shape[-1]
    for target, probabilities in zip(targets.ravel(), softmax(logits).reshape(-1, classes), strict=True):
        if target == ignore_label:
            continue
        each = np.ones(classes) if class_weights is None else np.array(class_weights)
        wanted = np.full(classes, label_smoothing / classes)
        wanted[target] += 1 - label_smoothing
        total += (1 - probabilities[target]) ** focus * -(wanted * each * np.log(probabilities)).sum()
        weights += each[target]
    return total / weights if weights else 0.0


def tversky(
    targets, logits, *, false_positives=0.5, false_negatives=0.5, exponent=1.0, class_weights=None, ignore_label=None
):
    """One class at a time."""
    probabilities = softmax(logits)
    counted = targets != ignore_label if ignore_label is not None else np.full(targets.shape, True)
    losses, weights = [], []
    for label in range(logits.shape[-1]):
        truth, found = (targets == label)[counted], probabilities[..., label][counted]
        if not truth.any():
            continue
        hits = found[truth].sum()
        index = hits / (hits + false_positives * found[~truth].sum() + false_negatives * (1 - found[truth]).sum())
        losses.append((1 - index) ** exponent)
        weights.append(1.0 if class_weights is None else class_weights[label])
    return float(np.average(losses, weights=weights)) if sum(weights) else 0.0


@st.composite
def batches(draw):
    """Targets with some ignored ones, and logits; labels or masks."""
    classes = draw(st.integers(2, 5))
    shape = draw(st.sampled_from([(1,), (7,), (2, 3, 4), (3, 1, 1)]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    targets = random.integers(0, draw(st.integers(1, classes)), shape)
    targets[random.random(shape) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = IGNORED
    logits = random.normal(scale=draw(st.sampled_from([0.1, 3.0])), size=(*shape, classes))
    weights = draw(st.none() | st.lists(st.floats(0.01, 4), min_size=classes, max_size=classes))
    return targets, logits, {"class_weights": weights, "ignore_label": IGNORED}


def value(loss, targets, logits) -> float:
    return float(loss(tf.constant(targets), tf.constant(logits)))


@given(batches(), st.sampled_from([0.0, 0.1, 0.5]), st.sampled_from([0.0, 1.0, 2.0]))
def test_cross_entropy_is_numpys(batch, label_smoothing, focus):
    targets, logits, options = batch
    options |= {"label_smoothing": label_smoothing, "focus": focus}
    expected = cross_entropy(targets, logits, **options)
    assert value(CrossEntropy(**options), targets, logits) == pytest.approx(expected, abs=1e-6, rel=1e-6)


@given(batches(), st.sampled_from([(0.5, 0.5), (0.3, 0.7), (0.0, 1.0)]), st.sampled_from([1.0, 0.75]))
def test_tversky_is_numpys(batch, costs, exponent):
    targets, logits, options = batch
    options |= {"false_positives": costs[0], "false_negatives": costs[1], "exponent": exponent}
    expected = tversky(targets, logits, **options)
    assert value(Tversky(**options), targets, logits) == pytest.approx(expected, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize(
    "loss", [CrossEntropy(ignore_label=IGNORED, focus=2.0), Tversky(ignore_label=IGNORED, exponent=0.75)]
)
@pytest.mark.parametrize("kind", ["one class", "all ignored", "sure and right", "sure and wrong"])
def test_corner_cases_stay_finite(loss, kind):
    """A finite loss with finite gradients, whatever the batch."""
    targets = np.full([2, 4, 4], IGNORED if kind == "all ignored" else 1)
    logits = np.zeros([2, 4, 4, 3], np.float32)
    logits[..., 2 if kind == "sure and wrong" else 1] = 200.0 if kind.startswith("sure") else 1.0
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        result = loss(tf.constant(targets), variable)
    gradient = tape.gradient(result, variable).numpy()
    assert np.isfinite(gradient).all() and math.isfinite(result)
    assert float(result) == pytest.approx(0.0, abs=1e-4) or kind in ("one class", "sure and wrong")
    assert not gradient.any() or kind != "all ignored"


@pytest.mark.parametrize("loss", [CrossEntropy(), Tversky(), CrossEntropy(class_weights=[1.0, 2.0, 3.0])])
@pytest.mark.parametrize("label", [3, -1, IGNORED, 2**32 + 1, 1.5, math.nan])
def test_a_label_out_of_range_is_an_error(loss, label):
    """One of 64 bits, and one that is no whole number, are not cut to one in the range."""
    targets, logits = tf.constant(np.array([0, label])), tf.zeros([2, 3])
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.function(loss)(targets, logits)


@pytest.mark.parametrize("loss", [CrossEntropy(), Tversky()])
@pytest.mark.parametrize("label", [3, -1, 1.5])
def test_a_label_out_of_range_is_nan_under_xla(loss, label):
    """Which has no assertions; a loss that is not finite ends training."""
    compiled = tf.function(loss, jit_compile=True)
    assert math.isnan(compiled(tf.constant([0, label]), tf.zeros([2, 3])))


def test_weighted_sum():
    targets, logits = np.array([0, 1, 2]), np.random.default_rng(0).normal(size=(3, 3))
    both = WeightedSum(
        losses={"ce": CrossEntropy(), "dice": Tversky(), "none": None}, weights={"dice": 0.25, "none": 3.0}
    )
    expected = cross_entropy(targets, logits) + 0.25 * tversky(targets, logits)
    assert value(both, targets, logits) == pytest.approx(expected, rel=1e-6)


def test_half_precision_is_computed_in_single():
    targets, logits = np.array([0, 1]), np.array([[8.0, -8.0], [9.0, -9.0]])
    for loss in (CrossEntropy(focus=2.0), Tversky()):
        half = loss(tf.constant(targets), tf.constant(logits, tf.bfloat16))
        assert half.dtype == tf.float32
        assert float(half) == pytest.approx(value(loss, targets, logits), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: CrossEntropy(label_smoothing=1.0), "label_smoothing is 1.0; it must be a number at least 0"),
        (lambda: CrossEntropy(focus=-1), "focus is -1; it must be a number at least 0"),
        (lambda: CrossEntropy(class_weights=[1, -1]), "class_weights are .*at least 0"),
        (lambda: Tversky(false_positives=0, false_negatives=0), "one of them must be above 0"),
        (lambda: CrossEntropy(class_weights=[]), "class_weights are .*one for each class"),
        (lambda: Tversky(class_weights=[1, math.nan]), "class_weights are .*at least 0"),
        (lambda: CrossEntropy(focus=math.nan), "focus is nan"),
        (lambda: Tversky(exponent=0), "exponent is 0; it must be a number above 0"),
        (lambda: CrossEntropy(class_weights=[0, 0.0]), r"class_weights are \[0, 0.0\]; .*not all 0"),
        (lambda: CrossEntropy(class_weights=[1, math.inf]), "class_weights are .*at least 0"),
        (lambda: Tversky(class_weights="balancd"), "class_weights are balancd; they must be one for each class"),
        (lambda: CrossEntropy(class_weights=[1, None]), "class_weights are .*one for each class"),
        (lambda: WeightedSum(losses={"a": CrossEntropy()}, weights={"a": None}), "weights.a is None; it must be a fin"),
        (lambda: WeightedSum(losses={"a": CrossEntropy()}, weights={"a": math.nan}), "weights.a is nan; it must be"),
        (lambda: WeightedSum(losses={"a": None}), "losses has none"),
        (lambda: WeightedSum(losses={"a": CrossEntropy()}, weights={"b": 1}), "weights has b; the losses are a"),
        (lambda: CrossEntropy(class_weights=[1, 1])(tf.constant([0]), tf.zeros([1, 3])), "2 class_weights for 3"),
    ],
)
def test_wrong_arguments_are_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    ("loss", "ignore_label", "expected"),
    [
        (CrossEntropy(), None, True),
        (CrossEntropy(focus=2.0, label_smoothing=0.1, ignore_label=IGNORED), IGNORED, True),
        (CrossEntropy(ignore_label=IGNORED), None, False),
        (CrossEntropy(class_weights=[1.0, 2.0]), None, False),
        (Tversky(), None, False),
        (WeightedSum(losses={"a": CrossEntropy(), "b": None}), None, True),
        (WeightedSum(losses={"a": CrossEntropy(), "b": Tversky()}), None, False),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED), IGNORED, True),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"), None, False),
        (keras.losses.MeanSquaredError(), None, True),
        (keras.losses.MeanSquaredError(), IGNORED, False),
        (keras.losses.Dice(), None, False),
        (type("Mine", (CrossEntropy,), {})(), None, False),
        (lambda targets, logits: tf.reduce_mean(logits), None, False),
    ],
)
def test_only_what_is_known_to_be_a_mean_is_taken_for_one(loss, ignore_label, expected):
    assert is_mean(loss, ignore_label=ignore_label) == expected
