"""What a sweep shows: a live table on a terminal, a line for each change elsewhere, and at the end all results.

view = view_for(sys.stderr)
print_results(entries, sys.stdout)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from src.errors import one_line
from src.sweeps.plan import Job
from src.sweeps.sweep import DONE, RUNNING, Entry, View
from src.text import duration, last_names, print_table, short

REFRESH_SECONDS = 0.5
STYLES = {"running": "cyan", "completed": "green", "reused": "green", "failed": "red", "pruned": "yellow"}
SHOWN = {"reused": "completed before", "locked": "in use"}


def view_for(stream: TextIO) -> View:
    """A live table where the stream is a terminal, plain lines elsewhere."""
    return LiveTable(stream) if stream.isatty() else Lines(stream)


class Lines:
    """A line for each job that starts, waits for someone, or ends."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def changed(self, entry: Entry, entries: Sequence[Entry], *, count: int) -> None:
        if entry.status not in RUNNING and not ((entry.shares or entry).tries or entry.holder):
            return  # none of this sweep's doing; the summary counts them
        print(f"[{entry.number}/{count}] {_line(entry, entries)}", file=self._stream, flush=True)

    def tick(self, entries: Sequence[Entry], *, slots: int) -> None:
        pass

    def close(self) -> None:
        pass


class LiveTable:
    """The jobs that run, what is left, and what has failed; drawn by the sweep's own thread, which forks."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._live: Live | None = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._drawn = -REFRESH_SECONDS

    def changed(self, entry: Entry, entries: Sequence[Entry], *, count: int) -> None:
        if self._live and entry.status == "failed" and entry.tries:
            self._live.console.print(Text(f"[{entry.number}/{count}] {_line(entry, entries)}", style="red"))
        self._drawn = -REFRESH_SECONDS

    def tick(self, entries: Sequence[Entry], *, slots: int) -> None:
        if self._live is None or time.monotonic() - self._drawn < REFRESH_SECONDS:
            return
        self._drawn = time.monotonic()
        running = [entry for entry in entries if entry.status == "running"]
        table, keys = Table(box=box.SIMPLE_HEAD, pad_edge=False), swept_keys(entries)
        for column in ("job", *last_names(keys), "status", "epoch", _monitor(entries), "left"):
            table.add_column(column, justify="right" if column in ("job", "epoch", "left") else "left")
        for entry in running:
            epoch = f"{entry.epoch}/{entry.job.cfg.epochs}"
            left = "" if entry.left_seconds is None else duration(entry.left_seconds)
            table.add_row(str(entry.number), *_swept(entry, keys), _status(entry), epoch, _value(entry), left)
        lines = [summary(entries, slots=slots)]
        if best := next((entry for entry in ranked(entries) if entry.value is not None), None):
            lines.append(f"best so far: {_line(best, entries)}")
        self._live.update(Group(table, Text("\n".join(lines))), refresh=True)

    def close(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None


def summary(entries: Sequence[Entry], *, slots: int) -> str:
    """How many jobs are in which state, and how long the rest will take."""
    counts = {status: sum(entry.status == status for entry in entries) for status in dict.fromkeys(_order(entries))}
    text = ", ".join(f"{count} {SHOWN.get(status, status)}" for status, count in counts.items())
    left = left_seconds(entries, slots=slots)
    return text + (f"; about {duration(left)} left" if left else "")


def left_seconds(entries: Sequence[Entry], *, slots: int) -> float | None:
    """How long the jobs that are not over will take, by the epochs done so far; None where none is done."""
    measured = [entry for entry in entries if entry.epoch and entry.seconds and entry.shares is None]
    if not measured:
        return None
    per_epoch = sum(entry.seconds for entry in measured) / sum(entry.epoch for entry in measured)
    epochs = [max(0, e.job.cfg.epochs - e.epoch) for e in entries if e.status in RUNNING and e.shares is None]
    return max(sum(epochs) / slots, max(epochs, default=0)) * per_epoch


def print_results(entries: Sequence[Entry], stream: TextIO) -> None:
    """All jobs, best first: what differs between them, result, status, seconds and directory; then the failures."""
    keys, order = swept_keys(entries), ranked(entries)
    table = [["job", *last_names(keys), _monitor(entries), "epoch", "status", "seconds", "directory"]]
    for entry in order:
        epoch = f"{entry.epoch}/{entry.job.cfg.epochs}"
        seconds = f"{entry.seconds:.1f}" if entry.seconds else ""
        row = [str(entry.number), *_swept(entry, keys), _value(entry)]
        table.append([*row, epoch, _status(entry).plain, seconds, _relative(entry)])
    styles = ["red" if entry.status == "failed" else "" for entry in order]
    print_table(table, stream, right=("job", "seconds"), styles=styles)
    console = Console(file=stream)
    for entry in entries:
        if entry.reason:
            console.print(Text(f"job {entry.number} {entry.status}: {_reason(entry)}", style="red"), soft_wrap=True)


def print_jobs(planned: Sequence[Job], stream: TextIO) -> None:
    """What a sweep would do with each job."""
    entries = [Entry(number=number, job=job) for number, job in enumerate(planned, start=1)]
    keys = swept_keys(entries)
    table = [["job", *last_names(keys), "does", "directory"]]
    seen: dict[Path, int] = {}
    for entry in entries:
        job = entry.job
        does = {"start": "starts", "resume": "goes on", "reuse": "is completed"}[job.action]
        if (first := seen.setdefault(job.directory, entry.number)) != entry.number:
            does = f"is job {first}"
        elif job.set_aside:
            does = "starts afresh"
        table.append([str(entry.number), *_swept(entry, keys), does, _relative(entry)])
    print_table(table, stream)


def ranked(entries: Sequence[Entry]) -> list[Entry]:
    """Best first, by each one's own monitor and mode; those without a result at the end."""

    def key(entry: Entry) -> tuple:
        done, value = entry.status in DONE, entry.value
        if value is None:
            return (2, entry.job.cfg.monitor, 0.0, entry.number)
        return (0 if done else 1, entry.job.cfg.monitor, -value if entry.job.cfg.mode == "max" else value, entry.number)

    return sorted(entries, key=key)


def swept_keys(entries: Iterable[Entry]) -> list[str]:
    """The keys whose values differ between the jobs, in the order typed."""
    settings = [_settings(entry) for entry in entries]
    names = dict.fromkeys(key for values in settings for key in values)
    return [key for key in names if len({values.get(key) for values in settings}) > 1]


def _settings(entry: Entry) -> dict[str, str]:
    pairs = (text.lstrip("+").partition("=") for text in entry.job.overrides)
    return {key: value for key, _, value in pairs}


def _swept(entry: Entry, keys: Sequence[str]) -> list[str]:
    settings = _settings(entry)
    return [short(settings.get(key, "")) for key in keys]


def _line(entry: Entry, entries: Sequence[Entry]) -> str:
    settings = _settings(entry)
    what = " ".join(f"{key}={short(settings[key])}" for key in swept_keys(entries) if key in settings)
    parts = [what or entry.job.directory.name, _status(entry).plain]
    if entry.value is not None and entry.status != "waiting":
        parts.append(f"{entry.job.cfg.monitor} {entry.value:.6f}")
    if entry.status not in RUNNING and entry.seconds:
        parts.append(f"{entry.seconds:.1f} s")
    if entry.status in ("failed", "waiting") and entry.reason:
        parts.append(one_line(entry.reason))
    if entry.tries > 1:
        parts.append(f"try {entry.tries}")
    return "  ".join(parts) + _users_line(entry)


def _reason(entry: Entry) -> str:
    return one_line(entry.reason or "") + _users_line(entry)


def _users_line(entry: Entry) -> str:
    """On a line of its own, below why the entry has failed."""
    return f"\n  {one_line(entry.line)}" if entry.line and entry.status in ("failed", "waiting") else ""


def _order(entries: Sequence[Entry]) -> list[str]:
    known = ("reused", "completed", "pruned", "failed", "interrupted", "not started", "running", "locked", "waiting")
    return [status for status in known if any(entry.status == status for entry in entries)]


def _monitor(entries: Sequence[Entry]) -> str:
    names = {entry.job.cfg.monitor for entry in entries}
    return names.pop() if len(names) == 1 else "result"


def _value(entry: Entry) -> str:
    return "" if entry.value is None else f"{entry.value:.6f}"


def _status(entry: Entry) -> Text:
    text = SHOWN.get(entry.status, entry.status)
    if entry.status == "locked":
        text += f" by {entry.holder}"
    elif entry.status == "interrupted" and entry.step:
        text += f" at step {entry.step}"
    elif entry.status == "running" and entry.tries == 1 and entry.job.action == "resume":
        text += ", gone on with"
    elif entry.status == "waiting" and entry.tries:
        text = "to be tried again"
    if entry.shares:
        text += f" (as job {entry.shares.number})"
    return Text(text, style=STYLES.get(entry.status, ""))


def _relative(entry: Entry) -> str:
    return os.path.relpath(entry.job.directory)
