"""What the class or function of a dotted name takes, read from its source: nothing is imported to find out.

arguments("src.losses.SparseFocal")     # the ast.arguments of its __init__
names("keras.optimizers.SGD")           # ["learning_rate", "momentum", ...]; None where the source does not say
checks("src.losses.CrossEntropy")       # {"label_smoothing": what it must be, ...}, as `src.common.ranges` reads it
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import functools
import math
import operator
import os
import pkgutil
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any, Literal, TypeVar

from src.common import ranges
from src.common.code import ROOT, Module, defined, imported, spec_of
from src.common.ranges import Check, check_of
from src.common.spelling import did_you_mean
from src.config.moved import new_name
from src.config.targets import OWN_KEYS

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = tuple[Module, Function | ast.ClassDef]
Bound = Function | ast.ClassDef | ast.expr | str

# What ranges are written with, as modules have it.
_WORDS = {
    **{"typing": typing, "typing_extensions": typing, "collections.abc": collections.abc},
    **{"math": math, "src.common.ranges": ranges, "": builtins},
}
_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv},
    ast.Pow: operator.pow,
}

_LIBRARIES = {*sys.stdlib_module_names, "keras", "numpy", "tensorflow", "tensorflow_datasets"}

# Decorators of these leave a signature as it is.
_TRANSPARENT = ("keras.", "src.", "tensorflow.")


_known: dict[tuple[Any, str], Any] | None = None
Answer = TypeVar("Answer")


@contextmanager
def read_once() -> Iterator[None]:
    """Within this, no source is read or looked at twice: for many configs in a row."""
    global _known
    before, _known = _known, {}
    try:
        yield
    finally:
        _known = before


def _remembered(ask: Callable[[str], Answer]) -> Callable[[str], Answer]:
    @functools.wraps(ask)
    def asked(name: str) -> Answer:
        if _known is None:
            return ask(name)
        if (ask, name) not in _known:
            _known[ask, name] = ask(name)
        return _known[ask, name]

    return asked


def arguments(name: str) -> ast.arguments | None:
    """Those of a function, or of a class's `__init__`, its own or inherited; None where none can be found."""
    found = definition(name)
    first = next(_functions(found), None) if found else None
    return first[1].args if first else None


@_remembered
def names(name: str) -> list[str] | None:
    """All arguments that may be given by name; None where there may be others, or the source does not say.

    What a class takes as **kwargs and hands on belongs to its bases; Keras's own refuse what none of them has.
    """
    found = definition(name)
    if found is None:
        return None
    if (classes := _dataclasses(*found)) and all(classes):
        return list(_written(*found))
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


@_remembered
def checks(name: str) -> dict[str, Check]:
    """What the annotations of a function, or of a class's `__init__`, say that its arguments must be, by name.

    Not judged is what stands there in a way that is not followed here; the call judges it.
    """
    found = definition(name)
    if found and _dataclasses(*found):
        return _annotated(*found)
    judged: dict[str, Check] = {}
    declared: set[str] = set()
    for part in _functions(found) if found else ():
        if part is None or _of_keras(part[0]):
            break
        judged |= {argument: check for argument, check in _annotated(*part).items() if argument not in declared}
        given = part[1].args
        declared |= {argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)}
        if given.kwarg is None:
            break
    return judged


def positional(name: str) -> list[str]:
    """The arguments that may be given by their place, in order."""
    found, given = definition(name), arguments(name)
    places = [*given.posonlyargs, *given.args] if given else []
    return [argument.arg for argument in places[bool(found and isinstance(found[1], ast.ClassDef)) :]]


@functools.cache
def _annotated(module: Module, node: Function | ast.ClassDef) -> dict[str, Check]:
    """The checks of a function's own arguments, or of a dataclass's fields, its own and inherited."""
    judged = {}
    for name, (annotation, where) in _written(module, node).items():
        with suppress(TypeError, ValueError, SyntaxError, RecursionError):
            if check := check_of(_type(annotation, where)):
                judged[name] = check
    return judged


def _written(module: Module, node: Function | ast.ClassDef) -> dict[str, tuple[ast.expr, Module]]:
    """The annotations of a function's arguments, or of a dataclass's fields, and the modules that they stand in."""
    if not isinstance(node, ast.ClassDef):
        given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        return {argument.arg: (argument.annotation, module) for argument in given if argument.annotation}
    return {
        part.target.id: (part.annotation, above)
        for above, base in filter(None, _dataclasses(module, node))
        for part in base.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }


def _dataclasses(module: Module, node: Function | ast.ClassDef) -> list[tuple[Module, ast.ClassDef] | None]:
    """A dataclass and its bases, from the last base on, None for one unknown; none of what makes its own `__init__`."""
    if not isinstance(node, ast.ClassDef) or "dataclasses.dataclass" not in _decorators(module, node):
        return []
    has_its_own = any(isinstance(part, Function) and part.name == "__init__" for part in node.body)
    return [] if has_its_own else list(_classes(module, node))[::-1]


@_remembered
def of_keras(name: str) -> bool:
    """Whether it is Keras's, or a class of one of Keras's."""
    found = definition(name)
    if name.startswith("keras.") or found is None or not isinstance(found[1], ast.ClassDef):
        return name.startswith("keras.")
    return any(each is not None and _of_keras(each[0]) for each in _classes(found[0], found[1]))


def definition(name: str) -> Definition | None:
    """The class or function that a dotted name leads to, through what modules import from each other.

    Of a function that `takes` an object of options, the object's class.
    """
    found = _found(new_name(name))
    if not found or not isinstance(found[1], Function | ast.ClassDef):
        return None
    module, node = found[0], found[1]
    for part in node.decorator_list:
        if isinstance(part, ast.Call) and _dotted(part.func, module) == "src.common.ranges.takes":
            return definition(_dotted(part.args[0], module) or "")
    return module, node


def takes_no(argument: str, target: str, taken: Sequence[str]) -> str:
    """What to say of an argument that a target does not take, with the nearest that it does."""
    hint = did_you_mean(argument, [*taken, *OWN_KEYS]) or f"; it takes {', '.join(taken) or 'none'}"
    return f"{target} takes no argument {argument}{hint}"


@_remembered
def absent(name: str) -> str | None:
    """What of a dotted name is certainly not there, with the nearest that is; None where the source does not say so."""
    above, _, last = new_name(name).rpartition(".")
    package, _, submodule = above.rpartition(".")
    if spec_of(above, ROOT) is None and (module := _module(package)) and submodule not in _bound(module):
        beside = [found.name for found in pkgutil.iter_modules([os.path.dirname(module.path)])]
        return f"there is no module {above}{did_you_mean(submodule, beside)}"
    module = _module(above)
    if module is None or last in (bound := _bound(module)) or _is_dynamic(module) or spec_of(f"{above}.{last}", ROOT):
        return None
    return f"{above} has no {last}{did_you_mean(last, [public for public in bound if public.isidentifier()])}"


def _is_dynamic(module: Module) -> bool:
    """Whether a module may have names that no statement of its own binds."""
    return any(word in module.content for word in (b"import *", b"__getattr__", b"globals()", b"setattr(", b"exec("))


def _found(reference: str) -> tuple[Module, ast.AST] | None:
    """The definition, or the value assigned to it, that a dotted name leads to, and the module that has it."""
    seen = set()
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
    return all(name.startswith(_TRANSPARENT) for name in _decorators(module, node))


def _decorators(module: Module, node: Function | ast.ClassDef) -> list[str]:
    """Their dotted names, "" for one that has none."""
    called = [part.func if isinstance(part, ast.Call) else part for part in node.decorator_list]
    return [_dotted(part, module) or "" for part in called]


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
def _bound(module: Module) -> dict[str, Bound | None]:
    """What each name of a module is: a definition, the value assigned, or the dotted name of what is imported."""
    return _bindings(module.body or [], module)


def _bindings(statements: Iterable[ast.stmt], module: Module) -> dict[str, Bound | None]:
    found: dict[str, Bound | None] = {}
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
        elif isinstance(node, ast.AugAssign):
            found |= dict.fromkeys(defined(node))
        else:
            found |= dict.fromkeys(defined(node), getattr(node, "value", None))
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


def _type(node: ast.expr, module: Module) -> Any:
    """The type that an annotation says, Any in the place of what ranges are not made of."""
    if isinstance(node, ast.Constant):
        text = node.value
        return _type(ast.parse(text, mode="eval").body, module) if isinstance(text, str) else text
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _type(node.left, module) | _type(node.right, module)
    if isinstance(node, ast.Subscript):
        origin = _type(node.value, module)
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if origin is Literal:
            return Literal[tuple(_value(item, module) for item in inner)]
        if origin is Annotated:
            return Annotated[(_type(inner[0], module), *(_value(item, module) for item in inner[1:]))]
        types = tuple(_type(item, module) for item in inner)
        return Any if origin is Any else origin[types if len(types) > 1 else types[0]]
    return _meaning(node, module, _type, otherwise=Any)


def _value(node: ast.expr, module: Module) -> Any:
    """A literal, a Range, or what is computed of numbers; ValueError for anything else."""
    if isinstance(node, ast.Call) and _type(node.func, module) is ranges.Range:
        named = {keyword.arg: _value(keyword.value, module) for keyword in node.keywords if keyword.arg}
        return ranges.Range(*(_value(argument, module) for argument in node.args), **named)
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, module)
    if isinstance(node, ast.BinOp) and (operation := _OPERATIONS.get(type(node.op))):
        return operation(_value(node.left, module), _value(node.right, module))
    if (found := _meaning(node, module, _value)) is None:
        raise ValueError(f"{ast.unparse(node)} is not understood")
    return found


def _meaning(node: ast.expr, module: Module, read: Callable[[ast.expr, Module], Any], otherwise: Any = None) -> Any:
    """What a name means: what ranges are written with, or what `read` makes of the value that is assigned to it."""
    written = _dotted(node, module) or ""
    owner, _, last = written.rpartition(".")
    if owner in _WORDS:
        return getattr(_WORDS[owner], last, otherwise)
    found = None if written.partition(".")[0] in _LIBRARIES else _found(written)
    return read(found[1], found[0]) if found and isinstance(found[1], ast.expr) else otherwise
