"""What a run is trained by and measured with: a loss, a metric, a schedule, a learner and a callback."""

import keras

from src.training.callback import Callback
from src.training.learner import Supervised


class SharpLoss:
    """Cross-entropy to a power."""

    def __init__(self, *, power):
        self.power = power

    def __call__(self, targets, logits):
        losses = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
        return keras.ops.mean(losses**self.power)


class ErrorRate(keras.metrics.SparseCategoricalAccuracy):
    """The share of examples whose highest logit is of another class."""

    def result(self):
        return 1 - super().result()


def halving(*, learning_rate, steps_per_epoch, epochs):
    """Half the rate after every so many epochs."""
    steps = epochs * steps_per_epoch
    return keras.optimizers.schedules.ExponentialDecay(learning_rate, steps, 0.5, staircase=True)


class SmallLogits(Supervised):
    """The mean square of the logits is a part of the loss."""

    def __init__(self, *, share, **supervised):
        super().__init__(**supervised)
        self.share = share

    def forward(self, inputs, targets=None, weights=None, *, training):
        found = super().forward(inputs, targets, weights, training=training)
        return found._replace(loss=found.loss + self.share * keras.ops.mean(found.outputs**2))


class StopAtLoss(Callback):
    """Ends the training at a loss that is low enough."""

    def __init__(self, *, loss):
        self.loss = loss

    def on_epoch_end(self, state, metrics):
        if metrics["train/loss"] <= self.loss:
            return f"the training loss is at most {self.loss}"
