"""Whether an override may be given: its option or key is there, once, and a run does without what it deletes; and what
it makes of a config.

check_key(parse_override("epoch=3"), values, options)      # ConfigError: there is no key 'epoch'. Did you mean epochs?
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Sequence
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString
from omegaconf import DictConfig, OmegaConf, open_dict

from src.common.errors import ConfigError
from src.common.ranges import shown
from src.common.spelling import did_you_mean
from src.config.checks import HIDDEN, NAMED, OPTIONAL_GROUPS, folders_of_options, is_open, option_of
from src.config.origins import at, leaves

# Below these keys of Hydra's, users have their own.
OPEN_OF_HYDRA = tuple(
    f"hydra.{key}." for key in ("callbacks", "hydra_logging", "job.env_set", "job_logging", "launcher", "sweeper")
)


def check_option(override: Override, options: list[str]) -> None:
    """An option must be one of its group's."""
    group = override.key_or_group
    if override.is_delete():
        _check_deletion(override)
        return
    value = override.value()
    for option in value if isinstance(value, list) else [value]:
        if not isinstance(option, str) or (option not in options and "/" not in option):
            named = isinstance(option, str) and re.fullmatch(r"[A-Za-z][\w-]*", option)
            missing = f". Perhaps pip install hydra-{option}-launcher" if named and group == "hydra/launcher" else ""
            raise ConfigError(
                f"{override.input_line}: {group} has no option {shown(option)}; it has {', '.join(options)}"
                f"{did_you_mean(str(option), options) or missing}"
            )


def check_twice(overrides: Sequence[Override]) -> None:
    """No option or key may be given twice, unless in the same words, or to delete one and add another."""
    seen: dict[str, Override] = {}
    for override in overrides:
        key = str(override.get_key_element()).lstrip("+~")
        before = seen.setdefault(key, override)
        if before.input_line != override.input_line and before.is_delete() == override.is_delete():
            raise ConfigError(
                f"{before.input_line} and {override.input_line}: {key} is given twice; leave one of them out"
            )
    for key in NAMED:
        below = next((name for name in seen if name.startswith(f"{key}.")), None)
        if below and key in seen:
            example = f"{{_target_:optuna.{key.rpartition('.')[2]}s.<class>,{below.rpartition('.')[2]}:...}}"
            raise ConfigError(
                f"{seen[key].input_line} and {seen[below].input_line}: a name stands for the whole of {key}; "
                f"with other arguments it is {key}={example}"
            )


def meant(override: Override, default: Callable[[str], Any]) -> str:
    """How to write what commas may have been meant as: a list, or a number with a decimal comma."""
    if not (override.is_choice_sweep() and override.is_discrete_sweep()):
        return ""
    key, value, there = (
        override.key_or_group,
        str(override.input_line).partition("=")[2],
        default(override.key_or_group),
    )
    if isinstance(there, float) and re.fullmatch(r"-?\d+,\d+", value):
        return f"; a number is written with a point, {key}={value.replace(',', '.')}"
    if OmegaConf.is_list(there) or (there is None and "(" not in value):
        return f"; a list is written '{key}=[{value}]'"
    return ""


def check_key(override: Override, values: dict[str, Any], options: Callable[[str], list[str]]) -> None:
    """A changed key must be there already, or be added with +; `options` gives those of a group."""
    key = override.key_or_group
    added = override.is_add() or override.is_force_add()
    if override.package is not None:
        raise ConfigError(f"{override.input_line}: {key} is no group of options, so no @ can follow it")
    if key.partition(".")[0] == "run":
        refuse_filled_in(override)
    if added and "." in key:
        return
    own = "hydra" if key.startswith("hydra.") else None
    keys = [".".join(path) for path, _ in leaves(values, branches=True) if path[0] == own or path[0] not in HIDDEN]
    if key in keys:
        _check_deletion(override)
        _check_mapping(override, at(values, key.split(".")))
        return
    if (named := key.replace("/", ".")) in NAMED:
        line = f"{named}={str(override.input_line).partition('=')[2]}"
        raise ConfigError(f"{override.input_line}: there is no key {key!r}; with hydra/sweeper=optuna, write {line}")
    parent, top = key.rpartition(".")[0], key.partition(".")[0]
    siblings = [k for k in keys if k.rpartition(".")[0] == parent]
    folders = sorted(folders_of_options())
    fixed = {".".join(path) for path, value in leaves(values) if is_open(value)}
    if parent in keys and not siblings:
        is_empty = at(values, parent.split(".")) is not None
        hint = f": {parent} is null here. {top} has the options {', '.join(options(top))}"
        hint = f"; {parent} is empty, and +{override.input_line} adds to it" if is_empty else hint
    elif parent in keys:
        names = [k.rpartition(".")[2] for k in siblings]
        near = did_you_mean(key.rpartition(".")[2], names).replace("Did you mean ", f"Did you mean {parent}.")
        having = [option for option in options(top) if at(option_of(top, option), key.split(".")[1:]) is not ...]
        others = f". Of {top}, {', '.join(having)} {'have' if having[1:] else 'has'} it" if having else ""
        hint = others + near or f". {parent} has {', '.join(names)}"
    else:
        hint = did_you_mean(key, [*folders, *(k for k in keys if k not in fixed)]) or ". --cfg job lists all"
    raise ConfigError(f"{override.input_line}: there is no key {key!r}{hint}")


def _check_mapping(override: Override, there: Any) -> None:
    """A mapping that is given for another has no key that is not there."""
    given = None if override.is_sweep_override() else override.value()
    new = [name for name in given if name not in there] if isinstance(given, dict) and isinstance(there, dict) else []
    if new:
        has = f"has {', '.join(there)}" if there else "is empty"
        raise ConfigError(
            f"{override.input_line}: {override.key_or_group} {has}; '+{override.input_line}' adds {new[0]!r} to it"
        )


def check_setting(override: Override, values: dict[str, Any], options: Callable[[str], list[str]]) -> None:
    """As `check_key`, of Hydra's own keys: none may be deleted, and a mapping stays one."""
    key, added = override.key_or_group, override.is_add() or override.is_force_add()
    if not added and not override.is_delete() and key.startswith("hydra.callbacks"):
        raise ConfigError(f"{override.input_line}: a callback is added as '+hydra.callbacks.<name>._target_=...'")
    there = {".".join(path): value for path, value in leaves(values, branches=True)}
    if added and key not in there and not key.startswith(OPEN_OF_HYDRA):
        near = did_you_mean(key, list(there))
        raise ConfigError(f"{override.input_line}: Hydra has no setting {key}, so nothing would read it{near}")
    check_key(override, values, options)
    if override.is_delete():
        raise ConfigError(f"{override.input_line}: Hydra needs {key}; give another value, {key}=...")
    if isinstance(there.get(key), dict) and not isinstance(override.value(), (dict, str) if key in NAMED else dict):
        below = ", ".join(f"{key}.{name}=..." for name in there[key])
        raise ConfigError(f"{override.input_line}: {key} is a mapping; change what is in it: {below}")


def adds_setting(override: Override) -> bool:
    """Whether a key of Hydra's is added that may be none: callbacks are open, and judged by their targets."""
    key, adds = override.key_or_group, override.is_add() or override.is_force_add()
    return adds and key.startswith("hydra.") and not key.startswith("hydra.callbacks.")


def refuse_filled_in(override: Override) -> None:
    """Raise ConfigError: the key is none of the user's."""
    key = override.key_or_group
    raise ConfigError(f"{override.input_line}: {key} is filled in by the run itself and cannot be given")


def check_mode(overrides: list[Override], default: Callable[[], Any]) -> None:
    """The mode is written beside the monitor: that of another one would choose the worst epoch as the best.

    Args:
        default: gives the monitor of the options.
    """
    given = {override.key_or_group: override for override in overrides}
    if "monitor" in given and "mode" not in given and given["monitor"].value() != default():
        line = given["monitor"].input_line
        raise ConfigError(f"{line}: say which way is better, mode=min or mode=max, beside another monitor")


def is_assignment(override: Override, there: Container[str]) -> bool:
    """Whether an override gives a key that is there another value, as which it stands in the config."""
    is_plain = override.type == OverrideType.CHANGE and override.package is None and override.key_or_group in there
    return is_plain and override.key_or_group.partition(".")[0] not in HIDDEN and _is_value(override.value())


def _is_value(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_value, value))
    return value is None or isinstance(value, int | float) or (isinstance(value, str) and not is_open(value))


def with_value(content: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy that shares what it can."""
    name, *below = path
    return {**content, name: with_value(content[name], below, value) if below else value}


def apply(override: Override, cfg: DictConfig) -> None:
    """Change one value of a config as Hydra's overrides do."""
    key, value = override.key_or_group, override.value()
    if override.is_delete():
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not OmegaConf.is_dict(node) or name not in node:
            raise ConfigError(f"{override.input_line}: there is no key {key!r} to delete")
        if value is not None and value != (there := OmegaConf.select(cfg, key)):
            raise ConfigError(f"{override.input_line}: {key} is {there!r}; write ~{key} to delete it")
        with open_dict(node):
            del node[name]
    elif (
        override.is_add()
        and not isinstance(value, dict | list)
        and OmegaConf.select(cfg, key, throw_on_missing=False) is not None
    ):
        raise ConfigError(f"{override.input_line}: {key} is there already; write it without +, {key}=...")
    else:
        adds = override.is_add() or override.is_force_add()
        OmegaConf.update(cfg, key, value, merge=True, force_add=adds)


def as_override(value: Any) -> str:
    """A value as an override gives it."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{as_override(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(as_override, value))}]"
    return QuotedString(value, Quote.single).with_quotes() if isinstance(value, str) else json.dumps(value)


def _check_deletion(override: Override) -> None:
    key = override.key_or_group
    if override.is_delete() and key not in OPTIONAL_GROUPS and not re.search(r"[./]", key):
        raise ConfigError(f"{override.input_line}: a run needs {key}; give another value, {key}=...")
