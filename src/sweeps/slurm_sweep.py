"""A sweep's jobs as the tasks of Slurm arrays: submitted once, watched by `squeue` and by their runs' records.

Slurm says which tasks wait or run; what became of the others, their runs' records say. So nothing hangs on accounting,
on how long Slurm remembers a job, or on this process, which may end and be started again.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from src.common.files import replace
from src.common.text import plural
from src.sweeps.job_state import JobState, JobStatus
from src.sweeps.jobs import Jobs
from src.sweeps.plan import Job
from src.sweeps.record import SweepRecord
from src.sweeps.show import View
from src.sweeps.slurm_commands import SCRIPT, ask_to_end, cancel, list_tasks, max_array_size, submit

WAIT_SECONDS = 0.2  # until a signal is heard
STOPPING_SECONDS = 1.0  # between two looks after Ctrl-C, at least
SEEN_SECONDS = 10.0  # until what another machine has written is seen here
COST = 20.0  # looking and writing take at most one part of so many of the time, however long they take
USUAL = {"None", "Resources", "Priority", "JobArrayTaskLimit", "BeginTime", "Dependency", "Cleaning"}  # reasons to wait


class SlurmSweep(Jobs):
    """Submits all jobs that are added before the first `poll`, and watches them.

    Args:
        record: of this sweep; what it says of tasks are those submitted earlier.
        command_of: what runs a job, in the shell's words.
        arguments: of sbatch.
        setup: lines of the script before the job's.
        n_jobs: how many run at a time; None for as many as Slurm finds room for.
        poll_seconds: between two looks.
        detach: look once, and leave the jobs to themselves.
        by_srun: whether the commands are srun's.
    """

    def __init__(
        self,
        record: SweepRecord,
        view: View,
        command_of: Callable[[Job], str],
        *,
        arguments: Sequence[str] = (),
        setup: Sequence[str] = (),
        n_jobs: int | None = None,
        poll_seconds: float = 10.0,
        detach: bool = False,
        by_srun: bool = False,
        job_count: int = 0,
    ) -> None:
        super().__init__(record, view, job_count=job_count)
        self._command_of, self._arguments, self._setup = command_of, arguments, setup
        self._n_jobs, self._poll_seconds, self._detach, self._by_srun = n_jobs, poll_seconds, detach, by_srun
        self._tasks: dict[str, str] = dict(record.slurm)  # the task of each run's id
        self._watched: list[JobState] = []
        self._missing: dict[int, float] = {}  # since when a job is not listed
        self._told: set[str] = set()  # tasks that were asked to save and end
        self._reasons: set[str] = set()  # to wait, that have been seen
        self._next_look, self._looked, self._answers = 0.0, False, True

    def __exit__(self, *exception: object) -> None:
        self._view.close()
        for state in self._queue:
            self._finish(state, "not started")
        if self._leaves:
            arrays = " ".join(self._arrays)
            print(f"the jobs go on: the same command shows them and waits, scancel {arrays} ends them", file=sys.stderr)
        code = self.exit_code or int(any(exception))
        self.record.write(self.states, exit_code=None if super().busy else code, at_once=True)
        super().__exit__(*exception)

    @property
    def busy(self) -> bool:
        """Whether anything is to be waited for."""
        return super().busy and not self._leaves

    def add(self, job: Job, *, earlier: JobStatus | None = None) -> JobState:
        """As any sweep's; a job that this sweep has submitted before is watched."""
        state = super().add(job, earlier=earlier)
        if state in self._queue and job.id in self._tasks:
            self._queue.remove(state)
            self._watched.append(state)
        return state

    def poll(self) -> list[JobState]:
        """Submit what has been added; look, or wait a moment; return the jobs that have ended since the last call."""
        if self._queue:
            self._submit()
        began, finished = time.monotonic(), []
        if began < self._next_look:
            time.sleep(WAIT_SECONDS)
        else:
            self._look()
            finished, self._finished = self._finished, []
            self.record.write(self.states, changed=bool(finished))
            cost = time.monotonic() - began
            pause = min(self._poll_seconds, STOPPING_SECONDS) if self._stops else self._poll_seconds
            self._next_look = time.monotonic() + max(pause, COST * cost)
        running = sum(state.status == "running" for state in self._watched)
        self._view.tick(self.states, slots=max(1, running))
        return finished

    @property
    def _stops(self) -> bool:
        return self._signal == signal.SIGINT

    @property
    def _leaves(self) -> bool:
        """Whether this process ends and its jobs go on: what Ctrl-C is not asked for, but a lost terminal is."""
        left = self._signal is not None if not self._stops else False
        return super().busy and (left or (self._detach and self._looked))

    @property
    def _arrays(self) -> list[str]:
        return list(dict.fromkeys(task.partition("_")[0] for task in self._tasks.values()))

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._signal:  # a second time: at once
            cancel(self._arrays)
            os._exit(128 + number)
        self._signal, self._next_look = number, 0.0
        if self._stops:
            self._view.close()
            print("SIGINT: the jobs save and end; once more gives them Slurm's KillWait for it", file=sys.stderr)

    def _submit(self) -> None:
        jobs, folder, size = list(self._queue), self.record.directory.resolve() / "slurm", max_array_size()
        for state in jobs:
            if state.job.set_aside:
                state.job.prepare()
        folder.mkdir(exist_ok=True)
        script, listed = folder / "task.sh", folder / f"jobs-{len(self._tasks)}.txt"
        replace(script, SCRIPT.format(cwd=shlex.quote(os.getcwd()), setup="\n".join(self._setup)))
        replace(listed, "".join(f"{shlex.quote(str(e.job.directory))} {self._command_of(e.job)}\n" for e in jobs))
        arrays: list[str] = []
        try:
            for first in range(0, len(jobs), size):
                part = jobs[first : first + size]
                options = self._array_options(len(part), folder, after=arrays[-1:])
                arrays.append(submit(options, script, [str(listed), str(first)]))
                self._tasks |= {state.job.id: f"{arrays[-1]}_{index}" for index, state in enumerate(part)}
                self.record.slurm = self._tasks
                self.record.write(self.states, at_once=True)
        except BaseException:
            cancel(arrays)
            raise
        self._watched += jobs
        self._queue.clear()
        print(f"Slurm job {', '.join(arrays)}: {plural(len(jobs), 'task')}", file=sys.stderr)

    def _array_options(self, count: int, folder: Path, *, after: Sequence[str]) -> list[str]:
        at_a_time = f"%{self._n_jobs}" if self._n_jobs else ""
        return [
            f"--job-name={self.record.directory.parent.parent.name}-{self.record.id}",
            f"--array=0-{count - 1}{at_a_time}",
            *(f"--dependency=afterany:{job}" for job in after if at_a_time),  # the limit is of one array
            f"--output={str(folder).replace('%', '%%')}/%A_%a.log",
            *("--requeue", "--open-mode=append", "--signal=B:USR1@60", "--nodes=1", "--ntasks=1"),
            *self._arguments,
        ]

    def _look(self) -> None:
        """See what Slurm says of the tasks, and of those that it no longer lists, what their runs' records say."""
        tasks = list_tasks()
        if tasks is None:
            if self._answers:
                print("warning: squeue fails; the jobs may go on, and it is asked again", file=sys.stderr)
            self._answers = False
            return
        self._answers = self._looked = True
        waiting: list[str] = []
        running: list[str] = []
        for state in list(self._watched):
            task = self._tasks[state.job.id]
            status, reason = tasks.get(task, ("", ""))
            if not status:
                self._settle(state, task)
            elif status == "PENDING":
                waiting.append(reason)
                self._change(state, "waiting")
            else:
                running.append(task)
                state.tries += state.status != "running"
                state.read()
                self._change(state, "running")
        if self._stops:
            if waiting:
                cancel(self._arrays, "--state=PENDING")
            ask_to_end(set(running) - self._told, by_srun=self._by_srun)
            self._told.update(running)
        for reason in set(waiting) - self._reasons - USUAL:
            print(f"note: Slurm lets {plural(waiting.count(reason), 'job')} wait: {reason}", file=sys.stderr)
        self._reasons.update(waiting)

    def _settle(self, state: JobState, task: str) -> None:
        """Decide what became of a job that Slurm no longer lists, as soon as its record can have been seen here."""
        record = state.read()
        status = record["status"] if self._is_newer(state) else ""
        since = self._missing.setdefault(state.number, time.monotonic())
        is_over = status in ("completed", "failed", "pruned") or self._stops
        if not is_over and time.monotonic() - since < SEEN_SECONDS:
            return
        self._watched.remove(state)
        if self._stops and status in ("", "running", "interrupted"):
            self._finish(state, "interrupted" if status else "not started")
            return
        state.tries = state.tries or 1
        last = _last_line(self.record.directory / "slurm" / f"{task}.log")
        if status in ("completed", "pruned"):
            self._finish(state, status)
        elif status == "failed":
            error = record["error"] or {"type": "Unknown", "message": "failed"}
            self._finish(state, "failed", reason=f"{error['type']}: {error['message']}")
        elif status == "interrupted":
            by_itself = last.endswith("exit code 0")  # by its max_seconds
            self._finish(state, "interrupted", reason=None if by_itself else f"Slurm task {task}: {last}")
        else:
            reason = f"ProcessDied: Slurm task {task}: {last or 'ended before it began'}"
            self._finish(state, "failed", reason=reason)

    def _is_newer(self, state: JobState) -> bool:
        """Whether the run's record has been written since this sweep began, by the clock of their own disk."""
        try:
            written = (state.job.directory / "run.json").stat().st_mtime_ns
            return written >= (self.record.directory / "multirun.yaml").stat().st_mtime_ns
        except OSError:
            return False


def _last_line(log: Path) -> str:
    """What a task wrote last; empty where it has written nothing."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
