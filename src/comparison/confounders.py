"""What runs were made of besides their settings: code, data, files, packages, machine; and which differ in it.

confounders(rows)           # {Confounder("data", "path", ...): ["5f0c...", "77aa..."]}: a value for each row
warnings(rows)              # ["runs/a and runs/b differ in data path; both count"]
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from src.common.text import first_of
from src.comparison.rows import Row
from src.runs.input_files import comparable_data
from src.runs.provenance import WRITTEN, representative

DATA_KEYS = ("dataset", "path")
ABSENT, UNSET = "absent", "unset"
HASHED = ("code", "data", "file")  # their values say nothing to people
MOST_NAMES, MOST_SIDES, MOST_WARNINGS = 4, 3, 5


class Confounder(NamedTuple):
    """Something that runs were made of.

    Its values are compared among runs of equal `context`: the version of the rule that a hash was made by, and the
    settings that the value follows from, since other data have another hash and the table has a column for that.
    """

    kind: str
    name: str = ""
    context: tuple = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


def confounders(rows: Sequence[Row]) -> dict[Confounder, list[str | None]]:
    """What runs differ in though their settings do not: a value for each run, None where its record has none.

    Code and files are compared among the runs that use them.
    """
    data = comparable_data([row.run.values["fingerprints"] for row in rows])
    found = [dict(_made_of(row, of_row)) for row, of_row in zip(rows, data, strict=True)]
    names = list(dict.fromkeys(name for of_row in found for name in of_row))
    for row, of_row in zip(rows, found, strict=True):
        if row.run.values["environment"]["variables"] is not None:
            of_row.update({name: UNSET for name in names if name.kind == "variable" and name not in of_row})
    columns = {name: [of_row.get(name) for of_row in found] for name in names}
    return {name: column for name, column in columns.items() if len({*column} - {None}) > 1}


def warnings(rows: Sequence[Row]) -> list[str]:
    """A warning for each set of confounders that divide runs of one monitor in the same way; names some of the runs."""
    found = []
    for monitor, mode in dict.fromkeys((row.monitor, row.mode) for row in rows):
        ranked = [row for row in rows if row.result is not None and (row.monitor, row.mode) == (monitor, mode)]
        alike: dict[tuple, list[str]] = defaultdict(list)
        for confounder, column in confounders(ranked).items():
            values = list(dict.fromkeys(value for value in column if value is not None))
            named = "" if confounder.kind in HASHED else f" ({', '.join(values[:MOST_SIDES])})"
            pattern = tuple(None if value is None else values.index(value) for value in column)
            alike[pattern].append(f"{confounder}{named}")
        found += [_warning(ranked, pattern, names) for pattern, names in alike.items()]
    if len(found) > MOST_WARNINGS:
        left = len(found) - MOST_WARNINGS
        return [*found[:MOST_WARNINGS], f"and {left} more such differences; --diff shows those of two runs"]
    return found


def _warning(rows: Sequence[Row], pattern: Sequence[int | None], names: Sequence[str]) -> str:
    """The first runs of each value, and what they differ in."""
    sides = []
    for value in dict.fromkeys(value for value in pattern if value is not None):
        first, count = rows[pattern.index(value)], pattern.count(value)
        sides.append(f"{first.directory}" + (f" (and {count - 1} more)" if count > 1 else ""))
    if len(sides) > MOST_SIDES:
        others = sum(value is not None and value >= MOST_SIDES for value in pattern)
        sides = [*sides[:MOST_SIDES], f"{others} more"]
    shown = first_of(names, MOST_NAMES)
    which = "both" if len(sides) == 2 else "all"
    return f"{', '.join(sides[:-1])} and {sides[-1]} differ in {shown}; {which} count"


def _made_of(row: Row, data: dict[str, Any]) -> Iterator[tuple[Confounder, str]]:
    prints, environment = row.run.values["fingerprints"], row.run.values["environment"]
    rule, settings = prints.get("version"), row.settings
    if data:
        for name in DATA_KEYS:
            context = (None if name == "dataset" else rule, settings.get("data"), settings.get(f"data.{name}"))
            yield Confounder("data", name, context), _text(data.get(name, ABSENT))
    for kind, hashes in {"code": prints.get("code", {}), "file": prints.get("files", {})}.items():
        for name, value in hashes.items():
            if value != WRITTEN:
                yield Confounder(kind, name, (rule,)), representative(name, value) if kind == "code" else value
    threads = (settings.get("trainer.threads"),)
    recorded = {
        **{Confounder("package", name): value for name, value in environment["packages"].items()},
        **{Confounder("keras", name): value for name, value in (environment["keras"] or {}).items()},
        **{Confounder("variable", name): value for name, value in (environment["variables"] or {}).items()},
        Confounder("python"): environment["python"],
        Confounder("processor"): environment["processor"],
        Confounder("threads", context=threads): environment["threads"],
    }
    yield from ((confounder, _text(value)) for confounder, value in recorded.items() if value is not None)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
