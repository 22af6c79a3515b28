"""Runs side by side: tables, effects, differences and a page. Reads records only; no TensorFlow, no Hydra in here."""

from src.errors import ConfigError


class CompareError(ConfigError):
    """The command is wrong, or there is nothing to compare."""
