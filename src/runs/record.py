"""A run's record: run.json says what became of it, history.jsonl what each epoch measured.

record = Record(run_dir)
record.update(status="running", epoch=3)
record.append_epoch({"epoch": 3, "step": 189, "seconds": 10.1, "val/mean_iou": 0.81})
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from src.files import replace

WAY_OUT = "make room, then type the same command: it goes on from the last checkpoint"
STATUSES = ("running", "completed", "interrupted", "failed", "pruned")


class BadRecord(ValueError):
    """run.json is there but cannot be read."""


class Record:
    """The record in a run's directory."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.path, self.history_path = self.directory / "run.json", self.directory / "history.jsonl"

    def read(self) -> dict[str, Any] | None:
        """What run.json says, None where there is none.

        Raises:
            BadRecord: it is no JSON object.
        """
        try:
            values = parse(self.path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise BadRecord(f"{self.path} cannot be read ({error}); move {self.directory} away") from error
        if not isinstance(values, dict):
            raise BadRecord(f"{self.path} is no JSON object; move {self.directory} away")
        return values

    def update(self, **values: Any) -> dict[str, Any]:
        """Change some keys and write the whole record anew, at once. Returns it."""
        if values.get("status", "running") not in STATUSES:
            raise AssertionError(values)
        record = {**(self.read() or {}), **values}
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            replace(self.path, json.dumps(nan_as_null(record), indent=2) + "\n", at_once=False)
        except OSError as error:
            raise OSError(f"{self.path} cannot be written ({error.strerror}); {WAY_OUT}") from error
        return record

    def append_epoch(self, values: dict[str, Any]) -> None:
        """Add a line to history.jsonl and flush it."""
        try:
            with self.history_path.open("a") as file:
                file.write(json.dumps(nan_as_null(values)) + "\n")
        except OSError as error:
            raise OSError(f"{self.history_path} cannot be written ({error.strerror}); {WAY_OUT}") from error

    def history(self) -> list[dict[str, Any]]:
        """The epochs, in order; a torn last line is left out."""
        epochs = []
        try:
            text = self.history_path.read_text()
        except FileNotFoundError:
            return []
        for line in text.splitlines():
            try:
                epochs.append(json.loads(line))
            except ValueError:
                break
        return epochs

    def cut_history(self, *, epoch: int) -> None:
        """Forget the epochs after `epoch`, which a resumed run does again, and a torn line."""
        kept = [values for values in self.history() if values["epoch"] <= epoch]
        if self.history_path.exists():
            replace(self.history_path, "".join(json.dumps(values) + "\n" for values in kept))


def parse(text: str) -> Any:
    """JSON as it is read here: what is no finite number is null, as in what is written."""

    def finite(number: str) -> float | None:
        return value if math.isfinite(value := float(number)) else None

    return json.loads(text, parse_constant=lambda _: None, parse_float=finite)


def nan_as_null(value: Any) -> Any:
    """JSON has no NaN: null stands for it, so that any reader can read a record."""
    if isinstance(value, dict):
        return {key: nan_as_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nan_as_null(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value
