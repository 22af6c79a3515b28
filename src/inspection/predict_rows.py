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
            batch = {name: tf.constant(values[begin : begin + BATCH]) for name, values in inputs.items()}
            found = {name: tensor.numpy() for name, tensor in serve(**batch).items()}
            for i in range(len(next(iter(found.values())))):
                values = {name: array[i].tolist() for name, array in found.items()}
                if isinstance(values.get("class"), int) and values["class"] < len(class_names):
                    values["class"] = class_names[values["class"]]
                lines.append(json.dumps({"file": str(file), "row": begin + i + 1, **values}))
    output.mkdir(parents=True, exist_ok=True)
    replace(output / RESULTS, "".join(f"{line}\n" for line in lines).encode())
    return output / RESULTS


def inputs_of(file: Path, takes: Mapping[str, tf.TensorSpec]) -> dict[str, np.ndarray]:
    """What a file has for each input of a signature, as arrays of its dtype and shape.

    Raises:
        DataError: something is missing or of another type or shape.
    """
    stored = _read(file, takes)
    if lacking := [name for name in takes if name not in stored]:
        raise DataError(
            f"{file} has no {', '.join(lacking)}; the model takes {_told(takes)}, and it has {', '.join(stored)}"
        )
    found = {}
    for name, spec in takes.items():
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


def _told(takes: Mapping[str, tf.TensorSpec]) -> str:
    return ", ".join(f"{name} {spec.dtype.name} {spec.shape}" for name, spec in takes.items())
