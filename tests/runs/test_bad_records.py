"""Whatever a record says: list, show and clean go on, and a record that is no good is named; never a traceback.

Nothing writes such a record anew.
"""

from __future__ import annotations

import copy
import json
import tempfile
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st

from src import train
from src.common.command import exit_code
from src.config.compose import compose
from src.runs.record import BadRecord, Record
from src.runs.run import Run
from tests.comparison.test_broken import VALUES, paths
from tests.runs.made import make_run
from tests.support.commands import compare, runs as main

with tempfile.TemporaryDirectory() as _folder:
    PARENT = {"config_hash": "ab" * 32, "checkpoint": "cd", "step": 40, "epoch": 1}
    ERROR = {"type": "ValueError", "message": "gamma", "traceback": 'File "a.py", line 1, in a'}
    RECORD = Record(make_run(Path(_folder), 1, parent=PARENT, error=ERROR, cleaned="2026-01-02")).read()

SAID = [
    ({"best": [1]}, "best=[1]; it must be null or an object with value, epoch, step and metrics"),
    ({"best": []}, "best=[]; it must be null or an object"),
    ({"best": "x"}, 'best="x"; it must be'),
    ({"best": {"value": "x"}}, 'best.value="x"; it must be a number or null'),
    ({"parent": {"config_hash": [1]}}, "parent.config_hash=[1]; it must be a text"),
    ({"parent": {"step": 1}}, 'parent={"step": 1}; it must be null or an object with config_hash'),
    ({"parent": [1]}, "parent=[1]; it must be"),
    ({"config_hash": [1]}, "config_hash=[1]; it must be a text"),
    ({"seconds": "x"}, 'seconds="x"; it must be a number or null'),
    ({"seconds": 1e300}, "seconds=1e+300; it must be a number of seconds or null"),
    ({"seconds": -1}, "seconds=-1; it must be a number of seconds or null"),
    ({"epoch": -3}, "epoch=-3; it must be a whole number of 64 bits, at least 0"),
    ({"best": {"step": -1}}, "best.step=-1; it must be a whole number of 64 bits, at least 0"),
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


TEXT, NUMBER, TEXTS, OBJECT = "abc", 3, ["abc"], {"a": None}
# What each key is, and what is in it; all else is wrong there, but null where a record of before has it.
KEYS = {
    **dict.fromkeys(("id", "name", "status", "monitor", "mode", "started", "finished", "cleaned", "config_hash"), TEXT),
    **dict.fromkeys(("epoch", "step", "epochs", "parameters", "seed", "seconds", "best.value", "best.epoch"), NUMBER),
    **dict.fromkeys(("metrics.a", "parent.step", "environment.threads", "process.pid", "environment.replicas"), NUMBER),
    **dict.fromkeys(("overrides", "flags", "environment.changes"), TEXTS),
    **dict.fromkeys(("best", "metrics", "choices", "config", "resolved", "derived", "fingerprints", "process"), OBJECT),
    **dict.fromkeys(("parent", "error", "environment", "environment.git", "environment.packages"), OBJECT),
    **dict.fromkeys(("fingerprints.code", "fingerprints.data", "fingerprints.files", "best.metrics"), OBJECT),
    **dict.fromkeys(("error.message", "parent.config_hash", "environment.python", "environment.git.commit"), TEXT),
    **dict.fromkeys(("fingerprints.code.src", "fingerprints.data.path", "fingerprints.files.a"), TEXT),
}


@settings(max_examples=4)
@given(key=st.sampled_from(list(KEYS)), value=st.sampled_from([TEXT, NUMBER, TEXTS, OBJECT, True, [1], [None]]))
@example("epoch", "three")
@example("best", [1])
@example("status", 7)
@example("status", "done")
def test_a_wrong_value_is_named_by_every_command_and_written_by_none(key: str, value: Any):
    """And by `rerun`, which sets it aside, not read."""
    if type(value) is type(KEYS[key]) and value != "done" and value not in ([1], [None]):
        return
    *parents, last = key.split(".")
    command = ["data=digits", "model=mlp", "name=x"]
    with tempfile.TemporaryDirectory() as name, chdir(name), pytest.MonkeyPatch.context() as patch:
        # Hydra closes all log handlers; where TensorFlow is imported, its own would close the stream that pytest reads.
        patch.setattr("absl.logging.PythonHandler.close", lambda self: None)
        of_command = Run.of(compose(command))
        run, folder = of_command.directory, of_command.directory.parent
        make_run(folder, 1)
        make_run(folder, 2).rename(run)
        own = {"config_hash": of_command.config_hash, "id": of_command.id, "status": "failed", "unknown": 1}
        record = inner = copy.deepcopy({**RECORD, **own})
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
        path = run / "run.json"
        path.write_text(text := json.dumps(record))
        trained = [command, [*command, "--multirun"], [f"resume={run}", "epochs=99"]]
        others = [["list", folder], ["show", run], ["clean", folder, "--keep", "0", "--yes"]]
        for entry, words in (
            *((partial(exit_code, train._command), words) for words in trained),
            *((main, words) for words in others),
            (compare, [folder]),
        ):
            out, err = StringIO(), StringIO()
            with redirect_stdout(out), redirect_stderr(err):
                code = entry([str(word) for word in words])
            told = err.getvalue()
            assert (code > 0) == (words in trained or words[0] == "show"), told
            assert f"{path} has {key}={json.dumps(value)}; it must be " in told, told
            assert f"; mend that, or move {run} away" in told and "Traceback" not in told
            assert path.read_text() == text
        with pytest.raises(BadRecord):
            Record(run).update(status="completed")
        assert path.read_text() == text and Run.of(compose([*command, "rerun=true"])).decide() == ("start", True)


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
