"""A sweep begins: Hydra's sweeper and launcher are made, and the sweeper gets the overrides.

start_sweep(check_sweep(["seed=0,1"]), ["seed=0,1"])
"""

from __future__ import annotations

from hydra.core.plugins import Plugins
from hydra.core.utils import JobRuntime, configure_log, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from src.config.compose import config_loader, parse_override
from src.runs.execute import execute_job
from src.runs.hydra_job import HydraCallbacks


def start_sweep(cfg: DictConfig, overrides: list[str]) -> None:
    """Run all jobs; SystemExit where one failed or a signal ended the sweep.

    Args:
        cfg: the checked config of the job of each first value.
        overrides: as typed, `key=a,b` among them.
    """
    setup_globals()
    JobRuntime.instance().set("name", cfg.hydra.job.name)
    typed = [text for text in overrides if not parse_override(text).is_hydra_override()]
    with open_dict(cfg):
        cfg.hydra.overrides.task = typed
    configure_log(cfg.hydra.hydra_logging, cfg.hydra.verbose)
    callbacks = HydraCallbacks(cfg)
    context = HydraContext(config_loader=config_loader(cfg), callbacks=callbacks)  # type: ignore[arg-type]
    sweeper = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=execute_job, config=cfg)
    callbacks.on_multirun_start(config=cfg, config_name=cfg.hydra.job.config_name)
    try:
        sweeper.sweep(arguments=typed)
    finally:
        callbacks.on_multirun_end(config=cfg, config_name=cfg.hydra.job.config_name)
