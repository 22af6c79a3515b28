"""One writer a run: between real processes, and after real kills."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from src.common.lock import Locked, hold, holder_of
from tests.support.helpers import ROOT

HOLD = """
import sys, time
from pathlib import Path
from src.common.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(path):
    """Another process that holds the lock until its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        if process.poll() is None:
            process.stdin.close()


def attempt(path) -> str:
    """What another process that takes the lock writes to standard error."""
    command = [sys.executable, "-c", HOLD, str(path)]
    return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True).stderr


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".locks" / "1a2b3c4d"


def test_a_second_process_is_refused_and_told_by_whom(path):
    with holder(path) as process:
        with pytest.raises(Locked, match=rf"run 1a2b3c4d .* process {process.pid} on .*wait=true"):
            hold(path, wait=False).__enter__()
        with pytest.raises(Locked, match="type the command again when that has ended"):
            hold(path).__enter__()
        with hold(path.with_name("another")):
            pass
    with hold(path):
        pass


def test_wait_gets_it_when_the_other_is_done(path):
    with holder(path) as process:
        threading.Timer(0.3, process.stdin.close).start()
        began = time.monotonic()
        with hold(path, wait=True):
            assert 0.2 < time.monotonic() - began < 10
            assert process.wait(10) == 0


def test_it_dies_with_its_process(path):
    with holder(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with hold(path):
            assert str(os.getpid()) in path.read_text()


def test_reentrant_and_released_by_the_outer_one(path):
    with hold(path):
        with hold(path):
            pass
        with contextlib.chdir(path.parent), hold(type(path)(path.name)):
            pass
        assert f"Locked: run 1a2b3c4d is in use by process {os.getpid()}" in attempt(path)
    with holder(path):
        pass


def test_released_when_the_block_raises(path):
    with pytest.raises(KeyError), hold(path):
        raise KeyError
    with holder(path):
        pass


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_count_as_the_holder(path):
    with hold(path):
        child = os.fork()
        if not child:
            code = 1
            try:
                with hold(path):
                    pass
            except Locked:
                code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert "Locked" in attempt(path)


def test_an_empty_lock_file_is_no_obstacle(path):
    path.parent.mkdir()
    path.touch()
    with hold(path):
        pass


def test_a_holder_is_seen_without_the_right_to_write(path, monkeypatch):
    with hold(path):
        opened, wanted = os.open, []

        def open_(file, flags, *rest):
            wanted.append(flags)
            return opened(file, flags, *rest)

        monkeypatch.setattr(os, "open", open_)
        assert holder_of(path).startswith(f"process {os.getpid()} ")
    assert not any(flags & (os.O_WRONLY | os.O_RDWR) for flags in wanted)
    for content in ("5", "[]", "{"):
        with hold(path):
            path.write_text(content)
            assert holder_of(path) == "an unknown process"
