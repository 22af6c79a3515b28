"""What a search chooses from, in Hydra's own syntax.

space = Space.parse(["data=digits", "batch_size=16,32"], {"optimizer.learning_rate": "tag(log, interval(1e-4, 1e-1))"})
space.distributions                     # {"optimizer.learning_rate": FloatDistribution(...), "batch_size": ...}
space.overrides({"optimizer.learning_rate": 0.01, "batch_size": "32"})
                                        # ["data=digits", "optimizer.learning_rate=0.01", "batch_size=32"]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
    Transformer,
)
from hydra.errors import HydraException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from src.config.compose import ConfigError, parse_override

HOW = (
    "type sweeps, such as 'optimizer.learning_rate=tag(log,interval(1e-4,1e-1))' batch_size=16,32, "
    "or choose a search=..., or give hydra.sweeper.params"
)
TAGS = {"log", "int"}  # of an interval


@dataclass(frozen=True)
class Dimension:
    """A key and its values.

    Attributes:
        key: as the study calls it.
        given: as it was typed.
        distribution: of the values; those of a choice are texts, written as overrides are.
        grid: all values of a range of floats, exactly as Hydra counts them.
    """

    key: str
    given: str
    distribution: BaseDistribution
    grid: tuple[float, ...] = ()

    @property
    def values(self) -> list[Any] | None:
        """All values, in order; None of an interval of floats."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return list(choices)
            case IntDistribution(low=low, high=high, step=step):
                return list(range(low, high + 1, step))
        return list(self.grid) or None

    @property
    def ends(self) -> list[Any]:
        """The values that show whether all are allowed: each choice; the lowest and the highest number."""
        if isinstance(self.distribution, FloatDistribution | IntDistribution):
            return sorted({self.distribution.low, self.distribution.high})
        return self.values or []

    def override(self, value: Any) -> str:
        """`key=value`, which gives the same value again when it is parsed."""
        if self.grid:
            value = min(self.grid, key=lambda known: abs(known - value))
        return f"{self.given.partition('=')[0]}={value if isinstance(value, str) else repr(value)}"


@dataclass(frozen=True)
class Space:
    """What is the same for all trials, and what is not, in the order given."""

    fixed: tuple[str, ...]
    dimensions: tuple[Dimension, ...]

    @classmethod
    def parse(cls, typed: Sequence[str], params: Mapping[str, Any] | None = None) -> Space:
        """From what was typed and from hydra.sweeper.params, which give way to what was typed.

        Raises:
            ConfigError: naming what cannot be understood.
        """
        fixed: dict[str, str] = {}
        dimensions: dict[str, Dimension] = {}
        for text in [*_texts(params or {}), *typed]:
            override = parse_override(text)
            key = override.get_key_element().lstrip("+~")
            fixed.pop(key, None)
            dimensions.pop(key, None)
            if override.is_sweep_override():
                dimensions[key] = _dimension(key, override)
            else:
                fixed[key] = text
        return cls(tuple(fixed.values()), tuple(dimensions.values()))

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {dimension.key: dimension.distribution for dimension in self.dimensions}

    @property
    def first(self) -> dict[str, Any]:
        """Each one's first choice or lowest number."""
        return {dimension.key: dimension.ends[0] for dimension in self.dimensions}

    @property
    def grid(self) -> dict[str, list[Any]] | None:
        """All values of all keys; None where one has an interval of floats."""
        values = {dimension.key: dimension.values for dimension in self.dimensions}
        return None if None in values.values() else {key: value for key, value in values.items() if value}

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """A trial's, from the values that the study has suggested."""
        return [*self.fixed, *(dimension.override(values[dimension.key]) for dimension in self.dimensions)]

    def discrete(self) -> list[str]:
        """The first trial's overrides without intervals, whose keys have their defaults."""
        chosen = [d.override(d.ends[0]) for d in self.dimensions if d.values is not None]
        return [*self.fixed, *chosen]

    def probes(self) -> Iterator[tuple[Dimension, list[str]]]:
        """Trials that show between them whether every value alone is allowed; the first has all first values."""
        for dimension in self.dimensions:
            for value in dimension.ends:
                yield dimension, self.overrides({**self.first, dimension.key: value})

    def whole(self, default: Callable[[str], Any]) -> Space:
        """The space with intervals of whole numbers where a key's default is one and both ends are.

        Args:
            default: gives that of a key, None where there is none.
        """

        def fitted(dimension: Dimension) -> Dimension:
            match dimension.distribution:
                case FloatDistribution(low=low, high=high, step=None, log=log) if (
                    type(default(dimension.key)) is int
                    and low.is_integer()
                    and high.is_integer()
                    and not dimension.grid
                ):
                    return replace(dimension, distribution=IntDistribution(int(low), int(high), log=log))
            return dimension

        return replace(self, dimensions=tuple(map(fitted, self.dimensions)))

    def described(self) -> list[str]:
        """A line for each key."""
        lines = []
        for dimension in self.dimensions:
            match dimension.distribution:
                case CategoricalDistribution(choices=choices):
                    text = f"one of {', '.join(map(str, choices))}"
                case IntDistribution(low=low, high=high, step=step, log=log):
                    text = f"{low} to {high}, whole numbers" + (f", step {step}" if step > 1 else "") + ", log" * log
                case FloatDistribution(low=low, high=high, step=step, log=log):
                    text = f"{low:g} to {high:g}" + (f", step {step:g}" if step else "") + ", log" * log
            lines.append(f"{dimension.key}: {text}")
        return lines


def _texts(params: Mapping[str, Any]) -> Iterator[str]:
    for key, value in params.items():
        if isinstance(value, Mapping | list):
            raise ConfigError(
                f"hydra.sweeper.params has {key}: {value}; give one text a key, such as "
                "optimizer.learning_rate: interval(0.001, 0.1) or batch_size: 16,32"
            )
        yield f"{key}={value if isinstance(value, str) else Transformer.str(value)}"


def _text(value: Any) -> str:
    """A choice as an override says it."""
    text = Transformer.str(value)
    if isinstance(value, str):  # a plain word, or quoted, in choice('1', '~'): Hydra has dropped the quotes
        with suppress(ConfigError):
            if parse_override(f"key={text}").value() == value:
                return text
        return QuotedString(value, Quote.single).with_quotes()
    return text


def _dimension(key: str, override: Override) -> Dimension:
    sweep, given = override.value(), str(override.input_line)
    tags: set[str] = getattr(sweep, "tags", set())
    if wrong := sorted(tags - (TAGS if isinstance(sweep, IntervalSweep) else set())):
        raise ConfigError(f"{given}: {', '.join(wrong)} is no tag of this; an interval can have log and int")
    try:
        match sweep:
            case ChoiceSweep(list=choices):
                texts = dict.fromkeys(map(_text, choices))
                return Dimension(key, given, CategoricalDistribution(list(texts)))
            case RangeSweep():
                return _range(key, given, sweep)
            case IntervalSweep(start=start, end=end):
                return Dimension(key, given, _interval(start, end, log="log" in tags, whole="int" in tags))
    except (HydraException, ValueError, OverflowError) as error:
        raise ConfigError(f"{given}: {error}") from error
    raise ConfigError(f"{given}: a search knows choice, range and interval; list the values")


def _range(key: str, given: str, sweep: RangeSweep) -> Dimension:
    values = sorted(sweep.range())
    if not values:
        raise ValueError("the range is empty; its end is not part of it")
    if isinstance(values[0], int):
        return Dimension(key, given, IntDistribution(values[0], values[-1], step=abs(int(sweep.step))))
    # Optuna counts in decimals, Hydra in what a float holds of them; the nearest of Hydra's is taken.
    low, step = Decimal(repr(values[0])), abs(Decimal(repr(sweep.step)))
    high = low + (len(values) - 1) * step
    is_exact = Decimal(repr(float(high))) == high
    distribution = (
        FloatDistribution(values[0], float(high), step=float(step))
        if is_exact
        else FloatDistribution(values[0], values[-1])
    )
    return Dimension(key, given, distribution, grid=tuple(values))


def _interval(start: Any, end: Any, *, log: bool, whole: bool) -> BaseDistribution:
    if not (math.isfinite(start) and math.isfinite(end)) or start > end:
        raise ValueError("an interval goes from its lower end to its higher one, both of them numbers")
    if log and start <= 0:
        raise ValueError("an interval with the tag log must begin above 0")
    if isinstance(start, int) or whole:
        if start != int(start) or end != int(end):
            raise ValueError("an interval of whole numbers has whole ends")
        return IntDistribution(int(start), int(end), log=log)
    return FloatDistribution(start, end, log=log)
