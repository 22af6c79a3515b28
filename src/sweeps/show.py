"""What a sweep shows: a live table on a terminal, a line for each change elsewhere, and at the end all results.

view = view_for(sys.stderr)
print_results(states, sys.stdout)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, TextIO

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from src.common.errors import one_line
from src.common.text import duration, last_names, print_table, short
from src.runs.decision import Action
from src.sweeps.job_state import DONE, UNFINISHED, JobState
from src.sweeps.plan import Job

REFRESH_SECONDS = 0.5
STYLES = {"running": "cyan", "completed": "green", "reused": "green", "failed": "red", "pruned": "yellow"}
ACTIONS: dict[Action, str] = {
    "start": "starts",
    "resume": "resumes",
    "measure": "is measured on the test split",
    "reuse": "is completed",
}
SHOWN = {"reused": "completed before", "locked": "in use"}


class View(Protocol):
    """What shows a sweep while it runs."""

    def changed(self, state: JobState, states: Sequence[JobState], *, count: int) -> None:
        """A job has another status than before; `count` is how many jobs there will be."""

    def tick(self, states: Sequence[JobState], *, slots: int) -> None:
        """Time has passed."""

    def close(self) -> None:
        """The sweep has ended."""


def view_for(stream: TextIO) -> View:
    """A live table where the stream is a terminal, plain lines elsewhere."""
    return LiveTable(stream) if stream.isatty() else Lines(stream)


class Lines:
    """A line for each job that starts, waits for someone, or ends."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def changed(self, state: JobState, states: Sequence[JobState], *, count: int) -> None:
        if state.status not in UNFINISHED and not ((state.same_as or state).tries or state.holder):
            return  # not computed by this sweep; the summary counts them
        print(f"[{state.number}/{count}] {_line(state, states)}", file=self._stream, flush=True)

    def tick(self, states: Sequence[JobState], *, slots: int) -> None:
        pass

    def close(self) -> None:
        pass


class LiveTable:
    """The jobs that run, the time that remains, and what has failed; drawn by the sweep's own thread, which forks."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._live: Live | None = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._drawn = -REFRESH_SECONDS

    def changed(self, state: JobState, states: Sequence[JobState], *, count: int) -> None:
        if self._live and state.status == "failed" and state.tries:
            self._live.console.print(Text(f"[{state.number}/{count}] {_line(state, states)}", style="red"))
        self._drawn = -REFRESH_SECONDS

    def tick(self, states: Sequence[JobState], *, slots: int) -> None:
        if self._live is None or time.monotonic() - self._drawn < REFRESH_SECONDS:
            return
        self._drawn = time.monotonic()
        running = [state for state in states if state.status == "running"]
        table, keys = Table(box=box.SIMPLE_HEAD, pad_edge=False), swept_keys(states)
        for column in ("job", *last_names(keys), "status", "epoch", _monitor(states), "left"):
            table.add_column(column, justify="right" if column in ("job", "epoch", "left") else "left")
        for state in running:
            epoch = f"{state.epoch}/{state.job.epochs}"
            left = "" if state.remaining_seconds is None else duration(state.remaining_seconds)
            table.add_row(str(state.number), *_swept(state, keys), _status(state), epoch, _value(state), left)
        lines = [summary(states, slots=slots)]
        if best := next((state for state in ranked(states) if state.value is not None), None):
            lines.append(f"best so far: {_line(best, states)}")
        self._live.update(Group(table, Text("\n".join(lines))), refresh=True)

    def close(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None


def summary(states: Sequence[JobState], *, slots: int) -> str:
    """How many jobs are in which state, and how long the rest will take."""
    counts = {status: sum(state.status == status for state in states) for status in dict.fromkeys(_order(states))}
    text = ", ".join(f"{count} {SHOWN.get(status, status)}" for status, count in counts.items())
    left = remaining_seconds(states, slots=slots)
    return text + (f"; about {duration(left)} left" if left else "")


def remaining_seconds(states: Sequence[JobState], *, slots: int) -> float | None:
    """How long the unfinished jobs will take, by the epochs done so far; None where none is done."""
    measured = [state for state in states if state.epoch and state.seconds and state.same_as is None]
    if not measured:
        return None
    per_epoch = sum(state.seconds for state in measured) / sum(state.epoch for state in measured)
    epochs = [max(0, e.job.epochs - e.epoch) for e in states if e.status in UNFINISHED and e.same_as is None]
    return max(sum(epochs) / slots, max(epochs, default=0)) * per_epoch


def print_results(states: Sequence[JobState], stream: TextIO) -> None:
    """All jobs, best first: what differs between them, result, status, seconds and directory; then the failures."""
    keys, order = swept_keys(states), ranked(states)
    table = [["job", *last_names(keys), _monitor(states), "epoch", "status", "seconds", "directory"]]
    for state in order:
        epoch = f"{state.epoch}/{state.job.epochs}"
        seconds = f"{state.seconds:.1f}" if state.seconds else ""
        row = [str(state.number), *_swept(state, keys), _value(state)]
        table.append([*row, epoch, _status(state).plain, seconds, _relative(state)])
    styles = ["red" if state.status == "failed" else "" for state in order]
    print_table(table, stream, right=("job", "seconds"), styles=styles)
    console = Console(file=stream)
    for state in states:
        if state.reason:
            console.print(Text(f"job {state.number} {state.status}: {_reason(state)}", style="red"), soft_wrap=True)


def print_jobs(planned: Sequence[Job], stream: TextIO) -> None:
    """What a sweep would do with each job."""
    states = [JobState(number=number, job=job) for number, job in enumerate(planned, start=1)]
    keys = swept_keys(states)
    table = [["job", *last_names(keys), "action", "directory"]]
    seen: dict[Path, int] = {}
    for state in states:
        job = state.job
        action = ACTIONS[job.action]
        if (first := seen.setdefault(job.directory, state.number)) != state.number:
            action = f"is job {first}"
        elif job.set_aside:
            action = "starts afresh"
        table.append([str(state.number), *_swept(state, keys), action, _relative(state)])
    print_table(table, stream)


def ranked(states: Sequence[JobState]) -> list[JobState]:
    """Best first, by each one's own monitor and mode; those without a result at the end."""

    def key(state: JobState) -> tuple:
        done, value = state.status in DONE, state.value
        if value is None:
            return (2, state.job.monitor, 0.0, state.number)
        return (0 if done else 1, state.job.monitor, -value if state.job.mode == "max" else value, state.number)

    return sorted(states, key=key)


def swept_keys(states: Iterable[JobState]) -> list[str]:
    """The keys whose values differ between the jobs, in the order typed."""
    settings = [_settings(state) for state in states]
    names = dict.fromkeys(key for values in settings for key in values)
    return [key for key in names if len({values.get(key) for values in settings}) > 1]


def _settings(state: JobState) -> dict[str, str]:
    pairs = (text.lstrip("+").partition("=") for text in state.job.overrides)
    return {key: value for key, _, value in pairs}


def _swept(state: JobState, keys: Sequence[str]) -> list[str]:
    settings = _settings(state)
    return [short(settings.get(key, "")) for key in keys]


def _line(state: JobState, states: Sequence[JobState]) -> str:
    settings = _settings(state)
    what = " ".join(f"{key}={short(settings[key])}" for key in swept_keys(states) if key in settings)
    parts = [what or state.job.directory.name, _status(state).plain]
    if state.value is not None and state.status != "waiting":
        parts.append(f"{state.job.monitor} {state.value:.6f}")
    if state.status not in UNFINISHED and state.seconds:
        parts.append(f"{state.seconds:.1f} s")
    if state.status in ("failed", "waiting") and state.reason:
        parts.append(one_line(state.reason))
    if state.tries > 1:
        parts.append(f"try {state.tries}")
    return "  ".join(parts) + _users_line(state)


def _reason(state: JobState) -> str:
    return one_line(state.reason or "") + _users_line(state)


def _users_line(state: JobState) -> str:
    """On a line of its own, below why the state has failed."""
    return f"\n  {one_line(state.line)}" if state.line and state.status in ("failed", "waiting") else ""


def _order(states: Sequence[JobState]) -> list[str]:
    known = ("reused", "completed", "pruned", "failed", "interrupted", "not started", "running", "locked", "waiting")
    return [status for status in known if any(state.status == status for state in states)]


def _monitor(states: Sequence[JobState]) -> str:
    names = {state.job.monitor for state in states}
    return names.pop() if len(names) == 1 else "result"


def _value(state: JobState) -> str:
    return "" if state.value is None else f"{state.value:.6f}"


def _status(state: JobState) -> Text:
    text = SHOWN.get(state.status, state.status)
    if state.status == "locked":
        text += f" by {state.holder}"
    elif state.status == "interrupted" and state.step:
        text += f" at step {state.step}"
    elif state.status == "running" and state.tries == 1 and state.job.action == "resume":
        text += ", resumed"
    elif state.status == "waiting" and state.tries:
        text = "to be retried"
    if state.same_as:
        text += f" (as job {state.same_as.number})"
    return Text(text, style=STYLES.get(state.status, ""))


def _relative(state: JobState) -> str:
    return os.path.relpath(state.job.directory)
