"""resume=RUN starts a new run from another's checkpoint."""

from __future__ import annotations

import os
import shutil

import keras
import pytest

from src import schedules
from src.runs.preflight import highest_rate
from src.runs.record import Record
from src.verify_resume import compare
from tests.support.helpers import only_run, run_module, train

BASE = [
    "data=digits",
    "model=mlp",
    "model.dropout=0.2",
    "schedule=constant",
    "~callback.images",
    "callback.export=null",
]


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A run of two epochs, and beside it one of four."""
    folder = tmp_path_factory.mktemp("parent")
    for epochs in (2, 4):
        (folder / str(epochs)).mkdir()
        assert train(*BASE, f"epochs={epochs}", cwd=folder / str(epochs)).returncode == 0
    return folder


def branches(folder) -> list:
    return [path for path in folder.glob("outputs/digits/*e4*") if (path / "run.json").exists()]


@pytest.mark.slow
def test_a_branch_goes_on_as_the_parent_would_have(parent, tmp_path):
    """With a constant rate, two epochs and a branch to four are four epochs, bit for bit, wherever the parent lies."""
    run = only_run(parent / "2" / "outputs" / "digits")
    found = train(f"resume={run}", "epochs=4", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    (branch,) = branches(tmp_path)
    straight = only_run(parent / "4" / "outputs" / "digits")
    different = [line for line in compare(branch, straight) if not line.startswith(("checkpoints/best", "summaries"))]
    assert set(different) <= {"history.jsonl", "run.json best", "checkpoints progress/.ATTRIBUTES/VARIABLE_VALUE"}
    assert [line["epoch"] for line in Record(branch).history()] == [3, 4]
    record, of_parent = Record(branch).read(), Record(run).read()
    parent_now = {"config_hash": of_parent["config_hash"], "step": of_parent["step"]}
    assert parent_now.items() < record["parent"].items()
    assert record["best"]["epoch"] in (3, 4)  # the best of its own epochs, of which it has the weights
    assert record["id"] not in (of_parent["id"], Record(straight).read()["id"])

    moved = tmp_path / "elsewhere"
    shutil.copytree(run, moved)
    shutil.copytree(run, tmp_path / "outputs" / "digits" / run.name)
    for named in (moved, of_parent["id"][:6]):
        again = train(f"resume={named}", "epochs=4", cwd=tmp_path)
        assert "already completed, reused" in again.stdout, again.stderr
    assert len(branches(tmp_path)) == 1


@pytest.mark.slow
def test_a_changed_rate_is_not_undone(parent, tmp_path):
    """A constant rate is among what a checkpoint restores; the branch's own counts. It runs in a folder of its own."""
    run = os.path.relpath(only_run(parent / "2" / "outputs" / "digits"), tmp_path)
    words = ("epochs=3", "optimizer.learning_rate=0.125", "hydra.job.chdir=true")
    found = train(f"resume={run}", *words, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    import tensorflow as tf

    branch = only_run(tmp_path / "outputs" / "digits")
    reader = tf.train.load_checkpoint(str(branch / "checkpoints"))
    rates = [reader.get_tensor(f"optimizer/{i}/.ATTRIBUTES/VARIABLE_VALUE") for i in range(2)]
    assert 0.125 in rates


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["resume=nowhere"], "resume=nowhere is no run"),
        (["resume={run}", "epochs=2"], "has done 2: a branch counts those of its parent, so give more"),
        (["resume={run}", "epochs=4", "parent.step=1"], "parent.step is filled in by the run itself"),
        (["--multirun", "resume={run},{run}", "epochs=4"], "a sweep branches from one run"),
    ],
)
def test_mistakes(parent, tmp_path, overrides, message):
    run = only_run(parent / "2" / "outputs" / "digits")
    found = train(*(text.format(run=run) for text in overrides), cwd=tmp_path)
    assert found.returncode == 2
    assert message in found.stderr


@pytest.mark.slow
def test_an_epoch_of_other_steps_is_refused(parent, tmp_path):
    run = only_run(parent / "2" / "outputs" / "digits")
    found = train(f"resume={run}", "epochs=4", "batch_size=64", cwd=tmp_path)
    assert found.returncode == 2
    assert "a branch needs the batch_size and the data of its parent" in found.stderr


@pytest.mark.slow
def test_another_architecture_is_refused(parent, tmp_path):
    run = only_run(parent / "2" / "outputs" / "digits")
    found = train(f"resume={run}", "epochs=4", "model.hidden_units=[32]", cwd=tmp_path)
    assert found.returncode == 2 and f"resume={run}: " in found.stderr
    assert "does not fit this model: its variable" in found.stderr
    assert len(found.stderr.splitlines()) < 6 and not branches(tmp_path)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_clean_leaves_the_parent_of_a_branch_that_it_cannot_see(parent, tmp_path):
    """The branch was typed elsewhere, by a link; its command goes on after the clean."""
    run = tmp_path / "outputs" / "digits" / "run"
    shutil.copytree(only_run(parent / "2" / "outputs" / "digits"), run)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(run.parent)
    command = ["resume=link/run", "epochs=3"]
    assert train(*command, cwd=tmp_path / "elsewhere").returncode == 0
    cleaned = run_module("src.runs", "clean", "--keep", "0", "--yes", cwd=tmp_path)
    assert "kept: 1 run, from which others branch" in cleaned.stdout
    again = train(*command, cwd=tmp_path / "elsewhere")
    assert again.returncode == 0 and "already completed, reused" in again.stdout


@pytest.mark.parametrize(
    ("schedule", "first", "total", "share"),
    [
        ("cosine", 10, 20, 0.5),
        ("cosine", 100, 104, 0.0021),
        ("polynomial", 100, 104, 0.03),
        ("exponential", 100, 104, 0.012),
        ("one_cycle", 1, 100, 1.0),
        ("constant", 100, 104, 1.0),
    ],
)
def test_the_highest_rate_that_is_left(schedule, first, total, share):
    rate = getattr(schedules, schedule)(learning_rate=0.5, steps_per_epoch=1, total_steps=total)
    optimizer = keras.optimizers.SGD(rate)
    optimizer.iterations.assign(first)
    highest = highest_rate(optimizer, first=first, last=total - 1)
    assert highest == pytest.approx(0.5 * share, rel=0.25) and int(optimizer.iterations) == first


def test_a_branch_with_hardly_any_rate_left_says_so(tmp_path):
    """A schedule is that of all epochs: to add one to twenty leaves its end, to double them its second half."""
    words = ("data=digits", "model=mlp", "model.hidden_units=[8]", "batch_size=1437", "epochs=20", "~callback.images")
    assert train(*words, "callback.export=null", "optimizer.learning_rate=0.01", cwd=tmp_path).returncode == 0
    run = only_run(tmp_path / "outputs" / "digits")
    said = "this branch trains with a learning rate of "
    little, much = (train(f"resume={run}", f"epochs={epochs}", cwd=tmp_path).stderr for epochs in (21, 40))
    line = next(line for line in little.splitlines() if said in line)
    told = float(line.partition(said)[2].split()[0])
    (branch,) = tmp_path.glob("outputs/digits/*e21*")
    assert told == pytest.approx(max(line["learning_rate"] for line in Record(branch).history()), rel=0.01)
    assert told < 1e-4 and " of 21 epochs, and 20 are done. Give more epochs, " in line
    assert said not in much and "continuing after step 20" in much
