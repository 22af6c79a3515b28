"""Where a value of a config comes from, and what the option that has its key says of it.

origins = Origins((("conf/train.yaml", {"epochs": 15}), ("conf/experiment/mine.yaml", {"epochs": "ten"})))
origins.default(("epochs",))        # 15
origins.origin("epochs")            # "conf/experiment/mine.yaml"
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


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
        for name in _upwards(key):
            for file, content in reversed(self.files):
                if _has(content, name):
                    return file
        return ""

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


def _upwards(key: str) -> Iterator[str]:
    """The key, and those of the mappings it is in, the innermost first."""
    while key:
        yield key
        key = key.rpartition(".")[0]


def _has(content: Any, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(content, dict) or name not in content:
            return False
        content = content[name]
    return True
