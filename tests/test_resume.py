"""Real runs, really killed: the same command goes on, and no bit differs. Full counts: python -m benchmarks resume."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from benchmarks.resume import ALL_STATE
from src.runs.record import Record
from src.verify_resume import command, compare, finish, newest_step, run_until, verify

SHORT = [*(override for override in ALL_STATE if not override.startswith("epochs=")), "epochs=4"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    directory = tmp_path_factory.mktemp("straight") / "run"
    finish(SHORT, directory)
    return directory


@pytest.mark.slow
def test_six_kills(tmp_path, capsys):
    assert verify(SHORT, tmp_path, trials=2, kills=3, every_steps=7, seed=1) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 trials equal to the straight run, 6 kills" in printed
    assert int(printed.rpartition("after a kill: ")[2].partition(",")[0]) <= 7


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_signals_lose_no_step(number, straight, tmp_path):
    """The exit code says which signal it was. Calls of a whole epoch are for the campaign."""
    directory = tmp_path / "run"
    slow = command([*SHORT, "trainer.steps_per_call=1"], directory, "log_every_steps=1")
    process = subprocess.Popen(slow, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = directory / "train.log"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and "loss at step 50:" in log.read_text()):
        time.sleep(0.005)
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    record = Record(directory).read()
    last_logged = log.read_text().rpartition("loss at step ")[2].partition(":")[0]
    assert record["status"] == "interrupted"
    assert record["step"] == newest_step(directory) == int(last_logged) >= 50
    finish(SHORT, directory)
    assert compare(directory, straight) == []


@pytest.mark.slow
def test_killed_before_the_first_checkpoint(straight, tmp_path):
    directory = tmp_path / "run"
    run_until(command([*SHORT, "trainer.steps_per_call=1"], directory, "log_every_steps=1"), directory, step=3)
    assert Record(directory).read()["status"] == "running"
    finish(SHORT, directory)
    assert compare(directory, straight) == []


@pytest.mark.slow
def test_a_full_disk_fails_with_one_line_and_goes_on_when_there_is_room(straight, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        directory = disk / "run"
        found = subprocess.run(command(SHORT, directory), capture_output=True, text=True, check=False)
        assert found.returncode == 1, found.stderr
        lines = found.stderr.strip().splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
        assert "No space left" in lines[-1] or "could be written" in lines[-1]
        assert "type the same command" in lines[-1]
        assert "Traceback" not in found.stderr
        kept = newest_step(directory)
        assert kept > 0
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        again = subprocess.run(command(SHORT, directory), capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        assert f"continuing after step {kept}" in again.stderr
        assert compare(directory, straight) == []
    finally:
        subprocess.run(["umount", str(disk)], check=False)
