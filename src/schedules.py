"""Learning rates over a run: constant, cosine, polynomial, exponential, piecewise constant, or one cycle.

    from src.schedules import cosine

    rate = cosine(learning_rate=3e-3, steps_per_epoch=63, total_steps=504, warmup_epochs=1)
    optimizer = keras.optimizers.Adam(rate)

Each function takes the peak rate, above 0, and the run's length in steps, and returns what a Keras optimizer takes.
All but `one_cycle`, which has its own, take a linear warm-up of `warmup_epochs` (at least 0, less than the run) or
`warmup_fraction` (in [0, 1)) of the run. Steps run from 0 to `total_steps` - 1.

They raise ValueError where a value is out of its range, or the warm-up's length is given twice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import keras
from keras import ops

from src.common.ranges import Fraction, NonNegative, Positive, Range, Share, enforce_ranges

Left = Annotated[float, Range(0, 1, above=True)]  # what is left of the rate, and never nothing


@enforce_ranges
def constant(
    *,
    learning_rate: Positive,
    steps_per_epoch: int,
    total_steps: int,
    warmup_epochs: NonNegative | None = None,
    warmup_fraction: Share | None = None,
) -> float | Schedule:
    """The peak rate all along: the plain float, or a schedule if there is a warm-up to it."""
    warmup_steps = _warmup_steps(steps_per_epoch, total_steps, warmup_epochs, warmup_fraction)
    if warmup_steps == 0:
        return float(learning_rate)
    return Schedule(learning_rate, total_steps, warmup_steps, "constant", {})


@enforce_ranges
def cosine(
    *,
    learning_rate: Positive,
    steps_per_epoch: int,
    total_steps: int,
    warmup_epochs: NonNegative | None = None,
    warmup_fraction: Share | None = None,
    final_fraction: Fraction = 0.0,
) -> Schedule:
    """Half a cosine from the peak to `final_fraction` (in [0, 1]) of it.

    Eq. 5 of Loshchilov & Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", one cycle.
    """
    warmup_steps = _warmup_steps(steps_per_epoch, total_steps, warmup_epochs, warmup_fraction)
    return Schedule(learning_rate, total_steps, warmup_steps, "cosine", {"final_fraction": final_fraction})


@enforce_ranges
def polynomial(
    *,
    learning_rate: Positive,
    steps_per_epoch: int,
    total_steps: int,
    warmup_epochs: NonNegative | None = None,
    warmup_fraction: Share | None = None,
    power: Positive = 1.0,
    final_fraction: Fraction = 0.0,
) -> Schedule:
    """From the peak to `final_fraction` (in [0, 1]) of it as (1 - t)^power, t from 0 to 1: a line with `power` 1.

    `power` is above 0; 0.9 is usual for segmentation (Chen et al. 2017, "DeepLab", the "poly" policy).
    """
    warmup_steps = _warmup_steps(steps_per_epoch, total_steps, warmup_epochs, warmup_fraction)
    shape = {"final_fraction": final_fraction, "power": power}
    return Schedule(learning_rate, total_steps, warmup_steps, "polynomial", shape)


@enforce_ranges
def exponential(
    *,
    learning_rate: Positive,
    steps_per_epoch: int,
    total_steps: int,
    warmup_epochs: NonNegative | None = None,
    warmup_fraction: Share | None = None,
    final_fraction: Left = 0.01,
    decay_per_epoch: Left | None = None,
) -> Schedule:
    """From the peak to `final_fraction` (in (0, 1]) of it by the same factor at each step.

    `decay_per_epoch` (in (0, 1]), if given, takes the place of `final_fraction`: the factor of an epoch's steps.
    """
    warmup_steps = _warmup_steps(steps_per_epoch, total_steps, warmup_epochs, warmup_fraction)
    shape = {"factor": final_fraction, "steps": max(total_steps - max(warmup_steps, 1), 1)}
    if decay_per_epoch is not None:
        shape = {"factor": decay_per_epoch, "steps": steps_per_epoch}
    return Schedule(learning_rate, total_steps, warmup_steps, "exponential", shape)


@enforce_ranges
def piecewise(
    *,
    learning_rate: Positive,
    steps_per_epoch: int,
    total_steps: int,
    warmup_epochs: NonNegative | None = None,
    warmup_fraction: Share | None = None,
    boundaries_fractions: Sequence[Positive] = (0.5, 0.75),
    boundaries_epochs: Sequence[Positive] | None = None,
    factors: Sequence[NonNegative] = (0.1, 0.01),
) -> Schedule:
    """The peak rate, and from each boundary on its factor (at least 0) of the peak.

    `boundaries_fractions` of the run, each in (0, 1) and above the one before. `boundaries_epochs`, if given, take
    their place: epochs done, above 0 and less than the run. All lie after the warm-up.
    """
    warmup_steps = _warmup_steps(steps_per_epoch, total_steps, warmup_epochs, warmup_fraction)
    key, boundaries, unit = "boundaries_fractions", boundaries_fractions, total_steps
    if boundaries_epochs is not None:
        key, boundaries, unit = "boundaries_epochs", boundaries_epochs, steps_per_epoch
    low, high = warmup_steps / unit, total_steps / unit
    ordered = [low, *boundaries, high]
    if not boundaries or not all(a < b for a, b in itertools.pairwise(ordered)):
        raise ValueError(
            f"schedule.{key} must rise, above {low:g} (the end of the warm-up) and below {high:g} (of the run), "
            f"not {list(boundaries)}"
        )
    if len(factors) != len(boundaries):
        raise ValueError(
            f"schedule.factors must be one for each of the {len(boundaries)} schedule.{key}, not {list(factors)}"
        )
    # Rounding must not take the first step, which has the peak rate.
    steps = [max(round(boundary * unit), max(warmup_steps, 1)) for boundary in boundaries]
    shape = {"boundaries": steps, "factors": [float(factor) for factor in factors]}
    return Schedule(learning_rate, total_steps, warmup_steps, "piecewise", shape)


@enforce_ranges
def one_cycle(
    *,
    learning_rate: Positive,
    steps_per_epoch: int,
    total_steps: int,
    peak_fraction: Annotated[float, Range(0, 1, above=True, below=True)] = 0.25,
    start_fraction: Fraction = 0.04,
    final_fraction: Fraction = 1e-5,
) -> Schedule:
    """Half a cosine up from `start_fraction` of the peak, half a cosine down to `final_fraction` of it.

    The peak is at `peak_fraction` (in (0, 1)) of the run; the others are in [0, 1]. The policy is that of Smith 2018,
    "A disciplined approach to neural network hyper-parameters: Part 1", the shape and the defaults are fastai's
    (`fit_one_cycle`: pct_start 0.25, div 25, div_final 1e5). The momentum is left alone.
    """
    peak = round(peak_fraction * (total_steps - 1))
    shape = {"peak": peak, "start_fraction": start_fraction, "final_fraction": final_fraction}
    return Schedule(learning_rate, total_steps, 0, "one_cycle", shape)


def _cosine(step: Any, first: int, last: int, *, final_fraction: float) -> Any:
    return final_fraction + (1 - final_fraction) * 0.5 * (1 - ops.cos(math.pi * _left(step, first, last)))


def _polynomial(step: Any, first: int, last: int, *, final_fraction: float, power: float) -> Any:
    return final_fraction + (1 - final_fraction) * _left(step, first, last) ** power


def _exponential(step: Any, first: int, last: int, *, factor: float, steps: int) -> Any:
    return factor ** ((step - first) / steps)


def _piecewise(step: Any, first: int, last: int, *, boundaries: list[int], factors: list[float]) -> Any:
    result = ops.ones_like(step)
    for boundary, factor in zip(boundaries, factors, strict=True):
        result = ops.where(step < boundary, result, ops.full_like(step, factor))
    return result


def _one_cycle(step: Any, first: int, last: int, *, peak: int, start_fraction: float, final_fraction: float) -> Any:
    rise = _cosine(ops.maximum(peak - step, 0), 0, peak, final_fraction=start_fraction)
    fall = _cosine(ops.maximum(step, peak), peak, last, final_fraction=final_fraction)
    return ops.where(step < peak, rise, fall)


def _left(step: Any, first: int, last: int) -> Any:
    """1 at the first step, 0 at the last: exactly, where 1 - (step - first) / (last - first) may be below it."""
    return (last - step) / (last - first) if last > first else ops.ones_like(step)


# The share of the peak rate at each step between the first, where the warm-up has reached the peak, and the last.
SHAPES: dict[str, Callable[..., Any]] = {
    "constant": lambda step, first, last: ops.ones_like(step),
    "cosine": _cosine,
    "polynomial": _polynomial,
    "exponential": _exponential,
    "piecewise": _piecewise,
    "one_cycle": _one_cycle,
}


@keras.saving.register_keras_serializable(package="src")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up, then a shape: the rate of each step, a float32 scalar, from its number, an integer from 0.

    With W = `warmup_steps` < T = `total_steps` and the peak rate p:

        s < W:         p (s + 1) / W
        W <= s < T:    p times the shape
        s >= T:        as at T - 1

    The peak is at s = W - 1, or 0 without warm-up. Computed in float64, so that a graph, whose optimizer reorders
    products, gives the same float32 as eager code; Keras's own schedules do not, nor do they all end with the run.

    Args:
        shape: a name of SHAPES.
        options: of the shape.
    """

    def __init__(
        self, learning_rate: float, total_steps: int, warmup_steps: int, shape: str, options: dict[str, Any]
    ) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.shape = shape
        self.options = options

    def __call__(self, step: Any) -> Any:
        last, peak = self.total_steps - 1, max(self.warmup_steps - 1, 0)
        step = ops.minimum(ops.cast(step, "float64"), last)
        warmup = ops.minimum((step + 1) / max(self.warmup_steps, 1), 1)
        share = SHAPES[self.shape](ops.maximum(step, peak), peak, last, **self.options)
        return ops.cast(self.learning_rate * warmup * share, "float32")

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "shape": self.shape,
            "options": self.options,
        }


def _warmup_steps(
    steps_per_epoch: int, total_steps: int, warmup_epochs: float | None, warmup_fraction: float | None
) -> int:
    assert steps_per_epoch >= 1 and total_steps >= 1
    if warmup_epochs is not None and warmup_fraction is not None:
        raise ValueError(
            f"schedule.warmup_epochs={warmup_epochs} and schedule.warmup_fraction={warmup_fraction} "
            "both give the length of the warm-up: set one of them to null"
        )
    steps = 0.0
    if warmup_epochs is not None:
        epochs = total_steps / steps_per_epoch
        if warmup_epochs >= epochs:
            raise ValueError(
                f"schedule.warmup_epochs is {warmup_epochs}; it must be less than the run's {epochs:g} epochs"
            )
        steps = warmup_epochs * steps_per_epoch
    if warmup_fraction is not None:
        steps = warmup_fraction * total_steps
    # Rounding must not take the last step, which belongs to the decay.
    return min(round(steps), total_steps - 1)
