"""All figures of speed and memory, against what people would use instead: half an hour on two cores.

    python -m benchmarks speed [--write]        # --write also puts the table into docs/benchmarks.md

Each figure is a ratio of interleaved fresh processes whose results agree, with its median, quartiles, rounds, the goal
and the verdict, and the change since the last time on this machine.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

from benchmarks import input, loop, memory, saves, start, sweeps, threads
from benchmarks.figures import Figure, finish
from benchmarks.pairs import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured -->", "<!-- end -->"


def main(argv: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks speed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args(argv)
    printed = finish(measure())
    if options.write:
        write(PAGE, printed)
    return 0


def measure() -> list[Figure]:
    """Everything, in turn."""
    return [
        *loop.measure("cnn", repeats=5),
        *loop.measure("article", repeats=3),
        *start.measure(repeats=5),
        *sweeps.measure(rounds=3),
        *input.measure(repeats=3),
        *memory.measure(),
        *saves.measure(repeats=3),
        *threads.measure(repeats=3),
    ]


def write(page: Path, printed: str) -> None:
    """Put what was printed between the page's marks, with the day."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    day = datetime.date.today().isoformat()
    page.write_text(f"{before}{BEGIN}\nMeasured {day}.\n\n```text\n{printed}\n```\n{END}{after}", encoding="utf-8")
