"""What `python -m benchmarks loop` compares with: Keras's compile/fit, with TensorFlow or JAX, and a bare loop.

    python -m benchmarks.keras_fit '{"overrides": ["data=digits", "model=cnn"], "prepared": "digits.npz"}'

A process of its own, which trains as a user of Keras would write it, with the objects that the config names, on arrays
and first weights from a file. KERAS_BACKEND says with what Keras computes. The last line is what was measured, in JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.pairs import Disagreement, peak_megabytes

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Peer:
    """What one process does.

    Attributes:
        overrides: of the config.
        prepared: an .npz file of `train_inputs`, `train_targets`, `val_inputs`, `val_targets`, the first weights
            `weight_0`, `weight_1`..., and `facts`, what options refer to as `${run.*}`, in JSON.
        backend: that Keras computes with.
        threads: of TensorFlow; None leaves it to TensorFlow.
        epoch_per_execution: whether one execution of fit's graph runs a whole epoch.
        steps_per_execution: of fit, where that is false.
        files: whether fit writes summaries and checkpoints.
        bare: whether a graph call an epoch trains, with loss, metrics and validation and nothing else, in place of fit.
    """

    overrides: tuple[str, ...]
    prepared: str = ""
    backend: str = "tensorflow"
    threads: int | None = None
    epoch_per_execution: bool = False
    steps_per_execution: int = 1
    files: bool = True
    bare: bool = False

    def command(self) -> list[str]:
        """The command of the process."""
        backend = ["env", f"KERAS_BACKEND={self.backend}"]
        return [*backend, sys.executable, "-m", "benchmarks.keras_fit", json.dumps(asdict(self))]


def work(job: Peer) -> dict[str, Any]:
    """Train in this process; returns what was measured."""
    import keras
    import numpy as np
    import tensorflow as tf
    from hydra.utils import instantiate

    from src.common.machine import available_cores
    from src.config.compose import compose

    cfg = compose(list(job.overrides))
    if job.threads:
        tf.config.threading.set_intra_op_parallelism_threads(job.threads)
        tf.config.threading.set_inter_op_parallelism_threads(job.threads)
    with np.load(job.prepared) as file:
        arrays = dict(file)
    cfg.run.update(json.loads(str(arrays["facts"])))
    keras.utils.set_random_seed(cfg.seed)  # of fit's order
    model = instantiate(cfg.model, _convert_="all")
    model.set_weights([arrays[f"weight_{number}"] for number in range(len(model.weights))])
    facts = facts_of(cfg, model, cfg.run.steps_per_epoch)
    training = Training(
        cfg,
        model,
        arrays,
        optimizer=instantiate(cfg.optimizer, learning_rate=instantiate(cfg.schedule), _convert_="all"),
        loss=instantiate(cfg.loss, _convert_="all"),
        metrics=[_metric(name, metric) for name, metric in cfg.metric.items()],
        marks=[],
    )
    history = _bare(training) if job.bare else _fit(training, job)
    threads = tf.config.threading.get_intra_op_parallelism_threads() if job.backend == "tensorflow" else 0
    return {**measured(facts, training.marks, history), "threads": threads or available_cores()}


def facts_of(cfg: Any, model: Any, steps_per_epoch: int) -> dict[str, Any]:
    """What must be the same of all rows before training."""
    digest = hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights()))
    return {
        "initial_weights": digest.hexdigest(),
        "parameters": model.count_params(),
        "steps_per_epoch": steps_per_epoch,
        "batch_size": cfg.batch_size,
        "epochs": cfg.epochs,
    }


def measured(facts: dict[str, Any], marks: list[float], history: list[dict[str, float]]) -> dict[str, Any]:
    """A row's result, of when each epoch ended, in seconds, and each epoch's numbers.

    Raises:
        Disagreement: these are not of all epochs.
    """
    if len(marks) != facts["epochs"] or len(history) != facts["epochs"]:
        raise Disagreement(f"{len(marks)} epochs were run and {len(history)} recorded")
    return {
        **facts,
        "history": history,
        "steps_per_second": facts["steps_per_epoch"] * (len(marks) - 1) / (marks[-1] - marks[0]),
        "peak_megabytes": peak_megabytes(),
    }


@dataclass(frozen=True)
class Training:
    """What fit and the bare loop train with; `marks` takes when each epoch ends, in seconds."""

    cfg: Any
    model: Any
    arrays: dict[str, Any]
    optimizer: Any
    loss: Any
    metrics: list[Any]
    marks: list[float]

    def mark(self) -> None:
        """An epoch ends."""
        self.marks.append(time.perf_counter())


def _fit(training: Training, job: Peer) -> list[dict[str, float]]:
    """compile/fit, with summaries, each epoch's full model and the best one; returns each epoch's numbers."""
    import keras

    cfg, model, arrays = training.cfg, training.model, training.arrays
    steps = cfg.run.steps_per_epoch if job.epoch_per_execution else job.steps_per_execution
    parts = {"optimizer": training.optimizer, "loss": training.loss, "metrics": training.metrics}
    model.compile(**parts, steps_per_execution=steps)
    best = {"monitor": cfg.monitor.replace("/", "_"), "mode": cfg.mode, "save_best_only": True}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        files = [
            keras.callbacks.TensorBoard(log_dir=f"{folder}/logs"),
            keras.callbacks.ModelCheckpoint(f"{folder}/epoch-{{epoch:03d}}.keras"),
            keras.callbacks.ModelCheckpoint(f"{folder}/best.keras", **best),
        ]
        clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: training.mark())
        history = model.fit(
            arrays["train_inputs"],
            arrays["train_targets"],
            batch_size=cfg.batch_size,
            epochs=cfg.epochs,
            validation_data=(arrays["val_inputs"], arrays["val_targets"]),
            shuffle=cfg.data.shuffle,
            verbose=2,
            callbacks=[*(files if job.files else []), clock],
        ).history
    named = {f"val/{k[4:]}" if k.startswith("val_") else f"train/{k}": v for k, v in history.items()}
    return [dict(zip(named, map(float, values), strict=True)) for values in zip(*named.values(), strict=True)]


def _bare(training: Training) -> list[dict[str, float]]:
    """The custom loop of TensorFlow's guide, its epoch in one graph; returns each epoch's numbers."""
    import keras
    import tensorflow as tf

    cfg, model, arrays, optimizer = training.cfg, training.model, training.arrays, training.optimizer
    mean = keras.metrics.Mean(name="loss")
    metrics = [mean, *training.metrics]
    batch, history = cfg.batch_size, []
    optimizer.build(model.trainable_variables)
    splits = {split: [tf.constant(arrays[f"{split}_{part}"]) for part in ("inputs", "targets")] for split in SPLITS}

    def epoch_of(split: str) -> Callable[[Any], None]:
        inputs, targets = splits[split]
        is_training = split == "train"

        @tf.function
        def epoch(order: Any) -> None:
            for start in tf.range(0, tf.size(order), batch):
                chosen = order[start : start + batch]
                x, y = tf.gather(inputs, chosen), tf.gather(targets, chosen)
                with tf.GradientTape() as tape:
                    outputs = model(x, training=is_training)
                    value = training.loss(y, outputs)
                if is_training:
                    variables = model.trainable_variables
                    optimizer.apply(tape.gradient(value, variables), variables)
                mean.update_state(value, sample_weight=tf.size(chosen))
                for metric in training.metrics:
                    metric.update_state(y, outputs)

        return epoch

    epochs = {split: epoch_of(split) for split in SPLITS}
    for _ in range(cfg.epochs):
        numbers: dict[str, float] = {}
        for split in SPLITS:
            order = tf.range(len(splits[split][0]))
            epochs[split](tf.random.shuffle(order) if split == "train" and cfg.data.shuffle else order)
            numbers |= {f"{split}/{metric.name}": float(metric.result()) for metric in metrics}
            for metric in metrics:
                metric.reset_state()
        training.mark()
        history.append(numbers)
    return history


def _metric(name: str, metric: Any) -> Any:
    """The metric of a config, or what Keras has in its place."""
    import keras
    from hydra.utils import instantiate

    if metric._target_ == "src.metrics.MeanIoU":
        return keras.metrics.MeanIoU(num_classes=metric.num_classes, sparse_y_pred=False, name=name)
    return instantiate(metric, name=name, _convert_="all")


if __name__ == "__main__":
    described = json.loads(sys.argv[1])
    print(json.dumps(work(Peer(**{**described, "overrides": tuple(described["overrides"])}))), flush=True)
