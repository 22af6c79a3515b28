"""Whatever is in a run's folder: the run is shown, or a warning names it; never a traceback."""

from __future__ import annotations

import copy
import json
import math
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from src.comparison import page
from src.comparison.rows import read_rows
from tests.comparison.made import make_run, rewrite
from tests.support.commands import compare

with tempfile.TemporaryDirectory() as _folder:
    RECORD = json.loads((make_run(Path(_folder), "run") / "run.json").read_text())
    HISTORY = (Path(_folder) / "run" / "history.jsonl").read_bytes()

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=9)
    | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def paths(value: Any, path: tuple = ()) -> list[tuple]:
    """Every place in a record."""
    if not isinstance(value, dict):
        return [path]
    return [path, *(found for key, item in value.items() for found in paths(item, (*path, key)))]


@st.composite
def records(draw) -> Any:
    """A record with one or two places that hold something else, or nothing."""
    record = copy.deepcopy(RECORD)
    for *parents, last in draw(st.lists(st.sampled_from(paths(RECORD)[1:]), min_size=1, max_size=2)):
        inner = record
        for key in parents:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner[last] = draw(VALUES)
            if draw(st.integers(0, 4)) == 0:
                del inner[last]
    return record


def compared(*arguments: str) -> tuple[int, str, str]:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = compare(list(arguments))
    return code, out.getvalue(), err.getvalue()


@given(record=records(), history=st.sampled_from([HISTORY, HISTORY[:-9], b"\xff", b"3\n", b"[" * 9000]) | st.binary())
def test_any_record_is_shown_or_named(record, history):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "get_plotlyjs", str)
        folder = Path(name)
        make_run(folder, "good", seed=1)
        broken = make_run(folder, "broken")
        (broken / "run.json").write_text(json.dumps(record))
        (broken / "history.jsonl").write_bytes(history)
        code, out, err = compared(name, "--format=json", "--each")
        shown = [run["directory"] for run in json.loads(out, parse_constant=pytest.fail)["runs"]]
        assert code == 0 and str((folder / "good").resolve()) in shown
        assert str(broken.resolve()) in shown or f"warning: {broken}" in err
        for options in ([], ["--effects"], ["--format=csv"], ["--format=markdown"]):
            assert compared(name, *options)[0] == 0
        assert compared(name, "--output", str(folder / "page.html"))[0] == 0
        assert compared("--diff", str(broken), str(folder / "good"))[0] == (0 if str(broken.resolve()) in shown else 2)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("best", 3, "best=3; it must be null or an object with value, epoch, step and metrics"),
        ("best", {"value": "high"}, 'best.value="high"; it must be a number or null'),
        ("metrics", {"a": "x"}, 'metrics.a="x"; it must be a number or null'),
        ("metrics", {"a": True}, "metrics.a=true; it must be a number or null"),
        ("seed", 0.5, "seed=0.5; it must be a whole number of 64 bits"),
        ("mode", "best", 'mode="best"; it must be min or max'),
        ("config", [1], "config=[1]; it must be an object"),
        ("overrides", [1], "overrides=[1]; it must be a list of strings"),
    ],
)
def test_a_wrong_value_is_named_with_its_folder_and_what_is_allowed(tmp_path, key, value, said):
    run = make_run(tmp_path, "run")
    rewrite(run, **{key: value})
    rows, warnings = read_rows([tmp_path])
    away = f"mend that, or move {run} away"
    assert not rows and warnings == [f"{run} is left out: {run}/run.json has {said}; {away}"]


def test_a_torn_history_is_named_and_what_is_whole_counts(tmp_path):
    path = make_run(tmp_path, "run") / "history.jsonl"
    path.write_bytes(HISTORY[:-9])
    [row], [warning] = read_rows([tmp_path])
    assert warning == f"{path}, line 3: torn or no epoch, and left out"
    assert row.metrics["val/loss"] == 0.4


def test_what_is_no_number_is_no_value(tmp_path):
    make_run(tmp_path, "run", metrics={"val/loss": math.nan, "val/iou": math.inf}, history=[])
    [row], warnings = read_rows([tmp_path])
    assert row.metrics == {"val/accuracy": 0.9} and not warnings


def test_nothing_in_a_markdown_table_is_markup(tmp_path):
    make_run(tmp_path, "a", config={"model.label": "<b>|x"})
    error = {"type": "ValueError", "message": "<img src=x> ![x](http://y/z.png) *a*"}
    make_run(tmp_path, "b", config={"model.label": "y"}, status="failed", best=None, error=error)
    _, out, _ = compared(str(tmp_path), "--format=markdown")
    assert r" &lt;b&gt;\|x " in out and "&lt;img src=x&gt;" in out and "<" not in out
    assert r"!\[x\](" in out and r"\*a\*" in out
