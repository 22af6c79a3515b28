"""The classes of a user's folder, and which pixel values in its masks stand for them.

classes = find_classes(layout, mask_colors={"sky": "#87ceeb", "road": [128, 64, 128]})
classes.names                   # ("sky", "road")
classes.labels                  # {0x87ceeb: 0, 0x804080: 1}
classes.judge({3: (0x87ceeb, 0x000000)})[0]     # {3: "colour #000000 without a class"}
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.common.text import printable, same_name
from src.data.images.folder_layout import Layout

CLASSES_FILE = "classes.txt"
IGNORED = 255  # the label of an ignored colour

Colour = str | Sequence[int]


Judgement = tuple[dict[int, str], int, list[str]]  # reasons by mask, how many classes, sentences of advice


@dataclass(frozen=True)
class Classes:
    """The classes, as known before masks are read.

    Attributes:
        names: in the order of their numbers; None takes the values that occur in masks, from 0 on without a gap.
        labels: of each colour in masks, 0xrrggbb; None where the masks' values are labels.
        ignore_label: a label that is no class.
        hexadecimal: colours were given as '#rrggbb'; messages show them so too.
    """

    names: tuple[str, ...] | None = None
    labels: Mapping[int, int] | None = None
    ignore_label: int | None = None
    hexadecimal: bool = False

    def number_of(self, folder: str) -> int:
        """The label of what is in a class's folder."""
        return [same_name(name) for name in self.names or ()].index(same_name(printable(folder)))

    def judge(self, values: Mapping[int, Sequence[int]]) -> Judgement:
        """Which masks have values without a class, why, and what may help; `values` are those in each mask."""
        return self._judge_labels(values) if self.labels is None else self._judge_colours(values, self.labels)

    def _judge_labels(self, values: Mapping[int, Sequence[int]]) -> Judgement:
        occurring = {value for found in values.values() for value in found} - {self.ignore_label}
        if self.names is None:
            between = {self.ignore_label} if (self.ignore_label or 0) < max(occurring, default=0) else set()
            count = next(number for number in range(1, len(occurring) + 3) if number not in occurring | between)
            why = f"while no mask has {count}"
        else:
            count = len(self.names)
            why = f"and the {count} classes are 0 to {count - 1}"
        known = {*range(count), self.ignore_label}
        wrong = {number: sorted(set(found) - known) for number, found in values.items()}
        advice, unknown = [], occurring - known
        if 255 in unknown and self.ignore_label is None:
            advice.append("If 255 marks what is not to count: data.ignore_label=255.")
        if occurring == {0, 255}:
            advice.append("If it marks a class: 'data.mask_colors={background:[0,0,0],object:[255,255,255]}'.")
        elif unknown - {255}:
            advice.append("If such labels are classes, name all: data.class_names=[...], or classes.txt beside masks/.")
        reasons = {number: f"{_some(found, 'label')}, {why}" for number, found in wrong.items() if found}
        return reasons, count, advice

    def _judge_colours(self, values: Mapping[int, Sequence[int]], labels: Mapping[int, int]) -> Judgement:
        reasons = {}
        for number, found in values.items():
            if wrong := [typed(value, hexadecimal=self.hexadecimal) for value in sorted(set(found) - set(labels))]:
                reasons[number] = f"{_some(wrong, 'colour')} without a class"
        advice = "data.mask_colors must name the class of every colour; data.ignore_color may be one of none."
        return reasons, len(self.names or ()), [advice] if reasons else []


def find_classes(
    layout: Layout,
    *,
    class_names: Sequence[str] | None = None,
    mask_colors: Mapping[str, Colour] | None = None,
    ignore_label: int | None = None,
    ignore_color: Colour | None = None,
) -> Classes:
    """The classes that options and folder name: `mask_colors`, `class_names`, the lines of classes.txt, the folders.

    Raises:
        ValueError: a name or a colour occurs twice, a colour is malformed, or options contradict the folder or
            one another.
    """
    if class_names is not None and mask_colors is not None:
        raise ValueError("data.mask_colors names the classes: give it or data.class_names")
    if class_names is not None and not isinstance(class_names, list | tuple):
        raise ValueError(f"data.class_names is {class_names!r}; it must be a list of names, [cats,dogs]")
    if mask_colors is not None and not isinstance(mask_colors, Mapping):
        kind = "a list" if isinstance(mask_colors, list | tuple) else repr(mask_colors)
        raise ValueError(
            f"data.mask_colors is {kind}; it must be a mapping {{name: [r, g, b]}}, "
            "as {background: [0,0,0], road: '#804080'}"
        )
    given = mask_colors or class_names
    names = tuple(map(str, given)) if given else _lines(layout.root / CLASSES_FILE)
    if doubles := [name for name, count in Counter(names).items() if count > 1]:
        where = "data.class_names" if given else CLASSES_FILE
        raise ValueError(f"{where} has {', '.join(doubles)} twice; each class has its own name")
    if not layout.has_masks:
        options = {"mask_colors": mask_colors, "ignore_label": ignore_label, "ignore_color": ignore_color}
        if wrong := [f"data.{name}" for name, value in options.items() if value is not None]:
            raise ValueError(f"{', '.join(wrong)}: there are no masks in {layout.root}, but a folder for each class")
        folders = tuple(map(printable, layout.classes))
        if names and sorted(map(same_name, names)) != sorted(map(same_name, folders)):
            raise ValueError(
                f"the classes are named {', '.join(names)}, and the folders in {layout.root} "
                f"{', '.join(folders)}; data.class_names, or {CLASSES_FILE} there, must name these, in any order"
            )
        return Classes(names or folders)
    if mask_colors is None:
        if ignore_color is not None:
            raise ValueError("data.ignore_color is beside the colours of classes; give these as data.mask_colors")
        return Classes(names or None, None, ignore_label)
    if ignore_color is not None and ignore_label is None:
        ignore_label = IGNORED
    hexadecimal = any(isinstance(colour, str) for colour in mask_colors.values())
    return Classes(names, _labels(mask_colors, ignore_color, ignore_label), ignore_label, hexadecimal)


def typed(colour: int, *, hexadecimal: bool = False) -> str:
    """A colour 0xrrggbb as options take it: `[255,0,0]` or `#ff0000`."""
    return f"#{colour:06x}" if hexadecimal else f"[{','.join(map(str, colour.to_bytes(3)))}]"


def _some(values: Sequence[object], noun: str) -> str:
    more = f" and {len(values) - 3} more" if len(values) > 3 else ""
    return f"{noun}{'' if len(values) == 1 else 's'} {', '.join(map(str, values[:3]))}{more}"


def _lines(path: Path) -> tuple[str, ...]:
    """A file's lines; none where it is not there."""
    if not path.is_file():
        return ()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}; it must be UTF-8 text, a class in each line") from error
    return tuple(line.strip() for line in lines if line.strip())


def _labels(mask_colors: Mapping[str, Colour], ignore_color: Colour | None, ignore_label: int | None) -> dict[int, int]:
    colours = {f"data.mask_colors.{name}": (colour, label) for label, (name, colour) in enumerate(mask_colors.items())}
    if ignore_color is not None and ignore_label is not None:
        colours["data.ignore_color"] = ignore_color, ignore_label
    labels: dict[int, int] = {}
    for key, (colour, label) in colours.items():
        number = _number(key, colour)
        if number in labels:
            raise ValueError(f"{key} is {colour!r}, which another class has too")
        labels[number] = label
    return labels


def _number(key: str, colour: Colour) -> int:
    """A colour as 0xrrggbb."""
    if isinstance(colour, str) and re.fullmatch("#[0-9A-Fa-f]{6}", colour):
        return int(colour[1:], 16)
    parts = list(colour) if isinstance(colour, list | tuple) else []
    if [isinstance(part, int) and 0 <= part <= 255 for part in parts] == [True] * 3:
        return int.from_bytes(bytes(parts))
    raise ValueError(f"{key} is {colour!r}; it must be [red,green,blue], each 0 to 255, or '#rrggbb' in quotes")
