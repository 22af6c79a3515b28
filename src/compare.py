"""Compare runs: a table of what differs between them and what they reached, best first.

python -m src.compare outputs/digits
python -m src.compare outputs/digits --where optimizer=adam --sort val/loss
python -m src.compare outputs/digits --format html --output digits.html
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from src.common.arguments import Parser
from src.common.command import run_command
from src.common.errors import ConfigError
from src.common.extras import install_command
from src.common.files import replace
from src.comparison import confounders
from src.comparison.columns import differing, known_keys, metric_names, resolve
from src.comparison.diff import RESULT, differences
from src.comparison.effects import completed_with, effects
from src.comparison.groups import OVER, Group, group, ranked, repeated
from src.comparison.rows import Row, add_derived, read_row, read_rows
from src.comparison.tables import (
    Table,
    as_csv,
    as_markdown,
    as_text,
    markdown,
    reasons,
    table_of_differences,
    table_of_effects,
    table_of_groups,
    table_of_runs,
    without_repeats,
)
from src.comparison.where import select, values_before
from src.runs.collection import find_run
from src.runs.commands import python

FORMATS = ("table", "csv", "json", "markdown", "html")
FOR_PEOPLE = ("table", "markdown")
SUFFIXES = {".csv": "csv", ".json": "json", ".md": "markdown", ".html": "html", ".txt": "table"}
PAGE = "comparison.html"
NO_PLOTLY = f"--format html draws with Plotly, which is not installed: {install_command('report')}, or make setup"

ABOUT = """\
A table of the runs in some folders, at any depth: the settings that differ between them, their metrics, the best epoch,
status, seconds and directory; best first, failed and unfinished runs at the end. Reads run.json and history.jsonl only.

Runs that are equal but for their seed, and for what --over names, are one row: the mean over the completed ones, ± the
standard deviation of the monitored metric (n - 1), n of them, and the directory of the best. Where none is completed,
what they have reached."""

DETAILS = """\
The monitored metric is a run's best value; the others are those of the same step, empty where they were not recorded.
Runs that differ in code, data, files, packages or machine are named in a warning. A setting that follows from an option
has no column: where only the optimizer differs, so does its learning rate. A value that was typed always has one.

csv has all columns by their full keys, at full precision, `<metric> std` for each metric, the reason of a failure, and
absolute directories. json has the same as {"groups": [{column: value, "runs": [{column: value}]}]}, with --each as
{"runs": [...]}, with --effects as {"effects": [...]}, with --diff as {"a": ..., "b": ..., "differences": [...]}.

--effects: the share of the variance of the results that a key explains is eta squared: the sum over its values of
n (their mean - the mean of all)^2, divided by the sum over all runs of (result - the mean of all)^2. `by chance` is
what a key without any effect would explain: (values - 1) / (runs - 1). More than 8 numbers are put into 5 ranges. Only
runs that have the key count, models with dropout for its rate; keys that always change together are one; code, data and
packages are keys too where they differ.

examples:
  python -m src.compare outputs/digits
  python -m src.compare outputs --where name=digits --where "learning_rate<0.01" --sort val/loss
  python -m src.compare outputs/digits --each --output runs.csv
  python -m src.compare outputs/digits --columns optimizer,learning_rate,val/loss
  python -m src.compare outputs/digits --effects
  python -m src.compare outputs/folds --over data.fold
  python -m src.compare outputs/digits --format html --output digits.html
  python -m src.compare --diff outputs/digits/RUN outputs/digits/OTHER

--format html without --output writes comparison.html here. On a terminal that is too narrow for the table, ids stand
for directories, and metrics of training are left out.

exit codes: 0; 2 where the command is wrong or there is no run; 130 after Ctrl-C"""


def main(argv: Sequence[str]) -> None:
    """The command line."""
    arguments = _parse(argv)
    if arguments.diff:
        _write(_diff(arguments.diff, arguments.format), arguments.output)
    else:
        _compare(arguments)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m src.compare",
        usage="python -m src.compare DIR... [options]\n       python -m src.compare --diff RUN RUN",
        description=ABOUT,
        epilog=DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option(
        "folders", nargs="*", type=Path, metavar="DIR", help="folders with runs, or runs: outputs/<name>/<label>-<id>"
    )
    option(
        "--over",
        metavar="KEY",
        action="append",
        default=[],
        help="average over this setting too, as data.fold; may be repeated",
    )
    option("--each", action="store_true", help="every run in a row of its own")
    option(
        "--columns",
        metavar="KEY,KEY",
        help="the columns of the table, in this order; settings that do not differ and metrics of one class may be too",
    )
    option("--sort", metavar="KEY", help="a metric, best first, or any other column, smallest first")
    option(
        "--where",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="only runs with this option, setting, metric, status or name; also != < <= > >=; may be repeated",
    )
    option(
        "--effects", action="store_true", help="the mean result by value of each key, the one that matters most first"
    )
    option("--diff", nargs=2, metavar="RUN", help="all that differs between two runs; an id is enough")
    option("--all", action="store_true", help="also runs that rerun=true or stale=rerun have put aside")
    option("--format", choices=FORMATS, help="`table` by default, or by the suffix of --output; html is a page to send")
    option("--output", type=Path, metavar="FILE", help="a file; its suffix decides the format: .csv, .json, .md, .html")
    arguments = parser.parse_intermixed_args(argv)
    if sum(map(bool, (arguments.each, arguments.effects, arguments.diff))) > 1:
        parser.error("--each, --effects and --diff exclude each other")
    if arguments.over and (arguments.each or arguments.effects or arguments.diff):
        parser.error("--over is for means: it goes with none of --each, --effects and --diff")
    if arguments.columns and (arguments.effects or arguments.diff):
        parser.error("--columns is for tables of runs: it goes with neither --effects nor --diff")
    if bool(arguments.folders) == bool(arguments.diff):
        parser.error("give folders with runs, or --diff and two runs" if arguments.diff else "give a folder with runs")
    arguments.format = arguments.format or _format_of(arguments.output)
    if arguments.format == "html" and arguments.diff:
        parser.error("--format html does not go with --diff: its output must end in .csv, .json or .md")
    if arguments.format == "html" and (arguments.effects or arguments.each):
        parser.error("--format html has each run and the effects on one page: leave out --each and --effects")
    return arguments


def _format_of(output: Path | None) -> str:
    if output is None:
        return "table"
    if output.suffix not in SUFFIXES:
        raise ConfigError(f"--output {output} must end in {', '.join(SUFFIXES)}; or give --format")
    return SUFFIXES[output.suffix]


def _compare(arguments: argparse.Namespace) -> None:
    rows, warnings = read_rows(arguments.folders, set_aside=arguments.all)
    _warn(warnings)
    if not rows:
        where = ", ".join(map(str, arguments.folders))
        raise ConfigError(f"there is no run in {where}: runs are outputs/<name>/<label>-<id>, with a run.json each")
    sort = arguments.sort and resolve(arguments.sort, known_keys(rows))
    if arguments.effects and sort and sort not in metric_names(rows):
        raise ConfigError(f"--effects --sort {sort}: it must be a metric, one of {', '.join(metric_names(rows))}")
    selected = select(rows, arguments.where)
    if not selected:
        values = values_before(rows, arguments.where)
        print(f"none of {len(rows)} runs matches {' '.join(arguments.where)}; {values}", file=sys.stderr)
    keys = differing(selected)
    settings = list(dict.fromkeys(key for row in rows for key in row.settings))
    over = (*OVER, *(resolve(key, settings) for key in arguments.over))
    groups = ranked(group(selected, keys, each=arguments.each, over=over), sort=sort)
    columns = [resolve(key.strip(), [*known_keys(rows), "n"]) for key in (arguments.columns or "").split(",") if key]
    _warn([] if arguments.each else repeated(groups))
    _warn(confounders.warnings([row for one in groups for row in one.rows]))
    if arguments.format != "html" and any(len(one.rows) > 1 for one in groups) and (of_one := {*columns} & {*over}):
        raise ConfigError(f"--columns {min(of_one)}: rows are means over it; --each has a row for each run")
    if arguments.format == "html":
        if not importlib.util.find_spec("plotly"):
            raise ConfigError(NO_PLOTLY)
        from src.comparison.page import page

        _write(page(groups, keys, sort=sort, columns=columns), arguments.output or Path(PAGE))
    elif arguments.effects:
        _write(_effects(selected, sort, form=arguments.format), arguments.output)
    else:
        _write(_runs(groups, keys, columns, arguments), arguments.output)
        if arguments.format == "table" and len(groups) > 1:
            two = shlex.join(os.path.relpath(one.best.directory) for one in groups[:2])
            print(f"next: {python()} -m src.compare --diff {two}", file=sys.stderr)


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _runs(groups: Sequence[Group], keys: Sequence[str], columns: Sequence[str], arguments: argparse.Namespace) -> str:
    """The table of the groups, or with --each of the runs."""
    rows = [row for one in groups for row in one.rows]
    if not rows and arguments.format == "table":
        return ""
    runs = table_of_runs(rows, keys, columns)
    table, as_json = runs, {"runs": [dict[str, object](row) for row in runs.rows]}
    if not arguments.each:
        table, left = table_of_groups(groups, keys, columns), iter(runs.rows)
        as_json = {"groups": [dict[str, object](row) for row in table.rows]}
        for one, values in zip(groups, as_json["groups"], strict=True):
            values["runs"] = [next(left) for _ in one.rows]
    is_terminal = sys.stdout.isatty() and not arguments.output
    width = os.get_terminal_size(sys.stdout.fileno()).columns if is_terminal else None
    return _formatted(table, arguments.format, as_json, reasons(rows), width=width)


def _effects(rows: Sequence[Row], metric: str | None, *, form: str) -> str:
    found = effects(rows, metric)
    if form == "table" and not found:
        return "no setting differs between completed runs\n"
    table, notes = table_of_effects(found), []
    as_json = {"effects": table.rows}
    if form in FOR_PEOPLE:
        table = without_repeats(table)
    for name in [metric] if metric else dict.fromkeys(row.monitor for row in rows):
        count = len(completed_with(rows, name, any_monitor=metric is not None))
        left_out = f"; {len(rows) - count} left out" if count < len(rows) else ""
        notes.append(f"{name} of {count} completed runs{left_out}")
    return _formatted(table, form, as_json, notes)


def _diff(words: Sequence[str], form: str) -> str:
    runs = [find_run(word) for word in words]
    read = [read_row(run) for run in runs]
    for _, warnings in read:
        _warn(warnings)
    ours, theirs = (row for row, _ in read)
    add_derived([ours, theirs])
    found = differences(ours, theirs)
    table = table_of_differences(found)
    notes = [f"{name}: {run.directory}" for name, run in zip("ab", runs, strict=True)]
    if not found:
        notes.append("nothing differs")
    elif all(difference.part == RESULT for difference in found):
        notes.append("nothing else differs: config, commit, packages, machine, code and data are equal")
    if form == "table" and not found:
        return "".join(f"{note}\n" for note in notes)
    both: dict[str, object] = {name: str(run.directory.resolve()) for name, run in zip("ab", runs, strict=True)}
    return _formatted(table, form, {**both, "differences": table.rows}, notes)


def _formatted(table: Table, form: str, as_json: object, notes: Sequence[str] = (), *, width: int | None = None) -> str:
    """A table in a format; with notes under it where people read it."""
    if form == "json":
        return json.dumps(as_json, indent=2) + "\n"
    if form == "csv":
        return as_csv(table)
    if form == "markdown":
        text, notes = as_markdown(table), [markdown(note) for note in notes]
    else:
        text = as_text(table, width=width)
    return text + "".join(f"\n{note}" for note in notes) + "\n" * bool(notes)


def _write(text: str, output: Path | None) -> None:
    """Print a text, or write it whole and print where."""
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        replace(output, text.encode("utf-8", "backslashreplace").decode())
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror})") from error
    print(output)


if __name__ == "__main__":
    run_command(main)
