"""One row a run: what it was asked to be and what it reached, checked, so that nothing after this can trip over it.

rows, warnings = read_rows([Path("outputs/digits")])
rows[0].settings["optimizer"], rows[0].result, rows[0].metrics["val/loss"]
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.comparison import CompareError
from src.runs.collection import Run, find_runs, read_values
from src.runs.record import Record

Value = str | int | float | None

COUNTS = ("epoch", "epochs", "step", "parameters", "seed")  # whole numbers in run.json
LARGEST = 2**63
NO_METRICS = ("epoch", "step", "seconds")  # of a line of history.jsonl


@dataclass(frozen=True)
class Row:
    """A run: its settings by key, groups of options among them, and its metrics at its best epoch."""

    run: Run
    status: str
    reason: str
    settings: dict[str, Value]
    complete: bool  # whether `settings` names all that it was; older records know only what was typed
    typed: frozenset[str]
    metrics: dict[str, float]
    best_epoch: int | None
    seconds: float | None

    @property
    def directory(self) -> Path:
        return self.run.directory

    @property
    def monitor(self) -> str:
        return self.run.values["monitor"]

    @property
    def mode(self) -> str:
        return self.run.values["mode"]

    @property
    def result(self) -> float | None:
        """The best value of the monitored metric."""
        return self.metrics.get(self.monitor)

    @property
    def counts(self) -> bool:
        """Whether its result is final, so that means are taken over it."""
        return self.status == "completed" and self.result is not None

    def get(self, key: str) -> Value:
        """A setting, a metric, or one of `epoch` (the best), `seconds`, `status`, `reason`, `directory`."""
        own = {"epoch": self.best_epoch, "seconds": self.seconds, "status": self.status, "reason": self.reason}
        if key in own:
            return own[key]
        if key == "directory":
            return str(self.directory.resolve())
        return self.metrics[key] if key in self.metrics else self.settings.get(key)


def read_rows(folders: Iterable[Path], *, set_aside: bool = False) -> tuple[list[Row], list[str]]:
    """The runs in these folders, and a warning for each that is broken.

    Args:
        set_aside: whether runs that another has taken the place of are read too.

    Raises:
        CompareError: a folder does not exist.
    """
    try:
        runs, warnings = find_runs(folders)
    except ValueError as error:
        raise CompareError(str(error)) from error
    rows = []
    for run in runs:
        if run.set_aside and not set_aside:
            continue
        try:
            row, said = read_row(run)
        except CompareError as error:
            warnings.append(str(error))
        else:
            rows.append(row)
            warnings += said
    return rows, warnings


def run_at(directory: Path) -> Run:
    """The run in this directory itself.

    Raises:
        CompareError: there is none, or its record is broken.
    """
    try:
        return Run(directory, read_values(directory))
    except ValueError as error:
        raise CompareError(f"{error}. Runs are outputs/<name>/<label>-<id>") from error


def read_row(run: Run) -> tuple[Row, list[str]]:
    """A run's row, and what is wrong with its history.

    Raises:
        CompareError: a value of run.json is of the wrong type; names the folder, the key and the value.
    """
    values = run.values
    try:
        best, final = _best(values), _numbers("metrics", values["metrics"])
        for key in COUNTS:
            _whole(key, values.get(key))
        seconds = _number("seconds", values.get("seconds"))
        settings = _settings(values)
    except _Wrong as error:
        raise CompareError(f"{run.directory} is left out: its run.json has {error}") from error
    epoch = best[1] if best else None
    history, warnings = read_history(run.directory)
    measured = next((_metrics(line) for line in reversed(history) if line["epoch"] == epoch), {})
    metrics = {**final, **measured, values["monitor"]: best[0] if best else None}
    status, holder = _status(run)
    row = Row(
        run=run,
        status=status,
        reason=_reason(values, status, holder),
        settings=settings,
        complete=isinstance(values.get("config"), dict),
        typed=frozenset(_typed(values["overrides"])),
        metrics={key: value for key, value in metrics.items() if value is not None},
        best_epoch=epoch,
        seconds=seconds,
    )
    return row, warnings


def read_history(directory: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The epochs of history.jsonl up to the first line that is none, and a warning about that line."""
    path = Record(directory).history_path
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return [], []
    except (OSError, ValueError) as error:
        return [], [f"{path} cannot be read ({error}); the run's final metrics are taken"]
    epochs: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            epoch = json.loads(line)
            _whole("epoch", epoch["epoch"], needed=True)
            _metrics(epoch)
        except (ValueError, TypeError, LookupError, RecursionError):
            return epochs, [f"{path}, line {number} is torn or no epoch; it and what follows are left out"]
        epochs.append(epoch)
    return epochs, []


def _metrics(epoch: dict[str, Any]) -> dict[str, float | None]:
    return _numbers("a metric", {key: value for key, value in epoch.items() if key not in NO_METRICS})


class _Wrong(ValueError):
    """A value of the wrong type."""

    def __init__(self, key: str, value: Any, allowed: str) -> None:
        shown = json.dumps(value)
        super().__init__(f"{key}={shown[:60]}{'...' * (len(shown) > 60)}; it must be {allowed}")


def _number(key: str, value: Any) -> float | None:
    """The value where it is a finite number; None stands for NaN, as in run.json."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Wrong(key, value, "a number or null")
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _numbers(key: str, values: dict[str, Any]) -> dict[str, float | None]:
    return {name: _number(f"{key}.{name}", value) for name, value in values.items()}


def _whole(key: str, value: Any, *, needed: bool = False) -> int | None:
    if value is None and not needed:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= LARGEST:
        raise _Wrong(key, value, "a whole number of 64 bits")
    return value


def _best(values: dict[str, Any]) -> tuple[float | None, int | None] | None:
    best = values.get("best")
    if best is None:
        return None
    if not isinstance(best, dict):
        raise _Wrong("best", best, "null or an object with value, epoch and step")
    return _number("best.value", best.get("value")), _whole("best.epoch", best.get("epoch"))


def _settings(values: dict[str, Any]) -> dict[str, Value]:
    """Its options and settings by key, in the order typed, then as recorded."""
    if values["mode"] not in ("min", "max"):
        raise _Wrong("mode", values["mode"], "min or max")
    for key in ("choices", "config"):
        if not isinstance(values.get(key, {}), dict):
            raise _Wrong(key, values[key], "an object")
    if not all(isinstance(text, str) for text in values["overrides"]):
        raise _Wrong("overrides", values["overrides"], "a list of strings")
    own = {key: values.get(key) for key in ("name", "monitor", "mode", "seed")}
    known = {**values.get("config", {}), **values.get("choices", {}), **own}
    typed = _typed(values["overrides"])
    if "config" in values:
        known = {**{key: known[key] for key in typed if key in known}, **known}
    else:
        known = {**{key: _read(text) for key, text in typed.items()}, **known}
    return _with_parent({key: _plain(value) for key, value in known.items() if value is not None})


def _with_parent(settings: dict[str, Value]) -> dict[str, Value]:
    """With what a branch started from as one setting."""
    kept = {key: value for key, value in settings.items() if not key.startswith("parent.")}
    if parent := settings.get("parent.config_hash"):
        kept["parent"] = f"{str(parent)[:8]} at step {settings.get('parent.step', 0)}"
    return kept


def _typed(overrides: list[str]) -> dict[str, str]:
    pairs = (text.lstrip("+~").partition("=") for text in overrides)
    return {key: value for key, _, value in pairs if not key.startswith(("hydra.", "hydra/"))}


def _read(text: str) -> Value:
    """A typed value as Hydra reads it, as far as a table needs it."""
    return next((number for kind in (int, float) if (number := parsed(text, kind)) is not None), text.strip("'\""))


def parsed(text: str, kind: type = float) -> Any:
    """The finite number that a text is; None where it is none."""
    try:
        number = kind(text)
    except ValueError:
        return None
    return number if kind is int or math.isfinite(number) else None


def _plain(value: Any) -> Value:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value)
    return value if abs(value) < LARGEST else str(value)


def _status(run: Run) -> tuple[str, str | None]:
    """The status, and who is writing the run now."""
    if run.values["status"] != "running":
        return run.values["status"], None
    try:
        holder = run.holder
    except OSError:  # the lock may not be opened here: nothing is known but what the record says
        return "running", None
    return ("running", holder) if holder else ("interrupted", None)


def _reason(values: dict[str, Any], status: str, holder: str | None) -> str:
    """Why a run has no final result, on one line."""
    if status == "completed":
        best = values.get("best")
        return "" if best and best.get("value") is not None else f"has no value of {values['monitor']}"
    error = values.get("error")
    if status == "failed" and isinstance(error, dict):
        lines = str(error.get("message") or "").strip().splitlines()
        return ": ".join([str(error.get("type") or "error"), *lines[:1]])
    reached = f"at epoch {values.get('epoch') or 0} of {values.get('epochs') or '?'}"
    return f"{reached}, by {holder}" if holder else reached
