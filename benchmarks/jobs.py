"""Jobs of every kind, by the commands of docs/tasks.md: trained, evaluated, predicted from files, resumed exactly.

    python -m benchmarks jobs
    python -m benchmarks jobs Texts "An autoencoder" --epochs 2
    python -m benchmarks jobs --write       # also puts each command's result into docs/tasks.md

Each job runs in a copy of the project, to which docs/own-code.md has been added, in fresh processes.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.jobs import JOBS, TASKS, Job, own_targets, write_files
from tests.support.forks import ROOT
from tests.support.predictions import WANTED, largest_error

COLUMNS = ("trained", "evaluated", "predicted", "resumed")
TOLERANCE = 1e-5  # of predictions
TRIALS, KILLS = 2, 1
# What is killed is short: an epoch of few steps has all that a longer one has.
RESUMED = ("epochs=2", "trainer.limit_train_batches=20", "trainer.limit_val_batches=2")


class Failed(Exception):
    """A command's exit code is not 0, or its result is not as it must be."""


def main(argv: list[str]) -> int:
    """The command line; returns the exit code: 1 where a job fails in anything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks jobs", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"of {', '.join(map(repr, JOBS))}; all by default")
    parser.add_argument("--epochs", type=int, help="fewer than the commands have")
    parser.add_argument("--write", action="store_true", help="put the results into docs/tasks.md")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.jobs) - set(JOBS):
        parser.error(f"unknown {', '.join(sorted(unknown))}; there is {', '.join(JOBS)}")
    more = [f"epochs={arguments.epochs}"] if arguments.epochs else []
    rows, failures = [], []
    for name in arguments.jobs or JOBS:
        began = time.monotonic()
        row = {"job": name}
        with tempfile.TemporaryDirectory(prefix="jobs-") as folder:
            try:
                for column, told in _tried(JOBS[name], Path(folder), more):
                    row[column] = told
            except Failed as failed:
                row[COLUMNS[len(row) - 1]] = "FAILED"
                failures.append(f"{name}: {failed}")
        row["seconds"] = f"{time.monotonic() - began:.0f}"
        rows.append(row)
        print(_line(row), flush=True)
        if arguments.write and "trained" in row:
            write_result(name, row["trained"])
    print("\n" + "\n".join(map(_line, rows)))
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


def _tried(job: Job, folder: Path, more: list[str]):
    """The verdict of each column, one after another.

    Raises:
        Failed: something is not as it must be.
    """
    for name in ("src", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "conf" / "targets.txt").open("a", encoding="utf-8") as file:
        file.write(own_targets())
    write_files(folder, job)
    first, told = None, []
    if job.first:
        told = _command(folder, "src.train", *shlex.split(job.first), *more).splitlines()[:1]
        (first,) = _runs(folder)
    told += _command(folder, "src.train", *job.words(first), *more).splitlines()[:1]
    (run,) = _runs(folder) - {first}
    yield "trained", ", then ".join(told)
    table = _command(folder, "src.evaluate", str(run)).splitlines()  # its exit code is 1 where the two differ
    yield "evaluated", "equal" if "SavedModel" in table[0] else "best weights"
    file = f"new{job.rows}"
    _command(folder, "tests.support.predictions", str(run), file)
    _command(folder, "src.predict", str(run), file)
    if (error := largest_error(folder / run, folder / WANTED)) > TOLERANCE:
        raise Failed(f"predictions differ by {error:.1e}")
    yield "predicted", f"{job.rows} {error:.0e}"
    short = {word.partition("=")[0]: word for word in (*job.words(first), *RESUMED)}
    resumed = _command(
        folder, "src.verify_resume", *short.values(), f"--trials={TRIALS}", f"--kills={KILLS}", "--every-steps=7"
    )
    (verdict,) = re.findall(r"^\d+ of \d+(?= trials equal)", resumed, re.MULTILINE)
    if job.sweep:
        _command(folder, "src.train", "--multirun", *job.words(), *shlex.split(job.sweep), *more)
        compared = _command(folder, "src.compare", str(run.parent)).splitlines()
        verdict += f"; {len(compared) - 1} rows compared"
    yield "resumed", verdict


def _command(folder: Path, module: str, *words: str) -> str:
    """The output of `python -m module words`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{module} {shlex.join(words)}: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout


def _runs(folder: Path) -> set[Path]:
    return {record.parent.relative_to(folder) for record in folder.glob("outputs/*/*/run.json")}


def write_result(name: str, result: str) -> None:
    """Put what a job's training commands have printed in docs/tasks.md, each below its own."""
    results = iter(re.sub(r", [\d.]+ s\)", ")", result).split(", then "))
    before, heading, after = TASKS.read_text(encoding="utf-8").partition(f"## {name}\n")
    section, *rest = after.partition("\n## ")
    section = re.sub(r"^# prints .*\n", "", section, flags=re.MULTILINE)
    trained = re.compile(r"^python -m src\.train (?!--multirun).*$", re.MULTILINE)
    section = trained.sub(lambda command: f"{command[0]}\n# prints {next(results)}", section)
    TASKS.write_text("".join((before, heading, section, *rest)), encoding="utf-8")


def _line(row: dict[str, str]) -> str:
    return (
        f"{row['job']:38} {row.get('trained', ''):52} {row.get('evaluated', ''):12} {row.get('predicted', ''):14} "
        f"{row.get('resumed', ''):12} {row['seconds']:>5} s"
    )
