"""Look at runs, and make room.

python -m src.runs list outputs --status failed
python -m src.runs show 1a2b3c4d
python -m src.runs clean outputs --keep 3
python -m src.runs archive 1a2b3c4d 5e6f7a8b --output runs.tar.gz
python -m src.runs delete 1a2b3c4d
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from src.common.arguments import Parser
from src.common.command import EXIT_FAILED, run_command
from src.common.lock import Locked
from src.common.text import plural, print_table, size
from src.runs.clean import Plan, Removal, make_plan
from src.runs.collection import RecordedRun, find_run, find_runs
from src.runs.details import print_details
from src.runs.listing import SHOWN_STATUSES, newest_first, print_list, summary
from src.runs.remove import archive, check_deletable, delete, links_out_of
from src.runs.sizes import size_of

OK = 0
ABOUT = "Look at runs, and make room. Needs no TensorFlow."
CLEAN = """Remove checkpoints of completed runs, except of the best of each name and monitor. They are there to resume
from; records, logs, summaries and SavedModels stay, and the same command still finds the result. Runs that can go on,
that a process is using, or that others branch from are left alone."""

ARCHIVE = """Pack whole runs into one .tar.gz file, by their paths from here: unpacked here, or in a copy of the
project, they are found, compared, reused and gone on with as before. Nothing is removed."""
DELETE = """Remove whole runs: records, logs, summaries, checkpoints and SavedModels. The same command then trains
again. A run that a process is using, or that others branch from, is left alone."""


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit code: 0, or 1 where not all could be done."""
    arguments = _parser().parse_args(argv)
    return arguments.command(arguments)


def _parser() -> Parser:
    parser = Parser(prog="python -m src.runs", description=ABOUT, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")

    def add(name: str, text: str, description: str, command) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=description, allow_abbrev=False)
        added.set_defaults(command=command)
        return added

    def folders(added: argparse.ArgumentParser) -> None:
        added.add_argument("folders", metavar="DIR", nargs="*", type=Path, default=[Path("outputs")], help="outputs")

    listing = add("list", "a line for each run, newest first", "All runs, newest first.", _list)
    folders(listing)
    listing.add_argument(
        "--status", action="append", choices=SHOWN_STATUSES, help="only these; may be given more than once"
    )
    listing.add_argument("--name", action="append", metavar="NAME", help="only these; 'digits*' is a pattern")
    listing.add_argument("--format", choices=("table", "json"), default="table")

    showing = add("show", "one run on one screen", "All about one run.", _show)
    showing.add_argument("run", metavar="RUN", help="its directory, or the first 4 to 8 digits of its id")

    cleaning = add("clean", "remove checkpoints that nothing needs any more", CLEAN, _clean)
    folders(cleaning)
    cleaning.add_argument(
        "--keep", type=_count, default=3, metavar="K", help="how many of the best keep theirs; 3 by default"
    )
    cleaning.add_argument("--dry-run", action="store_true", help="only show what would be removed")
    cleaning.add_argument("--yes", action="store_true", help="do not ask")

    for name, text, about, command in (
        ("archive", "pack runs into one file", ARCHIVE, _archive),
        ("delete", "remove runs as a whole", DELETE, _delete),
    ):
        added = add(name, text, about, command)
        added.add_argument("runs", metavar="RUN", nargs="+", help="directories, or the first 4 to 8 digits of ids")
        if command is _archive:
            added.add_argument("--output", metavar="FILE", type=Path, required=True, help="a new .tar.gz file")
        else:
            added.add_argument("--yes", action="store_true", help="do not ask")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"it is {text!r}; it must be a whole number, at least 0")
    return int(text)


def _list(arguments: argparse.Namespace) -> int:
    runs, warnings = find_runs(arguments.folders)
    _warn(warnings)
    names, statuses = arguments.name or ["*"], arguments.status or SHOWN_STATUSES
    named = [run for run in runs if any(fnmatchcase(run.values["name"], name) for name in names)]
    summaries = [found for found in map(summary, newest_first(named)) if found["status"] in statuses]
    if arguments.format == "json":
        print(json.dumps(summaries, indent=2))
    elif summaries:
        print_list(summaries, sys.stdout)
    else:
        where = ", ".join(map(str, arguments.folders))
        print(f"none of {plural(len(runs), 'run')} in {where} matches", file=sys.stderr)
    return OK


def _show(arguments: argparse.Namespace) -> int:
    print_details(find_run(arguments.run), sys.stdout)
    return OK


def _clean(arguments: argparse.Namespace) -> int:
    plan = make_plan(arguments.folders, keep=arguments.keep)
    _warn(plan.warnings)
    _print_plan(plan, keep=arguments.keep)
    if not plan.removals:
        print("nothing to remove")
        return OK
    if arguments.dry_run:
        print(f"{_what(plan)} would be removed")
        return OK
    if not arguments.yes:
        if not _agrees(_what(plan)):
            return EXIT_FAILED
        now = make_plan(arguments.folders, keep=arguments.keep)  # it may have taken long to answer
        agreed = {removal.path for removal in plan.removals}
        return _carry_out([removal for removal in now.removals if removal.path in agreed])
    return _carry_out(plan.removals)


def _agrees(what: str) -> bool:
    """Whether whoever sits at the terminal says yes; where nobody does, no."""
    if not sys.stdin.isatty():
        print(f"{what}: nothing was removed; --yes removes it without asking", file=sys.stderr)
        return False
    print(f"Remove {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    print("nothing was removed", file=sys.stderr)
    return False


def _named(words: Sequence[str]) -> list[RecordedRun]:
    """The runs of a command, each once."""
    return list({run.directory.resolve(): run for run in map(find_run, words)}.values())


def _archive(arguments: argparse.Namespace) -> int:
    runs = _named(arguments.runs)
    _warn([f"{link} is a link, and what it leads to is not packed" for link in links_out_of(runs)])
    archive(runs, arguments.output)
    print(f"{arguments.output}  {plural(len(runs), 'run')}, {size(size_of(arguments.output))}")
    return OK


def _delete(arguments: argparse.Namespace) -> int:
    runs = _named(arguments.runs)
    check_deletable(runs)
    print_list([summary(run) for run in runs], sys.stdout)
    total = f"{plural(len(runs), 'run')} of {size(sum(size_of(run.directory) for run in runs))}, with all results"
    if not arguments.yes and not _agrees(total):
        return EXIT_FAILED
    for run in runs:
        delete(run)
        print(f"removed {run.directory}")
    return OK


def _carry_out(removals: Sequence[Removal]) -> int:
    removed, failed = 0, False
    for removal in removals:
        try:
            removed += removal.size if removal.carry_out() else 0
        except Locked as error:
            print(f"{removal.run.directory} was left alone: {str(error).partition(';')[0]}", file=sys.stderr)
        except OSError as error:
            print(f"error: {removal.path} could not be removed: {error}", file=sys.stderr)
            failed = True
    print(f"removed {size(removed)}")
    return EXIT_FAILED if failed else OK


def _print_plan(plan: Plan, *, keep: int) -> None:
    table = [("size", "best", "remove")]
    for removal in plan.removals:
        best = None if removal.is_leftover else removal.run.best
        shown = "" if best is None else f"{removal.run.values['monitor']} {best:.6f}"
        table.append((size(removal.size), shown, str(removal.path)))
    if len(table) > 1:
        print_table(table, sys.stdout, right=("size",))
    for reason, runs in plan.kept.items():
        what = f"the best {keep} of each name and monitor" if reason == "best" else reason
        print(f"kept: {plural(len(runs), 'run')}, {what}")


def _what(plan: Plan) -> str:
    leftovers = sum(removal.is_leftover for removal in plan.removals)
    runs = len(plan.removals) - leftovers
    parts = [f"checkpoints of {plural(runs, 'run')}" * bool(runs), plural(leftovers, "leftover") * bool(leftovers)]
    return f"{size(plan.size)} of {' and '.join(filter(None, parts))}"


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main, interrupted=lambda: "\ninterrupted; what is left of it, the same command removes")
