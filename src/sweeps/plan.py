"""What a sweep is made of, found out before any of it runs.

jobs = plan([["seed=0"], ["seed=1"]])
jobs[0].directory, jobs[0].action       # outputs/digit_scenes/unet-...-1a2b3c4d, "start"
"""

from __future__ import annotations

import functools
import hashlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.common.lock import hold
from src.config.compose import Composed, ConfigError, check, compose
from src.config.identity import ID_DIGITS, hash_of, identity_of
from src.config.signatures import read_once
from src.runs.collection import lock_path
from src.runs.decision import Action, StaleRun
from src.runs.provenance import changes
from src.runs.record import BadRecord, Record
from src.runs.record_schema import EMPTY
from src.runs.run import Run, decide_at, find_directory, named_directory, names_by_id

# When a plan that takes long says how far it is.
FIRST_SECONDS, EVERY_SECONDS = 0.5, 10.0


@dataclass(frozen=True)
class Composer:
    """How a job's overrides become its config: what they have in common with Hydra's own part.

    `hydra_overrides` are the sweep's own of Hydra's settings; the name is as in `src.config.compose.compose`.
    """

    hydra_overrides: tuple[str, ...] = ("hydra.mode=MULTIRUN",)
    config_name: str | None = None

    def compose(self, overrides: Sequence[str], *, is_checked: bool = False) -> Any:
        """The job's checked config; see `src.config.compose.compose`."""
        more: Any = {"starts": True, "is_known": Run.is_known, "is_checked": is_checked}
        return compose(self._whole(overrides), config_name=self.config_name, **more)

    def check(self, overrides: Sequence[str]) -> Composed:
        """The same as dicts and lists, in a twentieth of the time."""
        return check(self._whole(overrides), config_name=self.config_name, is_known=Run.is_known)

    def _whole(self, overrides: Sequence[str]) -> list[str]:
        return [*self.hydra_overrides, *overrides]


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a sweep, composed and validated, and what is to be done with it.

    There may be ten thousand, so it keeps what is asked for again and again, and `make_run` composes the rest anew.
    """

    overrides: tuple[str, ...]
    config_hash: str
    directory: Path
    monitor: str
    mode: str
    epochs: int
    action: Action
    set_aside: bool
    make_run: Callable[[], Run] = field(repr=False, compare=False)

    @property
    def id(self) -> str:
        return self.config_hash[:ID_DIGITS]

    @property
    def lock(self) -> Path:
        return lock_path(self.directory)

    def prepare(self) -> None:
        """Set aside what a launcher that opens the directory before the run decides must not touch."""
        run = self.make_run()
        with hold(self.lock, wait=run.cfg.wait):
            if run.decide()[1]:
                run.set_aside()

    def is_done(self) -> bool:
        """Whether the run has been completed by now, by any process."""
        try:
            record = Record(self.directory).read() or EMPTY
        except BadRecord:
            return False
        done = record["status"] == "completed" and record["config_hash"] == self.config_hash
        return done and not changes(record["fingerprints"], self.make_run().identity)


def plan(jobs: Sequence[Sequence[str]], composer: Composer = Composer()) -> list[Job]:
    """Compose and check all jobs, and decide what each needs; the first wrong one is named, with all that is stale.

    Raises:
        ConfigError: naming the job.
        StaleRun, BadRecord: naming the runs that someone must decide about.
    """
    planned: list[Job] = []
    undecided: list[Exception] = []
    listed = functools.cache(names_by_id)
    told = time.monotonic() + FIRST_SECONDS - EVERY_SECONDS
    prefix = f"job {{}} of {len(jobs)}: " if len(jobs) > 1 else ""
    with read_once():
        for number, overrides in enumerate(jobs, start=1):
            if time.monotonic() - told > EVERY_SECONDS:
                told = time.monotonic()
                print(f"checking job {number} of {len(jobs)}", file=sys.stderr, flush=True)
            try:
                planned.append(plan_one(overrides, composer, listed))
            except ConfigError as error:
                raise ConfigError(f"{prefix.format(number)}{error}") from error
            except (StaleRun, BadRecord) as error:
                undecided.append(type(error)(f"{prefix.format(number)}{error}"))
    if undecided:
        more = f" (and {len(undecided) - 1} jobs more)" if len(undecided) > 1 else ""
        raise type(undecided[0])(f"{undecided[0]}{more}")
    return planned


def plan_one(
    overrides: Sequence[str],
    composer: Composer = Composer(),
    listed: Callable[[Path], Mapping[str, str]] = names_by_id,
) -> Job:
    """As `plan`, of one job; for `listed` see `find_directory`."""
    plain, resolved = composer.check(overrides)
    identity = identity_of(resolved)
    config_hash = hash_of(identity)
    try:
        directory = find_directory(named_directory(plain, identity, config_hash), config_hash, listed=listed)
    except LookupError:
        directory = Run.of(composer.compose(overrides, is_checked=True)).directory
    action, set_aside = decide_at(directory, config_hash, identity, resolved)
    return Job(
        overrides=tuple(overrides),
        config_hash=config_hash,
        directory=directory,
        **{key: resolved[key] for key in ("monitor", "mode", "epochs")},
        action=action,
        set_aside=set_aside,
        make_run=functools.partial(_make_run, overrides, composer, directory, config_hash),
    )


def _make_run(overrides: Sequence[str], composer: Composer, directory: Path, config_hash: str) -> Run:
    run = Run.of(composer.compose(overrides, is_checked=True), directory=directory)
    if run.config_hash != config_hash:
        raise ConfigError(f"{' '.join(overrides)}: a value changes from one moment to the next; give one that stays")
    return run


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
        seconds = statistics.median(measured) * (job.epochs - (before["epoch"] if before else 0))
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
