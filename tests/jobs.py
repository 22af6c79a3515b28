"""Jobs of every kind that people bring, each as one command, for tests/test_jobs.py and `python -m benchmarks jobs`.

A job's words are those of docs/tasks.md; `rows` is the kind of file that its examples are predicted from.
"""

from __future__ import annotations

from typing import NamedTuple


class Job(NamedTuple):
    """A command's overrides, and the suffix of the files that are predicted from."""

    overrides: tuple[str, ...]
    rows: str


JOBS = {
    "regression": Job(("data=table",), ".csv"),
    "classes of a table": Job(
        (
            *("data=table", "data.target=sex", "loss=sparse_categorical_crossentropy", "metric=accuracy"),
            *("monitor=val/accuracy", "mode=max"),
        ),
        ".csv",
    ),
    "text": Job(("data=texts",), ".txt"),
    "text by a convolution": Job(("data=texts", "model.kind=cnn"), ".jsonl"),
    "characters": Job(("data=characters", "data.length=32", "model.blocks=1", "model.units=16"), ".npz"),
    "forecast": Job(("data=windows",), ".npz"),
    "binary": Job(("data=digits_binary",), ".npz"),
    "several labels": Job(("data=digits_multilabel",), ".npz"),
}
