"""Conditions on runs, as typed: status=completed, learning_rate<0.01, optimizer!=sgd.

kept = select(rows, ["optimizer=adam", "val/accuracy>0.9"])
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from src.common.errors import ConfigError
from src.common.text import first_of
from src.comparison.columns import known_keys, resolve
from src.comparison.rows import Row, Value, parsed
from src.comparison.tables import plain

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
EQUAL = ("=", "!=")
CONSTANTS = ("true", "false", "null")  # in any case, as Hydra reads them
MOST_VALUES = 10  # that a message names
CONDITION = re.compile(r"([^=<>!]+)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)


def select(rows: Sequence[Row], conditions: Sequence[str]) -> list[Row]:
    """The runs for which all conditions hold.

    Raises:
        ConfigError: a condition cannot be read, or names a key that no run has.
    """
    kept, known = list(rows), known_keys(rows)
    for condition in conditions:
        key, sign, wanted = _read(condition, known)
        kept = [row for row in kept if _holds(row.get(key), sign, wanted)]
    return kept


def values_before(rows: Sequence[Row], conditions: Sequence[str]) -> str:
    """The values that the key of the condition that leaves no run has, in the runs that match those before it."""
    last = next(n for n in range(len(conditions)) if not select(rows, conditions[: n + 1]))
    key, _, _ = _read(conditions[last], known_keys(rows))
    values = {row.get(key) for row in select(rows, conditions[:last])}
    texts = [plain("null" if value is None else str(value)) for value in sorted(values, key=_order)]
    return f"{key} is {first_of(texts, MOST_VALUES)}"


def _read(condition: str, known: Sequence[str]) -> tuple[str, str, str]:
    """Key, sign and value."""
    found = CONDITION.fullmatch(condition)
    if not found:
        raise ConfigError(f"--where {condition}: it must be KEY=VALUE, or have != < <= > >= for the =")
    key, sign, wanted = found[1].strip(), found[2], found[3].strip()
    if sign not in EQUAL and parsed(wanted) is None:
        raise ConfigError(
            f"--where {condition}: {wanted!r} is not a number, and {sign} needs one; = and != take any value"
        )
    return resolve(key, known), sign, wanted.lower() if wanted.lower() in CONSTANTS else wanted


def _holds(value: Value, sign: str, wanted: str) -> bool:
    """Whether a condition holds: two numbers are compared as numbers; texts have no order; a missing value is null."""
    number = parsed(wanted)
    if number is not None and isinstance(value, int | float):
        return COMPARE[sign](value, number)
    text = "null" if value is None else str(value)
    return sign in EQUAL and COMPARE[sign](text.lower() if text.lower() in CONSTANTS else text, wanted)


def _order(value: Value) -> tuple[bool, float, str]:
    """Numbers first."""
    return (False, value, "") if isinstance(value, int | float) else (True, 0.0, str(value))
