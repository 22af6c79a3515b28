"""An exported model in the place of a learner's own, so that its outputs are measured by the same step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from src.common.internals import with_masks
from src.data.batch import Nest


class OtherInputs(ValueError):
    """A learner gives its model other inputs than the data's, which a model that prepares raw ones does not take."""


class StandIn:
    """A model whose outputs another one gives; what its own layers add to the loss, and its masks, stay."""

    def __init__(self, model: keras.Model, predict: Callable[[Nest], Nest], raw: Nest, prepared: Nest) -> None:
        self._model, self._predict, self._raw, self._prepared = model, predict, raw, prepared

    def __call__(self, inputs: Nest, *, training: bool = False) -> Nest:
        own = self._model(inputs, training=training)
        if inputs is not self._prepared:
            if self._raw is not self._prepared:
                raise OtherInputs("the learner gives its model other inputs than the data's")
            return with_masks(self._predict(inputs), of=own)
        return with_masks(self._predict(self._raw), of=own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
