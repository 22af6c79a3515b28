"""The sweep: jobs go in, run side by side, and come out completed, failed, interrupted or pruned. None is run twice.

with Sweep(folder, slots=[{}, {}], threads=1, view=Lines()) as sweep:
    for job in plan([["seed=0"], ["seed=1"]]):
        sweep.add(job)
    while sweep.busy:
        sweep.poll()
sweep.exit_code
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from src.machine import memory_kills
from src.runs.checked import Values
from src.runs.lock import Locked, hold, holder_of
from src.runs.record import BadRecord, Record
from src.signals import PRUNE_SIGNAL, ending_signals
from src.sweeps.child import run_job
from src.sweeps.plan import Job
from src.sweeps.processes import Ended, Pool, Start
from src.sweeps.record import SweepRecord
from src.sweeps.warm import prepare_fork

Status = Literal[
    "waiting", "locked", "running", "completed", "reused", "failed", "interrupted", "pruned", "not started"
]
RUNNING: tuple[Status, ...] = ("waiting", "locked", "running")
DONE: tuple[Status, ...] = ("completed", "reused", "pruned")
OnFailure = Literal["continue", "stop"]
ON_FAILURE = ("continue", "stop")

NEVER_BETTER = ("ConfigError", "NonFiniteLoss")  # failures that the same config always ends with

POLL_SECONDS = 0.2
LOCK_POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0  # to save, for a job that has run out of time


@dataclass
class Entry:
    """A job in a sweep, and what has become of it.

    Attributes:
        number: in the sweep, from 1.
        value: the best of the monitored metric; None where there is none.
        reason: why it failed.
        seconds: of training, over all its parts.
        began: whether a try of this sweep has got as far as the run's record.
        line: the line of the user's own code that raised what made it fail.
        shares: the earlier entry with the same directory, whose run this one is too.
        holder: the process of another command that trains it now.
    """

    number: int
    job: Job
    status: Status = "waiting"
    value: float | None = None
    reason: str | None = None
    line: str | None = None
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    tries: int = 0
    began: bool = False
    shares: Entry | None = None
    holder: str | None = None
    pid: int | None = None
    deadline: float | None = None
    timed_out: bool = False
    asked_again_at: float = 0.0

    @property
    def left_seconds(self) -> float | None:
        """How long it will take from here, by its own epochs so far."""
        if not self.epoch or self.status != "running":
            return None
        return self.seconds / self.epoch * max(0, self.job.cfg.epochs - self.epoch)


class View(Protocol):
    """What shows a sweep while it runs."""

    def changed(self, entry: Entry, entries: Sequence[Entry], *, count: int) -> None:
        """An entry has another status than before; `count` is how many jobs there will be."""

    def tick(self, entries: Sequence[Entry], *, slots: int) -> None:
        """Time has passed."""

    def close(self) -> None:
        """The sweep is over."""


class Sweep:
    """Runs jobs in processes of their own and keeps the sweep's record.

    Args:
        folder: where the sweep's own folder is made, `<time>-<id>`.
        slots: the environment of each of the jobs that run at a time.
        threads: of each job whose run has no count of its own.
        view: shows what happens.
        command: the words after `python -m src.train`, for the record.
        start: `fork` or `spawn`.
        on_failure: `stop` ends the others, which save, as soon as one has failed.
        retries: how often a failed job is tried again; it goes on from its last checkpoint.
        job_timeout_seconds: how long one try of a job may take.
        settings: what Hydra says of the sweep, for multirun.yaml.
        sweep_id: what tells the sweep from others.
        run: what a child calls with a job's config, as `run_job`.
        count: how many jobs there will be, where they are not all known at the beginning.
        prepare: what is imported before the first fork.
    """

    def __init__(
        self,
        folder: Path,
        *,
        slots: Sequence[dict[str, str]],
        threads: int,
        view: View,
        command: Sequence[str] = (),
        start: Start = "fork",
        on_failure: OnFailure = "continue",
        retries: int = 0,
        job_timeout_seconds: float | None = None,
        count: int = 0,
        settings: str = "",
        sweep_id: str = "",
        prepare: Callable[[], None] | None = prepare_fork,
        run: Callable[..., Any] = run_job,
    ) -> None:
        self.entries: list[Entry] = []
        self._leaders: dict[Path, Entry] = {}
        self._threads, self._view, self._run = threads, view, run
        self._slots, self._on_failure, self._retries = len(slots), on_failure, retries
        self._timeout, self._count = job_timeout_seconds, count
        self._pool = Pool(slots=slots, start=start, prepare=prepare if start == "fork" else None)
        self._queue: list[Entry] = []
        self._finished: list[Entry] = []
        self._memory_kills = memory_kills()
        self._signal: int | None = None
        self._stopping = False
        self._handlers: dict[int, Any] = {}
        self.record = SweepRecord.create(folder, sweep_id=sweep_id, command=command, settings=settings)

    def __enter__(self) -> Sweep:
        numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}.intersection(ending_signals())
        self._handlers = {number: signal.signal(number, self._hear) for number in numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        if any(exception):  # whatever went wrong here, what runs may save
            self.stop()
            deadline = time.monotonic() + GRACE_SECONDS
            while self._pool.busy and time.monotonic() < deadline:
                for ended in self._pool.wait(timeout_seconds=POLL_SECONDS):
                    self._settle(ended)
        self._pool.close()
        for entry in self._queue:
            self._finish(entry, "not started")
        self._view.close()
        self.record.write(self.entries, exit_code=self.exit_code)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @property
    def busy(self) -> bool:
        """Whether anything is running or waiting to."""
        return any(entry.status in RUNNING for entry in self.entries)

    @property
    def free_slots(self) -> int:
        """How many more jobs could start at once; 0 once the sweep is being stopped."""
        return 0 if self._stopping else self._pool.free_slots - len(self._queue)

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop, by a signal or by a failure."""
        return self._stopping

    @property
    def exit_code(self) -> int:
        """0 if all went well, 1 if a job failed or was ended, 128 + n if signal n ended the sweep."""
        if self._signal and any(entry.status not in DONE for entry in self.entries):
            return 128 + self._signal
        return int(any(entry.tries and (entry.status == "failed" or entry.reason) for entry in self.entries))

    def add(self, job: Job, *, before: Status | None = None) -> Entry:
        """Take a job in; one whose directory is in the sweep already shares its result.

        Args:
            before: what became of it before this sweep, where that is the end of it: it is not run.
        """
        entry = Entry(number=len(self.entries) + 1, job=job)
        self.entries.append(entry)
        leader = self._leaders.setdefault(job.directory, entry)
        if leader is not entry:
            entry.shares = leader
            self._share(entry)
        elif before or job.action == "reuse":
            self._read(entry)
            self._finish(entry, before or "reused")
        else:
            self._queue.append(entry)
        return entry

    def poll(self, timeout_seconds: float = POLL_SECONDS) -> list[Entry]:
        """Start what can start, wait a moment, and return what has come to its end since the last call."""
        self._start_waiting()
        for ended in self._pool.wait(timeout_seconds=0.0 if self._finished else timeout_seconds):
            self._settle(ended)
        self._follow_orders()
        self._start_waiting()  # before anything is read or written
        now = time.monotonic()
        for entry in self.entries:
            if entry.status == "running":
                self._read(entry)
                self._watch_time(entry, now)
        finished, self._finished = self._finished, []
        self.record.write(self.entries, changed=bool(finished))
        self._view.tick(self.entries, slots=self._slots)
        return finished

    def prune(self, entry: Entry) -> None:
        """End a run that is not worth going on; it saves and is `pruned`."""
        self._pool.send(entry.number, PRUNE_SIGNAL)

    def stop(self) -> None:
        """Start nothing more, and end what runs after it has saved."""
        if self._stopping:
            return
        self._stopping = True
        for entry in self.entries:
            if entry.status == "running":
                self._pool.send(entry.number, signal.SIGTERM)
        for entry in self._queue:
            self._finish(entry, "not started")
        self._queue.clear()

    def _hear(self, number: int, frame: Any) -> None:
        if self._signal:  # a second time: at once
            self._pool.close()
            os._exit(128 + number)
        self._signal = number

    def _follow_orders(self) -> None:
        if self._signal and not self._stopping:
            self._view.close()
            running = sum(entry.status == "running" for entry in self.entries)
            name = signal.Signals(self._signal).name
            print(f"{name}: {running} running jobs save and end; once more ends them at once", file=sys.stderr)
            self.stop()

    def _start_waiting(self) -> None:
        now = time.monotonic()
        for entry in list(self._queue):
            if self._stopping or not self._pool.free_slots:
                break
            if entry.status == "locked" and now < entry.asked_again_at:
                continue
            self._queue.remove(entry)
            if holder := holder_of(entry.job.lock):
                entry.holder = holder
                entry.asked_again_at = now + LOCK_POLL_SECONDS
                self._queue.append(entry)
                self._change(entry, "locked")
            elif entry.status == "locked" and entry.job.is_done():  # by whoever had it
                self._read(entry)
                self._finish(entry, "reused")
            else:
                self._launch(entry)

    def _launch(self, entry: Entry) -> None:
        entry.tries += 1
        entry.timed_out = False
        entry.pid = self._pool.start(
            entry.number,
            self._run,
            entry.job.run,
            number=entry.number - 1,
            threads=self._threads,
            again=entry.began,
        )
        entry.deadline = time.monotonic() + self._timeout if self._timeout else None
        self._change(entry, "running")

    def _watch_time(self, entry: Entry, now: float) -> None:
        if entry.deadline is None or now < entry.deadline:
            return
        self._pool.send(entry.number, signal.SIGKILL if entry.timed_out else signal.SIGTERM)
        entry.timed_out = True
        entry.deadline = now + GRACE_SECONDS

    def _settle(self, ended: Ended) -> None:
        """Say what became of a run whose process has ended, and see that its record says so."""
        entry = self.entries[int(str(ended.key)) - 1]
        record = self._read(entry)
        own = record is not None and record["process"] == {"pid": ended.pid, "host": socket.gethostname()}
        entry.began |= own
        status: str = record["status"] if record and own else ""
        if status == "completed":
            self._finish(entry, "completed")
        elif not own and ended.exit_code == 0 and entry.job.is_done():
            self._finish(entry, "reused")  # another process had completed it meanwhile
        elif entry.timed_out:
            self._fail(
                entry,
                {"type": "TimeoutError", "message": f"no end after job_timeout_seconds={self._timeout:g}"},
                record,
            )
        elif status == "pruned":
            self._finish(entry, "pruned")
        elif status == "failed":
            error = (record and record["error"]) or {"type": "Unknown", "message": "failed"}
            self._fail(entry, {**error, "line": (ended.error or {}).get("line")}, None)
        elif ended.error:
            self._fail(entry, ended.error, None)
        elif self._stopping and (status == "interrupted" or ended.exit_code in _STOPPED):
            self._finish(entry, "interrupted")
        elif status == "interrupted":  # by its own max_seconds, or by a signal of someone else's
            self._finish(entry, "interrupted", reason=_of_signal(ended.exit_code) if ended.exit_code else None)
        else:
            self._fail(entry, {"type": "ProcessDied", "message": self._cause(ended.exit_code)}, record if own else None)

    def _cause(self, exit_code: int) -> str:
        if exit_code >= 0:
            return f"its process ended at once with exit code {exit_code}"
        kills, self._memory_kills = memory_kills() - self._memory_kills, memory_kills()
        because = ""
        if exit_code == -signal.SIGKILL:
            because = ": out of memory" if kills else ", by someone or for want of memory"
        return f"killed by {_signal_name(-exit_code)}{because}"

    def _fail(self, entry: Entry, error: Mapping[str, Any], record: Values | None) -> None:
        """A job has failed; `record` is its run's where the run itself could not say so."""
        entry.reason, entry.line = f"{error['type']}: {error['message']}", error.get("line")
        if record:
            with suppress(Locked, OSError, BadRecord), hold(entry.job.lock):
                Record(entry.job.directory).update(status="failed", finished=_now(), error=error)
        if entry.tries <= self._retries and error["type"] not in NEVER_BETTER and not self._stopping:
            self._queue.insert(0, entry)
            self._change(entry, "waiting")
            return
        self._finish(entry, "failed", reason=entry.reason)
        if self._on_failure == "stop":
            self.stop()

    def _finish(self, entry: Entry, status: Status, *, reason: str | None = None) -> None:
        entry.reason, entry.pid = reason, None
        self._change(entry, status)
        self._finished.append(entry)
        for other in self.entries:
            if other.shares is entry and other.status in RUNNING:
                self._share(other)

    def _share(self, entry: Entry) -> None:
        leader = entry.shares
        assert leader is not None
        if leader.status in RUNNING:
            return
        entry.value, entry.seconds = leader.value, leader.seconds
        entry.epoch, entry.step = leader.epoch, leader.step
        entry.reason, entry.line = leader.reason, leader.line
        self._change(entry, leader.status)
        self._finished.append(entry)

    def _change(self, entry: Entry, status: Status) -> None:
        if status != entry.status:
            entry.status = status
            self._view.changed(entry, self.entries, count=max(self._count, len(self.entries)))

    def _read(self, entry: Entry) -> Values | None:
        """Bring the entry up to date with its run's record."""
        try:
            record = Record(entry.job.directory).read()
        except BadRecord:
            return None
        if not record or record["config_hash"] != entry.job.config_hash:
            return None
        entry.value = record["best"] and record["best"]["value"]
        entry.epoch, entry.step, entry.seconds = record["epoch"], record["step"], record["seconds"]
        return record


_STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM)


def _of_signal(exit_code: int) -> str:
    return f"ended by {_signal_name(exit_code - 128 if exit_code > 128 else -exit_code)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time one
        return f"signal {number}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
