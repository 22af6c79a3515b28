"""A run that several processes train together: the first, the chief, writes; of the others only errors are seen.

with as_worker(run) as run:     # the same run, which lies elsewhere for all but the chief
    ...
"""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from src.config.checks import is_of_workers
from src.runs.run import Run

# Modules of the callbacks that change training: all processes have them.
DECIDING = ("early_stopping", "reduce_on_plateau")


def worker_number() -> int:
    """Of this process among those that train together, from 0, which is the chief."""
    if text := os.environ.get("TF_CONFIG"):
        config = json.loads(text)
        is_after_chief = "chief" in config["cluster"] and config["task"]["type"] == "worker"
        return int(config["task"]["index"]) + is_after_chief
    return int(os.environ.get("SLURM_PROCID", 0))


@contextmanager
def as_worker(run: Run) -> Iterator[Run]:
    """The run as this process trains it: where it is not the chief, silently in a folder that is deleted afterwards.

    There it begins anew, and takes the chief's state before the first step.

    Raises:
        SystemExit: of code 0, the run is completed and there is nothing to train.
    """
    if not is_of_workers(run.cfg) or not (number := worker_number()):
        yield run
        return
    if run.decide()[0] == "reuse":
        print(f"worker {number}: already completed, nothing to train", file=sys.stderr)
        sys.exit(0)
    print(f"worker {number} trains with the chief, which writes and says what there is to see", file=sys.stderr)
    cfg = copy.deepcopy(run.cfg)
    for name, node in cfg.callback.items():
        if node and _is_of_chief(node["_target_"].split(".")):
            cfg.callback[name] = None
    cfg.may_fail = [name for name in cfg.may_fail or () if cfg.callback.get(name)]
    with (
        TemporaryDirectory(prefix=f"worker-{number}-") as folder,
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield replace(run, cfg=cfg, directory=Path(folder, run.directory.name))


def _is_of_chief(target: Sequence[str]) -> bool:
    """Whether it is a callback of this project that changes nothing of training. Of a user's own, nobody knows."""
    return [*target[:2]] == ["src", "callbacks"] and target[2] not in (*DECIDING, "keras")
