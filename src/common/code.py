"""The code that a run reaches: found as an import finds it, read and hashed, and never run.

parts = reach(["mine.models.net"])      # {"mine.models": Part(...), "mine.layers": Part(...)}
parts["mine.models"].hash()             # changes with what is computed, not with comments, docstrings or layout
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from importlib.util import decode_source
from pathlib import Path
from typing import Any

from src.common.files import is_own

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "src"

# Modules of several options: each of their definitions stands for itself, since a run takes few of them.
OF_MANY = (
    *("src.data.sources", "src.data.images.transforms", "src.data.images.files"),
    *("src.data.transforms", "src.image_files"),  # where those lay, of older code
    *("src.losses", "src.metrics", "src.optimizers", "src.schedules"),
)
# In these words a definition may depend on others that it does not name.
_BY_OTHER_MEANS = re.compile(
    rb"\b(globals|locals|vars|eval|exec|__dict__|__getattr__|__subclasses__|__init_subclass__|sys\.modules)\b"
)
_IMPORTING = ("import_module", "__import__", "run_module", "find_spec", "files")
_contents: dict[str, bytes] = {}
_search_path: list[str] | None = None


class Part:
    """A module, or one definition of a module of many."""

    def __init__(self, module: Module, statements: list[ast.stmt] | None) -> None:
        self.module, self._statements = module, statements

    @functools.cached_property
    def _read(self) -> _Reader:
        return _read(self._statements or [], docstrings=self.module.looks_at_docstrings)

    def hash(self, *, docstrings: bool = False) -> str:
        """16 hex digits: of the syntax, or of the content where that is no Python.

        Args:
            docstrings: whether they count, as where some code looks at them.
        """
        if self._statements is None:
            return digest(self.module.content)
        read = _read(self._statements, docstrings=True) if docstrings else self._read
        return digest(" ".join(read.written).encode())

    @property
    def strings(self) -> set[str]:
        """The literals."""
        return self._read.strings

    @property
    def attributes(self) -> set[str]:
        """Names after a dot."""
        return self._read.attributes

    @functools.cached_property
    def references(self) -> list[str]:
        """What it imports and, within a module of many, the definitions that it names; dotted."""
        read, module = self._read, self.module
        found = [reference for node in read.imports for _, reference in imported(node, module)]
        found += [_absolute(name, module) for name in read.imported_by_call]
        if module.is_of_many:
            found += [reference for name in read.names & module.bound.keys() for reference in module.bound[name]]
            found += [f"{module.name}.{name}" for name in read.names & module.definitions.keys()]
            found += module.unused  # imported for what importing does
        return found


class Module:
    """A module of the project's or the user's, as this process first read it."""

    def __init__(self, name: str, path: str, content: bytes, *, is_package: bool = False) -> None:
        self.name, self.path, self.content, self.is_package = name, path, content, is_package
        self.looks_at_docstrings = b"__doc__" in content or b"getdoc" in content
        self.is_of_many = name in OF_MANY and not _BY_OTHER_MEANS.search(self.content)

    @functools.cached_property
    def body(self) -> list[ast.stmt] | None:
        """The statements; None where it is no Python that can be read."""
        if not self.path.endswith(".py"):
            return None
        try:
            return ast.parse(decode_source(self.content)).body
        except (SyntaxError, ValueError):
            return None  # importing it will say so

    @functools.cached_property
    def bound(self) -> dict[str, list[str]]:
        """What its own imports bind, by name."""
        found: dict[str, list[str]] = {}
        for node in self.body or []:
            if isinstance(node, ast.Import | ast.ImportFrom):
                for name, reference in imported(node, self):
                    found.setdefault(name, []).append(reference)
        return found

    @functools.cached_property
    def unused(self) -> list[str]:
        """What it imports under names that it does not use."""
        once = [name for name in self.bound if self.content.count(name.encode()) == 1]
        return [reference for name in once for reference in self.bound[name]]

    @functools.cached_property
    def definitions(self) -> dict[str, list[ast.stmt]]:
        """The statements that define each name; under "" those that may do something else and always count."""
        found: dict[str, list[ast.stmt]] = {"": []}
        for node in self.body or []:
            for name in defined(node):
                found.setdefault(name, []).append(node)
        return found

    def parts(self, wanted: str | None) -> dict[str, Part]:
        """Itself, or what it has under a name, by the key of a fingerprint."""
        if not self.is_of_many or self.body is None:
            return {self.name: Part(self, self.body)}
        chosen = [wanted] if wanted in self.definitions else list(self.definitions)
        return {f"{self.name}.{name}".rstrip("."): Part(self, self.definitions[name]) for name in ["", *chosen]}


def reach(references: Iterable[str], *, without: tuple[str, ...] = (), root: Path = ROOT) -> dict[str, Part]:
    """All code that these names lead to, by module, or by module and definition where a module is of many.

    Args:
        references: dotted names of modules or of what is in them.
        without: modules of the project's whose code does not count.
        root: where the project lies.
    """
    found: dict[str, Part] = {}
    waiting, seen = list(references), set()
    while waiting:
        reference = waiting.pop()
        if reference in seen:
            continue
        seen.add(reference)
        for key, part in _parts(reference, without, root).items():
            if key not in found:
                found[key] = part
                waiting += part.references
    return found


@functools.cache
def _parts(reference: str, without: tuple[str, ...], root: Path) -> dict[str, Part]:
    """The module of a dotted name, the packages that it is in, whose `__init__` runs too, and what it names there."""
    names = reference.split(".")
    modules: list[Module] = []
    for count in range(1, len(names) + 1):
        name = ".".join(names[:count])
        spec = spec_of(name, root)
        if spec is None or any(f"{name}.".startswith(f"{other}.") for other in without):
            break
        if module := find(name, root=root):
            modules.append(module)
        elif spec.origin is not None:  # of Python or of an installed package
            break
    found: dict[str, Part] = {}
    for module in modules:
        found |= module.parts(reference.removeprefix(f"{module.name}.").partition(".")[0])
    return found


@functools.cache
def find(name: str, *, root: Path = ROOT) -> Module | None:
    """The module of this name; None for one of Python's or of an installed package, a namespace, or none at all."""
    spec = spec_of(name, root)
    if spec is None or not spec.has_location or spec.origin is None or not is_own(spec.origin):
        return None
    is_package = spec.submodule_search_locations is not None
    path = os.path.abspath(spec.origin)
    content = read_once(path) if os.path.isfile(path) else _from(spec.loader, name)
    return Module(name, path, content, is_package=is_package)


@functools.cache
def spec_of(name: str, root: Path) -> ModuleSpec | None:
    """What an import would find, without importing the packages that it is in."""
    above, _, _ = name.rpartition(".")
    if not above:
        search_path = sys.path if _search_path is None else _search_path
        folders = [str(root)] if name == PROJECT else [folder or os.getcwd() for folder in search_path]
    else:
        package = spec_of(above, root)
        if package is None or package.submodule_search_locations is None:
            return None
        folders = list(package.submodule_search_locations)
    known = {*sys.stdlib_module_names, PROJECT}  # an installed project is not the one that lies in this root
    for finder in sys.meta_path:
        found = None
        if finder is PathFinder:
            found = _in_folders(name, folders)
        elif finder not in (BuiltinImporter, FrozenImporter) and name.partition(".")[0] not in known:
            with suppress(Exception):  # of packages that are installed to be edited, or anybody's
                found = finder.find_spec(name, folders if above else None)
        if found:
            return found
    return None


def _in_folders(name: str, folders: list[str]) -> ModuleSpec | None:
    portions: list[str] = []
    for folder in folders:
        finder = pkgutil.get_importer(folder)
        found = finder.find_spec(name) if finder and hasattr(finder, "find_spec") else None
        if found and found.loader:
            return found
        portions += (found and found.submodule_search_locations) or []
    if not portions:
        return None
    namespace = ModuleSpec(name, None, is_package=True)
    namespace.submodule_search_locations = portions
    return namespace


def read_once(path: str) -> bytes:
    """A file's content as this process first saw it: what it imports, whatever is edited while a sweep goes on."""
    if path not in _contents:
        _contents[path] = Path(path).read_bytes()
    return _contents[path]


def _from(loader: Any, name: str) -> bytes:
    """The source of a module in an archive."""
    with suppress(Exception):
        return loader.get_source(name).encode()
    return b""


def own_modules() -> dict[str, str]:
    """The modules of the project's and the user's that this process has imported, and their files."""
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    # AutoGraph writes modules of its own, from functions that lie in others.
    written = {name for name in files if name.startswith("__autograph_generated_file")}
    return {
        name: os.path.abspath(file) for name, file in files.items() if file and name not in written and is_own(file)
    }


def keep_search_path() -> None:
    """From here on find modules where they would be found now, as any process would, before the user's code adds to
    sys.path."""
    global _search_path
    _search_path = list(sys.path)


def forget() -> None:
    """Read all code anew, as another process would."""
    _contents.clear()
    for cached in (find, _parts, spec_of):
        cached.cache_clear()
    importlib.invalidate_caches()


def look_again() -> bool:
    """In a forked child: read anew what has been changed since, but for what was imported before the fork.

    Returns whether anything has been.
    """
    imported = set(own_modules().values())
    changed = [
        path
        for path, content in _contents.items()
        if path not in imported and (not os.path.isfile(path) or Path(path).read_bytes() != content)
    ]
    kept = {path: content for path, content in _contents.items() if path not in changed}
    if changed:
        forget()
        _contents.update(kept)
    return bool(changed)


def digest(content: bytes) -> str:
    """16 hex digits of SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


class _Reader:
    """What statements say, written out without their places, so that equal code is equal in each version of Python."""

    def __init__(self, *, docstrings: bool) -> None:
        self._docstrings = docstrings
        self.written: list[str] = []
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.strings: set[str] = set()
        self.imports: list[ast.Import | ast.ImportFrom] = []
        self.imported_by_call: list[str] = []

    def read(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name):
            self.names.add(node.id)
        elif isinstance(node, ast.Attribute):
            self.attributes.add(node.attr)
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                self.strings.add(node.value)
            self.written.append(f"{type(node.value).__name__} {node.value!a}")
            return
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self.imports.append(node)
        elif isinstance(node, ast.Call):
            self._read_call(node)
        elif isinstance(node, ast.If) and _name_of(node.test) == "TYPE_CHECKING":
            self.read_all(node.orelse)
            return
        self.written.append(f"({type(node).__name__}")
        for field in node._fields:
            value = getattr(node, field, None)
            if value is None or value == []:  # newer versions of Python have more fields
                continue
            self.written.append(field)
            if isinstance(value, ast.AST):
                self.read(value)
            elif isinstance(value, list):
                self.read_all(value)
            else:
                self.written.append(ascii(value))
        self.written.append(")")

    def read_all(self, nodes: list[Any]) -> None:
        self.written.append("[")
        for node in nodes:
            if not isinstance(node, ast.AST):
                self.written.append(ascii(node))
            elif self._docstrings or not (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                self.read(node)
        self.written.append("]")

    def _read_call(self, node: ast.Call) -> None:
        name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        if isinstance(name, str) and _name_of(node.func) in _IMPORTING:
            self.imported_by_call.append(name)


def _read(statements: list[ast.stmt], *, docstrings: bool) -> _Reader:
    reader = _Reader(docstrings=docstrings)
    reader.read_all(statements)
    return reader


def _name_of(node: ast.expr) -> str | None:
    return getattr(node, "id", None) or getattr(node, "attr", None)


def imported(node: ast.Import | ast.ImportFrom, module: Module) -> Iterator[tuple[str, str]]:
    """The names that an import binds, and the dotted names of what they are."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0], alias.name
    else:
        package = _absolute("." * node.level + (node.module or ""), module)
        for alias in node.names:
            yield alias.asname or alias.name, f"{package}.{alias.name}"


def _absolute(name: str, module: Module) -> str:
    """A module's name as it is written in a module: a dot at its begin is the package that this is in, or is."""
    written = name.lstrip(".")
    if not (level := len(name) - len(written)):
        return name
    parts = module.name.split(".") + ["__init__"] * module.is_package
    return ".".join([*parts[:-level], *filter(None, [written])])


def defined(node: ast.stmt) -> list[str]:
    """The names that a statement of a module defines, [""] where it does something else."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return []
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        called = [decorator.func for decorator in node.decorator_list if isinstance(decorator, ast.Call)]
        return [node.name, ""] if any(isinstance(function, ast.Name) for function in called) else [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return names if len(names) == len(targets) else [""]
