"""What a save costs training: a state is copied, and written beside training; before, training waited for the disk.

    python -m benchmarks saves [--repeats N] [--case "100 MB"]

Epochs of the same run with saves beside training, with training waiting for each, and without any, in interleaved fresh
processes that end with equal weights. `stands` is how long training stands still for one; `costs` is how much longer an
epoch is than without, where the thread that saves takes the processor from training, too.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.pairs import interleave, machine, require_equal, spread, table

CASES = {
    "tiny": ["data=digits", "model=cnn", "epochs=40"],
    "100 MB": [
        "data=digits",
        "model=mlp",
        "model.hidden_units=[2900,2900]",
        "epochs=5",
        "trainer.limit_train_batches=15",
    ],
}
BESIDE, WAITS, NONE = "beside training", "waited for", "none"
GOAL = 0.25


def main(argv: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks saves", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", choices=CASES, action="append", help="only this case; may be given more than once")
    parser.add_argument("--repeats", type=int, default=5, help="how many times each row is run")
    options = parser.parse_args(argv)
    verdicts = []
    for case in options.case or CASES:
        commands = {how: [sys.executable, "-m", "benchmarks.saves", case, how] for how in (BESIDE, WAITS, NONE)}
        runs = interleave(commands, repeats=options.repeats, label=f"{case}, run")
        for one, other in ((BESIDE, WAITS), (BESIDE, NONE)):
            require_equal(f"{case}: weights", ours=runs[one][0]["weights"], peer=runs[other][0]["weights"])
        without = [run["epoch"] for run in runs[NONE]]
        rows, costs = [[case, "MB", "stands ms", "min", "max", "costs ms", "min", "max", "peak MB"]], {}
        for how in (BESIDE, WAITS):
            stands = spread([run["stands"] for run in runs[how]])
            costs[how] = spread([run["epoch"] - epoch for run, epoch in zip(runs[how], without, strict=True)])
            numbers = (runs[how][0]["megabytes"], *stands, *costs[how])
            peak = statistics.median(run["peak"] for run in runs[how])
            rows.append([how, *(f"{number:.1f}" for number in numbers), f"{peak:.0f}"])
        print(table(rows), end="\n\n")
        for what, ratio in (
            ("stands", [a["stands"] / b["stands"] for a, b in zip(runs[BESIDE], runs[WAITS], strict=True)]),
            ("costs", [costs[BESIDE].median / costs[WAITS].median]),
        ):
            found = statistics.median(ratio)
            met = "met" if found <= GOAL else "MISSED"
            verdicts.append(f"{case}: {what}, beside training / waited for: {found:.3f}; goal at most {GOAL}: {met}")
    print(f"machine: {machine()}")
    print("\n".join(verdicts))
    return 0


def work(case: str, how: str) -> dict[str, Any]:
    """Train in this process; milliseconds are medians over all epochs but the first."""
    from src import build
    from src.common.machine import available_cores
    from src.config.compose import compose
    from src.training.callback import Callback

    cfg = compose([*CASES[case], "callback.export=null", *(["callback.checkpoint=null"] if how == NONE else [])])
    build.set_up_process(threads=cfg.trainer.threads or available_cores())
    data, stands, ends = build.build_data(cfg), [], []
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
                stands.append(1e3 * (time.perf_counter() - began))

            checkpoint.on_epoch_end = timed
        last = Callback()
        last.on_epoch_end = lambda *_: ends.append(1e3 * time.perf_counter())
        trainer.callbacks["last"] = last
        trainer.fit(data.train, data.val, epochs=cfg.epochs)
    values = [variable.numpy() for variable in trainer.state.all_variables()]
    return {
        "weights": hashlib.sha256(b"".join(value.tobytes() for value in values)).hexdigest(),
        "megabytes": sum(value.nbytes for value in values) / 1e6,
        "stands": statistics.median(stands[1:]) if stands else 0.0,
        "epoch": statistics.median(after - before for before, after in itertools.pairwise(ends)),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3),
    }


if __name__ == "__main__":
    print(json.dumps(work(*sys.argv[1:])), flush=True)
