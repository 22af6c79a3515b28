"""`python -m benchmarks bits` finds what differs and names it; what an earlier commit computes is not tested here."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from benchmarks import bits
from benchmarks.__main__ import main
from benchmarks.pairs import ROOT, BenchmarkError

SMALL = ("data=digits", "model=mlp", "model.hidden_units=[4]", "batch_size=256", "epochs=1")
BEFORE = {
    "variables": {"weights": "1a", "seed": "2b"},
    "history": {"epoch 1 val/loss": 0.5, "epoch 2 val/loss": float("nan")},
    "events": {"train learning_rate step 5": 0.1},
}


def changed(kind: str, **values) -> dict:
    return {**BEFORE, kind: {key: value for key, value in (BEFORE[kind] | values).items() if value is not None}}


def test_the_same_results_are_equal():
    assert not any(any(of_kind) for of_kind in bits.compare(BEFORE, BEFORE).values())


@pytest.mark.parametrize(
    ("kind", "values", "keys", "new"),
    [
        ("variables", {"weights": "1b"}, ["weights"], []),
        ("variables", {"seed": None}, ["seed"], []),
        ("history", {"epoch 1 val/loss": 0.5000001}, ["epoch 1 val/loss"], []),
        ("history", {"epoch 2 val/loss": 0.5}, ["epoch 2 val/loss"], []),
        ("history", {"epoch 1 learning_rate": 0.1}, [], ["epoch 1 learning_rate"]),
        ("events", {"train learning_rate step 5": 0.2}, ["train learning_rate step 5"], []),
    ],
)
def test_what_differs_or_is_gone_is_named_and_what_is_new_is_listed(kind, values, keys, new, monkeypatch):
    monkeypatch.setattr(bits, "KNOWN", {})
    found = bits.compare(BEFORE, changed(kind, **values))
    assert (found[kind].keys, found[kind].new) == (keys, new)
    assert not any(any(of_kind) for name, of_kind in found.items() if name != kind)
    text = "\n".join(bits.report({"dropout": found}))
    assert all(key in text for key in keys) and ("differs" in text) == bool(keys)
    assert ("new, history: learning_rate" in text) == bool(new)


def test_a_difference_with_a_reason_is_known(monkeypatch):
    monkeypatch.setattr(bits, "KNOWN", {("drop*", "events", "train learning_rate *"): "the step's own rate"})
    after = changed("events", **{"train learning_rate step 5": 0.2})
    found = bits.compare(BEFORE, after, config="dropout")
    assert not found["events"].keys and "the step's own rate" in "\n".join(bits.report({"dropout": found}))
    assert bits.compare(BEFORE, after, config="lazy")["events"].keys
    assert bits.compare(BEFORE, changed("variables", weights="1b"), config="dropout")["variables"].keys


def test_a_wrong_command_says_so(capsys):
    assert main(["bits", "0" * 40]) == 1
    assert "git worktree add" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["bits", "HEAD", "dropuot"])
    assert "dropuot" in capsys.readouterr().err


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_a_commit_is_checked_out_for_a_while():
    with bits.checked_out("HEAD") as tree:
        assert (tree / "src" / "train.py").is_file()
    assert not tree.exists()
    listed = subprocess.run(["git", "-C", ROOT, "worktree", "list"], capture_output=True, text=True, check=True)
    assert str(tree) not in listed.stdout


def test_a_run_that_fails_is_no_comparison(tmp_path, monkeypatch):
    monkeypatch.setattr(bits, "SERVER", bits.SERVER.replace("import keras, tensorflow", ""))  # it is not needed
    with pytest.raises(BenchmarkError, match=r"(?s)wrong, by the code of .*batch_size"):
        bits.compare_trees(ROOT, ROOT, {"wrong": (*SMALL, "batch_size=0")}, tmp_path)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_change_that_computes_something_else_is_found(tmp_path):
    """Against a copy in which one rate is another: what uses it differs in all three, what does not is equal."""
    copy = tmp_path / "copy"
    for name in ("src", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    option = copy / "conf" / "optimizer" / "sgd.yaml"
    option.write_text(option.read_text().replace("learning_rate: 0.05", "learning_rate: 0.1"))
    configs = {"adam": SMALL, "sgd": (*SMALL, "optimizer=sgd")}
    found = bits.compare_trees(copy, ROOT, configs, tmp_path / "runs")
    assert not any(any(of_kind) for of_kind in found["adam"].values())
    assert all(of_kind.keys for of_kind in found["sgd"].values())
    assert not any(of_kind.new for of_kind in found["sgd"].values())
