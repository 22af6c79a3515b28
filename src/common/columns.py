"""The columns of a table's file, by which options name what they mean, without reading the rest of it.

column_names(Path("houses.csv"))                                # ["rooms", "price"]
absent_column({"target": "prise"}, ["rooms", "price"], path)    # "data.target: houses.csv has no column 'prise'; ..."
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.common.spelling import did_you_mean


def column_names(path: Path) -> list[str] | None:
    """Those of a CSV, NPZ or Parquet file; None where it is no such file, or what reads it is not installed."""
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as arrays:
                return [name.removesuffix(".npy") for name in arrays.namelist()]
        if path.suffix == ".parquet":
            from pyarrow import parquet

            return parquet.read_schema(path).names
        with path.open(newline="", encoding="utf-8-sig") as file:
            return next(csv.reader(file), None)
    except (OSError, ValueError, ImportError, csv.Error, zipfile.BadZipFile):
        return None


def absent_column(named: Mapping[str, Any], known: Sequence[str], path: str) -> tuple[str, str] | None:
    """The first option of data that names a column which is not there, and what is wrong with it.

    Args:
        named: what options say, by their names: a column, a list of columns, or a mapping by columns; None names none.
        known: the columns of the table.
    """
    for key, value in named.items():
        for name in [value] if isinstance(value, str) else value or ():
            if name not in known:
                hint = did_you_mean(str(name), list(known))
                hint = hint or (f"; give data.{key}=COLUMN" if isinstance(value, str) else "")
                return f"data.{key}", f"data.{key}: {path} has no column {name!r}; it has {', '.join(known)}{hint}"
    return None
