"""Files that are there whole or not at all.

replace(path, text)     # written beside, fsynced, renamed
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def replace(path: Path, text: str, *, at_once: bool = True) -> None:
    """Write a text file so that a reader, or a crash, sees the old one or the new one.

    Args:
        at_once: return when even a power cut leaves the new one.
    """
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        temporary.write_text(text)
        fsync(temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if at_once:
        fsync(path.parent)


def fsync(path: Path) -> None:
    """Make sure that a file's bytes, or a directory's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def generated_code() -> set[Path]:
    """The files that AutoGraph has written for this process, which removes them only if it ends in good order."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("__autograph_generated_file")]
    return {Path(module.__file__) for module in modules if module.__file__}


def delete(path: Path) -> None:
    """Remove a file or a whole directory; fine where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
