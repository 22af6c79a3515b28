"""`python -m src.card` writes what is known of a run and what is not, for people and for the Hugging Face hub."""

from __future__ import annotations

import json
import re
import statistics
from functools import partial

import pytest
import yaml

from src.card import main
from src.common.command import exit_code
from tests.comparison.made import make_run
from tests.support import forks
from tests.support.helpers import run_module, train

card = partial(exit_code, main)
DIGITS = {"data.dataset": "digits:1.0.0"}


def front_matter(text):
    """The front matter, and what follows it."""
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def section(body, title):
    return re.search(rf"^## {title}\n\n(.*?)(?=^## |\Z)", body, re.MULTILINE | re.DOTALL)[1]


def written(run, *words):
    """The card of a run."""
    assert card([str(run), *words]) == 0
    return front_matter((run / "README.md").read_text())


def test_a_card_says_what_the_hub_reads_and_over_how_many_seeds(tmp_path):
    results = [0.9, 0.95, 0.82]
    runs = [
        make_run(tmp_path, f"s{seed}", seed=seed, best=best, config=DIGITS, test={"test/accuracy": best - 0.1})
        for seed, best in enumerate(results)
    ]
    make_run(tmp_path, "failed", seed=3, best=None, status="failed", config=DIGITS)
    make_run(tmp_path, "sgd", seed=4, best=0.5, optimizer="sgd", config=DIGITS)
    head, body = written(runs[0])
    assert head["pipeline_tag"] == "image-classification" and "license" not in head
    (model,) = head["model-index"]
    (result,) = model["results"]
    assert result["task"] == {"type": "image-classification"}
    assert result["dataset"] == {"type": "digits", "name": "digits:1.0.0", "split": "test"}
    assert result["metrics"] == [{"type": "accuracy", "name": "test/accuracy", "value": pytest.approx(0.8)}]
    mean, deviation = statistics.mean(results), statistics.stdev(results)
    assert f"| val/accuracy | 0.9 | {mean:.6g} ± {deviation:.2g} (3) |" in section(body, "Results")
    assert f"| test/accuracy | 0.8 | {mean - 0.1:.6g} ± {deviation:.2g} (3) |" in section(body, "Results")
    assert "The seeds are" in body and "how much its results change" not in body
    assert "python -m src.train optimizer=adam seed=0" in section(body, "Training")
    shown = yaml.safe_load(re.search(r"```yaml\n(.*?)```", body, re.DOTALL)[1])
    assert shown["optimizer.learning_rate"] == 0.003 and shown["seed"] == 0
    assert "changes that were not committed" in section(body, "Limits")
    assert "| keras | 3.15.1 |" in section(body, "Environment")
    assert "| data dataset | digits:1.0.0 |" in section(body, "Fingerprints")


def test_other_formats_are_listed(tmp_path):
    exports = {"onnx": {"examples": 64, "largest_difference": 4e-7}}
    _, body = written(make_run(tmp_path, "one", exports=exports))
    assert "- `onnx/model.onnx`: what the SavedModel gives for 64 examples, to 4.0e-07" in section(body, "Use")


def test_a_single_run_without_a_test_split_says_so(tmp_path):
    head, body = written(make_run(tmp_path, "one"))
    limits = section(body, "Limits")
    assert "the test split has not been measured" in limits and "how much its results change" in limits
    assert "| metric | this run |\n" in body and "±" not in body
    metrics = head["model-index"][0]["results"][0]["metrics"]
    assert {metric["name"]: metric["value"] for metric in metrics} == {"val/accuracy": 0.9, "val/loss": 0.4}


def evaluated(run, accuracy, when="2026-01-02T00:00:00+00:00", model="best_weights", **facts):
    """What `src.evaluate` writes of the test split."""
    file = run / "evaluation" / "test" / "metrics.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"when": when, "metrics": {model: {"loss": None, "accuracy": accuracy}}, **facts}))


def test_a_test_split_that_evaluate_has_measured_is_a_result(tmp_path):
    small = ("data=digits", "model=mlp", "epochs=1", "data.limit=0.1", "hydra.run.dir=run")
    assert train(*small, cwd=tmp_path).returncode == 0
    assert forks.run("src.evaluate", ["run", "split=test"], cwd=tmp_path).returncode == 0
    measured = json.loads((tmp_path / "run/evaluation/test/metrics.json").read_text())["metrics"]["best_weights"]
    head, body = written(tmp_path / "run")
    assert f"| test/accuracy | {measured['accuracy']:.6g} |" in section(body, "Results")
    assert "has not been measured" not in body and "train, val, test" in section(body, "Limits")
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"]["split"] == "test"
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == measured


def test_a_test_split_that_evaluate_has_measured_counts_for_each_seed_and_for_these_weights_alone(tmp_path):
    finished = "2026-01-01T00:00:00+00:00"
    runs = [make_run(tmp_path, f"s{seed}", seed=seed, finished=finished) for seed in range(5)]
    evaluated(runs[0], 0.5)
    evaluated(runs[1], 0.7, model="saved_model")
    evaluated(runs[2], 0.9, when="2025-12-31T23:59:59+00:00")  # before the run went on
    evaluated(runs[4], 0.9, changed=["data data.csv"])  # by other data
    _, body = written(runs[0])
    assert f"| test/accuracy | 0.5 | 0.6 ± {statistics.stdev([0.5, 0.7]):.2g} (2) |" in section(body, "Results")
    _, body = written(runs[2])
    assert "the test split has not been measured" in section(body, "Limits")
    assert "alone: train, val." in section(body, "Limits") and "| test/accuracy | - |" not in body


@pytest.mark.parametrize("text", ["{", "[]", '{"when": 1}', '{"when": 1, "metrics": {"saved_model": {"loss": "x"}}}'])
def test_a_damaged_evaluation_is_named(tmp_path, capsys, text):
    run = make_run(tmp_path, "one")
    evaluated(run, 0.5)
    (run / "evaluation/test/metrics.json").write_text(text)
    assert card([str(run)]) == 2 and "metrics.json cannot be read" in capsys.readouterr().err


def test_a_model_is_only_said_to_be_where_it_is(tmp_path):
    run = make_run(tmp_path, "one", config=DIGITS)
    head, body = written(run)
    assert "saved_model" not in head["tags"] and "saved_model" not in body
    (run / "README.md").unlink()
    (run / "saved_model" / "1").mkdir(parents=True)
    head, body = written(run)
    assert "saved_model" in head["tags"] and 'load("saved_model/1")' in section(body, "Use")


def test_seeds_of_other_code_are_told_apart_in_words(tmp_path):
    runs = [
        make_run(tmp_path, f"s{seed}", seed=seed, fingerprints={"code": {"src/trainer.py": code}, "data": {}})
        for seed, code in enumerate(("aa", "bb"))
    ]
    assert "differ in code src/trainer.py; both count" in section(written(runs[1])[1], "Limits").replace("\\", "")


@pytest.mark.parametrize(
    ("data", "changed", "task"),
    [
        ("table", {"class_names": ["no", "yes"]}, "tabular-classification"),
        ("table", {"class_names": []}, "tabular-regression"),
        ("tfds", {"metrics": {"val/mean_iou": 0.5}}, "image-segmentation"),
        ("tfds", {}, "image-classification"),
        ("texts", {}, "text-classification"),
        ("of_mine", {}, None),
    ],
)
def test_the_task_is_told_where_it_is_known(tmp_path, data, changed, task):
    head, _ = written(make_run(tmp_path, "one", choices={"data": data}, **changed))
    assert (head.get("pipeline_tag"), "model-index" in head) == (task, task is not None)


def test_names_stand_for_themselves(tmp_path):
    names = ["a|b", "<b>", "*x*", "two\nlines", "\udcff", "ü"]
    run = make_run(tmp_path, "one", class_names=names, config={"data.path": "/home/me/p|1", "data.x": "---\n```"})
    head, body = written(run)
    line = next(line for line in body.splitlines() if line.startswith("| classes"))
    assert line == r"| classes | a\|b, &lt;b&gt;, \*x\*, two lines,  , ü |"
    assert head["model-index"][0]["results"][0]["dataset"]["name"] == "p|1"
    assert re.findall("^## .*", body, re.MULTILINE)[-1] == "## Fingerprints"


def test_what_is_no_result_is_refused_and_what_is_there_is_kept(tmp_path, capsys):
    for changed in ({"status": "interrupted"}, {"best": None}):
        run = make_run(tmp_path, f"{len(changed)}{changed}"[:8], **changed)
        assert card([str(run)]) == 2 and not (run / "README.md").exists()
        said = capsys.readouterr().err
        assert "a card is of a completed run: python -m src.train optimizer=adam" in said, said
    run = make_run(tmp_path, "one")
    (run / "README.md").write_text("mine")
    assert card([str(run)]) == 2 and (run / "README.md").read_text() == "mine"
    assert "which may be yours" in capsys.readouterr().err
    assert card([str(run), "--output", str(tmp_path / "none" / "card.md")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    for _ in range(2):  # its own text is written again
        assert card([str(run), "--output", str(tmp_path / "card.md")]) == 0


def test_the_command_answers_without_tensorflow(tmp_path):
    run = make_run(tmp_path, "one")
    code = "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None"
    (tmp_path / "sitecustomize.py").write_text(code)
    done = run_module("src.card", "one", cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{run_module.__globals__['PYTHONPATH']}")
    assert (done.returncode, done.stdout) == (0, "one/README.md\n"), done.stderr
    assert front_matter((run / "README.md").read_text())
