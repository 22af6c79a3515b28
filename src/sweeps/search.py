"""The search that a command asks for: its space checked, its study opened or continued, its trials run.

search = Search(config, Options(n_trials=20), ["data=digits", "optimizer.learning_rate=interval(0.001,0.1)"])
exit_code = search.run(local)
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, Trial, TrialState

from src.checks import ConfigError
from src.config import search_path
from src.machine import available_cores
from src.runs.checked import EMPTY
from src.runs.commands import python
from src.runs.decision import StaleRun
from src.runs.identity import identity_config
from src.runs.lock import hold
from src.runs.record import BadRecord, Record
from src.runs.run import Run
from src.sweeps.batches import Batches, Launch
from src.sweeps.local import Local, check_threads, source_of
from src.sweeps.plan import Job, plan, plan_one
from src.sweeps.record import SweepRecord
from src.sweeps.show import print_results, summary
from src.sweeps.space import HOW, Space
from src.sweeps.study import PRUNED_AT, Method, Options, Study, read_trials, study_id
from src.sweeps.sweep import POLL_SECONDS, Entry, Status, Sweep

PRUNE_POLL_SECONDS = 0.05

BEFORE: dict[TrialState, Status] = {
    TrialState.COMPLETE: "reused",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class Search:
    """A study over a space, as a command gives it.

    Args:
        config: Hydra's config of the sweep.
        options: of the sweeper.
        typed: the overrides that are no setting of Hydra's.

    Raises:
        ConfigError: an option, or something in the space, is wrong; nothing has been run or written.
    """

    def __init__(self, config: DictConfig, options: Options, typed: Sequence[str]) -> None:
        options.check()
        self._config, self._source, self._timeout = config, source_of(config), options.timeout_seconds
        space = Space.parse(typed, options.params)
        if not space.dimensions:
            raise ConfigError(f"there is nothing to search: {HOW}")
        defaults = self._source.compose(space.discrete())
        self._space = space.whole(lambda key: OmegaConf.select(defaults, key))
        self._method = Method(options, self._space)
        self._probes = list(self._compose_probes())
        first = self._probes[0]
        self._monitor, self._mode = first.monitor, first.mode
        self._folder = Path(os.path.commonpath([Run.of(cfg).directory.parent for cfg in self._probes]))
        self._id = study_id(self._space, options, identity_config(first))
        self._path = self._folder / "studies" / f"{self._id}.journal"

    def run(self, local: Local) -> int:
        """Search with the local launcher: a free slot asks for the next trial at once. Returns the exit code."""
        if self._config.dry_run:
            return self._print_plan()
        with hold(self._lock, wait=True, what=f"study {self._id}"):
            study, past = self._open()
            count = self._method.n_trials
            with local.open(folder=self._folder / "sweeps", sweep_id=self._id, count=count) as sweep:
                sitting = self._sit(study, past, sweep)
            return self._conclude(study, sitting, record=sweep.record.directory / "sweep.json")

    def run_in_batches(self, launch: Launch, *, in_one_process: bool) -> int:
        """Search with another launcher, which runs a batch to its end and prunes nothing. Returns the exit code.

        Args:
            launch: the launcher's.
            in_one_process: whether its jobs share a process.
        """
        if self._config.dry_run:
            return self._print_plan()
        if in_one_process:
            check_threads(self._probes)
        if self._method.prunes:
            print("note: this launcher's jobs cannot be pruned; those of hydra/launcher=local can", file=sys.stderr)
        n_jobs = self._config.hydra.launcher.get("n_jobs") or 1
        with hold(self._lock, wait=True, what=f"study {self._id}"):
            study, past = self._open()
            settings = OmegaConf.to_yaml(self._config)
            record = SweepRecord.create(
                self._folder / "sweeps", sweep_id=self._id, command=sys.argv[1:], settings=settings
            )
            batches = Batches(launch, size=n_jobs if n_jobs > 0 else available_cores())
            sitting = self._sit(study, past, batches)
            record.write(batches.entries, exit_code=sitting.exit_code)
            return self._conclude(study, sitting, record=record.directory / "sweep.json")

    @property
    def _lock(self) -> Path:
        return self._folder / ".locks" / f"study-{self._id}"

    def _compose_probes(self) -> Iterator[DictConfig]:
        for dimension, overrides in self._space.probes():
            try:
                yield self._source.compose(overrides)
            except ConfigError as error:
                raise ConfigError(f"{dimension.given}: {error}") from error

    def _open(self) -> tuple[Study, list[Past]]:
        """The study, and its trials so far."""
        if self._config.rerun:
            self._set_aside()
        study = Study(self._path, space=self._space, method=self._method, mode=self._mode)
        past = self._past(study)
        if self._config.stale == "rerun" and any(trial.job.set_aside for trial in past):
            self._set_aside()
            return self._open()
        return study, past

    def _set_aside(self) -> None:
        if self._path.exists():
            kept = self._path.with_name(f"{self._path.stem}.{datetime.now(UTC):%Y%m%dT%H%M%S%f}.journal")
            self._path.rename(kept)
            print(f"the earlier study is kept in {os.path.relpath(kept)}", file=sys.stderr)

    def _past(self, study: Study) -> list[Past]:
        asked = [(trial, study.go_on(trial) if trial.state == TrialState.RUNNING else None) for trial in study.trials]
        given = [(trial, left, self._space.overrides((left or trial).params)) for trial, left in asked]
        sound = [overrides for trial, _, overrides in given if trial.state != TrialState.FAIL]
        jobs = iter(plan(sound, self._source))
        past = []
        for trial, left, overrides in given:
            job = self._failed_job(overrides) if trial.state == TrialState.FAIL else next(jobs)
            if job:
                past.append(Past(trial, left, job))
        return past

    def _failed_job(self, overrides: list[str]) -> Job | None:
        """Of a trial that has failed, with no result that could be stale; None where its values are what is wrong."""
        try:
            return replace(plan_one([*overrides, "stale=reuse"], self._source), overrides=tuple(overrides))
        except ConfigError:
            return None

    def _sit(self, study: Study, past: Sequence[Past], sweep: Sweep | Batches) -> Sitting:
        """Run what is left."""
        sitting, deadline = Sitting(study, sweep), time.monotonic() + (self._timeout or math.inf)
        # A run goes on until it is told, so short epochs are lost while nobody looks.
        wait_seconds = PRUNE_POLL_SECONDS if self._method.prunes else POLL_SECONDS
        print(f"study {os.path.relpath(self._path)}: {self._state(study.trials)}", file=sys.stderr)
        for trial in past:
            sitting.take_up(trial)

        def wants_more() -> bool:
            has_room = sweep.free_slots > 0 and not sweep.stopped and not study.exhausted
            return has_room and len(study.trials) < self._method.n_trials and time.monotonic() < deadline

        try:
            while sitting.pending or wants_more():
                if wants_more():
                    self._ask(study, sitting)
                sitting.watch(timeout_seconds=0.0 if wants_more() else wait_seconds)
        except (StaleRun, BadRecord):
            sweep.stop()
            while sitting.pending:
                sitting.watch(timeout_seconds=POLL_SECONDS)
            raise
        return sitting

    def _ask(self, study: Study, sitting: Sitting) -> None:
        trial = study.ask()
        try:
            job = plan_one(self._space.overrides(trial.params), self._source)
        except ConfigError as error:  # of values that are right one by one
            print(f"trial {trial.number} failed: {error}", file=sys.stderr)
            sitting.fail(trial)
        else:
            sitting.add(trial, job)

    def _print_plan(self) -> int:
        print(*self._space.described(), sep="\n")
        print(f"study {os.path.relpath(self._path)}: {self._state(read_trials(self._path))}")
        return 0

    def _state(self, trials: Sequence[FrozenTrial]) -> str:
        """How many trials there are of which kind."""
        counts = Counter(trial.state for trial in trials)
        names = {
            TrialState.COMPLETE: "complete",
            TrialState.PRUNED: "pruned",
            TrialState.FAIL: "failed",
            TrialState.RUNNING: "to go on with",
        }
        parts = [f"{counts[state]} {name}" for state, name in names.items() if counts[state]]
        return ", ".join([*parts, f"{max(0, self._method.n_trials - len(trials))} more to run"])

    def _conclude(self, study: Study, sitting: Sitting, *, record: Path) -> int:
        """Print all results, the best one, and what to type next."""
        print_results(sitting.entries, sys.stdout)
        sys.stdout.flush()
        print(f"{summary(sitting.entries, slots=1)}: {os.path.relpath(record)}", file=sys.stderr)
        if best := study.best:
            where = best.user_attrs.get("directory", "")
            print(f"best: {self._monitor} {best.value:.6f} in {where}", file=sys.stderr)
            print(f"      {self._command(self._space.overrides(best.params))}", file=sys.stderr)
        over = sum(trial.state.is_finished() for trial in study.trials)
        left = 0 if study.exhausted else max(0, self._method.n_trials - over)
        if left:
            print(f"{left} of {self._method.n_trials} trials are left: the same command goes on", file=sys.stderr)
        missing = "" if shutil.which("optuna-dashboard") else "  (pip install optuna-dashboard)"
        print(f"next: optuna-dashboard {os.path.relpath(self._path)}{missing}", file=sys.stderr)
        return sitting.exit_code or int(sitting.stopped and left > 0)

    def _command(self, overrides: Sequence[str]) -> str:
        folders = filter(None, [search_path(self._source.hydra_overrides)])
        return shlex.join([python(), "-m", "src.train", *folders, *overrides])


@dataclass(frozen=True)
class Past:
    """A trial of an earlier command: as the study has it, to go on with where it was left running, and its run."""

    trial: FrozenTrial
    left: Trial | None
    job: Job


class Sitting:
    """One command's part of a study: its trials, each as an entry of a sweep."""

    def __init__(self, study: Study, sweep: Sweep | Batches) -> None:
        self._study, self._sweep = study, sweep
        self._pruned: set[int] = set()
        self._failed = False
        self.pending: dict[int, Trial] = {}

    @property
    def entries(self) -> list[Entry]:
        return self._sweep.entries

    @property
    def stopped(self) -> bool:
        return self._sweep.stopped

    @property
    def exit_code(self) -> int:
        """The sweep's; 1 where a trial has failed for want of a value."""
        return self._sweep.exit_code or int(self._failed)

    def take_up(self, past: Past) -> None:
        """A trial of an earlier command: shown where it is over, gone on with where it is not."""
        if past.left is None:
            entry = self._sweep.add(past.job, before=BEFORE[past.trial.state])
            if entry.value is None and past.trial.state == TrialState.COMPLETE:  # its run is not there any more
                entry.value = past.trial.value
            if past.trial.state == TrialState.FAIL:
                error = (Record(past.job.directory).read() or EMPTY)["error"]
                entry.reason = f"{error['type']}: {error['message']}" if error else None
        elif PRUNED_AT in past.trial.user_attrs and past.job.action != "reuse":
            self.add(past.left, past.job, before="pruned")
        else:
            self.add(past.left, past.job)

    def add(self, trial: Trial, job: Job, *, before: Status | None = None) -> None:
        trial.set_user_attr("id", job.id)
        trial.set_user_attr("directory", str(job.directory))
        self.pending[self._sweep.add(job, before=before).number] = trial

    def fail(self, trial: Trial) -> None:
        self._study.tell(trial, "failed")
        self._failed = True

    def watch(self, *, timeout_seconds: float) -> None:
        """Wait a moment; tell what has ended, and end what is not worth going on."""
        for entry in self._sweep.poll(timeout_seconds):
            if trial := self.pending.pop(entry.number, None):
                self._tell(trial, entry)
        for number, trial in self.pending.items():
            self._report(trial, self.entries[number - 1])

    def _report(self, trial: Trial, entry: Entry) -> None:
        record = Record(entry.job.directory)
        if entry.pid is None or (record.read() or EMPTY)["process"]["pid"] != entry.pid:
            return  # what lies there is of an earlier process, and this one does not hear yet
        if entry.number not in self._pruned and self._study.report(trial, measured(record, entry.job.cfg.monitor)):
            trial.set_user_attr(PRUNED_AT, record.history()[-1]["epoch"])
            self._pruned.add(entry.number)
        if entry.number in self._pruned:
            self._sweep.prune(entry)

    def _tell(self, trial: Trial, entry: Entry) -> None:
        if entry.status in ("interrupted", "not started"):
            return  # left running: whoever continues the study goes on with it
        self._study.report(trial, measured(Record(entry.job.directory), entry.job.cfg.monitor))
        if entry.status == "pruned":
            self._study.tell(trial, "pruned")
        elif entry.status in ("completed", "reused") and entry.value is not None:
            self._study.tell(trial, "complete", entry.value)
        elif entry.shares:
            self._study.tell(trial, "failed")
        else:
            self.fail(trial)


def measured(record: Record, monitor: str) -> list[tuple[int, float]]:
    """The epochs of a run so far that have a value, and these."""
    return [(values["epoch"], values[monitor]) for values in record.history() if values.get(monitor) is not None]
