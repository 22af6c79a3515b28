"""The search that a command asks for: its space checked, its study opened or continued, its trials run.

search = Search(config, SearchOptions(n_trials=20), ["data=digits", "optimizer.learning_rate=interval(0.001,0.1)"])
exit_code = search.run(runner)
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
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState

from src.common.lock import hold
from src.config.checks import ConfigError
from src.config.compose import search_path
from src.config.identity import identity_config
from src.runs.commands import python
from src.runs.decision import StaleRun
from src.runs.record import BadRecord
from src.runs.run import Run
from src.sweeps.plan import Job, plan, plan_one
from src.sweeps.runner import PoolRunner, composer_of
from src.sweeps.session import EarlierTrial, Session
from src.sweeps.show import print_results, summary
from src.sweeps.space import HOW, Space
from src.sweeps.study import Method, SearchOptions, Study, read_trials, study_id
from src.sweeps.sweep import POLL_SECONDS, Sweep

PRUNE_POLL_SECONDS = 0.05


class Search:
    """A study over a space, as a command gives it.

    Args:
        config: Hydra's config of the sweep.
        options: of the sweeper.
        typed: the overrides that are no setting of Hydra's.

    Raises:
        ConfigError: an option, or something in the space, is wrong; nothing has been run or written.
    """

    def __init__(self, config: DictConfig, options: SearchOptions, typed: Sequence[str]) -> None:
        options.check()
        self._config, self._composer, self._timeout = config, composer_of(config), options.timeout_seconds
        space = Space.parse(typed, options.params)
        if not space.dimensions:
            raise ConfigError(f"there is nothing to search: {HOW}")
        defaults = self._composer.compose(space.discrete())
        self._space = space.whole(lambda key: OmegaConf.select(defaults, key))
        self._method = Method(options, self._space)
        self._probes = list(self._compose_probes())
        first = self._probes[0]
        self._monitor, self._mode = first.monitor, first.mode
        self._folder = Path(os.path.commonpath([Run.of(cfg).directory.parent for cfg in self._probes]))
        self._id = study_id(self._space, options, identity_config(first))
        self._path = self._folder / "studies" / f"{self._id}.journal"

    def run(self, runner: PoolRunner) -> int:
        """Search; a free slot asks for the next trial at once. Returns the exit code."""
        if self._config.dry_run:
            return self._print_plan()
        with hold(self._lock, wait=True, what=f"study {self._id}"):
            study, earlier = self._open()
            job_count = self._method.n_trials
            with runner.open(folder=self._folder / "sweeps", sweep_id=self._id, job_count=job_count) as sweep:
                session = self._run_session(study, earlier, sweep)
            return self._print_end(study, session, sweep)

    @property
    def _lock(self) -> Path:
        return self._folder / ".locks" / f"study-{self._id}"

    def _compose_probes(self) -> Iterator[DictConfig]:
        for dimension, overrides in self._space.probes():
            try:
                yield self._composer.compose(overrides)
            except ConfigError as error:
                raise ConfigError(f"{dimension.given}: {error}") from error

    def _open(self) -> tuple[Study, list[EarlierTrial]]:
        """The study, and its trials so far."""
        if self._config.rerun:
            self._set_aside()
        study = Study(self._path, space=self._space, method=self._method, mode=self._mode)
        earlier = self._earlier_trials(study)
        if self._config.stale == "rerun" and any(trial.job.set_aside for trial in earlier):
            self._set_aside()
            return self._open()
        return study, earlier

    def _set_aside(self) -> None:
        if self._path.exists():
            aside = self._path.with_name(f"{self._path.stem}.{datetime.now(UTC):%Y%m%dT%H%M%S%f}.journal")
            self._path.rename(aside)
            print(f"the earlier study is now {os.path.relpath(aside)}", file=sys.stderr)

    def _earlier_trials(self, study: Study) -> list[EarlierTrial]:
        """All trials of the study with their jobs, of which those that did not fail are planned together."""
        unfinished = {t.number: study.resume(t) for t in study.trials if t.state == TrialState.RUNNING}
        overrides = {t.number: self._space.overrides(unfinished.get(t.number, t).params) for t in study.trials}
        failed = {trial.number for trial in study.trials if trial.state == TrialState.FAIL}
        jobs = iter(plan([texts for number, texts in overrides.items() if number not in failed], self._composer))
        earlier = []
        for trial in study.trials:
            job = self._failed_job(overrides[trial.number]) if trial.number in failed else next(jobs)
            if job:
                earlier.append(EarlierTrial(trial, unfinished.get(trial.number), job))
        return earlier

    def _failed_job(self, overrides: list[str]) -> Job | None:
        """Of a trial that has failed, with no result that could be stale; None where its values are what is wrong."""
        try:
            return replace(plan_one([*overrides, "stale=reuse"], self._composer), overrides=tuple(overrides))
        except ConfigError:
            return None

    def _run_session(self, study: Study, earlier: Sequence[EarlierTrial], sweep: Sweep) -> Session:
        """Run the trials that remain."""
        session, deadline = Session(study, sweep), time.monotonic() + (self._timeout or math.inf)
        # A run continues until it is signalled, so short epochs are lost while nobody looks.
        wait_seconds = PRUNE_POLL_SECONDS if self._method.prunes else POLL_SECONDS
        print(f"study {os.path.relpath(self._path)}: {self._counts(study.trials)}", file=sys.stderr)
        for trial in earlier:
            session.add_earlier(trial)

        def wants_more() -> bool:
            has_room = sweep.free_slots > 0 and not sweep.stopped and not study.exhausted
            return has_room and len(study.trials) < self._method.n_trials and time.monotonic() < deadline

        try:
            while sweep.busy or session.pending or wants_more():
                if wants_more():
                    self._ask(study, session)
                session.poll(timeout_seconds=0.0 if wants_more() else wait_seconds)
        except (StaleRun, BadRecord):
            sweep.stop()
            while session.pending:
                session.poll(timeout_seconds=POLL_SECONDS)
            raise
        return session

    def _ask(self, study: Study, session: Session) -> None:
        trial = study.ask()
        try:
            job = plan_one(self._space.overrides(trial.params), self._composer)
        except ConfigError as error:  # of values that are right one by one
            print(f"trial {trial.number} failed: {error}", file=sys.stderr)
            session.fail(trial)
        else:
            session.add(trial, job)

    def _print_plan(self) -> int:
        print(*self._space.described(), sep="\n")
        print(f"study {os.path.relpath(self._path)}: {self._counts(read_trials(self._path))}")
        return 0

    def _counts(self, trials: Sequence[FrozenTrial]) -> str:
        """How many trials there are of which kind."""
        counts = Counter(trial.state for trial in trials)
        names = {
            TrialState.COMPLETE: "complete",
            TrialState.PRUNED: "pruned",
            TrialState.FAIL: "failed",
            TrialState.RUNNING: "to resume",
        }
        parts = [f"{counts[state]} {name}" for state, name in names.items() if counts[state]]
        return ", ".join([*parts, f"{max(0, self._method.n_trials - len(trials))} more to run"])

    def _print_end(self, study: Study, session: Session, sweep: Sweep) -> int:
        """Print all results, the best one, and what to type next; returns the exit code."""
        print_results(sweep.states, sys.stdout)
        sys.stdout.flush()
        record = os.path.relpath(sweep.record.directory / "sweep.json")
        print(f"{summary(sweep.states, slots=1)}: {record}", file=sys.stderr)
        if best := study.best:
            where = best.user_attrs.get("directory", "")
            print(f"best: {self._monitor} {best.value:.6f} in {where}", file=sys.stderr)
            print(f"      {self._command(self._space.overrides(best.params))}", file=sys.stderr)
        finished = sum(trial.state.is_finished() for trial in study.trials)
        remaining = 0 if study.exhausted else max(0, self._method.n_trials - finished)
        if remaining:
            print(f"{remaining} of {self._method.n_trials} trials remain: the same command continues", file=sys.stderr)
        missing = "" if shutil.which("optuna-dashboard") else "  (pip install optuna-dashboard)"
        print(f"next: optuna-dashboard {os.path.relpath(self._path)}{missing}", file=sys.stderr)
        return session.exit_code or int(sweep.stopped and remaining > 0)

    def _command(self, overrides: Sequence[str]) -> str:
        folders = filter(None, [search_path(self._composer.hydra_overrides)])
        return shlex.join([python(), "-m", "src.train", *folders, *overrides])
