"""What a model gets right and wrong on a split: metrics, class by class, and its worst examples, with pictures.

evaluation = measure(trainer, data, split="test", serve=loaded.signatures["serving_default"], has_best_weights=True)
write(evaluation, Path("evaluation/test"))
evaluation.class_results.confusion, evaluation.class_results.worst[0].index
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from src.common.files import replacing
from src.common.pictures import confusion_counts, confusion_picture, examples_sheet, png
from src.data.batch import INPUTS, OUTPUTS, Nest, is_single, named_parts, served_parts
from src.data.data import Data
from src.data.pipeline import Batches
from src.runs.record import nan_as_null
from src.training.trainer import Trainer

WORST = 10  # examples

Tensors: TypeAlias = Callable[..., tf.Tensor]


@dataclass(frozen=True)
class MeasuredExample:
    """One example, by its place in the split's stored order, and what was predicted of it.

    Attributes:
        image: uint8 [H, W, C].
        target, predicted: integers [] or [H, W].
    """

    index: int
    loss: float
    image: np.ndarray
    target: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class ClassResults:
    """Which classes were taken for which, and which examples had the highest losses.

    Attributes:
        confusion: int64 [classes, classes], true class by predicted class.
        worst: the highest loss first.
        uncounted: targets that are none of the classes, such as a loss's `ignore_label`.
    """

    confusion: np.ndarray
    worst: Sequence[MeasuredExample]
    uncounted: int


@dataclass(frozen=True)
class Evaluation:
    """Everything measured on a split.

    Attributes:
        metrics: by name, of `best_weights` and `saved_model`, of each if it is there.
        class_results: of the SavedModel, or of the best weights where there is none yet; None where its outputs are no
            classes.
    """

    split: str
    metrics: Mapping[str, Mapping[str, float]]
    class_results: ClassResults | None
    class_names: Sequence[str]

    def class_table(self) -> list[dict[str, Any]]:
        """Each class's name, number of targets, recall, precision and intersection over union; None for 0 of 0."""
        if self.class_results is None:
            return []
        confusion = self.class_results.confusion
        right, targets, predictions = np.diag(confusion), confusion.sum(1), confusion.sum(0)
        columns = {"recall": targets, "precision": predictions, "iou": targets + predictions - right}
        return [
            {
                "class": name,
                "targets": int(targets[i]),
                **{key: float(right[i] / of[i]) if of[i] else None for key, of in columns.items()},
            }
            for i, name in enumerate(self.class_names)
        ]


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
        prepared = data.unaugmented() if split == "train" else data.split(split)
        return Evaluation(split, {"best_weights": trainer.evaluate(prepared)}, None, data.class_names)
    models: dict[str, Tensors] = {}

    def own(inputs: Nest) -> Nest:
        return trainer.model(data.prepare(inputs), training=False)

    if has_best_weights:
        models["best_weights"] = own
    own_outputs = tf.function(own, autograph=False).get_concrete_function(batches.element_spec[0]).structured_outputs
    if serve is not None and _takes(serve, batches.element_spec[0]):
        models["saved_model"] = functools.partial(_served, serve, like=own_outputs)
    if not models:
        raise ValueError(f"there is neither a best checkpoint nor a SavedModel that takes the {split} split's inputs")
    metrics = {
        name: trainer.evaluate_outputs(predict, batches, prepare=data.prepare) for name, predict in models.items()
    }
    class_results = None
    *_, predict = models.values()
    are_scores = is_single(own_outputs) and data.are_scores(own_outputs.shape)
    if (
        are_scores
        and data.num_classes
        and trainer.learner.loss
        and is_single(batches.element_spec[0])
        and len(batches.element_spec) == 2
    ):
        class_results = examine(predict, batches, loss=trainer.learner.loss, classes=data.num_classes)
    return Evaluation(split, metrics, class_results, data.class_names)


def _takes(serve: Any, inputs: Nest) -> bool:
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


def examine(predict: Tensors, batches: Batches, *, loss: Tensors, classes: int, worst: int = WORST) -> ClassResults:
    """Go through a split once; of its images, only the worst so far are kept.

    Args:
        predict: images [n, ...] -> scores [n, ..., classes], in a graph.
        batches: of images and targets, integers [n, ...].
        loss: loss(targets, scores) -> scalar; called with each example as a batch of its own.
        worst: how many examples are kept.
    """

    @tf.function(input_signature=batches.element_spec, autograph=False)
    def answers(images, targets):
        scores = predict(images)
        losses = tf.map_fn(
            lambda example: tf.cast(loss(example[0][tf.newaxis], example[1][tf.newaxis]), tf.float32),
            (targets, scores),
            fn_output_signature=tf.float32,
        )
        return tf.argmax(scores, axis=-1, output_type=tf.int32), losses

    confusion, uncounted, seen = np.zeros([classes, classes], np.int64), 0, 0
    kept: list[MeasuredExample] = []
    cursor = batches.open(0, 0)
    for step in range(batches.steps_per_epoch):
        images, targets = batches.next(cursor, tf.constant(step))
        predicted, losses = (tensor.numpy() for tensor in answers(images, targets))
        images, targets = images.numpy(), targets.numpy()
        known = (targets >= 0) & (targets < classes)
        confusion += confusion_counts(targets[known], predicted[known], classes)
        uncounted += int(targets.size - known.sum())
        targets = np.where(known, targets, 0)
        for i in np.argsort(-_badness(losses), kind="stable")[:worst]:
            parts = (np.array(part[i]) for part in (images, targets, predicted))
            kept.append(MeasuredExample(seen + int(i), float(losses[i]), *parts))
        kept = sorted(kept, key=lambda example: (-_badness(example.loss), example.index))[:worst]
        seen += len(images)
    return ClassResults(confusion, kept, uncounted)


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
        if class_results := evaluation.class_results:
            values |= {
                "class_names": list(evaluation.class_names),
                "per_class": evaluation.class_table(),
                "confusion": class_results.confusion.tolist(),
                "uncounted": class_results.uncounted,
                "worst": [{"index": example.index, "loss": example.loss} for example in class_results.worst],
            }
            _draw(evaluation, class_results, made, title=f"{folder.parent.parent.name}, {evaluation.split}")
        (made / "metrics.json").write_text(json.dumps(nan_as_null(values), indent=2, allow_nan=False) + "\n")


def _badness(losses: Any) -> Any:
    """Losses to sort by: what is no number is the worst."""
    return np.where(np.isnan(losses), np.inf, losses)


def _draw(evaluation: Evaluation, class_results: ClassResults, folder: Path, *, title: str) -> None:
    names = evaluation.class_names
    (folder / "confusion.png").write_bytes(png(confusion_picture(class_results.confusion, names, title=title)))
    image = class_results.worst[0].image
    if image.dtype != np.uint8 or image.shape[-1] not in (1, 3):
        return
    (folder / "worst.png").write_bytes(png(_sheet(class_results.worst, names)))
    (folder / "worst").mkdir()
    for place, example in enumerate(class_results.worst, 1):
        path = folder / "worst" / f"{place:02}-index-{example.index:05}.png"
        path.write_bytes(png(_sheet([example], names)))


def _sheet(examples: Sequence[MeasuredExample], class_names: Sequence[str]) -> np.ndarray:
    images, targets, predicted = (
        np.stack([getattr(example, name) for example in examples]) for name in ("image", "target", "predicted")
    )
    captions = [f"#{example.index}  loss {example.loss:.3g}" for example in examples]
    return examples_sheet(images, targets, predicted, class_names=class_names, captions=captions)
