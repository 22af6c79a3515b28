"""What the page's charts show, as plain lists: curves over the epochs, and results over each swept key.

curves(groups, colours)["groups"][0]["runs"][0]["lines"]["accuracy"]["val"]     # [epochs, values]
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.comparison.columns import headers
from src.comparison.effects import Effect, effects
from src.comparison.groups import Group
from src.comparison.rows import Row, Value
from src.comparison.tables import show
from src.runs.checked import NO_METRICS, read_history

MOST_CURVES = 60  # runs
MOST_POINTS = 400  # of a curve
MOST_TICKS = 8  # values of a key that an axis names each, with their mean
PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a3d9a", "#8c564b", "#7f7f7f", "#bcbd22"]
SCALE = ((32, 80, 160), (38, 150, 140), (130, 200, 90), (235, 190, 60))  # best to worst, where groups are many
FADED = "#d0d0d0"
DECADES = 2  # of positive numbers, that make an axis logarithmic
FEW = 2  # so many values, or fewer, are names on an axis though they are numbers


def colours(groups: Sequence[Group]) -> list[str]:
    """A colour for each group: of their own where they are few, from best to worst where they are many."""
    if len(groups) <= len(PALETTE):
        return PALETTE[: len(groups)]
    before = itertools.accumulate((len(one.rows) for one in groups), initial=0)
    drawn = sum(count < MOST_CURVES for count, _ in zip(before, groups, strict=False))
    return [_on_scale(rank / max(1, drawn - 1)) for rank in range(drawn)] + [FADED] * (len(groups) - drawn)


def label(row: Row, keys: Sequence[str]) -> str:
    """What tells a run from the others, in words: `adam, learning_rate 0.01`."""
    values = [(headers(keys)[key], key, row.settings.get(key)) for key in keys]
    words = [
        show(key, value) if isinstance(value, str) else f"{name} {show(key, value)}" for name, key, value in values
    ]
    return ", ".join(word for word in words if word) or "all runs"


def curves(groups: Sequence[Group], keys: Sequence[str]) -> dict[str, Any]:
    """The metrics of the best runs by epoch, by group."""
    without_seed, left = [key for key in keys if key != "seed"], MOST_CURVES
    found: list[dict[str, Any]] = []
    for one, colour in zip(groups, colours(groups), strict=True):
        rows, left = one.rows[:left], left - len(one.rows[:left])
        runs = [
            {"label": label(row, [*without_seed, "seed"]), "lines": lines} for row in rows if (lines := _lines(row))
        ]
        if runs:
            found.append({"label": label(one.best, without_seed), "colour": colour, "runs": runs})
    return {
        "groups": found,
        "metrics": list(dict.fromkeys(name for g in found for r in g["runs"] for name in r["lines"])),
    }


def scatters(groups: Sequence[Group], keys: Sequence[str]) -> list[dict[str, Any]]:
    """The result of each completed run over each key that it has; those that matter most first."""
    told = [(row, colour) for one, colour in zip(groups, colours(groups), strict=True) for row in one.rows]
    colour_of = {row.directory: colour for row, colour in told}
    return [_scatter(effect, colour_of, keys) for effect in effects([row for row, _ in told])]


def _scatter(effect: Effect, colour_of: dict[Path, str], keys: Sequence[str]) -> dict[str, Any]:
    key, rows, values = effect.key, [row for row, _ in effect.points], [value for _, value in effect.points]
    numbers = [value for value in values if isinstance(value, int | float)]
    numeric = len(numbers) == len(values) and len(set(values)) > FEW
    return {
        "name": headers(keys).get(key, key),
        "monitor": effect.monitor,
        "axis": ("log" if _spans_decades(numbers) else "linear") if numeric else "category",
        "few": len(set(values)) <= MOST_TICKS,
        "x": numbers if numeric else [show(key, value) or "none" for value in values],
        "order": [show(key, value) or "none" for value in sorted(dict.fromkeys(values), key=_place)],
        "y": [row.result for row in rows],
        "colours": [colour_of[row.directory] for row in rows],
        "labels": [label(row, keys) for row in rows],
    }


def _place(value: Value) -> tuple[bool, float]:
    """Of a value on an axis of names: numbers by size, then the others as they come, the best run's first."""
    return (False, value) if isinstance(value, int | float) else (True, 0.0)


def _spans_decades(numbers: Sequence[float]) -> bool:
    return min(numbers) > 0 and math.log10(max(numbers) / min(numbers)) >= DECADES


def _lines(row: Row) -> dict[str, dict[str, list[list]]]:
    """A run's curves: by metric and split, epochs and values; None, a gap, where the history lacks epochs."""
    history, _ = read_history(row.directory)
    names = dict.fromkeys(key for epoch in history for key in epoch if key not in NO_METRICS)
    kept = _with_gaps(history, dict.fromkeys(names), every=-(-len(history) // MOST_POINTS))
    found: dict[str, dict[str, list[list]]] = {}
    for name in names:
        split, _, metric = name.rpartition("/")
        points = [(epoch["epoch"], _short(epoch[name])) for epoch in kept if name in epoch]
        if points:
            found.setdefault(metric, {})[split] = [list(axis) for axis in zip(*points, strict=True)]
    return found


def _with_gaps(history: Sequence[dict[str, Any]], gap: dict[str, None], *, every: int) -> list[dict[str, Any]]:
    """Every n-th epoch of each stretch of the history that lacks none, and a gap after each but the last."""
    stretches: list[list[dict[str, Any]]] = []
    for epoch in history:
        if stretches and epoch["epoch"] == stretches[-1][-1]["epoch"] + 1:
            stretches[-1].append(epoch)
        else:
            stretches.append([epoch])
    kept = [[*stretch[::every], {"epoch": stretch[-1]["epoch"] + 1, **gap}] for stretch in stretches]
    return [epoch for stretch in kept for epoch in stretch][:-1]


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _on_scale(share: float) -> str:
    place = share * (len(SCALE) - 1)
    low = min(int(place), len(SCALE) - 2)
    mixed = (round(a + (b - a) * (place - low)) for a, b in zip(SCALE[low], SCALE[low + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)
