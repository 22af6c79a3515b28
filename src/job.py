"""One run of a composed config: its directory and lock, what is to be done with it, and the doing.

directory = run_directory(cfg, cfg.hydra.run)
with hold(lock_path(directory)):
    if prepare(cfg, directory) != "reuse":
        train(cfg, directory, overrides=[...])
"""

from __future__ import annotations

import logging
import math
import os
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src import files
from src.checks import plain_values, resolved_node
from src.config import CONFIG_NAME, ConfigError
from src.hydra_settings import check_settings
from src.logs import importing
from src.machine import available_cores
from src.manifest import listed
from src.runs import ID_DIGITS
from src.runs.branch import begin_branch
from src.runs.checked import step_within
from src.runs.commands import next_commands, print_next
from src.runs.decision import Action, decide
from src.runs.environment import environment, environment_changes
from src.runs.identity import config_hash, derived, identity_config, register_resolvers, settings
from src.runs.lock import hold, lock_path
from src.runs.opened import watch
from src.runs.outside import outside_values
from src.runs.provenance import changes, completed, fingerprints, is_users, unfollowed
from src.runs.record import Record
from src.runs.sources import computing_files, find_sources
from src.signals import PRUNE_SIGNAL, stop_on_signals

log = logging.getLogger(__name__)

Listen = Callable[[Callable[[str], None]], AbstractContextManager[list[int]]]


# What tells a run's directory from a folder of somebody's files.
OF_A_RUN = ("run.json", ".hydra", "train.log")


class EarlyExit(RuntimeError):
    """What a run is made of called sys.exit: it is not completed, whatever the code."""


def run_directory(cfg: DictConfig, node: DictConfig) -> Path:
    """Where Hydra puts the run; the id decides, so a directory that has it under another label is taken.

    Raises:
        ConfigError: a folder with files that are no run's, or a directory that is not known before the run.
    """
    try:
        directory = Path(node.dir, node.get("subdir") or "")
    except OmegaConfBaseException as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"the directory of hydra.run or hydra.sweep must be known before the run begins: {reason}"
        ) from error
    same_id = sorted(directory.parent.glob(f"*-{config_hash(cfg)[:ID_DIGITS]}"))
    directory = same_id[0] if same_id and not directory.exists() else directory
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{directory} is no folder, so no run can lie there; give another hydra.run.dir")
    if directory.is_dir() and not _is_run_or_empty(directory):
        raise ConfigError(
            f"{directory} has files and is no run's directory ({', '.join(OF_A_RUN)} are not there), so no run may "
            "write there; give another hydra.run.dir, or a new folder in it"
        )
    return directory


def _is_run_or_empty(directory: Path) -> bool:
    return any((directory / name).exists() for name in OF_A_RUN) or not any(directory.iterdir())


def prepare(cfg: DictConfig, directory: Path) -> Action:
    """Decide what happens with the run, and set aside what must not be touched, before Hydra opens the directory."""
    return prepare_and_keep(cfg, directory)[0]


def prepare_and_keep(cfg: DictConfig, directory: Path) -> tuple[Action, Path | None]:
    """As `prepare`; also where the earlier run lies now, if it was set aside."""
    action, set_aside = decide_run(cfg, directory, rerun=cfg.rerun)
    if not set_aside:
        return action, None
    kept = directory.with_name(f"{directory.name}.{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    directory.rename(kept)
    print(f"the earlier run is kept in {kept}", file=sys.stderr)
    return action, kept


def decide_run(cfg: DictConfig, directory: Path, *, rerun: bool = False) -> tuple[Action, bool]:
    """What a command does with this run, and whether what lies there is set aside first; see `decide`."""
    record = None if rerun else Record(directory).read()
    action, set_aside = decide(
        record,
        config_hash=config_hash(cfg),
        changed=changes(record.get("fingerprints") or {}, identity_config(cfg)) if record else [],
        has_checkpoints=(directory / "checkpoints").is_dir(),
        stale=cfg.stale,
        rerun=rerun,
    )
    return action, set_aside and any((directory / name).exists() for name in ("run.json", "checkpoints"))


def task(cfg: DictConfig, *, listen: Listen = stop_on_signals, threads: int | None = None) -> float:
    """What Hydra calls when it has made the directory and opened the log; returns the best monitored value."""
    register_resolvers()
    hydra_config = cast(DictConfig, HydraConfig.get())
    plugins = {name: resolved_node(hydra_config, name) for name in ("launcher", "sweeper")}
    check_settings(plain_values(hydra_config), plugins)  # of what another's sweeper or launcher may have composed
    directory = Path(os.path.relpath(hydra_config.runtime.output_dir))
    with hold(lock_path(directory), wait=cfg.wait):
        overrides = cast(list[str], OmegaConf.to_container(hydra_config.overrides.task, resolve=False))
        return train(cfg, directory, overrides=overrides, listen=listen, threads=threads)


def train(
    cfg: DictConfig,
    directory: Path,
    *,
    overrides: list[str],
    listen: Listen = stop_on_signals,
    threads: int | None = None,
) -> float:
    """Train, resume or reuse the run of this directory, which is locked; returns the best monitored value.

    Args:
        listen: hears the signals that stop a run.
        threads: for a new run whose config leaves them open; all cores by default.

    Raises:
        SystemExit: a signal ended it, after saving.
        EarlyExit: the run's own code called sys.exit.
    """
    record = Record(directory)
    action, _ = decide_run(cfg, directory)
    if action == "reuse":
        return report(record, note="already completed, reused")
    before = record.read() or {}
    try:
        _begin(record, cfg, before, overrides)
        value, signal_number = _fit(cfg, record, before, listen=listen, threads=threads)
    except KeyboardInterrupt:
        if (record.read() or {}).get("status") == "running":  # not while the result is printed
            _end(record, "interrupted", None)
        raise
    except SystemExit as exit_:
        error = EarlyExit(f"sys.exit({exit_.code!r}) was called before the run was over")
        _end(record, "failed", error)
        raise error from exit_
    except Exception as error:
        _end(record, "failed", error)
        raise
    if signal_number:
        sys.exit(128 + signal_number)
    return value


def _end(record: Record, status: str, error: Exception | None) -> None:
    log.debug("ended by an exception", exc_info=True)
    cause = error and {"type": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
    with suppress(OSError):  # as on a full disk, which must not hide the error
        if record.read():  # else it could not even begin, and nothing may be there that is no record of a run
            record.update(status=status, finished=_now(), error=cause)


def _begin(record: Record, cfg: DictConfig, before: dict[str, Any], overrides: list[str]) -> None:
    here = environment()
    # A branch goes on from what its parent's environment computed.
    begun = before or (Record(cfg.resume).read() if cfg.parent.config_hash else None) or {}
    then = begun.get("environment") or {}
    for left in filter(Path.is_file, record.directory.glob(".tmp-*")):  # by a kill or a power cut
        files.delete(left)
    settings_folder = record.directory / ".hydra"  # which Hydra has just written anew
    for path in (*settings_folder.glob("*"), settings_folder) if settings_folder.is_dir() else ():
        files.fsync(path)
    changed = environment_changes(then, here) if begun else []
    if changed:
        log.warning("continued in another environment, so last bits may differ: %s", ", ".join(changed))
    when = f"(after epoch {(before or cfg.parent).get('epoch') or 0})"
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
        choices=_choices(),
        config=settings(cfg),
        resolved=outside_values(cfg),
        derived=derived(cfg),
        flags=_flags(),
        config_hash=config_hash(cfg),
        fingerprints=fingerprints(identity_config(cfg)),
        process={"pid": os.getpid(), "host": socket.gethostname()},
        parent=dict(cfg.parent) if cfg.parent.config_hash else None,
        error=None,
        environment={
            **here,
            "threads": then.get("threads") if before else None,
            "changes": [*(then.get("changes") or []) * bool(before), *(f"{change} {when}" for change in changed)],
        },
    )


def _keep_code(record: Record, *, epoch: int) -> None:
    """Keep what no commit has of the code of this run, which goes on after `epoch`, and say so in its record."""
    values = record.read()
    assert values is not None
    prints = values["fingerprints"]
    try:
        found = find_sources(computing_files([*prints["code"], *prints.get("files", ())]) | _option_files())
        found.keep(record.directory / "code", epoch=epoch)
    except (OSError, subprocess.SubprocessError) as error:  # no result hangs on it
        log.warning("what no commit has of the code is not kept: %s", error)
        return
    if found.left_out:
        log.warning("%s/code takes 1 MiB and no secrets, and so not %s", record.directory, ", ".join(found.left_out))
    record.update(environment={**values["environment"], "git": found.git, "repositories": found.repositories})


def _option_files() -> set[Path]:
    """The files of the options in use."""
    hydra_config = HydraConfig.get()
    names = [f"{group.partition('@')[0]}/{option}" for group, option in _choices().items()]
    folders = [Path(source.path) for source in hydra_config.runtime.config_sources if source.schema == "file"]
    files = {folder / f"{name}.yaml" for folder in folders for name in [hydra_config.job.config_name, *names]}
    return {file for file in files if file.is_file()}


def _flags() -> list[str]:
    """What the command says beside its overrides, that options are found by."""
    hydra_config = HydraConfig.get()
    folders = [source.path for source in hydra_config.runtime.config_sources if source.provider == "command-line"]
    flags = [f"--config-dir={folder}" for folder in folders]
    if (name := hydra_config.job.config_name) != CONFIG_NAME:
        flags.append(f"--config-name={name}")
    return flags + [text for text in hydra_config.overrides.hydra if text.lstrip("+").startswith("hydra.searchpath=")]


def _choices() -> dict[str, str]:
    """The option of each group."""
    chosen = HydraConfig.get().runtime.choices
    return {group: option for group, option in chosen.items() if option and not group.startswith("hydra/")}


def _fit(
    cfg: DictConfig, record: Record, before: dict[str, Any], *, listen: Listen, threads: int | None
) -> tuple[float, int]:
    """Build, restore, fit, and complete the record. Returns the best value and the signal that ended it, or 0."""
    recorded = (before.get("environment") or {}).get("threads")
    with importing():
        from src import build, preflight
        from src.baseline import learned_nothing
        from src.callbacks.record import RecordCallback
        from src.checkpoints import Checkpoints
        from src.trainer import Interrupted

        wanted = recorded or cfg.trainer.threads or threads or available_cores()
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
    watch(is_users)
    build.check(cfg)
    data = build.build_data(cfg)
    keeper = RecordCallback(
        record=record,
        seconds_before=before.get("seconds", 0.0),
        validate_every_steps=cfg.trainer.get("validate_every_steps"),
    )
    trainer = build.build_trainer(cfg, data, run_dir=record.directory, extra_callbacks={"record": keeper})
    state, parameters = trainer.state, trainer.model.count_params()
    record.update(parameters=parameters, class_names=list(data.class_names))
    log.info("%s  %s parameters  threads: %d", record.directory, f"{parameters:,}", threads)
    if data.val is None and cfg.monitor.startswith("val/"):
        raise ConfigError(
            f"monitor is {cfg.monitor!r}, and the data has no validation split; "
            f"give monitor=train/{cfg.monitor.removeprefix('val/')}, or data with one"
        )
    chosen = _choices()
    if misfit := preflight.misfit(
        trainer.model, data, model_option=chosen.get("model", ""), data_option=chosen.get("data", "")
    ):
        raise ConfigError(misfit)
    try:
        trainer.check(data.train, data.val)
    except ValueError as error:
        groups = ("model", "data", "loss", "metric")
        raise ConfigError(f"{', '.join(f'{g}={chosen.get(g)}' for g in groups)}: {error}") from error
    if squashed := preflight.squashed(state.inference):
        raise ConfigError(f"model={chosen.get('model')}: {squashed}")
    _complete_fingerprints(record, cfg)
    if unseen := unfollowed(identity_config(cfg)):
        log.warning("a change of this is not noticed by itself: %s", "; ".join(unseen))
    preflight.check_memory(
        trainer.model,
        batch_size=min(cfg.batch_size, data.count("train")),
        parts=cfg.trainer.get("gradient_accumulation_steps") or 1,
        recomputes=cfg.trainer.jit_compile,
    )
    _keep_code(record, epoch=before.get("epoch", 0))
    if checkpoint := cfg.callback.get("checkpoint"):
        preflight.check_disk(
            record.directory,
            trainer.model,
            trainer.optimizer,
            checkpoints=min(checkpoint.max_to_keep, cfg.epochs),
            export=bool(cfg.callback.get("export")),
        )
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
    with listen(trainer.interrupt) as received, _time_limit(cfg.max_seconds, trainer.interrupt):
        try:
            trainer.fit(data.train, data.val, epochs=cfg.epochs)
        except Interrupted as interrupted:
            pruned = bool(received) and received[0] == PRUNE_SIGNAL
            record.update(status="pruned" if pruned else "interrupted", finished=_now())
            saved = bool(listed(record.directory / "checkpoints"))
            kept = "saved; the same command goes on from there" if saved else "without a checkpoint"
            log.warning("%s: ended after step %d, %s", interrupted, state.step, kept)
            return (state.best.value if state.best else math.nan), (received or [0])[0]
        if state.stop_reason:
            log.info("stopped after epoch %d: %s", state.epoch, state.stop_reason)
        _complete_fingerprints(record, cfg)
        record.update(status="completed", finished=_now())
        if nothing := learned_nothing(state.best, data):
            log.warning("%s", nothing)
    # A signal too late to stop this run still ends the sweep that it is part of.
    return report(record), received[0] if received and HydraConfig.get().mode == RunMode.MULTIRUN else 0


def _complete_fingerprints(record: Record, cfg: DictConfig) -> None:
    """Add what only the run itself shows: modules imported and files read by its own code."""
    values = record.read()
    assert values is not None
    found = completed(values["fingerprints"], identity_config(cfg), directory=record.directory)
    if found != values["fingerprints"]:
        record.update(fingerprints=found)


def report(record: Record, *, note: str = "") -> float:
    """Print the result to standard output, and beside it what to type next; returns the best monitored value."""
    values = record.read()
    assert values is not None
    best, directory = values["best"], os.path.relpath(record.directory)
    value = best["value"] if best else math.nan
    where = f"epoch {best['epoch']} of {values['epochs']}{step_within(best)}" if best else "no epoch"
    print(f"{values['monitor']} {value:.6f}  ({where}, {values['seconds']:.1f} s{', ' if note else ''}{note})")
    print(directory, flush=True)
    if not (HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN):
        print_next(next_commands(record.directory), sys.stderr)
    return value


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
