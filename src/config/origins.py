"""Where a value of a config comes from, and what the option that has its key says of it.

origins = Origins((("conf/train.yaml", {"epochs": 15}), ("conf/experiment/mine.yaml", {"epochs": "ten"})))
origins.default(("epochs",))        # 15
origins.origin("epochs")            # "conf/experiment/mine.yaml"
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:  # what only reads runs needs no Hydra
    from hydra.core.default_element import ResultDefault


class Origins:
    """The composed files in their order, later ones winning, and the overrides, which win over all.

    Args:
        files: each with its name and what it says, as dicts and lists, placed where it belongs.
    """

    def __init__(self, files: Sequence[tuple[str, dict[str, Any]]] = ()) -> None:
        self.files = files
        self.given: Mapping[str, str] = {}
        self._declared: dict[tuple[str, ...], Any] = {}
        for _, content in files:
            for path, value in leaves(content, branches=True):
                if self._declared.get(path) is None and value != "???":
                    self._declared[path] = value

    def with_overrides(self, given: Mapping[str, str]) -> Origins:
        """The same files below these overrides: what was typed, by key."""
        new = copy.copy(self)
        new.given = given
        return new

    def default(self, path: tuple[str, ...]) -> Any:
        """What the option that has the key says of it, or the option that this refers to; None where it is open."""
        value, seen = self._declared.get(path), {path}
        while isinstance(value, str) and "${" in value:
            named = re.fullmatch(r"\$\{([\w.]+)\}", value)
            path = tuple(named[1].split(".")) if named else ()
            value = None if path in seen else self._declared.get(path)
            seen.add(path)
        return value

    def origin(self, key: str) -> str:
        """The override or file that a key's value comes from, or that of the mapping that it is in; '' if none."""
        for name in _upwards(key):
            if name in self.given:
                return self.given[name]
        below = next((text for name, text in self.given.items() if name.startswith(f"{key}.")), "")
        if below and all(at(content, key.split(".")) is ... for _, content in self.files):
            return below
        for name in _upwards(key):
            for file, content in reversed(self.files):
                if at(content, name.split(".")) is not ...:
                    return file
        return ""

    def is_typed(self, key: str) -> bool:
        """Whether an override gives the key, or the mapping that it is in."""
        return self.origin(key) in self.given.values()

    def named(self, key: str) -> str:
        """The origin before a message that names the key, unless it is the key's own override, which says no more."""
        return "" if key in self.given or not (origin := self.origin(key)) else f"{origin}: "


def leaves(value: Any, path: tuple[str, ...] = (), *, branches: bool = False) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each value in mappings that is none itself, by its path; with `branches` the mappings as well."""
    if isinstance(value, dict):
        if path and branches:
            yield path, value
        for key, item in value.items():
            yield from leaves(item, (*path, str(key)), branches=branches)
    else:
        yield path, value


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Each value in mappings and lists that is none itself, by dotted key, which the items of a list share."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from flat(item, key)
    else:
        yield key, value


def _upwards(key: str) -> Iterator[str]:
    """The key, and those of the mappings it is in, the innermost first."""
    while key:
        yield key
        key = key.rpartition(".")[0]


def at(content: Any, path: Sequence[str]) -> Any:
    """What stands at a path in dicts; ... for nothing."""
    for name in path:
        if not isinstance(content, dict) or name not in content:
            return ...
        content = content[name]
    return content


@dataclass(frozen=True)
class ComposedFile:
    """A file of a composed config."""

    path: Path
    is_root: bool  # what the root says itself, or brings by name
    group: str | None  # that of which it is an option, in that group's own place; None of a root, or where it is put
    content: dict[str, Any]  # placed where it belongs in the config

    @functools.cached_property
    def is_of_project(self) -> bool:
        return self.path.is_relative_to(Path(__file__).resolve().parents[2] / "conf")


def composed_files(
    name: str, defaults: Sequence[ResultDefault], choices: Mapping[str, Any], folders: Sequence[Path]
) -> list[ComposedFile]:
    """The files that Hydra composed, in its order, without options of its own groups.

    Args:
        name: of the root, without `.yaml`.
        defaults: Hydra's list of them.
        choices: `hydra.runtime.choices`.
        folders: where options are looked for, the first that has one winning.
    """
    chosen = {f"{key.partition('@')[0]}/{one}" for key, value in choices.items() for one in _as_list(value)}
    parents = {default.config_path: default.parent for default in defaults}
    found = []
    for default in defaults:
        config, package = default.config_path or "", default.package or ""
        path = next((path for folder in folders if (path := folder / f"{config}.yaml").is_file()), None)
        if path is None or (config in chosen and config.startswith("hydra/")):
            continue
        above: str | None = config
        while above in parents and above not in chosen and above != name:
            above = parents[above]
        group = config.partition("/")[0]
        is_own = above in chosen and str(above).startswith(f"{group}/") and package.partition(".")[0] in ("", group)
        content = {key: value for key, value in content_of(path).items() if key != "defaults"}
        for key in reversed(package.split(".") if package else []):
            content = {key: content}
        found.append(ComposedFile(path, above == name, group if is_own else None, content))
    return found


def add_lists_chosen(cfg: DictConfig, defaults: Sequence[ResultDefault], groups: Collection[str]) -> None:
    """Add to Hydra's choices what they lack: groups of which several options are chosen, callback=[default,mine]."""
    choices: dict[str, list[str]] = {}
    for default in defaults:
        group, _, option = (default.config_path or "").rpartition("/")
        own = group in groups and group not in ("hydra", *cfg.hydra.runtime.choices)
        if own and not str(default.parent).startswith(f"{group}/"):
            choices.setdefault(group, []).append(option)
    OmegaConf.update(cfg, "hydra.runtime.choices", choices, force_add=True)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def content_of(path: Path) -> dict[str, Any]:
    """What a file of options says, interpolations as they are written; {} where it is no mapping. Not to be changed."""
    return _load(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _load(path: Path, mtime_ns: int) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return cast(dict[str, Any], content) if isinstance(content, dict) else {}


def shown(path: Path) -> str:
    """A file of options, from the project's folder, or from the working directory, if it lies there."""
    for folder in (Path(__file__).resolve().parents[2], Path.cwd()):
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return str(path)
