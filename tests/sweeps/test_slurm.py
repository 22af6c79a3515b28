"""hydra/launcher=slurm without a Slurm, by commands that stand for its own; tests/cluster has one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import replace

import pytest

from src.config.checks import ConfigError
from src.config.compose import compose
from src.sweeps.plan import Composer, plan_one
from src.sweeps.slurm import SlurmOptions, SlurmRunner, command_of
from src.sweeps.slurm_commands import SCRIPT
from tests.support.helpers import DIGITS, train

JOBS = [[*DIGITS, f"seed={seed}"] for seed in range(5)]
COMMANDS = {
    "sbatch": 'echo "$@" >> sbatch.log; cat refusal >&2 2>/dev/null && exit 1; wc -l < sbatch.log',
    "squeue": "echo >> squeue.log; cat queue 2>/dev/null || exit 1",
    "scancel": 'echo "$@" >> scancel.log',
    "scontrol": 'echo "$@" >> scontrol.log; echo "MaxArraySize = 2"',
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory, with Slurm's commands on PATH; `queue` is what squeue prints, `refusal` what sbatch says."""
    (tmp_path / "bin").mkdir()
    for name, text in COMMANDS.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    (tmp_path / "queue").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def run(jobs=JOBS, **options):
    """The sweep's exit code, and what it leaves in sweep.json."""
    typed = [f"hydra.launcher.{name}=['{options[name][0]}']" for name in ("sbatch", "setup") if name in options]
    config = compose([*DIGITS, "hydra.mode=MULTIRUN", "hydra/launcher=slurm", *typed])
    states, code = SlurmRunner(config, SlurmOptions(poll_seconds=0.01, **options)).run(jobs)
    return states, code


def submitted(folder):
    path = folder / "sbatch.log"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_jobs": 0}, "hydra.launcher.n_jobs is 0"),
        ({"cpus_per_task": 0}, "hydra.launcher.cpus_per_task is 0"),
        ({"poll_seconds": 0}, "hydra.launcher.poll_seconds is 0"),
        ({"detach": "yes"}, "hydra.launcher.detach is 'yes'"),
        ({"time": True}, "hydra.launcher.time is True; it must be what sbatch --time takes"),
        ({"partition": ["a"]}, "hydra.launcher.partition is"),
        ({"account": ""}, "hydra.launcher.account is ''"),
        ({"sbatch": "--qos=low"}, "hydra.launcher.sbatch is '--qos=low'; it must be a list"),
        ({"setup": [3]}, "it must be a list of texts, as"),
        ({"setup": ["a\nb"]}, "hydra.launcher.setup"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        SlurmOptions(**options).check()


def test_it_needs_slurms_commands(folder, monkeypatch):
    (folder / "bin" / "squeue").unlink()
    monkeypatch.setenv("PATH", str(folder / "bin"))
    with pytest.raises(ConfigError, match="needs squeue, which is not on PATH"):
        run()
    assert not (folder / "outputs").exists()


def test_a_search_is_refused(tmp_path):
    search = ("hydra/sweeper=optuna", "seed=choice(0,1)")
    done = train("--multirun", *DIGITS, "hydra/launcher=slurm", *search, cwd=tmp_path)
    assert done.returncode == 2 and "needs hydra/launcher=local or ray" in done.stderr


def test_what_is_submitted(folder, capsys):
    options = {"partition": "gpu", "time": "1:00:00", "gres": "gpu:1", "mem": "8G", "sbatch": ["--qos=low"]}
    _, code = run(detach=True, setup=["module load cuda"], **options)
    assert code == 0 and "the jobs go on" in capsys.readouterr().err
    first, second, third = submitted(folder)  # two tasks an array, as the site says
    given = "--partition=gpu --time=1:00:00 --gres=gpu:1 --mem=8G --cpus-per-task=1 --qos=low"
    for option in ("--requeue", "--open-mode=append", "--signal=B:USR1@60", given):
        assert option in first
    assert "--array=0-1 " in first and "--array=0-1 " in second and "--array=0-0 " in third
    assert [line.split()[-1] for line in (first, second, third)] == ["0", "2", "4"]
    script, lines = (folder / name for name in first.split()[-3:-1])
    assert "module load cuda" in script.read_text() and len(lines.read_text().splitlines()) == 5
    assert "--dependency" not in second


def test_a_limit_holds_over_arrays(folder):
    run(detach=True, n_jobs=2)
    first, second, third = submitted(folder)
    assert "--array=0-1%2" in first and "--dependency=afterany:1" in second and "--dependency=afterany:2" in third


def test_nothing_is_submitted_twice(folder, capsys):
    (folder / "queue").write_text("".join(f"{n // 2 + 1}_{n % 2} PENDING QOSMaxJobs\n" for n in range(5)))
    run(detach=True)
    states, code = run(detach=True)
    assert code == 0 and len(submitted(folder)) == 3
    assert {state.status for state in states} == {"waiting"}
    said = capsys.readouterr().err
    assert "Slurm lets 5 jobs wait: QOSMaxJobs" in said and ": 5 jobs submitted before" in said
    (record,) = folder.glob("outputs/digits/sweeps/*/sweep.json")
    sweep = json.loads(record.read_text())
    assert sweep["exit_code"] is None and list(sweep["slurm"].values()) == ["1_0", "1_1", "2_0", "2_1", "3_0"]


def test_what_ended_without_a_record_has_failed_and_is_submitted_again(folder, monkeypatch):
    monkeypatch.setattr("src.sweeps.slurm_sweep.SEEN_SECONDS", 0.2)
    states, code = run(JOBS[:2])
    assert code == 1 and len(submitted(folder)) == 1
    assert [state.reason for state in states] == [
        f"ProcessDied: Slurm task 1_{n}: ended before it began" for n in range(2)
    ]
    run(JOBS[:2])
    assert len(submitted(folder)) == 2


def test_a_squeue_that_fails_is_asked_again(folder, monkeypatch, capsys):
    monkeypatch.setattr("src.sweeps.slurm_sweep.SEEN_SECONDS", 0.2)
    (folder / "queue").unlink()
    (folder / "bin" / "squeue").write_text("#!/bin/sh\necho >> squeue.log\n[ $(wc -l < squeue.log) -gt 3 ]\n")
    _, code = run(JOBS[:1])
    assert code == 1 and capsys.readouterr().err.count("squeue fails") == 1


def test_looking_is_rare_where_it_takes_long(folder, monkeypatch):
    monkeypatch.setattr("src.sweeps.slurm_sweep.SEEN_SECONDS", 0.0)
    answer = "sleep 0.1; [ $(wc -l < squeue.log) -gt 2 ] || echo 1_0 PENDING Priority"
    (folder / "bin" / "squeue").write_text(f"#!/bin/sh\ndate +%s.%N >> squeue.log\n{answer}\n")
    run(JOBS[:1])
    first, second, third = map(float, (folder / "squeue.log").read_text().split())
    assert min(second - first, third - second) > 20 * 0.1


def test_what_sbatch_refuses_is_shown_and_nothing_is_left(folder):
    accepts = "echo >> sbatch.log; [ $(wc -l < sbatch.log) = 1 ] && echo 7 && exit"
    (folder / "bin" / "sbatch").write_text(f"#!/bin/sh\n{accepts}\necho no such account >&2; exit 1\n")
    with pytest.raises(ConfigError, match="no such account"):
        run()
    assert (folder / "scancel.log").read_text() == "7\n"


@pytest.mark.parametrize("option", ["setup: [touch marker]", "sbatch: [--output=marker]"])
def test_a_strangers_config_runs_no_shell(folder, option):
    (folder / "theirs" / "experiment").mkdir(parents=True)
    text = f"# @package _global_\ndefaults: [override /hydra/launcher: slurm]\nhydra: {{launcher: {{{option}}}}}\n"
    (folder / "theirs" / "experiment" / "x.yaml").write_text(text)
    done = train("--multirun", *DIGITS, "--config-dir", "theirs", "experiment=x", "seed=0,1", cwd=folder)
    assert done.returncode == 2 and "decides what runs" in done.stderr and submitted(folder) == []


def test_a_dry_run_needs_no_slurm(tmp_path):
    done = train("--multirun", *DIGITS, "hydra/launcher=slurm", "seed=0,1", "dry_run=true", cwd=tmp_path)
    assert done.returncode == 0 and "seed" in done.stdout


def test_a_task_is_the_run_typed_alone(folder):
    composer = Composer(hydra_overrides=("hydra.mode=MULTIRUN", "hydra/launcher=slurm", "hydra.verbose=true"))
    job = plan_one((*DIGITS, "seed=1", "rerun=true"), composer)
    command = command_of(job, composer)
    assert "hydra.verbose=true data=digits model=cnn seed=1 hydra.run.dir=" in command and "\n" not in command
    assert command.endswith("wait=true") and "rerun" not in command and "launcher" not in command
    two_lines = command_of(replace(job, overrides=("class_names=['a\nb']",)), composer)
    assert "\n" not in two_lines
    said = subprocess.run(["bash", "-c", f"printf %s {two_lines}"], capture_output=True, text=True, check=True).stdout
    assert "class_names=['a\nb']" in said


# The script, with commands that stand for runs


class Task:
    """The script of one task, whose run is a line of shell."""

    def __init__(self, folder, run, *, setup=""):
        (folder / "task.sh").write_text(SCRIPT.format(cwd=folder, setup=setup))
        (folder / "run").mkdir(exist_ok=True)
        (folder / "jobs").write_text(f"none false\nrun bash -c '{run}'\n")
        variables = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "12"}
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                ["bash", str(folder / "task.sh"), str(folder / "jobs"), "1"],
                **{"env": {**os.environ, **variables}, "stdout": log, "stderr": log, "start_new_session": True},
            )
        self.folder = folder

    def begins(self):
        deadline = time.monotonic() + 20
        while "begun" not in (self.folder / "log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end(self):
        return self.process.wait(20), (self.folder / "log").read_text()

    @property
    def requeued(self):
        path = self.folder / "scontrol.log"
        return path.read_text() if path.exists() else ""


HEARS = 'trap "echo heard {0}; {1} exit {2}" {0}; echo begun; while :; do sleep 0.05; done'


@pytest.mark.parametrize("code", [0, 1, 143])
def test_the_exit_code_is_the_runs(folder, code):
    assert Task(folder, f"exit {code}").end() == (
        code,
        f"job 12 on {os.uname().nodename} ended with exit code {code}\n",
    )


def test_usr1_is_heard_by_the_run_which_is_requeued(folder):
    task = Task(folder, HEARS.format("USR1", "", 138))
    task.begins()
    task.process.send_signal(signal.SIGUSR1)  # as Slurm, to the script alone
    code, log = task.end()
    assert code == 138 and log.count("heard USR1") == 1 and task.requeued == "requeue 12\n"


@pytest.mark.parametrize(("step", "requeued"), [(2, "requeue 12\n"), (3, "")])
def test_a_run_that_comes_no_further_is_not_requeued_for_ever(folder, step, requeued):
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_text(f'"step": {step}\n')
    (folder / "next.json").write_text('"step": 3\n')
    task = Task(folder, HEARS.format("USR1", "cp next.json run/run.json;", 138))
    task.begins()
    task.process.send_signal(signal.SIGUSR1)
    code, log = task.end()
    assert code == 138 and task.requeued == requeued and ("hydra.launcher.time" in log) == (not requeued)


def test_term_is_heard_once_and_waited_for(folder):
    task = Task(folder, HEARS.format("TERM", "sleep 0.5; echo saved;", 143))
    task.begins()
    os.killpg(task.process.pid, signal.SIGTERM)  # as Slurm, to all processes
    code, log = task.end()
    assert code == 143 and log.count("heard TERM") == 1 and "saved" in log and task.requeued == ""


def test_a_signal_before_the_run_is_not_lost(folder):
    task = Task(folder, "echo ran", setup="echo begun; sleep 1")
    task.begins()
    task.process.send_signal(signal.SIGTERM)
    code, log = task.end()
    assert code == 143 and "ran\n" not in log


def test_a_job_that_is_not_there_is_an_error(folder):
    task = Task(folder, "true")
    task.end()
    (folder / "jobs").write_text("")
    done = subprocess.run(["bash", "task.sh", "jobs", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "no job in jobs" in done.stdout
