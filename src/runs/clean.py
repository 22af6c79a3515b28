"""Makes room: removes checkpoints that nothing needs any more, and keeps all records and results.

plan = make_plan([Path("outputs")], keep=3)
plan.removals, plan.leftovers, plan.kept
for removal in plan.removals:
    remove_checkpoints(removal)

Only completed runs lose checkpoints, which are there to resume from. The best of each name and monitor keep theirs,
and so does a run that another one branched from, since that one's command needs them each time it is typed.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from src.runs.branch import branches_of
from src.runs.collection import Run, find_runs
from src.runs.lock import hold, lock_path
from src.runs.record import BadRecord, Record
from src.runs.sizes import size_of

CHECKPOINTS = "checkpoints"
TEMPORARY = ".tmp-clean-"
# Where something that was killed may have left `.tmp-...`, and what is a leftover there.
LEFTOVERS = {".": f"{TEMPORARY}*", CHECKPOINTS: ".tmp-*", f"{CHECKPOINTS}/best": ".tmp-*", "saved_model": ".tmp-*"}


@dataclass(frozen=True)
class Removal:
    """A folder or file that can go, of a run, and its bytes."""

    run: Run
    path: Path
    size: int


@dataclass(frozen=True)
class Plan:
    """What would be removed, and why the other runs keep their checkpoints: runs by reason."""

    removals: list[Removal]
    leftovers: list[Removal]
    kept: dict[str, list[Run]]
    warnings: list[str]

    @property
    def size(self) -> int:
        return sum(removal.size for removal in (*self.removals, *self.leftovers))

    def only(self, earlier: Plan) -> Plan:
        """This plan without what was not in an earlier one, to which someone has agreed."""
        agreed = {removal.path for removal in (*earlier.removals, *earlier.leftovers)}
        chosen = [[r for r in removals if r.path in agreed] for removals in (self.removals, self.leftovers)]
        return Plan(chosen[0], chosen[1], self.kept, self.warnings)


def make_plan(folders: Sequence[Path], *, keep: int) -> Plan:
    """Decide what can go.

    Args:
        folders: with runs, at any depth.
        keep: how many of the best completed runs of each name and monitor keep their checkpoints.

    Raises:
        ValueError: a folder does not exist.
    """
    runs, warnings = find_runs(folders)
    parents, best = _parents(runs), _best(runs, keep)
    plan = Plan([], [], defaultdict(list), warnings)
    for run in runs:
        if holder := run.holder:
            plan.kept[f"in use by {holder}"].append(run)
            continue
        plan.leftovers.extend(Removal(run, path, size_of(path)) for path in leftovers(run.directory))
        path = run.directory / CHECKPOINTS
        if not os.path.lexists(path):
            continue
        if reason := _reason(run, parents, best):
            plan.kept[reason].append(run)
        else:
            plan.removals.append(Removal(run, path, size_of(path)))
    inside = tuple(f"{removal.path}{os.sep}" for removal in plan.removals)
    plan.leftovers[:] = [removal for removal in plan.leftovers if not str(removal.path).startswith(inside)]
    return plan


def remove_checkpoints(removal: Removal) -> bool:
    """Remove a completed run's checkpoints, under its lock; false where it is not as planned any more.

    They are first moved out of sight, so that whatever a kill leaves is no damaged checkpoint but a leftover.

    Raises:
        Locked: a process is using the run.
        OSError: something could not be removed.
    """
    directory = removal.run.directory
    with hold(lock_path(directory)):
        if not _unchanged(removal.run) or branches_of(directory):
            return False
        Record(directory).update(cleaned=datetime.now(UTC).isoformat(timespec="seconds"))
        hidden = directory / f"{TEMPORARY}{os.getpid()}-{CHECKPOINTS}"
        removal.path.rename(hidden)
        if branches_of(directory):  # one has begun meanwhile; see begin_branch
            hidden.rename(removal.path)
            Record(directory).update(cleaned=None)
            return False
        shutil.rmtree(hidden)
    return True


def remove_leftover(removal: Removal) -> bool:
    """Remove what a killed process has left in a run, under its lock; false where it is gone already.

    Raises:
        Locked: a process is using the run.
        OSError: something could not be removed.
    """
    with hold(lock_path(removal.run.directory)):
        if not os.path.lexists(removal.path):
            return False
        if removal.path.is_dir() and not removal.path.is_symlink():
            shutil.rmtree(removal.path)
        else:
            removal.path.unlink()
    return True


def leftovers(directory: Path) -> list[Path]:
    """What killed processes have left in a run's folder; only while none is using it."""
    found = []
    for part, pattern in LEFTOVERS.items():
        folder = directory / part
        if folder.resolve() == directory.resolve() / part:  # no link leads elsewhere
            found += sorted(folder.glob(pattern))
    return found


def _reason(run: Run, parents: set[str], best: set[Path]) -> str | None:
    """Why a run's checkpoints stay; None where they need not."""
    if run.status != "completed":
        return run.status
    if (run.directory / CHECKPOINTS).is_symlink():
        return "whose checkpoints are a link"
    if branches_of(run.directory) or run.values["config_hash"] in parents:
        return "from which others branch"
    return "best" if run.directory in best else None


def _parents(runs: Iterable[Run]) -> set[str]:
    """The config hashes that branches among these runs name; older ones are not noted in their parent's folder."""
    return {parent["config_hash"] for run in runs if (parent := run.values["parent"])}


def _best(runs: Iterable[Run], keep: int) -> set[Path]:
    """The best completed runs of each name and monitor; runs that were set aside do not count."""
    groups: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for run in runs:
        if run.status == "completed" and not run.set_aside:
            groups[run.values["name"], run.values["monitor"], run.values["mode"]].append(run)
    return {run.directory for group in groups.values() for run in sorted(group, key=_rank)[:keep]}


def _rank(run: Run) -> tuple[bool, float, Path]:
    value = run.best
    better_is_less = 0.0 if value is None else -value if run.values["mode"] == "max" else value
    return value is None, better_is_less, run.directory


def _unchanged(run: Run) -> bool:
    """Whether the run is still the one that was planned for."""
    try:
        values = Record(run.directory).read()
    except BadRecord:
        return False
    return values == run.values
