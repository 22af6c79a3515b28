"""Two runs: what differs, and nothing else."""

from __future__ import annotations

import json

from src.comparison.diff import differences
from tests.comparison.made import make_run, rewrite, rows_in
from tests.support.commands import compare as main


def test_what_differs_is_told_by_part(tmp_path):
    make_run(tmp_path, "a", best=0.5)
    b = make_run(tmp_path, "b", best=0.7, optimizer="sgd", seconds=3.0)
    environment = {"git": {"commit": "fedc", "dirty": True}, "packages": {"keras": "3.16.0"}, "python": "3.11.7"}
    rewrite(
        b, environment=environment, fingerprints={"code": {"src/trainer.py": "bb"}, "data": {"dataset": "digits:2"}}
    )
    assert [tuple(difference) for difference in differences(*rows_in(tmp_path))] == [
        ("config", "optimizer", "adam", "sgd"),
        ("config", "optimizer._target_", "keras.optimizers.adam", "keras.optimizers.sgd"),
        ("config", "optimizer.learning_rate", 0.003, 0.05),
        ("commit", "commit", "1234567890abcdef", "fedc"),
        ("packages", "keras", "3.15.1", "3.16.0"),
        ("environment", "threads", "1", None),
        ("code", "src/trainer.py", "aa", "bb"),
        ("data", "dataset", "digits:1.0.0", "digits:2"),
        ("result", "val/accuracy", 0.5, 0.7),
        ("result", "seconds", 2.0, 3.0),
    ]


def test_hashes_made_by_two_rules_are_no_differences(tmp_path):
    old, new = {"code": {"src/trainer.py": "aa"}, "data": {"path": "1"}}, {"code": {"src": "bb"}, "data": {"path": "2"}}
    make_run(tmp_path, "a", fingerprints=old)
    make_run(tmp_path, "b", fingerprints={"version": 1, "files": {"x": "1"}, **new})
    assert [tuple(difference) for difference in differences(*rows_in(tmp_path))] == [
        ("code", "version of the fingerprints", 0, 1)
    ]


def test_the_command_says_so_where_nothing_differs_or_only_the_result(tmp_path, capsys):
    a = make_run(tmp_path, "a")
    assert main(["--diff", str(a), str(a)]) == 0
    assert capsys.readouterr().out == f"a: {a}\nb: {a}\nnothing differs\n"
    b = make_run(tmp_path, "b", seconds=3.0)
    assert main(["--diff", str(a), str(b)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["result", "seconds", "2", "3"]
    assert printed[-1] == "nothing else differs: config, commit, packages, machine, code and data are equal"


def test_as_json(tmp_path, capsys):
    a, b = make_run(tmp_path, "a"), make_run(tmp_path, "b", seed=1)
    assert main(["--diff", str(a), str(b), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "a": str(a),
        "b": str(b),
        "differences": [
            {"part": "config", "key": "seed", "a": 0, "b": 1},
            {"part": "result", "key": "seconds", "a": 2.0, "b": 3.0},
        ],
    }


def test_what_is_no_run_is_named(tmp_path, capsys):
    a = make_run(tmp_path, "a")
    assert main(["--diff", str(a), str(tmp_path)]) == 2
    assert f"error: {tmp_path} is no run but a folder with 1 run, such as {a}" in capsys.readouterr().err
