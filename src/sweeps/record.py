"""A sweep's record: sweep.json in a folder of its own, which no other sweep takes.

record = SweepRecord.create(Path("outputs/digits/sweeps"), sweep_id="1a2b3c4d", command=["seed=0,1"])
record.write(states, exit_code=0)
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.common.files import fsync_folders, replace

if TYPE_CHECKING:
    from src.sweeps.job_state import JobState

WRITE_SECONDS = 1.0  # between two writes while jobs come to their end


class SweepRecord:
    """sweep.json, and Hydra's multirun.yaml beside it; a warning where these cannot be written."""

    def __init__(self, directory: Path, values: dict[str, Any]) -> None:
        self.directory, self._values = directory, values
        self.slurm: dict[str, str] = values.get("slurm", {})  # the task of each run's id
        self._began, self._wrote, self._pending = time.monotonic(), -WRITE_SECONDS, True
        self._warned = False

    @classmethod
    def create(cls, folder: Path, *, sweep_id: str, command: Sequence[str] = (), settings: str = "") -> SweepRecord:
        """Make the sweep's folder, `<time>-<id>`.

        Args:
            folder: of all sweeps; made if it is missing.
            sweep_id: what tells this sweep from others.
            command: the words after `python -m src.train`.
            settings: what Hydra says of the sweep, for multirun.yaml.
        """
        started = datetime.now(UTC)
        name, number = f"{started:%Y%m%dT%H%M%S}-{sweep_id}", 1
        values = {
            "id": sweep_id,
            "command": list(command),
            "process": os.getpid(),
            "started": started.isoformat(timespec="seconds"),
        }
        record = cls(folder / name, values)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            while True:
                try:
                    record.directory.mkdir()
                    break
                except FileExistsError:  # another sweep of the same jobs, in the same second
                    number += 1
                    record.directory = folder / f"{name}-{number}"
            fsync_folders(record.directory)
            if settings:
                replace(record.directory / "multirun.yaml", settings)
        except OSError as error:  # which jobs that are completed already can do without
            record._warn(error)
        return record

    @classmethod
    def reopen(cls, folder: Path, sweep_id: str) -> SweepRecord | None:
        """The newest record of a sweep's jobs on Slurm, where it has not come to its end."""
        for directory in sorted(folder.glob(f"*-{sweep_id}*"), reverse=True):
            try:
                values = json.loads((directory / "sweep.json").read_text())
            except (OSError, ValueError):
                continue
            if values.get("slurm"):
                record = cls(directory, {**values, "process": os.getpid()})
                record._began -= (datetime.now(UTC) - datetime.fromisoformat(values["started"])).total_seconds()
                return record if values["exit_code"] is None else None
        return None

    @property
    def id(self) -> str:
        return str(self._values["id"])

    def write(
        self,
        states: Sequence[JobState],
        *,
        changed: bool = True,
        exit_code: int | None = None,
        at_once: bool = False,
    ) -> None:
        """Write all jobs, at most once a second; always at the end, with `exit_code`, and where it is `at_once`."""
        self._pending |= changed
        now, ended = time.monotonic(), exit_code is not None
        if not (ended or at_once) and (not self._pending or now - self._wrote < WRITE_SECONDS):
            return
        values = {
            **self._values,
            **({"slurm": self.slurm} if self.slurm else {}),
            "finished": datetime.now(UTC).isoformat(timespec="seconds") if ended else None,
            "seconds": round(now - self._began, 3),
            "exit_code": exit_code,
            "jobs": [_described(state) for state in states],
        }
        self._wrote = now
        try:
            replace(self.directory / "sweep.json", json.dumps(values, indent=2) + "\n", at_once=ended or at_once)
        except OSError as error:  # as on a full disk, which the runs may survive
            self._warn(error)
        else:
            self._pending = False

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            print(f"warning: {self.directory}/sweep.json cannot be written ({error.strerror})", file=sys.stderr)
        self._warned = True


def _described(state: JobState) -> dict[str, Any]:
    return {
        "number": state.number,
        "id": state.job.id,
        "overrides": list(state.job.overrides),
        "directory": str(state.job.directory),
        "status": state.status,
        "monitor": state.job.monitor,
        "mode": state.job.mode,
        "value": state.value,
        "epoch": state.epoch,
        "seconds": state.seconds,
        "tries": state.tries,
        "losses": state.losses,
        "reason": state.reason,
        "shares": state.same_as and state.same_as.number,
    }
