"""Several processes that train one run, as started by hand: the same command in each."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from omegaconf import open_dict

from src.config.compose import compose
from src.runs.record import Record
from src.runs.run import Run
from src.runs.workers import as_worker
from src.verify_resume import compare
from tests.support.helpers import ROOT

EPOCHS = 6


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]


def workers(tmp_path: Path, *overrides: str, module: str = "src.train") -> list[subprocess.Popen]:
    """Two of one run."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    words = ("data=digits", "model=mlp", "batch_size=337", "strategy=multi_worker", f"hydra.run.dir={tmp_path}/run")
    words += ("callback.export=null", "callback.images=null", "callback.hparams=null")
    words += ("model.dropout=0.2", "optimizer.use_ema=true", f"epochs={EPOCHS}", "monitor=val/loss", "mode=min")
    words += ("callback=early_stopping", "callback.early_stopping.patience=2")
    words += ("schedule=reduce_on_plateau", "callback.reduce_on_plateau.patience=1")
    command = [sys.executable, "-m", module, *words, "trainer.threads=1", *overrides]
    started = []
    for index in range(2):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        environment = {**os.environ, "TF_CONFIG": config, "TMPDIR": str(tmp_path)}
        with (tmp_path / f"worker{index}.log").open("a") as log:
            started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    return started


def ended(started: list[subprocess.Popen]) -> list[int]:
    """The exit codes, once all have ended; none is left."""
    try:
        return [process.wait(timeout=600) for process in started]
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


def wait_for_epochs(tmp_path: Path, started: list[subprocess.Popen], count: int) -> None:
    history, deadline = tmp_path / "run" / "history.jsonl", time.monotonic() + 600
    while not (history.exists() and len(history.read_text().splitlines()) >= count):
        assert time.monotonic() < deadline and started[0].poll() is None, logs(tmp_path)
        time.sleep(0.1)


def logs(tmp_path: Path) -> list[str]:
    return [(tmp_path / f"worker{number}.log").read_text() for number in range(2)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of two workers that nothing disturbs."""
    folder = tmp_path_factory.mktemp("straight")
    assert ended(workers(folder)) == [0, 0], logs(folder)
    assert Record(folder / "run").read()["epoch"] == EPOCHS
    return folder / "run"


def test_only_the_chief_has_callbacks_that_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": 1}}))
    words = ("data=digits", "strategy=multi_worker", "callback=early_stopping", "schedule=reduce_on_plateau")
    cfg = compose([*words, f"hydra.run.dir={tmp_path}/run"])
    with open_dict(cfg):
        cfg.callback.mine = {"_target_": "mine.Callback"}
        cfg.callback.theirs = {"_target_": "src.callbacks.keras.KerasCallback"}
        cfg.callback.another = {"_target_": "src.callbacks.summaries.Summaries"}
        cfg.may_fail = ["another", "mine"]
    with as_worker(Run.of(cfg)) as run:
        left = {name for name, node in run.cfg.callback.items() if node}
    assert left == {"early_stopping", "reduce_on_plateau", "mine", "theirs"} and run.cfg.may_fail == ["mine"]


@pytest.mark.exhaustive
def test_all_decide_by_what_the_chief_has_measured(straight, tmp_path):
    """Worker 1 sees the loss rise where it falls: alone, it would stop in the third epoch and lower its rate."""
    assert ended(workers(tmp_path, module="tests.support.apart")) == [0, 0], logs(tmp_path)
    assert compare(tmp_path / "run", straight) == []


@pytest.mark.exhaustive
@pytest.mark.parametrize(("told", "number"), [(1, signal.SIGTERM), (0, signal.SIGINT)], ids=["other", "chief"])
def test_a_signal_to_one_ends_all_and_the_same_command_goes_on(straight, tmp_path, told, number):
    started = workers(tmp_path)
    wait_for_epochs(tmp_path, started, 2)
    started[told].send_signal(number)
    assert ended(started) == [128 + number] * 2, logs(tmp_path)
    record = Record(tmp_path / "run").read()
    assert record["status"] == "interrupted" and 2 <= record["epoch"] < EPOCHS
    assert ended(workers(tmp_path)) == [0, 0], logs(tmp_path)
    assert f"continuing after step {record['step']}," in logs(tmp_path)[0]
    assert compare(tmp_path / "run", straight) == []


@pytest.mark.exhaustive
def test_workers_that_slurm_starts_end_with_the_same_weights(tmp_path):
    """As srun would start them: its variables, and a command that names the machines."""
    command = tmp_path / "scontrol"
    command.write_text("#!/bin/sh\necho localhost\n")
    command.chmod(0o755)
    slurm = {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": "2(x1)"}
    port, started = min(free_ports(2)), []
    for number in range(2):
        variables = {**slurm, "SLURM_PROCID": str(number), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
        words = [sys.executable, "-m", "tests.support.replicas", "worker", str(port)]
        log = (tmp_path / f"worker{number}.log").open("w+")
        started.append((subprocess.Popen(words, env=os.environ | variables, stdout=log, stderr=log), log))
    found = []
    for process, log in started:
        process.wait(timeout=600)
        log.seek(0)
        found += re.findall(r"^worker (\S+) (\w+)$", text := log.read(), re.MULTILINE) or [text]
    assert found[0] == found[1] and len(found[0]) == 2, found


@pytest.mark.exhaustive
@pytest.mark.parametrize("killed", [0, 1])
def test_after_a_worker_is_killed_the_other_ends_and_the_same_command_goes_on(straight, tmp_path, killed):
    both = workers(tmp_path)
    wait_for_epochs(tmp_path, both, 2)
    both[killed].kill()
    codes = ended(both)
    assert (codes[killed], codes[1 - killed]) == (-signal.SIGKILL, 1)
    assert Record(tmp_path / "run").read()["epoch"] < EPOCHS
    left = set(tmp_path.glob("worker-*-*"))
    codes, texts = ended(workers(tmp_path)), logs(tmp_path)
    assert codes == [0, 0] and "continuing after step" in texts[0], texts
    assert "error: another process that trains this run has ended" in texts[1 - killed], texts
    assert "next:" in texts[0] and "next:" not in texts[1]
    assert set(tmp_path.glob("worker-*-*")) == left, "only the chief has written, and only there"
    assert compare(tmp_path / "run", straight) == []
