"""All figures of speed and memory, against what people would use instead: about two hours on two cores.

    python -m benchmarks speed [--write]        # --write also puts the table into docs/benchmarks.md

Each figure is a ratio of interleaved fresh processes whose results agree, with its median, quartiles, rounds, the goal
and the verdict, and the change since the last time on this machine.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import input, loop, memory, saves, start, sweeps, threads
from benchmarks.figures import Figure, finish
from benchmarks.pairs import ROOT, BenchmarkError

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured -->", "<!-- end -->"


def main(argv: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks speed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args(argv)
    figures, failed = measure()
    printed = finish(figures)
    if options.write:
        write(PAGE, printed)
    return int(failed)


PARTS: dict[str, Callable[[], list[Figure]]] = {
    "cnn": lambda: loop.measure("cnn", repeats=5),
    "article": lambda: loop.measure("article", repeats=3),
    "start": lambda: start.measure(repeats=5),
    "sweeps": lambda: sweeps.measure(rounds=3),
    "input": lambda: input.measure(repeats=3),
    "memory": memory.measure,
    "saves": lambda: saves.measure(repeats=3),
    "threads": lambda: threads.measure(repeats=3),
}


def measure() -> tuple[list[Figure], bool]:
    """Everything in turn, and whether a part failed; the others count all the same."""
    figures, failed = [], False
    for name, part in PARTS.items():
        try:
            figures += part()
        except BenchmarkError as error:
            failed = True
            print(f"error: {name}: {error}", file=sys.stderr, flush=True)
    return figures, failed


def write(page: Path, printed: str) -> None:
    """Put what was printed between the page's marks, with the day."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    day = datetime.date.today().isoformat()
    page.write_text(f"{before}{BEGIN}\nMeasured {day}.\n\n```text\n{printed}\n```\n{END}{after}", encoding="utf-8")
