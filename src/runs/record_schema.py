"""What a run's folder may say, read once, so that nothing after this can trip over it.

values = validated(parse(text))         # WrongValue: best=[1]; it must be null or an object
values["epoch"], values["best"]         # with what a record of before does not say: 0, None
epochs, warnings = read_history(Path("outputs/digits/cnn-...-1a2b3c4d"))

A record is a TypedDict: run.json's own object, so that keys which nothing here knows stay in it, and what reads the
file elsewhere reads the same. The types below are all that there is of rules; the reader follows them.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import (
    Any,
    Literal,
    NotRequired,
    Required,
    TypedDict,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from src.common.text import first_of

HISTORY = "history.jsonl"
LARGEST = 2**63
NO_METRICS = ("epoch", "step", "seconds", "learning_rate")  # of a line of history.jsonl

Status = Literal["running", "completed", "interrupted", "failed", "pruned"]


class RecordedBest(TypedDict):
    """The best value of the monitored metric; `metrics` is null in a record of before."""

    value: float | None
    epoch: int | None
    step: int | None
    metrics: dict[str, float | None] | None


class Failure(TypedDict):
    """What a run has failed by."""

    type: str | None
    message: str | None
    traceback: str | None


class Process(TypedDict):
    """Who writes the run, or wrote it last."""

    pid: int | None
    host: str | None
    job: NotRequired[str]  # its id in the cluster


class RecordedParent(TypedDict):
    """The run and the checkpoint that a branch began from."""

    config_hash: Required[str]
    checkpoint: str | None
    epoch: int
    step: int


class Git(TypedDict, total=False):
    """The state of a repository."""

    commit: str | None
    dirty: bool
    untracked: list[str]


class Environment(TypedDict):
    """What a run was computed in; null is what a record of before does not say."""

    python: str | None
    processor: str | None
    threads: int | None
    replicas: int | None  # of a strategy
    git: Git | None
    packages: dict[str, str | None]
    keras: dict[str, Any] | None
    variables: dict[str, str | None] | None
    changes: list[str]


class DataPrint(TypedDict, total=False):
    """A fingerprint of data."""

    dataset: str
    path: str
    path_of_all: str
    files: int
    changed_ns: int


class Fingerprints(TypedDict, total=False):
    """Of code, data and files; without a version by the rule of before."""

    version: int
    code: dict[str, str]
    data: DataPrint
    files: dict[str, str]


class RecordedExport(TypedDict):
    """How a file that `src.export` has made compares with the SavedModel; see src.inspection.conversion.Proof."""

    examples: int
    batch_sizes: list[int]
    largest_difference: float | None
    classes: int
    ties: int
    tolerance: float | None
    packages: dict[str, str | None]
    when: str | None


class RecordValues(TypedDict):
    """What run.json says of a run. Keys that may be missing have a meaning when they are."""

    id: str
    name: str
    status: Status
    monitor: str
    mode: Literal["min", "max"]
    best: RecordedBest | None
    metrics: dict[str, float | None]
    test: dict[str, float | None]
    epoch: int
    step: int
    epochs: int | None
    parameters: int | None
    disk_bytes: int | None
    seed: int | None
    started: str | None
    finished: str | None
    cleaned: str | None
    seconds: float
    overrides: list[str]
    flags: list[str]
    choices: dict[str, Any]
    config: NotRequired[dict[str, Any]]
    resolved: dict[str, Any]
    derived: NotRequired[dict[str, Any]]
    config_hash: str
    fingerprints: Fingerprints
    process: Process
    parent: RecordedParent | None
    error: Failure | None
    environment: Environment
    class_names: list[Any]
    exports: dict[str, RecordedExport]
    history_missing: list[int]
    validations_missing: list[int]


class WrongValue(ValueError):
    """A value of the wrong type; the message names the key, the value and what is allowed."""

    def __init__(self, key: str, value: Any, allowed: str) -> None:
        try:
            shown = json.dumps(value)
        except RecursionError:
            shown = "[..."
        super().__init__(f"{key}={shown[:60]}{'...' * (len(shown) > 60)}; it must be {allowed}")


def validated(values: dict[str, Any]) -> RecordValues:
    """A record with all its keys: what is missing is null, or nothing of its type: 0, "", [], {}.

    A number may be null for not known, as may an object of several keys; they are then as if missing.

    Raises:
        WrongValue: the first that is of another type.
    """
    return cast(RecordValues, _reader(RecordValues)("", values))


def read_history(directory: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The epochs of history.jsonl, and a warning about lines that are none."""
    path = directory / HISTORY
    try:
        epochs, others = lines_in(path)
    except OSError as error:
        return [], [f"{path} cannot be read ({error}), so it shows no curves"]
    if not others:
        return epochs, []
    return epochs, [f"{path}, line {first_of([*map(str, others)], 6)}: torn or no epoch, and left out"]


def lines_in(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The epochs of a history, or validations, in order, and the numbers, from 1, of the lines that are none.

    A power cut may leave zeros, or a part of a line, between whole lines.
    """
    try:
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    except FileNotFoundError:
        return [], []
    epochs: list[dict[str, Any]] = []
    others = []
    for count, line in enumerate(lines, start=1):
        try:
            epoch = parse(line.strip(b"\0").decode())
            whole("epoch", epoch["epoch"], needed=True)
            whole("step", epoch.get("step"))
            seconds("seconds", epoch.get("seconds"))
            metrics_of(epoch)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            others.append(count)
        else:
            epochs.append(epoch)
    return epochs, others if lines != [b""] else []


def parse(text: str) -> Any:
    """JSON as it is read here: what is no finite number is null, as in what is written."""

    def finite(number: str) -> float | None:
        return value if math.isfinite(value := float(number)) else None

    return json.loads(text, parse_constant=lambda _: None, parse_float=finite)


def best_metrics(values: RecordValues, history: list[dict[str, Any]]) -> dict[str, float | None]:
    """What was measured at the best step of a run, as its record says.

    An older record says no more than the monitored value: then the others are those of the epoch that ended at this
    step, where the history has it. The numbers of another step are never taken.
    """
    best = values["best"]
    metrics = best and best["metrics"]
    if metrics is None:
        place = (best["epoch"], best["step"]) if best else (None, None)
        found = (line for line in reversed(history) if (line["epoch"], line.get("step", place[1])) == place)
        metrics = metrics_of(next(found, {}))
    return {**metrics, values["monitor"]: best and best["value"]}


def step_within(best: RecordedBest) -> str:
    """`, step 73` where the best was measured within its epoch, "" where at its end: then training was measured too."""
    metrics = best["metrics"]
    ended = metrics is None or any(name.startswith("train/") for name in metrics)
    return "" if ended else f", step {best['step']}"


def metrics_of(epoch: dict[str, Any]) -> dict[str, float | None]:
    """The metrics of a line of history.jsonl."""
    return numbers("a metric", {key: value for key, value in epoch.items() if key not in NO_METRICS})


def number(key: str, value: Any) -> float | None:
    """The value where it is a finite number; None stands for NaN, as in run.json."""
    if value is None:
        return None
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value) if math.isfinite(value) else None
    except OverflowError:
        pass
    raise WrongValue(key, value, "a number or null")


def numbers(key: str, values: dict[str, Any]) -> dict[str, float | None]:
    """Numbers by name."""
    return {name: number(f"{key}.{name}", value) for name, value in values.items()}


def whole(key: str, value: Any, *, needed: bool = False) -> int | None:
    """The value where it is a whole number, of which none here is negative."""
    if value is None and not needed:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= LARGEST:
        raise WrongValue(key, value, "a whole number of 64 bits")
    if value < 0:
        raise WrongValue(key, value, "a whole number of 64 bits, at least 0")
    return value


def seconds(key: str, value: Any) -> float:
    """The value where it is a number of seconds; 0 where it is null."""
    if not 0 <= (found := number(key, value) or 0.0) < LARGEST:
        raise WrongValue(key, value, "a number of seconds or null")
    return found


ReadValue = Callable[[str, Any], Any]


def _of(kinds: Any, allowed: str) -> ReadValue:
    def read(key: str, value: Any) -> Any:
        if not isinstance(value, kinds):
            raise WrongValue(key, value, allowed)
        return value

    return read


_PLAIN: dict[Any, ReadValue] = {
    Any: lambda key, value: value,
    str: _of(str, "a text"),
    str | None: _of(str | None, "a text or null"),
    bool: _of(bool, "true or false"),
    int: lambda key, value: whole(key, value) or 0,
    int | None: whole,
    float: seconds,
    float | None: number,
    list[Any]: _of(list, "a list"),
    dict[str, Any]: _of(dict, "an object"),
    dict[str, Any] | None: _of(dict | None, "null or an object"),
}


@functools.cache
def _reader(kind: Any) -> ReadValue:
    """What reads a value of this type under a key, and raises WrongValue."""
    origin, of = get_origin(kind), get_args(kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if origin in (NotRequired, Required):
        return _reader(of[0])
    if NoneType in of:
        inner = _reader(of[0])
        return lambda key, value: None if value is None else inner(key, value)
    if is_typeddict(kind):
        return _object(kind)

    def read(key: str, value: Any) -> Any:
        if origin is Literal and value not in of:
            raise WrongValue(key, value, f"{', '.join(of[:-1])} or {of[-1]}")
        if origin is list and not (isinstance(value, list) and all(type(item) is of[0] for item in value)):
            raise WrongValue(key, value, "a list of strings" if of[0] is str else "a list of whole numbers")
        if origin is not dict:
            return value
        items = _PLAIN[dict[str, Any]](key, value).items()
        return {name: _reader(of[1])(f"{key}.{name}", item) for name, item in items}

    return read


def _object(kind: Any) -> ReadValue:
    kinds = get_type_hints(kind, include_extras=True)
    readers = {name: _reader(of) for name, of in kinds.items()}
    *names, last = kinds
    allowed = f"null or an object with {', '.join(names)} and {last}"

    def read(key: str, value: Any) -> dict[str, Any]:
        found = {} if value is None else dict(_of(dict, allowed)(key, value))
        for name, reader in readers.items():
            if name in found:
                found[name] = reader(f"{key}.{name}".lstrip("."), found[name])
            elif get_origin(kinds[name]) is Required:
                raise WrongValue(key, value, allowed)
            elif kind.__total__ and get_origin(kinds[name]) is not NotRequired:
                found[name] = _nothing(kinds[name])
        return found

    return read


def _nothing(kind: Any) -> Any:
    """What stands for a missing value of this type."""
    if kind is str or get_origin(kind) is Literal:
        return ""
    return get_origin(kind)() if get_origin(kind) in (list, dict) else _reader(kind)("", None)


EMPTY = validated({})  # what a record says where there is none
