"""Learning rates over a run: constant or cosine, with optional linear warm-up.

    from src.schedules import cosine

    rate = cosine(learning_rate=3e-3, steps_per_epoch=63, total_steps=504, warmup_epochs=1)
    optimizer = keras.optimizers.Adam(rate)

Each function takes the peak rate and the run's length in steps, and returns what a Keras optimizer takes.
"""

import math
from typing import Any

import keras
from keras import ops


def constant(
    *,
    learning_rate: float,
    steps_per_epoch: int,
    total_steps: int,
    warmup_epochs: float | None = None,
    warmup_fraction: float | None = None,
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The same rate all along: the plain float, or a schedule if there is a warm-up to it.

    Arguments and errors as in `cosine`.
    """
    _check_rate(learning_rate)
    warmup_steps = _warmup_steps(steps_per_epoch, total_steps, warmup_epochs, warmup_fraction)
    if warmup_steps == 0:
        return float(learning_rate)
    return WarmupCosine(learning_rate, total_steps, warmup_steps, final_fraction=1.0)


def cosine(
    *,
    learning_rate: float,
    steps_per_epoch: int,
    total_steps: int,
    warmup_epochs: float | None = None,
    warmup_fraction: float | None = None,
    final_fraction: float = 0.0,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Half a cosine from the peak `learning_rate` (> 0) to `final_fraction` (in [0, 1]) of it.

    Before it, a linear warm-up: `warmup_epochs` (at least 0, less than the run) or `warmup_fraction` (in
    [0, 1)) of the run. Steps run from 0 to `total_steps` - 1.

    Raises:
        ValueError: a value is out of its range, or the warm-up's length is given twice.
    """
    _check_rate(learning_rate)
    if not 0 <= final_fraction <= 1:
        raise ValueError(f"schedule.final_fraction must be in [0, 1], not {final_fraction}")
    warmup_steps = _warmup_steps(steps_per_epoch, total_steps, warmup_epochs, warmup_fraction)
    return WarmupCosine(learning_rate, total_steps, warmup_steps, final_fraction)


@keras.saving.register_keras_serializable(package="src")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Rate of each step, float32 scalar, from the step's number, an integer scalar that counts from 0.

    With W = `warmup_steps` < T = `total_steps`, peak p and final fraction f:

        s < W:         p (s + 1) / W
        W <= s < T:    p (f + (1 - f) (1 + cos(pi t)) / 2),  t from 0 at the peak to 1 at s = T - 1
        s >= T:        as at T - 1

    The peak is at s = W - 1, or 0 without warm-up. The cosine is eq. 5 of Loshchilov & Hutter 2017,
    "SGDR: Stochastic Gradient Descent with Warm Restarts", one cycle, with eta_max = p and eta_min = f p.
    """

    def __init__(
        self, learning_rate: float, total_steps: int, warmup_steps: int = 0, final_fraction: float = 0.0
    ) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.final_fraction = final_fraction

    def __call__(self, step: Any) -> Any:
        last, peak = self.total_steps - 1, max(self.warmup_steps - 1, 0)
        step = ops.minimum(ops.cast(step, "float32"), last)
        warmup = (step + 1) / max(self.warmup_steps, 1)
        progress = (step - peak) / max(last - peak, 1)
        decay = self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + ops.cos(math.pi * progress))
        return self.learning_rate * ops.where(step < peak, warmup, decay)

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "final_fraction": self.final_fraction,
        }


def _check_rate(learning_rate: float) -> None:
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be a finite number above 0, not {learning_rate}")


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
        if not 0 <= warmup_epochs < epochs:
            raise ValueError(
                f"schedule.warmup_epochs must be at least 0 and less than the run's {epochs:g} epochs, "
                f"not {warmup_epochs}"
            )
        steps = warmup_epochs * steps_per_epoch
    if warmup_fraction is not None:
        if not 0 <= warmup_fraction < 1:
            raise ValueError(f"schedule.warmup_fraction must be in [0, 1), not {warmup_fraction}")
        steps = warmup_fraction * total_steps
    # Rounding must not take the last step, which belongs to the decay.
    return min(round(steps), total_steps - 1)
