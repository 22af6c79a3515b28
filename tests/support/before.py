"""Makes tests/before: runs of an earlier commit, one of each status, as that commit writes them.

    python -m tests.support.before 0be0405 /home/somebody/experiments

checks the commit out in the folder, which must not exist, trains there, and copies outputs/ here. All runs have one
config, so each must end as the completed one has, and the name of each is its status.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.bits import checked_out

FOLDER = Path(__file__).resolve().parents[1] / "before"

CONFIG = (
    *("data=digits", "model=mlp", "model.hidden_units=[8]", "model.dropout=0.2", "~callback.images"),
    *("batch_size=256", "epochs=3"),
)
# None of these is part of a run's identity; they keep the files small, and end a graph call at each step.
SMALL = (
    *("callback.summaries.graph=false", "callback.checkpoint.max_to_keep=2", "callback.checkpoint.every_steps=4"),
    *("log_every_steps=1", "trainer.steps_per_call=1"),
)
STEP = 9  # of 15, within the second epoch
# What happens at that step, and the exit code that follows.
ENDINGS = {
    "completed": ("pass", 0),
    "interrupted": ("os.kill(os.getpid(), signal.SIGTERM)", 128 + 15),
    "pruned": ("os.kill(os.getpid(), signal.SIGUSR2)", 128 + 12),
    "failed": ("raise RuntimeError('out of luck')", 1),
    "running": ("os.kill(os.getpid(), signal.SIGKILL)", -9),
}
PROGRAM = """
import os, signal
from src.callbacks.hparams import Hparams
def end(self, state, metrics):
    if state.step == {step}:
        {ending}
Hparams.on_log = end
from src.train import main
main()
"""


def main(commit: str, folder: Path) -> None:
    """Make them."""
    with checked_out(commit, folder):
        for status, (ending, code) in ENDINGS.items():
            program = PROGRAM.format(step=STEP, ending=ending)
            command = [sys.executable, "-c", program, *CONFIG, *SMALL, f"name={status}"]
            ended = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, check=False)
            assert ended.returncode == code, (status, ended.returncode)
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.copytree(folder / "outputs", FOLDER, ignore=shutil.ignore_patterns(".gitignore"))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
