"""Predict the rows of tables, texts and arrays with a SavedModel, whatever it takes and gives.

predict_rows(Path("run/saved_model/1"), [Path("new.csv")], output=Path("run/predictions"), class_names=["no", "yes"])

`predictions.jsonl` in the output has a line for each row: the file, the row from 1, and each output by its name; for
scores of classes also the class by name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from src.common.columns import absent_column
from src.common.files import literal, replace
from src.common.logs import escaped
from src.common.text import first_of
from src.data.batch import OUTPUTS, plain_name, splits_names
from src.data.data import DataError
from src.data.sequences import series_of
from src.data.tables import as_texts, filled, is_missing, is_numeric, read_table
from src.runs.preflight import naming_failures

RESULTS = "predictions.jsonl"
BATCH = 256  # rows
NO_CATEGORY = "\0"  # which no table has: a value that gives the same is one that the model does not know either
SHOWN = 5  # values in a message


NOTHING: Mapping[str, Any] = MappingProxyType({})


def predict_rows(
    saved_model: Path,
    files: Sequence[Path],
    *,
    output: Path,
    class_names: Sequence[str],
    aliases: Mapping[str, str] = NOTHING,
    fillings: Mapping[str, Any] = NOTHING,
    columns: Sequence[str] | None = None,
) -> Path:
    """Write what the model gives for all rows of the files; returns the path of what is written.

    Args:
        aliases: the model's inputs by the columns that they were trained from, where these have another name.
        fillings: what stands for a value that is not there, by input, as in training.
        columns: of a series, the features in their order; where they are several, a table needs them.
        files: .csv, .parquet and .npz with a column or array for each input by name; .jsonl with an object for each
            row; .txt with a text on each line, for a model of one input of strings; .csv, .parquet or .npy with a row
            for each time, of whose last ones a model of windows [steps, features] foresees what follows.

    A warning names categories that training never saw, of which the model knows nothing.

    Raises:
        DataError: a file has not what the model takes, or other types; nothing has been written.
    """
    with literal(saved_model) as name:
        loaded = tf.saved_model.load(name)
    serve = loaded.signatures["serving_default"]
    takes = serve.structured_input_signature[1]
    options: dict[str, Any] = {"aliases": aliases, "fillings": fillings, "columns": columns}
    given = [(file, inputs_of(file, takes, **options)) for file in files]  # all, before anything is predicted
    lines = []
    for file, inputs in given:
        rows = len(next(iter(inputs.values())))
        known: dict[str, set[str]] = {name: set() for name in inputs if _is_category(name, takes, aliases)}
        for begin in range(0, rows, BATCH):
            batch = {name: values[begin : begin + BATCH] for name, values in inputs.items()}
            with naming_failures():
                found = {name: tensor.numpy() for name, tensor in serve(**_tensors(batch, takes)).items()}
            for name in [name for name in known if not known[name].issuperset(batch[name])]:
                strange = {**batch, name: np.full_like(batch[name], NO_CATEGORY)}
                try:
                    other = serve(**_tensors(strange, takes))
                except tf.errors.InvalidArgumentError:  # it refuses what training never saw, and took these
                    known[name].update(batch[name])
                    continue
                known[name].update(batch[name][_differs(found, other)])
            if "forecast" in found:
                del found[OUTPUTS]  # the same, scaled
            for i in range(len(next(iter(found.values())))):
                values = {name: array[i].tolist() for name, array in found.items()}
                if isinstance(values.get("class"), int) and values["class"] < len(class_names):
                    values["class"] = class_names[values["class"]]
                lines.append(json.dumps({"file": str(file), "row": begin + i + 1, **values}))
        for name, seen in known.items():
            if unknown := [value for value in dict.fromkeys(inputs[name]) if value not in seen]:
                told = f"{file}: {name} has {first_of([repr(value) for value in unknown], SHOWN)}"
                why = "the model gives the same for any category that training never saw: do not trust it in these rows"
                print(f"warning: {escaped(f'{told}; {why}')}", file=sys.stderr)
    output.mkdir(parents=True, exist_ok=True)
    replace(output / RESULTS, "".join(f"{line}\n" for line in lines).encode())
    return output / RESULTS


def _is_category(name: str, takes: Mapping[str, tf.TensorSpec], aliases: Mapping[str, str]) -> bool:
    """Whether an input has one word a row, and is no text."""
    is_list = splits_names(name, 1)[0] in takes
    return (
        takes[name].dtype == tf.string and takes[name].shape.rank == 1 and not is_list and name not in aliases.values()
    )


def _differs(found: Mapping[str, np.ndarray], other: Mapping[str, tf.Tensor]) -> np.ndarray:
    """In which rows a model gives anything else: bool [n]."""
    return np.any(
        [(values != other[name].numpy()).reshape(len(values), -1).any(1) for name, values in found.items()], 0
    )


def inputs_of(
    file: Path,
    takes: Mapping[str, tf.TensorSpec],
    *,
    aliases: Mapping[str, str] = NOTHING,
    fillings: Mapping[str, Any] = NOTHING,
    columns: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """What a file has for each input of a signature, as arrays of its dtype and shape; of rows of any length, lists.

    For `aliases`, `fillings` and `columns` see `predict_rows`.

    Raises:
        DataError: something is missing or of another type or shape.
    """
    of_any_length = {name for name in takes if splits_names(name, 1)[0] in takes}
    takes = {name: spec for name, spec in takes.items() if name not in _splits(takes)}
    stored, first = _read(file, takes, aliases), next(iter(takes))
    if len(takes) == 1 and takes[first].shape.rank == 3 and first not in stored and file.suffix != ".npz":
        return {first: _last_window(stored, takes[first], columns, str(file))}
    found = {}
    for name, spec in takes.items():
        columns = [column for column in stored if aliases.get(column, plain_name(column)) == name]
        if len(columns) != 1:
            known = " or ".join([*(column for column in aliases if aliases[column] == name), name])
            told = f"has {' and '.join(columns)} for {name}" if columns else f"has no {known}"
            raise DataError(f"{file} {told}; the model takes {_told(takes)}, and it has {', '.join(stored)}")
        values = stored[columns[0]]
        if name in fillings and (gone := is_missing(cells := _cells(values, spec))).any():
            values = filled(cells, gone, fillings[name])
        if name in of_any_length:
            found[name] = _lists(values, name, spec, str(file))
        else:
            found[name] = _array(values, name, spec, str(file), is_text=name in aliases.values())
    if len({len(values) for values in found.values()}) > 1:
        rows = ", ".join(f"{name} {len(values)}" for name, values in found.items())
        raise DataError(f"{file} has other numbers of rows for each input: {rows}")
    return found


def _last_window(
    stored: Mapping[str, Any], spec: tf.TensorSpec, columns: Sequence[str] | None, file: str
) -> np.ndarray:
    """The last rows of a series, as a model takes them: [1, steps, features]."""
    _, steps, features = spec.shape
    if columns is None and features > 1 and not file.endswith(".npy"):
        raise DataError(
            f"{file}: which of its columns is which of the {features} features is not known, since the file that the "
            "run was trained on is not there, or has no names; give an .npy file of them in their order"
        )
    names = [*(columns or stored)]
    if absent := absent_column({"columns": names}, list(stored), file):
        raise DataError(absent[1])
    series = np.stack([_array(stored[name], name, tf.TensorSpec([None], spec.dtype), file) for name in names], -1)
    if series.shape[1] != features or len(series) < steps:
        raise DataError(
            f"{file} has {len(series)} rows of {', '.join(names)}; the model takes {steps} rows of {features} features"
        )
    return series[np.newaxis, -steps:]


def _array(given: Any, name: str, spec: tf.TensorSpec, file: str, *, is_text: bool = False) -> np.ndarray:
    """Values in the dtype of an input, none of which stands for another one.

    Args:
        is_text: what people write, in which NA and None are words as well.
    """
    what, dtype = f"{file}: {name}", spec.dtype.as_numpy_dtype
    try:
        values = _cells(given, spec)
        if values.ndim == 1 and (gone := is_missing(values)).any():
            words = [is_text and isinstance(one, str) and one != "" for one in values]
            if (gone := gone & ~np.array(words)).any():
                raise DataError(f"{_place(gone, name, file)} is missing; give a value, or take the row away")
        if spec.dtype == tf.string and (other := _each(lambda one: isinstance(one, bool | list | dict), values)).any():
            told = f"is no text (it has {json.dumps(values[other][0])}); write it as it was in training"
            raise DataError(f"{_place(other, name, file)} {told}")
        if values.dtype.kind not in "biufOUST":
            raise DataError(f"{what} is of {values.dtype}, and no {spec.dtype.name}")
        if spec.dtype == tf.string:
            found = as_texts(values)
        elif values.dtype.kind not in "biuf" and (other := ~_each(is_numeric, values)).any():
            raise DataError(f"{_place(other, name, file)} is no {spec.dtype.name} (it has {str(values[other][0])!r})")
        elif spec.dtype.is_floating:
            found = values.astype(dtype)
        else:
            numbers = values if values.dtype.kind in "biuf" else values.astype(np.float64)
            found = numbers.astype(dtype)
            if (other := (found != numbers) | ((values.dtype.kind not in "biu") & (np.abs(numbers) >= 2**53))).any():
                raise DataError(f"{_place(other, name, file)} has {values[other][0]}, which is no {spec.dtype.name}")
    except (ValueError, TypeError) as error:
        raise (
            error if isinstance(error, DataError) else DataError(f"{what} is no {spec.dtype.name} ({error})")
        ) from error
    if spec.dtype.is_floating and (other := ~np.isfinite(found)).any():
        raise DataError(f"{_place(other, name, file)} has an infinite value, or NaN; take the row away")
    if not spec.shape.is_compatible_with(found.shape):
        raise DataError(f"{what} is {list(found.shape)}, and the model takes {spec.shape}")
    return found


def _each(is_so: Callable[[Any], bool], values: np.ndarray) -> np.ndarray:
    return np.vectorize(is_so, otypes=[bool])(values)


def _place(wrong: np.ndarray, name: str, file: str) -> str:
    """The first row, of values [n, ...], that has one of those that are wrong."""
    return f"{file}, row {int(np.argwhere(np.atleast_1d(wrong))[0][0]) + 1}: {name}"


def _cells(given: Any, spec: tf.TensorSpec) -> np.ndarray:
    """As an array; NumPy alone makes texts of all values of a list that has one, `3.0` of 3 and `True` of true."""
    return np.asarray(given, object if spec.dtype == tf.string and isinstance(given, list) else None)


def _read(file: Path, takes: Mapping[str, tf.TensorSpec], aliases: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        if file.suffix == ".txt":
            if len(takes) != 1:
                raise DataError(f"{file} is a text, and the model takes {_told(takes)}; give CSV, JSON lines or NPZ")
            return {next(iter(takes)): np.array(_lines(file), object)}
        if file.suffix == ".jsonl":
            lines = {number: line for number, line in enumerate(_lines(file), 1) if line.strip()}
            rows = {number: _parsed(line, f"{file}, line {number}") for number, line in lines.items()}
            if not rows:
                raise DataError(f"{file} has no rows")
            number, first = next(iter(rows.items()))
            names = list(first) if isinstance(first, dict) else []
            columns = [name for name in names if aliases.get(name, plain_name(name)) in takes]
            if not columns:
                told = ", ".join(names) or "no names"
                raise DataError(f"{file}, line {number} has {told}; the model takes {_told(takes)}")
            for number, row in rows.items():
                if not isinstance(row, dict) or (lacking := [name for name in columns if name not in row]):
                    told = ", ".join(lacking) if isinstance(row, dict) else "names"
                    raise DataError(f"{file}, line {number} has no {told}; the model takes {_told(takes)}")
            return {name: [row[name] for row in rows.values()] for name in columns}
    except (OSError, ValueError, IndexError) as error:
        raise error if isinstance(error, DataError) else DataError(f"{file} cannot be read ({error})") from error
    if file.suffix == ".npy":
        return {str(i): column for i, column in enumerate(series_of(file, None).T)}
    return read_table(file)


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is no JSON ({error.msg}, column {error.colno})") from error


def _lines(file: Path) -> list[str]:
    """Of a text: those that a line feed ends, and no other sign."""
    return file.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")


def _splits(takes: Mapping[str, Any]) -> set[str]:
    """Of a signature's inputs, those that say where the rows of another one end."""
    return {of for name in takes for of in splits_names(name, 1) if of in takes}


def _lists(values: Any, name: str, spec: tf.TensorSpec, file: str) -> np.ndarray:
    """Rows of any length: an object array [n] of arrays."""
    found = np.empty(len(values), object)
    for i, row in enumerate(values):
        found[i] = _array(row, name, spec, f"{file}, row {i + 1}")
    return found


def _tensors(batch: Mapping[str, np.ndarray], takes: Mapping[str, tf.TensorSpec]) -> dict[str, tf.Tensor]:
    """Arrays, and lists as their values and their splits, as a signature takes them."""
    found = {}
    for name, values in batch.items():
        splits = splits_names(name, 1)[0]
        if splits in takes:
            ends = np.cumsum([0, *map(len, values)])
            found[splits], values = tf.constant(ends, takes[splits].dtype), np.concatenate(values)
        found[name] = tf.constant(values)
    return found


def _told(takes: Mapping[str, tf.TensorSpec]) -> str:
    return ", ".join(f"{name} {spec.dtype.name} {spec.shape}" for name, spec in takes.items())
