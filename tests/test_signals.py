"""The first signal asks, the second ends the process at once, whatever it is doing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import ROOT

PROGRAM = """
import time
from src.signals import stop_on_signals
with stop_on_signals(lambda reason: print(reason, flush=True)) as received:
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
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


def test_handlers_are_put_back():
    from src.signals import SIGNALS, stop_on_signals

    before = [signal.getsignal(number) for number in SIGNALS]
    with stop_on_signals(lambda reason: None) as received:
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert received == []
