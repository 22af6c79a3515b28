"""The test split of a run, measured once at its end with its best weights: `evaluate_test=true`.

measured = measure_test(trainer, data, run.directory)       # {"test/loss": 0.31, "test/accuracy": 0.92}
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from src.common.errors import ConfigError

if TYPE_CHECKING:
    from src.data.data import Data
    from src.training.trainer import Trainer

log = logging.getLogger(__name__)


def check_test(cfg: DictConfig, data: Data) -> None:
    """Find out before training whether it can be measured.

    Raises:
        ConfigError: there is no test split, or nothing keeps the best weights.
    """
    if cfg.evaluate_test and data.test is None:
        raise ConfigError(
            f"evaluate_test is true, and the data has no test split, only {', '.join(data.splits())}; "
            "leave it out, or give data with one, as by data.test_share"
        )
    if cfg.evaluate_test and not cfg.callback.get("checkpoint"):
        raise ConfigError(
            "evaluate_test is true, and callback.checkpoint, which keeps the best weights, is left out; "
            "leave evaluate_test out, or callback.checkpoint in"
        )


def measure_test(trainer: Trainer, data: Data, directory: Path) -> dict[str, float]:
    """The test split's loss and metrics by the best weights, as `test/<name>`; TensorBoard gets them too.

    Args:
        directory: the run's.

    Raises:
        Interrupted: the trainer was; nothing has been written.
    """
    from src.callbacks.hparams import Hparams
    from src.training.checkpoints import best_weights
    from src.training.manifest import BEST

    assert data.test is not None
    with best_weights(trainer.state, directory / "checkpoints" / BEST):
        measured = {f"test/{name}": value for name, value in trainer.evaluate(data.test).items()}
    for callback in trainer.callbacks.values():
        if isinstance(callback, Hparams):
            callback.add(trainer.state, measured)
    log.info("%s", shown(measured))
    return measured


def shown(measured: Mapping[str, float | None]) -> str:
    """The metrics on one line."""
    return "  ".join(f"{name} {math.nan if value is None else value:.6f}" for name, value in measured.items())
