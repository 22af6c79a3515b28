"""Packs whole runs into one file, and removes them, each under its lock.

archive([run], Path("runs.tar.gz"))     # unpacked in the same folder, they are found, compared and reused again
delete(run)
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from src.common.errors import ConfigError
from src.common.files import fsync
from src.common.lock import hold
from src.runs.collection import RecordedRun, branches_of, lock_path


def check_deletable(runs: Iterable[RecordedRun]) -> None:
    """A run that others go on from stays, unless these are removed with it.

    Raises:
        ConfigError: naming such a run, and those that branched from it.
    """
    given = {run.values["id"] for run in runs}
    for run in runs:
        if others := [branch for branch in branches_of(run.directory) if branch not in given]:
            raise ConfigError(
                f"{run.directory}: {', '.join(others)} branched from it, and their commands need it; delete them with "
                "it, or keep it"
            )


def delete(run: RecordedRun) -> None:
    """Remove a run's whole directory, which a kill leaves either in its place or as a hidden folder beside it.

    Raises:
        Locked: a process is using the run.
        OSError: something could not be removed.
    """
    with hold(lock_path(run.directory), what=str(run.directory)):
        hidden = run.directory.with_name(f".tmp-delete-{os.getpid()}-{run.directory.name}")
        run.directory.rename(hidden)
        shutil.rmtree(hidden)


def links_out_of(runs: Iterable[RecordedRun]) -> list[Path]:
    """The links in these runs that lead elsewhere, as of checkpoints on another disk."""
    return [
        path
        for run in runs
        for path in sorted(run.directory.rglob("*"))
        if path.is_symlink() and not path.resolve().is_relative_to(run.directory.resolve())
    ]


def archive(runs: Sequence[RecordedRun], file: Path) -> None:
    """Write runs as a .tar.gz file, by their paths from the working directory; the file is there whole or not at all.

    Raises:
        ConfigError: the file is there already, or a run lies outside of the working directory.
        Locked: a process is using a run.
    """
    if file.exists():
        raise ConfigError(f"{file} is there already; give another file as --output")
    here = Path.cwd()
    if outside := [run.directory for run in runs if not run.directory.resolve().is_relative_to(here)]:
        raise ConfigError(f"{outside[0]} is not in {here}, where an archive is unpacked; type the command above it")
    part = file.with_name(f".tmp-{os.getpid()}-{file.name}")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as locks, tarfile.open(part, "x:gz") as packed:
            for run in runs:
                locks.enter_context(hold(lock_path(run.directory), what=str(run.directory)))
                packed.add(run.directory, arcname=run.directory.resolve().relative_to(here))
        fsync(part)  # the runs may be deleted next
        part.rename(file)
        fsync(file.parent)
    finally:
        part.unlink(missing_ok=True)
