"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from tests.support.helpers import ROOT, run_module

README = (ROOT / "README.md").read_text()


def block(after: str, language: str) -> str:
    """The first code block of a language after some words."""
    assert after in README, after
    return re.search(rf"```{language}\n(.*?)```", README[README.index(after) :], re.DOTALL)[1]


def test_the_trainer_alone(tmp_path):
    """Plain Keras objects and a tf.data dataset, without Hydra."""
    code = block("## The trainer alone", "python")
    code += "\nimport sys\nassert not {'hydra', 'omegaconf'} & set(sys.modules)\n"
    code += "assert trainer.evaluate(dataset)['accuracy'] > 0.9\n"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("Best(value=0.")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project with all that "Add your own" adds."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ("src/models/linear.py", "src/data/squares.py"):
        (folder / path).write_text(block(f"`{path}`", "python"))
    for name in ("model/linear", "metric/top3", "data/squares"):
        (folder / f"conf/{name}.yaml").write_text(block(f"`conf/{name}.yaml`", "yaml"))
    return folder


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "overrides",
    ["data=digits model=linear model.use_bias=false metric=top3", "data=squares model=linear"],
)
def test_add_your_own(copy, overrides):
    found = run_module("src.train", *overrides.split(), "epochs=2", cwd=copy, PYTHONPATH=str(copy))
    assert found.returncode == 0, found.stderr
    assert re.match(r"val/accuracy [01]\.\d+", found.stdout), found.stdout


def test_pictures_and_links_are_there():
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).is_file()] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ARGS=optimizer=adam epochs=20"], "src.train optimizer=adam epochs=20"),
        (["ARGS=epochs=20"], "src.train epochs=20"),
        (["epochs=20"], 'Give options as ARGS="epochs=20"'),
    ],
)
def test_make_passes_options_on(words, said):
    command = ["make", "-n", "train", *words]
    environment = {key: value for key, value in _environment().items() if not key.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert said in done.stdout + done.stderr


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}
