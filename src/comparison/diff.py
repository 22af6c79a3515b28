"""What differs between two runs: config, environment, code, data, result.

for part, key, old, new in differences(a, b): ...
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from src.comparison.rows import Row, Value
from src.runs.input_files import comparable_data

RESULT = "result"
HASHED = ("code", "data", "files")


class Difference(NamedTuple):
    """A key of a part of two records, and its two values."""

    part: str
    key: str
    a: Value
    b: Value


def differences(a: Row, b: Row) -> list[Difference]:
    """All that is not equal, in the order of the parts."""
    ours, theirs = _parts(a), _parts(b)
    prints = [row.run.values["fingerprints"] for row in (a, b)]
    ours["data"], theirs["data"] = (dict(_leaves(data)) for data in comparable_data(prints))
    rules = [values.get("version") for values in prints]
    if rules[0] != rules[1]:  # hashes made by two rules say nothing of each other
        for parts, rule in zip((ours, theirs), rules, strict=True):
            named = {key: value for key, value in parts["data"].items() if key == "dataset"}
            parts |= {"code": {"version of the fingerprints": rule or 0}, "data": named, "files": {}}
    return [
        Difference(part, key, ours[part].get(key), theirs[part].get(key))
        for part in ours
        for key in dict.fromkeys([*ours[part], *theirs[part]])
        if ours[part].get(key) != theirs[part].get(key)
    ]


def _parts(row: Row) -> dict[str, dict[str, Value]]:
    values = row.run.values
    environment, fingerprints = values["environment"], values["fingerprints"]
    rest = {key: value for key, value in environment.items() if key not in ("git", "packages")}
    result = {"status": row.status, **row.metrics, "best epoch": row.get("epoch"), "seconds": row.get("seconds")}
    return {
        "config": row.settings,
        "commit": dict(_leaves(environment["git"])),
        "packages": dict(_leaves(environment["packages"])),
        "environment": dict(_leaves(rest)),
        **{kind: dict(_leaves(fingerprints.get(kind))) for kind in HASHED},
        RESULT: result,
    }


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Value]]:
    """What a part of a record says, by dotted key, whatever is in it."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else name)
    elif value is not None:
        yield key, value if isinstance(value, str) else json.dumps(value)
