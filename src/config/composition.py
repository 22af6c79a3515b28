"""What Hydra says of a config that it cannot compose, in words that name the file and the way out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from yaml import MarkedYAMLError

from src.common.errors import ConfigError
from src.common.spelling import did_you_mean
from src.config.checks import CONFIG_DIR, OPTIONAL_GROUPS, first_line, folders_of_options

# What Hydra 1.4 says where 1.3 says "Could not override".
NEXT_HYDRAS = re.compile(
    r"Invalid Defaults List override .*\nNo earlier Group Default for '([^']+)' exists to override"
)


def composition_error(
    error: Exception,
    options: Callable[[str], list[str]] = lambda group: [],
    folders: Iterable[str | Path] = (CONFIG_DIR,),
) -> ConfigError:
    """What Hydra says of a config that it cannot compose.

    Args:
        options: gives those of a group.
        folders: where options are.
    """
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark):
        reason = ": ".join(text for text in (error.context, error.problem) if text)
        return ConfigError(f"{mark.name}, line {mark.line + 1} cannot be read: {reason}")
    message = NEXT_HYDRAS.sub(r"Could not override '\1'. No match", first_line(error, lines=9))
    message = message.partition("\n\nConfig search path:")[0]
    if elsewhere := re.match(r"Could not override '([\w/]+)@([^']+)'\.", message):
        group, place = elsewhere.groups()
        return ConfigError(f"{group}@{place}: there is no {group} at {place} to change; write {group}=... without @")
    if forced := re.search(r"force-add of config groups is not supported: '\+\+([^']+)'", message):
        return ConfigError(f"++{forced[1]} is a group's option, which is there already: write {forced[1]} without ++")
    if merged := re.fullmatch(r"Error merging override (.*)", message, re.DOTALL):
        return ConfigError(f"{merged[1]}: Hydra takes no such value there; --cfg hydra shows what it has")
    if absent := re.search(r"Key '([^']+)' not in '\w+'.*\s+full_key: (\S+)", message):
        return ConfigError(f"{_file_in(message)}: Hydra has no setting {absent[2]}; --cfg hydra shows all")
    if scalar := re.search(r"Merge error: .*?value: (.*)", message):
        return ConfigError(f"{_file_in(message)}: a setting of Hydra's is {scalar[1]}, and must be a mapping of keys")
    if "Cannot merge DictConfig with ListConfig" in message:
        return ConfigError(f"{_file_in(message)}: a list stands where a mapping of keys is, key: value")
    if there := re.search(r"An item is already at '([^']+)'", message):
        return ConfigError(f"+{there[1]}: {there[1]} is there already; write it without +, {there[1]}=...")
    if missing := re.search(r"Could not find '([\w/]+)/([^/']+)'", message):
        group, option = missing.groups()
        known = options(group)
        inner = group.rpartition("/")[2]
        if not known and inner != group and inner in folders_of_options():  # it has been looked for beside the file
            return ConfigError(f"{_file_in(message)}: for an option of {inner}, {_way_to_override(inner, option)}")
        chosen = _files_with(group, option, folders, overrides=True)
        return ConfigError(
            f"{f'{chosen}: ' if chosen else ''}{group}={option} is chosen, and {group} has no option {option!r}; "
            f"it has {', '.join(known) or 'none'}"
            f"{did_you_mean(option, known)}"
        )
    if twice := re.search(
        r"Multiple values for ([\w/]+)\S*\. To override a value use 'override [^:]+: (\S+)'", message
    ):
        return _chosen_twice(twice[1], twice[2], folders)
    if beside := re.search(rf"Could not override '(?:{'|'.join(OPTIONAL_GROUPS)})/([\w/]+)", message):
        return ConfigError(f"{_file_in(message)}: for an option of {beside[1]}, {_way_to_override(beside[1])}")
    if unknown := re.search(r"Could not override '(\w+)'\. No match", message):
        known = sorted(folders_of_options())
        hint = did_you_mean(unknown[1], known) or f"; groups are {', '.join(known)}"
        return ConfigError(f"{_file_in(message)} overrides {unknown[1]}, and there is no such group{hint}")
    if unplaced := re.search(rf"In '(({'|'.join(OPTIONAL_GROUPS)})/[^']+)': Could not override '[^']+@", message):
        return ConfigError(
            f"{unplaced[1]}.yaml: its first line must be # @package _global_, as it changes other groups"
        )
    return ConfigError(message)


def _file_in(message: str) -> str:
    """The file that a message of Hydra's is about."""
    found = re.match(r"In '([^']+)'", message)
    return f"{found[1]}.yaml" if found else "a file of options"


def _way_to_override(group: str, option: str = "...") -> str:
    return f"the line of its defaults must be `- override /{group}: {option}`"


def _files_with(group: str, option: str, folders: Iterable[str | Path], *, overrides: bool) -> str:
    """The files whose defaults choose this option, with `override` or without; Hydra does not say which file does."""
    start = r"^(?=.*\boverride\b).*" if overrides else r"^(?!.*\boverride\b).*/"
    line = re.compile(rf"""{start}\b{group}(@[\w.]+)?["']?\s*:.*\b{re.escape(option)}\b""", re.MULTILINE)
    paths = [path for folder in folders for path in sorted(Path(folder).glob("**/*.yaml"))]
    found = [path for path in paths if line.search(path.read_text(encoding="utf-8", errors="replace"))]
    return ", ".join(os.path.relpath(path) for path in found)


def _chosen_twice(group: str, option: str, folders: Iterable[str | Path]) -> ConfigError:
    """A file's defaults, or +, choose an option of a group that has one already."""
    if files := _files_with(group, option, folders, overrides=False):
        return ConfigError(f"{files}: {group} has an option already, so {_way_to_override(group, option)}")
    return ConfigError(
        f"{group} has an option already: give {group}={option} without +, and in a file of options, "
        f"{_way_to_override(group, option)}"
    )
