"""Metrics against NumPy and Keras."""

from __future__ import annotations

import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, strategies as st

from src.metrics import CLASS_SCORES, SCORES, ClassScores, MeanIoU

IGNORED = 255


def reference(targets: np.ndarray, predictions: np.ndarray, classes: int) -> dict[str, float]:
    """Each score class by class, on sets of targets; a ratio of nothing is 0, a class that never occurs NaN."""
    found: dict[str, list[float]] = {score: [] for score in CLASS_SCORES}
    for k in range(classes):
        truth, guess = targets == k, predictions == k
        hits, either = np.sum(truth & guess), np.sum(truth | guess)
        precision = hits / guess.sum() if guess.any() else 0.0
        recall = hits / truth.sum() if truth.any() else 0.0
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        dice = 2 * hits / (truth.sum() + guess.sum()) if either else 0.0
        ratios = {"iou": hits / max(either, 1), "dice": dice, "f1": f1, "precision": precision, "recall": recall}
        for score, ratio in ratios.items():
            found[score].append(ratio if either else np.nan)
    means = {f"mean_{score}": np.nanmean(ratios) if targets.size else 0.0 for score, ratios in found.items()}
    single = {f"{score}/{k}": ratio for score, ratios in found.items() for k, ratio in enumerate(ratios)}
    return {"accuracy": np.mean(targets == predictions) if targets.size else 0.0, **means, **single}


@st.composite
def cases(draw):
    """Masks [batches, n, h, w] of some of the classes, logits, and which targets count; the others are 255."""
    classes, shape = draw(st.integers(2, 6)), draw(st.sampled_from([(1, 1, 1, 1), (1, 2, 3, 4), (3, 2, 4, 1)]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    targets = random.integers(0, draw(st.integers(1, classes)), shape)
    logits = random.normal(size=(*shape, classes)).astype(np.float32)
    logits[..., draw(st.integers(1, classes)) :] = -9  # classes that are never predicted
    counted = random.random(shape) >= draw(st.sampled_from([0.0, 0.4, 1.0]))
    return np.where(counted, targets, IGNORED).astype(np.uint8), logits, counted, classes


def all_scores(classes: int, **options) -> ClassScores:
    return ClassScores(num_classes=classes, scores=SCORES, per_class=list(CLASS_SCORES), **options)


@given(cases())
def test_scores_are_those_of_numpy(case):
    targets, logits, counted, classes = case
    scores, mean_iou = all_scores(classes), MeanIoU(num_classes=classes)
    for y, x, w in zip(targets, logits, counted, strict=True):
        scores.update_state(y, x, sample_weight=w.astype(np.float32))
        mean_iou.update_state(y, x, w)
    expected = reference(targets[counted], logits.argmax(-1)[counted], classes)
    got = {name: float(value) for name, value in scores.result().items()}
    assert got == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert float(mean_iou.result()) == pytest.approx(expected["mean_iou"], abs=1e-6)


@given(cases())
def test_mean_iou_is_that_of_keras(case):
    targets, logits, _, classes = case
    targets = targets % classes
    ours, theirs = MeanIoU(num_classes=classes), keras.metrics.MeanIoU(num_classes=classes, sparse_y_pred=False)
    for y, x in zip(targets, logits, strict=True):
        ours.update_state(y, x)
        theirs.update_state(y, x)
    assert float(ours.result()) == pytest.approx(float(theirs.result()), abs=1e-6)


def test_one_logit_tells_two_classes():
    logits = np.random.default_rng(0).normal(size=(3, 4, 5, 1)).astype(np.float32)
    truth = np.random.default_rng(1).integers(0, 2, (3, 4, 5))
    one, two = (ClassScores(num_classes=2, scores=["accuracy", "mean_iou", "mean_f1"]) for _ in range(2))
    one.update_state(truth, logits)
    two.update_state(truth, np.insert(logits, 0, 0, axis=-1))
    assert one.result() == two.result() and 0 < one.result()["mean_iou"] < 1


def test_batches_may_be_split_anyhow():
    random = np.random.default_rng(0)
    targets, logits = random.integers(0, 4, [12, 5]), random.normal(size=[12, 5, 4]).astype(np.float32)
    results = []
    for size in (1, 5, 12):
        metric = all_scores(4)
        for i in range(0, 12, size):
            metric.update_state(targets[i : i + size], logits[i : i + size])
        results.append({name: float(value) for name, value in metric.result().items()})
    assert results[0] == results[1] == results[2]


METRICS = {
    "mean_iou": lambda: MeanIoU(num_classes=3),
    "scores": lambda: ClassScores(num_classes=3, scores=["accuracy", "mean_recall"], per_class=["dice"]),
}


def values(metric: keras.metrics.Metric) -> list[float]:
    result = metric.result()
    return [float(value) for value in (result.values() if isinstance(result, dict) else [result])]


@pytest.mark.parametrize("make", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("label", [-1, 3, 255, 2**32 + 1, 1.5])
def test_a_label_out_of_range_is_an_error(make, label):
    for wrap in (lambda function: function, tf.function):
        with pytest.raises(tf.errors.InvalidArgumentError, match="targets must be 0 to 2"):
            wrap(make().update_state)(tf.constant(np.array([0, label, 2])), tf.zeros([3, 3]))
        with pytest.raises(tf.errors.InvalidArgumentError, match="targets must be 0 to 2"):
            wrap(make().update_state)(
                tf.constant(np.array([0, label, 2])), tf.zeros([3, 3]), tf.constant([0.0, 1.0, 1.0])
            )


@pytest.mark.parametrize("make", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("weight", [0.5, 2.0, -1.0, np.nan])
def test_a_weight_that_is_neither_0_nor_1_is_an_error(make, weight):
    for wrap in (lambda function: function, tf.function):
        with pytest.raises(tf.errors.InvalidArgumentError, match="weights must be 0 or 1"):
            wrap(make().update_state)(tf.constant([0, 1]), tf.zeros([2, 3]), tf.constant([1.0, weight]))


@pytest.mark.parametrize("make", METRICS.values(), ids=METRICS)
def test_under_xla_the_same_but_what_is_wrong_is_nan(make):
    """XLA has no assertions; once something could not be counted, the results stay NaN."""
    plain, compiled = make(), make()
    update = tf.function(compiled.update_state, jit_compile=True)
    random = np.random.default_rng(0)
    for _ in range(2):
        targets, logits = random.integers(0, 3, [8]), random.normal(size=[8, 3]).astype(np.float32)
        weights = (random.random(8) < 0.5).astype(np.float32)
        targets[weights == 0] = IGNORED
        plain.update_state(targets, logits, weights)
        update(targets, logits, weights)
    assert values(compiled) == pytest.approx(values(plain), nan_ok=True)
    for label, weight in ((-1, 1.0), (3, 1.0), (IGNORED, 1.0), (0, 0.5)):
        compiled.reset_state()
        for y, w in (([0, label], [1.0, weight]), ([0, 1], [1.0, 1.0])):
            update(np.array(y), np.eye(3, dtype=np.float32)[:2], np.array(w, np.float32))
            assert np.isnan(values(compiled)).all()


def test_empty_reset_and_config():
    for metric in (MeanIoU(num_classes=4), all_scores(4, class_names=list("abcd"))):
        metric.update_state([3, 3], tf.one_hot([3, 3], 4))
        assert np.nanmin(values(metric)) == 1
        metric.reset_state()
        assert np.nanmax(values(metric)) == 0
        again = keras.metrics.deserialize(keras.metrics.serialize(metric))
        assert type(again) is type(metric) and again.get_config() == metric.get_config()
    assert float(MeanIoU(num_classes=4).result()) == 0


@pytest.mark.parametrize("examples", [1, 4])
def test_masks_may_have_a_channel(examples):
    random = np.random.default_rng(0)
    masks, logits = random.integers(0, 3, [examples, 4, 4, 1]), random.normal(size=[examples, 4, 4, 3])
    with_channel, without = MeanIoU(num_classes=3), MeanIoU(num_classes=3)
    with_channel.update_state(masks, logits, masks != 1)
    without.update_state(masks[..., 0], logits, masks[..., 0] != 1)
    assert float(with_channel.result()) == float(without.result()) > 0
    assert int(tf.reduce_sum(with_channel.confusion.value)) == (masks != 1).sum()


def test_one_target_for_each_prediction_and_one_weight_for_each_target():
    with pytest.raises(tf.errors.InvalidArgumentError, match="one target for each prediction"):
        MeanIoU(num_classes=3).update_state(tf.zeros([2, 4]), tf.zeros([2, 5, 3]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="one weight for each target"):
        MeanIoU(num_classes=3).update_state(tf.zeros([2, 4]), tf.zeros([2, 4, 3]), tf.ones([2]))


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (None, ["0", "1", "2"]),
        (["cat", "polar bear", "Straße"], ["cat", "polar_bear", "Straße"]),
        (["a/b", "a b", "c"], ["0_a_b", "1_a_b", "2_c"]),
    ],
)
def test_names_of_classes(names, shown):
    metric = ClassScores(num_classes=3, scores=["mean_iou"], per_class=["iou"], class_names=names)
    assert list(metric.result()) == ["mean_iou", *(f"iou/{name}" for name in shown)]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_classes": 1, "scores": ["accuracy"]}, "num_classes is 1; it must be an integer at least 2"),
        ({"scores": ["mean_iuo"]}, r"scores has 'mean_iuo'; it may have accuracy, .*Did you mean mean_iou\?"),
        ({"scores": [], "per_class": ["mean_iou"]}, "per_class has 'mean_iou'; it may have iou, dice"),
        ({"scores": []}, "scores has none; it may have accuracy"),
        ({"scores": ["accuracy"], "class_names": ["cat"]}, "1 class_names for 3 classes; each class needs one"),
    ],
)
def test_wrong_arguments_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        ClassScores(**{"num_classes": 3, **options})
    with pytest.raises(ValueError, match="num_classes is 1"):
        MeanIoU(num_classes=1)


def test_counting_costs_at_most_two_thirds_of_keras():
    """Less than half, where the machine is idle."""
    random, classes = np.random.default_rng(0), 11
    masks = tf.constant(random.integers(0, classes, [16, 48, 48]).astype(np.uint8))
    logits = tf.constant(random.normal(size=[16, 48, 48, classes]).astype(np.float32))
    theirs = keras.metrics.MeanIoU(num_classes=classes, sparse_y_pred=False)
    updates = [tf.function(metric.update_state) for metric in (all_scores(classes), theirs)]
    seconds = []
    for _ in range(6):  # in turns; the first is tracing
        for update in updates:
            began = time.process_time()
            for _ in range(4):
                update(masks, logits)
            seconds.append(time.process_time() - began)
    assert min(seconds[2::2]) < 0.67 * min(seconds[3::2])
