"""Whether a user's files can be used: each is decoded once, and the result is remembered.

cache = cache_file(None, Path("photos"))
facts = look_at_files(Path("photos"), {"images/1.jpg": "image", "masks/1.png": "mask"}, cache=cache)
facts["masks/1.png"]                            # Facts(size=(480, 640), values=(0, 1, 2))
findings = find_problems(layout, facts, Classes())
findings.problems                               # {3: ("masks/4.png", "label 7, while no mask has 3")}
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL

from src.common import files
from src.common.text import plural, printable
from src.data.images.files import HAS_COLOURS, BadImage, Reading, by, why_too_deep
from src.data.images.folder_classes import Classes, typed
from src.data.images.folder_layout import Layout
from src.data.threads import in_threads

log = logging.getLogger(__name__)

VERSION = f"5, Pillow {PIL.__version__}"  # of what is remembered; another one looks anew
MOST_VALUES = 1024  # in one mask; photographs and smeared masks have more
MOST_LINES = 10  # of a message
UPRIGHT = Reading()
SHOWN_COLOURS, COUNTED_MASKS = 8, 32  # in advice; masks whose pixels are counted for it

Role = Literal["image", "mask", "colour mask"]


@dataclass(frozen=True)
class Facts:
    """What was found in a file.

    Attributes:
        size: (H, W), upright or, if so asked for, as the pixels are stored.
        values: those in a mask.
        error: why it cannot be used; the rest is then meaningless.
        colours: (colour 0xrrggbb, value) of the values that alone have a colour in a mask's palette.
        turn, bits, is_deep_colour: as those of `src.data.images.files.Decoded`.
    """

    size: tuple[int, int] = (0, 0)
    values: tuple[int, ...] = ()
    error: str | None = None
    colours: tuple[tuple[int, int], ...] = ()
    turn: int | None = 1
    bits: int | None = None
    is_deep_colour: bool = False


@dataclass(frozen=True)
class Findings:
    """What is wrong with a folder.

    Attributes:
        problems: (path, reason) of the examples that cannot be used, by their number in the layout.
        classes: how many there are.
        advice: sentences on what may help.
        need_colours: whether some masks tell classes apart by colour, so that mask_colors should be given.
    """

    problems: Mapping[int, tuple[str, str]]
    classes: int
    advice: Sequence[str] = ()
    need_colours: bool = False


def cache_file(cache_dir: str | Path | None, root: Path) -> Path:
    """The file that remembers what was found in a folder's files.

    Args:
        cache_dir: by default `tensorflow-experiments` in $XDG_CACHE_HOME or ~/.cache.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "tensorflow-experiments")
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return Path(cache_dir or default).expanduser() / "image_folder" / f"{key}.json"


def look_at_files(
    root: Path, roles: Mapping[str, Role], *, cache: Path, reading: Reading = UPRIGHT
) -> dict[str, Facts]:
    """Open and decode each file that is new or has changed since the last time.

    Args:
        roles: what each file is, by its path below the root.
        cache: the file that remembers; a damaged one counts as none, and one that cannot be written is done without.
        reading: whether sizes are those of upright pixels, and how many bits images may have.
    """
    known = _remembered(cache)
    stamps = {path: _stamp(root / path) for path in roles}
    found: dict[str, list] = {}  # by path: stamp, and what Facts has
    for path, role in roles.items():
        entry = known.get(f"{role}:{path}")
        if entry and entry[0] == stamps[path]:
            found[path] = entry
    new = [path for path in roles if path not in found]
    if new:
        log.info("checking %s: %s", root, plural(len(new), "file"))
    try:
        with in_threads(lambda path: _look(root / path, roles[path]), new, f"checking {root}") as looks:
            for path, facts in zip(new, looks, strict=True):
                found[path] = [stamps[path], *astuple(facts)]
    finally:  # what an interrupted check has seen too
        asked = set(roles.values())
        entries = {key: entry for key, entry in known.items() if key.partition(":")[0] not in asked}
        entries |= {f"{roles[path]}:{path}": entry for path, entry in found.items()}
        if new or len(entries) < len(known):
            _remember(cache, entries)
    return {path: _as_read(Facts(*map(_tuples, entry[1:])), reading) for path, entry in found.items()}


def find_problems(
    layout: Layout, facts: Mapping[str, Facts], classes: Classes, *, reading: Reading = UPRIGHT
) -> Findings:
    """All examples that cannot be used: unreadable, without a partner, of different sizes, with values of no class."""
    problems: dict[int, tuple[str, str]] = {}
    masks: dict[int, Facts] = {}  # those that are right so far
    for number, example in enumerate(layout.examples):
        errors = {path: facts[path].error for path in (example.image, example.mask) if path and facts[path].error}
        if example.problem:
            problems[number] = example.problem
        elif errors:
            problems[number] = next(iter(errors)), "; its mask: ".join(map(str, errors.values()))
        elif example.image and example.mask:
            image, mask = facts[example.image], facts[example.mask]
            if image.size == mask.size:
                masks[number] = mask
            else:
                problems[number] = example.mask, _unlike(image, mask, reading)
    if not layout.has_masks:
        return Findings(problems, len(layout.classes))
    of_no_class, count, advice = classes.judge({number: mask.values for number, mask in masks.items()})
    otherwise = _numbered_otherwise(masks)
    need_colours = bool(otherwise) or any(HAS_COLOURS in reason for _, reason in problems.values())
    wrong = otherwise | of_no_class
    problems |= {number: (str(layout.examples[number].mask), reason) for number, reason in wrong.items()}
    return Findings(dict(sorted(problems.items())), count, advice, need_colours)


def problem_list(layout: Layout, findings: Findings, *, skip: bool, cache: Path) -> str:
    """The problems in at most 10 lines, rare ones first, and the way out; where not all have a line, a file has them.

    Args:
        skip: whether what cannot be used is left out, if anything remains.
        cache: of `cache_file`; the file with all problems lies beside it.
    """
    examples, problems = layout.examples, findings.problems
    images = sum(example.image is not None for example in examples)
    lone = sum(examples[number].image is None for number in problems)
    bad = len(problems) - lone
    is_some_left = bad < images
    outcome = "are left out" if skip and is_some_left else "cannot be used"
    heads = [f"{bad} of {plural(images, 'image')} in {layout.root} {outcome}"] if bad or not lone else []
    if lone:
        where = "" if bad else f" in {layout.root}"
        heads.append(f"{plural(lone, 'mask')}{where} {'has' if lone == 1 else 'have'} no image")
    if is_some_left:
        way_out = "" if skip else "Mend or remove them, or data.skip_bad=true leaves them out."
    else:
        way_out = "" if findings.advice else "Mend or remove them; data.skip_bad=true would leave none."
    lines = _lines(layout, list(problems.values()), images=images, listing=cache.with_suffix(".txt"))
    return "\n".join([" and ".join(heads) + ":", *lines, " ".join([way_out, *findings.advice]).strip()]).rstrip()


def _lines(layout: Layout, problems: Sequence[tuple[str, str]], *, images: int, listing: Path) -> list[str]:
    """A line for each reason; if there are more than fit, or files without a line, the listing is named."""
    groups: dict[str, list[str]] = {}
    for path, reason in sorted(problems):
        groups.setdefault(_shown(reason), []).append(_shown(path))
    ordered = sorted(groups.items(), key=lambda group: (len(group[1]), group[1]))
    masks = {example.mask for example in layout.examples}
    lines, have_all_a_line = [], True
    for reason, (path, *others) in ordered:
        where = path
        if others and len(others) + 1 == images:
            where = f"all {images} {'masks' if path in masks else 'images'}"
        elif others:
            where, have_all_a_line = f"{path} and {plural(len(others), 'other')}", False
        lines.append(f"  {where}: {reason}")
    room = MOST_LINES - 2
    if len(lines) <= room and have_all_a_line:
        return lines
    kept = room - 1
    left = sum(len(paths) for _, paths in ordered[kept:])
    written = _write(listing, "".join(f"{path}: {reason}\n" for reason, paths in ordered for path in paths))
    last = [*([f"... and {left} more"] if left else []), *([f"all are listed in {listing}"] if written else [])]
    return [*lines[:kept], *([f"  {'; '.join(last)}"] if last else [])]


def colours_to_name(layout: Layout, *, cache: Path) -> str:
    """The option that names the colours in masks, to be typed with the names of classes; "" where there are none."""
    roles: dict[str, Role] = {example.mask: "colour mask" for example in layout.examples if example.mask}
    facts = look_at_files(layout.root, roles, cache=cache)
    usable = [path for path, fact in facts.items() if fact.error is None]
    pixels = Counter({colour: 0 for path in usable for colour in facts[path].values})
    if not pixels:
        return ""
    for path in usable[:: -(-len(usable) // COUNTED_MASKS)]:
        colours = UPRIGHT.mask(layout.root / path, colors=True).pixels
        values, counts = np.unique(colours, return_counts=True)
        pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    shown = [typed(colour) for colour, _ in pixels.most_common(SHOWN_COLOURS)]
    named = ",".join(f"{name}:{colour}" for name, colour in zip(("background", *"abcdefg"), shown, strict=False))
    some = f", here the {len(shown)} most frequent of {len(pixels):,}" if len(pixels) > len(shown) else ""
    return f"Name the colours{some}: 'data.mask_colors={{{named}}}'."


def _look(path: Path, role: Role) -> Facts:
    try:
        if role == "image":
            image = UPRIGHT.image(path)
            return Facts(image.pixels.shape[:2], (), None, (), image.turn, image.bits, image.is_deep_colour)
        mask = UPRIGHT.mask(path, colors=role == "colour mask")
    except BadImage as error:
        return Facts(error=str(error))
    flat = mask.pixels.ravel()
    values = np.unique(np.append(flat[1:][flat[1:] != flat[:-1]], flat[0])).tolist()  # few are left of even areas
    if len(values) > MOST_VALUES:
        what = "colours" if role == "colour mask" else "labels"
        many = f"it has {len(values):,} {what}, as a photograph has; a mask has at most {MOST_VALUES:,}"
        return Facts(error=many)
    palette = mask.palette.tolist() if role == "mask" and mask.palette is not None else []
    counts = Counter(palette)
    colours = tuple((palette[v], v) for v in values if v < len(palette) and counts[palette[v]] == 1)
    return Facts(mask.pixels.shape, tuple(values), None, colours, mask.turn)


def _as_read(facts: Facts, reading: Reading) -> Facts:
    if not reading.is_upright and (facts.turn or 1) > 4:
        facts = replace(facts, size=facts.size[::-1])
    if reading.bit_depth is None or facts.bits is None or facts.error:
        return facts
    return replace(facts, error=why_too_deep(facts.bits, reading.bit_depth, is_deep_colour=facts.is_deep_colour))


def _unlike(image: Facts, mask: Facts, reading: Reading) -> str:
    """What is wrong where a mask has another size than its image."""
    turned = ""
    if image.size == mask.size[::-1]:
        turned = " (has one been turned?)"
        if reading.is_upright and image.turn != mask.turn:
            turned = " (EXIF data turn one of them; data.apply_exif=false takes both as they are stored)"
    return f"it is {by(mask.size)}, its image {by(image.size)}{turned}"


def _numbered_otherwise(masks: Mapping[int, Facts]) -> dict[int, str]:
    """Reasons of masks in whose palettes a colour has another label than in most: a program has numbered it anew."""
    counts: dict[int, Counter[int]] = defaultdict(Counter)
    for mask in masks.values():
        for colour, label in mask.colours:
            counts[colour][label] += 1
    usual = {colour: max(found, key=found.__getitem__) for colour, found in counts.items()}
    return {
        number: f"label {label} is {typed(colour)}, which is label {usual[colour]} in other masks"
        for number, mask in masks.items()
        for colour, label in reversed(mask.colours)
        if label != usual[colour]
    }


def _stamp(path: Path) -> list[int] | None:
    """What changes with a file's content, even if a program resets its times; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _remembered(cache: Path) -> dict[str, list]:
    """What is remembered, by role and path; nothing if the file was damaged since."""
    with suppress(OSError, ValueError):
        checksum, _, content = cache.read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() == checksum:
            values = json.loads(content)
            return values["entries"] if values["version"] == VERSION else {}
    return {}


def _remember(cache: Path, entries: Mapping[str, list]) -> None:
    content = json.dumps({"version": VERSION, "entries": entries}, separators=(",", ":"))
    _write(cache, f"{hashlib.sha256(content.encode()).hexdigest()}\n{content}")


def _tuples(value: Any) -> Any:
    """What JSON has made a list of."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _write(path: Path, content: str) -> bool:
    """Whether it could be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, content, at_once=False)
    except OSError as error:
        log.debug("%s cannot be written: %s", path, error)
        return False
    return True


def _shown(text: str) -> str:
    """Text on one line, whatever bytes a file's name has."""
    return " ".join(printable(text).split())
