"""Whether training keeps memory: what a process holds over a thousand epochs, with everything on.

python -m benchmarks memory [--epochs 1000]
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, finish
from benchmarks.pairs import interleave

EPOCHS, LIMIT_MEGABYTES = 1000, 5.0
CASE = ("data=digits", "model=cnn", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1")


def main(argv: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    finish(measure(epochs=parser.parse_args(argv).epochs))
    return 0


def measure(*, epochs: int = EPOCHS) -> list[Figure]:
    """The growth by a linear fit, without the first tenth."""
    command = [sys.executable, "-m", "benchmarks.memory", str(epochs)]
    grown = interleave({"epochs": command}, repeats=1, label="memory")["epochs"][0]["megabytes"]
    return [Figure(f"MB that {epochs} epochs add", [grown], at_most=LIMIT_MEGABYTES)]


def work(epochs: int) -> dict[str, Any]:
    """Train in this process; returns the growth in MB."""
    import numpy as np

    from benchmarks.sweeps import resident_megabytes
    from src import build
    from src.common.command import GC_THRESHOLDS
    from src.common.machine import available_cores
    from src.config.compose import compose
    from src.training.callback import Callback

    gc.set_threshold(*GC_THRESHOLDS)  # as a command has them
    cfg = compose([*CASE, f"epochs={epochs}", "callback.export=null"])
    build.set_up_process(threads=available_cores())
    data, held = build.build_data(cfg), []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        trainer = build.build_trainer(cfg, data, run_dir=Path(folder))
        last = Callback()
        last.on_epoch_end = lambda *_: held.append(resident_megabytes())
        trainer.callbacks["last"] = last
        trainer.fit(data.train, data.val, epochs=epochs)
    counted = np.array(held[epochs // 10 :])
    return {"megabytes": float(np.polyfit(np.arange(len(counted)), counted, 1)[0] * len(counted))}


if __name__ == "__main__":
    print(json.dumps(work(int(sys.argv[1]))), flush=True)
