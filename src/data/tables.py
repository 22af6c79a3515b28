"""Tables: an example a row, its columns by name.

data = table(path="patients.csv", target="progression", batch_size=32, seed=0)
data.train      # ({"age": float32 [n], "sex": string [n], ...}, float32 [n])

A column is of numbers, float32 [n], or of categories, strings [n]. What a model does with them, such as scaling, is a
part of the model, see `src.models.table_mlp`.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import tensorflow as tf

from src.common.columns import absent_column
from src.common.extras import install_command
from src.common.ranges import Count, Share, enforce_ranges
from src.data import SPLITS
from src.data.data import Data, DataError, Limit

log = logging.getLogger(__name__)

Kind = Literal["numbers", "categories"]
FEW_ROWS = 20  # of which nothing can be said
DIABETES = Path(__file__).parent / "diabetes" / "diabetes.csv"


@enforce_ranges
def table(
    *,
    path: str | None,
    target: str | Sequence[str],
    batch_size: Count,
    seed: int,
    task: Literal["regression", "classes"] | None = None,
    columns: Sequence[str] | None = None,
    kinds: Mapping[str, Kind] = MappingProxyType({}),
    weight: str | None = None,
    split: str | None = None,
    val_share: Share = 0.15,
    test_share: Share = 0.15,
    missing: Mapping[str, Any] = MappingProxyType({}),
    shuffle: bool = True,
    limit: Limit | None = None,
) -> Data:
    """A table of a file, for regression or classification.

    Args:
        path: a CSV file with a line of names, an NPZ file of one array a column, or a Parquet file, which needs the
            extra `tables`; None takes the built-in table of diabetes.
        target: the column to foresee, or several of numbers.
        task: `regression`, of float32 targets [n] or [n, columns], or `classes`, of numbers int32 [n] of its values in
            their order; None is regression where the target is of numbers with a fraction or of more than 20 values.
        columns: that are inputs; None takes all others.
        kinds: of columns that are not what they seem, as numbers that are names of things.
        weight: a column of sample weights.
        split: a column that says `train`, `val` or `test`; else rows are split by a hash of what is in them.
        missing: what stands for a value that is not there, by column.

    Raises:
        DataError: the file is no table, a column is not there or has values of another kind, or values are missing.
    """
    path = path or str(DIABETES)
    stored = read_table(Path(path).expanduser())
    wanted = [target] if isinstance(target, str) else list(target)
    missing = {name: filling for name, filling in missing.items() if filling is not None}  # null fills nothing in
    apart = {*wanted, *(name for name in (weight, split) if name)}
    names = list(columns) if columns else [name for name in stored if name not in apart]
    others = {"target": wanted, "kinds": kinds, "missing": missing, "weight": weight, "split": split}
    _check_names({"columns": names, **others}, apart, stored, path)
    used = (*names, *wanted, *([weight] if weight else []))
    _check_missing({name: stored[name] for name in used}, missing, names, path)
    found = {name: _column(stored[name], name, kinds.get(name), missing.get(name), path) for name in used}
    inputs = {name: found[name] for name in names}
    _warn_of_names(inputs, path)
    classes, targets = _targets(stored, found, wanted, task or _task(found, wanted), missing, path)
    if weight is not None and (found[weight].dtype != np.float32 or (found[weight] < 0).any()):
        raise DataError(f"{path}: the weight {weight} has values that are no numbers of at least 0")
    parts = (inputs, targets) if weight is None else (inputs, targets, found[weight])
    places = stored[split] if split else None
    splits: dict[str, Any] = split_rows(
        parts, stored.values(), places, shares={"val": val_share, "test": test_share}, path=path
    )
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "shuffle": shuffle, "limit": limit}
    facts = {} if classes else {"num_outputs": int(np.prod(targets.shape[1:]))}
    return Data(**splits, **options, class_names=classes, facts=facts)


def _check_names(named: Mapping[str, Any], apart: set[str], stored: Mapping[str, np.ndarray], path: str) -> None:
    """There must be inputs, none of them apart, and all columns that an option of this name names."""
    if absent := absent_column(named, list(stored), path):
        raise DataError(absent[1])
    if not named["columns"]:
        raise DataError(f"{path} has no column beside {', '.join(sorted(apart))}; a model needs one at least")
    if both := apart & set(named["columns"]):
        raise DataError(
            f"data.columns names {', '.join(sorted(both))}, which is the target, weight or split; leave it out"
        )


def read_table(path: Path) -> dict[str, np.ndarray]:
    """The columns of a file by name, of numbers or of strings.

    Raises:
        DataError: it is no table.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                found = dict(arrays)
            lengths = {values.shape[:1] for values in found.values()}
            if len(lengths) != 1 or lengths <= {(), (0,)}:
                shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in found.items())
                raise DataError(f"{path} has {shapes or 'none'}; all arrays must have the same number of rows, not 0")
            return found
        if path.suffix == ".parquet":
            try:
                import pandas

                frame = pandas.read_parquet(path)
            except ImportError as error:
                raise DataError(
                    f"{path}: Parquet needs pandas and pyarrow: {install_command('tables')}, or give CSV"
                ) from error
            named = any(name is not None for name in frame.index.names)  # as columns of the file are
            return {str(name): np.asarray(column) for name, column in (frame.reset_index() if named else frame).items()}
        with path.open(newline="", encoding="utf-8-sig") as file:
            names, *rows = list(csv.reader(file, strict=True)) or [[]]  # a quote that is not closed is an error
    except (OSError, ValueError, EOFError, csv.Error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as a table ({error})") from error
    if not names:
        raise DataError(f"{path} is empty, or its first line; it must be the columns' names")
    if all(map(is_numeric, names)):
        raise DataError(f"{path}: the first line is of numbers ({', '.join(names[:3])}); it must be the columns' names")
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise DataError(f"{path}, row {number}: {len(row)} values for {len(names)} columns")
    if not rows or len(set(names)) < len(names):
        raise DataError(f"{path}: {'two columns have one name' if rows else 'there are no rows'}")
    return dict(zip(names, np.array(rows, str).T, strict=True))


def _check_missing(
    used: Mapping[str, np.ndarray], missing: Mapping[str, Any], inputs: Sequence[str], path: str
) -> None:
    """Raise DataError where values are missing that nothing stands for, naming all columns at once."""
    columns = {name: values for name, values in used.items() if values.ndim == 1 and name not in missing}
    gone = {name: where for name, values in columns.items() if (where := is_missing(values)).any()}
    if not gone:
        return
    told = ", ".join(f"{int(w.sum())} of {name} (the first in row {int(w.argmax()) + 1})" for name, w in gone.items())
    fillings = ",".join(f"{name}:{_typical(used[name][~gone[name]])}" for name in gone if name in inputs)
    fill = [f"give what stands for them, as '+data.missing={{{fillings}}}'"] if fillings else []
    kept = [name for name in gone if name not in inputs]
    away = f"take the rows without {' or '.join(kept or gone)} away"
    raise DataError(f"{path}: values are missing: {told}; {(' and ' if kept else ', or ').join([*fill, away])}")


def _warn_of_names(inputs: Mapping[str, np.ndarray], path: str) -> None:
    """Say which columns look like names of rows, such as dates and ids, from which a model learns the rows by heart."""
    for name, values in inputs.items():
        if values.ndim > 1 or len(values) < FEW_ROWS:
            continue
        texts = values.dtype != np.float32
        distinct = len(np.unique(values.astype(str) if texts else values))
        if (texts and distinct > len(values) / 2) or (not texts and (np.diff(values) == 1).all()):
            log.warning(
                "%s: %s has %d different values in %d rows, as dates and ids have: leave it out by data.columns, "
                "unless it says something of other rows",
                *(path, name, distinct, len(values)),
            )


def _typical(values: np.ndarray) -> str:
    """The median of numbers, and of texts `unknown`."""
    are_numbers = values.size and all(map(is_numeric, values))
    return f"{np.median(values.astype(np.float64)):g}" if are_numbers else "unknown"


def _column(values: np.ndarray, name: str, kind: Kind | None, filling: Any, path: str) -> np.ndarray:
    """float32 or strings, [n] or, of arrays of numbers, [n, ...]."""
    if kind not in (None, *get_args(Kind)):
        raise DataError(f"data.kinds.{name} is {kind!r}; it must be one of {', '.join(get_args(Kind))}")
    texts = values.dtype.kind not in "biuf"
    if texts and values.dtype.kind not in "OUST":
        raise DataError(f"{path}: {name} is of {values.dtype}; give numbers or texts")
    if filling is not None and values.ndim == 1 and (gone := is_missing(values)).any():
        others = np.vectorize(is_numeric, otypes=[bool])(values[~gone])
        if kind != "categories" and others.all() and not is_numeric(filling):
            raise DataError(
                f"data.missing.{name} is {filling!r}, and {name} is a column of numbers in {path}: give a number, as "
                f"its median, {_typical(values[~gone])}"
            )
        values = filled(values, gone, filling)
    if kind == "categories":
        return as_texts(values)
    if texts and not (are_numbers := np.vectorize(is_numeric, otypes=[bool])(values)).all():
        if kind == "numbers" or are_numbers.any():
            other = values[~are_numbers][0]
            raise DataError(
                f"{path}: {name} has numbers and also {str(other)!r}; mend it, or give +data.kinds.{name}=categories"
            )
        return as_texts(values)
    exact = values.astype(np.float64)
    numbers = exact.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise DataError(f"{path}: {name} has an infinite value, or NaN; take the rows away")
    is_whole = kind is None and (exact == np.rint(exact)).all()
    is_lost = len(np.unique(numbers)) < len(np.unique(exact)) or np.abs(exact).max() >= 2**53  # float64's whole numbers
    if is_whole and is_lost:
        raise DataError(
            f"{path}: {name} has whole numbers that float32 cannot tell apart, such as {int(np.abs(exact).max())}; "
            f"leave it out of data.columns, or give +data.kinds.{name}=categories, or =numbers to have them rounded"
        )
    return numbers


def as_texts(values: np.ndarray) -> np.ndarray:
    """Strings of the same shape; a whole number is the same text whatever its dtype: 3 for 3.0."""

    def text(value: Any) -> str:
        if isinstance(value, bytes):
            return value.decode()
        is_whole = isinstance(value, float | np.floating) and float(value).is_integer()
        return str(int(value) if is_whole else value)

    return np.vectorize(text, otypes=[object])(values)


def is_numeric(value: Any) -> bool:
    """Whether it is a number, or a text of one; Python alone reads `1_0` as 10."""
    try:
        float(value)
    except (ValueError, TypeError):
        return False
    return "_" not in str(value)


def filled(values: np.ndarray, gone: np.ndarray, filling: Any) -> np.ndarray:
    """A column with a value in place of those that are gone: a text among texts."""
    return np.where(gone, filling if values.dtype.kind in "biuf" else str(filling), values)


def is_missing(values: np.ndarray) -> np.ndarray:
    """Which of a column's values are not there: bool [n]."""
    return np.array([str(value) in ("", "nan", "None", "NaN", "NA", "<NA>") for value in values], bool)


def _targets(
    stored: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    wanted: Sequence[str],
    task: str,
    missing: Mapping[str, Any],
    path: str,
) -> tuple[list[str], np.ndarray]:
    """The classes, none of numbers, and the targets."""
    if task == "classes":
        if len(wanted) > 1:
            raise DataError(f"data.target names {len(wanted)} columns; classes are of one column")
        name = wanted[0]
        texts = _column(stored[name], name, "categories", missing.get(name), path)
        return labelled(texts, f"{path}: the target {name}")
    for name in wanted:
        if found[name].dtype != np.float32:
            raise DataError(f"{path}: the target {name} has other values than numbers; give data.task=classes")
    return [], np.stack([found[name] for name in wanted], -1) if len(wanted) > 1 else found[wanted[0]]


def _task(found: Mapping[str, np.ndarray], wanted: Sequence[str]) -> str:
    values = found[wanted[0]]
    is_class = values.dtype != np.float32 or (len(np.unique(values)) <= 20 and (values == np.rint(values)).all())
    return "classes" if is_class and len(wanted) == 1 and values.ndim == 1 else "regression"


def labelled(values: np.ndarray, what: str) -> tuple[list[str], np.ndarray]:
    """The names of all classes, in their order, numbers by their size, and the number of each value's: int32 [n].

    Args:
        values: strings [n].
        what: has them, for the message.

    Raises:
        DataError: there is one class alone.
    """
    names, numbers = np.unique(values.astype(str), return_inverse=True)
    if all(map(is_numeric, names)) and len(np.unique(names.astype(np.float64))) < len(names):
        raise DataError(f"{what} has one number written in several ways, among {', '.join(names[:5])}; write it in one")
    if len(names) < 2:
        raise DataError(f"{what} has {str(names[0])!r} alone; classes are at least two")
    order = (
        np.argsort(names.astype(np.float64), kind="stable") if all(map(is_numeric, names)) else np.arange(len(names))
    )
    return [str(name) for name in names[order]], np.argsort(order)[numbers].astype(np.int32)


def check_shares(val: float, test: float) -> None:
    """Raise DataError where they leave nothing to train on."""
    if val + test >= 1:
        raise DataError(f"data.val_share and data.test_share, {val} and {test}, leave nothing to train on")


def split_rows(
    parts: tuple[Any, ...],
    columns: Iterable[np.ndarray],
    places: np.ndarray | None,
    *,
    shares: Mapping[str, float],
    path: str,
) -> dict[str, tuple[Any, ...]]:
    """The parts of each split that is there.

    Args:
        parts: nests of arrays [n, ...].
        columns: what rows are hashed by where no column says the split; equal rows are in one split.
        places: `train`, `val` or `test` of each row, if a column says so.
        shares: of val and test, else.
    """
    if places is not None:
        found = places.astype(str)
        if other := sorted(set(found) - set(SPLITS)):
            raise DataError(f"{path}: a row has the split {str(other[0])!r}; it may be {', '.join(SPLITS)}")
    else:
        check_shares(**shares)
        hashes = (
            hashlib.sha256(repr(row).encode()).digest() for row in zip(*map(np.ndarray.tolist, columns), strict=True)
        )
        drawn = np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in hashes])  # evenly in [0, 1)
        is_held_out = drawn < shares["val"] + shares["test"]
        found = np.where(drawn < shares["val"], "val", np.where(is_held_out, "test", "train"))
    if "train" not in found:
        raise DataError(f"{path} has no row for training")
    return {
        name: tf.nest.map_structure(lambda part: part[found == name], parts)  # noqa: B023
        for name in SPLITS
        if name in found
    }
