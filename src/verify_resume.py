"""Prove for any config that it resumes exactly: train it straight, then again with kills, and compare every bit.

    python -m src.verify_resume data=digits model=cnn epochs=4 --trials=5 --kills=2

A trial kills the run with SIGKILL as soon as a random step is done, types the same command again, and so on; then
weights, seeds, optimizer, metrics, best and history must equal those of the uninterrupted run. One line a trial; exit
code 1 if any differs.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.common.command import EXIT_FAILED, run_command
from src.common.files import literal
from src.common.logs import importing
from src.config.compose import compose
from src.runs.record import Record
from src.runs.record_schema import EMPTY, RecordValues

POLL_SECONDS = 0.002
# None of these is part of a run's identity: they make steps visible, and checkpoints frequent.
WATCHED = ("log_every_steps=1", "trainer.steps_per_call=1", "callback.summaries.every_steps=1")

COMPARED = ("status", "best", "metrics", "epoch", "step")  # of run.json
# Summaries whose steps depend on how often they are written.
WITHIN_EPOCHS = ("batch_loss", "gradient_norm", "learning_rate", "steps_per_second")


Start = Callable[..., subprocess.Popen]


class Unexpected(RuntimeError):
    """A run ended as it should not."""


class Children:
    """Processes that are ended together, by another thread than those that wait for them."""

    def __init__(self) -> None:
        self._lock, self._ended = threading.Lock(), False
        self._started: list[subprocess.Popen] = []

    def start(self, command: list[str], **options: Any) -> subprocess.Popen:
        """As subprocess.Popen.

        Raises:
            Unexpected: they have been ended.
        """
        with self._lock:
            if self._ended:
                raise Unexpected("the trials have been ended")
            self._started.append(subprocess.Popen(command, **options))
            return self._started[-1]

    def end(self) -> None:
        """Kill those that run, and start none any more."""
        with self._lock:
            self._ended = True
        for process in self._started:
            process.kill()
        for process in self._started:
            process.wait()


@dataclass(frozen=True)
class Trial:
    """What one trial did: the steps after which it was killed, how many had to be done again, and what differs."""

    killed_at: tuple[int, ...]
    lost_steps: tuple[int, ...]
    differences: tuple[str, ...]


def main(argv: list[str]) -> int:
    """The command line; returns the exit code: 1 where a trial differs."""
    parser = argparse.ArgumentParser(prog="python -m src.verify_resume", description=__doc__.partition("\n\n")[0])
    parser.add_argument("overrides", nargs="*", help="as for python -m src.train")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--kills", type=int, default=2, help="of each trial")
    parser.add_argument("--every-steps", type=int, default=7, help="between two checkpoints within an epoch")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the steps to kill at")
    arguments = parser.parse_intermixed_args(argv)
    compose(arguments.overrides)
    with importing():
        import tensorflow  # noqa: F401
    with tempfile.TemporaryDirectory(prefix="verify_resume-") as folder:
        failed = verify(
            arguments.overrides,
            Path(folder),
            trials=arguments.trials,
            kills=arguments.kills,
            every_steps=arguments.every_steps,
            jobs=arguments.jobs,
            seed=arguments.seed,
        )
    return EXIT_FAILED if failed else 0


def verify(
    overrides: list[str], folder: Path, *, trials: int, kills: int, every_steps: int, jobs: int = 1, seed: int = 0
) -> int:
    """Run the trials in `folder`, printing a line for each; returns how many differ from the straight run."""
    children, straight, began = Children(), folder / "straight" / "run", time.monotonic()

    def trial(number: int) -> Trial:
        directory = folder / f"trial-{number}" / "run"
        return _trial(overrides, directory, straight, plans[number], every_steps, start=children.start)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            finish(overrides, straight, start=children.start)
            record = Record(straight).read()
            assert record is not None
            steps, seconds = record["step"], time.monotonic() - began
            print(f"straight: {steps} steps, {record['epoch']} epochs, {seconds:.1f} s", flush=True)
            generator = random.Random(seed)
            plans = [sorted(generator.randint(1, steps) for _ in range(kills)) for _ in range(trials)]
            return _report(pool.map(trial, range(trials)), every_steps=every_steps)
        except BaseException:  # the pool waits for its threads, and these for their children
            pool.shutdown(wait=False, cancel_futures=True)
            children.end()
            raise


def _report(trials: Iterable[Trial], *, every_steps: int) -> int:
    """A line for each as it ends, and what they come to; returns how many differ."""
    done = []
    for number, trial in enumerate(trials, start=1):
        done.append(trial)
        steps, again = ", ".join(map(str, trial.killed_at)) or "never (it was over)", sum(trial.lost_steps)
        result = f"DIFFERS in {', '.join(trial.differences)}" if trial.differences else "equal bit for bit"
        print(f"trial {number}: killed after step {steps}; {again} steps done again; {result}", flush=True)
    failed, killed = sum(bool(trial.differences) for trial in done), sum(len(trial.killed_at) for trial in done)
    if not killed:
        raise Unexpected("every run was over before it could be killed: give it more epochs")
    print(f"{len(done) - failed} of {len(done)} trials equal to the straight run, {killed} kills")
    lost = max(steps for trial in done for steps in trial.lost_steps)
    print(f"most steps done again after a kill: {lost}, with a checkpoint every {every_steps} steps")
    return failed


def command(overrides: list[str], directory: Path, *more: str) -> list[str]:
    """The command that trains a config in a directory; `more` overrides take the place of those of the same key."""
    replaced = {text.partition("=")[0] for text in more}
    overrides = [text for text in overrides if text.partition("=")[0] not in replaced]
    return [sys.executable, "-m", "src.train", *overrides, f"hydra.run.dir='{directory}'", *more]


def finish(overrides: list[str], directory: Path, *, start: Start = subprocess.Popen) -> None:
    """Train to the end.

    Raises:
        Unexpected: the exit code is not 0.
    """
    process = start(command(overrides, directory), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    _, errors = process.communicate()
    if process.returncode:
        raise Unexpected(f"the run in {directory} failed: {errors.strip()[-2000:]}")


def run_until(
    command: list[str],
    directory: Path,
    *,
    step: int,
    signal_number: int = signal.SIGKILL,
    start: Start = subprocess.Popen,
) -> int | None:
    """Start a run and send it a signal when `step` is done. Returns the step that was seen, None if it ended before."""
    log = directory / "train.log"
    position = log.stat().st_size if log.exists() else 0
    with tempfile.TemporaryFile() as errors:
        process = start(command, stdout=subprocess.DEVNULL, stderr=errors)
        seen = 0
        while process.poll() is None and seen < step:
            time.sleep(POLL_SECONDS)
            if log.exists() and log.stat().st_size > position:
                with log.open("rb") as file:
                    file.seek(position)
                    content = file.read()
                position += content.rfind(b"\n") + 1
                seen = max([seen, *map(int, re.findall(rb"loss at step (\d+)", content))])
        if process.poll() is None:
            process.send_signal(signal_number)
            process.wait()
            return seen
        if process.returncode:
            errors.seek(0)
            raise Unexpected(f"the run in {directory} failed: {errors.read().decode().strip()[-2000:]}")
        return None


def compare(run: Path, straight: Path) -> list[str]:
    """What differs between two finished runs: tensors of the newest and best checkpoint, record, lines, summaries.

    Of the summaries, what is written once an epoch must be equal, and no step may be there twice.
    """
    from src.callbacks.summaries import read_scalars

    different = []
    for folder in ("checkpoints", "checkpoints/best"):
        tensors, expected = (_tensors(path / folder) for path in (run, straight))
        if tensors.keys() != expected.keys():
            different.append(f"{folder} (names)")
            continue
        different += [f"{folder} {name}" for name, value in sorted(tensors.items()) if value != expected[name]]
    records, histories, validations = zip(*map(_recorded, (run, straight)), strict=True)
    different += [f"run.json {key}" for key in COMPARED if len({repr(record.get(key)) for record in records}) > 1]
    different += ["history.jsonl"] if histories[0] != histories[1] else []
    different += ["validations.jsonl"] if validations[0] != validations[1] else []
    scalars, wanted = (read_scalars(path / "summaries") for path in (run, straight))
    for key in sorted(scalars.keys() | wanted.keys()):
        points, others = (sorted(found.get(key, [])) for found in (scalars, wanted))  # as text: NaN is equal to NaN
        twice = len({step for step, _ in points}) < len(points)
        if twice or (key[1] not in WITHIN_EPOCHS and str(points) != str(others)):
            different.append(f"summaries {'/'.join(key)}{' (a step twice)' if twice else ''}")
    return different


def _recorded(run: Path) -> tuple[RecordValues, list[dict[str, Any]], list[dict[str, Any]]]:
    """The record, the history without its times, and the validations within epochs."""
    record = Record(run)
    history = [{key: value for key, value in line.items() if key != "seconds"} for line in record.history()]
    return record.read() or EMPTY, history, record.validations()


def _tensors(folder: Path) -> dict[str, Any]:
    """Those of the newest checkpoint, by name: bytes, and what is none of numbers as it is."""
    import tensorflow as tf

    with literal(folder) as path:
        reader = tf.train.load_checkpoint(path)
        names = set(reader.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
        tensors = {name: reader.get_tensor(name) for name in names}
    return {name: value.tobytes() if hasattr(value, "tobytes") else value for name, value in tensors.items()}


def _trial(
    overrides: list[str], directory: Path, straight: Path, plan: list[int], every_steps: int, *, start: Start
) -> Trial:
    watched = (*WATCHED, f"callback.checkpoint.every_steps={every_steps}")
    killed_at, lost = [], []
    for step in plan:
        seen = run_until(command(overrides, directory, *watched), directory, step=step, start=start)
        if seen is None:
            break
        killed_at.append(seen)
        lost.append(seen - newest_step(directory))
    finish([*overrides, *watched], directory, start=start)
    return Trial(tuple(killed_at), tuple(lost), tuple(compare(directory, straight)))


def newest_step(directory: Path) -> int:
    """The step of the newest good checkpoint, 0 without one."""
    from src.training.manifest import DamagedCheckpoint, read_manifest

    prefixes = sorted((directory / "checkpoints").glob("ckpt-*.json"), key=os.path.getmtime, reverse=True)
    for path in prefixes:
        try:
            return int(read_manifest(path.with_suffix(""))["step"])
        except DamagedCheckpoint:
            continue
    return 0


if __name__ == "__main__":
    run_command(main)
