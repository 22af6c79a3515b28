"""List the benchmarks, or run one.

    python -m benchmarks
    python -m benchmarks loop --quick

A benchmark is a module of this folder with a `main(argv) -> exit code`. Exit codes: 0 measured, 1 the results disagree
or a process failed, 2 the command is wrong. A missed goal is printed and is no failure.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from types import ModuleType

import benchmarks
from benchmarks.pairs import BenchmarkError


def find() -> dict[str, ModuleType]:
    """The benchmarks by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(benchmarks.__path__) if info.name != "__main__")
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "main")}


def main(argv: list[str]) -> int:
    """The command line; returns the exit code."""
    modules = find()
    if not argv or argv[0] in ("-h", "--help"):
        print("python -m benchmarks NAME [options]; NAME --help lists the options\n")
        for name, module in modules.items():
            print(f"  {name:12} {(module.__doc__ or '').partition(chr(10))[0]}")
        return 0
    name, *rest = argv
    if name not in modules:
        print(f"error: there is no benchmark {name!r}; there is {', '.join(modules)}", file=sys.stderr)
        return 2
    try:
        return modules[name].main(rest)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
