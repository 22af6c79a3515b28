"""Branching: a new run that starts from another's checkpoint.

branch(["resume=1a2b3c4d", "epochs=40"])     # that run's own overrides before these, and what its checkpoint is
parent = find_parent(Path("outputs/digits/cnn-...-1a2b3c4d"))
parent.config_hash, parent.step     # what the branch's identity counts; never a path
"""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from src.common.errors import ConfigError
from src.config.checks import OPTIONAL_GROUPS
from src.config.command_line import parse_command
from src.config.compose import CONFIG_NAME, parse_override, search_path, with_config_dir
from src.config.overrides import as_override, refuse_filled_in
from src.runs.collection import BRANCHES, ID, SHORTEST_ID, find_run, find_runs, lock_path
from src.runs.commands import quoted
from src.runs.external_values import recorded_values
from src.runs.record import Record
from src.runs.recorded_config import read_config
from src.training.manifest import (
    CheckpointError,
    DamagedCheckpoint,
    copy_checkpoint,
    listed,
    newest_good,
    read_manifest,
)

log = logging.getLogger(__name__)

SUGGESTED = 3  # runs that a message names


# What a run was told once, and a branch of it is not.
NOT_INHERITED = {
    *("resume", "parent.config_hash", "parent.step", "parent.checkpoint", "parent.epoch"),
    *("rerun", "stale", "wait", "max_seconds"),
}


@dataclass(frozen=True)
class Parent:
    """Where a branch starts: the newest good checkpoint of a run."""

    directory: Path
    config_hash: str
    checkpoint: str
    overrides: tuple[str, ...]
    step: int
    epoch: int
    flags: tuple[str, ...] = ()  # of its command
    resolved: dict[str, Any] = field(default_factory=dict)  # by dotted key: what its config took from outside of it

    def overrides_of_branch(self) -> list[str]:
        """What the branch's config says of its parent."""
        return [
            f"parent.config_hash='{self.config_hash}'",
            f"parent.step={self.step}",
            f"parent.epoch={self.epoch}",
            f"parent.checkpoint='{self.checkpoint}'",
        ]


def branch(overrides: list[str], *, config_name: str = CONFIG_NAME) -> list[str]:
    """With `resume=RUN` among the overrides: RUN's own before them, where they name others, and where it stands.

    Raises:
        ConfigError: RUN is none, or several; or a key is given that a branch fills in.
    """
    parsed = [parse_override(text) for text in overrides]
    for override in parsed:
        if override.key_or_group.partition(".")[0] == "parent":
            refuse_filled_in(override)
    named = [override for override in parsed if override.key_or_group == "resume"]
    if not named or named[-1].value() is None:
        return overrides
    if named[-1].is_sweep_override():
        raise ConfigError(f"{named[-1].input_line}: a sweep branches from one run; type a command for each")
    text = str(named[-1].value())
    try:
        if ID.fullmatch(text) and not Path(text).exists() and Path("outputs").is_dir():
            text = str(find_run(text).directory)
            overrides = [word for word in overrides if word != named[-1].input_line] + [f"resume={quoted(text)}"]
        parent = find_parent(Path(text))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    own = {override.key_or_group for override in parsed} | NOT_INHERITED
    flags = parse_command(parent.flags)
    if (name := flags.config_name or CONFIG_NAME) != config_name:
        raise ConfigError(f"{named[-1].input_line}: that run was made with --config-name={name}; give that too")
    if not search_path(overrides):
        overrides = with_config_dir([*flags.overrides, *overrides], flags.config_dir)
    # What RUN took from outside, as from ${oc.env:DATA}, is what it was then, but of options that are replaced here.
    recorded = {
        key: f"++{key}={as_override(value)}"
        for key, value in ({} if own.intersection(OPTIONAL_GROUPS) else parent.resolved).items()
        if not any(f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.") for name in own)
    }
    inherited = [text for text in parent.overrides if parse_override(text).key_or_group not in {*own, *recorded}]
    return [*inherited, *recorded.values(), *overrides, *parent.overrides_of_branch()]


def find_parent(directory: Path) -> Parent:
    """The state that a branch of this run starts from.

    Raises:
        ValueError: it is no run, or has no checkpoint yet, or none any more.
        CheckpointError: all its checkpoints are damaged.
    """
    record = Record(directory).read()
    if record is None:
        raise ValueError(
            f"resume={directory} is no run: it has no run.json. Runs are outputs/<name>/<label>-<id>{_meant(directory)}"
        )
    prefix = newest_good(directory / "checkpoints")
    if prefix is None:
        if cleaned := record["cleaned"]:
            raise ValueError(
                f"resume={directory} has no checkpoints any more: python -m src.runs clean removed them at {cleaned}. "
                "Branch from a run that has some, or train this one again: its own command with rerun=true"
            )
        raise ValueError(f"resume={directory} has no checkpoint yet, so there is nothing to start from")
    manifest = read_manifest(prefix)
    config = directory / ".hydra" / "config.yaml"
    cfg = read_config(config) if config.is_file() else OmegaConf.create()
    if not record["config_hash"]:
        raise ValueError(f"resume={directory}: its run.json has no config_hash, so it is no run's")
    return Parent(
        directory=directory,
        config_hash=record["config_hash"],
        checkpoint=manifest["checksum"],
        overrides=tuple(record["overrides"]),
        resolved={".".join(path): value for path, value in recorded_values(cfg, record)},
        step=manifest["step"],
        epoch=manifest["epoch"],
        flags=tuple(record["flags"]),
    )


def _meant(directory: Path, *, folder: Path = Path("outputs")) -> str:
    """The runs of like names or ids, or the newest ones, as an end of a message."""
    runs = [run for run in find_runs([folder])[0] if not run.set_aside] if folder.is_dir() else []
    named = {name: run for run in runs for name in (str(run.directory), run.directory.name, run.values["id"])}
    word = str(directory)
    close = [name for name in named if len(word) >= SHORTEST_ID and name.startswith(word)]
    close = close or difflib.get_close_matches(word, named, n=SUGGESTED, cutoff=0.7)
    if found := list(dict.fromkeys(str(named[name].directory) for name in close))[:SUGGESTED]:
        return f". Did you mean {' or '.join(found)}?"
    newest = sorted(runs, key=lambda run: run.values["started"] or "", reverse=True)[:SUGGESTED]
    return f"; the newest: {', '.join(str(run.directory) for run in newest)}" if newest else ""


def begin_branch(source: Path, directory: Path, *, checkpoint: str) -> None:
    """Note the branch in the parent's folder, and copy its checkpoint, unless that has been done.

    The note comes first, and the parent's checkpoints are looked for afterwards; `clean` moves them away first, and
    looks for the note afterwards. So one of the two sees the other, without a lock, which a parent in training holds.

    Args:
        source, directory: run directories.
        checkpoint: the checksum that the branch's identity counts.

    Raises:
        ValueError: the parent has gone on since, or its checkpoints have been removed.
    """
    _note(source, directory)
    target, checkpoints = directory / "checkpoints", source / "checkpoints"
    if listed(target):
        return
    try:
        prefix = newest_good(checkpoints)
        if prefix is not None:
            if read_manifest(prefix)["checksum"] != checkpoint:
                raise ValueError(f"{source} has gone on since; type the command again to branch from where it is now")
            copy_checkpoint(prefix, target)
    except (OSError, CheckpointError, DamagedCheckpoint):
        if listed(checkpoints):
            raise
    if not listed(checkpoints):
        for path in sorted(target.glob("ckpt-*"), reverse=True):  # first the manifest, without which none counts
            path.unlink()
        raise ValueError(
            f"the checkpoints of {source} were removed meanwhile, so there is nothing to start from; "
            "branch from another run, or train this one again: its own command with rerun=true"
        )


def _note(source: Path, directory: Path) -> None:
    path = source / BRANCHES / lock_path(directory).name
    try:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    except OSError as error:
        log.warning("%s cannot be written (%s): clean will not know of this branch", path, error.strerror)
