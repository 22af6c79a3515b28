"""Objects from a config: data, model, optimizer, trainer. The only place where options become what they name.

data = build_data(cfg)
trainer = build_trainer(cfg, data, run_dir=Path("outputs/digits/x"))
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import keras
import tensorflow as tf
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.callbacks.base import Callback
from src.config import ConfigError
from src.data.image_data import DataError, ImageData
from src.machine import available_cores
from src.trainer import Trainer

# Of the trainer's options, what is none of the Trainer's own.
OF_PROCESS_OR_DATA = ("threads", "limit_train_batches", "limit_val_batches", "overfit_batches")


def set_up_process(*, threads: int, deterministic: bool = True) -> int:
    """Set the process's thread count before any op has run, and make its ops deterministic.

    Returns the count in force: a process that has already run ops keeps the threads that it began with.
    """
    threading = tf.config.threading
    try:
        threading.set_intra_op_parallelism_threads(threads)
        threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        threads = threading.get_intra_op_parallelism_threads() or available_cores()
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    tf.zeros([])  # starts the runtime here, where the caller may hold back what it announces
    return threads


def build_data(cfg: DictConfig) -> ImageData:
    """The data option's splits, as far as the trainer's options leave them whole."""
    data: ImageData = _build(cfg, "data")
    data.check_labels()
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
        ConfigError: a target that does not exist, or arguments that it does not take.
    """
    cfg = _with_facts(cfg, data, run_dir)
    _balance(cfg.loss, data)
    keras.utils.clear_session()  # layers are named as in a fresh process
    keras.config.set_dtype_policy(cfg.get("precision") or "float32")
    keras.utils.set_random_seed(cfg.seed)  # here: preparing data may have drawn random numbers
    model = _build(cfg, "model")
    cfg.optimizer = {key: value for key, value in cfg.optimizer.items() if value is not None}  # null: Keras's default
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
    if unknown := set(options) - set(inspect.signature(Trainer).parameters):
        raise ConfigError(f"trainer has no option {', '.join(sorted(unknown))}")
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


def _with_facts(cfg: DictConfig, data: ImageData, run_dir: Path | None = None) -> DictConfig:
    cfg = cfg.copy()
    steps = data.train.steps_per_epoch
    cfg.run = {
        "dir": None if run_dir is None else str(run_dir),
        "input_shape": list(data.input_shape),
        "num_classes": data.num_classes,
        "class_names": list(data.class_names),
        "ignore_label": data.ignore_label,
        "steps_per_epoch": steps,
        "total_steps": steps * cfg.epochs,
    }
    return cfg


def _balance(node: Any, data: ImageData) -> None:
    """Fill in class weights that are left to the data, wherever they stand in a loss."""
    if isinstance(node, DictConfig):
        for key in node:
            if key == "class_weights" and node[key] == "balanced":
                node[key] = data.balanced_class_weights()
            _balance(node[key], data)


def _build(cfg: DictConfig, group: str, **arguments: Any) -> Any:
    try:
        return instantiate(cfg[group], **arguments, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, DataError):  # of its files, and not of the config
            raise cause from None
        if cause is None or isinstance(cause, TypeError | ValueError | ImportError | AttributeError):
            detail = " ".join(str(cause or error).split("\nfull_key")[0].split())
            target = str(cfg[group].get("_target_", ""))
            raise ConfigError(f"{group}{f' ({target})' if target else ''}: {detail}") from error
        raise cause from None
