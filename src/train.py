"""Train: compose -> check -> execute.

    python -m src.train optimizer=adam epochs=20
    python -m src.train --multirun optimizer=adam,sgd schedule=constant,cosine

A run is a pure function of its config and lies in a directory named after it: a finished run is reused, an interrupted
one goes on, a failed one is tried again. TensorFlow is imported only when there is something to train.
"""

from __future__ import annotations

import os
import sys

import hydra
from omegaconf import DictConfig

from src.common.command import run_command
from src.common.machine import settle_keras_backend
from src.config.command_line import parse_command
from src.config.completion import shell_script
from src.config.compose import (
    CONFIG_DIR,
    CONFIG_NAME,
    ConfigError,
    check_settings,
    check_sweep,
    compose,
    parse_override,
    with_config_dir,
)
from src.config.help import help_text
from src.runs.branch import branch
from src.runs.execute import execute
from src.runs.run import Run
from src.runs.workers import as_worker


def main() -> None:
    """The command line; exits with 0 completed, 1 failed, 2 wrong command or config, 128 + n ended by signal n."""
    run_command(_command)


def _command(argv: list[str]) -> None:
    arguments = parse_command(argv)
    config_name = (arguments.config_name or CONFIG_NAME).removesuffix(".yaml")
    if arguments.help or arguments.hydra_help or arguments.version or arguments.cfg or arguments.info:
        check_settings(arguments.overrides, config_dir=arguments.config_dir, config_name=config_name)
        if not arguments.multirun:
            overrides = with_config_dir(branch(arguments.overrides, config_name=config_name), arguments.config_dir)
            others = arguments.hydra_help or arguments.version or arguments.cfg or arguments.info
            is_plain_help = not (others or overrides)  # which shows no value
            cfg = compose(overrides, config_name=config_name, starts=True, is_whole=False, is_checked=is_plain_help)
            if not others and (text := help_text(cfg)):
                print(text)
                return
        _ask_hydra()
        return
    if arguments.shell_completion:
        print(shell_script(arguments.overrides), end="")
        return
    if arguments.experimental_rerun:
        raise ConfigError("--experimental-rerun is not supported: it runs a pickle; type the run's command again")
    if arguments.config_path:
        raise ConfigError("--config-path is not supported: add a folder of options with --config-dir")
    overrides = with_config_dir(branch(arguments.overrides, config_name=config_name), arguments.config_dir)
    if any(parse_override(text).key_or_group == "hydra.mode" for text in overrides):
        raise ConfigError("hydra.mode cannot be given: --multirun says it")
    try:
        settle_keras_backend()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if arguments.multirun:
        _sweep(overrides, config_name)
    else:
        _run(compose(overrides, config_name=config_name, starts=True, is_known=Run.is_known))


def _run(cfg: DictConfig) -> None:
    if search := cfg.hydra.runtime.choices.get("search"):
        print(f"note: search={search} searches with --multirun; this is a run of its own", file=sys.stderr)
    run = Run.of(cfg)
    if cfg.dry_run:
        action, set_aside = run.decide()
        print(f"{action}{', what is there being set aside' if set_aside else ''}\n{run.directory}")
    else:
        with as_worker(run) as here:
            execute(here)


def _sweep(overrides: list[str], config_name: str) -> None:
    from src.sweeps.hydra_sweep import start_sweep

    cfg = check_sweep(overrides, config_name=config_name, is_known=Run.is_known)
    try:
        start_sweep(cfg, overrides)
    except KeyboardInterrupt as stopped:
        stopped.add_note("; the same command does what is left")
        raise


def _ask_hydra() -> None:
    """Answer --help, --cfg and --info, and run nothing."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then leaves exceptions, and what is said of them, to us
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=CONFIG_NAME)(lambda cfg: None)()
    except Exception as error:
        raise ConfigError(str(error)) from error


if __name__ == "__main__":
    main()
