"""Tab completes what a command takes: from files alone, and in real shells."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time

import pytest

from src.common.code import ROOT
from src.config.checks import plain_values
from src.config.completion import SCRIPTS, complete
from src.config.compose import CONFIG_DIR, compose
from src.config.origins import at, leaves
from tests.support.helpers import run_module


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("opt", ["optimizer.", "optimizer="]),
        ("optimizer=adam", ["optimizer=adam", "optimizer=adamax", "optimizer=adamw"]),
        ("optimizer=sgd,adamw,li", ["optimizer=sgd,adamw,lion"]),
        ("callback=[default,ea", ["callback=[default,early_stopping"]),
        ("data=digits model=cnn model.fi", ["model.filters="]),
        ("model=mlp model.fi", []),
        ("experiment=digits_fast model.fi", ["model.filters="]),  # which chooses cnn
        ("schedule=reduce_on_plateau callback.red", ["callback.reduce_on_plateau."]),
        ("hydra/l", ["hydra/launcher="]),
        ("search=learning_rate hydra.sweeper.n_", ["hydra.sweeper.n_trials="]),
        ("mode=", ["mode=min", "mode=max"]),
        ("model=cnn model.normalization=la", ["model.normalization=layer"]),
        ("trainer.jit_compile=", ["trainer.jit_compile=true", "trainer.jit_compile=false"]),
        ("epochs=", ["epochs=15"]),
        ("~callback.exp", ["~callback.export"]),
        ("model=cnn model.num_cl", []),  # which the run fills in
        ("--multi", ["--multirun"]),
        ("model=nope model.", []),
        ("nope", []),
    ],
)
def test_words_go_on_as_the_command_takes_them(line, found):
    *before, word = line.split()
    assert complete(before, word) == found


def test_paths(tmp_path):
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets.csv").touch()
    start = f"data=table data.path={tmp_path}"
    assert complete(["data=table"], f"data.path={tmp_path}/p") == [
        f"data.path={tmp_path}/{n}" for n in ("pets.csv", "pets/")
    ]
    assert complete(["data=table"], f"epochs={tmp_path}/p") == [], start


def test_a_folder_of_ones_own(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("defaults: [cnn]\nfilters: 8\n")
    assert complete(["--config-dir", str(tmp_path)], "model=mi") == ["model=mine"]
    assert complete([f"--config-dir={tmp_path}", "model=mine"], "model.den") == ["model.dense="]


HIDDEN_OR_FILLED_IN = ("hydra", "run", "parent")


def _keys(words: list[str], above: str = "") -> set[str]:
    found = set()
    for key in complete(words, above):
        if key.endswith("."):
            found |= _keys(words, key)
        elif "/" not in key:
            found.add(key[:-1])
    return found


@pytest.mark.parametrize(
    "command",
    [
        "",
        "data=digits model=cnn",
        "data=class_folder data.path=pets model=cnn_pooled",
        "data=table metric=regression",
        "experiment=digits_fast callback=early_stopping",
        "debug=profile schedule=reduce_on_plateau loss=combo",
        "data=texts optimizer=muon metric=classification",
        "learner=distillation learner.teacher=x data=digits model=cnn",
    ],
)
def test_keys_are_those_of_the_composed_config(command):
    words = command.split()
    plain = plain_values(
        compose(words, is_whole=False, is_known=lambda cfg: True)
    )  # whether or not the files are there
    there = [(path, value) for path, value in leaves(plain) if path[0] not in HIDDEN_OR_FILLED_IN]
    typed = {".".join(path) for path, value in there if "${run." not in str(value) and not path[-1].startswith("_")}
    offered = {key for key in _keys(words) if not key.startswith("hydra.") and at(plain, key.split(".")) != {}}
    groups = {path.parent.name for path in CONFIG_DIR.glob("*/*.yaml")}
    assert offered - groups == typed - groups


def test_nothing_slow_is_imported():
    code = "import sys, src.config.completion as c; c.complete(['model=cnn'], 'model.'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"hydra", "omegaconf", "tensorflow", "numpy", "keras"} & set(loaded.split())


class Shell:
    """A real shell on a terminal of its own, in a folder that has the project's."""

    def __init__(self, command: list[str], folder) -> None:
        for name in ("src", "conf", "schemas"):
            (folder / name).symlink_to(ROOT / name)
        path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
        env = {"PATH": path, "HOME": str(folder), "TERM": "dumb", "PS1": "> "}
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.written = ""

    def type(self, text: str, *, until: str) -> str:
        """What the shell writes from then on, which must come to match."""
        self.written, deadline = "", time.monotonic() + 60
        os.write(self._ours, text.encode())
        while not re.search(until, self.written):
            ready, _, _ = select.select([self._ours], [], [], max(0, deadline - time.monotonic()))
            assert ready, self.written
            self.written += os.read(self._ours, 65536).decode(errors="replace").replace("\a", "")
        return self.written

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


SHELLS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}


@pytest.mark.parametrize("name", SHELLS)
def test_in_a_real_shell(name, tmp_path):
    if not shutil.which(name):
        pytest.skip(f"there is no {name} here")
    (tmp_path / "my pets").mkdir()
    (tmp_path / "notes.txt").touch()
    shell = Shell(SHELLS[name], tmp_path)
    try:
        shell.type(
            f'eval "$(python -m src.train --shell-completion install={name})"; echo set"ting up is" over\r',
            until="setting up is over",
        )
        clear = "\x15"  # Ctrl-U
        shell.type("python -m src.train opti\t", until="optimizer")
        shell.type("=rms\t", until="prop ")
        shell.type("optimizer.mom\t", until=r"entum=")
        shell.type("0.5 ep\t", until="ochs=")
        shell.type(f"{clear}python -m src.train --multirun optimizer=sgd,li\t", until="on ")
        shell.type(f"{clear}python -m src.train data=class_folder data.path=my\t", until=r"my\\ pets/")
        shell.type(f"{clear}python no\t", until="notes.txt")  # as before
        shell.type(f"{clear}cat no\t", until="notes.txt")
    finally:
        shell.close()


def test_other_shells_are_refused():
    found = run_module("src.train", "--shell-completion", "install=fish", cwd=ROOT)
    assert found.returncode == 2
    assert "install=bash or install=zsh" in found.stderr
    assert set(SCRIPTS) == set(SHELLS)
