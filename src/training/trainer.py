"""The training loop: many of a learner's steps in one graph call.

    trainer = Trainer(model=model, optimizer=keras.optimizers.Adam(1e-3),
                      loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                      metrics={"accuracy": keras.metrics.SparseCategoricalAccuracy()})
    trainer.fit(train_dataset, val_dataset, epochs=10)
    trainer.evaluate(test_dataset)      # {"loss": ..., "accuracy": ...}

What a step computes and changes is the learner's, see `src.training.learner`. The trainer knows no path, no config
and no global; what should happen beside training is a callback.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from src.common.errors import control_flow_on_tensor
from src.common.ranges import Count, enforce_ranges
from src.data.batch import Nest
from src.data.pipeline import Batches, as_batches, errors_of_reading
from src.training.callback import Callback
from src.training.learner import Supervised
from src.training.side_effects import check_resumable, constants, side_effects, written
from src.training.state import Mode, TrainState, kept

Loop: TypeAlias = tuple[Callable, list[keras.Variable]]  # a graph of many steps, and the variables that it changes

CALL_SECONDS = 0.5  # a graph call's length where steps_per_call is left open: Python's part is then below 1 %


class NonFiniteLoss(ArithmeticError):
    """A step's loss was NaN or infinite; the weights are those before that step."""


class Interrupted(Exception):
    """Training stopped between two steps because `Trainer.interrupt` was called; callbacks have been told."""


@enforce_ranges
class Trainer:
    """Trains and evaluates what a learner learns.

    Args:
        learner: what a step computes and changes. In its place `model`, `optimizer`, `loss`, `metrics` and all else
            that `Supervised` takes.
        callbacks: by name; their order is the call order.
        monitor, mode: see TrainState.
        validate_every_epochs: validation ends each epoch whose number this divides, and the last one; 1 by default.
        validate_every_steps: validation also at every multiple of this step count.
        steps_per_call: training steps in one graph call; None lets a call last about half a second.
        jit_compile: compile the steps with XLA.

    Raises:
        ValueError: as `Supervised`; a number is out of its range; parts of batches are to be compiled with XLA.
    """

    def __init__(
        self,
        *,
        learner: Supervised | None = None,
        callbacks: Mapping[str, Callback] = MappingProxyType({}),
        monitor: str = "train/loss",
        mode: Mode = "min",
        validate_every_epochs: Count | None = None,
        validate_every_steps: Count | None = None,
        steps_per_call: Count | None = None,
        jit_compile: bool = False,
        **supervised: Any,
    ) -> None:
        if learner and supervised:
            raise ValueError(f"{', '.join(supervised)} beside a learner, which has its own; give one or the other")
        self.learner = learner or Supervised(**supervised)
        if jit_compile and self.learner.parts > 1:
            raise ValueError("gradient_accumulation_steps and jit_compile do not go together: XLA needs fixed sizes")
        self.model, self.optimizer, self.callbacks = self.learner.model, self.learner.optimizer, callbacks
        for name, callback in callbacks.items():
            callback.name = name
        self.state = TrainState(learner=self.learner, monitor=monitor, mode=mode)
        self._validate_every_epochs, self._validate_every_steps = validate_every_epochs or 1, validate_every_steps
        self._steps_per_call = steps_per_call
        self._seconds_per_step = math.inf
        self._checked: Batches | None = None
        self._constants: dict[str, list[str]] = {}
        self._adapted: dict[int, tuple[Batches | tf.data.Dataset, Batches]] = {}
        self._loops: dict[tuple[int, Callable], Loop] = {}
        self._results = tf.function(self.learner.results, autograph=False)
        self._train_step, self._eval_step = self.learner.train_step, self.learner.eval_step
        if jit_compile:
            self._train_step, self._eval_step = (
                tf.function(step, jit_compile=True, autograph=False) for step in (self._train_step, self._eval_step)
            )
        self._stop = tf.Variable(False, trainable=False)
        self._interrupt_reason: str | None = None

    def fit(
        self, train: Batches | tf.data.Dataset, val: Batches | tf.data.Dataset | None = None, *, epochs: int
    ) -> TrainState:
        """Train up to `epochs` epochs in all, validating after each, from wherever the state stands.

        Args:
            train, val: batches (inputs, targets, weights), the last two of which may be left out; a tf.data.Dataset of
                known length, or `src.data.pipeline`'s.

        Raises:
            NonFiniteLoss: naming the step.
            Interrupted: after `interrupt`, with the state as it is after the last step done.
            ValueError: as `check`, before the first step, or a variable that steps only read is not what it was; or a
                callback wants to stop where it may not.
        """
        train, val = self._batches(train), None if val is None else self._batches(val)
        if train is not self._checked:
            self.check(train, val)
        state, callbacks = self.state, self.callbacks.values()
        state.compute_with(self._constants)
        with ExitStack() as closing:
            for callback in callbacks:
                closing.callback(callback.close)
                callback.make_all_durable = self._make_durable
            for callback in callbacks:
                callback.on_train_begin(state)
            try:
                while state.epoch < epochs and not state.stop_reason:
                    self._train_epoch(train, val)
                    if not state.stop_reason:
                        self._end_epoch(val, is_last=state.epoch + 1 == epochs)
            except Interrupted as interrupted:
                for callback in callbacks:
                    callback.on_interrupt(state, str(interrupted))
                raise
            state.join_saving()
            for callback in callbacks:
                callback.on_train_end(state)
            self._make_durable()
        return state

    def evaluate(self, data: Batches | tf.data.Dataset) -> dict[str, float]:
        """The loss and metrics over all examples of a split, weighted by examples: {"loss": ..., ...}.

        Raises:
            Interrupted: `interrupt` has been called, and `resume` not.
        """
        batches = self._batches(data)
        return self._measure(batches, *self._loop(batches, self._measuring_loop))

    def evaluate_outputs(
        self,
        predict: Callable[[Nest], Nest],
        data: Batches | tf.data.Dataset,
        *,
        prepare: Callable[[Nest], Nest] = lambda inputs: inputs,
    ) -> dict[str, float]:
        """As `evaluate`, of the outputs of any other `predict(inputs)` than the model's own: an exported one's.

        Args:
            data: of inputs as `predict` takes them.
            prepare: makes of them what the model takes.
        """

        def step(inputs: Nest, *others: Nest) -> tf.Tensor:
            return self.learner.eval_outputs_step(predict, inputs, prepare(inputs), *others)

        batches = self._batches(data)
        run = self._measuring_loop(batches, step)
        effects = side_effects(_graph(run, batches))
        return self._measure(batches, run, written(effects, self.state.all_variables()))

    def interrupt(self, reason: str) -> None:
        """Ask `fit` to stop after the step it is in. May be called from another thread."""
        self._interrupt_reason = reason
        self._stop.assign(self.learner.is_alone)  # others would wait for its next step: all stop after a call

    def resume(self) -> None:
        """Forget an interruption, so that `fit` can go on."""
        self._interrupt_reason = None
        self._stop.assign(False)

    def check(self, train: Batches, val: Batches | None) -> None:
        """Find out early what would go wrong.

        Raises:
            ValueError: as the learner; a step changes what no checkpoint holds or draws what no seed brings back; or
                the monitor is no metric of this training. Nothing has been computed or changed.
        """
        self.learner.check(train.element_spec)
        self.state.input_spec = self.learner.input_spec(train.element_spec)
        self._loop(train, self._training_loop)
        if val is not None:
            self._loop(val, self._measuring_loop)
        measured = self._results.get_concrete_function().structured_outputs
        splits = ("train",) if val is None else ("train", "val")
        names = [f"{split}/{name}" for split, name in itertools.product(splits, measured)]
        if self.state.monitor not in names:
            why = " (there is no val split)" if val is None else ""
            raise ValueError(f"monitor is {self.state.monitor!r}; this run measures {', '.join(names)}{why}")
        self._checked = train

    # An epoch

    def _train_epoch(self, train: Batches, val: Batches | None) -> None:
        """The steps that are left of it, in graph calls, with validations within it."""
        state, steps = self.state, train.steps_per_epoch
        if state.epoch_step > steps:
            raise ValueError(f"this epoch has {steps} steps, and the state has done {state.epoch_step} of it already")
        cursor = train.open(state.epoch, state.epoch_step)
        while state.epoch_step < steps and not state.stop_reason:
            if val is not None and self._is_validation_due():
                self._validate_within_epoch(val)
            self._train_steps(train, cursor, self._call_length(steps - state.epoch_step))
            self._raise_if_interrupted()

    def _train_steps(self, train: Batches, cursor: Any, count: int) -> None:
        """One graph call of so many steps, or fewer where it is interrupted or a loss is not finite."""
        state, (run, _) = self.state, self._loop(train, self._training_loop)
        began = time.perf_counter()
        with errors_of_reading(train):
            losses, norms, rate = run(cursor, tf.constant(state.epoch_step), tf.constant(count))
        state.losses, state.gradient_norms, learning_rate = losses.numpy(), norms.numpy(), float(rate)
        done, seconds = len(state.losses), time.perf_counter() - began
        if not done:
            return
        state.count_steps(done, learning_rate=learning_rate)
        if not math.isfinite(state.losses[-1]):
            raise NonFiniteLoss(
                f"the loss or the gradient of step {state.step} is not finite; the step was not taken. Look for "
                f"a too high learning rate (it is {learning_rate:g}; clip_norm=1 bounds a step), or for NaN in the data"
            )
        self._seconds_per_step = seconds / done
        rates = {"learning_rate": learning_rate, "steps_per_second": done / seconds}
        self._log(self._of_chief({"train/loss": float(state.losses.mean()), **rates}))

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
        return int(min(self.learner.gather([min(lengths)]))[0])

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

    def _end_epoch(self, val: Batches | None, *, is_last: bool) -> None:
        state, every = self.state, self._validate_every_steps
        metrics = self._of_chief({f"train/{name}": value for name, value in self._measured().items()})
        is_due = is_last or (state.epoch + 1) % self._validate_every_epochs == 0
        if val is not None and (is_due or (every and state.step % every == 0)):
            metrics |= self._validate(val)
        self.learner.reset_metrics()
        state.end_epoch(metrics)
        for callback in self.callbacks.values():
            reason = callback.on_epoch_end(state, MappingProxyType(metrics))
            state.stop_reason = state.stop_reason or reason
        self._raise_if_interrupted()

    # Validation

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
        return self._of_chief({f"val/{name}": value for name, value in self.evaluate(val).items()})

    def _of_chief(self, metrics: dict[str, float]) -> dict[str, float]:
        """What the first of all processes that train together has measured: by this all of them decide."""
        return dict(zip(metrics, self.learner.gather(metrics.values())[0], strict=True))

    def _measure(self, batches: Batches, run: Callable, changed: list[keras.Variable]) -> dict[str, float]:
        """A split's results by a measuring loop; all variables are as before, `changed` being those that it changes."""
        # The same metric objects measure every split, and a layer may draw or count here too: training goes on as it
        # would have without.
        metrics = [v for metric in self.learner.metrics.values() for v in metric.variables]
        others = [v for v in changed if all(v is not metric for metric in metrics)]
        with kept(metrics + others), self.state.measured_weights(), errors_of_reading(batches):
            self.learner.reset_metrics()
            done = run(batches.open(0, 0), tf.constant(0), tf.constant(batches.steps_per_epoch))
            results = self._measured()
        if self._interrupt_reason and done < batches.steps_per_epoch:
            raise Interrupted(self._interrupt_reason)
        return results

    def _measured(self) -> dict[str, float]:
        return {name: float(value) for name, value in self._results().items()}

    # Graph loops

    def _batches(self, data: Batches | tf.data.Dataset) -> Batches:
        """`as_batches`, once for each dataset: the graphs are made for what it returns."""
        if id(data) not in self._adapted:
            self._adapted[id(data)] = data, as_batches(data)
        return self._adapted[id(data)][1]

    def _loop(self, batches: Batches, make: Callable) -> Loop:
        """The graph loop that `make` makes of the learner's own steps, made and checked once a split.

        Raises:
            ValueError: the step changes what a checkpoint does not hold, or comes out otherwise each time.
        """
        key = (id(batches), make)
        if key not in self._loops:
            run = make(batches)
            try:
                graph = _graph(run, batches)
            except (TypeError, ValueError, RuntimeError) as error:
                if reason := control_flow_on_tensor(error):
                    raise ValueError(reason) from error
                raise
            effects, variables = side_effects(graph), self.state.all_variables()
            check_resumable(effects, saved=variables, others=graph.graph.variables, model=self.model)
            if make == self._training_loop:
                self._constants = constants(graph.graph.variables, saved=[*(v.value for v in variables), self._stop])
            self._loops[key] = run, written(effects, variables)
        return self._loops[key]

    def _training_loop(self, batches: Batches) -> tf.types.experimental.PolymorphicFunction:
        """A graph of (cursor, first, count) -> (losses, gradient norms, learning rate); the first two [steps done].

        The learning rate is that of the last step done; NaN where there is none.
        """

        @tf.function(autograph=False)
        def run(cursor, first, count):
            def goes_on(done, finite, *_):
                return (done < count) & finite & ~self._stop.read_value()

            def next_step(done, finite, rate, losses, norms):
                # Before the step, which takes the schedule on to its next one.
                rate = tf.cast(tf.convert_to_tensor(self.optimizer.learning_rate), tf.float32)
                loss, norm = self._train_step(*batches.next(cursor, first + done))
                return done + 1, tf.math.is_finite(loss), rate, losses.write(done, loss), norms.write(done, norm)

            losses, norms = (tf.TensorArray(tf.float32, size=count, element_shape=[]) for _ in range(2))
            begin = (tf.constant(0), tf.constant(True), tf.constant(math.nan), losses, norms)
            done, _, rate, losses, norms = tf.while_loop(goes_on, next_step, begin)
            return losses.stack()[:done], norms.stack()[:done], rate

        return run

    def _measuring_loop(
        self, batches: Batches, step: Callable[..., tf.Tensor] | None = None
    ) -> tf.types.experimental.PolymorphicFunction:
        """A graph of (cursor, first, count) -> steps done, int32 []: of the learner's `eval_step`, or another one."""

        @tf.function(autograph=False)
        def run(cursor, first, count):
            def goes_on(done):
                return (done < count) & ~self._stop.read_value()

            def next_step(done):
                (step or self._eval_step)(*batches.next(cursor, first + done))
                return (done + 1,)

            (done,) = tf.while_loop(goes_on, next_step, (tf.constant(0),))
            return done

        return run

    # Callbacks

    def _make_durable(self) -> None:
        for callback in self.callbacks.values():
            callback.make_durable()

    def _raise_if_interrupted(self) -> None:
        if max(self.learner.gather([bool(self._interrupt_reason)]))[0]:
            raise Interrupted(self._interrupt_reason or "another worker was asked to stop")


def _graph(run: tf.types.experimental.PolymorphicFunction, batches: Batches) -> Any:
    """A loop's graph; its cursors are as one at the start."""
    return run.get_concrete_function(batches.open(0, 0), tf.constant(0), tf.constant(0))
