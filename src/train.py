"""Train: compose -> check -> build -> fit.

    python -m src.train optimizer=adam epochs=20
    python -m src.train --multirun optimizer=adam,sgd schedule=constant,cosine

A run is a pure function of its config and lies in a directory named after it: a finished run is reused, an interrupted
one goes on, a failed one is tried again. TensorFlow is imported only when there is something to train.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from src import job
from src.command import run_command
from src.config import (
    CONFIG_DIR,
    CONFIG_NAME,
    ConfigError,
    branch,
    check_settings,
    check_sweep,
    compose,
    parse_command,
    parse_override,
)
from src.files import delete
from src.job import prepare_and_keep, report, run_directory
from src.machine import settle_keras_backend
from src.manifest import listed
from src.runs.commands import quoted
from src.runs.environment import environment, environment_changes
from src.runs.identity import register_resolvers
from src.runs.lock import hold, lock_path
from src.runs.record import Record

log = logging.getLogger(__name__)

_failures: list[Exception] = []
_directories: list[Path] = []  # of the run that this command is about


def main() -> None:
    """The command line; exits with 0 completed, 1 failed, 2 wrong command or config, 128 + n ended by signal n."""
    run_command(_command, interrupted=lambda: f"interrupted{_what_is_left()}")


def _what_is_left() -> str:
    if not _directories:
        return "; the same command does what is left"
    saved = any(listed(directory / "checkpoints") for directory in _directories)
    return (
        "; the same command goes on from the last checkpoint"
        if saved
        else " before the first checkpoint; the same command starts anew"
    )


def _command(argv: list[str]) -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then leaves exceptions, and what is said of them, to us
    register_resolvers()
    arguments = parse_command(argv)
    flags = [argument for argument in argv if argument not in arguments.overrides]
    sys.argv[1:] = [*flags, *arguments.overrides]
    asks_only = arguments.help or arguments.hydra_help or arguments.cfg or arguments.info
    if asks_only:
        check_settings(arguments.overrides, config_dir=arguments.config_dir, config_name=arguments.config_name)
        try:
            _run_in_hydra()
        except Exception as error:
            raise ConfigError(str(error)) from error
        return
    if arguments.shell_completion:
        _run_in_hydra()
        return
    if arguments.experimental_rerun:
        raise ConfigError("--experimental-rerun is not supported: it runs a pickle; type the run's command again")
    if arguments.config_path:
        raise ConfigError("--config-path is not supported: add a folder of options with --config-dir")
    overrides = branch(arguments.overrides)
    if any(parse_override(text).key_or_group == "hydra.mode" for text in overrides):
        raise ConfigError("hydra.mode cannot be given: --multirun says it")
    sys.argv[1:] = [*flags, *overrides]
    try:
        settle_keras_backend()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if arguments.multirun:
        from src.sweeps import early

        early.start(argv)
        early.keep_if(check_sweep(overrides, config_dir=arguments.config_dir, config_name=arguments.config_name))
        _run_in_hydra()  # whose sweeper composes and checks the jobs, and whose launcher runs them
        return
    cfg = compose(overrides, config_dir=arguments.config_dir, config_name=arguments.config_name)
    if search := cfg.hydra.runtime.choices.get("search"):
        print(f"note: search={search} searches with --multirun; this is a run of its own", file=sys.stderr)
    _single(cfg)


def _single(cfg: DictConfig) -> None:
    directory = run_directory(cfg, cfg.hydra.run)
    if cfg.dry_run:
        action, set_aside = job.decide_run(cfg, directory, rerun=cfg.rerun)
        print(f"{action}{', what is there being set aside' if set_aside else ''}\n{directory}")
        return
    _directories.append(directory)
    with ExitStack() as stack:
        try:
            stack.enter_context(hold(lock_path(directory), wait=cfg.wait))
        except OSError:  # nothing can be written there, which a result that is there can do without
            if job.decide_run(cfg, directory, rerun=cfg.rerun)[0] != "reuse":
                raise
        action, kept = prepare_and_keep(cfg, directory)
        if action == "reuse":
            _reuse(directory)
            return
        is_new = not directory.exists()
        sys.argv.append(f"hydra.run.dir={quoted(str(directory))}")
        _run_in_hydra()
        if is_new and _failures and isinstance(_failures[0], ConfigError):
            delete(directory)  # a command that was wrong, and no run that failed
            if kept:
                kept.rename(directory)
                print(f"the earlier run is back in {directory}", file=sys.stderr)
    if _failures:
        raise _failures[0]


def _reuse(directory: Path) -> None:
    record = Record(directory)
    report(record, note="already completed, reused")
    then = (record.read() or {}).get("environment") or {}
    if changed := environment_changes(then, environment()):
        print(f"note: it was computed in another environment: {', '.join(changed)}", file=sys.stderr)
    if changes := then.get("changes"):
        print(f"note: its environment changed on the way: {', '.join(changes)}", file=sys.stderr)


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=CONFIG_NAME)
def _run_in_hydra(cfg: DictConfig) -> float | None:
    """The task of one job: Hydra has made the directory and opened the log."""
    try:
        return job.task(cfg)
    except Exception as error:
        if HydraConfig.get().mode != RunMode.RUN:
            log.error("%s", error)
            raise
        _failures.append(error)  # raised here, Hydra would put a line of its own before the message
        return None


if __name__ == "__main__":
    from src.train import main  # a launcher's workers must find the task in a module that they can import

    main()
