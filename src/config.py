"""A config from the command line, composed as Hydra does and checked, in a fraction of a second without TensorFlow.

cfg = compose(["optimizer=adam", "epochs=20"])
jobs = expand(["optimizer=adam,sgd"])       # [["optimizer=adam"], ["optimizer=sgd"]]
"""

from __future__ import annotations

import copy
import functools
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from src import checks
from src.checks import CONFIG_DIR, ConfigError, check_monitor
from src.runs.branch import find_parent
from src.runs.identity import register_resolvers

__all__ = [
    "CONFIG_DIR",
    "CONFIG_NAME",
    "ConfigError",
    "branch",
    "check_monitor",
    "check_sweep",
    "compose",
    "expand",
    "parse_override",
]

CONFIG_NAME = "train"

# What a run was told once, and a branch of it is not.
NOT_INHERITED = {
    "resume",
    "parent.config_hash",
    "parent.step",
    "parent.checkpoint",
    "parent.epoch",
    "rerun",
    "stale",
    "wait",
    "max_seconds",
}


def compose(overrides: list[str], *, config_dir: str | None = None, config_name: str | None = None) -> DictConfig:
    """Compose one run's config, `hydra` included, and check it.

    The first call for a set of options takes 0.1 s, further ones a fraction of it.

    Args:
        overrides: as on the command line, without sweeps.
        config_dir: a further folder of configs.

    Raises:
        ConfigError: unknown option or key, wrong type or range, or a monitor that no metric bears.
    """
    register_resolvers()
    folder = str(Path(config_dir).absolute()) if config_dir else None
    return _composer(folder, config_name or CONFIG_NAME).compose(overrides)


@functools.cache
def _composer(config_dir: str | None, config_name: str) -> _Composer:
    return _Composer(config_dir, config_name)


@dataclass(frozen=True)
class _Base:
    """A config of options only: what Hydra composes before single values are changed."""

    cfg: DictConfig
    plain: dict[str, Any]
    leaves: dict[tuple[str, ...], Any]


class _Composer:
    """Composes as Hydra does, the defaults list once for each set of options."""

    def __init__(self, config_dir: str | None, config_name: str) -> None:
        self._name = config_name
        search_path = create_config_search_path(str(CONFIG_DIR))
        if config_dir:
            last = SearchPathQuery(provider="schema")  # as Hydra places it
            search_path.prepend("command-line", f"file://{config_dir}", anchor=last)
        version.setbase("1.3")
        self._has_others = config_dir is not None
        self.loader = ConfigLoaderImpl(config_search_path=search_path)
        self._hydra = Hydra(task_name=config_name, config_loader=self.loader)
        self._bases: dict[tuple[str, ...], _Base] = {}
        self._options = functools.cache(self._find_options)

    def compose(self, overrides: list[str]) -> DictConfig:
        """As the function of this module."""
        parsed = [parse_override(text) for text in overrides]
        if sweeps := [str(override.input_line) for override in parsed if override.is_sweep_override()]:
            raise ConfigError(f"{', '.join(map(repr, sweeps))} names several runs; sweep with --multirun")
        searches = self._has_others or any(o.key_or_group == "hydra.searchpath" for o in parsed)
        for override in parsed:
            if options := self._options(override.key_or_group):
                checks.check_option(override, options, has_others=searches)
        base = self._base(parsed)
        for override in self._values(parsed):
            checks.check_key(override, base.plain, self._options)
        cfg = self.compose_unchecked(parsed)
        checks.check_types(parsed, base.leaves, cfg)
        checks.check_values(cfg)
        checks.check_mode(parsed, base.cfg)
        return cfg

    def compose_unchecked(self, overrides: list[Override]) -> DictConfig:
        """What Hydra gives for all overrides at once, from the base of their options."""
        cfg = copy.deepcopy(self._base(overrides).cfg)
        try:
            ConfigLoaderImpl._apply_overrides_to_config(self._values(overrides), cfg)
        except (HydraException, OmegaConfBaseException) as error:
            raise checks.composition_error(error) from error
        task = [override for override in overrides if not override.is_hydra_override()]
        form = cfg.hydra.job.config.override_dirname
        cfg.hydra.overrides.task = [override.input_line for override in task]
        cfg.hydra.job.override_dirname = get_overrides_dirname(
            task, kv_sep=form.kv_sep, item_sep=form.item_sep, exclude_keys=form.exclude_keys
        )
        return cfg

    def _values(self, overrides: list[Override]) -> list[Override]:
        """Overrides of single values; what Hydra itself reads while it composes goes to it with the options."""
        return [o for o in overrides if not (self._options(o.key_or_group) or o.key_or_group.startswith("hydra."))]

    def _base(self, overrides: list[Override]) -> _Base:
        values = self._values(overrides)
        options = [override for override in overrides if override not in values]
        options.sort(key=lambda override: not override.is_hydra_override())  # as in a sweep's jobs
        key = tuple(str(override.input_line) for override in options)
        if key not in self._bases:
            try:
                cfg = self._hydra.compose_config(
                    config_name=self._name,
                    overrides=list(key),
                    run_mode=RunMode.RUN,
                    from_shell=False,
                    with_log_configuration=False,
                )
            except (HydraException, OmegaConfBaseException) as error:
                self._check_settings(options)
                raise checks.composition_error(error) from error
            leaves = dict(checks.leaves(checks.resolved(cfg)))
            self._bases[key] = _Base(cfg=cfg, plain=checks.plain_values(cfg), leaves=leaves)
        return self._bases[key]

    def _check_settings(self, options: list[Override]) -> None:
        """Name the setting of Hydra's that is not there."""
        settings = [override for override in options if override.key_or_group.startswith("hydra.")]
        if settings:
            base = self._base([override for override in options if override not in settings])
            for override in settings:
                checks.check_key(override, {"hydra": base.plain["hydra"]}, self._options)

    def _find_options(self, group: str) -> list[str]:
        known = self.loader.list_groups(group) is not None
        return self.loader.get_group_options(group, ObjectType.CONFIG) if known else []


def expand(overrides: list[str]) -> list[list[str]]:
    """The jobs of a sweep over the product of all `key=a,b`, each as a list of overrides without sweeps.

    Raises:
        ConfigError: an interval, which has no end of values.
    """
    choices: dict[str, list[str]] = {}  # the last one of a key counts
    for text in overrides:
        override = parse_override(text)
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [text]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(f"{text} has no end of values: give some, as {key}=a,b, or hydra/sweeper=optuna")
    return [list(job) for job in itertools.product(*choices.values())]


def check_sweep(overrides: list[str], *, config_dir: str | None = None, config_name: str | None = None) -> DictConfig:
    """Check what all jobs of a sweep have in common, before Hydra judges it; returns the job of each first value."""
    parsed = [parse_override(text) for text in overrides]
    for override in parsed:
        if override.is_sweep_override() and override.is_hydra_override():
            raise ConfigError(f"{override.input_line}: {override.key_or_group} is of the whole sweep; give one value")
    first = [_first(override) for override in parsed]
    return compose([*first, "hydra.mode=MULTIRUN"], config_dir=config_dir, config_name=config_name)


def _first(override: Override) -> str:
    assert override.input_line is not None
    if not override.is_sweep_override():
        return override.input_line
    if override.is_discrete_sweep():
        value = next(iter(override.sweep_string_iterator()))
    else:
        start = cast(IntervalSweep, override.value()).start
        value = f"{start:.17g}"  # a whole one as such, which suits keys of whole numbers too
    return f"{override.get_key_element()}={value}"


def branch(overrides: list[str]) -> list[str]:
    """With `resume=RUN` among the overrides: RUN's own before them, where they name others, and where it stands.

    Raises:
        ConfigError: RUN is none, or several; or a key is given that a branch fills in.
    """
    parsed = [parse_override(text) for text in overrides]
    for override in parsed:
        if override.key_or_group.startswith("parent."):
            checks.refuse_filled_in(override)
    named = [override for override in parsed if override.key_or_group == "resume"]
    if not named or named[-1].value() is None:
        return overrides
    if named[-1].is_sweep_override():
        raise ConfigError(f"{named[-1].input_line}: a sweep branches from one run; type a command for each")
    try:
        parent = find_parent(Path(str(named[-1].value())))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    own = {override.key_or_group for override in parsed} | NOT_INHERITED
    inherited = [text for text in parent.overrides if parse_override(text).key_or_group not in own]
    return [*inherited, *overrides, *parent.overrides_of_branch()]


def parse_override(text: str) -> Override:
    """One `key=value`, `+key=value`, `++key=value` or `~key`; ConfigError says how to write it."""
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(f"{text!r} is no override ({checks.first_line(error)}); write key=value") from error
    if not override.key_or_group:
        raise ConfigError(f"{text!r} is no override (the key is missing); write key=value")
    override.config_loader = _composer(None, CONFIG_NAME).loader  # which knows what glob(*) stands for
    return override
