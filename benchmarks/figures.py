"""What is measured against what is wanted: one table of figures, and how each has changed since the last time.

figures = [Figure("cnn: steps/s, ours / fit", ratios(ours, fit, "steps_per_second"), at_least=4.0)]
finish(figures)
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.pairs import ROOT, machine, table

LAST = ROOT / "outputs" / "benchmarks.json"


class Figure(NamedTuple):
    """A number that was measured in each of several interleaved rounds.

    Attributes:
        name: what it is, its unit included where it has one.
        values: one a round, at least one.
        at_least, at_most: what its median should be; neither where it is only told.
    """

    name: str
    values: Sequence[float]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def median(self) -> float:
        """Of all rounds."""
        return statistics.median(self.values)

    @property
    def goal(self) -> str:
        """In words; empty without one."""
        bounds = {"at least": self.at_least, "at most": self.at_most}
        return " and ".join(f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None)

    @property
    def is_met(self) -> bool:
        """Whether the median is as it should be."""
        low, high = self.at_least, self.at_most
        return (low is None or self.median >= low) and (high is None or self.median <= high)

    @property
    def verdict(self) -> str:
        """In a word; empty without a goal."""
        return ("met" if self.is_met else "MISSED") if self.goal else ""


def finish(figures: Sequence[Figure], *, keep: bool = True) -> str:
    """Print the machine and the table, and keep the medians in `LAST` for the next time; returns what was printed."""
    printed = f"machine: {machine()}\n\n{report(figures, _medians())}"
    print(printed, flush=True)
    if keep:
        # Those of figures that were not measured now stay.
        medians = {**_medians(), **{figure.name: figure.median for figure in figures}}
        LAST.parent.mkdir(parents=True, exist_ok=True)
        LAST.write_text(json.dumps({"machine": machine(), "medians": medians}, indent=1) + "\n", encoding="utf-8")
    return printed


def _medians() -> dict[str, float]:
    return json.loads(LAST.read_text(encoding="utf-8"))["medians"] if LAST.exists() else {}


def report(figures: Sequence[Figure], last: Mapping[str, float]) -> str:
    """The table: medians, quartiles, rounds, goals, verdicts, and the change of the median since `last`."""
    rows = [["figure", "median", "quartiles", "n", "goal", "verdict", "last", "change"]]
    for figure in figures:
        before = last.get(figure.name)
        change = ["", ""] if not before else [f"{before:.3g}", f"{figure.median / before - 1:+.0%}"]
        quartiles = " to ".join(f"{value:.3g}" for value in quartiles_of(figure.values))
        count = str(len(figure.values))
        rows.append([figure.name, f"{figure.median:.3g}", quartiles, count, figure.goal, figure.verdict, *change])
    return table(rows)


def quartiles_of(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third, values in between included."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third
