"""One door: a run is composed, checked, identified, fingerprinted and decided once, and Hydra's own settings hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from src.config.compose import ConfigError, compose
from src.runs import execute, provenance
from src.runs.branch import branch
from src.runs.run import Run
from tests.runs.made import make_run
from tests.support.helpers import PYTHONPATH, train

LEAN = ("callback.export=null", "callback.images=null", "callback.hparams=null", "callback.summaries=null")
PROGRAM = """
import collections, json, sys
import hydra
from hydra.core.hydra_config import HydraConfig
from pathlib import Path
from src.config import checks, compose as config, targets
from src import train
from src.config import identity
from src.runs import execute, run
from src.runs.record import Record

Path("targets.txt").write_text(f"{targets.FILE.read_text()}hydra.callbacks mine\\n")
targets.FILE = Path("targets.txt").absolute()
counts = collections.Counter()

def plural(owner, name):
    original = getattr(owner, name)
    def call(*args, **kwargs):
        counts[name] += 1
        return original(*args, **kwargs)
    setattr(owner, name, call)

plural(hydra, "compose")
plural(checks, "check_values")
plural(execute, "fingerprints")
plural(run.Run, "decide")
plural(execute, "hold")
plural(Record, "read")
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


RUN = ("data=digits", "model=mlp", "epochs=1", *LEAN)


def test_a_run_in_its_own_folder_lies_there_and_is_found_again(tmp_path):
    """hydra.job.chdir, alone and in a sweep."""
    words = (*RUN, "hydra.job.chdir=true", "callback.progress=null")
    alone, swept = train(*words, cwd=tmp_path), train("--multirun", *words, "seed=0,1", cwd=tmp_path)
    assert (alone.returncode, swept.returncode) == (0, 0), alone.stderr + swept.stderr
    assert len(list(tmp_path.rglob("run.json"))) == 2 and swept.stdout.count("completed before") == 1


def test_what_hydra_cannot_set_up_leaves_the_earlier_run_where_it_was(tmp_path):
    assert train(*RUN, cwd=tmp_path).returncode == 0
    before = sorted(tmp_path.rglob("*"))
    stub = "+hydra.callbacks.x={_target_: hydra.experimental.callbacks.LogJobReturnCallback, nope: 1}"
    for word, said in {"hydra.job_logging.root.level=NOPE": "hydra.job_logging", stub: "hydra.callbacks.x"}.items():
        wrong = train(*RUN, "rerun=true", word, cwd=tmp_path)
        assert wrong.returncode == 2 and said in wrong.stderr, wrong.stderr
        assert sorted(tmp_path.rglob("*")) == before


def test_another_launcher_only_plans_a_dry_run(tmp_path):
    found = train("--multirun", *RUN, "seed=0,1", "hydra/launcher=basic", "dry_run=true", cwd=tmp_path)
    assert found.returncode == 0 and found.stdout.count("starts") == 2, found.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_branch_is_composed_as_its_parent_was(tmp_path, monkeypatch):
    """From the same further folder of options, and not from another root."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "x.yaml").write_text("# @package _global_\nseed: 5\n")
    (tmp_path / "mine" / "root.yaml").write_text("defaults: [train, _self_]\nepochs: 7\n")
    given = ["hydra.searchpath=[mine]"]
    before = [f"--config-dir={tmp_path}/mine"]  # as older records have it
    for number, (flags, overrides, name) in enumerate(
        (
            *((flags, ["experiment=x"], "train") for flags in (given, before, ["--config-dir", "mine"])),
            *(([*flags, "--config-name=root"], [], "root") for flags in (before, given)),
        )
    ):
        run = make_run(tmp_path / str(number), 1, overrides=overrides, flags=flags)
        (run / ".hydra" / "config.yaml").write_text("{}")
        cfg = compose(branch([f"resume={run}"], config_name=name), config_name=name)
        assert (cfg.seed, cfg.epochs) == ((5, 15) if name == "train" else (0, 7))
    with pytest.raises(ConfigError, match="was made with --config-name=root; give that too"):
        branch([f"resume={run}"])
    gone = make_run(tmp_path / "gone", 1, overrides=[], flags=["--config-dir=/not/there"])
    with pytest.raises(ConfigError, match="--config-dir is /not/there, and there is no such folder"):
        branch([f"resume={gone}"])


def test_what_cannot_be_locked_is_decided_about_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execute, "hold", hold := Mock(side_effect=OSError("read-only")))
    run = Run.of(compose([*RUN]))
    decided = []
    monkeypatch.setattr(Run, "decide", lambda run, decide=Run.decide, **more: decided.append(1) or decide(run, **more))
    with pytest.raises(OSError, match="read-only"):
        execute.execute(run)
    prints = provenance.fingerprints(run.identity)
    make_run(tmp_path, 1, config_hash=run.config_hash, fingerprints=prints).rename(tmp_path / "run")
    assert execute.execute(replace(run, directory=Path("run"))) == 0.91
    assert hold.call_count == len(decided) == 2
