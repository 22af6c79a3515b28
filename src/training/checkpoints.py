"""Checkpoints of a state: written whole, verified, listed, pruned; read only where they are as they were written.

    checkpoints = Checkpoints("run/checkpoints", max_to_keep=3)
    checkpoints.save(state)         # or, in another thread than the one that trains: write(state.snapshot())
    checkpoints.restore(state)      # the newest good one; damaged ones are named and passed over

`ckpt-<n>.index` and `ckpt-<n>.data-*` are TensorFlow's, and `checkpoint` lists them for tf.train.latest_checkpoint;
what makes a checkpoint count is its manifest, see `src.training.manifest`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from src.common.files import delete, fsync_folders, literal, replace
from src.common.internals import OBJECT_GRAPH, VARIABLE, object_graph
from src.common.ranges import Count, enforce_ranges
from src.training.manifest import (
    CheckpointError,
    DamagedCheckpoint,
    listed,
    manifest_path,
    newest_good,
    number,
    read_manifest,
    write_manifest,
)
from src.training.state import Snapshot, TrainState, kept


@enforce_ranges
class Checkpoints:
    """The checkpoints of one directory; one process at a time may write there.

    Args:
        directory: made with the first save.
        max_to_keep: how many of the newest stay.
    """

    def __init__(self, directory: str | Path, *, max_to_keep: Count = 3) -> None:
        self.directory, self.max_to_keep = Path(directory), max_to_keep
        self._swept = self._named = False

    def save(self, state: TrainState) -> Path:
        """`write` the state as it is now."""
        return self.write(state.snapshot())

    def write(self, snapshot: Snapshot) -> Path:
        """Write, read back, fsync and list a checkpoint; prune old ones. Returns its prefix.

        Raises:
            CheckpointError: it could not be written; those before it are as they were.
        """
        prefix = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.sweep()
            numbers = [number(path.name) for path in self.directory.glob("ckpt-*")]
            prefix = self.directory / f"ckpt-{max(numbers, default=0) + 1}"
            _write_tensors(prefix, snapshot)
            _verify_tensors(prefix, snapshot)
            if not self._named:
                fsync_folders(self.directory)
                self._named = True
            write_manifest(prefix, step=snapshot.step, epoch=snapshot.epoch, variables=snapshot.manifest)
            self._write_state_file()
        except (OSError, tf.errors.OpError, DamagedCheckpoint) as error:
            if prefix is not None:
                self._remove(prefix)
            reason = str(error).partition("\n")[0]
            raise CheckpointError(
                f"no checkpoint could be written in {self.directory} ({reason}); those there are intact. "
                "Make room or mend the disk, then type the same command: it goes on from the last one"
            ) from error
        for name in listed(self.directory)[: -self.max_to_keep]:
            self._remove(self.directory / name)
        return prefix

    def restore(self, state: TrainState) -> Path | None:
        """Bring the state back to the newest good checkpoint, and sweep what killed saves left.

        Returns its prefix, or None where there is none yet.

        Raises:
            CheckpointError: there are checkpoints, all damaged.
            ValueError: the checkpoint is of another model or optimizer; names the first difference.
        """
        self.sweep()
        prefix = newest_good(self.directory)
        if prefix is not None:
            _check_manifest(prefix, state.manifest())
            with literal(prefix) as name:
                state.tensors().read(name).assert_consumed()
            state.load_progress()
        return prefix

    def restore_weights(self, state: TrainState) -> Path | None:
        """Bring back the model's variables alone, as `TrainState.measured_weights`, from the newest good checkpoint.

        No file is changed.
        """
        prefix = newest_good(self.directory)
        if prefix is not None:
            averages, manifest = state.averages(), state.manifest()
            _check_manifest(prefix, {group: manifest[group] for group in ("model", *["optimizer"][: len(averages)])})
            variables = [v.value for v in state.model.variables]
            with literal(prefix) as name:
                tf.train.Checkpoint(model=variables).read(name).expect_partial()
                if averages:
                    reader = tf.train.load_checkpoint(name)
                    for place, variable in averages.items():
                        variable.assign(reader.get_tensor(_key("optimizer", place)))
            state.holds_averages = bool(averages)
        return prefix

    def sweep(self) -> None:
        """Remove what killed saves left behind; done once."""
        if self._swept or not self.directory.is_dir():
            return
        names = listed(self.directory)
        for path in self.directory.iterdir():
            match = re.fullmatch(r"(ckpt-\d+)(_temp|\..*)|\.tmp-.*", path.name)
            if match and (match[1] not in names or match[2] == "_temp"):
                delete(path)
        self._swept = True

    def _write_state_file(self) -> None:
        """The list that tf.train.latest_checkpoint and CheckpointManager read.

        Not by tf.compat.v1.train.update_checkpoint_state, which renames the file before its bytes are on the disk.
        """
        names = sorted((path.stem for path in self.directory.glob("ckpt-*.json")), key=number)[-self.max_to_keep :]
        times = [manifest_path(self.directory / name).stat().st_mtime for name in names]
        folder = str(self.directory.absolute())  # below which names are taken as they are
        state = tf.compat.v1.train.generate_checkpoint_state_proto(folder, names[-1], names, times, times[0] - 1)
        replace(self.directory / "checkpoint", str(state))

    def _remove(self, prefix: Path) -> None:
        # The manifest goes first: what a kill leaves then is swept, never taken for a damaged checkpoint.
        manifest_path(prefix).unlink(missing_ok=True)
        for path in [*self.directory.glob(f"{prefix.name}.*"), prefix.with_name(f"{prefix.name}_temp")]:
            delete(path)


@contextmanager
def best_weights(state: TrainState, directory: str | Path) -> Iterator[None]:
    """The model has the weights of the best epoch for a moment, then those of now again.

    Args:
        directory: of the best checkpoint; where no epoch was the best yet, the weights stay those of now.

    Raises:
        CheckpointError: it is no longer there, or the one that is being written cannot be.
    """
    state.join_saving()
    held_averages = state.holds_averages
    with kept(state.model.variables):
        try:
            prefix = Checkpoints(directory).restore_weights(state)
            if state.best and (prefix is None or read_manifest(prefix)["step"] != state.best.step):
                raise CheckpointError(
                    f"the best checkpoint, of step {state.best.step}, is no longer in {directory}; "
                    "put it back, or start afresh with rerun=true"
                )
            with state.measured_weights():  # where there is no best checkpoint yet
                yield
        finally:
            state.holds_averages = held_averages


def _check_manifest(prefix: Path, wanted: dict[str, list[list[Any]]]) -> None:
    saved = read_manifest(prefix)["variables"]
    for group, variables in wanted.items():
        if saved[group] == variables:
            continue
        pairs = zip(saved[group], variables, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(saved[group]), len(variables)))
        there, here = ([*entries, None][min(first, len(entries))] for entries in (saved[group], variables))
        raise ValueError(
            f"checkpoint {prefix} does not fit this {group}: its variable {first} is {_described(there)}, "
            f"here it is {_described(here)}. Restore it with the {group} that it was saved from"
        )


def _key(*path: str | int) -> str:
    """A variable's name in a checkpoint of `TrainState.tensors`."""
    return "/".join(map(str, [*path, VARIABLE]))


def _described(variable: list[Any] | None) -> str:
    if variable is None:
        return "not there"
    name, shape, dtype = variable
    return f"{name} {dtype} {shape}"


def _write_tensors(prefix: Path, snapshot: Snapshot) -> None:
    """Write what `TrainState.tensors().write` would, which takes variables alone, by one op."""
    groups = snapshot.tensors.items()
    values = {_key(group, place): tensor for group, tensors in groups for place, tensor in enumerate(tensors)}
    values[_key("progress")] = tf.constant(snapshot.progress)
    values[OBJECT_GRAPH] = tf.constant(object_graph(tuple(values)))
    names = [*values]
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=[*values.values()]
    )


def _verify_tensors(prefix: Path, snapshot: Snapshot) -> None:
    with literal(prefix) as name:
        reader = tf.train.load_checkpoint(name)
        for group, tensors in snapshot.tensors.items():
            for place, tensor in enumerate(tensors):
                if np.asarray(reader.get_tensor(_key(group, place))).tobytes() != np.asarray(tensor).tobytes():
                    raise DamagedCheckpoint(f"{snapshot.manifest[group][place][0]} reads back as another value")
