"""A sweep with a launcher that takes whole batches: what `Sweep` is to the local one, as far as a search needs it.

batches = Batches(launch, size=4)        # launch: BasicLauncher().launch, or any other's
entry = batches.add(job)
while entry.status in RUNNING:
    batches.poll()
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus

from src.runs.checked import EMPTY, Values
from src.runs.record import BadRecord, Record
from src.sweeps.plan import Job
from src.sweeps.sweep import Entry, Status

Launch = Callable[..., Sequence[JobReturn]]


class Batches:
    """Jobs go in, and run when as many are there as fit, or no more come.

    Args:
        launch: a Hydra launcher's.
        size: of a batch.
    """

    def __init__(self, launch: Launch, *, size: int) -> None:
        self.entries: list[Entry] = []
        self._launch, self._size = launch, size
        self._leaders: dict[Path, Entry] = {}
        self._queue: list[Entry] = []
        self._finished: list[Entry] = []
        self._launched = 0
        self.stopped = False

    @property
    def free_slots(self) -> int:
        return self._size - len(self._queue)

    @property
    def exit_code(self) -> int:
        return int(any(entry.tries and entry.status == "failed" for entry in self.entries))

    def add(self, job: Job, *, before: Status | None = None) -> Entry:
        """As of `Sweep`."""
        entry = Entry(number=len(self.entries) + 1, job=job)
        self.entries.append(entry)
        leader = self._leaders.setdefault(job.directory, entry)
        if leader is not entry:
            entry.shares = leader
            if leader not in self._queue:
                self._finish(entry, leader.status, leader.value)
        elif before or job.action == "reuse":
            best = (_record(job) or EMPTY)["best"]
            self._finish(entry, before or "reused", best and best["value"])
        else:
            self._queue.append(entry)
        return entry

    def poll(self, timeout_seconds: float = math.inf) -> list[Entry]:
        """Run what waits, unless there is no time; returns what has come to its end since the last call."""
        while self._queue and timeout_seconds and not self._finished:
            batch, self._queue = self._queue[: self._size], self._queue[self._size :]
            self._run(batch)
        finished, self._finished = self._finished, []
        return finished

    def prune(self, entry: Entry) -> None:
        """Nothing: these jobs are out of reach."""

    def stop(self) -> None:
        """Start nothing more."""
        self.stopped = True
        for entry in self._queue:
            self._finish(entry, "not started", None)
        self._queue.clear()

    def _run(self, batch: Sequence[Entry]) -> None:
        for entry in batch:
            entry.job.prepare()
            entry.tries = 1
        overrides = [list(entry.job.overrides) for entry in batch]
        returns = self._launch(overrides, initial_job_idx=self._launched)
        self._launched += len(batch)
        for entry, returned in zip(batch, returns, strict=True):
            value = returned.return_value if returned.status == JobStatus.COMPLETED else None
            record = _record(entry.job) or EMPTY
            if record["status"] == "interrupted":
                self._finish(entry, "interrupted", value)
            elif value is None:
                error = returned._return_value
                entry.reason = f"{type(error).__name__}: {error}"
                self._finish(entry, "failed", None)
            else:
                self._finish(entry, "completed", value if math.isfinite(value) else None)

    def _finish(self, entry: Entry, status: Status, value: float | None) -> None:
        record = _record(entry.job) or EMPTY
        entry.epoch, entry.seconds = record["epoch"], record["seconds"]
        entry.status, entry.value = status, value
        self._finished.append(entry)
        for other in self.entries:
            if other.shares is entry and other.status == "waiting":
                self._finish(other, status, value)


def _record(job: Job) -> Values | None:
    try:
        record = Record(job.directory).read()
    except BadRecord:
        return None
    return record if record and record["config_hash"] == job.config_hash else None
