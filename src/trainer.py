"""The training loop: GradientTape steps, many of them in one graph call.

    trainer = Trainer(model=model, optimizer=keras.optimizers.Adam(1e-3),
                      loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                      metrics={"accuracy": keras.metrics.SparseCategoricalAccuracy()})
    trainer.fit(train_dataset, val_dataset, epochs=10)
    trainer.evaluate(test_dataset)      # {"loss": ..., "accuracy": ...}

It knows no path, no config and no global; what should happen beside training is a callback.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from src.callbacks.base import Callback
from src.data.pipeline import Batches, as_batches, failure
from src.errors import control_flow_on_tensor, users_line
from src.loss_scale import LossScale
from src.losses import is_mean
from src.ranges import Count, Positive, enforce_ranges
from src.state import Mode, TrainState, kept
from src.step_graph import check_resumable, constants, side_effects, written

log = logging.getLogger(__name__)

Graph: TypeAlias = tuple[Callable, list[keras.Variable]]  # of many steps, and the variables that they change

# What `fit` and its like would call of a model, and this trainer does not.
STEPS_OF_KERAS = (
    *("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics"),
    *("make_train_function", "make_test_function", "make_predict_function"),
)

SEED = "seed_generator_state"  # the last part of the path of a random layer's variable

CALL_SECONDS = 0.5  # a graph call's length where steps_per_call is left open: Python's part is then below 1 %


class NonFiniteLoss(ArithmeticError):
    """A step's loss was NaN or infinite; the weights are those before that step."""


class Interrupted(Exception):
    """Training stopped between two steps because `Trainer.interrupt` was called; callbacks have been told."""


@enforce_ranges
class Trainer:
    """Trains and evaluates one model.

    Args:
        model: a built Keras model: inputs [n, ...] -> outputs [n, ...].
        optimizer: a Keras optimizer.
        loss: loss(targets, outputs) -> the batch's mean, a scalar.
        metrics: Keras metrics by name, updated with (targets, outputs); `loss` is always there. One that gives several
            numbers by name stands for as many metrics, under these names.
        ignore_label: targets that count in no metric: they have the sample weight 0. Ignoring them is the loss's own.
        callbacks: by name; their order is the call order.
        monitor, mode: see TrainState.
        validate_every_epochs: validation ends each epoch whose number this divides, and the last one; 1 by default.
        validate_every_steps: validation also at every multiple of this step count.
        gradient_accumulation_steps: parts that each batch is computed in, one after another, for batches that do not
            fit in memory. The gradient is that of the whole batch, for a loss that is no mean over examples too, which
            costs a second forward pass; but for layers that mix examples, as batch normalisation: a warning names
            them. What a layer adds to the loss counts as a mean over examples. 1 by default.
        loss_scaling: scale the loss for float16 gradients; a step whose gradients overflow is left out.
        steps_per_call: training steps in one graph call; None lets a call last about half a second.
        clip_norm: the largest global norm of the gradients; None does not clip.
        jit_compile: compile the steps with XLA.

    Raises:
        ValueError: a metric is called `loss`; the optimizer scales the loss or accumulates gradients by itself; parts
            of batches are to be compiled with XLA.
    """

    def __init__(
        self,
        *,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        metrics: Mapping[str, keras.metrics.Metric] = MappingProxyType({}),
        ignore_label: int | None = None,
        callbacks: Mapping[str, Callback] = MappingProxyType({}),
        monitor: str = "train/loss",
        mode: Mode = "min",
        validate_every_epochs: Count | None = None,
        validate_every_steps: Count | None = None,
        gradient_accumulation_steps: Count | None = None,
        loss_scaling: bool = False,
        steps_per_call: Count | None = None,
        clip_norm: Positive | None = None,
        jit_compile: bool = False,
    ) -> None:
        if getattr(optimizer, "loss_scale_factor", None) or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError("the optimizer scales the loss; leave its loss_scale_factor out: loss_scaling does that")
        if optimizer.gradient_accumulation_steps:
            raise ValueError("the optimizer accumulates gradients; leave that to the trainer's own option")
        if "loss" in metrics:
            raise ValueError("a metric is named 'loss'; the loss is always measured: give the metric another name")
        if jit_compile and (gradient_accumulation_steps or 1) > 1:
            raise ValueError("gradient_accumulation_steps and jit_compile do not go together: XLA needs fixed sizes")
        self.model, self.optimizer, self.callbacks = model, optimizer, callbacks
        for name, callback in callbacks.items():
            callback.name = name
        self.loss, self._metrics, self._clip_norm = loss, dict(metrics), clip_norm
        self._ignore_label, self._parts = ignore_label, gradient_accumulation_steps or 1
        self._validate_every_epochs, self._validate_every_steps = validate_every_epochs or 1, validate_every_steps
        self._mean_loss = keras.metrics.Mean(name="loss")
        self.state = TrainState(
            model=model,
            optimizer=optimizer,
            metrics={"loss": self._mean_loss, **metrics},
            monitor=monitor,
            mode=mode,
            loss_scale=LossScale() if loss_scaling else None,
        )
        self._steps_per_call = steps_per_call
        self._seconds_per_step = math.inf
        self._checked: Batches | None = None
        self._constants: dict[str, list[str]] = {}
        self._adapted: dict[int, tuple[Batches | tf.data.Dataset, Batches]] = {}
        self._graphs: dict[tuple[int, Callable], Graph] = {}
        self._results_graph = tf.function(self._compute_results, autograph=False)
        self._train_step, self._eval_step = self.train_step, self.eval_step
        if jit_compile:
            self._train_step, self._eval_step = (
                tf.function(step, jit_compile=True, autograph=False) for step in (self.train_step, self.eval_step)
            )
        self._stop = tf.Variable(False, trainable=False)
        self._interrupt_reason: str | None = None

    def train_step(self, inputs: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """One gradient step on a batch; returns its loss and the global norm of its gradients, before clipping.

        Where the loss or the gradient is not finite, trained weights and optimizer stay as they are and NaN is
        returned; what the forward pass itself changes, as batch normalisation's averages, does not. A gradient that
        overflows for its loss scale alone is no such case: the step is left out, and the scale is halved.
        """
        variables = self.model.trainable_variables
        differentiate = self._differentiate
        if self._parts > 1:
            differentiate = self._differentiate_in_parts if self._is_plain_mean else self._differentiate_by_outputs
        loss, gradients = differentiate(inputs, targets)
        norm = tf.linalg.global_norm(gradients)
        if self._clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm, use_norm=norm)
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        tf.cond(finite, lambda: self._apply(gradients, variables), lambda: False)
        if self.state.loss_scale:
            overflows = tf.math.is_finite(loss) & ~finite & (self.state.loss_scale.value > 1)
            self.state.loss_scale.update(finite)
            finite |= overflows
        return tf.where(finite, loss, math.nan), tf.cast(norm, tf.float32)

    def eval_step(self, inputs: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Measure one batch; returns its loss, and 0 in place of a gradient's norm. Nothing is trained."""
        return self._measure_batch(targets, self.model(inputs, training=False))

    def fit(
        self, train: Batches | tf.data.Dataset, val: Batches | tf.data.Dataset | None = None, *, epochs: int
    ) -> TrainState:
        """Train up to `epochs` epochs in all, validating after each, from wherever the state stands.

        Args:
            train, val: batches of (inputs, targets); a tf.data.Dataset of known length, or `src.data.pipeline`'s.

        Raises:
            NonFiniteLoss: naming the step.
            Interrupted: after `interrupt`, with the state as it is after the last step done.
            ValueError: as `check`, before the first step, or a variable that steps only read is not what it was; or a
                callback wants to stop where it may not.
        """
        train, val, state = self._batches(train), None if val is None else self._batches(val), self.state
        if train is not self._checked:
            self.check(train, val)
        state.compute_with(self._constants)
        callbacks = list(self.callbacks.values())
        with ExitStack() as closing:
            for callback in callbacks:
                closing.callback(callback.close)
            for callback in callbacks:
                callback.make_all_durable = self._make_durable
            for callback in callbacks:
                callback.on_train_begin(state)
            while state.epoch < epochs and not state.stop_reason:
                self._train_epoch(train, val)
                if state.stop_reason:
                    break
                metrics = {f"train/{name}": value for name, value in self._results().items()}
                if val is not None and (self._ends_with_validation(state.epoch + 1) or state.epoch + 1 == epochs):
                    metrics |= self._validate(val)
                self._reset_metrics()
                state.end_epoch(metrics)
                for callback in callbacks:
                    reason = callback.on_epoch_end(state, MappingProxyType(metrics))
                    state.stop_reason = state.stop_reason or reason
                self._raise_if_interrupted()
            for callback in callbacks:
                callback.on_train_end(state)
            self._make_durable()
        return state

    def evaluate(self, data: Batches | tf.data.Dataset) -> dict[str, float]:
        """The loss and metrics over all examples of a split, weighted by examples: {"loss": ..., ...}.

        Raises:
            Interrupted: `interrupt` has been called, and `resume` not.
        """
        return self._measure(self._batches(data))

    def evaluate_outputs(
        self,
        predict: Callable[[tf.Tensor], tf.Tensor],
        data: Batches | tf.data.Dataset,
        *,
        own: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ) -> dict[str, float]:
        """As `evaluate`, of the outputs of any other `predict(inputs)` than the model's own: an exported one's.

        Args:
            own: the model's own outputs for the same inputs, where these are none that it takes as they are; called for
                the losses that its layers add.
        """

        def step(inputs: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            outputs = predict(inputs)
            if own is None:
                self.model(inputs, training=False)
            else:
                own(inputs)
            return self._measure_batch(targets, outputs)

        return self._measure(self._batches(data), step)

    def interrupt(self, reason: str) -> None:
        """Ask `fit` to stop after the step it is in. May be called from another thread."""
        self._interrupt_reason = reason
        self._stop.assign(True)

    def resume(self) -> None:
        """Forget an interruption, so that `fit` can go on."""
        self._interrupt_reason = None
        self._stop.assign(False)

    def check(self, train: Batches, val: Batches | None) -> None:
        """Find out early what would go wrong.

        Raises:
            ValueError: the monitor is no metric of this training, the loss or a metric cannot compare the model's
                outputs with the targets or gives no scalar, the model has its own `train_step` or the like, or a step
                changes what no checkpoint holds or draws what no seed brings back; nothing has been computed or
                changed.
        """
        if own := [name for name in STEPS_OF_KERAS if _is_overridden(self.model, name)]:
            raise ValueError(
                f"{type(self.model).__name__} has its own {', '.join(own)}, which would not be called: the trainer has "
                "steps of its own. Give a model of its outputs, keras.Model(inputs, mine(inputs)), with what these "
                "compute in the loss, the metrics or layers"
            )
        _, targets = train.element_spec
        found = getattr(self.model, "outputs", None) or []
        if len(found) != 1:
            raise ValueError("the model must be a functional or sequential one with a single output tensor")
        output = found[0]
        outputs = tf.TensorSpec(output.shape, output.dtype)

        functions = {"loss": self.loss, **{name: self._measured(metric) for name, metric in self._metrics.items()}}
        measured: list[str] = []
        for name, function in functions.items():

            def compare(y: tf.Tensor, x: tf.Tensor, function: Callable = function) -> tf.Tensor:
                return function(y, x)

            try:
                graph = tf.function(compare, autograph=False).get_concrete_function(targets, outputs)
                results = graph.structured_outputs
                results = results if isinstance(results, dict) else {name: results}
                if any(getattr(result, "shape", None) != () for result in results.values()):
                    raise ValueError(f"it gives {graph.structured_outputs} instead of one number")
                measured += results
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
        if twice := [name for name in measured if measured.count(name) > 1]:
            raise ValueError(f"several metrics are named {twice[0]!r}; leave one of them out")
        splits = ("train",) if val is None else ("train", "val")
        names = [f"{split}/{name}" for split, name in itertools.product(splits, measured)]
        if self.state.monitor not in names:
            why = " (there is no val split)" if val is None else ""
            raise ValueError(f"monitor is {self.state.monitor!r}; this run measures {', '.join(names)}{why}")
        if self._parts > 1:
            self._warn_of_parts()
        self._graph_loop(train, self._train_step, train.open(0, 0))
        if val is not None:
            self._graph_loop(val, self._eval_step, val.open(0, 0))
        self._checked = train

    def _batches(self, data: Batches | tf.data.Dataset) -> Batches:
        """`as_batches`, once for each dataset: the graphs are made for what it returns."""
        if id(data) not in self._adapted:
            self._adapted[id(data)] = data, as_batches(data)
        return self._adapted[id(data)][1]

    def _train_epoch(self, train: Batches, val: Batches | None) -> None:
        state, steps = self.state, train.steps_per_epoch
        if state.epoch_step > steps:
            raise ValueError(f"this epoch has {steps} steps, and the state has done {state.epoch_step} of it already")
        cursor = train.open(state.epoch, state.epoch_step)
        run, _ = self._graph_loop(train, self._train_step, cursor)
        while (first := state.epoch_step) < steps and not state.stop_reason:
            if val is not None and self._is_validation_due():
                self._validate_within_epoch(val)
            began = time.perf_counter()
            length = tf.constant(self._call_length(steps - first))
            with _errors_of(train):
                losses, norms, rate = run(cursor, tf.constant(first), length)
            state.losses, state.gradient_norms, seconds = losses.numpy(), norms.numpy(), time.perf_counter() - began
            done, learning_rate = len(state.losses), float(rate)
            if done:
                state.count_steps(done, learning_rate=learning_rate)
            if done and not math.isfinite(state.losses[-1]):
                raise NonFiniteLoss(
                    f"the loss or the gradient of step {state.step} is not finite; the step was not taken. Look for a "
                    f"too high learning rate (it is {learning_rate:g}), or for NaN in the data"
                )
            if done:
                self._seconds_per_step = seconds / done
                rates = {"learning_rate": learning_rate, "steps_per_second": done / seconds}
                self._log({"train/loss": float(state.losses.mean()), **rates})
            self._raise_if_interrupted()

    def _graph_loop(self, batches: Batches, step: Callable[[tf.Tensor, tf.Tensor], tuple], cursor: Any) -> Graph:
        """`_make_loop`'s graph for one of the trainer's own steps, made and checked once a split.

        Raises:
            ValueError: the step changes what a checkpoint does not hold, or comes out otherwise each time.
        """
        key = (id(batches), step)
        if key not in self._graphs:
            run = self._make_loop(batches, step)
            try:
                graph = run.get_concrete_function(cursor, tf.constant(0), tf.constant(0))
            except (TypeError, ValueError, RuntimeError) as error:
                if reason := control_flow_on_tensor(error):
                    raise ValueError(reason) from error
                raise
            effects, variables = side_effects(graph), self.state.all_variables()
            check_resumable(effects, saved=variables, others=graph.graph.variables, model=self.model)
            if step is self._train_step:
                self._constants = constants(graph.graph.variables, saved=[*(v.value for v in variables), self._stop])
            self._graphs[key] = run, written(effects, variables)
        return self._graphs[key]

    def _make_loop(
        self, batches: Batches, step: Callable[[tf.Tensor, tf.Tensor], tuple]
    ) -> tf.types.experimental.PolymorphicFunction:
        """A graph of (cursor, first, count) -> (losses, gradient norms, learning rate); the first two [steps done].

        The learning rate is that of the last step done; NaN where there is none, or where nothing is trained.
        """
        trains = step is self._train_step

        @tf.function(autograph=False)
        def run(cursor, first, count):
            def goes_on(done, finite, *_):
                return (done < count) & finite & ~self._stop.read_value()

            def next_step(done, finite, rate, losses, norms):
                if trains:  # before the step, which takes the schedule on to its next one
                    rate = tf.cast(tf.convert_to_tensor(self.optimizer.learning_rate), tf.float32)
                loss, norm = step(*batches.next(cursor, first + done))
                finite = tf.math.is_finite(loss) if trains else finite
                return done + 1, finite, rate, losses.write(done, loss), norms.write(done, norm)

            losses, norms = (tf.TensorArray(tf.float32, size=count, element_shape=[]) for _ in range(2))
            begin = (tf.constant(0), tf.constant(True), tf.constant(math.nan), losses, norms)
            done, _, rate, losses, norms = tf.while_loop(goes_on, next_step, begin)
            return losses.stack()[:done], norms.stack()[:done], rate

        return run

    def _call_length(self, steps_left: int) -> int:
        """Steps of the next graph call: as asked for or half a second, never past a step that a callback waits for."""
        wanted = self._steps_per_call or max(1, int(CALL_SECONDS / self._seconds_per_step))
        lengths, step = [steps_left, wanted], self.state.step
        if every := self._validate_every_steps:
            lengths.append(every - step % every)
        for callback in self.callbacks.values():
            if callback.every_steps:
                lengths.append(callback.every_steps - step % callback.every_steps)
            lengths += [at - step for at in callback.at_steps if at > step]
        return min(lengths)

    def _ends_with_validation(self, epoch: int) -> bool:
        every = self._validate_every_steps
        return epoch % self._validate_every_epochs == 0 or bool(every and self.state.step % every == 0)

    def _is_validation_due(self) -> bool:
        """Whether it is, within the epoch; after an interruption too, which it was not done before."""
        state, every = self.state, self._validate_every_steps
        return bool(every and state.epoch_step and state.step % every == 0 and state.validated_step != state.step)

    def _validate_within_epoch(self, val: Batches) -> None:
        metrics = self._validate(val)
        self.state.end_validation(metrics)
        for callback in self.callbacks.values():
            callback.on_validation(self.state, MappingProxyType(metrics))
        self._raise_if_interrupted()

    def _validate(self, val: Batches) -> dict[str, float]:
        try:
            return {f"val/{name}": value for name, value in self._measure(val).items()}
        except Interrupted:
            self._raise_if_interrupted()
            raise

    def _measure(self, batches: Batches, step: Callable | None = None) -> dict[str, float]:
        cursor, first, count = batches.open(0, 0), tf.constant(0), tf.constant(batches.steps_per_epoch)
        if step is None:
            run, changed = self._graph_loop(batches, self._eval_step, cursor)
        else:
            run = self._make_loop(batches, step)
            changed = written(side_effects(run.get_concrete_function(cursor, first, count)), self.state.all_variables())
        # The same metric objects measure every split, and a layer may draw or count here too: training goes on as it
        # would have without.
        metrics = [v for metric in self.state.metrics.values() for v in metric.variables]
        others = [v for v in changed if all(v is not metric for metric in metrics)]
        with kept(metrics + others), self.state.measured_weights(), _errors_of(batches):
            self._reset_metrics()
            losses, _, _ = run(cursor, first, count)
            done, results = len(losses), self._results()
        if self._interrupt_reason and done < batches.steps_per_epoch:
            raise Interrupted(self._interrupt_reason)
        return results

    def _differentiate(self, inputs: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """A batch's loss and gradients; the metrics are updated."""
        scale = self.state.loss_scale and self.state.loss_scale.value
        with tf.GradientTape() as tape:
            outputs = self.model(inputs, training=True)
            loss = self._total_loss(targets, outputs)
            scaled = loss if scale is None else loss * scale
        gradients = tape.gradient(scaled, self.model.trainable_variables)
        if scale is not None:
            gradients = [None if g is None else g / tf.cast(scale, g.dtype) for g in gradients]
        self._update_metrics(loss, targets, outputs)
        return loss, gradients

    def _differentiate_in_parts(self, inputs: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """As `_differentiate`, with the activations of only a part of the batch in memory at a time."""
        examples, whole = tf.shape(inputs)[0], self._weight(targets)
        size = -(-examples // self._parts)

        def add_part(start, loss, gradients):
            part = targets[start : start + size]
            part_loss, part_gradients = self._differentiate(inputs[start : start + size], part)
            # Where nothing counts, what is left of the loss, as a regulariser, does.
            share = tf.where(whole > 0, self._weight(part) / whole, tf.cast(tf.shape(part)[0] / examples, tf.float32))
            gradients = [
                total if g is None else total + tf.cast(share, total.dtype) * tf.convert_to_tensor(g)
                for total, g in zip(gradients, part_gradients, strict=True)
            ]
            return start + size, loss + share * part_loss, gradients

        return self._sum_over_parts(examples, add_part, tf.zeros([]))

    def _sum_over_parts(
        self, examples: tf.Tensor, add_part: Callable, loss: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """`loss` and gradients of 0, with what `add_part(start, loss, gradients)` adds to them for each part."""
        gradients = [tf.zeros(v.shape, v.dtype) for v in self.model.trainable_variables]
        begin = (tf.constant(0), loss, gradients)
        _, loss, gradients = tf.while_loop(lambda start, *_: start < examples, add_part, begin)
        return loss, gradients

    def _differentiate_by_outputs(self, inputs: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """As `_differentiate_in_parts`, for any loss: its gradient for the whole batch's outputs, which have been
        computed part by part, goes back through each part, computed once more."""
        examples = tf.shape(inputs)[0]
        size = -(-examples // self._parts)
        scale = self.state.loss_scale.value if self.state.loss_scale else tf.ones([])
        before = [tf.identity(v.value) for v in self._changed_by_layers]
        shape = [None, *self.model.output.shape[1:]]

        def predict_part(start, rows):
            return start + size, rows.write(start // size, self.model(inputs[start : start + size], training=True))

        rows = tf.TensorArray(
            self.model.output.dtype, size=0, dynamic_size=True, infer_shape=False, element_shape=shape
        )
        _, rows = tf.while_loop(lambda start, _: start < examples, predict_part, (tf.constant(0), rows))
        outputs = tf.ensure_shape(rows.concat(), shape)
        for variable, value in zip(self._changed_by_layers, before, strict=True):
            variable.assign(value)  # so that the same is drawn and computed again

        with tf.GradientTape() as tape:
            tape.watch(outputs)
            with tf.name_scope("loss"):
                loss = tf.cast(self.loss(targets, outputs), tf.float32)
            scaled = loss * scale
        slopes = tape.gradient(scaled, outputs, unconnected_gradients=tf.UnconnectedGradients.ZERO)

        def add_part(start, loss, gradients):
            part = inputs[start : start + size]
            share = tf.cast(tf.shape(part)[0] / examples, tf.float32)
            with tf.GradientTape() as back:
                part_outputs = self.model(part, training=True)
                added = share * tf.add_n([tf.zeros([]), *(tf.cast(term, tf.float32) for term in self.model.losses)])
            part_gradients = back.gradient(
                [part_outputs, added],
                self.model.trainable_variables,
                output_gradients=[slopes[start : start + size], scale],
            )
            gradients = [
                total if g is None else total + tf.convert_to_tensor(g) / tf.cast(scale, total.dtype)
                for total, g in zip(gradients, part_gradients, strict=True)
            ]
            return start + size, loss + added, gradients

        loss, gradients = self._sum_over_parts(examples, add_part, loss)
        self._update_metrics(loss, targets, outputs)
        return loss, gradients

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

    def _warn_of_parts(self) -> None:
        layers = [v.path.rpartition("/")[0] for v in self._changed_by_layers if not v.path.endswith(SEED)]
        if layers:
            log.warning(
                "gradient_accumulation_steps=%d: training differs from that in whole batches: %s would see all of a "
                "batch at once, and now see a part of it",
                *(self._parts, ", ".join(dict.fromkeys(layers))),
            )

    def _total_loss(self, targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        with tf.name_scope("loss"):
            losses = [self.loss(targets, outputs), *self.model.losses]
        return tf.add_n([tf.cast(loss, tf.float32) for loss in losses])

    def _apply(self, gradients: list[tf.Tensor], variables: list[keras.Variable]) -> bool:
        self.optimizer.apply(gradients, variables)
        return True

    def _measure_batch(self, targets: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loss = self._total_loss(targets, outputs)
        self._update_metrics(loss, targets, outputs)
        return loss, tf.zeros([])

    def _update_metrics(self, loss: tf.Tensor, targets: tf.Tensor, outputs: tf.Tensor) -> None:
        with tf.name_scope("metrics"):
            self._mean_loss.update_state(loss, sample_weight=self._weight(targets))
            for metric in self._metrics.values():
                self._update(metric, targets, outputs)

    def _update(self, metric: keras.metrics.Metric, targets: tf.Tensor, outputs: tf.Tensor) -> None:
        if self._ignore_label is None:
            metric.update_state(targets, outputs)
        else:
            metric.update_state(targets, outputs, sample_weight=self._counted(targets))

    def _counted(self, targets: tf.Tensor) -> tf.Tensor:
        return tf.cast(targets != self._ignore_label, tf.float32)

    def _weight(self, targets: tf.Tensor) -> tf.Tensor:
        """How much a batch counts, float32 []: its examples, or the part of them whose targets are not ignored."""
        examples = tf.cast(tf.shape(targets)[0], tf.float32)
        return examples if self._ignore_label is None else examples * tf.reduce_mean(self._counted(targets))

    def _measured(self, metric: keras.metrics.Metric) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        def measure(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
            self._update(metric, targets, outputs)
            return metric.result()

        return measure

    def _compute_results(self) -> dict[str, tf.Tensor]:
        results: dict[str, tf.Tensor] = {}
        for name, metric in self.state.metrics.items():
            result = metric.result()
            results |= result if isinstance(result, dict) else {name: result}
        return results

    def _results(self) -> dict[str, float]:
        return {name: float(value) for name, value in self._results_graph().items()}

    def _reset_metrics(self) -> None:
        for metric in self.state.metrics.values():
            metric.reset_state()

    def _log(self, metrics: dict[str, float]) -> None:
        state = self.state
        for name, callback in self.callbacks.items():
            reason = callback.on_log(state, MappingProxyType(metrics))
            asked = state.step in callback.at_steps or (callback.every_steps and state.step % callback.every_steps == 0)
            if reason and not asked:  # how long a call is depends on the machine; when training ends must not
                raise ValueError(
                    f"callback {name} stops at step {state.step}, which is none of its every_steps or at_steps"
                )
            state.stop_reason = state.stop_reason or reason

    def _make_durable(self) -> None:
        for callback in self.callbacks.values():
            callback.make_durable()

    def _raise_if_interrupted(self) -> None:
        if self._interrupt_reason:
            for callback in self.callbacks.values():
                callback.on_interrupt(self.state, self._interrupt_reason)
            raise Interrupted(self._interrupt_reason)


@contextmanager
def _errors_of(batches: Batches) -> Iterator[None]:
    """What the reading of an example raised is raised as it is, and not as TensorFlow wraps it."""
    try:
        yield
    except tf.errors.OpError:
        if (error := failure(batches)) is None:
            raise
        raise error from None


def _is_overridden(model: keras.Model, name: str) -> bool:
    return getattr(getattr(model, name), "__func__", None) is not getattr(keras.Model, name)
