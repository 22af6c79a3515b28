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

HISTORY = "history.jsonl"
LARGEST = 2**63
NO_METRICS = ("epoch", "step", "seconds", "learning_rate")  # of a line of history.jsonl


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
    for key in ("choices", "config", "resolved", "derived"):
        if not isinstance(values.get(key, {}), dict):
            raise WrongValue(key, values[key], "an object")
    _texts("overrides", values["overrides"])
    _texts("flags", values.get("flags", []))
    numbers("metrics", values["metrics"])
    for key in ("epoch", "epochs", "step", "parameters", "seed"):
        whole(key, values.get(key))
    _seconds("seconds", values.get("seconds"))
    for key in ("started", "finished", "cleaned", "config_hash"):
        _text(key, values.get(key))
    best = _object(values, "best", value=number, epoch=whole, step=whole)
    numbers("best.metrics", _object(best, "metrics", where="best."))
    for key, what in {"history_missing": "epochs", "validations_missing": "steps"}.items():
        missing = values.get(key) or []
        if not isinstance(missing, list):
            raise WrongValue(key, missing, f"a list of {what}")
        for number_of in missing:
            whole(key, number_of, needed=True)
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
    """The epochs of history.jsonl, and a warning about lines that are none."""
    path = directory / HISTORY
    try:
        epochs, others = lines_in(path)
    except OSError as error:
        return [], [f"{path} cannot be read ({error}), so it shows no curves"]
    if not others:
        return epochs, []
    more = f" and {len(others) - 6} more" if len(others) > 6 else ""
    return epochs, [f"{path}, line {', '.join(map(str, others[:6]))}{more}: torn or no epoch, and left out"]


def lines_in(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The epochs of a history, or validations, in order, and the numbers, from 1, of the lines that are none.

    A power cut may leave zeros, or a part of a line, between whole lines.
    """
    try:
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    except FileNotFoundError:
        return [], []
    epochs: list[dict[str, Any]] = []
    others = []
    for count, line in enumerate(lines, start=1):
        try:
            epoch = parse(line.strip(b"\0").decode())
            whole("epoch", epoch["epoch"], needed=True)
            whole("step", epoch.get("step"))
            _seconds("seconds", epoch.get("seconds"))
            metrics_of(epoch)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            others.append(count)
        else:
            epochs.append(epoch)
    return epochs, others if lines != [b""] else []


def parse(text: str) -> Any:
    """JSON as it is read here: what is no finite number is null, as in what is written."""

    def finite(number: str) -> float | None:
        return value if math.isfinite(value := float(number)) else None

    return json.loads(text, parse_constant=lambda _: None, parse_float=finite)


def best_metrics(values: dict[str, Any], history: list[dict[str, Any]]) -> dict[str, float | None]:
    """What was measured at the best step of a run, as its record says.

    An older record says no more than the monitored value: then the others are those of the epoch that ended at this
    step, where the history has it. The numbers of another step are never taken.
    """
    best = values.get("best") or {}
    metrics = best.get("metrics")
    if metrics is None:
        place = (best.get("epoch"), best.get("step"))
        found = (line for line in reversed(history) if (line["epoch"], line.get("step", place[1])) == place)
        metrics = metrics_of(next(found, {}))
    return {**metrics, values["monitor"]: best.get("value")}


def step_within(best: dict[str, Any]) -> str:
    """`, step 73` where the best was measured within its epoch, "" where at its end: then training was measured too."""
    metrics = best.get("metrics")
    ended = metrics is None or any(name.startswith("train/") for name in metrics)
    return "" if ended else f", step {best.get('step')}"


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
