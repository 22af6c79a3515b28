"""`python -m src.compare` on runs that were trained, and as a command."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from benchmarks import compare as benchmark
from benchmarks.pairs import ProcessFailed
from src.callbacks.summaries import read_scalars
from src.runs.record import Record
from tests.comparison.made import make_run
from tests.support.commands import compare as main
from tests.support.helpers import ROOT, only_run, run_module, train


@pytest.fixture
def outputs(tmp_path):
    """A folder of two optimizers by two seeds, and of a run that failed."""
    for number, (optimizer, seed) in enumerate(itertools.product(("adam", "sgd"), (0, 1))):
        make_run(tmp_path / "outputs", f"{optimizer}-{seed}", optimizer=optimizer, seed=seed, best=0.7 + number**2 / 30)
    failed = {"best": None, "status": "failed", "error": {"type": "ValueError", "message": "dropout=2 is no rate"}}
    make_run(tmp_path / "outputs", "failed", config={"model.dropout": 2}, **failed)
    return tmp_path / "outputs"


@pytest.fixture(scope="module")
def best_within(tmp_path_factory):
    """A run whose best is a validation within epoch 2; what it printed."""
    folder = tmp_path_factory.mktemp("within")
    options = ("data=digits", "model=mlp", "epochs=2", "optimizer=sgd", "optimizer.learning_rate=0.3")
    options += ("schedule=constant", "trainer.validate_every_steps=7", "monitor=val/loss", "mode=min")
    done = train(*options, "~callback.images", "callback.export=null", cwd=folder)
    assert done.returncode == 0, done.stderr
    return only_run(folder / "outputs/digits"), done.stdout


def test_a_best_within_an_epoch_has_the_numbers_of_its_own_step_everywhere(best_within, capsys):
    run, printed = best_within
    record, history = Record(run).read(), Record(run).history()
    validations = Record(run).validations()
    assert [line["step"] for line in validations] == list(range(7, 81, 7))
    assert [line["epoch"] for line in history] == [1, 2]
    best = min([*validations, *history], key=lambda line: line["val/loss"])
    measured = {name: value for name, value in best.items() if "/" in name}
    assert best in validations and set(measured) == {"val/loss", "val/accuracy"}
    place = {"epoch": best["epoch"], "step": best["step"]}
    assert record["best"] == {"value": best["val/loss"], **place, "metrics": measured}
    assert record["metrics"]["val/accuracy"] == history[-1]["val/accuracy"] != measured["val/accuracy"]

    assert f"(epoch {best['epoch']} of 2, step {best['step']}, " in printed
    assert main([str(run), "--each", "--format=json"]) == 0
    [row] = json.loads(capsys.readouterr().out)["runs"]
    assert {name: value for name, value in row.items() if "/" in name and name != "directory"} == measured
    assert (row["epoch"], row["step"]) == (best["epoch"], best["step"])
    assert main([str(run), "--each"]) == 0
    header, line = (re.split("  +", text) for text in capsys.readouterr().out.splitlines())
    assert line[header.index("best step")] == str(best["step"])
    shown = run_module("src.runs", "show", str(run), cwd=run.parent).stdout
    assert f"in epoch {best['epoch']}, step {best['step']}\n" in shown and "best train" not in shown
    assert f"best val: loss {best['val/loss']:.6f}  accuracy {best['val/accuracy']:.6f}\n" in shown

    of_best = {tag: points[-1] for (split, tag), points in read_scalars(run / "summaries").items() if split == "val"}
    assert of_best["best/val/loss"] == (best["step"], pytest.approx(best["val/loss"]))
    assert of_best["best_epoch/val/accuracy"] == (best["step"], pytest.approx(best["val/accuracy"]))
    for name in ("train/loss", "train/accuracy"):  # of epoch 1, which was the best before
        assert of_best[f"best_epoch/{name}"] == (best["step"], pytest.approx(math.nan, nan_ok=True))


def test_seeds_are_put_together_as_an_independent_calculation_does(outputs, monkeypatch, capsys):
    monkeypatch.chdir(outputs.parent)
    expected: dict[str, list[float]] = defaultdict(list)
    for path in outputs.glob("*/run.json"):
        record = json.loads(path.read_text())
        if record["status"] == "completed":
            expected[record["choices"]["optimizer"]].append(record["best"]["value"])
    assert {name: len(values) for name, values in expected.items()} == {"adam": 2, "sgd": 2}
    assert main(["outputs", "--where", "status=completed"]) == 0
    out, err = capsys.readouterr()
    header, *lines = out.splitlines()
    assert header.split()[:4] == ["optimizer", "val/accuracy", "±", "n"]
    assert header.split()[-4:] == ["epoch", "status", "seconds", "directory"]
    best_first = sorted(expected, key=lambda name: -statistics.mean(expected[name]))
    assert [line.split()[:4] for line in lines] == [
        [name, f"{statistics.mean(expected[name]):.6g}", f"{statistics.stdev(expected[name]):.3g}", "2"]
        for name in best_first
    ]
    assert all(Path(line.split()[-1], "run.json").is_file() for line in lines)
    assert re.fullmatch(r"next: \S+ -m src\.compare --diff outputs/\S+ outputs/\S+\n", err)


def test_csv_and_json_have_the_same_numbers_to_the_last_bit(outputs, capsys):
    for options, name in (([], "groups"), (["--each"], "runs")):
        assert main([str(outputs), *options, "--output", str(outputs / "made" / "runs.csv")]) == 0
        with (outputs / "made" / "runs.csv").open(newline="") as file:
            by_csv = list(csv.DictReader(file))
        capsys.readouterr()
        assert main([str(outputs), *options, "--format", "json"]) == 0
        by_json = json.loads(capsys.readouterr().out)[name]
        assert len(by_csv) == len(by_json) == (5 if options else 3)
        for from_csv, from_json in zip(by_csv, by_json, strict=True):
            members = from_json.pop("runs", [])
            assert {key: read(value, from_json[key]) for key, value in from_csv.items()} == from_json
            for run in members or [from_json]:
                record = json.loads((Path(run["directory"]) / "run.json").read_text())
                assert run["val/accuracy"] == (record.get("best") or {}).get("value")
                assert run["status"] == record["status"]


def read(text: str, like: object) -> object:
    """A cell of a csv file as the type that it was."""
    return None if like is None and text == "" else type(like)(text)


def test_a_failed_run_is_the_last_one_with_its_reason(outputs, capsys):
    assert main([str(outputs), "--each"]) == 0
    *_, last, empty, reason = capsys.readouterr().out.splitlines()
    assert " failed " in last and empty == ""
    assert reason == f"{last.split()[-1]} failed: ValueError: dropout=2 is no rate"


def test_what_mattered_and_a_markdown_table(outputs, capsys):
    assert main([str(outputs), "--effects"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["key", "explains", "by", "chance", "value", "n", "mean", "±", "min", "max"]
    assert [line.split()[0] for line in lines[1:-2] if line[0] != " "] == ["optimizer", "seed"]
    assert re.fullmatch(r"val/accuracy of 4 completed runs; \d left out", lines[-1])
    assert main([str(outputs), "--effects", "--sort", "val/loss"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("val/loss of 4 completed runs")
    assert main([str(outputs), "--format", "markdown"]) == 0
    header, ruler, first, *_ = capsys.readouterr().out.splitlines()
    assert header.startswith("| optimizer | dropout | val/accuracy | ± | n |")
    assert header.count("|") == ruler.count("|") == first.count("|")


def test_columns_are_those_that_are_chosen_in_this_order(outputs, capsys):
    chosen = ["--columns", "learning_rate,val/accuracy,optimizer,model"]
    keys = ["optimizer.learning_rate", "val/accuracy", "val/accuracy std", "optimizer", "model"]
    assert main([str(outputs), *chosen, "--format", "csv"]) == 0
    means = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert list(means[0]) == keys and {row["model"] for row in means} == {"cnn"}
    assert main([str(outputs), *chosen]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == [
        "learning_rate",
        "val/accuracy",
        "±",
        "optimizer",
        "model",
    ]
    assert main([str(outputs), "--columns", "seed,val/loss,n", "--each", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert all(list(row) == ["seed", "val/loss", "n"] for row in rows) and {row["seed"] for row in rows} == {0, 1}


def test_a_comparison_needs_no_tensorflow_and_no_network(outputs):
    command = [sys.executable, "-X", "importtime", "-m", "src.compare", "outputs", "--output", "page.html"]
    done = subprocess.run(
        command,
        cwd=outputs.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "page.html\n"
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "src.comparison.page" in imported and not {"tensorflow", "keras", "hydra"} & imported


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], r"give a folder with runs"),
        (["nowhere"], r"nowhere is no folder; runs are outputs/<name>/<label>-<id>"),
        (["empty"], r"there is no run in empty: runs are outputs/<name>/<label>-<id>, with a run\.json each"),
        (["runs", "--columns", "val/acc,seed"], r"no run has 'val/acc'\. Did you mean val/accuracy\?"),
        (["runs", "--columns", "seed"], r"--columns seed: rows are means over it; --each has a row for each run"),
        (["runs", "--columns", "seed", "--effects"], r"--columns is for tables of runs: .*"),
        (["runs", "--where", "lr>0.001"], r"no run has 'lr'\. Did you mean optimizer\.learning_rate\?"),
        (["runs", "--where", "learning_rat>0"], r"no run has 'learning_rat'\. Did you mean optimizer\.learning_rate\?"),
        (["runs", "--sort", "val/acc"], r"no run has 'val/acc'\. Did you mean val/accuracy\?"),
        (["runs", "--where", "opt=adam"], r"no run has 'opt'\. Did you mean optimizer or .*\?"),
        (["runs", "--where", "epochs<abc"], r"--where epochs<abc: 'abc' is not a number, and < needs one; .*"),
        (["runs", "--output", "table.xls"], r"--output table\.xls must end in \.csv, \.json, .*"),
        (["runs", "--formt", "csv"], r"unrecognized arguments: --formt.*"),
        (["runs", "--format", "xls"], r".*invalid choice: 'xls'.*csv.*"),
        (["runs", "--format", "html", "--effects"], r"--format html has each run and the effects on one page.*"),
        (["runs", "--diff", "a", "b"], r"give .* --diff and two runs.*"),
        (["runs", "--output", "empty/run.txt/x.csv"], r"empty/run\.txt/x\.csv cannot be written .*"),
    ],
)
def test_a_wrong_command_is_told_in_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs"), "a")
    make_run(Path("runs"), "b", seed=1)
    Path("empty").mkdir()
    Path("empty/run.txt").touch()
    code = main(arguments)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and re.fullmatch(rf"error: {said}(; see .* --help)?\n", err), err


def test_that_no_run_matches_is_no_error(tmp_path, capsys):
    make_run(tmp_path, "a")
    assert main([str(tmp_path), "--where", "status=failed"]) == 0
    assert capsys.readouterr() == ("", "none of 1 runs matches status=failed; status is completed\n")
    assert main([str(tmp_path), "--where", "status=failed", "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"groups": []}


def test_runs_that_were_set_aside_are_left_out_but_for_all(tmp_path, capsys):
    make_run(tmp_path, "cnn-12345678")
    make_run(tmp_path, "cnn-12345678.20260102T030405000006", best=0.5)
    for options, count in (([], 1), (["--all"], 2)):
        assert main([str(tmp_path), "--each", "--format=json", *options]) == 0
        assert len(json.loads(capsys.readouterr().out)["runs"]) == count


def test_a_bad_folder_is_a_warning_that_names_it(tmp_path, capsys):
    make_run(tmp_path, "good")
    torn = make_run(tmp_path, "torn", seed=1) / "run.json"
    torn.write_text(torn.read_text()[:300])
    (tmp_path / "killed" / ".hydra").mkdir(parents=True)
    assert main([str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert re.fullmatch(rf"warning: {tmp_path}/killed .*\nwarning: {tmp_path}/torn .*\n", err)


def test_what_a_record_says_cannot_break_the_table(tmp_path, capsys):
    make_run(tmp_path, "a", optimizer="a\nb|\x1b[2Jc\ud800", config={"optimizer.learning_rate": [1, 2]})
    make_run(tmp_path, "b")
    assert main([str(tmp_path), "--output", str(tmp_path / "table.md")]) == 0
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert len(lines) == 4 and lines[2].startswith(r"| a b\| \[2Jc")


def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path):
    for number in range(300):
        make_run(tmp_path, f"{'long' * 40}-{number}", config={"x": number})
    command = f"{sys.executable} -m src.compare . | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.split()[0] == "x"
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_ctrl_c_ends_it_quietly(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("src.compare.read_rows", interrupt)
    assert main(["runs"]) == 130 and capsys.readouterr() == ("", "interrupted\n")


def test_seeds_of_other_code_are_a_warning(tmp_path, capsys):
    for seed in (0, 1):
        make_run(tmp_path, str(seed), seed=seed, fingerprints={"code": {"src/trainer.py": str(seed)}})
    assert main([str(tmp_path)]) == 0
    said = f"{tmp_path}/0 and {tmp_path}/1 differ in code src/trainer.py; both count"
    assert capsys.readouterr().err == f"warning: {said}\n"


def test_a_benchmark_whose_table_lacks_a_run_fails(monkeypatch):
    monkeypatch.setattr(benchmark, "make_runs", lambda folder, count: (make_run(folder, "a") and 0, 2))
    with pytest.raises(ProcessFailed, match="has 1 rows, not 2"):
        benchmark.main(["--runs", "2", "--repeats", "1"])


def test_help_is_in_plain_words_with_examples(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "python -m src.compare outputs/digits --effects" in said and "exit codes: 0" in said


def test_the_benchmark_compares_runs_and_their_broken_ones(capsys):
    pytest.importorskip("plotly", reason="needs the extra `report`")
    assert benchmark.main(["--runs", "60", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "60 runs of 20 epochs, 1 of them broken" in printed
    assert re.search(r"^table, seconds: \d+\.\d+ \(goal at most 5: (met|MISSED)\)$", printed, re.M)
    assert re.search(r"^page, output_mb: \d+\.\d+ \(goal at most 15: (met|MISSED)\)$", printed, re.M)


def test_a_run_may_be_named_by_its_id(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        make_run(Path("outputs"), name)
    found = json.loads(Path("outputs/a/run.json").read_text())["id"]
    assert main([found, "--format=json"]) == 0
    assert "outputs/a" in (shown := capsys.readouterr().out) and "outputs/b" not in shown
