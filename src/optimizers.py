"""Optimizers that refuse what Keras's would quietly do wrong.

optimizer = Ftrl(0.1)
"""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="src")
class Ftrl(keras.optimizers.Ftrl):
    """Keras's, at a constant rate.

    Its weights are always the whole sum of past gradients, each at the rate of its own step, divided by what belongs to
    the rate of now: a rate that falls takes the weights to 0 with it, and one of 0 makes them NaN.

    Raises:
        ValueError: the rate is a schedule.
    """

    def __init__(self, learning_rate: Any = 0.001, **options: Any) -> None:
        if isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            raise ValueError(
                "optimizer=ftrl works at a constant rate only: choose schedule=constant, without a warm-up"
            )
        super().__init__(learning_rate, **options)
