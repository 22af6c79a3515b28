"""What one step computes, and all that it changes: a model with its optimizer, loss and metrics.

    learner = Supervised(model=model, optimizer=optimizer, loss=loss, metrics={"accuracy": accuracy})
    loss, gradient_norm = learner.train_step(inputs, targets)
    loss = learner.eval_step(inputs, targets)

The trainer calls the steps in its graph loops, each with a batch's parts: inputs, and targets and sample weights where
the data has them, each any nest of tensors [n, ...]. Another kind of learning overrides `forward`, what is computed of
a batch; with several optimizers also `train_step`, which ends in `apply`, `eval_step`, and `variables`.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import keras
import tensorflow as tf

from src.common.errors import control_flow_on_tensor, users_line
from src.common.ranges import Count, Positive, enforce_ranges
from src.data.batch import Batch, Nest, described, examples_of, is_single
from src.losses import as_mask, check_classes, expanded, is_mean, mean_loss
from src.training.accumulation import by_outputs, changed_by_layers, in_parts, refuse_mask
from src.training.loss_scale import LossScale
from src.training.side_effects import inner_layers
from src.training.stand_in import StandIn

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
        weights: of the targets in the metrics; None where all count alike.
    """

    loss: tf.Tensor
    targets: Nest = None
    outputs: Nest = None
    weights: Nest = None


@enforce_ranges
class Supervised:
    """Learns to give the targets for the inputs, with one model and one optimizer.

    Args:
        model: a built Keras model: inputs -> outputs, each a nest of tensors [n, ...].
        optimizer: a Keras optimizer; built here for the model's trainable variables.
        loss: loss(targets, outputs) -> the batch's mean, a scalar, or values of which the mean is taken, as `compile`
            takes them; see `src.losses.mean_loss` for sample weights and masks. None where layers alone add losses.
        metrics: Keras metrics by name, updated with (targets, outputs), and weighted by the data's sample weights as
            `compile` does with its weighted_metrics; `loss` is always there. One that gives several
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
        is_alone: whether no other process takes the same steps.

    Raises:
        ValueError: a metric is called `loss`; a number is out of its range; the optimizer scales the loss or
            accumulates gradients by itself; the model is not built.
    """

    is_alone = True

    def __init__(
        self,
        *,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss: Callable[[Nest, Nest], tf.Tensor] | None = None,
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
        if not model.built:
            raise ValueError(f"{type(model).__name__} is not built: call it once with a batch, mine(inputs), before")
        if "loss" in metrics:
            raise ValueError("a metric is named 'loss'; the loss is always measured: give the metric another name")
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self._compared = dict(metrics)  # with targets and outputs
        self.metrics = {"loss": keras.metrics.Mean(name="loss"), **metrics}
        self.loss_scale = LossScale() if loss_scaling else None
        self.parts = gradient_accumulation_steps or 1
        self._ignore_label, self._clip_norm = ignore_label, clip_norm
        optimizer.build(model.trainable_variables)

    def train_step(self, *batch: Nest) -> tuple[tf.Tensor, tf.Tensor]:
        """One gradient step on a batch; returns as `apply`."""
        if self.parts == 1:
            loss, gradients = self.differentiate(*batch)
        else:
            loss, gradients = (in_parts if self._is_plain_mean else by_outputs)(self, *batch)
        return self.apply([(self.optimizer, gradients, self.model.trainable_variables)], loss)

    def eval_step(self, *batch: Nest) -> tf.Tensor:
        """Measure one batch; returns its loss. Nothing is trained."""
        return self.measure(self.forward(*batch, training=False), *batch)

    def eval_outputs_step(
        self, predict: Callable[[Nest], Nest], raw: Nest, prepared: Nest, *targets_and_weights: Nest
    ) -> tf.Tensor:
        """As `eval_step`, of the outputs of another model, `predict(raw)`, in place of the model's of `prepared`.

        Raises:
            OtherInputs: `forward` does not give the model `prepared`, and that is something else than `raw`.
        """
        learner = copy.copy(self)
        learner.model = StandIn(self.model, predict, raw, prepared)
        return learner.eval_step(prepared, *targets_and_weights)

    def forward(self, inputs: Nest, targets: Nest = None, weights: Nest = None, *, training: bool) -> Forward:
        """What a step computes of a batch, before it measures and learns."""
        outputs = self.model(inputs, training=training)
        if self.parts > 1:
            refuse_mask(outputs)
        return self.compare(targets, outputs, weights)

    def compare(self, targets: Nest, outputs: Nest, weights: Nest = None) -> Forward:
        """The loss of the outputs, whatever gave them, and what the metrics take.

        Raises:
            ValueError: the loss cannot compare them, or gives no scalar.
        """
        weights = as_mask(weights, outputs)
        with tf.name_scope("loss"), _errors_of("loss", targets, outputs):
            loss = tf.zeros([]) if self.loss is None else mean_loss(self.loss, targets, outputs, weights)
            if loss.shape != ():
                raise ValueError(f"it gives {loss} instead of one number")
        counted = self._counted(targets)
        if counted is not None:
            weights = counted if weights is None else counted * expanded(weights, counted.shape.rank)
        return Forward(loss, targets, outputs, weights)

    def count(self, inputs: Nest, targets: Nest = None, weights: Nest = None) -> tf.Tensor:
        """How much a batch counts in the mean of losses, float32 []: its examples, or the part that is not ignored.

        Sample weights change nothing of it, as in Keras's `fit`.
        """
        examples, counted = tf.cast(examples_of(inputs), tf.float32), self._counted(targets)
        return examples if counted is None else examples * tf.reduce_mean(counted)

    def measure(self, forward: Forward, *batch: Nest) -> tf.Tensor:
        """Update the metrics; returns the loss with what the model's layers added in its last call, float32 [].

        Args:
            batch: which `forward` is of.

        Raises:
            ValueError: a metric cannot compare outputs and targets.
        """
        loss = self._total(forward)
        self.update_metrics(loss, forward, *batch)
        return loss

    def differentiate(self, *batch: Nest) -> tuple[tf.Tensor, Gradients]:
        """A batch's loss, float32 [], and its gradients for the model's trainable variables; metrics are updated."""
        with tf.GradientTape() as tape:
            forward = self.forward(*batch, training=True)
            loss = self._total(forward)
            scaled = self.scaled(loss)
        gradients = self.unscaled(tape.gradient(scaled, self.model.trainable_variables))
        self.update_metrics(loss, forward, *batch)
        return loss, gradients

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
                self.take_step(optimizer, gradients, variables)
            return True

        tf.cond(finite, update, lambda: False)
        if self.loss_scale:
            overflows = tf.math.is_finite(loss) & ~finite & (self.loss_scale.value > 1)
            self.loss_scale.update(finite)
            finite |= overflows
        return tf.where(finite, loss, math.nan), tf.cast(norm, tf.float32)

    def gather(self, values: Iterable[float]) -> list[list[float]]:
        """What each of the processes that train together gives here, the first one's first: as many numbers each."""
        return [[*values]]

    def begin_alike(self, state: object) -> None:
        """Give all processes that train together the first one's state."""

    def take_step(
        self, optimizer: keras.optimizers.Optimizer, gradients: Gradients, variables: Sequence[keras.Variable]
    ) -> None:
        """Apply an optimizer's gradients, as they are at last."""
        optimizer.apply(gradients, variables)

    def examples_in_step(self, inputs: Nest) -> tf.Tensor:
        """Of how many examples `inputs` are all that a step computes: int32 []."""
        return examples_of(inputs)

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

    def input_spec(self, batch_spec: Batch) -> Nest:
        """What `model` takes, of the spec of a batch: what is exported."""
        return batch_spec[0]

    def check(self, batch_spec: Batch) -> None:
        """Find out early what would train otherwise than it seems.

        Args:
            batch_spec: of the training batches.

        Raises:
            ValueError: the model has its own `train_step` or the like, or a stateful RNN; a loss of Keras's counts
                targets that are ignored; targets are strings; or a `forward` of one's own would not be called.
        """
        strings = [spec for spec in tf.nest.flatten(batch_spec[1:2]) if spec.dtype == tf.string]
        if strings and type(self).forward is Supervised.forward:
            raise ValueError(
                f"the targets are {described(batch_spec[1])}, and losses take numbers: give each class its number, "
                "names, numbers = np.unique(labels, return_inverse=True), and these names as the data's class_names"
            )
        of_keras = {name: getattr(keras.Model, name) for name in STEPS_OF_KERAS}
        own = [name for name, step in of_keras.items() if getattr(getattr(self.model, name), "__func__", None) != step]
        if own:
            raise ValueError(
                f"{type(self.model).__name__} has its own {', '.join(own)}, which would not be called: the trainer has "
                "steps of its own. Give a model of its outputs, keras.Model(inputs, mine(inputs)), with what these "
                "compute in the loss, the metrics or layers"
            )
        if stateful := [layer.name for layer in inner_layers(self.model) if getattr(layer, "stateful", False)]:
            raise ValueError(
                f"layer {', '.join(map(repr, stateful))} goes on from the batch before, which no checkpoint holds: "
                "leave stateful=True out, and give whole sequences"
            )
        ignored, of_library = self._ignore_label, isinstance(self.loss, keras.losses.Loss)
        if of_library and ignored is not None and getattr(self.loss, "ignore_class", None) != ignored:
            raise ValueError(
                f"the data ignores the label {ignored}, and {type(self.loss).__name__} takes it for a target like "
                "others; choose a loss that leaves it out, as cross_entropy or dice with a logit for each class"
            )
        if self.parts > 1 and type(self).forward is not Supervised.forward and not self._is_plain_mean:
            raise ValueError(
                f"gradient_accumulation_steps={self.parts} does not go with {type(self).__name__}.forward and this "
                "loss: its gradient for the whole batch is taken without calling it. Give a loss that is a plain "
                "mean, or leave the parts out"
            )
        if self.parts > 1:
            self._warn_of_layers_that_mix_examples(self.input_spec(batch_spec))

    def _total(self, forward: Forward) -> tf.Tensor:
        if not isinstance(forward, Forward):
            told = described(forward) if tf.is_tensor(forward) else f"a {type(forward).__name__}"
            raise ValueError(
                f"{type(self).__name__}.forward gives {told}; it must give "
                "Forward(loss, targets, outputs, weights), as self.compare(targets, outputs, weights) does"
            )
        with tf.name_scope("loss"):
            return tf.add_n([tf.cast(term, tf.float32) for term in (forward.loss, *self.model.losses)])

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss by the scale that keeps its float16 gradients from vanishing."""
        return loss * self.loss_scale.value if self.loss_scale else loss

    def unscaled(self, gradients: Gradients) -> Gradients:
        """Gradients of a `scaled` loss as those of the loss."""
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

    def _warn_of_layers_that_mix_examples(self, input_spec: Nest) -> None:
        changed = changed_by_layers(self.model, input_spec)
        layers = [v.path.rpartition("/")[0] for v in changed if not v.path.endswith(SEED)]
        if layers:
            log.warning(
                "gradient_accumulation_steps=%d: training differs from that in whole batches: %s would see all of a "
                "batch at once, and now see a part of it",
                *(self.parts, ", ".join(dict.fromkeys(layers))),
            )

    def update_metrics(self, loss: tf.Tensor, forward: Forward, *batch: Nest) -> None:
        """Take a batch into the metrics; see `measure`."""
        with tf.name_scope("metrics"):
            self.metrics["loss"].update_state(loss, sample_weight=self.count(*batch))
            for name, metric in self._compared.items():
                with _errors_of(name, forward.targets, forward.outputs):
                    is_of_one = type(metric).__module__.startswith("keras.")
                    if is_of_one and not (is_single(forward.targets) and is_single(forward.outputs)):
                        raise ValueError("it takes one tensor of each; src.metrics.Of is a metric of one output")
                    check_classes(metric, forward.targets, forward.outputs)
                    more = {} if forward.weights is None else {"sample_weight": forward.weights}  # some take none
                    metric.update_state(forward.targets, forward.outputs, **more)

    def _counted(self, targets: Nest) -> tf.Tensor | None:
        """1.0 for each target that counts, 0.0 for those that are ignored; None where all count."""
        return None if self._ignore_label is None else tf.cast(targets != self._ignore_label, tf.float32)


@contextmanager
def _errors_of(name: str, targets: Nest, outputs: Nest) -> Iterator[None]:
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
            f"{name} cannot compare the model's outputs {described(outputs)} with the targets {described(targets)}; "
            f"choose what fits together ({reason})"
        ) from error
