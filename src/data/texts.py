"""Texts and their classes, from a table or from a folder for each class.

data = texts(path="reviews.csv", batch_size=32, seed=0)
data.train      # (string [n], int32 [n])

How texts become tokens is a part of the model, see `src.models.text_bag`.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from src.common.columns import absent_column
from src.common.ranges import Count, Share, enforce_ranges
from src.data.data import Data, DataError, Limit
from src.data.tables import as_texts, is_missing, labelled, read_table, split_rows


@enforce_ranges
def texts(
    *,
    path: str | None,
    batch_size: Count,
    seed: int,
    text: str = "text",
    label: str = "label",
    split: str | None = None,
    val_share: Share = 0.15,
    test_share: Share = 0.15,
    shuffle: bool = True,
    limit: Limit | None = None,
) -> Data:
    """Strings and the numbers of their classes, which are in the order of their names.

    Args:
        path: a CSV or Parquet file with a column of texts and one of labels; or a folder that has a folder of UTF-8
            .txt files for each class. None takes `opinions`.
        split: a column that says `train`, `val` or `test`; else texts are split by a hash of what they say.

    Raises:
        DataError: the file or folder cannot be read so, or a text is empty.
    """
    if path is None:
        stored, path = opinions(), "the built-in opinions"
    else:
        place = Path(path).expanduser()
        stored = _of_folder(place, text, label) if place.is_dir() else read_table(place)
    if absent := absent_column({"text": text, "label": label, "split": split}, list(stored), path):
        raise DataError(absent[1])
    gone = [not isinstance(value, str) and bool(is_missing(np.array([value], object))[0]) for value in stored[text]]
    values = np.array(["" if no else str(value) for value, no in zip(stored[text], gone, strict=True)], object)
    empty = [i for i, value in enumerate(values, 1) if not value.strip()]
    if empty:
        raise DataError(f"{path}: {len(empty)} texts are empty, the first in row {empty[0]}; take them away")
    if (unlabelled := is_missing(stored[label])).any():
        raise DataError(f"{path}: row {int(unlabelled.argmax()) + 1} has no {label}; give one, or take the row away")
    class_names, targets = labelled(as_texts(stored[label]), f"{path}: {label}")
    places = stored[split] if split else None
    splits: dict[str, Any] = split_rows(
        (values, targets), [values], places, shares={"val": val_share, "test": test_share}, path=path
    )
    return Data(**splits, class_names=class_names, batch_size=batch_size, seed=seed, shuffle=shuffle, limit=limit)


def _of_folder(place: Path, text: str, label: str) -> dict[str, np.ndarray]:
    files = sorted(file for file in place.glob("*/*.txt") if not file.name.startswith("."))
    if not files:
        raise DataError(f"{place} has no folder of .txt files; give a folder for each class, or a CSV file")
    found: dict[str, list[str]] = {text: [], label: []}
    for file in files:
        try:
            found[text].append(file.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is no text in UTF-8 ({error})") from error
        found[label].append(file.parent.name)
    return {name: np.array(values, object) for name, values in found.items()}


def opinions() -> dict[str, np.ndarray]:
    """1,008 sentences on things, each for or against, always the same; a `not` turns the meaning around."""
    things = (
        "film", "book", "song", "play", "meal", "talk", "game", "walk", "show", "tale", "room", "view", "plan", "town",
    )  # fmt: skip
    praise = ("good", "fine", "great", "lovely", "clear", "warm")
    blame = ("bad", "poor", "dull", "awful", "vague", "cold")
    rows = []
    for thing, (words, is_for), more, is_not in itertools.product(
        things, ((praise, True), (blame, False)), ("", " to me", " in the end"), (False, True)
    ):
        rows += [
            (f"the {thing} was {'not ' if is_not else ''}{word}{more}", "for" if is_for != is_not else "against")
            for word in words
        ]
    found = np.array(rows, object)
    return {"text": found[:, 0], "label": found[:, 1]}
