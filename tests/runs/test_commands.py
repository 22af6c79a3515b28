"""The command that is shown of a run can be typed, and is the command of that run."""

from __future__ import annotations

import io
import json
import os
import shlex
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings, strategies as st

from src.config.compose import compose
from src.config.identity import config_hash
from src.runs.collection import find_run
from src.runs.commands import quoted, threads_advice
from src.runs.details import print_details
from tests.runs.made import make_run
from tests.support.commands import compare as main
from tests.support.helpers import only_run, run_module, train

NASTY = st.lists(
    st.sampled_from(
        [*"ab1 ,=[]{}()$'\"\\:;#!~*?&|<>%@+-./\t\n", "ü", "漢", "\u00a0", "\u202e", "${seed}", "\\'", "null"]
    ),
    max_size=8,
).map("".join)
SET = ["data=tfds", "data.dataset=mnist", "model=cnn"]


def shown_command(directory: Path) -> list[str]:
    """The words after `type` on the screen of a run, without `python -m src.train`."""
    stream = io.StringIO()
    print_details(find_run(str(directory)), stream)
    text = stream.getvalue().partition("\ntype        ")[2].rpartition("\nnext  ")[0]
    _, flag, module, *words = shlex.split(text)
    assert (flag, module) == ("-m", "src.train")
    return words


def made(folder: Path, overrides: list[str]) -> tuple[Path, str]:
    """A completed run with these overrides, and its hash."""
    hash_ = config_hash(compose(overrides))
    return make_run(folder / "outputs" / "x", 1, overrides=overrides, config_hash=hash_, checkpoints=False), hash_


@settings(max_examples=5, deadline=None)
@given(NASTY)
@example("")
@example("null")
@example("1e3")
@example("a\\")
@example("\\${seed}")
@example("\\\\'")
def test_any_value_is_shown_as_it_can_be_typed(value):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.chdir(name)
        overrides = [*SET, f"data.image_key={quoted(value)}"]
        cfg = compose(overrides)
        assert cfg.data.image_key == value, "the text is what Hydra reads"
        directory, hash_ = made(Path(), overrides)
        words = shown_command(directory)
        assert words == overrides and config_hash(compose(words)) == hash_


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "typed",
    [
        ["data.class_names=[a, 'b c', \"d,e\"]"],
        ["+data.transforms.shift={_target_: src.data.transforms.Shift, max_pixels: 1}"],
        ["data.batch_size=${oc.decode:'8'}", "batch_size=8"],
        ["seed=7", "model.filters=${seed}"],
        ["data.image_key="],
        ["~data.shuffle"],
    ],
    ids=lambda typed: typed[-1],
)
def test_what_was_typed_is_shown_so(tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    directory, hash_ = made(Path(), [*SET, *typed])
    assert config_hash(compose(shown_command(directory))) == hash_


def test_what_is_told_once_or_filled_in_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    once = ["rerun=true", "++stale=rerun", "wait=true", "dry_run=false", "parent.step=40", "++parent.checkpoint='ab'"]
    directory, _ = made(Path(), [*SET, "resume=outputs/x/y", "max_seconds=9", *once])
    assert shown_command(directory) == [*SET, "resume=outputs/x/y", "max_seconds=9"]


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["my runs, [1]", "moved", "it's ü", "a=b ${seed}", "1e3", "null", "back\\"])
def test_a_run_elsewhere_names_its_directory(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    directory, hash_ = made(Path(), SET)
    for moved in (Path(name), Path("outputs", name), Path(name) / directory.name):
        moved.parent.mkdir(parents=True, exist_ok=True)
        directory = directory.rename(moved)
        words = shown_command(directory)
        cfg = compose(words)
        assert config_hash(cfg) == hash_ and cfg.hydra.run.dir == str(directory), words
        if moved.parent == Path(name):
            break
        directory = directory.rename(tmp_path / "kept")


def test_a_real_run_is_found_by_the_command_that_is_shown_of_it(tmp_path, monkeypatch, capsys):
    """Its options lie in a folder of the user's, its directory has a nasty name, and its rate follows from another."""
    monkeypatch.chdir(tmp_path)
    options = tmp_path / "my options" / "model"
    options.mkdir(parents=True)
    (options / "mine.yaml").write_text(
        "_target_: src.models.mlp.mlp\ninput_shape: ${run.input_shape}\nnum_classes: ${run.num_classes}\n"
    )
    lean = [f"callback.{name}=null" for name in ("images", "export", "summaries", "hparams")]
    rate = ["optimizer.epsilon=0.02", "optimizer.learning_rate=${optimizer.epsilon}"]
    run = ["data=digits", "model=mine", "epochs=1", *lean, *rate]
    nasty = "it's (ü), a=b"
    where = f"hydra.run.dir={quoted(f'my runs/{nasty}')}"
    done = train("--config-dir=my options", *run, where, "rerun=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    directory = only_run(tmp_path / "my runs")
    assert directory.name == nasty
    shown = run_module("src.runs", "show", str(directory), cwd=tmp_path).stdout
    words = shlex.split(shown.partition("\ntype        ")[2].partition("\nnext  ")[0])
    again = train(*words[3:], cwd=tmp_path)
    assert "already completed, reused" in again.stdout, again.stderr

    record = json.loads((directory / "run.json").read_text())
    assert "optimizer.learning_rate" not in record["config"] and record["derived"]["optimizer.learning_rate"] == 0.02
    other = train("--config-dir=my options", *run[:-1], "optimizer.learning_rate=0.01", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    assert main(["my runs", "outputs", "--each", "--format=json"]) == 0
    rates = {row["optimizer.learning_rate"] for row in json.loads(capsys.readouterr().out)["runs"]}
    assert rates == {0.02, 0.01}
    assert os.listdir("outputs/digits")


@pytest.mark.parametrize(
    ("threads", "seconds", "told"),
    [
        (2, [9.0, 9.1, 9.2], "1.0 ms on 2 threads"),
        (2, [9.0, 9.31, 9.62], ""),  # 3.1 ms
        (1, [9.0, 9.1, 9.2], ""),
        (None, [9.0, 9.1, 9.2], ""),
        (2, [0.1], ""),  # all of it compiles
        (2, [], ""),
    ],
)
def test_one_thread_is_advised_where_steps_are_small_and_threads_several(threads, seconds, told):
    history = [{"epoch": n, "step": 100 * n, "seconds": second} for n, second in enumerate(seconds, start=1)]
    advice = threads_advice({"environment": {"threads": threads}}, history)
    assert told in advice and bool(told) == ("trainer.threads=1" in advice) == bool(advice)
