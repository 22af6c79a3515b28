"""The sweep: jobs go in, run side by side, and come out completed, failed, interrupted or pruned. None is run twice.

record = SweepRecord.create(folder, sweep_id="1a2b3c4d")
with Sweep(ProcessPool(slots=[{}, {}]), record, Lines()) as sweep:
    for job in plan([["seed=0"], ["seed=1"]]):
        sweep.add(job)
    while sweep.busy:
        sweep.poll()
sweep.exit_code
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from src.common.lock import Locked, hold, holder_of
from src.common.machine import memory_kills
from src.common.signals import PRUNE_SIGNAL
from src.runs.record import BadRecord, Record
from src.runs.record_schema import EMPTY, Process, RecordValues
from src.sweeps.child import run_job
from src.sweeps.job_state import UNFINISHED, JobState, disk_shortage
from src.sweeps.jobs import Jobs
from src.sweeps.pool import Ended, Pool
from src.sweeps.record import SweepRecord
from src.sweeps.show import View

OnFailure = Literal["continue", "stop"]

NOT_RETRIED = ("ConfigError", "NonFiniteLoss", "MachineLost")  # failures that the same config always ends with

POLL_SECONDS = 0.2
LOCK_POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0  # to save, for a job that has run out of time

MAX_LOSSES = 5  # of machines, in a row, before a job has failed
LOSS_SECONDS = 5.0  # before its next try, and twice as long after each: a cluster notices a dead machine late


@dataclass(frozen=True)
class Rules:
    """What follows when a job fails.

    Attributes:
        on_failure: `stop` ends the others, which save, as soon as one has failed.
        retries: how often a failed job is tried again; it resumes from its last checkpoint.
        job_timeout_seconds: how long one try of a job may take.
    """

    on_failure: OnFailure = "continue"
    retries: int = 0
    job_timeout_seconds: float | None = None


@dataclass
class _Try:
    """The try of a job that runs now.

    Attributes:
        earlier_process: which the run's record named when the try was started.
        deadline: of time.monotonic(); None where there is none.
    """

    state: JobState
    earlier_process: Process
    deadline: float | None
    timed_out: bool = False


class Sweep(Jobs):
    """Runs jobs in a pool and keeps the sweep's record.

    Args:
        pool: where the jobs run; closed at the end.
        record: of this sweep.
        view: shows what happens.
        threads: of each job whose run has no count of its own.
        job_count: how many jobs there will be, where they are not all known at the beginning.
        run: what a process calls with a job's run, as `run_job`.
    """

    def __init__(
        self,
        pool: Pool,
        record: SweepRecord,
        view: View,
        *,
        rules: Rules = Rules(),
        threads: int = 1,
        job_count: int = 0,
        run: Callable[..., Any] = run_job,
    ) -> None:
        super().__init__(record, view, job_count=job_count)
        self._pool, self._rules, self._threads, self._run = pool, rules, threads, run
        self._slots = pool.free_slots
        self._tries: dict[Hashable, _Try] = {}  # that run now, by the job's number
        self._begun: set[int] = set()  # jobs of which a try has come as far as the run's record
        self._next_look: dict[int, float] = {}  # at a job whose lock another process holds, or whose machine was lost
        self._lost_at: dict[int, int] = {}  # the step that a job had come to when its machine was lost
        self._memory_kills = memory_kills()
        self._stopping = self._knows_disk = False

    def __exit__(self, *exception: object) -> None:
        if any(exception):  # whatever went wrong here, what runs may save
            self.stop()
            deadline = time.monotonic() + GRACE_SECONDS
            while self._tries and time.monotonic() < deadline:
                for ended in self._pool.wait(timeout_seconds=POLL_SECONDS):
                    self._settle(ended)
        self._pool.close()
        for state in self._queue:
            self._finish(state, "not started")
        self._view.close()
        self.record.write(self.states, exit_code=self.exit_code)
        super().__exit__(*exception)

    @property
    def free_slots(self) -> int:
        """How many more jobs could start at once; 0 once the sweep is being stopped."""
        return 0 if self._stopping else self._pool.free_slots - len(self._queue)

    @property
    def stopped(self) -> bool:
        """Whether a signal or a failure has stopped it."""
        return self._stopping

    def poll(self, timeout_seconds: float = POLL_SECONDS) -> list[JobState]:
        """Start what can start, wait a moment, and return the jobs that have ended since the last call."""
        self._start_waiting()
        for ended in self._pool.wait(timeout_seconds=0.0 if self._finished else timeout_seconds):
            self._settle(ended)
        self._obey_signal()
        self._start_waiting()  # before anything is read or written
        for current in self._tries.values():
            current.state.read()
            self._check_time(current)
        self._check_disk()
        finished, self._finished = self._finished, []
        self.record.write(self.states, changed=bool(finished))
        self._view.tick(self.states, slots=self._slots)
        return finished

    def prune(self, state: JobState) -> None:
        """End a run that is not worth continuing; it saves and is `pruned`."""
        self._pool.send(state.number, PRUNE_SIGNAL)

    def stop(self) -> None:
        """Start nothing more, and end what runs after it has saved."""
        if self._stopping:
            return
        self._stopping = True
        for number in self._tries:
            self._pool.send(number, signal.SIGTERM)
        for state in self._queue:
            self._finish(state, "not started")
        self._queue.clear()

    def writes_record(self, state: JobState, record: RecordValues) -> bool:
        """Whether the try that runs now has begun to write its run's record, and so listens to signals."""
        current = self._tries.get(state.number)
        return current is not None and record["process"] != current.earlier_process

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._signal:  # a second time: at once
            self._pool.close()
            for state in self.states:
                if state.status in UNFINISHED:
                    state.status = "interrupted" if state.number in self._tries else "not started"
            self.record.write(self.states, exit_code=128 + number)
            os._exit(128 + number)
        self._signal = number

    def _obey_signal(self) -> None:
        if self._signal and not self._stopping:
            self._view.close()
            name = signal.Signals(self._signal).name
            print(f"{name}: {len(self._tries)} running jobs save and end; once more ends them at once", file=sys.stderr)
            self.stop()

    def _start_waiting(self) -> None:
        now = time.monotonic()
        for state in list(self._queue):
            if self._stopping or not self._pool.free_slots:
                break
            if now < self._next_look.get(state.number, 0.0):
                continue
            if holder := holder_of(state.job.lock):
                state.holder = holder
                self._next_look[state.number] = now + LOCK_POLL_SECONDS
                self._queue.remove(state)
                self._queue.append(state)
                self._change(state, "locked")
                continue
            if state.status == "locked" and state.job.is_done():  # by the process that held it
                state.read()
                self._finish(state, "reused")
            else:
                self._launch(state)
            self._queue.remove(state)

    def _launch(self, state: JobState) -> None:
        earlier_process = state.read()["process"]
        again = state.number in self._begun
        self._pool.start(
            state.number, self._run, state.job.make_run(), number=state.number - 1, threads=self._threads, again=again
        )
        timeout = self._rules.job_timeout_seconds
        self._tries[state.number] = _Try(state, earlier_process, time.monotonic() + timeout if timeout else None)
        state.tries += 1
        self._change(state, "running")

    def _check_disk(self) -> None:
        """Once, as soon as the first job has built its model: no process before it knows the size of one."""
        if self._knows_disk or not any(state.disk_bytes for state in self.states):
            return
        self._knows_disk = True
        if shortage := disk_shortage(self.states, more=max(0, self._job_count - len(self._same))):
            print(f"warning: {shortage}", file=sys.stderr, flush=True)

    def _check_time(self, current: _Try) -> None:
        now, timeout = time.monotonic(), self._rules.job_timeout_seconds
        if timeout and self._pool.is_waiting(current.state.number):
            current.deadline = now + timeout
        if current.deadline is not None and now >= current.deadline:
            self._pool.send(current.state.number, signal.SIGKILL if current.timed_out else signal.SIGTERM)
            current.timed_out = True
            current.deadline = now + GRACE_SECONDS

    def _settle(self, ended: Ended) -> None:
        """Decide what became of a run whose process has ended, and see that its record says so."""
        finished = self._tries.pop(ended.key)
        state = finished.state
        record = state.read()
        own = record["process"] == ended.process
        if own or (ended.lost and record["process"] != finished.earlier_process):
            self._begun.add(state.number)
        status: str = record["status"] if own else ""
        if status == "completed":
            self._finish(state, "completed")
        elif not own and ended.exit_code == 0 and state.job.is_done():
            self._finish(state, "reused")  # another process had completed it meanwhile
        elif finished.timed_out:
            message = f"no end after job_timeout_seconds={self._rules.job_timeout_seconds:g}"
            self._fail(state, {"type": "TimeoutError", "message": message}, to_record=record is not EMPTY)
        elif status == "pruned":
            self._finish(state, "pruned")
        elif status == "failed":
            error = record["error"] or {"type": "Unknown", "message": "failed"}
            self._fail(state, {**error, "line": (ended.error or {}).get("line")})
        elif ended.lost and not self._stopping:
            self._move(state, ended)
        elif ended.error:
            self._fail(state, ended.error)
        elif self._stopping and (status == "interrupted" or ended.exit_code in _STOPPED):
            self._finish(state, "interrupted")
        elif status == "interrupted":  # by its own max_seconds, or by a signal from elsewhere
            self._finish(state, "interrupted", reason=_ended_by(ended.exit_code) if ended.exit_code else None)
        else:
            self._fail(state, {"type": "ProcessDied", "message": self._cause(ended.exit_code)}, to_record=own)

    def _move(self, state: JobState, ended: Ended) -> None:
        """A job's machine was lost, so it goes on elsewhere, which is none of its tries."""
        progressed = state.step > self._lost_at.get(state.number, -1)
        self._lost_at[state.number] = state.step
        state.losses = 1 if progressed else state.losses + 1
        message = f"{ended.process.get('host', 'its machine')} was lost"
        if state.losses > MAX_LOSSES:
            error = {"type": "MachineLost", "message": f"{message}, as {MAX_LOSSES} before it"}
            self._fail(state, error, to_record=state.number in self._begun)
            return
        state.reason, state.tries = message, state.tries - 1
        self._next_look[state.number] = time.monotonic() + LOSS_SECONDS * 2 ** (state.losses - 1)
        self._queue.append(state)
        self._change(state, "waiting")

    def _cause(self, exit_code: int) -> str:
        if exit_code >= 0:
            return f"its process ended at once with exit code {exit_code}"
        kills, self._memory_kills = memory_kills() - self._memory_kills, memory_kills()
        because = ""
        if exit_code == -signal.SIGKILL:
            because = ": out of memory" if kills else ", by someone or for want of memory"
        return f"killed by {_signal_name(-exit_code)}{because}"

    def _fail(self, state: JobState, error: Mapping[str, Any], *, to_record: bool = False) -> None:
        """A job has failed; `to_record` where its run could not record it itself."""
        state.reason, state.line = f"{error['type']}: {error['message']}", error.get("line")
        if to_record:
            finished = datetime.now(UTC).isoformat(timespec="seconds")
            with suppress(Locked, OSError, BadRecord), hold(state.job.lock):
                Record(state.job.directory).update(status="failed", finished=finished, error=error)
        if state.tries <= self._rules.retries and error["type"] not in NOT_RETRIED and not self._stopping:
            self._queue.insert(0, state)
            self._change(state, "waiting")
            return
        self._finish(state, "failed", reason=state.reason)
        if self._rules.on_failure == "stop":
            self.stop()


_STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM)


def _ended_by(exit_code: int) -> str:
    return f"ended by {_signal_name(exit_code - 128 if exit_code > 128 else -exit_code)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time one
        return f"signal {number}"
