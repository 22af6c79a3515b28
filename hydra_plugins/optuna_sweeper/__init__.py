"""hydra/sweeper=optuna: a study's trials instead of all combinations, asked for one by one.

What it does is in src/sweeps/search.py, imported when it is asked for: Hydra imports this file for every command.
"""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class OptunaSweeper(Sweeper):
    """Searches with optuna; conf/hydra/sweeper/optuna.yaml has the options."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials that remain; SystemExit where a trial has failed or a signal has ended it."""
        from src.common.extras import install_command
        from src.config.compose import ConfigError

        try:
            import optuna  # noqa: F401
        except ModuleNotFoundError as error:
            raise ConfigError(f"hydra/sweeper=optuna needs optuna: {install_command('search')}") from error
        from src.sweeps.search import Search
        from src.sweeps.study import SearchOptions

        runner: Any = getattr(self.launcher, "runner", None)
        if not hasattr(runner, "make_pool"):  # which gives what `ask` and `tell` need: jobs one by one
            raise ConfigError("hydra/sweeper=optuna asks for single trials, which needs hydra/launcher=local or ray")
        assert self.config is not None
        options: Any = OmegaConf.to_container(OmegaConf.create(self._options))
        if exit_code := Search(self.config, SearchOptions(**options), arguments).run(runner):
            raise SystemExit(exit_code)
