"""Files that are there whole or not at all, and where files lie.

replace(path, text)     # written beside, fsynced, renamed
with replacing(folder) as new: ...
for parent, folders, files in walk(folder): ...
"""

from __future__ import annotations

import functools
import glob
import os
import re
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_INSTALLED = {"site-packages", "dist-packages"}
_STANDARD = tuple({os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")})


@functools.cache  # asked of every module, several times a run
def is_own(path: str) -> bool:
    """Whether a file of code is of neither Python nor an installed package."""
    if _INSTALLED.intersection(Path(path).parts) or path.startswith("<"):
        return False
    return not os.path.realpath(path).startswith(_STANDARD)


def replace(path: Path, content: str | bytes, *, at_once: bool = True) -> None:
    """Write a file, text in UTF-8, so that a reader, or a crash, sees the old one or the new one.

    Args:
        at_once: return when even a power cut leaves the new one.
    """
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        fsync(temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if at_once:
        fsync(path.parent)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder beside this one, to be filled; whole, it takes this one's place, and not before."""
    temporary = folder.with_name(f".tmp-{os.getpid()}-{folder.name}")
    old = folder.with_name(f"{temporary.name}-old")
    for left in folder.parent.glob(f".tmp-*-{glob.escape(folder.name)}*"):
        delete(left)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            fsync(path)
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        fsync(folder.parent)
    finally:
        delete(temporary)
        delete(old)


@contextmanager
def literal(path: Path) -> Iterator[str]:
    """A name for TensorFlow of a checkpoint or SavedModel to read: it takes brackets and stars for a pattern."""
    if not re.search(r"[*?\[\\]", str(path)):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "link")
        link.symlink_to(path.parent.resolve())
        yield str(link / path.name)


def fsync(path: Path) -> None:
    """Make sure that a file's bytes, or a directory's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        error.filename = str(path)  # which a message would not have
        raise
    finally:
        os.close(descriptor)


def fsync_folders(folder: Path) -> None:
    """Make sure that a folder's names are on the disk, and its own in those above it, as far as its disk goes."""
    folder = folder.resolve()
    for path in (folder, *folder.parents):
        with suppress(PermissionError):  # whoever may not read it has made nothing in it
            fsync(path)
        if path.is_mount():
            break


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As os.walk, and into the folders that links lead to; but not by a link that leads back above itself."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        for name in [name for name in folders if os.path.islink(os.path.join(parent, name))]:
            target = os.path.realpath(os.path.join(parent, name))
            above = [Path(parent), *Path(parent).parents[: len(Path(parent).parts) - len(folder.parts)]]
            if any(Path(os.path.realpath(path)).is_relative_to(target) for path in above):
                folders.remove(name)
        yield parent, folders, files


def delete(path: Path) -> None:
    """Remove a file or a whole directory; fine where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
