"""What a sweep is made of, found out before any of it runs.

jobs = plan([["seed=0"], ["seed=1"]])
jobs[0].directory, jobs[0].action       # outputs/digit_scenes/unet-...-1a2b3c4d, "start"
"""

from __future__ import annotations

import hashlib
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.common.lock import hold
from src.config.compose import ConfigError, compose
from src.config.identity import ID_DIGITS
from src.runs.decision import Action, StaleRun
from src.runs.provenance import changes
from src.runs.record import BadRecord, Record
from src.runs.record_schema import EMPTY
from src.runs.run import Run


@dataclass(frozen=True)
class Composer:
    """How a job's overrides become its config: what they have in common with Hydra's own part.

    `hydra_overrides` are the sweep's own of Hydra's settings; the name is as in `src.config.compose.compose`.
    """

    hydra_overrides: tuple[str, ...] = ("hydra.mode=MULTIRUN",)
    config_name: str | None = None

    def compose(self, overrides: Sequence[str]) -> Any:
        """The job's checked config; see `src.config.compose.compose`."""
        words = [*self.hydra_overrides, *overrides]
        return compose(words, config_name=self.config_name, starts=True, is_known=Run.is_known)


@dataclass(frozen=True)
class Job:
    """One run of a sweep, composed and validated, and what is to be done with it."""

    overrides: tuple[str, ...]
    run: Run = field(repr=False, compare=False)
    action: Action
    set_aside: bool

    @property
    def config_hash(self) -> str:
        return self.run.config_hash

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def directory(self) -> Path:
        return self.run.directory

    @property
    def lock(self) -> Path:
        return self.run.lock

    @property
    def cfg(self) -> Any:
        return self.run.cfg

    def prepare(self) -> None:
        """Set aside what a launcher that opens the directory before the run decides must not touch."""
        with hold(self.lock, wait=self.cfg.wait):
            if self.run.decide()[1]:
                self.run.set_aside()

    def is_done(self) -> bool:
        """Whether the run has been completed by now, by any process."""
        try:
            record = Record(self.directory).read() or EMPTY
        except BadRecord:
            return False
        done = record["status"] == "completed" and record["config_hash"] == self.config_hash
        return done and not changes(record["fingerprints"], self.run.identity)


def plan(jobs: Sequence[Sequence[str]], composer: Composer = Composer()) -> list[Job]:
    """Compose and check all jobs, and decide what each needs; the first wrong one is named, with all that is stale.

    Raises:
        ConfigError: naming the job.
        StaleRun, BadRecord: naming the runs that someone must decide about.
    """
    planned: list[Job] = []
    undecided: list[Exception] = []
    for number, overrides in enumerate(jobs, start=1):
        try:
            planned.append(plan_one(overrides, composer))
        except ConfigError as error:
            raise ConfigError(f"job {number} of {len(jobs)}: {error}" if len(jobs) > 1 else str(error)) from error
        except (StaleRun, BadRecord) as error:
            undecided.append(type(error)(f"job {number} of {len(jobs)}: {error}" if len(jobs) > 1 else str(error)))
    if undecided:
        more = f" (and {len(undecided) - 1} jobs more)" if len(undecided) > 1 else ""
        raise type(undecided[0])(f"{undecided[0]}{more}")
    return planned


def plan_one(overrides: Sequence[str], composer: Composer = Composer()) -> Job:
    """As `plan`, of one job."""
    run = Run.of(composer.compose(overrides))
    action, set_aside = run.decide()
    return Job(overrides=tuple(overrides), run=run, action=action, set_aside=set_aside)


def sweeps_folder(planned: Sequence[Job]) -> Path:
    """Where the records of sweeps over these jobs lie: beside the runs, or above them where they have many names."""
    return Path(os.path.commonpath([job.directory.parent for job in planned])) / "sweeps"


def sweep_id(planned: Sequence[Job]) -> str:
    """8 hex digits of what the sweep computes: the set of its runs."""
    names = sorted({job.config_hash for job in planned})
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:ID_DIGITS]


def estimated_seconds(planned: Sequence[Job], *, slots: int) -> float | None:
    """How long these jobs will train, by the epochs of completed runs beside them; None where a model has none."""
    rates = {folder: _epoch_seconds(folder) for folder in {job.directory.parent for job in planned}}
    total, longest = 0.0, 0.0
    for job in {job.directory: job for job in planned if job.action in ("start", "resume")}.values():
        known = rates[job.directory.parent]
        if not (measured := known.get(_model(job.directory))):
            return None
        before = Record(job.directory).read() if job.action == "resume" else None
        seconds = statistics.median(measured) * (job.cfg.epochs - (before["epoch"] if before else 0))
        total, longest = total + seconds, max(longest, seconds)
    return max(total / slots, longest)


def _epoch_seconds(folder: Path) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {}
    for path in folder.glob("*/run.json"):
        try:
            record = Record(path.parent).read() or EMPTY
        except BadRecord:
            continue
        if record["status"] == "completed" and record["epoch"] and record["seconds"]:
            rates.setdefault(_model(path.parent), []).append(record["seconds"] / record["epoch"])
    return rates


def _model(directory: Path) -> str:
    return directory.name.partition("-")[0]  # as src.config.identity.label begins
