"""A sweep on this machine, from Hydra's config of it: how many jobs at a time, with what, and where its record lies.

local = Local(config, Options(n_jobs=2))
entries, exit_code = local.run([["seed=0"], ["seed=1"]])
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from src.checks import ConfigError, integer, number, one_of
from src.machine import available_cores, visible_gpus
from src.runs import ID_DIGITS
from src.runs.checked import EMPTY
from src.runs.commands import look_commands, print_next
from src.runs.decision import Action
from src.runs.environment import environment, environment_changes
from src.runs.record import BadRecord, Record
from src.sweeps.plan import Job, Source, plan
from src.sweeps.processes import STARTS, Start
from src.sweeps.record import SweepRecord
from src.sweeps.show import print_jobs, print_results, summary, view_for
from src.sweeps.sweep import DONE, ON_FAILURE, Entry, Sweep
from src.text import duration


@dataclass(frozen=True)
class Options:
    """Of hydra/launcher=local; see there."""

    n_jobs: int | None = None
    start: Any = None
    on_failure: Any = "continue"
    retries: int = 0
    job_timeout_seconds: float | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Options:
        """From a config; ConfigError for one that is not there."""
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise ConfigError(f"hydra.launcher has no option {name!r}; it has {', '.join(names)}")
        return cls(**values)

    def check(self) -> None:
        """Raise ConfigError where a value is none of those allowed."""
        for name, (good, allowed) in OPTION_CHECKS.items():
            if not good(value := getattr(self, name)):
                raise ConfigError(f"hydra.launcher.{name} is {value!r}; it must be {allowed}")


OPTION_CHECKS = {
    "n_jobs": integer(1, optional=True),
    "start": one_of(*STARTS, optional=True),
    "on_failure": one_of(*ON_FAILURE),
    "retries": integer(0),
    "job_timeout_seconds": number(0, above=True, optional=True),
}


def default_start() -> Start:
    """Fork, but not with GPUs: CUDA does not survive it, and who knows what starts it."""
    return "spawn" if visible_gpus() else "fork"


class Local:
    """Makes sweeps as a command's config says.

    Args:
        config: Hydra's config of the sweep.
        options: of the launcher.
    """

    def __init__(self, config: DictConfig, options: Options) -> None:
        options.check()
        self._config, self._options = config, options
        self._gpus = visible_gpus()
        self.n_jobs = options.n_jobs or len(self._gpus) or available_cores()
        self.source = source_of(config)

    def open(self, *, folder: Path, sweep_id: str, count: int) -> Sweep:
        """A sweep to add jobs to.

        Args:
            folder: of the records of sweeps.
            sweep_id: what tells this sweep from others.
            count: how many different jobs there will be.
        """
        slots = max(1, min(self.n_jobs, count))
        threads = max(1, available_cores() // slots)
        start = self._options.start or default_start()
        sweep = Sweep(
            folder,
            slots=[self._environment(slot) for slot in range(slots)],
            threads=threads,
            view=view_for(sys.stderr),
            command=sys.argv[1:],
            start=start,
            on_failure=self._options.on_failure,
            retries=self._options.retries,
            job_timeout_seconds=self._options.job_timeout_seconds,
            count=count,
            settings=OmegaConf.to_yaml(self._config),
            sweep_id=sweep_id,
        )
        print(f"sweep {os.path.relpath(sweep.record.directory)}: {slots} at a time", file=sys.stderr)
        return sweep

    def run(self, overrides: Sequence[Sequence[str]]) -> tuple[list[Entry], int]:
        """Run a batch of jobs to its end and print its results; returns the jobs and the exit code."""
        planned = plan(overrides, self.source)
        if self._config.dry_run:
            self.print_plan(planned)
            return [], 0
        aside = [job for job in planned if job.set_aside]
        if aside:
            print(f"{len(aside)} earlier runs are kept, as <directory>.<time>", file=sys.stderr)
        count = len({job.directory for job in planned})
        with self.open(folder=sweeps_folder(planned), sweep_id=sweep_id(planned), count=count) as sweep:
            for job in planned:
                sweep.add(job)
            print(_beginning(planned), file=sys.stderr)
            if changed := _changed_environment(planned):
                print(f"note: computed, or begun, in another environment: {', '.join(changed)}", file=sys.stderr)
            while sweep.busy:
                sweep.poll()
        conclude(sweep)
        return sweep.entries, sweep.exit_code

    def print_plan(self, planned: Sequence[Job]) -> None:
        """What would be done, and for how long."""
        print_jobs(planned, sys.stdout)
        seconds = estimated_seconds(planned, slots=self.n_jobs)
        if seconds is None:
            print("time: unknown, no run of this name and model has been completed yet", file=sys.stderr)
        else:
            print(
                f"time: about {duration(seconds)} of training, as the completed runs of this name took", file=sys.stderr
            )

    def _environment(self, slot: int) -> dict[str, str]:
        if not self._gpus:
            return {}
        gpu = self._gpus[slot % len(self._gpus)]
        return {"CUDA_VISIBLE_DEVICES": gpu, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def source_of(config: DictConfig) -> Source:
    """How the jobs of this sweep are composed."""
    return Source(
        hydra_overrides=tuple(cast(list[str], OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False))),
        config_name=config.hydra.job.config_name,
    )


def _beginning(planned: Sequence[Job]) -> str:
    """How many jobs there are, and what becomes of them."""
    counts = Counter(job.action for job in {job.directory: job for job in planned}.values())
    words: dict[Action, str] = {"reuse": "completed before", "resume": "to go on with", "start": "to start"}
    jobs = "1 job" if len(planned) == 1 else f"{len(planned)} jobs"
    return f"{jobs}: {', '.join(f'{counts[action]} {text}' for action, text in words.items() if counts[action])}"


def _changed_environment(planned: Sequence[Job]) -> list[str]:
    """What differs between here and where jobs that are reused or go on were computed, each once."""
    here, changed = environment(), []
    for job in planned:
        then = ((job.action != "start" and Record(job.directory).read()) or EMPTY)["environment"]
        changed += environment_changes(then, here)
    return list(dict.fromkeys(changed))


def conclude(sweep: Sweep) -> None:
    """Print all results, where they are kept, and what to type next."""
    print_results(sweep.entries, sys.stdout)
    sys.stdout.flush()
    print(f"{summary(sweep.entries, slots=1)}: {os.path.relpath(sweep.record.directory)}/sweep.json", file=sys.stderr)
    if any(entry.status not in DONE for entry in sweep.entries):
        print("the same command again runs only what is not completed", file=sys.stderr)
    else:
        folder = sweep.record.directory.parent.parent
        print_next(look_commands(folder), sys.stderr)


def prepare_for_others(overrides: Sequence[Sequence[str]], config: DictConfig) -> bool:
    """Check all jobs that another launcher will run, and set aside what it must not touch.

    Returns:
        whether to run them; after a dry run, which prints the plan, not.

    Raises:
        ConfigError: a job is wrong, or the jobs cannot share a process.
    """
    planned = plan(overrides, source_of(config))
    if in_one_process(config):
        check_threads([job.cfg for job in planned])
    if config.dry_run:
        print_jobs(planned, sys.stdout)
        return False
    for job in planned:
        job.prepare()
    SweepRecord.create(sweeps_folder(planned), sweep_id=sweep_id(planned), settings=OmegaConf.to_yaml(config))
    return True


def in_one_process(config: DictConfig) -> bool:
    """Whether the jobs of a sweep with this config share a process, as those of Hydra's own launcher do."""
    return str(config.hydra.launcher.get("_target_")).endswith(".BasicLauncher")


def check_threads(configs: Sequence[DictConfig]) -> None:
    """Raise ConfigError where jobs that share a process differ in what is set once a process."""
    if len(threads := {cfg.trainer.threads for cfg in configs}) > 1:
        raise ConfigError(
            f"trainer.threads is {' and '.join(map(str, threads))} in one sweep, whose jobs share a process: "
            "give one trainer.threads=..., or hydra/launcher=local"
        )


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
    for job in {job.directory: job for job in planned if job.action != "reuse"}.values():
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
    return directory.name.partition("-")[0]  # as src.runs.identity.label begins
