"""A run's record: run.json says what became of it, history.jsonl what each epoch measured.

validations.jsonl has what was measured within epochs: a line each, {"epoch": 4, "step": 200, "val/mean_iou": 0.79}.

record = Record(run_dir)
record.update(status="running", epoch=3)
record.append_epoch({"epoch": 3, "step": 189, "seconds": 10.1, "val/mean_iou": 0.81})
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, get_args

from src.common.files import fsync, replace
from src.runs.record_schema import EMPTY, HISTORY, RecordValues, Status, WrongValue, lines_in, parse, validated

WAY_OUT = "make room, then type the same command: it goes on from the last checkpoint"
STATUSES: tuple[Status, ...] = get_args(Status)


class BadRecord(ValueError):
    """run.json is there but cannot be read, or has a value of the wrong type: it is left as it is."""


class Record:
    """The record in a run's directory."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.path, self.history_path = self.directory / "run.json", self.directory / HISTORY
        self.validations_path = self.directory / "validations.jsonl"
        self.values: RecordValues = EMPTY  # as last read or written here
        self._written: dict[str, Any] | None = None  # the file, whatever is in it; None before it has been read
        self._appended: set[Path] = set()  # since `make_durable`
        self._lock = threading.Lock()  # of it: checkpoints make durable in a thread of their own
        self._named: set[Path] = set()  # files whose names are on the disk

    def read(self) -> RecordValues | None:
        """What run.json says, None where there is none.

        Raises:
            BadRecord: it is no JSON object, or has a value of the wrong type.
        """
        try:
            written = parse(self.path.read_text())
        except FileNotFoundError:
            self.values, self._written = EMPTY, {}
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise BadRecord(f"{self.path} cannot be read ({error}); move {self.directory} away") from error
        if not isinstance(written, dict):
            raise BadRecord(f"{self.path} is no JSON object; move {self.directory} away")
        try:
            self.values, self._written = validated(written), written
        except WrongValue as error:
            raise BadRecord(f"{self.path} has {error}; mend that, or move {self.directory} away") from error
        return self.values

    def update(self, **values: Any) -> RecordValues:
        """Change some keys and write the whole record anew, at once; a status is on the disk then. Returns it.

        What it said is read once: whoever updates it holds the run's lock.

        Raises:
            BadRecord: it cannot be read; nothing is written.
        """
        if self._written is None:
            self.read()
        written = nan_as_null({**(self._written or {}), **values})
        now = validated(written)
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            if values.get("status") == "completed":  # and with it what was written at the end
                fsync(self.directory)
            replace(self.path, json.dumps(written, indent=2) + "\n", at_once="status" in values)
        except OSError as error:
            raise OSError(f"{self.path} cannot be written ({error.strerror}); {WAY_OUT}") from error
        self.values, self._written = now, written
        return now

    def append_epoch(self, values: dict[str, Any]) -> None:
        """Add a line to history.jsonl."""
        self._append(self.history_path, values)

    def append_validation(self, values: dict[str, Any]) -> None:
        """Add a line to validations.jsonl."""
        self._append(self.validations_path, values)

    def make_durable(self) -> None:
        """Put what has been appended on the disk."""
        with self._lock:
            appended, self._appended = self._appended, set()
        new_names = {self.directory} if appended - self._named else set()
        for path in sorted(appended) + sorted(new_names):
            try:
                fsync(path)
            except OSError as error:
                raise OSError(f"{path} cannot be written ({error.strerror}); {WAY_OUT}") from error
        self._named |= appended

    def history(self) -> list[dict[str, Any]]:
        """The epochs, in order; lines that are none are left out."""
        return lines_in(self.history_path)[0]

    def validations(self) -> list[dict[str, Any]]:
        """The validations within epochs, in order; lines that are none are left out."""
        return lines_in(self.validations_path)[0]

    def cut_history(self, *, epoch: int) -> None:
        """Forget the epochs after `epoch`, which a resumed run does again, and lines that are none."""
        _keep(self.history_path, [values for values in self.history() if values["epoch"] <= epoch])

    def cut_validations(self, *, step: int) -> None:
        """Forget the validations within epochs after `step`, and lines that are none."""
        _keep(self.validations_path, [values for values in self.validations() if (values.get("step") or 0) <= step])

    def _append(self, path: Path, values: dict[str, Any]) -> None:
        try:
            with path.open("a") as file:
                file.write(json.dumps(nan_as_null(values)) + "\n")
        except OSError as error:
            raise OSError(f"{path} cannot be written ({error.strerror}); {WAY_OUT}") from error
        with self._lock:
            self._appended.add(path)


def _keep(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write a file anew, where there is one, with these lines."""
    if path.exists():
        replace(path, "".join(json.dumps(values) + "\n" for values in lines))


def nan_as_null(value: Any) -> Any:
    """JSON has no NaN: null stands for it, so that any reader can read a record."""
    if isinstance(value, dict):
        return {key: nan_as_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nan_as_null(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value
