"""Conditions on runs, as typed: status=completed, learning_rate<0.01, optimizer!=sgd.

kept = select(rows, ["optimizer=adam", "val/accuracy>0.9"])
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from src.comparison import CompareError
from src.comparison.columns import known_keys, resolve
from src.comparison.rows import Row, Value, parsed

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
CONDITION = re.compile(r"([^=<>!]+)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)


def select(rows: Sequence[Row], conditions: Sequence[str]) -> list[Row]:
    """The runs for which all conditions hold.

    Raises:
        CompareError: a condition cannot be read, or names a key that no run has.
    """
    kept, known = list(rows), known_keys(rows)
    for condition in conditions:
        found = CONDITION.fullmatch(condition)
        if not found:
            raise CompareError(f"--where {condition} is no condition; type KEY=VALUE, or one of != < <= > >=")
        key, sign, wanted = found[1].strip(), found[2], found[3].strip()
        key = resolve(key, known)
        kept = [row for row in kept if _holds(row.get(key), sign, wanted)]
    return kept


def _holds(value: Value, sign: str, wanted: str) -> bool:
    """Numbers are compared as numbers where both are; a value that is not there is `null` and has no order."""
    number = parsed(wanted)
    if number is not None and isinstance(value, int | float):
        return COMPARE[sign](value, number)
    if value is None and sign not in ("=", "!="):
        return False
    return COMPARE[sign]("null" if value is None else str(value), wanted)
