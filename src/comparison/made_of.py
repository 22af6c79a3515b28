"""What runs were made of beside their settings: code, data, files, packages, machine; and which differ in it.

differing_parts(rows)       # {Part("data", "path"): ["5f0c...", "77aa..."]}: a value for each row
unlike(rows)                # ["runs/a and runs/b differ in data path; both count"]
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from src.comparison.rows import Row
from src.runs.provenance import WRITTEN, comparable_data, representative

OF_DATA = ("dataset", "path")
ABSENT, UNSET = "absent", "unset"
HASHED = ("code", "data", "file")
MOST_NAMES, MOST_SIDES, MOST_WARNINGS = 4, 3, 5


class Part(NamedTuple):
    """A part of what a run is made of; `rule` is the version of the rule that its hash was made by."""

    kind: str
    name: str = ""
    rule: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


def differing_parts(rows: Sequence[Row]) -> dict[Part, list[str | None]]:
    """The parts that runs differ in though their settings do not say so: by run, None where its record does not tell.

    Code and files are compared among the runs that reach them, and hashes among those made by one rule.
    """
    data = comparable_data([row.run.values["fingerprints"] for row in rows])
    told = [dict(_parts(*pair)) for pair in zip(rows, data, strict=True)]
    for name in dict.fromkeys(part for parts in told for part in parts if part.kind == "variable"):
        for row, parts in zip(rows, told, strict=True):
            if row.run.values["environment"]["variables"] is not None:
                parts.setdefault(name, UNSET)
    names = dict.fromkeys(part for parts in told for part in parts)
    columns = {part: _unexplained(rows, part, [parts.get(part) for parts in told]) for part in names}
    return {part: column for part, column in columns.items() if any(value is not None for value in column)}


def unlike(rows: Sequence[Row]) -> list[str]:
    """A warning for each set of parts in which runs that are ranked side by side differ, and which runs these are."""
    warnings = []
    for monitor, mode in dict.fromkeys((row.monitor, row.mode) for row in rows):
        ranked = [row for row in rows if row.result is not None and (row.monitor, row.mode) == (monitor, mode)]
        alike: dict[tuple, list[Part]] = defaultdict(list)
        columns = differing_parts(ranked)
        for part, column in columns.items():
            alike[tuple(value and column.index(value) for value in column)].append(part)
        warnings += [_warning(ranked, {part: columns[part] for part in parts}) for parts in alike.values()]
    if len(warnings) > MOST_WARNINGS:
        left = len(warnings) - MOST_WARNINGS
        return [*warnings[:MOST_WARNINGS], f"and {left} more such differences; --diff shows those of two runs"]
    return warnings


def _warning(rows: Sequence[Row], columns: dict[Part, list[str | None]]) -> str:
    part, column = next(iter(columns.items()))
    pair = _pair(rows, part, column)
    values = list(dict.fromkeys([*(column[place] for place in pair), *filter(None, column)]))
    firsts = dict(zip(values, pair, strict=False))
    sides = []
    for value in values[:MOST_SIDES]:
        first, count = firsts.get(value, column.index(value)), column.count(value)
        sides.append(f"{rows[first].directory}" + (f" (and {count - 1} more)" if count > 1 else ""))
    if others := sum(column.count(value) for value in values[MOST_SIDES:]):
        sides.append(f"{others} more")
    names = [_named(part, column) for part, column in columns.items()]
    shown = ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
    which = "both" if len(sides) == 2 else "all"
    return f"{', '.join(sides[:-1])} and {sides[-1]} differ in {shown}; {which} count"


def _named(part: Part, column: Sequence[str | None]) -> str:
    values = dict.fromkeys(value for value in column if value is not None)
    return str(part) if part.kind in HASHED else f"{part} ({', '.join([*values][:MOST_SIDES])})"


def _unexplained(rows: Sequence[Row], part: Part, column: list[str | None]) -> list[str | None]:
    """The values of those runs alone that differ from another with the same settings that the part follows from."""
    values: dict[tuple, set[str]] = defaultdict(set)
    for row, value in zip(rows, column, strict=True):
        if value is not None:
            values[_reason(row, part)].add(value)
    return [value if len(values[_reason(row, part)]) > 1 else None for row, value in zip(rows, column, strict=True)]


def _pair(rows: Sequence[Row], part: Part, column: Sequence[str | None]) -> tuple[int, int]:
    """The places of the first two rows that differ in a part, and in no setting that it follows from."""
    first: dict[tuple, int] = {}
    for place, (row, value) in enumerate(zip(rows, column, strict=True)):
        if value is not None and column[other := first.setdefault(_reason(row, part), place)] != value:
            return other, place
    raise AssertionError(part)


def _reason(row: Row, part: Part) -> tuple:
    """The settings that a part follows from: other data has another hash, and the table has a column for it."""
    keys = {"data": ("data", f"data.{part.name}"), "threads": ("trainer.threads",)}.get(part.kind, ())
    return tuple(row.settings.get(key) for key in keys)


def _parts(row: Row, data: dict[str, Any]) -> Iterator[tuple[Part, str]]:
    prints, environment = row.run.values["fingerprints"], row.run.values["environment"]
    rule = _text(prints.get("version", ""))
    hashes = {"code": prints.get("code", {}), "file": prints.get("files", {})}
    loaded = {
        "package": environment["packages"],
        "keras": environment["keras"] or {},
        "variable": environment["variables"] or {},
    }
    if data:
        for name in OF_DATA:
            yield Part("data", name, "" if name == "dataset" else rule), _text(data.get(name, ABSENT))
    for kind, found in hashes.items():
        for name, value in found.items():
            if value != WRITTEN:
                yield Part(kind, name, rule), representative(name, value) if kind == "code" else value
    whole = {kind: environment[kind] for kind in ("python", "processor", "threads")}
    for kind, values in (*loaded.items(), *((kind, {"": value}) for kind, value in whole.items())):
        for name, value in values.items():
            if value is not None:
                yield Part(kind, name), _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
