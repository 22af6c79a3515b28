"""What the class or function of a dotted name takes, read from its source: nothing is imported to find out.

arguments("src.losses.SparseFocal")     # the ast.arguments of its __init__
names("keras.optimizers.SGD")           # ["learning_rate", "momentum", ...]; None where the source does not say
"""

from __future__ import annotations

import ast
import functools
import os
from collections.abc import Iterable, Iterator

from src.moved import new_name
from src.runs.code import ROOT, Module, defined, imported, spec_of

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = tuple[Module, Function | ast.ClassDef]

# Decorators of these leave a signature as it is.
_TRANSPARENT = ("keras.", "src.", "tensorflow.")


def arguments(name: str) -> ast.arguments | None:
    """Those of a function, or of a class's `__init__`, its own or inherited; None where none can be found."""
    found = definition(name)
    first = next(_functions(found), None) if found else None
    return first[1].args if first else None


def names(name: str) -> list[str] | None:
    """All arguments that may be given by name; None where there may be others, or the source does not say.

    What a class takes as **kwargs and hands on belongs to its bases; Keras's own refuse what none of them has.
    """
    found = definition(name)
    if found is None:
        return None
    is_class = isinstance(found[1], ast.ClassDef)
    taken: dict[str, None] = {}
    for part in _functions(found):
        if part is None or not _is_plain(*part):
            return None
        module, function = part
        given, open_ended = function.args, function.args.kwarg
        taken |= dict.fromkeys(argument.arg for argument in [*given.args[is_class:], *given.kwonlyargs])
        if open_ended is None:
            break
        if not _of_keras(module) and not (is_class and _hands_on(function, open_ended.arg)):
            return None
    return list(taken)


def definition(name: str) -> Definition | None:
    """The class or function that a dotted name leads to, through what modules import from each other."""
    reference, seen = new_name(name), set()
    while reference not in seen:
        seen.add(reference)
        above, _, last = reference.rpartition(".")
        module = _module(above)
        found = _bound(module).get(last) if module else None
        if not isinstance(found, str):
            return (module, found) if module and found else None
        reference = found
    return None


def _functions(found: Definition) -> Iterator[tuple[Module, Function] | None]:
    """The function, or the `__init__`s of a class and its bases as they call each other; None for one unknown."""
    module, node = found
    if not isinstance(node, ast.ClassDef):
        yield module, node
        return
    classes = list(_classes(module, node))
    last = {each: number for number, each in enumerate(classes)}  # one that several bases have comes after them
    for each in [each for number, each in enumerate(classes) if last[each] == number]:
        own = {part.name: part for part in each[1].body if isinstance(part, Function)} if each else {}
        if each and "__init__" in own:
            yield each[0], own["__init__"]
        elif each is None or "__new__" in own or not _is_plain(*each):
            yield None


def _classes(module: Module, node: ast.ClassDef) -> Iterator[tuple[Module, ast.ClassDef] | None]:
    yield module, node
    for base in node.bases:
        written = _dotted(base.value if isinstance(base, ast.Subscript) else base, module)
        above = definition(written) if written else None
        if above and isinstance(above[1], ast.ClassDef) and above[1] is not node:
            yield from _classes(above[0], above[1])
        elif written != "object" and not _of_keras(module):  # which has bases of TensorFlow's that take nothing
            yield None


def _of_keras(module: Module) -> bool:
    return module.name.startswith("keras.")


def _is_plain(module: Module, node: Function | ast.ClassDef) -> bool:
    """Whether no decorator may change what it takes."""
    decorators = [part.func if isinstance(part, ast.Call) else part for part in node.decorator_list]
    return all((_dotted(part, module) or "").startswith(_TRANSPARENT) for part in decorators)


def _hands_on(function: Function, keywords: str) -> bool:
    """Whether the **kwargs go to another `__init__` and nowhere else."""
    uses = [node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == keywords]
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    handed = [
        part.value
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "__init__"
        for part in call.keywords
        if part.arg is None
    ]
    return bool(uses) and all(use in handed for use in uses)


def _module(name: str) -> Module | None:
    """The module as it lies on the disk now; None for one without a source."""
    spec = spec_of(name, ROOT) if name else None
    path = spec.origin if spec else None
    if path is None or not path.endswith(".py") or not os.path.isfile(path):
        return None
    return _read(name, path, os.stat(path).st_mtime_ns, spec is not None and bool(spec.submodule_search_locations))


@functools.cache
def _read(name: str, path: str, mtime_ns: int, is_package: bool) -> Module:
    with open(path, "rb") as file:
        return Module(name, path, file.read(), is_package=is_package)


@functools.cache
def _bound(module: Module) -> dict[str, Function | ast.ClassDef | str | None]:
    """What each name of a module is: defined there, the dotted name of what is imported, or None for a value."""
    return _bindings(module.body or [], module)


def _bindings(statements: Iterable[ast.stmt], module: Module) -> dict[str, Function | ast.ClassDef | str | None]:
    found: dict[str, Function | ast.ClassDef | str | None] = {}
    for node in statements:
        if isinstance(node, ast.ImportFrom):
            found |= dict(imported(node, module))
        elif isinstance(node, ast.Import):
            tops = ((part, part.name.partition(".")[0]) for part in node.names)
            found |= {part.asname or top: part.name if part.asname else top for part, top in tops}
        elif isinstance(node, Function | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.If | ast.Try):  # the first way is the usual one: Keras asks whether it has TensorFlow
            others = [*node.orelse, *(line for way in getattr(node, "handlers", []) for line in way.body)]
            found |= _bindings(others, module) | _bindings(node.body, module)
        else:
            found |= dict.fromkeys(defined(node))
    return found


def _dotted(node: ast.expr, module: Module) -> str | None:
    """The dotted name that an expression of names stands for; None for any other."""
    if isinstance(node, ast.Attribute):
        above = _dotted(node.value, module)
        return above and f"{above}.{node.attr}"
    if not isinstance(node, ast.Name):
        return None
    found = _bound(module).get(node.id, node.id)
    return found if found is None or isinstance(found, str) else f"{module.name}.{node.id}"
