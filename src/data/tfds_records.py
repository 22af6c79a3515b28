"""Stored examples by their number: the records of a prepared set of TensorFlow Datasets, in TFRecord or ArrayRecord.

    records = Records(builder.info.splits["train[:80%]"].file_instructions, "tfrecord")
    records[7]      # a serialized tf.train.Example

TFDS itself reads TFRecords only from front to back. Where each record begins is found by hopping from one to the next.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.common.internals import tf_record_random_reader
from src.data.tfds_folders import damaged

FORMATS = ("tfrecord", "array_record")
HEADER, FOOTER = 12, 4  # bytes of a TFRecord before its content, a length and its CRC, and after it, another CRC


class Records(Sequence):
    """The records of a split, in stored order; safe to read by several threads.

    Args:
        instructions: TFDS's `file_instructions`: filename, skip, take and examples_in_shard of each file.
        file_format: one of FORMATS.

    Raises:
        ValueError: another format.
        DataError: a file is missing, or holds another number of records than it must.
    """

    def __init__(self, instructions: Sequence[Any], file_format: str) -> None:
        if file_format not in FORMATS:
            raise ValueError(f"the set is stored as {file_format}; what can be read is {' and '.join(FORMATS)}")
        self._paths = [Path(part.filename) for part in instructions]
        for path in self._paths:
            if not path.is_file():
                raise damaged(path, "it is not there")
        self._ends = np.cumsum([part.take for part in instructions])
        self._places: list[np.ndarray] = []  # of each file's records: offsets
        self._source: Any = None
        if file_format == "tfrecord":
            for path, part in zip(self._paths, instructions, strict=True):
                offsets = _offsets(path, part.examples_in_shard)
                self._places.append(offsets[part.skip : part.skip + part.take])
        elif len(self):
            from array_record.python.array_record_data_source import ArrayRecordDataSource

            self._source = ArrayRecordDataSource(list(instructions))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: Any) -> Any:
        number = int(np.searchsorted(self._ends, index, side="right"))
        path = self._paths[number]
        try:
            if self._source is not None:
                return self._source[index]
            first = self._ends[number - 1] if number else 0
            return tf_record_random_reader(str(path)).read(int(self._places[number][index - first]))[0]
        except Exception as error:  # each library has its own
            raise damaged(path, str(error)) from error


def _offsets(path: Path, count: int) -> np.ndarray:
    """Where each record of a TFRecord file begins: int64 [count]."""
    offsets, position, size = np.zeros(count, np.int64), 0, path.stat().st_size
    found = 0
    with open(path, "rb", buffering=0) as file:
        while position < size:
            length = int.from_bytes(os.pread(file.fileno(), 8, position), "little")
            if found < count:
                offsets[found] = position
            position += HEADER + length + FOOTER
            found += 1
    if found != count or position != size:
        whole = min(found, count) - (position != size)
        raise damaged(path, f"it holds {whole} whole examples of {count}")
    return offsets
