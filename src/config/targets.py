"""The gate for `_target_`: what a config may name, and the one place where such names become objects.

    check_names(config)                     # of a whole config, before anything is imported
    resolve("keras.optimizers.Adam", group="optimizer")
    model = build(config["model"], key="model")

`conf/targets.txt` lists the packages of each group, and `targets.local.txt` beside it those of the user's own; nobody's
config can change these files. A name is judged twice.
First as it is written: it must lie in a listed package, and only such packages are imported. Then the object that it
leads to, by its own module and name: it must be a class or function that is defined at the top level of a module of a
listed package, so that no name leads through a module to what that has imported. Of Keras, whose functions build
whatever they are told, only classes of the group's kind are let through.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from src.common.code import ROOT
from src.common.errors import control_flow_on_tensor, plain_message, users_line
from src.common.spelling import did_you_mean
from src.config.moved import new_name

FILE = ROOT / "conf" / "targets.txt"
LOCAL = "targets.local.txt"  # beside it

GROUPS = (
    *("model", "optimizer", "schedule", "loss", "metric", "learner", "strategy", "data", "data.transforms", "callback"),
    *("hydra.launcher", "hydra.sweeper", "hydra.callbacks"),
)
# Keras's kinds are asked of Keras's own classes alone where others may do as well.
KINDS = {
    "model": "keras.Model",
    "optimizer": "keras.optimizers.Optimizer",
    "schedule": "keras.optimizers.schedules.LearningRateSchedule",
    "loss": "keras.losses.Loss",
    "metric": "keras.metrics.Metric",
    "callback": "src.training.callback.Callback",
    "learner": "src.training.learner.Supervised",
    "hydra.callbacks": "hydra.experimental.callback.Callback",
}
ANY_CALLABLE = ("loss",)
KERAS_CALLBACK = (
    "Keras's callbacks are told of its `fit`. One that needs only logs is handed on by a function of your own, "
    "with src.callbacks.keras.KerasCallback: see docs/own-code.md; the options of callback do what the others do"
)

# What a node says of its object, and does not hand to it.
OWN_KEYS = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")


class TargetError(ValueError):
    """A target that may not be named or does not exist, or that cannot be made; the message names the key."""


def nodes(value: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each mapping with a `_target_` in a config of dicts and lists, at any depth, with its dotted key."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield key, value
        for name, item in value.items():
            yield from nodes(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from nodes(item, f"{key}[{number}]")


@functools.cache
def group_of(key: str) -> str | None:
    """The group that judges a node with this key; None where nothing is built."""
    return max((g for g in GROUPS if f"{key}.".replace("[", ".").startswith(f"{g}.")), key=len, default=None)


def check_names(config: dict[str, Any]) -> None:
    """Judge all names in a resolved config as they are written, importing nothing.

    Raises:
        TargetError: one lies in no package that is listed for its group.
    """
    for key, node in nodes(config):
        check_name(node["_target_"], key)


def check_name(name: Any, key: str) -> None:
    """As `check_names`, of one node's `_target_`."""
    if group := group_of(key):
        _judge_name(name, group, key)


def resolve(name: str, *, group: str, key: str | None = None) -> Callable[..., Any]:
    """The class or function of this name.

    Args:
        group: one of GROUPS.
        key: what messages call it.

    Raises:
        TargetError: it may not be named, or does not exist.
    """
    key = key or group
    _judge_name(name, group, key)
    name = new_name(name)
    module_name, _, last = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not error.name or not f"{module_name}.".startswith(f"{error.name}."):
            raise TargetError(f"{key}: {module_name} cannot be imported: {error}") from error
        raise TargetError(f"{key}._target_ is {name!r}: there is no module {error.name}") from error
    except ImportError as error:
        raise TargetError(f"{key}: {module_name} cannot be imported: {error}") from error
    if not hasattr(module, last):
        public = [public for public in dir(module) if not public.startswith("_")]
        raise TargetError(f"{key}._target_ is {name!r}: {module_name} has no {last}{did_you_mean(last, public)}")
    found = getattr(module, last)
    judge(found, name=name, group=group, key=key)
    return found


def judge(found: Any, *, name: str, group: str, key: str) -> None:
    """Raise TargetError unless this object, by its own module and name, may be built in the group."""
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        raise _refused(key, name, f"it is {_described(found)}, and no class or function of a listed package")
    module, qualname = str(found.__module__), found.__qualname__
    own = f"{module}.{qualname}"
    same = f" is {own}, which" if own != name else ""
    if not any(_within(_public(own), package) for package in packages(group)):
        raise _refused(key, name, f"it{same} is of no package that is listed for {group} ({_listed(group)})")
    if "." in qualname or qualname.startswith("_") or vars(importlib.import_module(module)).get(qualname) is not found:
        raise _refused(key, name, f"it{same} is not public at the top level of its module")
    if not (kind_name := KINDS.get(group)):
        return
    of_keras = _within(module, "keras")
    kind_module, _, kind = kind_name.rpartition(".")
    if inspect.isclass(found):
        wanted = getattr(importlib.import_module(kind_module), kind)
        if not issubclass(found, wanted) and (of_keras or group not in ANY_CALLABLE):
            way_out = KERAS_CALLBACK if of_keras and group == "callback" else None
            raise _refused(key, name, f"it is no {kind_name}", way_out=way_out)
    elif of_keras:
        raise _refused(key, name, f"of Keras, only classes that are a {kind_name} may be named")


def build(node: Any, *, key: str, **arguments: Any) -> Any:
    """Build what a resolved node of dicts, lists and plain values describes, the innermost objects first.

    `_args_` are positional arguments; `_partial_: true` gives a functools.partial; `_recursive_: false` hands nested
    nodes over as they are.

    Args:
        key: of the node in the config, such as `callback.images`.
        arguments: replace or complete the node's own.

    Raises:
        TargetError: a target may not be named, does not exist or refuses its arguments, or the `model` is no Keras
            model. What it raised itself, a
            TypeError, ValueError, ImportError or AttributeError, is the cause; anything else is raised as it is.
    """
    if isinstance(node, list):
        return [build(item, key=f"{key}[{number}]") for number, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {name: build(item, key=f"{key}.{name}") for name, item in node.items()}
    group = group_of(key)
    if group is None:
        raise TargetError(f"{key} has a _target_, and nothing is built there; groups are {', '.join(GROUPS)}")
    function = resolve(node["_target_"], group=group, key=key)
    flat = not node.get("_recursive_", True)
    if flat:
        for inner, nested in nodes({**node, "_target_": None}, key):
            if inner != key:
                resolve(nested["_target_"], group=group_of(inner) or group, key=inner)
    made = {
        name: value if flat else build(value, key=f"{key}.{name}")
        for name, value in {**node, **arguments}.items()
        if name not in OWN_KEYS and name not in arguments
    }
    positional = node.get("_args_") or []
    positional = positional if flat else build(positional, key=f"{key}._args_")
    if node.get("_partial_"):
        return functools.partial(function, *positional, **made, **arguments)
    try:
        built = function(*positional, **made, **arguments)
    except (TypeError, ValueError, ImportError, AttributeError) as error:
        reason = " ".join(plain_message(error).split())
        if control := control_flow_on_tensor(error):
            reason = control
        elif line := users_line(error):
            reason = f"{type(error).__name__}: {reason}; {line}"
        raise TargetError(f"{key} ({node['_target_']}): {reason}") from error
    if key == "model" and not isinstance(built, importlib.import_module("keras").Model):
        raise TargetError(f"model ({node['_target_']}) returns {_described(built)}: a run takes a keras.Model")
    return built


def packages(group: str, *, of_user: bool = True) -> tuple[str, ...]:
    """Those that `conf/targets.txt` lists for a group, and those of the user's own file beside it."""
    own = _read(local_file()).get(group, ()) if of_user and local_file().exists() else ()
    return (*_read(FILE).get(group, ()), *own)


def local_file() -> Path:
    """The list of a user's own packages, which git does not track, so that the project is pulled without merging."""
    return FILE.with_name(LOCAL)


@functools.cache
def _read(file: Path) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if words and (len(words) != 2 or words[0] not in GROUPS or not _is_dotted(words[1])):
            raise TargetError(
                f"{_shown(file)}, line {number}: {line.strip()!r} is no group and package, as in `model mine.models`; "
                f"groups are {', '.join(GROUPS)}"
            )
        if words and (owner := _never(words[1], words[0])):
            raise TargetError(
                f"{_shown(file)}, line {number}: {words[1]} is of {owner}, whose functions run whatever they are told; "
                "it cannot be allowed"
            )
        if words:
            found[words[0]] = (*found.get(words[0], ()), words[1])
    return found


def _judge_name(name: Any, group: str, key: str) -> None:
    if not isinstance(name, str) or not _is_dotted(name) or "." not in name:
        raise TargetError(f"{key}._target_ is {name!r}; it must be a dotted name, such as {packages(group)[0]}.name")
    name = new_name(name)
    for package in packages(group):
        if _within(name, package) or _within(_public(name), package):
            if any(part.startswith("_") for part in _public(name).removeprefix(package).split(".")):
                raise _refused(key, name, "a part of it is private")
            return
    if owner := _never(name, group):
        raise _refused(
            key,
            name,
            f"it is of {owner}, and not of what is listed for {group} ({_listed(group)})",
            way_out=f"It cannot be allowed by a line in {_shown(FILE)} either",
        )
    if group == "callback" and _within(name, "keras"):
        raise _refused(key, name, "it is no src.training.callback.Callback", way_out=KERAS_CALLBACK)
    module, _, last = name.rpartition(".")
    near = difflib.get_close_matches(module, packages(group), n=1, cutoff=0.8)
    raise _refused(
        key,
        name,
        f"{module} is not listed for {group} ({_listed(group)})"
        + (f". Did you mean {near[0]}.{last}?" if near else ""),
        way_out=f"A package of your own is allowed by a line in {_shown(local_file())}, as make new writes it, "
        f"or in {_shown(FILE)}: {group} {module}",
    )


def _never(name: str, group: str) -> str | None:
    """Whose a name is that no line of the file may allow; None if it may."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return "Python's standard library"
    return "Hydra" if top in ("hydra", "omegaconf") and not group.startswith("hydra.") else None


def _refused(key: str, name: str, why: str, *, way_out: str | None = None) -> TargetError:
    way_out = way_out or f"{_shown(FILE)}, and {LOCAL} beside it, say what may be named"
    return TargetError(f"{key}._target_ is {name!r}, which a config may not name: {why}. {way_out}".replace("?.", "?"))


def _listed(group: str) -> str:
    return ", ".join(packages(group)) or "nothing is"


def _within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def _public(name: str) -> str:
    """Keras's modules by the names that users know: keras.optimizers for keras.src.optimizers."""
    return f"keras.{name.removeprefix('keras.src.')}" if name.startswith("keras.src.") else name


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _described(found: Any) -> str:
    if inspect.ismodule(found):
        return f"the module {found.__name__}"
    named = found if hasattr(found, "__qualname__") else type(found)
    own = f"{named.__module__}.{named.__qualname__}"
    return own if named is found else f"an object of {own}"


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
