"""What mattered: the mean result by the value of each swept key, and the share of the variance that the key explains.

effects(rows)[0].key, effects(rows)[0].explained, effects(rows)[0].levels[0].mean

The share is eta squared: the sum over all values of a key of n (their mean - the mean of all)², divided by the sum over
all runs of (result - the mean of all)². A key that does nothing has (values - 1) / (runs - 1) of it by chance.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from src.comparison.columns import differing
from src.comparison.groups import less_is_better
from src.comparison.rows import Row, Value

MOST_VALUES = 8  # numbers with more are put into ranges
RANGES = 5


@dataclass(frozen=True)
class Level:
    """The results of the runs with one value of a key, or with a range of values."""

    value: Value
    results: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(statistics.mean(self.results))

    @property
    def deviation(self) -> float | None:
        return float(statistics.stdev(self.results)) if len(self.results) > 1 else None


@dataclass(frozen=True)
class Effect:
    """A swept key: the share of the variance of a metric that it explains, and what it would explain by chance."""

    key: str
    monitor: str
    explained: float | None
    by_chance: float | None
    levels: tuple[Level, ...]


def effects(rows: Sequence[Row], metric: str | None = None) -> list[Effect]:
    """An effect for each key that differs between completed runs, the one that explains most first.

    Args:
        metric: whose results are meant; None takes each run's monitored metric. Runs with different monitors are then
            not compared with each other.
    """
    found = []
    for monitor in [metric] if metric else dict.fromkeys(row.monitor for row in rows):
        counted = counted_for(rows, monitor, any_monitor=metric is not None)
        keys = [key for key in differing(counted) if key not in ("monitor", "mode")]
        measured = [_effect(key, monitor, counted) for key in keys]
        found += sorted(measured, key=lambda effect: -(effect.explained or 0.0))
    return found


def counted_for(rows: Sequence[Row], metric: str, *, any_monitor: bool = False) -> list[Row]:
    """The completed runs that have a result of this metric, and monitor it unless `any_monitor`."""
    return [row for row in rows if row.counts and metric in row.metrics and (any_monitor or row.monitor == metric)]


def _effect(key: str, monitor: str, rows: Sequence[Row]) -> Effect:
    levels: dict[Value, list[float]] = defaultdict(list)
    names = _levels([row.settings.get(key) for row in rows])
    for name, row in zip(names, rows, strict=True):
        levels[name].append(row.metrics[monitor])
    falls = less_is_better(monitor, rows)
    best_first = sorted(levels.items(), key=lambda item: statistics.mean(item[1]), reverse=not falls)
    chance = (len(levels) - 1) / (len(rows) - 1)
    made = tuple(Level(name, tuple(results)) for name, results in best_first)
    return Effect(key, monitor, _explained(list(levels.values())), chance, made)


def _explained(levels: Sequence[Sequence[float]]) -> float | None:
    """Eta squared; None where all results are equal."""
    results = [result for level in levels for result in level]
    if min(results) == max(results):
        return None
    middle = float(statistics.mean(results))
    unit = max(abs(result - middle) for result in results)  # squares of tiny or huge numbers are 0 or infinite
    between = [len(level) * _square((float(statistics.mean(level)) - middle) / unit) for level in levels]
    share = sum(between) / sum(_square((result - middle) / unit) for result in results)
    return min(1.0, share) if math.isfinite(share) else None


def _square(value: float) -> float:
    return value * value


def _levels(values: Sequence[Value]) -> list[Value]:
    """The values themselves, or the range that each is in where there are too many."""
    distinct = set(values)
    numbers = sorted(value for value in values if isinstance(value, int | float))
    if len(distinct) <= MOST_VALUES or len(numbers) < len(values):
        return list(values)
    edges = sorted({numbers[len(numbers) * i // RANGES] for i in range(1, RANGES)} - {numbers[0]})
    places = [bisect_right(edges, cast(float, value)) for value in values]
    ends = {place: [n for n in numbers if bisect_right(edges, n) == place] for place in set(places)}
    return [_range(ends[place][0], ends[place][-1]) for place in places]


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
