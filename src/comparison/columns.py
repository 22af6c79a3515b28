"""Which settings tell runs apart, without those that follow from others.

differing(rows)                     # ["optimizer", "seed"]: that adam's rate is not sgd's follows from the optimizer
resolve("learning_rate", known)     # "optimizer.learning_rate"
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from src.comparison import CompareError
from src.comparison.rows import Row, Value
from src.runs.provenance import WATCHING
from src.text import last_names

# What a data option brings along.
OF_DATA = ("name", "monitor", "mode", "loss", "metric", "trainer.threads")
# Options that have a part of the config of their own; others only set values elsewhere, and these are compared.
OPTIONS = ("data", "model", "optimizer", "schedule", "loss", "metric", "callback", "trainer")
# What decides no result: where a run lies, which of its metrics is looked at, what one start of it was told.
BOOKKEEPING = (
    *("name", "monitor", "mode", "search", "experiment", "debug", "resume", "wait", "rerun", "stale", "dry_run"),
    *("max_seconds", "log_every_steps", *(f"callback.{name}" for name in WATCHING)),
)
ALIKE, NEAR = 0.7, 4  # how alike a spelling must be to be named, and how many are
OWN = ("epoch", "step", "seconds", "status", "reason", "directory")


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
    """Whether a key can have decided a result."""
    if any(f"{key}.".startswith(f"{other}.") for other in BOOKKEEPING):
        return False
    is_option = any(key in row.run.values["choices"] for row in rows)
    return not is_option or key in OPTIONS or any(name.startswith(f"{key}.") for name in _keys(rows))


def values_of(rows: Sequence[Row], key: str) -> dict[int, Value]:
    """A key's values by the row's place, without rows that do not have the key.

    A row that says nothing of a key has it as null where another with the same options and targets around it has a
    value; a model without dropout has no rate of it.
    """
    around = [tuple(row.settings.get(decider) for decider in _deciders(key)) for row in rows]
    having = {place for row, place in zip(rows, around, strict=True) if key in row.settings}
    return {
        number: row.settings.get(key)
        for number, (row, place) in enumerate(zip(rows, around, strict=True))
        if key in row.settings or (row.complete and place in having)
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
    return list(dict.fromkeys([*OWN, *_keys(rows), *metric_names(rows)]))


def resolve(key: str, known: Sequence[str]) -> str:
    """The known key that is meant: by its whole name, or by a last part that only one has.

    Raises:
        CompareError: none is, or several are; names what is near.
    """
    if key in known:
        return key
    found = [name for name in known if name.endswith(f".{key}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise CompareError(f"{key} is not one key but several: {', '.join(found)}")
    raise CompareError(f"no run has {key!r}; {_near(key, known)}")


def headers(keys: Sequence[str]) -> dict[str, str]:
    """The keys' short names; a `_target_` goes by what it is the target of."""
    shown = [key.removesuffix("._target_") for key in keys]
    return dict(zip(keys, last_names(shown), strict=True))


def _keys(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row.settings))


def _differs(rows: Sequence[Row], key: str) -> bool:
    return len({value for row in rows for value in _said(row, key)}) > 1


def _said(row: Row, key: str) -> tuple:
    """The row's value of a key; nothing where an older record does not say."""
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
    """Whether the decider's value tells the key's, in all runs."""
    told: dict[object, set] = defaultdict(set)
    for row in rows:
        told[row.settings.get(decider)].update(_said(row, key))
    return all(len(values) <= 1 for values in told.values())


def _near(word: str, known: Sequence[str]) -> str:
    """The known keys that are spelt alike, or all of them."""
    likeness = {name: max(_likeness(word, name), _likeness(word, re.split("[./]", name)[-1])) for name in known}
    close = sorted((name for name in known if likeness[name] >= ALIKE), key=lambda name: -likeness[name])
    return f"near it: {', '.join(close[:NEAR])}" if close else f"there is {', '.join(known)}"


def _likeness(word: str, name: str) -> float:
    return 1.0 if name.startswith(word) else difflib.SequenceMatcher(None, word, name).ratio()
