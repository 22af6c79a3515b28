"""The runs in some folders, read from their records; no TensorFlow.

runs, warnings = find_runs([Path("outputs/digits")])
runs[0].values["best"], runs[0].status
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.common.errors import ConfigError
from src.common.lock import holder_of
from src.common.text import plural
from src.config.identity import ID_DIGITS
from src.runs.commands import python
from src.runs.record import BadRecord, Record
from src.runs.record_schema import RecordValues, read_history

SHORTEST_ID = 4  # digits, which are enough where only one run's id begins with them
BRANCHES = "branches"  # in a parent's folder: an empty file for each, named by its id
SAVED_MODEL = Path("saved_model", "1")  # in a run's folder, where TensorFlow Serving looks for a version
ID = re.compile(rf"[0-9a-f]{{{SHORTEST_ID},{ID_DIGITS}}}")
# Names in a folder that a run without run.json has begun.
TRACES = (".hydra", "checkpoints", "history.jsonl", "summaries")
_SET_ASIDE_NAME = re.compile(r"-[0-9a-f]{8}\.\d{8}T\d{12}$")
NO_RECORD = "is left out: it has no run.json, as a run that was killed in its first second"
NEEDED = ("id", "name", "status", "monitor", "mode")


@dataclass(frozen=True)
class RecordedRun:
    """A run's directory and what its run.json says."""

    directory: Path
    values: RecordValues

    @property
    def status(self) -> str:
        """What run.json says, but `interrupted` where it says `running` and no process is, as far as can be known."""
        try:
            gone = self.values["status"] == "running" and not holder_of(lock_path(self.directory))
        except OSError:  # as another user's lock, which may not be read
            gone = False
        return "interrupted" if gone else self.values["status"]

    @property
    def holder(self) -> str | None:
        """The process that is writing this run now; None where none is, or that cannot be known."""
        try:
            return holder_of(lock_path(self.directory))
        except OSError:
            return None

    @property
    def set_aside(self) -> bool:
        """Whether `rerun` or `stale=rerun` has put another run in its place."""
        return bool(_SET_ASIDE_NAME.search(self.directory.name))

    @property
    def best(self) -> float | None:
        """The best value of the monitored metric."""
        return self.values["best"] and self.values["best"]["value"]

    def history(self) -> list[dict[str, Any]]:
        """Its epochs, in order; broken lines are left out."""
        return read_history(self.directory)[0]


def branches_of(directory: Path) -> list[str]:
    """The ids of the runs that branched from this one."""
    return sorted(path.name for path in (directory / BRANCHES).glob("*"))


def lock_path(directory: Path) -> Path:
    """The lock's file of a run's directory; held by whoever writes there."""
    directory = directory.parent.resolve() / directory.name  # as it is named, also where it is a link
    run_id = re.search(rf"-([0-9a-f]{{{ID_DIGITS}}})$", directory.name)
    return directory.parent / ".locks" / (run_id[1] if run_id else directory.name)


def find_runs(folders: Iterable[Path]) -> tuple[list[RecordedRun], list[str]]:
    """The runs in these folders at any depth, by directory, each once; and a warning for each that is broken.

    Raises:
        ConfigError: a folder does not exist.
    """
    runs: dict[Path, RecordedRun] = {}
    broken: dict[Path, str] = {}
    traced: dict[Path, Path] = {}  # looks like a run without a record, or has runs in a folder of such a name
    for folder in folders:
        if not folder.is_dir():
            if not ID.fullmatch(str(folder)):
                raise ConfigError(f"{folder} is no folder; runs are outputs/<name>/<label>-<id>")
            run = find_run(str(folder))
            runs.setdefault(run.directory.resolve(), run)
            continue
        for parent, names, files in os.walk(folder):
            directory = Path(parent)
            if "run.json" in files:
                names.clear()
                try:
                    runs.setdefault(directory.resolve(), RecordedRun(directory, read_values(directory)))
                except ValueError as error:
                    broken[directory.resolve()] = str(error)
            elif any(trace in names or trace in files for trace in TRACES):
                traced[directory.resolve()] = directory
            names[:] = sorted(name for name in names if not name.startswith("."))
    inside = {parent for found in (*runs, *broken) for parent in found.parents}
    broken |= {path: f"{directory} {NO_RECORD}" for path, directory in traced.items() if path not in inside}
    return sorted(runs.values(), key=lambda run: run.directory), [broken[path] for path in sorted(broken)]


def find_run(text: str, *, folder: Path = Path("outputs")) -> RecordedRun:
    """The run of this directory, or the one below `folder` with this name, or whose id begins with it.

    Raises:
        ConfigError: there is none, or more than one; or its record is broken.
    """
    directory = Path(text)
    if any((directory / name).exists() for name in ("run.json", *TRACES)):
        directory = Path(os.path.relpath(directory.resolve())) if directory.is_symlink() else directory
        return RecordedRun(directory, read_values(directory))
    ways = f"give its directory, outputs/<name>/<label>-<id>, or {SHORTEST_ID} to {ID_DIGITS} digits of its id"
    if directory.is_dir():
        inside = find_runs([directory])[0]
        first = f", such as {inside[0].directory}" if inside else ""
        raise ConfigError(f"{text} is no run but a folder with {plural(len(inside), 'run')}{first}; {ways}")
    runs = [run for run in find_runs([folder])[0] if not run.set_aside] if folder.is_dir() else []
    is_id = ID.fullmatch(text)
    found = [run for run in runs if run.directory.name == text or (is_id and run.values["id"].startswith(text))]
    if not is_id and not found:
        raise ConfigError(f"{text} is no run: {ways}")
    if not found:
        there = (
            f"of {plural(len(runs), 'run')} below {folder}" if folder.is_dir() else f"as there is no folder {folder}"
        )
        raise ConfigError(f"there is no run with the id {text}, {there}; {python()} -m src.runs list shows all")
    if len(found) > 1:
        which = ", ".join(str(run.directory) for run in found)
        raise ConfigError(f"the ids of {len(found)} runs below {folder} begin with {text}; give one of {which}")
    return found[0]


def read_values(directory: Path) -> RecordValues:
    """What run.json says.

    Raises:
        ConfigError: it is missing, cannot be read, is no run's, or has a value of the wrong type; names the folder.
    """
    try:
        values = Record(directory).read()
    except BadRecord as error:
        raise ConfigError(f"{directory} is left out: {error}") from error
    if values is None:
        raise ConfigError(f"{directory} {NO_RECORD}")
    if missing := [key for key in NEEDED if not values.get(key)]:
        raise ConfigError(f"{directory} is left out: its run.json has no {missing[0]}, so it is no run's")
    return values
