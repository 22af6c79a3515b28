"""Whether the imported targets of a config take the arguments that it gives them; nothing is built.

target_problems(config, given)      # ["optimizer.lrr: keras.optimizers.Adam takes no lrr..."]
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from src.config import signatures, targets


def target_problems(config: Mapping[str, Any], given: Mapping[str, frozenset[str]]) -> list[str]:
    """What is wrong with the targets of a resolved config, one line for each; nothing is built.

    Args:
        config: groups with their nodes.
        given: arguments that the code gives, by group: to its object, or to complete those that are partial.
    """
    problems = []
    for group, root in config.items():
        for key, node in targets.nodes(root, group):
            arguments = {name: value for name, value in node.items() if name not in targets.OWN_KEYS}
            partial = bool(node.get("_partial_"))
            if group in given and (partial or key == group):
                arguments |= dict.fromkeys(given[group])
                partial = False
            try:
                found = targets.resolve(node["_target_"], group=targets.group_of(key) or group, key=key)
            except targets.TargetError as error:
                problems.append(str(error))
                continue
            problems += _unbound(found, node["_target_"], key, node.get("_args_") or [], arguments, partial=partial)
            if group in ("loss", "metric") and _takes_probabilities(found, arguments):
                problems.append(f"{key}.from_logits: models give logits, so it must be true: {key}.from_logits=true")
            if group == "metric" and (name := _threshold_of_probabilities(found, arguments)):
                told = "0.0 for logits, as models give them, or 0.5 for probabilities, which is its default"
                problems.append(f"{key}.{name}: say which it is, {told}: {key}.{name}=0.0")
    return problems


def _takes_probabilities(found: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    parameter = inspect.signature(found).parameters.get("from_logits")
    return parameter is not None and not arguments.get("from_logits", parameter.default)


def _threshold_of_probabilities(found: Callable[..., Any], arguments: Mapping[str, Any]) -> str | None:
    """The argument of a metric of Keras's that would tell yes from no at 0.5, were it left out; None if none is."""
    parameters = inspect.signature(found).parameters
    if not found.__module__.startswith("keras.") or "from_logits" in parameters:
        return None
    defaults = {"threshold": 0.5, "thresholds": None}
    names = (name for name, default in defaults.items() if name in parameters and parameters[name].default == default)
    return next((name for name in names if arguments.get(name) is None), None)


def _unbound(
    found: Callable[..., Any], name: str, key: str, positional: list[Any], arguments: dict[str, Any], *, partial: bool
) -> Iterator[str]:
    taken = signatures.names(name)
    unknown = [] if taken is None else [argument for argument in arguments if argument not in taken]
    for argument in unknown:
        yield f"{key}.{argument}: {signatures.takes_no(argument, name, taken or [])}"
    try:
        signature = inspect.signature(found)
        known = {argument: value for argument, value in arguments.items() if argument not in unknown}
        (signature.bind_partial if partial else signature.bind)(*positional, **known)
    except TypeError as error:
        yield f"{key} ({name}): {error}"
