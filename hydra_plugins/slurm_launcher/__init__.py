"""hydra/launcher=slurm: each job is a task of a Slurm array; see src/sweeps/slurm.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class SlurmLauncher(Launcher):
    """Submits jobs to Slurm; conf/hydra/launcher/slurm.yaml has the options."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from src.sweeps.slurm import SlurmOptions, SlurmRunner

        options: Any = OmegaConf.to_container(OmegaConf.create(self._options))
        self.runner = SlurmRunner(config, SlurmOptions.of(options))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra asks for it; the sweeper that goes with it uses `runner`, which submits all jobs at once."""
        raise NotImplementedError("hydra/launcher=slurm goes with hydra/sweeper=grid")
