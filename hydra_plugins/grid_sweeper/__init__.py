"""hydra/sweeper=grid: the product of all key=a,b, checked whole before the first job starts.

Hydra's own `basic` composes each job once more before the launcher does.
"""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """Runs all combinations with any launcher."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run all; SystemExit where not all were completed. Launchers that are none of ours get one batch."""
        from src.config.compose import expand
        from src.sweeps.runner import prepare_for_other_launcher

        jobs = expand(arguments)
        if runner := getattr(self.launcher, "runner", None):
            _, exit_code = runner.run(jobs)
            if exit_code:
                raise SystemExit(exit_code)
            return None
        assert self.launcher is not None and self.config is not None
        if not prepare_for_other_launcher(jobs, self.config):
            return None
        results = self.launcher.launch(jobs, initial_job_idx=0)
        for result in results:
            _ = result.return_value  # raises what the job raised
        return [results]
