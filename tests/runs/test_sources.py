"""What no commit has of a run's code is kept with the run: the commit, the patch and the files give it back."""

import importlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from src.common.code import read_once
from src.runs import sources
from src.runs.record import Record
from src.runs.sources import computing_files, find_sources, repository_state
from tests.support.helpers import only_run, train


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True).stdout


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository that stands for the project's: a tracked file that is changed, new ones, and a bystander."""
    root = tmp_path / "tool"
    (root / "src").mkdir(parents=True)
    (root / "src" / "a.py").write_text("A = 1\n")
    (root / "mine").mkdir()
    (root / "mine" / "b.py").write_text("B = 1\n")
    (root / "src" / "picture.npz").write_bytes(bytes(range(256)))
    (root / "docs").mkdir()
    (root / "docs" / "notes.txt").write_text("old\n")
    (root / ".gitignore").write_text("ignored*\n")
    git(root, "init")
    git(root, "add", ".")
    git(root, "commit", "-m", "first")
    monkeypatch.setattr(sources, "ROOT", root)
    return root


def files_of(*folders):
    return [path for folder in folders for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]


def test_nothing_is_kept_of_what_is_committed(project, tmp_path):
    found = find_sources(files_of(project / "src"))
    assert found.git == {"commit": git(project, "rev-parse", "HEAD").decode().strip(), "dirty": False, "untracked": []}
    assert (found.repositories, found.contents, found.left_out) == ([], {}, [])
    found.keep(tmp_path / "code", epoch=0)
    assert not (tmp_path / "code").exists()


@pytest.mark.parametrize("setting", ["color.ui=always", "diff.context=0", "diff.submodule=diff", "diff.noprefix=true"])
def test_the_code_is_recovered(project, setting, tmp_path):
    """From a clone: changed text, a changed binary file, a new file, and one that git ignores."""
    library = project / "library"  # a repository within, as a submodule is
    library.mkdir()
    (library / "c.py").write_text("C = 1\n")
    lines = [f"A{number} = 1\n" for number in range(9)]
    (project / "src" / "a.py").write_text("".join(lines))
    for folder in (library, project):
        git(library, "init")
        git(folder, "add", ".")
        git(folder, "commit", "-m", "second")
    (library / "c.py").write_text("C = 2\n")
    git(library, "commit", "-am", "third")
    git(project, "config", *setting.split("="))
    (project / "src" / "a.py").write_text("".join([*lines[:4], "A = 2\n", *lines[4:]]))
    (project / "mine" / "b.py").write_text("B = 2\n")
    (project / "src" / "picture.npz").write_bytes(bytes(range(255, -1, -1)))
    (project / "src" / "mine.py").write_text("MINE = 1\n")
    (project / "src" / "ignored.py").write_text("MINE = 2\n")
    (project / "src" / "nothing.py").write_text("")
    (project / "bystander.py").write_text("PASSWORD = 'x'\n")
    (project / "docs" / "notes.txt").write_text("new\n")
    found = find_sources(files_of(project / "src"))
    assert found.git["dirty"] and found.git["untracked"] == ["src/ignored.py", "src/mine.py", "src/nothing.py"]
    found.keep(tmp_path / "code", epoch=0)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", project, clone], check=True)
    git(clone, "checkout", found.git["commit"])
    git(clone, "apply", tmp_path / "code" / "project.patch")
    shutil.copytree(tmp_path / "code" / "project", clone, dirs_exist_ok=True)
    for path in files_of(project / "src", project / "mine"):
        assert (clone / path.relative_to(project)).read_bytes() == path.read_bytes(), path
    assert not (clone / "bystander.py").exists() and (clone / "docs" / "notes.txt").read_text() == "old\n"


def test_code_of_another_repository_and_of_none(project, tmp_path, monkeypatch):
    mine, loose = tmp_path / "mine", tmp_path / "loose"
    for folder in (mine, loose):
        folder.mkdir()
        (folder / "models.py").write_text("A = 1\n")
    git(mine, "init")
    git(mine, "add", ".")
    git(mine, "commit", "-m", "first")
    (mine / "models.py").write_text("A = 2\n")
    (mine / "new.py").write_text("B = 1\n")
    monkeypatch.chdir(loose)
    monkeypatch.setenv("GIT_DIR", str(mine / ".git"))  # as a hook has it
    found = find_sources(files_of(project / "src", mine, loose))
    assert found.git["untracked"] == [] and not found.git["dirty"]
    (other,) = found.repositories
    assert (other["root"], other["dirty"], other["untracked"]) == (str(mine), True, ["new.py"])
    assert found.contents[f"{other['name']}/new.py"] == b"B = 1\n"
    assert b"+A = 2" in found.contents[f"{other['name']}.patch"]
    assert found.contents["elsewhere/models.py"] == b"A = 1\n"


def test_a_file_edited_since_it_was_imported_is_kept_as_it_was(project, monkeypatch):
    """One that the commit has, too: it lies beside the patch, which is of the edited one."""
    monkeypatch.chdir(project)
    tracked, new = project / "src" / "a.py", project / "src" / "mine.py"
    new.write_text("MINE = 1\n")
    then = {f"project/{path.relative_to(project)}": read_once(str(path)) for path in (tracked, new)}
    for path in (tracked, new):
        path.write_text("EDITED = 2\n")
    found = find_sources({tracked, new}).contents
    assert {name: found[name] for name in then} == then and b"+EDITED = 2" in found["project.patch"]


def test_what_is_large_or_called_a_secret_is_named_and_not_kept(project, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_BYTES", 1000)
    for name, size in (("a1.py", 600), ("b1.py", 700), ("c1.py", 1001), ("credentials.json", 5), (".env", 5)):
        (project / "src" / name).write_text("#" * size)
    found = find_sources(files_of(project / "src"))
    assert sorted(found.left_out) == [f"project/src/{name}" for name in (".env", "b1.py", "c1.py", "credentials.json")]
    assert list(found.contents) == ["project/src/a1.py"] and "src/.env" in found.git["untracked"]


def test_without_git_there_is_nothing_to_say(project, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert repository_state(project) is None
    found = find_sources([project / "src" / "a.py"])
    assert found.git is None and len(found.contents) == 1


def test_a_run_that_goes_on_with_other_code_keeps_both(project, tmp_path):
    folder = tmp_path / "code"
    for text, epoch in (("A = 2\n", 0), ("A = 2\n", 1), ("A = 3\n", 2)):
        (project / "src" / "a.py").write_text(text)
        find_sources(files_of(project / "src")).keep(folder, epoch=epoch)
    assert sorted(path.name for path in tmp_path.glob("code*")) == ["code", "code-after-epoch-2"]
    assert b"+A = 2" in (folder / "project.patch").read_bytes()
    assert b"+A = 3" in (tmp_path / "code-after-epoch-2" / "project.patch").read_bytes()


def test_a_run_keeps_the_users_code_and_options(tmp_path):
    """In the working directory, which is in no repository; a bystander there is none of it."""
    (tmp_path / "theirs" / "experiment").mkdir(parents=True)
    (tmp_path / "theirs" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 3\n")
    (tmp_path / "bystander.py").write_text("1\n")
    words = ["data=digits", "model=mlp", "epochs=1", "experiment=mine", "debug=fast"]
    result = train("--config-dir", "theirs", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = only_run(next(tmp_path.glob("outputs/*")))
    kept = [path.relative_to(run / "code" / "elsewhere") for path in files_of(run / "code" / "elsewhere")]
    assert kept == [Path("theirs/experiment/mine.yaml")]
    environment = Record(run).read()["environment"]
    assert environment["git"] is None or isinstance(environment["git"]["untracked"], list)
    assert json.dumps(environment["repositories"]) == "[]"


def test_the_users_modules_are_among_what_computes(tmp_path, monkeypatch):
    """As this process imported them, and a file beside them that is known to compute."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_too").mkdir()
    for name in ("__init__.py", "models.py", "bystander.py", "means.json"):
        (tmp_path / "mine_too" / name).write_text("[1]\n")
    importlib.import_module("mine_too.models")
    found = find_sources(computing_files(["mine_too/means.json", "/etc/hosts", "mine_too/*", "mine_too/"]))
    kept = {name for name in found.contents if "mine_too" in name}  # other tests import modules of their own
    assert kept == {f"elsewhere/mine_too/{name}" for name in ("__init__.py", "models.py", "means.json")}
    assert not any("site-packages" in path or "python3" in path for path in found.git["untracked"])
