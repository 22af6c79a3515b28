"""What a training run is at one moment: all that a checkpoint holds, and nothing else.

    state = TrainState(learner=learner, monitor="val/loss", mode="min")
    state.snapshot()    # a copy of it, for a checkpoint to be written while training goes on
    state.tensors()     # what tf.train.Checkpoint reads: plain lists of tf.Variable
    state.manifest()    # names, shapes and dtypes of these, compared before anything is restored

The data's position is not part of it: every example is a function of (seed, epoch, index), so `step` says it all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from src.common.internals import averages_of
from src.common.ranges import enforce_ranges
from src.data.batch import Nest, batch_spec_of
from src.training.learner import Supervised

Mode: TypeAlias = Literal["min", "max"]


@dataclass(frozen=True)
class Best:
    """The best value of the monitored metric so far, with the epoch (from 1) and step that reached it.

    `metrics` has all values of that step, the monitored one too: of a validation within an epoch those of `val` alone.
    None where a checkpoint of before does not say.
    """

    value: float
    epoch: int
    step: int
    metrics: dict[str, float] | None = None


@dataclass
class TrainingProgress:
    """The part of the state that Python holds; `memory` is what each callback remembers, by its name."""

    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    validated_step: int = 0  # in the midst of an epoch
    learning_rate: float | None = None  # of the last step; None before the first, and where an old checkpoint has none
    best: Best | None = None
    constants: dict[str, list[str]] | None = None  # hashes of what steps only read; an old checkpoint has none
    stop_reason: str | None = None
    memory: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """All that a checkpoint holds of a state, as it was at one step; whatever is done to the state changes none of it.

    Attributes:
        progress: JSON.
        manifest: names, shapes and dtypes of all variables, by group and in saved order.
        tensors: their values.
    """

    step: int
    epoch: int
    progress: str
    manifest: dict[str, list[list[Any]]]
    tensors: dict[str, list[tf.Tensor]]


@enforce_ranges
class TrainState:
    """What a learner's steps change, with the run's progress.

    Args:
        learner: whose model and optimizer these are.
        monitor: the metric that decides which epoch is best, as `train/<name>` or `val/<name>`.
        mode: `min` or `max`.

    Attributes:
        holds_averages: whether the model's weights are those that are measured, where the optimizer keeps averages;
            else they are those that are trained.
        losses: float32 [n], the loss of each step of the last graph call; the last of them belongs to `step`.
        input_spec: of what the model takes, any number of them; the trainer sets it.
        gradient_norms: float32 [n], the global norm of each of these steps' gradients, before they are clipped.
        join_saving: waits for the checkpoint that another thread writes, and raises its error; who writes it sets this.
    """

    def __init__(
        self,
        *,
        learner: Supervised,
        monitor: str = "val/loss",
        mode: Mode = "min",
    ) -> None:
        self.learner = learner
        self.model, self.optimizer, self.variables = learner.model, learner.optimizer, learner.variables
        self.monitor, self.mode = monitor, mode
        self.holds_averages = False
        self.join_saving: Callable[[], None] = lambda: None
        self.losses = self.gradient_norms = np.zeros(0, np.float32)
        inputs = getattr(learner.model, "inputs", None) or []
        self.input_spec: Nest = batch_spec_of(inputs[0]) if len(inputs) == 1 else None

        def infer(inputs: Nest) -> Nest:
            return self.model(inputs, training=False)

        self._infer = tf.function(infer, autograph=False)
        self._progress = TrainingProgress()
        self._progress_json = tf.Variable("", dtype=tf.string, trainable=False)
        self._copied: list[int] = []  # the identities of the variables that `_copy` copies

    @property
    def inference(self) -> tf.types.experimental.ConcreteFunction:
        """The model with `training=False` as a graph, of any number of inputs; made once."""
        return self._infer.get_concrete_function(self.input_spec)

    def predict(self, inputs: Nest) -> Nest:
        """The model's outputs [n, ...] for inputs [n, ...], with `measured_weights`.

        Nothing is changed, seeds of random layers neither.
        """
        with self.measured_weights(), kept(self.model.non_trainable_variables):
            return self._infer.get_concrete_function(batch_spec_of(inputs))(inputs)

    @contextmanager
    def measured_weights(self) -> Iterator[None]:
        """The model has the weights that are evaluated and exported: the optimizer's averages, if it keeps some."""
        optimizer = self.optimizer
        if self.holds_averages or not optimizer.use_ema or not int(optimizer.iterations.numpy()):
            yield
            return
        with kept(self.model.trainable_variables):
            optimizer.finalize_variable_values(self.model.trainable_variables)
            self.holds_averages = True
            try:
                yield
            finally:
                self.holds_averages = False

    def averages(self) -> dict[int, tf.Variable]:
        """The model's variables that the optimizer averages, by the average's place among its own variables."""
        if not self.optimizer.use_ema:
            return {}
        places = {id(variable): place for place, variable in enumerate(self.optimizer.variables)}
        pairs = zip(averages_of(self.optimizer), self.model.trainable_variables, strict=True)
        return {places[id(average)]: v.value for average, v in pairs if average is not None}

    @property
    def step(self) -> int:
        """Training steps done since the run began."""
        return self._progress.step

    @property
    def epoch_step(self) -> int:
        """Training steps done of the epoch that is under way."""
        return self._progress.epoch_step

    @property
    def learning_rate(self) -> float | None:
        """The rate that the last step was taken with; None before the first."""
        return self._progress.learning_rate

    def count_steps(self, steps: int, *, learning_rate: float | None = None) -> None:
        """Training has done this many steps more, the last of them at this rate."""
        self._progress.step += steps
        self._progress.epoch_step += steps
        self._progress.learning_rate = learning_rate

    def compute_with(self, constants: Mapping[str, list[str]]) -> None:
        """Steps read variables that no checkpoint has, with these hashes by name: the same as before an interruption.

        Raises:
            ValueError: naming those that are not.
        """
        before = self._progress.constants
        if before is not None and before != constants:
            names = sorted(name for name in {*before, *constants} if before.get(name) != constants.get(name))
            raise ValueError(
                f"{', '.join(names)}: a variable that training reads and no checkpoint holds is not what it was when "
                "this run began, so it cannot go on as it was. Have the layer make it with add_weight, or fill it from "
                "a file or with a fixed seed; then start afresh with rerun=true"
            )
        self._progress.constants = dict(constants)

    @property
    def epoch(self) -> int:
        """Epochs done, validation included."""
        return self._progress.epoch

    @property
    def best(self) -> Best | None:
        return self._progress.best

    @property
    def improved(self) -> bool:
        """Whether what was measured at this step is the best so far."""
        return self.best is not None and self.best.step == self.step

    @property
    def stop_reason(self) -> str | None:
        """Why training ended before its last epoch; None while it goes on."""
        return self._progress.stop_reason

    @stop_reason.setter
    def stop_reason(self, reason: str | None) -> None:
        self._progress.stop_reason = reason

    def memory(self, name: str) -> dict[str, Any]:
        """What the callback of this name remembers over a resume: a dict of JSON values, changed in place."""
        return self._progress.memory.setdefault(name, {})

    def is_better(self, value: float, than: float, *, min_delta: float = 0.0) -> bool:
        """Whether `value` beats `than` by more than `min_delta`; NaN never does."""
        gain = value - than if self.mode == "max" else than - value
        return gain > min_delta

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        """Count the epoch and keep its monitored value if there is one, it is finite and the best."""
        self._progress.epoch += 1
        self._progress.epoch_step = 0
        self._keep_best(metrics, epoch=self.epoch)

    def end_validation(self, metrics: Mapping[str, float]) -> None:
        """As `end_epoch`, of a validation in the midst of an epoch."""
        self._progress.validated_step = self.step
        self._keep_best(metrics, epoch=self.epoch + 1)

    @property
    def validated_step(self) -> int:
        """The step of the last validation in the midst of an epoch; 0 before there is one."""
        return self._progress.validated_step

    def _keep_best(self, metrics: Mapping[str, float], *, epoch: int) -> None:
        value = metrics.get(self.monitor, math.nan)
        if math.isfinite(value) and (self.best is None or self.is_better(value, self.best.value)):
            self._progress.best = Best(value, epoch, self.step, dict(metrics))

    def constant_learning_rates(self) -> dict[str, float]:
        """The rates that the optimizer keeps as variables, which a restore would bring back; {} with a schedule."""
        return {v.path: float(v.numpy()) for v in self.optimizer.variables if v.path.endswith("learning_rate")}

    def branch(self, learning_rates: Mapping[str, float]) -> None:
        """Make a restored state the start of a new run: its own rates and best, not stopped, its callbacks anew."""
        self._progress.best, self._progress.stop_reason, self._progress.memory = None, None, {}
        self._progress.constants = None
        for variable in self.optimizer.variables:
            if variable.path in learning_rates:
                variable.assign(learning_rates[variable.path])

    def snapshot(self) -> Snapshot:
        """A copy of everything that determines the future, in one graph call."""
        identities = [id(variable) for variable in self.all_variables()]
        if self._copied != identities:  # some metrics make theirs when they are first updated
            variables = self.variables()
            self._copied, self._copy = identities, tf.function(lambda: _copies(variables), autograph=False)
        return Snapshot(self.step, self.epoch, self.progress, self.manifest(), self._copy())

    def tensors(self) -> tf.train.Checkpoint:
        """Everything that determines the future, as plain lists: Keras objects leave seeds and averages out."""
        self._progress_json.assign(self.progress)
        lists = {group: [v.value for v in variables] for group, variables in self.variables().items()}
        return tf.train.Checkpoint(**lists, progress=self._progress_json)

    @property
    def progress(self) -> str:
        """The part that Python holds, as JSON."""
        return json.dumps(asdict(self._progress))

    def load_progress(self, progress: str | None = None) -> None:
        """Take the progress given, or what a restored checkpoint brought in `tensors()`."""
        values = json.loads(self._progress_json.numpy() if progress is None else progress)
        best = values.pop("best")
        self._progress = TrainingProgress(**values, best=best and Best(**best))

    def manifest(self) -> dict[str, list[list[Any]]]:
        """Names, shapes and dtypes of all variables, by group and in saved order."""
        return {
            group: [[v.path, list(v.shape), keras.backend.standardize_dtype(v.dtype)] for v in variables]
            for group, variables in self.variables().items()
        }

    def all_variables(self) -> list[keras.Variable]:
        """Those of all groups."""
        return [variable for group in self.variables().values() for variable in group]


def _copies(variables: Mapping[str, list[keras.Variable]]) -> dict[str, list[tf.Tensor]]:
    """What is read of a variable may be its own memory, which steps update in place."""
    return {group: [tf.raw_ops.DeepCopy(x=v.value) for v in listed] for group, listed in variables.items()}


@contextmanager
def kept(variables: Iterable[keras.Variable]) -> Iterator[None]:
    """The variables have their values again afterwards."""
    held = [(v.value, tf.identity(v.value)) for v in variables]
    try:
        yield
    finally:
        for variable, value in held:
            variable.assign(value)
