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
    return problems


def accepted(target: Callable[..., Any]) -> tuple[list[str], bool]:
    """The arguments that a class or function takes by name, and whether these are all.

    What a class takes as **kwargs belongs to its bases; Keras's own refuse what none of them has.
    """
    names: dict[str, None] = {}
    functions = (
        [vars(c).get("__init__", object.__init__) for c in inspect.getmro(target)]
        if inspect.isclass(target)
        else [target]
    )
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        names |= dict.fromkeys(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return [name for name in names if name != "self"], True
    return [name for name in names if name != "self"], target.__module__.startswith("keras.")


def _takes_probabilities(found: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    parameter = inspect.signature(found).parameters.get("from_logits")
    return parameter is not None and not arguments.get("from_logits", parameter.default)


def _unbound(
    found: Callable[..., Any], name: str, key: str, positional: list[Any], arguments: dict[str, Any], *, partial: bool
) -> Iterator[str]:
    names, all_known = accepted(found)
    unknown = [argument for argument in arguments if all_known and argument not in names]
    for argument in unknown:
        yield f"{key}.{argument}: {signatures.takes_no(argument, name, names)}"
    try:
        signature = inspect.signature(found)
        known = {argument: value for argument, value in arguments.items() if argument not in unknown}
        (signature.bind_partial if partial else signature.bind)(*positional, **known)
    except TypeError as error:
        yield f"{key} ({name}): {error}"
