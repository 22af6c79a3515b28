"""The config that a run was trained with.

cfg = load_config(Path("outputs/digits/cnn-1a2b3c4d"))
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import yaml
from omegaconf import DictConfig, OmegaConf
from yaml.scanner import ScannerError

from src.common.errors import ConfigError
from src.config import PYTHON_LOADER
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
    cfg = read_config(path)
    for (*above, key), value in recorded_values(cfg, Record(run).read() or EMPTY):
        node_at(cfg, above)[key] = value
    return cfg


def read_config(path: Path) -> DictConfig:
    """A run's config.yaml as it is written, where names that are no text stand as escapes that libyaml refuses."""
    fast = yaml.SafeLoader
    try:
        return cast(DictConfig, OmegaConf.load(path))
    except ScannerError:
        yaml.SafeLoader = PYTHON_LOADER
        return cast(DictConfig, OmegaConf.load(path))
    finally:
        yaml.SafeLoader = fast
