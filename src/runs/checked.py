"""What a run's folder may say, checked once, so that nothing after this can trip over it.

check_record(values)                    # WrongValue: best=[1]; it must be null or an object
epochs, warnings = read_history(Path("outputs/digits/cnn-...-1a2b3c4d"))
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from src.runs.record import Record, parse

LARGEST = 2**63
NO_METRICS = ("epoch", "step", "seconds")  # of a line of history.jsonl


class WrongValue(ValueError):
    """A value of the wrong type; the message names the key, the value and what is allowed."""

    def __init__(self, key: str, value: Any, allowed: str) -> None:
        try:
            shown = json.dumps(value)
        except RecursionError:
            shown = "[..."
        super().__init__(f"{key}={shown[:60]}{'...' * (len(shown) > 60)}; it must be {allowed}")


def check_record(values: dict[str, Any]) -> None:
    """Check all keys of run.json that are read; a missing one is as good as null where null is allowed.

    Raises:
        WrongValue: the first that is of another type.
    """
    if values["mode"] not in ("min", "max"):
        raise WrongValue("mode", values["mode"], "min or max")
    for key in ("choices", "config"):
        if not isinstance(values.get(key, {}), dict):
            raise WrongValue(key, values[key], "an object")
    _texts("overrides", values["overrides"])
    numbers("metrics", values["metrics"])
    for key in ("epoch", "epochs", "step", "parameters", "seed"):
        whole(key, values.get(key))
    _seconds("seconds", values.get("seconds"))
    for key in ("started", "finished", "cleaned", "config_hash"):
        _text(key, values.get(key))
    _object(values, "best", value=number, epoch=whole, step=whole)
    _object(values, "error", type=_text, message=_text, traceback=_text)
    parent = _object(values, "parent", config_hash=_text, checkpoint=_text, epoch=whole, step=whole)
    if parent and parent.get("config_hash") is None:
        raise WrongValue("parent", parent, "null or an object with config_hash, step and epoch")
    environment = _object(values, "environment", python=_text, processor=_text, threads=whole)
    _object(environment, "git", where="environment.", commit=_text)
    for kind in ("packages", "variables"):
        for name, text in _object(environment, kind, where="environment.").items():
            _text(f"environment.{kind}.{name}", text)
    _object(environment, "keras", where="environment.")
    _texts("environment.changes", environment.get("changes", []))


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
    for count, line in enumerate(lines, start=1):
        try:
            epoch = parse(line)
            whole("epoch", epoch["epoch"], needed=True)
            whole("step", epoch.get("step"))
            _seconds("seconds", epoch.get("seconds"))
            metrics_of(epoch)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return epochs, [f"{path}, line {count} is torn or no epoch; it and what follows are left out"]
        epochs.append(epoch)
    return epochs, []


def metrics_of(epoch: dict[str, Any]) -> dict[str, float | None]:
    """The metrics of a line of history.jsonl."""
    return numbers("a metric", {key: value for key, value in epoch.items() if key not in NO_METRICS})


def number(key: str, value: Any) -> float | None:
    """The value where it is a finite number; None stands for NaN, as in run.json."""
    if value is None:
        return None
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value) if math.isfinite(value) else None
    except OverflowError:
        pass
    raise WrongValue(key, value, "a number or null")


def numbers(key: str, values: dict[str, Any]) -> dict[str, float | None]:
    """Numbers by name."""
    return {name: number(f"{key}.{name}", value) for name, value in values.items()}


def whole(key: str, value: Any, *, needed: bool = False) -> int | None:
    """The value where it is a whole number."""
    if value is None and not needed:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= LARGEST:
        raise WrongValue(key, value, "a whole number of 64 bits")
    return value


def _seconds(key: str, value: Any) -> None:
    if abs(number(key, value) or 0) >= LARGEST:
        raise WrongValue(key, value, "a number of seconds or null")


def _text(key: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise WrongValue(key, value, "a text or null")


def _texts(key: str, values: Any) -> None:
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        raise WrongValue(key, values, "a list of strings")


def _object(
    values: dict[str, Any], key: str, *, where: str = "", **checks: Callable[[str, Any], object]
) -> dict[str, Any]:
    """The object of this key after checks of what is in it; an empty one for null."""
    found = values.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        names = " and ".join(filter(None, [", ".join([*checks][:-1]), *[*checks][-1:]]))
        raise WrongValue(f"{where}{key}", found, f"null or an object{names and f' with {names}'}")
    for name, check in checks.items():
        check(f"{where}{key}.{name}", found.get(name))
    return found
