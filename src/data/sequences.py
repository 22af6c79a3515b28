"""Sequences: windows of a long array to forecast, and characters of a text to foresee.

data = windows(path="load.npz", steps=24, horizon=6, batch_size=32, seed=0)
data = characters(path="book.txt", length=64, batch_size=32, seed=0)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from src.common.columns import absent_column
from src.common.ranges import Count, Share, enforce_ranges
from src.data import SPLITS
from src.data.data import Data, DataError, Limit, scale_of
from src.data.tables import check_shares, is_numeric, read_table


class Windows(Sequence):
    """Pairs (float32 [steps, features], float32 [horizon, targets]) of arrays [time, features], [time, targets]."""

    def __init__(self, values: np.ndarray, targets: np.ndarray, begins: range, *, steps: int, horizon: int) -> None:
        self._values, self._targets, self._begins = values, targets, begins
        self._steps, self._horizon = steps, horizon

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, index):
        middle = self._begins[index] + self._steps
        return self._values[middle - self._steps : middle], self._targets[middle : middle + self._horizon]


class Series(Data):
    """Windows of a series in its own units, which the model takes and foresees scaled.

    Args:
        mean, deviation: of each feature, float64 [features].
        options: as Data's.
    """

    def __init__(self, *, mean: np.ndarray, deviation: np.ndarray, **options: Any) -> None:
        self._mean, self._deviation = mean.astype(np.float32), deviation.astype(np.float32)
        super().__init__(**options)

    def prepare(self, inputs: tf.Tensor) -> tf.Tensor:
        # A product, as graphs turn a quotient into one while eager code does not: their last bits would differ.
        return (inputs - self._mean) * (1 / self._deviation)

    def answers(self, outputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
        foreseen = outputs.shape[-1]
        return {"forecast": outputs * self._deviation[:foreseen] + self._mean[:foreseen]}


@enforce_ranges
def windows(
    *,
    path: str | None,
    steps: Count,
    horizon: Count,
    batch_size: Count,
    seed: int,
    stride: Count = 1,
    columns: Sequence[str] | None = None,
    targets: Count | None = None,
    val_share: Share = 0.15,
    test_share: Share = 0.15,
    shuffle: bool = True,
    limit: Limit | None = None,
) -> Data:
    """Windows of a long series: `steps` rows, and the `horizon` rows that follow them.

    Splits follow each other in time, train first, and no window reaches over two of them. The model takes values that
    are scaled by the mean and the standard deviation of the training part, and foresees such ones, so that a loss of 1
    is that of the mean. An exported one takes them as they are, and gives `forecast` in the same units.

    Args:
        path: an NPY file of numbers [time, features], or a table with a line of names, as a CSV; None takes `tides`.
        stride: between the beginnings of windows.
        columns: of a table, the features, in this order; all by default.
        targets: how many of the first features are foreseen; all by default.

    Raises:
        DataError: the file has no such numbers, or a split is shorter than a window.
    """
    check_shares(val_share, test_share)
    values = tides() if path is None else series_of(Path(path).expanduser(), columns)
    if targets and targets > values.shape[1]:
        raise DataError(f"data.targets is {targets}, and the series has {values.shape[1]} features")
    ends = _ends(len(values), val_share, test_share)
    train = values[: ends[0]]
    if len(train) < steps + horizon:
        raise DataError(f"the training part has {len(train)} rows, and a window {steps + horizon}; give shorter ones")
    mean, deviation = scale_of(train)
    scaled = ((values - mean) / deviation).astype(np.float32)[:, : targets or values.shape[1]]
    values = values.astype(np.float32)
    splits: dict[str, Any] = {}
    for name, begins in _begins(ends, steps + horizon, stride, "rows, and a window"):
        cut = Windows(values, scaled, begins, steps=steps, horizon=horizon)
        splits[name] = tuple(np.stack(part) for part in zip(*cut, strict=True))
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "shuffle": shuffle, "limit": limit}
    facts = {"num_outputs": targets or values.shape[1], "horizon": horizon}
    return Series(**splits, **options, facts=facts, mean=mean, deviation=deviation)


@enforce_ranges
def characters(
    *,
    path: str | None,
    length: Count,
    batch_size: Count,
    seed: int,
    stride: Count | None = None,
    val_share: Share = 0.1,
    test_share: Share = 0.1,
    shuffle: bool = True,
    limit: Limit | None = None,
) -> Data:
    """Pieces of a text: int32 [n, length] characters, and the next one of each, int32 [n, length].

    Splits follow each other in the text. A character's number is its place among all that the training part has, in
    their order, from 1; 0 stands for one that it does not have, and `class_names` has them all.

    Args:
        path: a text file in UTF-8; None takes `sums`, sentences of arithmetic.
        stride: between the beginnings of pieces; `length` by default.

    Raises:
        DataError: the file is no text, or a part is shorter than a piece.
    """
    check_shares(val_share, test_share)
    try:
        text = sums() if path is None else Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text in UTF-8 ({error})") from error
    ends = _ends(len(text), val_share, test_share)
    known = sorted(set(text[: ends[0]]))
    numbers = {character: i for i, character in enumerate(known, 1)}
    values = np.array([numbers.get(character, 0) for character in text], np.int32)
    splits: dict[str, Any] = {}
    for name, begins in _begins(ends, length + 1, stride or length, "characters, and a piece"):
        pieces = values[np.array(begins)[:, np.newaxis] + np.arange(length + 1)]
        splits[name] = pieces[:, :-1], pieces[:, 1:]
    facts = {"num_outputs": len(known) + 1, "vocabulary": len(known) + 1, "length": length}
    # As \n would end a line of the list.
    class_names = ["<unknown>", *("<space>" if sign == " " else repr(sign)[1:-1] for sign in known)]
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "shuffle": shuffle, "limit": limit}
    return Data(**splits, **options, class_names=class_names, facts=facts)


def tides(hours: int = 4000) -> np.ndarray:
    """A sea level of the four strongest tides (M2, S2, K1, O1; periods in hours) and of weather: float32 [hours, 1]."""
    time = np.arange(hours)[:, np.newaxis]
    periods, heights = np.array([12.4206, 12.0, 23.9345, 25.8193]), np.array([1.0, 0.46, 0.58, 0.41])
    level = (heights * np.cos(2 * np.pi * time / periods)).sum(1)
    weather = np.convolve(np.random.default_rng(0).normal(size=hours + 47), np.full(48, 1 / 48), "valid")
    return (level + weather).astype(np.float32)[:, np.newaxis]


NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
)  # fmt: skip


def sums(sentences: int = 3000) -> str:
    """Sentences such as `two plus three is five.`, always the same."""
    pairs = np.random.default_rng(0).integers(0, 10, (sentences, 2))
    return " ".join(f"{NUMBERS[a]} plus {NUMBERS[b]} is {NUMBERS[a + b]}." for a, b in pairs)


def _ends(count: int, val_share: float, test_share: float) -> list[int]:
    """Where train, val and test end, which follow each other."""
    return np.rint(np.cumsum([1 - val_share - test_share, val_share, test_share]) * count).astype(int).tolist()


def _begins(ends: Sequence[int], needed: int, stride: int, told: str) -> Iterator[tuple[str, range]]:
    """The beginnings of all pieces of `needed` places, none of which reaches over two splits, by split."""
    for name, begin, end in zip(SPLITS, (0, *ends[:-1]), ends, strict=True):
        begins = range(begin, end - needed + 1, stride)
        if end > begin and not begins:
            raise DataError(f"the {name} part has {end - begin} {told} {needed}; give shorter ones")
        if begins:
            yield name, begins


def series_of(path: Path, columns: Sequence[str] | None) -> np.ndarray:
    """Numbers [time, features] of an NPY file or of a table, of which `columns` says the features and their order.

    Raises:
        DataError: the file has something else, or no such column.
    """
    if path.suffix == ".npy":
        try:
            values = np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} cannot be read as numbers [time, features] ({error})") from error
        if values.dtype.kind not in "biuf" or values.ndim not in (1, 2) or not values.size:
            raise DataError(f"{path} is {values.dtype} {list(values.shape)}; give numbers [time, features]")
        stored = {"values": values}
    else:
        stored = read_table(path)
        if absent := absent_column({"columns": columns}, list(stored), str(path)):
            raise DataError(absent[1])
        stored = {name: stored[name] for name in columns or stored}
    for name, column in stored.items():
        others = [i for i, value in enumerate(column) if column.ndim == 1 and not is_numeric(value)]
        if others:
            known = ",".join(other for other, one in stored.items() if all(map(is_numeric, one)))
            raise DataError(
                f"{path}, row {others[0] + 1}: {name} is {str(column[others[0]])!r}, and a series is of numbers; mend "
                f"it, or say which columns are its features, as 'data.columns=[{known}]'"
            )
        if column.ndim > 2 or column.dtype.kind not in "biufOUS":
            raise DataError(f"{path}: {name} is {column.dtype} {list(column.shape)}; give numbers [time, features]")
    values = np.concatenate([column.reshape(len(column), -1).astype(np.float64) for column in stored.values()], 1)
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values).all(1))) + 1
        raise DataError(f"{path}, row {row} has a number that is not finite; mend it")
    return values
