"""What has become of a job of a sweep: plain values, which the sweep changes and tables, records and searches read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from src.common.text import plural, size
from src.runs.record import BadRecord, Record
from src.runs.record_schema import EMPTY, RecordValues
from src.runs.sizes import kept_bytes
from src.sweeps.plan import Job

JobStatus = Literal[
    "waiting", "locked", "running", "completed", "reused", "failed", "interrupted", "pruned", "not started"
]
UNFINISHED: tuple[JobStatus, ...] = ("waiting", "locked", "running")
DONE: tuple[JobStatus, ...] = ("completed", "reused", "pruned")


@dataclass
class JobState:
    """A job in a sweep, and what has become of it.

    Attributes:
        number: in the sweep, from 1.
        value: the best of the monitored metric; None where there is none.
        reason: why it failed.
        line: the line of the user's own code that raised what made it fail.
        disk_bytes: that its checkpoints and SavedModel will have; None before its model is built.
        seconds: of training, over all its parts.
        losses: how often in a row its machine was lost before it had come further.
        same_as: the earlier job with the same directory, whose run is this one's too.
        holder: the process of another command that trains it now.
    """

    number: int
    job: Job
    status: JobStatus = "waiting"
    value: float | None = None
    reason: str | None = None
    line: str | None = None
    epoch: int = 0
    step: int = 0
    disk_bytes: int | None = None
    seconds: float = 0.0
    tries: int = 0
    losses: int = 0
    same_as: JobState | None = None
    holder: str | None = None

    @property
    def remaining_seconds(self) -> float | None:
        """How long it will take from here, by its own epochs so far."""
        if not self.epoch or self.status != "running":
            return None
        return self.seconds / self.epoch * max(0, self.job.epochs - self.epoch)

    def read(self) -> RecordValues:
        """Take over what its run's record says; returns the record, `EMPTY` where there is none of this run."""
        try:
            record = Record(self.job.directory).read()
        except BadRecord:
            return EMPTY
        if not record or record["config_hash"] != self.job.config_hash:
            return EMPTY
        self.value = record["best"] and record["best"]["value"]
        self.epoch, self.step, self.seconds = record["epoch"], record["step"], record["seconds"]
        self.disk_bytes = record["disk_bytes"]
        return record

    def copy_result(self, other: JobState) -> None:
        """Take over all but the status of a job whose run is the same."""
        self.value, self.seconds = other.value, other.seconds
        self.epoch, self.step = other.epoch, other.step
        self.reason, self.line = other.reason, other.line


def disk_shortage(states: Sequence[JobState], *, more: int) -> str | None:
    """That the disk cannot hold what the jobs will leave on it, with what to do; None where it can.

    Args:
        states: of which one at least has `disk_bytes`, which stand for those of the others.
        more: jobs that are not among them yet.
    """
    known = next(state for state in states if state.disk_bytes)
    each = known.disk_bytes or 0
    left = [state for state in states if state.status in UNFINISHED and state.same_as is None]
    need = sum(max(0, (state.disk_bytes or each) - kept_bytes(state.job.directory)) for state in left) + more * each
    free = shutil.disk_usage(known.job.directory).free
    if need <= free:
        return None
    return (
        f"{plural(len(left) + more, 'job')} will leave about {size(need)} in "
        f"{os.path.relpath(known.job.directory.parent)}, {size(each)} each as job {known.number}, and the disk has "
        f"{size(free)} free: make room (python -m src.runs clean), give callback.checkpoint.max_to_keep=1, or put the "
        "folder elsewhere (outputs may be a link); what does not fit will fail, and the same command tries it again"
    )
