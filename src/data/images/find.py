"""Image files that a command names: files, folders and patterns.

files, base = find_images(["photos", "scans/**/*.png"])
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from src.common.files import walk
from src.data.images.files import SUFFIXES

MASKS, OVERLAYS, RESULTS = "masks", "overlays", "predictions.json"  # in an output folder of src.predict


def find_images(words: Iterable[str], *, leave_out: Sequence[Path] = ()) -> tuple[list[Path], Path]:
    """The image files that are meant, each once, and the deepest folder that holds all that was named.

    Args:
        words: files; folders, searched at any depth for SUFFIXES; patterns such as `a/**/*.png`.
            Hidden files in folders are passed over, and so are the pictures in an output folder of src.predict.
        leave_out: folders whose images are ignored, even if links lead to them.

    Raises:
        ValueError: a file or folder does not exist, or a folder or pattern has no image.
    """
    left_out = [os.path.realpath(folder) for folder in leave_out]
    files: dict[str, Path] = {}
    bases: list[Path] = []
    for word in words:
        path, is_folder = Path(word), os.path.isdir(word)
        if is_folder:
            found, bases = _below(path), [*bases, path]
        elif os.path.lexists(word):
            found, bases = [path], [*bases, path.parent]
        elif glob.has_magic(word):
            found, bases = _matching(word), [*bases, _fixed_part(path)]
        else:
            raise ValueError(f"there is no file or folder {word}")
        found = [file for file in found if not any(Path(os.path.realpath(file)).is_relative_to(f) for f in left_out)]
        if not found:
            where = f"in the folder {word}" if is_folder else f"matches {word!r}"
            raise ValueError(f"no image {where}; images end in {' '.join(SUFFIXES)}")
        for file in found:
            files.setdefault(os.path.abspath(file), file)
    parents = {os.path.dirname(file) for file in files}
    return list(files.values()), Path(os.path.commonpath([*map(os.path.abspath, bases), *parents]))


def _below(folder: Path) -> list[Path]:
    found = []
    for parent, names, files in walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        found += [Path(parent, name) for name in sorted(files) if not name.startswith(".")]
    return _images(found, folder)


def _matching(pattern: str) -> list[Path]:
    fixed = _fixed_part(Path(pattern))
    names = os.path.join(glob.escape(str(fixed)), os.path.relpath(pattern, fixed))
    return _images(map(Path, sorted(glob.glob(names, recursive=True))), fixed)


def _images(paths: Iterable[Path], top: Path) -> list[Path]:
    """Those that are named like images; a link to nothing among them, so that its reading names it."""
    named = (path for path in paths if path.suffix.lower() in SUFFIXES and not _is_output(path, top))
    return [path for path in named if os.path.isfile(path) or (path.is_symlink() and not path.exists())]


def _is_output(path: Path, top: Path) -> bool:
    """Whether src.predict has drawn a picture, judged by its place below the top folder."""
    folders = [top / part for part in path.relative_to(top).parents]
    return any(
        folder.name in (MASKS, OVERLAYS) and (folder.parent / RESULTS).is_file() and (folder.parent / MASKS).is_dir()
        for folder in folders[:-1]
    )


def _fixed_part(pattern: Path) -> Path:
    """The folders before the first wildcard; a folder whose name has one and exists is taken literally."""
    return next(parent for parent in pattern.parents if parent.is_dir() or not glob.has_magic(str(parent)))
