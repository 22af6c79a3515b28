"""A user's own folder of images, with masks or with a folder for each class, as a data set.

    data = image_folder(path="photos", image_size=[128, 128], batch_size=32, seed=0)
    data.class_names        # ("background", "road", "sky")

`src.data.images.folder_layout` lists the layouts, `src.data.images.folder_check` what is checked.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from src.common.ranges import Share, enforce_ranges, takes
from src.common.text import printable, size
from src.data import SPLITS
from src.data.data import DataError
from src.data.images.files import BadImage, Reading, by
from src.data.images.folder_check import (
    Facts,
    Findings,
    Role,
    cache_file,
    colours_to_name,
    find_problems,
    look_at_files,
    problem_list,
)
from src.data.images.folder_classes import Classes, Colour, find_classes
from src.data.images.folder_layout import Example, Kind, Layout, find_layout
from src.data.images.image_data import ImageData, label_dtype
from src.data.images.oddities import Oddities
from src.data.images.options import ImageOptions
from src.data.threads import in_memory

log = logging.getLogger(__name__)


@enforce_ranges
@dataclass(frozen=True, kw_only=True)
class FolderOptions(ImageOptions):
    """Options of a folder, beside those of all images.

    Args:
        path: the folder; relative to the working directory, or from the home with `~`.
        kind: `masks` refuses a folder of classes, `classes` one of images and masks; None takes either.
        channels: 1 gray, 3 RGB, 4 RGB and opacity.
        class_names: by default the lines of `classes.txt` in the folder, else the sorted class folders, or for masks
            as many numbers as occur.
        mask_colors: the colour of each class, '#rrggbb' or [red, green, blue], in the order of their numbers. By
            default a mask's gray values or palette indices are the classes.
        mask_suffix: what the masks' names have more than the images': `_mask` for 1.jpg and 1_mask.png.
        ignore_label: a value in masks that does not count.
        ignore_color: a colour in masks that does not count; its label is `ignore_label`, or 255.
        val_share, test_share: of the images, or of each class's, if no folders name splits; chosen by a hash
            of their names and `split_seed`, so that few change their split when some are added.
        skip_bad: leave out what cannot be used.
        cache_dir: where check results are remembered; by default below ~/.cache.
    """

    path: str
    kind: Kind | None = None
    channels: Literal[1, 3, 4] = 3
    mask_colors: Mapping[str, Colour] | None = None
    mask_suffix: str | None = None
    ignore_color: Colour | None = None
    val_share: Share = 0.15
    test_share: Share = 0.15
    split_seed: int = 0
    skip_bad: bool = False
    cache_dir: str | None = None


@takes(FolderOptions)
def image_folder(options: FolderOptions) -> ImageData:
    """Images uint8 [H, W, channels] with masks [H, W], or with int32 labels.

    Every file is decoded once to check it; the result is remembered until the file changes.

    Raises:
        ValueError: options do not fit the folder, or one another.
        DataError: files cannot be used; all are named.
    """
    reading = options.reading(options.channels)
    if options.val_share + options.test_share >= 1:
        shares = f"{options.val_share} and {options.test_share}"
        raise ValueError(f"data.val_share and data.test_share are {shares}: nothing is left to train")
    root = Path(options.path).expanduser()
    suffix = "" if options.mask_suffix is None else str(options.mask_suffix)
    layout = find_layout(root, mask_suffix=suffix, kind=options.kind)
    classes = find_classes(
        layout,
        class_names=options.class_names,
        mask_colors=options.mask_colors,
        ignore_label=options.ignore_label,
        ignore_color=options.ignore_color,
    )
    reading = replace(reading, outside=classes.ignore_label)
    if layout.has_masks:
        reading.check_edges()
    usable, sizes, num_classes = _usable(layout, classes, options, reading)
    reading = replace(reading, size=reading.size or _only_size(root, sizes))
    splits = split_examples(usable, val_share=options.val_share, test_share=options.test_share, seed=options.split_seed)
    _check_splits(layout, usable, splits)
    names = classes.names or tuple(map(str, range(num_classes)))
    dtype = label_dtype(num_classes, classes.ignore_label, is_mask=layout.has_masks)
    files = {split: Files(root, tuple(examples), reading, classes, dtype) for split, examples in splits.items()}
    loaded, held = in_memory(files, str(root), max_memory_gib=options.max_memory_gib)
    where = "on disk" if loaded == files else "in memory"
    resized = f"{by(reading.size or ())}{f' by {reading.fit}' if reading.fit else ''}"
    _log_found(layout, splits, names, f"{resized}, {size(held)} {where}")
    told = {"num_classes": num_classes, "class_names": names, "ignore_label": classes.ignore_label}
    return options.image_data(**loaded, **told, limit=options.limit)


def _usable(
    layout: Layout, classes: Classes, options: FolderOptions, reading: Reading
) -> tuple[list[Example], dict[str, tuple[int, int]], int]:
    """The examples that can be used, their images' sizes by path, and how many classes there are."""
    root, cache = layout.root, cache_file(options.cache_dir, layout.root)
    facts = look_at_files(root, _roles(layout, classes), cache=cache, reading=reading)
    findings = find_problems(layout, facts, classes, reading=reading)
    num_classes = _checked_count(findings, classes, root)
    usable = [example for number, example in enumerate(layout.examples) if number not in findings.problems]
    sizes = {str(example.image): facts[str(example.image)].size for example in usable}
    if findings.problems:
        if findings.need_colours and (advice := colours_to_name(layout, cache=cache)):
            findings = replace(findings, advice=[*findings.advice, advice])
        text = problem_list(layout, findings, skip=options.skip_bad, cache=cache)
        if not (options.skip_bad and usable):
            resize = " The others are of several sizes: give data.image_size too."
            raise DataError(text + (resize if reading.size is None and len(set(sizes.values())) > 1 else ""))
        log.warning("%s", text)
    _report_oddities(usable, facts, root, reading)
    if num_classes < 2:
        raise ValueError(f"the masks in {root} have no label except 0; two classes are needed")
    return usable, sizes, num_classes


@dataclass(frozen=True)
class Files(Sequence):
    """The examples of a split, each read when it is asked for.

    As (image uint8 [H, W, channels], mask [H, W] or label []), masks and labels of this dtype.
    """

    root: Path
    examples: tuple[Example, ...]
    reading: Reading
    classes: Classes
    dtype: np.dtype

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index):
        example = self.examples[index]
        path = self.root / str(example.image)
        try:
            image = self.reading.image(path).pixels
            path = self.root / str(example.mask)
            target = self._labels(path) if example.mask else np.array(self.classes.number_of(str(example.class_name)))
        except BadImage as error:
            raise DataError(f"{printable(path)}: {error}; it was fine when the files were checked") from error
        image, target = self.reading.resize(image, target)
        return image, target.astype(self.dtype)

    def _labels(self, path: Path) -> np.ndarray:
        labels = self.classes.labels
        mask = self.reading.mask(path, colors=labels is not None).pixels
        if labels is None:
            return mask
        colours, places = np.unique(mask, return_inverse=True)
        return np.array([labels[colour] for colour in colours.tolist()])[places].reshape(mask.shape)


def split_examples(
    examples: Sequence[Example], *, val_share: float, test_share: float, seed: int
) -> dict[str, list[Example]]:
    """The examples of each split that has some, in their order.

    Where folders name the splits, they do; a missing val is then taken from train, a missing test stays so. Else shares
    of each class are taken: in the order of a hash of seed and name the first are test, the last val.
    """
    by_folder = any(example.split for example in examples)
    if by_folder:
        splits = {split: [example for example in examples if example.split == split] for split in SPLITS}
        if splits["val"]:
            return {split: found for split, found in splits.items() if found}
        examples = splits["train"]
    by_class: dict[str | None, list[Example]] = defaultdict(list)
    for example in examples:
        by_class[example.class_name].append(example)
    chosen: dict[Example, str] = {}
    for members in by_class.values():
        members = sorted(
            members, key=lambda e: hashlib.sha256(f"{seed}/{e.name}".encode(errors="surrogateescape")).digest()
        )
        test = 0 if by_folder else min(_count(test_share, len(members)), len(members) - 1)
        val = min(_count(val_share, len(members)), len(members) - 1 - test)
        chosen |= dict.fromkeys(members[:test], "test") | dict.fromkeys(members[len(members) - val :], "val")
    found = {split: [e for e in examples if chosen.get(e, "train") == split] for split in SPLITS}
    if by_folder:
        found["test"] = splits["test"]
    return {split: members for split, members in found.items() if members}


def _count(share: float, total: int) -> int:
    """So many of a total; of three or more at least one, if any."""
    return max(round(share * total), 1 if share and total >= 3 else 0)


def _check_splits(layout: Layout, usable: Sequence[Example], splits: Mapping[str, Sequence[Example]]) -> None:
    if lost := {str(example.split) for example in layout.examples} - {str(example.split) for example in usable}:
        raise ValueError(f"no image of {', '.join(sorted(lost))} in {layout.root} can be used")
    if lost := set(layout.classes) - {str(example.class_name) for example in splits.get("train", [])}:
        raise ValueError(f"no usable image of {', '.join(sorted(lost))} in {layout.root} is left to train with")


def _checked_count(findings: Findings, classes: Classes, root: Path) -> int:
    """How many classes there are."""
    count, ignored = findings.classes, classes.ignore_label
    if ignored is not None and 0 <= ignored < count:
        raise ValueError(
            f"data.ignore_label is {ignored}, which is among the {count} classes from 0 on; give values as colours, "
            "'data.mask_colors={a:[1,1,1],b:[2,2,2]}' and data.ignore_color=[0,0,0]"
        )
    return count


def _only_size(root: Path, sizes: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """(H, W) of all images; `sizes` are those in the files."""
    counts = Counter(sizes.values()).most_common()
    if len(counts) > 1:
        examples = [f"{by(found)} in {next(file for file in sizes if sizes[file] == found)}" for found, _ in counts[:2]]
        raise ValueError(
            f"the images in {root} have {len(counts)} sizes, such as {' and '.join(examples)}; "
            "resize them: data.image_size=128, or data.image_size=[96,128] for height and width"
        )
    return counts[0][0]


def _roles(layout: Layout, classes: Classes) -> dict[str, Role]:
    """What each file is; doubles belong to no example."""
    images: dict[str, Role] = {example.image: "image" for example in layout.examples if example.image}
    kind: Role = "mask" if classes.labels is None else "colour mask"
    return images | {example.mask: kind for example in layout.examples if example.mask}


def _report_oddities(usable: Sequence[Example], facts: Mapping[str, Facts], root: Path, reading: Reading) -> None:
    oddities = Oddities(str(root), reading)
    for example in usable:
        mask_turn = facts[example.mask].turn if example.mask else None
        oddities.add(str(example.image), facts[str(example.image)], mask_turn=mask_turn)
    oddities.report()


def _log_found(layout: Layout, splits: Mapping[str, Sequence[Example]], names: Sequence[str], held: str) -> None:
    counts = ", ".join(f"{len(examples)} {split}" for split, examples in splits.items())
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    kind = "images with masks" if layout.has_masks else "images"
    log.info("%s: %s (%s), %s; %s", printable(layout.root), kind, counts, held, f"{len(names)} classes: {shown}")
    images = [example for example in layout.examples if example.class_name]
    if images and all("/" in example.name for example in images):
        folder = Path(str(images[0].image)).parent
        log.warning(
            "%s: no image lies in the folder of its class itself, all lie deeper, as in %s, and are of the class %s: "
            "if the inner folders are the classes, give a folder that has one for each as data.path",
            *(printable(layout.root), printable(folder), printable(images[0].class_name)),
        )
    if layout.passed_over:
        others = ", ".join(f"{count} {what}" for what, count in layout.passed_over.most_common(5))
        log.info("%s: passed over: %s", printable(layout.root), printable(others))
