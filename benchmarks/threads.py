"""What one thread gives where steps are small: the same training on all cores and on one.

python -m benchmarks threads [--repeats N]
"""

from __future__ import annotations

import argparse

from benchmarks.figures import Figure, finish
from benchmarks.loop import Workload
from benchmarks.pairs import interleave, ratios, require_close

CASES = {
    "cnn": ("data=digits", "model=cnn", "epochs=20"),
    "table_mlp": ("data=table", "epochs=20"),
    "unet": ("data=digit_scenes", "model=unet", "epochs=2", "trainer.limit_train_batches=60"),
}


def main(argv: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks threads", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="how many times each is run")
    finish(measure(repeats=parser.parse_args(argv).repeats))
    return 0


def measure(*, repeats: int) -> list[Figure]:
    """Speeds of each case.

    Raises:
        Disagreement: the first epoch's losses are further apart than rounding.
    """
    figures = []
    for name, overrides in CASES.items():
        commands = {str(threads): Workload(overrides, threads=threads).command() for threads in (None, 1)}
        runs = interleave(commands, repeats=repeats, label=f"{name}, threads")
        for every, one in zip(runs["None"], runs["1"], strict=True):
            losses = [[run["history"][0]["train/loss"]] for run in (every, one)]
            require_close(f"{name}: first epoch's loss", ours=losses[0], peer=losses[1], relative=1e-3)
        milliseconds = [1e3 / run["steps_per_second"] for run in runs["None"]]
        figures += [
            Figure(f"{name}: steps/s, one thread / all", ratios(runs["1"], runs["None"], "steps_per_second")),
            Figure(f"{name}: ms a step on all threads, validation and files included", milliseconds),
        ]
    return figures
