"""What a model gets right and wrong on a split: metrics, what they leave out, and its worst examples.

evaluation = measure(trainer, data, split="test", serve=loaded.signatures["serving_default"], has_best_weights=True)
write(evaluation, Path("evaluation/test"))
evaluation.results.confusion, evaluation.worst[0].index
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from src.common.files import replacing
from src.common.pictures import confusion_counts
from src.data.batch import INPUTS, OUTPUTS, Nest, classes_of, is_single, named_parts, served_parts
from src.data.data import Data
from src.data.kind import Kind, kind_of
from src.data.pipeline import Batches, every_batch
from src.inspection.results import (
    ClassResults,
    LabelResults,
    MeasuredExample,
    NumberResults,
    Results,
    best_threshold,
    probability,
    write_worst,
)
from src.runs.record import nan_as_null
from src.training.stand_in import OtherInputs
from src.training.trainer import Trainer

WORST = 10  # examples

Tensors: TypeAlias = Callable[..., tf.Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Everything measured on a split.

    Attributes:
        metrics: by name, of `best_weights` and `saved_model`, of each if it is there.
        results: of the SavedModel, or of the best weights where there is none yet; None where the outputs are neither
            scores of classes or labels nor numbers, of one target.
        worst: the examples of the highest loss, the highest first; none without results.
    """

    split: str
    metrics: Mapping[str, Mapping[str, float]]
    results: Results | None
    worst: Sequence[MeasuredExample] = ()


def measure(
    trainer: Trainer,
    data: Data,
    *,
    split: str,
    serve: Any | None,
    has_best_weights: bool,
    exported_weights: Sequence[tf.Variable] | None = None,
) -> Evaluation:
    """Measure the models that are there on the split as it is stored: in its order, and not augmented.

    Args:
        trainer: its loss and metrics are used, and its model with the weights that it has, or else the exported ones.
        serve: the exported function; None where there is none. One that takes other inputs is not measured.
        has_best_weights: whether the trainer's model has them.
        exported_weights: of `serve`, in the model's order; given to the model where it has not the best ones, for the
            losses of its layers.

    Raises:
        ValueError: there is nothing to measure.
    """
    if exported_weights and not has_best_weights:
        for variable, weights in zip(trainer.model.variables, exported_weights, strict=True):
            variable.assign(weights)
    batches = data.raw(split)
    if trainer.learner.input_spec(data.train.element_spec) != data.train.element_spec[0]:
        if not has_best_weights:
            raise ValueError("the model takes other inputs than the data's, and there is no best checkpoint to measure")
        return Evaluation(split, {"best_weights": trainer.evaluate(data.prepared(split))}, None)

    def own(inputs: Nest) -> Nest:
        return trainer.model(data.prepare(inputs), training=False)

    metrics, predict = {}, own
    if has_best_weights:
        metrics["best_weights"] = trainer.evaluate(data.prepared(split))
    own_outputs = tf.function(own, autograph=False).get_concrete_function(batches.element_spec[0]).structured_outputs
    kind = kind_of(data, batches.element_spec, own_outputs) if trainer.learner.loss else None
    if serve is not None and takes(serve, batches.element_spec[0]):
        predict = functools.partial(_served, serve, like=own_outputs)
        try:
            metrics["saved_model"] = trainer.evaluate_outputs(predict, batches, prepare=data.prepare)
        except OtherInputs:
            kind = None
    if not metrics:
        raise ValueError(f"there is neither a best checkpoint nor a SavedModel that takes the {split} split's inputs")
    results, worst = _examined(kind, predict, trainer, data, split) if kind else (None, [])
    return Evaluation(split, metrics, results, worst)


def _examined(
    kind: Kind, predict: Tensors, trainer: Trainer, data: Data, split: str
) -> tuple[Results, list[MeasuredExample]]:
    """The split's results of that kind, and its worst examples; each example counts once, whatever its weight."""

    def loss(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        return trainer.learner.compare(targets, outputs).loss

    def answer(outputs: tf.Tensor) -> tf.Tensor:
        return classes_of(outputs) if kind == "classes" else outputs

    batches, names = data.raw(split), data.class_names
    if kind == "classes":
        confusion, uncounted = np.zeros([len(names), len(names)], np.int64), 0

        def count(targets: np.ndarray, predicted: np.ndarray) -> None:
            nonlocal confusion, uncounted
            targets = targets.reshape(predicted.shape)
            known = (targets >= 0) & (targets < len(names))
            confusion += confusion_counts(targets[known], predicted[known], len(names))
            uncounted += int(targets.size - known.sum())

        worst = examine(predict, batches, loss=loss, answer=answer, see=count)
        return ClassResults(names, confusion, uncounted), worst

    def all_of(split: str) -> tuple[np.ndarray, np.ndarray, list[MeasuredExample]]:
        seen: list[tuple[np.ndarray, np.ndarray]] = []
        worst = examine(predict, data.raw(split), loss=loss, answer=answer, see=lambda *pair: seen.append(pair))
        targets, predicted = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        return targets, predicted, worst

    targets, predicted, worst = all_of(split)
    if kind == "numbers":
        return NumberResults(targets, predicted.reshape(targets.shape)), worst
    labels = names if len(names) == predicted.shape[1] else names[1:]  # one logit is of the second of two classes
    val = (targets, predicted) if split == "val" else all_of("val")[:2] if data.val is not None else None
    thresholds = None
    if val is not None:
        truth = val[0].reshape(val[1].shape) > 0
        thresholds = [best_threshold(truth[:, i], val[1][:, i]) for i in range(len(labels))]
    worst = [replace(example, predicted=probability(example.predicted)) for example in worst]
    return LabelResults(labels, targets.reshape(predicted.shape) > 0, predicted, thresholds), worst


def takes(serve: Any, inputs: Nest) -> bool:
    """Whether an exported function takes such inputs."""
    takes, given = serve.structured_input_signature[1], served_parts(inputs, INPUTS)
    if is_single(inputs) and len(takes) == 1:
        return next(iter(takes.values())).is_compatible_with(inputs)
    return set(takes) == set(given) and all(takes[name].is_compatible_with(spec) for name, spec in given.items())


def _served(serve: Any, inputs: Nest, *, like: Nest) -> Nest:
    """What an exported function gives, as the nest that the model gives."""
    names = list(serve.structured_input_signature[1])
    given = {names[0]: inputs} if len(names) == 1 and is_single(inputs) else served_parts(inputs, INPUTS)
    found = serve(**given)
    if is_single(like):
        return found["logits"] if "logits" in found else found[OUTPUTS]
    return tf.nest.pack_sequence_as(like, [found[name] for name in named_parts(like, OUTPUTS)])


def examine(
    predict: Tensors,
    batches: Batches,
    *,
    loss: Tensors,
    answer: Callable[[tf.Tensor], tf.Tensor],
    see: Callable[[np.ndarray, np.ndarray], None],
    worst: int = WORST,
) -> list[MeasuredExample]:
    """Go through a split once and return the examples of the highest loss; no more of the inputs are kept.

    Args:
        predict: inputs [n, ...] -> outputs [n, ...], in a graph.
        batches: of inputs and targets [n, ...].
        loss: loss(targets, outputs) -> scalar; called with each example as a batch of its own.
        answer: outputs -> what is predicted, [n, ...].
        see: called with the targets and the answers of each batch.
        worst: how many examples are returned.
    """

    @tf.function(input_signature=batches.element_spec[:2], autograph=False)
    def answers(inputs, targets):
        outputs = predict(inputs)
        losses = tf.map_fn(
            lambda example: tf.cast(loss(example[0][tf.newaxis], example[1][tf.newaxis]), tf.float32),
            (targets, outputs),
            fn_output_signature=tf.float32,
        )
        return answer(outputs), losses

    seen = 0
    kept: list[MeasuredExample] = []
    for batch in every_batch(batches):
        predicted, losses = (tensor.numpy() for tensor in answers(*batch[:2]))
        inputs, targets = tf.nest.map_structure(lambda part: part.numpy(), batch[:2])
        see(targets, predicted)
        for i in np.argsort(-_badness(losses), kind="stable")[:worst]:
            given, target = tf.nest.map_structure(lambda part: np.copy(part[i])[()], (inputs, targets))  # noqa: B023
            kept.append(MeasuredExample(seen + int(i), float(losses[i]), given, target, np.array(predicted[i])))
        kept = sorted(kept, key=lambda example: (-_badness(example.loss), example.index))[:worst]
        seen += len(targets)
    return kept


def write(evaluation: Evaluation, folder: Path, **facts: Any) -> None:
    """Write metrics.json and pictures into a folder, which is replaced as a whole.

    Args:
        facts: more keys of metrics.json.
    """
    with replacing(folder) as made:
        made.mkdir()
        values: dict[str, Any] = {
            **facts,
            "split": evaluation.split,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "metrics": {model: dict(metrics) for model, metrics in evaluation.metrics.items()},
        }
        if results := evaluation.results:
            worst = [{"index": example.index, "loss": example.loss} for example in evaluation.worst]
            values |= {**results.facts(), "worst": worst}
            results.draw(made, title=f"{folder.parent.parent.name}, {evaluation.split}")
            write_worst(evaluation.worst, results, made)
        (made / "metrics.json").write_text(json.dumps(nan_as_null(values), indent=2, allow_nan=False) + "\n")


def _badness(losses: Any) -> Any:
    """Losses to sort by: what is no number is the worst."""
    return np.where(np.isnan(losses), np.inf, losses)
