"""Which keys of a composed config something reads: any other is a mistake, and would change nothing but the run's id.

check_top_level_keys(plain, origins, composed)      # ConfigError: mine.yaml: there is no key 'epoch' ...
check_group_keys(resolved, origins, composed)       # ConfigError: mine.yaml: optimizer.lrr: Adam takes no ...
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from src.common.spelling import did_you_mean
from src.config import signatures, targets
from src.config.checks import (
    CONFIG_DIR,
    FILLED_IN,
    HIDDEN,
    NAMED_MEMBERS,
    OPTIONAL_GROUPS,
    ConfigError,
    folders_of_options,
    is_open,
    keys_of_root,
    option_of,
)
from src.config.moved import new_name
from src.config.origins import ComposedFile, Origins, at, leaves, shown


def check_top_level_keys(plain: dict[str, Any], origins: Origins, composed: Sequence[ComposedFile]) -> None:
    """Every key at the top must be a root file's, a group's, or one that another value refers to.

    Raises:
        ConfigError: naming the file or override, the key, and the nearest right one.
    """
    roots = [file for file in composed if file.is_root]
    for key in FILLED_IN:
        for file in composed:
            if key in file.content and file not in roots:
                raise ConfigError(f"{shown(file.path)}: {key} is filled in by the run itself and cannot be given")
    known = {*(folders_of_options() - set(OPTIONAL_GROUPS)), *keys_of_root()}
    known |= {key for file in roots for key in file.content}
    others = {str(top): value for top, value in plain.items() if str(top) not in known}
    unknown = {key: value for key, value in others.items() if value or key not in OPTIONAL_GROUPS}
    if not unknown:
        return
    own = [file for file in composed if file.group and file.group not in folders_of_options()]
    values = [value for path, value in leaves(plain) if path[1:2] != ("help",) and is_open(value)]
    references = " ".join("".join(re.findall(r"(?s)\$\{.*\}", value)) for value in values)
    keys = [".".join(path) for path, value in leaves(plain) if path[0] in known - {*HIDDEN} and not is_open(value)]
    for key, value in unknown.items():
        files = [f"{shown(file.path)}: " for file in composed if key in map(str, file.content)]
        where = next(iter(files), origins.named(key))
        if key in OPTIONAL_GROUPS:
            where = next((f"{shown(file.path)}: " for file in composed if file.group == key), where)
            raise ConfigError(
                f"{where}nothing reads what is below {key!r}: an option of {key} is for the whole "
                "config, and so begins with the line # @package _global_ (and no byte order mark before it)"
            )
        if "." in key:
            *above, last = key.split(".")
            written = f"{': {'.join([*above, last])}: ...{'}' * len(above)}"
            raise ConfigError(f"{where}there is no key {key!r}, so nothing would read it; in a file it is {written}")
        paths = [path for path, _ in leaves(value, (key,))]
        unread = [path for path in paths if not _is_referred_to(path, references) and not _is_chosen(path, own)]
        if unread:
            name = ".".join(unread[0] if len(unread) < len(paths) else (key,))
            near = did_you_mean(name, [*sorted(known), "defaults", *keys])
            raise ConfigError(f"{origins.named(name) or where}there is no key {name!r}, so nothing would read it{near}")


def _is_referred_to(path: tuple[str, ...], references: str) -> bool:
    """Whether a key, or a mapping that it is in, is what an interpolation names, and not only what it goes through."""
    for number, name in enumerate(path):
        above = path[number - 1] if number else ""
        before = rf"(?:{re.escape(above)}\]?[.\[]|(?<=[{{.])\.)" if number else r"(?<![\w-])(?<!\w\.)"
        after = r"(?![\w-])" if number == len(path) - 1 else r"(?![\w.\[-])"
        if re.search(f"{before}{re.escape(name)}{after}", references):
            return True
    return False


def _is_chosen(path: tuple[str, ...], own: Sequence[ComposedFile]) -> bool:
    """Whether the chosen option of a group of the user's says it."""
    return any(file.group == path[0] and at(file.content, path) is not ... for file in own)


def check_group_keys(
    resolved: dict[str, Any], origins: Origins, composed: Sequence[ComposedFile], *, typed: bool = True
) -> None:
    """What stands below a group must be an argument of its `_target_`, an option of the trainer, or a named member.

    Where the source does not say what a target takes, anything may be given.

    Args:
        typed: whether what overrides add, or name as another target, is judged as well.

    Raises:
        ConfigError: naming all that nothing reads, a line each, with file or override and the nearest right key.
    """
    problems = [
        f"{origins.named(key)}{key}{reason}"
        for found in (_arguments(resolved, composed), _of_trainer(resolved), _members(resolved, composed))
        for key, reason in found
        if typed or not (origins.is_typed(key) or origins.is_typed(f"{key.rpartition('.')[0]}._target_"))
    ]
    if problems:
        raise ConfigError.of(problems)


def _arguments(resolved: dict[str, Any], composed: Sequence[ComposedFile]) -> Iterator[tuple[str, str]]:
    for key, node in targets.nodes(resolved):
        if targets.group_of(key) is None:
            continue
        path, target = tuple(key.split(".")), node["_target_"]
        files = [(file, content) for file in composed if isinstance(content := at(file.content, path), dict)]
        # An option of the project's is known to fit.
        own = {
            name
            for file, content in files
            if file.is_of_project and content.get("_target_") == target
            for name in content
        }
        others = [name for name in node if name not in {*own, *targets.OWN_KEYS}]
        taken = signatures.names(target) if others else None
        if taken is None:
            continue
        for name in others:
            # null leaves an argument of an optimizer to Keras
            is_left = path == ("optimizer",) and node[name] is None and any(name in c for f, c in files if f.group)
            if name not in taken and not is_left:
                yield f"{key}.{name}", f": {signatures.takes_no(name, new_name(target), taken)}"


def _of_trainer(resolved: dict[str, Any]) -> Iterator[tuple[str, str]]:
    known = _of_project("trainer")
    options = resolved["trainer"]
    for name in options if isinstance(options, dict) else ():
        if name not in known:
            yield f"trainer.{name}", f": the trainer has no option {name}{did_you_mean(name, known)}"


def _members(resolved: dict[str, Any], composed: Sequence[ComposedFile]) -> Iterator[tuple[str, str]]:
    """Those that are left out with null must have been there."""
    for path in NAMED_MEMBERS:
        members = at(resolved, path)
        for name in (name for name, member in members.items() if member is None) if isinstance(members, dict) else ():
            values = [(file.group, at(file.content, (*path, name))) for file in composed]
            known = list(dict.fromkeys([*(other for other in members if other != name), *_of_project(*path)]))
            if name not in known and not any(v is not ... and (v is not None or g == path[0]) for g, v in values):
                hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
                yield ".".join((*path, name)), f" is null, which leaves nothing out{hint}"


@functools.cache
def _of_project(group: str, *below: str) -> list[str]:
    """The keys that any of the project's options of a group has, in the group or in a mapping of it."""
    options = [option_of(group, path.stem) for path in sorted((CONFIG_DIR / group).glob("*.yaml"))]
    found = [node for option in options if isinstance(node := at(option, below), dict)]
    return list(dict.fromkeys(str(key) for node in found for key in node if key != "defaults"))
