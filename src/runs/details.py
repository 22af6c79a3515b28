"""One screen about one run.

run = find_run("1a2b3c4d")
print_details(run, sys.stdout)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from src.common.text import duration, plural, print_table, size, sparkline
from src.config.identity import ID_DIGITS
from src.runs.collection import RecordedRun, find_runs
from src.runs.commands import given_options, next_commands, train_command
from src.runs.listing import SET_ASIDE, STYLES, local_time, newest_first, shown_status
from src.runs.record_schema import Environment, RecordValues, best_metrics, step_within
from src.runs.sizes import part_sizes
from src.training.manifest import listed

EPOCHS = 10  # of the history
CURVE = 60  # epochs of a metric's curve
SMALL = 0.01  # as learning rates are


def print_details(run: RecordedRun, stream: TextIO) -> None:
    """Status, result, history, options, environment, disk, and what to type."""
    values, console, history = run.values, Console(file=stream), run.history()

    def section(name: str, lines: Iterable[str]) -> None:
        lines = [line for line in lines if line]
        for number, line in enumerate(lines):
            console.print(Text(f"{'' if number else name:<12}", style="bold"), Text(line), sep="", soft_wrap=True)

    status = shown_status(run)
    console.print(Text(os.path.relpath(run.directory), style="bold"), soft_wrap=True)
    console.print(Text(f"{'status':<12}", style="bold"), Text(_status(run), style=STYLES.get(status, "")), sep="")
    section("", _reasons(run))
    section("time", [_times(values)])
    best = best_metrics(values, history) if values["best"] else {}
    section("result", [_best(values), *_metrics("best", best), *_metrics("last", values["metrics"])])
    section("options", [" ".join(given_options(values)) or "all defaults", _parameters(values)])
    section("branch", _relatives(run))
    section("environment", _environment(values["environment"]))
    parts = part_sizes(run.directory)
    shown = ", ".join(f"{name} {size(count)}" for name, count in parts.items())
    section("disk", [f"{size(sum(parts.values()))}: {shown}", _cleaned(values)])
    console.print(Text(f"{'type':<12}", style="bold"), end="", soft_wrap=True)
    print(train_command(run.directory, values), file=stream)  # as it is: rich would change tabs
    if run.status == "completed":
        section("next", next_commands(run.directory))
    _print_history(history, values["monitor"], stream)


def _status(run: RecordedRun) -> str:
    values, status = run.values, run.status
    text = f"{status}, epoch {values['epoch']} of {values['epochs'] or '?'}, step {values['step']}"
    return f"{text} ({run.holder})" if status == "running" else text


def _reasons(run: RecordedRun) -> Iterator[str]:
    values = run.values
    if run.set_aside:
        yield f"{SET_ASIDE}: another run has taken its place"
    if values["status"] == "running" and run.status == "interrupted":
        yield "no process runs it any more: it was killed"
    if run.status != "completed" and not run.holder:
        saved = listed(run.directory / "checkpoints")
        yield f"the same command goes on from {saved[-1]}" if saved else "no checkpoint: the same command starts it"
    for name, lacks, unit, missing in (
        ("history", "lacks", "epoch", values["history_missing"]),
        ("validations", "lack", "step", values["validations_missing"]),
    ):
        if missing:
            shown = ", ".join(map(str, missing[:EPOCHS])) + (", ..." if len(missing) > EPOCHS else "")
            yield f"its {name} {lacks} {plural(len(missing), unit)}, lost as in a power cut: {shown}"
    if error := values["error"]:
        yield f"{error['type']}: {error['message']}"
        yield _place(error["traceback"] or "")


def _place(traceback: str) -> str:
    """Where an error was raised: the innermost line outside of installed packages."""
    places = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', traceback)
    own = [place for place in places if "site-packages" not in place[0]]
    file, line, function = (own or places or [("", "", "")])[-1]
    return f"in {function}, {os.path.relpath(file)}:{line}; the whole trace is in train.log" if file else ""


def _times(values: RecordValues) -> str:
    started, finished = values["started"], values["finished"]
    words = [f"started {local_time(started)}"]
    if finished:
        words.append(f"finished {local_time(finished, after=started)}")
    words.append(f"trained for {duration(values['seconds'])}")
    return ", ".join(words)


def _best(values: RecordValues) -> str:
    best = values["best"]
    if not best:
        return f"no {values['monitor']} yet"
    place = f"epoch {best['epoch'] or '?'}{step_within(best)}"
    return f"{values['monitor']} {_six(best['value'])}, the best ({values['mode']}), in {place}"


def _six(value: float | None) -> str:
    return "nan" if value is None else _digits(value, 6)


def _metrics(which: str, metrics: dict[str, float | None]) -> Iterator[str]:
    """The best step's metrics or the last epoch's, a line a split."""
    for split in dict.fromkeys(name.partition("/")[0] for name in metrics):
        of_split = [(name.partition("/")[2], value) for name, value in metrics.items() if name.startswith(f"{split}/")]
        shown = "  ".join(f"{name} {_six(value)}" for name, value in of_split)
        yield f"{which} {split}: {shown}"


def _parameters(values: RecordValues) -> str:
    parameters = values["parameters"]
    return "" if parameters is None else f"{parameters:,} parameters, seed {values['seed']}"


def _relatives(run: RecordedRun) -> Iterator[str]:
    """The run that this one branched from, and those that branched from it, as far as they lie nearby."""
    folders = [Path("outputs")] if Path("outputs").is_dir() else []
    if run.directory.resolve().parent.name == run.values["name"]:
        folders.append(run.directory.parent)
    parent, nearby = run.values["parent"], find_runs(folders)[0]
    if parent:
        found = [other for other in nearby if other.values["config_hash"] == parent["config_hash"]]
        of = os.path.relpath(found[0].directory) if found else f"run {parent['config_hash'][:ID_DIGITS]}"
        yield f"of {of}, after epoch {parent['epoch']}, step {parent['step']}"
    own = run.values["config_hash"]
    for other in newest_first(nearby):
        if (began_at := other.values["parent"]) and began_at["config_hash"] == own:
            yield f"to {os.path.relpath(other.directory)}, {shown_status(other)}"


def _environment(environment: Environment) -> Iterator[str]:
    if git := environment["git"]:
        changed = git.get("dirty") or git.get("untracked")
        yield f"commit {(git.get('commit') or '?')[:10]}{', with changes' if changed else ''}"
    packages = {"python": environment["python"], **environment["packages"]}
    yield ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    threads = environment["threads"]
    parts = (environment["processor"], plural(threads, "thread") if threads else None)
    yield ", ".join(filter(None, parts))
    yield ", ".join(f"{name}={value}" for name, value in (environment["variables"] or {}).items())
    yield from (f"changed on the way: {change}" for change in environment["changes"])


def _cleaned(values: RecordValues) -> str:
    cleaned = values["cleaned"]
    return f"checkpoints removed by clean {local_time(cleaned)}" if cleaned else ""


def _print_history(epochs: list[dict[str, Any]], monitor: str, stream: TextIO) -> None:
    if not epochs:
        return
    print(file=stream)
    names, last, by_number = list(epochs[-1]), epochs[-1]["epoch"], {epoch["epoch"]: epoch for epoch in epochs}
    first = max(last - CURVE + 1, min(by_number))
    shown = [by_number.get(number, {"epoch": number}) for number in range(first, last + 1)]  # missing ones too
    table = [[_number(epoch[name]) if name in epoch else "" for name in names] for epoch in shown[-EPOCHS:]]
    print_table([names, *table], stream, right=names)
    curve = [float("nan") if epoch.get(monitor) is None else epoch[monitor] for epoch in shown]
    console = Console(file=stream)
    if len(curve) > 2 and (console.encoding or "").startswith("utf"):
        print(f"{monitor}  {sparkline(curve)}", file=stream)


def _number(value: Any) -> str:
    return _digits(value, 4) if isinstance(value, float) else json.dumps(value)


def _digits(value: float, digits: int) -> str:
    """With so many digits after the point; of a small number, so many significant digits."""
    return f"{value:.{digits}f}" if abs(value) >= SMALL or not value else f"{value:.{digits}g}"
