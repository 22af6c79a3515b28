"""A sweep on a Slurm of one node, without accounting: what Slurm does to its jobs, and what its driver may suffer."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.runs.record import Record
from src.verify_resume import compare
from tests.support.slurm_cluster import SlurmCluster, missing
from tests.support.sweep_command import SweepCommand

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")

ROOT = Path(__file__).resolve().parents[2]
LEAN = ("callback.export=null", "callback.images=null", "callback.hparams=null", "callback.summaries=null")
RUNS = ("data=digits", "model=mlp", "model.dropout=0.3", *LEAN)
SHORT, LONG = "epochs=8", "epochs=300"
SLURM = ("hydra/launcher=slurm", "hydra.launcher.poll_seconds=0.5")


@pytest.fixture(scope="module")
def cluster():
    made = SlurmCluster()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_jobs_are_left(cluster):
    yield
    cluster.end_jobs()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Runs on this machine, with one thread each: six short ones, and two long ones."""
    folder = tmp_path_factory.mktemp("local")
    for words, name in (((SHORT, "seed=0,1,2,3,4,5"), "stdout"), ((LONG, "seed=0,1"), "long")):
        command = [sys.executable, "-m", "src.train", "--multirun", *RUNS, *words, "hydra.launcher.n_jobs=2"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
        (folder / name).write_text(done.stdout)
    return folder


class Command(SweepCommand):
    """A sweep, as it is typed."""

    def __init__(self, cluster, folder, *words):
        environment = {**cluster.environment, "PYTHONPATH": str(ROOT)}
        super().__init__(folder, *SLURM, *RUNS, *words, environment=environment)

    def wait_for_epochs(self, *numbers, epochs=3):
        wait_until(lambda: all(self.record(seed)["epoch"] >= epochs for seed in numbers))


def wait_until(holds, seconds=300):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def sweeps(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("outputs/digits/sweeps/*/sweep.json"))]


def logs(folder):
    return "".join(path.read_text() for path in folder.glob("outputs/digits/sweeps/*/slurm/*.log"))


def check_equal(command, local, *numbers, epochs):
    """Variables, history and record of the runs, bit for bit those of the machine's own sweep."""
    for seed in numbers:
        (found,) = command.folder.glob(f"outputs/digits/mlp-*-e{epochs}-*-s{seed}-*")
        (expected,) = local.glob(f"outputs/digits/mlp-*-e{epochs}-*-s{seed}-*")
        assert found.name == expected.name
        assert compare(found, expected) == []
        ours, theirs = Record(found).read(), Record(expected).read()
        assert ours["environment"]["threads"] == theirs["environment"]["threads"] == 1
        assert ours["best"]["value"] == theirs["best"]["value"]
        assert ours["process"]["job"].isdigit() and ours["process"]["host"]


def table(text):
    """The rows without their seconds."""
    return re.findall(r"^ *(\d+)  (\d) +(\S+) +(\S+) +(\w+) +\S+  (\S+)$", text, re.M)


def test_a_sweep_is_that_of_one_machine(cluster, local, tmp_path):
    """In two arrays, as the site allows five tasks each; a second time, nothing is submitted."""
    command = Command(cluster, tmp_path, SHORT, "seed=0,1,2,3,4,5")
    assert command.end() == 0, command.stderr
    check_equal(command, local, *range(6), epochs=8)
    assert table(command.stdout) == table((local / "stdout").read_text()) and len(table(command.stdout)) == 6
    (sweep,) = sweeps(tmp_path)
    assert sweep["exit_code"] == 0 and len({task.partition("_")[0] for task in sweep["slurm"].values()}) == 2
    again = Command(cluster, tmp_path, SHORT, "seed=0,1,2,3,4,5")
    assert again.end() == 0 and "Slurm job" not in again.stderr and "slurm" not in sweeps(tmp_path)[1]


def test_so_many_at_a_time(cluster, tmp_path):
    command = Command(cluster, tmp_path, SHORT, "seed=0,1,2,3,4,5", "hydra.launcher.n_jobs=1")
    most = 0
    while command.process.poll() is None:
        most = max(most, cluster.run("squeue", "--noheader", "--states=RUNNING", "--format=%i").count("\n"))
        time.sleep(0.1)
    assert command.end() == 0 and most == 1


def test_usr1_saves_and_requeues(cluster, local, tmp_path):
    command = Command(cluster, tmp_path, LONG, "seed=0,1")
    command.wait_for_epochs(0, 1)
    (array,) = {task.partition("_")[0] for task in sweeps(tmp_path)[0]["slurm"].values()}
    cluster.run("scancel", "--batch", "--signal=USR1", f"{array}_0")
    wait_until(lambda: "is requeued" in logs(tmp_path))
    assert command.end() == 0, command.stderr
    assert "try 2" in command.stderr and logs(tmp_path).count("ended with exit code 0") == 2
    check_equal(command, local, 0, 1, epochs=300)


def test_scontrol_requeue_saves(cluster, local, tmp_path):
    command = Command(cluster, tmp_path, LONG, "seed=0")
    command.wait_for_epochs(0)
    cluster.run("scontrol", "requeue", command.record(0)["process"]["job"])
    wait_until(lambda: command.record(0)["status"] == "interrupted", seconds=10)
    saved = command.record(0)["step"]
    assert command.end() == 0, command.stderr
    assert f"continuing after step {saved}," in logs(tmp_path)
    check_equal(command, local, 0, epochs=300)


def test_a_time_limit_is_no_end(cluster, tmp_path):
    """Of two minutes: Slurm says so between 0 and 60 s after the start, and the run saves itself."""
    command = Command(cluster, tmp_path, "epochs=100000", "seed=0", "hydra.launcher.time=2")
    wait_until(lambda: "is requeued" in logs(tmp_path), seconds=150)
    saved = command.record(0)["step"]
    wait_until(lambda: command.record(0)["step"] > saved > 0)
    assert f"continuing after step {saved}," in logs(tmp_path)
    command.process.send_signal(signal.SIGINT)
    assert command.end() == 130


def test_a_job_of_several_processes_is_ended_and_goes_on_as_one(cluster, tmp_path):
    words = ("epochs=20", "seed=0", "batch_size=337", "strategy=multi_worker", "hydra.launcher.workers=2")
    for name in ("straight", "disturbed"):
        (tmp_path / name).mkdir()
    straight, command = (Command(cluster, tmp_path / name, *words) for name in ("straight", "disturbed"))
    assert straight.end() == 0, straight.stderr + logs(straight.folder)
    command.wait_for_epochs(0)
    (task,) = sweeps(command.folder)[0]["slurm"].values()
    cluster.run("scancel", "--batch", "--signal=USR1", task)  # as its time limit does
    wait_until(lambda: "is requeued" in logs(command.folder))
    saved = command.record(0)["epoch"]
    wait_until(lambda: command.record(0)["epoch"] > saved)
    cluster.run("scontrol", "requeue", command.record(0)["process"]["job"])  # which all processes hear
    wait_until(lambda: command.record(0)["status"] == "interrupted")
    saved = command.record(0)["epoch"]
    wait_until(lambda: command.record(0)["epoch"] > saved)
    command.process.send_signal(signal.SIGINT)
    assert command.end() == 130 and command.record(0)["status"] == "interrupted"
    last = Command(cluster, command.folder, *words)
    assert last.end() == 0, last.stderr + logs(last.folder)
    assert logs(last.folder).count("continuing after step") == 3
    (found,), (expected,) = (each.folder.glob("outputs/digits/mlp-*") for each in (last, straight))
    assert compare(found, expected) == []
    assert Record(found).read()["environment"]["replicas"] == 2


def test_a_driver_that_is_killed_is_typed_again(cluster, local, tmp_path):
    first = Command(cluster, tmp_path, LONG, "seed=0,1")
    first.wait_for_epochs(0)
    first.process.kill()
    first.end()
    second = Command(cluster, tmp_path, LONG, "seed=0,1")
    wait_until(lambda: "running" in second.stderr)
    second.process.terminate()  # as a lost terminal does: the jobs go on
    assert second.end() == 143 and "the jobs go on" in second.stderr
    third = Command(cluster, tmp_path, LONG, "seed=0,1")
    assert third.end() == 0, third.stderr
    assert "Slurm job" in first.stderr and "Slurm job" not in second.stderr + third.stderr
    (sweep,) = sweeps(tmp_path)
    assert sweep["exit_code"] == 0 and len(table(third.stdout)) == 2
    check_equal(third, local, 0, 1, epochs=300)
    assert "continuing after step" not in logs(tmp_path)


def test_detached_jobs_are_shown_and_waited_for(cluster, tmp_path):
    detach = (SHORT, "seed=0,1", "hydra.launcher.detach=true")
    assert Command(cluster, tmp_path, *detach).end() == 0
    again = Command(cluster, tmp_path, *detach)
    assert again.end() == 0 and "the jobs go on" in again.stderr and again.stdout.count("outputs/digits/mlp") == 2
    last = Command(cluster, tmp_path, SHORT, "seed=0,1")
    assert last.end() == 0 and "Slurm job" not in again.stderr + last.stderr
    assert [sweep["exit_code"] for sweep in sweeps(tmp_path)] == [0]


def test_ctrl_c_saves_and_what_waits_does_not_begin(cluster, local, tmp_path):
    command = Command(cluster, tmp_path, LONG, "seed=0,1,2", "hydra.launcher.n_jobs=2")
    command.wait_for_epochs(0, 1)
    command.process.send_signal(signal.SIGINT)
    assert command.end(60) == 130
    assert [command.record(seed)["status"] for seed in range(3)] == ["interrupted", "interrupted", None]
    (sweep,) = sweeps(tmp_path)
    assert [job["status"] for job in sweep["jobs"]] == ["interrupted", "interrupted", "not started"]
    again = Command(cluster, tmp_path, LONG, "seed=0,1")
    assert again.end() == 0, again.stderr
    check_equal(again, local, 0, 1, epochs=300)


def test_jobs_that_fail_are_killed_or_cancelled_are_named(cluster, tmp_path):
    command = Command(cluster, tmp_path, LONG, "seed=0,1,2", "hydra.launcher.n_jobs=2")
    command.wait_for_epochs(0, 1)
    os.kill(command.record(0)["process"]["pid"], signal.SIGKILL)
    tasks = list(sweeps(tmp_path)[0]["slurm"].values())
    cluster.run("scancel", tasks[2])
    cluster.run("scancel", tasks[1])  # by someone else, which lets it save
    assert command.end() == 1
    assert command.record(1)["status"] == "interrupted"
    reasons = [job["reason"] for job in sweeps(tmp_path)[0]["jobs"]]
    assert "ended with exit code 137" in reasons[0] and f"Slurm task {tasks[1]}" in reasons[1]
    assert "ended before it began" in reasons[2]


def test_what_sbatch_refuses_is_shown(cluster, tmp_path):
    command = Command(cluster, tmp_path, SHORT, "seed=0,1", "hydra.launcher.partition=none")
    assert command.end() == 2 and "invalid partition specified: none" in command.stderr.lower()


def test_a_search_is_refused(cluster, tmp_path):
    command = Command(cluster, tmp_path, "hydra/sweeper=optuna", "seed=choice(0,1)")
    assert command.end() == 2 and "hydra/launcher=local" in command.stderr
