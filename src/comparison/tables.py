"""Tables of raw values, and how they are written: for a terminal, csv, json, markdown.

table = table_of_groups(groups, keys)
print(as_text(table))
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from src.comparison.columns import headers, metric_names
from src.comparison.diff import Difference
from src.comparison.effects import Effect
from src.comparison.groups import Group
from src.comparison.rows import Row, Value
from src.text import of_one_class, table_lines

DIGITS, FEWER, SHARE = ".6g", ".3g", ".1%"
LONGEST_WHOLE = 10**12  # larger whole numbers are shown as others
NARROWER = ("train/",)  # metrics that a terminal which is too narrow goes without


@dataclass(frozen=True)
class Column:
    """A column: its key in files, its header for people, whether people see it at all, and how its numbers are."""

    key: str
    header: str
    shown: bool = True
    digits: str = DIGITS


@dataclass(frozen=True)
class Table:
    """Rows of raw values by column key."""

    columns: tuple[Column, ...]
    rows: tuple[dict[str, Value], ...]

    @property
    def shown(self) -> list[Column]:
        """The columns for people."""
        return [column for column in self.columns if column.shown]


def table_of_runs(rows: Sequence[Row], keys: Sequence[str]) -> Table:
    """A row for each run: what differs, metrics, best epoch, status, seconds, directory."""
    columns = [
        *_settings(keys),
        *(Column(name, name, not of_one_class(name)) for name in metric_names(rows)),
        *_ends(rows),
    ]
    return Table(tuple(columns), tuple({column.key: row.get(column.key) for column in columns} for row in rows))


def table_of_groups(groups: Sequence[Group], keys: Sequence[str]) -> Table:
    """A row for each group: as of runs, but with means, the deviation of each, and how many they are over."""
    rows = [row for one in groups for row in one.rows]
    several = any(len(one.rows) > 1 for one in groups)
    monitors, names = {row.monitor for row in rows}, metric_names(rows)
    metrics = [
        column
        for name in names
        for column in (
            Column(name, name, not of_one_class(name)),
            Column(f"{name} std", "±", several and name in monitors, FEWER),
        )
    ]
    metrics.insert(2 * len(monitors), Column("n", "n", several))
    columns = (*_settings([key for key in keys if key != "seed" or not several]), *metrics, *_ends(rows))

    def value(one: Group, key: str) -> Value:
        if key == "n":
            return len(one.counted)
        name = key.removesuffix(" std")
        return one.deviation(name) if key != name and name in names else one.get(key)

    return Table(columns, tuple({column.key: value(one, column.key) for column in columns} for one in groups))


def table_of_effects(effects: Sequence[Effect]) -> Table:
    """A row for each value of each key."""
    several = len({effect.monitor for effect in effects}) > 1
    columns = (
        Column("metric", "metric", several),
        Column("key", "key"),
        *(Column(key, key, digits=SHARE) for key in ("explains", "by chance")),
        *(Column(key, key) for key in ("value", "n", "mean")),
        Column("std", "±", digits=FEWER),
        *(Column(key, key) for key in ("min", "max")),
    )
    rows = [
        {
            "metric": effect.monitor,
            "key": effect.key,
            "explains": effect.explained,
            "by chance": effect.by_chance,
            "value": level.value,
            "n": len(level.results),
            "mean": level.mean,
            "std": level.deviation,
            "min": min(level.results),
            "max": max(level.results),
        }
        for effect in effects
        for level in effect.levels
    ]
    return Table(columns, tuple(rows))


def said_once(table: Table, keys: Sequence[str]) -> Table:
    """Without the values of these columns where the row above says the same."""
    rows = [dict(row) for row in table.rows]
    for above, row, emptied in zip(table.rows, table.rows[1:], rows[1:], strict=False):
        if all(row[key] == above[key] for key in keys):
            emptied.update(dict.fromkeys(keys))
    return Table(table.columns, tuple(rows))


def table_of_differences(differences: Sequence[Difference]) -> Table:
    """A row for each key."""
    columns = tuple(Column(key, key) for key in Difference._fields)
    return Table(columns, tuple(difference._asdict() for difference in differences))


def reasons(rows: Iterable[Row]) -> list[str]:
    """Why runs have no final result: a line for each reason, with the first run that it holds for."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.reason:
            found.setdefault((row.status, row.reason), []).append(row)
    return [
        f"{plain(os.path.relpath(members[0].directory))} {status}: {plain(reason)}"
        + (f" (and {len(members) - 1} more)" if len(members) > 1 else "")
        for (status, reason), members in found.items()
    ]


def show(key: str, value: Value, digits: str = DIGITS) -> str:
    """A value for people: numbers of six digits, or as `digits` says; one line of printable characters."""
    if value is None:
        return ""
    if isinstance(value, float):
        return format(value, digits)
    text = format(value, ".6g") if isinstance(value, int) and abs(value) >= LONGEST_WHOLE else str(value)
    if key == "directory" and os.path.isabs(text):
        text = os.path.relpath(text)
    elif key.endswith("._target_"):
        text = text.rpartition(".")[2]
    return plain(text)


def plain(text: str) -> str:
    """Printable characters only, so that nothing in a record moves the cursor or breaks a line."""
    return "".join(character if character.isprintable() else " " for character in text)


def is_numeric(table: Table, column: Column) -> bool:
    """Whether a column has numbers, and nothing else."""
    values = [row[column.key] for row in table.rows if row[column.key] is not None]
    return bool(values) and all(isinstance(value, int | float) for value in values)


def as_text(table: Table, *, width: int | None = None) -> str:
    """Aligned columns, as wide as they need to be: paths can be copied.

    Args:
        width: of a terminal; where it is too narrow, a run's id stands for its directory, then train metrics are left
            out.
    """
    lines = _lines(table.shown, table)
    if width and len(max(lines, key=len)) > width:
        rows = [{**row, "directory": _id(row)} if "directory" in row else row for row in table.rows]
        renamed = [replace(column, header="id") if column.key == "directory" else column for column in table.shown]
        table = Table(tuple(renamed), tuple(rows))
        lines = _lines(table.shown, table)
    if width and len(max(lines, key=len)) > width:
        lines = _lines([column for column in table.shown if not column.key.startswith(NARROWER)], table)
    return "".join(f"{line}\n" for line in lines)


def _lines(columns: Sequence[Column], table: Table) -> list[str]:
    cells = [[column.header for column in columns]]
    cells += [[show(column.key, row[column.key], column.digits) for column in columns] for row in table.rows]
    return table_lines(cells, right=[column.header for column in columns if is_numeric(table, column)])


def _id(row: dict[str, Value]) -> str:
    """The digits that a run's directory ends in, which stand for it in commands."""
    name = os.path.basename(str(row["directory"]))
    return name.rpartition("-")[2] or name


def as_markdown(table: Table) -> str:
    """A pipe table."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"

    columns = table.shown
    lines = [[column.header for column in columns], ["---"] * len(columns)]
    lines += [[show(column.key, row[column.key], column.digits) for column in columns] for row in table.rows]
    return "".join(map(line, lines))


def as_csv(table: Table) -> str:
    """All columns at full precision, by their keys."""
    file = io.StringIO()
    writer = csv.DictWriter(file, [column.key for column in table.columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.rows)
    return file.getvalue()


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


WRITERS: dict[str, Callable[[Table], str]] = {"table": as_text, "csv": as_csv, "markdown": as_markdown}


def _settings(keys: Sequence[str]) -> list[Column]:
    return [Column(key, header) for key, header in headers(keys).items()]


def _ends(rows: Sequence[Row]) -> list[Column]:
    steps = [Column("step", "best step")] if any(row.within_epoch for row in rows) else []
    own = [
        Column("epoch", "best epoch"),
        *steps,
        Column("status", "status"),
        Column("seconds", "seconds", digits=".1f"),
    ]
    return [*own, Column("reason", "reason", shown=False), Column("directory", "directory")]
