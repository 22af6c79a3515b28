"""Runs that are equal but for their seed, or a fold, taken together: mean, standard deviation, how many; best first.

groups = ranked(group(rows, keys), sort=None)
groups[0].mean("val/accuracy"), groups[0].deviation("val/accuracy"), len(groups[0].averaged)
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from src.comparison.columns import RUN_KEYS, metric_names
from src.comparison.rows import Row, Value

OVER = ("seed",)
LESS_IS_BETTER = ("loss", "error", "mae", "mse", "mape", "perplexity")  # in a metric's name


@dataclass(frozen=True)
class Group:
    """Runs with the same settings but for those in `over`, best first."""

    rows: tuple[Row, ...]
    over: tuple[str, ...] = OVER

    @property
    def best(self) -> Row:
        return self.rows[0]

    @property
    def averaged(self) -> list[Row]:
        """The runs that means are taken over: with a final result; where none has one, with any."""
        return [row for row in self.rows if row.is_final] or [row for row in self.rows if row.result is not None]

    @property
    def status(self) -> str:
        """`completed`, or `2 completed, 1 failed`."""
        counts = Counter(row.status for row in self.rows)
        return ", ".join(f"{n} {status}" for status, n in counts.items()) if len(counts) > 1 else self.best.status

    @property
    def reason(self) -> str:
        """Of all members that have one."""
        return "; ".join(dict.fromkeys(row.reason for row in self.rows if row.reason))

    def numbers(self, key: str) -> list[float]:
        """The members' numbers of a key."""
        found = (row.get(key) for row in self.averaged)
        return [value for value in found if isinstance(value, int | float)]

    def mean(self, key: str) -> float | None:
        values = self.numbers(key)
        return float(statistics.mean(values)) if values else None

    def deviation(self, key: str) -> float | None:
        """The sample's standard deviation, which two values have at least."""
        values = self.numbers(key)
        return float(statistics.stdev(values)) if len(values) > 1 else None

    def get(self, key: str) -> Value:
        """A key's mean, or with ` std` after it its deviation; `n`, how many these are over; what all members share."""
        if key in ("status", "reason"):
            return getattr(self, key)
        if key == "n":
            return len(self.averaged)
        if key.endswith(" std"):
            return self.deviation(key.removesuffix(" std"))
        if key in ("epoch", "step", "seconds") or key not in {*RUN_KEYS, *self.best.settings}:
            return self.mean(key)
        return self.best.get(key)


def group(rows: Sequence[Row], keys: Sequence[str], *, each: bool = False, over: tuple[str, ...] = OVER) -> list[Group]:
    """Put runs together that differ in nothing but what means are taken over.

    Args:
        keys: the settings that distinguish the runs.
        each: leave every run alone.
        over: the settings that means are taken over.
    """
    members: dict[object, list[Row]] = defaultdict(list)
    for number, row in enumerate(rows):
        settings = tuple(row.settings.get(key) for key in keys if key not in over)
        members[number if each else (row.monitor, row.mode, settings)].append(row)
    return [Group(tuple(sorted(found, key=_by_result)), over) for found in members.values()]


def ranked(groups: Sequence[Group], *, sort: str | None = None) -> list[Group]:
    """Best first, by each one's monitor and mode or by the key `sort`; those without a final result at the end."""
    if sort is None:
        return sorted(groups, key=lambda one: _by_result(one.best, value=one.mean(one.best.monitor)))
    rows = [row for one in groups for row in one.rows]
    is_ascending = sort not in metric_names(rows) or less_is_better(sort, rows)

    def order(one: Group) -> tuple:
        value = one.get(sort)
        unfinished = not any(row.is_final for row in one.rows)
        if isinstance(value, int | float):
            return unfinished, 0, value if is_ascending else -value, ""
        return unfinished, 2 if value is None else 1, 0, str(value)

    return sorted(groups, key=order)


def repeated(groups: Sequence[Group]) -> list[str]:
    """A warning for each run that has all settings of another, those that means are taken over too."""
    warnings = []
    for one in groups:
        seen: dict[object, Row] = {}
        for row in one.rows:
            first = seen.setdefault(tuple(row.settings.get(key) for key in one.over), row)
            if first is not row:
                warnings.append(
                    f"{row.directory} and {first.directory} have equal settings, {', '.join(one.over)} too; both count"
                )
    return warnings


def _by_result(row: Row, *, value: float | None = None) -> tuple:
    value = row.result if value is None else value
    if value is None:
        return 2, row.monitor, 0.0
    return 0 if row.is_final else 1, row.monitor, -value if row.mode == "max" else value


def less_is_better(metric: str, rows: Sequence[Row]) -> bool:
    """Whether a lower value of a metric is better: by the mode of the runs that monitor it, else by its name."""
    name = metric.rpartition("/")[2]
    modes = {row.mode for row in rows if row.monitor.rpartition("/")[2] == name}  # of whichever split
    return modes == {"min"} if modes else any(word in name for word in LESS_IS_BETTER)
