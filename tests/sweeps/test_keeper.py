"""A job's process below a keeper, which is what a cluster knows of it; no cluster is needed to see what it does."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.sweeps.keeper import Keeper
from tests.sweeps.test_processes import end_by, fail, leave, until_told, wait_for

ROOT = Path(__file__).resolve().parents[2]

# A keeper as Ray runs it: in a process of its own, which may be killed with its child.
KEEPING = """
import asyncio, os, pickle, sys
from src.sweeps.keeper import Keeper
from tests.sweeps.test_processes import until_told
async def keep():
    keeper = Keeper()
    await keeper.wait(await keeper.start(os.getcwd(), pickle.dumps((until_told, (sys.argv[1],), {})), {}))
asyncio.run(keep())
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def describe(path, *, job):
    names = ("OMP_NUM_THREADS", "TF_ENABLE_ONEDNN_OPTS", "OF_THE_COMMAND", "OF_BOTH")
    Path(path).write_text(
        json.dumps({"job": job, "cwd": os.getcwd(), **{name: os.environ.get(name) for name in names}})
    )


def kept(directory, function, *args, environment=None, number=None, **kwargs):
    """What a keeper says of a process, from its start to its end."""

    async def keep():
        keeper = Keeper()
        started = await keeper.start(str(directory), pickle.dumps((function, args, kwargs)), environment or {})
        waiting = asyncio.create_task(keeper.wait(started))
        while number and not waiting.done():
            if Path(args[0]).with_suffix(".ready").exists():
                await keeper.send(number)
            await asyncio.sleep(0.05)
        return started, await waiting

    return asyncio.run(keep())


def test_a_process_has_the_command_s_variables_and_none_of_the_node_s_that_change_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Ray sets it
    monkeypatch.setenv("OF_BOTH", "node")
    monkeypatch.setenv("RAY_JOB_ID", "0500")
    environment = {"TF_ENABLE_ONEDNN_OPTS": "0", "OF_THE_COMMAND": "command", "OF_BOTH": "command"}
    process, ended = kept(tmp_path, describe, str(tmp_path / "said"), environment=environment, job=3)
    assert ended == (0, None) and process["job"] == "0500" and process["pid"] != os.getpid()
    assert json.loads((tmp_path / "said").read_text()) == {
        "job": 3,
        "cwd": str(tmp_path),
        "OMP_NUM_THREADS": None,
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "OF_THE_COMMAND": "command",
        "OF_BOTH": "node",
    }


def test_how_a_process_ended_is_known(tmp_path):
    assert kept(tmp_path, leave, 3)[1] == (3, None)
    assert kept(tmp_path, end_by, signal.SIGKILL)[1] == (-signal.SIGKILL, None)
    exit_code, error = kept(tmp_path, fail)[1]
    assert exit_code == 1 and (error["type"], error["message"]) == ("LookupError", "no such thing")


def test_a_signal_reaches_the_process(tmp_path):
    path = tmp_path / "told"
    assert kept(tmp_path, until_told, str(path), number=signal.SIGTERM)[1] == (0, None)
    assert path.read_text() == "told"


@pytest.mark.parametrize("child_too", [False, True])
def test_a_process_whose_keeper_is_killed_is_told(tmp_path, child_too):
    """Alone, or with the keeper's own child, as Ray kills it."""
    path = tmp_path / "told"
    keeper = subprocess.Popen([sys.executable, "-c", KEEPING, str(path)], cwd=ROOT)
    wait_for(path.with_suffix(".ready").exists)
    children = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()
    assert len(children) == 1
    for pid in [keeper.pid, *(map(int, children) if child_too else ())]:
        os.kill(pid, signal.SIGKILL)
    keeper.wait()
    wait_for(path.exists)
    job, between = int(path.with_suffix(".ready").read_text()), int(children[0])
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (job, between)))
    assert path.read_text() == "told"


def test_a_process_between_that_is_killed_is_a_job_that_died(tmp_path):
    path = tmp_path / "told"

    async def keep():
        keeper = Keeper()
        started = await keeper.start(str(tmp_path), pickle.dumps((until_told, (str(path),), {})), {})
        while not path.with_suffix(".ready").exists():
            await asyncio.sleep(0.05)
        keeper._between.kill()
        return await keeper.wait(started)

    began = time.monotonic()
    assert asyncio.run(keep()) == (-signal.SIGKILL, None) and time.monotonic() - began < 30
    wait_for(path.exists)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        kept(tmp_path / "nowhere", leave, 0)
