"""What a child process of a sweep does: one run, with a log of its own.

Pool(...).start(job.id, run_job, cfg, number=0, threads=1, again=False)
"""

from __future__ import annotations

import functools
import logging
import os
from typing import Any

from hydra.core.utils import run_job as run_in_hydra, setup_globals
from hydra.experimental.callback import Callback
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from src import job
from src.logs import ConsoleHandler
from src.runs import provenance
from src.runs.identity import register_resolvers
from src.runs.lock import hold, lock_path
from src.signals import stop_on_signals
from src.sweeps.processes import log_to


def run_job(cfg: DictConfig, *, number: int, threads: int, again: bool) -> None:
    """Run one job; raises what stopped it.

    Args:
        cfg: the job's whole config, `hydra` included.
        number: of the job in its sweep, from 0.
        threads: for a run that has none of its own yet.
        again: it has been tried in this sweep already, so what lies there is this sweep's.
    """
    log_to(os.devnull)
    setup_globals()
    register_resolvers()
    provenance.look_again()
    if again:
        cfg.rerun = False
    directory = job.run_directory(cfg, cfg.hydra.sweep)
    with hold(lock_path(directory), wait=True):
        if job.prepare(cfg, directory) == "reuse":
            return
        directory.mkdir(parents=True, exist_ok=True)
        log_to(str(directory / f"{cfg.hydra.job.name}.log"))
        with open_dict(cfg):
            cfg.hydra.sweep.dir, cfg.hydra.sweep.subdir = str(directory.parent), directory.name
            cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
        listen = functools.partial(stop_on_signals, second_ends=False)  # its parent says when it must end at once
        returned = run_in_hydra(
            hydra_context=HydraContext(config_loader=None, callbacks=Callback()),  # type: ignore[arg-type]
            task_function=functools.partial(_task, listen=listen, threads=threads),
            config=cfg,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        _ = returned.return_value  # raises what the task raised


def _task(cfg: DictConfig, **options: Any) -> float:
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, ConsoleHandler):  # standard error is the log's file already
            root.removeHandler(handler)
    return job.task(cfg, **options)
