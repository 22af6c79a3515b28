"""A sweep on two raylets: what is promised of one machine holds, and a lost node is none of the user's business."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from src.common.lock import holder_of
from src.runs.collection import lock_path
from src.runs.record import Record
from src.verify_resume import compare
from tests.support.helpers import PYTHONPATH
from tests.support.ray_cluster import RayCluster, new_token, wait_until
from tests.support.sweep_command import SweepCommand

pytest.importorskip("ray", reason="needs ray: make test-cluster makes an environment that has it")

SEEDS = range(6)
SOON_SECONDS = 15  # for a sweep that is signalled to have saved and ended
LEAN = ("callback.export=null", "callback.images=null", "callback.hparams=null", "callback.summaries=null")
RUNS = ("data=digits", "model=mlp", "model.dropout=0.3", "epochs=60", *LEAN)


@pytest.fixture(scope="module")
def cluster():
    made = RayCluster(token=new_token())
    try:
        made.join()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The sweep of all seeds on this machine, one thread a job."""
    folder = tmp_path_factory.mktemp("local")
    command = [sys.executable, "-m", "src.train", "--multirun", *RUNS, seeds(*SEEDS), "hydra.launcher.n_jobs=2"]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    (folder / "stdout").write_text(done.stdout)
    return folder


def seeds(*numbers):
    return f"seed={','.join(map(str, numbers))}"


class Command(SweepCommand):
    """A sweep on the cluster, as it is typed."""

    def __init__(self, cluster, folder, *words, **environment):
        environment = {**cluster.environment, **environment}
        del environment["RAY_AUTH_MODE"]  # a command asks for a token, whatever its shell says
        launcher = ("hydra/launcher=ray", f"hydra.launcher.address={cluster.address}")
        super().__init__(folder, *launcher, *words, environment=environment)

    def end(self, seconds=300):
        return super().end(seconds)

    def is_training(self, *numbers, epochs=2):
        assert self.process.poll() is None, self.stderr
        return all(self.record(seed)["epoch"] >= epochs for seed in numbers)

    def is_free(self, *numbers):
        return not any(holder_of(lock_path(self.directory(seed))) for seed in numbers)


def last_sweep(folder):
    path = sorted(folder.glob("outputs/digits/sweeps/*/sweep.json"))[-1]
    return json.loads(path.read_text())


def check_equal(command, local, *numbers):
    """Variables, record, history and summaries of the runs, bit for bit those of the sweep on one machine."""
    for seed in numbers:
        found = command.directory(seed)
        (expected,) = local.glob(f"outputs/digits/mlp-*-s{seed}-*")
        assert found.name == expected.name and command.record(seed)["status"] == "completed"
        assert compare(found, expected) == []
        ours, theirs = command.record(seed), Record(expected).read()
        assert ours["environment"]["threads"] == theirs["environment"]["threads"] == 1
        assert ours["environment"]["variables"] == theirs["environment"]["variables"]


def table(text):
    """The rows without their seconds."""
    rows = re.findall(r"^ *(\d+)  (\d) +(\S+) +(\S+) +(\w+) +\S+  (\S+)$", text, re.M)
    return sorted(rows)


def test_a_sweep_is_that_of_one_machine(cluster, local, tmp_path):
    command = Command(cluster, tmp_path, *RUNS, seeds(*SEEDS))
    assert command.end() == 0, command.stderr
    check_equal(command, local, *SEEDS)
    assert table(command.stdout) == table((local / "stdout").read_text()) and len(table(command.stdout)) == 6
    ours, theirs = last_sweep(tmp_path), last_sweep(local)
    assert ours["id"] == theirs["id"] and "2 at a time" in command.stderr
    for key in ("number", "id", "overrides", "directory", "status", "value", "epoch", "tries", "reason"):
        assert [job[key] for job in ours["jobs"]] == [job[key] for job in theirs["jobs"]]
    processes = [command.record(seed)["process"] for seed in SEEDS]
    assert len({process["pid"] for process in processes}) == 6 and len({process["job"] for process in processes}) == 1
    assert list(tmp_path.glob("outputs/digits/sweeps/.*")) == []

    again = Command(cluster, tmp_path, *RUNS, seeds(*SEEDS))
    assert again.end() == 0 and "6 jobs: 6 completed before" in again.stderr


def test_a_killed_child_is_tried_again(cluster, local, tmp_path):
    command = Command(cluster, tmp_path, *RUNS, seeds(0, 1), "hydra.launcher.retries=1")
    wait_until(lambda: command.is_training(0))
    os.kill(command.record(0)["process"]["pid"], signal.SIGKILL)
    assert command.end() == 0, command.stderr
    assert [(job["tries"], job["losses"]) for job in last_sweep(tmp_path)["jobs"]] == [(2, 0), (1, 0)]
    assert "killed by SIGKILL" in command.stderr
    check_equal(command, local, 0, 1)


def test_interrupted_it_saves_and_the_same_command_completes_it(cluster, local, tmp_path):
    command = Command(cluster, tmp_path, *RUNS, seeds(0, 1, 2))
    wait_until(lambda: command.is_training(0, 1))
    began = time.monotonic()
    command.process.send_signal(signal.SIGINT)
    assert command.end() == 128 + signal.SIGINT, command.stderr
    assert time.monotonic() - began < SOON_SECONDS and command.is_free(0, 1)
    assert [job["status"] for job in last_sweep(tmp_path)["jobs"]] == ["interrupted", "interrupted", "not started"]
    assert all(list(command.directory(seed).glob("checkpoints/ckpt-*")) for seed in (0, 1))
    again = Command(cluster, tmp_path, *RUNS, seeds(0, 1, 2))
    assert again.end() == 0 and "3 jobs: 2 to resume, 1 to start" in again.stderr
    check_equal(again, local, 0, 1, 2)


def test_a_killed_command_leaves_runs_that_have_saved(cluster, local, tmp_path):
    command = Command(cluster, tmp_path, *RUNS, seeds(3, 4))
    wait_until(lambda: command.is_training(3, 4))
    command.process.kill()
    assert command.end() == -signal.SIGKILL
    assert wait_until(lambda: command.is_free(3, 4), seconds=SOON_SECONDS)
    for seed in (3, 4):
        record = command.record(seed)
        assert record["status"] == "interrupted" and 2 <= record["epoch"] < 60
        assert "ended after step" in (command.directory(seed) / "train.log").read_text()
    again = Command(cluster, tmp_path, *RUNS, seeds(3, 4))
    assert again.end() == 0 and "2 jobs: 2 to resume" in again.stderr
    check_equal(again, local, 3, 4)


def test_a_lost_node_s_jobs_go_on_elsewhere(cluster, local, tmp_path):
    command = Command(cluster, tmp_path, *RUNS, seeds(0, 1, 2))
    wait_until(lambda: command.is_training(0, 1))
    cluster.lose(cluster.raylets[1])
    cluster.join()
    assert command.end() == 0, command.stderr
    check_equal(command, local, 0, 1, 2)
    jobs = last_sweep(tmp_path)["jobs"]
    assert sum(job["losses"] > 0 for job in jobs) == 1 and [job["tries"] for job in jobs] == [1, 1, 1]
    assert " was lost" in command.stderr and command.stdout.startswith("job  seed"), command.stdout


def test_a_raylet_that_dies_alone_lets_its_jobs_save(cluster, local, tmp_path):
    command = Command(cluster, tmp_path, *RUNS, seeds(0, 1))
    wait_until(lambda: command.is_training(0, 1))
    os.kill(cluster.raylets.pop(1), signal.SIGKILL)
    cluster.join()
    assert command.end() == 0, command.stderr
    check_equal(command, local, 0, 1)
    logs = [(command.directory(seed) / "train.log").read_text() for seed in (0, 1)]
    assert sum("SIGTERM: ended after step" in log for log in logs) == 1


def test_it_ends_while_jobs_wait_for_resources(cluster, tmp_path):
    resources = "hydra.launcher.resources={num_cpus: 64}"
    command = Command(cluster, tmp_path, *RUNS, seeds(0, 1), resources, "hydra.launcher.n_jobs=2")
    wait_until(lambda: "running" in command.stderr)
    time.sleep(1)
    began = time.monotonic()
    command.process.terminate()
    assert command.end() == 128 + signal.SIGTERM and time.monotonic() - began < SOON_SECONDS
    assert not list(tmp_path.glob("outputs/digits/mlp-*/run.json")) and last_sweep(tmp_path)["exit_code"] == 143


def test_a_search_prunes(cluster, tmp_path):
    words = (
        *("hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "optimizer.learning_rate=1e-9,0.003", "seed=0,1"),
        "hydra.sweeper.sampler._target_=optuna.samplers.GridSampler",
        *("hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner", "+hydra.sweeper.pruner.lower=0.5"),
        "+hydra.sweeper.pruner.n_warmup_steps=5",
    )
    command = Command(cluster, tmp_path, *RUNS, *words)
    assert command.end() == 0, command.stderr
    jobs = last_sweep(tmp_path)["jobs"]
    assert sorted(job["status"] for job in jobs) == ["completed"] * 2 + ["pruned"] * 2
    assert all(job["epoch"] < 60 for job in jobs if job["status"] == "pruned")


def test_two_sweeps_at_once_leave_each_other_alone(cluster, local, tmp_path):
    folders = [tmp_path / name for name in ("a", "b")]
    commands = []
    for folder, numbers in zip(folders, ((0, 1), (2, 3)), strict=True):
        folder.mkdir()
        commands.append(Command(cluster, folder, *RUNS, seeds(*numbers), "hydra.launcher.n_jobs=1"))
    wait_until(lambda: commands[0].is_training(0) and commands[1].is_training(2))
    commands[0].process.send_signal(signal.SIGINT)
    assert commands[0].end() == 128 + signal.SIGINT
    assert commands[1].end() == 0, commands[1].stderr
    assert [job["status"] for job in last_sweep(folders[0])["jobs"]] == ["interrupted", "not started"]
    assert [(job["tries"], job["losses"]) for job in last_sweep(folders[1])["jobs"]] == [(1, 0)] * 2
    check_equal(commands[1], local, 2, 3)


@pytest.mark.parametrize(("token", "said"), [("", "there is no token in"), (new_token(), "the token of that cluster")])
def test_without_the_cluster_s_token_nothing_runs(cluster, tmp_path, token, said):
    file = tmp_path / "token"
    file.write_text(token)
    command = Command(cluster, tmp_path, *RUNS, seeds(0, 1), RAY_AUTH_TOKEN_PATH=str(file))
    assert command.end() == 2 and f"{said}" in command.stderr and str(file) in command.stderr, command.stderr
    assert not (tmp_path / "outputs").exists()


def test_an_open_cluster_is_refused(tmp_path):
    made = RayCluster(token=None)
    try:
        file = tmp_path / "token"
        file.write_text(new_token())
        command = Command(made, tmp_path, *RUNS, seeds(0, 1), RAY_AUTH_TOKEN_PATH=str(file))
        assert command.end() == 2 and "without RAY_AUTH_MODE=token" in command.stderr, command.stderr
    finally:
        made.close()


def test_where_no_cluster_is_the_address_is_named(cluster, tmp_path):
    cluster = type("Nowhere", (), {"address": "127.0.0.1:9", "environment": cluster.environment})
    command = Command(cluster, tmp_path, *RUNS, seeds(0, 1))
    assert command.end() == 2 and "hydra.launcher.address=127.0.0.1:9" in command.stderr, command.stderr
