"""All runs of some folders in a table, or as JSON.

rows = [read_row(run) for run in newest_first(runs)]
print_rows(rows, sys.stdout)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TextIO

from src.runs.collection import RecordedRun
from src.runs.record import STATUSES
from src.runs.sizes import size_of
from src.text import counted, duration, print_table, size

SET_ASIDE = "set-aside"
SHOWN_STATUSES = (*STATUSES, SET_ASIDE)
STYLES = {"running": "cyan", "failed": "red", "pruned": "yellow", "interrupted": "yellow", SET_ASIDE: "dim"}


@dataclass(frozen=True)
class Row:
    """What a list says of a run."""

    directory: str
    id: str
    name: str
    status: str
    holder: str | None
    monitor: str
    mode: str
    best: float | None
    best_epoch: int | None
    epoch: int
    epochs: int | None
    started: str | None
    finished: str | None
    seconds: float
    bytes: int
    checkpoint_bytes: int


def read_row(run: RecordedRun) -> Row:
    """A run's row; its size is measured now."""
    values = run.values
    return Row(
        directory=str(run.directory),
        id=values["id"],
        name=values["name"],
        status=shown_status(run),
        holder=run.holder,
        monitor=values["monitor"],
        mode=values["mode"],
        best=run.best,
        best_epoch=values["best"] and values["best"]["epoch"],
        epoch=values["epoch"],
        epochs=values["epochs"],
        started=values["started"],
        finished=values["finished"],
        seconds=values["seconds"],
        bytes=size_of(run.directory),
        checkpoint_bytes=size_of(run.directory / "checkpoints"),
    )


def shown_status(run: RecordedRun) -> str:
    """Its status; `set-aside` where another run has taken its place."""
    return SET_ASIDE if run.set_aside else run.status


def newest_first(runs: Iterable[RecordedRun]) -> list[RecordedRun]:
    """By when they were started; those that do not say so at the end."""
    return sorted(runs, key=lambda run: parse_time(run.values["started"]) or -math.inf, reverse=True)


def print_rows(rows: Sequence[Row], stream: TextIO) -> None:
    """A table, and a line that sums it up."""
    monitors = {row.monitor for row in rows}
    best = rows[0].monitor if len(monitors) == 1 else "best"
    right = ("at epoch", "epochs", "seconds", "size", "checkpoints")
    header = ("status", best, *right[:2], "started", "finished", *right[2:], "directory")
    table = [
        (
            _status(row),
            shown_best(row, named=len(monitors) > 1),
            str(row.best_epoch or ""),
            f"{row.epoch}/{row.epochs or '?'}",
            local_time(row.started),
            local_time(row.finished, after=row.started),
            f"{row.seconds:.1f}",
            size(row.bytes),
            size(row.checkpoint_bytes) if row.checkpoint_bytes else "-",
            row.directory,
        )
        for row in rows
    ]
    print_table([header, *table], stream, right=right, styles=[STYLES.get(row.status, "") for row in rows])
    print(total(rows), file=stream)


def total(rows: Sequence[Row]) -> str:
    """All rows in one line: how many runs of which status, how large, and how long they were trained."""
    counts = Counter(row.status for row in rows)
    statuses = ", ".join(f"{counts[status]} {status}" for status in SHOWN_STATUSES if counts[status])
    sizes = [sum(row.bytes for row in rows), sum(row.checkpoint_bytes for row in rows)]
    trained = duration(sum(row.seconds for row in rows))
    return (
        f"{counted(len(rows), 'run')}: {statuses}; {size(sizes[0])}, of it {size(sizes[1])} checkpoints; "
        f"trained for {trained}"
    )


def shown_best(row: Row, *, named: bool) -> str:
    """The best value, after its name where the column does not tell."""
    if row.best is None:
        return ""
    return f"{row.monitor} {row.best:.6f}" if named else f"{row.best:.6f}"


def local_time(text: str | None, *, after: str | None = None) -> str:
    """A recorded time as a clock on the wall here shows it, to the minute; without the day if it is that of `after`."""
    seconds, before = parse_time(text), parse_time(after)
    if seconds is None:
        return ""
    here = datetime.fromtimestamp(seconds)
    same_day = before is not None and datetime.fromtimestamp(before).date() == here.date()
    return f"{here:%H:%M}" if same_day else f"{here:%Y-%m-%d %H:%M}"


def parse_time(text: Any) -> float | None:
    """A recorded time as seconds since 1970; None where there is none."""
    try:
        seconds = datetime.fromisoformat(text).timestamp()
        datetime.fromtimestamp(seconds)  # here too it must be in years 1 to 9999
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return seconds


def _status(row: Row) -> str:
    return f"{row.status} ({row.holder})" if row.holder and row.status == "running" else row.status
