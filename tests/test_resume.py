"""Real runs, really killed: the same command goes on, and no bit differs. Full counts: python -m benchmarks resume."""

from __future__ import annotations

import signal
import subprocess
import time
from contextlib import suppress

import pytest

from benchmarks.resume import ALL_STATE
from src.runs.record import Record
from src.verify_resume import command, compare, newest_step, run_until, verify
from tests.support.helpers import train

LEAN = ["callback.export=null", "callback.images=null", "callback.hparams=null"]
SHORTER = ["epochs=3", "batch_size=64", "trainer.validate_every_steps=17"]  # which also writes validations.jsonl
SMALLER = ["model=mlp", "model.hidden_units=[16]", "model.dropout=0.3", "model.normalization=batch"]
SHORT = [*(word for word in ALL_STATE if not word.startswith(("epochs=", "model"))), *SMALLER, *SHORTER, *LEAN]
WATCHED = ("log_every_steps=1", "trainer.steps_per_call=1")


def finish(directory):
    """Train to the end what lies in this directory, or anew."""
    result = train(*SHORT, f"hydra.run.dir='{directory}'", cwd=directory.parent)
    assert result.returncode == 0, result.stderr
    return result


def fill(disk):
    """Leave no room, as someone else's files would."""
    with suppress(OSError), (disk / "others").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**12))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The uninterrupted run, where `verify` looks for one that it need not train again."""
    folder = tmp_path_factory.mktemp("resume") / "straight"
    folder.mkdir()
    finish(folder / "run")
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_kills(straight, capsys, kills):
    assert verify(SHORT, straight.parents[1], trials=1, kills=kills, every_steps=7, seed=kills) == 0
    printed = capsys.readouterr().out
    assert f"1 of 1 trials equal to the straight run, {kills} kills" in printed
    assert int(printed.rpartition("after a kill: ")[2].partition(",")[0]) < 2 * 7  # the last save may be under way


@pytest.mark.slow
@pytest.mark.parametrize(
    "signals",
    [[signal.SIGINT], pytest.param([signal.SIGKILL, signal.SIGUSR1, signal.SIGTERM], marks=pytest.mark.exhaustive)],
)
def test_signals_lose_no_step(straight, tmp_path, signals):
    """Killed before its first checkpoint, and ended by one signal after another: the exit code says which it was.

    Calls of a whole epoch are for the campaign.
    """
    directory = tmp_path / "run"
    slow = command([*SHORT, *WATCHED], directory)
    log = directory / "train.log"
    if signals[0] == signal.SIGKILL:
        run_until(slow, directory, step=3)
        assert Record(directory).read()["status"] == "running" and newest_step(directory) == 0
        signals = signals[1:]
    for number, step in zip(signals, (20, 45), strict=False):
        before = newest_step(directory)
        outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(slow, **outputs)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (log.exists() and f"loss at step {step}:" in log.read_text()):
            time.sleep(0.005)
        process.send_signal(number)
        out, errors = process.communicate(timeout=30)
        assert process.returncode == 128 + number
        assert not out and number.name in errors and "Traceback" not in errors
        record, text = Record(directory).read(), log.read_text()
        last_logged = text.rpartition("loss at step ")[2].partition(":")[0]
        assert record["status"] == "interrupted" and record["error"] is None
        assert record["step"] == newest_step(directory) == int(last_logged) >= step
        assert (f"continuing after step {before}," in text) == (before > 0)
    began = Record(directory).read()["started"]
    assert f"continuing after step {record['step']}," in finish(directory).stderr
    assert compare(directory, straight) == [] and Record(directory).read()["started"] == began


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_full_disk_fails_with_one_line_and_goes_on_when_there_is_room(straight, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        directory = disk / "run"
        outputs = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command([*SHORT, *WATCHED], directory), **outputs)
        while process.poll() is None and not newest_step(directory):
            time.sleep(0.005)
        fill(disk)
        errors = process.communicate()[1]
        assert process.returncode == 1, errors
        lines = errors.strip().splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
        assert "No space left" in lines[-1] or "could be written" in lines[-1]
        assert "type the same command" in lines[-1]
        assert "Traceback" not in errors
        kept = newest_step(directory)
        assert kept > 0
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        assert f"continuing after step {kept}" in finish(directory).stderr
        assert compare(directory, straight) == []
    finally:
        subprocess.run(["umount", str(disk)], check=False)
