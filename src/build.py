"""Objects from a config: data, model, optimizer, trainer. The only place where options become what they name.

data = build_data(cfg)
trainer = build_trainer(cfg, data, run_dir=Path("outputs/digits/x"))
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import keras
import tensorflow as tf
from omegaconf import DictConfig, OmegaConf

from src.common.errors import Shortage
from src.common.machine import KERAS, available_cores
from src.config import targets
from src.config.binding import target_problems
from src.config.checks import ConfigError, check_run_paths, resolved_node
from src.data.data import DataError
from src.data.images.image_data import ImageData
from src.training.callback import Callback
from src.training.trainer import Trainer

BUILT = ("data", "model", "optimizer", "schedule", "loss", "metric", "callback")
# What is not in the config, and given to what is built.
GIVEN = {"optimizer": frozenset(["learning_rate"]), "callback": frozenset(["data"])}
# Of the trainer's options, what is none of the Trainer's own.
OF_PROCESS_OR_DATA = ("threads", "limit_train_batches", "limit_val_batches", "overfit_batches")


def set_up_process(*, threads: int, deterministic: bool = True) -> int:
    """Set the process's thread count before any op has run, make its ops deterministic, and set Keras's defaults.

    Returns the count in force: a process that has already run ops keeps the threads that it began with.
    """
    threading = tf.config.threading
    try:
        threading.set_intra_op_parallelism_threads(threads)
        threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        threads = threading.get_intra_op_parallelism_threads() or available_cores()
    keras.config.set_floatx(KERAS["floatx"])
    keras.config.set_image_data_format(KERAS["image_data_format"])
    keras.config.set_epsilon(KERAS["epsilon"])
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    tf.zeros([])  # starts the runtime here, where the caller may hold back what it announces
    return threads


def check(cfg: DictConfig) -> None:
    """Find out, before data is read, whether all that a config names exists and takes the arguments given.

    Raises:
        ConfigError: naming all that is wrong, a line each.
    """
    config = {group: resolved_node(cfg, group) for group in BUILT}
    config["optimizer"] = _without_nulls(config["optimizer"])
    problems = target_problems(config, GIVEN)
    if problems:
        raise ConfigError.of(problems)


def build_data(cfg: DictConfig) -> ImageData:
    """The data option's splits, as far as the trainer's options leave them whole."""
    data: ImageData = _build(cfg, "data")
    data.check()
    if batches := cfg.trainer.get("overfit_batches"):
        data.overfit(batches=batches)
    data.limit_batches(train=cfg.trainer.get("limit_train_batches"), val=cfg.trainer.get("limit_val_batches"))
    return data


def build_model(cfg: DictConfig, data: ImageData) -> keras.Model:
    """The model option, shaped for the data."""
    return _build(_with_facts(cfg, data), "model")


def build_trainer(
    cfg: DictConfig, data: ImageData, *, run_dir: Path, extra_callbacks: Mapping[str, Callback] | None = None
) -> Trainer:
    """Everything that a run needs, in a trainer that knows nothing of configs.

    Args:
        run_dir: where callbacks write.
        extra_callbacks: called after those of the config, and before `checkpoint`.

    Raises:
        ConfigError: a target that does not exist, arguments that it does not take, class weights for another number
            of classes, or a callback's path outside of `run_dir`.
    """
    cfg = _with_facts(cfg, data, run_dir)
    check_run_paths({"callback": resolved_node(cfg, "callback")}, run_dir=run_dir)
    _balance(cfg.loss, data)
    keras.utils.clear_session()  # layers are named as in a fresh process
    keras.config.set_dtype_policy(cfg.get("precision") or "float32")
    keras.utils.set_random_seed(cfg.seed)  # here: preparing data may have drawn random numbers
    try:
        model = _build(cfg, "model")
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        raise Shortage(
            f"model ({cfg.model.get('_target_')!s}) does not fit in memory: give a smaller one, as with fewer "
            "model.filters"
        ) from error
    cfg.optimizer = _without_nulls(cfg.optimizer)
    optimizer = _build(cfg, "optimizer", learning_rate=_build(cfg, "schedule"))
    callbacks = {**(_build(cfg, "callback") or {}), **(extra_callbacks or {})}
    # What an option leaves open with `_partial_: true` is the data itself.
    callbacks = {
        name: callback(data=data) if isinstance(callback, functools.partial) else callback
        for name, callback in callbacks.items()
    }
    if "checkpoint" in callbacks:
        callbacks["checkpoint"] = callbacks.pop("checkpoint")
    options = cast(dict[str, Any], OmegaConf.to_container(cfg.trainer, resolve=True))
    options = {key: value for key, value in options.items() if key not in OF_PROCESS_OR_DATA}
    return Trainer(
        model=model,
        optimizer=optimizer,
        loss=_build(cfg, "loss"),
        ignore_label=data.ignore_label,
        metrics={name: metric for name, metric in _build(cfg, "metric").items() if metric is not None},
        callbacks={name: callback for name, callback in callbacks.items() if callback is not None},
        monitor=cfg.monitor,
        mode=cfg.mode,
        loss_scaling=cfg.get("precision") == "mixed_float16",
        **options,
    )


def _without_nulls(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's node without what is null: Keras's default then."""
    return {key: value for key, value in optimizer.items() if value is not None}


def _with_facts(cfg: DictConfig, data: ImageData, run_dir: Path | None = None) -> DictConfig:
    cfg = cfg.copy()
    steps = data.train.steps_per_epoch
    cfg.run = {
        "dir": None if run_dir is None else str(run_dir),
        **data.facts,
        "steps_per_epoch": steps,
        "total_steps": steps * cfg.epochs,
    }
    return cfg


def _balance(node: Any, data: ImageData, key: str = "loss") -> None:
    """Fill in class weights that are left to the data, wherever they stand in a loss, and count those given."""
    if not isinstance(node, DictConfig):
        return
    for name in node:
        if name == "class_weights" and node[name] == "balanced":
            node[name] = data.balanced_class_weights()
        if name == "class_weights" and OmegaConf.is_list(node[name]) and len(node[name]) != data.num_classes:
            raise ConfigError(
                f"{key}.{name} has {len(node[name])} numbers for {data.num_classes} classes; "
                "give one for each, or balanced"
            )
        _balance(node[name], data, f"{key}.{name!s}")


def _build(cfg: DictConfig, group: str, **arguments: Any) -> Any:
    try:
        return targets.build(resolved_node(cfg, group), key=group, **arguments)
    except targets.TargetError as error:
        if isinstance(error.__cause__, DataError):  # of its files, and not of the config
            raise error.__cause__ from None
        raise ConfigError(str(error)) from error
