"""hydra/launcher=ray: each job in a process of its own on a node of a Ray cluster; see src/sweeps/ray.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class RayLauncher(Launcher):
    """Runs jobs on a cluster; conf/hydra/launcher/ray.yaml has the options."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from src.sweeps.ray import RayOptions, RayRunner

        options: Any = OmegaConf.to_container(OmegaConf.create(self._options))
        self.runner = RayRunner(config, RayOptions.of(options))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra asks for it; the sweepers that `conf/targets.txt` lists use `runner`, where results come one by one."""
        raise NotImplementedError("hydra/launcher=ray goes with the sweepers grid and optuna")
