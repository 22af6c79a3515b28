"""The uncommitted code that a run is computed with, which is kept in its directory.

found = find_sources(computing_files([]))
found.git                               # {"commit": "1f0c...", "dirty": False, "untracked": ["src/models/mine.py"]}
found.keep(run / "code", epoch=0)

    code/project.patch      what differs from the commit: `git apply` in a clone that has it checked out
    code/project/           files to be copied over it: untracked ones that compute, and edited ones as imported
    code/<name>.patch, code/<name>/     the same of another repository that has code of the run
    code/elsewhere/         files that compute and lie in no repository, below the working directory or by whole path
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.common.code import ROOT, own_modules, read_once
from src.common.files import delete, replacing
from src.runs.external_values import SECRET

MOST_BYTES = 2**20  # kept of a run in all
PROJECT, ELSEWHERE = "project", "elsewhere"
# Of the project, what no run reaches.
_NOT_OF_RUNS = ("tests", "docs", "benchmarks", "README.md")
_DIFF = ("diff", "-U3", "--submodule=short", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv")
_PREFIXES = ("--src-prefix=a/", "--dst-prefix=b/")
_REDIRECTS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # as a hook has them


@dataclass(frozen=True)
class UncommittedCode:
    """Uncommitted changes and files of a run's code.

    Attributes:
        git: of the project's repository, `commit`, `dirty`, `untracked`; None where git has nothing to say of it.
        repositories: the same of others, each with its `root`.
        contents: what is kept, by its path in the folder.
        left_out: paths of what is too large for that, or has the name of a secret.
    """

    git: dict[str, Any] | None
    repositories: list[dict[str, Any]]
    contents: dict[str, bytes]
    left_out: list[str]

    def keep(self, folder: Path, *, epoch: int) -> None:
        """Write the contents to a folder.

        Args:
            epoch: after which the run continues; what it kept before stays, and new contents go to
                `<folder>-after-epoch-<epoch>`.

        Raises:
            OSError: it cannot be written.
        """
        if epoch and folder.exists():
            there = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            if there == self.contents:
                return
            folder = folder.with_name(f"{folder.name}-after-epoch-{epoch}")
        delete(folder)
        if self.contents:
            with replacing(folder) as new:
                for name, content in self.contents.items():
                    (new / name).parent.mkdir(parents=True, exist_ok=True)
                    (new / name).write_bytes(content)


def computing_files(names: Iterable[str]) -> set[Path]:
    """The files of all imported modules, except Python's own and installed packages'.

    Args:
        names: of other files that compute, relative to the project or the working directory; those in a folder of such
            a module are included.
    """
    modules = set(map(Path, own_modules().values()))
    folders = {path.parent for path in modules}
    return modules | {file for name in names for file in (ROOT / name, Path.cwd() / name) if file.parent in folders}


def find_sources(files: Iterable[Path]) -> UncommittedCode:
    """The uncommitted ones of these files, and the differences of their repositories from the commits."""
    below: dict[Path | None, list[Path]] = {}
    for file in sorted({Path(os.path.realpath(file)) for file in files if file.is_file()}):
        marked = next((folder for folder in file.parents if (folder / ".git").exists()), None)
        below.setdefault(marked and _root(marked), []).append(file)
    project = _root(ROOT)
    git, repositories = None, []
    contents: dict[str, bytes] = {}
    kept: list[tuple[str, Path]] = []
    for number, (root, members) in enumerate(below.items()):
        if root is None:
            kept += [(f"{ELSEWHERE}/{_inside(file)}", file) for file in members]
            continue
        name = PROJECT if root == project else f"{number}-{root.name}"
        tracked = set(os.fsdecode(_git(root, "ls-files", "-z", "--", *map(str, members))).split("\0"))
        untracked = [path for file in members if (path := str(file.relative_to(root))) not in tracked]
        without = [f":(exclude){ROOT.joinpath(name)}" for name in _NOT_OF_RUNS if root == project]
        patch = _git(root, *_DIFF, *_PREFIXES, "HEAD", "--", str(root), *without)
        contents |= {f"{name}.patch": patch} if patch else {}
        edited = [str(file.relative_to(root)) for file in members if _as_read(file) != file.read_bytes()]
        kept += [(f"{name}/{path}", root / path) for path in dict.fromkeys([*untracked, *edited])]
        found = {**(repository_state(root) or {}), "untracked": untracked}
        if root == project:
            git = found
        else:
            repositories.append({"root": str(root), "name": name, **found})
    left_out = []
    for path, file in kept:
        if _may_be_kept(file) and file.stat().st_size <= MOST_BYTES:
            contents[path] = _as_read(file)
        else:
            left_out.append(path)
    for path in sorted(contents, key=lambda path: -len(contents[path])):
        if sum(map(len, contents.values())) > MOST_BYTES:
            del contents[path]
            left_out.append(path)
    return UncommittedCode(git, repositories, contents, left_out)


def repository_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the repository that has this folder, and whether tracked files differ; None where git has none."""
    try:
        commit = _git(folder, "rev-parse", "HEAD").decode().strip()
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


@functools.cache
def _root(folder: Path) -> Path | None:
    """The top of the repository that has this folder, if it has a commit."""
    try:
        return Path(os.path.realpath(os.fsdecode(_git(folder, "rev-parse", "--show-toplevel", "HEAD").split(b"\n")[0])))
    except (OSError, subprocess.SubprocessError):
        return None


def _as_read(file: Path) -> bytes:
    """A file's content; of a module as this process imported it, though it has been edited since."""
    return read_once(str(file)) if file.suffix == ".py" else file.read_bytes()


def _may_be_kept(file: Path) -> bool:
    """Whether it is code, or data whose name does not suggest a secret."""
    return file.suffix in (".py", ".yaml", ".yml") or not (file.name.startswith(".") or SECRET.search(file.name))


def _git(folder: Path, *args: str) -> bytes:
    command = ["git", "--no-optional-locks", "-C", str(folder), *args]
    environment = {name: value for name, value in os.environ.items() if name not in _REDIRECTS}
    return subprocess.run(command, env=environment, capture_output=True, check=True, timeout=10).stdout


def _inside(file: Path) -> str:
    here = Path(os.path.realpath(Path.cwd()))
    return str(file.relative_to(here if file.is_relative_to(here) else file.anchor))
