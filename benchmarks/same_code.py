"""src/runs/same_code.txt: versions of the project's code that compute the same, so that old runs ask nobody.

add("/tmp/old", keys)       # what `python -m benchmarks bits OLD --record` does when all bits are equal

A line is a key of a run's fingerprints and the hashes of versions that have been shown to compute the same. The first
line of a key begins with the version of FIRST, of which runs without a version of fingerprints are; a key with `/` is
a file of it and the hash of its content, by which such a run is known.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from benchmarks.bits import checked_out
from src.common.code import ROOT, digest, reach
from src.runs.provenance import ABSENT, COMPUTING, NOT_COMPUTING, OPTIONS, PROJECT, SAME_CODE

FIRST = "0be0405"
# What computes otherwise by intention for some data or options, whatever the configs of `bits` show: runs ask.
MEANT = ("src.data.images.tfds_sets",)  # turned, deep and packed files of TensorFlow Datasets
HEAD = """\
# Versions of the project's code that compute the same: `python -m benchmarks bits OLD --record` writes this file.
# See benchmarks/same_code.py.
"""


def hashes(root: Path) -> dict[str, str]:
    """Of all that a run may reach in the project that lies there, by the keys of fingerprints."""
    machinery = reach(COMPUTING, without=NOT_COMPUTING, root=root)
    whole = digest("\n".join(f"{key} {part.hash()}" for key, part in sorted(machinery.items())).encode())
    files = [file for option in OPTIONS for file in _files(root, option)]
    names = [".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for file in files]
    parts = reach(sorted(names), without=NOT_COMPUTING, root=root)
    return {PROJECT: whole} | {key: part.hash() for key, part in sorted(parts.items()) if key not in machinery}


def contents(root: Path) -> dict[str, str]:
    """Hashes of the project's files that may compute, by path."""
    files = sorted([*(root / PROJECT).rglob("*.py"), *(root / PROJECT).rglob("*.npz")])
    return {str(file.relative_to(root)): digest(file.read_bytes()) for file in files}


def add(old: Path, keys: Collection[str], *, new: Path = ROOT) -> None:
    """Write that these parts of the project compute the same in two versions of it.

    Args:
        keys: of fingerprints, of what has been run; one that a version has not stands as `-`.
    """
    before, after = hashes(old), hashes(new)
    lines = read() or first()
    for key in sorted(set(keys) & {*before, *after} - set(MEANT)):
        pair = [before.get(key, ABSENT), after.get(key, ABSENT)]
        same = next((line for line in lines if line[0] == key and pair[0] in line), None)
        if same is None:
            lines.append([key, *dict.fromkeys(pair)])
        elif pair[1] not in same:
            same.append(pair[1])
    # Of these it is only known that they are the project's own.
    lines += [
        [key, after[key]] for key in MEANT if key in after and not any([key, after[key]] == line[:2] for line in lines)
    ]
    _write(lines)


def first() -> list[list[str]]:
    """The lines of FIRST: a key and its hash."""
    with checked_out(FIRST) as root:
        return sorted([key, hashed] for key, hashed in (hashes(root) | contents(root)).items())


def _files(root: Path, option: str) -> list[Path]:
    path = root.joinpath(*option.split("."))
    found = [*path.rglob("*.py")] if path.is_dir() else [path.with_suffix(".py")]
    return [file for file in found if file.stem != "__main__"]


def read() -> list[list[str]]:
    """The file's lines: a key and the hashes of versions that compute the same."""
    if not SAME_CODE.exists():
        return []
    return [line.split() for line in SAME_CODE.read_text().splitlines() if line and not line.startswith("#")]


def _write(lines: list[list[str]]) -> None:
    SAME_CODE.write_text(HEAD + "".join(f"{' '.join(line)}\n" for line in sorted(lines, key=lambda line: line[0])))
