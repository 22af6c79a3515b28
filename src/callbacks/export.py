"""Exports the best weights as a SavedModel when training ends.

    Export(directory="run/saved_model", best="run/checkpoints/best")

`serving_default` takes `image`, raw uint8 pixels [N, H, W, C] for any N; it returns `logits` float32 and `class` int32.
Nothing of this project is needed to load it: tf.saved_model.load(directory + "/1").
"""

from __future__ import annotations

import logging
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from src.callbacks.base import Callback
from src.checkpoints import best_weights
from src.data.pipeline import to_float
from src.files import replacing
from src.state import TrainState

log = logging.getLogger(__name__)

VERSION = "1"


class Export(Callback):
    """Write `directory/1` with the weights of the best epoch, or those of now where none was saved as best.

    Args:
        directory: the base that TensorFlow Serving takes.
        best: the folder of the best checkpoint.
    """

    def __init__(self, *, directory: str, best: str) -> None:
        self._directory, self._best = Path(directory), best

    def on_train_end(self, state: TrainState) -> None:
        with best_weights(state, self._best):
            path = export(state.model, self._directory / VERSION)
        log.info("exported %s", path)


def export(model: keras.Model, path: Path) -> Path:
    """Write a SavedModel beside `path`, check that it computes what the model does, and rename it.

    Args:
        model: float32 images in [0, 1] [N, H, W, C] -> logits [N, ..., classes].

    Raises:
        RuntimeError: the written model's outputs are not, bit for bit, those of the model.
    """
    shape = model.input_shape[1:]
    module = tf.Module()
    module.weights = [v.value for v in model.variables]
    module.serve = serving_function(model, shape)
    with replacing(path) as temporary:
        tf.saved_model.save(module, str(temporary), signatures={"serving_default": module.serve})
        _check_same(module, temporary, shape)
    return path


def serving_function(model: keras.Model, shape: tuple[int, ...]) -> tf.types.experimental.GenericFunction:
    """The exported function: raw uint8 pixels [N, *shape] -> `logits` float32 and `class` int32."""

    @tf.function(input_signature=[tf.TensorSpec([None, *shape], tf.uint8, name="image")])
    def serve(image):
        logits = tf.cast(model(to_float(image), training=False), tf.float32)
        return {"logits": logits, "class": tf.argmax(logits, axis=-1, output_type=tf.int32)}

    return serve


def _check_same(module: tf.Module, path: Path, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, [3, *shape], dtype=np.uint8)
    expected = module.serve(tf.constant(images))
    written = tf.saved_model.load(str(path)).signatures["serving_default"](image=tf.constant(images))
    for name, value in expected.items():
        if value.numpy().tobytes() != written[name].numpy().tobytes():
            raise RuntimeError(
                f"the exported model's {name} differs from the model's; {path.parent} was left as it was"
            )
