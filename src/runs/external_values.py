"""What a run's config takes from outside of it, as `${oc.env:DATA}` does: recorded when it runs, and used ever after.

record.update(resolved=outside_values(cfg))     # {"data.path": "/data/pets"}
for path, value in recorded_values(cfg, record): ...
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

# The call of a resolver, but of one whose value follows from the config alone.
_CALL = re.compile(r"\$\{\s*(?!(run_id|run_label|oc\.select|oc\.create|oc\.deprecated|oc\.dict\.\w+)\s*:)[\w.]+\s*:")
# In a name: what is never written down.
SECRET = re.compile(r"token|secret|passw|credential|api_?key", re.IGNORECASE)


def outside_values(cfg: DictConfig) -> dict[str, Any]:
    """The values, as they are now, of what a config takes from the environment, the time or a resolver of the user's.

    Left out is what follows from the data as well, and what its key calls a secret.

    Returns:
        by dotted key; a list with such a value is there as a whole.
    """
    cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    cfg.run = dict.fromkeys(cfg.get("run") or {}, "???")  # of the data, which is not there yet
    found = {}
    for path in _calls(OmegaConf.to_container(cfg, resolve=False)):
        if SECRET.search(".".join(path)):
            continue
        try:
            value = node_at(cfg, path[:-1])[path[-1]]
            value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            text = json.dumps(value)
        except (OmegaConfBaseException, TypeError, ValueError):
            continue
        if "${" not in text:  # which would be taken for another call
            found[".".join(path)] = value
    return found


def recorded_values(cfg: DictConfig, record: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Where the config of a run takes something from outside, and the value that the run's record has of it."""
    known = {**record.get("config", {}), **record.get("resolved", {})}  # the first of runs of before, too
    for path in _calls(OmegaConf.to_container(cfg, resolve=False)):
        if (key := ".".join(path)) in known:
            yield path, known[key]


def node_at(cfg: DictConfig, path: Sequence[str]) -> DictConfig:
    """The mapping at these keys, which may have dots in them."""
    for key in path:
        cfg = cfg[key]
    return cfg


def _calls(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _calls(item, (*path, key))
    elif isinstance(value, str | list) and _CALL.search(str(value)):
        yield path
