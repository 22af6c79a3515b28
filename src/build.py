"""Objects from a config: data, model, optimizer, trainer. The only place where options become what they name.

data = build_data(cfg)
trainer = build_trainer(cfg, data, run_dir=Path("outputs/digits/x"))
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf
from omegaconf import DictConfig, OmegaConf, open_dict

from src.callbacks.failures import warn_of_failures
from src.common.errors import Shortage, one_line, plain_message, users_line
from src.common.machine import KERAS, available_cores
from src.common.spelling import did_you_mean
from src.common.text import first_of, plural
from src.config import targets
from src.config.binding import target_problems
from src.config.checks import ConfigError, check_run_paths, resolved_node
from src.data.batch import described, zeros_of
from src.data.data import Data, DataError
from src.runs.recorded_config import load_config
from src.runs.workers import DECIDING
from src.training.callback import Callback
from src.training.checkpoints import Checkpoints
from src.training.learner import SEED
from src.training.manifest import BEST
from src.training.replicas import Mirrored, Replicated
from src.training.state import kept
from src.training.trainer import Trainer

log = logging.getLogger(__name__)

# Callbacks without which a run has no record, cannot go on, or is another.
NEEDED = ("record", "checkpoint", *DECIDING)
BUILT = ("data", "model", "optimizer", "schedule", "loss", "metric", "callback", "learner", "strategy")
# What is not in the config, and given to what is built.
GIVEN = {
    "optimizer": frozenset(["learning_rate"]),
    "callback": frozenset(["data"]),
    "model": frozenset(["data"]),
    "learner": frozenset(["model", "optimizer", "loss", "metrics"]),
}
# Of the trainer's options, what a learner takes.
OF_LEARNER = ("gradient_accumulation_steps", "clip_norm")
NAMED_WEIGHTS = 8  # in a message
WEIGHTS = ".weights.h5"  # files of Keras's save_weights
# Of the trainer's options, what is none of the Trainer's own.
OF_PROCESS_OR_DATA = ("threads", "limit_train_batches", "limit_val_batches", "overfit_batches")


def set_up_process(*, threads: int, deterministic: bool = True, strategy: Mirrored | None = None) -> int:
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
    if strategy:
        try:
            strategy.start()
        except ValueError as error:
            raise ConfigError(str(error)) from error
    tf.zeros([])  # starts the runtime here, where the caller may hold back what it announces
    return threads


def build_strategy(cfg: DictConfig) -> Mirrored | None:
    """The strategy of a config, not started; None where it trains on one device."""
    return cast("Mirrored | None", _build(cfg, "strategy"))


def check(cfg: DictConfig) -> None:
    """Find out, before data is read, whether all that a config names exists and takes the arguments given.

    Raises:
        ConfigError: naming all that is wrong, a line each.
    """
    config = {group: resolved_node(cfg, group) for group in BUILT}
    config["optimizer"] = _without_nulls(config["optimizer"])
    of_data = config["model"].get("_partial_")
    given = {group: names for group, names in GIVEN.items() if group != "model" or of_data}
    problems = target_problems(config, given)
    if problems:
        raise ConfigError.of(problems)


def build_data(cfg: DictConfig) -> Data:
    """The data option's splits, as far as the trainer's options leave them whole."""
    try:
        data: Data = _build(cfg, "data")
        data.check()
    except RuntimeError as error:  # of TensorFlow, whose ops are deterministic
        if "require a seed" not in str(error):
            raise
        raise ConfigError(
            f"data ({cfg.data.get('_target_')}), {users_line(error)}: what draws random numbers needs a seed, so that "
            "an interrupted run goes on exactly, as shuffle(n, seed=seed, reshuffle_each_iteration=False)"
        ) from error
    if batches := cfg.trainer.get("overfit_batches"):
        data.overfit(batches=batches)
    data.limit_batches(train=cfg.trainer.get("limit_train_batches"), val=cfg.trainer.get("limit_val_batches"))
    return data


def build_trainer(
    cfg: DictConfig,
    data: Data,
    *,
    run_dir: Path,
    extra_callbacks: Mapping[str, Callback] | None = None,
    restores: bool = False,
    strategy: Mirrored | None = None,
) -> Trainer:
    """Everything that a run needs, in a trainer that knows nothing of configs.

    Args:
        run_dir: where callbacks write.
        extra_callbacks: called after those of the config, and before `checkpoint`.
        restores: whether a checkpoint will give the weights, so that those of `init_from` need not be there any more.
        strategy: started; None makes a trainer of one device, whatever the config says.

    Raises:
        ConfigError: a target that does not exist, arguments that it does not take, class weights for another number
            of classes, or a callback's path outside of `run_dir`.
    """
    cfg = _with_facts(cfg, data, run_dir)
    check_run_paths({"callback": resolved_node(cfg, "callback")}, run_dir=run_dir)
    _balance(cfg.get("loss"), data)
    # Before the run's own model, whose layers are named, and whose weights are drawn, as without them.
    place = "" if restores else cfg.get("init_from") or ""
    before = trained_model(place, data, cfg.data) if place and not place.endswith(WEIGHTS) else None
    teacher = trained_model(cfg.learner.teacher, data, cfg.data) if "teacher" in (cfg.get("learner") or {}) else None
    keras.utils.clear_session()  # layers are named as in a fresh process
    keras.config.set_dtype_policy(cfg.get("precision") or "float32")
    keras.utils.set_random_seed(cfg.seed)  # here: preparing data may have drawn random numbers
    scope = strategy.running.scope if strategy else contextlib.nullcontext
    try:
        with scope():
            model = _model(cfg, data)
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        raise Shortage(
            f"model ({cfg.model.get('_target_')!s}) does not fit in memory: give a smaller one, as with fewer "
            "model.filters"
        ) from error
    if before is not None:
        take_weights(model, before, told=f"init_from={place}")
    elif place:
        load_weights(model, place)
    cfg.optimizer = _without_nulls(cfg.optimizer)
    with scope():
        optimizer = _build(cfg, "optimizer", learning_rate=_build(cfg, "schedule"))
    callbacks = _callbacks(cfg, data, extra_callbacks or {})
    options = cast(dict[str, Any], OmegaConf.to_container(cfg.trainer, resolve=True))
    options = {key: value for key, value in options.items() if key not in OF_PROCESS_OR_DATA}
    supervised: dict[str, Any] = {
        "model": model,
        "optimizer": optimizer,
        "loss": _build(cfg, "loss"),
        "ignore_label": data.ignore_label,
        "metrics": {name: metric for name, metric in (_build(cfg, "metric") or {}).items() if metric is not None},
        "loss_scaling": cfg.get("precision") == "mixed_float16",
    }
    if strategy or cfg.get("learner"):
        supervised |= {name: options.pop(name) for name in OF_LEARNER if name in options}
    if strategy:
        supervised = {"learner": Replicated(strategy=strategy.running, batch_size=cfg.batch_size, **supervised)}
    elif cfg.get("learner"):
        supervised |= {} if teacher is None else {"teacher": teacher}
        supervised = {"learner": _build(cfg, "learner", **supervised)}
    return Trainer(
        callbacks=callbacks,
        monitor=cfg.monitor,
        mode=cfg.mode,
        **supervised,
        **options,
    )


def _callbacks(cfg: DictConfig, data: Data, extra: Mapping[str, Callback]) -> dict[str, Callback]:
    """Those of the config, then the extra ones, and `checkpoint` last."""
    made = {**(_build(cfg, "callback") or {}), **extra}
    if "checkpoint" in made:
        made["checkpoint"] = made.pop("checkpoint")
    # What an option leaves open with `_partial_: true` is the data itself.
    callbacks = {
        name: callback(data=data) if isinstance(callback, functools.partial) else callback
        for name, callback in made.items()
        if callback is not None
    }
    for name, callback in callbacks.items():
        if not isinstance(callback, Callback):
            raise ConfigError(
                f"callback.{name} ({cfg.callback[name]._target_}) makes a {type(callback).__name__}, which is no "
                f"src.training.callback.Callback. {targets.KERAS_CALLBACK}"
            )
    for name in cfg.get("may_fail") or ():
        if name not in callbacks or name in NEEDED:
            known = [other for other in callbacks if other not in NEEDED]
            raise ConfigError(f"may_fail has {name!r}; it may have {', '.join(known)}{did_you_mean(str(name), known)}")
        warn_of_failures(callbacks[name])
    return callbacks


def trained_model(place: str, data: Data, node: Any) -> keras.Model:
    """The model of a run with its best weights, or of a .keras file.

    Args:
        data: which stands for the run's own where that is of the same options.
        node: the options of `data`.

    Raises:
        ConfigError: it is neither, or the run has no checkpoint.
    """
    path = Path(place).expanduser()
    if path.suffix == ".keras":
        try:
            return keras.models.load_model(path, compile=False)
        except (OSError, ValueError, TypeError) as error:  # a TypeError where a class of one's own is not registered
            raise ConfigError(f"{place} is no model that can be loaded ({error})") from error
    cfg = load_config(path)
    with open_dict(cfg):
        cfg.update(callback=None, learner=None)
    # A model's shape, and what it takes from its data, such as a vocabulary, are those of the run's own data.
    trainer = build_trainer(cfg, data if cfg.data == node else build_data(cfg), run_dir=path, restores=True)
    if Checkpoints(path / "checkpoints" / BEST).restore_weights(trainer.state) is None:
        raise ConfigError(f"{place} has no best checkpoint; complete that run, or name another")
    return trainer.model


def take_weights(model: keras.Model, other: keras.Model, *, told: str) -> None:
    """Give a model those of another's weights that have the same path and shape.

    Args:
        told: what to call the other one.

    Raises:
        ConfigError: there are none, or a layer has another vocabulary, whose weights are of other words.
    """
    vocabularies = _vocabularies(other)
    for name, words in _vocabularies(model).items():
        if words != vocabularies.get(name, words):
            raise ConfigError(
                f"{told}: {name} has another vocabulary there, so its weights are those of other words; give the data "
                "that it was trained on, or leave init_from out"
            )
    weights = {v.path: v for v in other.variables if not v.path.endswith(SEED)}
    own = [v for v in model.variables if not v.path.endswith(SEED)]
    taken = [v for v in own if v.path in weights and v.shape == weights[v.path].shape]
    for variable in taken:
        variable.assign(weights[variable.path])
    left = [v.path for v in own if all(v is not variable for variable in taken)]
    if not taken:
        raise ConfigError(f"{told} has no weights of this model's paths and shapes, as {', '.join(left[:3])}")
    more = ", ..." if len(left) > NAMED_WEIGHTS else ""
    names = f"; as initialized: {', '.join(left[:NAMED_WEIGHTS])}{more}" if left else ""
    log.info("%s: %d of %d weights taken%s", told, len(taken), len(own), names)


def load_weights(model: keras.Model, place: str) -> None:
    """Give a model all weights of a file of `save_weights`; seeds of random layers stay its own.

    Raises:
        ConfigError: it cannot be read, or is of a model of other layers.
    """
    with kept([v for v in model.variables if v.path.endswith(SEED)]), warnings.catch_warnings(action="ignore"):
        for weight in model.weights:
            if tf.as_dtype(weight.dtype).is_floating:  # what the file lacks stays so, with a warning at most
                weight.assign(tf.fill(weight.shape, tf.constant(math.nan, weight.dtype)))
        try:
            model.load_weights(Path(place).expanduser())
            if lacking := [w.path for w in model.weights if np.isnan(np.asarray(w.value, np.float64)).any()]:
                raise ValueError(f"it lacks {first_of(lacking, NAMED_WEIGHTS)}, or has NaN there")
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"init_from={place} does not have the weights of this model ({one_line(str(error))}); give the options "
                "of the model that it was saved from, or a .keras file, of which the weights are taken that fit"
            ) from error
    log.info("init_from=%s: %s", place, plural(len(model.weights), "weight"))


def _vocabularies(model: keras.Model) -> dict[str, list[Any]]:
    """The words that layers number, by the layer's name."""
    return {layer.name: layer.get_vocabulary() for layer in model.layers if hasattr(layer, "get_vocabulary")}


def _model(cfg: DictConfig, data: Data) -> keras.Model:
    """The model, called once where it makes its variables then."""
    model = _build(cfg, "model")
    model = model(data=data) if isinstance(model, functools.partial) else model
    if not model.built:
        spec = data.train.element_spec[0]
        try:
            model(zeros_of(spec))
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, tf.errors.OpError) as error:
            reason, line = " ".join(plain_message(error).split()), users_line(error)
            raise ConfigError(
                f"model ({cfg.model.get('_target_')}) does not take the data's inputs, {described(spec)}: {reason}"
                + (f"; {line}" if line else "")
            ) from error
    return model


def _without_nulls(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's node without what is null: Keras's default then."""
    return {key: value for key, value in optimizer.items() if value is not None}


def _with_facts(cfg: DictConfig, data: Data, run_dir: Path) -> DictConfig:
    cfg = cfg.copy()
    steps = data.train.steps_per_epoch
    cfg.run = {
        "dir": str(run_dir),
        **data.facts,
        "steps_per_epoch": steps,
        "total_steps": steps * cfg.epochs,
    }
    return cfg


def _balance(node: Any, data: Data, key: str = "loss") -> None:
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
