"""What one step computes, and all that it changes: a model with its optimizer, loss and metrics.

    learner = Supervised(model=model, optimizer=optimizer, loss=loss, metrics={"accuracy": accuracy})
    loss, gradient_norm = learner.train_step(inputs, targets)
    loss = learner.eval_step(inputs, targets)

The trainer calls the steps in its graph loops. Another kind of learning overrides `forward`, what is computed of a
batch; with several optimizers also `train_step`, which ends in `apply`, `eval_step`, and `variables`.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import keras
import tensorflow as tf

from src.common.errors import control_flow_on_tensor, users_line
from src.common.ranges import Count, Positive, enforce_ranges
from src.losses import is_mean
from src.training.loss_scale import LossScale
from src.training.side_effects import side_effects, written

log = logging.getLogger(__name__)

Gradients: TypeAlias = list[tf.Tensor | None]  # None for a variable that the loss does not depend on
Update: TypeAlias = tuple[keras.optimizers.Optimizer, Gradients, Sequence[keras.Variable]]

# What `fit` and its like would call of a model, and this project does not.
STEPS_OF_KERAS = (
    *("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics"),
    *("make_train_function", "make_test_function", "make_predict_function"),
)

SEED = "seed_generator_state"  # the last part of the path of a random layer's variable


class Forward(NamedTuple):
    """What a batch's forward pass gives.

    Attributes:
        loss: the batch's mean [], without what layers add to it.
        targets, outputs: what the metrics compare.
        weights: of the targets in the metrics, float32; None where all count alike.
    """

    loss: tf.Tensor
    targets: tf.Tensor
    outputs: tf.Tensor
    weights: tf.Tensor | None = None


@enforce_ranges
class Supervised:
    """Learns to give the targets for the inputs, with one model and one optimizer.

    Args:
        model: a built Keras model: inputs [n, ...] -> outputs [n, ...].
        optimizer: a Keras optimizer; built here for the model's trainable variables.
        loss: loss(targets, outputs) -> the batch's mean, a scalar.
        metrics: Keras metrics by name, updated with (targets, outputs); `loss` is always there. One that gives several
            numbers by name stands for as many metrics, under these names.
        ignore_label: targets that count in no metric: they have the sample weight 0. Ignoring them is the loss's own.
        gradient_accumulation_steps: parts that each batch is computed in, one after another, for batches that do not
            fit in memory. The gradient is that of the whole batch, for a loss that is no mean over examples too, which
            costs a second forward pass; but for layers that mix examples, as batch normalisation: a warning names
            them. What a layer adds to the loss counts as a mean over examples. 1 by default.
        loss_scaling: scale the loss for float16 gradients; a step whose gradients overflow is left out.
        clip_norm: the largest global norm of the gradients; None does not clip.

    Attributes:
        model: what is evaluated, exported and asked for predictions.
        optimizer: whose learning rate is logged.
        metrics: by name, `loss` among them.
        parts: gradient_accumulation_steps.
        loss_scale: None without loss_scaling.

    Raises:
        ValueError: a metric is called `loss`; a number is out of its range; the optimizer scales the loss or
            accumulates gradients by itself.
    """

    def __init__(
        self,
        *,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        metrics: Mapping[str, keras.metrics.Metric] = MappingProxyType({}),
        ignore_label: int | None = None,
        gradient_accumulation_steps: Count | None = None,
        loss_scaling: bool = False,
        clip_norm: Positive | None = None,
    ) -> None:
        if getattr(optimizer, "loss_scale_factor", None) or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError("the optimizer scales the loss; leave its loss_scale_factor out: loss_scaling does that")
        if optimizer.gradient_accumulation_steps:
            raise ValueError("the optimizer accumulates gradients; leave that to the trainer's own option")
        if "loss" in metrics:
            raise ValueError("a metric is named 'loss'; the loss is always measured: give the metric another name")
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self._compared = dict(metrics)  # with targets and outputs
        self.metrics = {"loss": keras.metrics.Mean(name="loss"), **metrics}
        self.loss_scale = LossScale() if loss_scaling else None
        self.parts = gradient_accumulation_steps or 1
        self._ignore_label, self._clip_norm = ignore_label, clip_norm
        optimizer.build(model.trainable_variables)

    def train_step(self, inputs: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """One gradient step on a batch; returns as `apply`."""
        differentiate = self._differentiate
        if self.parts > 1:
            differentiate = self._differentiate_in_parts if self._is_plain_mean else self._differentiate_by_outputs
        loss, gradients = differentiate(inputs, targets)
        return self.apply([(self.optimizer, gradients, self.model.trainable_variables)], loss)

    def eval_step(self, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Measure one batch; returns its loss. Nothing is trained."""
        return self.measure(self.forward(inputs, targets, training=False))

    def forward(self, inputs: tf.Tensor, targets: tf.Tensor, *, training: bool) -> Forward:
        """What a step computes of a batch, before it measures and learns."""
        return self.compare(targets, self.model(inputs, training=training))

    def compare(self, targets: tf.Tensor, outputs: tf.Tensor) -> Forward:
        """The loss of the outputs, whatever gave them, and what the metrics take.

        Raises:
            ValueError: the loss cannot compare them, or gives no scalar.
        """
        with tf.name_scope("loss"), _errors_of("loss", targets, outputs):
            loss = tf.convert_to_tensor(self.loss(targets, outputs))
            if loss.shape != ():
                raise ValueError(f"it gives {loss} instead of one number")
        return Forward(loss, targets, outputs, self._weights(targets))

    def measure(self, forward: Forward) -> tf.Tensor:
        """Update the metrics; returns the loss with what the model's layers added in its last call, float32 [].

        Raises:
            ValueError: a metric cannot compare outputs and targets.
        """
        loss = self._total(forward)
        self._update_metrics(loss, forward)
        return loss

    def apply(self, updates: Sequence[Update], loss: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Take a step with each optimizer, if the loss and all gradients are finite.

        Else trained weights and optimizers stay as they are; what the forward pass itself changes, as batch
        normalisation's averages, does not. A gradient that overflows for its loss scale alone is no such case: the step
        is left out, and the scale is halved.

        Args:
            updates: (optimizer, gradients, variables), the gradients not scaled; clipped here, by the norm of all.
            loss: float32 [].

        Returns:
            The loss, NaN where it or a gradient is not finite, and the global norm of the gradients before clipping,
            float32 [].
        """
        norm = tf.linalg.global_norm([gradient for _, gradients, _ in updates for gradient in gradients])
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)

        def update() -> bool:
            for optimizer, gradients, variables in updates:
                if self._clip_norm is not None:
                    gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm, use_norm=norm)
                optimizer.apply(gradients, variables)
            return True

        tf.cond(finite, update, lambda: False)
        if self.loss_scale:
            overflows = tf.math.is_finite(loss) & ~finite & (self.loss_scale.value > 1)
            self.loss_scale.update(finite)
            finite |= overflows
        return tf.where(finite, loss, math.nan), tf.cast(norm, tf.float32)

    def variables(self) -> dict[str, list[keras.Variable]]:
        """All that steps change, by group and in saved order: what a checkpoint holds."""
        metrics = [v for _, metric in sorted(self.metrics.items()) for v in metric.variables]
        groups = {"model": self.model.variables, "optimizer": self.optimizer.variables, "metrics": metrics}
        return groups | ({"loss_scale": self.loss_scale.variables} if self.loss_scale else {})

    def results(self) -> dict[str, tf.Tensor]:
        """What the metrics have measured since they were reset, by name: scalars.

        Raises:
            ValueError: a metric gives something else, or several have one name.
        """
        found: dict[str, tf.Tensor] = {}
        for key, metric in self.metrics.items():
            result = metric.result()
            for name, given in (result if isinstance(result, dict) else {key: result}).items():
                value = tf.convert_to_tensor(given)
                if value.shape != ():
                    raise ValueError(f"{key} gives {result} instead of one number")
                if name in found:
                    raise ValueError(f"several metrics are named {name!r}; leave one of them out")
                found[name] = value
        return found

    def reset_metrics(self) -> None:
        """Measure anew from here."""
        for metric in self.metrics.values():
            metric.reset_state()

    def check(self) -> None:
        """Find out early what would train otherwise than it seems.

        Raises:
            ValueError: the model has its own `train_step` or the like, or several outputs; or a `forward` of one's own
                would not be called.
        """
        of_keras = {name: getattr(keras.Model, name) for name in STEPS_OF_KERAS}
        own = [name for name, step in of_keras.items() if getattr(getattr(self.model, name), "__func__", None) != step]
        if own:
            raise ValueError(
                f"{type(self.model).__name__} has its own {', '.join(own)}, which would not be called: the trainer has "
                "steps of its own. Give a model of its outputs, keras.Model(inputs, mine(inputs)), with what these "
                "compute in the loss, the metrics or layers"
            )
        if len(getattr(self.model, "outputs", None) or []) != 1:
            raise ValueError("the model must be a functional or sequential one with a single output tensor")
        if self.parts > 1 and type(self).forward is not Supervised.forward and not self._is_plain_mean:
            raise ValueError(
                f"gradient_accumulation_steps={self.parts} does not go with {type(self).__name__}.forward and this "
                "loss: its gradient for the whole batch is taken without calling it. Give a loss that is a plain "
                "mean, or leave the parts out"
            )
        if self.parts > 1:
            self._warn_of_layers_that_mix_examples()

    def _total(self, forward: Forward) -> tf.Tensor:
        with tf.name_scope("loss"):
            return tf.add_n([tf.cast(term, tf.float32) for term in (forward.loss, *self.model.losses)])

    # A batch's loss and gradients, with the metrics updated: at once, or in parts.

    def _differentiate(self, inputs: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        with tf.GradientTape() as tape:
            forward = self.forward(inputs, targets, training=True)
            loss = self._total(forward)
            scaled = self._scaled(loss)
        gradients = self._unscaled(tape.gradient(scaled, self.model.trainable_variables))
        self._update_metrics(loss, forward)
        return loss, gradients

    def _differentiate_in_parts(self, inputs: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        """With the activations of only a part of the batch in memory at a time."""
        examples, whole = tf.shape(inputs)[0], _count(targets, self._weights(targets))

        def of_part(inputs: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
            loss, gradients = self._differentiate(inputs, targets)
            # Where nothing counts, what is left of the loss, as a regulariser, does.
            by_examples = tf.cast(tf.shape(targets)[0] / examples, tf.float32)
            share = tf.where(whole > 0, _count(targets, self._weights(targets)) / whole, by_examples)
            return share * loss, [
                None if g is None else tf.cast(share, g.dtype) * tf.convert_to_tensor(g) for g in gradients
            ]

        return self._sum_over_parts(of_part, tf.zeros([]), inputs, targets)

    def _differentiate_by_outputs(self, inputs: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        """In parts, for any loss: its gradient for the whole batch's outputs, which have been computed part by part,
        goes back through each part, computed once more."""
        examples, one = tf.shape(inputs)[0], self._scaled(tf.ones([]))
        outputs = self._outputs_of_parts(inputs)
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            forward = self.compare(targets, outputs)
            loss = tf.cast(forward.loss, tf.float32)
            scaled = self._scaled(loss)
        slopes = tape.gradient(scaled, outputs, unconnected_gradients=tf.UnconnectedGradients.ZERO)

        def of_part(inputs: tf.Tensor, slopes: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
            share = tf.cast(tf.shape(inputs)[0] / examples, tf.float32)
            with tf.GradientTape() as back:
                outputs = self.model(inputs, training=True)
                added = share * tf.add_n([tf.zeros([]), *(tf.cast(term, tf.float32) for term in self.model.losses)])
            variables = self.model.trainable_variables
            return added, self._unscaled(back.gradient([outputs, added], variables, output_gradients=[slopes, one]))

        loss, gradients = self._sum_over_parts(of_part, loss, inputs, slopes)
        self._update_metrics(loss, forward)
        return loss, gradients

    def _sum_over_parts(
        self, of_part: Callable[..., tuple[tf.Tensor, Gradients]], loss: tf.Tensor, *batch: tf.Tensor
    ) -> tuple[tf.Tensor, Gradients]:
        """`loss`, and gradients of 0, with what `of_part` gives of each part of the batch added to them."""
        examples, size = self._sizes(batch[0])

        def add(start, loss, totals):
            added, gradients = of_part(*(tensor[start : start + size] for tensor in batch))
            pairs = zip(totals, gradients, strict=True)
            totals = [total if g is None else total + tf.convert_to_tensor(g) for total, g in pairs]
            return start + size, loss + added, totals

        begin = (tf.constant(0), loss, [tf.zeros(v.shape, v.dtype) for v in self.model.trainable_variables])
        _, loss, gradients = tf.while_loop(lambda start, *_: start < examples, add, begin)
        return loss, gradients

    def _outputs_of_parts(self, inputs: tf.Tensor) -> tf.Tensor:
        """The whole batch's outputs; what layers keep is as it was before, so that the same is computed again."""
        examples, size = self._sizes(inputs)
        before = [tf.identity(v.value) for v in self._changed_by_layers]
        shape = [None, *self.model.output.shape[1:]]

        def add(start, outputs):
            part = self.model(inputs[start : start + size], training=True)
            return start + size, outputs.write(start // size, part)

        growing = {"size": 0, "dynamic_size": True, "infer_shape": False}
        parts = tf.TensorArray(self.model.output.dtype, element_shape=shape, **growing)
        _, parts = tf.while_loop(lambda start, _: start < examples, add, (tf.constant(0), parts))
        outputs = tf.ensure_shape(parts.concat(), shape)
        for variable, value in zip(self._changed_by_layers, before, strict=True):
            variable.assign(value)
        return outputs

    def _sizes(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Examples of a batch, and of each of its parts but a shorter last one: int32 []."""
        examples = tf.shape(inputs)[0]
        return examples, -(-examples // self.parts)

    def _scaled(self, loss: tf.Tensor) -> tf.Tensor:
        return loss * self.loss_scale.value if self.loss_scale else loss

    def _unscaled(self, gradients: Gradients) -> Gradients:
        if self.loss_scale is None:
            return gradients
        scale = self.loss_scale.value
        return [None if g is None else g / tf.cast(scale, g.dtype) for g in gradients]

    @property
    def _is_plain_mean(self) -> bool:
        """Whether parts of a batch, weighted by what counts in them, give its loss."""
        return is_mean(self.loss, ignore_label=self._ignore_label) and not (
            self.model.losses and self._ignore_label is not None
        )

    @functools.cached_property
    def _changed_by_layers(self) -> list[keras.Variable]:
        """The model's variables that a forward pass changes while training."""
        (inputs,) = self.model.inputs

        def call(x: tf.Tensor) -> tf.Tensor:
            return self.model(x, training=True)

        with tf.init_scope():
            spec = tf.TensorSpec([None, *inputs.shape[1:]], inputs.dtype)
            graph = tf.function(call, autograph=False).get_concrete_function(spec)
        return written(side_effects(graph), self.model.variables)

    def _warn_of_layers_that_mix_examples(self) -> None:
        layers = [v.path.rpartition("/")[0] for v in self._changed_by_layers if not v.path.endswith(SEED)]
        if layers:
            log.warning(
                "gradient_accumulation_steps=%d: training differs from that in whole batches: %s would see all of a "
                "batch at once, and now see a part of it",
                *(self.parts, ", ".join(dict.fromkeys(layers))),
            )

    # Metrics

    def _weights(self, targets: tf.Tensor) -> tf.Tensor | None:
        """1.0 for each target that counts, 0.0 for those that are ignored; None where all count."""
        return None if self._ignore_label is None else tf.cast(targets != self._ignore_label, tf.float32)

    def _update_metrics(self, loss: tf.Tensor, forward: Forward) -> None:
        with tf.name_scope("metrics"):
            self.metrics["loss"].update_state(loss, sample_weight=_count(forward.targets, forward.weights))
            for name, metric in self._compared.items():
                with _errors_of(name, forward.targets, forward.outputs):
                    more = {} if forward.weights is None else {"sample_weight": forward.weights}  # some take none
                    metric.update_state(forward.targets, forward.outputs, **more)


@contextmanager
def _errors_of(name: str, targets: tf.Tensor, outputs: tf.Tensor) -> Iterator[None]:
    """What a loss or metric raises while the graph is made is told with its name, and what it was given."""
    try:
        yield
    except (ValueError, TypeError, tf.errors.OpError) as error:
        if reason := control_flow_on_tensor(error):
            raise ValueError(f"{name}: {reason}") from error
        reason = str(error).strip().splitlines()[-1].strip()
        if line := users_line(error):
            reason = f"{reason}; {line}"
        raise ValueError(
            f"{name} cannot compare the model's outputs {outputs.dtype.name} {outputs.shape} with the "
            f"targets {targets.dtype.name} {targets.shape}; choose what fits together ({reason})"
        ) from error


def _count(targets: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """How much a batch counts, float32 []: its examples, or the part of them that its targets' weights are."""
    examples = tf.cast(tf.shape(targets)[0], tf.float32)
    return examples if weights is None else examples * tf.reduce_mean(weights)
