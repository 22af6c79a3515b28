"""A run: its config, what identifies it, and where it lies. It is made once, and handed on.

run = Run.of(compose(["optimizer=adam"]))
run.id, run.directory       # 1a2b3c4d, outputs/digit_scenes/unet-adam-...-1a2b3c4d
run.decide()                # ("resume", False)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from hydra.types import RunMode
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.common.errors import ConfigError
from src.config.checks import plain_values
from src.config.identity import ID_DIGITS, followed, hash_of, identity_config, label_of
from src.runs.collection import lock_path
from src.runs.decision import Action, decide
from src.runs.provenance import changes
from src.runs.record import Record

# What tells a run's directory from a folder of somebody's files.
RUN_MARKERS = ("run.json", ".hydra", "train.log")


@dataclass(frozen=True)
class Run:
    """One run, whoever starts it.

    `cfg` is its checked config, without Hydra's own node, which is `hydra`; `identity` the part of it that decides the
    result. They are not to be changed.
    """

    cfg: DictConfig
    hydra: DictConfig
    identity: dict[str, Any]
    config_hash: str
    directory: Path

    @classmethod
    def of(cls, cfg: DictConfig, *, hydra: DictConfig | None = None, directory: Path | None = None) -> Run:
        """Make the run of a composed config.

        Args:
            hydra: its own node, where the config has none.
            directory: where another has put it; by default where the config says, or where the same id lies already.

        Raises:
            ConfigError: a folder with files that are no run's, or a directory that is not known before the run.
        """
        identity = identity_config(cfg)
        config_hash = hash_of(identity)
        node = cfg.hydra if hydra is None else hydra
        if directory is None:
            directory = _directory(node.sweep if node.mode == RunMode.MULTIRUN else node.run, config_hash)
        return cls(cfg=cfg, hydra=node, identity=identity, config_hash=config_hash, directory=directory)

    @property
    def id(self) -> str:
        return self.config_hash[:ID_DIGITS]

    @property
    def lock(self) -> Path:
        return lock_path(self.directory)

    @property
    def is_job(self) -> bool:
        """Whether it is one of a sweep."""
        return self.hydra.mode == RunMode.MULTIRUN

    @property
    def branches_from(self) -> Path:
        """Where the run of `resume` lies, which is said from where the command was typed, as seen from here."""
        return Path(os.path.relpath(to_absolute_path(self.cfg.resume)))

    @property
    def overrides(self) -> list[str]:
        """What was typed of it, or is its job's."""
        return cast(list[str], OmegaConf.to_container(self.hydra.overrides.task, resolve=False))

    @property
    def choices(self) -> dict[str, str | list[str]]:
        """The option of each group, or several."""
        chosen = plain_values(self.hydra.runtime.choices)
        return {group: option for group, option in chosen.items() if option and not group.startswith("hydra/")}

    def decide(self, *, record: Record | None = None, prints: dict[str, Any] | None = None) -> tuple[Action, bool]:
        """What the command does with this run, and whether what lies there is set aside first; see `decide`.

        Args:
            record: of this run, which is read, but where it is set aside whatever it says.
            prints: fingerprints of now; taken where they are not given.
        """
        return decide_at(self.directory, self.config_hash, self.identity, self.cfg, record=record, prints=prints)

    @classmethod
    def is_known(cls, cfg: DictConfig) -> bool:
        """Whether a run of this config is there and not to be started afresh: it says itself what has changed."""
        return not cfg.rerun and cfg.stale != "rerun" and (cls.of(cfg).directory / "run.json").exists()

    def set_aside(self) -> Path:
        """Keep what lies there under another name, which is returned."""
        kept = self.directory.with_name(f"{self.directory.name}.{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        self.directory.rename(kept)
        print(f"the earlier run is kept in {kept}", file=sys.stderr)
        return kept


def decide_at(
    directory: Path,
    config_hash: str,
    identity: dict[str, Any],
    options: Any,
    *,
    record: Record | None = None,
    prints: dict[str, Any] | None = None,
) -> tuple[Action, bool]:
    """As `Run.decide`; `options` is a config."""
    values = None if options["rerun"] else (record or Record(directory)).read()
    action, set_aside = decide(
        values,
        config_hash=config_hash,
        changed=changes(values["fingerprints"], identity, now=prints) if values else [],
        has_checkpoints=(directory / "checkpoints").is_dir(),
        stale=options["stale"],
        rerun=options["rerun"],
        evaluate_test=options["evaluate_test"],
    )
    return action, set_aside and any((directory / name).exists() for name in ("run.json", "checkpoints"))


def named_directory(plain: dict[str, Any], identity: dict[str, Any], config_hash: str) -> Path:
    """Where Hydra puts the run of a config as dicts and lists as they are written.

    Raises:
        LookupError: only OmegaConf knows.
    """
    node = plain["hydra"]["sweep" if plain["hydra"]["mode"] == RunMode.MULTIRUN else "run"]
    texts = [node["dir"], node.get("subdir") or ""]
    if not all(isinstance(text, str) and text != "???" and "\\" not in text for text in texts):
        raise LookupError(texts)
    names = {"${run_label:}": label_of(identity), "${run_id:}": config_hash[:ID_DIGITS]}
    for written, name in names.items():
        texts = [text.replace(written, name) for text in texts]
    return Path(*followed(texts, {key: value for key, value in plain.items() if key != "hydra"}))


def _directory(node: DictConfig, config_hash: str) -> Path:
    """Where Hydra puts the run."""
    try:
        return find_directory(Path(node.dir, node.get("subdir") or ""), config_hash)
    except OmegaConfBaseException as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"the directory of hydra.run or hydra.sweep must be known before the run begins: {reason}. It is named "
            "after what the run computes: leave that out, as in outputs/${name}/${run_label:}-${run_id:}"
        ) from error


def names_by_id(folder: Path) -> dict[str, str]:
    """What lies in a folder of runs, by the id that its name ends with."""
    with suppress(OSError):
        return {name.rpartition("-")[2]: name for name in sorted(os.listdir(folder), reverse=True) if "-" in name}
    return {}


def find_directory(
    directory: Path, config_hash: str, *, listed: Callable[[Path], Mapping[str, str]] = names_by_id
) -> Path:
    """The id decides, so a directory that has it under another label is taken.

    Args:
        listed: as `names_by_id`, which need not look again for each of many.

    Raises:
        ConfigError: a folder with files that are no run's, or no folder.
    """
    if not directory.exists():
        directory = directory.with_name(listed(directory.parent).get(config_hash[:ID_DIGITS], directory.name))
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{directory} is no folder, so no run can lie there; give another hydra.run.dir")
    if directory.is_dir() and not _is_run_or_empty(directory):
        raise ConfigError(
            f"{directory} has files and is no run's directory ({', '.join(RUN_MARKERS)} are not there), so no run may "
            "write there; give another hydra.run.dir, or a new folder in it"
        )
    return directory


def _is_run_or_empty(directory: Path) -> bool:
    return any((directory / name).exists() for name in RUN_MARKERS) or not any(directory.iterdir())
