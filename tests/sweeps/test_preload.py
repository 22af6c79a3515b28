"""What children would all import first has been imported, and without an op: a process that has run one cannot fork."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.helpers import DIGITS, ROOT

CHILD = """
import json, os, sys
from pathlib import Path
from src.config import compose
from src.sweeps.child import run_job
from src.sweeps.preload import preload

preload()
from tensorflow.python.eager import context

modules = set(sys.modules)
assert context.context()._context_handle is None, "an op has run"
pid = os.fork()
if pid == 0:
    try:
        run_job(compose([*sys.argv[1:], "hydra.mode=MULTIRUN"]), number=0, threads=1, again=False)
    finally:
        own = {name for name in set(sys.modules) - modules if name.startswith("src.")}
        Path("found.json").write_text(json.dumps(sorted(own)))
        os._exit(0)
os.waitpid(pid, 0)
"""


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_child_finds_its_modules_imported(tmp_path):
    command = [sys.executable, "-c", CHILD, *DIGITS, "epochs=1"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    assert json.loads((tmp_path / "found.json").read_text()) == []
    (run,) = tmp_path.glob("outputs/digits/*/run.json")
    assert json.loads(run.read_text())["status"] == "completed"
