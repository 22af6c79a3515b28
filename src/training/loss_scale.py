"""Loss scaling: float16 gradients kept away from zero by a factor that adapts while training.

scale = LossScale()
gradients = [g / scale.value for g in tape.gradient(loss * scale.value, variables)]
scale.update(gradients_are_finite)
"""

from __future__ import annotations

import keras
import tensorflow as tf

LARGEST = 2.0**24  # beyond it even small losses leave float16's range in each step


class LossScale:
    """A power of two that doubles after enough finite steps in a row and halves at each overflow, down to 1.

    Micikevicius et al., 2018, "Mixed Precision Training", https://arxiv.org/abs/1710.03740, section 3.2.

    Args:
        initial: the first scale, a power of two.
        growth_steps: finite steps in a row after which it doubles, at least 1.

    Attributes:
        value: float32 [].
        variables: what a checkpoint has to hold.
    """

    def __init__(self, *, initial: float = 2.0**15, growth_steps: int = 2000) -> None:
        def variable(value: float, dtype: str, name: str) -> keras.Variable:
            return keras.Variable(value, trainable=False, dtype=dtype, autocast=False, name=name)

        self._growth_steps = growth_steps
        self._scale = variable(initial, "float32", "loss_scale")
        self._finite_steps = variable(0, "int32", "finite_steps")
        self.variables = [self._scale, self._finite_steps]

    @property
    def value(self) -> tf.Tensor:
        return self._scale.value.read_value()

    def update(self, finite: tf.Tensor) -> None:
        """Take note of a step: `finite`, bool [], says whether its gradients were."""
        scale, steps = self.value, tf.where(finite, self._finite_steps.value + 1, 0)
        grows = steps >= self._growth_steps
        larger = tf.minimum(tf.where(grows, 2 * scale, scale), LARGEST)
        self._scale.assign(tf.where(finite, larger, tf.maximum(scale / 2, 1.0)))
        self._finite_steps.assign(tf.where(grows, 0, steps))
