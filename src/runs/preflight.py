"""What can be known before the first step: whether the model fits the data, and there is memory and room on the disk.

    check_memory(model, batch_size=32)                      # Shortage: a training step needs at least 120 GB ...
    check_disk(run_dir, model, optimizer, checkpoints=3)    # Shortage: ...

Memory is refused by a lower bound of what a training step needs: the gradients, and the inputs of all layers with
trained weights, which the backward pass reads again.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import yaml

from src.common.errors import Shortage
from src.common.machine import free_memory
from src.common.text import plural, size
from src.config import targets
from src.config.checks import CONFIG_DIR
from src.data.data import Data, DataError
from src.data.images.image_data import ImageData
from src.losses import logits_of
from src.runs.sizes import kept_bytes
from src.training.side_effects import inner_layers
from src.training.state import TrainState, kept
from src.training.trainer import Trainer

# What TensorFlow says where it looks for a row, and the node that does, without those of the loops around it.
_NOT_THERE = re.compile(
    r"(?:indices\S* =|label value of) (-?\d+) (?:is not in|which is outside the valid range of) \[0, (\d+)\)"
    r"(?s:.*?)\{\{node (?:while/)*(\S+)/[^/}]+\}\}"
)

# The option for the other kind of labels of one's own images.
OTHER_FOLDERS = {
    "image_folder": "class_folder (a folder of images for each class)",
    "class_folder": "image_folder (images with masks)",
}


# Operations that a model may end with and that leave values as they are.
SAME_VALUES = ("Identity", "Cast", "Reshape", "Squeeze", "ExpandDims", "Transpose")

# What a loss of numbers is told of targets that are classes.
OF_CLASSES = (
    ". The targets are classes: give loss=sparse_categorical_crossentropy metric=accuracy monitor=val/accuracy mode=max"
)

LESS_MEMORY = (
    "give a smaller batch_size, trainer.gradient_accumulation_steps=4, which computes it in four parts, "
    "smaller images, or a smaller model, as with fewer model.filters"
)

# Of the first averages of batch normalisation. With 0.04, `cnn_pooled` was right about 90 % of the images that it had
# learned with the batches' own, all of them: two thirds of the first layer's variance were what it began with.
UNSETTLED = 0.01
FAINT = 0.01  # of the peak rate: less changes hardly anything
LOOKED_AT = 20  # steps of a schedule


def no_validation(monitor: str, options: Mapping[str, Any], *, examples: int) -> str:
    """What is wrong where the monitor is of a split that the data, of these options, does not have.

    Args:
        examples: of the training split.
    """
    share = None if options.get("split") else options.get("val_share")  # a column that says the split
    why = f" (data.val_share is {share}, of {plural(examples, 'example')} too little)" if share else ""
    return (
        f"monitor is {monitor!r}, and the data has no validation split{why}; "
        f"give monitor=train/{monitor.removeprefix('val/')}, or data with one"
    )


def shape_problem(model: keras.Model, data: Data, *, model_option: str, data_option: str) -> str | None:
    """Why the model's outputs are no logits of the data's classes, and what to choose; None if they are."""
    outputs = getattr(model, "outputs", None) or []
    if len(outputs) != 1 or not isinstance(data, ImageData):
        return None
    inputs, targets_spec = data.train.element_spec
    output = outputs[0]
    labels = targets_spec.shape[1:]
    labels = labels[:-1] if labels.rank in (1, 3) else labels  # an axis of one label
    wanted = (*labels, data.num_classes)
    one = [(*labels, 1)] if data.num_classes == 2 else []
    if any(tf.TensorShape(output.shape[1:]).is_compatible_with(shape) for shape in (wanted, *one)):
        return None
    other_count = tf.TensorShape(output.shape[1:-1]).is_compatible_with(labels)
    unit = "pixel" if labels.rank else "image"
    kind = f"one of {data.num_classes} labels for each {unit}"
    begin = (
        f"model={model_option} does not fit data={data_option}: for images of {_by(inputs.shape[1:])} it gives "
        f"{_by(output.shape[1:])} scores, and the data has {kind}, which wants {_by(wanted)}"
    )
    if other_count:
        return f"{begin}: give a logit for each class (leave model.num_classes out, or let it be ${{run.num_classes}})"
    described = [(name, text) for name, text in _described_options("model") if name != model_option]
    shape = {"input_shape": tuple(inputs.shape[1:]), "num_classes": data.num_classes}
    others = [
        f"{name} ({text})" for name, text in described if f"a class for each {unit}" in text and _takes(name, shape)
    ]
    folder = OTHER_FOLDERS.get(data_option) if len(output.shape) != len(wanted) + 1 else None
    way_out = f", or another data option: {folder}" if folder else ""
    mend = "" if folder else "Let it give a logit for each class (num_classes: ${run.num_classes}). "
    return f"{begin}. {mend}Choose another model: {'; '.join(others) or 'none here takes images of this size'}{way_out}"


def _takes(option: str, shape: Mapping[str, Any]) -> bool:
    """Whether a model option of the project, its other arguments as they are, can be built for such images."""
    node = yaml.safe_load((CONFIG_DIR / "model" / f"{option}.yaml").read_text(encoding="utf-8"))
    try:
        targets.build(node, key="model", **shape)
    except ValueError:
        return False
    return True


def probabilities_problem(trainer: Trainer, data: Data) -> str | None:
    """What is wrong with a model of classes, or for a loss of logits, that gives probabilities; None if it does not.

    The loss would take them for logits, and so would whoever is served with them. Only the last operations are seen.
    """
    inference = trainer.state.inference
    of_loss = logits_of(trainer.learner.loss, inference.structured_outputs)
    for output in inference.outputs[:1] if data.num_classes else of_loss:
        op = output.op
        while op.type in SAME_VALUES:
            op = op.inputs[0].op
        if op.type in ("Softmax", "Sigmoid"):
            return (
                f"the model gives probabilities (its last operation is {op.type.lower()}), and losses, metrics and the "
                "export take logits: leave that activation out"
            )
    return None


def _described_options(group: str) -> Iterator[tuple[str, str]]:
    """The options of a group, each with the first sentence of its header."""
    for path in sorted((CONFIG_DIR / group).glob("*.yaml")):
        header = re.match(r"# (.+?)(\.\s|$)", path.read_text(encoding="utf-8"), re.M)
        yield path.stem, header[1].rstrip(".") if header else ""


def _by(shape: Any) -> str:
    return "x".join("?" if n is None else str(n) for n in shape) or "1"


def least_memory(model: keras.Model, *, rows: int) -> int:
    """Bytes that a training step on so many examples is certain to need besides weights, optimizer and data.

    Layers whose inputs' shapes are not known, or that are called more than once, count as nothing.
    """
    inputs: dict[int, int] = {}  # bytes of an example, by tensor
    for layer in _layers(model):
        if layer.trainable_variables:
            with suppress(AttributeError, ValueError):
                tensors = keras.tree.flatten(layer.input)
                inputs |= {id(tensor): _bytes(tensor) for tensor in tensors}
    return _size_of(model.trainable_variables) + rows * sum(inputs.values())


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def check_memory(model: keras.Model, *, batch_size: int, parts: int = 1, recomputes: bool = False) -> None:
    """Refuse a training step that cannot fit into this machine's free memory.

    To be called when data, model and optimizer are there. Of GPUs nothing is known.

    Args:
        parts: that each batch is computed in, one after another.
        recomputes: whether the compiler may compute activations again instead of keeping them, as XLA does.

    Raises:
        Shortage: with what to change.
    """
    free = free_memory()
    if recomputes or free is None or tf.config.list_physical_devices("GPU"):
        return
    if (need := least_memory(model, rows=math.ceil(batch_size / parts))) > free:
        raise Shortage(
            f"batch_size={batch_size}: a training step needs at least {size(need)} of memory, and {size(free)} are "
            f"free: {LESS_MEMORY}"
        )


@contextmanager
def naming_failures() -> Iterator[None]:
    """Say what to change where TensorFlow fails in a step.

    Raises:
        DataError: a target that is none of the model's classes, or a number that a layer has no row for.
        Shortage: it cannot allocate what training needs.
        RuntimeError: another process that trains the run has ended.
    """
    try:
        yield
    except tf.errors.UnavailableError as error:
        raise RuntimeError(
            "another process that trains this run has ended; its message says why. Start all with the same command, "
            "which goes on from the last checkpoint"
        ) from error
    except tf.errors.InvalidArgumentError as error:
        if not (found := _NOT_THERE.search(str(error))):
            raise
        value, count, place = found.groups()
        if "/loss/" in f"/{place}":
            told = f"a target is {value}, and the model gives a score of each of {count} classes"
            more = "give the model more outputs, or give what does not count a weight of 0 and a class that there is"
        else:
            told = f"{place} was given {value}, and has rows"
            more = "give that layer more of them"
        raise DataError(f"{told}, 0 to {int(count) - 1}: mend the data, or {more}") from error
    except tf.errors.ResourceExhaustedError as error:
        reason = str(error).partition("\n")[0]
        if os.strerror(errno.ENOSPC) in reason:  # which TensorFlow calls by the same name
            raise Shortage(f"the disk is full ({reason}): make room, and the same command goes on") from error
        raise Shortage(f"training does not fit in memory ({reason}): {LESS_MEMORY}") from error


def moving_average_problem(model: keras.Model, *, steps: int, options: Mapping[str, Any]) -> str | None:
    """That batch normalisation measures with averages that are still those it begins with; None if it does not.

    Args:
        model: before its first step.
        steps: of the whole run.
        options: of the model.
    """
    momenta = [
        layer.momentum
        for layer in inner_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        if np.all(keras.ops.convert_to_numpy(layer.moving_variance) == 1)  # those of trained weights have settled
    ]
    left = max(momenta, default=0.0) ** steps
    if left <= UNSETTLED:
        return None
    none = ", or model.normalization=none" if "normalization" in options else ""
    return (
        f"batch normalisation validates, and serves, with averages over the steps: after all {steps} of this run they "
        f"are {100 * left:.2g} % what they began with, so val may be far worse. Give a smaller batch_size or "
        f"more epochs{none}"
    )


def schedule_problem(state: TrainState, *, epochs: int, steps_per_epoch: int, peak: float | None) -> str | None:
    """Of a branch: that its schedule, which is that of all its epochs, is all but over; None if it is not.

    Args:
        peak: the schedule's highest learning rate.
    """
    steps = epochs * steps_per_epoch
    if not peak or steps <= state.step:
        return None
    highest = highest_rate(state.optimizer, first=state.step, last=steps - 1)
    if highest >= FAINT * peak:
        return None
    return (
        f"this branch trains with a learning rate of {highest:.3g} at most, {100 * highest / peak:.2g} % of the peak "
        f"{peak:g}: its schedule is that of {epochs} epochs, and {state.epoch} are done. Give more epochs, "
        "schedule=constant, or another optimizer.learning_rate"
    )


def highest_rate(optimizer: keras.optimizers.Optimizer, *, first: int, last: int) -> float:
    """The highest learning rate among steps from `first` to `last`, as far as a look at some of them tells."""
    with kept([optimizer.iterations]):
        rates = []
        for step in np.linspace(first, last, LOOKED_AT):
            optimizer.iterations.assign(int(step))
            rates.append(float(tf.convert_to_tensor(optimizer.learning_rate)))
    return max(rates)


def check_disk(
    folder: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer, *, checkpoints: int, export: bool
) -> int:
    """Refuse a run whose checkpoints and SavedModel cannot lie in its folder.

    Args:
        checkpoints: that will be kept; the best one, and one that is being written, come on top.

    Returns:
        The bytes that these will have when the run is completed.

    Raises:
        Shortage: naming the folder and what is free.
    """
    weights = _size_of(model.variables)
    one = weights + _size_of(optimizer.variables)
    left_behind = (checkpoints + 1) * one + (weights if export else 0)
    need = left_behind + one - kept_bytes(folder)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise Shortage(
            f"{folder}: {checkpoints + 2} checkpoints of {size(one)} and the SavedModel need {size(need)} more, "
            f"and the disk has {size(free)} free. Make room, give callback.checkpoint.max_to_keep=1, or put the folder "
            "elsewhere (outputs may be a link)"
        )
    return left_behind


def _size_of(variables: Any) -> int:
    return sum(math.prod(v.shape) * tf.as_dtype(keras.backend.standardize_dtype(v.dtype)).size for v in variables)


def _bytes(tensor: keras.KerasTensor) -> int:
    """Of one example."""
    if None in tensor.shape[1:]:
        raise ValueError(f"{tensor.name} has no known shape")
    return math.prod(tensor.shape[1:]) * tf.as_dtype(tensor.dtype).size
