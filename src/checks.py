"""What a config may say: each mistake is found before anything costs, and named with the key, the value, the way out.

check_values(cfg)       # ConfigError: epochs is 0; it must be an integer at least 1
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.runs.decision import STALE
from src.runs.identity import identity_config

CONFIG_DIR = Path(__file__).resolve().parents[1] / "conf"

# Parts of a config that no mistyped key is taken for.
HIDDEN = ("hydra", "run")

# Groups of which a run needs no option.
OPTIONAL_GROUPS = ("experiment", "search", "debug")

# Mappings of objects by name; null leaves one out.
NAMED_MEMBERS = (("callback",), ("metric",), ("data", "transforms"))

# What lies in a run's folder, or beside runs.
TAKEN_NAMES = (
    *("checkpoints", "summaries", "saved_model", "evaluation", "branches", "run.json", "history.jsonl"),
    *("sweeps", "studies"),
)

Check = tuple[Callable[[Any], bool], str]


class ConfigError(ValueError):
    """The command or the config is wrong; the message names the key, the value and the way out."""


def number(low: float, *, above: bool = False, high: float = math.inf, optional: bool = False) -> Check:
    """A check: a finite number in this range."""
    kind = f"{'above' if above else 'at least'} {low:g}" + (f" and at most {high:.12g}" if high < math.inf else "")
    return (
        lambda x: (
            (x is None and optional)
            or (
                isinstance(x, int | float)
                and not isinstance(x, bool)
                and math.isfinite(x)
                and (low < x if above else low <= x)
                and x <= high
            )
        ),
        f"a number {kind}" + (", or null" if optional else ""),
    )


def integer(low: int, *, high: float = math.inf, optional: bool = False) -> Check:
    """A check: an integer in this range."""
    inside, text = number(low, high=high, optional=optional)
    return lambda x: inside(x) and not isinstance(x, float), text.replace("a number", "an integer")


def one_of(*allowed: str, optional: bool = False) -> Check:
    """A check: the value is one of these words."""
    return (
        lambda x: x in allowed or (optional and x is None),
        f"one of {', '.join(allowed)}" + (", or null" if optional else ""),
    )


def _whole(x: Any) -> bool:
    return integer(1)[0](x)


CHECKS: dict[str, Check] = {
    "name": (
        lambda x: (
            isinstance(x, str) and bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", x)) and x not in TAKEN_NAMES
        ),
        "a folder's name: at most 100 letters, digits, '.', '_' and '-', and none that is taken: "
        + ", ".join(TAKEN_NAMES),
    ),
    "epochs": integer(1),
    "batch_size": integer(1),
    "seed": integer(0, high=2**32 - 1),
    "mode": one_of("min", "max"),
    "stale": one_of(*STALE),
    "log_every_steps": integer(1),
    "max_seconds": number(0, above=True, optional=True),
    "optimizer.learning_rate": number(0, above=True),
    "trainer.steps_per_call": integer(1, optional=True),
    "trainer.clip_norm": number(0, above=True, optional=True),
    "trainer.threads": integer(1, optional=True),
    "callback.images.examples": integer(1),
    "callback.images.every_epochs": integer(1),
    "callback.checkpoint.max_to_keep": integer(1),
    "callback.checkpoint.every_steps": integer(1, optional=True),
    "callback.checkpoint.every_seconds": number(0, above=True, optional=True),
    "callback.early_stopping.patience": integer(1),
    "callback.early_stopping.min_delta": number(0),
    "schedule.warmup_epochs": number(0, optional=True),
    "schedule.warmup_fraction": number(0, high=1, optional=True),
    "schedule.final_fraction": number(0, high=1),
    "precision": one_of("mixed_bfloat16", "mixed_float16", optional=True),
    "optimizer.use_ema": (lambda x: x is None or isinstance(x, bool), "true, false, or null"),
    "optimizer.ema_momentum": number(0, high=1, optional=True),
    "trainer.gradient_accumulation_steps": integer(1, optional=True),
    "trainer.validate_every_epochs": integer(1, optional=True),
    "trainer.validate_every_steps": integer(1, optional=True),
    "trainer.limit_train_batches": integer(1, optional=True),
    "trainer.limit_val_batches": integer(1, optional=True),
    "trainer.overfit_batches": integer(1, optional=True),
    "data.limit": number(0, above=True, high=1, optional=True),
    "data.image_size": (
        lambda x: x is None or all(_whole(n) for n in (x if OmegaConf.is_list(x) and len(x) == 2 else [x])),
        "pixels: a whole number at least 1, [height, width], or null",
    ),
}


def check_option(override: Override, options: list[str], *, has_others: bool) -> None:
    """An option must be one of its group's; with other folders of configs (`has_others`) Hydra judges."""
    group = override.key_or_group
    if override.is_delete():
        _check_deletion(override)
        return
    value = override.value()
    for option in value if isinstance(value, list) else [value]:
        if not isinstance(option, str) or (option not in options and "/" not in option and not has_others):
            missing = f". Perhaps pip install hydra-{option}-launcher" if group == "hydra/launcher" else ""
            raise ConfigError(
                f"{override.input_line}: {group} has no option {_shown(option)}; it has {', '.join(options)}"
                f"{_did_you_mean(str(option), options) or missing}"
            )


def composition_error(error: Exception) -> ConfigError:
    """What Hydra says of a config that it cannot compose."""
    message = first_line(error, lines=9)
    return ConfigError(f"{message}; write it without +" if "Multiple values" in message else message)


def check_key(override: Override, values: dict[str, Any], options: Callable[[str], list[str]]) -> None:
    """A changed key must be there already, or be added with +; `options` gives those of a group."""
    key = override.key_or_group
    added = override.is_add() or override.is_force_add()
    if added and "." in key:
        return
    if key.startswith("run."):
        refuse_filled_in(override)
    own = "hydra" if key.startswith("hydra.") else None
    keys = [".".join(path) for path, _ in leaves(values, branches=True) if path[0] == own or path[0] not in HIDDEN]
    if key in keys:
        _check_deletion(override)
        return
    parent, top = key.rpartition(".")[0], key.partition(".")[0]
    siblings = [k for k in keys if k.rpartition(".")[0] == parent]
    folders = [folder.name for folder in CONFIG_DIR.iterdir() if folder.is_dir()]
    fixed = {".".join(path) for path, value in leaves(values) if _interpolated(value)}
    if parent in keys and not siblings:
        hint = f": {parent} is null here. {top} has the options {', '.join(options(top))}"
    elif parent in keys:
        names = [k.rpartition(".")[2] for k in siblings]
        hint = _did_you_mean(key.rpartition(".")[2], names) or f". {parent} has {', '.join(names)}"
    else:
        hint = _did_you_mean(key, [*folders, *(k for k in keys if k not in fixed)]) or ". --cfg job lists all"
    raise ConfigError(f"{override.input_line}: there is no key {key!r}{hint}")


def refuse_filled_in(override: Override) -> None:
    """Raise ConfigError: the key is none of the user's."""
    key = override.key_or_group
    raise ConfigError(f"{override.input_line}: {key} is filled in by the run itself and cannot be given")


def check_types(overrides: list[Override], defaults: dict[tuple[str, ...], Any], full: DictConfig) -> None:
    """Every value must be of the type of the option's own default, where that says one."""
    given = {override.key_or_group: override.input_line for override in overrides}
    for path, value in leaves(resolved(full)):
        default = defaults.get(path)
        if default is None or isinstance(default, dict) or "???" in (default, value):
            continue
        if isinstance(value, bool) == isinstance(default, bool) and isinstance(
            value, int | float if isinstance(default, float) else type(default)
        ):
            continue
        key = ".".join(path)
        raise ConfigError(
            f"{given.get(key, key)}: {key} is {_shown(value)}{'' if value is None else f', {_kind(value)}'}; "
            f"it must be {_kind(default)}, such as its default {_shown(default)}"
        )


def check_values(cfg: DictConfig) -> None:
    """Ranges, required values, the monitor, and what only the whole config shows."""
    try:
        missing = OmegaConf.missing_keys(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))
        identity_config(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {first_line(error)}") from error
    if missing:
        raise ConfigError(f"{', '.join(sorted(missing))} must be given: key=value")
    for key, (good, allowed) in CHECKS.items():
        value = OmegaConf.select(cfg, key, default=...)
        if value is not ... and not good(value):
            if value is None and key.startswith("callback."):
                continue
            raise ConfigError(f"{key} is {_shown(value)}; it must be {allowed}")
    if cfg.parent.epoch is not None and cfg.epochs <= cfg.parent.epoch:
        raise ConfigError(
            f"epochs is {cfg.epochs}, and {cfg.resume} has done {cfg.parent.epoch}: "
            "a branch counts those of its parent, so give more"
        )
    check_monitor(cfg)
    _check_members(cfg)


def check_monitor(cfg: DictConfig) -> None:
    """Raise ConfigError unless `monitor` is a split and one of the config's metrics."""
    metrics = ["loss", *(name for name, metric in (cfg.get("metric") or {}).items() if metric is not None)]
    names = [f"{split}/{metric}" for split in ("train", "val") for metric in metrics]
    if cfg.monitor not in names:
        raise ConfigError(
            f"monitor is {_shown(cfg.monitor)}, which is no metric of this run; it has {', '.join(names)}"
            f"{_did_you_mean(str(cfg.monitor), names)}"
        )


def check_mode(overrides: list[Override], base: DictConfig) -> None:
    """The mode is written beside the monitor: that of another one would choose the worst epoch as the best."""
    given = {override.key_or_group: override for override in overrides}
    if "monitor" in given and "mode" not in given and given["monitor"].value() != base.monitor:
        line = given["monitor"].input_line
        raise ConfigError(f"{line}: say which way is better, mode=min or mode=max, beside another monitor")


def _check_members(cfg: DictConfig) -> None:
    """What is added to a mapping of objects must say what object it is."""
    for path in NAMED_MEMBERS:
        for name, member in (OmegaConf.select(cfg, ".".join(path)) or {}).items():
            if member is not None and "_target_" not in member:
                key = ".".join((*path, str(name)))
                raise ConfigError(
                    f"{key} has no _target_, so nothing would come of it; {'.'.join(path)} has "
                    f"{', '.join(str(n) for n in OmegaConf.select(cfg, '.'.join(path)) if n != name)}"
                )


def _check_deletion(override: Override) -> None:
    key = override.key_or_group
    if override.is_delete() and key not in OPTIONAL_GROUPS and not re.search(r"[./]", key):
        raise ConfigError(f"{override.input_line}: a run needs {key}; give another value, {key}=...")


def plain_values(cfg: DictConfig) -> dict[str, Any]:
    """A config as dicts and lists, interpolations as they are written."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """A config without `hydra`, as dicts and lists with their final values."""
    plain = plain_values(cfg)
    plain.pop("hydra", None)
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(plain), resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {first_line(error)}") from error


def leaves(value: Any, path: tuple[str, ...] = (), *, branches: bool = False) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        if path and branches:
            yield path, value
        for key, item in value.items():
            yield from leaves(item, (*path, str(key)), branches=branches)
    else:
        yield path, value


def _interpolated(value: Any) -> bool:
    return isinstance(value, str) and ("${" in value or value == "???")


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a whole number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "null" if value is None else "a mapping")


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    if not close:  # right but for where it stands, as learning_rate for optimizer.learning_rate
        last = word.rpartition(".")[2]
        names = {k.rpartition(".")[2]: k for k in reversed(known)}
        close = [names[name] for name in difflib.get_close_matches(last, names, n=1, cutoff=0.75)]
    return f". Did you mean {close[0]}?" if close else ""


def first_line(error: BaseException, *, lines: int = 1) -> str:
    return "\n".join(str(error).strip().splitlines()[:lines])
