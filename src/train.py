"""Train: compose -> check -> build -> fit.

    python -m src.train optimizer=adam epochs=20
    python -m src.train --multirun optimizer=adam,sgd schedule=constant,cosine

A run is a pure function of its config and lies in a directory named after it: a finished run is reused, an interrupted
one goes on, a failed one is tried again. TensorFlow is imported only when there is something to train.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from src.config import CONFIG_DIR, CONFIG_NAME, ConfigError, branch, compose, expand
from src.logs import quiet_stderr
from src.manifest import listed
from src.runs.branch import begin_branch
from src.runs.decision import Action, decide
from src.runs.identity import ID_DIGITS, config_hash, identity_config, register_resolvers
from src.runs.lock import hold
from src.runs.provenance import environment, environment_changes, fingerprints
from src.runs.record import Record
from src.signals import stop_on_signals

log = logging.getLogger(__name__)

EXIT_FAILED, EXIT_WRONG = 1, 2
_failures: list[Exception] = []


def main() -> None:
    """The command line; exits with 0 completed, 1 failed, 2 wrong command or config, 128 + n ended by signal n."""
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, is not the end of training
    show_trace = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then leaves exceptions, and what is said of them, to us
    code: Any = 0
    try:
        _command(sys.argv[1:])
    except SystemExit as ended:
        code = ended.code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        code = 130
    except Exception as error:
        if show_trace:
            traceback.print_exc()
        print(f"error: {error}" if str(error) else f"error: {error!r}", file=sys.stderr)
        code = EXIT_WRONG if isinstance(error, ConfigError) else EXIT_FAILED
    if "tensorflow" in sys.modules and isinstance(code, int):
        # All is written. Taking TensorFlow down in order would take most of a second.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _command(argv: list[str]) -> None:
    from hydra._internal.utils import get_args_parser

    register_resolvers()
    argv.sort(key=lambda argument: argument not in ("-m", "--multirun"))  # wherever it was typed
    sys.argv[1:] = argv
    arguments = get_args_parser().parse_args(argv)
    asks_only = arguments.help or arguments.hydra_help or arguments.cfg or arguments.info
    if asks_only:
        try:
            _run_in_hydra()
        except Exception as error:
            raise ConfigError(str(error)) from error
        return
    if arguments.shell_completion or arguments.experimental_rerun:
        _run_in_hydra()
        return
    if arguments.config_path:
        raise ConfigError("--config-path is not supported: add a folder of options with --config-dir")
    overrides, parent = branch(arguments.overrides)
    filled_in = parent.overrides_of_branch() if parent else []
    flags = [argument for argument in argv if argument not in arguments.overrides]
    sys.argv[1:] = [*flags, *overrides, *filled_in]
    jobs = [
        compose(job, config_dir=arguments.config_dir, config_name=arguments.config_name, filled_in=filled_in)
        for job in (expand(overrides) if arguments.multirun else [overrides])
    ]
    for cfg in jobs:
        if parent and cfg.epochs <= parent.epoch:
            raise ConfigError(
                f"epochs is {cfg.epochs}, and {parent.directory} has done {parent.epoch}: "
                "a branch counts those of its parent, so give more"
            )
    if not arguments.multirun:
        _single(jobs[0])
        return
    if len(threads := {cfg.trainer.threads for cfg in jobs}) > 1:
        raise ConfigError(
            f"trainer.threads is {' and '.join(map(str, threads))} in one sweep, whose jobs share a process: "
            "give one trainer.threads=..., or sweep them apart"
        )
    for cfg in jobs:
        directory = _directory(cfg, cfg.hydra.sweep)
        with hold(lock_path(directory), wait=cfg.wait):
            _prepare(cfg, directory)
    _run_in_hydra()


def _single(cfg: DictConfig) -> None:
    directory = _directory(cfg, cfg.hydra.run)
    with hold(lock_path(directory), wait=cfg.wait):
        if _prepare(cfg, directory) == "reuse":
            record = Record(directory)
            _report(record, note="already completed, reused")
            if changed := environment_changes((record.read() or {}).get("environment") or {}, environment()):
                print(f"note: it was computed in another environment: {', '.join(changed)}", file=sys.stderr)
            return
        sys.argv.append(f"hydra.run.dir='{directory}'")
        _run_in_hydra()
    if _failures:
        raise _failures[0]


def _directory(cfg: DictConfig, node: DictConfig) -> Path:
    """Where Hydra puts the run; the id decides, so a directory that has it under another label is taken."""
    directory = Path(node.dir, node.get("subdir") or "")
    same_id = sorted(directory.parent.glob(f"*-{config_hash(cfg)[:ID_DIGITS]}"))
    return same_id[0] if same_id and not directory.exists() else directory


def lock_path(directory: Path) -> Path:
    """The lock's file of a run's directory; held by whoever writes there."""
    run_id = re.search(rf"-([0-9a-f]{{{ID_DIGITS}}})$", directory.name)
    return directory.parent / ".locks" / (run_id[1] if run_id else directory.name)


def _prepare(cfg: DictConfig, directory: Path) -> Action:
    """Decide what happens with the run, and set aside what must not be touched, before Hydra opens the directory."""
    action, set_aside = _decide(cfg, directory, rerun=cfg.rerun)
    if set_aside and any((directory / name).exists() for name in ("run.json", "checkpoints")):
        kept = directory.with_name(f"{directory.name}.{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        directory.rename(kept)
        print(f"the earlier run is kept in {kept}", file=sys.stderr)
    return action


def _decide(cfg: DictConfig, directory: Path, *, rerun: bool = False) -> tuple[Action, bool]:
    return decide(
        None if rerun else Record(directory).read(),
        config_hash=config_hash(cfg),
        fingerprints=fingerprints(identity_config(cfg)),
        has_checkpoints=(directory / "checkpoints").is_dir(),
        stale=cfg.stale,
        rerun=rerun,
    )


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=CONFIG_NAME)
def _run_in_hydra(cfg: DictConfig) -> float | None:
    """The task of one job: Hydra has made the directory and opened the log."""
    register_resolvers()
    hydra_config = HydraConfig.get()
    directory = Path(os.path.relpath(hydra_config.runtime.output_dir))
    try:
        with hold(lock_path(directory), wait=cfg.wait):
            return train(cfg, directory, overrides=list(hydra_config.overrides.task))
    except Exception as error:
        if hydra_config.mode != RunMode.RUN:
            log.error("%s: %s", directory, error)
            raise
        _failures.append(error)  # raised here, Hydra would put a line of its own before the message
        return None


def train(cfg: DictConfig, directory: Path, *, overrides: list[str]) -> float:
    """Train, resume or reuse the run of this directory, which is locked; returns the best monitored value.

    Raises:
        SystemExit: a signal ended it, after saving.
    """
    record = Record(directory)
    action, _ = _decide(cfg, directory)
    if action == "reuse":
        return _report(record, note="already completed, reused")
    before = record.read() or {}
    _begin(record, cfg, before, overrides)
    try:
        value, signal_number = _fit(cfg, record, before)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        description = None if stopped else {"type": type(error).__name__, "message": str(error)}
        log.debug("ended by an exception", exc_info=True)
        with suppress(OSError):  # as on a full disk, which must not hide the error
            record.update(status="interrupted" if stopped else "failed", finished=_now(), error=description)
        raise
    if signal_number:
        sys.exit(128 + signal_number)
    return value


def _begin(record: Record, cfg: DictConfig, before: dict[str, Any], overrides: list[str]) -> None:
    here, then = environment(), before.get("environment") or {}
    if before and (changed := environment_changes(then, here)):
        log.warning("continued in another environment, so last bits may differ: %s", ", ".join(changed))
    record.update(
        id=config_hash(cfg)[:ID_DIGITS],
        name=cfg.name,
        status="running",
        monitor=cfg.monitor,
        mode=cfg.mode,
        best=before.get("best"),
        metrics=before.get("metrics") or {},
        epoch=before.get("epoch", 0),
        step=before.get("step", 0),
        epochs=cfg.epochs,
        parameters=before.get("parameters"),
        seed=cfg.seed,
        started=before.get("started") or _now(),
        finished=None,
        seconds=before.get("seconds", 0.0),
        overrides=overrides,
        config_hash=config_hash(cfg),
        fingerprints=fingerprints(identity_config(cfg)),
        process={"pid": os.getpid(), "host": socket.gethostname()},
        parent=dict(cfg.parent) if cfg.parent.config_hash else None,
        error=None,
        environment={**here, "threads": then.get("threads")},
    )


def _fit(cfg: DictConfig, record: Record, before: dict[str, Any]) -> tuple[float, int]:
    """Build, restore, fit, and complete the record. Returns the best value and the signal that ended it, or 0."""
    recorded = (before.get("environment") or {}).get("threads")
    threads = recorded or cfg.trainer.threads
    with quiet_stderr():
        from src import build
        from src.callbacks.record import RecordCallback
        from src.checkpoints import Checkpoints
        from src.trainer import Interrupted

        wanted = threads or build.available_cores()
        # XLA lacks deterministic kernels for some ops, max-pooling's gradient among them, and then refuses all.
        threads = build.set_up_process(threads=wanted, deterministic=not cfg.trainer.jit_compile)
    if threads != wanted:
        raise ConfigError(
            f"this run needs {wanted} threads, and its process already runs {threads}: "
            f"jobs of one sweep share a process. Type its command alone, or give trainer.threads={threads}"
        )
    begun = record.read()
    assert begun is not None
    record.update(environment={**begun["environment"], "threads": threads})
    data = build.build_data(cfg)
    keeper = RecordCallback(record=record, seconds_before=before.get("seconds", 0.0))
    trainer = build.build_trainer(cfg, data, run_dir=record.directory, extra_callbacks={"record": keeper})
    state, parameters = trainer.state, trainer.model.count_params()
    record.update(parameters=parameters)
    log.info("%s  %s parameters  threads: %d", record.directory, f"{parameters:,}", threads)
    try:
        trainer.check(data.train, has_val=data.val is not None)
    except ValueError as error:
        groups = ("model", "data", "loss", "metric")
        chosen = HydraConfig.get().runtime.choices
        raise ConfigError(f"{', '.join(f'{g}={chosen.get(g)}' for g in groups)}: {error}") from error
    if cfg.parent.config_hash:
        begin_branch(Path(cfg.resume), record.directory, checkpoint=cfg.parent.checkpoint)
    learning_rates = state.constant_learning_rates()
    restored = Checkpoints(record.directory / "checkpoints").restore(state)
    if restored and state.step == cfg.parent.step:
        steps = data.train.steps_per_epoch
        if state.step != state.epoch * steps + state.epoch_step:
            raise ConfigError(
                f"{cfg.resume} did {state.step} steps in {state.epoch} epochs, and an epoch has {steps} steps here: "
                "a branch needs the batch_size and the data of its parent"
            )
        state.branch(learning_rates)
    if restored:
        log.info("continuing after step %d, epoch %d, from %s", state.step, state.epoch, restored)
    with stop_on_signals(trainer.interrupt) as received, _time_limit(cfg.max_seconds, trainer.interrupt):
        try:
            trainer.fit(data.train, data.val, epochs=cfg.epochs)
        except Interrupted as interrupted:
            record.update(status="interrupted", finished=_now())
            saved = bool(listed(record.directory / "checkpoints"))
            kept = "saved; the same command goes on from there" if saved else "without a checkpoint"
            log.warning("%s: ended after step %d, %s", interrupted, state.step, kept)
            return (state.best.value if state.best else math.nan), (received or [0])[0]
        if state.stop_reason:
            log.info("stopped after epoch %d: %s", state.epoch, state.stop_reason)
        record.update(status="completed", finished=_now())
    # A signal too late to stop this run still ends the sweep that it is part of.
    return _report(record), received[0] if received and HydraConfig.get().mode == RunMode.MULTIRUN else 0


def _report(record: Record, *, note: str = "") -> float:
    """Print the result to standard output, and beside it what to type next; returns the best monitored value."""
    values = record.read()
    assert values is not None
    best, directory = values["best"], os.path.relpath(record.directory)
    value = best["value"] if best else math.nan
    where = f"epoch {best['epoch']} of {values['epochs']}" if best else "no epoch"
    print(f"{values['monitor']} {value:.6f}  ({where}, {values['seconds']:.1f} s{', ' if note else ''}{note})")
    print(directory, flush=True)
    if not (HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN):
        print(f"next: {_python()} -m src.evaluate {directory}", file=sys.stderr)
        print(f"      tensorboard --logdir {os.path.dirname(directory) or '.'}", file=sys.stderr)
    return value


def _python() -> str:
    """How the user can type this Python: its environment may not be the active one."""
    found = shutil.which("python")
    same = found and Path(found).absolute() == Path(sys.executable).absolute()
    return "python" if same else os.path.relpath(sys.executable)


@contextmanager
def _time_limit(seconds: float | None, interrupt: Callable[[str], None]) -> Iterator[None]:
    timer = threading.Timer(seconds or 0, interrupt, ["max_seconds"])
    timer.daemon = True
    if seconds:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    from src.train import main  # a launcher's workers must find the task in a module that they can import

    main()
