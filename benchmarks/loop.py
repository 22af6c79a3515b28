"""The training loop against Keras's compile/fit and a bare loop: steps per second, with and without files.

    python -m benchmarks loop [--case cnn] [--repeats N] [--quick]

Ours is the project's trainer with its real callbacks, built from the real config; the peers are `Model.fit` on the same
arrays with `keras.callbacks.TensorBoard` and two `ModelCheckpoint` (each epoch's full model, and the best one), on
TensorFlow and on JAX, and the loop of TensorFlow's guide in one graph call an epoch, which writes nothing. Model,
weights, optimizer, schedule, loss, metrics and batch size are the same. Where these agree with shuffling off, all are
timed with shuffling on: steps by wall time of all epochs after the first, validation and files included. Rows without
files are compared with ours without callbacks.

The peers' side is a little lighter: their checkpoints are neither read back nor fsynced, they write no losses of single
steps, and print a line an epoch (verbose=2) instead of a bar. JAX is an extra: pip install -e '.[bench]'.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, finish
from benchmarks.keras_fit import SPLITS, Peer, facts_of, measured
from benchmarks.pairs import (
    interleave,
    ratios,
    require_close,
    require_equal,
    run,
    spread,
    table,
)

OURS, BARE_OURS, FIT, JAX = "ours", "ours, no callbacks", "Model.fit, its defaults", "Model.fit on JAX"


@dataclass(frozen=True)
class Workload:
    """What one process of ours does.

    Attributes:
        overrides: of the config.
        prepared: where arrays and first weights are written for the peers, instead of training.
        threads: of TensorFlow; None leaves it to the config.
        files: whether the config's callbacks are called.
    """

    overrides: tuple[str, ...]
    prepared: str = ""
    threads: int | None = None
    files: bool = True

    def command(self) -> list[str]:
        """The command of the process."""
        return [sys.executable, "-m", "benchmarks.loop", json.dumps(asdict(self))]


@dataclass(frozen=True)
class Row:
    """A row of a table: a process that is timed.

    Attributes:
        options: of `Peer`, or of `Workload` where `ours`.
        goals: by row of ours that it is compared with, how many times this row's steps per second ours should do at
            least; None without a goal.
    """

    options: dict[str, Any] = field(default_factory=dict)
    goals: dict[str, float | None] = field(default_factory=lambda: {OURS: None})
    ours: bool = False


@dataclass(frozen=True)
class Case:
    """One model on one data set.

    Attributes:
        overrides: of the config.
        epochs, quick_epochs: of a timed run.
        repeats: how many times all rows are run.
        rows: by name; ours comes first.
        agreement: other values of overrides, and further ones, where losses are compared.
        loss_tolerance: largest relative difference of an epoch's loss, shuffling off.
        accuracy_tolerance: largest absolute difference of the last epoch's metric, shuffling on; None where ours alone
            augments.
        metric: that is compared.
        pets: how many photographs are written for the overrides' {folder}, a small Oxford-IIIT Pet.
    """

    overrides: tuple[str, ...]
    epochs: int
    quick_epochs: int
    repeats: int
    rows: dict[str, Row]
    agreement: tuple[str, ...]
    loss_tolerance: float
    accuracy_tolerance: float | None
    quick_accuracy_tolerance: float | None
    metric: str = "val/accuracy"
    pets: int = 0


ONE_CALL = {"threads": 1, "epoch_per_execution": True}
ON_JAX = {"backend": "jax"}
CASES = {
    "cnn": Case(
        overrides=("data=digits", "model=cnn"),
        epochs=30,
        quick_epochs=4,
        repeats=5,
        rows={
            OURS: Row(ours=True),
            FIT: Row(goals={OURS: 4.0}),
            "Model.fit, one thread": Row({"threads": 1}),
            "Model.fit, one thread, epoch per execution": Row(ONE_CALL, {OURS: 2.2}),
            JAX: Row(ON_JAX, {OURS: 1.8}),
            f"{JAX}, 9 steps per execution": Row({**ON_JAX, "steps_per_execution": 9}, {OURS: 1.8}),
            BARE_OURS: Row({"files": False}, ours=True),
            "bare graph loop, one thread": Row({"threads": 1, "bare": True}, {OURS: 0.9, BARE_OURS: 0.9}),
            "Model.fit, no callbacks, one thread, epoch per execution": Row(
                {**ONE_CALL, "files": False}, {BARE_OURS: None}
            ),
            f"{JAX}, no callbacks": Row({**ON_JAX, "files": False}, {BARE_OURS: None}),
        },
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
        rows={OURS: Row(ours=True), FIT: Row(goals={OURS: 1.0}), "bare graph loop": Row({"bare": True})},
        # Batch normalisation and Adam enlarge rounding errors at every step: few and large steps.
        agreement=("batch_size=250",),
        loss_tolerance=1e-4,
        accuracy_tolerance=0.05,
        quick_accuracy_tolerance=0.2,
    ),
    "article": Case(
        overrides=(
            *("data=oxford_iiit_pet", "data.data_dir={folder}", "model=unet_mobilenet_v2", "batch_size=8"),
            "data.transforms.flip={_target_: src.data.images.transforms.Flip}",
        ),
        epochs=3,
        quick_epochs=2,
        repeats=3,
        rows={
            OURS: Row(ours=True),
            FIT: Row(goals={OURS: None}),
            BARE_OURS: Row({"files": False}, ours=True),
            "bare graph loop": Row({"bare": True}, {OURS: None, BARE_OURS: 0.97}),
        },
        # Adam makes whole steps of gradients that are zero but for rounding, as before batch normalisation, unless its
        # epsilon is larger than these.
        agreement=("batch_size=64", "data.transforms.flip=null", "optimizer.epsilon=0.001"),
        loss_tolerance=1e-4,
        accuracy_tolerance=None,
        quick_accuracy_tolerance=None,
        metric="val/mean_iou",
        pets=160,
    ),
}
AGREEMENT_EPOCHS = 2
MEMORY_GOAL = 1.05
QUICK_ROWS = 2  # with --quick


def main(argv: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks loop", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", choices=CASES, action="append", help="only this case; may be given more than once")
    parser.add_argument("--repeats", type=int, help="how many times each row is run (default: the case's own)")
    parser.add_argument("--quick", action="store_true", help="few epochs: to see that it works, not to measure")
    options = parser.parse_args(argv)
    if options.repeats is not None and options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; it must be at least 1")
    measured = [
        figure
        for name in options.case or CASES
        for figure in measure(name, repeats=options.repeats or CASES[name].repeats, quick=options.quick)
    ]
    finish(measured, keep=not options.quick)
    if options.quick:
        print("measured with --quick: too short to count")
    return 0


def measure(name: str, *, repeats: int, quick: bool = False) -> list[Figure]:
    """Print a case's tables; returns its figures."""
    case = CASES[name]
    epochs = case.quick_epochs if quick else case.epochs
    rows = dict(list(case.rows.items())[: QUICK_ROWS if quick else None])
    if find_spec("jax") is None:
        rows = {row: one for row, one in rows.items() if one.options.get("backend") != "jax"}
        print("JAX is not installed, so its rows are left out: pip install -e '.[bench]'", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        if case.pets:
            _write_pets(Path(folder), case.pets)
        settings = tuple(override.replace("{folder}", folder) for override in case.overrides)
        overrides = (*settings, f"epochs={epochs}")
        agreement = _agree(name, replace(case, overrides=settings), rows, Path(folder, "agreement.npz"))
        jobs = _jobs(name, rows, overrides, Path(folder, "timed.npz"))
        runs = interleave({row: job.command() for row, job in jobs.items()}, repeats=repeats, label=f"{name}, run")
    allowed = case.quick_accuracy_tolerance if quick else case.accuracy_tolerance
    for row in list(rows)[1:]:
        for a, b in zip(runs[OURS], runs[row], strict=True):
            _check_same_job(row, a, b)
            if allowed is not None:
                ours, peer = ([result["history"][-1][case.metric]] for result in (a, b))
                require_close(f"{name}: {case.metric}, {row}", ours=ours, peer=peer, absolute=allowed)
    first = runs[OURS][0]
    print(f"{name}: {' '.join(case.overrides)}")
    print(
        f"{first['steps_per_epoch']} steps of {first['batch_size']} an epoch, {epochs} epochs, the first left out; "
        f"{repeats} interleaved runs; {agreement}\n"
    )
    print(_speed_table(runs, rows, case.metric), end="\n\n")
    print(_callback_table(runs[OURS]), end="\n\n")
    return [
        Figure(f"{name}: steps/s, {ours} / {row}", ratios(runs[ours], runs[row], "steps_per_second"), at_least=goal)
        for row, one in rows.items()
        for ours, goal in (one.goals.items() if not one.ours else ())
    ] + [Figure(f"{name}: peak memory less one copy of the variables, ours / fit", _memory(runs), at_most=MEMORY_GOAL)]


def _memory(runs: dict[str, list[dict[str, Any]]]) -> list[float]:
    """The most memory that ours held, less one copy of the variables, as a share of fit's."""
    return [
        (ours["peak_megabytes"] - ours["variables_megabytes"]) / fit["peak_megabytes"]
        for ours, fit in zip(runs[OURS], runs[FIT], strict=True)
    ]


def _write_pets(folder: Path, count: int) -> None:
    """A small Oxford-IIIT Pet, in the real one's format."""
    from tests.support.prepared import write_pets

    write_pets(folder, train=count, test=1)


def _jobs(name: str, rows: dict[str, Row], overrides: tuple[str, ...], prepared: Path) -> dict[str, Workload | Peer]:
    """What each row does, once its arrays and first weights are in a file."""
    print(f"{name}: arrays and first weights", file=sys.stderr, flush=True)
    ours = Workload(overrides)
    run("arrays and first weights", replace(ours, prepared=str(prepared)).command())
    peer = Peer(overrides, prepared=str(prepared))
    return {row: replace(ours if one.ours else peer, **one.options) for row, one in rows.items()}


def _agree(name: str, case: Case, rows: dict[str, Row], prepared: Path) -> str:
    """Train with ours and each kind of peer, shuffling off; returns in words how close the losses are.

    Raises:
        Disagreement: initial weights, sizes or losses differ.
    """
    other = (*case.agreement, f"epochs={AGREEMENT_EPOCHS}", "data.shuffle=false")
    changed = {text.partition("=")[0] for text in other}
    overrides = (*(text for text in case.overrides if text.partition("=")[0] not in changed), *other)
    kinds: dict[tuple[Any, ...], str] = {}
    for row, one in rows.items():
        kinds.setdefault((one.ours, one.options.get("backend"), one.options.get("bare")), row)
    jobs = _jobs(name, {row: rows[row] for row in kinds.values()}, overrides, prepared)
    results = {}
    for row, job in jobs.items():
        print(f"{name}, agreement: {row}", file=sys.stderr, flush=True)
        results[row] = run(row, replace(job, threads=1).command())
    ours, differences = results.pop(OURS), []
    for row, peer in results.items():
        _check_same_job(row, ours, peer)
        require_equal(f"{name}: metrics, {row}", ours=sorted(ours["history"][0]), peer=sorted(peer["history"][0]))
        differences += [
            require_close(
                f"{name}: {key} by epoch, {row}",
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


def _speed_table(runs: dict[str, list[dict[str, Any]]], rows_of: dict[str, Row], metric: str) -> str:
    rows = [["", "threads", "steps/s", "min", "max", "ours/this", "min", "max", metric, "peak MB"]]
    for row, results in runs.items():
        speed = spread([result["steps_per_second"] for result in results])
        ratio = spread(ratios(runs[next(iter(rows_of[row].goals))], results, "steps_per_second"))
        accuracy = spread([result["history"][-1][metric] for result in results])
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
    from src import build
    from src.common.machine import available_cores
    from src.config.compose import compose

    cfg = compose([*job.overrides, "callback.export=null"])
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        _open_log(cfg, Path(folder))
        threads = build.set_up_process(threads=job.threads or cfg.trainer.threads or available_cores())
        data = build.build_data(cfg)
        if job.prepared:
            return _prepare(cfg, data, Path(job.prepared), run_dir=Path(folder))
        return {**_fit_ours(job, cfg, data, Path(folder)), "threads": threads}


def _fit_ours(job: Workload, cfg: Any, data: Any, folder: Path) -> dict[str, Any]:
    """As `src.train` does it, without the export, which comes after the last epoch."""
    from src import build
    from src.runs.environment import environment
    from src.runs.record import Record
    from src.runs.record_callback import RecordCallback

    record = Record(folder)
    record.update(status="running", environment=environment())
    keeper = RecordCallback(record=record)
    trainer = build.build_trainer(cfg, data, run_dir=folder, extra_callbacks={"record": keeper})
    if not job.files:
        trainer.callbacks.clear()
    facts = facts_of(cfg, trainer.model, data.train.steps_per_epoch)
    clock = _Clock(trainer.callbacks)
    trainer.fit(data.train, data.val, epochs=cfg.epochs)
    variables = sum(variable.numpy().nbytes for variable in trainer.state.all_variables())
    return {
        **measured(facts, clock.marks, clock.history),
        "milliseconds": clock.milliseconds_per_epoch(),
        "variables_megabytes": variables / 2**20,
    }


def _prepare(cfg: Any, data: Any, path: Path, *, run_dir: Path) -> dict[str, Any]:
    """Write what the peers train on: both splits in stored order, and the weights that ours begins with."""
    import numpy as np

    from src import build

    steps = data.train.steps_per_epoch
    model = build.build_trainer(cfg, data, run_dir=run_dir).model
    arrays = {f"weight_{number}": weight for number, weight in enumerate(model.get_weights())}
    for split in SPLITS:
        arrays |= zip((f"{split}_inputs", f"{split}_targets"), arrays_of(data, split), strict=True)
    facts = {**data.facts, "steps_per_epoch": steps, "total_steps": steps * cfg.epochs}
    np.savez(path, facts=json.dumps(facts), **arrays)
    return facts


class _Clock:
    """Notes when each epoch ends, after all callbacks, and what each callback takes."""

    def __init__(self, callbacks: dict[str, Any]) -> None:
        from src.training.callback import Callback

        self.marks: list[float] = []
        self.history: list[dict[str, float]] = []
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
        self.history.append(dict(metrics))


def _open_log(cfg: Any, folder: Path) -> None:
    """Log to train.log and standard error as a run under Hydra does."""
    import logging.config

    from omegaconf import OmegaConf, open_dict

    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(folder)
    logging.config.dictConfig(OmegaConf.to_container(cfg.hydra.job_logging, resolve=True))


def arrays_of(data: Any, split: str) -> tuple[Any, Any]:
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
    result = work(Workload(**{**described, "overrides": tuple(described["overrides"])}))
    print(json.dumps(result), flush=True)
