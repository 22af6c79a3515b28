"""The training loop against Keras's compile/fit: steps per second with validation, summaries and checkpoints.

    python -m benchmarks loop [--case cnn] [--repeats N] [--quick]

Ours is the project's trainer with its real callbacks, built from the real config; the peer is `Model.fit` on the same
arrays with `keras.callbacks.TensorBoard` and two `ModelCheckpoint`: each epoch's full model, and the best one. Model,
weights, optimizer, schedule, loss, metrics and batch size are the same. Where these agree with shuffling off, both are
timed with shuffling on: steps by wall time of all epochs after the first, validation and files included.

The peer's side is a little lighter: its checkpoints are neither read back nor fsynced, it writes no losses of single
steps, and it prints a line an epoch (verbose=2) instead of its bar.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.pairs import (
    Disagreement,
    interleave,
    machine,
    ratios,
    require_close,
    require_equal,
    run,
    spread,
    table,
)

OURS, PEER, FIT = "ours", "Model.fit", "Model.fit, its defaults"


@dataclass(frozen=True)
class Workload:
    """What one process does.

    Attributes:
        overrides: of the config.
        peer: whether Keras's fit trains, else this project's trainer.
        threads: of TensorFlow; None leaves it to the config, or to TensorFlow's default in the peer.
        epoch_per_execution: whether one execution of the peer's graph runs a whole epoch (steps_per_execution).
    """

    overrides: tuple[str, ...]
    peer: bool = False
    threads: int | None = None
    epoch_per_execution: bool = False

    def command(self) -> list[str]:
        """The command of the process."""
        return [sys.executable, "-m", "benchmarks.loop", json.dumps(asdict(self))]


@dataclass(frozen=True)
class Case:
    """One model on one data set.

    Attributes:
        overrides: of the config.
        epochs, quick_epochs: of a timed run.
        repeats: how many times all rows are run.
        peers: the peer's variants by row; ours comes first.
        goals: by row, how many times the peer's steps per second ours should do at least.
        agreement: further overrides where losses are compared.
        loss_tolerance: largest relative difference of an epoch's loss, shuffling off.
        accuracy_tolerance: largest absolute difference of the last epoch's val/accuracy, shuffling on.
    """

    overrides: tuple[str, ...]
    epochs: int
    quick_epochs: int
    repeats: int
    peers: dict[str, dict[str, Any]]
    goals: dict[str, float]
    agreement: tuple[str, ...]
    loss_tolerance: float
    accuracy_tolerance: float
    quick_accuracy_tolerance: float


CASES = {
    "cnn": Case(
        overrides=("data=digits", "model=cnn"),
        epochs=30,
        quick_epochs=4,
        repeats=5,
        peers={
            FIT: {},
            "Model.fit, one thread": {"threads": 1},
            "Model.fit, one thread, epoch per execution": {"threads": 1, "epoch_per_execution": True},
        },
        goals={FIT: 3.0},
        agreement=(),
        loss_tolerance=1e-5,
        accuracy_tolerance=0.03,
        quick_accuracy_tolerance=0.1,
    ),
    "unet": Case(
        overrides=(
            "data=digit_scenes",
            "model=unet",
            *(f"data.transforms.{name}=null" for name in ("shift", "brightness", "noise")),
        ),
        epochs=3,
        quick_epochs=2,
        repeats=3,
        peers={FIT: {}},
        goals={FIT: 1.0},
        # Batch normalisation and Adam enlarge rounding errors at every step: few and large steps.
        agreement=("batch_size=250",),
        loss_tolerance=1e-4,
        accuracy_tolerance=0.05,
        quick_accuracy_tolerance=0.2,
    ),
}
AGREEMENT_EPOCHS = 2
QUICK_PEERS = 1  # rows of the peer with --quick


def main(argv: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks loop", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", choices=CASES, action="append", help="only this case; may be given more than once")
    parser.add_argument("--repeats", type=int, help="how many times each row is run (default: the case's own)")
    parser.add_argument("--quick", action="store_true", help="few epochs: to see that it works, not to measure")
    options = parser.parse_args(argv)
    if options.repeats is not None and options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; it must be at least 1")
    verdicts = []
    for name in options.case or CASES:
        verdicts += _measure(name, CASES[name], repeats=options.repeats or CASES[name].repeats, quick=options.quick)
    print(f"machine: {machine()}")
    print("\n".join(verdicts))
    if options.quick:
        print("measured with --quick: too short to count")
    return 0


def _measure(name: str, case: Case, *, repeats: int, quick: bool) -> list[str]:
    """Print a case's tables; returns its ratios and goals in words."""
    epochs = case.quick_epochs if quick else case.epochs
    peers = dict(list(case.peers.items())[: QUICK_PEERS if quick else None])
    ours = Workload((*case.overrides, f"epochs={epochs}"))
    jobs = {OURS: ours, **{row: replace(ours, peer=True, **options) for row, options in peers.items()}}
    agreement = _agree(name, case)
    runs = interleave({row: job.command() for row, job in jobs.items()}, repeats=repeats, label=f"{name}, run")
    allowed = case.quick_accuracy_tolerance if quick else case.accuracy_tolerance
    for row in peers:
        for a, b in zip(runs[OURS], runs[row], strict=True):
            _check_same_job(row, a, b)
            accuracies = [[r["history"][-1]["val/accuracy"]] for r in (a, b)]
            require_close(f"{name}: val/accuracy, {row}", ours=accuracies[0], peer=accuracies[1], absolute=allowed)
    first = runs[OURS][0]
    print(f"{name}: {' '.join(case.overrides)}")
    print(
        f"{first['steps_per_epoch']} steps of {first['batch_size']} an epoch, {epochs} epochs, the first left out; "
        f"{repeats} interleaved runs; {agreement}\n"
    )
    print(_speed_table(runs), end="\n\n")
    print(_callback_table(runs[OURS]), end="\n\n")
    verdicts = []
    for row in peers:
        ratio = spread(ratios(runs[OURS], runs[row], "steps_per_second"))
        goal = case.goals.get(row)
        verdict = "" if goal is None else f"; goal at least {goal:.1f}: {'met' if ratio.median >= goal else 'MISSED'}"
        verdicts.append(f"{name}: ours / {row}: {ratio.median:.2f} ({ratio.min:.2f} to {ratio.max:.2f}){verdict}")
    return verdicts


def _agree(name: str, case: Case) -> str:
    """Train with both, shuffling off; returns in words how close the losses are.

    Raises:
        Disagreement: initial weights, sizes or losses differ.
    """
    job = Workload((*case.overrides, *case.agreement, f"epochs={AGREEMENT_EPOCHS}", "data.shuffle=false"), threads=1)
    results = {}
    for row, one in {OURS: job, PEER: replace(job, peer=True)}.items():
        print(f"{name}, agreement: {row}", file=sys.stderr, flush=True)
        results[row] = run(row, one.command())
    ours, peer = results[OURS], results[PEER]
    _check_same_job(PEER, ours, peer)
    require_equal(f"{name}: metrics", ours=sorted(ours["history"][0]), peer=sorted(peer["history"][0]))
    differences = [
        require_close(
            f"{name}: {key} by epoch",
            ours=[epoch[key] for epoch in ours["history"]],
            peer=[epoch[key] for epoch in peer["history"]],
            relative=case.loss_tolerance,
        )
        for key in ("train/loss", "val/loss")
    ]
    return f"losses of {AGREEMENT_EPOCHS} unshuffled epochs agree within {max(differences):.1e}"


def _check_same_job(row: str, ours: dict[str, Any], peer: dict[str, Any]) -> None:
    for key in ("initial_weights", "parameters", "steps_per_epoch", "batch_size", "epochs"):
        require_equal(f"{key}, {row}", ours=ours[key], peer=peer[key])


def _speed_table(runs: dict[str, list[dict[str, Any]]]) -> str:
    rows = [["", "threads", "steps/s", "min", "max", "ours/this", "min", "max", "val/accuracy", "peak MB"]]
    for row, results in runs.items():
        speed = spread([result["steps_per_second"] for result in results])
        ratio = spread(ratios(runs[OURS], results, "steps_per_second"))
        accuracy = spread([result["history"][-1]["val/accuracy"] for result in results])
        memory = spread([result["peak_megabytes"] for result in results])
        rows.append(
            [
                row,
                str(results[0]["threads"]),
                *(f"{value:.4g}" for value in speed),
                *(f"{value:.2f}" for value in ratio),
                f"{accuracy.median:.4f}",
                f"{memory.median:.0f}",
            ]
        )
    return table(rows)


def _callback_table(results: list[dict[str, Any]]) -> str:
    """What each of our callbacks takes, and what is left for training and validation."""
    rows = [["ours, by part", "ms an epoch", "min", "max"]]
    for part in results[0]["milliseconds"]:
        values = spread([result["milliseconds"][part] for result in results])
        rows.append([part, *(f"{value:.2f}" for value in values)])
    return table(rows)


def work(job: Workload) -> dict[str, Any]:
    """Do one job in this process; returns what it measured."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        result = _fit_peer(job, Path(folder)) if job.peer else _fit_ours(job, Path(folder))
    marks, steps = result.pop("marks"), result["steps_per_epoch"]
    if len(marks) != result["epochs"] or len(result["history"]) != result["epochs"]:
        raise Disagreement(f"{len(marks)} epochs were run and {len(result['history'])} recorded")
    unit = 1024**2 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in kilobytes elsewhere
    return {
        **result,
        "steps_per_second": steps * (len(marks) - 1) / (marks[-1] - marks[0]),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    }


def _fit_ours(job: Workload, folder: Path) -> dict[str, Any]:
    """As `src.train` does it, without the export, which comes after the last epoch."""
    from src import build
    from src.common.machine import available_cores
    from src.config.compose import compose
    from src.runs.environment import environment
    from src.runs.record import Record
    from src.runs.record_callback import RecordCallback

    cfg = compose([*job.overrides, "callback.export=null"])
    _open_log(cfg, folder)
    threads = build.set_up_process(threads=job.threads or cfg.trainer.threads or available_cores())
    data = build.build_data(cfg)
    record = Record(folder)
    record.update(status="running", environment=environment())
    keeper = RecordCallback(record=record)
    trainer = build.build_trainer(cfg, data, run_dir=folder, extra_callbacks={"record": keeper})
    facts = _facts(cfg, trainer.model, data)
    clock = _Clock(trainer.callbacks)
    trainer.fit(data.train, data.val, epochs=cfg.epochs)
    history = [{key: value for key, value in epoch.items() if "/" in key} for epoch in record.history()]
    parts = clock.milliseconds_per_epoch()
    return {**facts, "threads": threads, "marks": clock.marks, "history": history, "milliseconds": parts}


class _Clock:
    """Notes when each epoch ends, after all callbacks, and what each callback takes."""

    def __init__(self, callbacks: dict[str, Any]) -> None:
        from src.training.callback import Callback

        self.marks: list[float] = []
        self._spent = dict.fromkeys(callbacks, 0.0)
        for name, callback in callbacks.items():
            for method in ("on_log", "on_epoch_end"):
                setattr(callback, method, self._timed(name, getattr(callback, method)))
        last = Callback()
        last.on_epoch_end = self._mark
        callbacks["clock"] = last

    def milliseconds_per_epoch(self) -> dict[str, float]:
        epochs = len(self.marks) - 1
        whole = (self.marks[-1] - self.marks[0]) / epochs
        parts = {name: seconds / epochs for name, seconds in self._spent.items()}
        parts = {"training and validation": whole - sum(parts.values()), **parts, "whole epoch": whole}
        return {name: 1e3 * seconds for name, seconds in parts.items()}

    def _timed(self, name: str, method: Any) -> Any:
        def call(*args: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*args)
            finally:
                self._spent[name] += time.perf_counter() - began

        return call

    def _mark(self, state: Any, metrics: Any) -> None:
        if not self.marks:  # the first epoch, which traces, is left out
            self._spent = dict.fromkeys(self._spent, 0.0)
        self.marks.append(time.perf_counter())


def _open_log(cfg: Any, folder: Path) -> None:
    """Log to train.log and standard error as a run under Hydra does."""
    import logging.config

    from omegaconf import OmegaConf, open_dict

    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(folder)
    logging.config.dictConfig(OmegaConf.to_container(cfg.hydra.job_logging, resolve=True))


def _fit_peer(job: Workload, folder: Path) -> dict[str, Any]:
    """As a user of Keras would write it, with the objects that the same config names."""
    import keras
    import tensorflow as tf
    from hydra.utils import instantiate

    from src import build
    from src.common.machine import available_cores
    from src.config.compose import compose

    cfg = compose(list(job.overrides))
    if job.threads:
        tf.config.threading.set_intra_op_parallelism_threads(job.threads)
        tf.config.threading.set_inter_op_parallelism_threads(job.threads)
    data = build.build_data(cfg)
    keras.utils.set_random_seed(cfg.seed)
    model = build.build_model(cfg, data)
    facts = _facts(cfg, model, data)
    steps = facts["steps_per_epoch"]
    run_facts = {"num_classes": data.num_classes, "steps_per_epoch": steps, "total_steps": steps * cfg.epochs}
    cfg.run.update(run_facts)
    model.compile(
        optimizer=instantiate(cfg.optimizer, learning_rate=instantiate(cfg.schedule), _convert_="all"),
        loss=instantiate(cfg.loss, _convert_="all"),
        metrics=[_keras_metric(name, metric) for name, metric in cfg.metric.items()],
        steps_per_execution=steps if job.epoch_per_execution else 1,
    )
    train, val = _arrays(data, "train"), _arrays(data, "val")
    marks: list[float] = []
    history = model.fit(
        *train,
        batch_size=cfg.batch_size,
        epochs=cfg.epochs,
        validation_data=val,
        shuffle=cfg.data.shuffle,
        verbose=2,
        callbacks=[
            keras.callbacks.TensorBoard(log_dir=str(folder / "logs")),
            keras.callbacks.ModelCheckpoint(str(folder / "epoch-{epoch:03d}.keras")),
            keras.callbacks.ModelCheckpoint(
                str(folder / "best.keras"), monitor=cfg.monitor.replace("/", "_"), mode=cfg.mode, save_best_only=True
            ),
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: marks.append(time.perf_counter())),
        ],
    ).history
    named = {f"val/{k[4:]}" if k.startswith("val_") else f"train/{k}": v for k, v in history.items()}
    epochs = [dict(zip(named, map(float, values), strict=True)) for values in zip(*named.values(), strict=True)]
    in_force = tf.config.threading.get_intra_op_parallelism_threads() or available_cores()
    return {**facts, "threads": in_force, "marks": marks, "history": epochs}


def _keras_metric(name: str, metric: Any) -> Any:
    """The metric of a config, or what Keras has in its place."""
    import keras
    from hydra.utils import instantiate

    if metric._target_ == "src.metrics.MeanIoU":
        return keras.metrics.MeanIoU(num_classes=metric.num_classes, sparse_y_pred=False, name=name)
    return instantiate(metric, name=name, _convert_="all")


def _facts(cfg: Any, model: Any, data: Any) -> dict[str, Any]:
    """What must be the same on both sides before training."""
    digest = hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights()))
    return {
        "initial_weights": digest.hexdigest(),
        "parameters": model.count_params(),
        "steps_per_epoch": data.train.steps_per_epoch,
        "batch_size": cfg.batch_size,
        "epochs": cfg.epochs,
    }


def _arrays(data: Any, split: str) -> tuple[Any, Any]:
    """A split as arrays in stored order: float32 images in [0, 1], targets."""
    import numpy as np
    import tensorflow as tf

    from src.data.pipeline import to_float

    raw = data.raw(split)
    cursor = raw.open(0, 0)
    batches = [raw.next(cursor, tf.constant(step)) for step in range(raw.steps_per_epoch)]
    images, targets = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return to_float(tf.constant(images)).numpy(), targets


if __name__ == "__main__":
    described = json.loads(sys.argv[1])
    measured = work(Workload(**{**described, "overrides": tuple(described["overrides"])}))
    print(json.dumps(measured), flush=True)
