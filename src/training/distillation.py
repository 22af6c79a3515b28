"""Learning from another model's outputs as well as from the targets.

learner = Distillation(teacher=large, model=small, optimizer=optimizer, loss=loss, metrics=metrics)
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from src.common.ranges import Positive, Share, enforce_ranges
from src.data.batch import Nest
from src.losses import expanded
from src.training.learner import Forward, Supervised


@enforce_ranges
class Distillation(Supervised):
    """The loss is a mean of that of the targets and of the teacher's (Hinton et al., 2015,
    https://arxiv.org/abs/1503.02531).

    The teacher's part is temperature^2 times the cross-entropy of the softmax of its logits / temperature and of the
    model's, averaged over examples and pixels.

    Args:
        teacher: takes the same inputs and gives logits of the same shape; nothing of it is trained.
        temperature: above 0; the higher, the more the teacher's less likely classes count.
        teacher_share: of the teacher's part in the loss, 0 to below 1.
        supervised: as `Supervised`'s.

    Raises:
        ValueError: as `Supervised`; when called, the teacher's outputs have another shape.
    """

    def __init__(
        self, *, teacher: keras.Model, temperature: Positive = 2.0, teacher_share: Share = 0.5, **supervised: Any
    ) -> None:
        super().__init__(**supervised)
        self._teacher, self._temperature, self._share = teacher, temperature, teacher_share

    def forward(self, inputs: Nest, targets: Nest = None, weights: Nest = None, *, training: bool) -> Forward:
        forward = super().forward(inputs, targets, weights, training=training)
        wanted = tf.cast(self._teacher(inputs, training=False), tf.float32)
        if wanted.shape[1:] != forward.outputs.shape[1:]:
            raise ValueError(f"the teacher gives {wanted.shape}, and the model {forward.outputs.shape}")
        soft = tf.nn.softmax(wanted / self._temperature)
        losses = tf.nn.softmax_cross_entropy_with_logits(soft, tf.cast(forward.outputs, tf.float32) / self._temperature)
        if weights is not None:
            losses *= expanded(weights, losses.shape.rank)
        taught = self._temperature**2 * tf.reduce_mean(losses)
        loss = (1 - self._share) * tf.cast(forward.loss, tf.float32) + self._share * taught
        return forward._replace(loss=loss)
