"""Predict the classes of image files with a SavedModel, and write pictures of them.

model, write = load_model(Path("run/saved_model/1")), Writer(output, base, class_names)
for file, entry in predictions(model, files, ImageReader(model.channels, config), write, pool): ...
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from src.common.files import literal, replace
from src.common.logs import escaped, importing
from src.common.pictures import mask_png, overlay, png, strips
from src.data.images.files import FEW_BITS, MODES, BadImage, Reading, count_pixels
from src.data.images.find import MASKS, OVERLAYS, RESULTS
from src.data.images.resizing import Fit, fitted, resized, windows

BATCH_IMAGES = 16
BATCH_VALUES = 16_000_000  # pixels and class scores together in a batch of more than one image
TOP = 5  # classes whose probabilities are listed

Answer = tuple[np.ndarray, np.ndarray]  # of one image: scores float32 [classes] or [h, w, classes]; classes int32


@dataclass(frozen=True)
class Model:
    """A SavedModel's serving function.

    Attributes:
        serve: images uint8 [N, H, W, channels] -> scores and classes, [N, ...] both.
        size: (H, W) that it takes; None is an image's own.
        classes: how many there are.
        scores: numbers that it gives for an image; None is `classes` for each pixel.
    """

    serve: Callable[[np.ndarray], Answer]
    size: tuple[int, int] | None
    channels: int
    classes: int
    scores: int | None


def check_output(output: Path, files: Sequence[Path], base: Path) -> None:
    """Check that all pictures of these files can be written.

    Raises:
        ValueError: a file that this command has not made is there, or an image's path is another's folder.
    """
    planned, ours = {path for file in files for path in pictures_of(file, base)}, earlier_pictures(output)
    another = "give another folder as --output"
    for path in sorted(planned):
        if parent := next((parent for parent in path.parents if parent in planned), None):
            raise ValueError(f"{output / parent} would be a picture and a folder for {path.name}; rename an image")
        if file := next((p for p in map(output.joinpath, path.parents[:-1]) if p.exists() and not p.is_dir()), None):
            raise ValueError(f"{file} is not a folder, so {path} cannot be made; {another}")
        if path not in ours and os.path.lexists(output / path):
            raise ValueError(f"{output / path} exists and is not listed in {output / RESULTS}; {another}")


def pictures_of(file: Path, base: Path) -> tuple[Path, Path]:
    """The mask and the overlay of an image, relative to the output."""
    name = os.path.relpath(os.path.abspath(file), base) + ".png"
    return Path(MASKS, name), Path(OVERLAYS, name)


def earlier_pictures(output: Path) -> set[Path]:
    """The pictures that earlier commands have made there, relative to the output."""
    try:
        results = json.loads((output / RESULTS).read_text())
        entries = [entry[key] for entry in results["images"] for key in ("mask", "overlay") if key in entry]
        return {Path(name) for name in (*entries, *results.get("earlier", []))}
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return set()


def load_model(saved_model: Path) -> Model:
    """The serving function of a SavedModel.

    Raises:
        ValueError: its outputs are not class scores of images or pixels.
    """
    with importing():
        import tensorflow as tf

        with literal(saved_model) as name:
            loaded = tf.saved_model.load(name)
        from src.data.batch import described
        from src.data.pipeline import to_float
    signature = loaded.signatures["serving_default"]
    inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
    if [spec.shape.rank for spec in inputs.values()] != [4]:
        told = ", ".join(f"{name} {described(spec)}" for name, spec in inputs.items())
        raise ValueError(
            f"{saved_model} takes {told}, and no images; give its inputs as the rows of a .csv, .jsonl, .parquet or "
            ".npz file"
        )
    ((name, takes),) = inputs.items()
    height, width, channels = takes.shape[1:]
    if channels not in MODES:
        raise ValueError(f"{saved_model} takes {channels} channels; image files have {', '.join(map(str, MODES))}")
    if not {"logits", "class"} <= set(outputs) or len(outputs["logits"].shape) not in (2, 4):
        raise ValueError(
            f"{saved_model} gives {described(outputs)}, no classes of images, which are logits [N, classes] or "
            "[N, H, W, classes]; give its inputs as the rows of an .npz file"
        )
    scores = outputs["logits"].shape
    is_one = scores[-1] == 1  # for two classes

    def serve(images: np.ndarray) -> Answer:
        pixels = tf.constant(images)
        inputs = pixels if takes.dtype == tf.uint8 else tf.cast(to_float(pixels), takes.dtype)
        answer = loaded.signatures["serving_default"](**{name: inputs})
        logits = answer["logits"].numpy()
        # The softmax of 0 and a logit is the logit's sigmoid.
        return np.insert(logits, 0, 0.0, axis=-1) if is_one else logits, answer["class"].numpy()

    size = None if height is None or width is None else (height, width)
    scores = [*scores[1:-1], 2] if is_one else scores[1:]
    return Model(serve, size, channels, classes=scores[-1], scores=tf.TensorShape(scores).num_elements())


class ImageReader:
    """Reads files as training does.

    Args:
        config: the run's, by dotted key.

    Attributes:
        fit: how images get to the model's size, as in training.
        dark: files of 16 bits whose values may be meant to have fewer.
    """

    def __init__(self, channels: int, config: Mapping[str, Any]) -> None:
        options = {name: config.get(f"data.{name}") for name in ("apply_exif", "bit_depth")}
        self._reading, self.fit = Reading(channels, **options), config.get("data.resize")
        self.dark: list[Path] = []

    def __call__(self, file: Path) -> np.ndarray | BadImage:
        """The pixels uint8 [H, W, channels], or why there are none; may be called by several threads."""
        try:
            image = self._reading.image(file)
        except BadImage as error:
            return error
        if self._reading.bit_depth is None and image.bits is not None and image.bits <= FEW_BITS:
            self.dark.append(file)
        return image.pixels


def predictions(
    model: Model, files: Sequence[Path], read: ImageReader, write: Writer, pool: ThreadPoolExecutor
) -> Iterator[tuple[Path, dict[str, Any] | BadImage]]:
    """What `write` returns of each file, or why it could not be read, in the order of the files.

    A batch is read, predicted and written before the next: that is all that is held in memory.
    """
    for batch in _batches(model, files):
        yield from _predicted(model, batch, read, write, pool)


def class_mask(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The class of the highest score at each pixel, scores resized bilinearly: uint8 [H, W], uint16 above 256 classes.

    Two planes of a strip of rows are held at a time. A mask of several strips equals that of the whole except for
    rounding in the scores' last digits.

    Args:
        scores: float32 [h, w, classes].
        size: (H, W).
    """
    classes = scores.shape[-1]
    mask = np.zeros(size, np.uint8 if classes <= 256 else np.uint16)
    for rows in strips(size):
        best = np.array(resized(scores[..., 0], size, rows=rows))
        for number in range(1, classes):
            plane = resized(scores[..., number], size, rows=rows)
            mask[rows][plane > best] = number
            np.maximum(best, plane, out=best)
    return mask


class Writer:
    """Writes what is predicted of an image, and returns its entry in predictions.json.

    Args:
        output: the folder.
        base: images are named relative to it.
        class_names: one for each class.
        fit: how images got to the model's size.

    Attributes:
        stopped: whether no picture is written any more.
    """

    def __init__(self, output: Path, base: Path, class_names: Sequence[str], fit: Fit | None = None) -> None:
        self._output, self._base, self._names, self._fit = output, base, class_names, fit
        self._writing, self.stopped = threading.Lock(), False

    def stop(self) -> None:
        """Write no picture any more; when this returns, each is whole or not there."""
        self.stopped = True
        with self._writing:
            pass

    def __call__(self, file: Path, image: np.ndarray, answer: Answer) -> dict[str, Any]:
        """Write an image's files.

        Args:
            image: uint8 [H, W, C].
            answer: the model's scores and classes.
        """
        scores, classes = answer
        entry = {"file": str(file), "width": image.shape[1], "height": image.shape[0]}
        if scores.ndim == 1:
            return {**entry, **self._label(scores, int(classes))}
        taken, placed = windows(image.shape[:2], classes.shape, self._fit)
        scores, classes, size = scores[placed], classes[placed], image[taken].shape[:2]
        seen = classes if classes.shape == size else class_mask(scores, size)
        is_whole, count = size == image.shape[:2], len(self._names)
        mask = shown = seen
        if not is_whole:
            unseen = 255 if count < 256 else 65535
            mask, shown = (np.full(image.shape[:2], label, np.uint16) for label in (unseen, 0))
            mask[taken] = shown[taken] = seen
        mask_path, overlay_path = pictures_of(file, self._base)
        for path in (mask_path, overlay_path):
            (self._output / path).parent.mkdir(parents=True, exist_ok=True)
        self._write_picture(mask_path, mask_png(mask, count, has_unseen=not is_whole))
        self._write_picture(overlay_path, png(overlay(image[..., :3], shown, count)))
        counts = np.bincount(seen.ravel(), minlength=count)
        shares = {name: float(n / seen.size) for name, n in zip(self._names, counts, strict=True) if n}
        return {**entry, "mask": str(mask_path), "overlay": str(overlay_path), "shares": shares}

    def _write_picture(self, path: Path, content: bytes) -> None:
        with self._writing:
            if not self.stopped:
                (self._output / path).write_bytes(content)

    def begin(self, files: Sequence[Path]) -> None:
        """Empty the list of earlier results, which are no longer valid, except for the names of all pictures."""
        if any((self._output / name).exists() for name in (MASKS, RESULTS)):
            print(
                f"note: {escaped(self._output)} has earlier results; masks and overlays of other images stay there, "
                f"and {RESULTS} lists only the new ones",
                file=sys.stderr,
            )
        self._pictures = earlier_pictures(self._output).union(*(pictures_of(file, self._base) for file in files))
        self._write({"complete": False}, [], [])

    def end(self, run: dict[str, Any], images: list[dict[str, Any]], skipped: list[dict[str, Any]]) -> Path:
        """Write the list of results; returns its path."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        facts = {**run, "complete": True, "when": when, "class_names": list(self._names)}
        self._pictures = {path for path in self._pictures if (self._output / path).is_file()}
        return self._write(facts, images, skipped)

    def _write(self, facts: dict[str, Any], images: list[dict[str, Any]], skipped: list[dict[str, Any]]) -> Path:
        listed = {Path(entry[key]) for entry in images for key in ("mask", "overlay") if key in entry}
        earlier = sorted(map(str, self._pictures - listed))
        values = {**facts, "images": images, "skipped": skipped, "earlier": earlier}
        replace(self._output / RESULTS, json.dumps(values, indent=2) + "\n")
        return self._output / RESULTS

    def _label(self, scores: np.ndarray, number: int) -> dict[str, Any]:
        powers = np.exp(scores.astype(np.float64) - scores.max())
        probabilities = powers / powers.sum()
        best = np.argsort(-probabilities, kind="stable")[:TOP]
        return {"class": self._names[number], "probabilities": {self._names[i]: float(probabilities[i]) for i in best}}


def _batches(model: Model, files: Sequence[Path]) -> Iterator[list[Path]]:
    """Files whose pixels and scores fit together into memory; a large one is alone."""
    batch: list[Path] = []
    held = 0
    for file in files:
        pixels = count_pixels(file)
        values = pixels + (pixels * model.classes if model.scores is None else model.scores)
        if batch and (len(batch) == BATCH_IMAGES or held + values > BATCH_VALUES):
            yield batch
            batch, held = [], 0
        batch.append(file)
        held += values
    yield batch


def _predicted(
    model: Model, batch: Sequence[Path], reader: ImageReader, write: Writer, pool: ThreadPoolExecutor
) -> list[tuple[Path, dict[str, Any] | BadImage]]:
    """What `write` returns of each file of a batch; no pixels stay behind."""
    read = dict(zip(batch, pool.map(reader, batch), strict=True))
    images = {file: image for file, image in read.items() if not isinstance(image, BadImage)}
    answers = _answers(model, list(images.values()), reader.fit, pool)
    results = dict(zip(images, pool.map(write, images, images.values(), answers), strict=True))
    return [(file, image if isinstance(image, BadImage) else results[file]) for file, image in read.items()]


def _answers(model: Model, images: Sequence[np.ndarray], fit: Fit | None, pool: ThreadPoolExecutor) -> list[Answer]:
    """The model's answer to each image, asked together for those of one size."""
    inputs = list(pool.map(lambda image: fitted(image, model.size or image.shape[:2], fit), images))
    places = defaultdict(list)
    for place, image in enumerate(inputs):
        places[image.shape].append(place)
    answers: dict[int, Answer] = {}
    for same in places.values():
        scores, classes = model.serve(np.stack([inputs[place] for place in same]))
        answers.update(zip(same, zip(scores, classes, strict=True), strict=True))
    return [answers[place] for place in range(len(images))]
