"""One run on many replicas: each computes its part of a batch, and all take the same step.

    strategy = Mirrored(devices=2).start()              # before TensorFlow computes anything
    with strategy.scope():
        model, optimizer = ...
    learner = Replicated(strategy=strategy, model=model, optimizer=optimizer, loss=loss)

A step is that of one device: the outputs of all replicas are brought together, each replica takes the gradient of the
whole batch's loss for its own part, and the sum of these is what is clipped and applied. So any loss is that of the
whole batch, a replica without examples cannot count, and metrics are updated once, outside of the strategy.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from src.common.internals import mask_of
from src.common.ranges import Count, enforce_ranges
from src.data.batch import Batch, Nest, batch_spec_of, examples_of
from src.training.accumulation import by_outputs, changed_by_layers
from src.training.learner import SEED, Forward, Gradients, Supervised
from src.training.side_effects import inner_layers

APART = 0x9E3779B9  # between the seeds of two replicas
PORTS = 16  # between those of two jobs of Slurm's, which may share a machine


@enforce_ranges
class Mirrored:
    """The devices of this machine.

    Args:
        devices: how many; None takes all GPUs, or one CPU. Without GPUs, CPUs that share the machine's cores.
    """

    def __init__(self, *, devices: Count | None = None) -> None:
        self._devices = devices
        self.running: tf.distribute.Strategy = None

    @property
    def replicas(self) -> int:
        """How many there are, once it is running."""
        return int(self.running.num_replicas_in_sync)

    def start(self) -> tf.distribute.Strategy:
        """Make the strategy, `running`, before TensorFlow computes anything.

        Raises:
            ValueError: the machine has fewer GPUs, or TensorFlow already runs with fewer CPUs.
        """
        gpus = tf.config.list_physical_devices("GPU")
        kind, count = ("GPU" if gpus else "CPU"), self._devices or len(gpus) or 1
        if gpus and count > len(gpus):
            raise ValueError(f"strategy.devices is {count}, and this machine has {len(gpus)} GPUs; give at most these")
        if not gpus and count > 1:
            try:
                cpu = tf.config.list_physical_devices("CPU")[0]
                tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
            except RuntimeError as error:
                raise ValueError(
                    f"strategy.devices is {count}, and this process already runs TensorFlow with fewer CPUs: type the "
                    "run's command alone"
                ) from error
        # By default CPUs are summed over in an order that deadlocks or fails within a loop.
        summed = None if gpus else tf.distribute.ReductionToOneDevice()
        self.running = tf.distribute.MirroredStrategy([f"{kind}:{place}" for place in range(count)], summed)
        return self.running


class MultiWorker(Mirrored):
    """The devices of several processes, as a rule one a machine, each of which is started with the run's command.

    Which processes these are says TF_CONFIG, or Slurm's variables, as `srun` sets them.

    Args:
        port: under Slurm, of the first process on each machine; 16 more for each job, up to 1,000, by its number.
    """

    def __init__(self, *, port: Count = 8888) -> None:
        super().__init__()
        self._port = port

    def start(self) -> tf.distribute.Strategy:
        """As Mirrored's.

        Raises:
            ValueError: nothing says which processes there are.
        """
        if "TF_CONFIG" not in os.environ:
            os.environ["TF_CONFIG"] = json.dumps(self._of_slurm())
        self.running = tf.distribute.MultiWorkerMirroredStrategy()
        return self.running

    def _of_slurm(self) -> dict[str, Any]:
        """What TF_CONFIG says, from Slurm's variables. TensorFlow's own reader takes n10 to stand before n9."""
        if "SLURM_STEP_NODELIST" not in os.environ:
            raise ValueError(
                "strategy=multi_worker finds neither TF_CONFIG nor the variables that srun sets, which say what "
                "processes train together: start them with srun, or set TF_CONFIG in each, as docs/cluster.md shows"
            )
        command = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
        hosts = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
        counts = []  # of processes on each machine: 2(x3),1
        for part in os.environ["SLURM_STEP_TASKS_PER_NODE"].split(","):
            count, _, times = part.rstrip(")").partition("(x")
            counts += [int(count)] * int(times or 1)
        first = self._port + PORTS * (int(os.environ.get("SLURM_JOB_ID", 0)) % 1000)
        numbered = zip(hosts, counts, strict=True)
        workers = [f"{host}:{first + place}" for host, count in numbered for place in range(count)]
        return {
            "cluster": {"worker": workers},
            "task": {"type": "worker", "index": int(os.environ["SLURM_PROCID"])},
        }


class Replicated(Supervised):
    """Learns as `Supervised`, on all replicas of a strategy.

    Batch normalisation is synchronised: it sees the whole batch, as on one device. Dropout draws other numbers on each
    replica, so it differs from one device. The outputs of the whole batch are held by each replica. A batch of fewer
    examples than there are replicas is computed by each of them.

    Args:
        strategy: in whose scope the model and the optimizer have been made, and nothing else.
        batch_size: the most examples that a batch has.
        model, optimizer, supervised: as `Supervised`'s.

    Raises:
        ValueError: as `Supervised`.
    """

    def __init__(
        self,
        *,
        strategy: tf.distribute.Strategy,
        batch_size: int,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        **supervised: Any,
    ) -> None:
        for key in ("clipnorm", "global_clipnorm", "clipvalue"):  # which Keras does before it sums
            if getattr(optimizer, key, None) is not None:
                raise ValueError(
                    f"optimizer.{key}={getattr(optimizer, key)} does not go with a strategy, where Keras clips each "
                    "replica's share of a gradient; trainer.clip_norm clips the sum, as on one device"
                )
        self._strategy, self.replicas = strategy, strategy.num_replicas_in_sync
        self.batch_size = batch_size
        self.is_alone = not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self._normalised: list[keras.Variable] = []
        for layer in inner_layers(model):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
                self._normalised += layer.variables
        self._gather = tf.function(self._gathered, autograph=False)  # traced once for each count of values
        with strategy.scope():
            optimizer.build(model.trainable_variables)
        super().__init__(model=model, optimizer=optimizer, **supervised)

    def train_step(self, *batch: Nest) -> tuple[tf.Tensor, tf.Tensor]:
        inputs, targets, weights = (*batch, None, None)[:3]
        whole_loss = self._traced_loss(inputs, targets, weights)
        without: list[bool] = []
        differentiated = Supervised.differentiate if self.parts == 1 else by_outputs

        def differentiate(inputs: Nest, targets: Nest, weights: Nest) -> tuple[Nest, ...]:
            replica = _Replica(self, inputs, whole_loss)
            with replica.own_seeds():
                loss, gradients = differentiated(replica, replica.own(inputs), targets, weights)
            without[:] = [gradient is None for gradient in gradients]
            known = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]
            loss, *known = _sum([loss, *known])
            return loss, known, replica.outputs

        loss, known, outputs = self._run(differentiate, inputs, targets, weights)
        summed = iter(known)
        gradients = [None if is_without else next(summed) for is_without in without]
        self.update_metrics(loss, self.compare(targets, outputs, weights), *batch)
        return self.apply([(self.optimizer, gradients, self.model.trainable_variables)], loss)

    def eval_step(self, *batch: Nest) -> tf.Tensor:
        inputs, targets, weights = (*batch, None, None)[:3]

        def measure(inputs: Nest) -> tuple[Nest, ...]:
            replica = _Replica(self, inputs)
            outputs = self.model(replica.own(inputs), training=False)
            return replica.brought_together(outputs), _sum([replica.added()])

        outputs, (added,) = self._run(measure, inputs)
        forward = self.compare(targets, outputs, weights)
        loss = tf.cast(forward.loss, tf.float32) + added
        self.update_metrics(loss, forward, *batch)
        return loss

    def eval_outputs_step(
        self, predict: Callable[[Nest], Nest], raw: Nest, prepared: Nest, *targets_and_weights: Nest
    ) -> tf.Tensor:
        """On one device alone, where that model is."""
        alone = Supervised.__new__(Supervised)
        alone.__dict__.update(self.__dict__)
        return alone.eval_outputs_step(predict, raw, prepared, *targets_and_weights)

    def gather(self, values: Iterable[float]) -> list[list[float]]:
        if self.is_alone:
            return super().gather(values)
        return self._gather(tf.constant([*map(float, values)], tf.float64)).numpy().tolist()

    def _gathered(self, values: tf.Tensor) -> tf.Tensor:
        """Of all replicas: [replicas, n] of [n]."""

        def of_replica(values: tf.Tensor) -> tf.Tensor:
            return tf.distribute.get_replica_context().all_gather(values[tf.newaxis], axis=0)

        return self._run(of_replica, values)

    def begin_alike(self, state: Any) -> None:
        """Give all workers the chief's state, as restored; nothing where there is one process."""
        if self.is_alone:
            return
        text = state.progress.encode()
        length = int(max(self.gather([len(text)]))[0])
        variables = [v.value for v in state.all_variables()]
        values = [tf.constant([*text.ljust(length)], tf.int32), *map(tf.convert_to_tensor, variables)]

        def of_first() -> list[tf.Tensor]:
            is_first = tf.equal(tf.distribute.get_replica_context().replica_id_in_sync_group, 0)
            return _sum([tf.where(is_first, value, tf.zeros_like(value)) for value in values])

        progress, *given = self._run(tf.function(of_first, autograph=False))
        for variable, value in zip(variables, given, strict=True):
            variable.assign(value)
        state.load_progress(bytes(progress.numpy().tolist()).decode())

    def take_step(
        self, optimizer: keras.optimizers.Optimizer, gradients: Gradients, variables: Sequence[keras.Variable]
    ) -> None:
        def apply(gradients: Gradients) -> None:  # Keras sums them over the replicas once more
            optimizer.apply([None if g is None else g / self.replicas for g in gradients], variables)

        self._strategy.run(apply, args=(gradients,))

    def check(self, batch_spec: Batch) -> None:
        super().check(batch_spec)
        changed = [v for v in changed_by_layers(self.model, self.input_spec(batch_spec)) if not v.path.endswith(SEED)]
        normalised = {id(variable) for variable in self._normalised}
        if others := [v.path for v in changed if id(v) not in normalised]:
            raise ValueError(
                f"a strategy does not go with what changes {', '.join(others)} while training: each replica would "
                "change it by its own part of a batch. Of such layers only batch normalisation is brought together; "
                "leave the layer or the strategy out"
            )
        # Replicas of one process share the layers, in which a later one's replace what an earlier one has added.
        regularized = [v for v in self.model.trainable_variables if v.regularizer is not None]
        if len(self.model.losses) > len(regularized):
            raise ValueError(
                "a strategy does not go with layers that add to the loss when they are called (activity_regularizer, "
                "add_loss); regularizers of weights do"
            )
        masks = [
            x.name
            for x in inner_layers(self.model)
            if getattr(x, "mask_zero", False) or isinstance(x, keras.layers.Masking)
        ]
        if self._normalised and masks:
            raise ValueError(
                f"a strategy does not go with batch normalisation and the mask of {', '.join(masks)}: under a mask "
                "Keras does not synchronise it; leave the mask, the normalisation or the strategy out"
            )
        if changed and self.parts > 1:
            raise ValueError(
                f"gradient_accumulation_steps={self.parts} does not go with a strategy and batch normalisation, which "
                "sees whole batches there; leave the parts out, or take more devices"
            )

    def _run(self, of_replica: Callable, *batch: Nest) -> Nest:
        """What the first replica of this process gives; it is the same on all."""
        results = self._strategy.run(of_replica, args=batch)
        return tf.nest.map_structure(lambda value: self._strategy.experimental_local_results(value)[0], results)

    def _traced_loss(self, inputs: Nest, targets: Nest, weights: Nest) -> Callable[[Nest, Nest, Nest], tf.Tensor]:
        """The loss as a graph made outside of the strategy, within which Keras's divide by the replicas."""

        def infer(inputs: Nest) -> Nest:
            return self.model(inputs, training=False)

        def loss(targets: Nest, outputs: Nest, weights: Nest) -> tf.Tensor:
            return tf.cast(self.compare(targets, outputs, weights).loss, tf.float32)

        with tf.init_scope():
            graph = tf.function(infer, autograph=False).get_concrete_function(batch_spec_of(inputs))
            specs = [
                None if part is None else batch_spec_of(part) for part in (targets, graph.structured_outputs, weights)
            ]
            return tf.function(loss, autograph=False).get_concrete_function(*specs)


class _Replica(Supervised):
    """A learner within one replica, whose inputs are a part of the batch, and targets and weights all of them.

    Its losses and gradients are summands: their sum over the replicas is that of the whole batch.

    Attributes:
        outputs: those of the whole batch, once the metrics would be updated, which is done outside.
    """

    def __init__(self, learner: Replicated, inputs: Nest, whole_loss: Callable[..., Any] | None = None) -> None:
        self.__dict__.update(learner.__dict__)
        self._whole_loss, self.outputs = whole_loss, None
        self.replicas, self.batch_size = learner.replicas, learner.batch_size
        number = learner.replicas
        self._number = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
        self._examples = examples = examples_of(inputs)
        self._is_shared = examples >= number  # else each replica computes all of them, and the first one's count
        self._once = tf.cast(tf.equal(self._number, 0), tf.float32)
        self._start = tf.where(self._is_shared, self._number * examples // number, 0)
        self._end = tf.where(self._is_shared, (self._number + 1) * examples // number, examples)

    def own(self, inputs: Nest) -> Nest:
        """This replica's part."""
        return tf.nest.map_structure(lambda part: part[self._start : self._end], inputs)

    def compare(self, targets: Nest, outputs: Nest, weights: Nest = None) -> Forward:
        whole = self.brought_together(outputs)
        assert self._whole_loss is not None
        loss = self._whole_loss(targets, whole, weights)
        # All replicas have this loss, and each the gradient for its own part of the outputs.
        counted = tf.where(self._is_shared, 1.0, self._once)
        return Forward(loss * counted + tf.stop_gradient(loss * (self._once - counted)), targets, whole, weights)

    def brought_together(self, outputs: Nest) -> Nest:
        """The outputs of the whole batch, of which this replica's own have a gradient."""
        own = tf.nest.flatten(outputs)
        if any(mask_of(part) is not None for part in own):
            raise ValueError(
                "a strategy does not go with outputs that have a mask, which brought together they lose; name the "
                "padding as ignore_label instead of mask_zero, or leave the strategy out"
            )
        # All batches alike: what is summed within a loop keeps the shape that it had first.
        before, after = self._start, tf.maximum(self._examples, self.batch_size) - self._end
        padded = [tf.pad(tf.stop_gradient(x), [[before, after], *[[0, 0]] * (x.shape.rank - 1)]) for x in own]
        pairs = zip(_sum(padded), own, strict=True)
        whole = [tf.concat([every[:before], x, every[self._end : self._examples]], axis=0) for every, x in pairs]
        whole = [tf.ensure_shape(every, [None, *x.shape[1:]]) for every, x in zip(whole, own, strict=True)]
        return tf.nest.pack_sequence_as(outputs, whole)

    def added(self) -> tf.Tensor:
        """This replica's share of what layers add to the loss, a mean over examples: float32 []."""
        own = tf.cast((self._end - self._start) / self._examples, tf.float32)
        share = tf.where(self._is_shared, own, self._once)
        return share * tf.add_n([tf.zeros([]), *(tf.cast(term, tf.float32) for term in self.model.losses)])

    def examples_in_step(self, inputs: Nest = None) -> tf.Tensor:
        return tf.where(self._is_shared, self._examples, self._examples * self.replicas)

    def update_metrics(self, loss: tf.Tensor, forward: Forward, *batch: Nest) -> None:
        self.outputs = forward.outputs

    def _total(self, forward: Forward) -> tf.Tensor:
        return forward.loss + self.added()

    @contextmanager
    def own_seeds(self) -> Iterator[None]:
        """Random layers draw by (seed, step, replica) in here; their seeds are alike on all replicas afterwards."""
        seeds = [v.value for v in self.model.variables if v.path.endswith(SEED)]
        for seed in seeds:
            seed.assign(seed + tf.stack([APART * tf.cast(self._number, seed.dtype), 0]))
        yield
        for seed in seeds:
            seed.assign(seed - tf.stack([APART * tf.cast(self._number, seed.dtype), 0]))


def _sum(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Over all replicas, on each of them."""
    context = tf.distribute.get_replica_context()
    if len({tensor.dtype for tensor in tensors}) > 1:  # which workers cannot sum at once
        return [context.all_reduce("sum", tensor) for tensor in tensors]
    return context.all_reduce("sum", tensors)
