"""`evaluate_test=true`: the test split is measured once, by the best weights, and its metrics stand with the run's."""

from __future__ import annotations

import json
import shutil
import signal

import pytest

from src.callbacks.summaries import read_scalars
from src.runs.record import Record
from tests.support import forks
from tests.support.helpers import only_run, train

# By its lowest value, the first epoch is the best: its weights are not the last. Of accuracy that is refused.
TOP3 = ("+metric.top3={_target_:keras.metrics.SparseTopKCategoricalAccuracy,k:3}", "monitor=val/top3", "mode=min")
RUN = ("data=digits", "model=mlp", "model.hidden_units=[16]", "data.limit=0.2", "epochs=2", *TOP3)
LEAN = ("callback.export=null", "callback.images=null", "callback.summaries.graph=false", "trainer.threads=1")
LEAN += ("trainer.steps_per_call=4",)  # how long a call lasts by itself is the machine's, and so are the steps logged


def outcome(run, *, of=()):
    """All that a run consists of and that is no time, TensorBoard's scalars among it."""
    record = Record(run).read()
    kept = {key: record[key] for key in ("status", "best", "metrics", "test", "epoch", "step", *of)}
    scalars = {key: points for key, points in read_scalars(run / "summaries").items() if key[1] != "steps_per_second"}
    return kept, scalars


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tested")
    done = train(*RUN, *LEAN, "evaluate_test=true", cwd=folder)
    assert done.returncode == 0, done.stderr
    return only_run(folder / "outputs" / "digits"), done


def test_it_is_what_evaluate_measures_and_stands_everywhere(tested):
    run, done = tested
    record = Record(run).read()
    assert record["best"]["epoch"] < record["epoch"], "so that best weights are not the last"
    evaluated = forks.run("src.evaluate", [str(run), "split=test"], cwd=run)
    assert evaluated.returncode == 0, evaluated.stderr
    found = json.loads((run / "evaluation" / "test" / "metrics.json").read_text())["metrics"]["best_weights"]
    assert record["test"] == pytest.approx({f"test/{name}": value for name, value in found.items()}, rel=1e-6)
    result, metrics, directory = done.stdout.splitlines()
    assert result.startswith("val/") and directory.startswith("outputs/")
    assert metrics == "  ".join(f"{name} {value:.6f}" for name, value in record["test"].items())
    compared = forks.run("src.compare", [str(run), "--format", "json"], cwd=run)
    (row,) = json.loads(compared.stdout)["groups"]
    assert {name: row[name] for name in record["test"]} == record["test"]
    scalars = read_scalars(run / "summaries")
    for name, value in record["test"].items():
        assert scalars["val", name] == [(record["best"]["step"], pytest.approx(value))]
    again = train(*RUN, *LEAN, "evaluate_test=true", cwd=run.parents[2])
    assert metrics in again.stdout and "already completed, reused" in again.stdout


ENDS = """
import os, time
from src.runs import execute
from src.train import main

measure_test = execute.measure_test

def ended(trainer, data, directory):
    evaluate = trainer.evaluate

    def ending(batches):
        os.kill(os.getpid(), int(os.environ["ENDED_BY"]))
        time.sleep(0.3)  # until what listens has heard it
        return evaluate(batches)

    trainer.evaluate = ending
    return measure_test(trainer, data, directory)

execute.measure_test = ended
main()
"""


def end_by(number, folder, monkeypatch):
    """The command with its test split, which this signal ends while that is measured."""
    (folder / "mine.py").write_text(ENDS)
    monkeypatch.setenv("ENDED_BY", str(int(number)))
    ended = forks.run("mine", [*RUN, *LEAN, "evaluate_test=true"], cwd=folder)
    assert ended.returncode in (-number, 128 + number), ended.stderr
    run = only_run(folder / "outputs" / "digits")
    return run, Record(run).read()


def test_a_completed_run_is_measured_without_training_however_often_that_is_interrupted(tested, tmp_path, monkeypatch):
    run, _ = tested
    assert train(*RUN, *LEAN, cwd=tmp_path).returncode == 0
    other = only_run(tmp_path / "outputs" / "digits")
    before = Record(other).read()
    assert before["test"] == {} and other.name == run.name
    planned = train("--multirun", *RUN, *LEAN, "seed=0", "evaluate_test=true", "dry_run=true", cwd=tmp_path)
    assert "is measured on the test split" in planned.stdout
    assert end_by(signal.SIGTERM, tmp_path, monkeypatch) == (other, before)
    done = train(*RUN, *LEAN, "evaluate_test=true", cwd=tmp_path)
    assert done.returncode == 0 and "already completed, reused" in done.stdout, done.stderr
    assert Record(other).read() == {**before, "test": Record(run).read()["test"]}
    assert outcome(other) == outcome(run)

    Record(other).update(test={})
    shutil.rmtree(other / "checkpoints")
    gone = train(*RUN, *LEAN, "evaluate_test=true", cwd=tmp_path)
    assert gone.returncode == 0 and "src.evaluate" in gone.stderr and Record(other).read()["test"] == {}


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGKILL, "running"), pytest.param(signal.SIGTERM, "interrupted", marks=pytest.mark.exhaustive)],
)
def test_an_end_while_it_is_measured_leaves_the_rest_to_the_same_command(tested, tmp_path, monkeypatch, number, status):
    other, record = end_by(number, tmp_path, monkeypatch)
    assert (record["test"], record["status"]) == ({}, status)
    done = train(*RUN, *LEAN, "evaluate_test=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert outcome(other) == outcome(tested[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data=table", "data.test_share=0"), "the data has no test split, only train, val"),
        ((*RUN, "callback.checkpoint=null"), "callback.checkpoint, which keeps the best weights"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(tmp_path, words, message):
    refused = train(*words, *LEAN, "evaluate_test=true", cwd=tmp_path)
    assert refused.returncode == 2 and message in refused.stderr
    assert not list(tmp_path.glob("outputs/*/*/run.json"))
