"""Runs that differ in their seed are one row; the best row is the first."""

from __future__ import annotations

import statistics

import pytest

from src.comparison.columns import differing
from src.comparison.groups import group, less_is_better, ranked, repeated
from src.comparison.rows import read_rows
from src.comparison.tables import as_text, table_of_groups
from tests.comparison.made import groups_in, make_run, rewrite, rows_in
from tests.support import forks

FAILED = {"status": "failed", "error": {"type": "ValueError", "message": "no\ngood"}, "best": None, "metrics": {}}


def test_means_are_over_the_members_with_a_result(tmp_path):
    for seed, best in enumerate([0.9, 0.8, 0.85]):
        make_run(tmp_path, f"adam-{seed}", seed=seed, best=best)
    make_run(tmp_path, "adam-3", seed=3, history=[], **FAILED)
    [group] = groups_in(tmp_path)
    assert group.mean("val/accuracy") == statistics.mean([0.9, 0.8, 0.85])
    assert group.deviation("val/accuracy") == statistics.stdev([0.9, 0.8, 0.85])
    assert (len(group.averaged), group.status, group.reason) == (3, "3 completed, 1 failed", "ValueError: no good")
    assert group.best.directory.name == "adam-0"


def test_metrics_are_of_the_best_step_and_never_of_another(tmp_path):
    """Whatever the history has lost: what is not there is a gap. The last epoch's val/loss is 0.5."""
    best = {"value": 0.9, "epoch": 2, "step": 80}
    told = {"val/accuracy": 0.9, "val/loss": 0.35}
    first, second, third = ({"epoch": n, "step": 40 * n, "val/accuracy": n / 10, "val/loss": n} for n in (1, 2, 3))
    cases = {
        "whole": ([first, second, third], best, 2),
        "empty": ([], best, None),
        "lacking": ([first, third], best, None),
        "within": ([first, second, third], best | {"step": 73}, None),  # of a validation within epoch 2
        "unsaid": ([first, second], best | {"epoch": None, "step": None}, None),
        "told": ([], best | {"metrics": told}, 0.35),
        "told-within": ([first, second, third], best | {"step": 73, "metrics": told}, 0.35),
        "nan": ([second], best | {"metrics": told | {"val/loss": None}}, None),
    }
    for name, (history, best_of, _) in cases.items():
        make_run(tmp_path, name, history=history)
        rewrite(tmp_path / name, best=best_of)
    found = {row.directory.name: row.metrics for row in rows_in(tmp_path)}
    assert {name: metrics.pop("val/loss", None) for name, metrics in found.items()} == {
        name: loss for name, (_, _, loss) in cases.items()
    }
    assert set(map(str, found.values())) == {"{'val/accuracy': 0.9}"}


@pytest.mark.parametrize("lost", [b"\0" * 60, b""], ids=["zeros", "nothing"])
def test_a_power_cut_leaves_a_gap(tmp_path, lost):
    path = make_run(tmp_path, "run") / "history.jsonl"
    first, _, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + lost + b"\n" * bool(lost) + third)
    [row], _ = read_rows([tmp_path])
    assert row.metrics == {"val/accuracy": 0.9} and row.get("epoch") == 2


def test_what_has_no_final_result_comes_last_however_good(tmp_path):
    make_run(tmp_path, "worse", config={"epochs": 1}, best=0.1)
    make_run(tmp_path, "better", config={"epochs": 2}, best=0.2)
    make_run(tmp_path, "unfinished", config={"epochs": 4}, best=0.9, status="interrupted", epoch=2)
    make_run(tmp_path, "pruned", config={"epochs": 5}, best=0.8, status="pruned")
    make_run(tmp_path, "failed", config={"epochs": 6}, history=[], **FAILED)
    make_run(tmp_path, "killed", config={"epochs": 7}, best=0.7, status="running")  # and no process holds its lock
    groups = groups_in(tmp_path)
    assert [group.best.directory.name for group in groups] == [
        *("better", "worse", "unfinished", "pruned", "killed", "failed"),
    ]
    assert [group.reason for group in groups[2:]] == [
        *("at epoch 2 of 3", "at epoch 3 of 3", "at epoch 3 of 3", "ValueError: no good"),
    ]
    assert groups[4].status == "interrupted"


def test_a_completed_run_without_a_value_says_so(tmp_path):
    make_run(tmp_path, "nan", best=None)
    [group] = groups_in(tmp_path)
    assert group.mean("val/accuracy") is None and group.reason == "has no value of val/accuracy"


def test_less_is_better_where_the_mode_says_so(tmp_path):
    for epochs, best in ((1, 0.5), (2, 0.3), (3, 0.4)):
        make_run(tmp_path, str(best), config={"epochs": epochs}, best=best, monitor="val/loss", mode="min", history=[])
    assert [group.best.directory.name for group in groups_in(tmp_path)] == ["0.3", "0.4", "0.5"]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("val/accuracy", "cab"),
        ("val/loss", "bca"),
        ("val/iou", "abc"),
        ("seconds", "bac"),
        ("epochs", "abc"),
        ("directory", "abc"),
    ],
)
def test_rows_are_sorted_by_any_column(tmp_path, sort, order):
    for number, (name, best, loss, iou, seconds) in enumerate(
        [("a", 0.8, 0.3, 0.9, 2.0), ("b", 0.7, 0.1, 0.8, 1.0), ("c", 0.9, 0.2, 0.7, 3.0)]
    ):
        line = {"epoch": 2, "val/accuracy": best, "val/loss": loss, "val/iou": iou}
        make_run(tmp_path, name, best=best, seconds=seconds, config={"epochs": number}, history=[line])
    make_run(tmp_path, "z", config={"epochs": -1}, history=[], **FAILED)
    assert "".join(group.best.directory.name for group in groups_in(tmp_path, sort=sort)) == f"{order}z"


def test_runs_with_other_monitors_are_ranked_apart(tmp_path):
    for name, best, monitor, mode in (
        ("a", 0.6, "val/accuracy", "max"),
        ("b", 0.1, "val/loss", "min"),
        ("c", 0.7, "val/accuracy", "max"),
        ("d", 0.05, "val/loss", "min"),
    ):
        make_run(tmp_path, name, best=best, monitor=monitor, mode=mode, config={"x": name}, history=[])
    assert [group.best.directory.name for group in groups_in(tmp_path)] == ["c", "a", "d", "b"]


def test_a_run_that_counts_twice_is_named(tmp_path):
    for folder in ("one", "two"):
        make_run(tmp_path / folder, "run")
    [warning] = repeated(groups_in(tmp_path))
    assert f"{tmp_path}/two/run" in warning and f"{tmp_path}/one/run" in warning


def test_folds_are_averaged_as_seeds_are(tmp_path):
    """Of a regression, whose lowest mean is the best."""
    errors = {("adam", 0): 3.0, ("adam", 1): 5.0, ("sgd", 0): 3.5, ("sgd", 1): 4.0}
    for (optimizer, fold), error in errors.items():
        for seed in (0, 1):
            make_run(
                *(tmp_path, f"{optimizer}-{fold}-{seed}"),
                optimizer=optimizer,
                seed=seed,
                best=error + seed,
                config={"data.fold": fold},
                typed=[f"data.fold={fold}"],
                monitor="val/mae",
                mode="min",
                test={"test/mae": 2 * error},
                history=[],
            )
    rows = rows_in(tmp_path)
    groups = ranked(group(rows, differing(rows), over=("seed", "data.fold")))
    assert [(one.best.settings["optimizer"], one.mean("val/mae"), len(one.rows)) for one in groups] == [
        ("sgd", 4.25, 4),
        ("adam", 4.5, 4),
    ]
    assert groups[0].deviation("val/mae") == statistics.stdev([3.5, 4.5, 4.0, 5.0])
    assert "fold" not in as_text(table_of_groups(groups, differing(rows))).partition("directory")[0]
    assert len(group(rows, differing(rows))) == 4 and not repeated(groups)
    make_run(tmp_path, "twice", best=3.0, config={"data.fold": 0}, typed=["data.fold=0"], monitor="val/mae", mode="min")
    rows = rows_in(tmp_path)
    assert len(repeated(group(rows, differing(rows), over=("seed", "data.fold")))) == 1

    compared = forks.run("src.compare", [str(tmp_path), "--over", "fold", "--sort", "test/mae"], cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    head, first, second, *_ = compared.stdout.splitlines()
    assert first.split()[0] == "sgd" and second.split()[0] == "adam" and "fold" not in head
    wrong = forks.run("src.compare", [str(tmp_path), "--over", "flod"], cwd=tmp_path)
    assert wrong.returncode == 2 and "Did you mean data.fold?" in wrong.stderr


def test_a_metric_of_any_split_is_better_as_the_monitored_one_is(tmp_path):
    make_run(tmp_path, "a", monitor="val/badness", mode="min", history=[])
    rows = rows_in(tmp_path)
    found = {name: less_is_better(name, rows) for name in ("test/badness", "test/goodness", "val/rmse", "test/r2")}
    assert found == {"test/badness": True, "test/goodness": False, "val/rmse": True, "test/r2": False}
