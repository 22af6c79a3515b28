"""Metrics that Keras lacks, or has slower; of integer targets and logits.

metric = MeanIoU(num_classes=11)
metric = ClassScores(num_classes=2, class_names=["cat", "dog"], scores=["mean_dice"], per_class=["iou"])
metric.update_state(masks, logits, sample_weight=masks != 255)
metric.result()     # {"mean_dice": ..., "iou/cat": ..., "iou/dog": ...}
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import keras
import tensorflow as tf

from src.common.ranges import Range, enforce_ranges
from src.data.batch import Nest, class_numbers, classes_of, is_single, part_of
from src.losses import as_mask, check_classes

Classes = Annotated[int, Range(2)]
Counts = tuple[tf.Tensor, tf.Tensor, tf.Tensor]  # right, targets and predictions of each class, float64 [classes]

# Of each class. One that nothing was predicted as has the precision 0, one without targets the recall 0, as
# scikit-learn's zero_division=0.
CLASS_SCORES: dict[str, Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "iou": lambda right, targets, predicted: tf.math.divide_no_nan(right, targets + predicted - right),
    "dice": lambda right, targets, predicted: tf.math.divide_no_nan(2 * right, targets + predicted),
    "f1": lambda right, targets, predicted: tf.math.divide_no_nan(2 * right, targets + predicted),
    "precision": lambda right, targets, predicted: tf.math.divide_no_nan(right, predicted),
    "recall": lambda right, targets, predicted: tf.math.divide_no_nan(right, targets),
}
SCORES = ("accuracy", *(f"mean_{score}" for score in CLASS_SCORES))
INVALID = -(2**62)  # what the counts become where an assertion would have ended the graph; no count brings it up to 0


@enforce_ranges
class _Confusion(keras.metrics.Metric):
    """Counts of each target class (row) and predicted class (column).

    Args:
        num_classes: at least 2.
    """

    takes_classes = True

    def __init__(self, *, num_classes: Classes, name: str, dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.num_classes = num_classes
        self.confusion = self.add_variable(
            shape=(num_classes, num_classes), initializer="zeros", dtype="int64", name="confusion"
        )

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        """Count a batch.

        Args:
            y_true: integers [...] or [..., 1].
            y_pred: logits or probabilities [..., num_classes], or one logit [..., 1] for two classes.
            sample_weight: one for each target: 1, or 0 where the target does not count and may be any number.

        Raises:
            ValueError: there are not so many scores.
            tf.errors.InvalidArgumentError: a target is out of range, or a weight is neither 0 nor 1. XLA drops
                assertions: all results are NaN then.
        """
        classes, scores = self.num_classes, y_pred.shape[-1]
        if scores not in (None, classes) and (scores, classes) != (1, 2):
            raise ValueError(f"it counts {classes} classes, and the outputs have {scores} scores")
        targets = tf.reshape(class_numbers(y_true), [-1])
        predicted = tf.reshape(classes_of(y_pred), [-1])
        tf.debugging.assert_equal(tf.size(targets), tf.size(predicted), "one target for each prediction")
        cells, valid = targets * classes + predicted, tf.constant(True)
        if sample_weight is not None:
            weights = tf.reshape(tf.cast(sample_weight, tf.float32), [-1])
            tf.debugging.assert_equal(tf.size(weights), tf.size(targets), "one weight for each target")
            counted = weights > 0
            valid = tf.reduce_all(weights == tf.cast(counted, tf.float32))
            tf.debugging.Assert(valid, ["weights must be 0 or 1: targets are counted"])
            targets, cells = tf.where(counted, targets, 0), tf.where(counted, cells, classes**2)
        highest = tf.cast(tf.reduce_max(tf.bitcast(targets, tf.uint32)), tf.int64)  # a negative one is huge
        in_range = tf.debugging.assert_less(
            highest,
            tf.constant(classes, tf.int64),
            f"targets must be 0 to {classes - 1}, one for each class that the model tells apart",
        )
        with tf.control_dependencies([in_range] if in_range is not None else []):
            none = tf.constant([], tf.int64)
            # The last cell takes what does not count.
            counts = tf.raw_ops.DenseBincount(input=cells, size=classes**2 + 1, weights=none, binary_output=False)
        confusion = self.confusion.value + tf.reshape(counts[:-1], [classes, classes])
        self.confusion.assign(tf.where(valid & (highest < classes), confusion, tf.constant(INVALID, tf.int64)))

    def _counts(self) -> Counts:
        """NaN where something could not be counted."""
        confusion = tf.cast(self.confusion.value, tf.float64)
        confusion = tf.where(confusion < 0, tf.constant(math.nan, tf.float64), confusion)
        return tf.linalg.diag_part(confusion), tf.reduce_sum(confusion, 1), tf.reduce_sum(confusion, 0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.num_classes}


@keras.saving.register_keras_serializable(package="src")
class MeanIoU(_Confusion):
    """Intersection over union, averaged over the classes that occur in targets or predictions.

    The same value as keras.metrics.MeanIoU(sparse_y_pred=False) in less than half its time: pixels are counted as
    integers. A target outside of 0 to num_classes - 1 is an error, where Keras leaves it out in silence.

    Args:
        num_classes: at least 2.
    """

    def __init__(self, *, num_classes: Classes, name: str = "mean_iou", dtype: Any = None) -> None:
        super().__init__(num_classes=num_classes, name=name, dtype=dtype)

    def result(self) -> tf.Tensor:
        """float32 []: 0 to 1; 0 where nothing was counted."""
        return _mean(CLASS_SCORES["iou"], self._counts())


@keras.saving.register_keras_serializable(package="src")
class ClassScores(_Confusion):
    """Several scores of one confusion matrix.

    Args:
        num_classes: at least 2.
        scores: names of SCORES: `accuracy`, the share of right targets, and `mean_iou`, `mean_dice`, `mean_f1` (the
            same as Dice), `mean_precision` and `mean_recall`, averaged over the classes that occur in targets or
            predictions (macro averages). A class that nothing was predicted as has the precision 0, one without
            targets the recall 0, as in scikit-learn.
        per_class: names of CLASS_SCORES: `iou`, `dice`, `f1`, `precision`, `recall`, each given as `<score>/<class>`.
        class_names: of the classes, in order; None numbers them. In a result's names all but letters, digits, `_`,
            `-` and `.` become `_`; where two would be alike, all begin with their number.

    Raises:
        ValueError: an unknown score, no score at all, or another number of names than classes.
    """

    def __init__(
        self,
        *,
        num_classes: Classes,
        scores: Sequence[str],
        per_class: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "class_scores",
        dtype: Any = None,
    ) -> None:
        super().__init__(num_classes=num_classes, name=name, dtype=dtype)
        self.scores, self.per_class = list(scores), list(per_class or [])
        self.class_names = [str(i) for i in range(num_classes)] if class_names is None else list(class_names)
        for key, given, known in (("scores", self.scores, SCORES), ("per_class", self.per_class, tuple(CLASS_SCORES))):
            for score in given:
                if score not in known:
                    close = difflib.get_close_matches(str(score), known, n=1)
                    hint = f". Did you mean {close[0]}?" if close else ""
                    raise ValueError(f"{key} has {score!r}; it may have {', '.join(known)}{hint}")
        if not self.scores and not self.per_class:
            raise ValueError(f"scores has none; it may have {', '.join(SCORES)}")
        if len(self.class_names) != num_classes:
            raise ValueError(f"{len(self.class_names)} class_names for {num_classes} classes; each class needs one")

    def result(self) -> dict[str, tf.Tensor]:
        """float32 [] by name, 0 to 1. Where nothing was counted all are 0; of a class that never occurred, NaN."""
        right, targets, predicted = counts = self._counts()
        results = {}
        for score in self.scores:
            if score == "accuracy":
                accuracy = tf.math.divide_no_nan(tf.reduce_sum(right), tf.reduce_sum(targets))
                results[score] = tf.cast(accuracy, tf.float32)
            else:
                results[score] = _mean(CLASS_SCORES[score.removeprefix("mean_")], counts)
        occurs = targets + predicted != 0
        for score in self.per_class:
            values = tf.cast(tf.where(occurs, CLASS_SCORES[score](*counts), math.nan), tf.float32)
            names = _tags(self.class_names)
            results |= {f"{score}/{name}": value for name, value in zip(names, tf.unstack(values), strict=True)}
        return results

    def get_config(self) -> dict[str, Any]:
        own = {"scores": self.scores, "per_class": self.per_class, "class_names": self.class_names}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="src")
class Of(keras.metrics.Metric):
    """A metric of one output of a model that has several.

    Args:
        output: its name, or its number where the model gives a list; targets, and weights if there are several, are
            named alike.
        metric: updated with this target, output and weights.

    Raises:
        ValueError: when updated, targets or outputs have no such name.
    """

    def __init__(self, *, output: str | int, metric: keras.metrics.Metric, name: str = "of", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.output, self.metric = output, metric

    def update_state(self, y_true: Nest, y_pred: Nest, sample_weight: Nest = None) -> None:
        weights = sample_weight if is_single(sample_weight) else part_of(sample_weight, self.output, "weights")
        targets, outputs = part_of(y_true, self.output, "targets"), part_of(y_pred, self.output, "outputs")
        check_classes(self.metric, targets, outputs)
        weights = as_mask(weights, outputs)
        more = {} if weights is None else {"sample_weight": weights}
        self.metric.update_state(targets, outputs, **more)

    def result(self) -> Any:
        return self.metric.result()

    def reset_state(self) -> None:
        self.metric.reset_state()

    def get_config(self) -> dict[str, Any]:
        metric = keras.saving.serialize_keras_object(self.metric)
        return {**super().get_config(), "output": self.output, "metric": metric}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Of:
        return cls(**{**config, "metric": keras.saving.deserialize_keras_object(config["metric"])})


@keras.saving.register_keras_serializable(package="src")
class Perplexity(keras.metrics.SparseCategoricalCrossentropy):
    """e to the mean cross-entropy of integer targets [n, ...] and logits [n, ..., classes]: 1 where all is foreseen.

    NaN where nothing was counted.
    """

    def __init__(self, *, name: str = "perplexity", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype, from_logits=True)

    def result(self) -> tf.Tensor:
        return tf.where(self.count > 0, tf.exp(super().result()), math.nan)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype}


def _mean(score: Callable[..., tf.Tensor], counts: Counts) -> tf.Tensor:
    """float32 []: of the classes that occur."""
    _, targets, predicted = counts
    # NaN is not 0, and so not lost.
    occurring = tf.reduce_sum(tf.cast(targets + predicted != 0, tf.float64))
    return tf.cast(tf.math.divide_no_nan(tf.reduce_sum(score(*counts)), occurring), tf.float32)


def _tags(names: Sequence[str]) -> list[str]:
    tags = [re.sub(r"[^\w.-]", "_", str(name)) for name in names]
    return tags if len(set(tags)) == len(tags) else [f"{i}_{tag}" for i, tag in enumerate(tags)]
