"""A run's record: run.json says what became of it, history.jsonl what each epoch measured.

validations.jsonl has what was measured within epochs: a line each, {"epoch": 4, "step": 200, "val/mean_iou": 0.79}.

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
        self.validations_path = self.directory / "validations.jsonl"

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
        self._append(self.history_path, values)

    def append_validation(self, values: dict[str, Any]) -> None:
        """Add a line to validations.jsonl and flush it."""
        self._append(self.validations_path, values)

    def history(self) -> list[dict[str, Any]]:
        """The epochs, in order; a torn last line is left out."""
        return _lines(self.history_path)

    def validations(self) -> list[dict[str, Any]]:
        """The validations within epochs, in order; a torn last line is left out."""
        return _lines(self.validations_path)

    def cut_history(self, *, epoch: int) -> None:
        """Forget the epochs after `epoch`, which a resumed run does again, and a torn line."""
        _keep(self.history_path, [values for values in self.history() if values["epoch"] <= epoch])

    def cut_validations(self, *, step: int) -> None:
        """Forget the validations within epochs after `step`, and a torn line."""
        _keep(self.validations_path, [values for values in self.validations() if values["step"] <= step])

    def _append(self, path: Path, values: dict[str, Any]) -> None:
        try:
            with path.open("a") as file:
                file.write(json.dumps(nan_as_null(values)) + "\n")
        except OSError as error:
            raise OSError(f"{path} cannot be written ({error.strerror}); {WAY_OUT}") from error


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file up to one that is torn; none where there is no file."""
    found = []
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _keep(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write a file anew, where there is one, with these lines."""
    if path.exists():
        replace(path, "".join(json.dumps(values) + "\n" for values in lines))


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
