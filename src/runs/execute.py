"""The one door: whoever starts a run, a command, a sweep's child or another launcher's job, executes it here.

value = execute(Run.of(compose(["optimizer=adam"])))

Lock, decide, begin, build, restore, fit, report. TensorFlow is imported only when there is something to train.
"""

from __future__ import annotations

import logging
import math
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.common.errors import ConfigError
from src.common.files import delete
from src.common.lock import hold
from src.common.logs import importing
from src.common.machine import available_cores
from src.common.signals import PRUNE_SIGNAL, interrupts_noted, stop_on_signals, time_limit
from src.common.text import plural
from src.config.checks import plain_values, resolved_node
from src.config.hydra_settings import PLUGINS, check_settings
from src.config.identity import register_resolvers
from src.runs.begin import begin, keep_code, keep_parallelism, now
from src.runs.branch import begin_branch
from src.runs.commands import next_commands, print_next, python, threads_advice
from src.runs.decision import Action
from src.runs.environment import environment, environment_changes
from src.runs.evaluate_test import check_test, measure_test, shown
from src.runs.file_access import watch
from src.runs.hydra_job import HydraCallbacks, run_as_job
from src.runs.provenance import completed, fingerprints, is_users, unfollowed
from src.runs.record import Record
from src.runs.record_schema import EMPTY, RecordValues, step_within
from src.runs.run import Run
from src.training.manifest import listed

if TYPE_CHECKING:
    from src.data.data import Data
    from src.training.trainer import Trainer

log = logging.getLogger(__name__)

Listen = Callable[[Callable[[str], None]], AbstractContextManager[list[int]]]


class EarlyExit(RuntimeError):
    """What a run is made of called sys.exit: it is not completed, whatever the code."""


def execute(
    run: Run,
    *,
    wait: bool = False,
    listen: Listen = stop_on_signals,
    threads: int | None = None,
    begins: Callable[[Run], None] = lambda run: None,
) -> float:
    """Do what a run still needs, from nothing to all, and print its result; returns the best monitored value.

    Args:
        wait: for another process that trains the same run, instead of refusing.
        listen: hears the signals that stop it.
        threads: for a new run whose config leaves them open; all cores by default.
        begins: called with the run when it is not reused, its log open.

    Raises:
        SystemExit: a signal ended it, after saving.
        EarlyExit: the run's own code called sys.exit.
    """
    with _decided(run, wait=wait or run.cfg.wait) as (action, set_aside, record, prints):
        if action == "reuse":
            return report(run, record, note="already completed, reused")
        callbacks = HydraCallbacks(run.cfg)
        kept = run.set_aside() if set_aside else None
        before = EMPTY if kept else record.values
        is_new, is_begun = not run.directory.exists(), False

        def task(directory: Path) -> float:
            nonlocal is_begun
            is_begun, here = True, replace(run, directory=directory)
            begins(here)
            if action == "measure":
                return _measure(here, record, listen=listen, threads=threads)
            return _train(here, before, prints, listen=listen, threads=threads)

        try:
            return run_as_job(run, task, callbacks)
        except Exception as error:
            if is_new and not run.is_job and (isinstance(error, ConfigError) or not is_begun):
                delete(run.directory)  # a command that was wrong, and no run that failed
                if kept:
                    kept.rename(run.directory)
                    print(f"the earlier run is back in {run.directory}", file=sys.stderr)
            if isinstance(error, ValueError) and not is_begun:
                raise ConfigError(f"hydra.job_logging cannot be set up: {error}") from error
            raise


def execute_job(cfg: DictConfig) -> float:
    """The task of a job that another launcher has opened: its directory, its log, HydraConfig.

    What the sweep had to set aside, it has set aside before its first job; so this decides anew, and only goes on.
    """
    register_resolvers()
    if cfg.dry_run:
        raise ConfigError("dry_run=true does not go with this sweeper and launcher; try it with hydra/launcher=local")
    cfg.rerun = False  # as what was there lies aside already
    hydra_config = cast(DictConfig, HydraConfig.get())
    plugins = {name: resolved_node(hydra_config, name) for name in PLUGINS}
    check_settings(plain_values(hydra_config), plugins)  # of what another's sweeper or launcher may have composed
    run = Run.of(cfg, hydra=hydra_config, directory=Path(os.path.relpath(hydra_config.runtime.output_dir)))
    with _decided(run, wait=cfg.wait) as (action, _, record, prints):
        if action == "reuse":
            return report(run, record, note="already completed, reused")
        if action == "measure":
            return _measure(run, record)
        return _train(run, record.values, prints)


@contextmanager
def _decided(run: Run, *, wait: bool) -> Iterator[tuple[Action, bool, Record, dict[str, Any]]]:
    """Hold the run's lock: what is to be done with it, whether it is set aside first, its record and fingerprints."""
    with ExitStack() as stack:
        unwritable = None
        try:
            stack.enter_context(hold(run.lock, wait=wait))
        except OSError as error:
            unwritable = error
        record, prints = Record(run.directory), fingerprints(run.identity)
        action, set_aside = run.decide(record=record, prints=prints)
        if unwritable and action != "reuse":  # a result that is there can do without
            raise unwritable
        yield action, set_aside, record, prints


def _train(
    run: Run,
    before: RecordValues,
    prints: dict[str, Any],
    *,
    listen: Listen = stop_on_signals,
    threads: int | None = None,
) -> float:
    """Train or go on with a run whose lock is held; see `execute`."""
    record = Record(run.directory)
    with interrupts_noted() as interrupts:
        try:
            begin(run, record, before, prints)
            trainer, data = _build(run, record, before, threads=threads)
            _check(run, record, trainer, data)
            _restore(run, trainer, data)
            _keep_fingerprints(run, record, prints)
            keep_code(run, record, epoch=before["epoch"])
            if interrupts:  # passed over by Keras or TensorFlow
                raise interrupts[0]
            signal_number = _fit(run, record, trainer, data, listen=listen)
            best = trainer.state.best
            value = report(run, record) if record.values["status"] == "completed" else best.value if best else math.nan
        except SystemExit as exit_:
            error = EarlyExit(f"sys.exit({exit_.code!r}) was called before the run was over")
            _end(record, "failed", error)
            raise error from exit_
        except (KeyboardInterrupt, Exception) as error:
            if isinstance(error, KeyboardInterrupt):
                interrupts.insert(0, error)
            if not interrupts:
                _end(record, "failed", error)
                raise
            written = record.read() or EMPTY  # even if just now
            if written["status"] == "running":  # not while the result is printed
                _end(record, "interrupted", None)
            interrupts[0].add_note(_what_is_left(run))
            raise interrupts[0] from None
    if signal_number:
        sys.exit(128 + signal_number)
    return value


def _measure(run: Run, record: Record, *, listen: Listen = stop_on_signals, threads: int | None = None) -> float:
    """Measure the test split of a completed run, whose lock is held, and change nothing else of it."""
    trainer, data = _build(run, record, record.values, threads=threads)
    from src.training.checkpoints import Checkpoints
    from src.training.trainer import Interrupted

    check_test(run.cfg, data)
    trainer.check(data.train, data.val)  # which makes what a checkpoint restores
    if Checkpoints(run.directory / "checkpoints").restore(trainer.state) is None:
        raise FileNotFoundError(f"{run.directory} has no checkpoint any more; {_evaluate_command(run)}")
    with listen(trainer.interrupt) as received:
        try:
            record.update(test=measure_test(trainer, data, run.directory))
        except Interrupted as interrupted:
            log.warning("%s: the test split is not measured; the same command does it", interrupted)
            sys.exit(128 + received[0])
    return report(run, record, note="already completed, reused")


def _evaluate_command(run: Run) -> str:
    directory = os.path.relpath(run.directory)
    return f"its SavedModel is measured by: {shlex.join([python(), '-m', 'src.evaluate', directory, 'split=test'])}"


def _build(run: Run, record: Record, before: RecordValues, *, threads: int | None) -> tuple[Trainer, Data]:
    """Import TensorFlow, and make what the config names."""
    cfg = run.cfg
    wanted = before["environment"]["threads"] or cfg.trainer.threads or threads or available_cores()
    with importing():
        from src import build
        from src.runs.record_callback import RecordCallback

        # XLA lacks deterministic kernels for some ops, max-pooling's gradient among them, and then refuses all.
        strategy = build.build_strategy(cfg)
        threads = build.set_up_process(threads=wanted, deterministic=not cfg.trainer.jit_compile, strategy=strategy)
    if threads != wanted:
        raise ConfigError(
            f"this run needs {wanted} threads, and its process already runs {threads}: "
            f"jobs of one sweep share a process. Type its command alone, or give trainer.threads={threads}"
        )
    keep_parallelism(record, before, threads=threads, replicas=strategy.replicas if strategy else None)
    watch(is_users)
    build.check(cfg)
    data = build.build_data(cfg)
    every = cfg.trainer.get("validate_every_steps")
    keeper = RecordCallback(record=record, seconds_before=before["seconds"], validate_every_steps=every)
    trainer = build.build_trainer(
        cfg,
        data,
        run_dir=run.directory,
        extra_callbacks={"record": keeper},
        restores=bool(cfg.parent.config_hash or listed(run.directory / "checkpoints")),
        strategy=strategy,
    )
    record.update(parameters=trainer.model.count_params(), class_names=list(data.class_names))
    log.info("%s  %s parameters  threads: %d", run.directory, f"{record.values['parameters']:,}", threads)
    return trainer, data


def _check(run: Run, record: Record, trainer: Trainer, data: Data) -> None:
    """Refuse what would compute something else than it says, or come to no end."""
    from src.runs import preflight

    cfg, chosen = run.cfg, run.choices
    if data.val is None and cfg.monitor.startswith("val/"):
        raise ConfigError(preflight.no_validation(cfg.monitor, cfg.data, examples=data.count("train")))
    check_test(cfg, data)
    options = {f"{group}_option": str(chosen.get(group, "")) for group in ("model", "data")}
    is_supervised = not cfg.get("learner")  # another learner says itself what it takes of the outputs
    if is_supervised and (shape_problem := preflight.shape_problem(trainer.model, data, **options)):
        raise ConfigError(shape_problem)
    try:
        trainer.check(data.train, data.val)
    except ValueError as error:
        what = ", ".join(f"{group}={chosen.get(group)}" for group in ("model", "data", "loss", "metric"))
        is_of_numbers = data.targets_are_classes and "compares number with number" in str(error)
        raise ConfigError(f"{what}: {error}{preflight.OF_CLASSES if is_of_numbers else ''}") from error
    if is_supervised and (probabilities_problem := preflight.probabilities_problem(trainer, data)):
        raise ConfigError(f"model={chosen.get('model')}: {probabilities_problem}")
    if unseen := unfollowed(run.identity):
        log.warning("a change of this is not noticed by itself: %s", "; ".join(unseen))
    steps = cfg.epochs * data.train.steps_per_epoch
    if unsettled := preflight.moving_average_problem(trainer.model, steps=steps, options=cfg.model):
        log.warning("%s", unsettled)
    preflight.check_memory(
        trainer.model,
        batch_size=min(cfg.batch_size, data.count("train")),
        parts=cfg.trainer.get("gradient_accumulation_steps") or 1,
        recomputes=cfg.trainer.jit_compile,
    )
    if checkpoint := cfg.callback.get("checkpoint"):
        disk_bytes = preflight.check_disk(
            run.directory,
            trainer.model,
            trainer.optimizer,
            checkpoints=min(checkpoint.max_to_keep, cfg.epochs),
            export=bool(cfg.callback.get("export")),
        )
        record.update(disk_bytes=disk_bytes)  # for a sweep to multiply


def _restore(run: Run, trainer: Trainer, data: Data) -> None:
    """Go on from the run's newest checkpoint, or from that of the run that it branches from."""
    from src.runs import preflight
    from src.training.checkpoints import Checkpoints

    parent, state = run.cfg.parent, trainer.state
    if parent.config_hash:
        begin_branch(run.branches_from, run.directory, checkpoint=parent.checkpoint)
    learning_rates = state.constant_learning_rates()
    try:
        restored = Checkpoints(run.directory / "checkpoints").restore(state)
    except ValueError as error:
        if parent.config_hash:
            raise ConfigError(f"resume={run.cfg.resume}: {error}; leave out what makes them differ") from error
        raise
    if restored and state.step == parent.step:
        steps = data.train.steps_per_epoch
        if state.step != state.epoch * steps + state.epoch_step:
            raise ConfigError(
                f"{run.cfg.resume} did {state.step} steps in {plural(state.epoch, 'epoch')}, and an epoch has {steps} "
                "here: a branch needs the batch_size and the data of its parent"
            )
        state.branch(learning_rates)
        peak = run.cfg.optimizer.get("learning_rate")
        if faint := preflight.schedule_problem(state, epochs=run.cfg.epochs, steps_per_epoch=steps, peak=peak):
            log.warning("%s", faint)
    trainer.learner.begin_alike(state)
    if restored:
        log.info("continuing after step %d, epoch %d, from %s", state.step, state.epoch, restored)


def _fit(run: Run, record: Record, trainer: Trainer, data: Data, *, listen: Listen) -> int:
    """Train to the end and complete the record, or say what interrupted it. Returns the signal that ended it, or 0."""
    from src.runs import preflight
    from src.runs.baseline import learned_nothing
    from src.training.trainer import Interrupted

    state = trainer.state
    limit = time_limit(run.cfg.max_seconds, trainer.interrupt)
    with listen(trainer.interrupt) as received, limit, preflight.naming_failures():
        try:
            trainer.fit(data.train, data.val, epochs=run.cfg.epochs)
            measured = {"test": measure_test(trainer, data, run.directory)} if run.cfg.evaluate_test else {}
        except Interrupted as interrupted:
            pruned = bool(received) and received[0] == PRUNE_SIGNAL
            record.update(status="pruned" if pruned else "interrupted", finished=now())
            saved = bool(listed(run.directory / "checkpoints"))
            kept = "saved; the same command goes on from there" if saved else "without a checkpoint"
            log.warning("%s: ended after step %d, %s", interrupted, state.step, kept)
            return int(max(trainer.learner.gather((received or [0])[:1]))[0])  # whichever process heard it
        if state.stop_reason:
            log.info("stopped after epoch %d: %s", state.epoch, state.stop_reason)
        _keep_fingerprints(run, record, record.values["fingerprints"])
        record.update(status="completed", finished=now(), **measured)
        if nothing := learned_nothing(state.best, data):
            log.warning("%s", nothing)
    # A signal too late to stop this run still ends the sweep that it is part of.
    return received[0] if received and run.is_job else 0


def _end(record: Record, status: str, error: BaseException | None) -> None:
    log.debug("ended by an exception", exc_info=True)
    cause = error and {"type": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
    with suppress(OSError):  # as on a full disk, which must not hide the error
        if record.values["status"]:  # else it could not even begin, and nothing may be there that is no record of a run
            record.update(status=status, finished=now(), error=cause)


def _keep_fingerprints(run: Run, record: Record, prints: Mapping[str, Any]) -> None:
    """Record them, with what only the run itself shows: modules imported and files read by its own code."""
    found = completed(prints, run.identity, directory=run.directory)
    if found != record.values["fingerprints"]:
        record.update(fingerprints=found)


def _what_is_left(run: Run) -> str:
    if listed(run.directory / "checkpoints"):
        return "; the same command goes on from the last checkpoint"
    return " before the first checkpoint; the same command starts anew"


def report(run: Run, record: Record, *, note: str = "") -> float:
    """Print the result to standard output, and beside it what to type next; returns the best monitored value."""
    values = record.values
    best, directory = values["best"], os.path.relpath(run.directory)
    value = math.nan if best is None or best["value"] is None else best["value"]
    where = f"epoch {best['epoch']} of {values['epochs']}{step_within(best)}" if best else "no epoch"
    print(f"{values['monitor']} {value:.6f}  ({where}, {values['seconds']:.1f} s{', ' if note else ''}{note})")
    if tested := values["test"]:
        print(shown(tested))
    print(directory, flush=True)
    if run.is_job:
        return value
    print_next(next_commands(run.directory), sys.stderr)
    if run.cfg.evaluate_test and not tested:
        print(
            f"note: its checkpoints are gone, so the test split is not measured; {_evaluate_command(run)}",
            file=sys.stderr,
        )
    if note:
        then = values["environment"]
        if changed := environment_changes(then, environment()):
            print(f"note: it was computed in another environment: {', '.join(changed)}", file=sys.stderr)
        if changes := then["changes"]:
            print(f"note: its environment changed on the way: {', '.join(changes)}", file=sys.stderr)
    elif advice := threads_advice(values, record.history()):
        print(f"note: {advice}", file=sys.stderr)
    return value
