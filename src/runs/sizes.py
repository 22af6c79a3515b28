"""Sizes on disk; of a link its own, not that of its target.

size_of(Path("outputs/digits/x"))           # 1234567
part_sizes(Path("outputs/digits/x"))        # {"checkpoints": 700000, "saved_model": 90000, ...}
"""

from __future__ import annotations

import os
from pathlib import Path


def size_of(path: Path | os.DirEntry[str]) -> int:
    """Bytes of a file, or of all files in a folder; 0 where there is none, or it has just been removed."""
    try:
        if not path.is_dir() or path.is_symlink():
            return os.lstat(path).st_size
        with os.scandir(path) as entries:
            return sum(map(size_of, entries))
    except FileNotFoundError:
        return 0


def kept_bytes(directory: Path) -> int:
    """Bytes of a run's checkpoints and SavedModel."""
    return sum(size_of(directory / name) for name in ("checkpoints", "saved_model"))


def part_sizes(directory: Path) -> dict[str, int]:
    """Bytes of each file or folder in a folder, the largest first."""
    sizes = {path.name: size_of(path) for path in directory.iterdir()}
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))
