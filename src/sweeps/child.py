"""What a child process of a sweep does: one run, with a log of its own.

pool.start(job.id, run_job, run, number=0, threads=1, again=False)
"""

from __future__ import annotations

import faulthandler
import functools
import logging
import os
import sys

from omegaconf import open_dict

from src.common.logs import ConsoleHandler
from src.common.signals import stop_on_signals
from src.config.identity import register_resolvers
from src.runs import provenance
from src.runs.execute import execute
from src.runs.run import Run


def run_job(run: Run, *, number: int, threads: int, again: bool) -> None:
    """Run one job; raises what stopped it.

    Args:
        run: as its parent has composed it.
        number: of the job in its sweep, from 0.
        threads: for a run that has none of its own yet.
        again: an earlier try of this sweep has written there, so nothing is set aside once more.
    """
    log_to(os.devnull)
    register_resolvers()
    provenance.look_again()
    with open_dict(run.hydra):
        run.hydra.job.num, run.hydra.job.id = number, str(number)
    if again:
        run.cfg.rerun = False
    listen = functools.partial(stop_on_signals, second_ends=False)  # its parent kills it when it must end at once
    execute(run, wait=True, listen=listen, threads=threads, begins=_log_to_its_file)


def log_to(path: str) -> None:
    """Send all that this process writes, a crash's stack included, to the end of a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
    # Whatever these were, a terminal's or a bar's, they now are the file's.
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    faulthandler.enable(sys.stderr)


def _log_to_its_file(run: Run) -> None:
    """All that this process writes goes to the run's log, which Hydra has opened, and no line twice."""
    log_to(str(run.directory / f"{run.hydra.job.name}.log"))
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, ConsoleHandler):
            root.removeHandler(handler)
