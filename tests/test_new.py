"""A folder that `make new` writes trains, sweeps, resumes and compares, before and after the project moves on."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from src import new
from src.common.errors import ConfigError
from src.config import targets
from tests.support import forks
from tests.support.helpers import ROOT, only_run, run_module, train

ALL = ("--config-dir=conf", "experiment=mine")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A new one, and a list of targets that is no real one's."""
    (tmp_path / "conf").mkdir()
    shutil.copy(targets.FILE, tmp_path / "conf")
    monkeypatch.setattr(targets, "FILE", tmp_path / "conf" / "targets.txt")
    new.main([str(tmp_path / "mine")])
    return tmp_path / "mine"


def test_what_is_written_is_linted_and_trains(folder):
    for words in (("check",), ("format", "--check")):
        linted = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--config", ROOT / "pyproject.toml", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        assert linted.returncode == 0, linted.stdout
    done = train(*ALL, "epochs=2", cwd=folder)
    assert done.returncode == 0, done.stderr
    record = json.loads((only_run(folder / "outputs" / "mine") / "run.json").read_text())
    assert {"val/accuracy", "val/error_rate"} <= set(record["metrics"])
    assert record["metrics"]["val/accuracy"] == pytest.approx(1 - record["metrics"]["val/error_rate"])
    named = set(re.findall(r"mine\.\w+\.\w+", json.dumps(record["config"])))
    assert named == {
        *("mine.data.halves", "mine.data.Darken", "mine.models.dense", "mine.training.SharpLoss"),
        *("mine.training.ErrorRate", "mine.training.halving", "mine.training.SmallLogits", "mine.training.StopAtLoss"),
    }
    for group in ("data", "data.transforms", "model", "loss", "metric", "schedule", "learner", "callback"):
        assert "mine" in targets.packages(group) and "mine" not in targets.packages(group, of_user=False)


def test_the_list_of_targets_is_added_to_and_never_doubled(folder):
    before = targets.local_file().read_text()
    new.allow("mine")
    assert targets.local_file().read_text() == before
    new.main([str(folder.with_name("yours"))])
    assert {"mine", "yours"} <= set(targets._read.__wrapped__(targets.local_file())["model"])
    assert "_target_: yours.models.dense" in (folder.parent / "yours/conf/model/yours.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my-code", "'my-code' is no name of a Python package"),
        ("2nd", "'2nd' is no name"),
        ("class", "'class' is no name"),
        ("null", "'null' is no name"),
        ("no", "'no' is no name"),
        ("möve", "'möve' is no name"),
        ("_mine", "'_mine' is no name"),
        ("keras", "Python has a package keras already"),
        ("src", "Python has a package src already"),
        ("json", "Python has a package json already"),
        ("full", "is there and not empty"),
        ("file", "is there and not empty"),
    ],
)
def test_other_names_are_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.setattr(targets, "FILE", tmp_path / "targets.txt")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=message):
        new.main([str(tmp_path / name)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


def test_an_empty_folder_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "FILE", tmp_path / "targets.txt")
    (tmp_path / "mine").mkdir()
    new.main([str(tmp_path / "mine")])
    assert (tmp_path / "mine" / "mine" / "models.py").is_file()


def git(project, *words):
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    return subprocess.run(["git", *identity, *words], cwd=project, capture_output=True, text=True, check=True).stdout


@pytest.mark.exhaustive
def test_what_its_readme_shows(folder):
    shown = re.findall(r"^python -m (\S+) (.*)$", (folder / "README.md").read_text(), re.MULTILINE)
    assert [module for module, _ in shown] == [*["src.train"] * 4, "src.compare"]
    for module, words in shown:
        done = forks.run(module, shlex.split(words, comments=True), cwd=folder)
        assert done.returncode == 0, done.stderr


@pytest.mark.exhaustive
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no clone")
def test_the_project_moves_on_and_the_folder_stays(tmp_path):
    """In fresh processes, of a clone: trains, sweeps, resumes after a kill, compares; then a commit is pulled."""
    origin, project, folder = tmp_path / "origin", tmp_path / "project", tmp_path / "mine"
    git(ROOT, "clone", "-q", ROOT, origin)
    git(tmp_path, "clone", "-q", origin, project)

    def command(module, *words, cwd=folder):
        done = run_module(module, *words, cwd=cwd, PYTHONPATH=str(project))
        assert done.returncode == 0, done.stderr
        return done

    command("src.new", "../mine", cwd=project)
    assert git(project, "status", "--porcelain") == ""  # so that nothing stands in the way of a pull

    # Trains, and goes on after a kill.
    words = [sys.executable, "-m", "src.train", *ALL, "epochs=100", "callback.stop_at_loss.loss=0", "name=killed"]
    environment = {**os.environ, "PYTHONPATH": str(project)}
    process = subprocess.Popen(words, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while len(list(folder.glob("outputs/killed/*/checkpoints/ckpt-*.index"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert "continuing after step" in command("src.train", *words[3:]).stderr

    # Sweeps and compares.
    sweep = ("--config-dir=conf", "--multirun", "experiment=mine", "epochs=2", "model.units=8,16")
    command("src.train", *sweep)
    records = sorted(folder.glob("outputs/mine/*/run.json"))
    before = {path: path.read_bytes() for path in [*records, *folder.glob("outputs/killed/*/run.json")]}
    compared = command("src.compare", "outputs/mine").stdout
    assert len(records) == 2 and "units" in compared

    # The project moves on: a page, an option, a docstring, and a line in the list that the folder's lines are beside.
    (origin / "docs" / "new.md").write_text("# New\n")
    (origin / "conf" / "model" / "newer.yaml").write_text((origin / "conf" / "model" / "mlp.yaml").read_text())
    for file in ("src/models/mlp.py", "conf/targets.txt"):
        with (origin / file).open("a") as opened:
            opened.write("\n# Later\n")
    git(origin, "add", "-A")
    git(origin, "commit", "-q", "-m", "on")
    git(project, "pull", "-q", "--ff-only")

    assert "already completed, reused" in command("src.train", *words[3:]).stdout
    again = command("src.train", *sweep)
    assert {path: path.read_bytes() for path in before} == before, again.stderr
    assert command("src.compare", "outputs/mine").stdout == compared
    assert "val/accuracy" in command("src.train", *ALL, "epochs=1", "seed=5").stdout
