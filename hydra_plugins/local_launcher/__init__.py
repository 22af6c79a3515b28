"""hydra/launcher=local: each job in a process of its own, some at a time, forked with TensorFlow imported.

Hydra finds plugins in this namespace and imports them for every command; what they do is in src/sweeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LocalLauncher(Launcher):
    """Runs jobs on this machine; conf/hydra/launcher/local.yaml has the options."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from src.sweeps.local import LocalOptions, LocalRunner

        self.runner = LocalRunner(config, LocalOptions.of(self._options))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra asks for it; the sweepers that `conf/targets.txt` lists use `runner`, where results come one by one."""
        raise NotImplementedError("hydra/launcher=local goes with the sweepers grid and optuna")
