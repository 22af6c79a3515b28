"""`python -m src.runs list` and `show`, as a user types them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from src.common.lock import hold
from src.runs.collection import lock_path
from tests.runs.made import add_checkpoint, make_run
from tests.support.helpers import ROOT, run_module

TRACEBACK = """Traceback (most recent call last):
  File "src/job.py", line 131, in train
    value = fit()
  File "mine/losses.py", line 7, in focal
    raise ValueError
  File "/usr/lib/site-packages/keras/ops.py", line 3, in add
ValueError: gamma"""


def runs(*arguments, cwd):
    return run_module("src.runs", *arguments, cwd=cwd, TZ="UTC")


@pytest.fixture
def folder(tmp_path):
    """Two names, all kinds of runs."""
    digits = tmp_path / "outputs" / "digits"
    make_run(digits, 1)
    make_run(digits, 2, status="running", finished=None, epoch=1)
    make_run(digits, 3, status="failed", best=None, checkpoints=False)
    make_run(digits, 1, aside=True)
    make_run(tmp_path / "outputs" / "scenes", 4, monitor="val/loss", mode="min")
    (digits / "broken" / ".hydra").mkdir(parents=True)
    return tmp_path


def test_list_shows_all_newest_first(folder):
    found = runs("list", cwd=folder)
    assert found.returncode == 0
    head, *lines, total = found.stdout.splitlines()
    assert head.split()[:2] == ["status", "best"], "two monitors, so none is in the header"
    assert [line.split()[0] for line in lines] == ["completed", "failed", "interrupted", "completed", "set-aside"]
    assert [line.split()[-1].split("/")[1] for line in lines] == ["scenes", *["digits"] * 4]
    row = r"val/loss 0\.940000 +2 +3/3 +2026-01-05 10:00 +10:02 +90\.0 +1\d kB +1\d kB +outputs/"
    assert re.search(row, lines[0])
    counts = "5 runs: 2 completed, 1 interrupted, 1 failed, 1 set-aside"
    assert re.fullmatch(rf"{counts}; \d+ kB, \d+ kB of it checkpoints; trained for 7 min 30 s", total)
    assert found.stderr.startswith("warning: outputs/digits/broken is left out") and found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["--status", "failed"], [3]),
        (["--status", "failed", "--status", "interrupted"], [3, 2]),
        (["--status", "completed", "--name", "dig*"], [1]),
        (["--status", "set-aside"], [1]),
        (["--name", "scenes"], [4]),
        (["--name", "nothing"], []),
        (["outputs/scenes"], [4]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_list_chooses(folder, options, numbers):
    found = runs("list", *options, "--format", "json", cwd=folder)
    assert found.returncode == 0, found.stderr
    assert [int(re.search(r"cnn-s(\d)", row["directory"])[1]) for row in json.loads(found.stdout)] == numbers


def test_a_run_in_use_names_its_process(folder):
    (directory,) = folder.glob("outputs/digits/cnn-s2-*")
    with hold(lock_path(directory)):
        shown = runs("list", "--status", "running", cwd=folder).stdout
    assert f"running (process {os.getpid()} on " in shown and "1 run: 1 running;" in shown


def test_it_answers_without_tensorflow_and_hydra(folder):
    command = [sys.executable, "-X", "importtime", "-m", "src.runs", "list"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=True)
    modules = {line.rpartition("|")[2].strip() for line in found.stderr.splitlines()}
    assert "src.runs.listing" in modules and not {"tensorflow", "keras", "numpy", "hydra"} & modules


def test_a_reader_that_has_seen_enough(folder):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f"{sys.executable} -m src.runs list --format json 2>errors | true"
    subprocess.run(command, shell=True, cwd=folder, env=env, check=True, timeout=60)
    assert "Traceback" not in (folder / "errors").read_text()


def test_show(folder):
    (directory,) = folder.glob("outputs/digits/cnn-s1-????????")
    by_id, by_path = runs("show", directory.name[-8:-3], cwd=folder), runs("show", str(directory), cwd=folder)
    assert by_id.returncode == 0 and by_id.stdout == by_path.stdout
    lines = by_id.stdout.splitlines()
    assert lines[0] == str(directory.relative_to(folder))
    assert "status      completed, epoch 3 of 3, step 120" in lines
    assert "result      val/accuracy 0.910000, the best (max), in epoch 2" in lines
    assert "            last val: loss 0.300000  accuracy 0.910000" in lines
    assert re.search(r"^type +\S*python\S* -m src.train data=digits model=cnn seed=1$", by_id.stdout, re.M)
    assert "commit 1234567890, with changes" in by_id.stdout and "keras 3.15.1" in by_id.stdout
    assert re.search(r"^disk +1\d kB: checkpoints 1\d kB, ", by_id.stdout, re.M)
    assert re.search(r"^next .* -m src.evaluate ", by_id.stdout, re.M)
    assert [line.split()[:2] for line in lines[-4:-1]] == [["1", "40"], ["2", "80"], ["3", "120"]]


def test_show_names_the_epochs_that_a_power_cut_took(tmp_path):
    run = make_run(tmp_path / "outputs" / "x", 1, history_missing=[2], validations_missing=[50, 90])
    lines = (run / "history.jsonl").read_text().splitlines(keepends=True)
    (run / "history.jsonl").write_text(lines[0] + lines[2])
    shown = runs("show", str(run), cwd=tmp_path).stdout
    assert "its history lacks 1 epoch, lost as in a power cut: 2\n" in shown
    assert "its validations lack 2 steps, lost as in a power cut: 50, 90\n" in shown
    assert "best val: accuracy 0.910000\n" in shown and "best val: loss" not in shown
    assert "last val: loss 0.300000  accuracy 0.910000\n" in shown
    *_, one, two, three, curve = shown.splitlines()
    assert [line.split()[:1] for line in (one, two, three)] == [["1"], ["2"], ["3"]] and two.split() == ["2"]
    assert curve == "val/accuracy  ▁ █"


def test_show_small_numbers(tmp_path):
    """With as many digits as larger ones, where a fixed number of places would make them zeros."""
    run = make_run(tmp_path / "outputs" / "x", 1, best={"value": 1.5e-7, "epoch": 3, "step": 120})
    rates = {1e-5: "1e-05", 0.00123456: "0.001235", -2e-9: "-2e-09", 0.05: "0.0500", 1.5: "1.5000", 0.0: "0.0000"}
    epochs = [{"epoch": number, "learning_rate": rate} for number, rate in enumerate(rates, start=1)]
    (run / "history.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    lines = runs("show", str(run), cwd=tmp_path).stdout.splitlines()
    assert [line.split() for line in lines[-7:-1]] == [[f"{n}", rate] for n, rate in enumerate(rates.values(), start=1)]
    assert "result      val/accuracy 1.5e-07, the best (max), in epoch 3" in lines


def test_show_a_failed_run(tmp_path):
    error = {"type": "ValueError", "message": "gamma is -1", "traceback": TRACEBACK}
    directory = make_run(tmp_path / "outputs" / "x", 1, status="failed", error=error, checkpoints=False, best=None)
    shown = runs("show", str(directory), cwd=tmp_path).stdout
    assert "failed, epoch 3 of 3" in shown and "ValueError: gamma is -1\n" in shown
    assert "in focal, mine/losses.py:7; the whole trace is in train.log" in shown
    assert "no checkpoint: the same command starts it" in shown and "\nnext" not in shown


def test_show_a_killed_run_and_its_branch(tmp_path):
    """The command of a branch leaves out what the branch fills in, and a run elsewhere names its directory."""
    digits = tmp_path / "outputs" / "digits"
    parent = make_run(digits, 1, status="running", finished=None)
    add_checkpoint(parent / "checkpoints", 2)
    config_hash = json.loads((parent / "run.json").read_text())["config_hash"]
    overrides = [
        f"resume={parent}",
        "epochs=9",
        "data.path=my data",
        "stale=reuse",
        f"parent.config_hash='{config_hash}'",
    ]
    branch = make_run(
        digits, 2, overrides=overrides, parent={"config_hash": config_hash, "epoch": 3, "step": 120, "checkpoint": "x"}
    )
    of_parent, of_branch = (runs("show", str(run), cwd=tmp_path).stdout for run in (parent, branch))
    assert "interrupted" in of_parent and "it was killed" in of_parent and "goes on from ckpt-2" in of_parent
    assert f"branch      to {branch.relative_to(tmp_path)}, completed\n" in of_parent
    assert f"branch      of {parent.relative_to(tmp_path)}, after epoch 3, step 120\n" in of_branch
    assert f"src.train resume={parent} epochs=9 'data.path=my data'\n" in of_branch
    assert f"options     resume={parent} epochs=9 data.path=my data\n" in of_branch

    branch.rename(tmp_path / "moved")
    assert "'data.path=my data' hydra.run.dir=moved\n" in runs("show", "moved", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND; see python -m src.runs --help"),
        (["list", "nowhere"], "nowhere is no folder; runs are outputs/<name>/<label>-<id>"),
        (["list", "--status", "lost"], "argument --status: invalid choice: 'lost'"),
        (["show", "outputs"], "outputs is no run but a folder with "),
        (["show", "123"], "123 is no run: give its directory, outputs/<name>/<label>-<id>, or 4 to 8 digits of its id"),
        (["show", "ffffffff"], "there is no run with the id ffffffff, of 4 runs below outputs; "),
        (["clean", "--keep", "-1"], "argument --keep: it is '-1'; it must be a whole number, at least 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(folder, arguments, message):
    found = runs(*arguments, cwd=folder)
    assert found.returncode == 2 and not found.stdout
    assert found.stderr.startswith(f"error: {message}") and found.stderr.count("\n") == 1


def test_an_id_of_two_runs(tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path / "outputs" / name, 1)
    found = runs("show", "6b86", cwd=tmp_path)
    assert (
        found.returncode == 2
        and "the ids of 2 runs below outputs begin with 6b86; give one of outputs/a/" in found.stderr
    )
    elsewhere = runs("show", "6b86", cwd=tmp_path / "outputs")
    assert "there is no run with the id 6b86, as there is no folder outputs; " in elsewhere.stderr
    assert elsewhere.stderr.endswith(" -m src.runs list shows all\n")
