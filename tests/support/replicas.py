"""One case of training on several devices, beside the same on one: `python -m tests.support.replicas OVERRIDES...`.

On two, or as many as strategy.devices says. Prints the largest differences of losses, metrics and weights, relative
ones of what is above 1. A process of its own, as a process has one strategy.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from pathlib import Path

import keras
import numpy as np

from src import build
from src.config.compose import compose
from src.data.pipeline import InMemory
from src.losses import PerOutput
from src.training.callback import Callback
from src.training.checkpoints import Checkpoints
from src.training.learner import Supervised
from src.training.replicas import Mirrored, MultiWorker, Replicated
from src.training.trainer import Interrupted, Trainer

STEPS = 50
CALLBACKS = ("summaries", "images", "examples", "progress", "export", "hparams", "checkpoint")
LEAN = (
    *(f"callback.{name}=null" for name in CALLBACKS),
    "trainer.steps_per_call=10",
    "epochs=100",
    "monitor=train/loss",
    "mode=min",
)


class Losses(Callback):
    """Keeps the losses of all steps, and interrupts after one of them."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.at_steps, self.losses = [stop_at] if stop_at else [], []

    def on_log(self, state, metrics):
        self.losses += state.losses.tolist()
        if state.step in self.at_steps:
            self.interrupt("that far")


def trained(trainer: Trainer, kept: Losses, train, val) -> list[np.ndarray]:
    """The losses of all steps and that measured after them, the other metrics, the weights."""
    trainer.fit(train, epochs=-(-STEPS // train.steps_per_epoch))
    metrics = trainer.evaluate(val)
    losses = np.array([*kept.losses, metrics.pop("loss")])
    weights = [np.ravel(variable.numpy()) for variable in trainer.model.variables]
    return [losses, np.array([*metrics.values(), 0]), np.concatenate(weights)]


def configured(overrides: list[str], strategy: Mirrored | None) -> list[np.ndarray]:
    cfg, kept = compose([*overrides, *LEAN]), Losses()
    data = build.build_data(cfg)
    trainer = build.build_trainer(cfg, data, run_dir=Path("none"), extra_callbacks={"losses": kept}, strategy=strategy)
    return trained(trainer, kept, data.train, data.val)


def two_heads(strategy: Mirrored | None) -> list[np.ndarray]:
    """In float64: class numbers and numbers are learned behind batch normalisation; the last batch is of one example.

    In float32, batch normalisation makes more of rounding: in 50 steps, batches whose examples stand in another order
    make a difference of 1e-3 on one device, too.
    """
    keras.utils.set_random_seed(0)
    keras.config.set_floatx("float64")
    draw = np.random.default_rng(0)
    inputs = draw.random((41, 6))
    targets = {"kind": draw.integers(0, 3, 41).astype(np.int32), "size": draw.random((41, 1))}
    loss = PerOutput(
        losses={
            "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "size": lambda wanted, given: (wanted - given) ** 2,
        },
        weights={"size": 0.5},
    )
    with strategy.running.scope() if strategy else contextlib.nullcontext():
        x = keras.Input((6,))
        hidden = keras.layers.Dense(8, use_bias=False, kernel_regularizer="l2")(x)
        hidden = keras.layers.ReLU()(keras.layers.BatchNormalization()(hidden))
        heads = {name: keras.layers.Dense(size, name=name)(hidden) for name, size in (("kind", 3), ("size", 1))}
        parts = {"model": keras.Model(x, heads), "optimizer": keras.optimizers.Adam(0.01), "loss": loss}
    if strategy:
        learner = Replicated(strategy=strategy.running, batch_size=8, **parts)
    else:
        learner = Supervised(**parts)
    data, kept = InMemory(inputs, targets, batch_size=8, shuffle_seed=0), Losses()
    return trained(Trainer(learner=learner, callbacks={"losses": kept}), kept, data, data)


def leg(folder: str, devices: int, until: int, dropout: str) -> None:
    """Train a run in the folder on so many devices, from its newest checkpoint up to a step; prints the losses."""
    strategy = Mirrored(devices=devices)
    build.set_up_process(threads=1, strategy=strategy)
    words = ["data=digits", "model=cnn", "batch_size=337", f"model.dropout={dropout}", *LEAN]
    cfg, kept = compose(words), Losses(until)
    data = build.build_data(cfg)
    trainer = build.build_trainer(cfg, data, run_dir=Path(folder), extra_callbacks={"losses": kept}, strategy=strategy)
    trainer.check(data.train, data.val)
    kept.interrupt = trainer.interrupt
    Checkpoints(folder).restore(trainer.state)
    try:
        trainer.fit(data.train, data.val, epochs=100)
    except Interrupted:
        Checkpoints(folder).save(trainer.state)
    print("losses", json.dumps(kept.losses))


def worker(port: int) -> None:
    """Train as one of the processes that the environment names; prints the last loss and a hash of the weights."""
    strategy = MultiWorker(port=port)
    build.set_up_process(threads=1, strategy=strategy)
    losses, _, weights = configured(["data=digits", "model=cnn", "batch_size=337", "model.dropout=0.2"], strategy)
    print("worker", losses[-1], hashlib.sha256(weights.tobytes()).hexdigest())


if __name__ == "__main__" and sys.argv[1] == "leg":
    leg(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
elif __name__ == "__main__" and sys.argv[1] == "worker":
    worker(int(sys.argv[2]))
elif __name__ == "__main__":
    overrides = sys.argv[1:]
    devices = next((word.partition("=")[2] for word in overrides if word.startswith("strategy.devices=")), "2")
    strategy = Mirrored(devices=int(devices))
    build.set_up_process(threads=1, strategy=strategy)
    ways = (None, strategy)
    one, many = (two_heads(way) if overrides[0] == "two_heads" else configured(overrides, way) for way in ways)
    assert len(one[0]) > STEPS and np.ptp(one[0][:STEPS]) > 0, one
    pairs = zip(one, many, strict=True)
    print("differences", *((np.abs(x - y) / np.maximum(np.abs(x), 1)).max() for x, y in pairs))
