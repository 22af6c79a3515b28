"""Shows in TensorBoard what the model makes of examples that are no pictures: a table each epoch, a picture at the end.

    Examples(data=data, directory="run/summaries", best="run/checkpoints/best")

Tags, in `val`, or `train` where there is no such split: `examples` once an epoch, a text with a table of inputs, truth
and prediction, always of the same examples; and of the whole split with the best weights, at the step of the best
epoch, `scatter`, truth against prediction of numbers, or `confusion` of classes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.text.metadata import create_summary_metadata

from src.callbacks.events import EventCallback
from src.callbacks.images import undrawable, write_image
from src.common.pictures import confusion_counts, confusion_picture, scatters_picture
from src.common.ranges import Count, enforce_ranges
from src.data.batch import INPUTS, Batch, Nest, cell, classes_of, is_single, named_parts
from src.data.data import Data
from src.data.kind import kind_of
from src.data.pipeline import every_batch
from src.training.checkpoints import best_weights
from src.training.manifest import CheckpointError
from src.training.state import TrainState

log = logging.getLogger(__name__)

TEXT = create_summary_metadata(display_name=None, description=None)


@enforce_ranges
class Examples(EventCallback):
    """Write a table of examples each epoch where `Images` draws none. Nothing of training is changed.

    Nothing is written where the model takes other inputs than the data's, as that of a learner of one's own may.

    Args:
        data: whose val split is shown, or its train split as it is stored.
        directory: of the splits' folders.
        best: the folder of the best checkpoint.
        examples: how many are shown, the first ones of the first batch.
        every_epochs: how often.
    """

    def __init__(self, *, data: Data, directory: str, best: str, examples: Count = 8, every_epochs: Count = 1) -> None:
        super().__init__(directory=directory)
        self._data, self._best, self._count, self._every_epochs = data, best, examples, every_epochs
        self._split = "train" if data.val is None else "val"
        self._shows = False
        self._first: Batch = ()

    def on_train_begin(self, state: TrainState) -> None:
        super().on_train_begin(state)
        takes_data = state.input_spec == self._data.train.element_spec[0]
        self._shows = takes_data and undrawable(state, self._data) is not None
        self._batches = self._data.raw(self._split)
        outputs = state.inference.structured_outputs
        self._kind = kind_of(self._data, self._batches.element_spec, outputs) if self._shows else None

    def on_epoch_end(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        is_due = self._shows and state.epoch % self._every_epochs == 0
        if is_due and self.files.is_new(self._split, "examples", state.step):
            self.files.write_later(_write_text, self._split, state.step, {"examples": self._table(state)})

    def on_train_end(self, state: TrainState) -> None:
        if not (self._shows and state.best and self._kind in ("classes", "numbers")):
            return
        try:
            with best_weights(state, self._best):
                pictures = self._picture(state, f"{self._split}, epoch {state.best.epoch}")
        except CheckpointError as error:
            log.warning("no picture of the best weights: %s", error)
            return
        self.files.write_later(write_image, self._split, state.best.step, pictures)

    def close(self) -> None:
        super().close()
        self._first = ()

    def _table(self, state: TrainState) -> str:
        """In Markdown: a row for each example, and a column for each of its inputs, targets and outputs."""
        self._first = self._first or next(every_batch(self._batches))
        inputs, *others = self._first
        answers = {"truth": others[:1], "prediction": [self._predicted(state, inputs)]}
        columns = named_parts(inputs, INPUTS)
        for name, nests in answers.items():
            for nest in nests:
                parts = named_parts(nest, name)
                columns |= parts if is_single(nest) else {f"{name} {key}": part for key, part in parts.items()}
        cells = [[self._told(value, name) for value in part.numpy()[: self._count]] for name, part in columns.items()]
        lines = [list(columns), ["---"] * len(columns), *zip(*cells, strict=True)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def _told(self, value: Any, column: str) -> str:
        """A cell; a class by its name, where it has one."""
        names = self._data.class_names if column in ("truth", "prediction") and self._kind == "classes" else ()
        is_named = np.ndim(value) == 0 and len(names) and 0 <= value < len(names)
        return (names[int(value)] if is_named else cell(value)).replace("|", "\\|")

    def _predicted(self, state: TrainState, inputs: Nest) -> Nest:
        """Classes, probabilities of labels, or the model's outputs."""
        outputs = state.predict(self._data.prepare(inputs))
        answers = {"classes": classes_of, "labels": tf.sigmoid}
        return answers[self._kind](outputs) if self._kind in answers else outputs

    def _picture(self, state: TrainState, title: str) -> dict[str, np.ndarray]:
        """Of the whole split, by its tag."""
        names, seen = self._data.class_names, []
        for inputs, targets, *_ in every_batch(self._batches):
            predicted = self._predicted(state, inputs).numpy()
            seen.append((targets.numpy().reshape(predicted.shape), predicted))
        targets, predicted = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        if self._kind == "numbers":
            return {"scatter": scatters_picture(targets, predicted, title=title)}
        known = (targets >= 0) & (targets < len(names))
        counts = confusion_counts(targets[known], predicted[known], len(names))
        return {"confusion": confusion_picture(counts, names, title=title)}


def _write_text(tag: str, text: str) -> None:
    """What tf.summary.text would, without what that costs the first time."""
    tf.summary.write(tag, tf.constant(text), metadata=TEXT)
