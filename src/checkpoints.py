"""Checkpoints as files: written whole, verified, listed, pruned; read only where they are as they were written.

    checkpoints = Checkpoints("run/checkpoints", max_to_keep=3)
    checkpoints.save(state)
    checkpoints.restore(state)      # the newest good one; damaged ones are named and passed over

`ckpt-<n>.index` and `ckpt-<n>.data-*` are TensorFlow's, and `checkpoint` lists them for tf.train.latest_checkpoint.
`ckpt-<n>.json`, written last, makes a checkpoint count: it has the checksums of the files, the progress, and the name,
shape and dtype of each variable. Whatever has none is what a killed save left, and is swept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from src.files import delete, fsync, replace
from src.state import TrainState

log = logging.getLogger(__name__)


class DamagedCheckpoint(Exception):
    """A checkpoint's files are not as they were written."""


class CheckpointError(RuntimeError):
    """No checkpoint could be written or none is good."""


class Checkpoints:
    """The checkpoints of one directory; one process at a time may write there.

    Args:
        directory: made with the first save.
        max_to_keep: how many of the newest stay.
    """

    def __init__(self, directory: str | Path, *, max_to_keep: int = 3) -> None:
        if max_to_keep < 1:
            raise ValueError(f"max_to_keep is {max_to_keep}; it must be at least 1")
        self.directory, self.max_to_keep = Path(directory), max_to_keep
        self._swept = False

    def save(self, state: TrainState) -> Path:
        """Write, read back, fsync and list a checkpoint; prune old ones. Returns its prefix.

        Raises:
            CheckpointError: it could not be written; those before it are as they were.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.sweep()
        prefix = self.directory / f"ckpt-{max(self._numbers(), default=0) + 1}"
        try:
            state.tensors().write(str(prefix))
            _verify_tensors(prefix, state)
            self._list(prefix, state)
        except (OSError, tf.errors.OpError, DamagedCheckpoint) as error:
            self._remove(prefix)
            raise CheckpointError(
                f"checkpoint {prefix} could not be written ({_first_line(error)}); those before it are intact. "
                "Make room or mend the disk, then type the same command: it goes on from the last one"
            ) from error
        self._prune()
        return prefix

    def restore(self, state: TrainState) -> Path | None:
        """Bring the state back to the newest good checkpoint. Returns its prefix, or None where there is none yet.

        Raises:
            CheckpointError: there are checkpoints, all damaged.
            ValueError: the checkpoint is of another model or optimizer; names the first difference.
        """
        prefix = self._newest_good()
        if prefix is not None:
            _check_manifest(prefix, state.manifest())
            state.tensors().read(str(prefix)).assert_consumed()
            state.load_progress()
        return prefix

    def restore_weights(self, state: TrainState) -> Path | None:
        """Bring back the model's variables alone, of the newest good checkpoint; else as `restore`."""
        prefix = self._newest_good()
        if prefix is not None:
            _check_manifest(prefix, {"model": state.manifest()["model"]})
            variables = [v.value for v in state.model.variables]
            tf.train.Checkpoint(model=variables).read(str(prefix)).expect_partial()
        return prefix

    def sweep(self) -> None:
        """Remove what killed saves left behind; done once, before the first save."""
        if self._swept or not self.directory.is_dir():
            return
        listed = self._listed()
        for path in self.directory.iterdir():
            match = re.fullmatch(r"(ckpt-\d+)(_temp|\..*)|(\.tmp-.*|checkpoint\.tmp.*)", path.name)
            if match and (match[3] or match[2] == "_temp" or match[1] not in listed):
                delete(path)
        self._swept = True

    def _newest_good(self) -> Path | None:
        names = sorted(self._listed(), key=_number, reverse=True)
        damaged = []
        for name in names:
            prefix = self.directory / name
            try:
                read_manifest(prefix)
            except DamagedCheckpoint as error:
                log.warning("checkpoint %s is damaged (%s): the one before it is used", prefix, error)
                damaged.append(name)
            else:
                return prefix
        if damaged:
            raise CheckpointError(
                f"all {len(damaged)} checkpoints in {self.directory} are damaged ({', '.join(damaged)}); "
                "put good files back, or start afresh with rerun=true"
            )
        return None

    def _listed(self) -> set[str]:
        """Checkpoints that once counted: those with a manifest, and those that TensorFlow's state file lists."""
        names = {path.stem for path in self.directory.glob("ckpt-*.json")}
        try:
            text = (self.directory / "checkpoint").read_text(errors="replace")
        except OSError:
            text = ""
        names |= {name for name in re.findall(r'"(ckpt-\d+)"', text) if list(self.directory.glob(f"{name}.*"))}
        return names

    def _numbers(self) -> list[int]:
        return [_number(path.name) for path in self.directory.glob("ckpt-*")]

    def _list(self, prefix: Path, state: TrainState) -> None:
        files = sorted(self.directory.glob(f"{prefix.name}.*"))
        for path in files:
            fsync(path)
        body = {
            "files": {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in files},
            "step": state.step,
            "epoch": state.epoch,
            "variables": state.manifest(),
        }
        replace(prefix.with_name(f"{prefix.name}.json"), json.dumps({"checksum": _checksum(body), **body}))
        self._write_state_file()

    def _write_state_file(self) -> None:
        """The list that tf.train.latest_checkpoint and CheckpointManager read."""
        names = sorted({path.stem for path in self.directory.glob("ckpt-*.json")}, key=_number)[-self.max_to_keep :]
        times = [(self.directory / f"{name}.json").stat().st_mtime for name in names]
        lines = [f'model_checkpoint_path: "{names[-1]}"', *(f'all_model_checkpoint_paths: "{n}"' for n in names)]
        lines += [f"all_model_checkpoint_timestamps: {time}" for time in times]
        lines += [f"last_preserved_timestamp: {times[0] - 1}"]
        replace(self.directory / "checkpoint", "\n".join(lines) + "\n")

    def _prune(self) -> None:
        names = sorted(self._listed(), key=_number)
        for name in names[: -self.max_to_keep]:
            self._remove(self.directory / name)

    def _remove(self, prefix: Path) -> None:
        # The manifest goes first: what a kill leaves then is swept, never taken for a damaged checkpoint.
        prefix.with_name(f"{prefix.name}.json").unlink(missing_ok=True)
        for path in [*self.directory.glob(f"{prefix.name}.*"), prefix.with_name(f"{prefix.name}_temp")]:
            delete(path)


def read_manifest(prefix: Path) -> dict[str, Any]:
    """The checkpoint's manifest, after every file has been compared with it.

    Raises:
        DamagedCheckpoint: naming the file.
    """
    path = prefix.with_name(f"{prefix.name}.json")
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


def _check_manifest(prefix: Path, wanted: dict[str, list[list[Any]]]) -> None:
    saved = read_manifest(prefix)["variables"]
    for group, variables in wanted.items():
        if saved[group] == variables:
            continue
        pairs = zip(saved[group], variables, strict=False)
        number = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(saved[group]), len(variables)))
        there, here = ([*group_, None][min(number, len(group_))] for group_ in (saved[group], variables))
        raise ValueError(
            f"checkpoint {prefix} does not fit this {group}: its variable {number} is {_described(there)}, "
            f"here it is {_described(here)}. Restore it with the {group} that it was saved from"
        )


def _described(variable: list[Any] | None) -> str:
    if variable is None:
        return "not there"
    name, shape, dtype = variable
    return f"{name} {dtype} {shape}"


def _verify_tensors(prefix: Path, state: TrainState) -> None:
    reader = tf.train.load_checkpoint(str(prefix))
    for group, variables in state.variables().items():
        for number, variable in enumerate(variables):
            read = reader.get_tensor(f"{group}/{number}/.ATTRIBUTES/VARIABLE_VALUE")
            if np.asarray(read).tobytes() != variable.numpy().tobytes():
                raise DamagedCheckpoint(f"{variable.path} reads back as another value")


def _number(name: str) -> int:
    match = re.match(r"ckpt-(\d+)", name)
    assert match
    return int(match[1])


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
