"""What a command costs before and around training: answers, the first epoch, a short run, and planning a sweep.

    python -m benchmarks start [--repeats N] [--case cnn]

Processor seconds of whole processes, interleaved. Answers are compared with `python -c "import hydra"`. First epochs
are compared with a plain script that imports Keras, makes the same model, compiles and fits one epoch on the same
arrays, and writes nothing; a bare `import tensorflow` is taken off both. Ours validates, logs, saves and draws as well,
and the whole command exports too, and loads and checks what it has exported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, finish
from benchmarks.pairs import ROOT, ProcessFailed

TRAIN = (sys.executable, "-m", "src.train")
FINISHED = ("data=digits", "model=mlp", "epochs=1", "callback.export=null")
JOBS = 1000
COMPOSE = """
import hydra
with hydra.initialize_config_dir({folder!r}, version_base="1.3"):
    hydra.compose("train")
"""
CASES = {
    "cnn": ("data=digits", "model=cnn"),
    "unet_mobilenet_v2": (
        *("data=oxford_iiit_pet", "data.data_dir={folder}", "model=unet_mobilenet_v2", "batch_size=8"),
        "data.transforms.flip=null",
    ),
}
PETS = 80


def main(argv: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks start", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="how many times each command is run")
    parser.add_argument("--case", choices=CASES, action="append", help="only this case; may be given more than once")
    options = parser.parse_args(argv)
    finish(measure(repeats=options.repeats, cases=options.case or CASES))
    return 0


def measure(*, repeats: int, cases: Collection[str] = CASES) -> list[Figure]:
    """All commands in turn, `repeats` times over."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        commands = _commands(folder, cases)
        _cpu_seconds((*TRAIN, *FINISHED), folder)
        used: dict[str, list[float]] = {label: [] for label in commands}
        for number in range(1, repeats + 1):
            for label, (command, exit_code) in commands.items():
                print(f"start, round {number}/{repeats}: {label}", file=sys.stderr, flush=True)
                used[label].append(_cpu_seconds(command, folder, exit_code=exit_code))
    figures = [
        Figure(f"CPU s over `import hydra`: {label}", _differences(used[label], used["import hydra"]), at_most=0.15)
        for label in ("--help", "a finished run again", "a mistake")
    ]
    floor = "Hydra's compose alone"  # below which no answer can come
    figures.append(Figure(f"CPU s over `import hydra`: {floor}", _differences(used[floor], used["import hydra"])))
    for case in cases:
        for what, goal in (("first epoch", 0.5), ("whole command", 0.9 if case == "cnn" else None)):
            theirs = _differences(used[f"{case}, fit"], used["import tensorflow"])
            ours = _differences(used[f"{case}, {what}"], used["import tensorflow"])
            shares = [one / other for one, other in zip(ours, theirs, strict=True)]
            figures.append(Figure(f"{case}: CPU, {what} / plain fit", shares, at_most=goal))
        figures.append(Figure(f"{case}: CPU s over `import tensorflow`: plain fit", theirs))
    planned = [1e3 * seconds / JOBS for seconds in _differences(used["planning"], used["a mistake"])]
    return [*figures, Figure(f"CPU ms to plan a job, of {JOBS}", planned, at_most=5)]


def _commands(folder: Path, cases: Collection[str]) -> dict[str, tuple[tuple[str, ...], int]]:
    """What is run, and the exit code that it must have."""
    from tests.support.prepared import write_pets

    write_pets(folder, train=PETS, test=1)
    commands: dict[str, tuple[tuple[str, ...], int]] = {
        "import hydra": ((sys.executable, "-c", "import hydra"), 0),
        "Hydra's compose alone": ((sys.executable, "-c", COMPOSE.format(folder=str(ROOT / "conf"))), 0),
        "import tensorflow": ((sys.executable, "-c", "import tensorflow"), 0),
        "--help": ((*TRAIN, "--help"), 0),
        "a finished run again": ((*TRAIN, *FINISHED), 0),
        "a mistake": ((*TRAIN, "epochs=0"), 2),
        "planning": ((*TRAIN, "--multirun", "data=digits", f"seed=range({JOBS})", "dry_run=true"), 0),
    }
    for case in cases:
        options = tuple(text.replace("{folder}", str(folder)) for text in CASES[case])
        arrays = folder / f"{case}.npz"
        _cpu_seconds((sys.executable, "-m", "benchmarks.start", "prepare", str(arrays), json.dumps(options)), folder)
        again = (*options, "epochs=1", "rerun=true")
        commands |= {
            f"{case}, fit": ((sys.executable, "-m", "benchmarks.start", case, str(arrays)), 0),
            f"{case}, first epoch": ((*TRAIN, *again, "callback.export=null"), 0),
            f"{case}, whole command": ((*TRAIN, *again), 0),
        }
    return commands


def _cpu_seconds(command: tuple[str, ...], folder: Path, *, exit_code: int = 0) -> float:
    """Of a whole process and its children, in this folder."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != exit_code:
            errors.seek(0)
            raise ProcessFailed(f"{command}: exit code {process.returncode}\n{errors.read().decode()[-2000:]}")
    return used.ru_utime + used.ru_stime


def _differences(ones: list[float], others: list[float]) -> list[float]:
    """Less the median of the others, whose own noise would count twice."""
    other = statistics.median(others)
    return [one - other for one in ones]


def prepare(path: Path, overrides: list[str]) -> None:
    """Write a case's arrays for the plain script."""
    import numpy as np

    from benchmarks.loop import arrays_of
    from src import build
    from src.config.compose import compose

    data = build.build_data(compose(overrides))
    named = {split: arrays_of(data, split) for split in ("train", "val")}
    np.savez(
        path, **{f"{split}_{part}": array for split in named for part, array in zip("xy", named[split], strict=True)}
    )


def fit(case: str, path: Path) -> None:
    """The plain script."""
    import keras
    import numpy as np

    from src.models import cnn, unet_mobilenet_v2

    arrays = np.load(path)
    shape, classes = arrays["train_x"].shape[1:], int(arrays["train_y"].max()) + 1
    make: Any = {"cnn": cnn.cnn, "unet_mobilenet_v2": unet_mobilenet_v2.unet_mobilenet_v2}[case]
    model = make(input_shape=shape, num_classes=classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    validation = (arrays["val_x"], arrays["val_y"])
    batch = 32 if case == "cnn" else 8
    model.fit(arrays["train_x"], arrays["train_y"], batch_size=batch, epochs=1, validation_data=validation, verbose=2)


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]), json.loads(sys.argv[3]))
    else:
        fit(sys.argv[1], Path(sys.argv[2]))
