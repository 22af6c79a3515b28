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
from src.job import decide_run, run_directory
from src.runs import ID_DIGITS
from src.runs.decision import Action, StaleRun
from src.runs.identity import config_hash, identity_config
from src.runs.lock import lock_path
from src.runs.provenance import changes
from src.runs.record import BadRecord, Record


@dataclass(frozen=True)
class Source:
    """How a job's overrides become its config: what they have in common with Hydra's own part.

    `hydra_overrides` are the sweep's own of Hydra's settings; the others as in `src.config.compose`.
    """

    hydra_overrides: tuple[str, ...] = ()
    config_dir: str | None = None
    config_name: str | None = None

    def compose(self, overrides: Sequence[str]) -> Any:
        """The job's checked config; see `src.config.compose`."""
        return compose([*self.hydra_overrides, *overrides], config_dir=self.config_dir, config_name=self.config_name)


@dataclass(frozen=True)
class Job:
    """One run of a sweep, composed and checked."""

    overrides: tuple[str, ...]
    config_hash: str
    directory: Path
    action: Action
    set_aside: bool
    name: str
    epochs: int
    monitor: str
    mode: str
    identity: dict[str, Any] = field(repr=False, compare=False)

    @property
    def id(self) -> str:
        return self.config_hash[:ID_DIGITS]

    @property
    def lock(self) -> Path:
        return lock_path(self.directory)

    def is_done(self) -> bool:
        """Whether the run has been completed by now, by whoever."""
        try:
            record = Record(self.directory).read() or {}
        except BadRecord:
            return False
        done = record.get("status") == "completed" and record.get("config_hash") == self.config_hash
        return done and not changes(record.get("fingerprints") or {}, self.identity)


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
    cfg = source.compose(overrides)
    directory = run_directory(cfg, cfg.hydra.sweep)
    action, set_aside = decide_run(cfg, directory, rerun=cfg.rerun)
    return Job(
        overrides=tuple(overrides),
        config_hash=config_hash(cfg),
        directory=directory,
        action=action,
        set_aside=set_aside,
        name=cfg.name,
        epochs=cfg.epochs,
        monitor=cfg.monitor,
        mode=cfg.mode,
        identity=identity_config(cfg),
    )
