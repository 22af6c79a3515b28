"""Jobs of every kind: trained, evaluated and predicted from raw files by commands, with the numbers of the model."""

import ast
import json
import re
import shlex
import shutil

import numpy as np
import pytest
import tensorflow as tf

from src.data.digit_scenes.digits import digit_indices, load_digits
from tests.jobs import JOBS, TASKS, own_code, write_files
from tests.support import forks
from tests.support.helpers import only_run, train
from tests.support.predictions import WANTED, largest_error

SHORT = ("epochs=1", "data.limit=0.2", "trainer.threads=1")
# Jobs that stand for the others in the default suite: each tries what the others do not.
SAMPLE = {
    "Texts",
    "Tokens of any length",
    "Several inputs and several heads",
    "An autoencoder",
    "Two networks against each other",
    "A subclassed model",
    "A pipeline that is there already",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SAMPLE else [pytest.mark.exhaustive]) for name in JOBS]
)
def test_a_job(name, tmp_path):
    job, first = JOBS[name], None
    short = [*write_files(tmp_path, job), "epochs=1", "trainer.threads=1"]
    short += ["trainer.limit_train_batches=4", "trainer.limit_val_batches=2"]
    if job.first:
        assert train(*shlex.split(job.first), *short, cwd=tmp_path).returncode == 0
        (first,) = runs(tmp_path)
    done = train(*job.words(first), *short, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = runs(tmp_path) - {first}
    evaluated = forks.run("src.evaluate", [str(run)], cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "SavedModel" in evaluated.stdout.splitlines()[0] or "takes other inputs" in evaluated.stderr
    file = f"new{job.rows}"
    for module in ("tests.support.predictions", "src.predict"):
        done = forks.run(module, [str(run), file], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert largest_error(run, tmp_path / WANTED) < 1e-5


def test_the_page_of_tasks_has_each_job_as_it_is():
    sections = re.findall(r"^## ([^\n]+)\n\n```\n(.*?)```", TASKS.read_text(), re.MULTILINE | re.DOTALL)
    assert [name for name, _ in sections] == list(JOBS)
    for name, block in sections:
        job = JOBS[name]
        trained = re.findall(r"^python -m src.train (.*)$", block, re.MULTILINE)
        sweep = [f"--multirun {job.command} {job.sweep}"] if job.sweep else []
        assert [re.sub(r"=outputs/\w+/<run>", "={first}", words) for words in trained] == [
            *([job.first] if job.first else []),
            *(job.command, *sweep),
        ]
        assert f"<run> new{job.rows}\n" in block
        results = re.findall(
            r"^python -m src.train (?!--multirun).*\n# prints \S+ \S+  \(epoch \d+ of \d+\)$", block, re.M
        )
        assert len(results) == block.count("# prints") == len(trained) - len(sweep)
        assert ("Needs own-code.md" in TASKS.read_text().partition(f"## {name}\n")[2].partition("\n## ")[0]) == job.own


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name, job in JOBS.items() if not job.first])
def test_the_page_says_what_a_command_prints(name, tmp_path):
    """But for the last digits, which other machines round otherwise."""
    job = JOBS[name]
    printed = train(*job.words(), *write_files(tmp_path, job), cwd=tmp_path).stdout
    said = re.search(rf"src.train {re.escape(job.command)}\n# prints (\S+) (\S+)  \(", TASKS.read_text())
    metric, value = printed.split()[:2]
    assert metric == said[1] and float(value) == pytest.approx(float(said[2]), rel=0.01, abs=0.01)


def test_the_code_is_short():
    """Of docs/own-code.md, each class and function."""
    for name, text in own_code().items():
        if name.endswith(".py"):
            for node in ast.parse(text).body:
                assert (node.end_lineno or 0) - node.lineno < 30, (name, node)


def test_a_file_that_lacks_a_column_or_a_value_is_refused(tmp_path):
    assert train("data=table", *SHORT, cwd=tmp_path).returncode == 0
    run = only_run(tmp_path / "outputs" / "table")
    names = ["age", "sex", "bmi", "bp", "tc", "ldl", "hdl", "tch", "ltg", "glu"]
    for header, row, message in (
        (names[1:], ["b", *"234567890"[:8]], "has no age; the model takes"),
        (names, ["", "b", *"12345678"], "row 1: age is missing"),
        (names, ["old", "b", *"12345678"], "age is no float32"),
    ):
        file = tmp_path / "new.csv"
        file.write_text(",".join(header) + "\n" + ",".join(row) + "\n")
        refused = forks.run("src.predict", [str(run), str(file)], cwd=tmp_path)
        assert refused.returncode != 0 and message in refused.stderr
        assert not (run / "predictions").exists()


def test_weights_of_another_run_are_taken_and_named(tmp_path):
    first = ("data=digits", "model=mlp", "model.hidden_units=[16]", *SHORT)
    assert train(*first, cwd=tmp_path).returncode == 0
    run = only_run(tmp_path / "outputs" / "digits")
    again = (*first, f"init_from={run}", "optimizer=sgd", "name=second")
    begun = train(*again, "max_seconds=1e-9", cwd=tmp_path)
    assert begun.returncode == 0 and f"init_from={run}: 4 of 4 weights taken" in begun.stderr
    aside = run.rename(run.with_name("aside"))
    assert "(interrupted) was computed before a change of file" in train(*again, cwd=tmp_path).stderr
    second = train(*again, "stale=reuse", cwd=tmp_path)
    assert second.returncode == 0 and "continuing after step" in second.stderr, second.stderr
    evaluated = forks.run("src.evaluate", [str(only_run(tmp_path / "outputs" / "second"))], cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    aside.rename(run)
    losses = [
        json.loads((only_run(tmp_path / "outputs" / name) / "history.jsonl").read_text().splitlines()[0])
        for name in ("digits", "second")
    ]
    assert losses[1]["train/loss"] < losses[0]["train/loss"]
    of_other_size = (*first[:2], "model.hidden_units=[8]", *SHORT, f"init_from={run}", "name=third")
    other = train(*of_other_size, cwd=tmp_path)
    assert "1 of 4 weights taken; as initialized: dense_1/kernel" in other.stderr
    assert "already completed, reused" in train(*of_other_size, cwd=tmp_path).stdout
    shutil.rmtree(run)
    asked = train(*of_other_size, cwd=tmp_path)
    assert asked.returncode == 1 and "best/ckpt-* (not there any more)" in asked.stderr, asked.stderr
    assert "already completed, reused" in train(*of_other_size, "stale=reuse", cwd=tmp_path).stdout
    refused = train(*of_other_size, "stale=rerun", cwd=tmp_path)
    assert refused.returncode == 2 and "there is no such file or folder" in refused.stderr
    (tmp_path / "mine.keras").write_text("")
    none = train("data=digits", "model=cnn", *SHORT, "init_from=mine.keras", cwd=tmp_path)
    assert none.returncode == 2 and "mine.keras is no model that can be loaded" in none.stderr


def test_an_ensemble_of_seeds_is_measured_as_the_page_has_it(tmp_path):
    options = ("data=digits", "model=mlp", "model.hidden_units=[16]", "evaluate_test=true", *SHORT)
    for seed in (0, 1):
        assert train(*options, f"seed={seed}", cwd=tmp_path).returncode == 0
    places = sorted(runs(tmp_path))
    exec(own_code()["mine/ensemble.py"], found := {})
    together, first = found["accuracy"](*places)
    tested = json.loads((places[0] / "run.json").read_text())["test"]["test/accuracy"]
    index = digit_indices("test")
    images, labels = (part[index] for part in load_digits())
    served = [tf.saved_model.load(str(place / "saved_model" / "1")).signatures["serving_default"] for place in places]
    logits = [one(image=tf.constant(images))["logits"].numpy() for one in served]
    shares = [np.exp(one) / np.exp(one).sum(-1, keepdims=True) for one in logits]
    assert first == pytest.approx(tested) and together == pytest.approx(np.mean(sum(shares).argmax(-1) == labels))


def runs(folder):
    return {record.parent for record in folder.glob("outputs/*/*/run.json")}
