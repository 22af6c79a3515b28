"""A sweep from Hydra's config of it, wherever its jobs run: planned, run to its end, its results printed.

runner = LocalRunner(config, LocalOptions(n_jobs=2))    # or another launcher's
states, exit_code = runner.run([["seed=0"], ["seed=1"]])
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Self, cast

from omegaconf import DictConfig, OmegaConf

from src.common.ranges import Count, Positive, Range, checks_of
from src.common.text import duration
from src.config.checks import ConfigError
from src.runs.commands import look_commands, print_next
from src.runs.decision import Action
from src.runs.environment import environment, environment_changes
from src.runs.record import Record
from src.runs.record_schema import EMPTY
from src.sweeps.job_state import DONE, UNFINISHED, JobState
from src.sweeps.jobs import Jobs
from src.sweeps.plan import Composer, Job, estimated_seconds, plan, sweep_id, sweeps_folder
from src.sweeps.pool import Pool
from src.sweeps.record import SweepRecord
from src.sweeps.show import print_jobs, print_results, summary, view_for
from src.sweeps.sweep import OnFailure, Rules, Sweep


@dataclass(frozen=True)
class LauncherOptions:
    """What all launchers of this project have; conf/hydra/launcher/ says what each option is."""

    n_jobs: Count | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From a config; ConfigError for one that is not there."""
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise ConfigError(f"hydra.launcher has no option {name!r}; it has {', '.join(names)}")
        return cls(**values)

    def check(self) -> None:
        """Raise ConfigError where a value is none of those allowed."""
        for name, check in checks_of(type(self)).items():
            if not check.allows(value := getattr(self, name)):
                raise ConfigError(check.refusal(f"hydra.launcher.{name}", value))


@dataclass(frozen=True)
class PoolOptions(LauncherOptions):
    """Of launchers that run jobs through a `Pool`."""

    on_failure: OnFailure = "continue"
    retries: Annotated[int, Range(0)] = 0
    job_timeout_seconds: Positive | None = None

    @property
    def rules(self) -> Rules:
        return Rules(self.on_failure, self.retries, self.job_timeout_seconds)


class Runner(ABC):
    """Runs sweeps as a command's config says; a launcher's own says where.

    Args:
        config: Hydra's config of the sweep.
        options: of the launcher.
    """

    def __init__(self, config: DictConfig, options: LauncherOptions) -> None:
        options.check()
        self._config = config

    @property
    @abstractmethod
    def n_jobs(self) -> int:
        """Jobs at a time, where there are as many."""

    @abstractmethod
    def open(self, *, folder: Path, sweep_id: str, job_count: int) -> Jobs:
        """A sweep to add jobs to.

        Args:
            folder: of the records of sweeps.
            sweep_id: what tells the sweep from others.
            job_count: how many different jobs there will be.
        """

    def new_record(self, folder: Path, sweep_id: str) -> SweepRecord:
        """For `open`."""
        settings = OmegaConf.to_yaml(self._config)
        return SweepRecord.create(folder, sweep_id=sweep_id, command=sys.argv[1:], settings=settings)

    def run(self, overrides: Sequence[Sequence[str]]) -> tuple[list[JobState], int]:
        """Run a batch of jobs to its end and print its results; returns the jobs and the exit code."""
        planned = plan(overrides, composer_of(self._config))
        if self._config.dry_run:
            self._print_plan(planned)
            return [], 0
        if set_aside := [job for job in planned if job.set_aside]:
            print(f"{len(set_aside)} earlier runs are moved to <directory>.<time>", file=sys.stderr)
        job_count = len({job.directory for job in planned})
        with self.open(folder=sweeps_folder(planned), sweep_id=sweep_id(planned), job_count=job_count) as sweep:
            for job in planned:
                sweep.add(job)
            print(_counts_of_actions(planned), file=sys.stderr)
            if changed := _changed_environment(planned):
                print(f"note: computed, or begun, in another environment: {', '.join(changed)}", file=sys.stderr)
            while sweep.busy:
                sweep.poll()
        _print_end(sweep)
        return sweep.states, sweep.exit_code

    def _print_plan(self, planned: Sequence[Job]) -> None:
        """What would be done, and for how long."""
        print_jobs(planned, sys.stdout)
        seconds = estimated_seconds(planned, slots=self.n_jobs)
        if seconds is None:
            print("time: unknown, no run of this name and model has been completed yet", file=sys.stderr)
        else:
            print(
                f"time: about {duration(seconds)} of training, as the completed runs of this name took", file=sys.stderr
            )


class PoolRunner(Runner):
    """Runs jobs one by one, in a pool that a launcher's own makes."""

    def __init__(self, config: DictConfig, options: PoolOptions) -> None:
        super().__init__(config, options)
        self._rules = options.rules

    @abstractmethod
    def make_pool(self, *, folder: Path, slots: int) -> tuple[Pool, int]:
        """A pool, and the threads of each job that has no count of its own.

        Args:
            folder: of the records of sweeps, beside or above the runs.
            slots: how many jobs may run at a time.
        """

    def open(self, *, folder: Path, sweep_id: str, job_count: int) -> Sweep:
        slots = max(1, min(self.n_jobs, job_count))
        pool, threads = self.make_pool(folder=folder, slots=slots)
        record = self.new_record(folder, sweep_id)
        view = view_for(sys.stderr)
        print(f"sweep {os.path.relpath(record.directory)}: {slots} at a time", file=sys.stderr)
        return Sweep(pool, record, view, rules=self._rules, threads=threads, job_count=job_count)


def composer_of(config: DictConfig) -> Composer:
    """How the jobs of this sweep are composed."""
    return Composer(
        hydra_overrides=tuple(cast(list[str], OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False))),
        config_name=config.hydra.job.config_name,
    )


def _counts_of_actions(planned: Sequence[Job]) -> str:
    """How many jobs there are, and what is done with them."""
    counts = Counter(job.action for job in {job.directory: job for job in planned}.values())
    words: dict[Action, str] = {
        "reuse": "completed before",
        "measure": "to measure on the test split",
        "resume": "to resume",
        "start": "to start",
    }
    jobs = "1 job" if len(planned) == 1 else f"{len(planned)} jobs"
    return f"{jobs}: {', '.join(f'{counts[action]} {text}' for action, text in words.items() if counts[action])}"


def _changed_environment(planned: Sequence[Job]) -> list[str]:
    """What differs between here and where jobs that are reused or resumed were computed, each once."""
    here, changed = environment(), []
    for job in planned:
        then = ((job.action != "start" and Record(job.directory).read()) or EMPTY)["environment"]
        changed += environment_changes(then, here)
    return list(dict.fromkeys(changed))


def _print_end(sweep: Jobs) -> None:
    """Print all results, where their record lies, and what to type next."""
    print_results(sweep.states, sys.stdout)
    sys.stdout.flush()
    print(f"{summary(sweep.states, slots=1)}: {os.path.relpath(sweep.record.directory)}/sweep.json", file=sys.stderr)
    if any(state.status in UNFINISHED for state in sweep.states):
        return  # they go on, as has been said
    if any(state.status not in DONE for state in sweep.states):
        print("the same command again runs only what is not completed", file=sys.stderr)
    else:
        folder = sweep.record.directory.parent.parent
        print_next(look_commands(folder), sys.stderr)


def prepare_for_other_launcher(overrides: Sequence[Sequence[str]], config: DictConfig) -> bool:
    """Check all jobs that another launcher will run, and set aside what it must not touch.

    Returns:
        whether to run them; after a dry run, which prints the plan, not.

    Raises:
        ConfigError: a job is wrong, or the jobs cannot share a process.
    """
    planned = plan(overrides, composer_of(config))
    if str(config.hydra.launcher.get("_target_")).endswith(".BasicLauncher"):  # Hydra's own: one process for all
        _check_threads([job.make_run().cfg for job in planned])
    if config.dry_run:
        print_jobs(planned, sys.stdout)
        return False
    for job in planned:
        job.prepare()
    SweepRecord.create(sweeps_folder(planned), sweep_id=sweep_id(planned), settings=OmegaConf.to_yaml(config))
    return True


def _check_threads(configs: Sequence[DictConfig]) -> None:
    """Raise ConfigError where jobs that share a process differ in what is set once a process."""
    if len(threads := {cfg.trainer.threads for cfg in configs}) > 1:
        raise ConfigError(
            f"trainer.threads is {' and '.join(map(str, threads))} in one sweep, whose jobs share a process: "
            "give one trainer.threads=..., or hydra/launcher=local"
        )
