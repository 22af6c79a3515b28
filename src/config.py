"""A config from the command line, checked before anything costs: without TensorFlow, in a fraction of a second.

cfg = compose(["optimizer=adam", "epochs=20"])
jobs = expand(["optimizer=adam,sgd"])       # [["optimizer=adam"], ["optimizer=sgd"]]
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.runs.branch import Parent, find_parent
from src.runs.decision import STALE
from src.runs.identity import identity_config, register_resolvers

CONFIG_DIR = Path(__file__).resolve().parents[1] / "conf"
CONFIG_NAME = "train"

# What a run was told once, and a branch of it is not.
NOT_INHERITED = {
    "resume",
    "parent.config_hash",
    "parent.step",
    "parent.checkpoint",
    "rerun",
    "stale",
    "wait",
    "max_seconds",
}

# Mappings of objects by name; null leaves one out.
NAMED_MEMBERS = (("callback",), ("metric",), ("data", "transforms"))

Check = tuple[Callable[[Any], bool], str]


class ConfigError(ValueError):
    """The command or the config is wrong; the message names the key, the value and the way out."""


def _number(low: float, *, above: bool = False, high: float = math.inf, optional: bool = False) -> Check:
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


def _integer(low: int, *, high: float = math.inf, optional: bool = False) -> Check:
    inside, text = _number(low, high=high, optional=optional)
    return lambda x: inside(x) and not isinstance(x, float), text.replace("a number", "an integer")


def _one_of(*allowed: str) -> Check:
    return lambda x: x in allowed, f"one of {', '.join(allowed)}"


CHECKS: dict[str, Check] = {
    "name": (
        lambda x: isinstance(x, str) and bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", x)),
        "a folder's name: at most 100 letters, digits, '.', '_' and '-'",
    ),
    "epochs": _integer(1),
    "batch_size": _integer(1),
    "seed": _integer(0, high=2**32 - 1),
    "mode": _one_of("min", "max"),
    "stale": _one_of(*STALE),
    "log_every_steps": _integer(1),
    "max_seconds": _number(0, above=True, optional=True),
    "optimizer.learning_rate": _number(0, above=True),
    "trainer.steps_per_call": _integer(1, optional=True),
    "trainer.clip_norm": _number(0, above=True, optional=True),
    "trainer.threads": _integer(1, optional=True),
    "callback.checkpoint.max_to_keep": _integer(1),
    "callback.checkpoint.every_steps": _integer(1, optional=True),
    "callback.checkpoint.every_seconds": _number(0, above=True, optional=True),
    "callback.early_stopping.patience": _integer(1),
    "callback.early_stopping.min_delta": _number(0),
    "schedule.warmup_epochs": _number(0, optional=True),
    "schedule.warmup_fraction": _number(0, high=1, optional=True),
    "schedule.final_fraction": _number(0, high=1),
    "data.image_size": _integer(1, optional=True),
}


def compose(
    overrides: list[str],
    *,
    config_dir: str | None = None,
    config_name: str | None = None,
    filled_in: Sequence[str] = (),
) -> DictConfig:
    """Compose one run's config, `hydra` included, and check it.

    Args:
        overrides: as on the command line, without sweeps.
        config_dir: a further folder of configs.
        filled_in: further overrides, of keys that a user cannot give.

    Raises:
        ConfigError: unknown option or key, wrong type or range, or a monitor that no metric bears.
    """
    register_resolvers()
    search_path = [text for text in overrides if text.startswith("hydra.searchpath=")]
    if config_dir:
        search_path.append(f"hydra.searchpath=[file://{Path(config_dir).absolute()}]")
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        parsed = [_parse(text) for text in overrides]
        groups = [override for override in parsed if _is_group(override)]
        for override in groups:
            _check_option(override, has_others=bool(search_path))
        name = config_name or CONFIG_NAME
        base = _hydra_compose(name, [*search_path, *(str(o.input_line) for o in groups)])
        values = _plain(base)
        for override in parsed:
            if override not in groups:
                _check_key(override, values)
        cfg = _hydra_compose(name, [*search_path, *overrides, *filled_in])
    _check_types(parsed, base, cfg)
    _check_values(cfg)
    _check_mode(parsed, base)
    return cfg


def expand(overrides: list[str]) -> list[list[str]]:
    """The jobs of a sweep over the product of all `key=a,b`, each as a list of overrides without sweeps."""
    parsed = [_parse(text) for text in overrides]
    return BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]


def branch(overrides: list[str]) -> tuple[list[str], Parent | None]:
    """With `resume=RUN` among the overrides: RUN's own before them, where they name others, and where it stands.

    Raises:
        ConfigError: RUN is none, or several.
    """
    parsed = [_parse(text) for text in overrides]
    named = [override for override in parsed if override.key_or_group == "resume"]
    if not named or named[-1].value() is None:
        return overrides, None
    if named[-1].is_sweep_override():
        raise ConfigError(f"{named[-1].input_line}: a sweep branches from one run; type a command for each")
    try:
        parent = find_parent(Path(str(named[-1].value())))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    own = {override.key_or_group for override in parsed} | NOT_INHERITED
    inherited = [text for text in parent.overrides if _parse(text).key_or_group not in own]
    return [*inherited, *overrides], parent


def check_monitor(cfg: DictConfig) -> None:
    """Raise ConfigError unless `monitor` is a split and one of the config's metrics."""
    metrics = ["loss", *(name for name, metric in (cfg.get("metric") or {}).items() if metric is not None)]
    names = [f"{split}/{metric}" for split in ("train", "val") for metric in metrics]
    if cfg.monitor not in names:
        raise ConfigError(
            f"monitor is {_shown(cfg.monitor)}, which is no metric of this run; it has {', '.join(names)}"
            f"{_did_you_mean(str(cfg.monitor), names)}"
        )


def _parse(text: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(f"{text!r} is no override ({_first_line(error)}); write key=value") from error
    if not override.key_or_group:
        raise ConfigError(f"{text!r} is no override (the key is missing); write key=value")
    return override


def _hydra_compose(name: str, overrides: list[str]) -> DictConfig:
    try:
        return hydra_compose(name, overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        message = _first_line(error, lines=9)
        raise ConfigError(f"{message}; write it without +" if "Multiple values" in message else message) from error


def _is_group(override: Override) -> bool:
    return bool(_options(override.key_or_group))


def _options(group: str) -> list[str]:
    loader = GlobalHydra.instance().config_loader()
    return loader.get_group_options(group, ObjectType.CONFIG) if loader.list_groups(group) is not None else []


def _check_option(override: Override, *, has_others: bool) -> None:
    group, options = override.key_or_group, _options(override.key_or_group)
    if override.is_delete():
        _check_deletion(override)
        return
    if override.is_sweep_override():  # outside of a multirun, which Hydra says better
        return
    value = override.value()
    for option in value if isinstance(value, list) else [value]:
        if option is None and group == "experiment":  # its own default
            continue
        if not isinstance(option, str) or (option not in options and "/" not in option and not has_others):
            raise ConfigError(
                f"{override.input_line}: {group} has no option {_shown(option)}; it has {', '.join(options)}"
                f"{_did_you_mean(str(option), options)}"
            )


def _check_deletion(override: Override) -> None:
    key = override.key_or_group
    if override.is_delete() and key != "experiment" and not re.search(r"[./]", key):
        raise ConfigError(f"{override.input_line}: a run needs {key}; give another value, {key}=...")


def _check_key(override: Override, values: dict[str, Any]) -> None:
    key = override.key_or_group
    added = override.is_add() or override.is_force_add()
    if key.startswith("hydra.") or (added and "." in key):
        return
    if key.partition(".")[0] in ("run", "parent"):
        raise ConfigError(f"{override.input_line}: {key} is filled in by the run itself and cannot be given")
    keys = [".".join(path) for path, _ in _leaves(values, branches=True) if path[0] not in ("hydra", "run")]
    if key in keys:
        _check_deletion(override)
        return
    parent, top = key.rpartition(".")[0], key.partition(".")[0]
    siblings = [k for k in keys if k.rpartition(".")[0] == parent]
    folders = [folder.name for folder in CONFIG_DIR.iterdir() if folder.is_dir()]
    fixed = {".".join(path) for path, value in _leaves(values) if _interpolated(value)}
    if parent in keys and not siblings:
        hint = f": {parent} is null here. {top} has the options {', '.join(_options(top))}"
    elif parent in keys:
        names = [k.rpartition(".")[2] for k in siblings]
        hint = _did_you_mean(key.rpartition(".")[2], names) or f". {parent} has {', '.join(names)}"
    else:
        hint = _did_you_mean(key, [*folders, *(k for k in keys if k not in fixed)]) or ". --cfg job lists all"
    raise ConfigError(f"{override.input_line}: there is no key {key!r}{hint}")


def _check_types(overrides: list[Override], base: DictConfig, full: DictConfig) -> None:
    """Every value must be of the type of the option's own default, where that says one."""
    defaults = dict(_leaves(_resolved(base)))
    given = {override.key_or_group: override.input_line for override in overrides}
    for path, value in _leaves(_resolved(full)):
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


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    plain = _plain(cfg)
    plain.pop("hydra", None)
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(plain), resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {_first_line(error)}") from error


def _check_mode(overrides: list[Override], base: DictConfig) -> None:
    """The mode is written beside the monitor: that of another one would choose the worst epoch as the best."""
    given = {override.key_or_group: override for override in overrides}
    if "monitor" in given and "mode" not in given and given["monitor"].value() != base.monitor:
        line = given["monitor"].input_line
        raise ConfigError(f"{line}: say which way is better, mode=min or mode=max, beside another monitor")


def _check_values(cfg: DictConfig) -> None:
    try:
        missing = OmegaConf.missing_keys(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))
        identity_config(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {_first_line(error)}") from error
    if missing:
        raise ConfigError(f"{', '.join(sorted(missing))} must be given: key=value")
    for key, (good, allowed) in CHECKS.items():
        value = OmegaConf.select(cfg, key, default=...)
        if value is not ... and not good(value):
            if value is None and key.startswith("callback."):
                continue
            raise ConfigError(f"{key} is {_shown(value)}; it must be {allowed}")
    check_monitor(cfg)
    _check_members(cfg)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))


def _leaves(value: Any, path: tuple[str, ...] = (), *, branches: bool = False) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        if path and branches:
            yield path, value
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)), branches=branches)
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


def _first_line(error: BaseException, *, lines: int = 1) -> str:
    return "\n".join(str(error).strip().splitlines()[:lines])
