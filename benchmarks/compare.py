"""Compare a thousand runs, some of them broken: seconds and memory of the table and of the page, against goals.

    python -m benchmarks compare
    python -m benchmarks compare --runs 50 --repeats 1

Makes the run folders from one record, then compares them in fresh processes. Exit code 1 if one of these fails or
lacks a run; a missed goal is printed and is no failure.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.pairs import ROOT, STDERR_LINES, ProcessFailed, machine, spread, table

EPOCHS = 20
BROKEN_EVERY, FAILED_EVERY = 100, 50  # runs
TABLE, PAGE = "table", "page"
# Seconds of wall time, MB at the most that are in memory, MB of the page.
GOALS = {TABLE: {"seconds": 5.0, "memory_mb": 300.0}, PAGE: {"seconds": 20.0, "output_mb": 15.0}}
RATES = {"adam": 0.003, "adamw": 0.003, "lion": 0.0003, "rmsprop": 0.001, "sgd": 0.05}


class Used(NamedTuple):
    """What a process took."""

    seconds: float
    memory_mb: float
    output_mb: float


def main(argv: list[str]) -> int:
    """Make runs, compare them, print the table; returns the exit code."""
    options = argparse.ArgumentParser(prog="python -m benchmarks compare", description=(__doc__ or "").split("\n")[0])
    options.add_argument("--runs", type=int, default=1000)
    options.add_argument("--repeats", type=int, default=5, help="of each command")
    arguments = options.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        runs = Path(folder) / "outputs"
        broken, settings = make_runs(runs, arguments.runs)
        wanted = {TABLE: settings, PAGE: arguments.runs - broken}
        commands = {TABLE: [str(runs)], PAGE: [str(runs), "--format", "html", "--output", f"{folder}/page.html"]}
        measured = {
            name: [_measured(command, Path(folder), broken=broken, rows=wanted[name]) for _ in range(arguments.repeats)]
            for name, command in commands.items()
        }
    rows, verdicts = [["", "seconds", "min", "max", "memory MB", "output MB"]], []
    for name, uses in measured.items():
        seconds = spread([use.seconds for use in uses])
        found = Used(seconds.median, *(max(use[place] for use in uses) for place in (1, 2)))
        rows.append([name, *(f"{x:.2f}" for x in seconds), f"{found.memory_mb:.0f}", f"{found.output_mb:.2f}"])
        for what, goal in GOALS[name].items():
            value = getattr(found, what)
            verdicts.append(f"{name}, {what}: {value:.2f} (goal at most {goal:g}: {_verdict(value <= goal)})")
    print(
        f"{arguments.runs} runs of {EPOCHS} epochs, {broken} of them broken; {arguments.repeats} fresh processes each"
    )
    print(f"machine: {machine()}\n\n{table(rows)}\n")
    print("\n".join(verdicts))
    return 0


def make_runs(folder: Path, count: int) -> tuple[int, int]:
    """Make run folders, of three seeds for each setting; returns how many cannot be read, and the others' settings."""
    settings = itertools.product(range(10**6), (16, 32, 64), RATES, (0, 1, 2))
    broken, told = 0, set()
    for number, (trial, filters, optimizer, seed) in zip(range(count), settings, strict=False):
        record, epochs = _run(number, trial, filters, optimizer, seed)
        directory = folder / record["name"] / f"cnn-{optimizer}-s{seed}-{record['id']}"
        directory.mkdir(parents=True)
        text = json.dumps(record, indent=2)
        if number % BROKEN_EVERY == BROKEN_EVERY // 2:
            text, broken = text[: len(text) // 2], broken + 1
        else:
            told.add((trial, filters, optimizer))
        (directory / "run.json").write_text(text)
        (directory / "history.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    return broken, len(told)


def _run(number: int, trial: int, filters: int, optimizer: str, seed: int) -> tuple[dict[str, Any], list[dict]]:
    """A record like a real one, and its history."""
    drawn = random.Random(trial)
    rate = RATES[optimizer] * 10 ** drawn.uniform(-1, 1)
    dropout = round(drawn.uniform(0, 0.6), 3)
    distance = abs(math.log10(rate / RATES[optimizer])) / 4 + abs(dropout - 0.2) / 4 - filters / 1000
    epochs = list(_epochs(random.Random(number), reached=0.97 - 0.3 * max(0.0, distance)))
    best = max(epochs, key=lambda epoch: epoch["val/accuracy"])
    failed = number % FAILED_EVERY == FAILED_EVERY - 1
    typed = {
        **{"data": "digits", "model": "cnn", "optimizer": optimizer, "optimizer.learning_rate": rate},
        **{"model.filters": filters, "model.dropout": dropout, "seed": seed, "epochs": EPOCHS},
    }
    identity = f"{number:08x}"
    record = {
        "id": identity,
        "name": "digits",
        "status": "failed" if failed else "completed",
        "monitor": "val/accuracy",
        "mode": "max",
        "best": None if failed else {"value": best["val/accuracy"], "epoch": best["epoch"], "step": best["step"]},
        "metrics": {} if failed else {key: value for key, value in epochs[-1].items() if "/" in key},
        "epoch": 0 if failed else EPOCHS,
        "step": 0 if failed else 40 * EPOCHS,
        "epochs": EPOCHS,
        "parameters": 1000 * filters,
        "seed": seed,
        "started": "2026-01-01T10:00:00+00:00",
        "finished": "2026-01-01T10:00:10+00:00",
        "seconds": epochs[-1]["seconds"],
        "overrides": [f"{key}={value}" for key, value in typed.items()],
        "choices": {
            **{"data": "digits", "trainer": "default", "callback": "default", "metric": "accuracy"},
            **{"loss": "cross_entropy", "schedule": "cosine", "optimizer": optimizer, "model": "cnn"},
        },
        "config": {
            **{key: value for key, value in typed.items() if key not in ("data", "model", "optimizer")},
            **{"batch_size": 32, "monitor": "val/accuracy", "mode": "max", "model._target_": "src.models.cnn.cnn"},
            **{"model.dense": 64, "model.batch_norm": False, "optimizer._target_": f"keras.optimizers.{optimizer}"},
            **{"schedule._target_": "src.schedules.cosine", "schedule.final_fraction": 0, "loss.from_logits": True},
            **{"trainer.jit_compile": False, "data.dataset": "digits:1.0.0", "data.shuffle": True},
        },
        "config_hash": identity * 8,
        "fingerprints": {"code": {f"src/module_{i}.py": f"{i:016x}" for i in range(20)}, "data": {"dataset": "digits"}},
        "process": {"pid": 1000 + number, "host": "host"},
        "parent": None,
        "error": {"type": "ValueError", "message": "the loss is not finite"} if failed else None,
        "environment": {
            "git": {"commit": "0" * 40, "dirty": False},
            "packages": {"tensorflow": "2.21.0", "keras": "3.15.1", "numpy": "2.4.6"},
            **{"python": "3.11.7", "processor": "a processor", "threads": 2},
        },
        "class_names": [str(digit) for digit in range(10)],
    }
    return record, [] if failed else epochs


def _epochs(drawn: random.Random, *, reached: float) -> Iterator[dict[str, Any]]:
    for epoch in range(1, EPOCHS + 1):
        accuracy = reached * (1 - math.exp(-epoch / 3))
        values = {"epoch": epoch, "step": 40 * epoch, "seconds": round(0.5 * epoch + drawn.uniform(0, 0.1), 3)}
        for split, behind in (("train", 0.0), ("val", 0.02)):
            values[f"{split}/loss"] = 2.3 * (1 - accuracy) + behind + drawn.gauss(0, 0.01)
            values[f"{split}/accuracy"] = min(1.0, accuracy - behind + drawn.gauss(0, 0.008))
        yield values


def _measured(arguments: list[str], folder: Path, *, broken: int, rows: int) -> Used:
    """Compare in a fresh process.

    Raises:
        ProcessFailed: it did not end well, did not name each broken run, or has not this many rows.
    """
    command = [sys.executable, "-m", "src.compare", *arguments]
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=out, stderr=err
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        lines = err.read().splitlines()
    warned = sum(line.startswith("warning: ") for line in lines)
    if process.returncode or warned != broken:
        tail = "\n".join(lines[-STDERR_LINES:])
        raise ProcessFailed(f"exit code {process.returncode}, {warned} warnings for {broken} broken runs\n{tail}")
    page = folder / "page.html"
    html = "html" in arguments
    text = (page if html else folder / "out").read_text()
    table_text = text.partition("<table id='runs'")[2].partition("</table>")[0] if html else text.partition("\n\n")[0]
    found = (table_text.count("<tr") if html else len(table_text.splitlines())) - 1
    if found != rows:
        raise ProcessFailed(f"{shlex.join(command)} has {found} rows, not {rows}")
    written = (page if "html" in arguments else folder / "out").stat().st_size
    return Used(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, written / 1e6)


def _verdict(met: bool) -> str:
    return "met" if met else "MISSED"
