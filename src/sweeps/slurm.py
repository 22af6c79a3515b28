"""hydra/launcher=slurm: a sweep whose jobs are the tasks of a Slurm array, each the command of its run typed alone.

The command that submits them may end: they go on, and the same command finds them by the sweep's record.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from src.common.errors import ConfigError
from src.common.ranges import Count, Flag, Positive
from src.common.text import plural
from src.config.compose import parse_override
from src.runs.commands import quoted
from src.sweeps.job_state import JobState
from src.sweeps.plan import Composer, Job
from src.sweeps.record import SweepRecord
from src.sweeps.runner import LauncherOptions, Runner, composer_of
from src.sweeps.show import view_for
from src.sweeps.slurm_commands import check_commands
from src.sweeps.slurm_sweep import SlurmSweep

NOT_OF_A_RUN = ("hydra.mode", "hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.sweep")
DONE_ONCE = ("rerun", "wait", "dry_run", "parent")  # by the sweep, or filled in anew


@dataclass(frozen=True)
class SlurmOptions(LauncherOptions):
    """Of hydra/launcher=slurm; see there."""

    partition: str | None = None
    account: str | None = None
    time: str | int | None = None
    gres: str | None = None
    cpus_per_task: Count = 1
    mem: str | int | None = None
    workers: Count | None = None
    sbatch: Sequence[str] = ()
    setup: Sequence[str] = ()
    detach: Flag = False
    poll_seconds: Positive = 10.0

    def check(self) -> None:
        """Raise ConfigError where a value is none of those allowed."""
        super().check()
        for name in ("partition", "account", "time", "gres", "mem"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, str | int | None) or value == "":
                raise ConfigError(f"hydra.launcher.{name} is {value!r}; it must be what sbatch --{name} takes, or null")
        for name, example in (("sbatch", "['--qos=low']"), ("setup", "['module load cuda']")):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(text, str) and "\n" not in text for text in value):
                raise ConfigError(f"hydra.launcher.{name} is {value!r}; it must be a list of texts, as {example}")

    @property
    def arguments(self) -> list[str]:
        """What sbatch is given; what the user gives as it is comes last, which counts."""
        named = ("partition", "account", "time", "gres", "mem", "cpus_per_task")
        given = [(name.replace("_", "-"), getattr(self, name)) for name in named]
        together = [f"--nodes=1-{self.workers}", f"--ntasks={self.workers}"] if self.workers else []
        return [*together, *(f"--{name}={value}" for name, value in given if value is not None), *self.sbatch]

    @property
    def starter(self) -> list[str]:
        """What starts all processes of a job within its task; Slurm lets it know all but the cores of each."""
        return ["srun", f"--cpus-per-task={self.cpus_per_task}"] if self.workers else []


class SlurmRunner(Runner):
    """Runs sweeps as arrays of Slurm's."""

    def __init__(self, config: DictConfig, options: SlurmOptions) -> None:
        super().__init__(config, options)
        self._options = options
        typed = {_key(text) for text in composer_of(config).hydra_overrides}
        for name in ("sbatch", "setup"):
            if getattr(options, name) and f"hydra.launcher.{name}" not in typed:
                raise ConfigError(
                    f"hydra.launcher.{name} decides what runs, which no config file may say: type it after the command"
                )

    @property
    def n_jobs(self) -> int:
        return self._options.n_jobs or sys.maxsize  # as many as Slurm finds room for

    def run(self, overrides: Sequence[Sequence[str]]) -> tuple[list[JobState], int]:
        """As any runner."""
        if not self._config.dry_run:
            check_commands()
        return super().run(overrides)

    def open(self, *, folder: Path, sweep_id: str, job_count: int) -> SlurmSweep:
        """The sweep of these jobs that has not come to its end, or a new one."""
        record = SweepRecord.reopen(folder, sweep_id) or self.new_record(folder, sweep_id)
        before = f": {plural(len(record.slurm), 'job')} submitted before" if record.slurm else ""
        print(f"sweep {os.path.relpath(record.directory)}{before}", file=sys.stderr)
        composer = composer_of(self._config)
        return SlurmSweep(
            record,
            view_for(sys.stderr),
            lambda job: " ".join([*self._options.starter, command_of(job, composer)]),
            arguments=self._options.arguments,
            setup=self._options.setup,
            n_jobs=self._options.n_jobs,
            poll_seconds=self._options.poll_seconds,
            detach=self._options.detach,
            by_srun=bool(self._options.starter),
            job_count=job_count,
        )


def command_of(job: Job, composer: Composer) -> str:
    """What runs a job as if it had been typed alone; it waits for another process that trains the same run."""
    hydra = [text for text in composer.hydra_overrides if not _key(text).startswith(NOT_OF_A_RUN)]
    own = [text for text in job.overrides if _key(text).partition(".")[0] not in DONE_ONCE]
    name = [f"--config-name={composer.config_name}"] if composer.config_name else []
    place = f"hydra.run.dir={quoted(os.path.relpath(job.directory))}"
    words = [sys.executable, "-m", "src.train", *name, *hydra, *own, place, "wait=true"]
    return shlex.join(words).replace("\n", "'$'\\n''")  # a job is a line


def _key(text: str) -> str:
    return str(parse_override(text).key_or_group)
