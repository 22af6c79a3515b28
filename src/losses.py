"""Losses for labels and masks, of integer targets and logits; what Keras has only for one-hot targets, or not at all.

loss = CrossEntropy(class_weights=[0.2, 1.0, 1.0], ignore_label=255)
loss = WeightedSum(losses={"cross_entropy": CrossEntropy(), "dice": Tversky()}, weights={"dice": 0.5})
loss(masks, logits)     # float32 []

Each takes targets, integers [...] or [..., 1], and logits [..., classes], and gives the batch's mean as a scalar. A
target of `ignore_label` counts nowhere; a batch of nothing else has the loss 0. Any other target that is not 0 to
classes - 1 is an error on a CPU, and makes the loss NaN elsewhere.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import keras
import tensorflow as tf

from src.common.internals import mask_of
from src.common.ranges import NonNegative, Positive, Share, enforce_ranges, is_number
from src.data.batch import Nest, class_numbers, is_single, part_names, part_of

# What of Keras takes targets for numbers of classes; of `IoU` and its kinds, those with `sparse_y_true`.
OF_CLASSES = (
    *(keras.losses.SparseCategoricalCrossentropy, keras.metrics.SparseCategoricalCrossentropy),
    *(keras.metrics.SparseCategoricalAccuracy, keras.metrics.SparseTopKCategoricalAccuracy, keras.losses.CTC),
)


class Loss(Protocol):
    """What the trainer takes as a loss."""

    def __call__(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor: ...


def mean_loss(loss: Callable[..., tf.Tensor], targets: Nest, outputs: Nest, weights: Nest = None) -> tf.Tensor:
    """A batch's loss as Keras's `fit` computes it.

    Args:
        loss: loss(targets, outputs) -> one number, which is the batch's mean already; or values for each example, of
            which the mean is taken. One of `keras.losses`, or one with an argument `sample_weight`, weighs by itself.
        weights: sample weights, [n] or one for each value: values are multiplied by them, and their sum is divided
            by how many there are, as with Keras's "sum_over_batch_size". Where the outputs have a mask, as of padding
            that an Embedding with mask_zero names, what is masked does not count.

    Raises:
        ValueError: there are weights, and the loss gives one number and has no argument `sample_weight`; or one of
            Keras's that compares numbers one by one would broadcast them.
    """
    of_keras, weights = isinstance(loss, keras.losses.Loss), as_mask(weights, outputs)
    if not (is_single(targets) and is_single(outputs)):
        if of_keras or getattr(loss, "is_of_one_output", False):
            raise ValueError("it takes one tensor of each; src.losses.PerOutput gives each output its own loss")
    elif targets is not None:
        check_classes(loss, targets, outputs)
        alike = _like(outputs, targets)
        is_one_by_one = type(loss) in MEANS_OF_KERAS and type(loss) is not keras.losses.SparseCategoricalCrossentropy
        if is_one_by_one and not alike.shape.is_compatible_with(outputs.shape):
            raise ValueError("it compares number with number, and the shapes differ")
        targets = targets if of_keras else alike
    # A sum of losses hands the weights on to each, which looks at the mask itself.
    weighing = weights if of_keras or isinstance(loss, WeightedSum | PerOutput) else _masked(weights, outputs)
    if weighing is not None and (of_keras or "sample_weight" in inspect.signature(loss).parameters):
        return tf.convert_to_tensor(loss(targets, outputs, sample_weight=weighing))
    value = tf.convert_to_tensor(loss(targets, outputs))
    if value.shape.rank != 0 and not of_keras:
        return _MeanOf(value)(targets, outputs, sample_weight=weights)
    if weighing is not None:
        raise ValueError(
            "it gives one number for a batch whose examples have weights, or a mask, and has no argument "
            "sample_weight: let it give a value for each example, or take the weights away from the data"
        )
    return value


class _MeanOf(keras.losses.Loss):
    """The mean of values as `compile` takes it; a function that is called by Keras gets all targets as floats."""

    def __init__(self, values: tf.Tensor) -> None:
        super().__init__(name="loss")
        self._values = values

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        return self._values


def check_classes(taker: Any, targets: Nest, outputs: Nest) -> None:
    """Refuse what a loss or metric of classes would take for some: floats, which Keras's cut, as targets; one logit.

    Raises:
        ValueError: naming the dtype, or what takes one logit, and the way out.
    """
    is_iou = isinstance(taker, keras.metrics.IoU) and not isinstance(taker, keras.metrics.BinaryIoU)
    of_classes = taker.sparse_y_true if is_iou else isinstance(taker, OF_CLASSES) or hasattr(taker, "takes_classes")
    function = getattr(taker, "func", taker)  # of a functools.partial
    if of_classes or function is keras.losses.sparse_categorical_crossentropy:
        dtype = tf.as_dtype(targets.dtype)
        if dtype.is_floating:
            raise ValueError(
                f"its targets are numbers of classes, and these are {dtype.name}: give them as int32, or, of targets "
                "that are no classes, another loss and other metrics"
            )
    # Losses are not named: a run is only asked about those that it uses.
    if (isinstance(taker, OF_CLASSES) or hasattr(taker, "needs_scores")) and outputs.shape[-1] == 1:
        raise ValueError(
            "it takes a score for each class, and the outputs have one: of one logit are loss=binary_crossentropy, "
            "metric=binary and src.metrics.ClassScores"
        )


def _like(outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Targets with or without a last axis of one, as outputs: [n] and [n, 1] would give [n, n] differences."""
    if outputs.shape.rank is None or targets.shape.rank is None:
        return targets
    if outputs.shape.rank == targets.shape.rank + 1 and outputs.shape[-1] == 1:
        return targets[..., tf.newaxis]
    if targets.shape.rank == outputs.shape.rank + 1 and targets.shape[-1] == 1:
        return tf.squeeze(targets, -1)
    return targets


def as_mask(weights: tf.Tensor | None, outputs: Nest) -> tf.Tensor | None:
    """Sample weights with as many axes as the mask of outputs that have one, since Keras multiplies the two."""
    mask = mask_of(outputs)
    return weights if mask is None or weights is None else expanded(weights, mask.shape.rank)


def _masked(weights: tf.Tensor | None, outputs: Nest) -> tf.Tensor | None:
    """Sample weights with which a mean over all values is that over those that the outputs' mask leaves."""
    if (mask := mask_of(outputs)) is None:
        return weights
    mask = tf.cast(mask, tf.float32)
    mask *= tf.math.divide_no_nan(tf.cast(tf.size(mask), tf.float32), tf.reduce_sum(mask))
    return mask if weights is None else mask * weights


def expanded(weights: tf.Tensor, rank: int) -> tf.Tensor:
    """Weights float32 [n, ...] with so many axes, the new ones of 1; a last one of 1 that is too many goes."""
    weights = tf.cast(weights, tf.float32)
    if weights.shape.rank == rank + 1 and weights.shape[-1] == 1:
        return tf.squeeze(weights, -1)
    return tf.reshape(weights, tf.concat([tf.shape(weights), tf.ones([rank - weights.shape.rank], tf.int32)], 0))


@enforce_ranges
class CrossEntropy:
    """-log of the softmax probability of the right class, averaged over all targets with their classes' weights.

    Args:
        class_weights: one for each class, at least 0 and not all 0; None weighs all alike. The mean is divided by the
            sum of the targets' weights, as PyTorch's `CrossEntropyLoss` does.
        label_smoothing: this share of each target, 0 to below 1, is spread evenly over all classes, each of its own
            weight (Szegedy et al., 2016, https://arxiv.org/abs/1512.00567).
        focus: gamma of the focal loss: targets weigh (1 - p)^gamma less the surer the model is of them; 0 is plain
            cross-entropy, 2 the paper's value (Lin et al., 2017, https://arxiv.org/abs/1708.02002).
        ignore_label: targets that do not count.

    Raises:
        ValueError: an argument out of its range; when called, weights for another number of classes.
    """

    is_of_one_output = takes_classes = needs_scores = True

    def __init__(
        self,
        *,
        class_weights: Sequence[float] | None = None,
        label_smoothing: Share = 0.0,
        focus: NonNegative = 0.0,
        ignore_label: int | None = None,
    ) -> None:
        _check_weights(class_weights)
        self._class_weights, self._label_smoothing, self._focus = class_weights, label_smoothing, focus
        self._ignore_label = ignore_label

    def __call__(self, targets: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None) -> tf.Tensor:
        shape = tf.shape(logits)[:-1]
        targets, logits, counted = _flattened(targets, logits, self._ignore_label)
        weights = _class_weights(self._class_weights, logits)
        balance = counted * tf.gather(weights, targets)
        losses = balance * tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        if self._label_smoothing:
            spread = counted * -tf.reduce_mean(weights * tf.nn.log_softmax(logits), -1)
            losses = (1 - self._label_smoothing) * losses + self._label_smoothing * spread
        if self._focus:
            # 1 - p as the other classes' sum keeps its digits where p is almost 1, and a gradient where it is 1.
            others = tf.nn.softmax(logits) * (1 - tf.one_hot(targets, logits.shape[-1], dtype=logits.dtype))
            losses *= tf.maximum(tf.reduce_sum(others, -1), 1e-12) ** self._focus
        if sample_weight is not None:
            weights = tf.broadcast_to(expanded(sample_weight, shape.shape[0]), shape)
            losses *= tf.cast(tf.reshape(weights, [-1]), losses.dtype)
        return tf.math.divide_no_nan(tf.reduce_sum(losses), tf.reduce_sum(balance))


@enforce_ranges
class Tversky:
    """1 - the Tversky index of softmax probabilities and targets, averaged over the classes that occur in the batch.

    The index of a class is hits / (hits + false_positives * FP + false_negatives * FN), each summed over the batch
    (Salehi et al., 2017, https://arxiv.org/abs/1706.05721). Half and half, the default, is the Dice coefficient.

    Args:
        false_positives, false_negatives: what each costs, at least 0 and not both 0.
        exponent: of each class's loss; below 1 it drives classes that are almost right further (the focal Tversky
            loss, Abraham and Khan, 2018, https://arxiv.org/abs/1810.07842, is 0.75).
        class_weights: one for each class, at least 0 and not all 0; None weighs all alike.
        ignore_label: targets that do not count.

    Raises:
        ValueError: an argument out of its range; when called, weights for another number of classes.
    """

    is_of_one_output = takes_classes = needs_scores = True

    def __init__(
        self,
        *,
        false_positives: NonNegative = 0.5,
        false_negatives: NonNegative = 0.5,
        exponent: Positive = 1.0,
        class_weights: Sequence[float] | None = None,
        ignore_label: int | None = None,
    ) -> None:
        if false_positives + false_negatives == 0:
            raise ValueError("false_positives and false_negatives are 0; one of them must be above 0")
        _check_weights(class_weights)
        self._false_positives, self._false_negatives, self._exponent = false_positives, false_negatives, exponent
        self._class_weights, self._ignore_label = class_weights, ignore_label

    def __call__(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        targets, logits, counted = _flattened(targets, logits, self._ignore_label)
        classes = logits.shape[-1]
        in_range = tf.debugging.assert_less(
            tf.cast(tf.bitcast(targets, tf.uint32), tf.int64),  # a negative one is huge
            tf.constant(classes, tf.int64),
            f"targets must be 0 to {classes - 1}, one for each class that the model tells apart",
        )
        with tf.control_dependencies([in_range] if in_range is not None else []):
            truth = tf.one_hot(targets, classes, dtype=logits.dtype) * counted[:, None]
        counted = tf.where((targets >= 0) & (targets < classes), counted, math.nan)  # XLA drops the assertion
        found = tf.nn.softmax(logits) * counted[:, None]
        hits, sizes = tf.reduce_sum(truth * found, 0), tf.reduce_sum(truth, 0)
        wrong = self._false_positives * (tf.reduce_sum(found, 0) - hits) + self._false_negatives * (sizes - hits)
        losses = tf.math.divide_no_nan(wrong, hits + wrong)
        if self._exponent != 1:
            losses = tf.maximum(losses, 1e-7) ** self._exponent  # at 0 the gradient would be infinite
        balance = tf.cast(sizes > 0, logits.dtype) * _class_weights(self._class_weights, logits)
        return tf.math.divide_no_nan(tf.reduce_sum(balance * losses), tf.reduce_sum(balance))


class WeightedSum:
    """A sum of losses.

    Args:
        losses: by name; None leaves one out.
        weights: by the same names; 1 where one is missing.

    Raises:
        ValueError: a weight of no loss or that is no number, or no loss at all.
    """

    def __init__(
        self, *, losses: Mapping[str, Loss | None], weights: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        chosen = {name: loss for name, loss in losses.items() if loss is not None}
        if unknown := set(weights) - set(losses):
            raise ValueError(f"weights has {', '.join(sorted(unknown))}; the losses are {', '.join(losses)}")
        for name, weight in weights.items():
            if not is_number(weight):
                raise ValueError(f"weights.{name} is {weight}; it must be a finite number")
        if not chosen:
            raise ValueError("losses has none; at least one is needed")
        self.terms = {name: (float(weights.get(name, 1.0)), loss) for name, loss in chosen.items()}

    def __call__(self, targets: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None) -> tf.Tensor:
        terms = [(weight, mean_loss(loss, targets, logits, sample_weight)) for weight, loss in self.terms.values()]
        return tf.add_n([weight * tf.cast(value, tf.float32) for weight, value in terms])


class PerOutput:
    """A weighted sum of losses, each of one output of a model that has several.

    Args:
        losses: by the output's name, or its number where the model gives a list; targets are named alike. None leaves
            an output without one.
        weights: by the same names; 1 where one is missing.

    Sample weights are those of each example for all losses, or named like the outputs.

    Raises:
        ValueError: as WeightedSum; when called, targets or outputs have no such name, or an output is not named.
    """

    def __init__(
        self, *, losses: Mapping[Any, Loss | None], weights: Mapping[Any, float] = MappingProxyType({})
    ) -> None:
        self.terms = WeightedSum(losses=losses, weights=weights).terms
        self._named = list(losses)

    def __call__(self, targets: Nest, outputs: Nest, sample_weight: Nest = None) -> tf.Tensor:
        terms = []
        if unnamed := [name for name in part_names(outputs) if name not in self._named]:
            raise ValueError(
                f"the model's output {unnamed[0]!r} has no loss, so nothing would train it; losses has "
                f"{', '.join(map(repr, self._named))}: give it one, or {unnamed[0]}: null where that is meant"
            )
        for name, (weight, loss) in self.terms.items():
            parts = (part_of(targets, name, "targets"), part_of(outputs, name, "outputs"))
            of_weights = sample_weight if is_single(sample_weight) else part_of(sample_weight, name, "weights")
            terms.append(weight * tf.cast(mean_loss(loss, *parts, of_weights), tf.float32))
        return tf.add_n(terms)


def takes_probabilities(loss: Any) -> bool:
    """Whether a loss takes the outputs for probabilities, as those of Keras without `from_logits`."""
    if isinstance(loss, WeightedSum):
        return any(takes_probabilities(term) for _, term in loss.terms.values())
    return getattr(loss, "from_logits", True) is False


def logits_of(loss: Any, outputs: Nest) -> list[Any]:
    """Those of a model's outputs that a loss takes for logits, as Keras's with `from_logits=True` do."""
    if isinstance(loss, PerOutput):
        terms = loss.terms.items()
        return [part for name, (_, term) in terms for part in logits_of(term, part_of(outputs, name, "outputs"))]
    if isinstance(loss, WeightedSum):
        return [part for _, term in loss.terms.values() for part in logits_of(term, outputs)]
    takes_logits = getattr(loss, "from_logits", False) or isinstance(loss, CrossEntropy | Tversky)
    return [outputs] if takes_logits and is_single(outputs) else []


# Of Keras's losses, those that are a mean over all targets: not Dice, Tversky, Circle or CTC.
MEANS_OF_KERAS = (
    *(keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy, keras.losses.CategoricalCrossentropy),
    *(keras.losses.CategoricalFocalCrossentropy, keras.losses.SparseCategoricalCrossentropy, keras.losses.Huber),
    *(keras.losses.MeanSquaredError, keras.losses.MeanAbsoluteError, keras.losses.MeanAbsolutePercentageError),
    *(keras.losses.MeanSquaredLogarithmicError, keras.losses.LogCosh, keras.losses.Poisson, keras.losses.KLDivergence),
    *(keras.losses.Hinge, keras.losses.SquaredHinge, keras.losses.CategoricalHinge, keras.losses.CosineSimilarity),
)


def is_mean(loss: Any, *, ignore_label: int | None) -> bool:
    """Whether a loss is known to be the mean over a batch's targets, each but those of `ignore_label` counting alike.

    Then that of a batch is that of its parts, weighted by their targets that count.
    """
    if type(loss) is CrossEntropy:
        return loss._class_weights is None and loss._ignore_label == ignore_label
    if type(loss) is WeightedSum:
        return all(is_mean(term, ignore_label=ignore_label) for _, term in loss.terms.values())
    return (
        type(loss) in MEANS_OF_KERAS
        and loss.reduction in ("sum_over_batch_size", "mean")
        and getattr(loss, "ignore_class", None) == ignore_label
    )


def _flattened(
    targets: tf.Tensor, logits: tf.Tensor, ignore_label: int | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Targets int32 [n], ignored ones as 0; logits float [n, classes]; 1.0 or 0.0 for each that counts or not [n]."""
    if logits.dtype not in (tf.float32, tf.float64):
        logits = tf.cast(logits, tf.float32)
    targets, logits = tf.reshape(class_numbers(targets), [-1]), tf.reshape(logits, [-1, logits.shape[-1]])
    tf.debugging.assert_equal(tf.size(targets), tf.shape(logits)[0], "one target for each vector of logits")
    if ignore_label is None:
        return targets, logits, tf.ones_like(logits[:, 0])
    ignored = targets == ignore_label
    return tf.where(ignored, 0, targets), logits, tf.cast(~ignored, logits.dtype)


def _check_weights(weights: Sequence[float] | None) -> None:
    if weights is None:
        return
    if isinstance(weights, str) or not all(is_number(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise ValueError(
            f"class_weights are {weights if isinstance(weights, str) else list(weights)}; they must be one for each "
            "class, at least 0 and not all 0"
        )


def _class_weights(weights: Sequence[float] | None, logits: tf.Tensor) -> tf.Tensor:
    if weights is None:
        return tf.ones(logits.shape[-1], logits.dtype)
    if len(weights) != logits.shape[-1]:
        raise ValueError(f"{len(weights)} class_weights for {logits.shape[-1]} classes; each class needs one")
    return tf.constant(list(weights), logits.dtype)
