"""Whatever a record says: list, show and clean go on, and a record that is no good is named; never a traceback."""

from __future__ import annotations

import copy
import json
import tempfile
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from src.runs.record import BadRecord, Record
from tests.commands import compare, runs as main
from tests.comparison.test_broken import VALUES, paths
from tests.runs.made import make_run

with tempfile.TemporaryDirectory() as _folder:
    PARENT = {"config_hash": "ab" * 32, "checkpoint": "cd", "step": 40, "epoch": 1}
    ERROR = {"type": "ValueError", "message": "gamma", "traceback": 'File "a.py", line 1, in a'}
    RECORD = Record(make_run(Path(_folder), 1, parent=PARENT, error=ERROR, cleaned="2026-01-02")).read()

SAID = [
    ({"best": [1]}, "best=[1]; it must be null or an object with value, epoch and step"),
    ({"best": []}, "best=[]; it must be null or an object"),
    ({"best": "x"}, 'best="x"; it must be'),
    ({"best": {"value": "x"}}, 'best.value="x"; it must be a number or null'),
    ({"parent": {"config_hash": [1]}}, "parent.config_hash=[1]; it must be a text or null"),
    ({"parent": {"step": 1}}, 'parent={"step": 1}; it must be null or an object with config_hash'),
    ({"parent": [1]}, "parent=[1]; it must be"),
    ({"config_hash": [1]}, "config_hash=[1]; it must be a text or null"),
    ({"seconds": "x"}, 'seconds="x"; it must be a number or null'),
    ({"seconds": 1e300}, "seconds=1e+300; it must be a number of seconds or null"),
    ({"overrides": [1]}, "overrides=[1]; it must be a list of strings"),
    ({"environment": [1]}, "environment=[1]; it must be"),
    ({"environment": {"git": "x"}}, 'environment.git="x"; it must be'),
    ({"environment": {"packages": {"keras": 3}}}, "environment.packages.keras=3; it must be"),
    ({"environment": {"variables": {"XLA_FLAGS": 3}}}, "environment.variables.XLA_FLAGS=3; it must be"),
    ({"environment": {"changes": [3]}}, "environment.changes=[3]; it must be a list of strings"),
    ({"error": "boom"}, 'error="boom"; it must be null or an object with type, message and traceback'),
    ({"metrics": {"val/loss": [1]}}, "metrics.val/loss=[1]; it must be a number or null"),
    ({"started": 5}, "started=5; it must be a text or null"),
]
SHOWN = [
    {"best": {"value": 0.5}},
    {"best": {"epoch": 1}},
    {"seconds": float("inf")},
    {"metrics": {"val/loss": float("nan")}},
    {"parent": {"config_hash": "ab"}},
    {"started": "0001-01-01T00:00:00", "finished": "9999-12-31T23:59:59-14:00"},
    {"name": "\ud800"},
]


def used(*arguments: str) -> tuple[int, str, str]:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    return code, out.getvalue(), err.getvalue()


def write(folder: Path, record: str, history: str | bytes | None = None) -> Path:
    """Two runs: a good one, and one of this record."""
    make_run(folder, 1)
    sick = make_run(folder, 2)
    (sick / "run.json").write_text(record)
    if history is not None:
        (sick / "history.jsonl").write_bytes(history if isinstance(history, bytes) else history.encode())
    return sick


def check(folder: Path, sick: Path, *, said: str | None) -> None:
    """All commands go on; where `said`, the sick run is named so and left alone."""
    code, out, err = used("list", str(folder))
    assert code == 0 and "cnn-s1-" in out and (sick.name in out) == (said is None)
    assert said is None or (f"warning: {sick} is left out: " in err and said in err)
    used("list", str(folder), "--format", "json")
    code, out, err = used("show", str(sick))
    assert (code, bool(out)) == ((0, True) if said is None else (2, False)) and (said or "") in err
    before = sorted(sick.rglob("*"))
    assert used("clean", str(folder), "--keep", "0", "--yes")[0] == 0
    assert said is None or sorted(sick.rglob("*")) == before


@pytest.mark.parametrize(("changed", "said"), [*SAID, *((changed, None) for changed in SHOWN)], ids=str)
def test_a_sick_value(tmp_path, changed, said):
    sick = write(tmp_path, json.dumps({**RECORD, **changed}))
    with chdir(tmp_path):
        check(tmp_path, sick, said=said)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "5", '"x"', "9" * 5000], ids=lambda text: text[:5])
def test_a_record_that_is_none(tmp_path, text):
    sick = write(tmp_path, text)
    with pytest.raises(BadRecord):
        Record(sick).read()
    check(tmp_path, sick, said=str(sick / "run.json"))
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert compare([str(tmp_path)]) == 0
    assert f"warning: {sick} is left out" in err.getvalue()


@pytest.mark.parametrize(
    "line", ["[1]", "5", "null", "[" * 200_000, '{"epoch": 1, "val/accuracy": "x"}', "{}", b"\xff"]
)
def test_a_sick_history(tmp_path, line):
    sick = write(tmp_path, json.dumps(RECORD), line)
    check(tmp_path, sick, said=None)


@pytest.mark.exhaustive
@settings(max_examples=150, deadline=None)
@given(place=..., value=VALUES)
def test_any_value_anywhere(place: int, value: Any):
    """In list, show and clean a run is shown or named."""
    *parents, last = (places := paths(RECORD)[1:])[place % len(places)]
    record = inner = copy.deepcopy(RECORD)
    for key in parents:
        inner = inner[key]
    inner[last] = value
    with tempfile.TemporaryDirectory() as name, chdir(name):
        sick = write(Path(name), json.dumps(record))
        code, out, err = used("list", name)
        assert code == 0 and (sick.name in out) != (f"{sick} is left out" in err)
        assert used("show", str(sick))[0] == (0 if sick.name in out else 2)
        assert used("clean", name, "--keep", "0", "--yes")[0] == 0
