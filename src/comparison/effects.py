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

from src.comparison.columns import differing, is_factor, values_of
from src.comparison.confounders import Confounder, confounders
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
    """The share of a metric's variance that a key, or several that always change together, explains.

    It is of the runs that have the key: `points` has each of these with its value.
    """

    key: str
    monitor: str
    explained: float | None
    by_chance: float | None
    levels: tuple[Level, ...]
    points: tuple[tuple[Row, Value], ...]


def effects(rows: Sequence[Row], metric: str | None = None) -> list[Effect]:
    """An effect for each key that differs between completed runs, the one that explains most first.

    What runs were made of, such as code or data, is a key too where it differs.

    Args:
        metric: whose results are meant; None takes each run's monitored metric. Runs with different monitors are then
            not compared with each other.
    """
    found = []
    for monitor in [metric] if metric else dict.fromkeys(row.monitor for row in rows):
        completed = completed_with(rows, monitor, any_monitor=metric is not None)
        of_monitor = [_effect(factor, monitor, completed) for factor in _factors(completed)]
        found += sorted(of_monitor, key=lambda effect: -(effect.explained or 0.0))
    return found


def completed_with(rows: Sequence[Row], metric: str, *, any_monitor: bool = False) -> list[Row]:
    """The completed runs that have a result of this metric, and monitor it unless `any_monitor`."""
    return [row for row in rows if row.is_final and metric in row.metrics and (any_monitor or row.monitor == metric)]


def _factors(rows: Sequence[Row]) -> list[dict[str | Confounder, dict[int, Value]]]:
    """The values of each key by the run's place, without runs that do not have it; keys that change together as one."""
    columns: dict[str | Confounder, dict[int, Value]]
    columns = {key: values_of(rows, key) for key in differing(rows) if is_factor(key, rows)}
    for confounder, column in confounders(rows).items():
        columns[confounder] = {place: value for place, value in enumerate(column) if value is not None}
    together: dict[tuple, dict[str | Confounder, dict[int, Value]]] = defaultdict(dict)
    for key, values in columns.items():
        if len(set(values.values())) > 1:
            together[_pattern(values)][key] = values
    return list(together.values())


def _pattern(values: dict[int, Value]) -> tuple:
    """Equal for keys that always change together: which runs have equal values; of many numbers, all of them
    different, the order."""
    numbers = [value for value in values.values() if isinstance(value, int | float)]
    if MOST_VALUES < len(set(values.values())) == len(numbers) == len(values):
        order = tuple(sorted(values, key=lambda place: cast(float, values[place])))
        return "order", min(order, order[::-1])
    first = {value: place for place, value in reversed(values.items())}
    return tuple((place, first[value]) for place, value in values.items())


def _effect(factor: dict[str | Confounder, dict[int, Value]], monitor: str, rows: Sequence[Row]) -> Effect:
    first = next(iter(factor.values()))
    places, names = list(first), _levels(list(first.values()))
    if len(factor) > 1 and len(set(names)) == len(set(first.values())):
        names = [", ".join(_word(values[place]) for values in factor.values()) for place in places]
    levels: dict[Value, list[float]] = defaultdict(list)
    for name, place in zip(names, places, strict=True):
        levels[name].append(rows[place].metrics[monitor])
    best_first = sorted(
        (Level(name, tuple(results)) for name, results in levels.items()),
        key=lambda level: level.mean,
        reverse=not less_is_better(monitor, rows),
    )
    own = list(first.values()) if len(factor) == 1 else names
    return Effect(
        key=", ".join(map(str, factor)),
        monitor=monitor,
        explained=_explained(list(levels.values())),
        by_chance=(len(levels) - 1) / (len(places) - 1),
        levels=tuple(best_first),
        points=tuple((rows[place], value) for place, value in zip(places, own, strict=True)),
    )


def _word(value: Value) -> str:
    return "null" if value is None else format(value, ".6g") if isinstance(value, float) else str(value)


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
