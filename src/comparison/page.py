"""The comparison as one HTML file that needs nothing else: tables to sort, curves, effects, pictures, commands.

replace(Path("comparison.html"), page(groups, keys))
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from importlib import resources
from string import Template

from plotly.offline import get_plotlyjs

from src.common.errors import ConfigError
from src.common.text import plural
from src.comparison import confounders
from src.comparison.charts import MOST_CURVES, PALETTE, colours, curves, scatters
from src.comparison.effects import Effect, effects
from src.comparison.groups import Group, group, ranked
from src.comparison.rows import Row
from src.comparison.tables import (
    Table,
    plain,
    reasons,
    show,
    table_of_effects,
    table_of_groups,
    table_of_runs,
    without_repeats,
)
from src.runs.commands import by_python, train_command

COMMANDS = 5  # of the best groups
MOST_PICTURE_BYTES = 5_000_000  # of all pictures together
MEANS = "Means over the runs that are equal but for their {}; ± is the standard deviation."
MOST_OPENED = 60  # runs, whose table is open from the beginning
SEARCH = "Search settings, as: optimizer=adam dropout=0.1"
LEGEND = "Solid: validation. Dashed: training. What is searched for above is drawn alone. "
NAMES = "Click a name to hide or show its runs, twice for it alone."
COLOURS = "Colours as in the tables, from the best, dark, to the worst, light."
EFFECTS = (
    "The share of the variance of the results that each key explains (eta squared), beside what a key that does "
    "nothing would explain by chance; and the mean result for each of its values."
)


def page(groups: Sequence[Group], keys: Sequence[str], *, sort: str | None = None, columns: Sequence[str] = ()) -> str:
    """The page of these groups, best first.

    Args:
        keys: the settings that distinguish the runs.
        sort: what the groups are ranked by, and so each run.
        columns: of the tables; all by default.

    Raises:
        ConfigError: there is no run.
    """
    rows = [row for one in groups for row in one.rows]
    if not rows:
        raise ConfigError("there is no run to show, so no page was made")
    found = effects(rows)
    figures = [("curves", figure) for figure in curves(groups, keys)]
    sections = [
        _tables(groups, keys, sort, columns),
        _list("Made differently", confounders.warnings(rows)),
        _curves(len(rows), len(groups)) if figures else "",
        _effects(found),
        _pictures(groups[0].best),
        _list("Without a final result", reasons(rows)),
        _commands(groups),
    ]
    figures += [("scatters", figure) for figure in scatters(found, groups, keys)]
    names = ", ".join(dict.fromkeys(plain(row.run.values["name"]) for row in rows))
    return Template(_file("page.html")).substitute(
        title=escape(f"{names}: {plural(len(rows), 'run')}"),
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        summary=escape(_summary(groups, rows)),
        style=_file("page.css"),
        sections="\n".join(filter(None, sections)),
        figures=f"[{','.join(f'[{json.dumps(section)},{figure.to_json()}]' for section, figure in figures)}]",
        plotly=get_plotlyjs(),
        script=_file("page.js"),
    )


def _file(name: str) -> str:
    return resources.files("src.comparison").joinpath(name).read_text(encoding="utf-8")


def _summary(groups: Sequence[Group], rows: Sequence[Row]) -> str:
    statuses = ", ".join(f"{n} {status}" for status, n in Counter(row.status for row in rows).items())
    text = f"{plural(len(groups), 'setting')}; {statuses}."
    best = groups[0]
    if best.averaged:
        text += f" Best: {best.best.monitor} {show('', best.mean(best.best.monitor))}"
        text += f", the mean of {len(best.averaged)}." if len(best.rows) > 1 else "."
    return text


def _section(title: str, content: str, *, note: str = "") -> str:
    shown = f"<p class='note'>{escape(note)}</p>" if note else ""
    return f"<section><h2>{title}</h2>{shown}{content}</section>"


def _tables(groups: Sequence[Group], keys: Sequence[str], sort: str | None, columns: Sequence[str]) -> str:
    """The groups, where there are any of several runs, and each run."""
    dots = colours(groups)
    number_of = {row.directory: number for number, one in enumerate(groups) for row in one.rows}
    rows = [one.best for one in ranked(group([row for one in groups for row in one.rows], keys, each=True), sort=sort)]
    numbers = [number_of[row.directory] for row in rows]
    attributes = [
        f"data-group={n} data-run='{escape(row.run.values['id'])}'" for n, row in zip(numbers, rows, strict=True)
    ]
    each = _results_first(table_of_runs(rows, keys, columns), rows)
    runs = _table(each, "runs", dots=[dots[number] for number in numbers], attributes=attributes)
    controls = (
        f"<div id='controls'><input type='search' aria-label='Search' placeholder='{SEARCH}'> "
        "<details><summary>Columns</summary></details> <output class='note'></output></div>"
    )
    if len(rows) == len(groups):
        return _section("Runs", controls + runs)
    opened = " open" if len(rows) <= MOST_OPENED else ""
    means = _results_first(table_of_groups(groups, keys, columns), rows)
    attributes = [f"data-group={number}" for number in range(len(groups))]
    return (
        _section(
            "Settings",
            controls + _table(means, "groups", dots=dots, attributes=attributes),
            note=MEANS.format(" and ".join(groups[0].over)),
        )
        + f"<section><details{opened}><summary><h2>Each run</h2></summary>{runs}</details></section>"
    )


def _results_first(table: Table, rows: Sequence[Row]) -> Table:
    """With the columns of the results before the others, and in place when these are moved."""
    monitors = {row.monitor for row in rows}
    results = {"n", *monitors, *(f"{name} std" for name in monitors)}
    columns = [replace(column, fixed=column.key in results) for column in table.columns]
    return replace(table, columns=tuple(sorted(columns, key=lambda column: not column.fixed)))


def _curves(runs: int, groups: int) -> str:
    drawn = f" Of {runs} runs, the best {MOST_CURVES} are drawn." if runs > MOST_CURVES else ""
    note = LEGEND + (NAMES if groups <= len(PALETTE) else COLOURS) + drawn
    return _section("Curves", "<div id='curves' class='charts'></div>", note=note)


def _effects(found: Sequence[Effect]) -> str:
    if not found:
        return ""
    table = _table(without_repeats(table_of_effects(found)), "effects", sortable=False)
    return _section("What mattered", f"<div id='scatters' class='charts'></div>{table}", note=EFFECTS)


def _table(
    table: Table, name: str, *, dots: Sequence[str] = (), attributes: Sequence[str] = (), sortable: bool = True
) -> str:
    header, *lines = table.cells()
    numeric = [table.is_numeric(column) for column in table.shown]
    heads, rows = [], []
    for column, is_number, text in zip(table.shown, numeric, header, strict=True):
        kind = " number" * is_number + " fixed" * column.fixed
        kind = f" class='{kind.strip()}'" * bool(kind)
        title = f" title='{escape(column.key)}'" if column.key != column.header else ""
        inner = f"<button type='button'>{escape(text)}</button>" if sortable else escape(text)
        heads.append(f"<th scope='col'{kind}{title}{' aria-sort=none' * sortable}>{inner}</th>")
    for number, (values, texts) in enumerate(zip(table.rows, lines, strict=True)):
        cells: list[str] = []
        for column, is_number, text in zip(table.shown, numeric, texts, strict=True):
            value = values[column.key]
            kind = "number" if is_number else column.key if column.key in ("status", "directory") else ""
            kind += " unfinished" * (column.key == "status" and value != "completed") + " fixed" * column.fixed
            exact = f" data-value='{value!r}'" if sortable and isinstance(value, float) else ""
            dot = f"<i class='dot' style='background:{dots[number]}'></i>" if dots and not cells else ""
            cells.append(f"<td{f' class={kind.strip()!r}' if kind else ''}{exact}>{dot}{escape(text)}</td>")
        rows.append(f"<tr{f' {attributes[number]}' if attributes else ''}>{''.join(cells)}</tr>")
    kind = " class='sortable'" * sortable
    return (
        f"<div class='scroll'><table id='{name}'{kind}><thead><tr>{''.join(heads)}</tr></thead>"
        f"<tbody>{chr(10).join(rows)}</tbody></table></div>"
    )


def _pictures(best: Row) -> str:
    """What the best run predicts, where it left pictures."""
    figures, left, too_large = [], MOST_PICTURE_BYTES, []
    for path in (best.directory / "predictions.png", *sorted(best.directory.glob("evaluation/*/*.png"))):
        if not path.is_file():
            continue
        name = str(path.relative_to(best.directory))
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
    note = f"Of {os.path.relpath(best.directory)}." + (f" Too large: {', '.join(too_large)}." if too_large else "")
    return _section("The best run's pictures", "".join(figures), note=plain(note))


def _list(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return _section(title, f"<ul>{items}</ul>") if lines else ""


def _commands(groups: Sequence[Group]) -> str:
    """How to train the best run of each of the best groups again."""
    best = [one.best for one in groups if one.averaged][:COMMANDS]
    blocks = "\n\n".join(f"# {plain(_origin(row))}\n{_command(row)}" for row in best)
    return _section("Again", f"<pre>{escape(blocks)}</pre>") if best else ""


def _origin(row: Row) -> str:
    git = row.run.values["environment"]["git"]
    text = f"{row.monitor} {show('', row.result)}"
    if not git:
        return text
    return f"{text}, commit {git.get('commit')}" + (
        ", with changes that were not committed" if git.get("dirty") or git.get("untracked") else ""
    )


def _command(row: Row) -> str:
    return by_python(train_command(row.directory, row.run.values))
