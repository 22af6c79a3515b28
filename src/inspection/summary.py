"""What a data set is to a model: counts, class shares, pixels, time a batch, images that splits share, and a picture.

summary = summarize(data)
summary.splits["train"].counts        # how often each class occurs
summary.as_json()
Path("data.png").write_bytes(png(batch_picture(data)))
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from src.common.pictures import overlay, rows_sheet
from src.data.batch import examples_of, leaf_names
from src.data.data import Data
from src.data.images.image_data import ImageData
from src.data.pipeline import Batches, every_batch
from src.inspection.parts import described_parts

SHOWN = 8  # examples in the picture
LONGEST_SIDE = 256  # pixels of an example in the picture
TIMED_BATCHES, TIMED_SECONDS = 100, 2.0  # whichever is reached first
IGNORED = "ignored"


@dataclass(frozen=True)
class SplitSummary:
    """A split.

    Attributes:
        examples: how many there are.
        looked_at: how many of them are counted below, from the first on.
        batches: an epoch.
        bytes: of all examples as arrays.
        counts: how often each class occurs, int64 [classes]; None where targets are no classes.
        ignored: how many targets do not count.
    """

    examples: int
    looked_at: int
    batches: int
    in_memory: bool
    bytes: int
    counts: np.ndarray | None
    ignored: int

    @property
    def shares(self) -> np.ndarray | None:
        """Of each class among the targets that count; 0 where there are none."""
        return None if self.counts is None else self.counts / max(self.counts.sum(), 1)

    @property
    def ignored_share(self) -> float:
        """Of all targets."""
        counted = 0 if self.counts is None else int(self.counts.sum())
        return self.ignored / max(counted + self.ignored, 1)


@dataclass(frozen=True)
class Shared:
    """Images that two splits have in common, byte for byte.

    Attributes:
        examples: how many of the second split are in the first as well.
        indices: where the first such image lies in the two splits.
    """

    splits: tuple[str, str]
    examples: int
    indices: tuple[int, int]


@dataclass(frozen=True)
class Summary:
    """A data set.

    Attributes:
        image, target: shape and dtype of an example's inputs and targets as stored, such as ((48, 48, 3), "uint8"); a
            nest of these where there are several, and None where there are no targets.
        are_images: whether there is a picture of them.
        mean, deviation: of the training inputs, by channel or feature, in [0, 1] for uint8; none where inputs are not a
            single array of numbers.
        batch_seconds: the median time that the training pipeline takes for a full batch.
        parts: what the columns of training examples that are no images are, by name.
    """

    splits: dict[str, SplitSummary]
    class_names: tuple[str, ...]
    are_images: bool
    image: Any
    target: Any
    mean: list[float]
    deviation: list[float]
    batch_size: int
    batch_seconds: float
    shared: list[Shared]
    parts: dict[str, str]

    @property
    def images_a_second(self) -> float:
        """Of the training pipeline."""
        return self.batch_size / self.batch_seconds

    @property
    def missing(self) -> list[str]:
        """The classes that none of the training examples looked at has."""
        counts = self.splits["train"].counts
        return [] if counts is None else [n for n, c in zip(self.class_names, counts, strict=True) if not c]

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        found = dataclasses.asdict(self)
        for name, split in self.splits.items():
            for key, values in {"counts": split.counts, "shares": split.shares}.items():
                by_class = None if values is None else dict(zip(self.class_names, values.tolist(), strict=True))
                found["splits"][name][key] = by_class
            found["splits"][name]["ignored_share"] = split.ignored_share
        return found | {"missing": self.missing, "images_a_second": self.images_a_second}


def summarize(data: Data, *, examples: int = 10_000) -> Summary:
    """Read a data set once.

    Args:
        examples: of each split at most.

    Raises:
        DataError: a file cannot be read, or a target is no class.
    """
    passes = {name: _Pass(data, name, examples) for name in data.splits()}
    train = passes["train"]
    seconds, batch_size = time_batches(data.train)
    return Summary(
        splits={name: one.summary for name, one in passes.items()},
        class_names=data.class_names,
        are_images=isinstance(data, ImageData) and len(data.input_shape) == 3,
        image=train.image,
        target=train.target,
        mean=train.mean.tolist(),
        deviation=train.deviation.tolist(),
        batch_size=batch_size,
        batch_seconds=seconds,
        shared=[found for pair in itertools.combinations(passes, 2) if (found := _shared(*pair, passes))],
        parts=described_parts(train.parts),
    )


def time_batches(batches: Batches) -> tuple[float, int]:
    """The median seconds that a full batch takes to be drawn, one after another, and its number of examples."""
    draw = tf.function(batches.next, autograph=False)
    seconds: list[float] = []
    sizes: list[int] = []
    began, epoch = time.perf_counter(), 0
    while len(seconds) < 2 or (time.perf_counter() - began < TIMED_SECONDS and len(seconds) < TIMED_BATCHES):
        cursor = batches.open(epoch, 0)
        for step in range(min(batches.steps_per_epoch, TIMED_BATCHES)):
            start = time.perf_counter()
            batch = draw(cursor, tf.constant(step))
            seconds.append(time.perf_counter() - start)
            sizes.append(int(examples_of(batch)))
            if time.perf_counter() - began > TIMED_SECONDS and len(seconds) >= 2:
                break
        epoch += 1
    full = max(sizes)
    steady = [s for s, size in zip(seconds[1:], sizes[1:], strict=True) if size == full]  # the first one is traced
    return float(np.median(steady or seconds)), full


def batch_picture(data: ImageData) -> np.ndarray:
    """The first training examples, as they are and augmented, with their labels or masks: uint8 [H, W, 3]."""
    (images, targets), (augmented, moved) = _first(data.unaugmented()), _first(data.train)
    rows = {"image": _pixels(images)}
    names: tuple[str, ...] = ()
    captions: list[str] = []
    is_mask = targets.ndim == 3
    if is_mask:
        first, *others = data.class_names
        names = (f"{first} (clear)", *others, *([IGNORED] if data.ignore_label is not None else []))
        rows["truth"] = _overlaid(rows["image"], targets, data)
    elif np.issubdtype(targets.dtype, np.integer) and targets.ndim == 1:
        captions = [data.class_names[t] if t != data.ignore_label else IGNORED for t in targets]
    if not (np.array_equal(images, augmented) and np.array_equal(targets, moved)):
        rows["augmented"] = _pixels(augmented)
        if is_mask:
            rows["its truth"] = _overlaid(rows["augmented"], moved, data)
    step = -(-max(images.shape[1:3]) // LONGEST_SIDE)
    return rows_sheet(
        {name: row[:, ::step, ::step] for name, row in rows.items()}, class_names=names, captions=captions
    )


class _Pass:
    """What one pass over the first examples of a split finds.

    Attributes:
        mean, deviation: of pixels, by channel.
        digests: of images, with the number of the first that has it.
        parts: of examples of data that are no images, by name, where there is one value an example.
    """

    def __init__(self, data: Data, name: str, most: int) -> None:
        batches = data.raw(name)
        counts, ignored, looked_at = np.zeros(data.num_classes or 0, np.int64), 0, 0
        pixels, total, squares = 0, np.zeros(()), np.zeros(())
        self.digests: dict[bytes, int] = {}
        self.parts: dict[str, list[Any]] = {}
        for drawn in every_batch(batches):
            batch = tf.nest.map_structure(lambda part: part.numpy(), drawn)
            inputs: Any = batch[0]
            targets: Any = batch[1] if len(batch) > 1 else None
            parts = [part[: most - looked_at] for part in tf.nest.flatten(inputs)]
            for number, example in enumerate(zip(*parts, strict=True), start=looked_at):
                content = b"".join(map(_bytes, example))
                self.digests.setdefault(hashlib.blake2b(content, digest_size=16).digest(), number)
            if not isinstance(data, ImageData):
                for of, part in zip(leaf_names(batch), tf.nest.flatten(batch), strict=True):
                    if part.ndim == 1:
                        self.parts.setdefault(of, []).extend(part[: most - looked_at])
            if is_classes := data.targets_are_classes and (not isinstance(data, ImageData) or targets.ndim in (1, 3)):
                targets = targets[: most - looked_at]
                found = data.count_labels(targets, f"the {name} split has")
                ignored += int(targets.size - found.sum())
                counts += found
            looked_at += len(parts[0])
            if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "iuf" and inputs.ndim > 1:
                flat = parts[0].reshape(-1, inputs.shape[-1]) / (255 if inputs.dtype == np.uint8 else 1.0)
                pixels += len(flat)
                total = total + flat.sum(0, dtype=np.float64)
                squares = squares + np.square(flat, dtype=np.float64).sum(0)
            if looked_at >= most:
                break
        self.mean = total / pixels if pixels else np.zeros(0)
        self.deviation = np.sqrt(np.maximum(squares / (pixels or 1) - self.mean**2, 0))
        self.image, self.target = (
            None if part is None else tf.nest.map_structure(lambda x: (x.shape[1:], str(x.dtype)), part)
            for part in (inputs, targets)
        )
        self.summary = SplitSummary(
            examples=data.count(name),
            looked_at=looked_at,
            batches=data.split(name).steps_per_epoch,
            in_memory=data.is_in_memory(name),
            bytes=data.count(name) * sum(len(_bytes(part[0])) for part in tf.nest.flatten(batch)),
            counts=counts if is_classes else None,
            ignored=ignored,
        )


def _bytes(part: Any) -> bytes:
    """An example's array, number or text, as bytes that are equal where it is."""
    array = np.asarray(part)
    return repr(array.tolist()).encode() if array.dtype == object else array.tobytes()


def _shared(first: str, second: str, passes: dict[str, _Pass]) -> Shared | None:
    ours, theirs = passes[first].digests, passes[second].digests
    common = [digest for digest in theirs if digest in ours]
    if not common:
        return None
    return Shared((first, second), len(common), (ours[common[0]], theirs[common[0]]))


def _first(batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    images, targets = next(every_batch(batches))
    return images.numpy()[:SHOWN], targets.numpy()[:SHOWN]


def _pixels(images: np.ndarray) -> np.ndarray:
    pixels = (np.clip(images, 0, 1) * 255).round().astype(np.uint8)
    return pixels[..., :3] if pixels.shape[-1] in (1, 3, 4) else pixels[..., :1]


def _overlaid(images: np.ndarray, masks: np.ndarray, data: ImageData) -> np.ndarray:
    classes = data.num_classes + (data.ignore_label is not None)
    masks = np.where(masks == data.ignore_label, data.num_classes, masks).astype(np.int64)
    return np.stack([overlay(image, mask, classes) for image, mask in zip(images, masks, strict=True)])
