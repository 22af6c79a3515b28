"""What children would all do first has been done: a run in one rewrites no function of the project any more."""

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
from src.sweeps.warm import prepare_fork

prepare_fork()
from tensorflow.python.autograph.impl import api
from tensorflow.python.eager import context

def rewritten():
    return {f"{Path(code.co_filename).name}:{code.co_name}" for code in api._TRANSPILER._cache._cache}

before, modules = rewritten(), set(sys.modules)
assert context.context()._context_handle is None, "an op has run"
pid = os.fork()
if pid == 0:
    try:
        run_job(compose([*sys.argv[1:], "hydra.mode=MULTIRUN"]), number=0, threads=1, again=False)
    finally:
        own = {name for name in set(sys.modules) - modules if name.startswith("src.")}
        found = [sorted(before), sorted(rewritten() - before), sorted(own)]
        Path("found.json").write_text(json.dumps(found))
        os._exit(0)
os.waitpid(pid, 0)
"""


@pytest.mark.slow
def test_a_child_finds_its_functions_rewritten(tmp_path):
    command = [sys.executable, "-c", CHILD, *DIGITS, "epochs=1"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    before, late, modules = json.loads((tmp_path / "found.json").read_text())
    assert {"trainer.py:train_step", "trainer.py:run", "pipeline.py:next"} <= set(before)
    own = {path.name for path in (ROOT / "src").rglob("*.py")}
    assert [name for name in late if name.partition(":")[0] in own] == []
    assert modules == []
    (run,) = tmp_path.glob("outputs/digits/*/run.json")
    assert json.loads(run.read_text())["status"] == "completed"
