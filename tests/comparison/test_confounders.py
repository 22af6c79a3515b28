"""Runs on other data, code or machines are named, and not what their settings say already."""

from __future__ import annotations

import json

import pytest

from src.comparison import confounders
from src.comparison.diff import differences
from src.comparison.effects import effects
from tests.comparison.made import groups_in, make_run, rewrite, rows_in
from tests.support.commands import compare as main

RATE = "optimizer.learning_rate"


def prints(version: int | None = None, *, data: str = "d1", path: bool = True, **code: str) -> dict:
    made = {"code": code, "data": {"path": data} if path else {"dataset": data}, "files": {}}
    return {"fingerprints": made if version is None else {"version": version, **made}}


def environment(**changed) -> dict:
    return {"environment": {"packages": {"keras": "3.15.1"}, "python": "3.11.7", "threads": 1, **changed}}


def warnings_in(folder) -> list[str]:
    rows = [row for one in groups_in(folder) for row in one.rows]
    return [text.replace(f"{folder}/", "") for text in confounders.warnings(rows)]


def make(folder, label: str, number: int, **changed) -> None:
    """Each is a group of its own; the first is the best."""
    make_run(folder, label, best=0.9 - number / 10, config={RATE: number / 10 + 0.1}, **changed)


def test_other_data_between_two_rates_is_named_and_counted_as_a_factor(tmp_path, capsys):
    for number, data in enumerate(["old", "old", "new", "new"]):
        make(tmp_path, str(number), number // 2, seed=number, **prints(data=data))
    assert warnings_in(tmp_path) == ["0 (and 1 more) and 2 (and 1 more) differ in data path; both count"]
    assert main([str(tmp_path), "--effects", "--format=json"]) == 0
    out, err = capsys.readouterr()
    assert {row["key"]: row["value"] for row in json.loads(out)["effects"]}[f"{RATE}, data path"] == "0.2, new"
    assert "differ in data path" in err


@pytest.mark.parametrize(
    ("one", "other", "named"),
    [
        (prints(a="1", b="1"), prints(a="2", b="2"), "code a, code b"),
        (prints(1, a="1"), prints(1, a="2"), "code a"),
        (prints(data="x:1", path=False), prints(data="x:2", path=False), "data dataset"),
        (
            {"fingerprints": {"version": 1, "files": {"means.json": "1"}}},
            {"fingerprints": {"version": 1, "files": {"means.json": "2"}}},
            "file means.json",
        ),
        (environment(), environment(packages={"keras": "3.16.0"}), "package keras (3.15.1, 3.16.0)"),
        (environment(), environment(python="3.12.1", threads=2), "python (3.11.7, 3.12.1), threads (1, 2)"),
        (environment(processor="a"), environment(processor="b"), "processor (a, b)"),
        (
            environment(keras={"floatx": "float32"}),
            environment(keras={"floatx": "float16"}),
            "keras floatx (float32, float16)",
        ),
        (environment(variables={}), environment(variables={"XLA_FLAGS": "x"}), "variable XLA_FLAGS (unset, x)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_differs_is_named(tmp_path, one, other, named):
    make(tmp_path, "a", 0, **one)
    make(tmp_path, "b", 1, **other)
    assert warnings_in(tmp_path) == [f"a and b differ in {named}; both count"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (prints(shared="1", cnn="1"), prints(shared="1", unet="2")),  # two models reach different modules
        (prints(None, a="1"), prints(1, a="2")),  # by two rules, whose hashes say nothing of each other
        (prints(1, data="1"), prints(2, data="2")),
        (environment(variables={"XLA_FLAGS": "x"}), environment()),  # an older record does not say
        ({"fingerprints": None}, prints(a="1")),
        (
            {"fingerprints": {"version": 1, "files": {"log.csv": "written"}}},
            {"fingerprints": {"version": 1, "files": {"log.csv": "1"}}},
        ),
    ],
    ids=["models", "rules", "rules of data", "older", "none", "written"],
)
def test_what_cannot_be_compared_is_no_difference(tmp_path, one, other):
    make(tmp_path, "a", 0, **one)
    make(tmp_path, "b", 1, **other)
    assert warnings_in(tmp_path) == []
    assert [effect.key for effect in effects(rows_in(tmp_path))] == [RATE]


def test_what_a_setting_says_is_no_warning_and_the_setting_is_the_factor(tmp_path):
    for number, path in enumerate(["x", "y", "x"]):
        config = {"data.path": path, "trainer.threads": number % 2 + 1}
        made = prints(data=f"hash of {path}") | environment(threads=number % 2 + 1)
        make_run(tmp_path, str(number), best=number / 10, seed=number, config=config, **made)
    assert warnings_in(tmp_path) == []
    assert [effect.key for effect in effects(rows_in(tmp_path))] == ["seed", "data.path, trainer.threads"]
    rewrite(tmp_path / "2", **prints(data="changed"))
    assert warnings_in(tmp_path) == ["2 and 0 differ in data path; both count"]


def test_runs_that_are_not_ranked_with_each_other_are_not_compared(tmp_path):
    make(tmp_path, "a", 0, **prints(a="1"))
    make(tmp_path, "b", 1, monitor="val/loss", mode="min", **prints(a="2"))
    make(tmp_path, "c", 2, **prints(a="3"), status="failed")
    rewrite(tmp_path / "c", best={})
    assert warnings_in(tmp_path) == []


def test_many_differences_are_told_in_few_lines(tmp_path):
    for number in range(9):
        make(tmp_path, str(number), number, **prints(**{f"m{n}": str(number > n) for n in range(8)}))
    told = warnings_in(tmp_path)
    assert len(told) == 6 and told[0] == "0 and 1 (and 7 more) differ in code m0; both count"
    assert told[-1] == "and 3 more such differences; --diff shows those of two runs"
    for number in range(9):
        rewrite(tmp_path / str(number), **prints(a=str(number)))
    assert warnings_in(tmp_path) == ["0, 1, 2 and 6 more differ in code a; all count"]


def test_runs_that_read_the_same_files_are_alike_whatever_lies_beside_them(tmp_path):
    for number, data in enumerate(
        [{"path": "all"}, {"path": "read", "path_of_all": "all", "files": 4}, {"path": "read"}]
    ):
        make(tmp_path, str(number), number, fingerprints={"version": 1, "data": data})
    assert warnings_in(tmp_path) == []
    assert not [found for found in differences(*rows_in(tmp_path)[:2]) if found.part == "data"]
    make(tmp_path, "3", 3, fingerprints={"version": 1, "data": {"path": "other", "files": 4}})
    assert warnings_in(tmp_path) == ["0 (and 2 more) and 3 differ in data path; both count"]
