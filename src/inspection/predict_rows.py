"""Predict the rows of tables, texts and arrays with a SavedModel, whatever it takes and gives.

predict_rows(Path("run/saved_model/1"), [Path("new.csv")], output=Path("run/predictions"), class_names=["no", "yes"])

`predictions.jsonl` in the output has a line for each row: the file, the row from 1, and each output by its name; for
scores of classes also the class by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from src.common.files import literal, replace
from src.data.batch import splits_names
from src.data.data import DataError
from src.data.tables import is_missing, read_table

RESULTS = "predictions.jsonl"
BATCH = 256  # rows


def predict_rows(saved_model: Path, files: Sequence[Path], *, output: Path, class_names: Sequence[str]) -> Path:
    """Write what the model gives for all rows of the files; returns the path of what is written.

    Args:
        files: .csv, .parquet and .npz with a column or array for each input by name; .jsonl with an object for each
            row; .txt with a text on each line, for a model of one input of strings.

    Raises:
        DataError: a file has not what the model takes, or other types; nothing has been written.
    """
    with literal(saved_model) as name:
        loaded = tf.saved_model.load(name)
    serve = loaded.signatures["serving_default"]
    takes = serve.structured_input_signature[1]
    given = [(file, inputs_of(file, takes)) for file in files]  # all of them, before anything is predicted
    lines = []
    for file, inputs in given:
        rows = len(next(iter(inputs.values())))
        for begin in range(0, rows, BATCH):
            batch = {name: values[begin : begin + BATCH] for name, values in inputs.items()}
            found = {name: tensor.numpy() for name, tensor in serve(**_tensors(batch, takes)).items()}
            for i in range(len(next(iter(found.values())))):
                values = {name: array[i].tolist() for name, array in found.items()}
                if isinstance(values.get("class"), int) and values["class"] < len(class_names):
                    values["class"] = class_names[values["class"]]
                lines.append(json.dumps({"file": str(file), "row": begin + i + 1, **values}))
    output.mkdir(parents=True, exist_ok=True)
    replace(output / RESULTS, "".join(f"{line}\n" for line in lines).encode())
    return output / RESULTS


def inputs_of(file: Path, takes: Mapping[str, tf.TensorSpec]) -> dict[str, np.ndarray]:
    """What a file has for each input of a signature, as arrays of its dtype and shape; of rows of any length, lists.

    Raises:
        DataError: something is missing or of another type or shape.
    """
    of_any_length = {name for name in takes if splits_names(name, 1)[0] in takes}
    takes = {name: spec for name, spec in takes.items() if name not in _splits(takes)}
    stored = _read(file, takes)
    if lacking := [name for name in takes if name not in stored]:
        raise DataError(
            f"{file} has no {', '.join(lacking)}; the model takes {_told(takes)}, and it has {', '.join(stored)}"
        )
    found = {}
    for name, spec in takes.items():
        if name in of_any_length:
            found[name] = _lists(stored[name], name, spec, file)
            continue
        values = np.asarray(stored[name])
        if values.ndim == 1 and (gone := is_missing(values)).any():
            row = int(gone.argmax()) + 1
            raise DataError(f"{file}, row {row}: {name} is missing; give a value, or take the row away")

        try:
            found[name] = values.astype(object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype)
        except (ValueError, TypeError) as error:
            raise DataError(f"{file}: {name} is no {spec.dtype.name} ({error})") from error
        if spec.dtype == tf.string:
            found[name] = found[name].astype(str).astype(object)
        if not spec.shape.is_compatible_with(found[name].shape):
            raise DataError(f"{file}: {name} is {list(found[name].shape)}, and the model takes {spec.shape}")
    return found


def _read(file: Path, takes: Mapping[str, tf.TensorSpec]) -> Mapping[str, Any]:
    try:
        if file.suffix == ".txt":
            if len(takes) != 1:
                raise DataError(f"{file} is a text, and the model takes {_told(takes)}; give CSV, JSON lines or NPZ")
            return {next(iter(takes)): np.array(file.read_text(encoding="utf-8").splitlines(), object)}
        if file.suffix == ".jsonl":
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            for number, row in enumerate(rows, 1):
                if not isinstance(row, dict) or (lacking := [name for name in takes if name not in row]):
                    told = ", ".join(lacking) if isinstance(row, dict) else "names"
                    raise DataError(f"{file}, line {number} has no {told}; the model takes {_told(takes)}")

            return {name: [row[name] for row in rows] for name in takes}
    except (OSError, ValueError) as error:
        raise error if isinstance(error, DataError) else DataError(f"{file} cannot be read ({error})") from error
    return read_table(file)


def _splits(takes: Mapping[str, Any]) -> set[str]:
    """Of a signature's inputs, those that say where the rows of another one end."""
    return {of for name in takes for of in splits_names(name, 1) if of in takes}


def _lists(values: Any, name: str, spec: tf.TensorSpec, file: Path) -> np.ndarray:
    """Rows of any length: an object array [n] of arrays."""
    found = np.empty(len(values), object)
    for i, row in enumerate(values):
        try:
            found[i] = np.asarray(row).astype(spec.dtype.as_numpy_dtype)
        except (ValueError, TypeError) as error:
            raise DataError(f"{file}, row {i + 1}: {name} is no list of {spec.dtype.name} ({error})") from error
        if not spec.shape.is_compatible_with(found[i].shape):
            raise DataError(f"{file}, row {i + 1}: {name} is {list(found[i].shape)}, and the model takes {spec.shape}")
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
