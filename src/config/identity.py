"""A run's identity: a hash of all that its result depends on.

register_resolvers()                    # ${run_id:} and ${run_label:} in a config
config_hash(cfg)                        # 64 hex digits; the first 8 are the id
label(cfg)                              # unet-adam-lr0.003-cosine-e10-b32-s0
"""

from __future__ import annotations

import functools
import hashlib
import json
import pickle
import re
from collections.abc import Iterator
from fnmatch import translate
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config.moved import old_name

ID_DIGITS = 8  # of a config's hash, which a run's folder ends with
LABEL_LENGTH = 60

# What cannot change a run's result; `*` stands for one or more names.
NOT_IDENTITY = (
    "hydra",
    "name",
    "run",
    "resume",  # a path; what it leads to is parent
    "parent.epoch",  # follows from its step
    "wait",
    "rerun",
    "stale",
    "dry_run",
    "max_seconds",
    "evaluate_test",
    "log_every_steps",
    "may_fail",
    "callback.progress",
    "callback.hparams",
    "callback.images",
    "callback.examples",
    "callback.histograms",
    "callback.profile",
    "callback.csv",
    "callback.tracker",
    "callback.export._partial_",  # says how it is built
    "callback.checkpoint.max_to_keep",
    "callback.checkpoint.every_steps",
    "callback.checkpoint.every_seconds",
    "callback.summaries.every_steps",
    "callback.summaries.graph",
    "trainer.steps_per_call",
    "strategy.devices",  # the record says how many replicas there were
    "strategy.port",
    "data.cache_dir",
    "data.download",
    "data.max_memory_gib",
)
# Where a named and versioned data set lies does not change it.
NOT_IDENTITY_OF_A_DATASET = ("data.data_dir",)
# Mappings whose order is part of what they say.
ORDERED = ("data.transforms", "data.mask_colors")


def identity_config(cfg: DictConfig) -> dict[str, Any]:
    """The part of a config that decides the result, resolved and in canonical form.

    Nulls and empty mappings are left out, so a new option with a null default keeps old ids; 1.0 counts as 1. It is
    shared between callers and not to be changed.
    """
    return _identity(_pickled(cfg))


def identity_of(resolved: dict[str, Any]) -> dict[str, Any]:
    """As `identity_config`, of a resolved config."""
    is_dataset = (resolved.get("data") or {}).get("dataset") is not None
    return _canonical(resolved, (), NOT_IDENTITY + (NOT_IDENTITY_OF_A_DATASET if is_dataset else ()))


def resolved_config(cfg: DictConfig) -> dict[str, Any]:
    """A config without `hydra` as dicts and lists with their final values; what the run fills in is null.

    It is shared between callers and not to be changed.
    """
    return _resolved(_pickled(cfg))


def resolved_values(plain: dict[str, Any]) -> dict[str, Any]:
    """As `resolved_config`, of a config as dicts and lists as they are written; OmegaConf is asked where it must be."""
    own = _own(plain)
    try:
        return followed(own, own)
    except (LookupError, RecursionError):
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(own), resolve=True))


def followed(value: Any, root: dict[str, Any]) -> Any:
    """A value with what its `${key}`s refer to in `root`, a hundred times as fast as by OmegaConf.

    Raises:
        LookupError, RecursionError: there is no such key, or OmegaConf alone knows what is meant.
    """
    if isinstance(value, dict):
        return {key: followed(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [followed(item, root) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    if whole := _REFERENCE.fullmatch(value):
        return _referred_to(whole[1], root)
    if "\\" in value or "${" in _REFERENCE.sub("", value):
        raise LookupError(value)
    return _REFERENCE.sub(lambda found: _as_text(_referred_to(found[1], root)), value)


_REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}", re.ASCII)


def _referred_to(key: str, root: dict[str, Any]) -> Any:
    node: Any = root
    for name in key.split("."):
        if not isinstance(node, dict):
            raise LookupError(key)
        node = node[name]
    if node == "???":
        raise LookupError(key)
    return followed(node, root)


def _as_text(value: Any) -> str:
    if not isinstance(value, str | int | float | None):
        raise LookupError(value)
    return str(value)


def _pickled(cfg: DictConfig) -> bytes:
    return pickle.dumps(_own(cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))))


def _own(plain: dict[str, Any]) -> dict[str, Any]:
    """Without Hydra's node, and with null for what the run fills in."""
    own = {key: value for key, value in plain.items() if key != "hydra"}
    return {**own, "run": dict.fromkeys(own.get("run") or {})}


@functools.lru_cache(maxsize=16)  # a command asks for the same one again and again
def _resolved(pickled: bytes) -> dict[str, Any]:
    return resolved_values(pickle.loads(pickled))


@functools.lru_cache(maxsize=16)
def _identity(pickled: bytes) -> dict[str, Any]:
    return identity_of(_resolved(pickled))


def config_hash(cfg: DictConfig) -> str:
    """SHA-256 of the identity: 64 hex digits."""
    return hash_of(identity_config(cfg))


def hash_of(identity: dict[str, Any]) -> str:
    """As `config_hash`, of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def settings(cfg: DictConfig) -> dict[str, Any]:
    """What a run is asked to be, by dotted key, for tables: `{"optimizer.learning_rate": 0.003, ...}`.

    The identity less what follows from other keys by `${...}`; values are numbers, strings, booleans or lists.
    """
    left_out = _following(cfg)
    return {key: value for key, value in _leaves(identity_config(cfg)) if key not in left_out}


def derived(cfg: DictConfig) -> dict[str, Any]:
    """What of a run follows from other keys by `${...}`, resolved, by dotted key: `{"data.batch_size": 32, ...}`.

    Left out is what only the run itself finds out, as by `${run.dir}`.
    """
    known = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    known.run = dict.fromkeys(cfg.get("run") or {}, "???")

    def is_known(key: str) -> bool:
        try:
            value = OmegaConf.select(known, key)
            OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else None
        except OmegaConfBaseException:
            return False
        return True

    return {key: value for key, value in _following(cfg).items() if is_known(key)}


def _following(cfg: DictConfig) -> dict[str, Any]:
    written = dict(_leaves(OmegaConf.to_container(cfg, resolve=False)))
    return {
        key: value
        for key, value in _leaves(identity_config(cfg))
        if re.search(r"\$\{[^:}]+\}", str(written.get(key, "")))
    }


def run_id(cfg: DictConfig) -> str:
    return config_hash(cfg)[:ID_DIGITS]


def label(cfg: DictConfig) -> str:
    """A readable, safe name of at most 60 characters, from the config alone: [A-Za-z0-9._-]."""
    return label_of(identity_config(cfg))


def label_of(identity: dict[str, Any]) -> str:
    """As `label`, of an identity."""

    def target(group: str) -> str:
        return str(identity.get(group, {}).get("_target_", group)).rpartition(".")[2].lower()

    letters = {"epochs": "e", "batch_size": "b", "seed": "s"}
    rate = identity.get("optimizer", {}).get("learning_rate")
    parts = [target("model"), target("optimizer"), _part("lr", rate), target("schedule")]
    parts += [_part(letter, identity.get(key)) for key, letter in letters.items()]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(filter(None, parts)))[:LABEL_LENGTH].strip(".-")


def register_resolvers() -> None:
    """Make `${run_id:}` and `${run_label:}` known to OmegaConf; safe to call again."""
    OmegaConf.register_new_resolver("run_id", lambda *, _root_: run_id(_root_), replace=True)
    OmegaConf.register_new_resolver("run_label", lambda *, _root_: label(_root_), replace=True)


def _canonical(value: Any, path: tuple[str, ...], left_out: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        kept = {
            key: canonical
            for key, item in value.items()
            if not _matches((*path, key), left_out)
            and (canonical := _canonical(item, (*path, key), left_out)) not in (None, {})
        }
        return list(kept.items()) if _matches(path, ORDERED) else kept
    if isinstance(value, list):
        return [_canonical(item, path, left_out) for item in value]
    if isinstance(value, str) and path[-1:] == ("_target_",):
        return old_name(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and _matches(path, ORDERED) and all(isinstance(item, tuple) for item in value):
        value = dict(value)  # a list that a user wrote has no tuples
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    else:
        yield ".".join(path), value


def _matches(path: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    return bool(_any_of(patterns).match(".".join(map(str, path))))


@functools.cache
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, patterns)))


def _part(letter: str, value: Any) -> str:
    return "" if value is None else f"{letter}{value:g}" if isinstance(value, int | float) else f"{letter}{value}"
