"""Tables of raw values, and how they are written: for a terminal, csv, json, markdown.

table = table_of_groups(groups, keys)
print(as_text(table))
"""

from __future__ import annotations

import csv
import functools
import html
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len

from src.common.text import of_one_class, table_lines, told_apart
from src.comparison.columns import headers, metric_names
from src.comparison.diff import Difference
from src.comparison.effects import Effect
from src.comparison.groups import Group
from src.comparison.rows import Row, Value

DIGITS, FEWER, SHARE = ".6g", ".3g", ".1%"
LONGEST_WHOLE = 10**12  # larger whole numbers are shown as others
OF_EFFECT = ("metric", "key", "explains", "by chance")  # columns with one value an effect


@dataclass(frozen=True)
class Column:
    """A column: its key in files, its header for people, whether people see it at all, and how its numbers are.

    `fixed` ones stay in place on the page when the others are moved.
    """

    key: str
    header: str
    shown: bool = True
    digits: str = DIGITS
    fixed: bool = False
    is_setting: bool = False  # so that other values have other texts


@dataclass(frozen=True)
class Table:
    """Rows of raw values by column key."""

    columns: tuple[Column, ...]
    rows: tuple[dict[str, Value], ...]

    @property
    def shown(self) -> list[Column]:
        """The columns for people."""
        return [column for column in self.columns if column.shown]

    def cells(self) -> list[list[str]]:
        """The header and the rows as people read them."""
        columns = [self._texts(column) for column in self.shown]
        return [[plain(column.header) for column in self.shown], *(map(list, zip(*columns, strict=True)))]

    def _texts(self, column: Column) -> list[str]:
        values = [row[column.key] for row in self.rows]
        text = functools.partial(show, column.key, digits=column.digits)
        return told_apart(values, text) if column.is_setting else list(map(text, values))

    def is_numeric(self, column: Column) -> bool:
        """Whether a column has numbers, and nothing else."""
        values = [row[column.key] for row in self.rows if row[column.key] is not None]
        return bool(values) and all(isinstance(value, int | float) for value in values)


def table_of_runs(rows: Sequence[Row], keys: Sequence[str], chosen: Sequence[str] = ()) -> Table:
    """A row for each run: what differs, metrics, best epoch, status, seconds, directory; or the chosen columns."""
    metrics = [Column(name, name, not of_one_class(name)) for name in metric_names(rows)]
    return _table([*_settings(keys), *metrics, *_last_columns(rows)], rows, chosen)


def table_of_groups(groups: Sequence[Group], keys: Sequence[str], chosen: Sequence[str] = ()) -> Table:
    """A row for each group: as of runs, but with means, the deviation of each, and how many they are over.

    A metric that is chosen has its deviation beside it. What means are taken over has no column.
    """
    rows = [row for one in groups for row in one.rows]
    several = any(len(one.rows) > 1 for one in groups)
    monitors = {row.monitor for row in rows}
    metrics: list[Column] = []
    for name in metric_names(rows):
        metrics.append(Column(name, name, not of_one_class(name)))
        metrics.append(Column(f"{name} std", "±", several and name in monitors, FEWER))
    metrics.insert(2 * len(monitors), Column("n", "n", several))
    over = groups[0].over if several else ()
    settings = _settings([key for key in keys if key not in over])
    return _table([*settings, *metrics, *_last_columns(rows)], groups, [key for key in chosen if key not in over])


def table_of_effects(effects: Sequence[Effect]) -> Table:
    """A row for each value of each key."""
    several = len({effect.monitor for effect in effects}) > 1
    digits = {"explains": SHARE, "by chance": SHARE, "std": FEWER}
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
    keys = (*OF_EFFECT, "value", "n", "mean", "std", "min", "max")
    columns = (
        Column(key, "±" if key == "std" else key, key != "metric" or several, digits.get(key, DIGITS)) for key in keys
    )
    return Table(tuple(columns), tuple(rows))


def without_repeats(table: Table) -> Table:
    """A table of effects that says once what is the same for all values of a key."""
    rows = [dict(row) for row in table.rows]
    for above, row, emptied in zip(table.rows, table.rows[1:], rows[1:], strict=False):
        if all(row[key] == above[key] for key in OF_EFFECT):
            emptied.update(dict.fromkeys(OF_EFFECT))
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


def as_text(table: Table, *, width: int | None = None) -> str:
    """Aligned columns, as wide as they need to be: paths can be copied.

    Args:
        width: of a terminal, for a table of runs; where it is too narrow, a run's id stands for its directory, then
            train metrics are left out.
    """
    lines = _lines(table)
    for narrower in (_with_ids, _without_training):
        if width and max(map(cell_len, lines)) > width:
            table = narrower(table)
            lines = _lines(table)
    return "".join(f"{line}\n" for line in lines)


def as_markdown(table: Table) -> str:
    """A pipe table, in which nothing is markup."""
    header, *rows = [[markdown(cell) for cell in cells] for cells in table.cells()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, ["---"] * len(header), *rows))


def markdown(words: str) -> str:
    """Words that Markdown shows as they are, on one line."""
    return html.escape(plain(words), quote=False).replace("\\", "\\\\").translate({ord(c): f"\\{c}" for c in "|*_`[]"})


def as_csv(table: Table) -> str:
    """All columns at full precision, by their keys."""
    file = io.StringIO()
    writer = csv.DictWriter(file, [column.key for column in table.columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.rows)
    return file.getvalue()


def _table(columns: Sequence[Column], members: Sequence[Row] | Sequence[Group], chosen: Sequence[str]) -> Table:
    if chosen:
        known = {column.key: column for column in columns}
        keys = [name for key in chosen for name in (key, f"{key} std") if name == key or name in known]
        names = headers(list(dict.fromkeys([*known, *keys])))
        columns = [known.get(key) or Column(key, names[key]) for key in keys]
        columns = [replace(column, shown=column.shown or column.key in chosen) for column in columns]
    return Table(tuple(columns), tuple({column.key: one.get(column.key) for column in columns} for one in members))


def _settings(keys: Sequence[str]) -> list[Column]:
    return [Column(key, header, is_setting=True) for key, header in headers(keys).items()]


def _last_columns(rows: Sequence[Row]) -> list[Column]:
    return [
        Column("epoch", "best epoch"),
        *([Column("step", "best step")] if any(row.is_within_epoch for row in rows) else []),
        Column("status", "status"),
        Column("seconds", "seconds", digits=".1f"),
        Column("reason", "reason", shown=False),
        Column("directory", "directory"),
    ]


def _lines(table: Table) -> list[str]:
    return table_lines(table.cells(), right=[column.header for column in table.shown if table.is_numeric(column)])


def _with_ids(table: Table) -> Table:
    """With the digits that a run's directory ends in, which stand for it in commands."""
    columns = [replace(column, header="id") if column.key == "directory" else column for column in table.columns]
    names = [os.path.basename(str(row["directory"])) for row in table.rows]
    rows = [{**row, "directory": name.rpartition("-")[2]} for row, name in zip(table.rows, names, strict=True)]
    return Table(tuple(columns), tuple(rows))


def _without_training(table: Table) -> Table:
    return Table(tuple(column for column in table.columns if not column.key.startswith("train/")), table.rows)
