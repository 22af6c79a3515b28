"""A run's task, called as Hydra calls a job: its directory made, `.hydra/` written, its log opened, HydraConfig set.

value = run_as_job(run, lambda directory: 0.5, HydraCallbacks(run.cfg))
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.utils import JobRuntime, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from src.config import targets
from src.config.checks import ConfigError, resolved_node
from src.runs.run import Run


def run_as_job(run: Run, task: Callable[[Path], float], callbacks: HydraCallbacks) -> float:
    """Call the task with the run's directory, and raise what it raises after Hydra's callbacks have heard of it.

    The directory is seen from where the task runs, which is in it with `hydra.job.chdir`.
    """
    setup_globals()
    config = run.cfg.copy()
    with open_dict(config):
        config.hydra = run.hydra
        config.hydra.run.dir = str(run.directory)
        config.hydra.runtime.cwd = os.getcwd()  # options are composed once a process, wherever it was then
        if run.is_job:
            config.hydra.sweep.dir, config.hydra.sweep.subdir = os.path.split(run.directory)
    name = config.hydra.job.config_name
    JobRuntime.instance().set("name", config.hydra.job.name)
    errors: list[Exception] = []

    def called(cfg: DictConfig) -> float:
        try:
            return task(Path(os.path.relpath(config.hydra.runtime.output_dir)))
        except Exception as error:
            errors.append(error)  # Hydra would print a line of its own before it hands this on
            raise

    if not run.is_job:
        callbacks.on_run_start(config=config, config_name=name)
    returned = run_job(called, config, "hydra.run.dir", None, HydraContext(None, callbacks))  # type: ignore[arg-type]
    if not run.is_job:
        callbacks.on_run_end(config=config, config_name=name, job_return=returned)
    if errors:
        raise errors[0]
    return returned.return_value


class HydraCallbacks:
    """The objects of `hydra.callbacks`: all are told what one is told, the last first where something ends."""

    def __init__(self, config: DictConfig) -> None:
        nodes = resolved_node(config, "hydra.callbacks") or {}
        try:
            self._callbacks = [targets.build(node, key=f"hydra.callbacks.{name}") for name, node in nodes.items()]
        except targets.TargetError as error:
            raise ConfigError(str(error)) from error

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith("on_"):
            raise AttributeError(name)

        def tell(**what: Any) -> None:
            for callback in reversed(self._callbacks) if name.endswith("_end") else self._callbacks:
                try:
                    getattr(callback, name)(**what)
                except Exception as error:  # as Hydra does: it watches, and no result hangs on it
                    warnings.warn(
                        f"{type(callback).__name__}.{name} raised {type(error).__name__}: {error}", stacklevel=2
                    )

        return tell
