"""What the README and docs/ show works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest

from src.config.compose import compose, expand
from tests.support.helpers import ROOT, run_module

README = (ROOT / "README.md").read_text()
PAGES = {path: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
OF_OWN_CODE = (
    "own-code.md",
    "add-your-own.md",
    "tasks.md",
)  # their commands want files of their own; other tests run them
COMMAND = re.compile(r"^(?:\$ )?python -m src\.train\b((?:[^\n\\]|\\\n)*)", re.MULTILINE)


def block(page: str, after: str, language: str) -> str:
    """The first code block of a language after some words of a page in docs/."""
    text = (ROOT / "docs" / page).read_text()
    assert after in text, after
    return re.search(rf"```{language}\n(.*?)```", text[text.index(after) :], re.DOTALL)[1]


def commands() -> list[str]:
    """What the pages type after `python -m src.train`, each once."""
    found = []
    for path, text in PAGES.items():
        for code in re.findall(r"```\n(.*?)```", text, re.DOTALL) if path.name not in OF_OWN_CODE else ():
            found += [words.replace("\\\n", " ").strip() for words in COMMAND.findall(code)]
    return sorted({words for words in found if "<" not in words})


@pytest.mark.parametrize("words", commands())
def test_a_documented_command_composes(words):
    overrides = [word for word in shlex.split(words, comments=True) if word != "--multirun"]
    if overrides in (["--help"], ["--cfg", "job"]):
        return  # tests/config/test_help.py
    if "--shell-completion" in overrides:
        return  # tests/config/test_completion.py
    of_a_space = [word for word in overrides if "hydra" in word or "(" in word]  # tests/sweeps/test_space.py
    for job in expand([word for word in overrides if word not in of_a_space]):
        assert compose(job, is_known=lambda cfg: True).name


def test_the_readme_is_a_page():
    assert len(README.splitlines()) <= 150


def test_the_trainer_alone(tmp_path):
    """Plain Keras objects and a tf.data dataset, without Hydra."""
    code = block("trainer.md", "# The trainer alone", "python")
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
        (folder / path).write_text(block("add-your-own.md", f"`{path}`", "python"))
    for name in ("model/linear", "metric/top3", "data/squares"):
        (folder / f"conf/{name}.yaml").write_text(block("add-your-own.md", f"`conf/{name}.yaml`", "yaml"))
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


def test_the_page_of_options_has_each_option_of_data():
    page = PAGES[ROOT / "docs" / "options.md"]
    assert [file.stem for file in (ROOT / "conf" / "data").glob("*.yaml") if f"`{file.stem}`" not in page] == []


def test_pictures_and_links_are_there():
    linked = set()
    for path, whole in PAGES.items():
        text = re.sub(r"```.*?```", "", whole, flags=re.DOTALL)
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
        assert [link for link in links if link and not (path.parent / link).is_file()] == [], path
        linked |= {(path.parent / link).resolve() for link in links}
    assert [page.name for page in PAGES if page.parent != ROOT and page not in linked] == []


def test_hashes_are_of_what_the_project_needs_in_the_versions_of_make():
    text, pin = (ROOT / "requirements.txt").read_text(), re.compile(r"^([a-z][^=\s]*)==(\S+)", re.MULTILINE)
    hashed, constraints = dict(pin.findall(text)), dict(pin.findall((ROOT / "constraints.txt").read_text().lower()))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {re.split(r"[<>=~]", name)[0].replace("_", "-") for name in project["dependencies"]} <= set(hashed)
    assert hashed.items() <= constraints.items()
    assert len(re.findall(r"==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", text)) == len(hashed)
    assert "://" not in text and "index" not in text


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
    done = subprocess.run(command, cwd=ROOT, env=_environment(make=False), capture_output=True, text=True, check=False)
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize("made", [True, False], ids=["older", "no environment yet"])
@pytest.mark.parametrize("goal", ["new", "train", "setup"])
def test_make_installs_nothing_where_a_link_leads(tmp_path, goal, made):
    project, other = tmp_path / "project", tmp_path / "other"
    for folder in (project, other / "bin"):
        folder.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, project)
    python = other / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$@" >> "$(dirname "$0")/calls"\n')
    python.chmod(0o755)
    if made:
        (other / ".ready").touch()
        os.utime(other / ".ready", (0, 0))
    (project / ".venv").symlink_to(other)

    def make(*words):
        command = ["make", *words, goal, f"PYTHON={sys.executable}"]
        return subprocess.run(
            command, cwd=project, env=_environment(make=False), capture_output=True, text=True, check=False
        )

    refused = make()
    assert refused.returncode == 2 and not (other / "bin" / "calls").exists(), "nothing was installed"
    assert f".venv is a link to {other}" in refused.stderr and len(refused.stderr.splitlines()) == 2  # make's own too
    words = re.search(r"(-o \S+)$", refused.stderr, re.MULTILINE)[1].split()
    used = make(*words)
    assert used.returncode == 0, used.stderr
    assert goal == "setup" or (other / "bin" / "calls").read_text().startswith(f"-m src.{goal}")


def _environment(*, make: bool = True) -> dict[str, str]:
    """This one's, for the project as it lies here; without `make`, nothing of a make that has started the tests."""
    known = {key: value for key, value in os.environ.items() if make or not key.startswith(("MAKE", "MFLAGS"))}
    return {**known, "PYTHONPATH": str(ROOT)}
