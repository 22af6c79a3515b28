"""Shows in TensorBoard what the model makes of some examples each epoch, and what it confuses at the end.

    Images(data=data, directory="run/summaries", best="run/checkpoints/best", picture="run/predictions.png")

Tags, in `val`, or `train` where there is no such split: `predictions` once an epoch, always of the same examples, and
`confusion` of the whole split with the best weights, at the step of the best epoch. The examples with these weights
are in the file `picture` too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from tensorboard.plugins.image.metadata import create_summary_metadata

from src.callbacks.events import EventCallback
from src.common.files import replace
from src.common.pictures import confusion_counts, confusion_picture, examples_sheet, png
from src.common.ranges import Count, enforce_ranges
from src.data.batch import classes_of, is_single
from src.data.data import Data
from src.data.images.image_data import ImageData
from src.data.pipeline import every_batch, to_float
from src.training.checkpoints import best_weights
from src.training.manifest import CheckpointError
from src.training.state import TrainState

log = logging.getLogger(__name__)

IMAGE = create_summary_metadata(display_name=None, description=None)

Batch: TypeAlias = tuple[np.ndarray, np.ndarray]  # images and targets


@enforce_ranges
class Images(EventCallback):
    """Write pictures of predictions; where the model's outputs are no classes of images, none.

    A picture that cannot be written ends training, as a summary does. Nothing of training is changed.

    Args:
        data: whose val split is shown, or its train split as it is stored.
        directory: of the splits' folders.
        best: the folder of the best checkpoint.
        picture: the PNG file.
        examples: how many are shown, the first ones.
        every_epochs: how often.
    """

    def __init__(
        self,
        *,
        data: Data,
        directory: str,
        best: str,
        picture: str,
        examples: Count = 8,
        every_epochs: Count = 1,
    ) -> None:
        super().__init__(directory=directory)
        self._data, self._best, self._picture = data, best, Path(picture)
        self._count, self._every_epochs = examples, every_epochs
        self._split = "train" if data.val is None else "val"
        self._shown: list[Batch] = []
        self._drawable = False

    def on_train_begin(self, state: TrainState) -> None:
        super().on_train_begin(state)
        reason = undrawable(state, self._data)
        self._drawable = reason is None
        if reason:
            log.debug("no pictures of predictions: %s", reason)

    def on_epoch_end(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if self._drawable and state.epoch % self._every_epochs == 0:
            self._write_predictions(state)

    def on_train_end(self, state: TrainState) -> None:
        if self._drawable and state.best:
            try:
                self._write_best(state)
            except CheckpointError as error:
                log.warning("no pictures of the best weights: %s", error)

    def close(self) -> None:
        super().close()
        self._shown = []

    def _write_predictions(self, state: TrainState) -> None:
        if self.files.is_new(self._split, "predictions", state.step):
            answers = self._answers(state)
            self.files.write_later(
                lambda tag, answers: write_image(tag, self._sheet(answers)),
                self._split,
                state.step,
                {"predictions": answers},
            )

    def _write_best(self, state: TrainState) -> None:
        assert state.best
        with best_weights(state, self._best):
            sheet, counts = self._sheet(self._answers(state)), self._confusion(state)
        replace(self._picture, png(sheet))
        title = f"{self._split}, epoch {state.best.epoch}"
        matrix = confusion_picture(counts, self._data.class_names, title=title)
        self.files.write_later(write_image, self._split, state.best.step, {"confusion": matrix})

    def _answers(self, state: TrainState) -> np.ndarray:
        self._shown = self._shown or self._first_examples()
        return np.concatenate([_predicted(state, images) for images, _ in self._shown])

    def _sheet(self, predicted: np.ndarray) -> np.ndarray:
        images, targets = (np.concatenate(parts) for parts in zip(*self._shown, strict=True))
        targets = np.where(self._known(targets), targets, 0)
        return examples_sheet(_pixels(images), targets, predicted, class_names=self._data.class_names)

    def _confusion(self, state: TrainState) -> np.ndarray:
        classes = len(self._data.class_names)
        counts = np.zeros([classes, classes], np.int64)
        for images, targets in self._batches():
            known = self._known(targets)
            counts += confusion_counts(targets[known], _predicted(state, images)[known], classes)
        return counts

    def _known(self, targets: np.ndarray) -> np.ndarray:
        """Where there is a class: masks may have other values, for pixels that count for nothing."""
        return (targets >= 0) & (targets < len(self._data.class_names))

    def _first_examples(self) -> list[Batch]:
        batches, left = [], self._count
        for images, targets in self._batches():
            batches.append((images[:left], targets[:left]))
            left -= len(images)
            if left <= 0:
                break
        return batches

    def _batches(self) -> Iterator[Batch]:
        batches = self._data.val or self._data.raw("train")
        for images, targets in every_batch(batches):
            yield images.numpy(), targets.numpy()


def undrawable(state: TrainState, data: Data) -> str | None:
    """Why predictions cannot be shown; None where they can: classes, of gray or colour images or of their pixels."""
    if not isinstance(data, ImageData):
        return "the data are no images"
    images, targets = data.train.element_spec
    outputs = state.inference.structured_outputs
    if not is_single(outputs):
        return f"the model has {len(outputs)} outputs"
    outputs = outputs.shape
    if images.shape.rank == 4 and images.shape[-1] in (1, 3) and targets.shape.rank in (1, 3) and data.score(outputs):
        return None
    return f"images {images.shape}, targets {targets.dtype.name} {targets.shape}, outputs {outputs}"


def _predicted(state: TrainState, images: np.ndarray) -> np.ndarray:
    """The classes, int32 [n] or [n, H, W], of images float or uint8 [n, H, W, C]."""
    return classes_of(state.predict(to_float(tf.constant(images)))).numpy()


def _pixels(images: np.ndarray) -> np.ndarray:
    return images if images.dtype == np.uint8 else np.rint(images * 255).clip(0, 255).astype(np.uint8)


def write_image(tag: str, picture: np.ndarray) -> None:
    """Write what tf.summary.image would, without what that costs the first time."""
    height, width, _ = picture.shape
    tf.summary.write(tag, tf.constant([str(width), str(height), png(picture)]), metadata=IMAGE)
