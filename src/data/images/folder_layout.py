"""The layout of a user's folder of images: pairs of image and mask, or images by class, in splits or not.

layout = find_layout(Path("photos"))
layout.has_masks, layout.classes            # True, ()
layout.examples[0]                          # Example(name="a/1", image="images/a/1.jpg", mask="masks/a/1.png", ...)

The layouts, where S/ stands for the folders train/, val/ and test/, or for nothing:

    S/images/a/1.jpg  S/masks/a/1.png       or images/S/a/1.jpg  masks/S/a/1.png
    S/cats/a/1.jpg
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from src.common.files import walk
from src.common.ranges import enforce_ranges
from src.common.text import printable, same_name
from src.data.images.files import SUFFIXES

IMAGES, MASKS = "images", "masks"
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
# Folders that hold what images or masks are often called, and no class.
NOT_CLASSES = ("image", "img", "imgs", "mask", "label", "labels", "annotation", "annotations", "segmentation")
SHOWN = 8  # names in a message

Kind = Literal["masks", "classes"]
OPTIONS: Mapping[Kind, str] = {"masks": "data=image_folder", "classes": "data=class_folder model=cnn"}


@dataclass(frozen=True)
class Example:
    """An image and what belongs to it.

    Attributes:
        name: the path below its split and class, without suffix: the same for an image and its mask.
        split: train, val or test; None if no folder names one.
        image: its path below the root, with slashes; None if there is none.
        mask: its path, in the same form.
        doubles: further images or masks of this name.
        class_name: the folder of its class.
        problem: (path, reason) why it cannot be used, judged by names alone.
    """

    name: str
    split: str | None
    image: str | None
    mask: str | None = None
    doubles: tuple[str, ...] = ()
    class_name: str | None = None
    problem: tuple[str, str] | None = None


@dataclass(frozen=True)
class Layout:
    """What has been found.

    Attributes:
        has_masks: images have masks; else they have classes.
        classes: the folders' names, sorted; none with masks.
        examples: sorted by split, class and name.
        passed_over: how many files are not part of it, by their suffix.
    """

    root: Path
    has_masks: bool
    classes: tuple[str, ...]
    examples: tuple[Example, ...]
    passed_over: Counter[str]


@enforce_ranges
def find_layout(root: Path, *, mask_suffix: str = "", kind: Kind | None = None) -> Layout:
    """Find out how a folder is laid out. Hidden files and folders do not count.

    Args:
        mask_suffix: what the masks' stems have more than the images', such as `_mask`.
        kind: images with `masks`, or in folders of `classes`; None takes either.

    Raises:
        ValueError: there is no such folder, or it is laid out in neither way or not as `kind` says, or no image has a
            mask; the message says what was found, and the option that fits.
    """
    if not root.is_dir():
        raise ValueError(
            f"data.path is {str(root)!r}, {'a file' if root.exists() else 'which does not exist'}; name a folder"
        )
    passed_over: Counter[str] = Counter()
    files = list(_images_below(root, passed_over))
    split_folders = _split_folders(_folders(root), str(root))
    parts = {split: root / folder for split, folder in split_folders.items()} or {"": root}
    if not files:
        raise ValueError(f"no image below data.path={root}; images end in {' '.join(SUFFIXES)}")
    for folder in split_folders.values():
        _check_filled(root / folder, _below(files, folder))
    _check_level(root, kind)
    pairs = {split: _pair_of_folders(part) for split, part in parts.items()}
    if len({bool(found) for found in pairs.values()}) > 1:
        lacking = next(parts[split] for split, found in pairs.items() if not found)
        raise ValueError(f"{lacking} has no {IMAGES}/ and {MASKS}/ as the other splits have")
    classes: tuple[str, ...] = ()
    if all(pairs.values()):
        if kind == "classes":
            raise ValueError(
                f"{root} has {IMAGES}/ and {MASKS}/, and no folder for each class: "
                f"{OPTIONS['masks']} takes images with masks"
            )
        examples = _with_masks(root, pairs, files, same_name(mask_suffix))
    else:
        classes = _classes(root, parts, files)
        if kind == "masks":
            raise ValueError(
                f"{root} has no {IMAGES}/ and {MASKS}/, but {len(classes)} folders, {_listed(classes)}: "
                f"if these are classes, {OPTIONS['classes']}; else call the folders {IMAGES} and {MASKS}"
            )
        if mask_suffix:
            raise ValueError(f"data.mask_suffix is {mask_suffix!r}, and there are no {MASKS}/ in {root}")
        examples = _with_classes(root, parts, files, classes)
    if outside := len(files) - sum((e.image is not None) + (e.mask is not None) + len(e.doubles) for e in examples):
        passed_over["images in other folders"] += outside
    return Layout(root, not classes, classes, tuple(examples), passed_over)


def _check_filled(folder: Path, files: Sequence[str]) -> None:
    if not files:
        raise ValueError(f"{folder} has no image; fill it or remove it")


def _check_level(root: Path, kind: Kind | None) -> None:
    """Refuse the folder of images, or of masks, in place of the one that has both."""
    here = root.resolve()
    if here.name.lower() not in (IMAGES, MASKS) or (kind == "classes" and len(_folders(here)) > 1):
        return
    with suppress(OSError):  # a folder above need not be readable
        if {name.lower() for name in _folders(here.parent)} >= {IMAGES, MASKS}:
            parent = here.parent if root.name in ("", "..") else root.parent
            option = f"{OPTIONS['masks']} " if kind == "classes" else ""
            raise ValueError(
                f"data.path={root} is only one of {IMAGES}/ and {MASKS}/; give their parent: {option}data.path={parent}"
            )


def _pair_of_folders(part: Path) -> dict[str, Path]:
    """The folders of images and of masks, in upper or lower case; none where there is neither."""
    found = {name.lower(): part / name for name in _folders(part) if name.lower() in (IMAGES, MASKS)}
    for kind, other in ((IMAGES, MASKS), (MASKS, IMAGES)):
        if other in found and kind not in found:
            raise ValueError(f"{part} has {other}/ and no {kind}/; it has {_listed(_folders(part))}")
    return found


def _with_masks(
    root: Path, pairs: Mapping[str, Mapping[str, Path]], files: Sequence[str], mask_suffix: str
) -> list[Example]:
    folders: dict[tuple[str, str], str] = {}  # (split, images or masks): folder below the root
    for split, part in pairs.items():
        for kind, path in part.items():
            folder = path.relative_to(root).as_posix()
            inner = {} if split else _split_folders(_folders(path), str(path))
            folders |= {(name, kind): f"{folder}/{below}" for name, below in inner.items()} or {(split, kind): folder}
    splits = {kind: sorted(split for split, k in folders if k == kind) for kind in (IMAGES, MASKS)}
    if splits[IMAGES] != splits[MASKS]:
        found = [f"{kind}/ has {', '.join(filter(None, splits[kind])) or 'no splits'}" for kind in splits]
        raise ValueError(f"the splits below {root} differ: {' and '.join(found)}")
    paths: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: {IMAGES: [], MASKS: []})
    names: dict[str, list[str]] = {IMAGES: [], MASKS: []}  # as they are
    for (split, kind), folder in folders.items():
        for file in _below(files, folder):
            name = same_name(os.path.splitext(file)[0])
            names[kind].append(name)
            if kind == MASKS:  # without the suffix it is the mask of no image
                name = name.removesuffix(mask_suffix) if name.endswith(mask_suffix) else f"{folder}/{file}"
            paths[split, name][kind].append(f"{folder}/{file}")
    if not any(all(found.values()) for found in paths.values()):
        raise ValueError(_no_pair(root, names[IMAGES], names[MASKS], mask_suffix))
    examples = [_pair(split, name, folders[split, IMAGES], *found.values()) for (split, name), found in paths.items()]
    return sorted(examples, key=lambda e: (e.split or "", e.name))


def _no_pair(root: Path, images: Sequence[str], masks: Sequence[str], mask_suffix: str) -> str:
    """What is wrong where no image has a mask, and the suffix that would help."""
    for kind, found in {IMAGES: images, MASKS: masks}.items():
        if not found:
            return f"{root} has no image in {kind}/; images end in {' '.join(SUFFIXES)}"
    rests: Counter[str] = Counter()
    known = set(images)
    for mask in masks:
        starts = (mask[:length] for length in range(len(mask), 0, -1))
        if image := next((start for start in starts if start in known), None):
            rests[mask.removeprefix(image)] += 1
    wanted = f"the image's name and data.mask_suffix={mask_suffix}" if mask_suffix else "its own name"
    lacking = f"no image in {root} has a mask of {wanted}"
    if not rests:
        return (
            f"{lacking}: the first image is called {min(images)}, the first mask {min(masks)}; "
            "give both one name, or masks a common end, data.mask_suffix=_mask"
        )
    rest, count = rests.most_common(1)[0]
    if not rest:
        return f"{lacking}, but {_masks(count, 'has', 'have')} the image's own name: data.mask_suffix=null"
    plain = re.fullmatch(r"[A-Za-z_.-][\w.-]*", rest)
    option = f"data.mask_suffix={rest}" if plain else f"\"data.mask_suffix='{rest}'\""
    return f"{lacking}, but {_masks(count, 'ends', 'end')} in {rest if plain else repr(rest)}: {option}"


def _masks(count: int, one: str, many: str) -> str:
    return f"1 mask {one}" if count == 1 else f"{count} masks {many}"


def _pair(split: str, name: str, folder: str, images: list[str], masks: list[str]) -> Example:
    problem = None
    doubles = (*images[1:], *masks[1:])
    if not masks:
        problem = images[0], "its mask is missing"
    elif not images:
        problem = masks[0], "its image is missing"
    elif doubles:
        problem = doubles[0], f"{(images if len(images) > 1 else masks)[0]} has the same name"
    if images:  # its own spelling, by which splits are drawn
        name = os.path.splitext(images[0].removeprefix(f"{folder}/"))[0]
    image, mask = next(iter(images), None), next(iter(masks), None)
    return Example(name, split or None, image, mask, doubles, problem=problem)


def _classes(root: Path, parts: Mapping[str, Path], files: Sequence[str]) -> tuple[str, ...]:
    by_split = {split: _folders(part) for split, part in parts.items()}
    where, classes = parts.get("train", root), by_split.get("train", by_split.get("", []))
    if len(classes) < 2:
        deeper = where / classes[0] if classes else where
        hint = f": give data.path={deeper}" if len(_folders(deeper)) > 1 else ""
        raise ValueError(
            f"{where} has neither {IMAGES}/ and {MASKS}/ nor a folder for each of two or more classes; "
            f"it has {_listed(sorted(os.listdir(where)))}{hint}"
        )
    if alike := [name for name in classes if name.lower() in NOT_CLASSES]:
        raise ValueError(
            f"{where} has {_listed(classes)}: as classes, {alike[0]} is a strange one. "
            f"If these are images and their masks, call the folders {IMAGES} and {MASKS}"
        )
    if len(spelt := {same_name(name): name for name in classes}) < len(classes):
        twice = next(name for name in classes if spelt[same_name(name)] != name)
        raise ValueError(f"{where} has {printable(twice)} twice, in two spellings of Unicode; put its images together")
    for split, names in by_split.items():
        if unknown := sorted(name for name in names if same_name(name) not in spelt):
            raise ValueError(f"{parts[split]} has {_listed(unknown)}, which is no class of {where}")
    for name in classes:
        _check_filled(where / name, _below(files, (where / name).relative_to(root).as_posix()))
    return tuple(classes)


def _with_classes(root: Path, parts: Mapping[str, Path], files: Sequence[str], classes: Sequence[str]) -> list[Example]:
    examples, spelt = [], {same_name(name): name for name in classes}
    for split, part in parts.items():
        folder = part.relative_to(root).as_posix()
        for file in _below(files, folder):
            path = str(PurePosixPath(folder, file))
            class_name, has_class, rest = file.partition("/")
            name = os.path.splitext(rest or class_name)[0]
            if has_class:
                known = spelt.get(same_name(class_name), class_name)
                examples.append(Example(name, split or None, path, class_name=known))
            else:
                problem = path, "it lies in no class's folder"
                examples.append(Example(name, split or None, path, problem=problem))
    return sorted(examples, key=lambda e: (e.split or "", e.class_name or "", e.image or ""))


def _split_folders(names: Sequence[str], where: str) -> dict[str, str]:
    """The folder of each split, if that is what the folders are."""
    known = [name for name in names if name.lower() in SPLIT_NAMES]
    others = [name for name in names if name not in known]
    if not known or (others and len(known) == 1):  # such as the classes bus, car, train
        return {}
    found: dict[str, str] = {}
    for name in known:
        other = found.setdefault(SPLIT_NAMES[name.lower()], name)
        if other != name:
            raise ValueError(f"{where} has {other}/ and {name}/, which name the same split; keep one")
    if others:
        raise ValueError(f"{where} has splits, {_listed(known)}, and beside them {_listed(others)}; move these away")
    if "train" not in found:
        raise ValueError(f"{where} has {_listed(known)} and no train/")
    return found


def _images_below(root: Path, passed_over: Counter[str]) -> Iterator[str]:
    for parent, folders, names in walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = PurePosixPath(os.path.relpath(parent, root).replace(os.sep, "/"))
        for name in sorted(names):
            if name.startswith("."):
                continue
            ending = os.path.splitext(name)[1].lower()
            if ending in SUFFIXES:
                yield str(below / name)
            else:
                passed_over[ending or name] += 1


def _below(files: Sequence[str], folder: str) -> list[str]:
    """The files in a folder below the root, `.` the root itself, by their paths in it."""
    start = "" if folder == "." else f"{folder}/"
    return [file.removeprefix(start) for file in files if file.startswith(start)]


def _folders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "nothing"
