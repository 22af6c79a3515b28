"""The first signal asks, the second ends the process at once, whatever it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from src.runs.record import Record
from tests.runs.made import add_checkpoint
from tests.support.helpers import ROOT, train

PROGRAM = """
import time
from src.common.signals import stop_on_signals
with stop_on_signals(lambda reason: print(reason, flush=True)) as received:
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    "first", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP], ids=lambda number: number.name
)
def test_first_asks_second_ends(first):
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(first)
    assert process.stdout.readline() == f"{first.name}\n"
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("number", "saved", "said"),
    [
        (signal.SIGTERM, True, "interrupted; the same command goes on from the last checkpoint\n"),
        (signal.SIGINT, False, "interrupted before the first checkpoint; the same command starts anew\n"),
    ],
)
def test_before_training_begins(tmp_path, number, saved, said):
    """While TensorFlow is imported, which takes longer than to see that the record is there."""
    command = [sys.executable, "-m", "src.train", "data=digits", "model=mlp", "hydra.run.dir=run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    record = Record(tmp_path / "run")
    while (record.read() or {}).get("status") != "running" and process.poll() is None:
        time.sleep(0.01)
    if saved:
        add_checkpoint(tmp_path / "run" / "checkpoints")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert stderr == said and process.returncode == 128 + number
    assert record.read()["status"] == "interrupted"


@pytest.mark.parametrize("kind", ["interrupted", "swallowed"])
def test_an_interrupt_that_keras_passes_over_is_still_one(tmp_path, kind):
    fault = ("+callback.fault._target_=tests.support.faults.Fault", f"+callback.fault.kind={kind}")
    result = train("data=digits", "model=mlp", "hydra.run.dir=run", *fault, cwd=tmp_path)
    assert result.returncode == 128 + signal.SIGINT and "interrupted before the first checkpoint" in result.stderr
    values = Record(tmp_path / "run").read()
    assert values["status"] == "interrupted" and values["error"] is None


def test_a_hang_up_that_nohup_ignores_ends_nothing():
    command = [sys.executable, "-c", f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{PROGRAM}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "SIGINT\n"
    process.kill()


def test_handlers_are_put_back():
    from src.common.signals import SIGNALS, stop_on_signals

    before = [signal.getsignal(number) for number in SIGNALS]
    with stop_on_signals(lambda reason: None) as received:
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert received == []
