"""What a save costs training: a state is copied, and written beside training; before, training waited for the disk.

    python -m benchmarks saves [--repeats N] [--case "100 MB"]

Epochs of the same run with saves beside training, with training waiting for each, and without any, in fresh processes
that end with equal weights. The stall is how long training stands still for one; an epoch is longer by more than that,
since the thread that saves takes the processor from training, too.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, finish
from benchmarks.pairs import interleave, peak_megabytes, ratios, require_equal

CASES = {
    "tiny": ["data=digits", "model=cnn", "epochs=40"],
    "100 MB": [
        *("data=digits", "model=mlp", "model.hidden_units=[2900,2900]", "epochs=5"),
        "trainer.limit_train_batches=15",
    ],
}
BESIDE, WAITS, NONE = "beside training", "waited for", "none"
MOST_OF_STALL = 0.25


def main(argv: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks saves", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", choices=CASES, action="append", help="only this case; may be given more than once")
    parser.add_argument("--repeats", type=int, default=5, help="how many times each is run")
    options = parser.parse_args(argv)
    finish(measure(options.case or [*CASES], repeats=options.repeats))
    return 0


def measure(cases: Sequence[str] = tuple(CASES), *, repeats: int) -> list[Figure]:
    """Stalls, epochs and memory of each case.

    Raises:
        Disagreement: the weights at the end differ.
    """
    figures = []
    for case in cases:
        commands = {how: [sys.executable, "-m", "benchmarks.saves", case, how] for how in (BESIDE, WAITS, NONE)}
        runs = interleave(commands, repeats=repeats, label=f"{case}, saves")
        for one, other in ((BESIDE, WAITS), (BESIDE, NONE)):
            require_equal(f"{case}: weights", ours=runs[one][0]["weights"], peer=runs[other][0]["weights"])
        beside, waits, none = runs[BESIDE], runs[WAITS], runs[NONE]
        more = [(a["peak"] - b["peak"]) / a["megabytes"] for a, b in zip(beside, none, strict=True)]
        figures += [
            Figure(f"{case}: stall, beside / waited for", ratios(beside, waits, "stall"), at_most=MOST_OF_STALL),
            Figure(f"{case}: ms that a save stalls", [run["stall"] for run in beside]),
            Figure(f"{case}: epoch, beside / waited for", ratios(beside, waits, "epoch")),
            Figure(f"{case}: epoch, beside / no saves", ratios(beside, none, "epoch")),
            Figure(f"{case}: peak memory that saves add, in copies of the state", more),
        ]
    return figures


def work(case: str, how: str) -> dict[str, Any]:
    """Train in this process; milliseconds are medians over all epochs but the first."""
    from src import build
    from src.common.machine import available_cores
    from src.config.compose import compose
    from src.training.callback import Callback

    cfg = compose([*CASES[case], "callback.export=null", *(["callback.checkpoint=null"] if how == NONE else [])])
    build.set_up_process(threads=cfg.trainer.threads or available_cores())
    data, stalls, ends = build.build_data(cfg), [], []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        trainer = build.build_trainer(cfg, data, run_dir=Path(folder))
        if how != NONE:
            checkpoint = trainer.callbacks["checkpoint"]
            save = checkpoint.on_epoch_end

            def timed(*given: Any) -> None:
                began = time.perf_counter()
                save(*given)
                if how == WAITS:
                    checkpoint.join()
                stalls.append(1e3 * (time.perf_counter() - began))

            checkpoint.on_epoch_end = timed
        last = Callback()
        last.on_epoch_end = lambda *_: ends.append(1e3 * time.perf_counter())
        trainer.callbacks["last"] = last
        trainer.fit(data.train, data.val, epochs=cfg.epochs)
    values = [variable.numpy() for variable in trainer.state.all_variables()]
    return {
        "weights": hashlib.sha256(b"".join(value.tobytes() for value in values)).hexdigest(),
        "megabytes": sum(value.nbytes for value in values) / 1024**2,
        "stall": statistics.median(stalls[1:]) if stalls else 0.0,
        "epoch": statistics.median(after - before for before, after in itertools.pairwise(ends)),
        "peak": peak_megabytes(),
    }


if __name__ == "__main__":
    print(json.dumps(work(*sys.argv[1:])), flush=True)
