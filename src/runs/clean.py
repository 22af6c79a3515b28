"""Removes checkpoints that nothing needs any more, and keeps all records and results.

plan = make_plan([Path("outputs")], keep=3)
plan.removals, plan.kept
for removal in plan.removals:
    removal.carry_out()

Only completed runs lose checkpoints, which are there to resume from. The best of each name and monitor keep theirs,
and so do runs that others branched from, whose commands need them each time.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from src.common.lock import hold
from src.runs.collection import RecordedRun, branches_of, find_runs, lock_path
from src.runs.record import BadRecord, Record
from src.runs.sizes import size_of

CHECKPOINTS = "checkpoints"
TEMPORARY = ".tmp-clean-"
# Where something that was killed may have left `.tmp-...`, and what is a leftover there.
LEFTOVERS = {".": f"{TEMPORARY}*", CHECKPOINTS: ".tmp-*", f"{CHECKPOINTS}/best": ".tmp-*", "saved_model": ".tmp-*"}


@dataclass(frozen=True)
class Removal:
    """A run's checkpoints that can go, or a leftover of a killed process in its folder, and the size in bytes."""

    run: RecordedRun
    path: Path
    size: int

    @property
    def is_leftover(self) -> bool:
        return self.path != self.run.directory / CHECKPOINTS

    def carry_out(self) -> bool:
        """Remove it, under the run's lock; false where it is not as planned any more.

        Raises:
            Locked: a process is using the run.
            OSError: something could not be removed.
        """
        with hold(lock_path(self.run.directory)):
            if not self.is_leftover:
                return _remove_checkpoints(self.run)
            if not os.path.lexists(self.path):
                return False
            if self.path.is_dir() and not self.path.is_symlink():
                shutil.rmtree(self.path)
            else:
                self.path.unlink()
        return True


@dataclass(frozen=True)
class Plan:
    """What would be removed, and why the other runs keep their checkpoints: runs by reason."""

    removals: list[Removal]
    kept: dict[str, list[RecordedRun]]
    warnings: list[str]

    @property
    def size(self) -> int:
        return sum(removal.size for removal in self.removals)


def make_plan(folders: Sequence[Path], *, keep: int) -> Plan:
    """Decide what can go.

    Args:
        folders: with runs, at any depth.
        keep: how many of the best completed runs of each name and monitor keep their checkpoints.

    Raises:
        ConfigError: a folder does not exist.
    """
    runs, warnings = find_runs(folders)
    parents, best = _parents(runs), _best(runs, keep)
    plan = Plan([], defaultdict(list), warnings)
    for run in runs:
        if holder := run.holder:
            plan.kept[f"in use by {holder}"].append(run)
            continue
        checkpoints, paths = run.directory / CHECKPOINTS, _leftovers(run.directory)
        if os.path.lexists(checkpoints):
            if reason := _reason_to_keep(run, parents, best):
                plan.kept[reason].append(run)
            else:
                paths = [checkpoints, *(path for path in paths if checkpoints not in path.parents)]
        plan.removals.extend(Removal(run, path, size_of(path)) for path in paths)
    return plan


def _remove_checkpoints(run: RecordedRun) -> bool:
    """Remove a completed run's checkpoints, unless it has changed or has been branched from since it was planned.

    They are first moved out of sight: what a kill leaves is then a leftover, not a damaged checkpoint.
    """
    directory = run.directory
    if not _is_unchanged(run) or branches_of(directory):
        return False
    Record(directory).update(cleaned=datetime.now(UTC).isoformat(timespec="seconds"))
    checkpoints, hidden = directory / CHECKPOINTS, directory / f"{TEMPORARY}{os.getpid()}-{CHECKPOINTS}"
    checkpoints.rename(hidden)
    if branches_of(directory):  # one has begun meanwhile; see begin_branch
        hidden.rename(checkpoints)
        Record(directory).update(cleaned=None)
        return False
    shutil.rmtree(hidden)
    return True


def _leftovers(directory: Path) -> list[Path]:
    """What killed processes have left in a run's folder; only while none is using it."""
    found = []
    for part, pattern in LEFTOVERS.items():
        folder = directory / part
        if folder.resolve() == directory.resolve() / part:  # no link leads elsewhere
            found += sorted(folder.glob(pattern))
    return found


def _reason_to_keep(run: RecordedRun, parents: set[str], best: set[Path]) -> str | None:
    """Why a run's checkpoints stay; None where they need not."""
    if run.status != "completed":
        return run.status
    if (run.directory / CHECKPOINTS).is_symlink():
        return "whose checkpoints are a link"
    if branches_of(run.directory) or run.values["config_hash"] in parents:
        return "from which others branch"
    return "best" if run.directory in best else None


def _parents(runs: Iterable[RecordedRun]) -> set[str]:
    """The config hashes that branches among these runs name; older ones are not noted in their parent's folder."""
    return {parent["config_hash"] for run in runs if (parent := run.values["parent"])}


def _best(runs: Iterable[RecordedRun], keep: int) -> set[Path]:
    """The best completed runs of each name and monitor; runs that were set aside do not count."""
    groups: dict[tuple[str, str, str], list[RecordedRun]] = defaultdict(list)
    for run in runs:
        if run.status == "completed" and not run.set_aside:
            groups[run.values["name"], run.values["monitor"], run.values["mode"]].append(run)
    return {run.directory for group in groups.values() for run in sorted(group, key=_rank)[:keep]}


def _rank(run: RecordedRun) -> tuple[bool, float, Path]:
    value = run.best
    better_is_less = 0.0 if value is None else -value if run.values["mode"] == "max" else value
    return value is None, better_is_less, run.directory


def _is_unchanged(run: RecordedRun) -> bool:
    """Whether the run is still the one that was planned for."""
    try:
        values = Record(run.directory).read()
    except BadRecord:
        return False
    return values == run.values
