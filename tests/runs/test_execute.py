"""One door: a run is composed, checked, identified, fingerprinted and decided once, and Hydra's own settings hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.helpers import PYTHONPATH

LEAN = ("callback.export=null", "callback.images=null", "callback.hparams=null", "callback.summaries=null")
PROGRAM = """
import collections, json, sys
import hydra
from hydra.core.hydra_config import HydraConfig
from pathlib import Path
from src import checks, config, targets, train
from src.runs import execute, identity, run
from src.runs.record import Record

Path("targets.txt").write_text(f"{targets.FILE.read_text()}hydra.callbacks mine\\n")
targets.FILE = Path("targets.txt").absolute()
counts = collections.Counter()

def counted(owner, name):
    original = getattr(owner, name)
    def call(*args, **kwargs):
        counts[name] += 1
        return original(*args, **kwargs)
    setattr(owner, name, call)

counted(hydra, "compose")
counted(checks, "check_values")
counted(execute, "fingerprints")
counted(run.Run, "decide")
counted(execute, "hold")
counted(Record, "read")
found = []
for _ in range(2):
    counts.clear()
    before = identity._identity.cache_info().misses
    fit = execute._fit
    seen_config = {}
    def with_hydra(*args, **kwargs):
        seen_config.update(output_dir=HydraConfig.get().runtime.output_dir, run_dir=HydraConfig.get().run.dir)
        return fit(*args, **kwargs)
    execute._fit = with_hydra
    train._command(sys.argv[1:])
    execute._fit = fit
    found.append({**counts, "identity": identity._identity.cache_info().misses - before, **seen_config})
print(json.dumps(found))
"""

MINE = """
from pathlib import Path
from hydra.experimental.callback import Callback

class Mine(Callback):
    def _tell(self, what):
        with open("told.txt", "a") as file:
            print(what, file=file)

    def on_run_start(self, config, **more):
        self._tell("run starts")

    def on_job_start(self, config, **more):
        self._tell(f"job starts in {config.hydra.run.dir}")

    def on_job_end(self, config, job_return, **more):
        self._tell(f"job ends: {job_return.status.name} {0 < job_return.return_value < 1}")

    def on_run_end(self, config, **more):
        self._tell("run ends")
        raise OSError("which no result hangs on")
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The folder, and what a fresh run and the same command again did in one process."""
    folder = tmp_path_factory.mktemp("execute")
    overrides = ["data=digits", "model=mlp", *LEAN, "epochs=1", "hydra.run.dir=there/mine"]
    overrides += ["hydra.job_logging.handlers.file.filename=${hydra.runtime.output_dir}/mine.log"]
    overrides += ["+hydra.callbacks.x._target_=mine.Mine"]
    (folder / "mine.py").write_text(MINE)
    command = [sys.executable, "-c", PROGRAM, *overrides]
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_all_is_done_once(executed):
    _, (fresh, again) = executed
    once = dict.fromkeys(("check_values", "fingerprints", "decide", "hold"), 1)
    assert {key: fresh[key] for key in once} == once and {key: again[key] for key in once} == once
    assert fresh["compose"] == 1 and fresh["identity"] == 1
    assert fresh["read"] <= 3 and again["read"] <= 3


def test_hydras_own_settings_hold(executed):
    folder, (fresh, again) = executed
    run = folder / "there" / "mine"
    assert fresh["output_dir"] == str(run) and fresh["run_dir"] == "there/mine" and "output_dir" not in again
    assert "epoch 1/1" in (run / "mine.log").read_text()
    told = (folder / "told.txt").read_text().splitlines()
    assert told == ["run starts", "job starts in there/mine", "job ends: COMPLETED True", "run ends"]
    assert {path.name for path in (run / ".hydra").iterdir()} == {"config.yaml", "hydra.yaml", "overrides.yaml"}
