"""Where a result comes from: the code that computes and the data.

fingerprints(config)    # {"code": {"src/trainer.py": "1f0c..."}, "data": {"dataset": "digit_scenes:1.0.0"}}
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src.files import walk
from src.moved import new_name

ROOT = Path(__file__).resolve().parents[2]

# Where the code that computes a result begins, besides the config's targets; what these import belongs to it.
COMPUTING = ("src.trainer", "src.build")
# What stores, shows or starts, and computes nothing.
WATCHING = ("checkpoint", "export", "hparams", "histograms", "images", "profile", "progress", "record", "summaries")
NOT_COMPUTING = (
    *("src.preflight", "src.targets", "src.hydra_settings", "src.origins", "src.spelling"),
    *("src.config", "src.checks", "src.machine", "src.runs", "src.files", "src.manifest", "src.checkpoints"),
    "src.pictures",
    *(f"src.callbacks.{name}" for name in WATCHING),
)
_contents: dict[Path, bytes] = {}


def fingerprints(config: dict[str, Any]) -> dict[str, Any]:
    """The two things besides the config that decide a result.

    Args:
        config: a resolved config as plain dicts and lists.

    Returns:
        `code`: a hash of each file that computes: the trainer, what `_target_` names and what these import, as far
        as it is not of an installed package; data files beside such modules too. `data`: the data option's `dataset`
        (name and version), and for a `path` in it a hash of its files' names, sizes and times.
    """
    modules = [*COMPUTING, *(target.rpartition(".")[0] for target in _targets(config))]
    code = _code(tuple(modules))
    data = config.get("data") or {}
    found = {key: data[key] for key in ("dataset",) if data.get(key) is not None}
    if data.get("path") is not None:
        found["path"] = _listing(Path(data["path"]).expanduser())
    return {"code": dict(code), "data": found}


def differences(old: dict[str, Any], new: dict[str, Any], *, path: str | None = None) -> list[str]:
    """What differs between two fingerprints, as `code src/trainer.py` or `data dataset`.

    Args:
        path: the config's data.path, which is named where its files differ.
    """
    return [
        _files_of(path) if path is not None and (kind, key) == ("data", "path") else f"{kind} {key}"
        for kind in ("code", "data")
        for key in sorted({*old.get(kind, {}), *new[kind]})
        if old.get(kind, {}).get(key) != new[kind].get(key)
    ]


def _files_of(path: str) -> str:
    if not Path(path).expanduser().exists():
        return f"data.path={path}, where nothing is any more"
    return f"the files of data.path={path} (names, sizes or times)"


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("_target_"), str):
            yield new_name(value["_target_"])
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _targets(item)


@functools.cache
def _code(modules: tuple[str, ...]) -> dict[str, str]:
    return {_shown(path): _hash(read_once(path)) for path in _with_imports(list(modules))}


def forget() -> None:
    """Read all code anew, as another process would."""
    _contents.clear()
    _code.cache_clear()
    _imported_by.cache_clear()


def look_again() -> None:
    """In a forked child: read anew what has been changed since, but for what was imported before the fork."""
    imported = {vars(module).get("__file__") for module in list(sys.modules.values())}
    for path, content in list(_contents.items()):
        if str(path) not in imported and (not path.is_file() or path.read_bytes() != content):
            del _contents[path]
            _code.cache_clear()
            _imported_by.cache_clear()


def _with_imports(modules: list[str]) -> list[Path]:
    """The files of modules and of all that they import, without installed packages."""
    found: dict[Path, None] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = _own_file(module)
        if path is None or path in found or any(f"{module}.".startswith(f"{name}.") for name in NOT_COMPUTING):
            continue
        found[path] = None
        found.update(dict.fromkeys(path.parent.glob("*.npz")))
        waiting += _imported_by(module, path)
    return sorted(found)


@functools.cache
def _imported_by(module: str, path: Path) -> list[str]:
    found = [module.rpartition(".")[0]]  # whose __init__ runs as well
    for node in ast.walk(ast.parse(read_once(path), str(path))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = node.module or ""
            if node.level:  # 1 is the package that the module is in, or is
                parts = module.split(".") + ["__init__"] * (path.name == "__init__.py")
                imported = ".".join([*parts[: -node.level], *filter(None, [node.module])])
            found += [imported, *(f"{imported}.{alias.name}" for alias in node.names)]
    return found


def _own_file(module: str) -> Path | None:
    """The file of a module of the project's or the user's; None for one of Python or of an installed package."""
    installed = (sys.prefix, sys.base_prefix)
    others = [Path(folder) for folder in sys.path if folder and not folder.startswith(installed)]
    for folder in (ROOT, Path.cwd(), *others) if module else ():
        path = folder.joinpath(*module.split("."))
        for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
            if file.is_file() and "site-packages" not in file.parts:
                return file
    return None


def read_once(path: Path) -> bytes:
    """A file's content as this process first saw it: what it imports, whatever is edited while a sweep goes on."""
    if path not in _contents:
        _contents[path] = path.read_bytes()
    return _contents[path]


def _listing(path: Path) -> str:
    """A hash of the names, sizes and times of a folder's files, or of a file's."""
    below = (Path(parent, name) for parent, _, names in walk(path) for name in names)
    files = sorted(file for file in below if file.is_file()) if path.is_dir() else [path]
    lines = []
    for file in files:
        if file.exists():
            status = file.stat()
            lines.append(f"{os.path.relpath(file, path)} {status.st_size} {status.st_mtime_ns}")
    return _hash(os.fsencode("\n".join(lines)))


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
