"""What children would all import first has been imported, and without an op: a process that has run one cannot fork."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from src.sweeps import preload as module
from tests.support.helpers import DIGITS, ROOT

CHILD = """
import json, os, sys
from pathlib import Path
from src.config.compose import compose
from src.runs.run import Run
from src.sweeps.child import run_job
from src.sweeps.preload import has_run_ops, preload

preload()
assert not has_run_ops()
modules = set(sys.modules)
pid = os.fork()
if pid == 0:
    try:
        run_job(Run.of(compose([*sys.argv[1:], "hydra.mode=MULTIRUN"])), number=0, threads=1, again=False)
    finally:
        own = {name for name in set(sys.modules) - modules if name.startswith("src.")}
        Path("found.json").write_text(json.dumps(sorted(own)))
        os._exit(0)
os.waitpid(pid, 0)

import tensorflow as tf
tf.constant(1)
try:
    preload()
except RuntimeError as error:
    print(error)
"""


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_child_finds_its_modules_imported_and_an_op_is_noticed(tmp_path):
    command = [sys.executable, "-c", CHILD, *DIGITS, "epochs=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    assert json.loads((tmp_path / "found.json").read_text()) == []
    (run,) = tmp_path.glob("outputs/digits/*/run.json")
    assert json.loads(run.read_text())["status"] == "completed"
    assert "has run an op" in done.stdout and "hydra.launcher.start=spawn" in done.stdout


def test_a_failed_import_is_reported(monkeypatch):
    monkeypatch.setattr(module, "IMPORTED", ("src.no_such_module",))
    with pytest.raises(ImportError, match=r"src\.no_such_module"):
        module._import_once.__wrapped__()
