"""What mattered: the mean result by the value of each swept key, and the share of the variance that the key explains.

effects(rows)[0].key, effects(rows)[0].explained, effects(rows)[0].levels[0].mean

The share is eta squared: the sum over all values of a key of n (their mean - the mean of all)², divided by the sum over
all runs of (result - the mean of all)². A key that does nothing has (values - 1) / (runs - 1) of it by chance.
"""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
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
    """Which runs have equal values, or of many different numbers their order: equal for keys that change together."""
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
        explained=_explained(levels.values()),
        by_chance=(len(levels) - 1) / (len(places) - 1),
        levels=tuple(best_first),
        points=tuple((rows[place], value) for place, value in zip(places, own, strict=True)),
    )


def _word(value: Value) -> str:
    return "null" if value is None else format(value, ".6g") if isinstance(value, float) else str(value)


def _explained(levels: Iterable[Sequence[float]]) -> float | None:
    """Eta squared; None where all results are equal. Fractions are exact: squares of tiny floats would be 0."""
    exact = [[Fraction(result) for result in level] for level in levels]
    total = _squares([result for level in exact for result in level])
    return float(1 - sum(map(_squares, exact)) / total) if total else None


def _squares(results: Sequence[Fraction]) -> Fraction:
    """The sum of the squared differences from the mean."""
    return statistics.pvariance(results) * len(results)


def _levels(values: Sequence[Value]) -> list[Value]:
    """The values themselves, or the range that each is in where there are too many."""
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(set(values)) <= MOST_VALUES or len(numbers) < len(values):
        return list(values)
    edges = statistics.quantiles(numbers, n=RANGES)
    ranges = defaultdict(list)
    for number in numbers:
        ranges[bisect_right(edges, number)].append(number)
    return [_range(min(found), max(found)) for found in (ranges[bisect_right(edges, number)] for number in numbers)]


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
