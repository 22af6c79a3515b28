"""What a model's outputs are to the targets of the data: scores of classes or labels, or numbers."""

from __future__ import annotations

from typing import Literal, TypeAlias

import tensorflow as tf

from src.data.batch import Batch, Nest
from src.data.data import Data

Kind: TypeAlias = Literal["classes", "labels", "numbers"]


def kind_of(data: Data, batch_spec: Batch, outputs: Nest) -> Kind | None:
    """What one target is, and the outputs are scores of, or foresee; None where that is not known.

    One logit for each of many targets of an example, as for pixels, is of classes; one for an example, of a label.

    Args:
        batch_spec: of the data's batches.
        outputs: of a model, or their specs.
    """
    parts = (outputs, *batch_spec[1:2])
    if len(parts) < 2 or not all(isinstance(part, tf.TensorSpec | tf.Tensor) for part in parts):
        return None
    shape, targets = outputs.shape, batch_spec[1]
    if score := data.score(shape):
        is_of_classes = score == "softmax" or (len(shape) > 2 and shape[-1] == 1)
        return "classes" if is_of_classes else "labels" if len(shape) == 2 else None
    is_same = shape.is_compatible_with(targets.shape) or shape.is_compatible_with([*targets.shape, 1])
    return "numbers" if not data.num_classes and targets.dtype.is_floating and is_same else None
