"""Exports the best weights as a SavedModel when training ends.

    Export(directory="run/saved_model", best="run/checkpoints/best", data=data)

`serving_default` takes `image`, raw uint8 pixels [N, H, W, C] for any N from 0; of data that are floats, images in
[0, 1] or `inputs` [N, ...] that are none, it takes these. It returns `logits` float32 and `class` int32, and refuses
inputs of another shape, naming both. `class_names` takes numbers of classes, `classes` int32 [N], and returns their
`names`; assets/class_names.txt has all of them, a line each, in the order of `class`.
Nothing of this project is needed to load it: tf.saved_model.load(directory + "/1").
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from src.common.files import literal, replacing
from src.data.batch import (
    INPUTS,
    OUTPUTS,
    examples_of,
    is_single,
    named_parts,
    served_parts,
    splits_names,
    zeros_of,
)
from src.data.data import Data
from src.data.images.image_data import ImageData
from src.data.pipeline import every_batch, to_float
from src.losses import takes_probabilities
from src.training.callback import Callback
from src.training.checkpoints import best_weights
from src.training.state import TrainState

log = logging.getLogger(__name__)

SERVED_VERSION = "1"
ANY_SIZE = 64  # pixels, in place of a side that may have any number


class Export(Callback):
    """Write `directory/1` with the weights of the best epoch, or those of now where none was saved as best.

    Args:
        directory: the base that TensorFlow Serving takes.
        best: the folder of the best checkpoint.
        data: what the model was trained on, which says what it is given when it serves, and the classes' names;
            None is for uint8 images of classes without names.
    """

    def __init__(self, *, directory: str, best: str, data: Data | None = None) -> None:
        self._directory, self._best, self._data = Path(directory), best, data

    def on_train_end(self, state: TrainState) -> None:
        data, path = self._data, self._directory / SERVED_VERSION
        with best_weights(state, self._best):
            if data is None:
                export(state.model, path)
            elif isinstance(data, ImageData) and _gives_classes(state, data):
                stored = data.stored_spec("train")[0]
                export(state.model, path, shape=stored.shape[1:], dtype=stored.dtype, class_names=data.class_names)
            else:
                export_any(state, data, path)
        log.info("exported %s", path)


def _gives_classes(state: TrainState, data: Data) -> bool:
    """Whether the model gives a score of each class for a batch of the data."""
    if not is_single(state.input_spec) or state.input_spec != data.train.element_spec[0]:
        return False
    outputs = state.inference.structured_outputs
    return is_single(outputs) and outputs.shape[-1] == data.num_classes


def export(
    model: keras.Model,
    path: Path,
    *,
    shape: Sequence[int | None] | None = None,
    dtype: tf.DType = tf.uint8,
    class_names: Sequence[str] = (),
) -> Path:
    """Write a SavedModel beside `path`, check that it computes what the model does, and rename it.

    Args:
        model: float32 images in [0, 1] [N, H, W, C], or other floats [N, ...] -> logits [N, ..., classes].
        shape: of an image, for a model with a `call` of its own, which does not say what it takes.
        dtype: of what it is given when it serves: uint8 pixels, or floats as the model takes them.
        class_names: one for each class, in their order; where there are none, nothing is written of them.

    Raises:
        RuntimeError: the written model's outputs are not, bit for bit, those of the model.
    """
    shape = model.input_shape[1:] if getattr(model, "inputs", None) else tuple(shape or ())
    module = tf.Module()
    module.weights = [v.value for v in model.variables]
    module.serve = serving_function(model, shape, dtype)
    values = np.random.default_rng(0).integers(0, 256, [3, *(size or ANY_SIZE for size in shape)], dtype=np.uint8)
    inputs = tf.constant(values) if dtype == tf.uint8 else tf.cast(to_float(tf.constant(values)), dtype)
    return _write(module, path, class_names, {_input_name(shape): inputs}, module.serve(inputs))


def serving_function(
    model: keras.Model, shape: tuple[int | None, ...], dtype: tf.DType = tf.uint8
) -> tf.types.experimental.GenericFunction:
    """The exported function: raw uint8 pixels, or floats, [N, *shape] -> `logits` float32 and `class` int32."""
    name = _input_name(shape)

    @tf.function(input_signature=[tf.TensorSpec([None, *shape], dtype, name=name)], autograph=False)
    def serve(inputs):
        # A signature's shape is not checked where it is called: kernels met with another one abort, or answer.
        inputs = tf.ensure_shape(inputs, [None, *shape], name=name)
        rows = tf.shape(inputs)[0]
        # Not every layer takes no rows at all, so the model is given one then, which is cut off again.
        filling = tf.zeros([tf.cast(rows == 0, tf.int32), *tf.unstack(tf.shape(inputs)[1:])], dtype)
        logits = tf.cast(model(to_float(tf.concat([inputs, filling], 0)), training=False), tf.float32)[:rows]
        return {"logits": logits, "class": tf.argmax(logits, axis=-1, output_type=tf.int32)}

    return serve


def _input_name(shape: tuple[int | None, ...]) -> str:
    return "image" if len(shape) == 3 else INPUTS


def export_any(state: TrainState, data: Data, path: Path) -> Path:
    """As `export`, of a model of any inputs and outputs, checked with examples of the data.

    Inputs and outputs have the names that they have in their nests, or are `inputs` and `outputs`. Scores of classes
    are `logits`, beside `probabilities` float32 and, where one of them is the answer, `class` int32; those whose loss
    takes them for probabilities are `outputs`, and these the same. What the data knows of outputs stands beside them.

    Raises:
        RuntimeError: the written model's outputs are not, bit for bit, those of the model.
    """
    takes_data = state.input_spec == data.train.element_spec[0]
    raw = data.stored_spec("train")[0] if takes_data else state.input_spec
    specs, dense = named_parts(raw, INPUTS), served_parts(raw, INPUTS)
    are_probabilities = takes_probabilities(getattr(state.learner, "loss", None))
    examples = data.raw("val" if "val" in data.splits() else "train")
    given = next(every_batch(examples))[0] if takes_data else zeros_of(raw)

    @tf.function(autograph=False)
    def serve(**inputs):
        inputs = {name: tf.ensure_shape(inputs[name], spec.shape) for name, spec in dense.items()}
        packed = {name: _packed(name, spec, inputs) for name, spec in specs.items()}
        rows = examples_of(packed)
        # Not every layer takes no rows at all, so the model is given one then, which is cut off again.
        filled = [_with_a_row_for_none(packed[name], spec, rows) for name, spec in specs.items()]
        nest = tf.nest.pack_sequence_as(raw, filled)
        outputs = state.model(data.prepare(nest) if takes_data else nest, training=False)
        outputs = tf.nest.map_structure(
            lambda tensor: (tf.cast(tensor, tf.float32) if tensor.dtype.is_floating else tensor)[:rows], outputs
        )
        score = data.score(outputs.shape) if is_single(outputs) else None
        if score is None:
            return named_parts(outputs, OUTPUTS) | (data.answers(outputs) if is_single(outputs) else {})
        if are_probabilities:
            found = {OUTPUTS: outputs, "probabilities": outputs}
        else:
            found = {"logits": outputs, "probabilities": getattr(tf.nn, score)(outputs)}
        if score == "softmax":
            found["class"] = tf.argmax(outputs, axis=-1, output_type=tf.int32)
        elif data.targets_are_classes:
            found["class"] = tf.cast(outputs[..., 0] > (0.5 if are_probabilities else 0.0), tf.int32)
        return found

    module = tf.Module()
    module.weights, module.model = [v.value for v in state.model.variables], state.model
    module.serve = serve.get_concrete_function(
        **{name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in dense.items()}
    )
    inputs = served_parts(given, INPUTS)
    return _write(module, path, data.class_names, inputs, module.serve(**inputs))


def _write(
    module: tf.Module,
    path: Path,
    class_names: Sequence[str],
    inputs: Mapping[str, tf.Tensor],
    expected: Mapping[str, tf.Tensor],
) -> Path:
    """Save a module's `serve` and the classes' names beside `path`, check what it gives for the inputs, rename it."""
    signatures = {"serving_default": module.serve}
    names = [name.encode("utf-8", "surrogateescape") for name in class_names]  # a folder's may be no UTF-8
    if names:
        module.class_names = signatures["class_names"] = _class_names_function(names)
    with replacing(path) as temporary:
        tf.saved_model.save(module, str(temporary), signatures=signatures)
        if names:
            (temporary / "assets" / "class_names.txt").write_bytes(b"".join(name + b"\n" for name in names))
        with literal(temporary) as name:
            written = tf.saved_model.load(name).signatures["serving_default"](**inputs)
        for name, value in expected.items():
            if value.numpy().tobytes() != written[name].numpy().tobytes():
                raise RuntimeError(
                    f"the exported model's {name} differs from the model's; {path.parent} was left as it was"
                )
    return path


def _packed(name: str, spec: tf.TypeSpec, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor | tf.RaggedTensor:
    """A tensor as it was before `served_parts`."""
    if not isinstance(spec, tf.RaggedTensorSpec):
        return inputs[name]
    splits = [inputs[of] for of in splits_names(name, spec.ragged_rank)]
    return tf.RaggedTensor.from_nested_row_splits(inputs[name], splits)


def _with_a_row_for_none(part: tf.Tensor | tf.RaggedTensor, spec: tf.TypeSpec, rows: tf.Tensor) -> Any:
    if isinstance(spec, tf.RaggedTensorSpec) or None in spec.shape[1:]:
        return part
    filling = tf.zeros([tf.cast(rows == 0, tf.int32), *spec.shape[1:]], spec.dtype)
    return tf.ensure_shape(tf.concat([part, filling], 0), spec.shape)


def _class_names_function(names: Sequence[bytes]) -> tf.types.experimental.GenericFunction:
    """Class numbers int32 [N] -> `names`: TensorFlow Serving's REST calls no signature without inputs."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="classes")], autograph=False)
    def class_names(classes):
        return {"names": tf.gather(tf.constant(names), classes)}

    return class_names
