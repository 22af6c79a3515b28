"""The comparison as one HTML file that needs nothing else: tables to sort, curves, effects, pictures, commands.

replace(Path("comparison.html"), page(groups, keys))
"""

from __future__ import annotations

import base64
import json
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources
from string import Template

from src.comparison import CompareError
from src.comparison.charts import MOST_CURVES, colours, curves, scatters
from src.comparison.effects import effects
from src.comparison.groups import Group, group, ranked
from src.comparison.made_of import unlike
from src.comparison.rows import Row, Value
from src.comparison.tables import (
    Column,
    Table,
    is_numeric,
    plain,
    reasons,
    said_once,
    show,
    table_of_effects,
    table_of_groups,
    table_of_runs,
)
from src.runs.commands import train_command
from src.text import counted

COMMANDS = 5  # of the best groups
MOST_PICTURE_BYTES = 5_000_000  # of all pictures together
HOW = "pip install -e '.[report]', or make setup"


def page(groups: Sequence[Group], keys: Sequence[str], *, sort: str | None = None) -> str:
    """The page of these groups, best first.

    Args:
        keys: the settings that tell the runs apart.
        sort: what the groups are ranked by, and so each run.

    Raises:
        CompareError: Plotly is missing, or there is no run.
    """
    rows = [row for one in groups for row in one.rows]
    if not rows:
        raise CompareError("there is no run to show, so no page was made")
    plotly, lines = _plotly(), curves(groups, keys)
    drawn = {"curves": lines, "scatters": scatters(groups, keys)}
    sections = {
        "table": _tables(groups, keys, sort),
        "curves": _curves(len(rows), bool(lines["groups"])),
        "effects": _effects(rows),
        "pictures": _pictures(groups[0].best),
        "unlike": _list("Not made alike", unlike(rows)),
        "failures": _list("Without a final result", reasons(rows)),
        "commands": _commands(groups),
    }
    names = ", ".join(dict.fromkeys(plain(row.run.values["name"]) for row in rows))
    return Template(_file("page.html")).substitute(
        title=escape(f"{names}: {counted(len(rows), 'run')}"),
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        summary=escape(_summary(groups, rows)),
        style=_file("page.css"),
        data=json.dumps(drawn, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        plotly=plotly,
        script=_file("page.js"),
        **sections,
    )


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise CompareError(f"--format html draws with Plotly, which is not installed: {HOW}") from None
    return get_plotlyjs()


def _file(name: str) -> str:
    return resources.files("src.comparison").joinpath(name).read_text(encoding="utf-8")


def _summary(groups: Sequence[Group], rows: Sequence[Row]) -> str:
    statuses = ", ".join(f"{n} {status}" for status, n in Counter(row.status for row in rows).items())
    text = f"{counted(len(groups), 'setting')}; {statuses}."
    best = groups[0]
    if best.counted:
        text += f" Best: {best.best.monitor} {show('', best.mean(best.best.monitor))}"
        text += f", the mean of {len(best.counted)}." if len(best.rows) > 1 else "."
    return text


def _tables(groups: Sequence[Group], keys: Sequence[str], sort: str | None) -> str:
    """The groups, where there are any of several runs, and each run."""
    dots = colours(groups)
    dot_of = {row.directory: dot for dot, one in zip(dots, groups, strict=True) for row in one.rows}
    rows = [one.best for one in ranked(group([row for one in groups for row in one.rows], keys, each=True), sort=sort)]
    runs = _table(table_of_runs(rows, keys), "runs", dots=[dot_of[row.directory] for row in rows])
    if len(rows) == len(groups):
        return f"<section><h2>Runs</h2>{runs}</section>"
    means = "<p class='note'>Means over the runs that are equal but for their seed; ± is the standard deviation.</p>"
    table = _table(table_of_groups(groups, keys), "groups", dots=dots)
    opened = " open" if len(rows) <= MOST_CURVES else ""
    return (
        f"<section><h2>Settings</h2>{means}{table}</section>"
        f"<section><details{opened}><summary><h2>Each run</h2></summary>{runs}</details></section>"
    )


def _curves(count: int, any_history: bool) -> str:
    if not any_history:
        return ""
    which = f" Of {count} runs, the best {MOST_CURVES} are drawn." if count > MOST_CURVES else ""
    note = f"Solid: validation. Dashed: training. Click a name to hide or show its runs, twice for it alone.{which}"
    return f"<section><h2>Curves</h2><p class='note'>{note}</p><div id='curves' class='charts'></div></section>"


def _effects(rows: Sequence[Row]) -> str:
    found = effects(rows)
    if not found:
        return ""
    table = said_once(table_of_effects(found), ("metric", "key", "explains", "by chance"))
    note = (
        "The share of the variance of the results that each key explains (eta squared), beside what a key that does "
        "nothing would explain by chance; and the mean result for each of its values."
    )
    return (
        f"<section><h2>What mattered</h2><p class='note'>{note}</p>"
        f"<div id='scatters' class='charts'></div>{_table(table, 'effects', sortable=False)}</section>"
    )


def _table(table: Table, name: str, *, dots: Sequence[str] = (), sortable: bool = True) -> str:
    columns = table.shown
    numeric = {column.key for column in columns if is_numeric(table, column)}

    def head(key: str, header: str) -> str:
        kind = " class='number'" if key in numeric else ""
        title = f" title='{escape(key)}'" if key != header else ""
        inner = f"<button type='button'>{escape(plain(header))}</button>" if sortable else escape(plain(header))
        return f"<th scope='col'{kind}{title}{' aria-sort=none' if sortable else ''}>{inner}</th>"

    def cell(column: Column, value: Value, dot: str) -> str:
        key = column.key
        kind = "number" if key in numeric else key if key in ("status", "directory") else ""
        if key == "status" and value != "completed":
            kind += " unfinished"
        mark = f"<i class='dot' style='background:{dot}'></i>" if dot else ""
        data = f" data-value='{escape(_raw(value))}'" if sortable and isinstance(value, float) else ""
        return f"<td{f' class={kind!r}' if kind else ''}{data}>{mark}{escape(show(key, value, column.digits))}</td>"

    lines = []
    for number, row in enumerate(table.rows):
        cells = (
            cell(column, row[column.key], dots[number] if dots and place == 0 else "")
            for place, column in enumerate(columns)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(head(column.key, column.header) for column in columns)
    kind = " class='sortable'" if sortable else ""
    return (
        f"<div class='scroll'><table id='{name}'{kind}><thead><tr>{heads}</tr></thead>"
        f"<tbody>{chr(10).join(lines)}</tbody></table></div>"
    )


def _raw(value: Value) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _pictures(best: Row) -> str:
    """What the best run predicts, where it left pictures."""
    paths = [best.directory / "predictions.png", *sorted(best.directory.glob("evaluation/*/*.png"))]
    figures, left, too_large = [], MOST_PICTURE_BYTES, []
    for path in paths:
        name = str(path.relative_to(best.directory))
        if not path.is_file():
            continue
        if path.stat().st_size > left:
            too_large.append(name)
            continue
        content = path.read_bytes()
        left -= len(content)
        source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        figures.append(
            f"<figure><img src='{source}' alt='{escape(name)}'><figcaption>{escape(name)}</figcaption></figure>"
        )
    if not figures:
        return ""
    shown = f"Of {os.path.relpath(best.directory)}." + (f" Too large: {', '.join(too_large)}." if too_large else "")
    note = f"<p class='note'>{escape(plain(shown))}</p>"
    return f"<section><h2>The best run's pictures</h2>{note}{''.join(figures)}</section>"


def _list(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<section><h2>{title}</h2><ul>{items}</ul></section>"


def _commands(groups: Sequence[Group]) -> str:
    """How to train the best run of each of the best groups again."""
    best = [one.best for one in groups if one.counted][:COMMANDS]
    if not best:
        return ""
    blocks = "\n\n".join(f"# {plain(_origin(row))}\n{_command(row)}" for row in best)
    return f"<section><h2>Again</h2><pre>{escape(blocks)}</pre></section>"


def _origin(row: Row) -> str:
    environment = row.run.values.get("environment")
    git = environment.get("git") if isinstance(environment, dict) else None
    text = f"{row.monitor} {show('', row.result)}"
    if not isinstance(git, dict):
        return text
    return f"{text}, commit {git.get('commit')}" + (
        ", with changes that were not committed" if git.get("dirty") or git.get("untracked") else ""
    )


def _command(row: Row) -> str:
    """By `python`, whatever this one is called: a page is read elsewhere."""
    _, *words = shlex.split(train_command(row.directory, row.run.values))
    return shlex.join(["python", *words])
