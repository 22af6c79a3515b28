"""Any image classification or segmentation set of TensorFlow Datasets as training data.

    data = tfds_images(dataset="mnist", batch_size=32, seed=0)
    data = tfds_images(
        dataset="oxford_iiit_pet:4.*.*", target_key="segmentation_mask", target_offset=-1, image_size=128,
        class_names=["pet", "background", "border"], batch_size=32, seed=0,
    )

Examples are read by number, so a set gives the same batches whether it fits in memory or not. Images and masks are read
as those in folders, by `src.data.images.files`.
"""

from __future__ import annotations

import itertools
import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds

from src.common.errors import one_line
from src.common.ranges import enforce_ranges, takes
from src.common.text import size
from src.data.data import DataError
from src.data.images.files import Reading, by
from src.data.images.image_data import ImageData, label_dtype
from src.data.images.oddities import Oddities
from src.data.images.options import ImageOptions
from src.data.limit import Subset, share_of
from src.data.tfds_folders import prepared
from src.data.tfds_records import Records
from src.data.threads import in_memory

log = logging.getLogger(__name__)

LOOKED_AT = 32  # examples of a split that is read as needed, before training
AS_STORED = "data.apply_exif=false takes both as they are stored, whatever orientation their EXIF data name"
SPLIT_NAMES = {"train": ("train",), "val": ("validation", "val", "valid"), "test": ("test",)}


@enforce_ranges
@dataclass(frozen=True, kw_only=True)
class TFDSOptions(ImageOptions):
    """Options of a set of TensorFlow Datasets, beside those of all images.

    Args:
        dataset: NAME, NAME:VERSION, NAME/CONFIG or NAME/CONFIG:VERSION; `*` stands for any number in a version.
        data_dir: TFDS's data folder: by default TFDS_DATA_DIR, or else `~/tensorflow_datasets`.
        download: whether a set that is not there may be downloaded and prepared.
        splits: TFDS's expressions for train, val and test, as `train[:80%]`; by default the splits of these names.
        val_share, test_share: where the set has no such split, the share of train that is taken for it: always the
            same examples, whatever the seed.
        image_key, target_key: the features that are images and labels or masks; found where only one will do.
        channels: 1 or 3; by default as stored, without opacity. Of 16 bits the high byte is taken.
        target_offset: added to labels and masks, in int32.
        num_classes, class_names: of the targets after the offset; by default as the features say.
        ignore_label: after the offset.
        max_memory_gib: of train and val; test is always read as it is needed.
    """

    dataset: str
    data_dir: str | None = None
    download: bool = True
    splits: Mapping[str, str | None] = field(default_factory=dict)
    image_key: str | None = None
    target_key: str | None = None
    channels: Literal[1, 3] | None = None
    target_offset: int = 0
    num_classes: int | None = None


@takes(TFDSOptions)
def tfds_images(options: TFDSOptions) -> ImageData:
    """Images uint8 [H, W, C] with labels int32 [] or masks [H, W], uint8 where all labels are within 0 to 255.

    Raises:
        ValueError: the set has no such features, splits or sizes; the message says what it has.
        DataError: the set cannot be had or read, or a target is no class; see `src.data.tfds_folders.prepared`.
    """
    reading, dataset = options.reading(3), options.dataset
    words = [f"data.dataset={dataset}", *([f"data.image_size={options.image_size}"] if reading.size else [])]
    command = shlex.join(["python", "-m", "src.data", "data=tfds", *(word.replace(" ", "") for word in words)])
    info = prepared(dataset, data_dir=options.data_dir, download=options.download, command=command).info
    image_key, target_key = find_keys(info, options.image_key, options.target_key)
    if info.features[target_key].shape:
        reading.check_edges()
    num_classes, class_names = _classes(
        info, target_key, options.target_offset, options.num_classes, options.class_names
    )
    oddities = Oddities(dataset, reading)
    reading = replace(reading, channels=_channels(info.features[image_key], options.channels))
    decode = Decoder(info.features, image_key, target_key, num_classes, options, reading, oddities)
    shares = {"val_share": options.val_share, "test_share": options.test_share}
    found: dict[str, Any] = {**find_splits(info, decode, given=options.splits, **shares)}
    found["train"] = share_of(found["train"], options.limit)
    loaded, held = in_memory(
        {name: found[name] for name in found if name != "test"}, dataset, max_memory_gib=options.max_memory_gib
    )
    splits = found | loaded
    if splits == found:
        what, most = " and ".join(loaded), options.max_memory_gib
        log.info("%s would take %s, over max_memory_gib %g: read as needed", what, size(held), most)
    for name, examples in found.items():
        if splits[name] is examples:
            for index in np.unique(np.linspace(0, len(examples) - 1, LOOKED_AT, dtype=int)):
                examples[index]
    oddities.report()
    told = {"num_classes": num_classes, "class_names": class_names, "ignore_label": options.ignore_label}
    return options.image_data(**splits, **told)


@dataclass(frozen=True)
class Examples(Sequence):
    """The records of a split as pairs of image and target, decoded when they are asked for; in messages by `name`."""

    name: str
    records: Records
    decode: Decoder

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        record = self.records[index]
        try:
            return self.decode(record, f"example {index} of {self.name}")
        except Exception as error:  # Pillow's decoders raise whatever they meet
            raise DataError(f"example {index} of {self.name}: {one_line(str(error))}") from error


class Decoder:
    """A set's serialized example as a pair of image and target.

    Args:
        features: the set's.
        num_classes: of the targets after the offset.
        oddities: where is noted what is odd about them.

    Raises:
        ValueError: the images' size is neither fixed nor given.
    """

    def __init__(
        self,
        features: Any,
        image_key: str,
        target_key: str,
        num_classes: int,
        options: TFDSOptions,
        reading: Reading,
        oddities: Oddities,
    ) -> None:
        self._image_key, self._target_key, self._reading, self._oddities = image_key, target_key, reading, oddities
        self._offset, self._num_classes, self._ignore_label = options.target_offset, num_classes, options.ignore_label
        self._features = tfds.features.FeaturesDict({key: features[key] for key in (image_key, target_key)})
        encoded = [key for key, feature in self._features.items() if isinstance(feature, tfds.features.Image)]
        self._skip = {key: tfds.decode.SkipDecoding() for key in encoded}
        self._stored = features[image_key].shape[:2]
        if reading.size is None and None in self._stored:
            raise ValueError(
                f"the set's images have no fixed size; give data.image_size=128 or [height,width]; {has(features)}"
            )
        self._dtype = label_dtype(num_classes, options.ignore_label, is_mask=bool(features[target_key].shape))

    def __call__(self, record: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The image uint8 [H, W, C] and the target, [] or [H, W]; `name` is the example's.

        Raises:
            ValueError: a target is no class, or a size is another than the set's.
        """
        example = self._features.deserialize_example_np(record, decoders=self._skip)
        image, target, mask_turn = self._reading.image(example[self._image_key]), example[self._target_key], None
        if isinstance(target, bytes):
            mask = self._reading.mask(target)
            target, mask_turn = mask.pixels, mask.turn
        target = np.asarray(target)
        target = target.reshape(target.shape[:2]).astype(np.int32) + np.int32(self._offset)
        shape, is_upright = image.pixels.shape[:2], self._reading.is_upright
        if target.ndim and target.shape != shape:
            turned = f"; {AS_STORED}" if is_upright and image.turn != mask_turn else ""
            raise ValueError(f"the image is {by(shape)} and its mask {by(target.shape)}{turned}")
        if self._reading.size is None and shape != self._stored:
            turned = f", or {AS_STORED}" if is_upright and image.turn != 1 else ""
            raise ValueError(f"the image is {by(shape)}, not as the set says; give data.image_size{turned}")
        self._check(target)
        self._oddities.add(name, image, mask_turn=mask_turn)
        pixels, target = self._reading.resize(image.pixels, target)
        return pixels, target.astype(self._dtype)

    def is_unlabelled(self, record: bytes) -> bool:
        """Whether a record has the label -1, TFDS's sign for a missing one."""
        label = np.asarray(self._features.deserialize_example_np(record, decoders=self._skip)[self._target_key])
        return not label.shape and label.dtype.kind == "i" and int(label) == -1

    def _check(self, target: np.ndarray) -> None:
        counted = target if self._ignore_label is None else target[target != self._ignore_label]
        if counted.size and not 0 <= counted.min() <= counted.max() < self._num_classes:
            if not target.ndim and target == self._offset - 1:
                raise ValueError(
                    "labels -1, TFDS's sign for a missing label; choose other examples with data.splits, "
                    f"or data.ignore_label={self._offset - 1} lets them count nowhere"
                )
            ignored = "" if self._ignore_label is None else f" or {self._ignore_label}, which is ignored"
            raise ValueError(
                f"labels {', '.join(map(str, np.unique(target)[:12]))} (data.target_offset={self._offset} added); with "
                f"{self._num_classes} classes they must be 0 to {self._num_classes - 1}{ignored}. Name all classes "
                "with data.class_names, or set data.target_offset or data.ignore_label"
            )


def find_keys(info: Any, image_key: str | None, target_key: str | None) -> tuple[str, str]:
    """The features that are images and targets: those given, those that the set is made for, or the only ones.

    Raises:
        ValueError: there is none, or several.
    """
    features = dict(sorted(info.features.items()))
    images = [key for key, feature in features.items() if _is_image(feature)]
    supervised = info.supervised_keys if info.supervised_keys and len(info.supervised_keys) == 2 else (None, None)
    if image_key is None and supervised[0] in images:
        image_key = supervised[0]
    labelled = [key for key in images if isinstance(features[key], tfds.features.LabeledImage)]
    masks = labelled or [key for key in images if features[key].shape[-1] == 1]
    others = [key for key in images if key not in masks]
    pictures = [key for key in others if features[key].shape[-1] != 1] or others or masks
    image_key = _only("image", image_key, pictures, features)
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    targets = [key for key in (*masks, *labels) if key != image_key]
    if target_key is None and supervised[1] in targets:
        target_key = supervised[1]
    target_key = _only("target", target_key, targets, features)
    if len(features[image_key].shape or ()) != 3 or features[image_key].np_dtype not in (np.uint8, np.uint16):
        raise ValueError(f"data.image_key is {image_key!r}, no image of 8 or 16 bits; {has(features)}")
    target = features[target_key]
    is_mask = len(target.shape) == 2 or (len(target.shape) == 3 and target.shape[2] == 1)
    if not (np.issubdtype(target.np_dtype, np.integer) and (is_mask or not target.shape)):
        raise ValueError(f"data.target_key is {target_key!r}, neither a label nor a mask; {has(features)}")
    return image_key, target_key


def find_splits(
    info: Any, decode: Decoder, *, given: Mapping[str, str | None], val_share: float, test_share: float
) -> dict[str, Sequence]:
    """The examples of train, val and test, of those that exist.

    Raises:
        ValueError: there is no such split, two share examples, or a share is not from 0 to below 1.
    """
    if unknown := set(given) - set(SPLIT_NAMES):
        raise ValueError(f"data.splits has {', '.join(sorted(unknown))}; it may have {', '.join(SPLIT_NAMES)}")
    there = {name: split for name, split in info.splits.items() if split.num_examples}
    listed = ", ".join(f"{name} ({split.num_examples:,})" for name, split in there.items())
    chosen: dict[str, str] = {}
    for name, names in SPLIT_NAMES.items():
        if expression := given.get(name) or next((n for n in names if n in there), None):
            chosen[name] = expression
    if "train" not in chosen:
        if len(there) != 1:
            raise ValueError(f"the set has no split train, but {listed}; choose with data.splits.train=...")
        chosen["train"] = next(iter(there))
    found: dict[str, Sequence] = {}
    ranges: dict[str, list[Any]] = {}
    for name, expression in chosen.items():
        try:
            ranges[name] = [part for part in info.splits[expression].file_instructions if part.take]
        except Exception as error:  # TFDS's own, and what its parser raises
            raise ValueError(f"data.splits.{name} is {expression!r}; the set has {listed}") from error
        if not ranges[name]:
            raise ValueError(f"data.splits.{name} is {expression!r}, which has no example; the set has {listed}")
        records = Records(ranges[name], info.file_format.value)
        examples = Examples(f"{info.name}'s {expression}", records, decode)
        if name == "test" and not given.get(name) and decode.is_unlabelled(records[0]):
            log.info("the split %s of %s has no labels, and is left out", expression, info.name)
            continue
        found[name] = examples
    _check_disjoint({name: ranges[name] for name in found}, chosen)
    return _with_shares(found, {"val": val_share, "test": test_share})


def has(features: Any) -> str:
    """What a set has, for messages."""
    return "the set has " + ", ".join(f"{key}: {_described(feature)}" for key, feature in sorted(features.items()))


def _with_shares(found: dict[str, Sequence], shares: Mapping[str, float]) -> dict[str, Sequence]:
    """Take missing splits from train: always the same examples."""
    train = found["train"]
    order, start = np.random.default_rng(0).permutation(len(train)), 0
    for name, share in shares.items():
        if name not in found and share:
            stop = start + math.ceil(share * len(train))
            found[name] = Subset(train, np.sort(order[start:stop]))
            start = stop
    if start >= len(train):
        raise ValueError(f"val_share and test_share leave none of {len(train)} examples to train with")
    found["train"] = Subset(train, np.sort(order[start:]))
    return found


def _check_disjoint(ranges: Mapping[str, Sequence[Any]], chosen: Mapping[str, str]) -> None:
    for first, second in itertools.combinations(ranges, 2):
        shared = sum(
            max(0, min(a.skip + a.take, b.skip + b.take) - max(a.skip, b.skip))
            for a in ranges[first]
            for b in ranges[second]
            if a.filename == b.filename
        )
        if shared:
            raise ValueError(
                f"data.splits: {first}, {chosen[first]!r}, and {second}, {chosen[second]!r}, have {shared} "
                "examples in common; what is measured must not have been trained on"
            )


def _classes(
    info: Any, target_key: str, offset: int, num_classes: int | None, class_names: Sequence[str] | None
) -> tuple[int, Sequence[str] | None]:
    """How many classes the targets have after the offset, and their names where they are known."""
    names = class_names or (None if num_classes else getattr(info.features[target_key], "names", None))
    if names and not class_names:
        names = names[-offset:] if offset < 0 else [*(f"class {i}" for i in range(offset)), *names]
    if num_classes is None and not names:
        raise ValueError(
            f"{info.name} does not say how many classes {target_key} has; give data.num_classes or data.class_names, "
            f"and data.target_offset=-1 where the lowest is 1; {has(info.features)}"
        )
    return num_classes or len(names or ()), names


def _channels(feature: Any, wanted: int | None) -> int:
    """Of images as they are read: by default as they are stored, without opacity."""
    depth = feature.shape[-1]
    channels = wanted or {1: 1, 3: 3, 4: 3, None: 3}.get(depth)
    if channels not in (1, 3):
        raise ValueError(f"the images have {depth} channels; give data.channels=1 or 3")
    return channels


def _is_image(feature: Any) -> bool:
    return isinstance(feature, tfds.features.Image) and len(feature.shape) == 3


def _only(what: str, key: str | None, candidates: Sequence[str], features: Any) -> str:
    if key is not None:
        if key not in features:
            raise ValueError(f"data.{what}_key is {key!r}; {has(features)}")
        return key
    if len(candidates) != 1:
        which = f"{' or '.join(candidates)} could be" if candidates else "no feature is of the kind of"
        raise ValueError(f"{which} the {what}; choose with data.{what}_key=...; {has(features)}")
    return candidates[0]


def _described(feature: Any) -> str:
    shape = "x".join("?" if n is None else str(n) for n in getattr(feature, "shape", None) or ())
    classes = getattr(feature, "num_classes", None)
    return " ".join(filter(None, [type(feature).__name__, shape, f"of {classes} classes" if classes else ""]))
