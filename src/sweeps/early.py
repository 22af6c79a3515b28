"""TensorFlow is imported beside all that is still to be composed, where a sweep will need it.

start(argv)         # as soon as the command says so
keep_if(cfg)        # given up again, if the first job says that there is nothing to train
server = take()     # None where there is none
"""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from src.job import run_directory
from src.machine import visible_gpus
from src.runs.record import BadRecord, Record
from src.sweeps.processes import Server, Start
from src.sweeps.warm import prepare_fork

LAUNCHER = "hydra_plugins.local_launcher.LocalLauncher"
# Words of a command that may mean another launcher, or nothing to train: better wait for the config then.
DOUBTS = ("hydra/launcher", "hydra.launcher.start", "dry_run")

_servers: list[Server] = []


def default_start() -> Start:
    """Fork, but not with GPUs: CUDA does not survive it, and who knows what starts it."""
    return "spawn" if visible_gpus() else "fork"


def start(argv: Sequence[str]) -> None:
    """Begin, if these are the words of a sweep that will probably fork."""
    if default_start() == "fork" and not any(doubt in word for word in argv for doubt in DOUBTS):
        _servers.append(Server("fork", prepare_fork))


def keep_if(first: DictConfig) -> None:
    """Give up, unless the config of the sweep's first job shows that it is to be trained here."""
    launcher = first.hydra.launcher
    here = launcher.get("_target_") == LAUNCHER and (launcher.start or "fork") == "fork" and not first.dry_run
    try:
        status = (Record(run_directory(first, first.hydra.sweep)).read() or {}).get("status")
    except BadRecord:
        status = None
    if not here or (status == "completed" and not first.rerun):
        while server := take():
            server.kill()


def take() -> Server | None:
    """The server, for its one user."""
    return _servers.pop() if _servers else None
