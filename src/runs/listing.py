"""All runs of some folders in a table, or as JSON.

print_list([summary(run) for run in newest_first(runs)], sys.stdout)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TextIO

from src.common.text import duration, plural, print_table, size
from src.runs.collection import RecordedRun
from src.runs.record import STATUSES
from src.runs.sizes import size_of

SET_ASIDE = "set-aside"
SHOWN_STATUSES = (*STATUSES, SET_ASIDE)
STYLES = {"running": "cyan", "failed": "red", "pruned": "yellow", "interrupted": "yellow", SET_ASIDE: "dim"}


def summary(run: RecordedRun) -> dict[str, Any]:
    """What a list has of a run, as its JSON has it; the sizes are measured now."""
    values, best = run.values, run.values["best"]
    return {
        "directory": str(run.directory),
        "id": values["id"],
        "name": values["name"],
        "status": shown_status(run),
        "holder": run.holder,
        "monitor": values["monitor"],
        "mode": values["mode"],
        "best": best and best["value"],
        "best_epoch": best and best["epoch"],
        "epoch": values["epoch"],
        "epochs": values["epochs"],
        "started": values["started"],
        "finished": values["finished"],
        "seconds": values["seconds"],
        "bytes": size_of(run.directory),
        "checkpoint_bytes": size_of(run.directory / "checkpoints"),
    }


def shown_status(run: RecordedRun) -> str:
    """Its status; `set-aside` where another run has taken its place."""
    return SET_ASIDE if run.set_aside else run.status


def newest_first(runs: Iterable[RecordedRun]) -> list[RecordedRun]:
    """By their start; those without a recorded one at the end."""
    return sorted(runs, key=lambda run: parse_time(run.values["started"]) or -math.inf, reverse=True)


def print_list(summaries: Sequence[dict[str, Any]], stream: TextIO) -> None:
    """A table of runs, and a line with the totals."""
    monitors = {run["monitor"] for run in summaries}
    best = monitors.pop() if len(monitors) == 1 else "best"  # if several are left, each row names its own
    right = ("at epoch", "epochs", "seconds", "size", "checkpoints")
    table = [("status", best, *right[:2], "started", "finished", *right[2:], "directory")]
    for run in summaries:
        holder = f" ({run['holder']})" if run["holder"] and run["status"] == "running" else ""
        monitor = f"{run['monitor']} " if monitors else ""
        row = (
            f"{run['status']}{holder}",
            "" if run["best"] is None else f"{monitor}{run['best']:.6f}",
            str(run["best_epoch"] or ""),
            f"{run['epoch']}/{run['epochs'] or '?'}",
            local_time(run["started"]),
            local_time(run["finished"], after=run["started"]),
            f"{run['seconds']:.1f}",
            size(run["bytes"]),
            size(run["checkpoint_bytes"]) if run["checkpoint_bytes"] else "-",
            run["directory"],
        )
        table.append(row)
    print_table(table, stream, right=right, styles=[STYLES.get(run["status"], "") for run in summaries])
    print(_totals(summaries), file=stream)


def _totals(summaries: Sequence[dict[str, Any]]) -> str:
    """How many runs of which status, how large, and how long they were trained."""
    counts = Counter(run["status"] for run in summaries)
    statuses = ", ".join(f"{counts[status]} {status}" for status in SHOWN_STATUSES if counts[status])
    totals = [sum(run[key] for run in summaries) for key in ("bytes", "checkpoint_bytes", "seconds")]
    return (
        f"{plural(len(summaries), 'run')}: {statuses}; {size(totals[0])}, {size(totals[1])} of it checkpoints; "
        f"trained for {duration(totals[2])}"
    )


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
