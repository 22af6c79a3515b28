"""The config that a run was trained with.

cfg = load_config(Path("outputs/digits/cnn-1a2b3c4d"))
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from src.common.errors import ConfigError
from src.config.identity import register_resolvers
from src.runs.external_values import node_at, recorded_values
from src.runs.record import Record
from src.runs.record_schema import EMPTY

CONFIG = os.path.join(".hydra", "config.yaml")  # in a run's directory


def load_config(run: Path) -> DictConfig:
    """The config that a run was trained with, with the values that it took from outside, as from `${oc.env:DATA}`.

    Raises:
        ConfigError: the folder is no run's, or its config is empty.
    """
    path = run / CONFIG
    if not path.is_file():
        raise ConfigError(f"{run} is no run: it has no .hydra/config.yaml. Runs are outputs/<name>/<label>-<id>")
    if not path.read_bytes().strip(b"\0\n"):
        raise ConfigError(
            f"{path} is empty, as a power cut may leave it; put it back, or train the run again: its own command with "
            "rerun=true"
        )
    register_resolvers()
    cfg = cast(DictConfig, OmegaConf.load(path))
    for (*above, key), value in recorded_values(cfg, Record(run).read() or EMPTY):
        node_at(cfg, above)[key] = value
    return cfg
