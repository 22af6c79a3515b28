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

from src.runs.lock import holder_of, lock_path
from src.runs.record import STATUSES, BadRecord, Record

# Beside runs, and none.
OTHER_FOLDERS = ("sweeps", "studies")
# What shows that a folder without run.json was to be a run.
TRACES = (".hydra", "checkpoints", "history.jsonl", "summaries")
SET_ASIDE = re.compile(r"-[0-9a-f]{8}\.\d{8}T\d{12}$")
NEEDED = {"id": str, "name": str, "status": str, "monitor": str, "mode": str, "metrics": dict, "overrides": list}


@dataclass(frozen=True)
class Run:
    """A run's directory and what its run.json says."""

    directory: Path
    values: dict[str, Any]

    @property
    def status(self) -> str:
        """What run.json says, but `interrupted` where it says `running` and no process is."""
        status = self.values["status"]
        return "interrupted" if status == "running" and not self.holder else status

    @property
    def holder(self) -> str | None:
        """The process that is writing this run now; None where none is."""
        return holder_of(lock_path(self.directory))

    @property
    def set_aside(self) -> bool:
        """Whether `rerun` or `stale=rerun` has put another run in its place."""
        return bool(SET_ASIDE.search(self.directory.name))

    @property
    def best(self) -> float | None:
        """The best value of the monitored metric."""
        return (self.values.get("best") or {}).get("value")

    def history(self) -> list[dict[str, Any]]:
        """Its epochs, in order."""
        return Record(self.directory).history()


def find_runs(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The runs in these folders at any depth, by directory, each once; and a warning for each that is broken.

    Raises:
        ValueError: a folder does not exist.
    """
    runs: dict[Path, Run] = {}
    warnings = []
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; runs are outputs/<name>/<label>-<id>")
        for parent, names, files in os.walk(folder):
            directory = Path(parent)
            if "run.json" in files or any(trace in names or trace in files for trace in TRACES):
                names.clear()
                try:
                    runs.setdefault(directory.resolve(), Run(directory, read_values(directory)))
                except ValueError as error:
                    warnings.append(str(error))
            names[:] = sorted(name for name in names if name not in OTHER_FOLDERS and not name.startswith("."))
    return sorted(runs.values(), key=lambda run: run.directory), warnings


def read_values(directory: Path) -> dict[str, Any]:
    """What run.json says.

    Raises:
        ValueError: it is missing or cannot be read, or is no run's; names the folder.
    """
    try:
        values = Record(directory).read()
    except BadRecord as error:
        raise ValueError(f"{directory} is left out: {error}") from error
    if values is None:
        raise ValueError(f"{directory} is left out: it has no run.json, as a run that was killed in its first second")
    for key, kind in NEEDED.items():
        if not isinstance(values.get(key), kind):
            raise ValueError(f"{directory} is left out: its run.json has no {key}, so it is no run's")
    if values["status"] not in STATUSES:
        raise ValueError(f"{directory} is left out: its status is {values['status']!r}, not {', '.join(STATUSES)}")
    return values
