"""What a sweep is made of, found out before any of it runs.

jobs = plan([["seed=0"], ["seed=1"]])
jobs[0].directory, jobs[0].action       # outputs/digit_scenes/unet-...-1a2b3c4d, "start"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.config import ConfigError, compose
from src.runs.checked import EMPTY
from src.runs.decision import Action, StaleRun
from src.runs.lock import hold
from src.runs.provenance import changes
from src.runs.record import BadRecord, Record
from src.runs.run import Run


@dataclass(frozen=True)
class Source:
    """How a job's overrides become its config: what they have in common with Hydra's own part.

    `hydra_overrides` are the sweep's own of Hydra's settings; the name is as in `src.config.compose`.
    """

    hydra_overrides: tuple[str, ...] = ("hydra.mode=MULTIRUN",)
    config_name: str | None = None

    def compose(self, overrides: Sequence[str]) -> Any:
        """The job's checked config; see `src.config.compose`."""
        return compose([*self.hydra_overrides, *overrides], config_name=self.config_name, starts=True)


@dataclass(frozen=True)
class Job:
    """One run of a sweep, composed and checked, and what is to be done with it."""

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
        """Whether the run has been completed by now, by whoever."""
        try:
            record = Record(self.directory).read() or EMPTY
        except BadRecord:
            return False
        done = record["status"] == "completed" and record["config_hash"] == self.config_hash
        return done and not changes(record["fingerprints"], self.run.identity)


def plan(jobs: Sequence[Sequence[str]], source: Source = Source()) -> list[Job]:
    """Compose and check all jobs, and decide what each needs; the first wrong one is named, with all that is stale.

    Raises:
        ConfigError: naming the job.
        StaleRun, BadRecord: naming the runs that someone must decide about.
    """
    planned: list[Job] = []
    undecided: list[Exception] = []
    for number, overrides in enumerate(jobs, start=1):
        try:
            planned.append(plan_one(overrides, source))
        except ConfigError as error:
            raise ConfigError(f"job {number} of {len(jobs)}: {error}" if len(jobs) > 1 else str(error)) from error
        except (StaleRun, BadRecord) as error:
            undecided.append(type(error)(f"job {number} of {len(jobs)}: {error}" if len(jobs) > 1 else str(error)))
    if undecided:
        more = f" (and {len(undecided) - 1} jobs more)" if len(undecided) > 1 else ""
        raise type(undecided[0])(f"{undecided[0]}{more}")
    return planned


def plan_one(overrides: Sequence[str], source: Source = Source()) -> Job:
    """As `plan`, of one job."""
    run = Run.of(source.compose(overrides))
    action, set_aside = run.decide()
    return Job(overrides=tuple(overrides), run=run, action=action, set_aside=set_aside)
