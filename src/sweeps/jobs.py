"""The jobs of a sweep and what has become of each: what sweeps have in common, wherever their jobs run."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

from src.common.signals import ending_signals
from src.sweeps.job_state import DONE, UNFINISHED, JobState, JobStatus
from src.sweeps.plan import Job
from src.sweeps.record import SweepRecord
from src.sweeps.show import View


class Jobs(ABC):
    """Jobs that are added, run, and end; a context that hears the signals which end it.

    Args:
        record: of this sweep.
        view: shows what happens.
        job_count: how many jobs there will be, where they are not all known at the beginning.
    """

    def __init__(self, record: SweepRecord, view: View, *, job_count: int = 0) -> None:
        self.states: list[JobState] = []
        self.record = record
        self._view, self._job_count = view, job_count
        self._same: dict[Path, list[JobState]] = {}  # the jobs with one directory
        self._queue: list[JobState] = []
        self._finished: list[JobState] = []
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}.intersection(ending_signals())
        self._handlers = {number: signal.signal(number, self._on_signal) for number in numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @property
    def busy(self) -> bool:
        """Whether anything is running or waiting to."""
        return any(state.status in UNFINISHED for state in self.states)

    @property
    def exit_code(self) -> int:
        """0 if all went well, 1 if a job failed or was ended, 128 + n if signal n ended the sweep."""
        if self._signal and any(state.status not in DONE for state in self.states):
            return 128 + self._signal
        return int(any(state.tries and (state.status == "failed" or state.reason) for state in self.states))

    def add(self, job: Job, *, earlier: JobStatus | None = None) -> JobState:
        """Take a job in; one whose directory is in the sweep already shares its result.

        Args:
            earlier: what became of it before this sweep, where that is the end of it: it is not run.
        """
        state = JobState(number=len(self.states) + 1, job=job)
        self.states.append(state)
        same = self._same.setdefault(job.directory, [])
        same.append(state)
        if (first := same[0]) is not state:
            state.same_as = first
            if first.status not in UNFINISHED:
                self._share(first, state)
        elif earlier or job.action == "reuse":
            state.read()
            self._finish(state, earlier or "reused")
        else:
            self._queue.append(state)
        return state

    @abstractmethod
    def poll(self) -> list[JobState]:
        """Wait a moment, and return the jobs that have ended since the last call."""

    @abstractmethod
    def _on_signal(self, number: int, frame: Any) -> None: ...

    def _finish(self, state: JobState, status: JobStatus, *, reason: str | None = None) -> None:
        state.reason = reason
        self._change(state, status)
        self._finished.append(state)
        for other in self._same[state.job.directory][1:]:
            if other.status in UNFINISHED:
                self._share(state, other)

    def _share(self, first: JobState, state: JobState) -> None:
        state.copy_result(first)
        self._change(state, first.status)
        self._finished.append(state)

    def _change(self, state: JobState, status: JobStatus) -> None:
        if status != state.status:
            state.status = status
            self._view.changed(state, self.states, count=max(self._job_count, len(self.states)))
