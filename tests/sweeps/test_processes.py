"""Children end in every way there is; the parent learns how, and the others do not notice."""

import ctypes
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.common.lock import hold, holder_of
from src.sweeps.child import log_to
from src.sweeps.processes import ProcessPool

ROOT = Path(__file__).resolve().parents[2]

PARENT = """
import sys, time
from src.sweeps.processes import ProcessPool
from tests.sweeps.test_processes import until_told
pool = ProcessPool(slots=[{}, {}], start=sys.argv[1])
pool.start(1, until_told, sys.argv[2])
pool.start(2, until_told, sys.argv[3])
time.sleep(60)
"""


def fail():
    raise LookupError("no such thing")


def leave(code):
    sys.exit(code)


def leave_at_once(code):
    os._exit(code)


def end_by(number):
    os.kill(os.getpid(), number)
    time.sleep(60)


def fail_at_length():
    raise ValueError("\N{SNOWMAN}\N{PILE OF POO}" * 20_000)


def ask():
    if not os.read(0, 1):
        raise EOFError("nothing to read")


def line_of(function, number):
    """What is said of a line of a function, below its first."""
    lines, first = inspect.getsourcelines(function)
    path = os.path.relpath(__file__)
    return f"{path}:{first + number}, in {function.__name__}: {lines[number].strip()}"


def leave_another(path):
    """StartMethod a process that outlives this one."""
    started = subprocess.Popen(["sleep", "60"])
    Path(path).write_text(str(started.pid))
    os._exit(3)


def hold_and_fork(path):
    with hold(Path(path)):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        os._exit(3)


def crash(path):
    log_to(path)
    print("before the crash")
    ctypes.string_at(0)


def until_told(path):
    """Say which signal came, after the file of that name is there."""
    try:
        Path(path).with_suffix(".part").write_text(str(os.getpid()))
        Path(path).with_suffix(".part").rename(Path(path).with_suffix(".ready"))
        time.sleep(60)
    except KeyboardInterrupt:
        Path(path).write_text("told")


def describe(path):
    facts = {
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "group": os.getpgrp() == os.getpid(),
        "imported": "this_was_prepared" in sys.modules,
        "pid": os.getpid(),
    }
    time.sleep(0.3)
    Path(path).write_text(json.dumps(facts))


def prepare():
    sys.modules["this_was_prepared"] = sys


def all_ended(pool, count):
    ended = {}
    deadline = time.monotonic() + 30
    while len(ended) < count and time.monotonic() < deadline:
        ended |= {child.key: child for child in pool.wait(timeout_seconds=0.2)}
    return ended


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(params=["fork", "spawn"])
def start(request):
    return request.param


@pytest.fixture
def pool(start):
    pool = ProcessPool(slots=[{"CUDA_VISIBLE_DEVICES": str(slot)} for slot in range(3)], start=start, prepare=prepare)
    yield pool
    pool.close()
    sys.modules.pop("this_was_prepared", None)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("function", "arguments", "exit_code", "error"),
    [
        (fail, (), 1, {"type": "LookupError", "message": "no such thing", "line": line_of(fail, 1)}),
        (leave, (0,), 0, None),
        (leave, (3,), 3, None),
        (leave, ("text",), 1, None),
        (leave, (256,), 1, None),
        (leave_at_once, (9,), 9, None),
        (ask, (), 1, {"type": "EOFError", "message": "nothing to read", "line": line_of(ask, 2)}),
        (end_by, (signal.SIGKILL,), -9, None),
        (end_by, (signal.SIGTERM,), 143, None),
    ],
)
def test_how_a_child_ended(pool, tmp_path, function, arguments, exit_code, error):
    pool.start("bad", function, *arguments)
    pool.start("good", describe, tmp_path / "good")
    ended = all_ended(pool, 2)
    assert (ended["bad"].exit_code, ended["bad"].error) == (exit_code, error)
    assert (ended["good"].exit_code, ended["good"].error) == (0, None)
    assert json.loads((tmp_path / "good").read_text())["pid"] == ended["good"].process["pid"]


def test_a_long_message_is_cut(pool):
    pool.start("bad", fail_at_length)
    ended = all_ended(pool, 1)["bad"]
    assert ended.exit_code == 1 and 1000 < len(ended.error["message"]) <= 2000


def is_gone(pid):
    """Whether a process has ended, if only as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_what_a_child_has_started_ends_with_it(pool, tmp_path):
    pool.start("a", leave_another, tmp_path / "pid")
    assert all_ended(pool, 1)["a"].exit_code == 3
    wait_for(lambda: is_gone(int((tmp_path / "pid").read_text())))


def test_a_lock_ends_with_its_process_whoever_it_has_forked(tmp_path):
    pool = ProcessPool(slots=[{}])
    pool.start("a", hold_and_fork, tmp_path / "lock")
    assert all_ended(pool, 1)["a"].exit_code == 3
    wait_for(lambda: holder_of(tmp_path / "lock") is None)
    pool.close()


def test_slots_have_their_environments_and_are_used_again(pool, start, tmp_path):
    for number in range(3):
        pool.start(number, describe, tmp_path / str(number))
    assert pool.free_slots == 0
    all_ended(pool, 3)
    assert pool.free_slots == 3
    pool.start(3, describe, tmp_path / "3")
    all_ended(pool, 1)
    facts = [json.loads((tmp_path / str(number)).read_text()) for number in range(4)]
    assert [fact["gpu"] for fact in facts] == ["0", "1", "2", "0"]
    assert all(fact["group"] and fact["imported"] == (start == "fork") for fact in facts)


def test_a_crash_leaves_its_stack_in_the_log(pool, tmp_path):
    pool.start("crash", crash, str(tmp_path / "log"))
    assert all_ended(pool, 1)["crash"].exit_code == -signal.SIGSEGV
    log = (tmp_path / "log").read_text()
    assert "before the crash" in log and "Segmentation fault" in log and "in crash" in log


def test_a_signal_for_a_child_and_for_one_that_is_gone(pool, tmp_path):
    pool.start("told", until_told, tmp_path / "told")
    wait_for((tmp_path / "told.ready").exists)
    pool.send("told", signal.SIGUSR2)  # means nothing until the child says so
    pool.send("told", signal.SIGTERM)
    assert all_ended(pool, 1)["told"].exit_code == 0
    assert (tmp_path / "told").read_text() == "told"
    pool.send("told", signal.SIGKILL)


def test_closing_ends_children_at_once(start, tmp_path):
    pool = ProcessPool(slots=[{}], start=start)
    pool.start("a", until_told, tmp_path / "a")
    wait_for((tmp_path / "a.ready").exists)
    pid = int((tmp_path / "a.ready").read_text())
    pool.close()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    assert not (tmp_path / "a").exists()


def test_children_are_told_when_their_parent_is_killed(tmp_path, start):
    names = [str(tmp_path / name) for name in "ab"]
    with subprocess.Popen([sys.executable, "-c", PARENT, start, *names], cwd=ROOT) as parent:
        wait_for(lambda: all(Path(f"{name}.ready").exists() for name in names))
        parent.kill()
    wait_for(lambda: all(is_gone(int(Path(f"{name}.ready").read_text())) for name in names))
    assert [Path(name).read_text() for name in names] == ["told", "told"]


def test_what_cannot_be_prepared_is_an_error_and_starts_nothing():
    pool = ProcessPool(slots=[{}], prepare=fail)
    with pytest.raises(LookupError, match="no such thing"):
        pool.start("a", leave, 0)
    assert pool.free_slots == 1 and pool.wait(timeout_seconds=0) == []


def test_a_signal_for_a_child_that_has_just_started_is_not_lost(start, tmp_path):
    """Nor handled by what its parent does at one."""
    handled = []
    before = signal.signal(signal.SIGTERM, lambda *_: handled.append(os.getpid()))
    pool = ProcessPool(slots=[{}] * 4, start=start)
    try:
        for number in range(4):
            pool.start(number, until_told, tmp_path / str(number))
            pool.send(number, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert {child.exit_code for child in all_ended(pool, 4).values()} <= {0, 128 + signal.SIGTERM}
        assert pool.free_slots == 4 and handled == [os.getpid()]
    finally:
        signal.signal(signal.SIGTERM, before)
        pool.close()
