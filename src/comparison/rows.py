"""One row a run: its settings and what it reached, for tables, effects and differences.

rows, warnings = read_rows([Path("outputs/digits")])
rows[0].settings["optimizer"], rows[0].result, rows[0].metrics["val/loss"]
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.common.errors import one_line
from src.runs.collection import RecordedRun, find_runs
from src.runs.record_schema import LARGEST, RecordValues, best_metrics, read_history, step_within

Value = str | int | float | None

_WORD = re.compile(r"[\w./-]+")
_REFERENCE = re.compile(r"\$\{([^:${}]+)\}")


@dataclass(frozen=True)
class Row:
    """A run: its settings by key, groups of options among them, and its metrics at its best step."""

    run: RecordedRun
    status: str
    reason: str
    settings: dict[str, Value]
    complete: bool  # whether `settings` has all of them; older records have only what was typed
    typed: frozenset[str]
    metrics: dict[str, float]

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
    def is_final(self) -> bool:
        """Whether its result is final, so that means are taken over it."""
        return self.status == "completed" and self.result is not None

    @property
    def is_within_epoch(self) -> bool:
        """Whether its best was measured before the end of an epoch."""
        best = self.run.values["best"]
        return best is not None and bool(step_within(best))

    def get(self, key: str) -> Value:
        """A setting, a metric, or one of `epoch` and `step` (the best), `seconds`, `status`, `reason`, `directory`."""
        if key in ("epoch", "step"):
            best = self.run.values["best"]
            return best and (best["epoch"] if key == "epoch" else best["step"])
        if key == "seconds":
            return self.run.values["seconds"] or None
        if key in ("status", "reason"):
            return getattr(self, key)
        if key == "directory":
            return str(self.directory.resolve())
        return self.metrics[key] if key in self.metrics else self.settings.get(key)


def read_rows(folders: Iterable[Path], *, set_aside: bool = False) -> tuple[list[Row], list[str]]:
    """The runs in these folders, and a warning for each that is broken.

    Args:
        set_aside: whether runs that another has taken the place of are read too.

    Raises:
        ConfigError: a folder does not exist.
    """
    runs, warnings = find_runs(folders)
    rows = []
    for run in runs:
        if run.set_aside and not set_aside:
            continue
        row, of_run = read_row(run)
        rows.append(row)
        warnings += of_run
    add_derived(rows)
    return rows, warnings


def add_derived(rows: Sequence[Row]) -> None:
    """Give each row its settings that follow from others, where another row has the key as a setting of its own."""
    keys = {key for row in rows for key in row.settings}
    for row in rows:
        for key, value in row.run.values.get("derived", {}).items():
            if key in keys and value is not None:
                row.settings.setdefault(key, _plain(value))


def read_row(run: RecordedRun) -> tuple[Row, list[str]]:
    """A run's row, and what is wrong with its history."""
    values, status = run.values, run.status
    history, warnings = read_history(run.directory)
    metrics = {**best_metrics(values, history), **values["test"]}
    row = Row(
        run=run,
        status=status,
        reason=_reason(values, status, run.holder if status == "running" else None),
        settings=_settings(values),
        complete="config" in values,
        typed=frozenset(_typed(values["overrides"])),
        metrics={key: value for key, value in metrics.items() if value is not None},
    )
    return row, warnings


def _settings(values: RecordValues) -> dict[str, Value]:
    """Its options and settings by key, in the order typed, then as recorded."""
    own = {key: values[key] for key in ("name", "monitor", "mode", "seed")}
    known = {**values.get("config", {}), **values["choices"], **own}
    typed = _typed(values["overrides"])
    if "config" in values:
        known |= _typed_references(values, typed, known)
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


def _typed_references(values: RecordValues, typed: dict[str, str], known: dict[str, Any]) -> dict[str, Value]:
    """What was typed as `${...}`, which a record's config leaves out: resolved, as far as an older record tells."""
    if (derived := values.get("derived")) is not None:
        return {key: derived[key] for key in typed if key in derived}
    texts = {key: text for key, text in typed.items() if key not in known and _REFERENCE.search(text)}
    return {
        key: _read(_REFERENCE.sub(lambda found: str(known.get(found[1], found[0])), text).strip("'\""))
        for key, text in texts.items()
    }


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
    if isinstance(value, list) and all(isinstance(one, str) and _WORD.fullmatch(one) for one in value):
        return f"[{','.join(value)}]"  # as it is typed
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value, separators=(",", ":"))
    return value if abs(value) < LARGEST else str(value)


def _reason(values: RecordValues, status: str, holder: str | None) -> str:
    """Why a run has no final result, on one line."""
    if status == "completed":
        best = values["best"]
        return "" if best and best["value"] is not None else f"has no value of {values['monitor']}"
    error = values["error"]
    if status == "failed" and error:
        return ": ".join(filter(None, [error["type"] or "error", one_line(error["message"] or "")]))
    reached = f"at epoch {values['epoch']} of {values['epochs'] or '?'}"
    return f"{reached}, by {holder}" if holder else reached
