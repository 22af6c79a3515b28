"""A config from the command line, composed as Hydra does and checked, in a fraction of a second without TensorFlow.

cfg = compose(["optimizer=adam", "epochs=20"])
jobs = expand(["optimizer=adam,sgd"])       # [["optimizer=adam"], ["optimizer=sgd"]]
"""

from __future__ import annotations

import functools
import itertools
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import hydra
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from src.config import checks, hydra_settings, unknown_keys
from src.config.checks import CONFIG_DIR, ConfigError
from src.config.command_line import unreadable
from src.config.composition import composition_error
from src.config.identity import register_resolvers
from src.config.inputs import check_inputs
from src.config.monitor import check_direction, check_monitor
from src.config.origins import ComposedFile, Origins, add_lists_chosen, at, composed_files, content_of, leaves, shown
from src.config.overrides import (
    adds_setting,
    apply,
    as_override,
    check_key,
    check_mode,
    check_option,
    check_setting,
    check_twice,
    is_assignment,
    meant,
    with_value,
)

__all__ = [
    "CONFIG_DIR",
    "CONFIG_NAME",
    "ConfigError",
    "check_settings",
    "check_sweep",
    "compose",
    "expand",
    "parse_override",
]

CONFIG_NAME = "train"
IsKnown = Callable[[DictConfig], bool]


def compose(
    overrides: list[str],
    *,
    config_dir: str | None = None,
    config_name: str | None = None,
    starts: bool = False,
    is_whole: bool = True,
    is_known: IsKnown = lambda cfg: False,
    is_checked: bool = False,
) -> DictConfig:
    """Compose one run's config, `hydra` included, and check it.

    Args:
        overrides: as on the command line, without sweeps.
        config_dir: a further folder of configs.
        starts: whether the run is to be started, or a dry run says so: what overrides add must be taken as well.
        is_whole: whether all that must be given has to be, which one who only looks at a config may leave open.
        is_known: asked of a config that names a file which is not as it must be: whether there is a run of it, which
            then says itself what has changed.
        is_checked: whether these overrides have been checked.

    Raises:
        ConfigError: unknown option or key, wrong type or range, or a monitor that no metric bears.
    """
    overrides = with_config_dir(overrides, config_dir)
    composer = _composer(config_name or CONFIG_NAME, search_path(overrides))
    if not is_checked:
        composer.check(overrides, starts=starts, is_whole=is_whole, is_known=is_known)
    return composer.compose_unchecked([parse_override(text) for text in overrides])


class Composed(NamedTuple):
    """A checked config as dicts and lists: as it is written, Hydra's node as its options are, and with final values."""

    plain: dict[str, Any]
    resolved: dict[str, Any]


def check(overrides: list[str], *, config_name: str | None, is_known: IsKnown) -> Composed:
    """As `compose` of a run that starts, without making what it returns."""
    composer = _composer(config_name or CONFIG_NAME, search_path(overrides))
    return composer.check(overrides, starts=True, is_whole=True, is_known=is_known)


@functools.cache
def _composer(config_name: str = CONFIG_NAME, search_path: str | None = None) -> _Composer:
    register_resolvers()
    return _Composer(config_name, search_path)


def config_loader(cfg: DictConfig) -> ConfigLoader:
    """Hydra's, of this config's folders, for launchers that compose jobs with it."""
    return _composer(cfg.hydra.job.config_name, search_path(checks.plain_values(cfg.hydra.overrides)["hydra"])).loader


def search_path(overrides: Sequence[str]) -> str | None:
    """The override that says where options are looked for besides, however it is spelled."""
    named = (text for text in reversed(overrides) if "hydra.searchpath" in text)
    return next((text for text in named if parse_override(text).key_or_group == "hydra.searchpath"), None)


@dataclass(frozen=True)
class _Base:
    """A config of options only: what Hydra composes before single values are changed."""

    pickled: bytes
    plain: dict[str, Any]
    origins: Origins
    composed: list[ComposedFile]

    @property
    def cfg(self) -> DictConfig:
        """A copy, made faster than by deepcopy."""
        return cast(DictConfig, pickle.loads(self.pickled))

    @functools.cached_property
    def values(self) -> dict[str, tuple[str, ...]]:
        """The paths of all that is no mapping, by dotted key, where no name has a dot or is a number."""
        paths = [path for path, _ in leaves(self.plain) if at(self.plain, path) is not ...]
        return {".".join(path): path for path in paths if not any("." in name for name in path)}


class _Composer:
    """Composes with Hydra, once for each set of options, and changes single values itself."""

    def __init__(self, config_name: str, search_path: str | None) -> None:
        self._name, self._search_path = config_name, search_path
        self._bases: dict[tuple[str, ...], _Base] = {}
        self._folders = self._find_folders()
        self._main = next((f for f in self._folders if (f / f"{config_name}.yaml").is_file()), CONFIG_DIR)
        with _hydra(self._main):
            self.loader = GlobalHydra.instance().config_loader()

    def check(self, overrides: list[str], *, starts: bool, is_whole: bool, is_known: IsKnown) -> Composed:
        """As the function of this module."""
        parsed = [parse_override(text) for text in overrides]
        check_twice(parsed)

        def default(key: str) -> Any:
            return OmegaConf.select(self._base([o for o in parsed if not o.is_sweep_override()]).cfg, key)

        if sweeps := [str(override.input_line) for override in parsed if override.is_sweep_override()]:
            hint = next((text for o in parsed if not self._options(o.key_or_group) and (text := meant(o, default))), "")
            raise ConfigError(f"{', '.join(map(repr, sweeps))} names several runs; sweep with --multirun{hint}")
        for override in parsed:
            if options := self._options(override.key_or_group):
                check_option(override, options)
        if any(adds_setting(override) for override in parsed):
            self._check_settings([o for o in parsed if o not in self._values(parsed)])
        base, values = self._base(parsed), self._values(parsed)
        for override in values:
            if not is_assignment(override, base.values):
                check_key(override, base.plain, self._options)
        plain = self.plain(parsed)
        origins = base.origins.with_overrides({o.key_or_group: str(o.input_line) for o in values})
        unknown_keys.check_top_level_keys(plain, origins, base.composed)
        resolved = checks.resolved(plain, origins)
        checks.check_targets(resolved, origins)
        unknown_keys.check_group_keys(resolved, origins, base.composed, typed=starts)
        checks.check_run_paths(resolved, origins)
        checks.check_types(resolved, origins)
        if not is_whole and any(value == "???" for _, value in leaves(resolved)):
            return Composed(plain, resolved)
        checks.check_values(plain, resolved, origins)
        check_monitor(resolved, origins)
        check_mode(parsed, lambda: base.cfg.monitor)
        check_direction(resolved, origins)
        try:
            check_inputs(resolved, origins)
        except ConfigError:
            if not is_known(self.compose_unchecked(parsed)):
                raise
        return Composed(plain, resolved)

    def check_settings(self, overrides: list[str]) -> None:
        """Compose the options alone, as far as Hydra does before it sets itself up, and judge its own node."""
        self._base([parse_override(text) for text in overrides if not text.startswith("hydra.mode=")])

    def compose_unchecked(self, overrides: list[Override]) -> DictConfig:
        """What Hydra gives for all overrides at once, from the base of their options."""
        cfg = self._base(overrides).cfg
        for override in self._values(overrides):
            try:
                apply(override, cfg)
            except (HydraException, OmegaConfBaseException) as error:
                raise composition_error(error) from error
        task = [override for override in overrides if not override.is_hydra_override()]
        cfg.hydra.overrides.task = [str(override.input_line) for override in task]
        if not OmegaConf.is_interpolation(cfg.hydra.job, "override_dirname"):  # as which Hydra 1.4 has it
            form = cfg.hydra.job.config.override_dirname
            kept = sorted(str(o.input_line) for o in task if o.key_or_group not in form.exclude_keys)
            cfg.hydra.job.override_dirname = form.item_sep.join(kept).replace("=", form.kv_sep)
        return cfg

    def plain(self, overrides: list[Override]) -> dict[str, Any]:
        """The same as dicts and lists as they are written; where only values are changed, without OmegaConf.

        Of Hydra's node, what stands there of the overrides themselves may be missing.
        """
        base, values = self._base(overrides), self._values(overrides)
        if not all(is_assignment(override, base.values) for override in values):
            return checks.plain_values(self.compose_unchecked(overrides))
        plain = base.plain
        for override in values:
            plain = with_value(plain, base.values[override.key_or_group], override.value())
        return plain

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
                cfg, defaults = self._composed(list(key))
            except UnicodeDecodeError as error:  # which does not say of what file
                paths = (path for folder in self._folders for path in folder.rglob("*.yaml"))
                file = next((shown(path) for path in paths if error.object in path.read_bytes()), "a file of options")
                raise ConfigError(f"{file} is no UTF-8 text: {error}; save it as UTF-8") from error
            except (HydraException, OmegaConfBaseException, YAMLError) as error:
                self._check_settings(options)
                raise composition_error(error, self._options, self._folders) from error
            add_lists_chosen(cfg, defaults, checks.folders_of_options())
            plain = checks.plain_values(cfg)
            plugins = {name: checks.resolved_node(cfg, f"hydra.{name}") for name in hydra_settings.PLUGINS}
            hydra_settings.check_settings(plain["hydra"], plugins)
            composed = composed_files(self._name, defaults, plain["hydra"]["runtime"]["choices"], self._folders)
            origins = Origins([(shown(file.path), file.content) for file in composed])
            self._bases[key] = _Base(pickle.dumps(cfg), plain, origins, composed)
        return self._bases[key]

    def _composed(self, options: list[str]) -> tuple[DictConfig, list[ResultDefault]]:
        """What Hydra composes, and of what; it looks for the root in its main folder alone."""
        if self._main != CONFIG_DIR:
            path = f"hydra.searchpath={as_override(list(map(str, self._folders)))}"
            options = [*(text for text in options if text != self._search_path), path]
        with _hydra(self._main):
            cfg = hydra.compose(self._name, options, return_hydra_config=True)
            loader = GlobalHydra.instance().config_loader()
            return cfg, loader.compute_defaults_list(self._name, options, RunMode.RUN).defaults

    def _find_folders(self) -> list[Path]:
        """Where options are looked for, checked before Hydra looks there, which would import packages."""
        folders = [CONFIG_DIR]

        def add(paths: Any, where: str) -> None:
            hydra_settings.check_search_path(paths, where)
            folders.extend(Path(str(path).removeprefix("file://")) for path in paths)

        if self._search_path:
            add(parse_override(self._search_path).value(), self._search_path)
        if root := next((file for folder in folders if (file := folder / f"{self._name}.yaml").is_file()), None):
            try:
                paths = OmegaConf.select(OmegaConf.create(content_of(root)), "hydra.searchpath")
            except (OmegaConfBaseException, YAMLError, UnicodeDecodeError):
                return folders  # composing says it
            add(list(paths or []), f"hydra.searchpath of {self._name}.yaml")
        return folders

    def _check_settings(self, options: list[Override]) -> None:
        """Name the setting of Hydra's that is not there."""
        of_hydra = [override for override in options if override.key_or_group.startswith("hydra.")]
        settings = [override for override in of_hydra if override.key_or_group != "hydra.searchpath"]
        if settings:
            base = self._base([override for override in options if override not in settings])
            for override in settings:
                check_setting(override, {"hydra": base.plain["hydra"]}, self._options)

    @functools.cache  # noqa: B019 - a composer lives as long as the process
    def _options(self, group: str) -> list[str]:
        paths = [self._search_path] if self._search_path else []
        return self.loader.get_group_options(group, ObjectType.CONFIG, self._name, paths)


def _hydra(folder: Path = CONFIG_DIR) -> initialize_config_dir:
    """Hydra's public API, set up for the time of a `with` block."""
    return initialize_config_dir(str(folder.absolute()), job_name=CONFIG_NAME, version_base="1.3")


def check_settings(overrides: list[str], *, config_dir: str | None = None, config_name: str | None = None) -> None:
    """Judge what a config asks of Hydra itself, of a command that only asks; see `src.config.hydra_settings`.

    Raises:
        ConfigError: naming the key; or the options cannot be composed.
    """
    overrides = with_config_dir(overrides, config_dir)
    _composer(config_name or CONFIG_NAME, search_path(overrides)).check_settings(overrides)


def expand(overrides: list[str]) -> list[list[str]]:
    """The jobs of a sweep over the product of all `key=a,b`, each as a list of overrides without sweeps.

    Raises:
        ConfigError: an interval, which has no end of values, or a key that is given twice.
    """
    choices: dict[str, list[str]] = {}
    parsed = [parse_override(text) for text in overrides]
    check_twice(parsed)
    for text, override in zip(overrides, parsed, strict=True):
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [text]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(f"{text} has no end of values: give some, as {key}=a,b, or hydra/sweeper=optuna")
    return [list(job) for job in itertools.product(*choices.values())]


def check_sweep(
    overrides: list[str],
    *,
    config_dir: str | None = None,
    config_name: str | None = None,
    is_known: IsKnown = lambda cfg: False,
) -> DictConfig:
    """Check what all jobs of a sweep have in common, before Hydra judges it; returns the job of each first value."""
    parsed = [parse_override(text) for text in overrides]
    for override in parsed:
        if override.is_sweep_override() and override.is_hydra_override():
            raise ConfigError(f"{override.input_line}: {override.key_or_group} is of the whole sweep; give one value")
        if override.is_sweep_override() and override.key_or_group == "search":
            raise ConfigError(f"{override.input_line}: a sweep searches one space; type a command for each")
    check_twice(parsed)
    first = [_first(override) for override in parsed]
    options: dict[str, Any] = {"config_dir": config_dir, "config_name": config_name, "is_known": is_known}
    cfg = compose([*first, "hydra.mode=MULTIRUN"], starts=True, **options)
    checks.check_workers_of_jobs(cfg)
    return cfg


def _first(override: Override) -> str:
    assert override.input_line is not None
    if not override.is_sweep_override():
        return override.input_line
    if override.is_discrete_sweep():
        value = next(iter(override.sweep_string_iterator()), None)
        if value is None:
            raise ConfigError(f"{override.input_line} stands for no value at all, so there is nothing to sweep")
    else:
        start = cast(IntervalSweep, override.value()).start
        value = f"{start:.17g}"  # a whole one as such, which suits keys of whole numbers too
    return f"{override.get_key_element()}={value}"


def with_config_dir(overrides: list[str], config_dir: str | None) -> list[str]:
    """`--config-dir` as the override that means the same: a further folder to look for options in."""
    if config_dir is None:
        return overrides
    if not Path(config_dir).is_dir():
        raise ConfigError(f"--config-dir is {config_dir}, and there is no such folder")
    folders: list[Any] = [f"file://{Path(config_dir).absolute()}"]
    if given := search_path(overrides):
        folders += cast(list[Any], parse_override(given).value())
    others = [text for text in overrides if text != given]
    return [*others, f"hydra.searchpath={as_override(list(map(str, folders)))}"]


@functools.cache
def parse_override(text: str) -> Override:
    """One `key=value`, `+key=value`, `++key=value` or `~key`; ConfigError says how to write it."""
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(unreadable(text, checks.first_line(error).partition(" expecting ")[0])) from error
    if not override.key_or_group:
        raise ConfigError(f"{text!r} is no override (the key is missing); write key=value")
    override.config_loader = _composer().loader  # which knows what glob(*) stands for
    return override
