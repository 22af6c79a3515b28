"""What several tests need: the commands as a user runs them, small models and data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support import forks

ROOT, PYTHONPATH = forks.ROOT, forks.PYTHONPATH
DIGITS = ("data=digits", "model=cnn")


def run_module(module: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m <module> <arguments>` in a fresh process with `cwd` as its working directory."""
    env = {**os.environ, "PYTHONPATH": PYTHONPATH, **environment}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False)


def train(*overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m src.train` with these overrides, in a process that need not import TensorFlow."""
    return forks.run("src.train", list(overrides), cwd=cwd)


def only_run(folder: Path) -> Path:
    """The one run in outputs/<name>."""
    runs = [path.parent for path in folder.glob("*/run.json")]
    assert len(runs) == 1, runs
    return runs[0]
