"""A checkpoint's files without TensorFlow: which there are, whether they are whole, and copying them.

    prefix = newest_good(Path("run/checkpoints"))       # run/checkpoints/ckpt-12
    read_manifest(prefix)["step"]

`ckpt-<n>.json`, written last, makes a checkpoint count: it has the checksums of the files, step and epoch, and the
name, shape and dtype of each variable. Whatever has none is what a killed save left.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

from src.common.files import fsync, replace

log = logging.getLogger(__name__)

BEST = "best"  # the folder of the best epoch's checkpoint, among the newest ones


class DamagedCheckpoint(Exception):
    """A checkpoint's files are not as they were written."""


class CheckpointError(RuntimeError):
    """No checkpoint could be written, or none is good."""


def number(name: str) -> int:
    """The number in ckpt-<number>..."""
    match = re.match(r"ckpt-(\d+)", name)
    assert match, name
    return int(match[1])


def listed(directory: Path) -> list[str]:
    """Checkpoints that once counted, oldest first: those with a manifest, or in TensorFlow's state file."""
    names = {path.stem for path in directory.glob("ckpt-*.json")}
    try:
        text = (directory / "checkpoint").read_text(errors="replace")
    except OSError:
        text = ""
    names |= {name for name in re.findall(r'"(ckpt-\d+)"', text) if list(directory.glob(f"{name}.*"))}
    return sorted(names, key=number)


def newest_good(directory: Path) -> Path | None:
    """The prefix of the newest checkpoint whose files are as written; None where there is none at all.

    Raises:
        CheckpointError: there are some, all damaged.
    """
    damaged = []
    for name in reversed(listed(directory)):
        prefix = directory / name
        try:
            read_manifest(prefix)
        except DamagedCheckpoint as error:
            log.warning("checkpoint %s is damaged (%s): the one before it is used", prefix, error)
            damaged.append(name)
        else:
            return prefix
    if damaged:
        raise CheckpointError(
            f"all {len(damaged)} checkpoints in {directory} are damaged ({', '.join(damaged)}); "
            "put good files back, or start afresh with rerun=true"
        )
    return None


def write_manifest(prefix: Path, *, step: int, epoch: int, variables: dict[str, list[list[Any]]]) -> None:
    """Make the checkpoint of these files count."""
    files = sorted(prefix.parent.glob(f"{prefix.name}.*"))
    for path in files:
        fsync(path)
    body = {
        "files": {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in files},
        "step": step,
        "epoch": epoch,
        "variables": variables,
    }
    replace(manifest_path(prefix), json.dumps({"checksum": _checksum(body), **body}))


def manifest_path(prefix: Path) -> Path:
    """Where the checkpoint's manifest lies."""
    return prefix.with_name(f"{prefix.name}.json")


def read_manifest(prefix: Path) -> dict[str, Any]:
    """The checkpoint's manifest, after every file has been compared with it.

    Raises:
        DamagedCheckpoint: naming the file.
    """
    path = manifest_path(prefix)
    try:
        manifest = json.loads(path.read_bytes())
        body = {key: value for key, value in manifest.items() if key != "checksum"}
        intact = manifest["checksum"] == _checksum(body)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        intact = False
    if not intact:
        raise DamagedCheckpoint(f"{path.name} cannot be read or does not match its checksum")
    for name, expected in manifest["files"].items():
        file = prefix.with_name(name)
        if not file.is_file():
            raise DamagedCheckpoint(f"{name} is missing")
        if file.stat().st_size != expected["size"] or _sha256(file) != expected["sha256"]:
            raise DamagedCheckpoint(f"{name} does not match its checksum")
    return manifest


def copy_checkpoint(prefix: Path, directory: Path) -> None:
    """Copy a checkpoint into another run's folder, the manifest last, so that it counts only when it is whole there."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in read_manifest(prefix)["files"]:
        shutil.copyfile(prefix.with_name(name), directory / name)
        fsync(directory / name)
    replace(manifest_path(directory / prefix.name), manifest_path(prefix).read_text())


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
