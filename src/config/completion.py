"""Tab completion of `python -m src.train`: what a word may go on as, found without importing Hydra or TensorFlow.

    complete(["data=digits", "model=cnn"], "model.fi")      # ["model.filters="]
    python -m src.config.completion "data=digits model=cnn model.fi"        # as completion.bash and completion.zsh ask

Keys are those of the options chosen so far, read from the files in conf/; values are those that schemas/ allows.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from src.common.code import ROOT
from src.common.errors import ConfigError
from src.config.command_line import FLAGS, FLAGS_WITH_A_VALUE

CONFIG_DIR = ROOT / "conf"
SCHEMA = ROOT / "schemas" / "config.json"
SCRIPTS = {shell: Path(__file__).with_name(f"completion.{shell}") for shell in ("bash", "zsh")}

PATHS = ("init_from", "resume", "data.path", "data.data_dir", "data.cache_dir", "learner.teacher")
WHOLE = ("experiment", "search", "debug", "data")  # groups whose options choose those of others, the first one winning


def shell_script(words: Sequence[str]) -> str:
    """What a shell is to read, of `--shell-completion install=bash`."""
    shell = " ".join(words).removeprefix("install=")
    if shell not in SCRIPTS:
        raise ConfigError(
            f"--shell-completion is {shell or 'given nothing'}; it must be install=bash or install=zsh, as in "
            'eval "$(python -m src.train --shell-completion install=bash)"'
        )
    return SCRIPTS[shell].read_text(encoding="utf-8")


def complete(before: Sequence[str], word: str) -> list[str]:
    """All words that begin with this one and may follow those before; what ends in `=`, `.` or `/` goes on."""
    if word.startswith("-"):
        return [flag for flag in (*FLAGS, *FLAGS_WITH_A_VALUE) if flag.startswith(word)]
    options = _Options(before)
    sign = re.match("[+~]*", word)
    assert sign
    key, equals, value = word[sign.end() :].partition("=")
    if not equals:
        found = [name for name in options.keys(key) if name.startswith(key)]
        return sorted({f"{sign[0]}{name.rstrip('=.') if '~' in sign[0] else name}" for name in found})
    if key in PATHS:
        return sorted(f"{sign[0]}{key}={path}" for path in _paths(value))
    listed = re.match(r".*[\[,]", value)  # of a sweep, or a list
    done = listed[0] if listed else ""
    return [f"{sign[0]}{key}={done}{each}" for each in options.of(key) if each.startswith(value[len(done) :])]


class _Options:
    """The groups, and the config of the options that are chosen."""

    def __init__(self, before: Sequence[str]) -> None:
        given = dict(word.split("=", 1) for word in before if "=" in word)
        given |= dict(itertools.pairwise(before)) if "--config-dir" in before else {}
        more = given.get("--config-dir")
        self._folders = [CONFIG_DIR, *([Path(more)] if more else [])]
        self.groups: dict[str, list[str]] = {}
        for folder in self._folders:
            for path in sorted(folder.glob("*/**/*.yaml")):
                self.groups.setdefault(path.parent.relative_to(folder).as_posix(), []).append(path.stem)
        chosen = {group: given[group] for group in self.groups if group in given}
        root = dict(self._chosen_by("", "train"))
        for group in WHOLE:
            for name, option in self._chosen_by(group, chosen.get(group) or root.get(group)):
                chosen.setdefault(name, option)
        self._config: dict[str, Any] = {}
        for group, option in {"": "train", **root, **chosen}.items():
            for each in str(option).strip("[]").split(","):
                _merge(self._config, self._content(group, each))

    def keys(self, beginning: str) -> Iterator[str]:
        """The groups, and what stands in the mapping that the beginning of a key leads to."""
        yield from (f"{group}=" for group in self.groups)
        above = beginning.rpartition(".")[0]
        node = self._at(above) if above else self._config
        for name, value in node.items() if isinstance(node, dict) else ():
            is_filled_in = (isinstance(value, str) and "${run." in value) if above else name in ("run", "parent")
            if not is_filled_in and not str(name).startswith("_"):
                yield f"{above}.{name}".strip(".") + ("." if isinstance(value, dict) and value else "=")

    def of(self, key: str) -> list[str]:
        """The options of a group; or the values that a key may have, or has."""
        if key in self.groups:
            return self.groups[key]
        above, _, name = key.rpartition(".")
        node, default = self._at(above) if above else None, self._at(key)
        allowed = [_text(value) for value in _allowed(node.get("_target_") if isinstance(node, dict) else above, name)]
        if allowed or isinstance(default, bool):
            return allowed or ["true", "false"]
        is_shown = isinstance(default, int | float | str) and "${" not in str(default) and default != "???"
        return [_text(default)] if is_shown else []

    def _at(self, key: str) -> Any:
        node: Any = self._config
        for name in key.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        return node

    def _chosen_by(self, group: str, option: str | None) -> Iterator[tuple[str, str]]:
        """The options that a file's defaults choose of groups."""
        for entry in self._read(group, option).get("defaults") or []:
            if isinstance(entry, str):
                yield from self._chosen_by(group, entry) if entry not in ("_self_", option) else ()
            else:
                yield from ((str(name).split()[-1].lstrip("/"), option) for name, option in entry.items())

    def _content(self, group: str, option: str) -> dict[str, Any]:
        """What an option says, and those that it begins from, placed where it belongs."""
        content = self._read(group, option)
        found: dict[str, Any] = {}
        for entry in content.pop("defaults", None) or []:
            if isinstance(entry, str) and entry not in ("_self_", option):
                _merge(found, self._content(group, entry))
        is_whole = content.pop("is_whole", False) or not group
        for name in reversed([] if is_whole else group.split("/")):
            content = {name: content}
        _merge(found, content)
        return found

    def _read(self, group: str, option: str | None) -> dict[str, Any]:
        for folder in self._folders:
            try:
                text = (folder / group / f"{option}.yaml").read_text(encoding="utf-8")
                content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            except (OSError, ValueError, yaml.YAMLError):
                continue
            if isinstance(content, dict):
                return content | {"is_whole": "# @package _global_" in text}
        return {}


def _allowed(target: Any, name: str) -> list[Any]:
    """The values that a schema lists for an argument of a target, or for a key at the top."""
    try:
        schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    known = schema["definitions"].get(target, {}) if target else schema
    ways = known.get("properties", {}).get(name, {})
    return [value for way in (ways, *ways.get("anyOf", ())) for value in way.get("enum", ())]


def _paths(value: str) -> Iterator[str]:
    for path in glob.iglob(glob.escape(os.path.expanduser(value)) + "*"):
        home = os.path.expanduser("~")
        shown = path.replace(home, "~", 1) if value.startswith("~/") else path
        yield f"{shown}/" if os.path.isdir(path) else shown


def _merge(into: dict[str, Any], content: dict[str, Any]) -> None:
    for key, value in content.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif value is not None or key not in into:
            into[key] = value


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def main() -> None:
    line = sys.argv[1]
    try:
        words = shlex.split(line)
    except ValueError:  # a quote is open
        return
    word = words.pop() if words and not line[-1].isspace() else ""
    print("\n".join(complete(words, word)))


if __name__ == "__main__":
    main()
