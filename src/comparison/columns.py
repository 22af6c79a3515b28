"""Which settings distinguish runs, without those that follow from others.

differing(rows)                     # ["optimizer", "seed"]: that adam's rate is not sgd's follows from the optimizer
resolve("learning_rate", known)     # "optimizer.learning_rate"
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from src.common.errors import ConfigError
from src.common.spelling import did_you_mean
from src.common.text import last_names
from src.comparison.rows import Row, Value
from src.runs.provenance import WATCHING

# What a data option brings along.
OF_DATA = ("name", "monitor", "mode", "loss", "metric", "trainer.threads")
# Options that have a part of the config of their own; others only set values elsewhere, and these are compared.
OPTIONS = ("data", "model", "optimizer", "schedule", "loss", "metric", "callback", "trainer")
# What has no influence on a result: where a run lies, which of its metrics is monitored, options of a single start.
BOOKKEEPING = (
    *("name", "monitor", "mode", "search", "experiment", "debug", "resume", "wait", "rerun", "stale", "dry_run"),
    *("max_seconds", "evaluate_test", "log_every_steps", "may_fail"),
    *(f"callback.{name}" for name in WATCHING),
)
SUGGESTIONS, SIMILARITY = 4, 0.7  # of similar spellings
RUN_KEYS = ("epoch", "step", "seconds", "status", "reason", "directory")


def differing(rows: Sequence[Row]) -> list[str]:
    """The keys whose values differ and follow from no other: what was typed, then the rest; the seed last."""
    different = [key for key in _keys(rows) if _differs(rows, key)]
    known = set(different)
    typed = frozenset().union(*(row.typed for row in rows))
    kept = [
        key
        for key in different
        if key in typed or not any(_follows(rows, key, decider) for decider in _deciders(key) if decider in known)
    ]
    return sorted(kept, key=lambda key: (key == "seed", key != "name", key not in typed, "." in key))


def is_factor(key: str, rows: Sequence[Row]) -> bool:
    """Whether a key can have an influence on the result."""
    if any(f"{key}.".startswith(f"{other}.") for other in BOOKKEEPING):
        return False
    is_option = any(key in row.run.values["choices"] for row in rows)
    return not is_option or key in OPTIONS or any(name.startswith(f"{key}.") for name in _keys(rows))


def values_of(rows: Sequence[Row], key: str) -> dict[int, Value]:
    """A key's values by the row's place, without rows that do not have the key.

    A key that is missing from a row is null where another row with the same options and targets around it has a value;
    a model without dropout has no rate of it.
    """
    contexts = [tuple(row.settings.get(decider) for decider in _deciders(key)) for row in rows]
    with_key = {context for row, context in zip(rows, contexts, strict=True) if key in row.settings}
    return {
        number: row.settings.get(key)
        for number, (row, context) in enumerate(zip(rows, contexts, strict=True))
        if key in row.settings or (row.complete and context in with_key)
    }


def metric_names(rows: Iterable[Row]) -> list[str]:
    """The metrics of some runs: the monitored ones, then of validation, then the others, in the order recorded."""
    rows = list(rows)
    monitors = dict.fromkeys(row.monitor for row in rows)
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    for monitor in monitors:
        names.setdefault(monitor)
    return sorted(names, key=lambda name: (name not in monitors, not name.startswith("val/")))


def known_keys(rows: Iterable[Row]) -> list[str]:
    """All that a run can be asked for by name."""
    rows = list(rows)
    return list(dict.fromkeys([*RUN_KEYS, *_keys(rows), *metric_names(rows)]))


def resolve(key: str, known: Sequence[str]) -> str:
    """The known key of this name, or the only one whose last part this is.

    Raises:
        ConfigError: there is none, or there are several; names them, or keys of a similar spelling.
    """
    if key in known:
        return key
    found = [name for name in known if name.endswith(f".{key}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"{key} may be {' or '.join(found)}: give the whole name")
    last_parts = {re.split("[./]", name)[-1]: name for name in reversed(known)} | {name: name for name in known}
    similar = [name for name in last_parts if name.startswith(key)]
    similar += difflib.get_close_matches(key, last_parts, SUGGESTIONS, SIMILARITY)
    named = list(dict.fromkeys(last_parts[name] for name in similar))[:SUGGESTIONS]
    hint = f". Did you mean {' or '.join(named)}?" if named else did_you_mean(key, known)
    raise ConfigError(f"no run has {key!r}" + (hint or f"; there is {', '.join(known)}"))


def headers(keys: Sequence[str]) -> dict[str, str]:
    """The keys' short names; a `_target_` goes by what it is the target of."""
    shown = [key.removesuffix("._target_") for key in keys]
    return dict(zip(keys, last_names(shown), strict=True))


def _keys(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row.settings))


def _differs(rows: Sequence[Row], key: str) -> bool:
    return len({value for row in rows for value in _recorded(row, key)}) > 1


def _recorded(row: Row, key: str) -> tuple:
    """The row's value of a key; nothing where an older record does not have it."""
    return (row.settings.get(key),) if row.complete or key in row.settings else ()


def _deciders(key: str) -> Iterator[str]:
    """The keys that a key may follow from: the options of the groups that it is in, and the targets around it."""
    if key in OF_DATA:
        yield "data"
    parts = key.split(".")
    for length in range(1, len(parts)):
        prefix = ".".join(parts[:length])
        yield prefix
        if key != f"{prefix}._target_":
            yield f"{prefix}._target_"


def _follows(rows: Sequence[Row], key: str, decider: str) -> bool:
    """Whether runs with the same value of the decider have the same value of the key."""
    values: dict[object, set] = defaultdict(set)
    for row in rows:
        values[row.settings.get(decider)].update(_recorded(row, key))
    return all(len(found) <= 1 for found in values.values())
