"""A result that is there is given where nothing can be written, and what would write there says so in one line."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.helpers import ROOT, train

LEAN = ["data=digits", "model=mlp", "epochs=1", *(f"callback.{name}=null" for name in ("images", "hparams", "export"))]
PRIVATE_MOUNT = "mount --bind outputs outputs && mount -o remount,ro,bind outputs && exec "


def on_read_only_disk(command):
    return ["unshare", "--mount", "sh", "-c", PRIVATE_MOUNT + shlex.join(command)]


def as_another_user(command):
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]


@pytest.fixture(scope="module")
def folder():
    """Where a completed run lies, which others may read; pytest's own folders they may not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        result = train(*LEAN, cwd=Path(name))
        assert result.returncode == 0, result.stderr
        yield name


@pytest.fixture(params=[on_read_only_disk, as_another_user])
def command(request, folder):
    """Runs `python -m src.train` where outputs can be read alone."""

    def run(*words):
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT), "HOME": "/"}
        words = request.param(words)
        return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)

    try:
        probes = [run(sys.executable, "-c", "import src"), run("sh", "-c", "! touch outputs/x")]
    except FileNotFoundError as error:
        pytest.skip(f"{error.filename} is not installed")
    if failed := [probe for probe in probes if probe.returncode]:
        pytest.skip(f"outputs cannot be made read-only here: {failed[0].stderr.strip()[-200:]}")
    return lambda *overrides: run(sys.executable, "-m", "src.train", *overrides)


def test_a_result_is_given(command):
    found = command(*LEAN)
    assert (found.returncode, found.stdout.count("already completed, reused")) == (0, 1), found.stderr
    assert "error" not in found.stderr


def test_so_is_a_sweep_of_results(command):
    found = command("--multirun", *LEAN)
    assert found.returncode == 0 and "completed before" in found.stdout, found.stderr
    assert "sweep.json cannot be written" in found.stderr


@pytest.mark.sample(2)
@pytest.mark.parametrize("more", ["seed=1", "rerun=true"])
def test_what_would_write_says_so(command, more):
    found = command(*LEAN, more)
    assert found.returncode == 1 and "Traceback" not in found.stderr
    (line,) = (line for line in found.stderr.splitlines() if line.startswith("error"))
    assert "/outputs/digits/.locks/" in line and "hydra.run.dir=" in line
